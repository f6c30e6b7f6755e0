"""Reduce raw exposures: associate, run what is missing, put the products in place, and tell of everything."""

import logging
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from musedeep import __version__
from musedeep.clusters import connect
from musedeep.errors import InputError
from musedeep.execute import run_tasks
from musedeep.lock import run_lock
from musedeep.progress import Progress, duration
from musedeep.reduce.association import associate
from musedeep.reduce.backends import choose_backend
from musedeep.reduce.cascade import basic_tasks, science_task, sky_parameters, sky_task
from musedeep.reduce.frames import find_frames
from musedeep.reduce.fused import FUSED_METHODS, FusedTask, run_step
from musedeep.reduce.products import backend_facts, final_record, finish_exposure, table_name
from musedeep.reduce.recipes import find_engine, stop_recipes, stopping
from musedeep.reduce.records import write_record
from musedeep.reduce.tasks import finished
from musedeep.reduction import ReductionSettings
from musedeep.runlog import log_to

__all__ = ["Reduction", "reduce_exposures"]

_log = logging.getLogger(__name__)
# Bytes of memory that muse_scipost takes for a row, by method of the sky subtraction; measured.
_ROW_BYTES = {"none": 33, "subtract-model": 36, "model": 84}
_CUBE_ROW_BYTES = 55
_FILE_ROW_BYTES = 28


@dataclass(frozen=True)
class Reduction:
    """What came of a reduction.

    Attributes
    ----------
    folder : Path
    exposures : list of dict
        The record of every OBJECT frame; see docs/reduction.md.
    sky : list of dict
        The record of every SKY frame that was needed.
    problems : list of (Path, str)
        Files that could not be used.
    versions : dict
        Of musedeep, and of esorex, CPL and the pipeline where they are used.
    seconds : float
    """

    folder: Path
    exposures: list
    sky: list
    problems: list
    versions: dict
    seconds: float

    @property
    def tables(self):
        """The reduced pixel tables, in the order of time."""
        done = [record for record in self.exposures if record["state"] != "failed"]
        return [self.folder / table_name(record["exposure"]) for record in done]

    @property
    def failed(self):
        """Records of the exposures that have no reduced pixel table."""
        return [record for record in self.exposures if record["state"] == "failed"]

    def table(self):
        """One row an exposure: state, case, IFUs, QC, what went wrong."""
        rows = [
            (
                record["exposure"], record["state"], record["case"], len(record["ifus"]),
                record["qc"].get("saturated", 0), record["qc"].get("shift_angstrom", 0.0),
                "; ".join(record["problems"]),
            )
            for record in self.exposures
        ]  # fmt: skip
        names = "DATE_OBS", "STATE", "CASE", "IFUS", "SATURATED", "SHIFT", "PROBLEMS"
        from astropy.table import Table

        return Table(rows=rows, names=names) if rows else Table(names=names)

    def to_dict(self):
        """All of it as plain dicts, strings and numbers."""
        facts = asdict(self) | {"folder": str(self.folder), "tables": [str(path) for path in self.tables]}
        return facts | {"problems": [[str(path), words] for path, words in self.problems]}


@dataclass
class _Work:
    """A frame on its way: its association, its tasks and what came of them."""

    association: object
    tasks: dict
    records: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    merged: object = None

    @property
    def name(self):
        return self.association.frame.date_obs

    def tables(self, *, all_ifus=False):
        """Table and key of every IFU that is done, or that is wanted."""
        done = {record["ifu"] for record in self.records if record["state"] == "done"}
        kind = f"PIXTABLE_{self.association.frame.tag}"
        return {
            ifu: (task.folder / f"{kind}_0001-{ifu:02d}.fits", task.key)
            for ifu, task in self.tasks.items()
            if all_ifus or ifu in done
        }


