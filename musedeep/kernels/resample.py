"""Spread rows over the voxels around them: weighted sums in float64."""

import math

import numpy as np
from numba import njit

__all__ = ["finish", "spread_drizzle", "spread_nearest", "spread_radial", "spread_wide_drizzle"]

LARGEST = 3.4028234663852886e38  # weight of a row that lies exactly at a voxel centre
FAR = 1e-100  # weight beyond renka's radius: its square is still a normal number, so the variance is right
SMALLEST_NORMAL = 2.2250738585072014e-308


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _add(sums, seen, k, j, i, word, bit, w, value, variance):
    sums[k, j, i, 0] += w
    sums[k, j, i, 1] += w * value
    sums[k, j, i, 2] += w * w * variance
    seen[word, k, j, i] |= bit


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _share(distance, size, voxel):
    """Share of a drop that lies in a voxel, from the distance of their centres."""
    return max(min(0.5 * (size + voxel) - distance, min(size, voxel)), 0.0) / size


# Rows are drizzled in batches: shares and places are computed by loops over all rows of a batch, which the
# compiler turns into vector code.
_BATCH = 256
_SKIPPED, _AT_BORDER = -1, -2


@njit(nogil=True, cache=True, error_model="numpy")
def _pairs(position, size, lower, upper):
    """Shares of drops of at most one voxel in the lower and upper of the two voxels that they may touch."""
    for r in range(position.size):
        f = np.float64(position[r])
        beyond = max(0.5 * (size - 1.0) + abs(f), 0.0) / size
        # a row from outside the grid, put into its edge, may lie further from it than its drop reaches
        own = max(min(0.5 * (size + 1.0) - abs(f), size), 0.0) / size
        lower[r] = beyond if f < 0.0 else own
        upper[r] = own if f < 0.0 else beyond


@njit(nogil=True, cache=True, error_model="numpy")
def _pairs_of_planes(position, plane, size, centres, widths, table, lower, upper):
    """The same in wavelength, with planes of any width; ``table`` is scratch."""
    most = widths.size - 1
    lam, centre_a, centre_b, width_a, width_b = table[0], table[1], table[2], table[3], table[4]
    for r in range(position.size):
        k = np.int64(plane[r])
        lam[r] = position[r] + centres[np.uint64(k)]
        k -= position[r] < 0.0
        a, b = np.uint64(max(k, 0)), np.uint64(min(k + 1, most))
        centre_a[r], centre_b[r], width_a[r], width_b[r] = centres[a], centres[b], widths[a], widths[b]
        # beyond the planes of the box there is none
        if k < 0:
            width_a[r] = -np.inf
        if k >= most:
            width_b[r] = -np.inf
    for r in range(position.size):
        lower[r] = _share(abs(centre_a[r] - lam[r]), size, width_a[r])
        upper[r] = _share(abs(centre_b[r] - lam[r]), size, width_b[r])


@njit(nogil=True, cache=True, error_model="numpy")
def _lowest_voxels(cell, plane, x, y, z, state, bits, halo, shape, voxel):
    """Place of the lowest of the eight voxels of each row; or that it is skipped, or touches the border."""
    mask = np.int32((1 << bits) - 1)
    shift = np.int32(bits)
    hk, hj = np.int32(halo[0]), np.int32(halo[1])
    nk, nj, ni = np.int32(shape[0]), np.int32(shape[1]), np.int32(shape[2])
    for r in range(voxel.size):
        c = cell[r]
        k = np.int32(plane[r]) - hk - np.int32(z[r] < 0.0)
        j = (c >> shift) - hj - np.int32(y[r] < 0.0)
        i = (c & mask) - hj - np.int32(x[r] < 0.0)
        inside = (i >= 0) & (i < ni - 1) & (j >= 0) & (j < nj - 1) & (k >= 0) & (k < nk - 1)
        near = (i >= -1) & (i < ni) & (j >= -1) & (j < nj) & (k >= -1) & (k < nk) & (state[r] == 0)
        outside = _AT_BORDER if near else _SKIPPED
        at = (np.int64(k) * shape[1] + np.int64(j)) * shape[2] + np.int64(i)
        voxel[r] = at if inside & near else outside


@njit(nogil=True, cache=True, error_model="numpy")
def _add_at_border(k, j, i, shares, value, variance, word, bit, sums, seen):
    """Add a row to those of its eight voxels that there are."""
    for a in range(2):
        for b in range(2):
            w = shares[4 + a] * shares[2 + b]
            for c in range(2):
                inside = (
                    0 <= k + a < sums.shape[0] and 0 <= j + b < sums.shape[1] and 0 <= i + c < sums.shape[2]
                )
                if inside and w * shares[c] != 0.0:
                    _add(sums, seen, k + a, j + b, i + c, word, bit, w * shares[c], value, variance)


