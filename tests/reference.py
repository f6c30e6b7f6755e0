"""A slow and obvious combination of rows, in numpy alone: what the engine must agree with.

Written from the description of the rules, one rule a function, with no thought for speed or memory. The part
after ESO follows muse_exp_combine to the last bit where asked to (`geometry="sky"`, `clamp=True`); the
parity suite holds it against the real recipe, so the engine may be held against it where the recipe is not
at hand.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

DEGREES = 180.0 / math.pi
COSMIC_RAY = 0x20
NOMINAL_STEP = 1.25  # Angstrom a plane that the pixels of the instrument have
LARGEST = 3.4028234663852886e38
SMALLEST = 2.2250738585072014e-308


@dataclass
class Rows:
    """Rows of all exposures, in the order of the exposures and of the tables.

    `px`, `py`, `pz` are 0-based voxel coordinates (float64); `data` has its flux scale applied. `ra` and
    `dec` (degrees) are needed by the geometry of the sky only.
    """

    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    wavelength: np.ndarray
    data: np.ndarray
    variance: np.ndarray
    dq: np.ndarray
    exposure: np.ndarray
    weight: np.ndarray
    ra: np.ndarray = None
    dec: np.ndarray = None

    def __len__(self):
        return len(self.data)

    def select(self, chosen):
        return Rows(*(None if column is None else column[chosen] for column in vars(self).values()))


def round_half_away(values):
    return np.trunc(values + np.copysign(0.5, values)).astype(np.int64)


def cells_of(rows, shape, clamp=False):
    """Cell (plane, y, x) of every row; `clamp` moves those outside to the nearest cell of the edge, as ESO
    does."""
    cells = np.column_stack([round_half_away(rows.pz), round_half_away(rows.py), round_half_away(rows.px)])
    return np.clip(cells, 0, np.array(shape) - 1) if clamp else cells


# ------------------------------------------------------------------------------------------------ resampling


def native_distances(rows, grid, k, j, i):
    """Distances along the voxel axes in degrees and Angstrom, in the tangent plane of the grid."""
    step = np.array(grid.step_arcsec) / 3600.0
    dz = np.abs(_plane_wavelength(grid, k) - rows.wavelength.astype(np.float64))
    return np.abs(rows.px - i) * step[0], np.abs(rows.py - j) * step[1], dz


def sky_distances(rows, grid, k, j, i):
    """ESO's distances: differences of RA (times the cosine at the voxel) and Dec."""
    ra, dec = sky_of_pixel(grid, i, j)
    dx = np.abs(ra - rows.ra) * np.cos(dec / DEGREES)
    dz = np.abs(_plane_wavelength(grid, k) - rows.wavelength.astype(np.float64))
    return dx, np.abs(dec - rows.dec), dz


def _plane_wavelength(grid, k):
    steps = k + 1.0 - grid.wavelength_crpix
    if grid.log:
        return grid.wavelength_start * np.exp(steps * grid.wavelength_step / grid.wavelength_start)
    return grid.wavelength_start + steps * grid.wavelength_step


def sky_of_pixel(grid, px, py):
    """RA, Dec in degrees of 0-based pixels; RA within half a turn of the tangent point."""
    cd, (ra0, dec0) = np.array(grid.cd), grid.crval
    u, v = cd @ np.stack([px + 1.0 - grid.crpix[0], py + 1.0 - grid.crpix[1]])
    phi, theta = np.arctan2(u, -v), np.arctan(np.degrees(1.0) / np.hypot(u, v))
    d0 = math.radians(dec0)
    alpha = np.arctan2(
        np.cos(theta) * np.sin(phi), np.sin(theta) * math.cos(d0) + np.cos(theta) * math.sin(d0) * np.cos(phi)
    )
    delta = np.arcsin(np.sin(theta) * math.sin(d0) - np.cos(theta) * math.cos(d0) * np.cos(phi))
    return alpha * DEGREES + ra0, delta * DEGREES


