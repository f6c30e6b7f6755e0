"""A mosaic with a deep centre in one cube: 275 exposures of a million rows in 3 x 3 pointings.

    python benchmarks/mosaic275.py --memory 1GB

ESO cut a field of this size into seven cubes, because its memory grows with all rows of all exposures. Each
stage runs as a process of its own. Told are the plan beside the measured peak, CPU time, and the result
beside the truth: the number of exposures at many places, fluxes of stars, and the noise of the sky.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from harness import Report, measure, megabytes, musedeep, repeated, row_count, simulated, warm_up

__all__ = ["measure_mosaic", "pointings_of"]

# Differences that are allowed: of the number of exposures at a place, of the flux of a star, of the width of
# the noise.
DEPTH_PERCENT, FLUX_PERCENT, NOISE_PERCENT = 3.0, 1.0, 2.0
APERTURE_ARCSEC, SEEING_ARCSEC = 1.8, 0.8
# Places nearer than this to the border of a pointing are not compared: it is no perfect square.
BORDER_ARCSEC = 1.2
_CENTRE = 4


def pointings_of(spacing):
    """The nine pointings, east and north in arcsec; the centre is the fifth."""
    return [(east, north) for north in (-spacing, 0.0, spacing) for east in (-spacing, 0.0, spacing)]


def make_mosaic(folder, options):
    """Simulate distinct exposures of every pointing and repeat them; files, and copies of each distinct one.

    Each outer pointing has 7 % of all, the centre the rest.
    """
    around = pointings_of(options.spacing)
    order = around * options.distinct + [around[_CENTRE]] * options.more
    distinct = simulated(
        folder / "distinct",
        len(order),
        options.rows,
        options.field,
        pointings=order,
        pointing_error_arcsec=0.0,
        flux_scale_error=0.0,
        seeing_fwhm=SEEING_ARCSEC,
        stars=options.stars,
        galaxies=0,
        diffuse=0.0,
        star_flux=[3e4, 3e5],
    )
    outer = max(round(options.exposures * 0.07), options.distinct)
    numbers = [outer] * 9
    numbers[_CENTRE] = options.exposures - 8 * outer
    made, copies = [], [0] * len(order)
    for pointing, number in zip(around, numbers, strict=True):
        mine = [n for n, place in enumerate(order) if place == pointing]
        made += repeated([distinct[n] for n in mine], number, folder / "exposures", len(made))
        for n in range(number):
            copies[mine[n * len(mine) // number]] += 1
    return made, copies


def measure_mosaic(options, folder):
    """Make the mosaic and hold it against plan and truth; whether all is as it must be."""
    warm_up(folder)
    files, copies = make_mosaic(folder, options)
    rows = row_count(files)
    report = Report(f"{len(files)} exposures in one cube within {options.memory}")
    field = folder / "field"
    words = ["--overwrite", "--memory", options.memory, "--workers", str(options.workers)]
    musedeep("init", *files, "-o", field, *words)
    for stage in ("ingest", "combine", "products"):
        measure(["rm", "-rf", field / {"ingest": "pixels.zarr", "combine": "cube.zarr"}.get(stage, stage)])
        run = musedeep(stage, field, "--quiet", "--json")
        facts = json.loads(run.output)["stages"][0]
        predicted = (facts["predicted_bytes"] or 0) / 1e6
        report.add(
            stage=stage,
            rows=rows,
            memory_MB=megabytes(options.memory),
            predicted_MB=predicted,
            measured_MB=run.peak_bytes / 1e6,
            cpu_s=run.cpu,
            wall_s=run.seconds,
            cpu_ns_per_row=run.cpu / rows * 1e9,
            rows_read_of_rows=facts["facts"].get("rows_read", rows) / rows,
        )
        limit = min(predicted or megabytes(options.memory), megabytes(options.memory))
        if run.peak_bytes / 1e6 > limit:
            report.fail(f"{stage} took {run.peak_bytes / 1e6:.0f} MB, more than {limit:.0f} MB.")
    compare(report, field, folder / "distinct" / "truth.json", copies, options)
    return report.write(options.output)


def compare(report, folder, truth_file, copies, options):
    """Hold the cube against what is known."""
    import numpy as np

    import musedeep as md
    from musedeep.simulate import truth_cube

    cube = md.open_cube(folder / "cube.zarr")
    grid = md.VoxelGrid.from_file(folder / "products" / "DATACUBE_DEEP.fits")
    truth = json.loads(truth_file.read_text())
    border = len(cube.wavelength) // 5  # of planes that not all exposures reach
    maps = {name: cube[name][border:-border].values for name in ("flux", "variance", "exposure_count")}
    ra, dec = grid.wcs.celestial.all_pix2world(*np.indices(grid.shape[1:])[::-1], 0)
    size = f"{' x '.join(map(str, grid.shape))} voxels = {np.prod(grid.shape) / 1e6:.1f} million"
    report.note(f"The cube has {size}.")
    known, squares, sure = known_depth(truth, copies, ra, dec, options.field)
    compare_depth(report, np.median(maps["exposure_count"], axis=0), known, sure)
    model = truth_cube(truth, cube.wavelength.values[border:-border], ra, dec, seeing_fwhm=SEEING_ARCSEC)
    compare_stars(report, maps["flux"], model, grid, truth)
    empty = sure & (model.max(axis=0) < 0.5)
    # copies of one exposure have the same noise: n of them together are no better than one
    alike = (squares / np.maximum(known, 1))[empty]
    pulls = maps["flux"][:, empty] / np.sqrt(maps["variance"][:, empty] * alike)
    width = 1.4826 * np.nanmedian(np.abs(pulls - np.nanmedian(pulls)))
    report.note(
        f"Noise of the sky over its predicted sigma: {width:.3f} ({pulls.size / 1e6:.1f} million voxels)."
    )
    if not abs(width - 1) <= NOISE_PERCENT / 100:
        report.fail("The noise is not what the variance tells.")


def compare_depth(report, count, known, sure):
    """Number of exposures found, and known to be there, at every sure place."""
    import numpy as np

    wrong = 100 * np.abs(count / np.maximum(known, 1) - 1)[sure]
    found = {n: float(np.median(count[sure & (known == n)])) for n in np.unique(known[sure])}
    pairs = ", ".join(f"{n}: {value:g}" for n, value in found.items())
    share = float(np.mean(wrong <= DEPTH_PERCENT))
    report.note(
        f"Exposures known to cover a place, and found there: {pairs}; {100 * share:.1f} % of {sure.sum()} "
        f"places agree within {DEPTH_PERCENT:g} %."
    )
    if share < 0.98 or any(abs(value - n) > n * DEPTH_PERCENT / 100 for n, value in found.items()):
        report.fail("The depth is not what it must be.")


def compare_stars(report, flux, model, grid, truth):
    """Fluxes in apertures over those of the noise-free scene."""
    import numpy as np

    y, x = np.indices(grid.shape[1:])
    errors = []
    for source in truth["sources"]:
        px, py = grid.wcs.celestial.all_world2pix(source["ra_deg"], source["dec_deg"], 0)
        inside = np.hypot(x - px, y - py) * grid.step_arcsec[0] <= APERTURE_ARCSEC
        if np.isfinite(flux[:, inside]).all():
            errors.append(100 * float(flux[:, inside].sum() / model[:, inside].sum() - 1))
    if not errors or max(map(abs, errors)) > FLUX_PERCENT:
        report.fail("A flux is wrong, or there is no star.")
    if errors:
        report.note(
            f"Fluxes of {len(errors)} of {len(truth['sources'])} stars: mean error {np.mean(errors):+.3f} %, "
            f"largest {max(errors, key=abs):+.3f} %."
        )


def known_depth(truth, copies, ra, dec, field):
    """Number of exposures that cover every spaxel; the squares of the numbers of copies, summed; and where
    both are sure: away from all borders of exposures."""
    import numpy as np

    known, squares, sure = np.zeros(ra.shape, int), np.zeros(ra.shape, int), np.ones(ra.shape, bool)
    for exposure, number in zip(truth["exposures"], copies, strict=True):
        east = (ra - exposure["ra_deg"]) * np.cos(np.radians(dec)) * 3600
        away = np.maximum(np.abs(east), np.abs(dec - exposure["dec_deg"]) * 3600)
        known += np.where(away < field / 2, number, 0)
        squares += np.where(away < field / 2, number**2, 0)
        sure &= np.abs(away - field / 2) > BORDER_ARCSEC
    return known, squares, sure & (known > 0)


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--memory", default="1GB", help="in MB or GB")
    parser.add_argument("--exposures", type=int, default=275)
    parser.add_argument("--rows", type=float, default=1.02e6, help="of an exposure")
    parser.add_argument("--field", type=float, default=20.0, help="side of a pointing in arcsec")
    parser.add_argument("--spacing", type=float, default=16.0, help="of the pointings in arcsec")
    parser.add_argument("--stars", type=int, default=50)
    parser.add_argument("--distinct", type=int, default=4, help="simulated exposures of each pointing")
    parser.add_argument("--more", type=int, default=8, help="more of them for the centre")
    parser.add_argument("--workers", type=int, default=1, help="threads")
    parser.add_argument("--folder", type=Path, help="where to work and keep the simulation [temporary]")
    parser.add_argument("--output", type=Path, help="write the report here, .md and .json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(0 if measure_mosaic(options, options.folder or Path(temporary)) else 1)


if __name__ == "__main__":
    main()
