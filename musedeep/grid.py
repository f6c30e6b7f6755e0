"""Where a voxel lies: tangent planes, homographies between them, and the wavelength axis.

Everything about the sky is done with unit vectors and gnomonic planes in float64. A *frame* is a (3, 3) orthonormal
matrix whose columns are the east, north and pole vectors of a tangent point: ``frame @ (xi, eta, 1)`` is the direction
of the point with plane coordinates xi (to the east) and eta (to the north), in radians. The way from any such plane to
the voxel coordinates of a grid is then one homography, with no trigonometry a row, right at 0h and near the poles.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musedeep.errors import InputError

__all__ = [
    "LINEAR_STEP_ANGSTROM",
    "LOG_STEP_ANGSTROM",
    "VoxelGrid",
    "air_to_vacuum",
    "eso_grid",
    "eso_positions",
    "grid_from_footprints",
    "sky_frame",
    "sky_vectors",
]

LINEAR_STEP_ANGSTROM = 1.25
LOG_STEP_ANGSTROM = 1.25 / 1.6

_WAVELENGTH_TYPES = {
    "AWAV": (False, False),
    "AWAV-LOG": (True, False),
    "WAVE": (False, True),
    "WAVE-LOG": (True, True),
}
_ANGSTROM_PER_UNIT = {"": 1e10, "m": 1e10, "um": 1e4, "micron": 1e4, "nm": 10.0, "angstrom": 1.0}
_DEGREES_PER_UNIT = {"": 1.0, "deg": 1.0, "arcmin": 1 / 60, "arcsec": 1 / 3600}


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


def air_to_vacuum(wavelength):
    """Vacuum wavelengths of wavelengths in air.

    The refractive index is Ciddor's (1996, doi:10.1364/AO.35.001566) for dry air of 15 C, 101325 Pa and 450 ppm
    of CO2, taken at the wavelength in air as the ESO pipeline does.

    Parameters
    ----------
    wavelength : array_like
        Wavelength in air, Angstrom.

    Returns
    -------
    ndarray or float, float64
        Wavelength in vacuum, Angstrom.
    """
    wavelength = np.asarray(wavelength, dtype=np.float64)
    wavenumber2 = (1e4 / wavelength) ** 2
    refractivity = 1e-8 * (5792105.0 / (238.0185 - wavenumber2) + 167917.0 / (57.362 - wavenumber2))
    return wavelength * (1.0 + refractivity)


@dataclass(frozen=True)
class VoxelGrid:
    """The grid of a cube: its shape and where each voxel lies.

    Voxel coordinates are 0-based (plane, y, x) with integers at voxel centres; only `crpix` and
    `wavelength_crpix` count from 1, as in a FITS header.

    Parameters
    ----------
    shape : tuple of int
        Number of voxels (wavelength, y, x).
    crval : tuple of float
        Tangent point (RA, Dec), degrees.
    crpix : tuple of float
        Pixel (x, y) of the tangent point, counted from 1.
    cd : tuple of tuples of float
        ((CD1_1, CD1_2), (CD2_1, CD2_2)), degrees a voxel.
    wavelength_start : float
        CRVAL3, Angstrom: the wavelength at plane `wavelength_crpix`.
    wavelength_step : float
        CD3_3, Angstrom a plane; on a logarithmic axis the step at `wavelength_start`.
    wavelength_crpix : float
        CRPIX3, counted from 1.
    log : bool
        Planes are equally spaced in ln(wavelength).
    vacuum : bool
        Wavelengths are those in vacuum.

    Raises
    ------
    InputError
        A shape, matrix or wavelength axis that cannot be a cube's.
    """

    shape: tuple
    crval: tuple
    crpix: tuple
    cd: tuple
    wavelength_start: float
    wavelength_step: float
    wavelength_crpix: float = 1.0
    log: bool = False
    vacuum: bool = False

    def __post_init__(self):
        # Plain Python numbers: the grid is compared, hashed and written to JSON.
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        set_("shape", tuple(int(n) for n in self.shape))
        set_("crval", tuple(float(v) for v in self.crval))
        set_("crpix", tuple(float(v) for v in self.crpix))
        set_("cd", tuple(tuple(float(v) for v in row) for row in self.cd))
        for name in ("wavelength_start", "wavelength_step", "wavelength_crpix"):
            set_(name, float(getattr(self, name)))
        set_("log", bool(self.log))
        set_("vacuum", bool(self.vacuum))
        self._check()

    def _check(self):
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"Grid: the shape is {self.shape}, but needs three numbers of 1 or more (wavelength, y, x).")
        numbers = (*self.crval, *self.crpix, *self.cd[0], *self.cd[1])
        if not all(math.isfinite(v) for v in numbers):
            raise InputError(f"Grid: the sky coordinates hold a value that is not finite: {numbers}.")
        determinant = self.cd[0][0] * self.cd[1][1] - self.cd[0][1] * self.cd[1][0]
        if determinant == 0:
            raise InputError(f"Grid: the CD matrix {self.cd} is singular; give one that spans the sky.")
        axis = (self.wavelength_start, self.wavelength_step, self.wavelength_crpix)
        if not all(math.isfinite(v) for v in axis) or self.wavelength_start <= 0 or self.wavelength_step <= 0:
            raise InputError(f"Grid: start, step and reference plane of the wavelength axis are {axis}, but start and "
                             "step must be above 0 Angstrom.")

    # ----------------------------------------------------------------------------------------- wavelength

    def wavelength_at(self, plane):
        """Wavelength of plane coordinates (0-based, beyond the grid too), Angstrom; float64."""
        steps = np.asarray(plane, dtype=np.float64) + 1.0 - self.wavelength_crpix
        if self.log:
            return self.wavelength_start * np.exp(steps * (self.wavelength_step / self.wavelength_start))
        return self.wavelength_start + steps * self.wavelength_step

    @property
    def wavelengths(self):
        """Wavelength of every plane's centre; ndarray, shape (nz,), float64, Angstrom."""
        return self.wavelength_at(np.arange(self.shape[0]))

    @property
    def plane_edges(self):
        """Wavelength where every plane begins, and where the last one ends; shape (nz + 1,), float64, Angstrom."""
        return self.wavelength_at(np.arange(self.shape[0] + 1) - 0.5)

    def plane_of(self, wavelength):
        """Plane coordinate of wavelengths.

        Parameters
        ----------
        wavelength : array_like
            Wavelength, Angstrom, in the medium of the grid (air or vacuum).

        Returns
        -------
        ndarray or float, float64
            0-based plane coordinate; an integer at a plane's centre.
        """
        wavelength = np.asarray(wavelength, dtype=np.float64)
        if self.log:
            steps = np.log(wavelength / self.wavelength_start) * (self.wavelength_start / self.wavelength_step)
        else:
            steps = (wavelength - self.wavelength_start) / self.wavelength_step
        return steps + (self.wavelength_crpix - 1.0)

    # ------------------------------------------------------------------------------------------------ sky

    @property
    def step_arcsec(self):
        """Sides (x, y) of a voxel on the sky; tuple of float, arcsec."""
        (c11, c12), (c21, c22) = self.cd
        return math.hypot(c11, c21) * 3600.0, math.hypot(c12, c22) * 3600.0

    def from_sky(self, frame):
        """Homography from a tangent plane to this grid's voxel coordinates.

        Parameters
        ----------
        frame : ndarray, shape (3, 3), float64
            A tangent frame as `sky_frame` gives it.

        Returns
        -------
        ndarray, shape (3, 3), float64
            H with (px w, py w, w) = H @ (xi, eta, 1): px, py are 0-based voxel coordinates (an integer at a
            voxel's centre), xi and eta the coordinates in `frame`, radians; w > 0 on this side of the sky.
        """
        degrees_to_pixels = np.linalg.inv(np.array(self.cd))
        plane_to_pixels = np.eye(3)
        plane_to_pixels[:2, :2] = degrees_to_pixels * (180.0 / math.pi)
        plane_to_pixels[:2, 2] = self.crpix[0] - 1.0, self.crpix[1] - 1.0
        return plane_to_pixels @ sky_frame(*self.crval).T @ np.asarray(frame, dtype=np.float64)

    # ---------------------------------------------------------------------------------- header, dict, file

    @property
    def wcs(self):
        """The grid as a three-dimensional `astropy.wcs.WCS` (astropy keeps its wavelengths in metres)."""
        from astropy.wcs import WCS

        wcs = WCS(self.to_header(), naxis=3)
        wcs.array_shape = self.shape
        return wcs

    def to_header(self):
        """WCS cards of the cube, as ESO writes them (full CD matrix, Angstrom, no WCSAXES).

        Returns
        -------
        astropy.io.fits.Header
            Without NAXIS cards: these belong to the HDU that takes the header.
        """
        from astropy.io import fits

        kind = {flags: name for name, flags in _WAVELENGTH_TYPES.items()}[self.log, self.vacuum]
        (c11, c12), (c21, c22) = self.cd
        header = fits.Header()
        header["CTYPE1"] = ("RA---TAN", "gnomonic projection")
        header["CTYPE2"] = ("DEC--TAN", "gnomonic projection")
        header["CTYPE3"] = (kind, "wavelength in " + ("vacuum" if self.vacuum else "air"))
        header["CUNIT1"] = "deg"
        header["CUNIT2"] = "deg"
        header["CUNIT3"] = "Angstrom"
        header["CRPIX1"] = (self.crpix[0], "pixel of the tangent point")
        header["CRPIX2"] = (self.crpix[1], "pixel of the tangent point")
        header["CRPIX3"] = (self.wavelength_crpix, "plane of the reference wavelength")
        header["CRVAL1"] = (self.crval[0], "[deg] right ascension of the tangent point")
        header["CRVAL2"] = (self.crval[1], "[deg] declination of the tangent point")
        header["CRVAL3"] = (self.wavelength_start, "[Angstrom] reference wavelength")
        terms = {"1_1": c11, "1_2": c12, "2_1": c21, "2_2": c22, "3_3": self.wavelength_step}
        for name in ("1_1", "1_2", "2_1", "2_2", "3_3", "1_3", "2_3", "3_1", "3_2"):
            header[f"CD{name}"] = terms.get(name, 0.0)
        return header

    @classmethod
    def from_header(cls, header, shape=None, default=None):
        """Grid of a cube's or an image's FITS header.

        Parameters
        ----------
        header : astropy.io.fits.Header
            Gnomonic (RA---TAN, DEC--TAN), with a CD matrix or with PC and CDELT; a third axis of AWAV,
            AWAV-LOG, WAVE or WAVE-LOG.
        shape : tuple of int, optional
            (wavelength, y, x) where the header has no NAXIS cards.
        default : VoxelGrid, optional
            Gives what the header lacks: the number of voxels along an axis, or the whole wavelength axis of an image.

        Returns
        -------
        VoxelGrid

        Raises
        ------
        InputError
            Another projection, an unknown unit or axis type, axes of sky and wavelength mixed, or a missing fact.
        """
        if not _is_gnomonic(header):
            raise InputError(f"WCS header: CTYPE1, CTYPE2 are {header.get('CTYPE1')!r}, {header.get('CTYPE2')!r}, but "
                             "a grid needs RA---TAN, DEC--TAN.")
        axes = 3 if "CTYPE3" in header else 2
        if axes == 2 and default is None:
            raise InputError("WCS header: it has no third axis (CTYPE3), so the wavelengths are unknown; give a cube, or "
                             "a default grid to take the wavelengths from.")
        if shape is None:
            shape = tuple(_axis_length(header, axis, default) for axis in (3, 2, 1))
        matrix = _cd_matrix(header, axes)
        scale = [_unit_scale(header, axis, _DEGREES_PER_UNIT) for axis in (1, 2)]
        sky = {
            "crval": tuple(_number(header, f"CRVAL{axis}") * scale[axis - 1] for axis in (1, 2)),
            "crpix": tuple(_number(header, f"CRPIX{axis}") for axis in (1, 2)),
            "cd": tuple(tuple(matrix[row, column] * scale[row] for column in (0, 1)) for row in (0, 1)),
        }
        if axes == 2:
            wavelength = {name: getattr(default, name) for name in _WAVELENGTH_FIELDS}
        else:
            wavelength = _wavelength_axis(header, matrix[2, 2])
        return cls(shape=shape, **sky, **wavelength)

    def to_dict(self):
        """The grid as a dictionary of plain numbers, for JSON; floats keep every digit."""
        return {
            "shape": list(self.shape),
            "crval": list(self.crval),
            "crpix": list(self.crpix),
            "cd": [list(row) for row in self.cd],
        } | {name: getattr(self, name) for name in _WAVELENGTH_FIELDS}

    @classmethod
    def from_dict(cls, values):
        """Grid of a dictionary that `to_dict` made."""
        return cls(**values)

    @classmethod
    def from_file(cls, path, default=None):
        """Grid of the first cube or image with a sky projection in a FITS file.

        Parameters
        ----------
        path : str or Path
            A FITS file, as ESO's OUTPUT_WCS.
        default : VoxelGrid, optional
            Gives what the header lacks, see `from_header`.

        Returns
        -------
        VoxelGrid

        Raises
        ------
        InputError
            The file cannot be read, has no such extension, or its header is unusable.
        """
        from astropy.io import fits

        path = Path(path)
        try:
            with fits.open(path) as hdus:
                headers = [hdu.header for hdu in hdus]
        except OSError as error:
            raise InputError(f"Output WCS {path}: cannot be read as FITS ({error}).") from error
        for header in headers:
            if _is_gnomonic(header):
                try:
                    return cls.from_header(header, default=default)
                except InputError as error:
                    raise InputError(f"Output WCS {path}: {error}") from error
        raise InputError(f"Output WCS {path}: none of its {len(headers)} HDUs has CTYPE1 = RA---TAN and CTYPE2 = DEC--TAN; "
                         "give a cube or an image in gnomonic projection.")


