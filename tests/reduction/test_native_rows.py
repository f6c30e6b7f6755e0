"""What is done to every row of an exposure, held against the same written plainly; no recipe is needed."""

import numpy as np
import pytest
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.utils import iers

from musedeep.kernels.reduction import calibrate_rows, project_rows, refract_rows
from musedeep.kernels.sky import block_extremes, extremes, focal_extent
from musedeep.reduce.native.curves import FluxCurves, merge_curves
from musedeep.reduce.native.headers import Observation, velocity_km_s
from musedeep.reduce.native.overscan import fit_overscan

AIR = np.array([0.9, 5.0, 2.7e-4, 3e4, -2e4])
SECONDS, AIRMASS, SCALE, FLAG = 900.0, 1.37, 1.08, np.uint32(1 << 20)


def rows(rng, count, order):
    wavelength = np.sort(rng.uniform(4600, 9500, count)).astype(np.float32)
    if order == "shuffled":
        rng.shuffle(wavelength)
    data = rng.normal(200, 50, count).astype(np.float32)
    return wavelength, data, np.abs(data) + np.float32(10)


def curves_of(rng, steep):
    """Curves with ends of their own; a steep one changes by a third from node to node."""
    nodes = [np.linspace(low, high, n) for low, high, n in ((4500, 9600, 40), (4650, 9450, 300))]
    response = np.cumsum(rng.normal(0, 0.5 if steep else 0.01, 300)) + 41.0
    air = np.linspace(6100, 9300, 500)
    return FluxCurves(
        extinction=(nodes[0], rng.uniform(0, 0.3, 40)),
        response=(nodes[1], response, rng.uniform(0, 0.02, 300)),
        telluric=(air, rng.uniform(1, 1.5, 500), rng.uniform(0, 0.02, 500)),
        corrected_lamp=True,
    )


def plainly(wavelength, data, variance, curves, lamp):
    """The same as calibrate_rows, a formula after the other."""
    w = wavelength.astype(np.float64)
    factor = np.interp(w, *lamp)
    value = ((data / np.float64(SCALE)).astype(np.float32) * factor).astype(np.float32).astype(float)
    spread = (variance / np.float64(SCALE**2)).astype(np.float32)
    spread = ((spread * factor).astype(np.float32) * factor).astype(np.float32).astype(float)
    magnitude = AIRMASS * np.interp(w, *curves.extinction) - np.interp(w, *curves.response[:2])
    flux_of_count = 10 ** (0.4 * magnitude) / (SECONDS * 1.25)

    def error(nodes, errors):
        j = np.clip(np.searchsorted(nodes, w, side="right") - 1, 0, len(nodes) - 2)
        part = (w - nodes[j]) / np.diff(nodes)[j]
        return np.hypot(errors[j] * (1 - part), errors[j + 1] * part)

    flux = value * flux_of_count * 1e20
    nodes, errors = curves.response[0], curves.response[2]
    spread = spread * (flux_of_count * 1e20) ** 2
    spread += (flux * np.log(10) / 2.5 * error(nodes, errors)) ** 2 + (flux * 0.02 / 1.25) ** 2
    nodes, values, errors = curves.telluric
    air = (w >= 6273) & (w <= nodes[-1])
    factor = np.interp(w, nodes, values)
    spread = np.where(air, factor**2 * spread + (flux * error(nodes, errors)) ** 2, spread)
    needed = curves.extinction[0], curves.response[0], lamp[0]
    inside = np.all([(w >= nodes[0]) & (w <= nodes[-1]) for nodes in needed], axis=0)
    return np.where(air, factor * flux, flux), spread, inside


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize("steep", [False, True], ids=["even", "steep"])
def test_rows_are_calibrated_by_all_curves(order, steep):
    rng = np.random.default_rng(3)
    wavelength, data, variance = rows(rng, 20000, order)
    curves, lamp = curves_of(rng, steep), (np.linspace(4700, 9400, 3000), rng.uniform(0.8, 1.2, 3000))
    # exactly on the ends, which belong to the curves
    wavelength[:3] = 4700, 9300, 9400
    wanted, wanted_spread, inside = plainly(wavelength, data, variance, curves, lamp)
    dq = np.zeros(len(data), np.uint32)
    edges, factors = merge_curves(curves, lamp, SECONDS, AIRMASS)
    assert np.all(np.diff(edges) > 0)
    assert (len(edges) > 5000) == steep
    outside = calibrate_rows(wavelength, data, variance, dq, SCALE, edges, factors, FLAG)
    assert inside[:3].all() and 0 < outside == np.count_nonzero(~inside)
    np.testing.assert_array_equal(dq, np.where(inside, 0, FLAG))
    assert np.isnan(data[~inside]).all() and np.isnan(variance[~inside]).all()
    for found, value in ((data, wanted), (variance, wanted_spread)):
        np.testing.assert_allclose(found[inside], value[inside], rtol=1.3e-7)
        assert np.mean(found[inside] == value[inside].astype(np.float32)) > 0.9999


def test_curves_that_do_not_overlap_leave_every_row_out():
    curves = curves_of(np.random.default_rng(3), steep=False)
    edges, factors = merge_curves(curves, (np.array([3000.0, 4000.0]), np.ones(2)), SECONDS, AIRMASS)
    wavelength, data, variance = rows(np.random.default_rng(1), 50, "sorted")
    dq = np.zeros(50, np.uint32)
    assert calibrate_rows(wavelength, data, variance, dq, SCALE, edges, factors, FLAG) == 50
    assert np.isnan(data).all()


