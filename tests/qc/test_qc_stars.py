"""What the stars of made-up images say: blur, flux scale, and their light by wavelength."""

import types

import numpy as np
import pytest
from deep_images import deep_of

from musedeep.align.sources import find_sources
from musedeep.qc.alignment import _borne_out as borne_out
from musedeep.qc.blur import find_blur
from musedeep.qc.deep import white_image
from musedeep.qc.evidence import Evidence
from musedeep.qc.light import find_flux_colour, find_telluric_exposures, light_ratios
from musedeep.qc.photometry import find_flux_scale
from musedeep.qc.reference import read_reference
from musedeep.settings import AlignSettings

SIZE = 70
STEP = 0.2
STARS = ((15.3, 18.1), (51.7, 14.2), (22.4, 50.6), (54.9, 47.8))
GRID = types.SimpleNamespace(
    cd=((-STEP / 3600, 0.0), (0.0, STEP / 3600)), step_arcsec=(STEP, STEP), crpix=(1.0, 1.0),
    crval=(10.0, -30.0),
)  # fmt: skip


def stars(shift=0.0, fwhm=3.5, flux=1.0):
    """Stars of an exposure that lies so many spaxels off along x."""
    rows, columns = np.indices((SIZE, SIZE))
    sigma = fwhm / 2.355
    peak = 4e4 * flux / sigma**2
    return sum(
        peak * (n + 1) * np.exp(-((columns - x - shift) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
        for n, (x, y) in enumerate(STARS)
    )


def seen(images, deep=None, light=()):
    """Evidence of exposures with some images, of which the deep one is the mean unless it is given."""
    rng = np.random.default_rng(3)
    images = [(image + rng.normal(0, 5, image.shape)).astype(np.float32) for image in images]
    variance = np.full((SIZE, SIZE), 25.0, np.float32)
    white = np.mean(images, axis=0).astype(np.float32) if deep is None else deep
    surveys = []
    for n, image in enumerate(images):
        sources = find_sources(white_image(GRID, image, variance), AlignSettings())
        survey = types.SimpleNamespace(
            date_obs=f"day {n}", corner=np.zeros(2, int), white=image, white_variance=variance,
            sources=sources, planes=np.zeros((1, 7)),
        )  # fmt: skip
        surveys.append(survey)
    changes = {"white": white, "white_variance": variance / len(images), "blank": stars(fwhm=10.0) < 1.0}
    deep = deep_of(np.arange(10.0) + 6600, **changes)
    seconds = {survey.date_obs: 1500.0 for survey in surveys}
    return Evidence(GRID, deep, surveys, {}, seconds, read_reference())


def test_seeing_that_varies_is_no_blur_and_exposures_out_of_place_are():
    fine = find_blur(seen([stars(fwhm=fwhm) for fwhm in (3.0, 3.3, 4.0, 5.5)]))
    assert fine.value == pytest.approx(1.0, abs=0.01) and not fine.alarm
    # half of them lie off: two peaks, each of half the height, and no star that is wider
    apart = find_blur(seen([stars(shift) for shift in (0.0, 4.0, 0.0, 4.0)]))
    assert apart.alarm and apart.value == pytest.approx(1.34, abs=0.03)


def test_what_is_left_of_cosmic_rays_is_no_star():
    images = []
    for n in range(4):
        image = np.zeros((SIZE, SIZE))
        for x, y in STARS:
            image[int(y) + 3 * n : int(y) + 3 * n + 2, int(x) : int(x) + 2] = 3e3
        images.append(image)
    found = find_blur(seen(images, deep=np.zeros((SIZE, SIZE), np.float32)))
    assert not found.measured and found.note == "too few stars"


def test_an_exposure_lies_off_only_if_its_image_bears_that_out():
    evidence = seen([stars(), stars(3.0), stars(), stars()])
    west = np.array([-3.0 * STEP, 0.0])
    assert borne_out(evidence, 1, west)
    assert not borne_out(evidence, 1, -west) and not borne_out(evidence, 2, west)
    # where nothing shines, nothing is
    dark = np.zeros((SIZE, SIZE))
    assert not borne_out(seen([dark] * 4, deep=dark), 1, west)


def test_an_exposure_out_of_place_is_no_fainter():
    images = [stars(), stars(), stars(), stars(6.0), stars(flux=2.5)]
    evidence = seen(images)
    blind = find_flux_scale(evidence)
    assert "day 3" in blind.exposures
    told = find_flux_scale(evidence, {"day 3": np.array([-6.0 * STEP, 0.0])})
    assert told.exposures == ("day 4",)
    assert blind.values["day 3"] < -0.5 and abs(told.values["day 3"]) < 0.1


def followed(factors, wavelength):
    """Evidence of the light of sources, so much brighter or fainter in each exposure by wavelength."""
    rng = np.random.default_rng(4)
    surveys = []
    cube = np.full(len(wavelength), 1e5)
    for n, factor in enumerate(factors):
        value = cube * factor + rng.normal(0, 300, len(cube)) + 40 * 7.0
        light = np.stack([np.full(len(cube), 40.0), value, cube, np.full(len(cube), 9e4)], axis=1)
        planes = np.zeros((len(cube), 7))
        planes[:, 0], planes[:, 2] = 1000, 7000.0  # the sky lies 7 above that of the others
        surveys.append(types.SimpleNamespace(date_obs=f"day {n}", light=light, planes=planes))
    return Evidence(None, deep_of(wavelength), surveys, {}, {}, read_reference())


def test_an_exposure_whose_fluxes_are_off_in_a_part_of_the_spectrum_is_named():
    wavelength = np.arange(5000.0, 9000.0, 20.0)
    factors = [1.0 + 0 * wavelength, 1.4 + 0 * wavelength, np.where(wavelength > 8000, 1.5, 1.0), 0.9, 1.0]
    evidence = followed(factors, wavelength)
    found = find_flux_colour(evidence)
    assert found.exposures == ("day 2",) and found.value == pytest.approx(np.log10(1.5), abs=0.01)
    ratios, errors = light_ratios(evidence, 6)
    np.testing.assert_allclose(ratios[1], 1.4, atol=0.005)
    assert errors[1] == pytest.approx(np.full(6, 300 / 1e5 / np.sqrt(len(wavelength) / 6)), rel=0.05)
    # two exposures do not tell which of them is off
    assert not find_flux_colour(followed(factors[1:3], wavelength)).measured


def test_an_exposure_with_telluric_lines_of_its_own_is_named():
    wavelength = np.arange(7500.0, 7800.0, 1.25)
    inside = (wavelength > 7590) & (wavelength < 7720)
    lines = np.where(inside, 1 + 0.05 * np.cos(wavelength), 1.0)
    clean = find_telluric_exposures(followed([1.0, 1.0, 1.1, 0.9, 1.0], wavelength))
    assert clean.value < 2 and not clean.alarm
    one = find_telluric_exposures(followed([1.0, lines, 1.1, 0.9, 1.0], wavelength))
    assert one.exposures == ("day 1",) and one.value > 5
    # what all have in common shows in the deep cube
    assert not find_telluric_exposures(followed([lines] * 5, wavelength)).alarm
    assert not find_telluric_exposures(followed([1.0, lines, 1.1], wavelength)).measured