_WAVELENGTH_FIELDS = ("wavelength_start", "wavelength_step", "wavelength_crpix", "log", "vacuum")


def _is_gnomonic(header):
    return str(header.get("CTYPE1")).strip() == "RA---TAN" and str(header.get("CTYPE2")).strip() == "DEC--TAN"


def _axis_length(header, axis, default):
    length = header.get(f"NAXIS{axis}", 0)
    if length > 0:
        return length
    if default is None:
        raise InputError(f"WCS header: NAXIS{axis} is missing, so the size of the grid is unknown.")
    return default.shape[3 - axis]


def _number(header, keyword):
    value = header.get(keyword)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"WCS header: {keyword} is {value!r}, but must be a number.")
    return float(value)


def _unit_scale(header, axis, scales):
    unit = str(header.get(f"CUNIT{axis}", "")).strip()
    scale = scales.get(unit.lower())
    if scale is None:
        raise InputError(f"WCS header: CUNIT{axis} is {unit!r}, but must be one of {', '.join(filter(None, scales))}.")
    return scale


def _cd_matrix(header, axes):
    """CD matrix (axes, axes) of a header that gives either CDi_j or PCi_j with CDELTi."""
    pairs = [(row, column) for row in range(1, axes + 1) for column in range(1, axes + 1)]
    has_cd = any(f"CD{row}_{column}" in header for row, column in pairs)
    matrix = np.zeros((axes, axes)) if has_cd else np.eye(axes)
    for row, column in pairs:
        keyword = f"{'CD' if has_cd else 'PC'}{row}_{column}"
        if keyword in header:
            matrix[row - 1, column - 1] = _number(header, keyword)
    if not has_cd:
        matrix *= np.array([[_number(header, f"CDELT{row}")] for row in range(1, axes + 1)])
    if axes == 3 and (matrix[:2, 2].any() or matrix[2, :2].any()):
        raise InputError(f"WCS header: the CD matrix {matrix.tolist()} mixes sky and wavelength axes; the cross terms "
                         "with axis 3 must be 0.")
    return matrix


