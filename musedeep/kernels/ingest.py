"""From the columns of a pixel table to rows sorted by (flagged, wavelength segment, sky pencil)."""

import math

import numpy as np
from numba import njit

__all__ = [
    "assign_keys",
    "find_places",
    "number_slices",
    "place_rows",
    "sort_column",
    "strip_extents",
    "survey_blocks",
]

_ARCSEC = 180.0 / math.pi * 3600.0
_TWO_OVER_PI = 2.0 / math.pi
# pi/2 in two parts, so that the reduced angle is exact to the last bits for the few quadrants met here
_HALF_PI_HI = 1.5707963267341256
_HALF_PI_LO = 6.0771005065061922e-11
_FLAGS = {"nnan", "nsz"}  # no NaN is passed where they are set; min and max then run as vectors
# Beyond these [Angstrom] a row is broken: no mode of the instrument comes near.
SHORTEST = 1000.0
LONGEST = 30000.0
SURVEY_BLOCK = 1024  # rows whose range of wavelengths is kept


@njit(
    "void(f4[::1], f4[::1], f8[:,::1], f8, f8, f8[::1], f8[::1])", nogil=True, cache=True, error_model="numpy"
)
def _sky_of(xpos, ypos, matrix, x0, y0, x, y):
    """Native spherical (phi, theta - pi/2) -> plane of the store in arcsec, relative to (x0, y0).

    Written without branches, so that the compiler turns it into vector code. Sine and cosine are Taylor
    polynomials on [-pi/4, pi/4] (error below 1e-16); the tangent of the small angle pi/2 - theta is its
    series, good to 1e-15 below 0.02 rad (4000 arcsec), beyond every field of the instrument.
    """
    m00, m01, m02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    m10, m11, m12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    m20, m21, m22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    for r in range(xpos.size):
        phi = np.float64(xpos[r])
        t = -np.float64(ypos[r])
        t2 = t * t
        radius = t * (1.0 + t2 * (1.0 / 3.0 + t2 * (2.0 / 15.0 + t2 * (17.0 / 315.0 + t2 * (62.0 / 2835.0)))))
        quadrant = math.floor(phi * _TWO_OVER_PI + 0.5)
        a = (phi - quadrant * _HALF_PI_HI) - quadrant * _HALF_PI_LO
        a2 = a * a
        s = a * (
            1.0
            + a2
            * (
                -1.0 / 6
                + a2
                * (
                    1.0 / 120
                    + a2
                    * (
                        -1.0 / 5040
                        + a2
                        * (
                            1.0 / 362880
                            + a2 * (-1.0 / 39916800 + a2 * (1.0 / 6227020800 - a2 / 1307674368000.0))
                        )
                    )
                )
            )
        )
        c = 1.0 + a2 * (
            -0.5
            + a2
            * (
                1.0 / 24
                + a2
                * (
                    -1.0 / 720
                    + a2
                    * (
                        1.0 / 40320
                        + a2 * (-1.0 / 3628800 + a2 * (1.0 / 479001600 + a2 * (-1.0 / 87178291200.0)))
                    )
                )
            )
        )
        q = np.int64(quadrant) & 3
        odd = q & 1
        sine = c if odd else s
        cosine = s if odd else c
        sine = -sine if q >= 2 else sine
        cosine = -cosine if (q == 1) | (q == 2) else cosine
        xi = radius * sine
        eta = -radius * cosine
        w = _ARCSEC / (m20 * xi + m21 * eta + m22)
        x[r] = (m00 * xi + m01 * eta + m02) * w - x0
        y[r] = (m10 * xi + m11 * eta + m12) * w - y0


# Each of the loops below does one simple thing, so that the compiler turns it into vector code.


@njit("void(f8[::1], f4[::1])", nogil=True, cache=True, error_model="numpy")
def _narrow(values, out):
    for r in range(out.size):
        out[r] = values[r]


