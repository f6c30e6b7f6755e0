"""Tell by counting which cells surely hold no outlier, so that only the others need exact medians.

A coarse histogram of a sample proves between which levels its median lies, and the smallest
variance bounds its scale from below. What is clean against these bounds is clean against the exact figures:
the sieve changes the time, never the result. Histograms of a row of cells lie bin by bin, so that loops over
the cells become vector code.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from .sample import GAUSSIAN, gather, is_wide, own_rows
from .select import median

__all__ = [
    "Bins",
    "Sieve",
    "bin_edges",
    "fill_bins",
    "find_middle",
    "new_sieve",
    "sky_bins",
    "sum_around",
    "surely_clean",
]


class Bins(NamedTuple):
    """Which values a bin takes.

    Bin 0 takes those below ``start``, and bins 1, 2, ... one ``width`` each. From bin ``even`` on, a power of
    two, two bins double the distance from the start. The last of ``number`` bins takes all that is higher.
    """

    start: float
    width: float
    even: int
    number: int


class Sieve(NamedTuple):
    """Histograms of the cells of the planes of a window, and what is made of them for one row of cells.

    Where there are two columns more than cells, the first cell is at 1, and what is beside the cells is 0.

    Attributes
    ----------
    bins : (planes * rows, bins, columns + 2) uint16
    least, lowest, highest : (planes * rows, columns) float32
        Smallest variance, smallest and largest value of every cell.
    sums : (bins, columns + 2) uint16
        Histograms of the samples.
    smallest : (columns,) float32
        Smallest variances of the samples.
    count, first, last : (columns + 2,) uint16
        Number of values of the samples, and the bins of the two middle ones.
    total, total_least : (3, bins * (columns + 2)) uint16 and (3, columns + 2) float32
        Sums and smallest variances over the planes around, of rows of cells that were asked for last.
    held : (3,) int64
        Which rows these are.
    """

    bins: np.ndarray
    least: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    sums: np.ndarray
    smallest: np.ndarray
    count: np.ndarray
    first: np.ndarray
    last: np.ndarray
    total: np.ndarray
    total_least: np.ndarray
    held: np.ndarray


@njit(nogil=True, cache=True, error_model="numpy")
def new_sieve(window, number):
    """An empty `Sieve` for a window and so many bins."""
    size, ni = (window.last - window.first) * window.rows, window.columns
    return Sieve(
        np.empty((size, number, ni + 2), np.uint16),
        np.empty((size, ni), np.float32),
        np.empty((size, ni), np.float32),
        np.empty((size, ni), np.float32),
        np.empty((number, ni + 2), np.uint16),
        np.empty(ni, np.float32),
        np.empty(ni + 2, np.uint16),
        np.empty(ni + 2, np.uint16),
        np.empty(ni + 2, np.uint16),
        np.empty((3, number * (ni + 2)), np.uint16),
        np.empty((3, ni + 2), np.float32),
        np.full(3, -1),
    )


@njit(nogil=True, cache=True, error_model="numpy")
def sky_bins(window, first, last, below, width, even, number):
    """`Bins` for the values around the sky.

    Taken from some rows of planes first <= k < last: so many bins lie ``below`` their median, and ``width``
    is in units of the square root of their median variance.
    """
    cells = window.rows << window.bits
    a, b = window.start[(first - window.first) * cells], window.start[(last - window.first) * cells]
    step = max((b - a) // 500, 1)
    some = np.empty((b - a) // step + 1, np.float32)
    spread = np.empty((b - a) // step + 1, np.float32)
    n = 0
    for r in range(a, b, step):
        some[n] = window.value[r]
        spread[n] = window.variance[r]
        n += 1
    if n == 0:
        return Bins(0.0, 1.0, even, number)
    level = median(some, n, 0.0, 1.0)
    sigma = math.sqrt(median(spread, n, np.float64(spread[0]), 1.0)) + 1e-30
    return Bins(level - below * width * sigma, width * sigma, even, number)


@njit(nogil=True, cache=True, error_model="numpy")
def bin_edges(rule):
    """Bounds of the values of every bin, with a margin for what is rounded when they are put into bins."""
    low, high = np.full(rule.number, -np.inf), np.full(rule.number, np.inf)
    for b in range(1, rule.number):
        place = np.float64(b)
        if b > rule.even:
            half = b - rule.even
            place = rule.even * 2.0 ** (half // 2) * (1.5 if half % 2 else 1.0)
        edge = rule.start + (place - 1.0) * rule.width
        margin = 1e-6 * (abs(rule.start) + place * rule.width)
        low[b], high[b - 1] = edge - margin, edge + margin
    return low, high


@njit(nogil=True, cache=True, error_model="numpy")
def _place(value, rule, place):
    """Bins of values."""
    even = np.float32(rule.even)
    # of a float32, bits 22 and up are the exponent and half a doubling
    offset = np.int32(rule.even) - (even.view(np.int32) >> np.int32(22))
    inverse, start = 1.0 / rule.width, rule.start
    for r in range(value.size):
        t = np.float32((np.float64(value[r]) - start) * inverse + 1.0)
        t = min(max(t, np.float32(0.0)), np.float32(1e9))
        b = np.int32(t) if t < even else (np.float32(t).view(np.int32) >> np.int32(22)) + offset
        place[r] = max(min(b, np.int32(rule.number - 1)), np.int32(0))


@njit(nogil=True, cache=True, error_model="numpy")
def fill_bins(window, first, last, rule, sieve):
    """Fill the histograms and extremes of the cells of planes first <= k < last."""
    start, value, variance = window.start, window.value, window.variance
    ni = window.columns
    most = 0
    for row in range((first - window.first) * window.rows, (last - window.first) * window.rows):
        most = max(most, start[(row << window.bits) + ni] - start[row << window.bits])
    places = np.empty(most, np.int32)
    for row in range((first - window.first) * window.rows, (last - window.first) * window.rows):
        base = row << window.bits
        begin, end = start[base], start[base + ni]
        _place(value[begin:end], rule, places)
        bins = sieve.bins[row]
        bins[:] = 0
        least, lowest, highest = sieve.least[row], sieve.lowest[row], sieve.highest[row]
        for i in range(ni):
            v_least = np.float32(np.inf)
            v_low = np.float32(np.inf)
            v_high = np.float32(-np.inf)
            for r in range(np.uint64(start[base + i]), np.uint64(start[base + i + 1])):
                bins[np.uint64(places[r - np.uint64(begin)]), np.uint64(i + 1)] += 1
                v, s = value[r], variance[r]
                v_least = s if s < v_least else v_least
                v_low = v if v < v_low else v_low
                v_high = v if v > v_high else v_high
            least[i], lowest[i], highest[i] = v_least, v_low, v_high


@njit(nogil=True, cache=True, error_model="numpy")
def _add(total, values):
    for q in range(total.size):
        total[q] += values[q]


@njit(nogil=True, cache=True, error_model="numpy")
def _lower(least, values):
    for q in range(least.size):
        least[q] = values[q] if values[q] < least[q] else least[q]


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_planes(window, k, j, sieve):
    """Sums over the planes around of a row of cells, unless they are there; returns their place."""
    place, wanted = j % 3, k * window.rows + j
    if sieve.held[place] != wanted:
        sieve.held[place] = wanted
        total, least = sieve.total[place], sieve.total_least[place]
        total[:] = 0
        least[:] = np.inf
        for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
            row = (kk - window.first) * window.rows + j
            _add(total, sieve.bins[row].reshape(total.size))
            _lower(least[1 : window.columns + 1], sieve.least[row])
    return place


@njit(nogil=True, cache=True, error_model="numpy")
def sum_around(window, k, j, direction, sieve):
    """Histograms of the samples of all cells of a row of cells, of the cells around each, and the smallest
    variance among them.

    First along planes, then along columns of cells, then along the row: seven additions a cell instead of 27.

    Parameters
    ----------
    direction : int
        0: all 27 cells; 1: without those left and right in the own row; 2: without those of the own column.
    """
    ni, size = window.columns, sieve.total.shape[1]
    smallest, sums = sieve.smallest, sieve.sums.reshape(size)
    beside, beside_least = np.zeros(size, np.uint16), np.full(ni + 2, np.float32(np.inf))
    for jj in range(max(j - 1, 0), min(j + 2, window.rows)):
        if direction == 1 and jj == j:
            continue
        place = _sum_planes(window, k, jj, sieve)
        _add(beside, sieve.total[place])
        _lower(beside_least, sieve.total_least[place])
    # columns that are no cells receive what is of no use
    sums[:] = 0
    _add(sums[1:], beside[: size - 1])
    _add(sums[: size - 1], beside[1:])
    if direction != 2:
        _add(sums, beside)
    if direction:
        _add(sums, sieve.bins[(k - window.first) * window.rows + j].reshape(size))
    smallest[:] = np.inf
    _lower(smallest, beside_least[:ni])
    _lower(smallest, beside_least[1 : ni + 1])
    _lower(smallest, beside_least[2:])


@njit(nogil=True, cache=True, error_model="numpy")
def find_middle(sieve):
    """Number of values of the histograms ``sums``, and the bins of their two middle ones (the same when it is
    odd), into ``count``, ``first`` and ``last``."""
    sums, count, first, last = sieve.sums, sieve.count, sieve.first, sieve.last
    count[:] = 0
    first[:] = 0
    last[:] = 0
    for b in range(sums.shape[0]):
        _add(count, sums[b])
    total = np.zeros(count.size, np.uint16)
    for b in range(sums.shape[0]):
        row = sums[b]
        for i in range(count.size):
            t = np.uint16(total[i] + row[i])
            total[i] = t
            half = np.uint16(count[i] >> np.uint16(1))
            first[i] += np.uint16(t < np.uint16(count[i] - half))
            last[i] += np.uint16(t <= half)


@njit(nogil=True, cache=True, error_model="numpy")
def _count_steps(values, n, low, step):
    """Seven levels, so many steps above ``low``, and how many values are not above each of them."""
    t1, t2, t3 = low + step, low + np.float32(2) * step, low + np.float32(3) * step
    t4, t5, t6 = low + np.float32(4) * step, low + np.float32(5) * step, low + np.float32(6) * step
    t7 = low + np.float32(7) * step
    c1 = c2 = c3 = c4 = c5 = c6 = c7 = np.int32(0)
    for r in range(n):
        v = values[r]
        c1 += np.int32(v <= t1)
        c2 += np.int32(v <= t2)
        c3 += np.int32(v <= t3)
        c4 += np.int32(v <= t4)
        c5 += np.int32(v <= t5)
        c6 += np.int32(v <= t6)
        c7 += np.int32(v <= t7)
    return (t1, t2, t3, t4, t5, t6, t7), (c1, c2, c3, c4, c5, c6, c7)


@njit(nogil=True, cache=True, error_model="numpy")
def _count_between(values, n, low, high):
    total = np.int32(0)
    for r in range(n):
        total += np.int32((values[r] >= low) & (values[r] <= high))
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def surely_clean(window, k, j, i, rule, lowest, highest, work):
    """Whether no row of a cell can be an outlier, told from counts within its sample.

    The median is sought around ``lowest`` and ``highest``, the extremes of the cell's own values. If one of
    these were an outlier, the scale would be small against its distance from the median, and so half of the
    sample would lie in a narrow range around the median.
    """
    a, b = own_rows(window, k, j, i)
    n = gather(window, k, j, i, is_wide(rule.sample, b - a), window.value, work)
    if n < 3:
        return False
    whole = (n + 15) & ~15  # no count has to end with single values
    work[n:whole] = np.inf
    extent = highest - lowest
    bottom, step = lowest - np.float32(0.5) * extent, np.float32(0.25) * extent
    low, high = -np.inf, np.inf  # between them lie the two middle values
    for _ in range(2):
        levels, counts = _count_steps(work, whole, bottom, step)
        for q in range(7):
            if 2 * counts[q] < n:
                low = np.float64(levels[q])
            if 2 * counts[6 - q] > n:
                high = np.float64(levels[6 - q])
        # the scale that would be just enough; all that is rounded is rounded to the safe side
        reach = max((np.float64(highest) - low) / rule.high, (high - np.float64(lowest)) / rule.low)
        reach *= 1.00001 / GAUSSIAN
        margin = 1e-6 * (abs(low) + abs(high) + reach)
        near = _count_between(
            work, whole, np.float32(low - reach - margin), np.float32(high + reach + margin)
        )
        if 2 * near < n:
            return True
        if not math.isfinite(high - low):
            return False
        # the rest of the bracket may have been what spoilt it
        bottom, step = np.float32(low), np.float32((high - low) / 8.0)
    return False
