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


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _pair(position, size):
    """Shares of a drop of at most one voxel in the lower and upper of the two voxels that it may touch."""
    beyond = max(0.5 * (size - 1.0) + abs(position), 0.0) / size
    # a row from outside the grid, put into its edge, may lie further from that voxel than its drop reaches
    own = max(min(0.5 * (size + 1.0) - abs(position), size), 0.0) / size
    return (beyond, own) if position < 0.0 else (own, beyond)


@njit(nogil=True, cache=True, error_model="numpy")
def spread_drizzle(
    cell, plane, payload, owner, state, ranges, bits, halo, drop, centres, widths, weights, sums, seen
):
    """Drizzle rows: each voxel gets the share of the drop's volume that lies in it.

    For drops of at most one voxel, which touch one or two voxels along each axis. All eight are always added
    to, some of them nothing: whether a drop leaves its voxel is a toss-up, and wrongly predicted branches
    cost more than the sums.

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
    nk, nj, ni = sums.shape[0], sums.shape[1], sums.shape[2]
    flat = sums.reshape(nk * nj * ni * 3)
    marks = seen.reshape(seen.shape[0], nk * nj * ni)
    mask = (1 << bits) - 1
    hk, hj = halo[0], halo[1]
    dz = drop[2]
    weighted = payload.shape[0] > 5
    nothing = np.uint64(0)
    for q in range(ranges.shape[0]):
        for r in range(ranges[q, 0], ranges[q, 1]):
            if state[r] != 0:
                continue
            row_weight = weights[owner[r]]
            if weighted:
                row_weight *= payload[5, r]
            fx, fy, fz = np.float64(payload[0, r]), np.float64(payload[1, r]), np.float64(payload[2, r])
            k = np.int64(plane[r])
            lam = fz + centres[k]
            # the lower of the two voxels along each axis, which is the row's own one or the one before
            k -= fz < 0.0
            j = np.int64(cell[r] >> bits) - hj - (fy < 0.0)
            i = np.int64(cell[r] & mask) - hj - (fx < 0.0)
            if not (-1 <= i < ni and -1 <= j < nj and -1 <= k - hk < nk):
                continue
            x0, x1 = _pair(fx, drop[0])
            y0, y1 = _pair(fy, drop[1])
            z0 = _share(abs(centres[k] - lam), dz, widths[k]) * row_weight if k >= 0 else 0.0
            z1 = (
                _share(abs(centres[k + 1] - lam), dz, widths[k + 1]) * row_weight
                if k + 1 < widths.size
                else 0.0
            )
            k -= hk
            value = np.float64(payload[3, r])
            variance = np.float64(payload[4, r])
            mark = marks[owner[r] >> 6]
            bit = np.uint64(1) << np.uint64(owner[r] & 63)
            if 0 <= i < ni - 1 and 0 <= j < nj - 1 and 0 <= k < nk - 1:
                for a in range(2):
                    for b in range(2):
                        w = (z1 if a else z0) * (y1 if b else y0)
                        v = ((k + a) * nj + j + b) * ni + i
                        w0 = w * x0
                        w1 = w * x1
                        at = 3 * v
                        flat[at] += w0
                        flat[at + 1] += w0 * value
                        flat[at + 2] += w0 * w0 * variance
                        flat[at + 3] += w1
                        flat[at + 4] += w1 * value
                        flat[at + 5] += w1 * w1 * variance
                        mark[v] |= bit if w0 != 0.0 else nothing
                        mark[v + 1] |= bit if w1 != 0.0 else nothing
            else:
                for a in range(2):
                    for b in range(2):
                        w = (z1 if a else z0) * (y1 if b else y0)
                        for c in range(2):
                            if 0 <= k + a < nk and 0 <= j + b < nj and 0 <= i + c < ni:
                                v = ((k + a) * nj + j + b) * ni + i + c
                                w0 = w * (x1 if c else x0)
                                flat[3 * v] += w0
                                flat[3 * v + 1] += w0 * value
                                flat[3 * v + 2] += w0 * w0 * variance
                                mark[v] |= bit if w0 != 0.0 else nothing


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
