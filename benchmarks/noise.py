"""Noise of sums of voxels over the noise that is told for them, on exposures of nothing but noise.

    python benchmarks/noise.py
    python benchmarks/noise.py --exposures 2 4 16 64 --pixfrac 0.6 1.0

Square apertures of 1 to 49 spaxels tile the part of the cube where all exposures overlap, and each plane is a
realisation. chi2 is the mean of (sum / sigma)^2; 1 is right. "naive" adds up the variances of the voxels,
"correlated" is what `deep.muse.spectrum` gives. It must lie between 0.95 and 1.05 for 1 to 25 spaxels.
"""

import numpy as np
from harness import Report, carry_out, command_line

from musedeep import Field, combine_exposures, ingest_exposures, simulate_exposures
from musedeep.accessor.sums import correlation_of
from musedeep.correlation import sum_variance

LIMITS = 0.95, 1.05


def field_of_noise(folder, exposures):
    """A field without sources."""
    paths = simulate_exposures(
        folder, exposures=exposures, seed=11, field_arcsec=12.0, wavelength=(6500.0, 6550.0), stars=0,
        galaxies=0, diffuse=0.0, noise="gaussian", fov_images=False,
    )  # fmt: skip
    offsets = str(folder / "OFFSET_LIST.fits")
    field = Field.from_exposures(paths, folder / "field", overwrite=True, offsets=offsets)
    ingest_exposures(field)
    return field


def apertures(values, side):
    """The square apertures of a cube, one behind the other; (planes, apertures, side, side)."""
    planes, ny, nx = values.shape
    rows, columns = ny // side, nx // side
    cut = values[:, : rows * side, : columns * side].reshape(planes, rows, side, columns, side)
    return cut.transpose(0, 1, 3, 2, 4).reshape(planes, rows * columns, side, side)


def chi2(flux, sigma, side, correlation):
    """Mean of (sum / sigma)**2."""
    total = apertures(flux, side).sum(axis=(2, 3))
    variance = [sum_variance(part, correlation, (1, 2)) for part in np.moveaxis(apertures(sigma, side), 1, 0)]
    return float(np.mean(total**2 / np.array(variance).T))


def measure_all(options, folder):
    """All numbers of exposures and sizes of drops; whether the told noise is right."""
    report = Report("Noise of apertures")
    for number in options.exposures:
        field = field_of_noise(folder / f"{number}", number)
        for pixfrac in options.pixfrac:
            deep = combine_exposures(field, pixfrac=pixfrac).compute()
            y, x = np.nonzero((deep.exposure_count >= 0.9 * number).all("wavelength").values)
            part = deep.isel(wavelength=slice(2, -2), y=slice(y.min(), y.max()), x=slice(x.min(), x.max()))
            flux = part.flux.fillna(0.0).values.astype(float)
            sigma = np.sqrt(part.variance.fillna(0.0).values.astype(float))
            correlation = correlation_of(deep)
            for side in (1, 2, 3, 4, 5, 7):
                right = chi2(flux, sigma, side, correlation)
                naive = chi2(flux, sigma, side, {})
                report.add(exposures=number, pixfrac=pixfrac, spaxels=side**2, correlated=right, naive=naive)
                if side <= 5 and not LIMITS[0] < right < LIMITS[1]:
                    report.fail(f"chi2 is {right:.3f} for {side**2} spaxels of {number} exposures.")
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--exposures", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--pixfrac", type=float, nargs="+", default=[0.6])
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