def _wavelength_axis(header, step):
    kind = str(header["CTYPE3"]).strip()
    if kind not in _WAVELENGTH_TYPES:
        raise InputError(f"WCS header: CTYPE3 is {kind!r}, but must be one of {', '.join(_WAVELENGTH_TYPES)}.")
    log, vacuum = _WAVELENGTH_TYPES[kind]
    scale = _unit_scale(header, 3, _ANGSTROM_PER_UNIT)
    start = _number(header, "CRVAL3") * scale
    if not 1e3 <= start <= 1e5:
        raise InputError(f"WCS header: CRVAL3 is {header['CRVAL3']!r} with CUNIT3 {header.get('CUNIT3', '')!r}, which is "
                         f"{start:g} Angstrom and cannot be an optical wavelength; correct CRVAL3 or CUNIT3.")
    return {
        "wavelength_start": start,
        "wavelength_step": step * scale,
        "wavelength_crpix": _number(header, "CRPIX3"),
        "log": log,
        "vacuum": vacuum,
    }


# -------------------------------------------------------------------------------------------- grids from data


def grid_from_footprints(footprints, wavelength_range, center=None, step_arcsec=(0.2, 0.2), wavelength_step=0.0,
                         log=False, vacuum=False, rotation="north"):
    """The smallest grid that holds every row of a set of exposures.

    Every point of the footprints lies between the centres of the outermost voxels, so no row is clamped or lost.

    Parameters
    ----------
    footprints : sequence of ndarray, shape (M, 3), float64
        For every exposure unit vectors of points that span its rows (the vertices of their convex hull suffice).
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
        Position angle of the y axis in degrees, from north through east; 'north' is 0, 'minimise' that of the smallest
        rectangle around the field.

    Returns
    -------
    VoxelGrid

    Raises
    ------
    InputError
        No points, points further than a hemisphere apart, or an impossible step or range.
    """
    points = [np.asarray(points, dtype=np.float64).reshape(-1, 3) for points in footprints]
    points = np.concatenate(points) if points else np.empty((0, 3))
    if not len(points) or not np.isfinite(points).all():
        raise InputError(f"Grid: {len(points)} points outline the exposures, at least one is needed and all must be finite.")
    if min(step_arcsec) <= 0:
        raise InputError(f"Grid: the steps {tuple(step_arcsec)} arcsec must be above 0.")
    ra, dec = _middle(points) if center is None else center
    plane = _project(points, sky_frame(ra, dec))
    angle = _rotation_angle(rotation, plane)
    if center is None:
        ra, dec = _box_center(plane, angle, sky_frame(ra, dec))
        plane = _project(points, sky_frame(ra, dec))
    lengths, crpix, cd = _fit_box(plane, angle, [step / 3600.0 for step in step_arcsec])
    start, step, planes = _fit_wavelengths(wavelength_range, wavelength_step, log, vacuum)
    return VoxelGrid((planes, lengths[1], lengths[0]), (ra % 360.0, dec), crpix, cd, start, step, log=log, vacuum=vacuum)


