"""An external reference for absolute coordinates and fluxes: a catalogue, or an image."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from musedeep.align.images import read_image
from musedeep.align.joint import Member
from musedeep.align.sources import find_sources
from musedeep.errors import InputError
from musedeep.sky import middle_of, sky_frame, sky_vectors

__all__ = ["read_reference"]

_NAMES = {
    "ra": ("ra", "ra_deg", "raj2000", "ra_icrs", "alpha_j2000"),
    "dec": ("dec", "dec_deg", "dej2000", "de_icrs", "delta_j2000"),
    "mag": ("mag", "mag_ab"),
}
# Standard error in arcsec that is assumed of a place in a catalogue.
_CATALOGUE_ERROR = 0.01
_STEP_ARCSEC = 0.2
# AB magnitudes are turned into fluxes at the middle of the white image.
_PIVOT_ANGSTROM = 6975.0
_LIGHT_ANGSTROM_S = 2.99792458e18
_FLUX_UNIT = 1e-20


def read_reference(settings):
    """The reference as a member of the fit.

    Parameters
    ----------
    settings : AlignSettings
        `reference` is a table (FITS, ECSV or CSV) with columns RA and Dec in degrees and, if fluxes are to be
        tied to it, mag (AB); or a FITS image with a WCS.

    Returns
    -------
    Member

    Raises
    ------
    InputError
        It cannot be read, or the columns are missing.
    """
    path = Path(settings.reference)
    if _is_image(path):
        image = read_image(path, reference=True)
        kernel = max(settings.fwhm * _STEP_ARCSEC / image.step_arcsec, 1.5)
        sources = find_sources(image, dataclasses.replace(settings, fwhm=kernel))
        if len(sources) == 0:
            raise InputError(f"{path}: no source was found in this reference; lower the threshold")
        unknown = np.full(len(sources), math.nan)
        return dataclasses.replace(Member.of(image, sources), flux=unknown, flux_error=unknown)
    return _catalogue(path)


def _is_image(path):
    from astropy.io import fits

    try:
        with path.open("rb") as file:
            if file.read(9) != b"SIMPLE  =":
                return False
        with fits.open(path, memmap=False) as hdus:
            return not any(isinstance(hdu, fits.BinTableHDU | fits.TableHDU) for hdu in hdus)
    except OSError as error:
        raise InputError(f"{path}: the reference cannot be read ({error})") from error


def _catalogue(path):
    from astropy.table import Table

    try:
        table = Table.read(path)
    except Exception as error:
        raise InputError(
            f"{path}: the reference is no table that can be read ({error}); give FITS, ECSV or CSV"
        ) from error
    lower = {name.lower(): name for name in table.colnames}
    columns = {key: next((lower[n] for n in names if n in lower), None) for key, names in _NAMES.items()}
    for key in ("ra", "dec"):
        if columns[key] is None:
            raise InputError(
                f"{path}: the reference has no column for {key.upper()}; it has {', '.join(table.colnames)}, "
                f"but one of {', '.join(_NAMES[key])} is needed, in degrees"
            )
    try:
        ra, dec = (np.array(table[columns[key]], np.float64) for key in ("ra", "dec"))
        mag = np.array(table[columns["mag"]], np.float64) if columns["mag"] else np.full(len(ra), math.nan)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: RA, Dec and mag of the reference must be numbers ({error})") from error
    good = np.isfinite(ra) & np.isfinite(dec)
    if not good.any():
        raise InputError(f"{path}: the reference holds no source with RA and Dec")
    return _member(ra[good], dec[good], mag[good])


def _member(ra, dec, mag):
    vectors = sky_vectors(ra, dec)
    center = middle_of(vectors)
    local = vectors @ sky_frame(*center)
    ahead = local[:, 2] > 0.5
    local, mag = local[ahead], mag[ahead]
    flux = 10 ** (-0.4 * (mag + 48.6)) * _LIGHT_ANGSTROM_S / _PIVOT_ANGSTROM**2 / _FLUX_UNIT
    order = np.argsort(-np.nan_to_num(flux), kind="stable")
    local, flux = local[order], flux[order]
    step = math.radians(_STEP_ARCSEC / 3600)
    return Member(
        np.diag([step, step, 1.0]),
        *center,
        local[:, 0] / local[:, 2] / step,
        local[:, 1] / local[:, 2] / step,
        np.full(len(local), _CATALOGUE_ERROR / _STEP_ARCSEC),
        flux,
        0.02 * flux,
        _STEP_ARCSEC,
    )
