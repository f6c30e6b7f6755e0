"""Simulated exposures: every row is where, and what, the truth says."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from fields import read_table

from musedeep import muse
from musedeep.errors import InputError, UsageError, WorkError
from musedeep.muse import COLUMNS, DQ_BITS
from musedeep.offsets import OffsetTable
from musedeep.pixtable import group_exposures
from musedeep.simulate import (
    Fault,
    SimulationSettings,
    Source,
    Trail,
    simulate_exposures,
    truth_cube,
    truth_rows,
)

CLEAN = {"cosmic_ray_rate": 0.0, "defects": 0.0}
SMALL = {"exposures": 1, "field_arcsec": 8.0, "wavelength": (6500.0, 6530.0)}


def load(directory, **settings):
    """Simulate, and give the exposures, their columns and the truth."""
    exposures = group_exposures(simulate_exposures(directory, **settings))
    columns = [
        {name: np.concatenate([table.read(name) for table in exposure.tables]) for name in COLUMNS}
        for exposure in exposures
    ]
    return exposures, columns, json.loads((directory / "truth.json").read_text())


def sky_positions(columns, ra_deg, dec_deg):
    """RA and Dec of rows (degrees) by the rule of muse_exp_combine, in float64."""
    phi, theta = columns["xpos"].astype(float), columns["ypos"].astype(float) + np.pi / 2
    dp = np.radians(dec_deg)
    ra = np.arctan2(
        np.cos(theta) * np.sin(phi), np.sin(theta) * np.cos(dp) + np.cos(theta) * np.sin(dp) * np.cos(phi)
    )
    dec = np.arcsin(np.sin(theta) * np.sin(dp) - np.cos(theta) * np.cos(dp) * np.cos(phi))
    return ra_deg + np.degrees(ra), np.degrees(dec)


def separation_arcsec(ra, dec, ra0, dec0):
    ra, dec, ra0, dec0 = map(np.radians, (ra, dec, ra0, dec0))
    hav = np.sin((dec - dec0) / 2) ** 2 + np.cos(dec) * np.cos(dec0) * np.sin((ra - ra0) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(hav))) * 3600


def moffat(radius, fwhm, beta=2.8):
    scale = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    return 0.04 * (beta - 1) / (np.pi * scale**2) * (1 + (radius / scale) ** 2) ** -beta


@pytest.mark.parametrize(
    ("ra", "dec"), [(150.1, 2.2), (0.0002, -30.0), (359.9999, 5.0), (200.0, -85.0), (10.0, 89.99)]
)
def test_rows_hold_the_flux_of_their_place_on_the_sky(tmp_path, ra, dec):
    star = Source("star", 1.0, -1.5, 1e5, slope=0.1)
    exposures, columns, truth = load(
        tmp_path, **SMALL | CLEAN, ra_deg=ra, dec_deg=dec, sources=[star], noise="none", seeing_fwhm=0.9,
        position_angles=33.0, pointing_error_arcsec=2.0, flux_scale_error=0.25,
    )  # fmt: skip
    offset = OffsetTable.read(tmp_path / "OFFSET_LIST.fits").lookup(exposures[0].date_obs)
    pointing = offset.pointing(exposures[0].ra_deg, exposures[0].dec_deg)
    place = sky_positions(columns[0], *pointing)
    star_truth = truth["sources"][0]
    radius = separation_arcsec(*place, star_truth["ra_deg"], star_truth["dec_deg"])
    wavelength = columns[0]["lambda"]
    fwhm = 0.9 * (wavelength / 7000) ** -0.2
    expected = 1e5 * (1 + 0.1 * (wavelength - 7000) / 1000) * moffat(radius, fwhm)
    assert expected.max() > 2000
    np.testing.assert_allclose(columns[0]["data"] * offset.flux_scale, expected, rtol=2e-3, atol=0.02)
    # without the offsets the star is elsewhere
    wrong = sky_positions(columns[0], exposures[0].ra_deg, exposures[0].dec_deg)
    radius = separation_arcsec(*wrong, star_truth["ra_deg"], star_truth["dec_deg"])
    assert np.abs(1e5 * moffat(radius, 0.9) - expected).max() > 500


def test_turned_exposures_are_turned_back_by_their_rotation(tmp_path):
    star = Source("star", 3.0, 2.0, 1e5)
    exposures, columns, truth = load(
        tmp_path, **SMALL | CLEAN, sources=[star], noise="none", seeing_fwhm=0.9, rotation_error_deg=3.0
    )
    offset = OffsetTable.read(tmp_path / "OFFSET_LIST.fits").lookup(exposures[0].date_obs)
    assert abs(offset.rotation_deg) > 0.3
    xi = np.sin(columns[0]["xpos"]) * np.tan(-columns[0]["ypos"])
    eta = -np.cos(columns[0]["xpos"]) * np.tan(-columns[0]["ypos"])
    vectors = np.stack([xi, eta, np.ones_like(xi)], axis=-1).astype(float)
    vectors = vectors @ offset.frame(exposures[0].ra_deg, exposures[0].dec_deg).T
    brightest = np.average(
        vectors[columns[0]["data"] > 1000], axis=0, weights=columns[0]["data"][columns[0]["data"] > 1000]
    )
    ra, dec = (
        np.degrees(np.arctan2(brightest[1], brightest[0])),
        np.degrees(np.arctan2(brightest[2], np.hypot(*brightest[:2]))),
    )
    star_truth = truth["sources"][0]
    assert separation_arcsec(ra, dec, star_truth["ra_deg"], star_truth["dec_deg"]) < 0.03


def test_truth_cube_is_the_scene_of_the_rows(tmp_path):
    settings = SMALL | CLEAN | {"field_arcsec": 12.0}
    exposures, columns, _ = load(tmp_path, **settings, noise="none", seeing_fwhm=0.8, dither_arcsec=0.0)
    exposure, rows = exposures[0], columns[0]
    ra, dec = sky_positions(rows, exposure.ra_deg, exposure.dec_deg)
    chosen = np.argsort(-rows["data"])[::50][:300]
    expected = [
        truth_cube(tmp_path / "truth.json", rows["lambda"][n], ra[n].reshape(1, 1), dec[n].reshape(1, 1))[
            0, 0, 0
        ]
        for n in chosen
    ]
    np.testing.assert_allclose(rows["data"][chosen], expected, rtol=3e-3, atol=0.05)


def test_truth_cube_is_the_mean_over_the_seeing_of_the_exposures(tmp_path):
    source = Source("star", 0.0, 0.0, 1e4)
    simulate_exposures(
        tmp_path, **SMALL | {"exposures": 2}, sources=[source], seeing_fwhm=(0.6, 1.2), exptime=(600, 300)
    )
    truth = tmp_path / "truth.json"
    place = np.array([[150.1]]), np.array([[2.2]])
    good, bad = (truth_cube(truth, 7000.0, *place, seeing_fwhm=fwhm)[0, 0, 0] for fwhm in (0.6, 1.2))
    assert good == pytest.approx(1e4 * moffat(0, 0.6), rel=1e-5)
    assert bad == pytest.approx(good / 4, rel=1e-5)
    assert truth_cube(truth, 7000.0, *place)[0, 0, 0] == pytest.approx((2 * good + bad) / 3, rel=1e-5)


@pytest.mark.parametrize("kind", ["star", "gaussian", "exponential"])
@pytest.mark.parametrize("psf", ["moffat", "gaussian"])
def test_sources_keep_their_flux(tmp_path, kind, psf):
    source = Source(
        kind, 0, 0, 1e6, radius_arcsec=0.8, axis_ratio=0.5, angle_deg=30, lines=((6515.0, 5e5, 3.0),)
    )
    simulate_exposures(tmp_path, **SMALL, sources=[source], psf=psf, seeing_fwhm=0.8)
    y, x = np.mgrid[-20:20:0.2, -20:20:0.2]
    wavelength = np.arange(6500, 6530, 0.5)
    flux = truth_cube(
        tmp_path / "truth.json",
        wavelength,
        2.2 * 0 + 150.1 - x / 3600 / np.cos(np.radians(2.2)),
        2.2 + y / 3600,
    )
    spectrum = flux.sum(axis=(1, 2), dtype=float)
    assert spectrum[0] == pytest.approx(1e6, rel=0.01)
    assert (spectrum - 1e6).sum() * 0.5 == pytest.approx(5e5, rel=0.02 if psf == "gaussian" else 0.05)


def test_galaxies_have_their_shape(tmp_path):
    source = Source("gaussian", 0, 0, 1e6, radius_arcsec=1.5, axis_ratio=0.4, angle_deg=40)
    simulate_exposures(tmp_path, **SMALL, sources=[source], seeing_fwhm=0.6)
    north, west = np.mgrid[-12:12:0.2, -12:12:0.2]
    flux = truth_cube(
        tmp_path / "truth.json", 7000.0, 150.1 - west / 3600 / np.cos(np.radians(2.2)), 2.2 + north / 3600
    )[0]
    flux = flux / flux.sum(dtype=float)
    east = -west
    moments = [(flux * a * b).sum() for a, b in ((east, east), (east, north), (north, north))]
    angle = np.degrees(0.5 * np.arctan2(2 * moments[1], moments[2] - moments[0]))
    assert angle == pytest.approx(40, abs=0.5)
    blur = (0.6 / 2.35482) ** 2
    major = 0.5 * (moments[0] + moments[2]) + np.hypot(0.5 * (moments[0] - moments[2]), moments[1])
    assert np.sqrt(major - blur) == pytest.approx(1.5 / 1.17741, rel=0.01)


@pytest.mark.parametrize("noise", ["poisson", "gaussian"])
def test_noise_has_the_variance_of_the_rows(tmp_path, noise):
    settings = CLEAN | {"exposures": 1, "field_arcsec": 14.0, "exptime": 600.0, "flux_scale_error": 0.5}
    _, (noisy,), _ = load(tmp_path / "a", **settings, noise=noise)
    _, (clean,), _ = load(tmp_path / "b", **settings, noise="none")
    np.testing.assert_array_equal(noisy["stat"], clean["stat"])
    pull = (noisy["data"] - clean["data"]) / np.sqrt(clean["stat"])
    assert len(pull) > 2e5
    assert pull.mean() == pytest.approx(0, abs=0.01)
    assert pull.std() == pytest.approx(1, abs=0.006)
    # bright and faint rows alike
    order = np.argsort(clean["stat"])
    for part in np.array_split(order, 5):
        assert pull[part].std() == pytest.approx(1, abs=0.015)
    # photons count: brighter rows have more noise
    assert clean["stat"][np.argmax(clean["data"])] > 3 * np.median(clean["stat"])


def test_measured_variance_scatters_about_the_expected(tmp_path):
    _, (expected,), _ = load(tmp_path / "a", **SMALL | CLEAN)
    _, (measured,), _ = load(tmp_path / "b", **SMALL | CLEAN, variance="measured")
    np.testing.assert_array_equal(expected["data"], measured["data"])
    ratio = measured["stat"] / expected["stat"]
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert 0.05 < ratio.std() < 0.3


def test_cosmic_rays_are_where_the_truth_says(tmp_path):
    settings = SMALL | {"field_arcsec": 14.0, "defects": 0.0}
    _, (hit,), _ = load(
        tmp_path / "a", **settings, cosmic_ray_rate=0.01, cosmic_ray_flagged=0.3, noise="none"
    )
    _, (clean,), _ = load(tmp_path / "b", **settings, cosmic_ray_rate=0.0, noise="none")
    truth = truth_rows(tmp_path / "a" / "TRUTH_0001.npz")
    row, sigma, track = (truth[f"cosmic_ray_{name}"] for name in ("row", "sigma", "track"))
    assert len(np.unique(row)) == len(row)
    assert len(row) / len(hit["data"]) == pytest.approx(0.009, abs=0.002)
    added = (hit["data"] - clean["data"]) / np.sqrt(clean["stat"])
    np.testing.assert_allclose(added[row], sigma, rtol=1e-3)
    assert sigma.min() >= 6 and sigma.max() <= 200
    np.testing.assert_array_equal(np.delete(added, row), 0)
    # the flag is on whole tracks, and on nothing else
    flagged = hit["dq"] == DQ_BITS["cosmic_ray"]
    assert set(np.flatnonzero(flagged)) <= set(row)
    share = np.bincount(track, flagged[row]) / np.maximum(np.bincount(track), 1)
    assert set(share) <= {0.0, 1.0}
    assert flagged[row].mean() == pytest.approx(0.3, abs=0.12)
    # a track is a chain of neighbours on the detector
    xoffset = group_exposures(tmp_path / "a" / "PIX*.fits")[0].xoffsets()
    origin = hit["origin"][row]
    x = muse.origin_x(origin, xoffset[muse.origin_ifu(origin), muse.origin_slice(origin)])
    y = muse.origin_y(origin).astype(int)
    lengths = []
    for number in np.unique(track):
        mine = track == number
        lengths.append(mine.sum())
        assert np.ptp(x[mine]) <= 10 and np.ptp(y[mine]) <= 10
        assert len(np.unique(muse.origin_slice(origin[mine]))) == 1
    assert min(lengths) == 1 and max(lengths) == 10


def test_defects_are_flagged_and_the_same_in_every_exposure(tmp_path):
    settings = SMALL | {"exposures": 2, "defects": 0.01, "cosmic_ray_rate": 0.0, "noise": "none"}
    _, columns, _ = load(tmp_path / "a", **settings, dither_arcsec=0.0)
    bits = np.uint32(sum(DQ_BITS[name] for name in ("low_qe", "hot_pixel", "dead_pixel", "other_bad")))
    bad = []
    for rows in columns:
        assert (rows["dq"] & ~bits).max() == 0
        assert (rows["dq"] != 0).mean() == pytest.approx(0.01, abs=0.003)
        bad.append(
            set(rows["origin"][rows["dq"] != 0]) & set(columns[0]["origin"]) & set(columns[1]["origin"])
        )
    assert bad[0] == bad[1]
    _, clean, _ = load(tmp_path / "b", **settings | {"defects": 0.0}, dither_arcsec=0.0)
    changed = columns[0]["data"] != clean[0]["data"]
    assert (columns[0]["dq"][changed] != 0).all()


def test_trails_cross_the_exposure_they_belong_to(tmp_path):
    trail = Trail(1, 20.0, 1.0, 300.0, 0.8)
    settings = SMALL | CLEAN | {"exposures": 2, "noise": "none", "sources": (), "exptime": 900.0}
    exposures, columns, truth = load(tmp_path, **settings, trails=[trail])
    assert truth["exposures"][0]["trails"] == []
    assert truth["exposures"][1]["trails"][0]["angle_deg"] == 20.0
    assert len(truth_rows(tmp_path / "TRUTH_0001.npz")["trail_row"]) == 0
    assert np.abs(columns[0]["data"]).max() == 0
    rows = columns[1]
    radius = np.degrees(-rows["ypos"].astype(float)) * 3600
    x, y = radius * np.sin(rows["xpos"]), -radius * np.cos(rows["xpos"])
    distance = x * np.cos(np.radians(20)) - y * np.sin(np.radians(20)) - 1.0
    expected = 300 * np.exp(-4 * np.log(2) * (distance / 0.8) ** 2)
    np.testing.assert_allclose(rows["data"], expected, atol=0.05)
    found = truth_rows(tmp_path / "TRUTH_0002.npz")
    sigma = rows["data"] / np.sqrt(rows["stat"])
    np.testing.assert_array_equal(found["trail_row"], np.flatnonzero(sigma > 1))
    np.testing.assert_allclose(found["trail_sigma"], sigma[found["trail_row"]], rtol=1e-3)


def test_trails_are_spread_over_the_exposures(tmp_path):
    _, _, truth = load(tmp_path, **SMALL | {"exposures": 4, "field_arcsec": 2.0}, trails=2)
    assert [len(exposure["trails"]) for exposure in truth["exposures"]] == [0, 1, 0, 1]


def test_sodium_gap_of_adaptive_optics(tmp_path):
    settings = {"exposures": 2, "field_arcsec": 3.0, "wavelength": (5790.0, 5980.0)} | CLEAN
    exposures, columns, _ = load(tmp_path, **settings, mode=["WFM-AO-N", "WFM-NOAO-N"])
    assert [exposure.mode for exposure in exposures] == ["WFM-AO-N", "WFM-NOAO-N"]
    gap = (columns[0]["lambda"] > 5805) & (columns[0]["lambda"] < 5966)
    np.testing.assert_array_equal(columns[0]["dq"], np.where(gap, DQ_BITS["nad_gap"], 0))
    assert 0.8 < gap.mean() < 0.9
    assert (columns[1]["dq"] == 0).all()


def test_rows_come_in_the_order_and_at_the_places_of_the_instrument(tmp_path):
    settings = {"exposures": 1, "field_arcsec": 60.0, "wavelength": (6000.0, 6006.0), "dither_arcsec": 0.0}
    exposures, (rows,), _ = load(tmp_path, **settings, **CLEAN, sources=(), fov_images=False)
    origin = rows["origin"]
    ifu, number, y = (
        decode(origin).astype(int) for decode in (muse.origin_ifu, muse.origin_slice, muse.origin_y)
    )
    xoffset = exposures[0].xoffsets()
    assert (xoffset[1:, 1:] >= 0).all()
    x = muse.origin_x(origin, xoffset[ifu, number])
    place = ((ifu * 64 + number) * 8192 + y) * 8192 + x
    assert (np.diff(place) > 0).all()
    assert set(ifu) == set(range(1, 25)) and set(number) == set(range(1, 49))
    # the field is 60 arcsec wide, filled with one row a spaxel and plane
    radius = np.degrees(-rows["ypos"].astype(float)) * 3600
    east, north = radius * np.sin(rows["xpos"]), -radius * np.cos(rows["xpos"])
    for axis in (east, north):
        assert np.percentile(axis, 0.5) == pytest.approx(-30, abs=0.7)
        assert np.percentile(axis, 99.5) == pytest.approx(30, abs=0.7)
    assert len(rows["data"]) == pytest.approx(300 * 300 * 6 / 1.25, rel=0.06)
    cells = np.histogram2d(east, north, bins=[np.arange(-28, 28.1, 0.2)] * 2)[0] / (6 / 1.25)
    assert cells.mean() == pytest.approx(1, abs=0.06)
    assert (cells == 0).mean() < 0.06
    # a slice is a strip: long along x, one spaxel high
    one = (ifu == 12) & (number == 20)
    assert np.ptp(east[one]) == pytest.approx(15.1, abs=0.4)
    assert np.ptp(north[one]) < 0.1
    # wavelengths run up the detector, and are bent along the slice
    line = rows["lambda"][one & (x == np.median(x[one]).astype(int))]
    np.testing.assert_allclose(np.diff(line), 1.25, atol=0.02)
    level = rows["lambda"][one & (y == np.median(y[one]).astype(int))]
    assert 0.3 < np.ptp(level) < 2


def test_full_exposure_has_the_size_of_a_real_one():
    from musedeep.simulate.plan import plan_exposures
    from musedeep.simulate.spectrograph import slice_parts

    settings = SimulationSettings(exposures=1, field_arcsec=60.0, wavelength=None)
    (plan,) = plan_exposures(settings, 150.0, 2.0)
    rows = sum(
        part.row_count for part in slice_parts(12, plan.field_pixels / 2, plan.wavelength, plan.stretch)
    )
    assert 24 * rows == pytest.approx(3.25e8, rel=0.02)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path):
    settings = SMALL | {"exposures": 2, "trails": 1, "pointing_error_arcsec": 1.0}
    names = ["PIXTABLE_REDUCED_0002.fits", "IMAGE_FOV_0001.fits", "TRUTH_0002.npz"]
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate_exposures(tmp_path / folder, **settings, seed=seed)
    for name in names[:1]:
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b
        assert a != c
    images = [fits.getdata(tmp_path / folder / names[1], 1) for folder in "ab"]
    np.testing.assert_array_equal(*images)
    truths = [truth_rows(tmp_path / folder / names[2]) for folder in "ab"]
    for name, values in truths[0].items():
        np.testing.assert_array_equal(values, truths[1][name])


def test_layouts_and_splitting_hold_the_same_rows(tmp_path):
    settings = SMALL | {"trails": 1, "weights": 1.7}
    _, (image,), _ = load(tmp_path / "image", **settings)
    exposures, (table,), _ = load(tmp_path / "table", **settings, layout="table", weight_column=True)
    split, (ifus,), truth = load(tmp_path / "split", **settings, split_ifus=True)
    assert exposures[0].tables[0].layout == "table"
    assert exposures[0].tables[0].read("weight", 0, 3).tolist() == [np.float32(1.7)] * 3
    assert exposures[0].header["ESO DRS MUSE WEIGHT"] == 1.7
    assert len(split) == 1 and len(split[0].tables) == len(truth["exposures"][0]["files"]) > 2
    assert split[0].tables[0].header["EXTNAME"] == f"CHAN{split[0].tables[0].ifu:02d}"
    for name in COLUMNS:
        np.testing.assert_array_equal(image[name], table[name])
        np.testing.assert_array_equal(image[name], ifus[name])
    one, other = (truth_rows(tmp_path / folder / "TRUTH_0001.npz") for folder in ("image", "split"))
    for name in ("cosmic_ray_row", "cosmic_ray_sigma", "trail_row"):
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("layout", ["image", "table"])
def test_shuffled_rows_are_the_same_rows(tmp_path, layout):
    _, (plain,), _ = load(tmp_path / "a", **SMALL, layout=layout)
    _, (mixed,), _ = load(tmp_path / "b", **SMALL, layout=layout, shuffle_rows=True)
    assert (np.diff(mixed["lambda"]) < 0).mean() > 0.4
    order, other = np.argsort(plain["origin"]), np.argsort(mixed["origin"])
    for name in COLUMNS:
        np.testing.assert_array_equal(plain[name][order], mixed[name][other])
    rows = [truth_rows(tmp_path / folder / "TRUTH_0001.npz")["cosmic_ray_row"] for folder in "ab"]
    np.testing.assert_array_equal(plain["origin"][rows[0]], mixed["origin"][rows[1]])


def test_headers_tell_of_blocks_runs_and_conditions(tmp_path):
    exposures, columns, truth = load(
        tmp_path, exposures=10, field_arcsec=1.5, wavelength=(6500, 6510), exposures_per_ob=2, obs_per_run=2,
        exptime=(600.0, 900.0), seeing_fwhm=(0.6, 1.2), fov_images=False,
    )  # fmt: skip
    dates = [exposure.date_obs for exposure in exposures]
    assert dates == sorted(set(dates)) == [entry["date_obs"] for entry in truth["exposures"]]
    assert len({exposure.ob_id for exposure in exposures}) == 5
    assert len({exposure.prog_id for exposure in exposures}) == 3
    assert [exposure.position_angle_deg for exposure in exposures[:5]] == [0, 90, 180, 270, 0]
    assert [exposure.exptime for exposure in exposures[:3]] == [600, 900, 600]
    for exposure, rows, entry in zip(exposures, columns, truth["exposures"], strict=True):
        header = exposure.header
        assert header["ESO PRO CATG"] == "PIXTABLE_REDUCED"
        assert header["ESO PRO ANCESTOR"] == header["ARCFILE"] == f"MUSE.{exposure.date_obs}.fits"
        guide = np.mean([header[f"ESO OCS SGS AG FWHM{axis} AVG"] for axis in "XY"])
        assert guide == pytest.approx(entry["seeing_fwhm"], abs=0.002)
        assert 0.6 <= entry["seeing_fwhm"] <= 1.2
        limits = [header[f"ESO DRS MUSE PIXTABLE LIMITS LAMBDA {end}"] for end in ("LOW", "HIGH")]
        assert limits == [rows["lambda"].min(), rows["lambda"].max()]
        assert header["ESO DRS MUSE PIXTABLE LIMITS X LOW"] == rows["xpos"].min()
        assert header["ESO DRS MUSE PIXTABLE LIMITS Y HIGH"] == rows["ypos"].max()


def test_images_show_the_stars_where_the_header_puts_them(tmp_path):
    sources = [Source("star", east, north, 2e5) for east, north in ((-3, -2), (3, 1), (0, 4))]
    exposures, _, truth = load(
        tmp_path, exposures=2, sources=sources, pointing_error_arcsec=1.5, seeing_fwhm=0.8, seed=5,
        position_angles=(20.0, 110.0), defects=0.0,
    )  # fmt: skip
    for entry in truth["exposures"]:
        with fits.open(tmp_path / entry["fov_image"]) as hdus:
            image, wcs = hdus["DATA"].data, WCS(hdus["DATA"].header)
            assert hdus[0].header["MJD-OBS"] == entry["mjd_obs"]
            assert image.dtype.itemsize == 4
        # a tilted square fills a part of the frame only
        assert 0.3 < np.isfinite(image).mean() < 0.8
        for source in truth["sources"]:
            x, y = wcs.world_to_pixel_values(
                source["ra_deg"] + entry["ra_offset_deg"], source["dec_deg"] + entry["dec_offset_deg"]
            )
            row, column = round(float(y)), round(float(x))
            near = np.s_[row - 4 : row + 5, column - 4 : column + 5]
            rows, columns = np.mgrid[near]
            flux = np.clip(image[near] - np.nanmedian(image), 0, None) ** 2
            assert (flux * columns).sum() / flux.sum() == pytest.approx(float(x), abs=0.1)
            assert (flux * rows).sum() / flux.sum() == pytest.approx(float(y), abs=0.1)
            assert image[near][4, 4] == pytest.approx(2e5 * moffat(0, 0.85), rel=0.25)


def test_mosaic_pointings(tmp_path):
    pointings = [(-20.0, 0.0), (20.0, 10.0)]
    exposures, _, _ = load(
        tmp_path,
        **SMALL | {"exposures": 4, "field_arcsec": 2.0},
        pointings=pointings,
        dither_arcsec=0.5,
        dec_deg=60.0,
    )
    for number, exposure in enumerate(exposures):
        east = (exposure.ra_deg - 150.1) * 3600 * np.cos(np.radians(60))
        north = (exposure.dec_deg - 60) * 3600
        assert (east, north) == pytest.approx(pointings[number % 2], abs=0.51)


def minicube():
    import mpdaf

    return Path(mpdaf.__file__).parent / "data" / "sdetect" / "minicube.fits"


def test_a_real_cube_as_the_scene(tmp_path):
    path = minicube()
    settings = {"exposures": 1, "field_arcsec": 5.0, "wavelength": (6800.0, 6830.0), "dither_arcsec": 0.0}
    exposures, (rows,), truth = load(
        tmp_path, **settings, **CLEAN, noise="none", scene=str(path), position_angles=70.0
    )
    with fits.open(path) as hdus:
        cube, wcs = hdus["DATA"].data, WCS(hdus["DATA"].header)
    ra, dec = sky_positions(rows, exposures[0].ra_deg, exposures[0].dec_deg)
    x, y, z = (
        np.rint(axis).astype(int) for axis in wcs.world_to_pixel_values(ra, dec, rows["lambda"] * 1e-10)
    )
    assert len(rows["data"]) > 10000
    near = cube[z, y, x]
    # the noise of the cube is smoothed away, its sources stay
    assert np.corrcoef(rows["data"], near)[0, 1] > 0.75
    assert rows["data"].mean() == pytest.approx(np.nanmean(near), rel=0.02)
    chosen = slice(1000, None, 6000)
    expected = [
        truth_cube(tmp_path / "truth.json", *values)[0, 0, 0]
        for values in zip(
            rows["lambda"][chosen], ra[chosen].reshape(-1, 1, 1), dec[chosen].reshape(-1, 1, 1), strict=True
        )
    ]
    np.testing.assert_allclose(rows["data"][chosen], expected, rtol=1e-3, atol=0.05)


def test_a_cube_that_does_not_serve_as_scene(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        simulate_exposures(tmp_path, **SMALL, scene=str(tmp_path / "no.fits"))
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(tmp_path / "image.fits")
    with pytest.raises(InputError, match="no extension holds a cube"):
        simulate_exposures(tmp_path, **SMALL, scene=str(tmp_path / "image.fits"))
    with fits.open(minicube()) as hdus:
        fits.PrimaryHDU(hdus["DATA"].data[:50], hdus["DATA"].header).writeto(tmp_path / "cube.fits")
    with pytest.raises(InputError, match=r"covers 4749.9 to 4811.1 Angstrom, 6500.0 to 6530.0 are wanted"):
        simulate_exposures(tmp_path, **SMALL, scene=str(tmp_path / "cube.fits"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"exposure": 3}, "unknown setting 'exposure'; known are exposures"),
        ({"noise": "pink"}, "noise is 'pink'; allowed are poisson, gaussian, none"),
        ({"layout": "csv"}, "layout is 'csv'"),
        ({"mode": "WFM"}, "mode is 'WFM'; allowed are WFM-NOAO-N"),
        ({"exposures": 0}, "exposures is 0; it must be positive"),
        ({"exptime": (900, 0)}, "exptime is .*; it must be positive"),
        ({"cosmic_ray_rate": 1.5}, "cosmic_ray_rate is 1.5; it must lie between 0 and 1"),
        ({"dec_deg": 91.0}, "dec_deg is 91.0"),
        ({"field_arcsec": 61.0}, "field_arcsec is 61; the field of mode WFM-NOAO-N is 60"),
        ({"wavelength": (4000, 4700)}, "mode WFM-NOAO-N has 4750.0 to 9350.0"),
    ],
)
def test_settings_that_are_refused(tmp_path, changes, match):
    with pytest.raises(UsageError, match=match):
        simulate_exposures(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_cleared_of_simulations_and_of_nothing_else(tmp_path):
    simulate_exposures(tmp_path, **SMALL | {"exposures": 3})
    (tmp_path / "notes.txt").write_text("keep")
    simulate_exposures(tmp_path, **SMALL)
    assert [path.name for path in sorted(tmp_path.glob("*_0*"))] == [
        "IMAGE_FOV_0001.fits", "PIXTABLE_REDUCED_0001.fits", "TRUTH_0001.npz"
    ]  # fmt: skip
    assert (tmp_path / "notes.txt").exists()
    (tmp_path / "truth.json").unlink()
    with pytest.raises(UsageError, match="holds PIXTABLE_REDUCED_0001.fits, which no simulation made"):
        simulate_exposures(tmp_path, **SMALL)
    assert (tmp_path / "PIXTABLE_REDUCED_0001.fits").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkError, match=r"writing to .*file failed \(File exists\)"):
        simulate_exposures(tmp_path / "file", **SMALL)


def test_a_full_disk_leaves_no_table_behind(tmp_path, monkeypatch):
    def write(descriptor, data, position):
        if position > 200_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, position)

    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(WorkError, match="No space left on device.*make room"):
        simulate_exposures(tmp_path, **SMALL)
    assert not list(tmp_path.glob("*PIXTABLE*")) + list(tmp_path.glob(".*PIXTABLE*"))


def test_narrow_field_exposures_have_their_own_sampling(tmp_path):
    exposures, (rows,), truth = load(
        tmp_path,
        exposures=1,
        mode="NFM-AO-N",
        field_arcsec=1.0,
        wavelength=(6500, 6530),
        seeing_fwhm=0.08,
        **CLEAN,
    )
    assert truth["spaxel_arcsec2"] == pytest.approx(0.02519 * 0.02542)
    assert np.abs(exposures[0].cd).max() * 3600 == pytest.approx(0.0254, rel=0.01)
    assert np.degrees(rows["ypos"].min()) * 3600 == pytest.approx(-np.sqrt(2) / 2, rel=0.05)
    assert exposures[0].header["ESO DRS MUSE RTC STREHL"] > 0


def test_progress_is_told(tmp_path):
    calls = []
    simulate_exposures(tmp_path, **SMALL | {"exposures": 2}, progress=lambda *done: calls.append(done))
    assert calls == [(1, 2), (2, 2)]


PEAK = """
import resource, sys
from musedeep.simulate import simulate_exposures
simulate_exposures(sys.argv[1], exposures=1, field_arcsec=float(sys.argv[2]), wavelength=(6000, 6400))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path):
    peaks, rows = [], []
    for folder, side in (("a", "3"), ("b", "16")):
        run = subprocess.run(
            [sys.executable, "-c", PEAK, tmp_path / folder, side], capture_output=True, text=True, check=True
        )
        peaks.append(float(run.stdout))
        rows.append(group_exposures(tmp_path / folder / "PIX*.fits")[0].row_count)
    assert rows[1] > 1.5e6 > 20 * rows[0]
    assert peaks[1] - peaks[0] < 40


