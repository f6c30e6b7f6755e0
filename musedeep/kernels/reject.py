"""Outlier rejection on rows sorted by cell: the guarded rule and the peer's.

All kernels see the rows of a window of planes: ``start`` holds, for plane ``k`` of the box and cell ``c``,
the first row at ``start[(k - w0) * cells + c]``; the rows of cells with neighbouring column stand next to
each other. A cell is ``(row << bits) | column``.
"""

import math

import numpy as np
from numba import njit

from .select import median, median_absolute_deviation

__all__ = ["eso_limits", "judge_guarded", "judge_limits"]

GAUSSIAN = 1.4826  # sigma of a normal distribution over its median absolute deviation
AUTO_DEPTH = 16  # from this many rows on, the own voxel is a good enough sample
REJECTED = 2


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def _is_wide(sample, own):
    """Whether the 27 cells are the sample: 1 own voxel, 27 always the 27 cells, 0 by the depth of the own
    voxel."""
    return sample == 27 or (sample == 0 and own < AUTO_DEPTH)


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def _exact(
    start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, sample, rule, centre, scale, number, buffers
):
    """Median, 1.4826 MAD and size of the sample of a cell, once; the median is NaN where there are fewer than 3 values."""
    if number[k, j, i] >= 0:
        return centre[k, j, i]
    work, copy, spread = buffers[0], buffers[1], buffers[2]
    own = (k - w0) * cells + ((j << bits) | i)
    wide = _is_wide(sample, start[own + 1] - start[own])
    n = _gather(start, w0, w1, cells, bits, k, j, i, nj, ni, wide, value, work)
    m = np.nan
    if n >= 3:
        copy[:n] = work[:n]
        # how close the first guess is changes the time only; that of the cell before is good on most of the sky
        guess, width = (
            (centre[k, j, i - 1], scale[k, j, i - 1]) if i > 0 and number[k, j, i - 1] > 2 else (0.0, 1.0)
        )
        m = median(copy, n, guess, max(0.3 * width, 1e-30))
        copy[:n] = work[:n]
        mad = median_absolute_deviation(copy, n, m, max(width / GAUSSIAN, 1e-30))
        passes = np.int64(rule[5])
        if passes > 1:
            _gather(start, w0, w1, cells, bits, k, j, i, nj, ni, wide, variance, spread)
            m, mad, floor, n = _clipped_statistics(work, spread, n, rule[0], rule[1], passes, m, mad, copy)
            scale[k, j, i] = max(GAUSSIAN * mad, math.sqrt(floor))
        else:
            scale[k, j, i] = GAUSSIAN * mad
    centre[k, j, i] = m
    number[k, j, i] = n
    return m


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _counts(value, variance, first, last, low, high):
    """Number of values <= low, of values <= high, and the smallest variance of a run of rows."""
    below = np.int32(0)
    within = np.int32(0)
    smallest = np.float32(np.inf)
    for r in range(first, last):
        below += np.int32(value[r] <= low)
        within += np.int32(value[r] <= high)
        smallest = min(smallest, variance[r])
    return below, within, smallest


@njit(nogil=True, cache=True, error_model="numpy")
def _surely_clean(start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, sample, rule, guess):
    """Whether no row of a cell can be an outlier, told without its median; and a better guess of that median.

    Two counts prove that the median of the sample lies between two levels, and the smallest variance bounds the scale
    from below. Rows that are no candidates against these bounds are none against the exact figures.
    """
    own = (k - w0) * cells + ((j << bits) | i)
    a, b = start[own], start[own + 1]
    reach = 1 if _is_wide(sample, b - a) else 0
    n = 0
    for kk in range(max(k - reach, w0), min(k + reach + 1, w1)):
        for jj in range(max(j - reach, 0), min(j + reach + 1, nj)):
            base = (kk - w0) * cells + (jj << bits)
            n += start[base + min(i + reach, ni - 1) + 1] - start[base + max(i - reach, 0)]
    if n < 3:
        return False, guess
    width = math.sqrt(np.float64(variance[a])) * (0.15 + 3.5 / math.sqrt(n))
    low, high = np.float32(guess - width), np.float32(guess + width)
    below = 0
    within = 0
    smallest = np.float32(np.inf)
    for kk in range(max(k - reach, w0), min(k + reach + 1, w1)):
        for jj in range(max(j - reach, 0), min(j + reach + 1, nj)):
            base = (kk - w0) * cells + (jj << bits)
            c = _counts(
                value,
                variance,
                start[base + max(i - reach, 0)],
                start[base + min(i + reach, ni - 1) + 1],
                low,
                high,
            )
            below += c[0]
            within += c[1]
            smallest = min(smallest, c[2])
    if not (2 * below < n and 2 * within >= n + 2):
        return False, guess
    better = low + (high - low) * (0.5 * n - below) / (within - below)
    floor = math.sqrt(np.float64(smallest))
    t_low, t_high = rule[0] * floor, rule[1] * floor
    clean = True
    for r in range(a, b):
        clean &= (np.float64(value[r]) - low <= t_high) & (np.float64(high) - value[r] <= t_low)
    return clean, better


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


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _summarise(start, first, last, value, variance, low, high, below, within, least, lowest, highest):
    """Of every cell: values <= low, values <= high, smallest variance, smallest and largest value."""
    for c in range(first, last):
        n_below = np.int32(0)
        n_within = np.int32(0)
        v_least = np.float32(np.inf)
        v_low = np.float32(np.inf)
        v_high = np.float32(-np.inf)
        for r in range(start[c], start[c + 1]):
            v = value[r]
            n_below += np.int32(v <= low)
            n_within += np.int32(v <= high)
            v_least = min(v_least, variance[r])
            v_low = min(v_low, v)
            v_high = max(v_high, v)
        below[c] = n_below
        within[c] = n_within
        least[c] = v_least
        lowest[c] = v_low
        highest[c] = v_high


