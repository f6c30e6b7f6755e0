"""From stored rows to the cells of an output grid, and the rows of a few planes sorted by cell."""

import math

import numpy as np
from numba import njit

__all__ = ["STATISTICS_ONLY", "USABLE", "locate_rows", "sort_planes"]

USABLE = 0
STATISTICS_ONLY = 1
REJECTED = 2


@njit("f8(f8)", nogil=True, cache=True, error_model="numpy")
def _vacuum(air):
    """Vacuum wavelength rounded to float32 (Ciddor 1996: 15 C, 101325 Pa, dry, 450 ppm CO2)."""
    s = 1e8 / (air * air)  # squared wavenumber, per square micrometre
    n_standard = 1.0 + 1e-8 * (5792105.0 / (238.0185 - s) + 167917.0 / (57.362 - s))
    return np.float64(np.float32(air * n_standard))


@njit(
    "i8(Array(f4, 2, 'C', readonly=True), i8, i8, f8[:,::1], f8[::1], f8[::1], f8[::1], i8[::1], f8, "
    "u2, u1[::1], i8,"
    "i4[::1], i2[::1], f4[:,::1], u2[::1], u1[::1], i8[::1], i8)",
    nogil=True,
    cache=True,
    error_model="numpy",
)
def locate_rows(
    rows,
    first,
    last,
    matrix,
    origin,
    spectral,
    centres,
    box,
    scale,
    exposure,
    states,
    base,
    cell,
    plane,
    payload,
    owner,
    state,
    identity,
    at,
):
    """Append the rows that fall into a box of voxels.

    Parameters
    ----------
    rows : (columns, n) float32
        x, y [arcsec], wavelength [Angstrom], value, variance and, when the payload has a sixth row, weight.
    first, last : int
        Range of rows to take.
    matrix : (3, 3) float64
        Homography from x, y (plus ``origin``) to 0-based voxel coordinates of the grid.
    origin : (2,) float64 [arcsec]
    spectral : (7,) float64
        Wavelength at the reference plane, step, 0-based reference plane, logarithmic (0, 1), vacuum (0, 1),
        lowest and highest wavelength allowed.
    centres : (planes of the box,) float64
        Wavelength of every plane of the box.
    box : (7,) int64
        First plane, row, column of the box; how many of each; bits of the row pitch of ``cell``.
    scale : float
        Flux scale: values are multiplied by it, variances by its square.
    exposure : int
        Index of the exposure.
    states : (n,) uint8 or (0,)
        State of each row of ``rows`` (rows of a state above 1 are skipped); empty: all usable.
    base : int
        Number of the first row of ``rows`` within its part, for ``identity``.
    cell, plane, payload, owner, state : out
        Place in the box, and offsets from the voxel centre in x, y [voxel] and wavelength [Angstrom], value,
        variance (and weight).
    identity : (n,) int64 or (0,), out
        Number of every row; not kept when empty.
    at : int
        First free place of the output.

    Returns
    -------
    at : int
        First free place afterwards, or -1 when the output is full.
    """
    m00, m01, m02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    m10, m11, m12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    m20, m21, m22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    x0, y0 = origin[0], origin[1]
    start, step, reference, logarithmic, vacuum = (
        spectral[0],
        spectral[1],
        spectral[2],
        spectral[3] > 0,
        spectral[4] > 0,
    )
    lowest, highest = spectral[5], spectral[6]
    k0, j0, i0 = box[0], box[1], box[2]
    nk, nj, ni = box[3], box[4], box[5]
    bits = box[6]
    capacity = cell.size
    weighted = payload.shape[0] > 5
    for r in range(first, last):
        if states.size and states[r] > STATISTICS_ONLY:
            continue
        lam = np.float64(rows[2, r])
        if lam < lowest or lam > highest:
            continue
        if vacuum:
            lam = _vacuum(lam)
        if logarithmic:
            k = np.int64(math.floor(start / step * math.log(lam / start) + reference + 0.5))
        else:
            k = np.int64(math.floor((lam - start) / step + reference + 0.5))
        k -= k0
        if k < 0 or k >= nk:
            continue
        xs = rows[0, r] + x0
        ys = rows[1, r] + y0
        w = 1.0 / (m20 * xs + m21 * ys + m22)
        px = (m00 * xs + m01 * ys + m02) * w
        py = (m10 * xs + m11 * ys + m12) * w
        fi = math.floor(px + 0.5)
        fj = math.floor(py + 0.5)
        i = np.int64(fi) - i0
        j = np.int64(fj) - j0
        if i < 0 or i >= ni or j < 0 or j >= nj:
            continue
        if at >= capacity:
            return -1
        cell[at] = (j << bits) | i
        plane[at] = k
        payload[0, at] = px - fi
        payload[1, at] = py - fj
        payload[2, at] = lam - centres[k]
        payload[3, at] = rows[3, r] * scale
        payload[4, at] = rows[4, r] * (scale * scale)
        if weighted:
            payload[5, at] = rows[5, r]
        owner[at] = exposure
        state[at] = states[r] if states.size else USABLE
        if identity.size:
            identity[at] = base + r
        at += 1
    return at


@njit(
    "i8(i4[::1], i2[::1], f4[:,::1], u2[::1], i8[:,::1], i8, i8, i8, i4[::1], i8, f4[::1], f4[::1], u2[::1], "
    "i4[::1])",
    nogil=True,
    cache=True,
    error_model="numpy",
)
def sort_planes(
    cell, plane, payload, owner, ranges, low, high, cells, start, filled, value, variance, owner_sorted, index
):
    """Counting sort of the rows of planes low <= plane < high by (plane, cell), behind ``filled`` rows
    already sorted.

    ``ranges`` names the rows to look at, first and behind last, in the order in which rows of one cell shall
    stand. ``start[(high - low) * cells + 1]`` receives the first place of each cell (and the end). Returns
    that end.
    """
    n = (high - low) * cells
    for c in range(n + 1):
        start[c] = 0
    for k in range(ranges.shape[0]):
        for r in range(ranges[k, 0], ranges[k, 1]):
            p = np.int64(plane[r])
            if low <= p < high:
                start[(p - low) * cells + cell[r]] += 1
    at = filled
    for c in range(n):
        here = start[c]
        start[c] = at
        at += here
    start[n] = at
    for k in range(ranges.shape[0]):
        for r in range(ranges[k, 0], ranges[k, 1]):
            p = np.int64(plane[r])
            if low <= p < high:
                c = (p - low) * cells + cell[r]
                place = start[c]
                start[c] = place + 1
                value[place] = payload[3, r]
                variance[place] = payload[4, r]
                owner_sorted[place] = owner[r]
                index[place] = r
    for c in range(n, 0, -1):
        start[c] = start[c - 1]
    start[0] = filled
    return at