# ESO's recipes


def run_recipe(folder, recipe, frames, *options):
    folder.mkdir()
    (folder / "frames.sof").write_text("".join(f"{path} {tag}\n" for path, tag in frames))
    run = subprocess.run(
        [shutil.which("esorex"), f"--output-dir={folder}", recipe, *options, "frames.sof"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout


@pytest.mark.esorex
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layout": "table", "mode": ["WFM-AO-N", "WFM-NOAO-N"], "wavelength": (5950.0, 5990.0)},
        {"split_ifus": True, "weights": (1.0, 2.0), "rotation_error_deg": 0.0},
        {"weight_column": True, "cosmic_ray_flagged": 0.5, "dec_deg": -70.0},
    ],
)
def test_the_peer_combines_every_kind_of_file(tmp_path, settings):
    settings = {
        "exposures": 3,
        "field_arcsec": 8.0,
        "wavelength": (6500.0, 6530.0),
        "seeing_fwhm": 0.9,
        "stars": 2,
        "galaxies": 0,
    } | settings
    paths = simulate_exposures(
        tmp_path / "sim", **settings, pointing_error_arcsec=2.0, flux_scale_error=(0, 0.2)
    )
    frames = [(path, "PIXTABLE_REDUCED") for path in paths] + [
        (tmp_path / "sim" / "OFFSET_LIST.fits", "OFFSET_LIST")
    ]
    log = run_recipe(tmp_path / "out", "muse_exp_combine", frames, "--filter=white")
    assert "3 tables to be combined" in log
    with fits.open(tmp_path / "out" / "DATACUBE_FINAL.fits") as hdus:
        flux, variance, header = hdus["DATA"].data, hdus["STAT"].data, hdus["DATA"].header
    planes = header["CRVAL3"] + header["CD3_3"] * np.arange(len(flux))
    y, x = np.mgrid[: flux.shape[1], : flux.shape[2]]
    truth = truth_cube(
        tmp_path / "sim" / "truth.json", planes, *WCS(header).celestial.pixel_to_world_values(x, y)
    )
    known = np.isfinite(flux) & (truth < 50)
    assert known.mean() > 0.5
    pull = ((flux - truth) / np.sqrt(variance))[known]
    width = np.diff(np.percentile(pull, [16, 84]))[0] / 2
    assert width == pytest.approx(1, abs=0.05)
    assert np.median(pull) == pytest.approx(0, abs=0.05)
    bright = np.isfinite(flux) & (truth > 200)
    assert bright.sum() > 50
    assert flux[bright].sum() / truth[bright].sum() == pytest.approx(1, abs=0.05)


