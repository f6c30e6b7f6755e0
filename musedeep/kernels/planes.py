"""Planes of a cube of one exposure, whose cells hold a row or two: rejection and drizzle of sorted rows."""

import numpy as np
from numba import njit

from .select import sort_few

__all__ = ["drizzle_sorted", "judge_few", "states_of_rows"]

REJECTED = 2

# Of the range that is left, where the median is sought: not always in the middle, which of an even number of
# values may lie between the two that are next to the median for good.
_TRIES = np.array([0.5, 0.4, 0.6, 0.5], np.float32)


@njit(nogil=True, cache=True, error_model="numpy")
def states_of_rows(dq, usable, cosmic, states):
    """State of every row in an image.

    Parameters
    ----------
    dq : (n,) uint32
    usable : (n,) uint8
        0 for rows that are not used at all.
    cosmic : uint32
        What only a cosmic ray has struck still tells what is usual around it.
    states : (n,) uint8, out
        0 for rows that are used, 1 for those that are used to judge others, 3 for those that are not used.
    """
    for r in range(dq.size):
        state = np.uint8(0) if dq[r] == 0 else np.uint8(1) if dq[r] == cosmic else np.uint8(3)
        states[r] = state if usable[r] else np.uint8(3)


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
def _lay_out(start, value, bits, shape, k, largest, others):
    """The largest value of every cell of a plane, and how many others it has, with a frame of empty cells."""
    largest[:] = np.nan
    others[:] = 0
    if k < 0 or k >= shape[0]:
        return
    for j in range(shape[1]):
        row = (k * shape[1] + j) << bits
        for i in range(shape[2]):
            first, last = start[row + i], start[row + i + 1]
            if first == last:
                continue
            top = value[first]
            for r in range(first + 1, last):
                top = max(top, value[r])
            largest[j + 1, i + 1] = top
            others[j + 1, i + 1] = last - first - 1


@njit(nogil=True, cache=True, error_model="numpy")
def _around(k, j, shape, direction, triples, singles):
    """Where in the planes of `_lay_out` the samples of a row of cells lie: runs that count with the two cells
    behind each of them, and runs that count alone."""
    m = n = 0
    for kk in range(k - 1, k + 2):
        for jj in range(j, j + 3):
            place = ((kk % 3) * (shape[1] + 2) + jj) * (shape[2] + 2)
            own = jj == j + 1 and kk == k
            if direction == 0 or (direction == 1 and jj != j + 1) or (direction == 2 and own):
                triples[m] = place
                m += 1
            elif direction == 2:
                singles[n], singles[n + 1] = place, place + 2
                n += 2
            elif own:
                singles[n] = place + 1
                n += 1
    return triples[:m], singles[:n]


