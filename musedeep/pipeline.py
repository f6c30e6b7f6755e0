"""The stages of a field in their order, skipping what is done: align, ingest, combine, products, qc."""

import logging
import os
import platform
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

from musedeep.apart import run_apart
from musedeep.clusters import become_worker, check_workers, connect
from musedeep.errors import InputError, MuseDeepError
from musedeep.execute import give_back_memory, peak_memory, reset_peak_memory
from musedeep.field import Field, folder_bytes, open_field
from musedeep.lock import holder_of, run_lock
from musedeep.monitor import Monitor, performance, read_state
from musedeep.progress import Progress, duration
from musedeep.runlog import log_to

__all__ = [
    "STAGES",
    "DemoReport",
    "RunReport",
    "StageReport",
    "align",
    "plan_stages",
    "run",
    "run_demo",
    "status",
]

STAGES = ("align", "ingest", "combine", "products", "qc")

_UNITS = {"align": "images", "ingest": "parts", "combine": "blocks", "products": "planes", "qc": "tasks"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageReport:
    """What one stage did.

    Attributes
    ----------
    stage : str
    seconds : float
        Wall time.
    predicted_bytes : int or None
        Peak memory of a worker process as planned.
    measured_bytes : int
        Peak memory of a worker process as measured; 0 where the system does not tell.
    facts : dict
        What the stage has to say about its work.
    """

    stage: str
    seconds: float
    predicted_bytes: int | None
    measured_bytes: int
    facts: dict


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes
    ----------
    field : str
        Path of field.toml.
    stages : tuple of StageReport
    seconds : float
        Wall time of all.
    """

    field: str
    stages: tuple
    seconds: float

    def to_dict(self):
        """All of it as plain dicts, strings and numbers."""
        return asdict(self)


@dataclass(frozen=True)
class DemoReport:
    """What the demonstration came to.

    Attributes
    ----------
    field : Field
    rows : list of dict
        The comparison with the truth.
    picture : Path
        The drawing of it.
    report : RunReport
    seconds : float
        Wall time of everything, simulation included.
    """

    field: Field
    rows: list
    picture: Path
    report: RunReport
    seconds: float


def run(field, client=None, *, stages=STAGES, progress=True):
    """Run the stages of a field, each only as far as it is not done yet.

    It may be interrupted at any time, in any way, and called again: finished work is kept, and the result is
    the same to the bit. The text log of the field tells what was run, with which settings and versions.

    Parameters
    ----------
    field : Field or path
        A path is opened with `open_field`.
    client : distributed.Client, optional
        Where to run. Without it, ``cluster``, ``workers`` and ``threads`` of the field's settings decide.
    stages : sequence of str, optional
        Which of ``"align"``, ``"ingest"``, ``"combine"``, ``"products"``, ``"qc"``.
    progress : bool, optional
        Show how far it is, on standard error.

    Returns
    -------
    RunReport

    Raises
    ------
    MemoryLimitError
        It cannot be done within ``memory``; nothing was run.
    InputError
        An exposure is broken or does not agree with the others.
    UsageError
        Another run works on this field, or a setting is not allowed.
    WorkError
        Tasks failed again and again; what was finished is kept.
    """
    field = field if isinstance(field, Field) else open_field(field)
    if not field.toml.exists():
        field.write()
    began = time.monotonic()
    if client is None:
        become_worker(field.settings.run.cluster, field.folder)
    with run_lock(field.lock_path), log_to(field.log_path), _workers_of(field, client, progress) as client:
        monitor = Monitor(field.state_path, client)
        _log_beginning(field, client)
        try:
            if "combine" in stages:
                _check_least_memory(field, client)
            reports = tuple(_run_stage(stage, field, client, progress, monitor) for stage in stages)
        except BaseException as error:
            _log.error("stopped: %s: %s", type(error).__name__, error)
            raise
        seconds = time.monotonic() - began
        _log.info("done in %s", duration(seconds))
    return RunReport(str(field.toml), reports, seconds)


def align(exposures, output=None, client=None, *, progress=True, **changes):
    """Measure offsets and flux scales, and write the list, its errors and the figures.

    Parameters
    ----------
    exposures : Field, path of a field, or list of paths
        A list holds IMAGE_FOV files.
    output : path, optional
        The list, .fits or .ecsv; that which the field reads by default. The table with errors (.ecsv) and
        the drawing (.png) go beside it, for a field into its folder of quality figures.
    client : distributed.Client, optional
    progress : bool, optional
        Show how far it is, on standard error.
    **changes
        Settings of the alignment by their names.

    Returns
    -------
    alignment : musedeep.align.Alignment
    paths : list of Path
        What was written.
    """
    from musedeep.align import align_exposures
    from musedeep.align.stage import write_alignment

    if isinstance(exposures, str | Path):
        exposures = open_field(exposures)
    is_field = isinstance(exposures, Field)
    shown = Progress("align", "images") if progress else None
    found = align_exposures(exposures, client=client, progress=shown, **changes)
    path = Path(output) if output is not None else exposures.offsets_path
    own = exposures if is_field and output is None else None
    return found, write_alignment(found, path, own.qc_dir if own else path.parent, key_of=own)


def plan_stages(field, stages=STAGES):
    """What the stages of a field will take; no row is read.

    Parameters
    ----------
    field : Field
    stages : sequence of str, optional

    Returns
    -------
    list of Plan
        For align where offsets are to be measured, for ingest, and for combine once the exposures are
        ingested.
    """
    from musedeep.align.effort import plan_align
    from musedeep.align.stage import TO_BE_MEASURED, alignment_state
    from musedeep.plan import plan_combine, plan_ingest

    plans = []
    if "align" in stages and alignment_state(field)["state"] in TO_BE_MEASURED:
        plans.append(plan_align(field))
    if "ingest" in stages:
        plans.append(plan_ingest(field))
    if "combine" in stages and _ingested(field) == len(field.exposures):
        plans.append(plan_combine(field))
    return plans


def status(field):
    """How far a field is; may be asked while a run is going on.

    Parameters
    ----------
    field : Field or path

    Returns
    -------
    dict
        ``field``, ``folder``, ``running`` (None, or who runs it), ``work`` (None, or how far the stage at
        work is, see `musedeep.monitor.Monitor`, with its workers) and ``stages``: for each stage ``done``,
        ``total`` (None while it is not known), what is counted (``unit``) and ``bytes`` on disk; for align
        also what `musedeep.align.stage.alignment_state` tells.
    """
    from musedeep.align.stage import alignment_state
    from musedeep.qc.stage import quality_state

    field = field if isinstance(field, Field) else open_field(field)
    products = sorted(field.products_dir.glob("*.fits"))
    holder = holder_of(field.lock_path)
    alignment = alignment_state(field)
    return {
        "field": field.name,
        "folder": str(field.folder),
        "running": holder and {key: holder[key] for key in ("pid", "host", "started")},
        "work": read_state(field.state_path) if holder else None,
        "stages": {
            "align": {
                "unit": "exposures",
                "done": len(field.exposures) if alignment["state"] in ("given", "measured") else 0,
                "total": len(field.exposures) if alignment["state"] not in ("off", "single") else 0,
                "bytes": field.offsets_path.stat().st_size if field.offsets_path.exists() else 0,
                **alignment,
            },
            "ingest": {
                "unit": "exposures",
                "done": _ingested(field),
                "total": len(field.exposures),
                "bytes": folder_bytes(field.pixels_path),
            },
            "combine": {"unit": "blocks", **_combined(field), "bytes": folder_bytes(field.cube_path)},
            "products": {
                "unit": "files",
                "done": len(products),
                "total": None,
                "bytes": sum(path.stat().st_size for path in products),
            },
            "qc": quality_state(field),
        },
    }


def run_demo(folder="demo", *, progress=True):
    """Simulate a small deep field, run every stage on it and compare the result with the truth.

    Parameters
    ----------
    folder : path, optional
        Where everything of it goes.
    progress : bool, optional
        Show how far it is, on standard error.

    Returns
    -------
    DemoReport

    Notes
    -----
    It starts a process: a script that calls it does so under ``if __name__ == "__main__":``.
    """
    began = time.monotonic()
    # In a process of its own, so that its memory is not taken for that of the stages.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        apart.submit(_simulate_demo, Path(folder), progress).result()
    report = run(Path(folder), progress=progress)

    from musedeep import demo

    field = open_field(folder)
    rows = demo.compare_with_truth(field)
    picture = demo.draw(field)
    return DemoReport(field, rows, picture, report, time.monotonic() - began)


def _simulate_demo(folder, progress):
    from musedeep import demo

    shown = Progress("simulate", "exposures") if progress else None
    demo.simulate_demo(folder, progress=shown.reach if shown else None)
    if shown:
        shown.close()


def _run_stage(stage, field, client, progress, monitor):
    shown = Progress(stage, _UNITS[stage], shown=progress, watch=monitor.look)
    monitor.begin(shown)
    began = time.monotonic()
    give_back_memory()
    reset_peak_memory(client)
    plan, facts = _STAGES[stage](field, client, shown)
    seconds = time.monotonic() - began
    # The FITS files are written by this process, whoever computed the blocks.
    measured = max(peak_memory(client if stage != "products" else None), facts.get("peak_bytes", 0))
    predicted = plan.peak_bytes if plan is not None else None
    _log.info(
        "%s: %s; peak memory of a worker %s, predicted %s; %s",
        stage,
        duration(seconds),
        f"{measured / 1e6:.0f} MB",
        "not" if predicted is None else f"{predicted / 1e6:.0f} MB",
        ", ".join(f"{name} {value}" for name, value in facts.items()),
    )
    return StageReport(stage, seconds, predicted, measured, facts)


def _align(field, client, progress):
    from musedeep.align.effort import plan_align
    from musedeep.align.stage import TO_BE_MEASURED, alignment_state, measure_offsets

    if alignment_state(field)["state"] not in TO_BE_MEASURED:
        return None, measure_offsets(field)
    plan = plan_align(field, client)
    plan.check()
    if client is None:
        # its libraries take 100 MB, of which the stages after it have better use
        facts, peak = run_apart(measure_offsets, field, progress=progress)
        return plan, facts | {"peak_bytes": peak}
    return plan, measure_offsets(field, client, progress)


def _ingest(field, client, progress):
    from musedeep.ingest import ingest_exposures
    from musedeep.plan import plan_ingest

    plan = plan_ingest(field, client)
    plan.check()
    facts = ingest_exposures(field, client=client, progress=progress)
    return plan, {"exposures": len(facts), "rows": plan.rows}


def _combine(field, client, progress):
    from musedeep.combine import combine_to_store
    from musedeep.plan import plan_combine

    plan = plan_combine(field, client)
    plan.check()
    return plan, combine_to_store(field, client=client, progress=progress)


def _products(field, client, progress):
    from musedeep.combine import mend_cube
    from musedeep.products import plan_products, product_notes, write_products
    from musedeep.store import DamagedCubeError

    cube = _combined(field)
    if not cube["total"] or cube["done"] < cube["total"]:
        raise InputError(
            f"{field.cube_path} is not finished: {cube['done']} of {cube['total'] or 'its'} blocks are done "
            f"with these settings; run `musedeep combine {field.folder}` first"
        )
    plan = plan_products(field)
    plan.check()
    try:
        paths = write_products(field, progress=progress.reach)
    except DamagedCubeError as error:
        progress.failure(f"{error}: {len(mend_cube(field, client))} blocks were computed anew")
        paths = write_products(field, progress=progress.reach)
    progress.close()
    return plan, {"files": [str(path) for path in paths], "notes": product_notes(field)}


def _qc(field, client, progress):
    from musedeep.qc.effort import plan_quality
    from musedeep.qc.stage import run_quality

    if field.settings.qc.assess == "off":
        return None, run_quality(field, client, progress)
    plan = plan_quality(field, client)
    plan.check()
    return plan, run_quality(field, client, progress)


_STAGES = {"align": _align, "ingest": _ingest, "combine": _combine, "products": _products, "qc": _qc}


def _check_least_memory(field, client):
    """Refuse before the ingest what the combination could never do."""
    from musedeep.plan import SMALLEST_BLOCK, threads_of, tile_budget

    settings = field.settings.run
    threads = threads_of(settings, client)
    tile_budget(settings.memory_bytes, threads, SMALLEST_BLOCK, len(field.exposures))


@contextmanager
def _workers_of(field, client, progress):
    settings = field.settings.run
    report = field.folder / "performance.html"
    if client is not None:
        check_workers(client, settings.memory_bytes)
        with performance(client, report):
            yield client
        return
    with connect(
        settings.cluster,
        memory=settings.memory,
        workers=settings.workers,
        threads_per_worker=settings.threads,
        folder=field.folder,
        note=Progress("cluster").note if progress else None,
    ) as client:
        if client is not None:
            check_workers(client, settings.memory_bytes)
            _log.info("dashboard: %s", client.dashboard_link)
            if progress:
                Progress("dask").note(f"the dashboard is at {client.dashboard_link}")
        if settings.cluster in ("threads", "processes"):
            yield client
            return
        with performance(client, report):
            yield client


def _log_beginning(field, client):
    libraries = ("musedeep", "numpy", "numba", "dask", "zarr", "xarray", "astropy")
    _log.info(
        "run of %s (%d exposures) by process %d on %s, python %s, %s",
        field.toml,
        len(field.sources),
        os.getpid(),
        socket.gethostname(),
        platform.python_version(),
        ", ".join(f"{name} {_version_of(name)}" for name in libraries),
    )
    for section, values in field.settings.to_dict().items():
        _log.info("settings of %s: %s", section, values)
    if client is not None:
        _log.info("%d threads of %d workers", sum(client.nthreads().values()), len(client.nthreads()))


def _version_of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _ingested(field):
    """Number of the field's exposures that are completely in the pixel store."""
    from musedeep.store import PixelStore

    if not (field.pixels_path / "zarr.json").exists():
        return 0
    present = {facts["date_obs"] for facts in PixelStore(field.pixels_path).exposures().values()}
    return len(present.intersection(field.exposures.dates))


def _combined(field):
    """Blocks done and blocks in all; the total is None where the grid is not known yet."""
    from musedeep.combine import cube_progress

    if _ingested(field) < len(field.exposures):
        return {"done": 0, "total": None}
    try:
        progress = cube_progress(field)
    except MuseDeepError:
        return {"done": 0, "total": None}
    return {"done": progress["done"], "total": progress["total"]}
