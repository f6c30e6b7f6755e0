"""A part of a deep cube combined otherwise, or for groups of its exposures apart, in one pass."""

import itertools
import math
from functools import partial

import numpy as np

from musedeep.block import Tile, combine_block
from musedeep.combine import combine_exposures
from musedeep.errors import UsageError
from musedeep.exposures import night_of
from musedeep.lineage import field_of, recipe_of
from musedeep.plan import threads_of

__all__ = ["leave_out", "recombine", "split_exposures"]

# Of one chunk of a cut: voxels, and the sums of all groups in memory.
_VOXELS, _SUM_BYTES, _BYTES_PER_SUM = 1 << 18, 128e6, 24
# What is read around a chunk, about: halo and half of a segment or pencil on both sides, in voxels.
_BORDER = (10, 24, 12)
_NAMES = ("flux", "variance", "weight")


def recombine(deep, **changes):
    """Combine the rows behind a deep cube or a cut of it again, with other settings.

    Parameters
    ----------
    deep : xarray.Dataset
        Of `open_cube` or `combine_exposures`; usually a cut of it, see ``deep.muse.cutout``. Only rows around
        the cut are read.
    **changes
        Settings that shall differ from the cube's: ``select="half:A"``, ``nclip=(5, 5)``,
        ``resample="nearest"``, ``weight="none"``. A selection is one of the exposures of the cube.

    Returns
    -------
    xarray.Dataset
        As of `combine_exposures`, lazy. Without changes it equals the cut, to the last bit.

    Raises
    ------
    InputError, UsageError
    """
    field, grid = field_of(deep).changed(**changes), deep.muse.grid
    # of a cut everything is wanted, so chunks may be as large as leaves one for each thread
    most = min(_VOXELS, math.prod(grid.shape) / threads_of(field.settings.run))
    return combine_exposures(field, grid=grid, block=_shape_of_chunks(grid.shape, most))


