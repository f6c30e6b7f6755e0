"""Footprints of exposures on the sky, and how much of each other they cover."""

import math

import numpy as np
from scipy.spatial import cKDTree

from musedeep.muse import FIELD_ARCSEC
from musedeep.sky import sky_frame, sky_vectors

__all__ = ["corners", "field_arcsec", "near_pairs", "overlaps"]

_ARCSEC = 180 * 3600 / math.pi
# Two edges on one line are counted once: seen from one square such a line is inside, from the other it is
# not.
_TOUCH_ARCSEC = 1e-7


def field_arcsec(mode):
    """Side of the field of view of an instrument mode, arcsec; every mode but the narrow field is wide."""
    return FIELD_ARCSEC["NFM" if str(mode).startswith("NFM") else "WFM"]


def near_pairs(ra_deg, dec_deg, distance_arcsec):
    """Pairs of positions nearer to each other than a distance.

    Parameters
    ----------
    ra_deg, dec_deg : array_like, shape (n,)
    distance_arcsec : float

    Returns
    -------
    ndarray, shape (pairs, 2), int64
        Sorted; the first of a pair is the smaller.
    """
    points = sky_vectors(np.asarray(ra_deg, float), np.asarray(dec_deg, float)).reshape(-1, 3)
    if len(points) < 2:
        return np.empty((0, 2), np.int64)
    chord = 2 * math.sin(distance_arcsec / _ARCSEC / 2)
    pairs = cKDTree(points).query_pairs(chord, output_type="ndarray").astype(np.int64)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def corners(ra_deg, dec_deg, angle_deg, side_arcsec, centre):
    """Corners of square fields of view on the tangent plane of a point.

    Parameters
    ----------
    ra_deg, dec_deg, angle_deg, side_arcsec : array_like, shape (n,)
        Pointing, position angle (north through east), side.
    centre : (ra_deg, dec_deg)

    Returns
    -------
    ndarray, shape (n, 4, 2), float64
        Arcsec to the east and to the north, counterclockwise as seen with east to the right.
    """
    local = sky_vectors(np.atleast_1d(ra_deg), np.atleast_1d(dec_deg)) @ sky_frame(*centre)
    middle = local[:, :2] / local[:, 2:] * _ARCSEC
    angle = np.radians(np.atleast_1d(angle_deg))[:, None]
    half = np.atleast_1d(side_arcsec)[:, None] / 2
    x, y = half * np.array([[1, 1, -1, -1]]), half * np.array([[-1, 1, 1, -1]])
    turned = np.stack(
        [x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)], axis=-1
    )
    return middle[:, None] + turned


def overlaps(pairs, ra_deg, dec_deg, angle_deg, side_arcsec):
    """Share of the smaller field of view that two of them have in common.

    The area of the intersection of two convex polygons is half the sum of the cross products along its edges,
    and these are the parts of the edges of each polygon that lie within the other one.

    Parameters
    ----------
    pairs : int array, shape (pairs, 2)
    ra_deg, dec_deg, angle_deg, side_arcsec : array_like, shape (n,)

    Returns
    -------
    ndarray, shape (pairs,), float64
        0 to 1.
    """
    facts = [np.asarray(values, float) for values in (ra_deg, dec_deg, angle_deg, side_arcsec)]
    shared = np.empty(len(pairs))
    for number, (one, two) in enumerate(pairs):
        centre = facts[0][one], facts[1][one]
        both = corners(*(values[[one, two]] for values in facts), centre)
        shared[number] = _common_area(*both) / facts[3][[one, two]].min() ** 2
    return np.clip(shared, 0, 1)


def _common_area(first, second):
    return max(0.0, (_inner(first, second, _TOUCH_ARCSEC) + _inner(second, first, -_TOUCH_ARCSEC)) / 2)


def _inner(polygon, other, touch):
    """Sum of the cross products along the parts of a polygon's edges that lie within another polygon."""
    start, along = polygon, np.roll(polygon, -1, axis=0) - polygon
    normal = np.roll(other, -1, axis=0) - other
    normal = np.stack([-normal[:, 1], normal[:, 0]], axis=1) / np.hypot(*normal.T)[:, None]
    height = np.einsum("ijk,jk->ij", start[:, None] - other[None], normal) + touch
    slope = along @ normal.T
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -height / slope
    low = np.where(slope > 0, crossing, np.where((slope == 0) & (height < 0), np.inf, -np.inf)).max(axis=1)
    high = np.where(slope < 0, crossing, np.inf).min(axis=1)
    low, high = np.maximum(low, 0), np.minimum(high, 1)
    inside = high > low
    start, along = start[inside], along[inside]
    begin, end = start + low[inside, None] * along, start + high[inside, None] * along
    return float(np.sum(begin[:, 0] * end[:, 1] - begin[:, 1] * end[:, 0]))
