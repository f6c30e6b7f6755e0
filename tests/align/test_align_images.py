import dataclasses
import json
import math

import numpy as np
import pytest
from astropy.io import fits

from musedeep.align.images import exposure_image, read_image, write_image
from musedeep.align.sources import find_sources
from musedeep.errors import InputError
from musedeep.images import Filter
from musedeep.kernels.white import collapse_bins, drizzle_rows
from musedeep.pixtable import group_exposures
from musedeep.settings import AlignSettings
from musedeep.simulate import Source, simulate_exposures
from musedeep.sky import sky_frame


def drizzled(x, y, data, half=6, step=0.2):
    rows = [np.asarray(values, np.float32) for values in (x, y, np.full(len(x), 6500.0), data)]
    sums = np.zeros((1, 3, 2 * half + 1, 2 * half + 1), np.float32)
    usable, dq = np.ones(len(x), np.uint8), np.zeros(len(x), np.uint32)
    bins = np.array([6490.0, 10.0, 6400.0, 200.0, 1.0])
    drizzle_rows(*rows, np.ones_like(rows[0]), dq, usable, np.ones(3), bins, half, step, sums)
    return sums[0]


@pytest.mark.parametrize("phase", [0.0, 0.03, 0.09, 0.13])
def test_a_drop_of_one_spaxel_keeps_positions_whatever_the_phase(phase):
    # a plane that rises along x: each spaxel must read the height of its own middle
    x, y = (values.ravel() + phase for values in np.meshgrid(np.arange(-8, 9) * 0.2, np.arange(-8, 9) * 0.2))
    middle = np.s_[2:-2, 2:-2]
    weight, flux = (values[middle] for values in drizzled(x, y, 10 * x)[:2])
    expected = np.broadcast_to(-10 * 0.2 * (np.arange(13) - 6), (13, 13))
    np.testing.assert_allclose(flux / weight, expected[middle], atol=1e-4)


def test_weights_share_a_row_among_four_spaxels():
    weight, flux, variance = drizzled([-0.05], [0.15], [8.0])
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(flux.sum(), 8, rtol=1e-6)
    np.testing.assert_allclose(weight[6:8, 6:8], [[0.1875, 0.0625], [0.5625, 0.1875]], atol=1e-5)
    np.testing.assert_allclose(variance, weight**2, atol=1e-6)


def test_bins_that_a_cosmic_ray_struck_take_the_value_of_their_neighbours():
    sums = np.ones((24, 3, 1, 2), np.float32)
    sums[:, 1] = np.linspace(10, 12, 24)[:, None, None]
    clean = sums.copy()
    sums[7, 1, 0, 0] = 500.0
    flux, variance = np.empty((1, 2), np.float32), np.empty((1, 2), np.float32)
    assert collapse_bins(sums, 6.0, 3, flux, variance) == 1
    np.testing.assert_allclose(flux, 11.0, atol=0.01)
    np.testing.assert_allclose(variance, 1 / 24, rtol=1e-5)
    assert collapse_bins(sums, 0.0, 3, flux, variance) == 0
    assert flux[0, 0] > 30
    assert collapse_bins(clean, 6.0, 3, flux, variance) == 0


def test_an_empty_spaxel_is_nan():
    flux, variance = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)
    collapse_bins(np.zeros((24, 3, 1, 1), np.float32), 6.0, 3, flux, variance)
    assert np.isnan(flux).all() and np.isnan(variance).all()


@pytest.fixture(scope="module")
def exposures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("white")
    star = Source("star", 0.7, -0.4, 2e4)
    simulate_exposures(
        folder,
        exposures=2,
        field_arcsec=7.0,
        wavelength=(5700.0, 6100.0),
        mode=("WFM-NOAO-N", "WFM-AO-N"),
        sources=(star,),
        dither_arcsec=0.0,
        position_angles=(0.0, 45.0),
        cosmic_ray_rate=0.002,
        seed=7,
    )
    return folder


