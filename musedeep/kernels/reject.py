"""Outlier rejection on rows sorted by cell: the guarded rule."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from .sample import exact, gather, is_wide, own_rows
from .select import median
from .sift import bin_edges, fill_bins, find_middle, new_sieve, sky_bins, sum_around, surely_clean

__all__ = ["MOST_COUNTED", "REJECTED", "judge_guarded"]

REJECTED = 2
# A point source that is sharper in one exposure deviates most at its peak: by up to so many times the upper
# quartile of the deviations around.
PEAK = 3.0
# Bins of the sieve: how many lie below the sky, their width in units of the noise of a row, their number, and
# how many are even. Where samples are wide, the others reach to bright sources, where bounds save most.
_BELOW, _WIDTH, _NUMBER = 4, 0.25, 16
_EVEN_WIDE, _EVEN_OWN = 8, 16
MOST_COUNTED = 1 << 16  # values of a sample that the counts of a histogram hold


class Bounds(NamedTuple):
    """Bounds of the medians of the cells of some planes; infinite where nothing is known.

    Attributes
    ----------
    first : int
        First plane.
    low, high : (planes, rows, columns) float64
    """

    first: int
    low: np.ndarray
    high: np.ndarray


@njit(nogil=True, cache=True, error_model="numpy")
def judge_guarded(window, first, last, edge, rule, statistics, state, rejected, buffers):
    """Mark the outliers of planes first <= k < last in ``state`` and count them per cell in ``rejected``.

    A row is compared with the median of its sample. Finding all medians exactly would take most of the time,
    so the cells are sifted first (see `sift`); what remains is judged by the exact figures.

    Parameters
    ----------
    window : Window
    first, last : int
    edge : int
        Cells nearer to the border of the box are left alone: their rows reach no voxel of it.
    rule : Rule
    statistics : Statistics
        Kept from call to call.
    state : uint8, out
    rejected : (planes, rows, columns) int32, out
    buffers : (5, 27 * most rows of a cell) float32
    """
    if first >= last:
        return
    nj, ni = window.rows, window.columns
    quick = rule.passes <= 1 and buffers.shape[1] < MOST_COUNTED
    # rows are compared with those of the planes beside their own, too
    below, above = max(first - 1, window.first), min(last + 1, window.last)
    low, high = np.full((above - below, nj, ni), -np.inf), np.full((above - below, nj, ni), np.inf)
    doubtful = np.ones((above - below, nj, ni), np.bool_)
    bounds = Bounds(below, low, high)
    if quick:
        _sift(window, below, above, edge, rule, bounds, doubtful)
    guess = 0.0
    for k in range(first, last):
        for j in range(edge, nj - edge):
            for i in range(edge, ni - edge):
                if not doubtful[k - below, j, i]:
                    continue
                a, b = own_rows(window, k, j, i)
                if a == b:
                    continue
                lowest, highest = low[k - below, j, i], high[k - below, j, i]
                if quick:
                    smallest, largest = _extremes_of(window.value, a, b)
                    if surely_clean(window, k, j, i, rule, smallest, largest, buffers[0]):
                        continue
                    if not (math.isinf(lowest) or math.isinf(highest)):
                        guess = 0.5 * (lowest + highest)
                guess = _judge_cell(
                    window, k, j, i, rule, statistics, state, rejected, bounds, guess, buffers
                )


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _extremes_of(value, first, last):
    """Smallest and largest value of some rows."""
    smallest, largest = value[first], value[first]
    for r in range(first, last):
        smallest, largest = min(smallest, value[r]), max(largest, value[r])
    return smallest, largest


@njit(nogil=True, cache=True, error_model="numpy")
def _sift(window, first, last, edge, rule, bounds, doubtful):
    """Find bounds of the medians of the cells of planes first <= k < last, and mark the cells whose rows are
    not surely clean."""
    nj, ni = window.rows, window.columns
    sieve = new_sieve(window, _NUMBER)
    below, above = max(first - 1, window.first), min(last + 1, window.last)
    depth = window.start[-1] // max((window.last - window.first) * nj * ni, 1)
    even = _EVEN_WIDE if is_wide(rule.sample, depth) else _EVEN_OWN
    bins = sky_bins(window, below, above, _BELOW, _WIDTH, even, _NUMBER)
    edges_below, edges_above = bin_edges(bins)
    fill_bins(window, below, above, bins, sieve)
    for k in range(first, last):
        low, high = bounds.low[k - first], bounds.high[k - first]
        for j in range(max(edge - 2, 0), min(nj - edge + 2, nj)):
            row = (k - window.first) * nj + j
            depths = window.start[row << window.bits :]
            _sum_samples(window, k, j, depths, rule.sample, sieve)
            find_middle(sieve)
            lowest, highest = sieve.lowest[row], sieve.highest[row]
            for i in range(ni):
                if sieve.count[i + 1] >= 3:
                    low[j, i] = edges_below[sieve.first[i + 1]]
                    high[j, i] = edges_above[sieve.last[i + 1]]
                sigma = math.sqrt(np.float64(sieve.smallest[i]))
                doubtful[k - first, j, i] = depths[i + 1] > depths[i] and not (
                    np.float64(highest[i]) - low[j, i] <= rule.high * sigma
                    and high[j, i] - np.float64(lowest[i]) <= rule.low * sigma
                )


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_samples(window, k, j, depths, sample, sieve):
    """Histograms of the samples of a row of cells, be they the own cells or those around."""
    ni = window.columns
    row = (k - window.first) * window.rows + j
    wide = 0
    for i in range(ni):
        wide += is_wide(sample, depths[i + 1] - depths[i])
    if wide:
        sum_around(window, k, j, 0, sieve)
    if wide < ni:
        for i in range(ni):
            if not is_wide(sample, depths[i + 1] - depths[i]):
                sieve.smallest[i] = sieve.least[row, i]
        for b in range(sieve.sums.shape[0]):
            own, sums = sieve.bins[row, b], sieve.sums[b]
            for i in range(ni):
                if not is_wide(sample, depths[i + 1] - depths[i]):
                    sums[i + 1] = own[i + 1]


@njit(nogil=True, cache=True, error_model="numpy")
def _slack(bounds, k, j, i):
    """Bound of the differences between the medians of the 5 x 5 spaxels around."""
    low, high = bounds.low[k - bounds.first], bounds.high[k - bounds.first]
    smallest = np.inf
    largest = -np.inf
    for jj in range(max(j - 2, 0), min(j + 3, low.shape[0])):
        for ii in range(max(i - 2, 0), min(i + 3, low.shape[1])):
            smallest = min(smallest, low[jj, ii])
            largest = max(largest, high[jj, ii])
    return largest - smallest


@njit(nogil=True, cache=True, error_model="numpy")
def _steepest(bounds, k, j, i, median):
    """Bound of the largest difference of the median to those of the four spatial neighbours."""
    low, high = bounds.low[k - bounds.first], bounds.high[k - bounds.first]
    most = 0.0
    for step in range(4):
        jj, ii = j + (step == 0) - (step == 1), i + (step == 2) - (step == 3)
        if 0 <= jj < low.shape[0] and 0 <= ii < low.shape[1]:
            most = max(most, high[jj, ii] - median, median - low[jj, ii])
    return most


@njit(nogil=True, cache=True, error_model="numpy")
def _surely_apart(window, k, j, i, exposure, sign, limit, bounds):
    """Whether `_is_coherent` is surely false, told from the bounds of the medians: more than three quarters
    of the exposure's rows deviate by less even from the bound that is farther from them."""
    start, owner, value = window.start, window.owner, window.value
    total = 0
    near = 0
    for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
        level = bounds.low[kk - bounds.first] if sign > 0.0 else bounds.high[kk - bounds.first]
        for jj in range(max(j - 1, 0), min(j + 2, window.rows)):
            base = ((kk - window.first) * window.rows + jj) << window.bits
            for ii in range(max(i - 1, 0), min(i + 2, window.columns)):
                if kk == k and jj == j and ii == i:
                    continue
                a, b = start[base + ii], start[base + ii + 1]
                total += _rows_of(owner[a:b], exposure)
                near += _rows_within(owner[a:b], value[a:b], exposure, sign, level[jj, ii], limit)
    return near > 3 * total // 4


