"""Where gas shines and stars do not: exposures against each other in the light of a line."""

from dataclasses import replace

import numpy as np
import pytest

from musedeep.qc.alignment import find_line_misalignment
from musedeep.qc.assess import gather
from musedeep.qc.diagnose import diagnose
from musedeep.qc.lines import LINE_BINS, line_image, line_strengths, strongest_line
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
    image = line_image(sums)
    np.testing.assert_allclose(image[:39], cloud[:39], atol=1e-3)
    assert np.isnan(image[39]).all()


def test_what_shines_at_one_wavelength_is_a_line():
    rng = np.random.default_rng(4)
    rows, columns = np.indices((40, 40))
    cloud = np.exp(-((rows - 20) ** 2 + (columns - 20) ** 2) / 18.0)
    spectrum = 50 + 6 * np.exp(-0.5 * (np.arange(40.0) - 19) ** 2)
    flux = rng.normal(0, 1, (40, 40, 40)) + spectrum[:, None, None] * cloud
    strengths = line_strengths(flux, np.ones_like(flux), cloud < 1e-3)
    assert strongest_line(strengths) in (18, 19, 20) and np.median(strengths) < 2
    flat = rng.normal(0, 1, (40, 40, 40)) + 50 * cloud
    assert strongest_line(line_strengths(flat, np.ones_like(flat), cloud < 1e-3)) is None
    assert np.isnan(line_strengths(flux[:5], np.ones((5, 40, 40)), cloud < 1e-3)).all()
