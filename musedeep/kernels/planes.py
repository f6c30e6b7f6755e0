"""Planes of a cube of one exposure, whose cells hold a row or two: rejection and drizzle of sorted rows."""

import numpy as np
from numba import njit

from .select import sort_few

__all__ = ["drizzle_sorted", "judge_few"]

REJECTED = 2


@njit(nogil=True, cache=True, error_model="numpy")
def _gather(start, value, bits, shape, k, j, i, direction, sample):
    """Copy the sample of a cell, see `judge_few`; how many values it has."""
    n = 0
    left, right = max(i - 1, 0), min(i + 1, shape[2] - 1)
    if direction == 2:
        return _gather_beside(start, value, bits, shape, k, j, i, sample)
    for kk in range(max(k - 1, 0), min(k + 2, shape[0])):
        for jj in range(max(j - 1, 0), min(j + 2, shape[1])):
            base = (kk * shape[1] + jj) << bits
            first, last = start[base + left], start[base + right + 1]
            if direction == 1 and jj == j:
                # of its own slice only the cell itself
                if kk != k:
                    continue
                first, last = start[base + i], start[base + i + 1]
            # usually three rows: four are copied without asking how many there are
            for q in range(4):
                sample[n + q] = value[first + q]
            for r in range(first + 4, last):
                sample[n + r - first] = value[r]
            n += last - first
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _gather_beside(start, value, bits, shape, k, j, i, sample):
    """The same where slices run along columns."""
    n = 0
    for kk in range(max(k - 1, 0), min(k + 2, shape[0])):
        for jj in range(max(j - 1, 0), min(j + 2, shape[1])):
            base = (kk * shape[1] + jj) << bits
            for ii in range(max(i - 1, 0), min(i + 2, shape[2])):
                if ii == i and not (kk == k and jj == j):
                    continue
                for r in range(start[base + ii], start[base + ii + 1]):
                    sample[n] = value[r]
                    n += 1
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _surely_below(sample, n, highest, level, deviation, crsigma):
    """Whether counts prove that a value is not above the limit of a sample, given guesses of its median and
    median absolute deviation; and a better guess of the median."""
    value = np.float32(highest)
    above = np.int32(0)
    for q in range(sample.size):
        above += np.int32(sample[q] >= value)
    if 2 * above > n:
        return True, level
    low, high = np.float32(level - 1.5 * deviation), np.float32(level + 1.5 * deviation)
    below = np.int32(0)
    within = np.int32(0)
    for q in range(sample.size):
        below += np.int32(sample[q] < low)
        within += np.int32(sample[q] <= high)
    halvings = 3
    if not (2 * below < n and 2 * within > n):
        low, high = np.float32(np.inf), np.float32(-np.inf)
        for q in range(n):
            low = min(low, sample[q])
            high = max(high, sample[q])
        halvings = 8
    for _ in range(halvings):
        middle = np.float32(0.5) * (low + high)
        within = np.int32(0)
        for q in range(sample.size):
            within += np.int32(sample[q] <= middle)
        if 2 * within > n:
            high = middle
        elif 2 * within < n:
            low = middle
    # above the limit it would lie further from the median than so many deviations, of which half are no
    # larger; the median lies between low and high
    reach = np.float32((np.float64(value) - np.float64(low)) / crsigma * 1.00001)
    bottom, top = low - reach, high + reach
    near = np.int32(0)
    for q in range(sample.size):
        near += np.int32((sample[q] >= bottom) & (sample[q] <= top))
    return 2 * near < n, 0.5 * (np.float64(low) + np.float64(high))


@njit(nogil=True, cache=True, error_model="numpy")
def _statistics(values, n):
    """Median, and median of the absolute deviations from it, of values in ascending order."""
    middle = n // 2
    level = np.float64(values[middle])
    if n % 2 == 0:
        level = 0.5 * (np.float64(values[middle - 1]) + level)
    # the smallest deviations lie around the median: they are passed in ascending order
    b = middle
    a = b - 1
    last = 0.0
    before = 0.0
    for _ in range(middle + 1):
        before = last
        if b >= n or (a >= 0 and level - np.float64(values[a]) <= np.float64(values[b]) - level):
            last = level - np.float64(values[a])
            a -= 1
        else:
            last = np.float64(values[b]) - level
            b += 1
    return level, last if n % 2 else 0.5 * (before + last)


