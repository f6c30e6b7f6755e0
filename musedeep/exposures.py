"""The exposures of a field: where they lie, which of them a selection names, and a table of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

from musedeep.errors import InputError, UsageError

__all__ = ["ExposureList", "Source", "night_of"]


def night_of(date_obs):
    """The night of an exposure: the date on which it began, at noon of Paranal (16 h UT); str."""
    return (datetime.fromisoformat(date_obs[:23]) - timedelta(hours=16)).date().isoformat()


@dataclass(frozen=True)
class Source:
    """Where one exposure of a field lies.

    Attributes
    ----------
    date_obs : str
        DATE-OBS of the exposure, its key everywhere.
    files : tuple of Path
        One reduced pixel table, or up to 24 with one IFU each.
    """

    date_obs: str
    files: tuple


class ExposureList(Sequence):
    """The exposures of a field, earliest first; their headers are read when they are first needed.

    An element is found by its place, its DATE-OBS or its name. `info` makes a table of all of them.
    """

    def __init__(self, sources, toml):
        self._sources = tuple(sources)
        self._toml = toml

    @cached_property
    def _exposures(self):
        from musedeep.pixtable import group_exposures

        for source in self._sources:
            for path in source.files:
                if not path.exists():
                    raise InputError(
                        f"exposure {source.date_obs}: there is no file {path}; "
                        f"correct its entry in {self._toml}"
                    )
        listed = {path: source.date_obs for source in self._sources for path in source.files}
        exposures = group_exposures(list(listed))
        for exposure in exposures:
            path = exposure.tables[0].path.resolve()
            if exposure.date_obs != listed[path]:
                raise InputError(
                    f"{path}: DATE-OBS is {exposure.date_obs}, but {self._toml} lists the file for "
                    f"{listed[path]}; correct the entry, or put the right file there"
                )
        return exposures

    def keep(self, exposures):
        """Take exposures that were opened already, so that their headers are not read again."""
        self._exposures = [
            replace(e, tables=tuple(replace(table, path=table.path.resolve()) for table in e.tables))
            for e in exposures
        ]

    def __len__(self):
        return len(self._sources)

    def __getitem__(self, which):
        if isinstance(which, str):
            for exposure in self._exposures:
                if which in (exposure.date_obs, exposure.name):
                    return exposure
            raise InputError(f"{self._toml} has no exposure {which!r}; `musedeep info` lists those it has")
        return self._exposures[which]

    @property
    def dates(self):
        """DATE-OBS of every exposure, as a list of str; reads no file."""
        return [source.date_obs for source in self._sources]

    def select(self, which="all"):
        """Places of the exposures that a ``select`` setting names.

        Parameters
        ----------
        which : str or sequence of str
            ``"all"``; DATE-OBS values; ``"half:A"`` for the 1st, 3rd, 5th, ..., ``"half:B"`` for the others;
            ``"every:K"`` for the 1st, (K+1)th, ...; ``"night:odd"`` for those of the 1st, 3rd, ... night and
            ``"night:even"`` for the others; ``"ob:NAME"`` for those of one observing block, by its name or
            number; or ``"without=DATE-OBS,..."`` for all but those.

        Returns
        -------
        tuple of int
            In the order of time.

        Raises
        ------
        UsageError
            A DATE-OBS is not one of this field, or nothing is left.
        """
        places = range(len(self))
        if which in ("half:A", "half:B"):
            chosen = places["AB".index(which[-1]) :: 2]
        elif isinstance(which, str) and which.startswith("every:"):
            chosen = places[:: int(which.removeprefix("every:"))]
        elif which in ("night:odd", "night:even"):
            nights = [night_of(date) for date in self.dates]
            wanted = sorted(set(nights))[which == "night:even" :: 2]
            chosen = [place for place in places if nights[place] in wanted]
        elif isinstance(which, str) and which.startswith("ob:"):
            name = which.removeprefix("ob:")
            chosen = [place for place in places if name in (self[place].ob_name, self[place].ob_id)]
        elif isinstance(which, str) and which.startswith("without="):
            left_out = self._places_of(which.removeprefix("without=").split(","))
            chosen = [place for place in places if place not in left_out]
        else:
            chosen = places if which == "all" else sorted(self._places_of(which))
        if not chosen:
            raise UsageError(f"select = {which!r} leaves none of the {len(self)} exposures of {self._toml}")
        return tuple(chosen)

    def _places_of(self, dates):
        places = {date[:23]: place for place, date in enumerate(self.dates)}
        found = set()
        for date in dates:
            if date.strip()[:23] not in places:
                raise UsageError(
                    f"select: {self._toml} has no exposure with DATE-OBS {date.strip()!r}; "
                    f"its first is {self.dates[0]}"
                )
            found.add(places[date.strip()[:23]])
        return found

    def info(self):
        """One row for each exposure.

        Returns
        -------
        astropy.table.Table
            DATE_OBS, OBJECT, OB, EXPTIME [s], PA [deg], MODE, RA [deg], DEC [deg], SEEING [arcsec, NaN where
            the header does not tell], ROWS, SIZE [byte], FILES.
        """
        from astropy.table import Table

        rows = [
            (
                exposure.date_obs,
                exposure.object_name,
                exposure.ob_name,
                exposure.exptime,
                exposure.position_angle_deg,
                exposure.mode,
                exposure.ra_deg,
                exposure.dec_deg,
                _seeing(exposure.header),
                exposure.row_count,
                sum(table.size_bytes for table in exposure.tables),
                len(exposure.tables),
            )
            for exposure in self
        ]
        names = "DATE_OBS OBJECT OB EXPTIME PA MODE RA DEC SEEING ROWS SIZE FILES".split()
        units = {"EXPTIME": "s", "PA": "deg", "RA": "deg", "DEC": "deg", "SEEING": "arcsec", "SIZE": "byte"}
        table = Table(rows=rows, names=names, units=units)
        for name, digits in {"EXPTIME": 1, "PA": 2, "RA": 5, "DEC": 5, "SEEING": 2}.items():
            table[name].info.format = f".{digits}f"
        return table

    def __repr__(self):
        span = f", {self.dates[0]} to {self.dates[-1]}" if self.dates else ""
        return f"<{len(self)} exposures{span}>"

    def _repr_html_(self):
        return self.info()._repr_html_()


def _seeing(header):
    for keys in (("ESO OCS SGS AG FWHMX AVG", "ESO OCS SGS AG FWHMY AVG"), ("ESO TEL IA FWHM",)):
        values = [header.get(key, 0) for key in keys]
        if all(isinstance(value, int | float) and value > 0 for value in values):
            return sum(values) / len(values)
    return math.nan