def pixel_of_sky(grid, ra, dec):
    """0-based pixels of RA, Dec in degrees; the arcsine costs digits near the tangent point, as it does in
    ESO's code."""
    d0 = grid.crval[1] / DEGREES
    a, d = ra / DEGREES - grid.crval[0] / DEGREES, dec / DEGREES
    phi = np.pi + np.arctan2(
        -np.cos(d) * np.sin(a), np.sin(d) * math.cos(d0) - np.cos(d) * math.sin(d0) * np.cos(a)
    )
    theta = np.arcsin(np.sin(d) * math.sin(d0) + np.cos(d) * math.cos(d0) * np.cos(a))
    radius = DEGREES / np.tan(theta)
    u, v = radius * np.sin(phi), -radius * np.cos(phi)
    (c11, c12), (c21, c22) = grid.cd
    determinant = c11 * c22 - c12 * c21
    x = (c22 * u - c12 * v) / determinant + grid.crpix[0]
    y = (c11 * v - c21 * u) / determinant + grid.crpix[1]
    return x - 1.0, y - 1.0


def _overlap(distance, size_in, size_out):
    inside = distance + size_out / 2 <= size_in / 2
    overlap = np.where(inside, size_out, (size_in + size_out) / 2 - distance)
    return np.clip(np.minimum(overlap, size_in), 0.0, None) / size_in


def drizzle(dx, dy, dz, k, grid, step, pixfrac, **_):
    out = _output_size(grid)
    depth = _plane_wavelength(grid, k + 0.5) - _plane_wavelength(grid, k - 0.5)
    weight = _overlap(dx, pixfrac[0] * step[0], out[0])
    weight *= _overlap(dy, pixfrac[1] * step[1], out[1])
    return weight * _overlap(dz, pixfrac[2] * NOMINAL_STEP, depth)


def _output_size(grid):
    return [value / 3600.0 for value in grid.step_arcsec]


def _radius(dx, dy, dz, step):
    return np.sqrt((dx / step[0]) ** 2 + (dy / step[1]) ** 2 + (dz / NOMINAL_STEP) ** 2)


def linear(dx, dy, dz, k, grid, step, **_):
    radius = _radius(dx, dy, dz, step)
    return np.where(radius > 0, 1.0 / np.where(radius > 0, radius, 1.0), LARGEST)


def quadratic(dx, dy, dz, k, grid, step, **_):
    radius = _radius(dx, dy, dz, step)
    return np.where(radius > 0, 1.0 / np.where(radius > 0, radius, 1.0) ** 2, LARGEST)


def renka(dx, dy, dz, k, grid, step, rc, **_):
    out = _output_size(grid)
    critical = rc * math.sqrt(
        (out[0] / step[0]) ** 2 + (out[1] / step[1]) ** 2 + (grid.wavelength_step / NOMINAL_STEP) ** 2
    )
    radius = _radius(dx, dy, dz, step)
    weight = ((critical - radius) / (critical * np.where(radius > 0, radius, 1.0))) ** 2
    weight[radius >= critical] = SMALLEST
    weight[radius == 0] = LARGEST
    return weight


def lanczos(dx, dy, dz, k, grid, step, ld, **_):
    weight = np.ones(len(dx))
    for distance in (dx / step[0], dy / step[1], dz / NOMINAL_STEP):
        weight *= np.sinc(distance) * np.sinc(distance / ld)
    weight[(dx / step[0] >= ld) | (dy / step[1] >= ld) | (dz / NOMINAL_STEP > ld)] = 0.0
    return weight


KERNELS = {"drizzle": drizzle, "linear": linear, "quadratic": quadratic, "renka": renka, "lanczos": lanczos}


def resample(
    rows,
    grid,
    kept,
    method="drizzle",
    *,
    step_deg,
    pixfrac=(0.6, 0.6, 0.6),
    ld=1,
    rc=1.25,
    geometry="plane",
    clamp=False,
):
    """Weighted mean and its variance on the grid.

    Parameters
    ----------
    rows : Rows
    kept : ndarray of bool
        Rows that may be used.
    step_deg : tuple of float
        Sides (x, y) of the pixels of the instrument, degrees.

    Returns
    -------
    data, variance : ndarray, shape grid.shape, float32
        NaN where no row has a weight.
    """
    if method == "nearest":
        return _nearest(rows.select(kept), grid, step_deg)
    sums = sums_of(rows.select(kept), grid, method, step_deg, pixfrac, ld, rc, geometry, clamp)
    return _mean_and_variance(*sums)