@njit(nogil=True, cache=True, error_model="numpy")
def _judge_cell(window, k, j, i, rule, statistics, state, rejected, bounds, guess, buffers):
    """Judge the rows of one cell by the exact figures; returns their median.

    A row so far out that not even the largest gradient and coherent part within the bounds of the medians
    around can save it is rejected without finding these medians.
    """
    a, b = own_rows(window, k, j, i)
    value, index = window.value, window.index
    m = exact(window, k, j, i, rule, statistics, buffers)
    if math.isnan(m):
        return guess
    s = statistics.scale[k, j, i]
    if not _any_beyond(value, a, b, m, rule.low * s, rule.high * s):
        return m
    wide = is_wide(rule.sample, b - a)
    noise = _noise(window, k, j, i, wide, buffers)
    s = max(s, noise)
    if wide:
        # the planes of a sky line are noisier than those beside it
        own = _noise(window, k, j, i, False, buffers)
        if own > noise:
            s = s * (own / noise) if noise > 0.0 else max(s, own)
            noise = own
    if not _any_beyond(value, a, b, m, rule.low * s, rule.high * s):
        return m
    # how far 25 medians lie apart by chance
    chance = 5.0 * noise / math.sqrt(statistics.number[k, j, i])
    slack = _slack(bounds, k, j, i)
    most = PEAK * rule.coherence * max(slack - chance, 0.0) if rule.coherence > 0.0 else 0.0
    steepest = rule.gradient * _steepest(bounds, k, j, i, m) if rule.gradient > 0.0 else 0.0
    distance = buffers[3]
    g = -1.0
    cap = -1.0
    count = 0
    for r in range(a, b):
        d = np.float64(value[r]) - m
        distance[r - a] = 0.0
        if not (d > rule.high * s or -d > rule.low * s):
            continue
        sign, beyond = (1.0, d - rule.high * s) if d > 0.0 else (-1.0, -d - rule.low * s)
        owner = window.owner[r]
        surely = beyond - steepest
        if not (
            surely > 0.0
            and (surely > most or _surely_apart(window, k, j, i, owner, sign, s + surely / PEAK, bounds))
        ):
            if g < 0.0:
                g = rule.gradient * _gradient(window, k, j, i, rule, statistics, buffers)
            beyond -= g
            if not beyond > 0.0:
                continue
            if cap < 0.0:
                cap = 0.0
                if rule.coherence > 0.0:
                    contrast = _contrast(window, k, j, i, rule, statistics, buffers)
                    cap = rule.coherence * max(contrast - chance, 0.0)
            # saved by a coherent part that is large enough, if so large a part is granted
            limit = beyond / PEAK
            if limit <= cap and _is_coherent(
                window, k, j, i, owner, sign, s + limit, rule, statistics, buffers
            ):
                continue
        state[index[r]] = REJECTED
        distance[r - a] = np.float32(abs(d))
        count += 1
    if count == 0:
        return m
    if b - a - count < rule.keep:
        _keep_nearest(a, b, index, state, distance, rule.keep)
    count = 0
    for r in range(a, b):
        count += state[index[r]] == REJECTED
    rejected[k, j, i] = count
    if rule.trails > 0.0 and rule.keep == 0:
        for r in range(a, b):
            if distance[r - a] > 0.0:
                _take_along(window, k, j, i, r, m, s, chance, rule, statistics, state, rejected, buffers)
    return m


