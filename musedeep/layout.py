"""Which grid a set of exposures gets: around all their rows, or by the rule of muse_exp_combine."""

import math

import numpy as np

from musedeep.errors import InputError
from musedeep.grid import VoxelGrid, air_to_vacuum
from musedeep.sky import box_center, eso_projection, middle_of, project, sky_frame, smallest_box_angle, turned

__all__ = [
    "WIDEST_FIELD_DEG",
    "LINEAR_STEP_ANGSTROM",
    "LOG_STEP_ANGSTROM",
    "check_common_field",
    "check_grid_size",
    "eso_grid",
    "grid_from_footprints",
]

LINEAR_STEP_ANGSTROM = 1.25
LOG_STEP_ANGSTROM = 1.25 / 1.6
WIDEST_FIELD_DEG = 2.0
# Exposures further apart than this have no field in common; the gaps within a mosaic are smaller.
_WIDEST_GAP_ARCSEC = 120.0
# A mosaic of a hundred fields has 2e11 voxels, the finest sampling of the longest strip 5e4 along a side.
_MOST_VOXELS = 10**12
_LONGEST_AXIS = 10**5


def grid_from_footprints(
    footprints,
    wavelength_range,
    center=None,
    step_arcsec=(0.2, 0.2),
    wavelength_step=0.0,
    log=False,
    vacuum=False,
    rotation="north",
):
    """The smallest grid that holds every row of a set of exposures.

    Every point of the footprints lies between the centres of the outermost voxels, so no row is clamped or
    lost.

    Parameters
    ----------
    footprints : sequence of ndarray, shape (M, 3), float64
        For every exposure unit vectors of points that span its rows (the vertices of their convex hull
        suffice).
    wavelength_range : tuple of float
        Smallest and largest wavelength of the rows, in air, Angstrom.
    center : tuple of float, optional
        Tangent point (RA, Dec), degrees; the middle of the field when not given.
    step_arcsec : tuple of float
        Sides (x, y) of a voxel, arcsec.
    wavelength_step : float
        Step of the wavelength axis, Angstrom; 0 takes 1.25, on a logarithmic axis 0.78125.
    log, vacuum : bool
        Kind of the wavelength axis.
    rotation : {'north', 'minimise'} or float
        Position angle of the y axis in degrees, from north through east; 'north' is 0, 'minimise' that of
        the smallest rectangle around the field.

    Returns
    -------
    VoxelGrid

    Raises
    ------
    InputError
        No points, points more than 2 degrees apart, or an impossible step or range.
    """
    points = [np.asarray(points, dtype=np.float64).reshape(-1, 3) for points in footprints]
    points = np.concatenate(points) if points else np.empty((0, 3))
    if not len(points) or not np.isfinite(points).all():
        raise InputError(
            f"Grid: {len(points)} points outline the exposures, at least one is needed and all must "
            "be finite."
        )
    if min(step_arcsec) <= 0:
        raise InputError(f"Grid: the steps {tuple(step_arcsec)} arcsec must be above 0.")
    ra, dec = middle_of(points) if center is None else center
    plane = project(points, sky_frame(ra, dec))
    extent = np.ptp(plane, axis=0).max()
    if extent > WIDEST_FIELD_DEG:
        raise InputError(
            f"Grid: the exposures spread over {extent:.2f} degrees and have no common field; at most "
            f"{WIDEST_FIELD_DEG:g} degrees make one cube. Combine them apart, or correct the pointing of "
            "those that lie far off."
        )
    angle = _rotation_angle(rotation, plane)
    if center is None:
        ra, dec = box_center(plane, angle, sky_frame(ra, dec))
        plane = project(points, sky_frame(ra, dec))
    lengths, crpix, cd = _fit_box(plane, angle, [step / 3600.0 for step in step_arcsec])
    start, step, planes = _fit_wavelengths(wavelength_range, wavelength_step, log, vacuum)
    return VoxelGrid(
        (planes, lengths[1], lengths[0]), (ra % 360.0, dec), crpix, cd, start, step, log=log, vacuum=vacuum
    )


def _fit_box(plane, angle_deg, steps):
    """Lengths, reference pixel (from 1) and CD matrix of the box around the points; x runs to the west."""
    along = turned(plane, angle_deg)
    lengths, crpix = [], []
    for axis, sign in ((0, -1.0), (1, 1.0)):
        pixels = sign * along[:, axis] / steps[axis]
        low, high = pixels.min(), pixels.max()
        length = math.ceil(high - low) + 1
        lengths.append(length)
        crpix.append(1.0 - low + (length - 1 - (high - low)) / 2)
    angle = math.radians(angle_deg)
    cd = (
        (-steps[0] * math.cos(angle), steps[1] * math.sin(angle)),
        (steps[0] * math.sin(angle), steps[1] * math.cos(angle)),
    )
    return lengths, tuple(crpix), cd


def _rotation_angle(rotation, plane):
    if rotation == "north":
        return 0.0
    if rotation == "minimise":
        return smallest_box_angle(plane)
    if isinstance(rotation, str) or not math.isfinite(rotation):
        raise InputError(
            f"Grid: the rotation is {rotation!r}, but must be 'north', 'minimise' or an angle in degrees."
        )
    return float(rotation)


def _fit_wavelengths(wavelength_range, step, log, vacuum):
    low, high = (float(v) for v in (air_to_vacuum(wavelength_range) if vacuum else wavelength_range))
    step = float(step) or (LOG_STEP_ANGSTROM if log else LINEAR_STEP_ANGSTROM)
    if not 0 < low <= high or step <= 0:
        raise InputError(
            f"Grid: the wavelength range {low:g} to {high:g} Angstrom with step {step:g} is not possible."
        )
    steps = low / step * math.log(high / low) if log else (high - low) / step
    return low, step, math.ceil(steps) + 1