def _sky_position(vector):
    x, y, z = vector
    return math.degrees(math.atan2(y, x)) % 360.0, math.degrees(math.atan2(z, math.hypot(x, y)))


def _middle(points):
    # math.fsum is exact, so the middle does not depend on the order of the exposures.
    total = [math.fsum(points[:, axis]) for axis in range(3)]
    if math.hypot(*total) < 1e-6 * len(points):
        raise InputError("Grid: the exposures lie all over the sky and have no common field; combine them apart.")
    return _sky_position(total)


def _project(points, frame):
    """Gnomonic coordinates (M, 2) in degrees of unit vectors in a frame."""
    local = points @ frame
    if local[:, 2].min() <= 0.02:
        raise InputError("Grid: the exposures lie more than 88 degrees from the centre of the grid and have no common "
                         "field; combine them apart or correct the centre.")
    return np.degrees(local[:, :2] / local[:, 2:])


def _turned(plane, angle_deg):
    """Coordinates along axes turned from north through east by an angle."""
    angle = math.radians(angle_deg)
    first = plane[:, 0] * math.cos(angle) - plane[:, 1] * math.sin(angle)
    second = plane[:, 0] * math.sin(angle) + plane[:, 1] * math.cos(angle)
    return np.column_stack([first, second])


def _box_center(plane, angle, frame):
    turned = _turned(plane, angle)
    middle = (turned.min(axis=0) + turned.max(axis=0)) / 2
    xi, eta = np.radians(_turned(middle[None, :], -angle)[0])
    return _sky_position(frame @ np.array([xi, eta, 1.0]))


