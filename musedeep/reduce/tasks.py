"""The tasks of a reduction: a recipe for one IFU, one SKY frame or one exposure, done once and remembered."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from astropy.io import fits
from astropy.time import Time

from musedeep.errors import InputError, UsageError
from musedeep.muse import PIXTABLE_PREFIX
from musedeep.reduce.recipes import RecipeRun, find_engine, run_recipe, stopping
from musedeep.reduce.records import harvest_qc, read_record, write_record
from musedeep.reduction import ReductionSettings

__all__ = [
    "Task",
    "finished",
    "link_name",
    "native_run",
    "native_scipost",
    "record_of",
    "remember",
    "run_task",
    "wrong_states",
]

_DONE = "done.json"
_TIMED = re.compile(r"\d{4}-\d\d-\d\dT\d\d[:_]\d\d[:_]\d\d")
_MOST_LINES = 20


@dataclass(frozen=True)
class Task:
    """One recipe to run.

    Attributes
    ----------
    step : str
        ``scibasic``, ``create_sky`` or ``scipost``.
    exposure : str
        DATE-OBS of the frame.
    ifu : int or None
    frames : tuple of (Path, str, str)
        Files, tags and names as for `run_recipe`.
    parameters : dict
    expected : dict of str to int
        Products that have to be there.
    folder : Path
        Private to the task.
    settings : ReductionSettings
    key : str
        Hash of all that the result depends on.
    ifu_count : int
        IFUs that go into the product.
    """

    step: str
    exposure: str
    ifu: int | None
    frames: tuple
    parameters: dict
    expected: dict
    folder: Path
    settings: ReductionSettings
    key: str
    ifu_count: int = 1

    @property
    def words(self):
        """What the task is, for messages."""
        return f"muse_{self.step} of {self.exposure}" + (f", IFU {self.ifu}" if self.ifu else "")


def finished(folder, key):
    """The record of a task that is done with a key, its products still there; else None.

    Parameters
    ----------
    folder : Path
    key : str

    Returns
    -------
    dict or None
    """
    record = read_record(folder / _DONE)
    if record is None or record["key"] != key:
        return None
    for name, size in record["products"].items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            return None
    return record


def run_task(task):
    """Run a recipe as often as the settings allow, and write down what came of it.

    Parameters
    ----------
    task : Task

    Returns
    -------
    dict
        ``state`` (done or failed), ``problems``, ``errors``, ``warnings``, ``seconds``, ``attempts``, ``qc``,
        ``products`` (name to size), ``sky_fit_failed``, ``versions``, and what the task was.
    """
    known = finished(task.folder, task.key)
    if known is not None:
        return known
    attempts = 0
    while attempts <= task.settings.retries:
        attempts += 1
        run = _run_once(task)
        problems = run.problems or wrong_states(task, run)
        if not problems or not run.worth_another_try or stopping():
            break
    record = record_of(task, run, problems, attempts)
    if problems:
        return record
    shutil.rmtree(task.folder / "inputs", ignore_errors=True)
    remember(task, record)
    return record


def record_of(task, run, problems, attempts=1, qc=None):
    """What is written down about a task.

    Parameters
    ----------
    task : Task
    run : RecipeRun
    problems : list of str
    attempts : int, optional
    qc : dict, optional
        QC keywords; by default those of the products.

    Returns
    -------
    dict
        As for `run_task`.
    """
    record = {
        "step": task.step,
        "exposure": task.exposure,
        "ifu": task.ifu,
        "state": "failed" if problems else "done",
        "problems": problems,
        "errors": run.errors[:_MOST_LINES],
        "warnings": run.warnings[:_MOST_LINES],
        "seconds": round(run.seconds, 2),
        "attempts": attempts,
        "status": run.status,
        "sky_fit_failed": run.sky_fit_failed,
        "parameters": task.parameters,
        "inputs": {name: tag for _, tag, name in task.frames},
        "versions": {} if "backend" in task.parameters else find_engine(task.settings.esorex),
        "qc": {},
        "products": {},
        "key": task.key,
    }
    if problems:
        return record
    for path in run.products:
        record["qc"] |= harvest_qc(path)
    record["qc"] |= qc or {}
    record["products"] = {path.name: path.stat().st_size for path in run.products}
    return record


def remember(task, record):
    """Let `finished` find the record of a task."""
    write_record(task.folder / _DONE, record)


def _run_once(task):
    if "backend" in task.parameters:
        return _run_native(task)
    return run_recipe(
        f"muse_{task.step}", task.frames, task.parameters, task.folder, task.expected, task.settings
    )


def _run_native(task):
    """Do a step with our own code."""
    names = {path: name for path, _, name in task.frames}
    return native_run(task, lambda: _NATIVE[task.step](task, names))


def native_run(task, work):
    """Do the work of a task in its folder, emptied before; what came of it, in the terms of a recipe.

    Parameters
    ----------
    task : Task
    work : callable
        Gives the paths of the products, and facts for the log; among them ``sky_fit``, why a fit failed.

    Returns
    -------
    RecipeRun
    """
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.mkdir(parents=True)
    began, outputs, problems, failure = time.monotonic(), [], [], ""
    try:
        outputs, facts = work()
        failure = facts.get("sky_fit", "")
        words = ", ".join(f"{name} {value}" for name, value in facts.items())
    except (InputError, UsageError) as error:
        problems, words = [str(error)], f"[ ERROR ] {error}"
    errors = [f"Sky line fit failed: {failure}"] if failure else []
    lines = [f"{task.parameters['backend']}: {words}", *(f"[ ERROR ] {line}" for line in errors)]
    (task.folder / "recipe.log").write_text("\n".join(lines) + "\n")
    return RecipeRun(
        "native", task.folder, 4 if problems else 0, time.monotonic() - began, timed_out=False,
        products=outputs, problems=problems, errors=errors, sky_fit_failed=bool(failure),
    )  # fmt: skip


def _native_scibasic(task, names):
    from musedeep.reduce.native import reduce_frame

    (raw, tag, _), *others = task.frames
    output = task.folder / f"PIXTABLE_{tag}_0001-{task.ifu:02d}.fits"
    facts = reduce_frame(raw, tag, task.ifu, {kind: path for path, kind, _ in others}, output, names=names)
    return [output], facts


def _native_create_sky(task, names):
    from musedeep.reduce.native import create_sky

    given = _by_tag(task)
    facts = create_sky(given.pop("PIXTABLE_SKY"), given, task.folder, names=names)
    return facts.pop("products"), facts


def _native_scipost(task, names):
    return native_scipost(task, names, _by_tag(task)["PIXTABLE_OBJECT"])


def native_scipost(task, names, sources):
    """Make the reduced table of an exposure, and its image.

    Parameters
    ----------
    task : Task
    names : dict of Path to str
        Under which names headers quote files.
    sources : list of Path or IfuRows
        Its IFUs.

    Returns
    -------
    products : list of Path
    facts : dict
        Those of `musedeep.reduce.native.reduce_tables`.
    """
    from musedeep.reduce.native import reduce_tables

    given, parameters = _by_tag(task), task.parameters
    given.pop("PIXTABLE_OBJECT", None)
    output = task.folder / "PIXTABLE_REDUCED_0001.fits"
    sky, fraction = None, parameters.get("skymodel_fraction")
    if fraction:
        from musedeep.reduce.native import SkyChoice

        sky = SkyChoice(fraction)
    facts = reduce_tables(sources, given, output, skymethod=parameters["skymethod"], sky=sky, names=names)
    outputs = [output, *facts.pop("products", [])]
    if parameters["fov_image"]:
        from musedeep.reduce.native import write_field_image

        outputs.append(task.folder / "IMAGE_FOV_0001.fits")
        write_field_image(output, outputs[-1])
    return outputs, facts


def _by_tag(task):
    """Files of a task by their tags."""
    given = {}
    for path, tag, _ in task.frames:
        given.setdefault(tag, []).append(path)
    return given


_NATIVE = {"scibasic": _native_scibasic, "create_sky": _native_create_sky, "scipost": _native_scipost}


def link_name(frame, ifu=0):
    """Name under which headers quote a calibration: one that tells its time.

    Parameters
    ----------
    frame : Frame
    ifu : int
        0 for a file of all IFUs.

    Returns
    -------
    str
    """
    if _TIMED.search(frame.path.name) or not frame.mjd == frame.mjd:
        return frame.path.name
    when = Time(frame.mjd, format="mjd").isot[:19].replace(":", "_")
    return f"{frame.tag}{f'-{ifu:02d}' if ifu else ''}_{when}.fits"


def wrong_states(task, run):
    """What the header of a reduced table says was left out without an error.

    Parameters
    ----------
    task : Task
    run : RecipeRun

    Returns
    -------
    list of str
    """
    if task.step != "scipost":
        return []
    table = next(path for path in run.products if path.name.startswith("PIXTABLE_REDUCED"))
    header, problems = fits.getheader(table), []
    if header.get(f"{PIXTABLE_PREFIX}FLUXCAL") is not True:
        problems.append(
            f"{table.name} is not flux calibrated although the recipe succeeded; does STD_RESPONSE "
            "fit the data?"
        )
    merged = header.get(f"{PIXTABLE_PREFIX}MERGED", 1)
    if merged != task.ifu_count:
        problems.append(f"{table.name} holds {merged} IFUs, not {task.ifu_count}")
    return problems