def eso_grid(
    ra_limits,
    dec_limits,
    ra_deg,
    dec_deg,
    wavelength_limits,
    step_arcsec=(0.2, 0.2),
    wavelength_step=0.0,
    log=False,
):
    """The grid that muse_exp_combine chooses without an OUTPUT_WCS.

    It looks at two corners only and rounds absolute positions to float32: at high declination, and for
    fields far from RA 0, rows fall outside. Meant for comparisons; `grid_from_footprints` has neither fault.

    Parameters
    ----------
    ra_limits, dec_limits : tuple of float
        Smallest and largest position of all rows relative to the earliest exposure (`eso_positions`),
        degrees.
    ra_deg, dec_deg : float
        Pointing of the earliest exposure, offset taken off, degrees.
    wavelength_limits : tuple of float
        Smallest and largest wavelength of the rows, Angstrom.
    step_arcsec : tuple of float
        Sides (x, y) of a voxel, arcsec.
    wavelength_step : float
        Angstrom; 0 takes 1.25, on a logarithmic axis 0.78125.
    log : bool
        Planes equally spaced in ln(wavelength).

    Returns
    -------
    VoxelGrid
    """
    steps = [step / 3600.0 for step in step_arcsec]
    corners = []
    for ra_offset, dec_offset in zip(ra_limits, dec_limits, strict=True):
        ra = float(np.float32(float(ra_offset) + ra_deg))
        dec = float(np.float32(float(dec_offset) + dec_deg))
        corners.append(eso_projection(ra, dec, ra_deg, dec_deg))
    low, high = corners
    lengths = [_round_half_away(abs(high[axis] - low[axis]) / steps[axis]) + 1 for axis in (0, 1)]
    crpix = tuple(
        1.0 - min(sign * low[axis], sign * high[axis]) / steps[axis] for axis, sign in ((0, -1.0), (1, 1.0))
    )
    start, end = (np.float32(v) for v in wavelength_limits)
    step = float(wavelength_step) or (LOG_STEP_ANGSTROM if log else LINEAR_STEP_ANGSTROM)
    if log:
        planes = math.ceil(float(start) / step * math.log(float(end / start))) + 1
    else:
        planes = math.ceil(float(end - start) / step) + 1
    cd = ((-steps[0], 0.0), (0.0, steps[1]))
    return VoxelGrid(
        (planes, lengths[1], lengths[0]), (ra_deg, dec_deg), crpix, cd, float(start), step, log=log
    )


def _round_half_away(value):
    return math.floor(value + 0.5)


def check_common_field(footprints, dates):
    """Refuse exposures that form groups with nothing but sky between them.

    Parameters
    ----------
    footprints : sequence of ndarray, shape (M, 3), float64
        For every exposure unit vectors of points that span its rows.
    dates : sequence of str
        What the exposures are called.

    Raises
    ------
    InputError
        Not all exposures hang together by gaps of at most two arcminutes.
    """
    group, gap = _groups(footprints)
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    if len(members) > 1:
        others = "; ".join(
            f"{dates[n[0]]} and {len(n) - 1} more, {gap[n].min() / 60:.1f} arcmin away" for n in members[1:6]
        )
        raise InputError(
            f"the exposures have no common field: {dates[0]} and {len(members[0]) - 1} more lie together; "
            f"then there are {others}. Make a field of each group, or correct RA, DEC or the offsets, or "
            "give the grid to combine all of them on with grid = FILE."
        )


def _groups(footprints):
    """Number of the group of every exposure, and its distance from group 0 [arcsec] between circumcircles."""
    centres = np.array([points.sum(axis=0) for points in footprints])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    radii = np.array([_separation(p, c).max() for p, c in zip(footprints, centres, strict=True)])
    group, gap = np.full(len(radii), -1), np.full(len(radii), np.inf)
    for seed in range(len(radii)):
        front = [seed] if group[seed] < 0 else []
        number = group.max() + 1
        group[front] = number
        while front:
            n = front.pop()
            distance = _separation(centres, centres[n]) - radii - radii[n]
            if number == 0:
                gap = np.minimum(gap, distance)
            near = np.flatnonzero((distance <= _WIDEST_GAP_ARCSEC) & (group < 0))
            group[near] = number
            front += near.tolist()
    return group, gap


def _separation(vectors, centre):
    """Angles between unit vectors and another, arcsec."""
    half = np.linalg.norm(vectors - centre, axis=-1) / 2
    return np.degrees(2 * np.arcsin(half.clip(0.0, 1.0))) * 3600.0


def check_grid_size(grid):
    """Refuse a grid that no disk could hold: a step or an offset is wrong.

    Parameters
    ----------
    grid : VoxelGrid

    Raises
    ------
    InputError
    """
    voxels = math.prod(grid.shape)
    if voxels > _MOST_VOXELS or max(grid.shape) > _LONGEST_AXIS:
        nz, ny, nx = grid.shape
        raise InputError(
            f"Grid: it has {nz} planes of {ny} x {nx} voxels, {voxels:.1e} in all; at most "
            f"{_MOST_VOXELS:.0e}, and {_LONGEST_AXIS} along an axis, are possible. Its steps are "
            f"{grid.step_arcsec[0]:.3g} and {grid.step_arcsec[1]:.3g} arcsec and "
            f"{grid.wavelength_step:.3g} Angstrom: check dx, dy, dlambda and the offsets."
        )