def _fit_box(plane, angle_deg, steps):
    """Lengths, reference pixel (1-based) and CD matrix of the box around the points; x runs against the first axis."""
    turned = _turned(plane, angle_deg)
    lengths, crpix = [], []
    for axis, sign in ((0, -1.0), (1, 1.0)):
        pixels = sign * turned[:, axis] / steps[axis]
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
        return _smallest_box_angle(plane)
    if isinstance(rotation, str) or not math.isfinite(rotation):
        raise InputError(f"Grid: the rotation is {rotation!r}, but must be 'north', 'minimise' or an angle in degrees.")
    return float(rotation)


def _smallest_box_angle(plane):
    """Angle in (-45, 45] of the smallest rectangle; one of its sides lies along an edge of the hull."""
    hull = _convex_hull(plane)
    edges = np.roll(hull, -1, axis=0) - hull
    angles = {0.0}
    for dx, dy in edges[np.hypot(edges[:, 0], edges[:, 1]) > 0]:
        angle = math.degrees(math.atan2(dx, dy)) % 90.0
        angles.add(angle - 90.0 if angle > 45.0 else angle)

    def area(angle):
        return np.prod(np.ptp(_turned(hull, angle), axis=0))

    # A turn that saves less than 0.1 % is not worth leaving north.
    return min(angles, key=lambda angle: (area(angle) * (1.0 if angle == 0 else 1.001), abs(angle), angle))