def place_of_star(image):
    return np.linalg.solve(image.to_sky, [math.radians(0.7 / 3600), math.radians(-0.4 / 3600), 1])[:2]


def distance_from_star(image):
    """Arcsec between the middle of the light and the place where the star is."""
    x, y = place_of_star(image)
    rows, columns = np.mgrid[: image.flux.shape[0], : image.flux.shape[1]]
    light = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 16) * image.flux
    off = (
        np.nansum(light * (place - start)) / np.nansum(light) for place, start in ((columns, x), (rows, y))
    )
    return math.hypot(*off) * 0.2


@pytest.mark.parametrize("n", [0, 1])
def test_an_image_of_a_pixel_table_has_the_star_in_its_place(exposures, n):
    exposure = group_exposures([str(exposures / "PIXTABLE*.fits")])[n]
    image = exposure_image(exposure)
    assert image.date_obs == exposure.date_obs and image.filter_name == "white"
    assert distance_from_star(image) < 0.005


def test_cosmic_rays_and_the_sodium_gap_leave_no_trace(exposures):
    truth = json.loads((exposures / "truth.json").read_text())
    assert truth["exposures"][1]["mode"] == "WFM-AO-N"
    exposure = group_exposures([str(exposures / "PIXTABLE*.fits")])[1]
    image, raw = exposure_image(exposure), exposure_image(exposure, clip=0.0)
    rows, columns = np.mgrid[: image.flux.shape[0], : image.flux.shape[1]]
    x, y = place_of_star(image)
    away = np.hypot(columns - x, rows - y) > 12
    struck, clipped = (
        np.nanstd(np.where(away, values.flux / np.sqrt(values.variance), np.nan)) for values in (raw, image)
    )
    assert clipped < 2 and struck > 4
    gap = Filter("gap", np.array([5810.0, 5960.0]), np.array([1.0, 1.0]))
    assert not np.isfinite(exposure_image(exposure, gap).flux).any()


def test_a_row_with_a_known_place_counts_in_one_spaxel():
    rows = [np.array(values, np.float32) for values in ([-0.05, 0.03], [0.15, 0.21], [6500, 6500], [8, 2])]
    sums, places = np.zeros((1, 3, 13, 13), np.float32), np.zeros((5, 13, 13), np.float32)
    bins, good = np.array([6490.0, 10.0, 6400.0, 200.0, 1.0]), np.ones(2, np.uint8)
    drizzle_rows(*rows, rows[0] ** 0, np.zeros(2, np.uint32), good, np.ones(3), bins, 6, 0.2, sums, places)
    assert sums[0, :, 7, 6].tolist() == [2.0, 10.0, 2.0] and sums.sum() == 14.0
    x, y = np.array([0.25, -0.15]), np.array([-0.25, 0.05])
    told = [x.sum(), y.sum(), x @ x, x @ y, y @ y]
    np.testing.assert_allclose(places[:, 7, 6], told, atol=1e-5)
    assert np.count_nonzero(places) == 5


def test_stars_of_a_narrow_band_lie_better_in_its_samples(tmp_path):
    # rows at one phase of the spaxels skew what is drizzled: all that is wrong without noise
    stars = tuple(Source("star", x, y + 0.1 * x, 1e5) for x in (-3.6, 0.0, 3.7) for y in (-3.5, 0.1, 3.6))
    simulate_exposures(
        tmp_path, exposures=2, field_arcsec=12.0, wavelength=(6500.0, 6520.0), sources=stars, seed=3,
        noise="none", cosmic_ray_rate=0.0, fov_images=False, seeing_fwhm=1.0, pointing_error_arcsec=0.0,
    )  # fmt: skip
    apart = []
    for own in (True, False):
        places = []
        for exposure in group_exposures([str(tmp_path / "PIXTABLE*.fits")]):
            image = exposure_image(exposure)
            found = find_sources(image if own else dataclasses.replace(image, samples=None), AlignSettings())
            x, y, w = (
                sky_frame(150.1, 2.2).T
                @ sky_frame(image.ra_deg, image.dec_deg)
                @ image.to_sky
                @ (np.stack([found.x, found.y, np.ones(len(found))]))
            )
            places.append(np.column_stack([x / w, y / w]) * math.degrees(3.6e6))
        first, second = places
        away = np.hypot(*(first[:, None] - second).transpose(2, 0, 1)).min(axis=1)
        assert len(away) >= 6
        apart.append(np.sqrt(np.mean(away**2)))
    assert apart[0] < 1.5 and apart[0] < 0.5 * apart[1]