def sums_of(
    rows, grid, method, step_deg, pixfrac=(0.6, 0.6, 0.6), ld=1, rc=1.25, geometry="plane", clamp=False
):
    """Sums of weight, weight x data and weight^2 x variance of every voxel, float64; see `resample`."""
    cells = cells_of(rows, grid.shape, clamp)
    distances = {"plane": native_distances, "sky": sky_distances}[geometry]
    sums = np.zeros((3, math.prod(grid.shape)))
    reach = range(-ld, ld + 1)
    for shift in itertools.product(reach, reach, reach):
        voxels = cells + np.array(shift)
        inside = ((voxels >= 0) & (voxels < np.array(grid.shape))).all(axis=1)
        part, (k, j, i) = rows.select(inside), voxels[inside].T
        dx, dy, dz = distances(part, grid, k, j, i)
        weight = (
            KERNELS[method](dx, dy, dz, k, grid, step=step_deg, pixfrac=pixfrac, ld=ld, rc=rc) * part.weight
        )
        flat = np.ravel_multi_index((k, j, i), grid.shape)
        for total, term in zip(
            sums, (weight, weight * part.data, weight * weight * part.variance), strict=True
        ):
            total += np.bincount(flat, term, minlength=total.size)
    return sums.reshape(3, *grid.shape)


def _mean_and_variance(total, weighted, squared):
    normal = np.abs(total) >= SMALLEST
    with np.errstate(over="ignore", invalid="ignore"):
        data = np.where(normal, weighted / np.where(normal, total, 1.0), np.nan).astype(np.float32)
        variance = np.where(normal, squared / np.where(normal, total, 1.0) ** 2, np.nan).astype(np.float32)
    return data, variance


def _nearest(rows, grid, step_deg):
    """The row nearest to the centre of its own voxel; the first of equals."""
    cells = cells_of(rows, grid.shape)
    inside = ((cells >= 0) & (cells < np.array(grid.shape))).all(axis=1)
    rows, (k, j, i) = rows.select(inside), cells[inside].T
    radius = _radius(*native_distances(rows, grid, k, j, i), step_deg)
    flat = np.ravel_multi_index((k, j, i), grid.shape)
    order = np.lexsort((np.arange(len(rows)), radius, flat))
    voxels, first = np.unique(flat[order], return_index=True)
    data, variance = np.full((2, math.prod(grid.shape)), np.nan, dtype=np.float32)
    data[voxels], variance[voxels] = rows.data[order][first], rows.variance[order][first]
    return data.reshape(grid.shape), variance.reshape(grid.shape)


# ------------------------------------------------------------------------------------------------- rejection


class Cells:
    """Rows by cell: `rows_in(k, j, i)` gives their indices, nothing for cells outside the region."""

    def __init__(self, cells, chosen, shape, margin=0):
        region = ((cells >= -margin) & (cells < np.array(shape) + margin)).all(axis=1)
        self.rows = {}
        for index in np.flatnonzero(chosen & region):
            self.rows.setdefault(tuple(cells[index].tolist()), []).append(index)

    def rows_in(self, cells):
        return [index for cell in cells for index in self.rows.get(cell, ())]


def slice_direction(position_angle_deg):
    """'x', 'y' or 'none': along which axis of the grid the slices of the first exposure lie."""
    angle = abs(position_angle_deg)
    if min(abs(angle - axis) for axis in (0, 180, 360)) < 5:
        return "x"
    if min(abs(angle - axis) for axis in (90, 270)) < 5:
        return "y"
    return "none"


def eso_neighbours(cell, direction):
    """Cells of ESO's local sample: 27, or 19 without the neighbours in the same slice."""
    k, j, i = cell
    block = itertools.product((k - 1, k, k + 1), (j - 1, j, j + 1), (i - 1, i, i + 1))
    if direction == "x":
        return [c for c in block if c[1] != j or c == cell]
    if direction == "y":
        return [c for c in block if c[2] != i or c == cell]
    return list(block)


