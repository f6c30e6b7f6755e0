"""Rows sorted by cell, and the exact statistics of the sample that a cell is judged by."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from .select import median, median_absolute_deviation

__all__ = ["Rule", "Statistics", "Window", "exact", "gather", "is_wide", "own_rows"]

GAUSSIAN = 1.4826  # sigma of a normal distribution over its median absolute deviation
AUTO_DEPTH = 16  # from this many rows on, the own voxel is a good enough sample
_EIGHT = np.uint64(8)


class Window(NamedTuple):
    """Rows of the planes first <= k < last of a box, sorted by cell.

    Attributes
    ----------
    start : ((last - first) * cells + 1,) int32
        First row of every cell, and the end. Cell (k, j, i) is number ((k - first) * rows + j) << bits | i,
        so the rows of neighbours along a row of cells stand next to each other.
    first, last : int
    bits : int
    rows, columns : int
        Cells of a plane.
    value, variance : (n,) float32
    owner : (n,) uint16
        Exposure of every row.
    index : (n,) int32
        Place of every row before it was sorted.
    """

    start: np.ndarray
    first: int
    last: int
    bits: int
    rows: int
    columns: int
    value: np.ndarray
    variance: np.ndarray
    owner: np.ndarray
    index: np.ndarray


class Rule(NamedTuple):
    """The guarded rule in numbers.

    Attributes
    ----------
    low, high : float
        Limits in units of the scale.
    gradient, coherence : float
    keep : int
        Rows that a cell keeps at least.
    passes : int
        How often the statistics are taken.
    sample : int
        1 own voxel, 27 the 27 voxels around, 0 by the depth of the own voxel.
    trails : float
        How far an exposure is off, in units of the scale, where rejected rows take those around along; 0
        for never.
    """

    low: float
    high: float
    gradient: float
    coherence: float
    keep: int
    passes: int
    sample: int
    trails: float


class Statistics(NamedTuple):
    """Figures of the cells of a box, found when they are first needed.

    Attributes
    ----------
    centre, scale : (planes, rows, columns) float64
        Median (NaN of fewer than 3 values) and 1.4826 times the median absolute deviation.
    number : (planes, rows, columns) int32
        Values in the sample; -1 where nothing is known yet.
    """

    centre: np.ndarray
    scale: np.ndarray
    number: np.ndarray


@njit(nogil=True, cache=True, error_model="numpy")
def own_rows(window, k, j, i):
    """First row and end of a cell."""
    c = (((k - window.first) * window.rows + j) << window.bits) + i
    return window.start[c], window.start[c + 1]


@njit(nogil=True, cache=True, error_model="numpy")
def is_wide(sample, depth):
    """Whether the 27 voxels are the sample of a cell that holds so many rows."""
    return sample == 27 or (sample == 0 and depth < AUTO_DEPTH)


@njit(nogil=True, cache=True, error_model="numpy")
def gather(window, k, j, i, wide, column, out):
    """Copy one column of the rows of a sample to ``out``; returns how many.

    Up to seven values more are written, whatever they are.
    """
    reach = 1 if wide else 0
    left, right = max(i - reach, 0), min(i + reach, window.columns - 1)
    start = window.start  # taken out of a tuple, an array costs more than a look into it
    n = np.uint64(0)  # unsigned, an index is taken as it is
    for kk in range(max(k - reach, window.first), min(k + reach + 1, window.last)):
        for jj in range(max(j - reach, 0), min(j + reach + 1, window.rows)):
            base = ((kk - window.first) * window.rows + jj) << window.bits
            a, b = np.uint64(start[base + left]), np.uint64(start[base + right + 1])
            whole = (b - a + _EIGHT - np.uint64(1)) // _EIGHT * _EIGHT
            if a + whole <= np.uint64(column.size):
                # eight at once, however many there are: loops over so few values cost more than copying them
                for r in range(np.uint64(0), whole, _EIGHT):
                    for q in range(8):
                        out[n + r + np.uint64(q)] = column[a + r + np.uint64(q)]
            else:
                for r in range(b - a):
                    out[n + r] = column[a + r]
            n += b - a
    return np.int64(n)


@njit(nogil=True, cache=True, error_model="numpy")
def exact(window, k, j, i, rule, statistics, buffers):
    """Median of the sample of a cell; it, the scale and the number of values are kept in ``statistics``.

    Even numbers take the mean of the two middle values. With several passes, values beyond the limits are
    left out of the next one, and the scale includes its floor, the median variance.
    """
    # apart, so that what is called often is small
    if statistics.number[k, j, i] < 0:
        _find(window, k, j, i, rule, statistics, buffers)
    return statistics.centre[k, j, i]


@njit(nogil=True, cache=True, error_model="numpy")
def _find(window, k, j, i, rule, statistics, buffers):
    """The statistics of the sample of a cell."""
    work, copy, spread = buffers[0], buffers[1], buffers[2]
    a, b = own_rows(window, k, j, i)
    wide = is_wide(rule.sample, b - a)
    n = gather(window, k, j, i, wide, window.value, work)
    m = np.nan
    if n >= 3:
        # a good guess saves time and changes nothing; that of the cell before is good on most of the sky
        guess, width = 0.0, 1.0
        if i > 0 and statistics.number[k, j, i - 1] > 2:
            guess, width = statistics.centre[k, j, i - 1], statistics.scale[k, j, i - 1]
        copy[:n] = work[:n]
        m = median(copy, n, guess, max(2.0 * width / math.sqrt(n), 1e-30))
        copy[:n] = work[:n]
        mad = median_absolute_deviation(copy, n, m, max(width / GAUSSIAN, 1e-30))
        scale = GAUSSIAN * mad
        if rule.passes > 1:
            gather(window, k, j, i, wide, window.variance, spread)
            m, scale, n = _clipped(work, spread, n, rule, m, mad, copy)
        statistics.scale[k, j, i] = scale
    statistics.centre[k, j, i] = m
    statistics.number[k, j, i] = n


@njit(nogil=True, cache=True, error_model="numpy")
def _clipped(sample, spread, n, rule, centre, mad, buffer):
    """Repeat the statistics without the values beyond the limits; returns centre, scale with its floor,
    number."""
    scale = 0.0
    for p in range(rule.passes):
        buffer[:n] = spread[:n]
        floor = median(buffer, n, np.float64(spread[0]), 0.1 * np.float64(spread[0]) + 1e-30)
        scale = max(GAUSSIAN * mad, math.sqrt(floor))
        if p == rule.passes - 1:
            break
        kept = 0
        for r in range(n):
            d = np.float64(sample[r]) - centre
            if -rule.low * scale <= d <= rule.high * scale:
                sample[kept] = sample[r]
                spread[kept] = spread[r]
                kept += 1
        if kept == n or kept < 3:
            break
        n = kept
        buffer[:n] = sample[:n]
        centre = median(buffer, n, centre, 0.2 * scale)
        buffer[:n] = sample[:n]
        mad = median_absolute_deviation(buffer, n, centre, mad)
    return centre, scale, n