@njit(nogil=True, cache=True, error_model="numpy")
def spread_drizzle(
    cell, plane, payload, owner, state, ranges, bits, halo, drop, centres, widths, weights, sums, seen
):
    """Drizzle rows: each voxel gets the share of the drop's volume that lies in it.

    For drops of at most one voxel, which touch one or two voxels along each axis. Both voxels along x are
    always added to, one of them perhaps nothing: whether a drop leaves its voxel is a toss-up, and wrongly
    predicted branches cost more than the sums. Rows that follow each other lie alike in y or wavelength.

    Parameters
    ----------
    ranges : (n, 2) int64
        First row and end of every run of rows to add, in this order.
    drop : (3,) float64
        Drop size in x, y [voxels] and wavelength [Angstrom].
    halo : (2,) int64
        Planes, and rows or columns, of the box outside of the voxels of ``sums``.
    centres, widths : (planes of the box,) float64 [Angstrom]
    weights : (exposures,) float64
    sums : (planes, rows, columns, 3) float64, in and out
        Sums of w, w * value, w**2 * variance.
    seen : (words, planes, rows, columns) uint64, in and out
        One bit per exposure.
    """
    voxel, shares, table = np.empty(_BATCH, np.int64), np.empty((6, _BATCH)), np.empty((5, _BATCH))
    for q in range(ranges.shape[0]):
        first = ranges[q, 0]
        while first < ranges[q, 1]:
            last = first + 1
            end = min(first + _BATCH, ranges[q, 1])
            while last < end and owner[last] == owner[first]:
                last += 1
            x, y, z = payload[0, first:last], payload[1, first:last], payload[2, first:last]
            _pairs(x, drop[0], shares[0], shares[1])
            _pairs(y, drop[1], shares[2], shares[3])
            _pairs_of_planes(z, plane[first:last], drop[2], centres, widths, table, shares[4], shares[5])
            weight = weights[owner[first]]
            for r in range(last - first):
                own = weight * payload[5, first + r] if payload.shape[0] > 5 else weight
                shares[4, r] *= own
                shares[5, r] *= own
            _lowest_voxels(
                cell[first:last],
                plane[first:last],
                x,
                y,
                z,
                state[first:last],
                bits,
                halo,
                sums.shape[:3],
                voxel[: last - first],
            )
            _add_batch(
                cell,
                plane,
                payload,
                owner[first],
                first,
                bits,
                halo,
                voxel[: last - first],
                shares,
                sums,
                seen,
            )
            first = last


@njit(nogil=True, cache=True, error_model="numpy")
def _add_batch(cell, plane, payload, owner, first, bits, halo, voxel, shares, sums, seen):
    """Add rows of one exposure, from the row ``first`` on, to their voxels."""
    nj, ni = np.uint64(sums.shape[1]), np.uint64(sums.shape[2])
    size = sums.shape[0] * sums.shape[1] * sums.shape[2]
    # unsigned, an index is taken as it is
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    word, bit = np.int64(owner >> 6), one << np.uint64(owner & 63)
    flat, marks = sums.reshape(3 * size), seen.reshape(seen.size)[word * size : (word + 1) * size]
    nothing = np.uint64(0)
    values, variances = payload[3, first : first + voxel.size], payload[4, first : first + voxel.size]
    for r in range(voxel.size):
        if voxel[r] < 0:
            if voxel[r] == _AT_BORDER:
                n = first + r
                k = np.int64(plane[n]) - halo[0] - (payload[2, n] < 0.0)
                j = np.int64(cell[n] >> bits) - halo[1] - (payload[1, n] < 0.0)
                i = np.int64(cell[n] & ((1 << bits) - 1)) - halo[1] - (payload[0, n] < 0.0)
                _add_at_border(k, j, i, shares[:, r], values[r], variances[r], word, bit, sums, seen)
            continue
        value, variance = np.float64(values[r]), np.float64(variances[r])
        base = np.uint64(voxel[r])
        x0, x1, y0, y1, z0, z1 = (
            shares[0, r],
            shares[1, r],
            shares[2, r],
            shares[3, r],
            shares[4, r],
            shares[5, r],
        )
        for a in range(2):
            for b in range(2):
                w = (z1 if a else z0) * (y1 if b else y0)
                if w == 0.0:
                    continue
                v = base + (np.uint64(a) * nj + np.uint64(b)) * ni
                w0, w1 = w * x0, w * x1
                at = three * v
                flat[at] += w0
                flat[at + one] += w0 * value
                flat[at + two] += w0 * w0 * variance
                at += three
                flat[at] += w1
                flat[at + one] += w1 * value
                flat[at + two] += w1 * w1 * variance
                marks[v] |= bit if w0 != 0.0 else nothing
                marks[v + one] |= bit if w1 != 0.0 else nothing


