import numpy as np
import pytest

from musedeep.errors import InputError
from musedeep.grid import air_to_vacuum, sky_frame
from musedeep.layout import eso_grid, grid_from_footprints

STEP = 0.2 / 3600


def square(ra, dec, side_arcsec=10.0, angle=0.0, number=7):
    """Unit vectors of a square patch around a pointing."""
    side = np.radians(np.linspace(-side_arcsec / 2, side_arcsec / 2, number) / 3600)
    xi, eta = (axis.ravel() for axis in np.meshgrid(side, side))
    return np.column_stack([xi, eta, np.ones(xi.size)]) @ sky_frame(ra, dec, angle).T


def pixels_of(grid, points):
    local = points @ sky_frame(*grid.crval)
    x, y, w = grid.from_sky(sky_frame(*grid.crval)) @ (local / local[:, 2:]).T
    return x / w, y / w


@pytest.mark.parametrize("rotation", ["north", "minimise", 37.0, -100.0])
@pytest.mark.parametrize(
    ("ra", "dec"), [(53.1, -27.8), (0.0001, 1.0), (359.9999, -45.0), (12.0, 89.99), (200.0, -90.0)]
)
def test_every_point_lies_between_the_outermost_voxel_centres(ra, dec, rotation):
    footprints = [square(ra, dec, angle=angle) for angle in (0, 20, 75)]
    grid = grid_from_footprints(footprints, (6500, 6520), rotation=rotation)
    x, y = pixels_of(grid, np.concatenate(footprints))
    assert min(x.min(), y.min()) > -1e-6
    assert x.max() < grid.shape[2] - 1 + 1e-6
    assert y.max() < grid.shape[1] - 1 + 1e-6
    # and no voxel more than is needed
    assert np.ptp(x) > grid.shape[2] - 2 - 1e-6
    assert np.ptp(y) > grid.shape[1] - 2 - 1e-6
    assert 0 <= grid.crval[0] < 360
    assert grid.step_arcsec == pytest.approx((0.2, 0.2))


def test_the_field_across_0h_is_as_small_as_elsewhere():
    at_zero = grid_from_footprints([square(359.9995, 5), square(0.0005, 5)], (6500, 6520))
    elsewhere = grid_from_footprints([square(99.9995, 5), square(100.0005, 5)], (6500, 6520))
    assert at_zero.shape == elsewhere.shape
    assert min(at_zero.crval[0], 360 - at_zero.crval[0]) < 1e-6


def test_rotation_saves_the_empty_corners():
    footprints = [square(150, 20, 60, angle=30), square(150, 20, 60, angle=120)]
    north = grid_from_footprints(footprints, (6500, 6520))
    small = grid_from_footprints(footprints, (6500, 6520), rotation="minimise")
    assert np.prod(small.shape) < 0.6 * np.prod(north.shape)
    assert np.degrees(np.arctan2(small.cd[0][1], small.cd[1][1])) == pytest.approx(30, abs=0.01)


def test_the_grid_does_not_depend_on_the_order_of_exposures():
    footprints = [square(10 + n / 7000, 3 - n / 9000, angle=n) for n in range(9)]
    forward = grid_from_footprints(footprints, (6500, 6520), rotation="minimise")
    assert forward == grid_from_footprints(footprints[::-1], (6500, 6520), rotation="minimise")


def test_a_given_centre_is_the_tangent_point():
    grid = grid_from_footprints([square(10, 3)], (6500, 6520), center=(10.001, 3.002), step_arcsec=(0.4, 0.1))
    assert grid.crval == (10.001, 3.002)
    assert grid.step_arcsec == pytest.approx((0.4, 0.1))
    x, y = pixels_of(grid, square(10, 3))
    assert x.min() >= -1e-6
    assert y.max() <= grid.shape[1] - 1 + 1e-6


@pytest.mark.parametrize(
    ("options", "step", "planes"),
    [
        ({}, 1.25, 17),
        ({"log": True}, 0.78125, 27),
        ({"wavelength_step": 5.0}, 5.0, 5),
        ({"vacuum": True}, 1.25, 18),
    ],
)
def test_planes_cover_the_wavelengths(options, step, planes):
    grid = grid_from_footprints([square(10, 3)], (6500.0, 6520.0), **options)
    assert (grid.shape[0], grid.wavelength_step) == (planes, step)
    low, high = air_to_vacuum([6500.0, 6520.0]) if grid.vacuum else (6500.0, 6520.0)
    assert grid.wavelengths[0] == low
    assert grid.wavelengths[-2] < high <= grid.wavelengths[-1] + 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], (6500, 6520)), "0 points"),
        (([square(10, 3)], (6520, 6500)), "wavelength range"),
        (([square(10, 3), square(12.1, 3)], (6500, 6520)), r"spread over 2\.10 degrees"),
        (([square(10, -1), square(190, -1)], (6500, 6520)), "no common field"),
        (([np.full((1, 3), np.nan)], (6500, 6520)), "finite"),
    ],
)
def test_impossible_footprints_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        grid_from_footprints(*arguments)


@pytest.mark.parametrize("options", [{"rotation": "south"}, {"step_arcsec": (0.0, 0.2)}])
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError, match=r"rotation is 'south'|steps \(0.0, 0.2\)"):
        grid_from_footprints([square(10, 3)], (6500, 6520), **options)


def test_esos_grid_is_known_to_the_last_digit():
    # Limits of a simulated field and the header that muse_exp_combine 2.8.7 wrote for it.
    ra, dec = 53.09973641736503, -27.800165169003666
    ra_limits = (-0.003127622650936246, 0.0029542676638811827)
    dec_limits = (-0.0025278860703110695, 0.002853106940165162)
    grid = eso_grid(ra_limits, dec_limits, ra, dec, (6500.0859375, 6549.674))
    assert grid.shape == (41, 98, 98)
    assert grid.crpix == pytest.approx((48.0557367768666, 46.4910324117359), abs=1e-12)
    assert grid.crval == (ra, dec)
    assert grid.cd == ((-STEP, 0.0), (0.0, STEP))


def test_esos_logarithmic_grid_has_its_number_of_planes():
    limits = (-0.001, 0.001)
    grid = eso_grid(limits, limits, 10.0, 0.0, (6500.0, 6550.0), (0.3, 0.4), log=True)
    assert grid.shape == (65, 19, 25)
    assert grid.log
    assert grid.wavelength_step == 0.78125