def eso_rejected(rows, shape, crtype="median", crsigma=10.0, direction="none", clamp=False):
    """Rows that ESO's rule flags as cosmic rays; those flagged before are not repeated.

    Parameters
    ----------
    direction : {'x', 'y', 'none'}
        See `slice_direction`.
    clamp : bool
        Rows outside the grid count in the cells of its edge, as in ESO's recipe; otherwise they are left out.
    """
    rejected = np.zeros(len(rows), dtype=bool)
    if crsigma <= 0:
        return rejected
    cells = cells_of(rows, shape, clamp)
    everything = Cells(cells, np.ones(len(rows), dtype=bool), shape)
    sample = Cells(cells, (rows.dq == 0) | (rows.dq == COSMIC_RAY), shape)
    data, variance = rows.data.astype(np.float64), rows.variance.astype(np.float64)
    for cell, members in everything.rows.items():
        chosen = sample.rows_in(eso_neighbours(cell, direction))
        if len(chosen) < 3:
            continue
        level, deviation = _eso_statistic(data[chosen], variance[chosen], crtype)
        members = np.array(members)
        rejected[members] = data[members] > level + crsigma * deviation
    return rejected


def _eso_statistic(values, variances, crtype):
    if crtype == "median":
        level = np.median(values)
        return level, np.median(np.abs(values - level))
    if crtype == "mean":
        return values.mean(), values.std(ddof=1)
    return values.mean(), math.sqrt(variances.sum()) / len(values)


@dataclass
class Statistic:
    """What the rule knows of a cell."""

    median: float
    scale: float
    count: int


def guarded_rejected(
    rows,
    shape,
    usable=None,
    *,
    nclip=(4.0, 4.0),
    nmax=1,
    nkeep=0,
    gradient=0.5,
    coherence=2.0,
    sample="auto",
    trails=1.5,
    margin=0,
):
    """Rows that the guarded rule rejects.

    Parameters
    ----------
    usable : ndarray of bool, optional
        Rows that take part; those with dq == 0 when not given.
    margin : int
        How many cells beyond the grid belong to the region.
    """
    usable = rows.dq == 0 if usable is None else usable
    cells = Cells(cells_of(rows, shape), usable, shape, margin)
    values, variances = rows.data.astype(np.float64), rows.variance.astype(np.float64)
    statistics = {}
    # a cell without rows has a median too where its sample is that of the cells around
    for cell in {near for own in cells.rows for near in _block(own) if _in_region(near, shape, margin)}:
        chosen = _guarded_sample(cells, cell, sample)
        if len(chosen) >= 3:
            statistics[cell] = _guarded_statistic(values[chosen], variances[chosen], nclip, nmax)
    rejected, taken_along = np.zeros((2, len(rows)), dtype=bool)
    for cell in statistics.keys() & cells.rows.keys():
        noise = [
            math.sqrt(np.median(variances[chosen]))
            for chosen in (_guarded_sample(cells, cell, sample), cells.rows_in([cell]))
        ]
        _judge_cell(
            cell, cells, statistics, noise, rows.exposure, values, rejected, nclip, nkeep, gradient, coherence
        )
        found = [row for row in cells.rows_in([cell]) if rejected[row]]
        scale = _scale(statistics[cell].scale, *noise)
        contrast = _contrast(cell, statistics, noise, depth=1)
        limits = trails * scale, trails * scale + max(3 * coherence, 1.0) * contrast
        for row in found if trails > 0 and nkeep == 0 else ():
            around = _rows_along(row, cell, cells, statistics, limits, rows.exposure, values)
            taken_along[around] = True
    return rejected | taken_along


def _rows_along(row, cell, cells, statistics, limits, exposure, values):
    """Rows of the same exposure in the 27 voxels around, if more than half of those in the 26 around deviate
    as the row does: from the median of the own voxel by more than the first limit, and from those of theirs
    by more than the second; else none."""
    median = statistics[cell].median
    sign = 1.0 if values[row] > median else -1.0
    alike = {c: [r for r in cells.rows_in([c]) if exposure[r] == exposure[row]] for c in _block(cell)}
    others = [(c, values[r]) for c, members in alike.items() for r in members if c != cell]
    from_here = sum(sign * (value - median) > limits[0] for _, value in others)
    from_there = sum(
        sign * (value - statistics[c].median) > limits[1] for c, value in others if c in statistics
    )
    coherent = len(others) >= 6 and 2 * min(from_here, from_there) > len(others)
    return sum(alike.values(), []) if coherent else []


