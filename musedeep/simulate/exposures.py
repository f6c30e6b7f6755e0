"""Write the files of simulated exposures."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table

from musedeep.errors import UsageError, WorkError
from musedeep.muse import COLUMNS, IFU_COUNT, OPTIONAL_COLUMNS
from musedeep.offsets import OffsetTable
from musedeep.pixtable import PixelTableWriter
from musedeep.simulate.cubes import cube_centre, read_scene_cube
from musedeep.simulate.files import FovImage, write_fov_image
from musedeep.simulate.headers import exposure_header, fov_header, set_limits
from musedeep.simulate.plan import SimulationSettings, default_sources, plan_exposures
from musedeep.simulate.rows import slice_rows
from musedeep.simulate.scene import Scene, exposure_view
from musedeep.simulate.spectrograph import slice_parts
from musedeep.simulate.truth import scene_truth

__all__ = ["simulate_exposures"]

_CENTRE = (150.1, 2.2)
_PRODUCTS = ("PIXTABLE_REDUCED_*.fits", "IMAGE_FOV_*.fits", "TRUTH_*.npz", ".PIXTABLE_REDUCED_*.partial")


def simulate_exposures(
    directory: str | Path,
    *,
    settings: SimulationSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
    **changes,
) -> list[Path]:
    """Simulate exposures of a field.

    Parameters
    ----------
    directory : path
        Made when it is missing. Files of an earlier simulation are replaced.
    settings : SimulationSettings, optional
    progress : callable, optional
        Called with the number of exposures done and their total.
    **changes
        Any of the parameters of `SimulationSettings`.

    Returns
    -------
    tables : list of Path
        The pixel tables ``PIXTABLE_REDUCED_nnnn.fits``, or ``PIXTABLE_REDUCED_nnnn-ii.fits`` with
        `split_ifus`. Beside them lie ``IMAGE_FOV_nnnn.fits``, ``TRUTH_nnnn.npz`` (see `truth_rows`),
        ``OFFSET_LIST.fits`` with the true offsets and flux scales, and ``truth.json``.

    Raises
    ------
    UsageError
        A setting is unknown or has a value that is not allowed, or the directory holds pixel tables that no
        simulation made.
    InputError
        The cube of the scene cannot be read.
    WorkError
        The directory cannot be written, or the disk is full.
    """
    directory = Path(directory)
    settings = _changed(settings or SimulationSettings(), changes)
    scene, plans = _scene_and_plans(settings)
    try:
        exposures = _write_exposures(directory, plans, scene, settings, progress)
    except OSError as error:
        reason = error.strerror or error
        raise WorkError(
            f"simulate: writing to {directory} failed ({reason}); make room or choose another folder"
        ) from error
    return [directory / name for exposure in exposures for name in exposure["files"]]


def _write_exposures(directory, plans, scene, settings, progress):
    _clear(directory)
    _offset_table(plans).write(directory / "OFFSET_LIST.fits")
    exposures = []
    # written first, it marks the folder as one of a simulation
    _write_truth(directory, scene_truth(settings, scene, exposures))
    for plan in plans:
        exposures.append(_write_exposure(directory, plan, scene, settings))
        if progress is not None:
            progress(len(exposures), len(plans))
    _write_truth(directory, scene_truth(settings, scene, exposures))
    return exposures


def _changed(settings, changes):
    unknown = [name for name in changes if name not in SimulationSettings.__dataclass_fields__]
    if unknown:
        known = ", ".join(SimulationSettings.__dataclass_fields__)
        raise UsageError(f"simulate: unknown setting {unknown[0]!r}; known are {known}")
    return replace(settings, **changes)


def _clear(directory):
    """Take away what an earlier simulation wrote, and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    old = [path for pattern in _PRODUCTS for path in sorted(directory.glob(pattern))]
    if old and not (directory / "truth.json").exists():
        raise UsageError(
            f"simulate: {directory} holds {old[0].name}, which no simulation made (there is no truth.json); "
            "choose an empty folder"
        )
    for path in old:
        path.unlink()


def _write_truth(directory, truth):
    partial = directory / ".truth.json.partial"
    partial.write_text(json.dumps(truth, indent=1))
    partial.replace(directory / "truth.json")


