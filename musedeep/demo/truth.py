"""What came out of the demonstration beside what went in."""

import json

import numpy as np

from musedeep.combine import combine_exposures, rejected_rows
from musedeep.demo.scene import BRIGHT_EXPOSURE, FLUX_ERROR
from musedeep.grid import sky_frame
from musedeep.simulate import truth_cube, truth_rows
from musedeep.store import CubeStore

__all__ = ["SKY_FLUX", "compare_with_truth", "sky_positions", "star_places"]

_APERTURE_ARCSEC = 1.8
SKY_FLUX = 1.0  # below this, in 1e-20 erg/s/cm2/Angstrom, a voxel counts as empty sky
_FAINT_FLUX = 30.0  # below this a spaxel counts as lying outside of bright cores
_DEEP_ENOUGH = 8  # exposures that must overlap where rejected rows are counted


def compare_with_truth(field):
    """Measure the deep cube of the demonstration, and hold the figures against the truth.

    Parameters
    ----------
    field : Field
        As `simulate_demo` made it, with a finished cube.

    Returns
    -------
    list of dict
        One a figure, all of them text: ``what`` was measured, what was ``found``, what was ``wanted``, and
        whether it is ``good`` ("yes" or "no").
    """
    folder = field.folder / "exposures"
    truth = json.loads((folder / "truth.json").read_text())
    cube = CubeStore(field.cube_path)
    flux, variance = (cube.read(name, 0, cube.shape[0]) for name in ("flux", "variance"))
    count = cube.read("exposure_count", 0, cube.shape[0])
    model = truth_cube(truth, cube.grid.wavelengths, *sky_positions(cube.grid))
    stars = [place for place in star_places(truth, cube.grid) if _is_deep(count, place)]
    rows = [
        *_star_rows(flux, model, stars, cube.grid),
        _noise_row(flux, variance, model),
        *_rejection_rows(field, folder, truth, _judged_area(count, model), cube.grid),
        _scale_row(field, truth, cube.grid, stars[0]),
    ]
    return [dict(zip(("what", "found", "wanted", "good"), row, strict=True)) for row in rows]


def sky_positions(grid):
    """RA and Dec of every spaxel of a grid; two ndarrays, shape (ny, nx), degrees."""
    y, x = np.indices(grid.shape[1:])
    return grid.wcs.celestial.all_pix2world(x, y, 0)


def star_places(truth, grid):
    """Where the stars of a truth.json lie in a grid: list of (x, y), 0-based, the brightest first."""
    stars = [source for source in truth["sources"] if source["kind"] == "star"]
    stars.sort(key=lambda source: -source["flux"])
    return [tuple(map(float, grid.wcs.celestial.all_world2pix(s["ra_deg"], s["dec_deg"], 0))) for s in stars]


def _aperture(shape, place, grid, radius_arcsec=_APERTURE_ARCSEC):
    y, x = np.indices(shape)
    return np.hypot(x - place[0], y - place[1]) * grid.step_arcsec[0] <= radius_arcsec


def _is_deep(count, place):
    x, y = (int(round(axis)) for axis in place)
    return count[:, y, x].max() >= _DEEP_ENOUGH


def _star_rows(flux, model, stars, grid):
    """Largest deviation of the stars' fluxes and places."""
    seen = np.isfinite(flux)
    image, expected = np.where(seen, flux, 0).mean(axis=0), np.where(seen, model, 0).mean(axis=0)
    fluxes, shifts = [], []
    for place in stars:
        inside = _aperture(image.shape, place, grid)
        fluxes.append(image[inside].sum() / expected[inside].sum() - 1)
        core = _aperture(image.shape, place, grid, 0.8)
        shifts.append(
            np.hypot(*(_centroid(image, core) - _centroid(expected, core))) * grid.step_arcsec[0] * 1e3
        )
    mean, worst = 100 * float(np.mean(fluxes)), 100 * float(max(fluxes, key=abs))
    good = abs(mean) < 1 and abs(worst) < 2
    yield (
        f"fluxes of {len(stars)} stars, mean and largest error",
        f"{mean:+.2f}, {worst:+.2f} %",
        "1, 2 %",
        _yes(good),
    )
    good = max(shifts) < 10
    yield f"places of {len(stars)} stars, largest error", f"{max(shifts):.1f} mas", "10 mas", _yes(good)


def _centroid(image, inside):
    y, x = np.nonzero(inside)
    weight = image[inside] - image[inside].min()
    return np.array([x @ weight, y @ weight]) / weight.sum()


