"""Where gas shines and stars do not: exposures against each other in the light of a line."""

from dataclasses import replace

import numpy as np
import pytest

from musedeep.qc.alignment import find_line_misalignment
from musedeep.qc.assess import gather
from musedeep.qc.diagnose import diagnose
from musedeep.qc.lines import LINE_BINS, line_image, line_strengths, shift_evidence, strongest_line
from musedeep.simulate import Fault, Source


def gas(wavelength):
    """Clouds that are bright in one line and next to invisible beside it."""
    places = ((-3.5, -2.0, 0.6), (2.5, 3.0, 0.4), (3.5, -3.0, 0.7), (-2.0, 3.5, 0.5), (0.5, 0.0, 0.6))
    line = ((wavelength, 6e4, 3.0),)
    return tuple(Source("gaussian", x, y, 20.0, radius_arcsec=r, lines=line) for x, y, r in places)


@pytest.fixture(scope="module")
def evidence(make_combined, tmp_path_factory):
    """Five exposures of gas, the third one 0.5 arcsec off."""
    field = make_combined(
        tmp_path_factory.mktemp("gas"), exposures=5, wavelength=(6400.0, 6440.0), sources=gas(6418.0),
        faults=(Fault("shift", 0.5, 2),),
    )  # fmt: skip
    return gather(field)


def test_the_line_is_found_where_it_is(evidence):
    plane = strongest_line(evidence.deep.line_strength)
    assert abs(evidence.deep.wavelength[plane] - 6418.0) < 2.0


def test_an_exposure_that_lies_off_is_named_in_the_light_of_the_line(evidence):
    found = find_line_misalignment(evidence)
    assert found.alarm and found.exposures == (evidence.dates[2],)
    assert found.value == pytest.approx(0.5, abs=0.03) and "at 641" in found.note
    assert max(value for date, value in found.values.items() if date != evidence.dates[2]) < 0.05
    assert "misalignment_line" in [alarm.name for alarm in diagnose(evidence).alarms]


def test_nothing_is_blurred_where_there_are_no_stars(evidence):
    found = diagnose(evidence)["blur"]
    assert not found.measured and found.note == "too few stars"


def test_without_sources_in_the_deep_image_no_exposure_is_compared(evidence):
    empty = np.empty(0)
    findings = diagnose(replace(evidence, deep=replace(evidence.deep, x=empty, y=empty)))
    assert not findings["misalignment"].measured and not findings["misalignment_line"].measured
    assert findings["misalignment"].note == "no sources in the deep image"


def test_without_a_line_nothing_is_measured(evidence):
    deep = replace(evidence.deep, line_strength=np.ones_like(evidence.deep.line_strength))
    found = find_line_misalignment(replace(evidence, deep=deep))
    assert not found.measured and not found.alarm and found.note == "no line stands out of the noise"


def test_the_image_of_a_line_has_no_continuum_and_no_cosmic_rays():
    rows, columns = np.indices((40, 40))
    cloud = 500 * np.exp(-((rows - 12) ** 2 + (columns - 25) ** 2) / 8.0)
    sums = np.ones((LINE_BINS, 3, 40, 40), np.float32)
    sums[:, 1] += np.linspace(90, 110, LINE_BINS)[:, None, None]
    sums[LINE_BINS // 2, 1] += cloud
    sums[LINE_BINS // 2, 1, 30, 8] += 400
    sums[0, 1, 5, 5] += 400
    sums[:, 0, 39] = 0.1
    image, variance = line_image(sums)
    np.testing.assert_allclose(image[:39], cloud[:39], atol=1e-3)
    np.testing.assert_allclose(variance[:39], 1.5, rtol=1e-6)
    assert np.isnan(image[39]).all() and np.isnan(variance[39]).all()


def test_what_shines_at_one_wavelength_is_a_line():
    rng = np.random.default_rng(4)
    rows, columns = np.indices((40, 40))
    cloud = np.exp(-((rows - 20) ** 2 + (columns - 20) ** 2) / 18.0)
    spectrum = 50 + 6 * np.exp(-0.5 * (np.arange(40.0) - 19) ** 2)
    flux = rng.normal(0, 1, (40, 40, 40)) + spectrum[:, None, None] * cloud
    strengths = line_strengths(flux, np.ones_like(flux), cloud < 1e-3)
    assert strongest_line(strengths) in (18, 19, 20) and np.median(strengths) < 2
    flat = rng.normal(0, 1, (40, 40, 40)) + 50 * cloud
    # rows meet a bright star at other places in every plane
    star = 5000 * (1 + rng.normal(0, 0.01, 40))[:, None, None] * cloud
    assert strongest_line(line_strengths(flat + star, np.ones_like(flat), cloud < 1e-3)) is None
    assert strongest_line(line_strengths(flat, np.ones_like(flat), cloud < 1e-3)) is None
    assert np.isnan(line_strengths(flux[:5], np.ones((5, 40, 40)), cloud < 1e-3)).all()


def clouds(places, shift=0.0):
    """Peaks of 30 at some places, moved along the rows."""
    rows, columns = np.indices((60, 60))
    return sum(30 * np.exp(-((rows - y) ** 2 + (columns - x - shift) ** 2) / 12.0) for y, x in places)


def test_several_sources_must_agree_that_an_exposure_lies_off():
    rng = np.random.default_rng(5)
    places = ((15, 15), (40, 20), (25, 45), (48, 48))
    noise, ones, dark = rng.normal(0, 1, (60, 60)), np.ones((60, 60)), np.zeros((60, 60))
    true, half = clouds(places, 2.0) + noise, clouds(places, 1.0) + noise
    seen, gain, expected, share = shift_evidence(true, ones, dark, clouds(places), (0.0, 2.0))
    assert seen > 50 and gain > 0.6 * expected > 100 and share > 0.9
    _, gain, expected, share = shift_evidence(clouds(places) + noise, ones, dark, clouds(places), (0.0, 2.0))
    assert gain < -0.5 * expected and share < 0.1
    assert 0.4 < shift_evidence(half, ones, dark, clouds(places), (0.0, 2.0))[3] < 0.6
    # a cosmic ray, or a single source, is no proof
    struck = clouds(places) + noise + clouds([(40, 24)]) * 5
    _, gain, _, share = shift_evidence(struck, ones, dark, clouds(places), (0.0, 2.0))
    assert gain < 0 and share < 0.1
    alone = clouds(places[:1], 2.0) + noise
    seen, gain, expected, _ = shift_evidence(alone, ones, dark, clouds(places[:1]), (0.0, 2.0))
    assert seen < 5 and gain < 0.2 * expected
    assert shift_evidence(noise, ones, dark, clouds(places), (0.0, 2.0))[0] < 5
    # nothing to compare with
    assert shift_evidence(noise, ones, dark, np.full((60, 60), np.nan), (0.0, 2.0)) == (0, 0, 0, 0)


def test_more_planes_need_a_stronger_line():
    few, many = np.ones(40), np.ones(4000)
    few[20] = many[20] = 5.5
    assert strongest_line(few) == 20 and strongest_line(many) is None
