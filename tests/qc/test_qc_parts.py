"""The parts of the assessment by themselves, on made-up numbers."""

import datetime
import types
from dataclasses import replace

import numpy as np
import pytest
from deep_images import deep_of

from musedeep.errors import InputError
from musedeep.kernels.survey import count_rows, survey_rows
from musedeep.muse import pack_origin
from musedeep.qc.background import _edge_level as edge_level
from musedeep.qc.deep import APERTURES, BANDS, blank_sky, robust_scatter
from musedeep.qc.deep import _aperture_ratios as aperture_ratios
from musedeep.qc.evidence import Evidence, Finding, finding
from musedeep.qc.flags import Bit, access_of, flag_cards, qc_flag
from musedeep.qc.noise import noise_factors
from musedeep.qc.reference import REFERENCE, read_reference, reference_text
from musedeep.qc.rejections import Clump
from musedeep.qc.rejections import _clumps as clumps_of
from musedeep.qc.rejections import _joined as joined
from musedeep.qc.sky import line_planes, line_shifts
from musedeep.qc.spectra import find_sodium_step, find_sodium_zeros, find_telluric, find_wiggles
from musedeep.qc.trails import straight_line


def survey_of(rows, plane, flux, variance, weight, blank, share=1.0):
    """Sums of rows whose coordinates are voxels."""
    n = rows.shape[1]
    out = [np.empty(n, np.float32) for _ in range(4)]
    usable = np.empty(n, np.uint8)
    planes, slices = np.zeros((len(flux), 7)), np.zeros((1152, 4))
    columns, lines = np.zeros((24 * 128, 4)), np.zeros((40, 3))
    light = np.zeros((len(flux), 4))
    origin = pack_origin(30, 2000, 3, 5, 0) * np.ones(n, np.uint32)
    geometry = np.eye(3), np.zeros(2), 2.0, share, np.full(3, 0.6), 0, np.zeros(2, np.int64)
    cube = flux, variance, weight, blank, ~blank, np.array([5000.0, 1.0, 1.0])
    survey_rows(rows, origin, plane, *geometry, *cube, *out, usable, planes, slices, columns, lines, light)
    return out, usable, planes, slices, columns, lines, light


def test_rows_are_held_against_the_cube():
    rng = np.random.default_rng(1)
    n = 40_000
    rows = np.empty((5, n), np.float32)
    rows[0], rows[1] = rng.uniform(-0.4, 9.4, (2, n))
    plane = rng.integers(0, 4, n).astype(float)
    rows[2] = 5001 + 10 * plane
    # values and variances are scaled by 2 and 4
    rows[3], rows[4] = rng.normal(5.0, 3.0, n), 9.0
    cube = np.full((4, 10, 10), 10.0, np.float32)
    blank = np.ones((10, 10), bool)
    blank[:, 5:] = False
    found = survey_of(rows, plane, cube, cube * 0, cube * 0 + 1e9, blank)
    (px, _, value, noise), usable, planes, slices, columns, lines, light = found
    inside = rows[0] < 4.5
    assert usable.all()
    np.testing.assert_allclose(px, rows[0])
    np.testing.assert_allclose(value, 2 * rows[3])
    np.testing.assert_allclose(noise, 36.0)
    total = planes.sum(axis=0)
    assert total[0] + total[5] == pytest.approx(inside.sum(), abs=2)
    assert total[1] / total[0] == pytest.approx(10.0, abs=0.2)
    assert total[2] / total[0] == pytest.approx(0.0, abs=0.2)
    assert total[4] / total[0] == pytest.approx(1.0, abs=0.03)
    assert total[6] / total[0] == pytest.approx(36.0)
    assert slices[2 * 48 + 4, 0] == columns[2 * 128 + 30, 0] == total[0]
    assert (lines[[1, 11, 21, 31], 0] > 0).all()
    assert lines[:, 0].sum() == total[0]
    # what is no sky is sources here
    np.testing.assert_allclose(light[:, 0], np.bincount(plane[~inside].astype(int)), atol=2)
    np.testing.assert_allclose(light[:, 1:] / light[:, :1], [[10.0, 10.0, 36.0]] * 4, rtol=0.05)