def _block(cell, depth=1, reach=1):
    k, j, i = cell
    near = range(-reach, reach + 1)
    return [(k + a, j + b, i + c) for a in range(-depth, depth + 1) for b in near for c in near]


def _in_region(cell, shape, margin):
    return all(-margin <= c < n + margin for c, n in zip(cell, shape, strict=True))


def _guarded_sample(cells, cell, sample):
    own = cells.rows_in([cell])
    if sample == "own" or (sample == "auto" and len(own) >= 16):
        return own
    return cells.rows_in(_block(cell))


def _guarded_statistic(values, variances, nclip, nmax):
    median, scale = _median_and_scale(values, variances)
    for _ in range(nmax - 1):
        within = (values - median >= -nclip[0] * scale) & (values - median <= nclip[1] * scale)
        if within.sum() < 3:  # too few to say more
            break
        values, variances = values[within], variances[within]
        median, scale = _median_and_scale(values, variances)
    return Statistic(median, scale, len(values))


def _median_and_scale(values, variances):
    median = np.median(values)
    return median, max(1.4826 * np.median(np.abs(values - median)), math.sqrt(np.median(variances)))


def _judge_cell(
    cell, cells, statistics, noise, exposure, values, rejected, nclip, nkeep, gradient, coherence
):
    own = statistics[cell]
    scale = _scale(own.scale, *noise)
    k, j, i = cell
    around = [(k, j, i - 1), (k, j, i + 1), (k, j - 1, i), (k, j + 1, i)]
    slope = max((abs(own.median - statistics[c].median) for c in around if c in statistics), default=0.0)
    low, high = (limit * scale + gradient * slope for limit in nclip)
    contrast = _contrast(cell, statistics, noise)
    members = cells.rows_in([cell])
    excess = {}
    for row in members:
        deviation = values[row] - own.median
        if not (deviation > high or -deviation > low):
            continue
        around = _deviations_around(row, cell, cells, statistics, exposure, values, np.sign(deviation))
        coherent = around[3 * len(around) // 4] - scale if len(around) else 0.0
        guard = 3.0 * max(min(coherent, coherence * contrast), 0.0)
        if deviation > high + guard or -deviation > low + guard:
            excess[row] = abs(deviation)
    spared = max(0, nkeep - (len(members) - len(excess)))
    for row in sorted(excess, key=excess.get)[spared:]:
        rejected[row] = True


def _contrast(cell, statistics, noise, depth=0):
    """Range of the medians of the 5 x 5 spaxels around, less what noise makes of it; the largest of some
    planes."""
    k, j, i = cell
    ranges = []
    for plane in range(k - depth, k + depth + 1):
        around = _block((plane, j, i), depth=0, reach=2)
        medians = [statistics[c].median for c in around if c in statistics]
        ranges.append(max(medians) - min(medians) if medians else 0.0)
    return max(0.0, max(ranges) - 5 * max(noise) / math.sqrt(statistics[cell].count))


def _scale(scale, noise, own_noise):
    """Scale of a cell, no less than the noise of its sample, and larger where its own rows are noisier than
    the others."""
    scale = max(scale, noise)
    if own_noise <= noise:
        return scale
    return scale * (own_noise / noise) if noise > 0 else max(scale, own_noise)


def _deviations_around(row, cell, cells, statistics, exposure, values, sign):
    """Deviations, times a sign, of the row's own exposure in the 26 cells around, in order; none where fewer
    than 6 hold its rows."""
    deviations, holding = [], 0
    for other in _block(cell):
        if other == cell or other not in statistics:
            continue
        rows = [r for r in cells.rows_in([other]) if exposure[r] == exposure[row]]
        deviations += [sign * (values[r] - statistics[other].median) for r in rows]
        holding += bool(rows)
    return sorted(deviations) if holding >= 6 else []


def without_rejected(rows, rejected):
    """Rows with the rejected ones flagged as cosmic rays."""
    return replace(rows, dq=np.where(rejected, rows.dq | np.uint32(COSMIC_RAY), rows.dq))
