import math
import tracemalloc

import numpy as np
import pytest
from cubes import make_arrays, make_field, make_grid

from musedeep.depth import (
    DepthSums,
    VarianceHistogram,
    flux_peak,
    limiting_magnitude,
    local_limits,
    measure_depth,
)
from musedeep.store import CubeStore

WAVELENGTH_NM = 475.0, 935.0
FWHM = 3.5


def sky(shape=(256, 256), sigma=1.0, seed=1):
    return np.random.default_rng(seed).normal(0, sigma, shape)


def magnitude_of(sigma, fwhm=FWHM):
    """The formula of the standard, with the noise of an image smoothed by the seeing."""
    reach = np.arange(-int(fwhm), int(fwhm) + 1)
    kernel = np.exp(-4 * math.log(2) * (reach[:, None] ** 2 + reach**2) / fwhm**2)
    noise = sigma * math.sqrt((kernel**2).sum()) / kernel.sum()
    area = fwhm**2 * math.pi / (2 * math.log(2))
    jansky = 5 * noise * area * 1e-20 * 3.34e4 * 4750 * 9350
    return -2.5 * math.log10(jansky / 3631)


def test_the_limit_of_plain_noise_is_that_of_the_standard():
    assert limiting_magnitude(sky(), FWHM, WAVELENGTH_NM) == pytest.approx(magnitude_of(1.0), abs=0.08)


def test_the_limit_goes_with_the_noise_and_does_not_see_sources():
    image = sky()
    first = limiting_magnitude(image, FWHM, WAVELENGTH_NM)
    assert limiting_magnitude(10 * image, FWHM, WAVELENGTH_NM) == pytest.approx(first - 2.5, abs=1e-9)
    image[40:50, 60:75] = 1e6
    image[100:104, ::16] += 300
    assert limiting_magnitude(image, FWHM, WAVELENGTH_NM) == pytest.approx(first, abs=0.1)


def test_the_limit_of_an_image_with_holes():
    image = sky()
    first = limiting_magnitude(image, FWHM, WAVELENGTH_NM)
    image[:, :40] = np.nan
    image[::7, ::5] = np.nan
    assert limiting_magnitude(image, FWHM, WAVELENGTH_NM) == pytest.approx(first, abs=0.1)


@pytest.mark.parametrize("image", [np.full((20, 20), np.nan), np.zeros((20, 20)), sky((3, 4))])
def test_no_limit_without_noise(image):
    assert math.isnan(limiting_magnitude(image, FWHM, WAVELENGTH_NM))
    found = local_limits(image, FWHM, WAVELENGTH_NM)
    assert math.isnan(found.median) and np.isnan(found.map(np.isfinite(image))).all()


def test_boxes_tell_the_depth_where_it_differs():
    image = sky((192, 256))
    image[:, 128:] *= 4
    found = local_limits(image, FWHM, WAVELENGTH_NM)
    assert found.magnitudes.shape == (6, 8)
    left, right = np.median(found.magnitudes[:, :4]), np.median(found.magnitudes[:, 4:])
    assert left == pytest.approx(magnitude_of(1), abs=0.15)
    assert right == pytest.approx(magnitude_of(4), abs=0.15)
    valid = np.ones(image.shape, bool)
    valid[:10] = False
    drawn = found.map(valid)
    assert drawn.dtype == np.float32 and np.isnan(drawn[:10]).all()
    assert (drawn[10:32, 64:96] == np.float32(found.magnitudes[0, 2])).all()


def test_half_of_the_area_reaches_the_median():
    image = sky((128, 384))
    image[:, :128] *= 10  # a third of the area
    image[:40, 256:] = np.nan
    found = local_limits(image, FWHM, WAVELENGTH_NM)
    assert found.median == pytest.approx(magnitude_of(1), abs=0.15)
    assert np.isnan(found.magnitudes[0, 8:]).all(), "boxes that are mostly empty tell nothing"


def test_gradients_hold_up_the_global_limit_only():
    """A gradient of one sigma of a single exposure over the field, and noise that falls with time."""
    y, x = np.mgrid[:256, :256] / 256 - 0.5
    gradient = 0.4 * x - 0.3 * y
    times = (1, 4, 16, 64, 100)
    limits = [
        (limiting_magnitude(image, FWHM, WAVELENGTH_NM), local_limits(image, FWHM, WAVELENGTH_NM).median)
        for image in (sky(seed=n) / math.sqrt(n) + gradient for n in times)
    ]
    wanted = [magnitude_of(1) + 1.25 * math.log10(n) for n in times]
    whole, local = np.transpose(limits) - wanted
    assert np.abs(local - local.mean()).max() < 0.05
    assert whole[-1] < whole[0] - 0.7


