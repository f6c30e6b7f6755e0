"""Exposures: the pixel tables that were taken together, and the facts of their headers."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.muse import IFU_COUNT, SLICE_COUNT, sampling_arcsec, xoffset_keyword
from musedeep.pixtable.table import PixelTable, open_pixel_table

__all__ = ["Exposure", "group_exposures"]


@dataclass(frozen=True)
class Exposure:
    """One telescope exposure: a merged pixel table, or up to 24 tables of one IFU each.

    Attributes
    ----------
    tables : tuple of PixelTable, in the order of their IFUs
    date_obs : str, first 23 characters of DATE-OBS; identifies the exposure.
    mjd_obs : float, day of the start; NaN when the header has none.
    exptime : float, seconds
    ra_deg, dec_deg : float, pointing of the header, degrees
    cd : float64 array (2, 2), degrees per pixel of the projection
    position_angle_deg : float, degrees
    mode, object_name, ob_id, ob_name, prog_id : str, empty when the header has none.
    """

    tables: tuple[PixelTable, ...]
    date_obs: str
    mjd_obs: float
    exptime: float
    ra_deg: float
    dec_deg: float
    cd: np.ndarray
    position_angle_deg: float
    mode: str
    object_name: str
    ob_id: str
    ob_name: str
    prog_id: str

    @property
    def reduction(self) -> dict:
        """What `musedeep reduce` wrote down beside the table: its record, empty where there is none."""
        try:
            return json.loads(self.tables[0].path.with_suffix(".json").read_text())
        except (OSError, ValueError):
            return {}

    @classmethod
    def from_tables(cls, tables: Sequence[PixelTable]) -> "Exposure":
        """Make an exposure of the tables that belong to it.

        Raises
        ------
        InputError
            A needed keyword is missing or is no number, or EXPTIME is not positive.
        """
        tables = tuple(sorted(tables, key=lambda table: table.ifu or 0))
        first = tables[0]
        exptime = _number(first, "EXPTIME")
        if not exptime > 0:
            raise InputError(f"{first.path}: EXPTIME is {exptime:g} s, not positive; correct the header")
        facts = first.keywords
        angle = float(facts.get("ESO INS DROT POSANG", 0.0))
        flip = str(facts.get("ESO INS DROT MODE", "")).strip() == "SKY"
        words = {
            "mode": "ESO INS MODE",
            "object_name": "OBJECT",
            "ob_id": "ESO OBS ID",
            "ob_name": "ESO OBS NAME",
            "prog_id": "ESO OBS PROG ID",
        }
        return cls(
            tables=tables,
            date_obs=_date_obs(first),
            mjd_obs=float(facts.get("MJD-OBS", np.nan)),
            exptime=exptime,
            ra_deg=_number(first, "RA"),
            dec_deg=_number(first, "DEC"),
            cd=_cd_matrix(facts),
            position_angle_deg=-angle if flip else angle,
            **{name: str(facts.get(keyword, "")).strip() for name, keyword in words.items()},
        )

    @property
    def header(self) -> fits.Header:
        """Primary header of the first table."""
        return self.tables[0].header

    @property
    def name(self) -> str:
        """Name fit for files, such as '20140810T012345.678'."""
        return re.sub(r"[^0-9A-Za-z.]", "", self.date_obs)

    @property
    def row_count(self) -> int:
        """Rows of all tables."""
        return sum(table.row_count for table in self.tables)

    @cached_property
    def fingerprint(self) -> str:
        """Hash that changes when a file changes and not when it is moved."""
        digest = hashlib.sha256(self.date_obs.encode())
        for table in self.tables:
            datasum = table.keywords.get("DATASUM", "")
            facts = table.ifu, table.row_count, table.size_bytes, table.mtime_ns, datasum
            digest.update(repr(facts).encode())
        return digest.hexdigest()[:32]

    def xoffsets(self) -> np.ndarray:
        """Offsets that `musedeep.muse.origin_x` needs.

        Returns
        -------
        offsets : int64 array, shape (25, 49)
            Indexed by IFU number and slice number; -1 where the headers have none.
        """
        offsets = np.full((IFU_COUNT + 1, SLICE_COUNT + 1), -1, np.int64)
        for table in self.tables:
            for ifu in range(1, IFU_COUNT + 1):
                for number in range(1, SLICE_COUNT + 1):
                    keyword = xoffset_keyword(ifu, number)
                    if keyword in table.header:
                        offsets[ifu, number] = table.header[keyword]
        return offsets


def _number(table, keyword):
    value = table.keywords.get(keyword)
    try:
        return float(value)
    except (TypeError, ValueError):
        found = "is missing" if value is None else f"is {value!r}, which is no number"
        raise InputError(f"{table.path}: keyword {keyword} {found}; correct the header") from None


def _date_obs(table):
    if not table.date_obs:
        raise InputError(f"{table.path}: keyword DATE-OBS, which names the exposure, is missing; correct it")
    # It names folders too.
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T[\d:.]+)?", table.date_obs):
        raise InputError(
            f"{table.path}: keyword DATE-OBS is {table.date_obs!r}, which is no time such as "
            "2014-08-10T01:02:03.456; correct the header"
        )
    return table.date_obs


def _cd_matrix(facts):
    keywords = [[f"CD{i}_{j}" for j in (1, 2)] for i in (1, 2)]
    if all(keyword in facts for row in keywords for keyword in row):
        return np.array([[facts[keyword] for keyword in row] for row in keywords], np.float64)
    xscale, yscale = sampling_arcsec(facts.get("ESO INS MODE", ""))
    return np.diag([-xscale / 3600, yscale / 3600])


def group_exposures(paths: Iterable[str | os.PathLike]) -> list[Exposure]:
    """Open pixel tables and join those that belong to one exposure.

    Parameters
    ----------
    paths : iterable of paths or glob patterns; a single one may be given as it is

    Returns
    -------
    exposures : list of Exposure, sorted by DATE-OBS

    Raises
    ------
    InputError
        Nothing was found, a file is no usable pixel table, two files hold the same rows of one exposure, or
        the exposures have different flux units.
    """
    tables = [open_pixel_table(path) for path in _expand(paths)]
    by_date: dict[str, list[PixelTable]] = {}
    for table in tables:
        by_date.setdefault(_date_obs(table), []).append(table)
    for date_obs, members in by_date.items():
        _check_members(date_obs, members)
    units = {table.columns["data"].unit: table.path for table in tables}
    if len(units) > 1:
        found = "; ".join(f"'{unit}' in {path}" for unit, path in units.items())
        raise InputError(f"the exposures have different flux units: {found}; calibrate all of them alike")
    return [Exposure.from_tables(by_date[date_obs]) for date_obs in sorted(by_date)]


def _expand(paths):
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found = []
    for path in map(os.fspath, paths):
        pattern = Path(path)
        matches = [pattern]
        if re.search(r"[*?[]", path) and not pattern.exists():
            matches = sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
        if not matches:
            raise InputError(f"no file matches '{path}'; check the path")
        found += matches
    if not found:
        raise InputError("no pixel tables were given; name PIXTABLE_REDUCED files")
    return list({path.resolve(): path for path in found}.values())


def _check_members(date_obs, members):
    seen = {}
    for table in members:
        if None in seen or (table.ifu is None and seen) or table.ifu in seen:
            other = seen.get(table.ifu) or next(iter(seen.values()))
            what = "" if table.ifu is None or table.ifu not in seen else f" of IFU {table.ifu}"
            raise InputError(
                f"two pixel tables{what} have DATE-OBS {date_obs}: {other} and {table.path}; "
                "an exposure may be given once only, remove one of them"
            )
        seen[table.ifu] = table.path
