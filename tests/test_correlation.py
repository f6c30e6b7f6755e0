"""The noise of sums of voxels is what the rows behind them say."""

import numpy as np
import pytest
from fields import ingested

from musedeep.combine import combine_exposures
from musedeep.correlation import measure_correlation, sum_variance
from musedeep.recipe import prepare
from musedeep.simulate import simulate_exposures


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """Six exposures of nothing but noise."""
    folder = tmp_path_factory.mktemp("blank")
    paths = simulate_exposures(
        folder, exposures=6, seed=11, field_arcsec=12.0, wavelength=(6500.0, 6550.0), stars=0, galaxies=0,
        diffuse=0.0, noise="gaussian", fov_images=False,
    )  # fmt: skip
    return ingested(paths, folder / "field", offsets=folder / "OFFSET_LIST.fits")


@pytest.fixture(scope="module")
def deep(blank):
    """Its cube where all exposures overlap."""
    cube = combine_exposures(blank).compute(scheduler="synchronous")
    y, x = np.nonzero((cube.exposure_count >= 5).all("wavelength").values)
    return cube.isel(wavelength=slice(2, -2), y=slice(y.min(), y.max()), x=slice(x.min(), x.max()))


def chi2_of(cube, side, noise):
    """Mean of (sum / sigma)**2 over all apertures and planes: the mean of flux is 0."""
    ratios = []
    for y in range(0, cube.sizes["y"] - side + 1, side):
        for x in range(0, cube.sizes["x"] - side + 1, side):
            mask = np.zeros((cube.sizes["y"], cube.sizes["x"]), bool)
            mask[y : y + side, x : x + side] = True
            spectrum = cube.muse.spectrum(mask, noise=noise)
            ratios.append((spectrum.flux**2 / spectrum.variance).values)
    return float(np.nanmean(ratios)), np.size(ratios)


def test_spectra_of_apertures_have_the_noise_that_they_say(deep):
    small = deep.isel(y=slice(0, 18), x=slice(0, 18))
    for side, cube in ((1, small), (2, small), (3, deep), (5, deep)):
        found, count = chi2_of(cube, side, "correlated")
        assert count > 2900
        assert found == pytest.approx(1.0, abs=0.05), f"{side**2} spaxels"
    # the sum of variances alone does not know of shared rows
    assert chi2_of(small, 1, "naive")[0] == pytest.approx(1.0, abs=0.04)
    assert 1.2 < chi2_of(small, 2, "naive")[0] < 1.4
    assert 1.4 < chi2_of(deep, 5, "naive")[0] < 1.6


def test_narrow_bands_have_the_noise_that_they_say(deep):
    for width in (2.5, 5.0, 12.5):
        centres = np.arange(6505.0, 6545.0, width)
        bands = [deep.muse.narrow_band(centre, width) for centre in centres]
        found = np.mean([(band.flux**2 / band.variance).values for band in bands])
        assert found == pytest.approx(1.0, abs=0.05), f"{width} Angstrom"


def test_images_have_the_noise_that_they_say(deep):
    image = deep.muse.white_light()
    assert np.mean((image.flux**2 / image.variance).values) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize(("pixfrac", "expected"), [(0.6, 0.6 / 4.8), (1.0, 1.0 / 4.0), (0.8, 0.8 / 4.4)])
def test_drops_that_fall_anywhere_give_the_formula(blank, pixfrac, expected):
    """With drops of size p at random, neighbours share (p / 6) / (1 - p / 3) of their variance."""
    found = measure_correlation(prepare(blank.changed(pixfrac=pixfrac, reject="none")))
    for lag in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):
        assert found[lag] == pytest.approx(expected, rel=0.15), lag
    assert found[0, 1, 1] == pytest.approx(expected**2, rel=0.3)
    assert set(found) == {lag for lag in found if max(map(abs, lag)) == 1 and lag > (0, 0, 0)}


def test_voxels_of_one_row_each_are_independent(blank):
    assert measure_correlation(prepare(blank.changed(resample="nearest"))) == {}


def test_sum_variance_is_the_sum_over_all_pairs():
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0, 2, (3, 4, 5))
    correlation = {(0, 0, 1): 0.2, (0, 1, -1): 0.05, (0, 1, 0): 0.1, (1, 0, 0): 0.3, (1, -1, 1): 0.02}
    both = correlation | {tuple(-n for n in lag): value for lag, value in correlation.items()}
    places = list(np.ndindex(sigma.shape))
    for axes in ((1, 2), (0,), (0, 1, 2)):
        wanted = np.zeros([n for axis, n in enumerate(sigma.shape) if axis not in axes])
        for one in places:
            for two in places:
                lag = tuple(b - a for a, b in zip(one, two, strict=True))
                if all(step == 0 for axis, step in enumerate(lag) if axis not in axes):
                    kept = tuple(n for axis, n in enumerate(one) if axis not in axes)
                    wanted[kept] += (lag == (0, 0, 0) or both.get(lag, 0.0)) * sigma[one] * sigma[two]
        np.testing.assert_allclose(sum_variance(sigma, correlation, axes), wanted, rtol=1e-12)
