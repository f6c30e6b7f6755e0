"""Loops over the pixels of a detector: from counts of the read-out to rows of a pixel table.

Values pass through float32 where ESO's recipe stores an image or a column between two steps, so that both
give the same bits.
"""

import numpy as np
from numba import njit

__all__ = ["bin_pixels", "calibrate_lines", "count_rows", "fill_rows", "flatten_rows", "wavelength_ends"]

_SATURATED = np.uint32(0x1000)
_HIGHEST, _TINY = 65500, np.float32(1.17549435e-38)
_SHORTEST, _LONGEST = 3000.0, 11000.0


@njit(nogil=True, cache=True, error_model="numpy")
def calibrate_lines(
    counts, levels, gains, bias, bias_variance, dark, dark_variance, dark_share, flat, flat_variance, data,
    variance, dq,
):  # fmt: skip
    """Turn lines of a detector into electrons, divided by the flat field.

    Overscan, bias and dark are subtracted on the way.

    Parameters
    ----------
    counts : (lines, columns) uint16
    levels : (2, lines) float64
        Overscan of the left and of the right half.
    gains : (2, lines) float64
        Electrons for one count.
    bias, bias_variance : (lines, columns) float32
    dark, dark_variance : (lines, columns) float32
        Without lines to leave that out.
    dark_share : float
        Exposure time over that of the dark.
    flat, flat_variance : (lines, columns) float32
    data, variance : (lines, columns) float32, out
    dq : (lines, columns) uint32, in and out

    Returns
    -------
    int
        Saturated pixels.
    """
    saturated = 0
    half = counts.shape[1] // 2
    for y in range(counts.shape[0]):
        for side in range(2):
            level, gain = levels[side, y], gains[side, y]
            for x in range(side * half, (side + 1) * half):
                if counts[y, x] > _HIGHEST or counts[y, x] == 0:
                    dq[y, x] |= _SATURATED
                    saturated += 1
                value = np.float32(np.float64(counts[y, x]) - level) - bias[y, x]
                spread = np.float32(np.float64(max(value, _TINY)) / gain) + bias_variance[y, x]
                value = np.float32(np.float64(value) * gain)
                spread = np.float32(np.float64(spread) * (gain * gain))
                if dark.shape[0] > 0:
                    value -= np.float32(np.float64(dark[y, x]) * dark_share)
                    spread += np.float32(np.float64(dark_variance[y, x]) * (dark_share * dark_share))
                f = flat[y, x]
                spread = (spread + value * value * flat_variance[y, x] / (f * f)) / (f * f)
                data[y, x] = value / f
                variance[y, x] = spread
    return saturated


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _wavelength(powers, y, x):
    """Wavelength of a pixel as it is stored; powers (order + 1, lines) are those of the column."""
    value = powers[powers.shape[0] - 1, y]
    for i in range(powers.shape[0] - 2, -1, -1):
        value = value * x + powers[i, y]
    return np.float32(value)


@njit(nogil=True, cache=True, error_model="numpy")
def count_rows(left, right, powers, shift, low, high):
    """Count the pixels of a slice in a range of wavelengths.

    Parameters
    ----------
    left, right : (lines,) float64
        Edges of the slice, 1-based columns.
    powers : (order + 1, lines) float64
        Coefficients of the wavelength over powers of the 1-based column.
    shift : float [Angstrom]
        Added to all wavelengths.
    low, high : float [Angstrom]
        Both ends belong to the range.

    Returns
    -------
    int
    """
    count = 0
    for y in range(left.size):
        for x in range(int(np.ceil(left[y])), int(np.floor(right[y])) + 1):
            w = _wavelength(powers, y, x)
            if not _SHORTEST < w < _LONGEST:
                continue
            w = np.float32(np.float64(w) + shift)
            if low <= w <= high:
                count += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def fill_rows(
    left, right, powers, shift, low, high, place, offset, mark, data, variance, dq, xpos, ypos, wavelength,
    values, spreads, flags, origins,
):  # fmt: skip
    """Make rows of the pixels of a slice in a range of wavelengths, in the order of lines and columns.

    Parameters
    ----------
    left, right, powers, shift, low, high
        As for `count_rows`.
    place : (5,) float64
        Middle of the slice in the focal plane, x and y, its length there [pixels], and cosine and sine of its
        angle.
    offset : int
        Column from which origins count.
    mark : int
        IFU and slice, packed as in an origin.
    data, variance : (lines, columns) float32
    dq : (lines, columns) uint32
        Without lines where values are not asked for.
    xpos, ypos, wavelength, values, spreads : (n,) float32, out
    flags, origins : (n,) uint32, out
        n is what `count_rows` counts.
    """
    r = 0
    for y in range(left.size):
        a, b = left[y], right[y]
        middle, scale = (a + b) / 2, place[2] / (b - a)
        for x in range(int(np.ceil(a)), int(np.floor(b)) + 1):
            w = _wavelength(powers, y, x)
            if not _SHORTEST < w < _LONGEST:
                continue
            w = np.float32(np.float64(w) + shift)
            if not low <= w <= high:
                continue
            along = np.float64(np.float32((middle - x) * scale))
            xpos[r] = np.float32(place[0] + along * place[3])
            ypos[r] = np.float32(place[1] + along * place[4])
            wavelength[r] = w
            if data.shape[0] > 0:
                values[r] = data[y, x - 1]
                spreads[r] = variance[y, x - 1]
                flags[r] = dq[y, x - 1]
            origins[r] = np.uint32(((x - offset) & 0x7F) << 24 | (y + 1) << 11 | mark)
            r += 1


