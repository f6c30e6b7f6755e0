"""Which rows count: DQ bits, and the masks that a user names."""

from functools import lru_cache

import numpy as np

from musedeep.errors import UsageError
from musedeep.kernels.window import REJECTED, STATISTICS_ONLY, USABLE
from musedeep.muse import DQ_BITS

__all__ = ["check_regions", "row_states"]

_MASKED = REJECTED  # neither judged nor spread
_NONE = np.zeros(0, np.uint8)


def check_regions(masks):
    """Refuse masks whose region cannot be read, before any row is.

    Parameters
    ----------
    masks : sequence of Mask

    Raises
    ------
    UsageError
    """
    for mask in masks:
        if mask.region:
            _sky_regions(mask.region)


def row_states(recipe, exposure, part, rows, first, last, number, flagged):
    """State of each row of a chunk before anything is judged.

    Parameters
    ----------
    recipe : Recipe
    exposure : ExposureInput
    part : PartReader
    rows : (columns, n) float32
        A decoded chunk.
    first, last : int
        The rows of it that matter.
    number : int
        Place of row ``first`` in the part.
    flagged : int
        1 when the rows have DQ bits.

    Returns
    -------
    ndarray, shape (n,) or (0,), uint8
        Empty when all are usable. Rows outside of ``first``..``last`` have no meaning.
    """
    if not flagged and not exposure.masks:
        return _NONE
    states = np.full(rows.shape[1], USABLE, np.uint8)
    mine = states[first:last]
    dq = part.read_flat("dq", number, number + last - first) if flagged else np.zeros(last - first, np.uint32)
    if flagged:
        left = dq & ~np.uint32(recipe.method.keep_dq)
        mine[left != 0] = _MASKED
        # the peer's statistics take rows whose only flag is a cosmic ray, its resampling does not
        if recipe.method.reject == "eso":
            mine[left == DQ_BITS["cosmic_ray"]] = STATISTICS_ONLY
    for mask in exposure.masks:
        mine[_inside(recipe, exposure, part, mask, rows[:, first:last], dq, number)] = _MASKED
    return states


def _inside(recipe, exposure, part, mask, rows, dq, number):
    """Rows that meet every condition of a mask."""
    inside = np.ones(rows.shape[1], bool)
    if "wavelength" in mask:
        inside &= (rows[2] >= mask["wavelength"][0]) & (rows[2] <= mask["wavelength"][1])
    if "dq" in mask:
        inside &= (dq & np.uint32(sum(DQ_BITS[name] for name in mask["dq"]))) != 0
    if ("ifu" in mask or "slice" in mask) and inside.any():
        place = part.read_flat("slice", number, number + rows.shape[1]).astype(np.int32) - 1
        if "ifu" in mask:
            inside &= np.isin(place // 48 + 1, mask["ifu"])
        if "slice" in mask:
            inside &= np.isin(place % 48 + 1, mask["slice"])
    if "region" in mask and inside.any():
        from regions import PixCoord

        position = np.stack(
            [rows[0] + exposure.origin[0], rows[1] + exposure.origin[1], np.ones(rows.shape[1])]
        )
        x, y, w = exposure.matrix @ position
        within = np.zeros(rows.shape[1], bool)
        for region in _pixel_regions(mask["region"], recipe.grid):
            within |= region.contains(PixCoord(x / w + recipe.anchor[0], y / w + recipe.anchor[1]))
        inside &= within
    return inside


@lru_cache(maxsize=64)
def _pixel_regions(text, grid):
    """DS9 regions in voxel coordinates of the grid."""
    return tuple(region.to_pixel(grid.wcs.celestial) for region in _sky_regions(text))


def _sky_regions(text):
    from regions import Regions, SkyRegion

    try:
        regions = Regions.parse(text, format="ds9")
    except Exception as error:  # the parser raises whatever it stumbles over
        raise UsageError(f"mask: region = {text!r} cannot be read as a DS9 region: {error}") from error
    if not len(regions) or not all(isinstance(region, SkyRegion) for region in regions):
        raise UsageError(
            f"mask: region = {text!r} holds no region on the sky; write one like "
            "'icrs; circle(53.16, -27.78, 5\")'"
        )
    return regions