@njit(nogil=True, cache=True, error_model="numpy")
def _noise(window, k, j, i, wide, buffers):
    """Noise of the rows of the sample of a cell, from their median variance."""
    work = buffers[0]
    n = gather(window, k, j, i, wide, window.variance, work)
    return math.sqrt(median(work, n, np.float64(work[0]), 0.1 * np.float64(work[0]) + 1e-30))


@njit(nogil=True, cache=True, error_model="numpy")
def _any_beyond(value, first, last, centre, low, high):
    """Whether a row lies more than ``low`` below or ``high`` above a centre."""
    beyond = False
    for r in range(first, last):
        d = np.float64(value[r]) - centre
        beyond |= (d > high) | (-d > low)
    return beyond


@njit(nogil=True, cache=True, error_model="numpy")
def _gradient(window, k, j, i, rule, statistics, buffers):
    """Largest difference of the median to those of the four spatial neighbours."""
    if rule.gradient == 0.0:
        return 0.0
    m = statistics.centre[k, j, i]
    g = 0.0
    for step in range(4):
        jj, ii = j + (step == 0) - (step == 1), i + (step == 2) - (step == 3)
        if 0 <= jj < window.rows and 0 <= ii < window.columns:
            other = exact(window, k, jj, ii, rule, statistics, buffers)
            if not math.isnan(other):
                g = max(g, abs(m - other))
    return g