@njit(nogil=True, cache=True, error_model="numpy")
def _levels(start, w0, first, last, cells, value, variance, sample):
    """Two levels between which the medians on empty sky should lie, from every so many-th row of some planes."""
    a, b = start[(first - w0) * cells], start[(last - w0) * cells]
    step = max((b - a) // 500, 1)
    some = np.empty((b - a) // step + 1, np.float32)
    spread = np.empty((b - a) // step + 1, np.float32)
    n = 0
    for r in range(a, b, step):
        some[n] = value[r]
        spread[n] = variance[r]
        n += 1
    filled = 1
    for c in range((first - w0) * cells, (last - w0) * cells):
        filled += start[c + 1] > start[c]
    depth = (b - a) / filled
    depth *= 27.0 if _is_wide(sample, depth) else 1.0
    level = median(some, n, 0.0, 1.0)
    width = math.sqrt(median(spread, n, np.float64(spread[0]), 1.0)) * (
        0.15 + 3.5 / math.sqrt(max(depth, 3.0))
    )
    return np.float32(level - width), np.float32(level + width)


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_cells(start, w0, w1, cells, bits, k, j, i, nj, ni, wide, below, within, least):
    """Rows, values <= low, values <= high, and smallest variance of the sample of a cell, from the cells' summaries."""
    reach = 1 if wide else 0
    n = 0
    n_below = 0
    n_within = 0
    smallest = np.float32(np.inf)
    for kk in range(max(k - reach, w0), min(k + reach + 1, w1)):
        for jj in range(max(j - reach, 0), min(j + reach + 1, nj)):
            base = (kk - w0) * cells + (jj << bits)
            a, b = base + max(i - reach, 0), base + min(i + reach, ni - 1) + 1
            n += start[b] - start[a]
            for c in range(a, b):
                n_below += below[c]
                n_within += within[c]
                smallest = min(smallest, least[c])
    return n, n_below, n_within, smallest


@njit(nogil=True, cache=True, error_model="numpy")
def _sift(
    start, w0, w1, cells, bits, k, edge, nj, ni, sample, rule, low, high, below, within, least, lowest, highest, flat, doubtful
):  # fmt: skip
    """Mark the cells of a plane whose median surely lies between the levels, and those whose rows are not surely clean."""
    for j in range(max(edge - 2, 0), min(nj - edge + 2, nj)):
        for i in range(max(edge - 2, 0), min(ni - edge + 2, ni)):
            own = (k - w0) * cells + ((j << bits) | i)
            depth = start[own + 1] - start[own]
            n, n_below, n_within, smallest = _sum_cells(
                start, w0, w1, cells, bits, k, j, i, nj, ni, _is_wide(sample, depth), below, within, least
            )
            # the lower middle value is above `low`, the upper one at most `high`
            between = n >= 3 and 2 * n_below < n and 2 * n_within >= n + 2
            flat[j, i] = between
            floor = math.sqrt(np.float64(smallest)) if n else 0.0
            doubtful[j, i] = depth > 0 and not (
                between
                and np.float64(highest[own]) - low <= rule[1] * floor
                and np.float64(high) - lowest[own] <= rule[0] * floor
            )


@njit(nogil=True, cache=True, error_model="numpy")
def _all_flat(flat, j, i, nj, ni):
    for jj in range(max(j - 2, 0), min(j + 3, nj)):
        for ii in range(max(i - 2, 0), min(i + 3, ni)):
            if not flat[jj, ii]:
                return False
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def judge_guarded(
    start, w0, w1, first, last, bits, nj, ni, edge, value, variance, owner, index, sample, rule, centre, scale, number,
    state, rejected, buffers,
):  # fmt: skip
    """Mark the outliers of planes first <= k < last in ``state`` and count them per cell in ``rejected``.

    A row is compared with the median of its sample, as the docs say. Finding all medians exactly would take most of the time, so
    cells are sifted first: counts of the rows below two levels prove for most cells of empty sky where their median lies and
    that none of their rows can be an outlier. What remains is judged by the exact figures, so the result is the same.

    Parameters
    ----------
    start : (planes * cells + 1,) int32
        Of the planes w0 <= k < w1.
    edge : int
        Cells nearer to the border of the box are left alone: their rows reach no voxel of it.
    value, variance, owner, index : (rows,)
        Rows sorted by cell: value, variance, exposure, place in ``state``.
    sample : int
        1 own voxel, 27 the 27 voxels around, 0 by the depth of the own voxel.
    rule : (6,) float64
        nclip low, nclip high, gradient, coherence, nkeep, nmax.
    centre, scale : (planes, rows, columns) float64
    number : (planes, rows, columns) int32
        Statistics of the cells, kept from call to call; ``number`` is -1 where they are not known yet.
    state : uint8, out
    rejected : (planes, rows, columns) int32, out
    buffers : (5, 27 * most rows of a cell) float32
    """
    if first >= last or start[0] == start[(w1 - w0) * (nj << bits)]:
        return
    cells = nj << bits
    quick = rule[5] <= 1
    flat = np.zeros((nj, ni), np.bool_)
    doubtful = np.ones((nj, ni), np.bool_)
    size = (w1 - w0) * cells
    below, within = np.empty(size, np.int32), np.empty(size, np.int32)
    least, lowest, highest = (
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
    )
    low, high = _levels(start, w0, max(first - 1, w0), min(last + 1, w1), cells, value, variance, sample)
    if quick:
        _summarise(
            start, (max(first - 1, w0) - w0) * cells, (min(last + 1, w1) - w0) * cells, value, variance, low, high, below,
            within, least, lowest, highest,
        )  # fmt: skip
    guess = 0.0
    for k in range(first, last):
        if quick:
            _sift(
                start, w0, w1, cells, bits, k, edge, nj, ni, sample, rule, low, high, below, within, least, lowest, highest,
                flat, doubtful,
            )  # fmt: skip
        for j in range(edge, nj - edge):
            for i in range(edge, ni - edge):
                if not doubtful[j, i]:
                    continue
                if quick and not flat[j, i]:
                    clean, guess = _surely_clean(
                        start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, sample, rule, guess
                    )
                    if clean:
                        continue
                slack = np.inf
                if quick and rule[4] == 0 and _all_flat(flat, j, i, nj, ni):
                    slack = np.float64(high) - np.float64(low)
                rejected[k, j, i], guess = _judge_cell(
                    start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, owner, index, sample, rule, centre, scale,
                    number, state, slack, guess, buffers,
                )  # fmt: skip


@njit(nogil=True, cache=True, error_model="numpy")
def _judge_cell(
    start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, owner, index, sample, rule, centre, scale, number, state,
    slack, guess, buffers,
):  # fmt: skip
    """Judge the rows of one cell by the exact figures; returns how many were rejected, and the median.

    ``slack`` bounds the differences between the medians of the 5 x 5 spaxels around. A row so far out that even the largest
    gradient and coherent part within that bound cannot save it is rejected without finding all these medians.
    """
    own = (k - w0) * cells + ((j << bits) | i)
    a, b = start[own], start[own + 1]
    work, distance = buffers[0], buffers[3]
    low, high, slope, coherence, keep = rule[0], rule[1], rule[2], rule[3], np.int64(rule[4])
    m = _exact(
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
        variance,
        sample,
        rule,
        centre,
        scale,
        number,
        buffers,
    )
    if math.isnan(m):
        return 0, guess
    s = scale[k, j, i]
    if not _any_beyond(value, a, b, m, low * s, high * s):
        return 0, m
    if rule[5] <= 1:
        n = _gather(start, w0, w1, cells, bits, k, j, i, nj, ni, _is_wide(sample, b - a), variance, work)
        s = max(s, math.sqrt(median(work, n, np.float64(work[0]), 0.1 * np.float64(work[0]) + 1e-30)))
        if not _any_beyond(value, a, b, m, low * s, high * s):
            return 0, m
    noise = 5.0 * s / math.sqrt(number[k, j, i])
    most = slope * slack + 2.0 * coherence * max(slack - noise, 0.0)
    g = -1.0
    cap = -1.0
    count = 0
    for r in range(a, b):
        d = np.float64(value[r]) - m
        if not (d > high * s or -d > low * s):
            continue
        if d > high * s + most or -d > low * s + most:
            state[index[r]] = REJECTED
            count += 1
            continue
        if g < 0.0:
            g = slope * _gradient(
                start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, sample, rule, centre, scale, number, buffers
            )  # fmt: skip
        t_low, t_high = low * s + g, high * s + g
        if not (d > t_high or -d > t_low):
            continue
        c = 0.0
        if coherence > 0.0:
            if cap < 0.0:
                contrast = _contrast(
                    start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, sample, rule, centre, scale, number, buffers
                )  # fmt: skip
                cap = coherence * max(contrast - noise, 0.0)
            if cap > 0.0:
                c = _coherent_part(
                    start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, owner, owner[r], sample, rule, centre,
                    scale, number, buffers,
                )  # fmt: skip
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
    return count, m


@njit(nogil=True, cache=True, error_model="numpy")
def _gradient(
    start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, sample, rule, centre, scale, number, buffers
):  # fmt: skip
    """Largest difference of the median to those of the four spatial neighbours."""
    if rule[2] == 0.0:
        return 0.0
    m = centre[k, j, i]
    g = 0.0
    for step in range(4):
        jj, ii = j + (step == 0) - (step == 1), i + (step == 2) - (step == 3)
        if 0 <= jj < nj and 0 <= ii < ni:
            other = _exact(
                start, w0, w1, cells, bits, k, jj, ii, nj, ni, value, variance, sample, rule, centre, scale, number, buffers
            )  # fmt: skip
            if not math.isnan(other):
                g = max(g, abs(m - other))
    return g


@njit(nogil=True, cache=True, error_model="numpy")
def _any_beyond(value, first, last, centre, low, high):
    """Whether a row lies more than ``low`` below or ``high`` above a centre."""
    beyond = False
    for r in range(first, last):
        d = np.float64(value[r]) - centre
        beyond |= (d > high) | (-d > low)
    return beyond


@njit(nogil=True, cache=True, error_model="numpy")
def _contrast(
    start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, sample, rule, centre, scale, number, buffers
):
    """Largest minus smallest median in the 5 x 5 spaxels around, in the same plane."""
    low = np.inf
    high = -np.inf
    for jj in range(max(j - 2, 0), min(j + 3, nj)):
        for ii in range(max(i - 2, 0), min(i + 3, ni)):
            m = _exact(
                start,
                w0,
                w1,
                cells,
                bits,
                k,
                jj,
                ii,
                nj,
                ni,
                value,
                variance,
                sample,
                rule,
                centre,
                scale,
                number,
                buffers,
            )
            if m < low:
                low = m
            if m > high:
                high = m
    return high - low


@njit(nogil=True, cache=True, error_model="numpy")
def _coherent_part(
    start, w0, w1, cells, bits, k, j, i, nj, ni, value, variance, owner, exposure, sample, rule, centre, scale, number,
    buffers,
):  # fmt: skip
    """Median deviation of one exposure in the 26 cells around, or 0 where fewer than 6 of them hold a row of it."""
    n = 0
    holding = 0
    # the buffers of _exact are in use while the deviations are gathered: they go where the distances are not
    out = buffers[4]
    for kk in range(max(k - 1, w0), min(k + 2, w1)):
        for jj in range(max(j - 1, 0), min(j + 2, nj)):
            for ii in range(max(i - 1, 0), min(i + 2, ni)):
                if kk == k and jj == j and ii == i:
                    continue
                c = (kk - w0) * cells + ((jj << bits) | ii)
                before = n
                for r in range(start[c], start[c + 1]):
                    if owner[r] == exposure:
                        m = _exact(
                            start, w0, w1, cells, bits, kk, jj, ii, nj, ni, value, variance, sample, rule, centre, scale,
                            number, buffers,
                        )  # fmt: skip
                        if not math.isnan(m):
                            out[n] = np.float32(np.float64(value[r]) - m)
                            n += 1
                holding += n > before
    if holding < 6:
        return 0.0
    return median(out, n, 0.0, np.float64(abs(out[0])) + 1e-30)


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
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
