"""Outlier rejection on rows sorted by cell: the guarded rule and the peer's.

All kernels see the rows of a window of planes: ``start`` holds, for plane ``k`` of the box and cell ``c``,
the first row at ``start[(k - w0) * cells + c]``; the rows of cells with neighbouring column stand next to
each other. A cell is ``(row << bits) | column``.
"""

import math

import numpy as np
from numba import njit

from .select import median, median_absolute_deviation

__all__ = ["eso_limits", "judge_guarded", "judge_limits", "robust_statistics"]

GAUSSIAN = 1.4826  # sigma of a normal distribution over its median absolute deviation
AUTO_DEPTH = 16  # from this many rows on, the own voxel is a good enough sample
REJECTED = 2


@njit(nogil=True, cache=True)
def _gather(start, w0, w1, cells, bits, k, j, i, nj, ni, wide, value, out):
    """Copy the sample of a cell (its own rows, or those of the 27 cells around) to ``out``; return how
    many."""
    n = 0
    reach = 1 if wide else 0
    for kk in range(max(k - reach, w0), min(k + reach + 1, w1)):
        for jj in range(max(j - reach, 0), min(j + reach + 1, nj)):
            base = (kk - w0) * cells + (jj << bits)
            for r in range(start[base + max(i - reach, 0)], start[base + min(i + reach, ni - 1) + 1]):
                out[n] = value[r]
                n += 1
    return n


@njit(nogil=True, cache=True)
def _is_wide(sample, own):
    """Whether the 27 cells are the sample: 1 own voxel, 27 always the 27 cells, 0 by the depth of the own
    voxel."""
    return sample == 27 or (sample == 0 and own < AUTO_DEPTH)


@njit(nogil=True, cache=True)
def _clipped_statistics(sample, spread, n, low, high, passes, centre, mad, buffer):
    """Repeat median and deviation without the values beyond the limits; returns centre, deviation, variance
    median, number."""
    floor = 0.0
    for p in range(passes):
        for r in range(n):
            buffer[r] = spread[r]
        floor = median(buffer, n, np.float64(spread[0]), 0.1 * np.float64(spread[0]) + 1e-30)
        if p == passes - 1:
            break
        s = max(GAUSSIAN * mad, math.sqrt(floor))
        kept = 0
        for r in range(n):
            d = np.float64(sample[r]) - centre
            if -low * s <= d <= high * s:
                sample[kept] = sample[r]
                spread[kept] = spread[r]
                kept += 1
        if kept == n or kept < 3:
            break
        n = kept
        for r in range(n):
            buffer[r] = sample[r]
        centre = median(buffer, n, centre, 0.2 * s)
        for r in range(n):
            buffer[r] = sample[r]
        mad = median_absolute_deviation(buffer, n, centre, mad)
    return centre, mad, floor, n


@njit(nogil=True, cache=True)
def robust_statistics(
    start,
    w0,
    w1,
    first,
    last,
    bits,
    nj,
    ni,
    value,
    variance,
    sample,
    low,
    high,
    nmax,
    centre,
    scale,
    floor,
    number,
    buffers,
):
    """Median, 1.4826 MAD and size of the sample of every cell of planes first <= k < last.

    ``centre`` is NaN where the sample has fewer than 3 values. ``floor`` (median variance of the sample) is
    only filled when ``nmax`` > 1; else it is set to -1 and found when needed.
    """
    cells = nj << bits
    work, copy, spread = buffers[0], buffers[1], buffers[2]
    guess = 0.0
    width = 1.0
    for k in range(first, last):
        for j in range(nj):
            for i in range(ni):
                own = (k - w0) * cells + ((j << bits) | i)
                a, b = start[own], start[own + 1]
                centre[k, j, i] = np.nan
                floor[k, j, i] = -1.0
                number[k, j, i] = 0
                wide = _is_wide(sample, b - a)
                if a == b and not wide:
                    continue
                n = _gather(start, w0, w1, cells, bits, k, j, i, nj, ni, wide, value, work)
                number[k, j, i] = n
                if n < 3:
                    continue
                for r in range(n):
                    copy[r] = work[r]
                m = median(copy, n, guess, width)
                for r in range(n):
                    copy[r] = work[r]
                mad = median_absolute_deviation(copy, n, m, max(2.0 * width, 1e-30))
                guess = m
                width = max(0.5 * mad, 1e-30)
                if nmax > 1:
                    _gather(start, w0, w1, cells, bits, k, j, i, nj, ni, wide, variance, spread)
                    m, mad, f, n = _clipped_statistics(work, spread, n, low, high, nmax, m, mad, copy)
                    floor[k, j, i] = f
                    number[k, j, i] = n
                centre[k, j, i] = m
                scale[k, j, i] = GAUSSIAN * mad