@pytest.mark.esorex
def test_the_peer_measures_the_offsets_of_the_images(tmp_path):
    simulate_exposures(
        tmp_path / "sim",
        exposures=4,
        pointing_error_arcsec=1.0,
        stars=9,
        seed=8,
        seeing_fwhm=0.8,
        field_arcsec=20.0,
    )
    frames = [(path, "IMAGE_FOV") for path in sorted((tmp_path / "sim").glob("IMAGE_FOV_*.fits"))]
    run_recipe(tmp_path / "out", "muse_exp_align", frames)
    measured = OffsetTable.read(tmp_path / "out" / "OFFSET_LIST.fits").table
    true = OffsetTable.read(tmp_path / "sim" / "OFFSET_LIST.fits").table
    assert list(measured["DATE_OBS"]) == list(true["DATE_OBS"])
    for name in ("RA_OFFSET", "DEC_OFFSET"):
        wanted = np.array(true[name] - true[name][0]) * 3600
        assert np.abs(wanted).max() > 0.5
        np.testing.assert_allclose(np.array(measured[name]) * 3600, wanted, atol=0.06)


def test_faults_change_the_rows_that_they_are_about(tmp_path):
    settings = {"exposures": 2, "field_arcsec": 4.0, "wavelength": (6290.0, 6310.0), "noise": "none"}
    settings |= {"fov_images": False, "cosmic_ray_rate": 0.0, "defects": 0.0, "seed": 5}
    clean = [read_table(path) for path in simulate_exposures(tmp_path / "clean", **settings)]
    about = {
        "shift": ("xpos", "ypos"),
        "flux": ("data", "stat"),
        "background": ("data",),
        "quadrant": ("data",),
        "edge": ("data",),
        "sky": ("data",),
        "wavelength": ("lambda",),
        "variance": ("stat",),
        "saturation": ("dq",),
    }
    for kind, columns in about.items():
        size = 5.0 if kind == "saturation" else 0.5
        paths = simulate_exposures(tmp_path / "spoilt", faults=[Fault(kind, size, exposure=1)], **settings)
        spoilt = [read_table(path) for path in paths]
        for name in clean[0]:
            np.testing.assert_array_equal(spoilt[0][name], clean[0][name], err_msg=f"{kind} {name}")
            same = np.array_equal(spoilt[1][name], clean[1][name])
            assert same == (name not in columns), f"{kind} {name}"
    with pytest.raises(UsageError, match="a fault is 'gremlin'; allowed are shift"):
        Fault("gremlin", 1.0)


def test_the_lines_of_the_night_sky_stay_where_they_are_on_earth(tmp_path):
    settings = {"exposures": 3, "field_arcsec": 4.0, "wavelength": (6290.0, 6310.0), "fov_images": False}
    folder = tmp_path / "sky"
    for number, path in enumerate(simulate_exposures(folder, **settings, sources=(), seed=8)):
        rows = read_table(path)
        plan = json.loads((folder / "truth.json").read_text())["exposures"][number]
        good = rows["dq"] == 0
        excess = rows["stat"][good] - np.median(rows["stat"][good])
        excess = np.where(excess > 0.3 * excess.max(), excess, 0)
        centre = np.average(rows["lambda"][good].astype(float), weights=excess)
        velocity = plan["rvcorr_km_s"] / 299792.458
        assert centre == pytest.approx(6300.3 * (1 + velocity), abs=0.06), velocity