def _noise_row(flux, variance, model):
    """Width of (flux - truth) / sigma over the empty sky."""
    sky = np.isfinite(flux) & (model < SKY_FLUX)
    pulls = (flux[sky] - model[sky]) / np.sqrt(variance[sky])
    width = 1.4826 * np.median(np.abs(pulls - np.median(pulls)))
    return (
        "noise of the sky over its predicted sigma",
        f"{width:.3f}",
        "0.98 to 1.02",
        _yes(abs(width - 1) < 0.02),
    )


def _judged_area(count, model):
    """Where enough exposures overlap: 1 outside of bright cores, 2 in them (which are guarded); else 0."""
    return (count.max(axis=0) >= _DEEP_ENOUGH) * np.where(model.max(axis=0) < _FAINT_FLUX, 1, 2)


def _rejection_rows(field, folder, truth, area, grid):
    """Shares of cosmic rays, trail and clean rows that were rejected."""
    rejected = rejected_rows(field)
    hits = {"weak": [], "strong": [], "trail": [], "clean": []}
    for exposure, facts in zip(field.exposures, truth["exposures"], strict=True):
        kinds, known = _judged_rows(exposure, facts, truth_rows(folder / facts["truth_rows"]), area, grid)
        taken = np.isin(known, rejected[exposure.date_obs])
        for kind, rows in kinds.items():
            hits[kind].append(taken[rows])
    share = {kind: 100 * float(np.concatenate(parts).mean()) for kind, parts in hits.items()}
    yield "cosmic rays of 8 to 12 sigma removed", f"{share['weak']:.1f} %", "97 %", _yes(share["weak"] >= 97)
    yield (
        "cosmic rays above 12 sigma removed",
        f"{share['strong']:.2f} %",
        "99.9 %",
        _yes(share["strong"] >= 99.9),
    )
    yield (
        "satellite trail above 8 sigma removed",
        f"{share['trail']:.1f} %",
        "97 %",
        _yes(share["trail"] >= 97),
    )
    yield "clean rows lost", f"{share['clean']:.3f} %", "0.01 %", _yes(share["clean"] < 0.01)


def _judged_rows(exposure, facts, truth, area, grid):
    """Rows of each kind that rejection had to judge where enough exposures overlap, and all rows' origins."""
    (table,) = exposure.tables
    columns = table.read_columns(["xpos", "ypos", "dq", "origin"])
    area = _at_rows(area, facts, columns, grid)
    judged = (columns["dq"] == 0) & (area > 0)
    strength = np.zeros(table.row_count)
    strength[truth["cosmic_ray_row"]] = truth["cosmic_ray_sigma"]
    trail = np.zeros(table.row_count)
    trail[truth["trail_row"]] = truth["trail_sigma"]
    kinds = {
        "weak": (strength >= 8) & (strength < 12) & (trail == 0) & (area == 1),
        "strong": (strength >= 12) & (trail == 0) & (area == 1),
        "trail": (trail >= 8) & (strength == 0) & (area == 1),
        "clean": (trail == 0) & (strength == 0),
    }
    return {kind: judged & rows for kind, rows in kinds.items()}, columns["origin"]


def _at_rows(image, facts, columns, grid):
    """Value of an image at the true place of every row; 0 outside of it."""
    cotangent = -np.tan(columns["ypos"].astype(np.float64))
    phi = columns["xpos"].astype(np.float64)
    plane = np.stack([cotangent * np.sin(phi), -cotangent * np.cos(phi), np.ones(len(phi))])
    frame = sky_frame(facts["ra_deg"], facts["dec_deg"], -facts["rotation_deg"])
    x, y, scale = grid.from_sky(frame) @ plane
    x, y = (np.rint(axis / scale).astype(int) for axis in (x, y))
    inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
    values = np.zeros(len(x), image.dtype)
    values[inside] = image[y[inside], x[inside]]
    return values


def _scale_row(field, truth, grid, place):
    """Flux of a star in the exposure that is too bright, after its scale was applied."""
    date = field.exposures[BRIGHT_EXPOSURE].date_obs
    flux = combine_exposures(field, select=[date], reject="none", grid=grid).flux.values
    seeing = truth["exposures"][BRIGHT_EXPOSURE]["seeing_fwhm"]
    model = truth_cube(truth, grid.wavelengths, *sky_positions(grid), seeing_fwhm=seeing)
    inside = _aperture(flux.shape[1:], place, grid)
    # the median over planes passes over the cosmic rays that are still in there
    ratio = float(np.nanmedian(flux[:, inside].sum(axis=1) / model[:, inside].sum(axis=1))) - 1
    what = f"exposure {BRIGHT_EXPOSURE + 1}, {100 * FLUX_ERROR:.0f} % too bright, after scaling"
    return what, f"{100 * ratio:+.2f} %", "2 %", _yes(abs(ratio) < 0.02)


def _yes(good):
    return "yes" if good else "no"
