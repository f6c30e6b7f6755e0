import numpy as np
import pytest

from musedeep.align.joint import common_frame
from musedeep.align.ratios import flux_ratio, image_scales, scaled_by_images
from musedeep.offsets import Offset


@pytest.fixture(scope="module")
def crowd():
    """Images of one crowd of blended stars in four kinds of seeing, with flux scales, no header off."""
    from tests.align.conftest import Sky

    field = Sky(stars=300, size=100, flux=(1e3, 1e5), spread=7.0, seed=3)
    for fwhm, scale in ((0.6, 1.0), (0.8, 1.3), (1.0, 1.0), (1.3, 0.5)):
        field.add(fwhm=fwhm, scale=scale)
    return field


def test_the_ratio_of_fluxes_does_not_depend_on_the_seeing(crowd):
    flux = [image.flux for image in crowd.images]
    for n, scale in ((1, 1.3), (2, 1.0), (3, 0.5)):
        forth, back = flux_ratio(flux[n], flux[0]), flux_ratio(flux[0], flux[n])
        assert forth.value == pytest.approx(scale, rel=0.006)
        assert abs(forth.value / scale - 1) < 3 * forth.error / scale
        # the wrong way round is found out
        assert back.value == pytest.approx(1 / scale, rel=0.006)


def test_cosmic_rays_do_not_count(crowd):
    rng = np.random.default_rng(1)
    struck = crowd.images[2].flux.copy()
    rows, columns = rng.integers(0, 100, (2, 100))
    struck[rows, columns] += rng.exponential(500, 100).astype(np.float32)
    assert flux_ratio(struck, crowd.images[0].flux).value == pytest.approx(1, rel=0.006)


def test_noise_alone_and_a_small_overlap_tell_nothing(crowd, sky):
    empty = sky(stars=0, size=100).add().add()
    assert flux_ratio(*(image.flux for image in empty.images)) is None
    strip = crowd.images[0].flux.copy()
    strip[:, 15:] = np.nan
    assert flux_ratio(strip, crowd.images[1].flux) is None


def test_scales_of_a_crowd_are_told_by_pairs_of_images(crowd):
    offsets, placed = [Offset()] * 4, np.array([True, True, True, True])
    found, errors = image_scales(crowd.images, offsets, placed, common_frame(crowd.images))
    truth = np.log([1.0, 1.3, 1.0, 0.5])
    wrong = found - truth - np.mean(found - truth)
    assert np.abs(wrong).max() < 0.006 and (np.abs(wrong) < 3 * errors).all() and errors.max() < 0.01
    placed[1] = False
    found, errors = image_scales(crowd.images, offsets, placed, common_frame(crowd.images))
    assert np.isnan(found[1]) and np.isnan(errors[1]) and np.isfinite(found[[0, 2, 3]]).all()


def test_scales_of_sources_stay_and_tie_those_of_images(crowd):
    offsets = [Offset(flux_scale=2.0), Offset(flux_scale=7.0), Offset(flux_scale=2.0), Offset(flux_scale=4.0)]
    methods = ["sources", "image", "header", "sources"]
    result, errors = scaled_by_images(crowd.images, offsets, methods, np.array([0.002, 0.5, np.nan, 0.002]))
    assert [result[n].flux_scale for n in (0, 2, 3)] == [2.0, 2.0, 4.0]
    assert result[1].flux_scale == pytest.approx(2 / 1.3, rel=0.006)
    assert errors[[0, 3]].tolist() == [0.002, 0.002] and errors[1] < 0.01 and np.isnan(errors[2])