def _shape_of_chunks(shape, most_voxels):
    """Sides of equal chunks of a grid of at most so many voxels such that few rows are read twice."""
    best, least = tuple(min(n, 8) for n in shape), math.inf
    possible = ({-(-n // count) for count in range(1, -(-n // 8) + 1)} for n in shape)
    for sides in itertools.product(*possible):
        if math.prod(sides) > most_voxels:
            continue
        read = math.prod(-(-n // s) * (s + b) for n, s, b in zip(shape, sides, _BORDER, strict=True))
        if read < least:
            best, least = sides, read
    return best


def split_exposures(deep, by="exposure"):
    """The means of groups of exposures apart, voxel by voxel, in one pass over the rows.

    Rows are judged as in the cube, all exposures together; what was rejected there is in no group.

    Parameters
    ----------
    deep : xarray.Dataset
        Usually a cut, see ``deep.muse.cutout``.
    by : {"exposure", "half", "night", "ob"} or sequence
        What makes a group: each exposure; the 1st, 3rd, 5th, ... and the others (A and B); nights from noon
        to noon at the telescope; observing blocks; or a label for each exposure, in the order of time.

    Returns
    -------
    xarray.Dataset
        flux, variance (as in a cube) and weight over (group, wavelength, y, x), float32 on dask arrays; NaN
        where a group has no rows. The mean over groups with these weights is the cube. Coordinate ``group``
        has the labels, and for exposures there is ``mjd`` (middle of the exposure) too.

    Raises
    ------
    UsageError
        `by` is unknown or has not one label for each exposure; or the cube was made by "nearest", which takes
        one row for each voxel.
    """
    import dask.array as da
    import xarray as xr

    recipe = recipe_of(deep.assign_attrs(grid=deep.muse.grid.to_dict()))
    if recipe.method.resample == "nearest":
        raise UsageError(
            "resample = 'nearest' takes one row for each voxel, which cannot be split; use another"
        )
    labels = _labels(field_of(deep), by)
    names = list(dict.fromkeys(labels)) if by != "half" else ["A", "B"]
    group_of = np.array([names.index(label) for label in labels])
    most = min(_VOXELS, _SUM_BYTES / _BYTES_PER_SUM / len(names))
    shape = _shape_of_chunks(recipe.grid.shape, most)
    chunks = tuple(
        tuple(min(step, n - a) for a in range(0, n, step))
        for n, step in zip(recipe.grid.shape, shape, strict=True)
    )
    stack = da.map_blocks(
        partial(_split_block, recipe=recipe, group_of=group_of, count=len(names)),
        chunks=((len(_NAMES),), (len(names),), *chunks),
        dtype=np.float32,
        meta=np.empty((0,) * 5, np.float32),
    )
    dims = ("group", "wavelength", "y", "x")
    data = {name: (dims, stack[n], dict(deep[name].attrs)) for n, name in enumerate(_NAMES)}
    coords = {"group": names} | {name: deep[name] for name in dims[1:]}
    if by == "exposure":
        coords["mjd"] = "group", [e.mjd_obs + e.exptime / 2 / 86400 for e in field_of(deep).exposures]
    kept = {name: value for name, value in deep.attrs.items() if name != "correlation"}
    return xr.Dataset(data, coords, kept)


def _labels(field, by):
    exposures = field.exposures
    if by == "exposure":
        return exposures.dates
    if by == "half":
        return ["AB"[n % 2] for n in range(len(exposures))]
    if by == "night":
        return [night_of(date) for date in exposures.dates]
    if by == "ob":
        return [exposure.ob_name or exposure.ob_id for exposure in exposures]
    if isinstance(by, str) or len(by) != len(exposures):
        raise UsageError(
            f"by = {by!r} is not allowed: give 'exposure', 'half', 'night', 'ob', or one label for each "
            f"of the {len(exposures)} exposures"
        )
    return [str(label) for label in by]


def _split_block(*, recipe, group_of, count, block_info=None):
    """flux, variance and weight of all groups in one block; (3, groups, planes, rows, columns), float32."""
    bounds = tuple(tuple(int(v) for v in bound) for bound in block_info[None]["array-location"][2:])
    sums = np.zeros((count, *(b - a for a, b in bounds), 3))

    # with memory enough for the whole block, it is one tile
    combine_block(recipe, bounds, 1 << 62, make_tile=partial(_Groups, group_of=group_of, group_sums=sums))
    weight, value, variance = np.moveaxis(sums, -1, 0)
    seen = weight != 0
    flux = np.divide(value, weight, out=np.full_like(value, np.nan), where=seen)
    variance = np.divide(variance, weight**2, out=np.full_like(value, np.nan), where=seen)
    return np.stack([flux, variance, weight]).astype(np.float32)


class _Groups(Tile):
    """A tile that adds the rows of each group of exposures to sums of its own, and has none of all."""

    def __init__(self, recipe, box, keep_rejected, *, group_of, group_sums):
        super().__init__(recipe, box, keep_rejected)
        self.group_of = group_of
        self.group_sums = group_sums

    def spread(self, rows):
        filled = rows.ranges[rows.ranges[:, 1] > rows.ranges[:, 0]]
        if not len(filled):
            return
        # a range holds rows of one exposure
        groups = self.group_of[self.owner[filled[:, 0]]]
        unused = self.sums
        for group in np.unique(groups):
            self.sums = self.group_sums[group]
            super().spread(rows._replace(ranges=np.ascontiguousarray(filled[groups == group])))
        self.sums = unused


def leave_out(split):
    """The cube without each of its groups, from the groups themselves.

    Parameters
    ----------
    split : xarray.Dataset
        Of `split_exposures`.

    Returns
    -------
    xarray.Dataset
        The same variables: the mean of all groups but one, for every group. Rows are judged as in the whole
        cube; ``recombine(deep, select="without=...")`` judges them again without the exposure.
    """
    weight = split.weight.astype("float64")
    value = (split.flux * weight).fillna(0.0)
    squared = (split.variance * weight**2).fillna(0.0)
    left = weight.sum("group") - weight
    # what is left of rounding is no weight
    left = left.where(left > 1e-6 * weight.sum("group"))
    flux = (value.sum("group") - value) / left
    variance = (squared.sum("group") - squared) / left**2
    result = split.assign(flux=flux, variance=variance, weight=left.fillna(0.0))
    return result.astype("float32").transpose("group", "wavelength", "y", "x")
