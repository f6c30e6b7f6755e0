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
    _, vectors = _frames_and_corners(ra_deg, dec_deg, angle_deg, side_arcsec)
    return _plane(vectors @ sky_frame(*centre))


def _frames_and_corners(ra_deg, dec_deg, angle_deg, side_arcsec):
    """Tangent frames (n, 3, 3) of fields of view, and the directions (n, 4, 3) of their corners."""
    places = zip(np.atleast_1d(ra_deg), np.atleast_1d(dec_deg), strict=True)
    frames = np.array([sky_frame(ra, dec) for ra, dec in places]).reshape(-1, 3, 3)
    angle = np.radians(np.atleast_1d(angle_deg))[:, None]
    half = np.atleast_1d(side_arcsec)[:, None] / 2 / _ARCSEC
    x, y = half * np.array([[1, 1, -1, -1]]), half * np.array([[-1, 1, 1, -1]])
    turned = (x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle), np.ones_like(x))
    return frames, np.einsum("nij,nkj->nki", frames, np.stack(turned, axis=-1))


def _plane(local):
    return local[..., :2] / local[..., 2:] * _ARCSEC


def overlaps(pairs, ra_deg, dec_deg, angle_deg, side_arcsec):
    """Share of the smaller field of view that two of them have in common.

    The area of the intersection of two convex polygons is half the sum of the cross products along its
    edges, and these are the parts of the edges of each polygon that lie within the other one.

    Parameters
    ----------
    pairs : int array, shape (pairs, 2)
    ra_deg, dec_deg, angle_deg, side_arcsec : array_like, shape (n,)

    Returns
    -------
    ndarray, shape (pairs,), float64
        0 to 1.
    """
    one, two = np.asarray(pairs, np.int64).reshape(-1, 2).T
    frames, vectors = _frames_and_corners(ra_deg, dec_deg, angle_deg, side_arcsec)
    first, second = (_plane(vectors[which] @ frames[one]) for which in (one, two))
    doubled = _inner(first, second, _TOUCH_ARCSEC) + _inner(second, first, -_TOUCH_ARCSEC)
    side = np.asarray(side_arcsec, float)
    return np.clip(doubled / 2 / np.minimum(side[one], side[two]) ** 2, 0, 1)


def _inner(polygon, other, touch):
    """Sum of the cross products along the parts of the edges of polygons that lie within other polygons.

    Both have shape (pairs, 4, 2); an edge is start + t along, and every edge of the other polygon, seen from
    its inner side, allows a range of t.
    """
    along = np.roll(polygon, -1, axis=1) - polygon
    edge = np.roll(other, -1, axis=1) - other
    normal = np.stack([-edge[..., 1], edge[..., 0]], axis=-1) / np.hypot(*np.moveaxis(edge, -1, 0))[..., None]
    height = np.einsum("pijk,pjk->pij", polygon[:, :, None] - other[:, None], normal) + touch
    slope = np.einsum("pik,pjk->pij", along, normal)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -height / slope
    never = (slope == 0) & (height < 0)
    low = np.where(slope > 0, crossing, np.where(never, np.inf, -np.inf)).max(axis=2)
    high = np.where(slope < 0, crossing, np.inf).min(axis=2)
    low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    begin, end = (polygon + t[..., None] * along for t in (low, np.maximum(low, high)))
    return (begin[..., 0] * end[..., 1] - begin[..., 1] * end[..., 0]).sum(axis=1)