def test_mode_and_histo_17_of_a_gaussian():
    found = flux_peak(np.append(sky((400, 400), 3.0) + 5.0, [np.nan, 1e9, -1e9, np.inf]))
    assert found.mode == pytest.approx(5.0, abs=0.3)
    assert found.histo_17 == pytest.approx(5.0 - 2.80 * 3.0, abs=0.4)
    assert found.sigma == pytest.approx(3.0, rel=0.08)
    assert found.counts.sum() == 160000 and len(found.edges) == len(found.counts) + 1


def test_too_much_sky_drives_histo_17_down_but_not_the_mode():
    image = sky((300, 300))
    clean = flux_peak(image)
    image[:90] -= np.random.default_rng(2).uniform(0, 30, (90, 300))
    spoilt = flux_peak(image)
    assert spoilt.mode == pytest.approx(clean.mode, abs=0.3)
    assert spoilt.histo_17 < -20 < clean.histo_17


def test_an_empty_image_has_no_peak():
    found = flux_peak(np.full((30, 30), np.nan))
    assert math.isnan(found.mode) and math.isnan(found.histo_17) and len(found.counts) == 0


def variances(typical, n=200_000):
    return (typical * np.exp(np.random.default_rng(3).normal(0, 0.2, n))).astype(np.float32)


@pytest.mark.parametrize("typical", [1e-4, 0.03, 0.5, 3.3, 12.0, 24.0, 26.0, 900.0])
def test_the_mode_of_variances_of_any_size(typical):
    found = VarianceHistogram()
    values = variances(typical)
    for part in np.array_split(values, 7):
        found.add(part)
    assert found.median() == pytest.approx(np.median(values), rel=1e-3)
    # The density of a log-normal distribution is highest at exp(-sigma^2) of its median.
    assert found.mode() == pytest.approx(typical * math.exp(-0.04), rel=0.06)


def test_the_mode_in_the_bins_of_eso():
    found = VarianceHistogram()
    found.add(np.array([0.01, 12.01, 12.02, 12.05, 24.99, 25.0, 30.0, 31.0, -1, np.nan, np.inf], np.float32))
    assert found.eso_mode() == pytest.approx(12.02)
    assert found.mode() == pytest.approx(12.02)


def test_very_deep_cubes_differ_in_their_noise_though_not_in_bins_of_eso():
    modes = []
    for typical in (0.02, 0.01):
        found = VarianceHistogram()
        found.add(variances(typical))
        modes.append((found.mode(), found.eso_mode()))
    assert modes[0][1] == modes[1][1] == 0.02
    assert modes[0][0] == pytest.approx(2 * modes[1][0], rel=0.05)


def test_no_variance_no_mode():
    found = VarianceHistogram()
    found.add(np.full(5, np.nan, np.float32))
    assert all(math.isnan(value) for value in (found.mode(), found.eso_mode(), found.median()))


def test_the_mean_image_ignores_what_is_not_there():
    sums = DepthSums((2, 2))
    flux = np.array([[[1, 2], [3, np.nan]], [[3, np.nan], [5, np.nan]]], np.float32)
    sums.add(flux, np.ones_like(flux))
    np.testing.assert_array_equal(sums.mean_image(), [[2, 2], [4, np.nan]])


def test_depth_of_a_store_is_that_of_its_arrays(tmp_path):
    grid = make_grid((24, 70, 80))
    arrays = make_arrays(grid)
    field = make_field(tmp_path, grid, arrays, block=(16, 70, 80))
    found = measure_depth(CubeStore(field.cube_path), 0.8)
    image = np.nanmean(arrays["flux"][:, 3:].astype(float), axis=0)
    image = np.concatenate([np.full((3, 80), np.nan), image])
    image[:3, 2:] = np.nanmean(arrays["flux"][:, :3, 2:].astype(float), axis=0)
    fwhm = 0.8 / max(grid.step_arcsec)
    edges = tuple(grid.wavelengths[[0, -1]] / 10)
    assert found.limit == pytest.approx(limiting_magnitude(image, fwhm, edges), abs=1e-6)
    assert found.local.median == pytest.approx(local_limits(image, fwhm, edges).median, abs=1e-6)
    assert 0.5 < found.pixel_sigma**2 < 2 and found.fwhm_pixels == fwhm


def test_memory_does_not_grow_with_the_number_of_planes(tmp_path):
    def peak(planes):
        grid = make_grid((planes, 60, 60))
        (tmp_path / str(planes)).mkdir()
        store = CubeStore(
            make_field(tmp_path / str(planes), grid, make_arrays(grid), block=(64, 60, 60)).cube_path
        )
        measure_depth(store, 0.8)
        tracemalloc.start()
        measure_depth(store, 0.8)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(192) < 1.2 * peak(64)