@njit("i4(f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], u1[::1])", nogil=True, cache=True, error_model="numpy")
def _mark_usable(x, y, wavelength, data, variance, usable):
    """Mark rows that can be used; returns how many cannot."""
    zero = np.float32(0.0)
    bad = np.int32(0)
    for r in range(x.size):
        # 0 times a number is 0 unless the number is not finite
        finite = (x[r] * zero + y[r] * zero) + (data[r] * zero + variance[r] * zero) == zero
        good = finite & (variance[r] >= zero)
        good &= (wavelength[r] > np.float32(SHORTEST)) & (wavelength[r] < np.float32(LONGEST))
        usable[r] = np.uint8(good)
        bad += np.int32(1) - np.int32(good)
    return bad


@njit("void(f4[::1], f8[::1])", nogil=True, cache=True, error_model="numpy", fastmath=_FLAGS)
def _widen(values, limits):
    """Make limits hold all values."""
    low = high = values[0]
    for r in range(values.size):
        low = min(low, values[r])
        high = max(high, values[r])
    limits[0] = min(limits[0], low)
    limits[1] = max(limits[1], high)


@njit(
    "void(f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f8[:,::1], f8[::1], f4[::1], f4[::1], u1[::1], "
    "f8[::1])",
    nogil=True,
    cache=True,
    error_model="numpy",
)
def place_rows(xpos, ypos, wavelength, data, variance, matrix, origin, x, y, usable, limits):
    """Place every row on the plane of the store and see whether it can be used at all.

    Parameters
    ----------
    xpos, ypos : (n,) float32 [rad]
        Native spherical longitude, and latitude minus pi/2.
    wavelength, data, variance : (n,) float32
    matrix : (3, 3) float64
        Homography from the exposure's tangent plane to that of the store.
    origin : (2,) float64 [arcsec]
        Point of the store's plane from which x and y are counted.
    x, y : (n,) float32, out [arcsec]
        They may be `xpos` and `ypos`.
    usable : (n,) uint8, out
        0 where a coordinate or value is not finite, the variance is negative or the wavelength impossible.
    limits : (6,) float64, in and out
        Smallest and largest x, y and wavelength of the usable rows.
    """
    size = 2048
    xs = np.empty(size)
    ys = np.empty(size)
    for start in range(0, xpos.size, size):
        stop = min(start + size, xpos.size)
        _sky_of(xpos[start:stop], ypos[start:stop], matrix, origin[0], origin[1], xs, ys)
        _narrow(xs, x[start:stop])
        _narrow(ys, y[start:stop])
        bad = _mark_usable(
            x[start:stop],
            y[start:stop],
            wavelength[start:stop],
            data[start:stop],
            variance[start:stop],
            usable[start:stop],
        )
        if bad == 0:
            _widen(x[start:stop], limits[0:2])
            _widen(y[start:stop], limits[2:4])
            _widen(wavelength[start:stop], limits[4:6])
            continue
        for r in range(start, stop):
            if usable[r]:
                for n, value in enumerate((x[r], y[r], wavelength[r])):
                    limits[2 * n] = min(limits[2 * n], value)
                    limits[2 * n + 1] = max(limits[2 * n + 1], value)