def test_a_row_that_is_part_of_the_cube_scatters_less_about_it():
    rng = np.random.default_rng(2)
    n, depth = 60_000, 4
    rows = np.zeros((5, n), np.float32)
    rows[0] = rows[1] = 0.0
    rows[2] = 5001
    noise = rng.normal(0, 1, (n, depth))
    rows[3], rows[4] = noise[:, 0] / 2, 0.25
    square = 0.0
    for r in range(0, n, n // 50):
        flux = np.full((1, 1, 1), noise[r].mean(), np.float32)
        part = np.ascontiguousarray(rows[:, r : r + 1])
        variance = np.full((1, 1, 1), 1 / depth, np.float32)
        weight = np.full((1, 1, 1), depth, np.float32)
        blank = np.ones((1, 1), bool)
        planes = survey_of(part, np.zeros(1), flux, variance, weight, blank)[2]
        expected = 1 * (1 - 2 / depth) + 1 / depth
        assert planes[0, 6] == pytest.approx(expected, rel=1e-5)
        square += planes[0, 4]
    assert 20 < square < 90


def test_an_ifu_of_its_own_level_whose_sky_lies_at_the_ends_of_slices_makes_no_edge():
    columns = np.zeros((24, 128, 4))
    columns[:8, 20:95, 0] = 400
    columns[3, 26:89, 0] = 60  # sources in the middle
    columns[3, :, 2] = 8 * columns[3, :, 0]
    columns[..., 3] = 4 * columns[..., 0]
    off, error = edge_level(columns.copy())
    assert abs(off) < 1e-9
    columns[:, [20, 21, 22, 92, 93, 94], 2] += 3 * columns[:, [20, 21, 22, 92, 93, 94], 0]
    off, error = edge_level(columns)
    assert off == pytest.approx(3.0)
    assert error == pytest.approx(2 / np.sqrt(8 * 6 * 400), rel=0.2)
    assert np.isnan(edge_level(columns * 0)[0])


def test_chosen_rows_are_counted_by_spaxel():
    rows = np.array([[0.2, 0.2, 3.1, 50.0], [1.0, 1.4, 2.0, 1.0]] + [[0] * 4] * 3, np.float32)
    counts = np.zeros((4, 5), np.int32)
    count_rows(rows, np.eye(3), np.zeros(2), np.zeros(2, np.int64), np.array([1, 1, 1, 1], bool), counts)
    assert counts[1, 0] == 2
    assert counts[2, 3] == 1
    assert counts.sum() == 3


def test_blank_sky_has_no_sources():
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:90, :100]
    image = rng.normal(3, 1, (90, 100)).astype(np.float32)
    places = [(20, 30), (60, 70), (75, 15)]
    for j, i in places:
        image += 80 * np.exp(-0.5 * ((x - i) ** 2 + (y - j) ** 2) / 4)
    image[:5] = np.nan
    blank, distance = blank_sky(image, np.ones_like(image), np.where(np.isfinite(image), 5, 0))
    assert distance == 8
    assert not blank[:5].any()
    for j, i in places:
        assert not blank[np.hypot(x - i, y - j) < 6].any()
    assert 0.6 < blank.mean() < 0.95
    # where light is everywhere, the darkest part serves
    places = [(i, j) for i in range(0, 100, 6) for j in range(0, 90, 6)]
    crowd = sum(50 * np.exp(-0.5 * ((x - i) ** 2 + (y - j) ** 2) / 1.5) for i, j in places)
    crowd = (crowd + rng.normal(0, 1, crowd.shape)).astype(np.float32)
    blank, distance = blank_sky(crowd, np.ones_like(crowd), np.full(crowd.shape, 5))
    assert 0.04 < blank.mean() < 0.7
    assert crowd[blank].mean() < 0.7 * crowd.mean()
    assert distance < 4


def test_noise_of_apertures_is_that_of_the_voxels_if_they_are_independent():
    rng = np.random.default_rng(4)
    white = rng.normal(0, 2, (150, 160)).astype(np.float32)
    good = np.ones(white.shape, bool)
    ratios = np.array(aperture_ratios(white, np.full(white.shape, 4.0, np.float32), good))
    np.testing.assert_allclose(ratios[:5], 1.0, atol=0.06)
    smooth = (white + np.roll(white, 1, axis=1)) / 2
    ratios = np.array(aperture_ratios(smooth, np.full(white.shape, 2.0, np.float32), good))
    assert ratios[0] == pytest.approx(1.0, abs=0.04)
    assert ratios[5] == pytest.approx(np.sqrt(2), abs=0.15)


def evidence_of(deep, modes=("WFM-NOAO-N",), **thresholds):
    exposures = {f"day {n}": types.SimpleNamespace(mode=mode) for n, mode in enumerate(modes)}
    return Evidence(None, deep, [], exposures, {}, read_reference() | thresholds)


def test_planes_of_sky_lines_are_told_by_their_noise():
    wavelength = np.arange(6250.0, 6350.0, 1.25)
    noise = 3 + 20 * np.exp(-0.5 * ((wavelength - 6300.3) / 1.2) ** 2)
    lines, clean = line_planes(deep_of(wavelength, noise=noise))
    assert lines[np.abs(wavelength - 6300.3) < 2].all()
    assert not lines[np.abs(wavelength - 6300.3) > 6].any()
    assert clean[np.abs(wavelength - 6300.3) > 6].all()


