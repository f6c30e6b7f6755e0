"""How the limiting magnitude of a field with residual gradients grows with time, as a whole and in boxes.

    python benchmarks/depth.py
    python benchmarks/depth.py --exposures 100 --keep /scratch/depth --output depth --plot docs/depth.png

Exposures of a full field of view are simulated, with stars, galaxies, cosmic rays and a faint background
that varies over the field and that all exposures share, as what a sky subtraction leaves. They are made in
parts, side by side. More and more of them are combined with the default settings; where they suffice, up to
twelve times with other exposures, whose limits are averaged. Only what all exposures cover is looked at: the
rim that dithers leave has less exposure time. ABMAGLIM of the whole image takes the gradients for noise; the
local one, in boxes of 32 x 32 spaxels, is to follow 1.25 log10(t) within 0.05 mag.
"""

import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from harness import Report, carry_out, command_line, repeated

import musedeep as md
from musedeep.depth import DepthSums
from musedeep.resolution import sky_resolution
from musedeep.simulate import Source

MOST_OFF = 0.05
PARTS = 5
# The limit of one combination scatters by 0.03 mag, as a field of view holds some 1500 seeing discs.
SETS = 12
# Dithers and pointing errors leave so wide a rim that some exposures do not reach.
RIM_SPAXELS = 12
SIMULATION = {
    "field_arcsec": 60.0,
    "wavelength": (6500.0, 6503.0),
    "seeing_fwhm": (0.8, 0.8),
    "exptime": 1500.0,
    "fov_images": False,
}
# Peaks, places and half-light radii of the background, 1e-20 erg/s/cm2/Angstrom a spaxel and arcsec.
GRADIENTS = ((1.5, -12.0, 14.0, 20.0), (1.0, 25.0, -20.0, 14.0))


def steps(most):
    """Numbers of exposures: powers of two, and all."""
    return sorted({2**n for n in range(int(math.log2(most)) + 1)} | {most})


def scene():
    """Stars, galaxies and what the sky subtraction left; list of Source."""
    rng = np.random.default_rng(1)
    sources = []
    for number, (east, north) in enumerate(rng.uniform(-28, 28, (24, 2))):
        flux = float(np.exp(rng.uniform(*np.log((100.0, 5000.0)))))
        kind = ("star", "exponential")[number % 2]
        size = {} if kind == "star" else {"radius_arcsec": float(rng.uniform(0.3, 0.8))}
        sources.append(Source(kind, float(east), float(north), flux, **size))
    for peak, east, north, radius in GRADIENTS:
        # A Gaussian of this half-light radius has its flux / (4.532 radius^2) in the middle.
        sources.append(Source("gaussian", east, north, peak / 0.04 * 4.532 * radius**2, radius_arcsec=radius))
    return sources


def simulate_part(folder, number, exposures):
    """Some of the exposures, unless they are there; each part has a seed of its own."""
    made = sorted((folder / f"part{number}").glob("PIXTABLE_REDUCED_*.fits"))
    if len(made) == exposures:
        return made
    return md.simulate_exposures(
        folder / f"part{number}", exposures=exposures, seed=number, sources=scene(), **SIMULATION
    )


def ingested_field(folder, exposures):
    """The simulated field, in the pixel store."""
    sizes = [len(part) for part in np.array_split(np.arange(exposures), PARTS) if len(part)]
    files = []
    with ProcessPoolExecutor(PARTS, mp_context=get_context("spawn")) as processes:
        parts = [
            processes.submit(simulate_part, folder, number, size)
            for number, size in enumerate(sizes, start=1)
        ]
        for part in parts:
            # The parts have the same times; every exposure gets one of its own.
            files += repeated(part.result(), len(part.result()), folder / "exposures", len(files))
    field = md.Field.from_exposures(files, folder / "field", memory="2GB", overwrite=True)
    md.ingest_exposures(field)
    return field


def inner_grid(grid):
    """The grid without its rim, and without its first and last plane, as few rows reach these."""
    inner, rim = grid.to_dict(), RIM_SPAXELS
    inner |= {"shape": [grid.shape[0] - 2, *(n - 2 * rim for n in grid.shape[1:])]}
    inner |= {"wavelength_crpix": inner["wavelength_crpix"] - 1, "crpix": [c - rim for c in inner["crpix"]]}
    return md.VoxelGrid.from_dict(inner)


