"""Spread rows over the voxels around them: weighted sums in float64."""

import math

import numpy as np
from numba import njit

__all__ = ["finish", "spread_drizzle", "spread_nearest", "spread_radial"]

LARGEST = 3.4028234663852886e38  # weight of a row that lies exactly at a voxel centre
FAR = 1e-100  # weight beyond renka's radius: its square is still a normal number, so the variance is right
SMALLEST_NORMAL = 2.2250738585072014e-308


@njit(nogil=True, cache=True, inline="always")
def _add(sums, seen, k, j, i, word, bit, w, value, variance):
    sums[k, j, i, 0] += w
    sums[k, j, i, 1] += w * value
    sums[k, j, i, 2] += w * w * variance
    seen[word, k, j, i] |= bit


@njit(nogil=True, cache=True)
def _overlaps(position, reach, size, voxel, out):
    """Share of a drop of a given size in the voxels -reach..reach; ``position`` is the drop's centre, all in
    voxels.

    Returns the range of voxels with a share above 0 as (first, behind last) in places of ``out``.
    """
    half = 0.5 * (size + voxel)
    most = min(size, voxel)
    first = 2 * reach + 1
    last = 0
    for d in range(-reach, reach + 1):
        o = min(half - abs(d * voxel - position), most)
        out[d + reach] = o / size
        if o > 0.0:
            first = min(first, d + reach)
            last = d + reach + 1
    return first, last


@njit(nogil=True, cache=True)
def spread_drizzle(
    cell,
    plane,
    payload,
    owner,
    state,
    first,
    last,
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
    """Drizzle rows first <= r < last: each voxel gets the share of the drop's volume that lies in it.

    Parameters
    ----------
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
    mask = (1 << bits) - 1
    wx = np.empty(2 * reach + 1)
    wy = np.empty(2 * reach + 1)
    weighted = payload.shape[0] > 5
    for r in range(first, last):
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
        i0, i1 = _overlaps(np.float64(payload[0, r]), reach, drop[0], 1.0, wx)
        j0, j1 = _overlaps(np.float64(payload[1, r]), reach, drop[1], 1.0, wy)
        i_from = max(i - reach + i0, 0)
        i_to = min(i - reach + i1, ni)
        j_from = max(j - reach + j0, 0)
        j_to = min(j - reach + j1, nj)
        if i_from >= i_to or j_from >= j_to:
            continue
        word = owner[r] >> 6
        bit = np.uint64(1) << np.uint64(owner[r] & 63)
        for kk in range(max(k - reach, halo[0]), min(k + reach + 1, halo[0] + nk)):
            o = min(0.5 * (drop[2] + widths[kk]) - abs(centres[kk] - lam), min(drop[2], widths[kk]))
            if o <= 0.0:
                continue
            wz = o / drop[2] * row_weight
            for jj in range(j_from, j_to):
                wzy = wz * wy[jj - j + reach]
                for ii in range(i_from, i_to):
                    _add(
                        sums, seen, kk - halo[0], jj, ii, word, bit, wzy * wx[ii - i + reach], value, variance
                    )


@njit(nogil=True, cache=True)
def _sinc_product(d, reach):
    if d < 2.2e-16:
        return 1.0
    t = math.pi * d
    u = t / reach
    return math.sin(t) / t * math.sin(u) / u


@njit(nogil=True, cache=True)
def spread_radial(
    cell,
    plane,
    payload,
    owner,
    state,
    first,
    last,
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
    for r in range(first, last):
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


@njit(nogil=True, cache=True)
def spread_nearest(
    cell, plane, payload, owner, state, first, last, bits, halo, pixel, weights, sums, seen, nearest
):
    """Give every voxel the row of its own cell that lies nearest; of equally near ones the first."""
    nk, nj, ni = sums.shape[0], sums.shape[1], sums.shape[2]
    mask = (1 << bits) - 1
    for r in range(first, last):
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


@njit(nogil=True, cache=True)
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