def _convex_hull(plane):
    """Vertices of the convex hull (monotone chain), anticlockwise."""
    points = sorted(set(map(tuple, plane.tolist())))
    if len(points) < 3:
        return np.array(points)
    hull = []
    for chain in (points, points[::-1]):
        start = len(hull)
        for point in chain:
            while len(hull) - start >= 2 and _turn(hull[-2], hull[-1], point) <= 0:
                hull.pop()
            hull.append(point)
        hull.pop()
    return np.array(hull)


def _turn(a, b, c):
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _fit_wavelengths(wavelength_range, step, log, vacuum):
    low, high = (float(v) for v in (air_to_vacuum(wavelength_range) if vacuum else wavelength_range))
    step = float(step) or (LOG_STEP_ANGSTROM if log else LINEAR_STEP_ANGSTROM)
    if not 0 < low <= high or step <= 0:
        raise InputError(f"Grid: the wavelength range {low:g} to {high:g} Angstrom with step {step:g} is not possible.")
    steps = low / step * math.log(high / low) if log else (high - low) / step
    return low, step, math.ceil(steps) + 1


# ------------------------------------------------------------------------------------------- the peer's own rule


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
        ra_relative = (ra_relative.astype(np.float64) + (ra_deg - first[0])).astype(np.float32)
        dec_relative = (dec_relative.astype(np.float64) + (dec_deg - first[1])).astype(np.float32)
    return ra_relative, dec_relative


def eso_grid(ra_limits, dec_limits, ra_deg, dec_deg, wavelength_limits, step_arcsec=(0.2, 0.2), wavelength_step=0.0,
             log=False):
    """The grid that muse_exp_combine chooses without an OUTPUT_WCS.

    It looks at two corners only and rounds absolute positions to float32: at high declination, and for fields far from
    RA 0, rows fall outside. Meant for comparisons; `grid_from_footprints` has neither fault.

    Parameters
    ----------
    ra_limits, dec_limits : tuple of float
        Smallest and largest position of all rows relative to the earliest exposure (`eso_positions`), degrees.
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
        corners.append(_eso_projection(ra, dec, ra_deg, dec_deg))
    low, high = corners
    lengths = [_round_half_away(abs(high[axis] - low[axis]) / steps[axis]) + 1 for axis in (0, 1)]
    crpix = tuple(1.0 - min(sign * low[axis], sign * high[axis]) / steps[axis] for axis, sign in ((0, -1.0), (1, 1.0)))
    start, end = (np.float32(v) for v in wavelength_limits)
    step = float(wavelength_step) or (LOG_STEP_ANGSTROM if log else LINEAR_STEP_ANGSTROM)
    if log:
        planes = math.ceil(float(start) / step * math.log(float(end / start))) + 1
    else:
        planes = math.ceil(float(end - start) / step) + 1
    cd = ((-steps[0], 0.0), (0.0, steps[1]))
    return VoxelGrid((planes, lengths[1], lengths[0]), (ra_deg, dec_deg), crpix, cd, float(start), step, log=log)


def _eso_projection(ra, dec, ra0, dec0):
    """Plane coordinates in degrees by ESO's formula, whose arcsine loses the last digits that the grid is to share."""
    degrees = 180.0 / math.pi
    a, d, d0 = ra / degrees - ra0 / degrees, dec / degrees, dec0 / degrees
    phi = math.pi + math.atan2(
        -math.cos(d) * math.sin(a), math.sin(d) * math.cos(d0) - math.cos(d) * math.sin(d0) * math.cos(a)
    )
    sine = math.sin(d) * math.sin(d0) + math.cos(d) * math.cos(d0) * math.cos(a)
    radius = degrees / math.tan(math.asin(min(sine, 1.0)))
    return radius * math.sin(phi), -radius * math.cos(phi)


def _round_half_away(value):
    return math.floor(value + 0.5)