def test_a_wide_band_has_no_samples(exposures):
    exposure = group_exposures([str(exposures / "PIXTABLE*.fits")])[0]
    assert exposure_image(exposure).samples is None
    narrow = Filter("narrow", np.array([6000.0, 6080.0]), np.array([1.0, 1.0]))
    samples = exposure_image(exposure, narrow).samples
    good = np.isfinite(samples.flux)
    off = samples.places[:2] - np.indices(good.shape)[::-1]
    assert good.any() and np.abs(off[:, good]).max() <= 0.501
    xx, xy, yy = samples.places[2:, good]
    assert min(xx.min(), yy.min()) > -1e-6 and 0.01 < max(xx.max(), yy.max()) <= 0.2501
    assert (np.abs(xy) <= np.sqrt(np.maximum(xx * yy, 0)) + 1e-4).all()


def test_a_filter_without_rows_is_refused(exposures):
    exposure = group_exposures([str(exposures / "PIXTABLE*.fits")])[0]
    with pytest.raises(InputError, match="no row lies within the filter 'red'"):
        exposure_image(exposure, Filter("red", np.array([8000.0, 8100.0]), np.array([1.0, 1.0])))


def test_an_image_is_the_same_after_writing_and_reading(exposures, tmp_path):
    image = exposure_image(group_exposures([str(exposures / "PIXTABLE*.fits")])[1])
    again = read_image(write_image(image, tmp_path / "IMAGE_FOV_0001.fits"))
    np.testing.assert_array_equal(again.flux, image.flux)
    np.testing.assert_array_equal(again.variance, image.variance)
    np.testing.assert_allclose(again.to_sky, image.to_sky, atol=1e-15)
    assert (again.date_obs, again.exptime) == (image.date_obs, image.exptime)


def test_images_of_the_simulation_are_read(exposures):
    image = read_image(exposures / "IMAGE_FOV_0001.fits")
    assert distance_from_star(image) < 0.02


def test_an_image_after_a_cube_is_read(tmp_path, sky):
    path = sky(stars=3).add().write(tmp_path)[0]
    with fits.open(path) as hdus:
        cube = fits.ImageHDU(np.zeros((2, 3, 3), np.float32), name="DATA")
        hdus[1].header["EXTNAME"] = "white"
        fits.HDUList([hdus[0], cube, hdus[1]]).writeto(tmp_path / "cube.fits")
    assert read_image(tmp_path / "cube.fits").flux.shape == (150, 150)


def test_images_that_cannot_be_used_are_refused(tmp_path, sky, add_cards):
    path = sky(stars=3).add().write(tmp_path)[0]
    add_cards(path, 1, CTYPE1="LINEAR")
    with pytest.raises(InputError, match="CTYPE1 and CTYPE2 are 'LINEAR'"):
        read_image(path)
    add_cards(path, 1, CTYPE1="RA---TAN", CRVAL1=150.1)
    with fits.open(path, mode="update") as hdus:
        hdus[1].header["CD1_1"] = 0.0
    with pytest.raises(InputError, match="singular"):
        read_image(path)
    add_cards(path, 0, remove=["DATE-OBS"])
    with pytest.raises(InputError, match="DATE-OBS"):
        read_image(path)
    (tmp_path / "text.fits").write_text("no FITS")
    with pytest.raises(InputError, match="cannot be read as FITS"):
        read_image(tmp_path / "text.fits")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    with pytest.raises(InputError, match="holds no image"):
        read_image(tmp_path / "empty.fits")