def sums_of(field, grid, dates):
    """What the depth of some exposures is told from."""
    cube = md.combine_exposures(field, grid=grid, select=tuple(dates)).compute(scheduler="synchronous")
    sums = DepthSums(grid.shape[1:])
    sums.add(cube.flux.values, cube.variance.values)
    return sums


def draw(path, rows, image, depth):
    """Draw limits against time, the deep image and the map of its depth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    hours = np.array([row["hours"] for row in rows])
    law, local, whole = (np.array([row[name] for row in rows]) for name in ("law", "local", "whole"))
    left.fill_between(hours, law - MOST_OFF, law + MOST_OFF, color="0.88", lw=0, label="law ± 0.05 mag")
    left.plot(hours, law, color="0.55", lw=1, label=r"$1.25\,\log_{10} t$")
    left.plot(hours, local, "o-", color="#1b6ca8", ms=5, lw=1.4, label="local, boxes of 6.4″")
    left.plot(hours, whole, "s--", color="#c8553d", ms=5, lw=1.4, label="ABMAGLIM, whole field")
    left.set(xscale="log", xlabel="exposure time [h]", ylabel="limiting magnitude (AB, 5σ)")
    left.legend(frameon=False, loc="upper left")
    left.grid(alpha=0.25, lw=0.5, which="both")
    side = np.array([-0.5, 0.5, -0.5, 0.5]) * 0.2 * np.repeat(image.shape[::-1], 2)
    spread = np.nanpercentile(image, (5, 90))
    drawn = [
        (middle, image, {"vmin": spread[0], "vmax": spread[1], "cmap": "magma"}, r"flux [$10^{-20}$ cgs/Å]"),
        (right, depth, {"cmap": "viridis"}, "local limit [mag]"),
    ]
    for axes, values, options, label in drawn:
        shown = axes.imshow(values, origin="lower", extent=side, interpolation="nearest", **options)
        figure.colorbar(shown, ax=axes, label=label, shrink=0.85)
        axes.set(xlabel="x [arcsec]", ylabel="y [arcsec]")
    middle.set_title(f"all {rows[-1]['exposures']} exposures")
    right.set_title("depth in boxes")
    figure.savefig(path, dpi=110)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--exposures", type=int, default=100)
    parser.add_argument("--keep", dest="folder", type=Path, help="the same as --folder")
    parser.add_argument("--plot", type=Path, help="draw the figures into this PNG file")
    carry_out(parser, measure_steps)


def measure_steps(options, folder):
    """Combine more and more exposures, and compare their limits with the law; whether they follow it."""
    report = Report("Limiting magnitude against exposure time")
    field = ingested_field(folder, options.exposures)
    exposures = list(field.exposures)
    seeing = sky_resolution([e.header for e in exposures], [e.exptime for e in exposures]).fwhm_arcsec
    grid = inner_grid(md.VoxelGrid.from_dict(md.combine_exposures(field).attrs["grid"]))
    edges = tuple(grid.wavelengths[[0, -1]] / 10)
    dates = [exposure.date_obs for exposure in exposures]
    rows = []
    for number in steps(len(dates)):
        found = []
        sets = min(SETS, len(dates) // number)
        for first in range(0, sets * number, number):
            sums = sums_of(field, grid, dates[first : first + number])
            depth = sums.depth(seeing / 0.2, edges)
            found.append((depth.limit, depth.local.median))
        whole, local = (float(value) for value in np.mean(found, axis=0))
        hours = number * exposures[0].exptime / 3600
        rows.append({"exposures": number, "sets": sets, "hours": hours, "whole": whole, "local": local})
    # One constant belongs to the law; it is the mean over all numbers of exposures.
    law = [1.25 * math.log10(row["hours"]) for row in rows]
    zero = np.mean([row["local"] - value for row, value in zip(rows, law, strict=True)])
    for row, value in zip(rows, law, strict=True):
        row |= {"law": float(zero + value), "local - law": float(row["local"] - value - zero)}
        report.add(**row)
    off = max(abs(row["local - law"]) for row in rows)
    held = rows[-1]["law"] - rows[-1]["whole"] - (rows[0]["law"] - rows[0]["whole"])
    report.note(
        f"The local limit follows 1.25 log10(t) within {off:.3f} mag; that of the whole field falls behind "
        f"by {held:.2f} mag from 1 to {len(dates)} exposures."
    )
    if off > MOST_OFF:
        report.fail(f"{MOST_OFF} mag are promised.")
    if options.plot:
        draw(options.plot, rows, sums.mean_image(), depth.local.map(np.isfinite(sums.mean_image())))
    return report.write(options.output)


if __name__ == "__main__":
    main()
