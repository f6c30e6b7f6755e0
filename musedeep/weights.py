"""One weight per exposure, from exposure times, seeing, headers or the user's own table."""

import logging
import math
from pathlib import Path

import numpy as np

from musedeep.errors import InputError, UsageError
from musedeep.offsets import DATE_OBS_LENGTH

__all__ = ["WEIGHT_SCHEMES", "exposure_weights"]

WEIGHT_SCHEMES = ("exptime", "fwhm", "header", "none", "column", "table")

_log = logging.getLogger(__name__)


def exposure_weights(exposures, scheme="exptime", table=None):
    """Weights of exposures; only their ratios matter.

    Parameters
    ----------
    exposures : sequence of Exposure
        Anything with `date_obs`, `exptime` (s) and `header`.
    scheme : str
        'exptime'
            Exposure time in units of the earliest exposure's.
        'fwhm'
            Exposure time x (seeing of the earliest exposure / seeing), by the first of three measurements
            that all exposures have: the autoguider's, the image analysis', the seeing monitor's; exposure
            times alone where there is none.
        'header'
            Exposure time x the header's ``ESO DRS MUSE WEIGHT``.
        'none', 'column'
            1 for all. With 'column' the weights of the rows are those of the pixel tables' `weight` column.
        'table'
            Those of `table`. A path may also be given as the scheme itself.
    table : str or Path or astropy.table.Table, optional
        Columns DATE_OBS and WEIGHT, CSV or ECSV; taken as they are.

    Returns
    -------
    ndarray, shape (len(exposures),), float64

    Raises
    ------
    UsageError
        An unknown scheme, or 'table' without a table.
    InputError
        An exposure time that is 0 or missing, or a table that is malformed or misses an exposure.
    """
    if scheme not in WEIGHT_SCHEMES:
        if not Path(scheme).is_file():
            raise UsageError(
                f"weight: {scheme!r} is neither a file nor one of {', '.join(WEIGHT_SCHEMES)}; choose "
                "one of these."
            )
        scheme, table = "table", scheme
    if scheme in ("none", "column"):
        return np.ones(len(exposures))
    if scheme == "table":
        return _table_weights(exposures, table)
    earliest = min(range(len(exposures)), key=lambda n: exposures[n].date_obs, default=0)
    times = np.array([_exposure_time(exposure) for exposure in exposures])
    weights = times / times[earliest : earliest + 1]
    if scheme == "fwhm":
        weights = weights * _seeing_factors(exposures, earliest)
    elif scheme == "header":
        weights = weights * np.array([_header_factor(exposure) for exposure in exposures])
    return weights


def _exposure_time(exposure):
    time = exposure.exptime
    if time is None or not math.isfinite(time) or time <= 0:
        raise InputError(
            f"Exposure {exposure.date_obs}: EXPTIME is {time!r}, but must be above 0 s; correct the "
            "header, or use weight='none'."
        )
    return float(time)


# ------------------------------------------------------------------------------------------------- seeing


def _seeing_factors(exposures, earliest):
    for measure in (_autoguider_fwhm, _image_analysis_fwhm, _monitor_fwhm):
        widths = [measure(exposure.header) for exposure in exposures]
        if all(width is not None for width in widths):
            return widths[earliest] / np.array(widths)
    _log.warning(
        "weight: no seeing measurement exists in all %d exposures; exposure times alone are used",
        len(exposures),
    )
    return np.ones(len(exposures))


def _positive(header, keyword):
    value = header.get(keyword)
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        return float(value)
    return None


def _autoguider_fwhm(header):
    widths = [_positive(header, f"ESO OCS SGS AG FWHM{axis} AVG") for axis in "XY"]
    return None if None in widths else sum(widths) / 2


def _image_analysis_fwhm(header):
    return _positive(header, "ESO TEL IA FWHM")


def _monitor_fwhm(header):
    widths = [_positive(header, f"ESO TEL AMBI FWHM {end}") for end in ("START", "END")]
    widths = [width for width in widths if width is not None]
    return sum(widths) / len(widths) if widths else None


def _header_factor(exposure):
    factor = _positive(exposure.header, "ESO DRS MUSE WEIGHT")
    if factor is None:
        _log.warning(
            "weight: exposure %s has no ESO DRS MUSE WEIGHT above 0; 1 is used in its place",
            exposure.date_obs,
        )
        return 1.0
    return factor


# ----------------------------------------------------------------------------------------------- user's table


def _table_weights(exposures, table):
    if table is None:
        raise UsageError("weight: 'table' needs a table with the columns DATE_OBS and WEIGHT; give its path.")
    name, rows = _read_weights(table)
    missing = [exposure.date_obs for exposure in exposures if exposure.date_obs[:DATE_OBS_LENGTH] not in rows]
    if missing:
        raise InputError(
            f"{name}: {len(missing)} of {len(exposures)} exposures are missing, the first is DATE-OBS "
            f"{missing[0]}; add a row for each."
        )
    return np.array([rows[exposure.date_obs[:DATE_OBS_LENGTH]] for exposure in exposures])


def _read_weights(table):
    """Name for messages, and weights by DATE_OBS."""
    from astropy.table import Table

    name = "Weight table"
    if not isinstance(table, Table):
        path = Path(table)
        name = f"Weight table {path}"
        try:
            table = Table.read(path, format="ascii.ecsv" if path.suffix == ".ecsv" else "ascii.csv")
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: cannot be read as CSV or ECSV ({error}).") from error
    for column in ("DATE_OBS", "WEIGHT"):
        if column not in table.colnames:
            raise InputError(f"{name}: column {column} is missing; it has {', '.join(table.colnames)}.")
    rows = {}
    for date_obs, weight in zip(table["DATE_OBS"], table["WEIGHT"], strict=True):
        date_obs = str(date_obs).strip()[:DATE_OBS_LENGTH]
        try:
            value = float(weight)
        except (TypeError, ValueError):
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise InputError(
                f"{name}: WEIGHT of DATE_OBS {date_obs} is {weight!r}, but must be a number above 0."
            )
        if rows.setdefault(date_obs, value) != value:
            raise InputError(
                f"{name}: DATE_OBS {date_obs} stands in it twice with different weights; keep one row."
            )
    return name, rows
