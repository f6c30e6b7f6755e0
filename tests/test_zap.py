"""Our cubes are what the `zap` package wants: it takes residuals of the sky out and leaves all else."""

import shutil
import subprocess

import numpy as np
import pytest
from astropy.io import fits

import musedeep as md

pytestmark = pytest.mark.skipif(shutil.which("zap") is None, reason="the command zap is not installed")
LINES = 7276.4, 7316.3, 7340.9, 7714.0, 7750.6, 7794.1, 7821.5, 7913.7, 7964.6, 7993.3


def residual(shape):
    """What a sky subtraction leaves where lines are: stronger here and weaker there, and a little off."""
    wavelength, rng = 7200 + 1.25 * np.arange(shape[0]), np.random.default_rng(2)
    lines = sum(np.exp(-0.5 * ((wavelength - line) / 1.2) ** 2) for line in LINES)
    strength, shift = rng.normal(0, 60, shape[1:]), rng.normal(0, 40, shape[1:])
    return lines[:, None, None] * strength + np.gradient(lines)[:, None, None] * shift


def test_zap_takes_residuals_out_of_our_cube(tmp_path):
    files = md.simulate_exposures(
        tmp_path / "sim", exposures=2, field_arcsec=6.0, wavelength=(7200.0, 8100.0), seed=4, stars=2,
        galaxies=0, diffuse=0, fov_images=False,
    )  # fmt: skip
    field = md.Field.from_exposures(files, tmp_path / "field", workers=1, assess="off")
    md.run(field, stages=("ingest", "combine", "products"), progress=False)
    cube = tmp_path / "field" / "products" / "DATACUBE_DEEP.fits"
    dirty, mask, clean = (tmp_path / name for name in ("DIRTY.fits", "MASK.fits", "ZAP.fits"))
    with fits.open(cube) as hdus:
        truth, variance, header = hdus["DATA"].data.copy(), hdus["STAT"].data.copy(), hdus[0].header.copy()
        left = residual(truth.shape)
        hdus["DATA"].data = (truth + left).astype(np.float32)
        hdus.writeto(dirty)
    image = fits.getdata(cube.with_name("IMAGE_FOV_DEEP.fits"), "DATA")
    level = np.nanmedian(image)
    spread = 1.48 * np.nanmedian(np.abs(image - level))
    fits.PrimaryHDU((image > level + 3 * spread).astype(np.int16)).writeto(mask)
    words = ["zap", dirty.name, "-o", clean.name, "--mask", mask.name, "--ncpu", "1", "--cfwidthSVD", "100"]
    words += ["--cfwidthSP", "50"]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    with fits.open(clean) as hdus:
        off = hdus["DATA"].data - truth
        np.testing.assert_array_equal(hdus["STAT"].data, variance)
        assert hdus[0].header["ESO INS MODE"] == header["ESO INS MODE"]
        # in other words, but the same
        assert "10**(-20)" in hdus["DATA"].header["BUNIT"]
    seen = np.isfinite(off)
    assert np.array_equal(seen, np.isfinite(truth))
    share = np.sum(off[seen] * left[seen]) / np.sum(left[seen] ** 2)
    assert abs(share) < 0.1, share
    # a star keeps its light
    row, column = np.unravel_index(np.nanargmax(image), image.shape)
    star = (slice(None), slice(row - 2, row + 3), slice(column - 2, column + 3))
    assert abs(np.nansum(off[star])) < 0.03 * np.nansum(truth[star])
