"""Measured offsets of exposures: shift, rotation and flux scale; ESO's OFFSET_LIST read and written."""

import math
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musedeep.errors import InputError, UsageError
from musedeep.sky import sky_frame

__all__ = ["DATE_OBS_LENGTH", "Offset", "OffsetTable"]

# ESO compares this many characters of DATE-OBS: down to the millisecond, without what follows.
DATE_OBS_LENGTH = 23

_REQUIRED = ("DATE_OBS", "RA_OFFSET", "DEC_OFFSET")
_OPTIONAL = ("MJD_OBS", "ROTATION", "FLUX_SCALE")
_ANGLES = {"RA_OFFSET", "DEC_OFFSET", "ROTATION", "RA_OFFSET_ERROR", "DEC_OFFSET_ERROR", "ROTATION_ERROR"}
_DEGREES_PER_UNIT = {"": 1.0, "deg": 1.0, "degree": 1.0, "degrees": 1.0, "arcmin": 1 / 60, "arcsec": 1 / 3600}


@dataclass(frozen=True)
class Offset:
    """What was measured for one exposure: measured minus true, so each is taken off.

    Parameters
    ----------
    ra_deg, dec_deg : float
        Shift of the coordinates, degrees; `ra_deg` is a difference of right ascensions, without cos(Dec).
    rotation_deg : float
        Angle by which the field appears turned, degrees, from north through east.
    flux_scale : float
        Factor that the values are multiplied by (variances by its square).
    """

    ra_deg: float = 0.0
    dec_deg: float = 0.0
    rotation_deg: float = 0.0
    flux_scale: float = 1.0

    def pointing(self, ra_deg, dec_deg):
        """True pointing (RA, Dec), degrees, of an exposure whose header says (`ra_deg`, `dec_deg`)."""
        return ra_deg - self.ra_deg, dec_deg - self.dec_deg

    def frame(self, ra_deg, dec_deg):
        """True tangent frame (3, 3), as `sky_frame` gives it, for the pointing of the header."""
        return sky_frame(*self.pointing(ra_deg, dec_deg), -self.rotation_deg)