def reduce_exposures(
    paths: Iterable,
    output,
    *,
    calibrations: Iterable = (),
    client=None,
    cluster: str = "threads",
    workers: int = 1,
    progress: bool = True,
    **changes,
) -> Reduction:
    """Reduce raw exposures to pixel tables, each only as far as it is not done yet.

    It may be interrupted at any time and called again. An exposure that cannot be reduced, or an IFU of it,
    is told of in its record, and the others go on.

    Parameters
    ----------
    paths : iterable of path
        Raw frames (OBJECT, SKY, ILLUM), or folders of them.
    output : path
        Folder of the products: ``PIXTABLE_REDUCED_<DATE-OBS>.fits`` with a ``.log`` and a ``.json`` beside
        it, ``IMAGE_FOV_<DATE-OBS>.fits``, ``sky/``, ``reduction.json`` and ``log``.
    calibrations : iterable of path, optional
        Master calibrations, or folders of them; those among `paths` count too.
    client : distributed.Client, optional
        Where recipes run; without it, `cluster` and `workers` decide.
    cluster : str, optional
        As for `musedeep.connect`.
    workers : int, optional
        Recipes that run at the same time without a cluster.
    progress : bool, optional
        Show how far it is, on standard error.
    **changes
        Settings by their names: see `musedeep.reduction.ReductionSettings`.

    Returns
    -------
    Reduction

    Raises
    ------
    InputError
        A path does not exist, there is no OBJECT frame, or two have the same DATE-OBS.
    UsageError
        A setting is not allowed, the recipes are needed and not installed, or another run works on the
        folder.
    WorkError
        The disk is full, or tasks were lost again and again; what was finished is kept.
    """
    settings, output, began = ReductionSettings.of(changes), Path(output).absolute(), time.monotonic()
    # our own code needs no recipes; a step that does asks for them when it comes
    versions = {"musedeep": __version__}
    if settings.backend == "esorex":
        versions |= find_engine(settings.esorex)
    frames, problems = find_frames([*_listed(paths), *_listed(calibrations)])
    objects, skies = _frames_of(frames, "OBJECT"), _frames_of(frames, "SKY")
    if not objects:
        raise InputError("there is no raw frame with ESO DPR TYPE = 'OBJECT' among the files given")
    output.mkdir(parents=True, exist_ok=True)
    stopping(go_on=True)
    with ExitStack() as stack:
        stack.enter_context(run_lock(output / ".lock", output))
        stack.enter_context(log_to(output / "log"))
        if client is None:
            client = stack.enter_context(connect(cluster, workers=workers, folder=output / ".cluster"))
        if client is not None:
            # workers that an interrupted reduction told to stop may still be there
            client.run(stopping, go_on=True, on_error="ignore")
        shown = Progress("reduce", "recipes", shown=progress)
        run = _Run(output, settings, client, workers, shown)
        told = ", ".join(f"{name} {value}" for name, value in versions.items() if name != "command")
        _log.info(
            "reduce %d OBJECT and %d SKY frames into %s with %s", len(objects), len(skies), output, told
        )
        for path, words in problems:
            _log.warning("%s %s", path, words)
        records, sky_records = run.all(objects, skies, frames)
        if "esorex" in run.backends:
            versions |= find_engine(settings.esorex)
        result = Reduction(output, records, sky_records, problems, versions, time.monotonic() - began)
        write_record(output / "reduction.json", result.to_dict())
        _log.info(
            "done in %s: %d reduced, %d failed",
            duration(result.seconds),
            len(result.tables),
            len(result.failed),
        )
    return result


def _listed(paths):
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _frames_of(frames, tag):
    """Frames of a tag by time; the same DATE-OBS twice is refused."""
    found = {}
    for frame in sorted((f for f in frames if f.tag == tag), key=lambda f: f.mjd):
        if not frame.date_obs or not frame.ifus:
            what = "has no DATE-OBS" if not frame.date_obs else "holds no extension CHANnn"
            raise InputError(f"{frame.path} {what}; it is no raw frame of MUSE, leave it out")
        if frame.date_obs in found:
            raise InputError(
                f"two frames have DATE-OBS {frame.date_obs}: {found[frame.date_obs].path} and {frame.path}; "
                "leave one of them out"
            )
        found[frame.date_obs] = frame
    return list(found.values())