@njit(nogil=True, cache=True, error_model="numpy")
def spread_wide_drizzle(
    cell,
    plane,
    payload,
    owner,
    state,
    ranges,
    bits,
    halo,
    reach,
    drop,
    centres,
    widths,
    weights,
    sums,
    seen,
):
    """Drizzle rows whose drops may touch more than two voxels along an axis; parameters as
    `spread_drizzle`."""
    nk, nj, ni = sums.shape[0], sums.shape[1], sums.shape[2]
    flat = sums.reshape(nk * nj * ni * 3)
    marks = seen.reshape(seen.shape[0], nk * nj * ni)
    mask = (1 << bits) - 1
    hk, hj = halo[0], halo[1]
    dx, dy, dz = drop[0], drop[1], drop[2]
    weighted = payload.shape[0] > 5
    for q in range(ranges.shape[0]):
        for r in range(ranges[q, 0], ranges[q, 1]):
            if state[r] != 0:
                continue
            row_weight = weights[owner[r]]
            if weighted:
                row_weight *= payload[5, r]
            if row_weight == 0.0:
                continue
            k = np.int64(plane[r])
            j = np.int64(cell[r] >> bits) - hj
            i = np.int64(cell[r] & mask) - hj
            fx, fy = np.float64(payload[0, r]), np.float64(payload[1, r])
            value = np.float64(payload[3, r])
            variance = np.float64(payload[4, r])
            lam = np.float64(payload[2, r]) + centres[k]
            # only the voxels that the drop can touch: of at most one voxel, its own and one neighbour
            wide = 0.5 * (dx + 1.0)
            i0 = max(i + max(-reach, np.int64(math.ceil(fx - wide))), 0)
            i1 = min(i + min(reach, np.int64(math.floor(fx + wide))), ni - 1)
            wide = 0.5 * (dy + 1.0)
            j0 = max(j + max(-reach, np.int64(math.ceil(fy - wide))), 0)
            j1 = min(j + min(reach, np.int64(math.floor(fy + wide))), nj - 1)
            if i0 > i1 or j0 > j1:
                continue
            mark = marks[owner[r] >> 6]
            bit = np.uint64(1) << np.uint64(owner[r] & 63)
            for kk in range(max(k - reach, hk), min(k + reach + 1, hk + nk)):
                wz = _share(abs(centres[kk] - lam), dz, widths[kk]) * row_weight
                if wz == 0.0:
                    continue
                for jj in range(j0, j1 + 1):
                    wzy = wz * _share(abs(jj - j - fy), dy, 1.0)
                    if wzy == 0.0:
                        continue
                    voxel = ((kk - hk) * nj + jj) * ni
                    for ii in range(i0, i1 + 1):
                        w = wzy * _share(abs(ii - i - fx), dx, 1.0)
                        if w == 0.0:
                            continue
                        at = 3 * (voxel + ii)
                        flat[at] += w
                        flat[at + 1] += w * value
                        flat[at + 2] += w * w * variance
                        mark[voxel + ii] |= bit


@njit(nogil=True, cache=True, error_model="numpy")
def _sinc_product(d, reach):
    if d < 2.2e-16:
        return 1.0
    t = math.pi * d
    u = t / reach
    return math.sin(t) / t * math.sin(u) / u


