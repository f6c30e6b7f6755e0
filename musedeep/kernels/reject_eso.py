"""The peer's outlier rejection on rows sorted by cell."""

import math

import numpy as np
from numba import njit

from .reject import MOST_COUNTED, REJECTED
from .sample import own_rows
from .select import median, median_absolute_deviation
from .sift import bin_edges, fill_bins, find_middle, new_sieve, sky_bins, sum_around

__all__ = ["judge_eso"]

# Bins of the sieve: how many lie below the sky, their width in units of the noise of a row, and their number.
# All are even: a bound of the deviation is needed too.
_BELOW, _WIDTH, _NUMBER = 8, 0.25, 32


@njit(nogil=True, cache=True, error_model="numpy")
def judge_eso(window, first, last, edge, direction, kind, crsigma, state, rejected, buffers):
    """Mark every row above the peer's limit of its cell, for planes first <= k < last.

    As in `reject.judge_guarded`, counts prove for most cells that the limit lies above all their rows; see
    there for the other parameters.

    Parameters
    ----------
    direction : int
        0: all 27 cells; 1: of its own row (slices along x) only the cell itself; 2: the same for its column.
    kind : int
        0: median + crsigma * median absolute deviation (no factor 1.4826); 1: mean + crsigma * sample
        standard deviation; 2: mean + crsigma * error of the mean from the variances.
    """
    if first >= last:
        return
    nj, ni = window.rows, window.columns
    quick = kind == 0 and buffers.shape[1] < MOST_COUNTED
    sieve = new_sieve(window, _NUMBER)
    below, above = max(first - 1, window.first), min(last + 1, window.last)
    bins = sky_bins(window, below, above, _BELOW, _WIDTH, _NUMBER, _NUMBER)
    edges = bin_edges(bins)[0]
    if quick:
        fill_bins(window, below, above, bins, sieve)
    level, deviation = 0.0, 1.0
    for k in range(first, last):
        for j in range(edge, nj - edge):
            if quick:
                sum_around(window, k, j, direction, sieve)
                find_middle(sieve)
            highest = sieve.highest[(k - window.first) * nj + j]
            for i in range(edge, ni - edge):
                a, b = own_rows(window, k, j, i)
                if a == b:
                    continue
                if quick and _surely_below(sieve, i, highest[i], edges, bins, crsigma):
                    continue
                exact_limit, level, deviation = _eso_limit(
                    window, k, j, i, direction, kind, crsigma, level, deviation, buffers
                )
                count = 0
                for r in range(a, b):
                    if window.value[r] > exact_limit and state[window.index[r]] == 0:
                        state[window.index[r]] = REJECTED
                        count += 1
                rejected[k, j, i] = count


@njit(nogil=True, cache=True, error_model="numpy")
def _surely_below(sieve, i, highest, edges, bins, crsigma):
    """Whether the peer's limit surely lies above the highest value, told from the histogram of the sample.

    The median lies in the bins of the middle values. Where these and ``reach`` bins on each side hold less
    than half of the values, half of them deviate by more than ``reach`` bins.
    """
    column = i + 1
    n, first, last = (
        np.int64(sieve.count[column]),
        np.int64(sieve.first[column]),
        np.int64(sieve.last[column]),
    )
    if n < 3 or first == 0 or last == _NUMBER - 1:
        return False
    near = 0
    for b in range(first, last + 1):
        near += sieve.sums[b, column]
    # values at the edges may have been rounded into the bins beside their own
    margin = 2e-6 * (abs(bins.start) + _NUMBER * bins.width)
    reach = 0
    while highest > edges[first] + crsigma * (reach * bins.width - margin):
        if first - reach <= 1 or last + reach >= _NUMBER - 2:
            return False
        near += sieve.sums[first - reach - 1, column] + sieve.sums[last + reach + 1, column]
        if 2 * near >= n:
            return False
        reach += 1
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def _eso_limit(window, k, j, i, direction, kind, crsigma, guess, width, buffers):
    """The peer's upper limit of a cell, infinite for a sample of fewer than 3 values; and its level and
    deviation."""
    work, copy = buffers[0], buffers[1]
    n = 0
    total = 0.0
    spread = 0.0
    for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
        for jj in range(max(j - 1, 0), min(j + 2, window.rows)):
            for ii in range(max(i - 1, 0), min(i + 2, window.columns)):
                own = kk == k and jj == j and ii == i
                if (direction == 1 and jj == j and not own) or (direction == 2 and ii == i and not own):
                    continue
                a, b = own_rows(window, kk, jj, ii)
                for r in range(a, b):
                    work[n] = window.value[r]
                    total += window.value[r]
                    spread += window.variance[r]
                    n += 1
    if n < 3:
        return np.inf, guess, width
    if kind == 0:
        copy[:n] = work[:n]
        level = median(copy, n, guess, max(0.5 * width, 1e-30))
        deviation = median_absolute_deviation(work, n, level, max(width, 1e-30))
        return level + crsigma * deviation, level, deviation
    level = total / n
    if kind == 1:
        squares = 0.0
        for r in range(n):
            squares += (work[r] - level) ** 2
        deviation = math.sqrt(squares / (n - 1))
    else:
        deviation = math.sqrt(spread) / n
    return level + crsigma * deviation, level, deviation
