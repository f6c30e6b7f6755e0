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


# Rows are located in batches, by loops that each do one simple thing to all of a batch, so that the compiler
# turns them into vector code.
_BATCH = 512


@njit(nogil=True, cache=True, error_model="numpy")
def _place_on_sky(x, y, matrix, origin, place):
    """Column and row of the grid, place[0] and place[1]."""
    m00, m01, m02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    m10, m11, m12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    m20, m21, m22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    x0, y0 = origin[0], origin[1]
    for r in range(x.size):
        xs = x[r] + x0
        ys = y[r] + y0
        w = 1.0 / (m20 * xs + m21 * ys + m22)
        place[0, r] = (m00 * xs + m01 * ys + m02) * w
        place[1, r] = (m10 * xs + m11 * ys + m12) * w


@njit(nogil=True, cache=True, error_model="numpy")
def _place_in_wavelength(wavelength, spectral, place):
    """Plane of the grid, place[2], and wavelength in the frame of the grid, place[3]."""
    start, step, reference = spectral[0], spectral[1], spectral[2]
    for r in range(wavelength.size):
        place[3, r] = wavelength[r]
    if spectral[4] > 0:
        for r in range(wavelength.size):
            place[3, r] = _vacuum(place[3, r])
    if spectral[3] > 0:
        for r in range(wavelength.size):
            place[2, r] = start / step * math.log(place[3, r] / start) + reference
    else:
        for r in range(wavelength.size):
            place[2, r] = (place[3, r] - start) / step + reference


@njit(nogil=True, cache=True, error_model="numpy")
def _enter_box(place, wavelength, spectral, box, centres, voxel, level, offset, inside):
    """Voxels of rows within the box, offsets from their centres, and which rows are inside."""
    lowest, highest = spectral[5], spectral[6]
    k0, j0, i0 = np.float64(box[0]), np.float64(box[1]), np.float64(box[2])
    nk, nj, ni = np.float64(box[3]), np.float64(box[4]), np.float64(box[5])
    bits = np.int32(box[6])
    for r in range(wavelength.size):
        column, row = math.floor(place[0, r] + 0.5), math.floor(place[1, r] + 0.5)
        i, j, k = column - i0, row - j0, math.floor(place[2, r] + 0.5) - k0
        lam = np.float64(wavelength[r])
        good = (i >= 0.0) & (i < ni) & (j >= 0.0) & (j < nj) & (k >= 0.0) & (k < nk)
        good &= (lam >= lowest) & (lam <= highest)
        inside[r] = np.uint8(good)
        # clipped before they become integers: a row far outside would not fit
        i, j, k = min(max(i, 0.0), ni), min(max(j, 0.0), nj), min(max(k, 0.0), nk - 1.0)
        voxel[r] = (np.int32(j) << bits) | np.int32(i)
        level[r] = np.int32(k)
        offset[0, r] = place[0, r] - column
        offset[1, r] = place[1, r] - row
    for r in range(wavelength.size):
        offset[2, r] = place[3, r] - centres[level[r]]


@njit(nogil=True, cache=True, error_model="numpy")
def _carry(values, chosen, whole, out):
    """Copy the chosen values; all of them, the usual case, without looking each one up."""
    if whole:
        for r in range(out.size):
            out[r] = values[r]
    else:
        for r in range(out.size):
            out[r] = values[chosen[r]]


@njit(nogil=True, cache=True, error_model="numpy")
def _carry_scaled(values, chosen, whole, scale, out):
    if whole:
        for r in range(out.size):
            out[r] = values[r] * scale
    else:
        for r in range(out.size):
            out[r] = values[chosen[r]] * scale


