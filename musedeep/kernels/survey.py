"""What the rows of one exposure say beside the deep cube: levels, scatter, and where they differ."""

import math

import numpy as np
from numba import njit

__all__ = ["SURVEY_COLUMNS", "count_rows", "survey_rows"]

SURVEY_COLUMNS = 128
"""Detector columns of a slice that are told apart."""

# Rows further off than this are cosmic rays and the like; they are counted, and left out of the means.
_OUTLIER = 5.0
# A fifth of what seeing may change the flux of a spaxel by.
_SEEING = 0.4


@njit(nogil=True, cache=True, error_model="numpy")
def survey_rows(
    rows,
    origin,
    at_plane,
    matrix,
    place,
    scale,
    share,
    drop,
    first,
    corner,
    flux,
    variance,
    weight,
    blank,
    bright,
    fine,
    px,
    py,
    value,
    noise,
    usable,
    planes,
    slices,
    columns,
    lines,
    light,
):
    """Find the voxels of rows, and sum up how those on blank sky differ from the deep cube.

    Parameters
    ----------
    rows : (columns, n) float32
        x, y [arcsec], wavelength [Angstrom], value, variance.
    origin : (n,) uint32
        Packed detector pixels.
    at_plane : (n,) float64
        0-based plane of the grid, with its fraction.
    matrix : (3, 3) float64
        From x, y (plus `place`) to 0-based voxel coordinates of the grid.
    place : (2,) float64 [arcsec]
    scale : float
        Flux scale.
    share : float
        Weight of the exposure.
    drop : (3,) float64
        Size of a drop in x, y [voxel] and wavelength [planes].
    first : int
        Plane of the grid that the first plane of `flux` is.
    corner : (2,) int64
        Row and column of the grid that the first ones of `flux` are.
    flux, variance, weight : (nk, ny, nx) float32
        The deep cube there; NaN without data.
    blank : (ny, nx) bool
        Blank sky.
    bright : (ny, nx) bool
        Sources, none of it blank sky.
    fine : (3,) float64
        First wavelength and step of `lines`, and the factor from stored wavelengths to those on Earth.
    px, py, value, noise : (n,) float32, out
        Place in columns and rows counted from `corner`, scaled value and variance.
    usable : (n,) uint8, out
        1 for rows within the box.
    planes : (nz, 7) float64, in and out
        Of blank sky by plane of the grid: number, sums of the value, of the difference to the cube, of this
        in units of its expected error, of its square, outliers, and the sum of the expected variance.
    slices : (1152, 4) float64, in and out
        By slice (48 * IFU + slice, from 0): number, sums of value, of difference, and of its variance.
    columns : (3072, 4) float64, in and out
        The same by IFU and detector column of its slices (128 * IFU + column, from 0).
    lines : (m, 3) float64, in and out
        By wavelength on Earth: number, sum of the variance, sum of the value.
    light : (nz, 4) float64, in and out
        Of bright sources by plane of the grid: number, sums of the value, of the cube, and of the variance.
    """
    nk, ny, nx = flux.shape
    for r in range(rows.shape[1]):
        x, y = _place_of(rows, r, matrix, place, corner)
        px[r], py[r] = x, y
        v = np.float64(rows[3, r]) * scale
        vv = np.float64(rows[4, r]) * scale * scale
        value[r], noise[r] = v, vv
        i, j = np.int64(math.floor(x + 0.5)), np.int64(math.floor(y + 0.5))
        usable[r] = 0 <= i < nx and 0 <= j < ny
        if not usable[r] or not (blank[j, i] or bright[j, i]):
            continue
        lam = np.float64(rows[2, r])
        z = at_plane[r]
        plane = np.int64(math.floor(z + 0.5))
        k = plane - first
        if k < 0 or k >= nk or plane >= planes.shape[0]:
            continue
        c, cv, cw = np.float64(flux[k, j, i]), np.float64(variance[k, j, i]), np.float64(weight[k, j, i])
        if not math.isfinite(c) or not math.isfinite(cv) or cw <= 0.0:
            continue
        # the row is part of the mean that it is held against
        own = share * _overlap(x - i, drop[0]) * _overlap(y - j, drop[1]) * _overlap(z - plane, drop[2]) / cw
        expected = vv * (1.0 - 2.0 * min(own, 0.5)) + cv
        d = v - c
        if bright[j, i]:
            # the seeing changes a source by more than its noise
            if d * d < _OUTLIER * _OUTLIER * (expected + _SEEING * _SEEING * c * c):
                light[plane, 0] += 1
                light[plane, 1] += v
                light[plane, 2] += c
                light[plane, 3] += vv
            continue
        if expected <= 0.0 or d * d > _OUTLIER * _OUTLIER * expected:
            planes[plane, 5] += 1
            continue
        planes[plane, 0] += 1
        planes[plane, 1] += v
        planes[plane, 2] += d
        planes[plane, 3] += d / math.sqrt(expected)
        planes[plane, 4] += d * d / expected
        planes[plane, 6] += expected
        ifu = np.int64((origin[r] >> np.uint32(6)) & np.uint32(0x1F)) - 1
        s = ifu * 48 + np.int64(origin[r] & np.uint32(0x3F)) - 1
        if 0 <= s < slices.shape[0]:
            slices[s, 0] += 1
            slices[s, 1] += v
            slices[s, 2] += d
            slices[s, 3] += expected
        column = ifu * SURVEY_COLUMNS + np.int64((origin[r] >> np.uint32(24)) & np.uint32(0x7F))
        if 0 <= column < columns.shape[0]:
            columns[column, 0] += 1
            columns[column, 1] += v
            columns[column, 2] += d
            columns[column, 3] += expected
        b = np.int64(math.floor((lam * fine[2] - fine[0]) / fine[1]))
        if 0 <= b < lines.shape[0]:
            lines[b, 0] += 1
            lines[b, 1] += vv
            lines[b, 2] += v


@njit(nogil=True, inline="always", error_model="numpy")
def _place_of(rows, r, matrix, place, corner):
    """Column and row of a row in the grid, counted from `corner`; see `survey_rows`."""
    xs, ys = rows[0, r] + place[0], rows[1, r] + place[1]
    w = 1.0 / (matrix[2, 0] * xs + matrix[2, 1] * ys + matrix[2, 2])
    x = (matrix[0, 0] * xs + matrix[0, 1] * ys + matrix[0, 2]) * w - corner[1]
    y = (matrix[1, 0] * xs + matrix[1, 1] * ys + matrix[1, 2]) * w - corner[0]
    return x, y


@njit(nogil=True, inline="always", error_model="numpy")
def _overlap(offset, size):
    """Part of a drop that lies in the voxel, its middle `offset` from that of the voxel."""
    inside = min(offset + size / 2, 0.5) - max(offset - size / 2, -0.5)
    return min(max(inside / size, 0.0), 1.0)


@njit(nogil=True, cache=True, error_model="numpy")
def count_rows(rows, matrix, place, corner, chosen, counts):
    """Count rows by spaxel.

    Parameters
    ----------
    rows : (columns, n) float32
        x, y [arcsec].
    matrix, place, corner
        As in `survey_rows`.
    chosen : (n,) bool
        Rows that count.
    counts : (ny, nx) int32, in and out
    """
    ny, nx = counts.shape
    for r in range(rows.shape[1]):
        if not chosen[r]:
            continue
        x, y = _place_of(rows, r, matrix, place, corner)
        i, j = np.int64(math.floor(x + 0.5)), np.int64(math.floor(y + 0.5))
        if 0 <= i < nx and 0 <= j < ny:
            counts[j, i] += 1
