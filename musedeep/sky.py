"""Directions on the sky: tangent frames, gnomonic planes, and boxes around points.

Everything is done with unit vectors and gnomonic planes in float64. A *frame* is a (3, 3) orthonormal matrix
whose columns are the east, north and pole vectors of a tangent point: ``frame @ (xi, eta, 1)`` is the
direction of the point with plane coordinates xi (to the east) and eta (to the north), in radians.
"""

import math

import numpy as np

from musedeep.errors import InputError

__all__ = [
    "box_center",
    "convex_hull",
    "degrees_of",
    "eso_positions",
    "eso_projection",
    "middle_of",
    "project",
    "sky_frame",
    "sky_position",
    "sky_vectors",
    "smallest_box_angle",
    "turned",
]


def sky_vectors(ra_deg, dec_deg):
    """Unit vectors of sky positions.

    Parameters
    ----------
    ra_deg, dec_deg : array_like
        Right ascension and declination, degrees, broadcast against each other.

    Returns
    -------
    ndarray, shape (..., 3), float64
    """
    ra, dec = np.broadcast_arrays(np.radians(ra_deg), np.radians(dec_deg))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def degrees_of(sky):
    """RA and Dec [degrees, ICRS] of a position given as an astropy SkyCoord or as a pair of degrees."""
    if hasattr(sky, "icrs"):
        return float(sky.icrs.ra.deg), float(sky.icrs.dec.deg)
    ra, dec = sky
    return float(ra), float(dec)


def sky_frame(ra_deg, dec_deg, rotation_deg=0.0):
    """Tangent frame of a point on the sky.

    Parameters
    ----------
    ra_deg, dec_deg : float
        The tangent point, degrees.
    rotation_deg : float
        Position angle of the frame's second axis, degrees, counted from north through east. With 0 the
        first axis points east and the second north.

    Returns
    -------
    ndarray, shape (3, 3), float64
        Columns are the unit vectors of the first axis, the second axis and the tangent point.
    """
    ra, dec, rotation = math.radians(ra_deg), math.radians(dec_deg), math.radians(rotation_deg)
    east = np.array([-math.sin(ra), math.cos(ra), 0.0])
    north = np.array([-math.sin(dec) * math.cos(ra), -math.sin(dec) * math.sin(ra), math.cos(dec)])
    pole = np.array([math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)])
    first = math.cos(rotation) * east - math.sin(rotation) * north
    second = math.cos(rotation) * north + math.sin(rotation) * east
    return np.column_stack([first, second, pole])


def sky_position(vector):
    """RA and Dec, degrees, of the direction of a vector (3,)."""
    x, y, z = vector
    return math.degrees(math.atan2(y, x)) % 360.0, math.degrees(math.atan2(z, math.hypot(x, y)))


def middle_of(points):
    """RA and Dec in degrees of the mean direction of unit vectors (M, 3); the same for any order of them."""
    # math.fsum is exact, so the middle does not depend on the order of the exposures.
    total = [math.fsum(points[:, axis]) for axis in range(3)]
    if math.hypot(*total) < 1e-6 * len(points):
        raise InputError(
            "Grid: the exposures lie all over the sky and have no common field; combine them apart."
        )
    return sky_position(total)


def project(points, frame):
    """Gnomonic coordinates (M, 2) in degrees of unit vectors (M, 3) in a frame."""
    local = points @ frame
    if local[:, 2].min() <= 0.02:
        raise InputError(
            "Grid: the exposures lie more than 88 degrees from the centre of the grid and have no common "
            "field; combine them apart or correct the centre."
        )
    return np.degrees(local[:, :2] / local[:, 2:])


def turned(plane, angle_deg):
    """Coordinates (M, 2) along axes that are turned from north through east by an angle."""
    angle = math.radians(angle_deg)
    first = plane[:, 0] * math.cos(angle) - plane[:, 1] * math.sin(angle)
    second = plane[:, 0] * math.sin(angle) + plane[:, 1] * math.cos(angle)
    return np.column_stack([first, second])


def box_center(plane, angle, frame):
    """RA and Dec in degrees of the middle of the box around plane coordinates (M, 2), degrees, in a frame."""
    along = turned(plane, angle)
    middle = (along.min(axis=0) + along.max(axis=0)) / 2
    xi, eta = np.radians(turned(middle[None, :], -angle)[0])
    return sky_position(frame @ np.array([xi, eta, 1.0]))