class _Run:
    """The waves of a reduction."""

    def __init__(self, output, settings, client, workers, progress):
        self.output, self.settings, self.client, self.workers = output, settings, client, workers
        self.progress = progress
        self.work = output / "work"
        self.backends = set()

    def all(self, objects, skies, frames):
        """Reduce everything; records of exposures and of SKY frames."""
        calibrations = [f for f in frames if f.tag not in ("OBJECT", "SKY")]
        exposures = [self._exposure(frame, skies, calibrations) for frame in objects]
        wanted = {e.association.sky.date_obs: e.association.sky for e in exposures if e.association.sky}
        sky = {date: self._begin(associate(f, calibrations, self.settings)) for date, f in wanted.items()}
        known = {e.name: self._known(e, sky) for e in exposures}
        busy = [e for e in exposures if known[e.name] is None and not e.problems]
        busy_sky = [sky[date] for date in {e.association.sky.date_obs for e in busy if e.association.sky}]
        self._sky_frames(busy_sky)
        fused = {e.name for e in busy if self._fused(e)}
        self._basic([e for e in busy if e.name not in fused])
        tasks = {e.name: self._science(e, sky, fused=e.name in fused) for e in busy}
        done = {r["exposure"]: r for r in self._wave([task for task in tasks.values() if task is not None])}
        for exposure in busy:
            if exposure.name in fused and exposure.name in done:
                exposure.records += done[exposure.name].pop("ifus")
                partner = self._partner(exposure, sky)
                exposure.merged = science_task(
                    exposure.association, exposure.tables(), self.work, self.settings, partner
                )
        records = []
        for exposure in exposures:
            record = known[exposure.name]
            if record is None:
                partner = sky.get(exposure.association.sky.date_obs) if exposure.association.sky else None
                record = finish_exposure(
                    exposure, done.get(exposure.name), partner, self.output, self.settings
                )
                self._tell(record)
            records.append(record)
        return records, [self._sky_record(item) for item in sky.values()]

    def _exposure(self, frame, skies, calibrations):
        case, partner = self.settings.case, None
        if case in ("auto", "sky"):
            partner = _nearest_sky(frame, skies, self.settings.sky_hours)
            case = "sky" if partner or case == "sky" else "no-sky"
        found = self._begin(associate(frame, calibrations, self.settings, sky=partner, case=case))
        if case == "sky" and partner is None:
            found.problems.append(
                f"no SKY frame of {frame.mode} of its OB or within {self.settings.sky_hours:g} h; give one, "
                "or case = no-sky"
            )
        return found

    def _begin(self, association):
        association.backend, association.backend_reason = choose_backend(association, self.settings)
        self.backends.add(association.backend)
        work = _Work(association, {}, problems=list(association.missing))
        if not association.backend:
            work.problems.append(association.backend_reason)
        if not work.problems:
            work.tasks = basic_tasks(association, self.work, self.settings)
        return work

    def _known(self, exposure, sky):
        """The record of an exposure that is done with all it can have; else None."""
        if exposure.problems:
            return None
        partner = None
        if exposure.association.sky:
            partner = self._sky_of(sky[exposure.association.sky.date_obs], all_ifus=True)
        tables = exposure.tables(all_ifus=True)
        task = science_task(exposure.association, tables, self.work, self.settings, partner)
        return final_record(self.output, exposure.name, task.key)

    def _sky_of(self, item, *, all_ifus=False):
        return sky_task(item.association, item.tables(all_ifus=all_ifus), self.work, self.settings)

    def _sky_frames(self, items):
        """Reduce SKY frames as far as they are not done; what failed is in their problems."""
        busy = []
        for item in items:
            if item.problems:
                continue
            task = self._sky_of(item, all_ifus=True)
            record = finished(task.folder, task.key)
            if record is None:
                busy.append(item)
            else:
                item.merged = task
                item.records.append(record)
        self._basic(busy)
        tasks = {}
        for item in busy:
            if item.tables():
                item.merged = tasks[item.name] = self._sky_of(item)
            else:
                item.problems.append(f"muse_scibasic failed for every IFU of SKY {item.name}")
        by_name = {item.name: item for item in busy}
        for record in self._wave(list(tasks.values())):
            item = by_name[record["exposure"]]
            item.records.append(record)
            if record["state"] == "failed":
                item.problems += record["problems"]
            elif not self.settings.keep and all(r["state"] == "done" for r in item.records):
                self._forget_tables(item)

    def _basic(self, items):
        by_name = {item.name: item for item in items}
        for record in self._wave([task for item in items for task in item.tasks.values()]):
            by_name[record["exposure"]].records.append(record)

    def _fused(self, exposure):
        """Whether all steps of an exposure are one task: by our own code, and no table is there or wanted."""
        method = sky_parameters(exposure.association, self.settings)["skymethod"]
        if exposure.association.backend != "native" or self.settings.keep or method not in FUSED_METHODS:
            return False
        return not any(finished(task.folder, task.key) for task in exposure.tasks.values())

    def _partner(self, exposure, sky):
        """The task of the SKY frame of an exposure; None without one."""
        return sky[exposure.association.sky.date_obs].merged if exposure.association.sky else None

    def _science(self, exposure, sky, *, fused):
        """The last task, or None with the reason in the exposure's problems."""
        tables = exposure.tables(all_ifus=fused)
        if not tables:
            exposure.problems.append("muse_scibasic failed for every IFU")
            return None
        if exposure.association.sky:
            item = sky[exposure.association.sky.date_obs]
            if item.problems:
                words = "; ".join(item.problems)
                exposure.problems.append(
                    f"its SKY frame {item.name} failed: {words}; mend it, or give case = no-sky"
                )
                return None
        partner = self._partner(exposure, sky)
        task = science_task(exposure.association, tables, self.work, self.settings, partner)
        exposure.merged = task
        needed = 0 if exposure.association.backend == "native" else self._predicted(task, tables)
        if needed > self.settings.recipe_bytes:
            exposure.problems.append(
                f"muse_scipost will need about {needed / 1e9:.1f} GB for it, and recipe_memory is "
                f"{self.settings.recipe_memory}; raise it where there is room, or give fov_image = no"
            )
            return None
        # products that were put in place by an earlier run with the same IFUs
        if final_record(self.output, exposure.name, task.key, complete=False) is not None:
            return None
        return FusedTask(task, tuple(exposure.tasks.values())) if fused else task

    def _predicted(self, task, tables):
        rows = sum(path.stat().st_size for path, _ in tables.values()) / _FILE_ROW_BYTES
        row_bytes = _ROW_BYTES[task.parameters["skymethod"]]
        return rows * max(row_bytes, _CUBE_ROW_BYTES if self.settings.fov_image else 0)

    def _wave(self, tasks):
        """Run tasks; their records."""
        records = []
        if not tasks:
            return records
        work = run_tasks(
            run_step,
            tasks,
            client=self.client,
            workers=self.workers,
            retries=1,
            window=1 if self.client is None else 2,
            progress=self.progress,
            describe=lambda task: task.words,
            stop=self._stop,
        )
        for task, record in work:
            records.append(record)
            words = "; ".join(record["problems"]) or f"{record['seconds']:.1f} s"
            level = logging.WARNING if record["problems"] else logging.INFO
            _log.log(level, "%s: %s: %s", task.words, record["state"], words)
            if record["problems"]:
                self.progress.failure(f"{task.words}: {words}")
        return records

    def _stop(self):
        stop_recipes()
        if self.client is not None:
            # a cluster that is gone has ended its own
            with suppress(Exception):
                self.client.run(stop_recipes, on_error="ignore")

    def _tell(self, record):
        words = "; ".join([*record["problems"], *record["notes"]])
        level = logging.WARNING if record["state"] == "failed" else logging.INFO
        _log.log(level, "%s %s, case %s: %s", record["exposure"], record["state"], record["case"], words)

    def _forget_tables(self, item):
        for path, _ in item.tables().values():
            path.unlink(missing_ok=True)

    def _sky_record(self, item):
        steps = [{k: v for k, v in r.items() if k != "inputs"} for r in item.records]
        return {
            "exposure": item.name,
            "state": "failed" if item.problems else "done",
            "problems": item.problems,
            "notes": item.association.notes,
            "backend": backend_facts(item.association),
            "steps": steps,
        }


def _nearest_sky(frame, skies, hours):
    """The SKY frame of an exposure: of its OB, else within some hours; the nearest in time."""
    fitting = [sky for sky in skies if sky.mode == frame.mode]
    own = [sky for sky in fitting if frame.ob and sky.ob == frame.ob]
    near = own or [sky for sky in fitting if abs(sky.mjd - frame.mjd) * 24 <= hours]
    return min(near, key=lambda sky: abs(sky.mjd - frame.mjd), default=None)
