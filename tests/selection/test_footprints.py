import math

import numpy as np
import pytest

from musedeep.select.footprints import corners, near_pairs, overlaps


def overlap(east, north, angles=(0.0, 0.0), sides=(60.0, 60.0), dec=0.0):
    ra = [10.0, 10.0 + east / 3600 / math.cos(math.radians(dec))]
    return overlaps([(0, 1)], ra, [dec, dec + north / 3600], angles, sides)[0]


@pytest.mark.parametrize(
    ("east", "north", "angles", "wanted"),
    [
        (0, 0, (0, 0), 1.0),
        (0, 0, (0, 90), 1.0),
        (30, 0, (0, 0), 0.5),
        (30, 30, (0, 180), 0.25),
        (60, 0, (0, 0), 0.0),
        (59, 59, (0, 0), 1 / 3600),
        (0, 0, (0, 45), 2 * (math.sqrt(2) - 1)),
        (0, 0, (30, 75), 2 * (math.sqrt(2) - 1)),
        (60, 60, (45, 45), 0.0),
    ],
)
def test_known_overlaps(east, north, angles, wanted):
    assert overlap(east, north, angles) == pytest.approx(wanted, abs=1e-6)


def test_overlap_by_counting_points():
    rng = np.random.default_rng(4)
    for _ in range(20):
        east, north, one, two = rng.uniform((-50, -50, 0, 0), (50, 50, 90, 90))
        points = rng.uniform(-30, 30, (40000, 2))
        turn = np.radians(one)
        places = np.stack(
            [
                points[:, 0] * np.cos(turn) + points[:, 1] * np.sin(turn) - east,
                -points[:, 0] * np.sin(turn) + points[:, 1] * np.cos(turn) - north,
            ]
        )
        back = np.radians(two)
        x = places[0] * np.cos(back) - places[1] * np.sin(back)
        y = places[0] * np.sin(back) + places[1] * np.cos(back)
        counted = np.mean((abs(x) < 30) & (abs(y) < 30))
        assert overlap(east, north, (one, two)) == pytest.approx(counted, abs=0.012)


def test_a_small_field_within_a_large_one():
    assert overlap(5, 5, (0, 20), (60, 7.5)) == pytest.approx(1.0, abs=1e-6)


def test_angles_run_from_north_through_east():
    # the first corner is south-east of the middle; turned by 90 degrees it is where the south-west one was
    straight, turned = (corners([10.0], [0.0], [angle], [60.0], (10.0, 0.0))[0] for angle in (0.0, 90.0))
    np.testing.assert_allclose(straight[0], (30, -30), atol=1e-4)
    np.testing.assert_allclose(turned[0], (-30, -30), atol=1e-4)
    # and the middle of the upper edge, which was north, is east
    np.testing.assert_allclose((turned[1] + turned[2]) / 2, (30, 0), atol=1e-4)


def test_angles_are_those_of_the_own_north():
    # two pointings beside the pole see north in different directions, and the same angle turns them apart
    assert overlaps([(0, 1)], [0.0, 45.0], [-89.999, -89.999], [0.0, 0.0], [60.0, 60.0])[0] < 0.85
    assert overlaps([(0, 1)], [0.0, 90.0], [-89.999, -89.999], [0.0, 0.0], [60.0, 60.0])[0] > 0.85


def test_near_pairs_across_zero_hours():
    pairs = near_pairs([359.999, 0.001, 0.1], [0, 0, 0], 10.0)
    assert pairs.tolist() == [[0, 1]]
    assert near_pairs([1.0], [0.0], 10.0).shape == (0, 2)
