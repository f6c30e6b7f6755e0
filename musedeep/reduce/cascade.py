"""The tasks of every exposure and SKY frame, in the order of the release's cascade."""

from dataclasses import replace
from pathlib import Path

from musedeep import __version__
from musedeep.reduce.association import steps_of
from musedeep.reduce.frames import fingerprint
from musedeep.reduce.recipes import find_engine
from musedeep.reduce.tasks import Task, link_name

__all__ = ["basic_tasks", "exposure_name", "sky_parameters", "sky_task", "science_task"]

SKY_PRODUCTS = ("SKY_LINES", "SKY_CONTINUUM")


def exposure_name(frame):
    """Name of an exposure in file names."""
    return frame.date_obs.replace(":", "_")


def sky_parameters(association, settings):
    """Parameters of muse_scipost that follow from the case of an exposure.

    Parameters
    ----------
    association : Association
    settings : ReductionSettings

    Returns
    -------
    dict

    Notes
    -----
    Those of ESO's MUSE-DEEP release: without a SKY frame the sky is modelled on the exposure itself, with
    one its model is subtracted, and in crowded fields nothing is subtracted.
    """
    if association.case == "crowded":
        return {"skymethod": "none"}
    if association.case == "sky":
        return {"skymethod": settings.with_sky}
    return {"skymethod": "model", "skymodel_fraction": settings.sky_fraction}


def basic_tasks(association, work, settings):
    """Tasks of muse_scibasic, one an IFU.

    Parameters
    ----------
    association : Association
    work : Path
        Folder under which private folders are made.
    settings : ReductionSettings

    Returns
    -------
    dict of int to Task
    """
    frame = association.frame
    tags = [tag for group in steps_of(association, settings.with_sky)["scibasic"] for tag in group]
    tasks = {}
    for ifu in association.ifus:
        calibrations = association.calibrations(tags, ifu)
        frames = ((frame.path, frame.tag, frame.path.name), *_linked(calibrations, ifu))
        parameters = {"nifu": ifu, "saveimage": False, "merge": False}
        if association.backend == "native":
            parameters = {"backend": f"musedeep/{__version__}", "nifu": ifu}
        tasks[ifu] = Task(
            step="scibasic",
            exposure=frame.date_obs,
            ifu=ifu,
            frames=frames,
            parameters=parameters,
            expected={f"PIXTABLE_{frame.tag}": 1},
            folder=work / exposure_name(frame) / f"scibasic-{ifu:02d}",
            settings=settings,
            key=_key(settings, parameters, frame.path, *(c.path for c in calibrations)),
        )
    return tasks


def sky_task(association, tables, work, settings):
    """The task of muse_create_sky.

    Parameters
    ----------
    association : Association
        Of a SKY frame.
    tables : dict of int to (Path or None, str)
        Table and key of every IFU that muse_scibasic succeeded for.
    work : Path
    settings : ReductionSettings

    Returns
    -------
    Task
    """
    parameters = {"backend": f"musedeep/{__version__}"} if association.backend == "native" else {}
    expected = {"SKY_LINES": 1, "SKY_CONTINUUM": 1}
    return _merging_task("create_sky", association, tables, work, settings, parameters, expected)


def science_task(association, tables, work, settings, sky=None):
    """The task of muse_scipost.

    Parameters
    ----------
    association, tables, work, settings
        As for `sky_task`.
    sky : Task, optional
        That of the SKY frame, for exposures that have one.

    Returns
    -------
    Task
    """
    save = ["individual"] + (["cube"] if settings.fov_image else [])
    parameters = sky_parameters(association, settings)
    expected = {"PIXTABLE_REDUCED": 1} | ({"IMAGE_FOV": 1} if settings.fov_image else {})
    if association.backend == "native":
        parameters = {"backend": f"musedeep/{__version__}", "fov_image": settings.fov_image} | parameters
    else:
        if parameters["skymethod"] == "model":
            save.append("skymodel")
            expected["SKY_MASK"] = 1
        parameters = {"save": ",".join(save), "filter": "white"} | parameters
    # where the sky is modelled anew, only the lines of the SKY frame are of use: to start from
    products = SKY_PRODUCTS if parameters["skymethod"] == "subtract-model" else SKY_PRODUCTS[:1]
    extra = (
        [
            (sky.folder / f"{tag}.fits", tag, f"{tag}_{exposure_name(association.sky)}.fits")
            for tag in products
        ]
        if sky
        else []
    )
    task = _merging_task("scipost", association, tables, work, settings, parameters, expected, extra)
    return replace(task, key=fingerprint(task.key, sky.key)) if sky else task


def _merging_task(step, association, tables, work, settings, parameters, expected, extra=()):
    frame = association.frame
    needed, used = steps_of(association, settings.with_sky)[step]
    given = {tag for _, tag, _ in extra}
    calibrations = [
        calibration
        for tag in (*needed, *used)
        if tag not in given
        for calibration in association.calibrations([tag])
        if not calibration.ifus or set(calibration.ifus) & set(tables)
    ]
    frames = [(path, f"PIXTABLE_{frame.tag}", path.name) for path, _ in tables.values() if path is not None]
    frames += _linked(calibrations) + list(extra)
    keys = [key for _, key in tables.values()]
    return Task(
        step=step,
        exposure=frame.date_obs,
        ifu=None,
        frames=tuple(frames),
        parameters=parameters,
        expected=expected,
        folder=work / exposure_name(frame) / step,
        settings=settings,
        key=_key(settings, parameters, *keys, *(c.path for c in calibrations)),
        ifu_count=len(tables),
    )


def _linked(calibrations, ifu=0):
    """Frames of calibrations; names that two of them would bear are told apart by a number."""
    frames, seen = [], set()
    for number, calibration in enumerate(calibrations):
        own = ifu if calibration.ifus == (ifu,) else calibration.ifus[0] if len(calibration.ifus) == 1 else 0
        name = link_name(calibration, own)
        name = name if name not in seen else f"{number}_{name}"
        seen.add(name)
        frames.append((calibration.path, calibration.tag, name))
    return frames


def _key(settings, parameters, *inputs):
    # what does without the recipes does not depend on them
    engine = {} if "backend" in parameters else find_engine(settings.esorex)
    engine = {name: value for name, value in engine.items() if name != "command"}
    return fingerprint(
        sorted(engine.items()),
        sorted(parameters.items()),
        *(Path(p) if isinstance(p, Path) else p for p in inputs),
    )
