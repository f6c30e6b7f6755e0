"""Loops of the model of the sky: extents of rows, images of planes, the spectrum of the sky, its lines."""

import numpy as np
from numba import njit

from .reduction import air_index

__all__ = [
    "block_extremes",
    "collapse_planes",
    "extremes",
    "focal_extent",
    "select_sky",
    "sky_extent",
    "spread_lines",
    "sum_spectrum",
]


# Extremes are sought in lanes, which the compiler makes one of vector code; rows are taken in batches.
_LANES, _BATCH = 16, 512


@njit(nogil=True, cache=True, error_model="numpy")
def extremes(values, low, high):
    """Smallest and largest of values, and of `low` and `high`; what is no number is left out.

    Parameters
    ----------
    values : (n,) float32
    low, high : float

    Returns
    -------
    (float32, float32)
    """
    lowest = np.full(_LANES, low, values.dtype)
    highest = np.full(_LANES, high, values.dtype)
    whole = values.size - values.size % _LANES
    for start in range(0, whole, _LANES):
        part = values[start : start + _LANES]
        for n in range(_LANES):
            lowest[n] = part[n] if part[n] < lowest[n] else lowest[n]
            highest[n] = part[n] if part[n] > highest[n] else highest[n]
    for r in range(whole, values.size):
        lowest[0] = values[r] if values[r] < lowest[0] else lowest[0]
        highest[0] = values[r] if values[r] > highest[0] else highest[0]
    for n in range(1, _LANES):
        lowest[0] = min(lowest[0], lowest[n])
        highest[0] = max(highest[0], highest[n])
    return lowest[0], highest[0]


@njit(nogil=True, cache=True, error_model="numpy")
def block_extremes(wavelength, block, lowest, highest):
    """Smallest and largest wavelength of every block of rows.

    Parameters
    ----------
    wavelength : (n,) float32
    block : int
        Rows of a block.
    lowest, highest : (blocks,) float32, out
    """
    for b in range(lowest.size):
        part = wavelength[b * block : min((b + 1) * block, wavelength.size)]
        lowest[b], highest[b] = extremes(part, np.inf, -np.inf)


@njit(nogil=True, cache=True, error_model="numpy")
def focal_extent(wavelength, x, y, dq, good_only, refraction, limits):
    """Widen limits to hold all rows of the focal plane.

    Parameters
    ----------
    wavelength, x, y : (n,) float32 [Angstrom, pixels]
    dq : (n,) uint32
        Not looked at, and may be empty, unless flagged rows do not count.
    good_only : bool
        Flagged rows do not count.
    refraction : (5,) float64
        As for `reduction.refract_rows`.
    limits : (5, 2) float64, in and out
        Smallest and largest x and y as measured, x and y after refraction, wavelength.
    """
    reference, along_x, along_y = refraction[2], refraction[3], refraction[4]
    values = np.empty((5, _BATCH), np.float32)
    for start in range(0, x.size, _BATCH):
        end = min(start + _BATCH, x.size)
        count = end - start
        values[0, :count] = x[start:end]
        values[1, :count] = y[start:end]
        values[4, :count] = wavelength[start:end]
        for r in range(count):
            moved = reference - air_index(np.float64(values[4, r]), refraction)
            values[2, r] = np.float32(np.float64(values[0, r]) + along_x * moved)
            values[3, r] = np.float32(np.float64(values[1, r]) + along_y * moved)
        if good_only:
            for r in range(count):
                if dq[start + r] != 0:
                    values[:, r] = np.nan
        for n in range(5):
            limits[n, 0], limits[n, 1] = extremes(values[n, :count], limits[n, 0], limits[n, 1])


@njit(nogil=True, cache=True, error_model="numpy")
def sky_extent(x, y, unit, dec, limits):
    """Widen limits to hold all rows of the sky.

    Parameters
    ----------
    x, y : (n,) float32
        In the tangent plane of the pointing, to the east and to the north.
    unit : float
        A radian in the units of x and y.
    dec : float [rad]
        Declination of the pointing.
    limits : (2, 2) float64, in and out
        Smallest and largest tangent of the right ascension from the pointing, and sine of the declination.
    """
    sine, cosine, unit = np.sin(dec), np.cos(dec), np.float32(unit)
    values = np.empty((2, _BATCH))
    for start in range(0, x.size, _BATCH):
        east, north = x[start : start + _BATCH], y[start : start + _BATCH]
        for r in range(east.size):
            xi, eta = np.float64(east[r] / unit), np.float64(north[r] / unit)
            values[0, r] = xi / (cosine - eta * sine)
            values[1, r] = (sine + eta * cosine) / np.sqrt(1.0 + xi * xi + eta * eta)
        for n in range(2):
            limits[n, 0], limits[n, 1] = extremes(values[n, : east.size], limits[n, 0], limits[n, 1])