@njit(nogil=True, cache=True)
def _coherent_part(start, w0, w1, cells, bits, k, j, i, nj, ni, value, owner, exposure, centre, out):
    """Median deviation of one exposure in the 26 cells around, or 0 where fewer than 6 of them hold a row of
    it."""
    n = 0
    holding = 0
    for kk in range(max(k - 1, w0), min(k + 2, w1)):
        for jj in range(max(j - 1, 0), min(j + 2, nj)):
            for ii in range(max(i - 1, 0), min(i + 2, ni)):
                if kk == k and jj == j and ii == i:
                    continue
                m = centre[kk, jj, ii]
                if math.isnan(m):
                    continue
                c = (kk - w0) * cells + ((jj << bits) | ii)
                before = n
                for r in range(start[c], start[c + 1]):
                    if owner[r] == exposure:
                        out[n] = np.float32(np.float64(value[r]) - m)
                        n += 1
                holding += n > before
    if holding < 6:
        return 0.0
    return median(out, n, 0.0, np.float64(abs(out[0])) + 1e-30)


@njit(nogil=True, cache=True)
def _contrast(k, j, i, nj, ni, centre):
    """Largest minus smallest median in the 5 x 5 spaxels around, in the same plane."""
    low = np.inf
    high = -np.inf
    for jj in range(max(j - 2, 0), min(j + 3, nj)):
        for ii in range(max(i - 2, 0), min(i + 3, ni)):
            m = centre[k, jj, ii]
            if m < low:
                low = m
            if m > high:
                high = m
    return high - low


@njit(nogil=True, cache=True)
def _gradient(k, j, i, nj, ni, centre):
    """Largest difference of the median to those of the four spatial neighbours."""
    m = centre[k, j, i]
    g = 0.0
    if j > 0:
        g = max(g, _step(m, centre[k, j - 1, i]))
    if j < nj - 1:
        g = max(g, _step(m, centre[k, j + 1, i]))
    if i > 0:
        g = max(g, _step(m, centre[k, j, i - 1]))
    if i < ni - 1:
        g = max(g, _step(m, centre[k, j, i + 1]))
    return g


@njit(nogil=True, cache=True)
def _step(m, other):
    return 0.0 if math.isnan(other) else abs(m - other)


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def judge_guarded(
    start,
    w0,
    w1,
    first,
    last,
    bits,
    nj,
    ni,
    edge,
    value,
    variance,
    owner,
    index,
    sample,
    rule,
    centre,
    scale,
    floor,
    number,
    state,
    rejected,
    buffers,
):
    """Mark the outliers of planes first <= k < last in ``state`` and count them per cell in ``rejected``.

    ``rule`` = (nclip low, nclip high, gradient, coherence, nkeep). Cells nearer than ``edge`` to the border
    of the box are left alone: their rows reach no voxel of it.
    """
    cells = nj << bits
    work, distance = buffers[0], buffers[1]
    low, high, slope, coherence, keep = rule[0], rule[1], rule[2], rule[3], np.int64(rule[4])
    for k in range(first, last):
        for j in range(edge, nj - edge):
            for i in range(edge, ni - edge):
                m = centre[k, j, i]
                if math.isnan(m):
                    continue
                own = (k - w0) * cells + ((j << bits) | i)
                a, b = start[own], start[own + 1]
                s = scale[k, j, i]
                g = slope * _gradient(k, j, i, nj, ni, centre) if slope > 0.0 else 0.0
                t_low = low * s + g
                t_high = high * s + g
                suspect = False
                for r in range(a, b):
                    d = np.float64(value[r]) - m
                    suspect |= (d > t_high) | (-d > t_low)
                if not suspect:
                    continue
                if floor[k, j, i] < 0.0:
                    n = _gather(
                        start, w0, w1, cells, bits, k, j, i, nj, ni, _is_wide(sample, b - a), variance, work
                    )
                    floor[k, j, i] = median(work, n, np.float64(work[0]), 0.1 * np.float64(work[0]) + 1e-30)
                s = max(s, math.sqrt(floor[k, j, i]))
                t_low = low * s + g
                t_high = high * s + g
                cap = -1.0
                count = 0
                for r in range(a, b):
                    d = np.float64(value[r]) - m
                    if d > t_high or -d > t_low:
                        c = 0.0
                        if coherence > 0.0:
                            if cap < 0.0:
                                noise = 5.0 * s / math.sqrt(number[k, j, i])
                                cap = coherence * max(_contrast(k, j, i, nj, ni, centre) - noise, 0.0)
                            if cap > 0.0:
                                c = _coherent_part(
                                    start,
                                    w0,
                                    w1,
                                    cells,
                                    bits,
                                    k,
                                    j,
                                    i,
                                    nj,
                                    ni,
                                    value,
                                    owner,
                                    owner[r],
                                    centre,
                                    work,
                                )
                                c = min(max(c, -cap), cap)
                        if d - c > t_high + abs(c) or c - d > t_low + abs(c):
                            state[index[r]] = REJECTED
                            distance[r - a] = np.float32(abs(d - c))
                            count += 1
                if count and b - a - count < keep:
                    _keep_nearest(a, b, index, state, distance, keep)
                    count = 0
                    for r in range(a, b):
                        count += state[index[r]] == REJECTED
                rejected[k, j, i] = count