@njit(
    "void(f4[::1], f4[::1], f4[::1], u4[::1], u1[::1], f8[::1], f8[::1], i8[::1], i4[::1], i8[::1])",
    nogil=True,
    cache=True,
    error_model="numpy",
)
def assign_keys(x, y, wavelength, dq, usable, origin, lattice, box, key, count):
    """Bin of every row in the lattice of the store.

    Parameters
    ----------
    x, y, wavelength : (n,) float32
    dq : (n,) uint32
    usable : (n,) uint8
    origin : (2,) float64 [arcsec]
    lattice : (4,) float64
        Width and height of a pencil [arcsec]; start and length of the wavelength segments [Angstrom].
    box : (6,) int64
        First segment, row and column, and how many of each.
    key : (n,) int32, out
        ((flagged * segments + segment) * rows + row) * columns + column; -1 for an unusable row or one
        outside of the box.
    count : (2 * segments * rows * columns,) int64, in and out
        Rows of each key.
    """
    width, height, begin, length = lattice
    segments, rows, columns = box[3], box[4], box[5]
    for r in range(x.size):
        segment = np.int64(math.floor((np.float64(wavelength[r]) - begin) / length)) - box[0]
        row = np.int64(math.floor((y[r] + origin[1]) / height)) - box[1]
        column = np.int64(math.floor((x[r] + origin[0]) / width)) - box[2]
        inside = (segment >= 0) & (segment < segments) & (row >= 0) & (row < rows)
        inside &= (column >= 0) & (column < columns) & (usable[r] != 0)
        k = (((dq[r] != 0) * segments + segment) * rows + row) * columns + column
        key[r] = k if inside else -1
    for r in range(x.size):
        if key[r] >= 0:
            count[key[r]] += 1


@njit("void(i4[::1], i8[::1], i4[::1])", nogil=True, cache=True, error_model="numpy")
def find_places(key, start, place):
    """Where a counting sort puts every row; -1 for rows without a key.

    ``start`` (first place of each key) is advanced in place. Rows of one key keep their order. ``place`` may
    be ``key``.
    """
    for r in range(key.size):
        k = key[r]
        if k < 0:
            place[r] = -1
        else:
            place[r] = start[k]
            start[k] += 1


@njit(
    ["void(f4[::1], i4[::1], f4[::1])", "void(u4[::1], i4[::1], u4[::1])"],
    nogil=True,
    cache=True,
    error_model="numpy",
)
def sort_column(values, place, out):
    """Carry one column to its places; one at a time, so that few lines of memory are written to at once."""
    for r in range(place.size):
        if place[r] >= 0:
            out[place[r]] = values[r]


@njit("void(u4[::1], u2[::1])", nogil=True, cache=True, error_model="numpy")
def number_slices(origin, slices):
    """48 * (IFU - 1) + slice, 1 to 1152, from the packed detector pixels."""
    for r in range(origin.size):
        ifu = max((origin[r] >> 6) & 0x1F, 1)
        slices[r] = 48 * (ifu - 1) + (origin[r] & 0x3F)


@njit("void(f4[::1], f4[::1], f8, f8, f4[::1], f4[::1])", nogil=True, cache=True, error_model="numpy")
def strip_extents(x, y, y0, step, lowest, highest):
    """Smallest and largest x in strips of ``step`` along y, from ``y0`` on."""
    for r in range(x.size):
        b = np.int64((y[r] - y0) / step)
        lowest[b] = min(lowest[b], x[r])
        highest[b] = max(highest[b], x[r])


@njit("void(f4[::1], f8, f8, i8, f4[::1], f4[::1], i8[::1])", nogil=True, cache=True, error_model="numpy")
def survey_blocks(wavelength, begin, length, first, lowest, highest, count):
    """Wavelength range of every block of rows, and rows of every segment.

    Parameters
    ----------
    wavelength : (n,) float32 [Angstrom]
        Rows of whole blocks; the last may be shorter.
    begin, length : float [Angstrom]
        Start and length of the segments.
    first : int
        Segment that `count` begins with.
    lowest, highest : (blocks,) float32, out [Angstrom]
        Infinite, the lowest above the highest, where a block holds no number.
    count : (segments,) int64, in and out
        Rows with a possible wavelength in each segment are added.
    """
    size = SURVEY_BLOCK
    for b in range(lowest.size):
        block = wavelength[b * size : (b + 1) * size]
        low, high = np.float32(np.inf), np.float32(-np.inf)
        for value in block:
            low = value if value < low else low
            high = value if value > high else high
        lowest[b], highest[b] = low, high
        for value in block:
            if (value > np.float32(SHORTEST)) & (value < np.float32(LONGEST)):
                count[np.int64(math.floor((np.float64(value) - begin) / length)) - first] += 1