@njit(nogil=True, cache=True, error_model="numpy")
def collapse_planes(sums, throughput, image):
    """Add the planes of a cube to an image.

    Parameters
    ----------
    sums : (planes, rows, columns, 2) float64
        Weight, and weight times value, of every voxel.
    throughput : (planes,) float64
        Weights of the planes.
    image : (rows, columns, 2) float64, in and out
        Sums of the planes' values and of their weights, where they have a value.
    """
    tiny = np.finfo(np.float64).tiny
    for k in range(sums.shape[0]):
        factor = throughput[k]
        if factor == 0.0:
            continue
        for j in range(sums.shape[1]):
            for i in range(sums.shape[2]):
                weight = sums[k, j, i, 0]
                if weight >= tiny:
                    # a cube stores its voxels in single precision
                    image[j, i, 0] += factor * np.float32(sums[k, j, i, 1] / weight)
                    image[j, i, 1] += factor


@njit(nogil=True, cache=True, error_model="numpy")
def select_sky(wavelength, x, y, dq, refraction, mask, place, chosen):
    """Find the rows of the sky.

    Parameters
    ----------
    wavelength, x, y : (n,) float32 [Angstrom, pixels before refraction]
    dq : (n,) uint32
        Flagged rows are left out.
    refraction : (5,) float64
    mask : (rows, columns) bool
    place : (4,) float64
        Pixel of the mask, counted from 0, of x = 0 and y = 0, and pixels for one unit of x and y.
    chosen : (n,) int64, out
        Numbers of the rows.

    Returns
    -------
    int
        How many there are.
    """
    count = 0
    for r in range(x.size):
        if dq[r] != 0:
            continue
        moved = refraction[2] - air_index(np.float64(wavelength[r]), refraction)
        new_x = np.float64(np.float32(np.float64(x[r]) + refraction[3] * moved))
        new_y = np.float64(np.float32(np.float64(y[r]) + refraction[4] * moved))
        i = np.int64(np.floor(place[0] + place[2] * new_x + 0.5))
        j = np.int64(np.floor(place[1] + place[3] * new_y + 0.5))
        if 0 <= i < mask.shape[1] and 0 <= j < mask.shape[0] and mask[j, i]:
            chosen[count] = r
            count += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def sum_spectrum(wavelength, data, variance, first, step, highest, sums):
    """Share rows between the two bins of a spectrum that they lie between.

    Parameters
    ----------
    wavelength, data, variance : (n,) float32
        Rows that are not finite are left out.
    first, step : float
        Wavelength of the first bin, and from bin to bin.
    highest : (bins,) float64
        A row above the one of its nearest bin is left out.
    sums : (bins, 4) float64, in and out
        Sums of weight, and of weight times value, variance and squared value.

    Returns
    -------
    int
        Rows that were left out.
    """
    left_out = 0
    last = sums.shape[0] - 1
    for r in range(wavelength.size):
        value, spread = np.float64(data[r]), np.float64(variance[r])
        at = (np.float64(wavelength[r]) - first) / step
        j = np.int64(np.floor(at))
        if j < 0 or j > last or not np.isfinite(value + spread):
            left_out += 1
            continue
        if value > highest[min(np.int64(np.floor(at + 0.5)), last)]:
            left_out += 1
            continue
        upper = at - j
        lower = 1.0 - upper
        sums[j, 0] += lower
        sums[j, 1] += lower * value
        sums[j, 2] += lower * spread
        sums[j, 3] += lower * value * value
        if j < last:
            sums[j + 1, 0] += upper
            sums[j + 1, 1] += upper * value
            sums[j + 1, 2] += upper * spread
            sums[j + 1, 3] += upper * value * value
    return left_out


@njit(nogil=True, cache=True, error_model="numpy")
def spread_lines(first, step, lines, flux, group, profiles, offset, offset_step, spectra):
    """Add lines to the spectra of their groups.

    Parameters
    ----------
    first, step : float [Angstrom]
        Wavelength of the first bin of the spectra, and from bin to bin.
    lines, flux : (m,) float64
    group : (m,) int64
        Which of the spectra.
    profiles : (m, k) float64
        Profile of each line, linear between its values.
    offset, offset_step : float [Angstrom]
        Of the first value of a profile, and from value to value.
    spectra : (groups, bins) float64, in and out
    """
    count = profiles.shape[1]
    for m in range(lines.size):
        start = np.int64(np.ceil((lines[m] + offset - first) / step))
        for b in range(max(start, 0), spectra.shape[1]):
            at = (first + b * step - lines[m] - offset) / offset_step
            if at > count - 1:
                break
            k = min(np.int64(at), count - 2)
            part = at - k
            spectra[group[m], b] += flux[m] * (profiles[m, k] * (1.0 - part) + profiles[m, k + 1] * part)