def test_sky_lines_are_measured_in_the_variances():
    step, first = 0.3125, 6280.0
    wavelength = first + step * (np.arange(128) + 0.5)
    level = 200 + 900 * np.exp(-0.5 * ((wavelength - 6300.304 - 0.17) / 1.1) ** 2)
    lines = np.column_stack([np.full(128, 50.0), 50 * level, np.zeros(128)])
    found = line_shifts(types.SimpleNamespace(lines=lines, line_wavelengths=wavelength))
    assert found.wavelength == pytest.approx([6300.304])
    assert found.median == pytest.approx(0.17, abs=0.005)
    lines[:, 1] = 50 * 200
    assert np.isnan(line_shifts(types.SimpleNamespace(lines=lines, line_wavelengths=wavelength)).median)


def test_a_step_at_the_sodium_gap_is_found_only_in_mixtures():
    wavelength = np.arange(5750.0, 5860.0, 1.25)
    spectra = np.tile(1000.0, (len(wavelength), 3))
    spectra[wavelength > 5805] *= 0.94
    deep = deep_of(wavelength, spectra)
    mixed = find_sodium_step(evidence_of(deep, ("WFM-NOAO-N", "WFM-AO-N")))
    assert mixed.value == pytest.approx(-0.06, abs=0.005)
    assert mixed.alarm
    assert mixed.exposures == ("day 1",)
    assert not find_sodium_step(evidence_of(deep, ("WFM-NOAO-N",))).measured
    spectra[:] = 1000.0
    assert not find_sodium_step(evidence_of(deep_of(wavelength, spectra), ("WFM-NOAO-N", "WFM-AO-N"))).alarm


def test_zeros_in_the_sodium_gap_are_an_error():
    wavelength = np.arange(5780.0, 5990.0, 1.25)
    inside = (wavelength > 5805) & (wavelength < 5966)
    empty = np.where(inside, np.nan, 1.0)
    fine = find_sodium_zeros(evidence_of(deep_of(wavelength, level=empty, scatter=empty), ("WFM-AO-N",)))
    assert fine.measured
    assert not fine.alarm
    zeros = np.where(inside, 0.0, 1.0)
    wrong = find_sodium_zeros(evidence_of(deep_of(wavelength, level=zeros, scatter=zeros), ("WFM-AO-N",)))
    assert wrong.alarm
    assert wrong.value == inside.sum()


def test_telluric_lines_and_wiggles_are_found_in_bright_spectra():
    rng = np.random.default_rng(5)
    wavelength = np.arange(7500.0, 7800.0, 1.25)
    spectra = rng.normal(1000, 1, (len(wavelength), 4))
    assert find_telluric(evidence_of(deep_of(wavelength, spectra))).value == pytest.approx(1.0, abs=0.35)
    band = (wavelength > 7590) & (wavelength < 7720)
    spectra[band] *= 1 + 0.02 * np.sin(wavelength[band])[:, None]
    assert find_telluric(evidence_of(deep_of(wavelength, spectra))).alarm
    blue = np.arange(4650.0, 5700.0, 1.25)
    spectra = rng.normal(1000, 5, (len(blue), 4)) * (1 + 0.02 * np.sin(2 * np.pi * blue / 130))[:, None]
    found = find_wiggles(evidence_of(deep_of(blue, spectra), ("WFM-AO-E",)))
    assert found.alarm
    assert found.value == pytest.approx(0.02, abs=0.004)
    alone = spectra.copy()
    alone[:, 1:] = rng.normal(1000, 5, (len(blue), 3))
    assert not find_wiggles(evidence_of(deep_of(blue, alone), ("WFM-AO-E",))).alarm
    assert not find_wiggles(evidence_of(deep_of(blue, spectra), ("WFM-NOAO-E",))).measured


def test_a_line_is_found_where_it_runs():
    rng = np.random.default_rng(6)
    image = rng.normal(0, 1, (100, 120))
    inside = np.ones(image.shape, bool)
    assert straight_line(image, inside).sigma < 7
    y, x = np.mgrid[:100, :120]
    angle = np.radians(40.0)
    distance = x * np.cos(angle) + y * np.sin(angle) - 70
    found = straight_line(image + 2 * np.exp(-0.5 * (distance / 2) ** 2), inside)
    assert found.sigma > 20
    assert found.angle_deg == pytest.approx(40, abs=2)
    assert found.distance == pytest.approx(70, abs=3)
    # a bright spot is no line
    assert straight_line(image + 50 * (np.hypot(x - 60, y - 50) < 6), inside).sigma < 12