@njit(nogil=True, cache=True)
def eso_limits(
    start, w0, w1, first, last, bits, nj, ni, value, variance, direction, kind, crsigma, limit, buffers
):
    """The peer's upper limit of every cell of planes first <= k < last; infinite where the sample has fewer
    than 3 values.

    Parameters
    ----------
    direction : int
        0: all 27 cells; 1: without the cells left and right of the own one in its row (slices along x); 2:
        the same along y.
    kind : int
        0: median + crsigma * median absolute deviation (no factor 1.4826); 1: mean + crsigma * sample
        standard deviation;
        2: mean + crsigma * error of the mean from the variances.
    """
    cells = nj << bits
    work, copy = buffers[0], buffers[1]
    guess = 0.0
    width = 1.0
    for k in range(first, last):
        for j in range(nj):
            for i in range(ni):
                own = (k - w0) * cells + ((j << bits) | i)
                limit[k, j, i] = np.inf
                if start[own] == start[own + 1]:
                    continue
                n = 0
                total = 0.0
                spread = 0.0
                for kk in range(max(k - 1, w0), min(k + 2, w1)):
                    for jj in range(max(j - 1, 0), min(j + 2, nj)):
                        for ii in range(max(i - 1, 0), min(i + 2, ni)):
                            centre = kk == k and jj == j and ii == i
                            if (direction == 1 and jj == j and not centre) or (
                                direction == 2 and ii == i and not centre
                            ):
                                continue
                            c = (kk - w0) * cells + ((jj << bits) | ii)
                            for r in range(start[c], start[c + 1]):
                                work[n] = value[r]
                                total += value[r]
                                spread += variance[r]
                                n += 1
                if n < 3:
                    continue
                if kind == 0:
                    for r in range(n):
                        copy[r] = work[r]
                    level = median(copy, n, guess, width)
                    deviation = median_absolute_deviation(work, n, level, max(2.0 * width, 1e-30))
                    guess = level
                    width = max(0.5 * deviation, 1e-30)
                else:
                    level = total / n
                    if kind == 1:
                        squares = 0.0
                        for r in range(n):
                            squares += (work[r] - level) ** 2
                        deviation = math.sqrt(squares / (n - 1))
                    else:
                        deviation = math.sqrt(spread) / n
                limit[k, j, i] = level + crsigma * deviation


@njit(nogil=True, cache=True)
def judge_limits(start, w0, first, last, bits, nj, ni, edge, value, index, limit, state, rejected):
    """Mark every row above the limit of its cell."""
    cells = nj << bits
    for k in range(first, last):
        for j in range(edge, nj - edge):
            for i in range(edge, ni - edge):
                own = (k - w0) * cells + ((j << bits) | i)
                count = 0
                for r in range(start[own], start[own + 1]):
                    if value[r] > limit[k, j, i] and state[index[r]] == 0:
                        state[index[r]] = REJECTED
                        count += 1
                rejected[k, j, i] = count
