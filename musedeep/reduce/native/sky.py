"""The model of the night sky that is subtracted: a continuum, and lines through the profile of each slice."""

from dataclasses import dataclass, field

import numpy as np
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.kernels.reduction import subtract_continuum, subtract_lines
from musedeep.muse import SLICE_COUNT
from musedeep.reduce.native.curves import read_curve

__all__ = [
    "SkyLines",
    "SkyModel",
    "make_sky_model",
    "profile_path",
    "read_lines",
    "read_profile",
    "read_sky_model",
]


@dataclass(frozen=True)
class SkyLines:
    """A list of lines.

    Attributes
    ----------
    name : str array (lines,)
    group : int64 array (lines,)
        Lines of one group rise and fall together.
    wavelength : float64 array (lines,), Angstrom
    flux : float64 array (lines,), 1e-20 erg/s/cm2 a spaxel
    dq : int64 array (lines,)
    """

    name: np.ndarray = field(repr=False)
    group: np.ndarray = field(repr=False)
    wavelength: np.ndarray = field(repr=False)
    flux: np.ndarray = field(repr=False)
    dq: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class SkyModel:
    """A model of the sky for the rows of one IFU.

    Attributes
    ----------
    nodes, continuum : float64 arrays
        Wavelength (Angstrom) and flux; rows that it does not reach are left out of the product.
    lines, flux : float64 arrays
        Wavelengths of the lines in ascending order, and their fluxes.
    profiles : float64 array (48, lines, offsets)
        Of area 1.
    middles : float64 array (48, lines), Angstrom
    first, step : float, Angstrom
    """

    nodes: np.ndarray
    continuum: np.ndarray
    lines: np.ndarray
    flux: np.ndarray
    profiles: np.ndarray
    middles: np.ndarray
    first: float
    step: float

    def subtract(self, rows):
        """Subtract it from calibrated rows (dict of columns) in place.

        Returns
        -------
        inside : bool array
            Rows that the continuum reaches.
        """
        inside = np.empty(len(rows["data"]), bool)
        subtract_continuum(rows["lambda"], rows["data"], self.nodes, self.continuum, inside)
        subtract_lines(
            rows["lambda"], rows["data"], rows["origin"], self.lines, self.flux, self.profiles,
            self.middles, self.first, self.step,
        )  # fmt: skip
        return inside


def read_sky_model(continuum, lines, profile, ifu):
    """Read a model of the sky.

    Parameters
    ----------
    continuum, lines : Path
        SKY_CONTINUUM and SKY_LINES, as muse_create_sky writes them.
    profile : Path
        LSF_PROFILE of the IFU, or the merged file of all.
    ifu : int

    Returns
    -------
    SkyModel

    Raises
    ------
    InputError
        A file is not what it should be, or holds nothing about the IFU.
    """
    nodes, values = read_curve(continuum, "lambda", "flux")
    found = read_lines(lines)
    return make_sky_model(nodes, values, found.wavelength, found.flux, read_profile(profile, ifu))


def make_sky_model(nodes, continuum, wavelength, flux, profile):
    """A model of the sky for the rows of one IFU.

    Parameters
    ----------
    nodes, continuum : float64 arrays
        Wavelengths (Angstrom) and values.
    wavelength, flux : float64 arrays
        Of the lines.
    profile : (cube, offsets, planes)
        As `read_profile` gives it.

    Returns
    -------
    SkyModel
    """
    order = np.argsort(wavelength, kind="stable")
    wavelength, flux = wavelength[order], flux[order]
    cube, offsets, planes = profile
    step = offsets[1] - offsets[0]
    # between the wavelengths of the cube profiles change evenly
    place = np.clip((wavelength - planes[0]) / (planes[1] - planes[0]), 0, len(planes) - 1)
    low = np.minimum(place.astype(int), len(planes) - 2)
    part = (place - low)[:, None]
    profiles = cube[:, low] * (1 - part) + cube[:, low + 1] * part
    profiles /= profiles.sum(axis=2, keepdims=True) * step
    middles = (profiles * offsets).sum(axis=2) * step
    return SkyModel(nodes, continuum, wavelength, flux, profiles, middles, float(offsets[0]), float(step))


def read_lines(path):
    """Read a list of lines of the sky.

    Parameters
    ----------
    path : Path
        SKY_LINES.

    Returns
    -------
    SkyLines

    Raises
    ------
    InputError
        It is no such list, or has OH_TRANSITIONS.
    """
    try:
        with fits.open(path) as hdus:
            table = hdus["LINES"].data
            columns = {
                name: np.asarray(table[name], kind)
                for name, kind in (("group", np.int64), ("lambda", np.float64), ("flux", np.float64))
            }
            names = np.asarray(table["name"]) if "name" in table.names else np.full(len(table), "")
            dq = np.asarray(table["dq"], np.int64) if "dq" in table.names else np.zeros(len(table), np.int64)
            if "OH_TRANSITIONS" in hdus:
                raise InputError(
                    f"{path}: its OH_TRANSITIONS are not used yet; give the SKY_LINES of muse_create_sky"
                )
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: not a table of sky lines ({error}); is it the right file?") from error
    return SkyLines(names, columns["group"], columns["lambda"], columns["flux"], dq)


def profile_path(paths, ifu):
    """The file of an IFU among LSF_PROFILE of single IFUs, or the merged one."""
    for path in paths:
        if str(fits.getheader(path).get("EXTNAME", "")).startswith(f"CHAN{ifu:02d}"):
            return path
    return paths[0]


def read_profile(path, ifu):
    """Profiles of the lines of an IFU.

    Parameters
    ----------
    path : Path
        LSF_PROFILE of the IFU, or the merged file of all.
    ifu : int

    Returns
    -------
    cube : float64 array (48, wavelengths, offsets)
    offsets, wavelengths : float64 arrays, Angstrom

    Raises
    ------
    InputError
        The file holds no such cube.
    """
    with fits.open(path) as hdus:
        names = [hdu.name for hdu in hdus]
        wanted = [name for name in (f"CHAN{ifu:02d}.LSF_PROFILE", "LSF_PROFILE") if name in names]
        if not wanted:
            raise InputError(f"{path}: no LSF_PROFILE of IFU {ifu}; give that of the IFU, or the merged file")
        header, cube = hdus[wanted[0]].header, np.asarray(hdus[wanted[0]].data, np.float64)
    if cube.ndim != 3 or len(cube) != SLICE_COUNT:
        raise InputError(f"{path}: LSF_PROFILE has shape {cube.shape}; {SLICE_COUNT} slices are wanted first")
    axes = []
    for axis, count in ((1, cube.shape[2]), (2, cube.shape[1])):
        start, place = header[f"CRVAL{axis}"], header[f"CRPIX{axis}"]
        axes.append(start + (np.arange(count) + 1 - place) * header[f"CD{axis}_{axis}"])
    return cube, *axes