@njit(nogil=True, cache=True, error_model="numpy")
def judge_few(start, value, index, bits, shape, first, last, direction, crsigma, state, sample):
    """Mark rows above the peer's limit: the median of the cells around and `crsigma` times the median
    absolute deviation.

    As `reject_eso.judge_eso`, for cells that hold so few rows that sorting a sample costs little.

    Parameters
    ----------
    start : (planes * rows << bits + 1,) int32
        First row of every cell, as `window.sort_planes` makes it.
    value : (n + 4,) float32
        Sorted by cell; the last four are not used.
    index : (n,) int32
        Place of every row before it was sorted.
    bits : int
        Of the pitch of rows of cells.
    shape : (planes, rows, columns)
    first, last : int
        Planes first <= k < last are judged.
    direction : int
        0: the sample is that of all 27 cells; 1: of the own row only the cell itself; 2: the same for its
        column.
    crsigma : float
    state : (n,) uint8, in and out
        Of the rows before they were sorted; usable ones that are struck get state 2.
    sample : (27 * most rows of a cell + 8,) float32
        Scratch.
    """
    level = 0.0
    deviation = 0.0
    for k in range(first, last):
        for j in range(shape[1]):
            row = (k * shape[1] + j) << bits
            for i in range(shape[2]):
                a, b = start[row + i], start[row + i + 1]
                if a == b:
                    continue
                highest = value[a]
                for r in range(a + 1, b):
                    highest = max(highest, value[r])
                n = _gather(start, value, bits, shape, k, j, i, direction, sample)
                if n < 3:
                    continue
                # what is no number counts nowhere, and fills the lanes of vector code
                padded = (n + 7) & ~7
                for q in range(n, padded):
                    sample[q] = np.nan
                clean, level = _surely_below(sample[:padded], n, highest, level, deviation, crsigma)
                if clean:
                    continue
                sort_few(sample, n)
                level, deviation = _statistics(sample, n)
                limit = level + crsigma * deviation
                for r in range(a, b):
                    if value[r] > limit and state[index[r]] == 0:
                        state[index[r]] = REJECTED


@njit(nogil=True, cache=True, error_model="numpy")
def drizzle_sorted(start, index, payload, state, bits, shape, first, drop, step, sums):
    """Drizzle usable rows: each voxel gets the share of the drop's volume that lies in it.

    Parameters
    ----------
    start, index, bits, shape
        As for `judge_few`.
    payload : (4 or more, n) float32
        Offsets from the middle of the cell in x, y [cells] and wavelength [Angstrom], and value, before
        sorting.
    state : (n,) uint8
        0 for usable rows.
    first : int
        Plane of the first of ``sums``; at least 1.
    drop : (3,) float64
        Size of a drop in x, y [cells] and wavelength [Angstrom]; at most one cell.
    step : float [Angstrom]
        Width of a plane.
    sums : (planes, rows, columns, 2) float64, in and out
        Sums of shares, and of shares times values.
    """
    nk, nj, ni = sums.shape[0], sums.shape[1], sums.shape[2]
    for k in range(first - 1, first + nk + 1):
        for j in range(shape[1]):
            row = (k * shape[1] + j) << bits
            for i in range(shape[2]):
                for r in range(start[row + i], start[row + i + 1]):
                    q = index[r]
                    if state[q] != 0:
                        continue
                    fx, fy, fz = (
                        np.float64(payload[0, q]),
                        np.float64(payload[1, q]),
                        np.float64(payload[2, q]),
                    )
                    # shares of the own cell and of the one beside it
                    x0 = max(min(0.5 * (drop[0] + 1.0) - abs(fx), drop[0]), 0.0) / drop[0]
                    x1 = max(0.5 * (drop[0] - 1.0) + abs(fx), 0.0) / drop[0]
                    y0 = max(min(0.5 * (drop[1] + 1.0) - abs(fy), drop[1]), 0.0) / drop[1]
                    y1 = max(0.5 * (drop[1] - 1.0) + abs(fy), 0.0) / drop[1]
                    z0 = max(min(0.5 * (drop[2] + step) - abs(fz), drop[2]), 0.0) / drop[2]
                    z1 = max(0.5 * (drop[2] - step) + abs(fz), 0.0) / drop[2]
                    value = np.float64(payload[3, q])
                    for c in range(2):
                        z = z1 if c else z0
                        kk = k - first + (c if fz > 0.0 else -c)
                        if z == 0.0 or kk < 0 or kk >= nk:
                            continue
                        for b in range(2):
                            y = z * (y1 if b else y0)
                            jj = j + (b if fy > 0.0 else -b)
                            if y == 0.0 or jj < 0 or jj >= nj:
                                continue
                            w = y * x0
                            sums[kk, jj, i, 0] += w
                            sums[kk, jj, i, 1] += w * value
                            ii = i + 1 if fx > 0.0 else i - 1
                            if x1 > 0.0 and 0 <= ii < ni:
                                w = y * x1
                                sums[kk, jj, ii, 0] += w
                                sums[kk, jj, ii, 1] += w * value