@njit(nogil=True, cache=True, error_model="numpy")
def _contrast(window, k, j, i, rule, statistics, buffers):
    """Largest minus smallest median of the 5 x 5 spaxels around, in the same plane."""
    low = np.inf
    high = -np.inf
    centre, number = statistics.centre[k], statistics.number[k]
    for jj in range(max(j - 2, 0), min(j + 3, window.rows)):
        for ii in range(max(i - 2, 0), min(i + 3, window.columns)):
            if number[jj, ii] < 0:
                exact(window, k, jj, ii, rule, statistics, buffers)
            m = centre[jj, ii]
            if m < low:
                low = m
            if m > high:
                high = m
    return high - low


@njit(nogil=True, cache=True, error_model="numpy")
def _is_coherent(window, k, j, i, exposure, sign, limit, rule, statistics, buffers):
    """Whether an exposure deviates by ``limit`` (> 0) or more in the 26 cells around: the upper quartile of
    its deviations (of a negative ``sign`` the lower one, as a positive number). Never where fewer than 6 of
    these cells hold a row of it.

    A cosmic ray crosses a few of these cells only, so a quarter of them is out of its reach.
    """
    start, owner, value = window.start, window.owner, window.value
    centre, number = statistics.centre, statistics.number
    total = 0
    near = 0
    holding = 0
    for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
        for jj in range(max(j - 1, 0), min(j + 2, window.rows)):
            base = ((kk - window.first) * window.rows + jj) << window.bits
            for ii in range(max(i - 1, 0), min(i + 2, window.columns)):
                if kk == k and jj == j and ii == i:
                    continue
                a, b = start[base + ii], start[base + ii + 1]
                count = _rows_of(owner[a:b], exposure)
                if count == 0:
                    continue
                if number[kk, jj, ii] < 0:
                    exact(window, kk, jj, ii, rule, statistics, buffers)
                m = centre[kk, jj, ii]
                if math.isnan(m):
                    continue
                holding += 1
                total += count
                near += _rows_within(owner[a:b], value[a:b], exposure, sign, m, limit)
    return holding >= 6 and near <= 3 * total // 4


