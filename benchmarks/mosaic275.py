"""A mosaic with a deep centre in one cube: 275 exposures of a million rows in 3 x 3 pointings.

    python benchmarks/mosaic275.py --memory 1GB

ESO cut a field of this size into seven cubes, because its memory grows with all rows of all exposures. Each
stage runs as a process of its own. Told are the plan beside the measured peak, CPU time, and the result
beside the truth: the number of exposures at many places, fluxes of stars, and the noise of the sky.
"""

import json

from harness import (
    Report,
    carry_out,
    command_line,
    measure,
    megabytes,
    musedeep,
    row_count,
    simulated,
    warm_up,
)

__all__ = ["measure_mosaic", "pointings_of"]

# Differences that are allowed: of the number of exposures at a place, of the fluxes of stars in the mean, of
# the width of the noise. A single star is off by a per cent or two in one exposure, since slices do not
# lie evenly on the sky.
DEPTH_PERCENT, FLUX_PERCENT, NOISE_PERCENT = 3.0, 0.5, 2.0
APERTURE_ARCSEC, SEEING_ARCSEC = 1.8, 0.8
# Places nearer than this to the border of a pointing are not compared: it is no perfect square.
BORDER_ARCSEC = 1.2
_CENTRE = 4


def pointings_of(spacing):
    """The nine pointings, east and north in arcsec; the centre is the fifth."""
    return [(east, north) for north in (-spacing, 0.0, spacing) for east in (-spacing, 0.0, spacing)]


def make_mosaic(folder, options):
    """Simulate all exposures: each outer pointing has 7 % of them, the centre the rest; files."""
    around = pointings_of(options.spacing)
    outer = round(0.07 * options.exposures)
    numbers = [outer] * 9
    numbers[_CENTRE] = options.exposures - 8 * outer
    return simulated(
        folder,
        options.exposures,
        options.rows,
        options.field,
        pointings=[place for place, number in zip(around, numbers, strict=True) for _ in range(number)],
        pointing_error_arcsec=0.0,
        flux_scale_error=0.0,
        seeing_fwhm=SEEING_ARCSEC,
        stars=options.stars,
        galaxies=0,
        diffuse=0.0,
        star_flux=[3e4, 3e5],
    )


def measure_mosaic(options, folder):
    """Make the mosaic and hold it against plan and truth; whether all is as it must be."""
    warm_up(folder)
    files = make_mosaic(folder / "exposures", options)
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
    compare(report, field, files[0].with_name("truth.json"), options)
    return report.write(options.output)


def compare(report, folder, truth_file, options):
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
    known, sure = known_depth(truth, ra, dec, options.field)
    compare_depth(report, np.median(maps["exposure_count"], axis=0), known, sure)
    model = truth_cube(truth, cube.wavelength.values[border:-border], ra, dec, seeing_fwhm=SEEING_ARCSEC)
    compare_stars(report, maps["flux"], model, grid, truth)
    empty = sure & (model.max(axis=0) < 0.5)
    pulls = maps["flux"][:, empty] / np.sqrt(maps["variance"][:, empty])
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
    report.note(
        f"Fluxes of {len(errors)} of {len(truth['sources'])} stars: mean error {np.mean(errors):+.2f} %, "
        f"scatter {np.std(errors):.2f} %, largest {max(errors, key=abs):+.2f} %."
    )
    if abs(np.mean(errors)) > FLUX_PERCENT:
        report.fail("The fluxes are wrong.")


def known_depth(truth, ra, dec, field):
    """Number of exposures that cover every spaxel, and where it is sure: away from all their borders."""
    import numpy as np

    known, sure = np.zeros(ra.shape, int), np.ones(ra.shape, bool)
    for exposure in truth["exposures"]:
        east = (ra - exposure["ra_deg"]) * np.cos(np.radians(dec)) * 3600
        away = np.maximum(np.abs(east), np.abs(dec - exposure["dec_deg"]) * 3600)
        known += away < field / 2
        sure &= np.abs(away - field / 2) > BORDER_ARCSEC
    return known, sure & (known > 0)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--memory", default="1GB", help="in MB or GB")
    parser.add_argument("--exposures", type=int, default=275)
    parser.add_argument("--rows", type=float, default=1.02e6, help="of an exposure")
    parser.add_argument("--field", type=float, default=20.0, help="side of a pointing in arcsec")
    parser.add_argument("--spacing", type=float, default=16.0, help="of the pointings in arcsec")
    parser.add_argument("--stars", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1, help="threads")
    carry_out(parser, measure_mosaic)


if __name__ == "__main__":
    main()