class OffsetTable:
    """Offsets of a set of exposures, one row an exposure.

    Parameters
    ----------
    table : astropy.table.Table
        Columns DATE_OBS (str), RA_OFFSET and DEC_OFFSET (deg, or with a unit of angle); optional MJD_OBS
        (day), ROTATION (deg), FLUX_SCALE, LEFT_OUT (1: not to be combined) and anything else, e.g. errors.
        Missing ones of the first three are filled with NaN.

    Attributes
    ----------
    table : astropy.table.Table
        All angles in degrees, a copy.

    Raises
    ------
    InputError
        A required column is missing or not numeric, or one DATE_OBS stands for two different offsets.
    """

    def __init__(self, table):
        self.table = _normalised(table)
        self._offsets = {}
        for row in range(len(self.table)):
            offset = _offset_of_row(self.table, row)
            date = str(self.table["DATE_OBS"][row])[:DATE_OBS_LENGTH]
            if self._offsets.setdefault(date, offset) != offset:
                raise InputError(
                    f"Offset list: DATE_OBS {date} stands in it twice with different offsets "
                    f"({self._offsets[date]}, {offset}); keep one row for each exposure."
                )

    def __len__(self):
        return len(self.table)

    @property
    def left_out(self):
        """Exposures that must not be combined, as a set of DATE-OBS: those whose column LEFT_OUT is not 0."""
        if "LEFT_OUT" not in self.table.colnames:
            return set()
        marked = np.nan_to_num(_numbers(self.table["LEFT_OUT"], "LEFT_OUT")) != 0
        return {str(date)[:DATE_OBS_LENGTH] for date in self.table["DATE_OBS"][marked]}

    @classmethod
    def read(cls, path):
        """Read an ESO OFFSET_LIST (FITS) or an ECSV table.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        OffsetTable

        Raises
        ------
        InputError
            The file cannot be read, holds no table, or the table is no offset list.
        """
        path = Path(path)
        try:
            table = _read_fits(path) if _is_fits(path) else _read_ecsv(path)
            return cls(table)
        except OSError as error:
            raise InputError(f"Offset list {path}: cannot be read ({error}).") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def write(self, path):
        """Write the table: as an OFFSET_LIST that ESO's recipes read (.fits), or as ECSV (.ecsv).

        Parameters
        ----------
        path : str or Path
            The suffix decides. An existing file is replaced in one step.

        Returns
        -------
        Path

        Raises
        ------
        UsageError
            Another suffix.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        if path.suffix == ".fits":
            _offset_list(self.table).writeto(partial, overwrite=True, checksum=True)
        elif path.suffix == ".ecsv":
            self.table.write(partial, format="ascii.ecsv", overwrite=True)
        else:
            raise UsageError(
                f"Offset list {path}: the name ends in {path.suffix!r}, but must end in .fits or .ecsv."
            )
        partial.replace(path)
        return path

    def lookup(self, date_obs):
        """Offset of an exposure.

        Parameters
        ----------
        date_obs : str
            DATE-OBS of the exposure; its first 23 characters count.

        Returns
        -------
        Offset or None
            None where the exposure is not in the list. A shift that is not finite in both directions is
            taken as 0, a flux scale that is 0, subnormal or not finite as 1, a rotation that is not finite
            as 0.
        """
        return self._offsets.get(date_obs[:DATE_OBS_LENGTH])

    def match(self, exposures):
        """Offsets of exposures, in their order.

        Parameters
        ----------
        exposures : sequence of Exposure
            Anything with a `date_obs`.

        Returns
        -------
        list of Offset or None

        Raises
        ------
        InputError
            None of the exposures is in the list.
        """
        offsets = [self.lookup(exposure.date_obs) for exposure in exposures]
        if exposures and not any(offset is not None for offset in offsets):
            listed = ", ".join(list(self._offsets)[:3]) or "none"
            raise InputError(
                f"Offset list: none of its {len(self)} rows matches one of the {len(offsets)} "
                f"exposures; the first exposure has DATE-OBS {exposures[0].date_obs}, the list has "
                f"DATE_OBS {listed}. Give the list that belongs to these exposures."
            )
        return offsets


def _offset_of_row(table, row):
    ra, dec, rotation, scale = (
        float(table[name][row]) for name in ("RA_OFFSET", "DEC_OFFSET", "ROTATION", "FLUX_SCALE")
    )
    if not (math.isfinite(ra) and math.isfinite(dec)):
        ra = dec = 0.0
    if not math.isfinite(rotation):
        rotation = 0.0
    if not math.isfinite(scale) or abs(scale) < sys.float_info.min:
        scale = 1.0
    return Offset(ra, dec, rotation, scale)


def _normalised(table):
    from astropy.table import Table

    missing = [name for name in _REQUIRED if name not in table.colnames]
    if missing:
        raise InputError(
            f"Offset list: column {missing[0]} is missing; it has "
            f"{', '.join(table.colnames) or 'no columns'}, but needs {', '.join(_REQUIRED)}."
        )
    normalised = Table(meta=dict(table.meta))
    normalised["DATE_OBS"] = _texts(table["DATE_OBS"])
    for name in (*_OPTIONAL, *_REQUIRED[1:], *table.colnames):
        if name in normalised.colnames:
            continue
        if name not in table.colnames:
            normalised[name] = np.full(len(table), np.nan)
        elif name in _REQUIRED + _OPTIONAL or name in _ANGLES:
            normalised[name] = _numbers(table[name], name)
        else:
            normalised[name] = table[name]
    for name in _ANGLES.intersection(normalised.colnames):
        normalised[name].unit = "deg"
    normalised["MJD_OBS"].unit = "d"
    order = ["DATE_OBS", "MJD_OBS", "RA_OFFSET", "DEC_OFFSET", "ROTATION", "FLUX_SCALE"]
    return normalised[order + [name for name in normalised.colnames if name not in order]]


def _texts(column):
    values = np.ma.filled(np.ma.asarray(column), "") if hasattr(column, "mask") else np.asarray(column)
    if values.dtype.kind not in "SU" and values.dtype != object:
        raise InputError(
            f"Offset list: column DATE_OBS is of type {values.dtype}, but must be text like DATE-OBS."
        )
    texts = [value.decode("ascii", "replace") if isinstance(value, bytes) else str(value) for value in values]
    return np.array([text.strip() for text in texts], dtype=str)


def _numbers(column, name):
    """Values of a column as float64, angles in degrees, masked ones NaN."""
    try:
        values = np.array(np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Offset list: column {name} is of type {column.dtype}, but must hold numbers."
        ) from error
    if name not in _ANGLES:
        return values
    unit = str(column.unit or "").strip()
    if unit.lower() not in _DEGREES_PER_UNIT:
        raise InputError(
            f"Offset list: column {name} has the unit {unit!r}, but must be in deg, arcmin or arcsec."
        )
    return values * _DEGREES_PER_UNIT[unit.lower()]


def _is_fits(path):
    with path.open("rb") as file:
        return file.read(9) == b"SIMPLE  ="


def _read_fits(path):
    from astropy.io import fits
    from astropy.table import Column, Table
    from astropy.utils.exceptions import AstropyUserWarning

    with path.open("rb") as file, warnings.catch_warnings():
        # astropy only warns where a file is cut off.
        warnings.simplefilter("error", AstropyUserWarning)
        try:
            with fits.open(file, memmap=False) as hdus:
                tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
                if not tables:
                    raise InputError("Offset list: the file holds no binary table.")
                # Built by hand: astropy's own reader complains about the unit that ESO gives to MJD_OBS.
                return Table(
                    [
                        Column(np.array(tables[0].data[c.name]), name=c.name, unit=_unit_if_angle(c))
                        for c in tables[0].columns
                    ]
                )
        except (AstropyUserWarning, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"Offset list: the file is damaged ({error}).") from error


def _unit_if_angle(column):
    return column.unit if column.name in _ANGLES else None


def _read_ecsv(path):
    from astropy.table import Table

    try:
        return Table.read(path, format="ascii.ecsv")
    except (ValueError, UnicodeDecodeError) as error:  # astropy's InconsistentTableError is a ValueError
        raise InputError(f"Offset list: the file is neither FITS nor an ECSV table ({error}).") from error


def _offset_list(table):
    """HDU list of an OFFSET_LIST; columns ESO does not know follow its own."""
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    primary.header["HIERARCH ESO PRO CATG"] = ("OFFSET_LIST", "category of the product")
    order = ["DATE_OBS", "MJD_OBS", "RA_OFFSET", "DEC_OFFSET", "FLUX_SCALE"]
    order += [name for name in table.colnames if name not in order]
    columns = []
    for name in order:
        values = np.asarray(table[name])
        if name == "DATE_OBS":
            columns.append(
                fits.Column(name, f"{DATE_OBS_LENGTH}A", array=[v[:DATE_OBS_LENGTH] for v in values])
            )
        elif values.dtype.kind == "U":
            columns.append(fits.Column(name, f"{max(values.dtype.itemsize // 4, 1)}A", array=values))
        else:
            unit = str(table[name].unit) if table[name].unit else None
            columns.append(fits.Column(name, "D", unit=unit, array=values.astype(np.float64)))
    return fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="OFFSET_LIST")])