@njit(nogil=True, cache=True, error_model="numpy")
def _rows_of(owner, exposure):
    count = np.int32(0)
    for r in range(owner.size):
        count += np.int32(owner[r] == exposure)
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def _rows_within(owner, value, exposure, sign, centre, limit):
    """Rows of an exposure that deviate from a centre by less than a limit, on one side."""
    count = np.int32(0)
    for r in range(owner.size):
        count += np.int32((owner[r] == exposure) & (sign * (np.float64(value[r]) - centre) < limit))
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def _take_along(window, k, j, i, r, centre, scale, chance, rule, statistics, state, rejected, buffers):
    """Reject the exposure's rows in all 27 cells around a rejected row ``r``, if the exposure is off there.

    It is off where more than half of its rows in the 26 cells around deviate as row ``r`` does, by more than
    ``rule.trails`` scales from the median of the own cell, and from their own medians by so much more than
    sources explain in this plane and the two beside it.
    """
    exposure = window.owner[r]
    sign = 1.0 if window.value[r] > centre else -1.0
    limit = rule.trails * scale
    # this is quickly told, and true along trails only
    if not _mostly_beyond(window, k, j, i, exposure, sign, centre, limit):
        return
    contrast = 0.0
    for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
        contrast = max(contrast, _contrast(window, kk, j, i, rule, statistics, buffers))
    limit += max(PEAK * rule.coherence, 1.0) * max(contrast - chance, 0.0)
    if not _coherently_beyond(window, k, j, i, exposure, sign, limit, rule, statistics, buffers):
        return
    for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
        for jj in range(max(j - 1, 0), min(j + 2, window.rows)):
            for ii in range(max(i - 1, 0), min(i + 2, window.columns)):
                a, b = own_rows(window, kk, jj, ii)
                for q in range(a, b):
                    if window.owner[q] == exposure and state[window.index[q]] == 0:
                        state[window.index[q]] = REJECTED
                        rejected[kk, jj, ii] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _mostly_beyond(window, k, j, i, exposure, sign, centre, limit):
    """Whether more than half of an exposure's rows in the 26 cells around, and no fewer than 6 rows, lie
    beyond a limit on one side of a centre."""
    left, right = max(i - 1, 0), min(i + 1, window.columns - 1)
    own = own_rows(window, k, j, i)
    total = 0
    beyond = 0
    for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
        for jj in range(max(j - 1, 0), min(j + 2, window.rows)):
            for q in range(own_rows(window, kk, jj, left)[0], own_rows(window, kk, jj, right)[1]):
                if window.owner[q] == exposure and not own[0] <= q < own[1]:
                    total += 1
                    beyond += sign * (np.float64(window.value[q]) - centre) > limit
    return total >= 6 and 2 * beyond > total


@njit(nogil=True, cache=True, error_model="numpy")
def _coherently_beyond(window, k, j, i, exposure, sign, limit, rule, statistics, buffers):
    """The same, each row from the median of its own cell; rows without a median count as near it."""
    total = 0
    beyond = 0
    for kk in range(max(k - 1, window.first), min(k + 2, window.last)):
        for jj in range(max(j - 1, 0), min(j + 2, window.rows)):
            for ii in range(max(i - 1, 0), min(i + 2, window.columns)):
                if kk == k and jj == j and ii == i:
                    continue
                a, b = own_rows(window, kk, jj, ii)
                for q in range(a, b):
                    if window.owner[q] == exposure:
                        total += 1
                        m = exact(window, kk, jj, ii, rule, statistics, buffers)
                        beyond += sign * (np.float64(window.value[q]) - m) > limit
    return 2 * beyond > total


@njit(nogil=True, cache=True, error_model="numpy")
def _keep_nearest(first, last, index, state, distance, keep):
    """Take back rejections of one cell, nearest first, until ``keep`` rows remain."""
    left = 0
    for r in range(first, last):
        left += state[index[r]] == 0
    while left < keep:
        best = -1
        for r in range(first, last):
            if state[index[r]] == REJECTED and (best < 0 or distance[r - first] < distance[best - first]):
                best = r
        if best < 0:
            return
        state[index[best]] = 0
        left += 1