@njit(
    "i8(Array(f4, 2, 'C', readonly=True), i8[::1], f8[:,::1], f8[::1], f8[::1], f8[::1], i8[::1], f8, "
    "u2, u1[::1], i8,"
    "i4[::1], i2[::1], f4[:,::1], u2[::1], u1[::1], i8[::1], i8, i8[::1])",
    nogil=True,
    cache=True,
    error_model="numpy",
)
def locate_rows(
    rows,
    edges,
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
    ends,
):
    """Append the rows that fall into a box of voxels.

    Parameters
    ----------
    rows : (columns, n) float32
        x, y [arcsec], wavelength [Angstrom], value, variance and, when the payload has a sixth row, weight.
    edges : (pieces + 1,) int64
        Ranges of rows to take, one behind the other.
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
    ends : (pieces,) int64, out
        First free place behind each of the ranges.

    Returns
    -------
    at : int
        First free place afterwards, or -1 when the output is full.
    """
    place, offset = np.empty((4, _BATCH)), np.empty((3, _BATCH), np.float32)
    voxel, level = np.empty(_BATCH, np.int32), np.empty(_BATCH, np.int32)
    inside, order = np.empty(_BATCH, np.uint8), np.empty(_BATCH, np.int32)
    for q in range(ends.size):
        for begin in range(edges[q], edges[q + 1], _BATCH):
            n = min(_BATCH, edges[q + 1] - begin)
            wavelength = rows[2, begin : begin + n]
            _place_on_sky(rows[0, begin : begin + n], rows[1, begin : begin + n], matrix, origin, place)
            _place_in_wavelength(wavelength, spectral, place)
            _enter_box(place, wavelength, spectral, box, centres, voxel, level, offset, inside)
            if states.size:
                for r in range(n):
                    inside[r] &= states[begin + r] <= STATISTICS_ONLY
            found = 0
            for r in range(n):
                order[found] = r
                found += inside[r]
            end = at + found
            if end > cell.size:
                return -1
            chosen = order[:found]
            whole = found == n
            _carry(voxel, chosen, whole, cell[at:end])
            _carry(level, chosen, whole, plane[at:end])
            for c in range(3):
                _carry(offset[c], chosen, whole, payload[c, at:end])
            _carry_scaled(rows[3, begin : begin + n], chosen, whole, scale, payload[3, at:end])
            _carry_scaled(rows[4, begin : begin + n], chosen, whole, scale * scale, payload[4, at:end])
            if payload.shape[0] > 5:
                _carry_scaled(rows[5, begin : begin + n], chosen, whole, 1.0, payload[5, at:end])
            owner[at:end] = exposure
            if states.size:
                _carry(states[begin : begin + n], chosen, whole, state[at:end])
            else:
                state[at:end] = USABLE
            if identity.size:
                for r in range(found):
                    identity[at + r] = base + begin + chosen[r]
            at = end
        ends[q] = at
    return at


@njit(nogil=True, cache=True, error_model="numpy")
def _choose_rows(cell, plane, low, high, cells, number, chosen):
    """Find the rows of planes low <= plane < high in a batch: how many, where, and of all rows the number of
    the cell, from 1 on."""
    size, lowest, highest = np.int32(cells), np.int32(low), np.int32(high)
    for r in range(cell.size):
        p = np.int32(plane[r])
        c = (p - lowest) * size + cell[r] + np.int32(1)
        number[r] = c if (p >= lowest) & (p < highest) else np.int32(0)
    found = np.uint64(0)
    for r in range(cell.size):
        chosen[found] = r
        found += np.uint64(number[r] > 0)
    return found


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
    start[: n + 1] = 0
    number, chosen = np.empty(_BATCH, np.int32), np.empty(_BATCH, np.int32)
    # the count of a cell stands where the first place of the next one will be
    for k in range(ranges.shape[0]):
        for first in range(ranges[k, 0], ranges[k, 1], _BATCH):
            last = min(first + _BATCH, ranges[k, 1])
            found = _choose_rows(cell[first:last], plane[first:last], low, high, cells, number, chosen)
            for q in range(found):
                start[np.uint64(number[np.uint64(chosen[q])])] += 1
    at = filled
    for c in range(1, n + 1):
        here = start[c]
        start[c] = at
        at += here
    for k in range(ranges.shape[0]):
        for first in range(ranges[k, 0], ranges[k, 1], _BATCH):
            last = min(first + _BATCH, ranges[k, 1])
            found = _choose_rows(cell[first:last], plane[first:last], low, high, cells, number, chosen)
            for q in range(found):
                r = np.uint64(chosen[q])
                c = np.uint64(number[r])
                place = np.uint64(start[c])
                start[c] += 1
                row = np.uint64(first) + r  # unsigned, an index is taken as it is
                value[place] = payload[3, row]
                variance[place] = payload[4, row]
                owner_sorted[place] = owner[row]
                index[place] = row
    start[0] = filled
    return at