def smallest_box_angle(plane):
    """Angle in (-45, 45], degrees, of the smallest rectangle around plane coordinates (M, 2)."""
    # One side of the smallest rectangle lies along an edge of the convex hull.
    hull = convex_hull(plane)
    edges = np.roll(hull, -1, axis=0) - hull
    angles = {0.0}
    for dx, dy in edges[np.hypot(edges[:, 0], edges[:, 1]) > 0]:
        angle = math.degrees(math.atan2(dx, dy)) % 90.0
        angles.add(angle - 90.0 if angle > 45.0 else angle)

    def area(angle):
        return np.prod(np.ptp(turned(hull, angle), axis=0))

    # A turn that saves less than 0.1 % is not worth leaving north.
    return min(angles, key=lambda angle: (area(angle) * (1.0 if angle == 0 else 1.001), abs(angle), angle))


def convex_hull(plane):
    """Vertices (K, 2) of the convex hull of points (M, 2), anticlockwise (two monotone chains)."""
    points = np.unique(plane, axis=0)
    if len(points) < 3:
        return points
    return np.concatenate([_lower_chain(points)[:-1], _lower_chain(points[::-1])[:-1]])


def _lower_chain(points):
    """Those of sorted points that have all others to the left of the way along them."""
    while len(points) > 2:
        a, b, c = points[:-2], points[1:-1], points[2:]
        turn = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
        # none of them is a corner, whichever others are none: all go at once
        left = np.concatenate([[True], turn > 0, [True]])
        if left.all():
            break
        points = points[left]
    return points


def eso_positions(phi, theta, ra_deg, dec_deg, first=None):
    """Relative positions of rows as the ESO pipeline stores them, in float32 degrees.

    Parameters
    ----------
    phi, theta : array_like, float32
        Native coordinates of the rows as in the pixel table (`xpos`, `ypos`; ypos is theta - pi/2), radians.
    ra_deg, dec_deg : float
        Pointing of the exposure, offset taken off, degrees.
    first : tuple of float, optional
        Pointing (RA, Dec) of the earliest exposure, degrees; None for that exposure itself.

    Returns
    -------
    ra, dec : ndarray, float32
        RA - RA_first and Dec - Dec_first, degrees.
    """
    phi = np.asarray(phi, dtype=np.float64)
    theta = np.asarray(theta, dtype=np.float64) + math.pi / 2
    degrees = 180.0 / math.pi
    dec = dec_deg / degrees
    east = np.cos(theta) * np.sin(phi)
    north = np.cos(theta) * np.cos(phi)
    alpha = np.arctan2(east, np.sin(theta) * math.cos(dec) + north * math.sin(dec))
    delta = np.arcsin(np.sin(theta) * math.sin(dec) - north * math.cos(dec))
    ra_relative = (alpha * degrees).astype(np.float32)
    dec_relative = (delta * degrees - dec_deg).astype(np.float32)
    if first is not None:
        # exact for what is less than half a turn away, and right across 0h, where the peer is not
        turn = math.remainder(ra_deg - first[0], 360.0)
        ra_relative = (ra_relative.astype(np.float64) + turn).astype(np.float32)
        dec_relative = (dec_relative.astype(np.float64) + (dec_deg - first[1])).astype(np.float32)
    return ra_relative, dec_relative


def eso_projection(ra, dec, ra0, dec0):
    """Plane coordinates of a position about (`ra0`, `dec0`), all in degrees, by ESO's own formula.

    Its arcsine loses digits near the tangent point; a grid that is to be the same must lose the same ones.
    """
    degrees = 180.0 / math.pi
    a, d, d0 = ra / degrees - ra0 / degrees, dec / degrees, dec0 / degrees
    phi = math.pi + math.atan2(
        -math.cos(d) * math.sin(a), math.sin(d) * math.cos(d0) - math.cos(d) * math.sin(d0) * math.cos(a)
    )
    sine = math.sin(d) * math.sin(d0) + math.cos(d) * math.cos(d0) * math.cos(a)
    radius = degrees / math.tan(math.asin(min(sine, 1.0)))
    return radius * math.sin(phi), -radius * math.cos(phi)