@njit(nogil=True, cache=True, error_model="numpy")
def _survey(values, others, triples, singles, own, facts, low, high):
    """Of the sample of every cell of a row: how many values are known, how many others there are, how many of
    the known are not below the cell's own (facts), and the extremes of the known."""
    size = own.size
    count, more, above = facts[0], facts[1], facts[2]
    facts[:] = 0
    low[:] = np.inf
    high[:] = -np.inf
    for s in range(triples.size + singles.size):
        if s < triples.size:
            d, e = values[triples[s] : triples[s] + size + 2], others[triples[s] : triples[s] + size + 2]
            for i in range(size):
                x, y, z, v = d[i], d[i + 1], d[i + 2], own[i]
                count[i] += np.int32(x == x) + np.int32(y == y) + np.int32(z == z)
                above[i] += np.int32(x >= v) + np.int32(y >= v) + np.int32(z >= v)
                more[i] += np.int32(e[i]) + np.int32(e[i + 1]) + np.int32(e[i + 2])
                lowest = x if x < low[i] else low[i]
                lowest = y if y < lowest else lowest
                low[i] = z if z < lowest else lowest
                highest = x if x > high[i] else high[i]
                highest = y if y > highest else highest
                high[i] = z if z > highest else highest
        else:
            at = singles[s - triples.size]
            d, e = values[at : at + size], others[at : at + size]
            for i in range(size):
                count[i] += np.int32(d[i] == d[i])
                above[i] += np.int32(d[i] >= own[i])
                more[i] += np.int32(e[i])
                low[i] = d[i] if d[i] < low[i] else low[i]
                high[i] = d[i] if d[i] > high[i] else high[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _count_below(values, triples, singles, high, within):
    """How many values of the sample of every cell of a row are not above a limit of its own."""
    size = within.size
    within[:] = 0
    for s in range(triples.size):
        d = values[triples[s] : triples[s] + size + 2]
        for i in range(size):
            b = high[i]
            within[i] += np.int32(d[i] <= b) + np.int32(d[i + 1] <= b) + np.int32(d[i + 2] <= b)
    for s in range(singles.size):
        d = values[singles[s] : singles[s] + size]
        for i in range(size):
            within[i] += np.int32(d[i] <= high[i])


@njit(nogil=True, cache=True, error_model="numpy")
def _count(values, triples, singles, low, high, within):
    """How many values of the sample of every cell of a row lie between two limits of its own."""
    size = within.size
    within[:] = 0
    for s in range(triples.size):
        d = values[triples[s] : triples[s] + size + 2]
        for i in range(size):
            a, b = low[i], high[i]
            x, y, z = d[i], d[i + 1], d[i + 2]
            within[i] += (
                np.int32((x >= a) & (x <= b)) + np.int32((y >= a) & (y <= b)) + np.int32((z >= a) & (z <= b))
            )
    for s in range(singles.size):
        d = values[singles[s] : singles[s] + size]
        for i in range(size):
            within[i] += np.int32((d[i] >= low[i]) & (d[i] <= high[i]))


@njit(nogil=True, cache=True, error_model="numpy")
def _surely_below(values, triples, singles, own, crsigma, facts, edges, clean):
    """Tell for which cells of a row counts alone prove that no row is above the limit of its sample.

    The median is narrowed down by counting how many values lie below numbers that are tried. Then, if a value
    were above the limit, it would lie further from the median than so many deviations, of which half are no
    larger; and as many values would lie as near to the median. Of cells with several rows one value is known;
    the others are taken for what proves least. Loops go over the cells, and become vector code.
    """
    count, more, above, within = facts[0], facts[1], facts[2], facts[3]
    low, high, middle, bottom = edges[0], edges[1], edges[2], edges[3]
    for n in range(_TRIES.size):
        part = _TRIES[n]
        for i in range(own.size):
            middle[i] = low[i] + part * (high[i] - low[i])
        _count_below(values, triples, singles, middle, within)
        for i in range(own.size):
            number = count[i] + more[i]
            high[i] = middle[i] if 2 * within[i] > number else high[i]
            low[i] = middle[i] if 2 * (within[i] + more[i]) < number else low[i]
    for i in range(own.size):
        reach = np.float32((np.float64(own[i]) - np.float64(low[i])) / crsigma * 1.00001)
        bottom[i] = low[i] - reach
        middle[i] = high[i] + reach
    _count(values, triples, singles, bottom, middle, within)
    for i in range(own.size):
        number = count[i] + more[i]
        far = (2 * (within[i] + more[i]) < number) & (2 * more[i] < number)
        # no number in an empty cell; and too few values to judge by
        clean[i] = far | (2 * above[i] > number) | (own[i] != own[i]) | (number < 3)


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
    size = shape[2]
    largest = np.empty((3, shape[1] + 2, size + 2), np.float32)
    others = np.empty(largest.shape, np.int32)
    facts, edges = np.empty((4, size), np.int32), np.empty((4, size), np.float32)
    triples, singles, clean = np.empty(9, np.int64), np.empty(16, np.int64), np.empty(size, np.bool_)
    for k in range(first - 1, first + 1):
        _lay_out(start, value, bits, shape, k, largest[k % 3], others[k % 3])
    values, numbers = largest.reshape(-1), others.reshape(-1)
    for k in range(first, last):
        _lay_out(start, value, bits, shape, k + 1, largest[(k + 1) % 3], others[(k + 1) % 3])
        for j in range(shape[1]):
            m, n = _around(k, j, shape, direction, triples, singles)
            own = largest[k % 3, j + 1, 1 : size + 1]
            _survey(values, numbers, m, n, own, facts, edges[0], edges[1])
            _surely_below(values, m, n, own, crsigma, facts, edges, clean)
            row = (k * shape[1] + j) << bits
            for i in range(size):
                if clean[i]:
                    continue
                count = _gather(start, value, bits, shape, k, j, i, direction, sample)
                sort_few(sample, count)
                level, deviation = _statistics(sample, count)
                limit = level + crsigma * deviation
                for r in range(start[row + i], start[row + i + 1]):
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