def test_rows_are_projected_in_every_direction():
    rng = np.random.default_rng(4)
    x, y = (rng.uniform(-150, 150, 100000).astype(np.float32) for _ in range(2))
    x[:6], y[:6] = [0, 0, 5, -5, 7, np.nan], [0, 9, 0, 0, 7, 3]
    centre, cd = np.array([0.0, 0.0]), np.diag([-0.2 / 3600, 0.2 / 3600])
    wavelength = np.full(len(x), 5000, np.float32)
    east, north = cd[0, 0] * x.astype(float), cd[1, 1] * y.astype(float)
    with np.errstate(divide="ignore"):
        theta = np.arctan(180 / np.pi / np.hypot(east, north)) - np.pi / 2
    phi = np.arctan2(east, -north)
    project_rows(wavelength, x, y, 1.0001, centre, cd)
    # where the direction has no meaning, it need not be the same
    np.testing.assert_allclose(x[1:], np.where(phi < 0, phi + 2 * np.pi, phi)[1:], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(y, theta, rtol=1e-7, atol=1e-11)
    assert np.isnan(x[5]) and np.isnan(y[5]) and y[0] == 0
    assert (wavelength == np.float32(np.float64(5000) * 1.0001)).all()


@pytest.mark.parametrize("count", [1, 15, 1600, 1601])
def test_extremes_leave_out_what_is_no_number_and_what_is_flagged(count):
    rng = np.random.default_rng(count)
    x, y = (rng.normal(0, 50, count).astype(np.float32) for _ in range(2))
    wavelength, dq = rng.uniform(4700, 9300, count).astype(np.float32), np.zeros(count, np.uint32)
    assert extremes(x, np.inf, -np.inf) == (x.min(), x.max())
    lowest, highest = np.empty((2, -(-count // 512)), np.float32)
    block_extremes(wavelength, 512, lowest, highest)
    blocks = [wavelength[start : start + 512] for start in range(0, count, 512)]
    assert [(part.min(), part.max()) for part in blocks] == list(zip(lowest, highest, strict=True))
    moved = [x.copy(), y.copy()]
    refract_rows(wavelength, *moved, AIR)
    flagged = x == x.max()
    dq[flagged] = 32
    for good_only, kept in ((False, np.ones(count, bool)), (True, ~flagged)):
        limits = np.tile([np.inf, -np.inf], (5, 1))
        focal_extent(wavelength, x, y, dq, good_only, AIR, limits)
        for (low, high), values in zip(limits, (x, y, *moved, wavelength), strict=True):
            some = values[kept]
            assert (low, high) == ((some.min(), some.max()) if len(some) else (np.inf, -np.inf))
    assert extremes(np.append(x, np.float32(np.nan)), np.inf, -np.inf) == (x.min(), x.max())


def exact_fit(values, order):
    """Least squares by polynomials that are orthogonal on the lines, in extended precision."""
    place, values = np.linspace(-1, 1, len(values)).astype(np.longdouble), values.astype(np.longdouble)
    known, levels = [], np.zeros(len(values), np.longdouble)
    for n in range(order + 1):
        wave = place * known[-1] if n else np.ones(len(values), np.longdouble)
        for other in known * 2:
            wave = wave - other * (wave @ other) / (other @ other)
        known.append(wave)
        levels += wave * (values @ wave) / (wave @ wave)
    return levels


@pytest.mark.parametrize("lines", [1056, 4112])
def test_overscans_of_a_high_order_are_fitted_exactly(lines):
    rng = np.random.default_rng(8)
    bend = 60 / (1.15 - np.linspace(-1, 1, lines))[:, None]
    strip = np.rint(1000 + bend + rng.normal(0, 2, (lines, 29))).astype(np.uint16)
    levels, means = fit_overscan(strip), strip.mean(axis=1)
    off = [float(np.abs(levels - exact_fit(means, order)).max()) for order in range(8, 16)]
    # of the orders one is the fit to the last digits; the recipe's own is off by 1e-5 counts at order 12
    assert min(off) < 1e-10
    assert sorted(off)[1] > 1e-3


def observation(mjd):
    header = fits.Header({"MJD-OBS": mjd, "EXPTIME": 1800.0, "RA": 53.1, "DEC": -27.8})
    return Observation(header, "exposure.fits")


def test_the_velocity_needs_no_tables_of_the_rotation_of_the_earth(monkeypatch):
    place = EarthLocation.from_geodetic(-70.404, -24.627, 2648)
    target = SkyCoord(53.1, -27.8, unit="deg")
    with iers.earth_orientation_table.set(iers.IERS_B.open()):
        middle = Time(57000 + 900 / 86400, format="mjd")
        known = target.radial_velocity_correction("barycentric", obstime=middle, location=place)
    assert velocity_km_s(observation(57000.0)) == pytest.approx(known.to_value("km/s"), abs=1e-4)

    def refuse(*given, **named):
        raise AssertionError("the tables were asked for")

    monkeypatch.setattr(iers.IERS_Auto, "open", refuse)
    # a year ahead of all tables
    assert abs(velocity_km_s(observation(61700.0))) < 31