@njit(nogil=True, cache=True, error_model="numpy")
def spread_radial(
    cell,
    plane,
    payload,
    owner,
    state,
    ranges,
    bits,
    halo,
    reach,
    method,
    radius,
    pixel,
    centres,
    weights,
    sums,
    seen,
):
    """Weights by distance: method 0 linear 1/r, 1 quadratic 1/r**2, 2 renka, 3 lanczos of order ``reach``.

    ``pixel`` = (x, y [voxels], wavelength [Angstrom]) is the size of an input pixel, the unit of distance;
    ``radius`` is renka's.
    """
    nk, nj, ni = sums.shape[0], sums.shape[1], sums.shape[2]
    mask = (1 << bits) - 1
    weighted = payload.shape[0] > 5
    for q in range(ranges.shape[0]):
        for r in range(ranges[q, 0], ranges[q, 1]):
            if state[r] != 0:
                continue
            row_weight = weights[owner[r]]
            if weighted:
                row_weight *= payload[5, r]
            if row_weight == 0.0:
                continue
            k = np.int64(plane[r])
            j = np.int64(cell[r] >> bits) - halo[1]
            i = np.int64(cell[r] & mask) - halo[1]
            value = np.float64(payload[3, r])
            variance = np.float64(payload[4, r])
            lam = np.float64(payload[2, r]) + centres[k]
            word = owner[r] >> 6
            bit = np.uint64(1) << np.uint64(owner[r] & 63)
            for kk in range(max(k - reach, halo[0]), min(k + reach + 1, halo[0] + nk)):
                dz = abs(centres[kk] - lam) / pixel[2]
                for jj in range(max(j - reach, 0), min(j + reach + 1, nj)):
                    dy = abs(jj - j - np.float64(payload[1, r])) / pixel[1]
                    for ii in range(max(i - reach, 0), min(i + reach + 1, ni)):
                        dx = abs(ii - i - np.float64(payload[0, r])) / pixel[0]
                        if method == 3:
                            if dx >= reach or dy >= reach or dz > reach:
                                continue
                            w = _sinc_product(dx, reach) * _sinc_product(dy, reach) * _sinc_product(dz, reach)
                        else:
                            square = dx * dx + dy * dy + dz * dz
                            if square == 0.0:
                                w = LARGEST
                            elif method == 0:
                                w = 1.0 / math.sqrt(square)
                            elif method == 1:
                                w = 1.0 / square
                            else:
                                distance = math.sqrt(square)
                                w = FAR
                                if distance < radius:
                                    w = ((radius - distance) / (radius * distance)) ** 2
                        _add(sums, seen, kk - halo[0], jj, ii, word, bit, w * row_weight, value, variance)


@njit(nogil=True, cache=True, error_model="numpy")
def spread_nearest(
    cell, plane, payload, owner, state, ranges, bits, halo, pixel, weights, sums, seen, nearest
):
    """Give every voxel the row of its own cell that lies nearest; of equally near ones the first."""
    nk, nj, ni = sums.shape[0], sums.shape[1], sums.shape[2]
    mask = (1 << bits) - 1
    for q in range(ranges.shape[0]):
        for r in range(ranges[q, 0], ranges[q, 1]):
            if state[r] != 0 or weights[owner[r]] == 0.0:
                continue
            k = np.int64(plane[r]) - halo[0]
            j = np.int64(cell[r] >> bits) - halo[1]
            i = np.int64(cell[r] & mask) - halo[1]
            if not (0 <= k < nk and 0 <= j < nj and 0 <= i < ni):
                continue
            dx = np.float64(payload[0, r]) / pixel[0]
            dy = np.float64(payload[1, r]) / pixel[1]
            dz = np.float64(payload[2, r]) / pixel[2]
            square = dx * dx + dy * dy + dz * dz
            if square < nearest[k, j, i]:
                nearest[k, j, i] = square
                w = weights[owner[r]]
                sums[k, j, i, 0] = w
                sums[k, j, i, 1] = w * payload[3, r]
                sums[k, j, i, 2] = w * w * payload[4, r]
                for word in range(seen.shape[0]):
                    seen[word, k, j, i] = 0
                seen[owner[r] >> 6, k, j, i] = np.uint64(1) << np.uint64(owner[r] & 63)


@njit(nogil=True, cache=True, error_model="numpy")
def finish(sums, seen, seconds, flux, variance, count, time, weight):
    """Divide the sums, count the exposures of each voxel and add up their seconds."""
    nk, nj, ni = sums.shape[0], sums.shape[1], sums.shape[2]
    for k in range(nk):
        for j in range(nj):
            for i in range(ni):
                w = sums[k, j, i, 0]
                n = 0
                t = 0.0
                if math.isfinite(w) and abs(w) >= SMALLEST_NORMAL:
                    flux[k, j, i] = sums[k, j, i, 1] / w
                    variance[k, j, i] = sums[k, j, i, 2] / (w * w)
                    for word in range(seen.shape[0]):
                        bits = seen[word, k, j, i]
                        exposure = 64 * word
                        while bits:
                            if bits & np.uint64(1):
                                n += 1
                                t += seconds[exposure]
                            bits >>= np.uint64(1)
                            exposure += 1
                    weight[k, j, i] = w
                else:
                    flux[k, j, i] = np.nan
                    variance[k, j, i] = np.nan
                    weight[k, j, i] = 0.0
                count[k, j, i] = n
                time[k, j, i] = t
