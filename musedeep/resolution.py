"""How sharp a deep cube is, told from the headers of its exposures: seeing and spectral resolution."""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["SkyResolution", "combined_strehl", "sky_resolution", "spectral_resolution"]

# Resolving power of the wide field at 30 wavelengths from 4650 to 9300 Angstrom, as the pipeline has it.
_WIDE_ANGSTROM = (4650.0, 9300.0)
_WIDE_POWER = (
    1674.77, 1769.45, 1864.50, 1959.52, 2054.19, 2148.34, 2241.81, 2334.46, 2426.18, 2516.84,
    2606.28, 2694.36, 2780.89, 2865.70, 2948.59, 3029.32, 3107.70, 3183.46, 3256.36, 3326.12,
    3392.45, 3455.01, 3513.44, 3567.37, 3616.34, 3659.87, 3697.42, 3728.38, 3752.11, 3767.93,
)  # fmt: skip
_NARROW_ANGSTROM, _NARROW_POWER = (4800.0, 9300.0), (1740.0, 3450.0)

_MIRROR_M, _OUTER_SCALE_M = 8.1175365721399437, 23.0
_ARCSEC = 180.0 * 3600.0 / math.pi
# The wavelength at which SKY_RES holds, in units of the 5000 Angstrom of the monitors.
_RED = 7000.0 / 5000.0
_WIDE_DEFAULT = 0.853823, 0.495547
_NARROW_DEFAULT = 0.15, 0.05
_MONITOR_ERROR = 0.3
_STREHL_FIT = -0.71985411, 0.81622807, -0.01941496


@dataclass(frozen=True)
class SkyResolution:
    """Image quality of a combination.

    Attributes
    ----------
    fwhm_arcsec, error_arcsec : float
        SKY_RES and SKY_RERR.
    measured, error_measured : bool
        Whether headers tell it; otherwise it is the pipeline's default.
    """

    fwhm_arcsec: float
    error_arcsec: float
    measured: bool
    error_measured: bool


def spectral_resolution(wavelength_nm, mode):
    """Resolving power in the middle of a cube (SPEC_RES).

    Parameters
    ----------
    wavelength_nm : (float, float)
        WAVELMIN and WAVELMAX.
    mode : str
        Instrument mode; the narrow field (NFM) has another table.

    Returns
    -------
    float
        Interpolated in the pipeline's table, and as at its end outside of it.
    """
    middle = 5.0 * (wavelength_nm[0] + wavelength_nm[1])
    if mode.startswith("NFM"):
        return float(np.interp(middle, _NARROW_ANGSTROM, _NARROW_POWER))
    nodes = np.linspace(*_WIDE_ANGSTROM, len(_WIDE_POWER))
    return float(np.interp(middle, nodes, _WIDE_POWER))


def sky_resolution(headers, seconds):
    """Image quality at 7000 Angstrom as the pipeline tells it from the headers of the exposures.

    In the wide field it is the mean, weighted by exposure time, of the delivered image quality that the
    seeing of the image analysis (ESO TEL IA FWHMLIN) and the airmass lead to for an 8 m telescope and an
    outer scale of 23 m (Martinez et al. 2010, The Messenger 141, 5). In the narrow field it follows from the
    Strehl ratio.

    Parameters
    ----------
    headers : sequence of mapping
        Primary headers of the exposures.
    seconds : sequence of float
        Their exposure times.

    Returns
    -------
    SkyResolution
        With the pipeline's defaults where a keyword is missing.
    """
    if str(headers[0].get("ESO INS MODE", "")).startswith("NFM"):
        return _from_strehl(combined_strehl(headers))
    fwhm = [_image_quality(header) for header in headers]
    error = _monitor_error(headers)
    measured = all(value > 0 for value in fwhm)
    return SkyResolution(
        float(np.average(fwhm, weights=seconds)) if measured else _WIDE_DEFAULT[0],
        error if error > 0 else _WIDE_DEFAULT[1],
        measured,
        error > 0,
    )


def _number(header, key):
    """A positive number of a header, else NaN."""
    value = header.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return math.nan
    return float(value)


def _image_quality(header):
    """FWHM in arcsec at 7000 Angstrom of one exposure; NaN where a keyword is missing."""
    seeing = _number(header, "ESO TEL IA FWHMLIN")
    airmass = 0.5 * sum(_number(header, f"ESO TEL AIRM {end}") for end in ("START", "END"))
    fried = 0.976 * 5.0e-7 / seeing * _ARCSEC * _RED**1.2 * airmass**-0.6
    factor = 1.0 / (1.0 + 300.0 * _MIRROR_M / _OUTER_SCALE_M) - 1.0
    outer = 1.0 + factor * 2.183 * (fried / _OUTER_SCALE_M) ** 0.356
    return seeing * _RED**-0.2 * airmass**0.6 * math.sqrt(outer) if outer > 0 else math.nan


def _monitor_error(headers):
    keys = [f"ESO TEL AMBI FWHM {end}" for end in ("START", "END")]
    seeings = [_number(header, key) for header in headers for key in keys]
    seeings = [seeing for seeing in seeings if seeing > 0]
    return math.hypot(0.5 * (max(seeings) - min(seeings)), _MONITOR_ERROR) if seeings else math.nan


def combined_strehl(headers):
    """Strehl ratio of a combination in the narrow field.

    Parameters
    ----------
    headers : sequence of mapping
        With ESO DRS MUSE RTC STREHL and STREHERR, percent.

    Returns
    -------
    strehl, error : float
        Mean weighted by the inverse variances, and its error, percent; NaN where no exposure has both.
    """
    found = [
        (_number(header, "ESO DRS MUSE RTC STREHL"), _number(header, "ESO DRS MUSE RTC STREHERR"))
        for header in headers
    ]
    found = [(value, error) for value, error in found if value > 0 and error > 0]
    if not found:
        return math.nan, math.nan
    weights = [error**-2 for _, error in found]
    mean = sum(weight * value for weight, (value, _) in zip(weights, found, strict=True)) / sum(weights)
    return mean, sum(weights) ** -0.5


def _from_strehl(strehl):
    value, error = strehl
    if not value > 0:
        return SkyResolution(*_NARROW_DEFAULT, False, False)
    start, factor, power = _STREHL_FIT
    value = min(max(value, 1.0), 80.0)
    slope = factor * power * value ** (power - 1.0) * error
    return SkyResolution(start + factor * value**power, math.hypot(slope, 0.01), True, True)