def _scene_and_plans(settings):
    if settings.scene is None:
        ra, dec = _CENTRE
    else:
        ra, dec = cube_centre(settings.scene)
    ra = ra if settings.ra_deg is None else settings.ra_deg
    dec = dec if settings.dec_deg is None else settings.dec_deg
    plans = plan_exposures(settings, ra, dec)
    moffat = settings.psf == "moffat"
    if settings.scene is None:
        sources = default_sources(settings, plans) if settings.sources is None else tuple(settings.sources)
        return Scene(ra, dec, sources, moffat=moffat), plans
    lows, highs = zip(*(plan.wavelength for plan in plans), strict=True)
    cube = read_scene_cube(settings.scene, (min(lows), max(highs)), settings.scene_smoothing)
    return Scene(ra, dec, cube=cube, moffat=moffat), plans


def _write_exposure(directory, plan, scene, settings):
    """Write the files of one exposure; its entry in truth.json."""
    name = f"{plan.number:04d}"
    view = exposure_view(
        scene, plan.ra_deg, plan.dec_deg, plan.seeing_fwhm, plan.spaxel_arcsec2, plan.wavelength
    )
    parts = {
        ifu: list(slice_parts(ifu, plan.field_pixels / 2, plan.wavelength, plan.stretch))
        for ifu in range(1, IFU_COUNT + 1)
    }
    ifus = [ifu for ifu in parts if parts[ifu]]
    groups = [[ifu] for ifu in ifus] if settings.split_ifus else [ifus]
    image = FovImage(plan.field_arcsec * 0.75 + 1, plan.sampling_arcsec[0])
    files, truths, rows = [], [], 0
    for group in groups:
        suffix = f"-{group[0]:02d}" if settings.split_ifus else ""
        files.append(f"PIXTABLE_REDUCED_{name}{suffix}.fits")
        group_parts = [part for ifu in group for part in parts[ifu]]
        truth = _write_table(directory / files[-1], plan, group, group_parts, view, settings, image)
        truths.append({key: value + rows if key.endswith("_row") else value for key, value in truth.items()})
        rows += sum(part.row_count for part in group_parts)
    entry = plan.truth() | {"files": files, "rows": rows, "truth_rows": f"TRUTH_{name}.npz"}
    joined = {key: np.concatenate([truth[key] for truth in truths]) for key in truths[0]}
    np.savez(directory / entry["truth_rows"], **joined)
    if settings.fov_images:
        entry["fov_image"] = f"IMAGE_FOV_{name}.fits"
        write_fov_image(directory / entry["fov_image"], image, fov_header(plan))
    return entry


def _write_table(path, plan, ifus, parts, view, settings, image):
    """Stream the rows of some IFUs into a pixel table; the truth of its rows."""
    header = exposure_header(plan, plan.cd, ifus)
    row_count = sum(part.row_count for part in parts)
    kinds = COLUMNS | (OPTIONAL_COLUMNS if settings.weight_column else {})
    hits, trails, rows, tracks = [], [], 0, 0
    with PixelTableWriter(path, settings.layout, header, row_count, kinds) as writer:
        for part in parts:
            made = slice_rows(part, plan, view, settings)
            weight = np.full(part.row_count, plan.weight or 1.0, np.float32)
            writer.append(made.columns | {"weight": weight})
            image.add(*made.patches)
            row, sigma, track = made.cosmic_rays
            hits.append((row + rows, sigma, track + tracks))
            trails.append((made.trails[0] + rows, made.trails[1]))
            rows += part.row_count
            tracks += int(track.max()) + 1 if len(track) else 0
        ranges = {"X": writer.ranges["xpos"], "Y": writer.ranges["ypos"], "LAMBDA": writer.ranges["lambda"]}
        set_limits(header, ranges)
        names = "cosmic_ray_row", "cosmic_ray_sigma", "cosmic_ray_track"
        truth = dict(zip(names, map(np.concatenate, zip(*hits, strict=True)), strict=True))
        truth["trail_row"], truth["trail_sigma"] = map(np.concatenate, zip(*trails, strict=True))
        if settings.shuffle_rows:
            place = writer.shuffle(np.random.default_rng((plan.seed, 5, plan.index, ifus[0])))
            truth |= {key: place[truth[key]] for key in ("cosmic_ray_row", "trail_row")}
        writer.finish(header)
    return truth


def _offset_table(plans):
    return OffsetTable(
        Table(
            {
                "DATE_OBS": [plan.date_obs for plan in plans],
                "MJD_OBS": [plan.mjd_obs for plan in plans],
                "RA_OFFSET": [plan.ra_offset_deg for plan in plans],
                "DEC_OFFSET": [plan.dec_offset_deg for plan in plans],
                "ROTATION": [plan.rotation_deg for plan in plans],
                "FLUX_SCALE": [plan.flux_scale for plan in plans],
            }
        )
    )
