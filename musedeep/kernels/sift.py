"""Tell by counting which cells surely hold no outlier, so that only the others need exact medians.

The number of values at or below two levels proves where the median of a sample lies, and the smallest
variance bounds its scale from below. What is clean against these bounds is clean against the exact figures:
the sieve changes the time, never the result.
"""

import math

import numpy as np
from numba import njit

from .sample import is_wide, own_rows
from .select import median

__all__ = ["sky_levels", "sum_around", "summarise", "surely_clean"]


@njit(nogil=True, cache=True, error_model="numpy")
def sky_levels(window, first, last, sample):
    """Two levels between which the medians of cells of empty sky should lie, from some rows of planes first
    <= k < last."""
    a = own_rows(window, first, 0, 0)[0]
    b = window.start[((last - window.first) * window.rows) << window.bits]
    step = max((b - a) // 500, 1)
    some = np.empty((b - a) // step + 1, np.float32)
    spread = np.empty((b - a) // step + 1, np.float32)
    n = 0
    for r in range(a, b, step):
        some[n] = window.value[r]
        spread[n] = window.variance[r]
        n += 1
    if n == 0:
        return np.float32(0.0), np.float32(0.0)
    cells = window.rows << window.bits
    filled = 1
    for c in range((first - window.first) * cells, (last - window.first) * cells):
        filled += window.start[c + 1] > window.start[c]
    depth = (b - a) / filled
    depth *= 27.0 if is_wide(sample, depth) else 1.0
    level = median(some, n, 0.0, 1.0)
    width = math.sqrt(median(spread, n, np.float64(spread[0]), 1.0)) * (
        0.15 + 3.5 / math.sqrt(max(depth, 3.0))
    )
    return np.float32(level - width), np.float32(level + width)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def summarise(window, first, last, levels, counts, least, lowest, highest):
    """Of every cell of planes first <= k < last: its rows, values at or below each level, and three extremes.

    Parameters
    ----------
    levels : (q,) float32
    counts : (1 + q, planes * cells) int32, out
    least, lowest, highest : (planes * cells,) float32, out
        Smallest variance, smallest and largest value.
    """
    cells = window.rows << window.bits
    value, variance = window.value, window.variance
    for c in range((first - window.first) * cells, (last - window.first) * cells):
        a, b = window.start[c], window.start[c + 1]
        counts[0, c] = b - a
        for q in range(levels.size):
            n = np.int32(0)
            for r in range(a, b):
                n += np.int32(value[r] <= levels[q])
            counts[1 + q, c] = n
        v_least = np.float32(np.inf)
        v_low = np.float32(np.inf)
        v_high = np.float32(-np.inf)
        for r in range(a, b):
            v_least = min(v_least, variance[r])
            v_low = min(v_low, value[r])
            v_high = max(v_high, value[r])
        least[c] = v_least
        lowest[c] = v_low
        highest[c] = v_high


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def sum_around(window, k, j, direction, counts, least, column, sums, smallest):
    """Summaries of the samples of all cells of a row of cells: of the cells around each.

    First along planes and rows into ``column``, then along the row: nine additions a cell instead of 27.

    Parameters
    ----------
    direction : int
        0: all 27 cells; 1: without those left and right in the own row; 2: without those of the own column.
    counts, least
        From `summarise`.
    column, sums : (1 + q, columns + 2) and (1 + q, columns) int32, out
    smallest : (columns,) float32, out
        Smallest variance of the cells in the same column only.
    """
    column[:] = 0
    smallest[:] = np.inf
    for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
        for jj in range(max(j - 1, 0), min(j + 2, window.rows)):
            if direction == 1 and jj == j:
                continue
            base = ((kk - window.first) * window.rows + jj) << window.bits
            for q in range(counts.shape[0]):
                for i in range(window.columns):
                    column[q, i + 1] += counts[q, base + i]
            for i in range(window.columns):
                smallest[i] = min(smallest[i], least[base + i])
    own = ((k - window.first) * window.rows + j) << window.bits
    middle = np.int32(direction != 2)
    for q in range(counts.shape[0]):
        for i in range(window.columns):
            sums[q, i] = column[q, i] + middle * column[q, i + 1] + column[q, i + 2]
        if direction:
            for i in range(window.columns):
                sums[q, i] += counts[q, own + i]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _counts(value, variance, first, last, low, high):
    """Values <= low, values <= high, and the smallest variance of a run of rows."""
    below = np.int32(0)
    within = np.int32(0)
    smallest = np.float32(np.inf)
    for r in range(first, last):
        below += np.int32(value[r] <= low)
        within += np.int32(value[r] <= high)
        smallest = min(smallest, variance[r])
    return below, within, smallest


@njit(nogil=True, cache=True, error_model="numpy")
def surely_clean(window, k, j, i, rule, guess):
    """Whether no row of a cell can be an outlier, with levels around a guess of its median; and a better
    guess."""
    a, b = own_rows(window, k, j, i)
    reach = 1 if is_wide(rule.sample, b - a) else 0
    left, right = max(i - reach, 0), min(i + reach, window.columns - 1)
    n = 0
    for kk in range(max(k - reach, window.first), min(k + reach + 1, window.last)):
        for jj in range(max(j - reach, 0), min(j + reach + 1, window.rows)):
            n += own_rows(window, kk, jj, right)[1] - own_rows(window, kk, jj, left)[0]
    if n < 3:
        return False, guess
    width = math.sqrt(np.float64(window.variance[a])) * (0.15 + 3.5 / math.sqrt(n))
    low, high = np.float32(guess - width), np.float32(guess + width)
    below = 0
    within = 0
    smallest = np.float32(np.inf)
    for kk in range(max(k - reach, window.first), min(k + reach + 1, window.last)):
        for jj in range(max(j - reach, 0), min(j + reach + 1, window.rows)):
            c = own_rows(window, kk, jj, left)[0], own_rows(window, kk, jj, right)[1]
            found = _counts(window.value, window.variance, c[0], c[1], low, high)
            below += found[0]
            within += found[1]
            smallest = min(smallest, found[2])
    if not (2 * below < n and 2 * within >= n + 2):
        return False, guess
    better = low + (high - low) * (0.5 * n - below) / (within - below)
    floor = math.sqrt(np.float64(smallest))
    clean = True
    for r in range(a, b):
        v = np.float64(window.value[r])
        clean &= (v - low <= rule.high * floor) & (high - v <= rule.low * floor)
    return clean, better
