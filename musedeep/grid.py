"""Where a voxel lies: the homography from the sky, and the wavelength axis.

The way from the tangent plane of an exposure to the voxel coordinates of a grid is one homography
(`musedeep.sky` says what a frame is): no trigonometry a row, and right at 0h and near the poles.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musedeep.errors import InputError
from musedeep.sky import sky_frame, sky_position, sky_vectors

__all__ = ["VoxelGrid", "air_to_vacuum", "sky_frame", "sky_vectors"]

_WAVELENGTH_TYPES = {
    "AWAV": (False, False),
    "AWAV-LOG": (True, False),
    "WAVE": (False, True),
    "WAVE-LOG": (True, True),
}
_ANGSTROM_PER_UNIT = {"": 1e10, "m": 1e10, "um": 1e4, "micron": 1e4, "nm": 10.0, "angstrom": 1.0}
_DEGREES_PER_UNIT = {"": 1.0, "deg": 1.0, "arcmin": 1 / 60, "arcsec": 1 / 3600}


def air_to_vacuum(wavelength):
    """Vacuum wavelengths of wavelengths in air.

    The refractive index is Ciddor's (1996, doi:10.1364/AO.35.001566) for dry air of 15 C, 101325 Pa and 450
    ppm of CO2, taken at the wavelength in air as the ESO pipeline does.

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
        plain = {
            "shape": tuple(int(n) for n in self.shape),
            "crval": tuple(float(v) for v in self.crval),
            "crpix": tuple(float(v) for v in self.crpix),
            "cd": tuple(tuple(float(v) for v in row) for row in self.cd),
            "wavelength_start": float(self.wavelength_start),
            "wavelength_step": float(self.wavelength_step),
            "wavelength_crpix": float(self.wavelength_crpix),
            "log": bool(self.log),
            "vacuum": bool(self.vacuum),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self):
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(
                f"Grid: the shape is {self.shape}, but needs three numbers of 1 or more (wavelength, y, x)."
            )
        numbers = (*self.crval, *self.crpix, *self.cd[0], *self.cd[1])
        if not all(math.isfinite(v) for v in numbers):
            raise InputError(f"Grid: the sky coordinates hold a value that is not finite: {numbers}.")
        determinant = self.cd[0][0] * self.cd[1][1] - self.cd[0][1] * self.cd[1][0]
        if determinant == 0:
            raise InputError(f"Grid: the CD matrix {self.cd} is singular; give one that spans the sky.")
        axis = (self.wavelength_start, self.wavelength_step, self.wavelength_crpix)
        if not all(math.isfinite(v) for v in axis) or self.wavelength_start <= 0 or self.wavelength_step <= 0:
            raise InputError(
                f"Grid: start, step and reference plane of the wavelength axis are {axis}, but start and "
                "step must be above 0 Angstrom."
            )

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
        """Where every plane begins and the last one ends; ndarray, shape (nz + 1,), float64, Angstrom."""
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
            steps = np.log(wavelength / self.wavelength_start) * (
                self.wavelength_start / self.wavelength_step
            )
        else:
            steps = (wavelength - self.wavelength_start) / self.wavelength_step
        return steps + (self.wavelength_crpix - 1.0)

    # ------------------------------------------------------------------------------------------------ sky

    @property
    def step_arcsec(self):
        """Sides (x, y) of a voxel on the sky; tuple of float, arcsec."""
        (c11, c12), (c21, c22) = self.cd
        return math.hypot(c11, c21) * 3600.0, math.hypot(c12, c22) * 3600.0

    def position(self, x, y):
        """Sky position of a voxel's centre.

        Parameters
        ----------
        x, y : float
            0-based voxel coordinates.

        Returns
        -------
        ra_deg, dec_deg : float
        """
        xi, eta = np.radians(np.array(self.cd) @ (x + 1.0 - self.crpix[0], y + 1.0 - self.crpix[1]))
        return sky_position(sky_frame(*self.crval) @ np.array([xi, eta, 1.0]))

    def pixel(self, ra_deg, dec_deg):
        """Voxel coordinates of sky positions.

        Parameters
        ----------
        ra_deg, dec_deg : array_like
            Degrees, broadcast against each other.

        Returns
        -------
        x, y : ndarray or float, float64
            0-based, an integer at a voxel's centre; NaN on the other side of the sky.
        """
        x, y, w = np.moveaxis(sky_vectors(ra_deg, dec_deg) @ self.from_sky(np.eye(3)).T, -1, 0)
        w = np.where(w > 0, w, np.nan)
        return x / w, y / w

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
            Gives what the header lacks: the number of voxels along an axis, or the whole wavelength axis of
            an image.

        Returns
        -------
        VoxelGrid

        Raises
        ------
        InputError
            Another projection, an unknown unit or axis type, axes of sky and wavelength mixed, or a missing
            fact.
        """
        if not _is_gnomonic(header):
            raise InputError(
                f"WCS header: CTYPE1, CTYPE2 are {header.get('CTYPE1')!r}, {header.get('CTYPE2')!r}, but "
                "a grid needs RA---TAN, DEC--TAN."
            )
        axes = 3 if "CTYPE3" in header else 2
        if axes == 2 and default is None:
            raise InputError(
                "WCS header: it has no third axis (CTYPE3), so the wavelengths are unknown; give a cube, or "
                "a default grid to take the wavelengths from."
            )
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
        """Grid of the first cube or image with a sky projection in a FITS file, or of a version of a cube.

        Parameters
        ----------
        path : str or Path
            A FITS file, as ESO's OUTPUT_WCS; or a file of a field's folder ``history``, whose grid is taken
            to the last digit.
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
        if path.suffix == ".json":
            try:
                return cls.from_dict(json.loads(path.read_text())["grid"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"Output WCS {path}: holds no grid of a cube ({error!r}).") from error
        try:
            with path.open("rb") as file, fits.open(file) as hdus:
                headers = [hdu.header for hdu in hdus]
        except OSError as error:
            raise InputError(f"Output WCS {path}: cannot be read as FITS ({error}).") from error
        for header in headers:
            if _is_gnomonic(header):
                try:
                    return cls.from_header(header, default=default)
                except InputError as error:
                    raise InputError(f"Output WCS {path}: {error}") from error
        raise InputError(
            f"Output WCS {path}: none of its {len(headers)} HDUs has CTYPE1 = RA---TAN and "
            "CTYPE2 = DEC--TAN; give a cube or an image in gnomonic projection."
        )


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
        raise InputError(
            f"WCS header: CUNIT{axis} is {unit!r}, but must be one of {', '.join(filter(None, scales))}."
        )
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
        raise InputError(
            f"WCS header: the CD matrix {matrix.tolist()} mixes sky and wavelength axes; the cross terms "
            "with axis 3 must be 0."
        )
    return matrix


def _wavelength_axis(header, step):
    kind = str(header["CTYPE3"]).strip()
    if kind not in _WAVELENGTH_TYPES:
        raise InputError(
            f"WCS header: CTYPE3 is {kind!r}, but must be one of {', '.join(_WAVELENGTH_TYPES)}."
        )
    log, vacuum = _WAVELENGTH_TYPES[kind]
    scale = _unit_scale(header, 3, _ANGSTROM_PER_UNIT)
    start = _number(header, "CRVAL3") * scale
    if not 1e3 <= start <= 1e5:
        raise InputError(
            f"WCS header: CRVAL3 is {header['CRVAL3']!r} with CUNIT3 {header.get('CUNIT3', '')!r}, which is "
            f"{start:g} Angstrom and cannot be an optical wavelength; correct CRVAL3 or CUNIT3."
        )
    return {
        "wavelength_start": start,
        "wavelength_step": step * scale,
        "wavelength_crpix": _number(header, "CRPIX3"),
        "log": log,
        "vacuum": vacuum,
    }