@njit(nogil=True, cache=True, error_model="numpy")
def wavelength_ends(left, right, powers):
    """Shortest and longest wavelength of the pixels of a slice; parameters as for `count_rows`."""
    shortest, longest = np.float32(np.inf), np.float32(-np.inf)
    for y in range(left.size):
        for x in range(int(np.ceil(left[y])), int(np.floor(right[y])) + 1):
            w = _wavelength(powers, y, x)
            if _SHORTEST < w < _LONGEST:
                shortest, longest = min(shortest, w), max(longest, w)
    return shortest, longest


@njit(nogil=True, cache=True, error_model="numpy")
def bin_pixels(left, right, powers, data, dq, first, step, sums, weights):
    """Add the good pixels of a slice to the two bins of a spectrum that they lie between, by their nearness.

    Parameters
    ----------
    left, right, powers
        As for `count_rows`.
    data : (lines, columns) float32
    dq : (lines, columns) uint32
    first, step : float [Angstrom]
        Middle of the first bin, and from bin to bin.
    sums, weights : (bins,) float64, in and out
    """
    for y in range(left.size):
        for x in range(int(np.ceil(left[y])), int(np.floor(right[y])) + 1):
            w = _wavelength(powers, y, x)
            if dq[y, x - 1] != 0 or not _SHORTEST < w < _LONGEST:
                continue
            at = (np.float64(w) - first) / step
            k = int(np.floor(at))
            part = at - k
            value = np.float64(data[y, x - 1])
            if 0 <= k < sums.size:
                sums[k] += (1.0 - part) * value
                weights[k] += 1.0 - part
            if 0 <= k + 1 < sums.size:
                sums[k + 1] += part * value
                weights[k + 1] += part


@njit(nogil=True, cache=True, error_model="numpy")
def flatten_rows(xpos, ypos, wavelength, values, spreads, cube, origin, inverse, first, step):
    """Divide rows by the twilight: that of the nearest spatial pixel, between two of its planes.

    Parameters
    ----------
    xpos, ypos, wavelength : (n,) float32
    values, spreads : (n,) float32, in and out
    cube : (planes, rows, columns) float32
    origin : (4,) float64
        Reference pixel (x, y; 1-based) and the focal-plane coordinates there.
    inverse : (2, 2) float64
        Pixels of the cube for one pixel of the focal plane.
    first, step : float [Angstrom]
        Of the planes.
    """
    planes, height, width = cube.shape
    for r in range(values.size):
        u, v = np.float64(xpos[r]) - origin[2], np.float64(ypos[r]) - origin[3]
        x = int(np.floor(origin[0] + inverse[0, 0] * u + inverse[0, 1] * v + 0.5)) - 1
        y = int(np.floor(origin[1] + inverse[1, 0] * u + inverse[1, 1] * v + 0.5)) - 1
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        at = min(max((np.float64(wavelength[r]) - first) / step, 0.0), planes - 1.0)
        k = min(int(at), max(planes - 2, 0))
        part = at - k
        factor = np.float64(cube[k, y, x])
        if part > 0.0:
            factor += part * (np.float64(cube[k + 1, y, x]) - factor)
        values[r] = np.float32(np.float64(values[r]) / factor)
        spreads[r] = np.float32(np.float64(spreads[r]) / (factor * factor))
