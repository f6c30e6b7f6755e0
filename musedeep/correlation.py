"""How the noise of neighbouring voxels hangs together, from the rows that they share."""

import itertools

import numpy as np

from musedeep.kernels.window import USABLE
from musedeep.witness import witness

__all__ = ["measure_correlation", "sum_variance"]

# Tiles that are looked at. Each exposure falls on the voxels in its own way, so the fewer there
# are, the more places it takes to see all ways.
_EXPOSURES_AND_TILES, _FEWEST_TILES, _MOST_TILES = 300, 6, 48
_SIDE, _DEPTH = 8, 3  # voxels of a tile
_LEAST_CORRELATION = 1e-4


def measure_correlation(recipe, *, tiles=None):
    """Correlation of the noise of neighbouring voxels, averaged over a cube.

    A row is spread over several voxels, so these share its noise: the covariance of voxels i and j is the sum
    over rows of w_i w_j v / (W_i W_j), with the weights w of a row, its variance v and the sums W of weights.
    It is found for all pairs of voxels in some tiles, from the very rows and kernel of the combination.
    Rejection counts as given.

    Parameters
    ----------
    recipe : Recipe
    tiles : int, optional
        How many tiles of 8 x 8 spaxels and 3 planes are looked at; they lie where there are exposures. The
        more exposures there are, the fewer do by default.

    Returns
    -------
    dict of (int, int, int) to float
        Correlation coefficient by the distance in planes, rows and columns; one of each pair of opposite
        distances, without (0, 0, 0).
    """
    reach = 2 * recipe.method.reach
    shared, own = {}, {}
    if tiles is None:
        wanted = _EXPOSURES_AND_TILES // len(recipe.exposures)
        tiles = max(_FEWEST_TILES, min(wanted, _MOST_TILES))
    for bounds in _places(recipe, tiles):
        _add_tile(recipe, bounds, reach, shared, own)
    found = {lag: shared[lag] / own[lag] for lag in shared if own[lag] > 0}
    return {lag: float(value) for lag, value in sorted(found.items()) if abs(value) > _LEAST_CORRELATION}


def _places(recipe, tiles):
    """Tiles spread evenly over the part of the cube that has exposures (Halton sequence of 2, 3 and 5)."""
    shape = recipe.grid.shape
    size = [min(n, limit) for n, limit in zip(shape, (_DEPTH, _SIDE, _SIDE), strict=True)]
    found = 0
    for n in range(1, 50 * tiles):
        start = [
            int(_radical_inverse(n, b) * (m - s + 1)) for b, m, s in zip((5, 2, 3), shape, size, strict=True)
        ]
        bounds = tuple((a, a + s) for a, s in zip(start, size, strict=True))
        if recipe.touching(bounds):
            yield bounds
            found += 1
        if found == tiles:
            return


def _radical_inverse(n, base):
    value, scale = 0.0, 1.0
    while n:
        scale /= base
        n, digit = divmod(n, base)
        value += digit * scale
    return value


def _add_tile(recipe, bounds, reach, shared, own):
    """Add the covariances of a tile's voxels to ``shared``, and the products of their sigmas to ``own``."""
    rows, maps = witness(recipe.restricted(bounds), bounds)
    used = rows.state == USABLE
    sigma, total = np.sqrt(maps["variance"].astype(np.float64)), maps["weight"].astype(np.float64)
    if not np.isfinite(sigma).any():
        return
    # in units of the tile's noise, so that bright sources and shallow corners count as much as the rest
    sigma = np.nan_to_num(sigma / np.nanmedian(sigma))
    scale = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0) / np.nanmedian(
        np.sqrt(maps["variance"])
    )
    covariance = _covariance(rows, used, bounds, scale)
    d = 2 * recipe.method.reach + 1
    steps = list(itertools.product(range(d), repeat=3))
    for (a, first), (b, second) in itertools.product(enumerate(steps), repeat=2):
        lag = tuple(q - p for p, q in zip(first, second, strict=True))
        if lag > (0, 0, 0):
            shared[lag] = shared.get(lag, 0.0) + covariance[a, b]
    for lag in {lag for lag in shared if max(map(abs, lag)) <= reach}:
        one, other = _shifted(sigma, lag)
        own[lag] = own.get(lag, 0.0) + float((one * other).sum())


def _covariance(rows, used, bounds, scale):
    """Sum over rows of c_a c_b v, where c is the weight of a row in each voxel around it over that voxel's
    sum; ndarray (d**3, d**3)."""
    weight, voxel = rows.weight[used], rows.voxel[used]
    reach = weight.shape[1] // 2
    padded = np.pad(scale, 2 * reach)  # voxels outside of the tile count nothing
    start = voxel - np.array([low for low, _ in bounds]) + reach
    span = np.arange(2 * reach + 1)
    k, j, i = (start[:, axis, None] + span for axis in range(3))
    share = weight * padded[k[:, :, None, None], j[:, None, :, None], i[:, None, None, :]]
    share = share.reshape(len(share), (2 * reach + 1) ** 3)
    return share.T @ (share * rows.variance[used].astype(np.float64)[:, None])


def _shifted(values, lag):
    """Two views of a cube such that the second lies ``lag`` further on."""
    one = tuple(slice(max(-n, 0), size - max(n, 0)) for n, size in zip(lag, values.shape, strict=True))
    other = tuple(slice(max(n, 0), size - max(-n, 0)) for n, size in zip(lag, values.shape, strict=True))
    return values[one], values[other]


def sum_variance(sigma, correlation, axes):
    """Variance of a sum of voxels whose noise is correlated.

    Parameters
    ----------
    sigma : array, shape (planes, rows, columns)
        Standard deviation of each voxel's contribution to the sum, 0 for those that do not count; numpy or
        dask.
    correlation : dict of (int, int, int) to float
        As of `measure_correlation`.
    axes : tuple of int
        Axes that the sum runs along: (1, 2) for a spectrum, (0,) for an image.

    Returns
    -------
    array
        Sum over i and j of rho(j - i) sigma_i sigma_j along these axes.
    """
    total = (sigma * sigma).sum(axis=axes)
    for lag, value in correlation.items():
        inside = all(step == 0 or axis in axes for axis, step in enumerate(lag))
        if inside and all(abs(step) < size for step, size in zip(lag, sigma.shape, strict=True)):
            one, other = _shifted(sigma, lag)
            total = total + 2.0 * value * (one * other).sum(axis=axes)
    return total
