import math

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from musedeep.errors import InputError
from musedeep.sky import (
    degrees_of,
    eso_positions,
    middle_of,
    project,
    sky_frame,
    sky_vectors,
    smallest_box_angle,
    turned,
)


def native(x_deg, y_deg):
    """Native coordinates of plane positions as a pixel table stores them: phi, theta - pi/2."""
    phi = np.arctan2(x_deg, -y_deg) % (2 * np.pi)
    return phi, np.arctan(np.degrees(1) / np.hypot(x_deg, y_deg)) - np.pi / 2


def test_frame_is_orthonormal_and_points_north_and_east():
    frame = sky_frame(123.4, -56.7)
    np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(frame[:, 2], sky_vectors(123.4, -56.7), atol=1e-15)
    step = 1e-6
    east = sky_vectors(123.4 + step, -56.7) - sky_vectors(123.4 - step, -56.7)
    north = sky_vectors(123.4, -56.7 + step) - sky_vectors(123.4, -56.7 - step)
    np.testing.assert_allclose(frame[:, 0], east / np.linalg.norm(east), atol=1e-8)
    np.testing.assert_allclose(frame[:, 1], north / np.linalg.norm(north), atol=1e-8)


def test_frame_turns_from_north_through_east():
    plain, frame = sky_frame(10, 20), sky_frame(10, 20, 30)
    expected = math.cos(math.radians(30)) * plain[:, 1] + math.sin(math.radians(30)) * plain[:, 0]
    np.testing.assert_allclose(frame[:, 1], expected, atol=1e-15)
    np.testing.assert_allclose(
        np.cross(frame[:, 0], frame[:, 1]), frame[:, 2] * np.linalg.det(plain), atol=1e-15
    )


def test_projection_agrees_with_the_example_of_calabretta_and_greisen():
    # Example 1 of their paper II, as ESO's own tests use it: three corners of an image.
    pixels = np.array([(1, 2), (1, 512), (511, 512)], dtype=float)
    x, y = -0.003 * (pixels[:, 0] - 256), 0.003 * (pixels[:, 1] - 257)
    np.testing.assert_allclose(np.abs(np.concatenate([x, y])), 0.765, atol=3.4e-7)
    phi, theta = native(x, y)
    np.testing.assert_allclose(np.degrees(phi), [45, 135, 225], rtol=1e-12)
    np.testing.assert_allclose(np.degrees(theta) + 90, 88.918255, atol=5e-7)
    expected = [(47.503264, 62.795111), (47.595581, 64.324332), (44.064419, 64.324332)]
    ra, dec = eso_positions(phi, theta, 45.83, 63.57)
    np.testing.assert_allclose(ra, [e[0] - 45.83 for e in expected], atol=1.6e-6)
    np.testing.assert_allclose(dec, [e[1] - 63.57 for e in expected], atol=1.6e-6)
    plane = np.column_stack([np.radians(x), np.radians(y), np.ones(3)])
    directions = plane @ sky_frame(45.83, 63.57).T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(directions, [sky_vectors(*e) for e in expected], atol=1e-8)


@pytest.mark.parametrize(
    ("ra", "dec", "offsets", "relative"),
    [
        (0.0, 0.0, [(0, 0), (1e-5, 2e-5), (-1e-5, -2e-5)], [(0, 0), (-1e-5, -2e-5), (1e-5, 2e-5)]),
        (180.0, -75.0, [(0, 0), (1e-4, -1e-5), (-1e-4, 1e-5)], [(0, 0), (-1e-4, 1e-5), (1e-4, -1e-5)]),
    ],
)
def test_a_row_at_the_tangent_point_moves_against_its_offset(ra, dec, offsets, relative):
    # ESO's own test of a combination: one row an exposure, at the tangent point.
    phi, theta = np.zeros(1, np.float32), np.zeros(1, np.float32)
    for (dra, ddec), expected in zip(offsets, relative, strict=True):
        found = eso_positions(phi, theta, ra - dra, dec - ddec, first=(ra, dec))
        np.testing.assert_allclose(np.ravel(found), expected, atol=4.4e-12)


def test_middle_does_not_depend_on_the_order():
    points = sky_vectors(
        359.9 + np.random.default_rng(1).random(50), -30 + np.random.default_rng(2).random(50)
    )
    ra, dec = middle_of(points)
    assert (ra, dec) == middle_of(points[::-1]) == middle_of(np.roll(points, 17, axis=0))
    assert abs((ra - 0.4 + 180) % 360 - 180) < 0.1
    assert abs(dec + 29.5) < 0.1


def test_points_all_over_the_sky_have_no_field():
    with pytest.raises(InputError, match="no common field"):
        middle_of(sky_vectors([0, 90, 180, 270], [0, 0, 0, 0]))
    with pytest.raises(InputError, match="88 degrees"):
        project(sky_vectors([0, 100], [0, 0]), sky_frame(0, 0))


@pytest.mark.parametrize("angle", [-40, -12.5, 0, 20, 44])
def test_the_smallest_box_is_found(angle):
    box = np.array([(x, y) for x in (-3, 3) for y in (-1, 1)], dtype=float)
    inside = np.random.default_rng(4).uniform(-1, 1, (200, 2)) * (3, 1)
    plane = turned(np.concatenate([box, inside]), -angle)
    assert smallest_box_angle(plane) == pytest.approx(angle, abs=1e-9)


def test_a_turn_that_saves_nothing_is_not_made():
    circle = np.linspace(0, 2 * np.pi, 721)
    assert smallest_box_angle(np.column_stack([np.cos(circle), np.sin(circle)])) == 0
    assert smallest_box_angle(np.zeros((1, 2))) == 0


def test_a_position_is_a_sky_coordinate_or_a_pair():
    assert degrees_of((150.5, -2)) == (150.5, -2.0)
    found = degrees_of(SkyCoord(150.5, -2.0, unit="deg", frame="fk5"))
    np.testing.assert_allclose(found, (150.5, -2.0), atol=1e-4)
    assert found != (150.5, -2.0), "FK5 is not ICRS"
