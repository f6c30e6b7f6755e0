"""R12 and the hint of crowding: what is seen on white-light images."""

import shutil

import numpy as np
import pytest
from frames import decision_on, write_frame, write_image

from musedeep.field import open_field
from musedeep.masks import check_regions
from musedeep.select import select_exposures
from musedeep.select.images import find_trail, is_crowded, measure_image
from musedeep.simulate import Trail, simulate_exposures

SIDE = 200


def image(trail_sigma=0.0, angle_deg=30.0, offset=15.0, fwhm=4.0, stars=15, seed=1, cover=1.0):
    """Noise of 1, stars, and a trail whose normal has that angle; float32 array with an empty rim."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    flux = rng.normal(0, 1, (SIDE, SIDE))
    for a, b, peak in zip(*rng.uniform(0, SIDE, (2, stars)), np.geomspace(5, 2000, stars), strict=True):
        flux += peak * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 7)
    turn = np.radians(angle_deg)
    across = (x - SIDE / 2) * np.cos(turn) + (y - SIDE / 2) * np.sin(turn) - offset
    along = -(x - SIDE / 2) * np.sin(turn) + (y - SIDE / 2) * np.cos(turn)
    seen = along < along.min() + cover * np.ptp(along)
    flux += trail_sigma * np.exp(-((across / fwhm * 2.355) ** 2) / 2) * seen
    flux[:5] = flux[:, -7:] = np.nan
    return flux.astype(np.float32)


@pytest.mark.parametrize("angle", [0.0, 37.0, 90.0, 151.0])
def test_a_trail_is_found_and_measured(angle):
    trail = find_trail(image(50.0, angle))
    assert 25 < trail["sigma"] < 60 and 3 <= trail["width"] <= 6
    turn = np.radians(angle)
    for x, y in trail["ends"]:
        away = (x - SIDE / 2) * np.cos(turn) + (y - SIDE / 2) * np.sin(turn)
        assert away == pytest.approx(15.0, abs=1.5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_stars_are_no_trail(seed):
    assert find_trail(image(stars=60, seed=seed)) is None


def test_a_galaxy_from_its_edge_is_no_trail_and_hides_none():
    y, x = np.mgrid[:SIDE, :SIDE]
    galaxy = 300 * np.exp(-np.hypot((x - 110) / 40, (y - 90) / 4))
    assert find_trail(image() + galaxy) is None
    trail = find_trail(image(40.0, 120.0) + galaxy)
    assert trail is not None and trail["width"] <= 6


def test_what_ends_within_the_field_is_no_trail():
    assert find_trail(image(30.0, cover=0.35)) is None
    assert find_trail(image(30.0, cover=1.0)) is not None


def test_empty_images_show_nothing():
    assert find_trail(np.full((50, 50), np.nan, np.float32)) is None
    assert find_trail(np.zeros((50, 50), np.float32)) is None
    assert is_crowded(np.full((50, 50), np.nan, np.float32)) == (0, False)


def test_a_trail_lies_where_the_simulation_put_it(tmp_path):
    simulate_exposures(
        tmp_path, exposures=2, field_arcsec=24, wavelength=(6500, 6510), stars=3, galaxies=0,
        trails=[Trail(1, 60.0, 2.0, 200.0)],
    )  # fmt: skip
    assert measure_image(tmp_path / "IMAGE_FOV_0001.fits")["trail"] is None
    trail = measure_image(tmp_path / "IMAGE_FOV_0002.fits")["trail"]
    (ra, dec), (far_ra, far_dec) = trail["ends_deg"]
    east = (far_ra - ra) * np.cos(np.radians(dec))
    angle = np.degrees(np.arctan2(east, far_dec - dec)) % 180
    assert angle == pytest.approx(60.0, abs=1.5)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Six exposures with images, looked at: plain, faint, masked, bright, bright and thin, plain."""
    folder = tmp_path_factory.mktemp("night")
    trails = [(0, 4), (4.5, 4), (12, 4), (60, 4), (60, 1.2), (0, 4)]
    for number, (sigma, fwhm) in enumerate(trails):
        write_frame(folder, number)
        write_image(folder, number, image(sigma, fwhm=fwhm, seed=number))
    select_exposures(folder, folder / "fields")
    return folder


@pytest.fixture
def selected(night, tmp_path):
    """A function that selects with other thresholds, without looking at the images again."""

    def again(**settings):
        (tmp_path / "fields").mkdir()
        shutil.copy(night / "fields" / "index.json", tmp_path / "fields")
        found = select_exposures((), tmp_path / "fields", **settings)
        assert found.read == 0
        return found

    return again


def test_r12_rejects_bright_trails_and_masks_fainter_ones(selected, tmp_path):
    found = selected()
    decisions = [decision_on(found, number) for number in range(6)]
    assert [d.taken for d in decisions] == [True, True, True, False, False, True]
    assert [len(d.looks) for d in decisions] == [0, 0, 1, 0, 0, 0]
    assert decisions[3].rule == "R12" and "sigma over" in decisions[3].value
    field = open_field(tmp_path / "fields" / "ngc-300")
    assert [mask.exposures for mask in field.settings.masks] == [(decisions[2].candidate.date_obs,)]
    check_regions(field.settings.masks)


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({"trail_area": 0.05}, True),
        ({"trail_area": 0.005}, False),
        ({"trail_sigma": 100.0}, True),
        ({"trail_sigma": 30.0}, False),
    ],
)
def test_r12_on_both_sides_of_its_thresholds(selected, settings, taken):
    assert decision_on(selected(**settings), 3).taken is taken


@pytest.mark.parametrize(("sigma", "looks"), [(9.5, 1), (11.0, 0)])
def test_r12_masks_from_its_threshold_on(selected, sigma, looks):
    assert len(decision_on(selected(trail_mask_sigma=sigma), 2).looks) == looks


@pytest.mark.parametrize(("stars", "crowded"), [(40, False), (400, True)])
def test_crowding_is_told_by_sources(tmp_path, stars, crowded):
    for number in range(4):
        write_frame(tmp_path, number)
    write_image(tmp_path, 0, image(stars=stars))
    dataset = select_exposures(tmp_path).datasets[0]
    assert dataset.facts["crowded"] is crowded
    assert any("looks crowded" in text for text in dataset.looks) is crowded


def test_crowding_is_told_by_a_sky_that_is_nowhere_dark():
    y, x = np.mgrid[:SIDE, :SIDE]
    halo = 60 * np.exp(-np.hypot(x - 100, y - 100) / 60)
    assert is_crowded(image())[1] is False
    assert is_crowded(image() + halo)[1] is True


def test_crowding_said_by_hand_becomes_a_setting(tmp_path):
    for number in range(4):
        write_frame(tmp_path / "raw", number)
    (tmp_path / "o.yaml").write_text("fields: {ngc-300: {crowded: true}}")
    select_exposures(tmp_path / "raw", tmp_path / "fields", overrides=tmp_path / "o.yaml")
    assert open_field(tmp_path / "fields" / "ngc-300").settings.align.preset == "crowded"
