"""Tell by counting which cells surely hold no outlier, so that only the others need exact medians.

A coarse histogram of a sample proves between which levels its median lies, and the smallest
variance bounds its scale from below. What is clean against these bounds is clean against the exact figures:
the sieve changes the time, never the result.
"""

import math

import numpy as np
from numba import njit

from .sample import GAUSSIAN, gather, is_wide, own_rows
from .select import median

__all__ = [
    "count_values",
    "fill_bins",
    "middle_bins",
    "sieve_arrays",
    "sky_bins",
    "sum_around",
    "surely_clean",
]


@njit(nogil=True, cache=True, error_model="numpy")
def sieve_arrays(window, number):
    """Empty arrays for histograms of so many bins: those of the cells and their extremes, as `fill_bins`
    takes them, and those of one row of cells, as `sum_around` does."""
    size, ni = ((window.last - window.first) * window.rows) << window.bits, window.columns
    cells = (
        np.empty((size, number), np.uint16),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
    )
    row = np.empty((ni + 2, number), np.uint16), np.empty((ni, number), np.uint16), np.empty(ni, np.float32)
    return cells, row


@njit(nogil=True, cache=True, error_model="numpy")
def sky_bins(window, first, last, number, width):
    """Bins for the values around the sky: the lower edge of bin 1, and the width of a bin.

    Taken from some rows of planes first <= k < last. ``width`` is in units of the square root of their median
    variance. A quarter of the bins lies below their median: bin 0 takes what lies lower, the last bin what
    lies higher.
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
        return 0.0, 1.0
    level = median(some, n, 0.0, 1.0)
    sigma = math.sqrt(median(spread, n, np.float64(spread[0]), 1.0)) + 1e-30
    return level - 0.25 * number * width * sigma, width * sigma


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def fill_bins(window, first, last, edge, width, bins, least, lowest, highest):
    """Histogram of the values of every cell of planes first <= k < last, and three extremes.

    Parameters
    ----------
    edge, width : float
        From `sky_bins`.
    bins : (planes * cells, n) uint16, out
    least, lowest, highest : (planes * cells,) float32, out
        Smallest variance, smallest and largest value.
    """
    cells = window.rows << window.bits
    value, variance = window.value, window.variance
    most = np.float64(bins.shape[1] - 1)
    inverse = 1.0 / width
    for c in range((first - window.first) * cells, (last - window.first) * cells):
        bins[c] = 0
        v_least = np.float32(np.inf)
        v_low = np.float32(np.inf)
        v_high = np.float32(-np.inf)
        for r in range(window.start[c], window.start[c + 1]):
            v = value[r]
            place = min(max((np.float64(v) - edge) * inverse + 1.0, 0.0), most)
            bins[c, np.int64(place)] += 1
            v_least = min(v_least, variance[r])
            v_low = min(v_low, v)
            v_high = max(v_high, v)
        least[c] = v_least
        lowest[c] = v_low
        highest[c] = v_high


@njit(nogil=True, cache=True, error_model="numpy")
def _add(total, values):
    for q in range(total.size):
        total[q] += values[q]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _lower(least, values):
    for q in range(least.size):
        least[q] = min(least[q], values[q])


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def sum_around(window, k, j, direction, bins, least, column, sums, smallest):
    """Histograms of the samples of all cells of a row of cells: of the cells around each.

    First along planes and rows into ``column``, then along the row: nine additions a cell instead of 27.

    Parameters
    ----------
    direction : int
        0: all 27 cells; 1: without those left and right in the own row; 2: without those of the own column.
    bins, least
        From `fill_bins`.
    column, sums : (columns + 2, n) and (columns, n) uint16, out
    smallest : (columns,) float32, out
        Smallest variance of the cells in the same column only.
    """
    column[:] = 0
    sums[:] = 0
    smallest[:] = np.inf
    n, columns = bins.shape[1], window.columns
    # slices, whose numbers the compiler knows to be in order: it turns these loops into vector code
    flat, total, out = bins.reshape(bins.size), column.reshape(column.size), sums.reshape(sums.size)
    own = total[n : (columns + 1) * n]
    for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
        for jj in range(max(j - 1, 0), min(j + 2, window.rows)):
            if direction == 1 and jj == j:
                continue
            base = ((kk - window.first) * window.rows + jj) << window.bits
            _add(own, flat[base * n : (base + columns) * n])
            _lower(smallest, least[base : base + columns])
    _add(out, total[: columns * n])
    if direction != 2:
        _add(out, own)
    _add(out, total[2 * n :])
    if direction:
        base = ((k - window.first) * window.rows + j) << window.bits
        _add(out, flat[base * n : (base + columns) * n])


@njit(nogil=True, cache=True, error_model="numpy")
def middle_bins(bins, n):
    """Bins of the two middle ones of n values (the same when n is odd)."""
    lower = (n + 1) // 2
    upper = n // 2 + 1
    first = -1
    total = 0
    for b in range(bins.size):
        total += bins[b]
        if first < 0 and total >= lower:
            first = b
        if total >= upper:
            return first, b
    return first, bins.size - 1


@njit(nogil=True, cache=True, error_model="numpy")
def count_values(bins):
    """Number of values in a histogram."""
    n = 0
    for b in range(bins.size):
        n += bins[b]
    return n


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
