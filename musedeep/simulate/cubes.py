"""A MUSE cube on disk as the scene of a simulation."""

import math
import warnings
from contextlib import contextmanager

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from musedeep.errors import InputError
from musedeep.simulate.scene import CubeScene
from musedeep.sky import sky_frame

__all__ = ["cube_centre", "read_scene_cube"]

_MARGIN_PLANES = 8


def cube_centre(path):
    """RA and Dec (degrees) of the middle of a cube."""
    with _opened(path) as hdu:
        header = hdu.header
        middle = [(header[f"NAXIS{axis}"] - 1) / 2 for axis in (1, 2)]
        ra, dec = _celestial(header).pixel_to_world_values(*middle)
    return float(ra), float(dec)


def read_scene_cube(path, wavelength, smoothing):
    """Read the part of a cube that a simulation needs.

    Parameters
    ----------
    path : path of a FITS cube with linear wavelengths; values in 1e-20 erg/s/cm2/Angstrom per spaxel
    wavelength : (low, high), Angstrom
    smoothing : (wavelength, spatial)
        Sigma, in voxels, of a Gaussian that takes out the cube's noise. It also fills its NaN voxels, with 0
        where no other is near.

    Returns
    -------
    CubeScene
        Its middle lies on the centre of the scene.

    Raises
    ------
    InputError
        The file is no cube, or has no plane in the range of wavelengths.
    """
    centre = cube_centre(path)
    with _opened(path) as hdu:
        header = hdu.header
        unit = 1e10 if str(header.get("CUNIT3", "Angstrom")).strip() == "m" else 1.0
        step = header.get("CD3_3", header.get("CDELT3")) * unit
        start = header["CRVAL3"] * unit + (1 - header.get("CRPIX3", 1.0)) * step
        first = max(0, math.floor((wavelength[0] - start) / step) - _MARGIN_PLANES)
        last = min(header["NAXIS3"], math.ceil((wavelength[1] - start) / step) + _MARGIN_PLANES + 1)
        if last - first < 2:
            end = start + (header["NAXIS3"] - 1) * step
            raise InputError(
                f"{path}: the cube of the scene covers {start:.1f} to {end:.1f} Angstrom, "
                f"{wavelength[0]:.1f} to {wavelength[1]:.1f} are wanted; choose other wavelengths"
            )
        flux = _smoothed(np.asarray(hdu.section[first:last], np.float32), smoothing)
        celestial = _celestial(header)
    cd = np.radians(celestial.pixel_scale_matrix)
    from_plane = np.eye(3)
    from_plane[:2, :2] = np.linalg.inv(cd)
    from_plane[:2, 2] = celestial.wcs.crpix - 1
    from_plane = from_plane @ sky_frame(*celestial.wcs.crval).T @ sky_frame(*centre)
    from_plane = from_plane @ np.diag([math.radians(1 / 3600), math.radians(1 / 3600), 1.0])
    area = abs(np.linalg.det(cd)) * math.degrees(3600) ** 2
    return CubeScene(flux, start + first * step, step, from_plane, float(area))


@contextmanager
def _opened(path):
    """The first HDU of a file that holds a cube."""
    try:
        with fits.open(path) as hdus:
            cubes = [hdu for hdu in hdus if hdu.is_image and hdu.header["NAXIS"] == 3]
            if not cubes:
                raise InputError(f"{path}: no extension holds a cube; give a MUSE cube as the scene")
            yield cubes[0]
    except OSError as error:
        raise InputError(f"{path}: the cube of the scene cannot be read ({error}); check the path") from error


def _celestial(header):
    with warnings.catch_warnings():
        # cubes of the archive have old keywords that astropy puts right, loudly
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(header).celestial


def _smoothed(flux, smoothing):
    """Convolve with a Gaussian, as if NaN voxels were not there."""
    known = np.isfinite(flux)
    total, weight = np.where(known, flux, np.float32(0)), known.astype(np.float32)
    for axis, sigma in enumerate((smoothing[0], smoothing[1], smoothing[1])):
        total, weight = _convolved(total, axis, sigma), _convolved(weight, axis, sigma)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-3)


def _convolved(values, axis, sigma):
    reach = min(math.ceil(3 * sigma), values.shape[axis] - 1)
    result, count = np.zeros_like(values), values.shape[axis]
    norm = sum(math.exp(-0.5 * (step / sigma) ** 2) for step in range(-reach, reach + 1)) if sigma else 1.0
    for step in range(-reach, reach + 1):
        weight = np.float32(math.exp(-0.5 * (step / sigma) ** 2) / norm if sigma else 1.0)
        into = [slice(None)] * values.ndim
        source = list(into)
        into[axis] = slice(max(0, step), count + min(0, step))
        source[axis] = slice(max(0, -step), count + min(0, -step))
        result[tuple(into)] += weight * values[tuple(source)]
    return result