def test_clumps_are_wide_both_ways():
    planes, y, x = np.mgrid[2:10, 20:25, 30:35].reshape(3, -1)
    bounds, shape = ((100, 116), (0, 40), (0, 50)), (16, 40, 50)
    found = clumps_of("day", np.stack([planes, y, x]), np.full(len(y), 7.0), bounds, shape)
    assert found
    assert found[0].spaxels == 25
    assert found[0].y == pytest.approx(22)
    thin = np.stack(np.mgrid[2:10, 20:21, 30:45].reshape(3, -1))
    assert clumps_of("day", thin, np.full(thin.shape[1], 7.0), bounds, shape) == []
    faint = clumps_of("day", np.stack([planes, y, x]), np.full(len(y), -7.0), bounds, shape)
    assert faint == []


def test_clumps_at_one_place_are_joined_along_wavelength():
    one = Clump("a", 104.0, 20.0, 30.0, (100, 107), 9, 1.0, 1.0, 10.0)
    parts = [
        one,
        replace(one, planes=(108, 115)),
        replace(one, planes=(108, 115), x=45.0),
        replace(one, date_obs="b"),
    ]
    whole = joined(parts)
    assert len(whole) == 3
    assert (100, 115) in [clump.planes for clump in whole]


def test_factors_are_told_for_every_plane():
    wavelength = np.arange(5000.0, 6000.0, 10.0)
    apertures = np.tile(np.linspace(1.0, 1.5, BANDS)[:, None], (1, len(APERTURES)))
    apertures[:, -1] = np.nan
    factors = noise_factors(deep_of(wavelength, apertures=apertures))
    assert factors.shape == (100, len(APERTURES))
    assert (np.diff(factors[:, 0]) >= 0).all()
    assert factors[0, 0] == 1.0
    assert factors[-1, 0] == 1.5
    assert np.isnan(factors[:, -1]).all()


def test_what_is_not_sure_gives_no_alarm():
    evidence = evidence_of(deep_of(np.arange(10.0) + 5000), misalignment=0.1)
    values = {"a": 0.5, "b": 0.02, "c": 0.3}
    found = finding(
        evidence, "misalignment", values, "{exposures} by {value:.1f}", sure=dict(a=True, b=True, c=False)
    )
    assert found.exposures == ("a",)
    assert found.note == "a by 0.5"
    assert found.without(["a"]).alarm is False
    nothing = finding(evidence, "misalignment", {"a": np.nan}, "")
    assert not nothing.measured
    assert nothing.to_dict()["value"] is None
    assert isinstance(found, Finding)


def test_the_reference_can_be_edited(tmp_path):
    values = read_reference()
    assert set(values) == set(REFERENCE)
    file = tmp_path / "thresholds.toml"
    file.write_text(reference_text(values | {"trail": 20.0}))
    assert read_reference(file) == values | {"trail": 20.0}
    for text, words in (
        ("trial = 1", "unknown reference 'trial'"),
        ("trail = 'x'", "is no number"),
        ("=", "cannot"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=words):
            read_reference(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_reference(tmp_path / "none.toml")


def test_who_may_have_a_product():
    def exposure(day, run):
        return types.SimpleNamespace(date_obs=f"{day}T00:00:00.000", prog_id=run)

    today = datetime.date(2020, 6, 1)
    old, new = exposure("2018-01-01", "A"), exposure("2020-01-01", "A")
    assert access_of([old], 12, today)[0] == "public"
    assert access_of([old, new], 12, today)[0] == "PI of A"
    assert access_of([old, exposure("2020-01-01", "B")], 12, today)[0] == "nobody"
    assert access_of([old, new], 3, today) == ("public", datetime.date(2020, 4, 2))


def test_flags_become_keywords():
    bits = [Bit(n, "x", int(n in (3, 10)), "") for n in range(1, 11)]
    assert qc_flag(bits) == "0010000001"
    cards = flag_cards(bits, ["short", "long " * 30])
    assert cards[0][:2] == ("QCFLAG", "0010000001")
    assert [card[0] for card in cards[1:]] == ["QCCOMM1", "QCCOMM2", "QCCOMM3", "QCCOMM4"]
    assert all(len(card[1]) <= 68 for card in cards)


def test_robust_scatter_ignores_outliers():
    values = np.random.default_rng(7).normal(0, 2, 4000)
    values[:40] = 1e6
    assert robust_scatter(values) == pytest.approx(2, rel=0.1)
    assert robust_scatter(values, lower=True) == pytest.approx(2, rel=0.1)
    assert np.isnan(robust_scatter([np.nan]))
