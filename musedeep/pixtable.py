"""Reduced pixel tables on disk: header facts and columns, read by byte range and never whole.

A file has one of two layouts: one IMAGE extension a column (``NAXIS1 = 1``), or one binary table. Nothing
but the headers is touched when a file is opened.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.muse import (
    COLUMNS,
    IFU_COUNT,
    PIXTABLE_PREFIX,
    SLICE_COUNT,
    UNITS,
    sampling_arcsec,
    xoffset_keyword,
)

__all__ = ["Column", "Exposure", "PixelTable", "group_exposures", "open_pixel_table"]

_BLOCK = 2880
_CARD = 80
_END = b"END".ljust(_CARD)
_READ_BYTES = 1 << 23
_OPTIONAL = {"weight": "float32"}
_TABLE_CODES = {"E": "float32", "J": "int32"}
_DTYPE_NAMES = {-64: "float64", -32: "float32", 8: "uint8", 16: "int16", 32: "int32", 64: "int64"}


@dataclass(frozen=True)
class Column:
    """Where a column lies in its file.

    Attributes
    ----------
    dtype : numpy dtype, big-endian, as stored.
    offset_bytes : position of row 0 in the file.
    stride_bytes : distance from row to row.
    unit : str, empty when the file names none.
    """

    dtype: np.dtype
    offset_bytes: int
    stride_bytes: int
    unit: str


@dataclass(frozen=True)
class PixelTable:
    """One pixel table file; `open_pixel_table` makes it.

    Attributes
    ----------
    path : Path
    row_count : int
    layout : 'image' or 'table'
    header : fits.Header, the primary header.
    columns : dict of name to Column
    size_bytes, mtime_ns : int, size and modification time of the file when it was opened.
    """

    path: Path
    row_count: int
    layout: str
    header: fits.Header
    columns: dict[str, Column]
    size_bytes: int
    mtime_ns: int

    @property
    def coordinate_state(self) -> str:
        """State of the coordinates, as their unit says: 'rad' (projected), 'deg' (positioned) or 'pix'."""
        return self.columns["xpos"].unit[:3]

    @property
    def ifu(self) -> int | None:
        """Number of the IFU if the file holds a single one, else None."""
        name = re.match(r"CHAN(\d\d)", str(self.header.get("EXTNAME", "")))
        if name:
            return int(name[1])
        low, high = (self.header.get(f"{PIXTABLE_PREFIX}LIMITS IFU {end}") for end in ("LOW", "HIGH"))
        return int(low) if low is not None and low == high else None

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Read rows of one column.

        Parameters
        ----------
        name : str
            A key of `columns`.
        start, stop : int
            Range of rows; without `stop` up to the last.

        Returns
        -------
        values : array, shape (stop - start,), native float32, or uint32 for dq and origin

        Raises
        ------
        InputError
            The rows are outside the table, or the file became shorter than its headers say.
        """
        return self.read_columns([name], start, stop)[name]

    def read_columns(
        self, names: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, np.ndarray]:
        """Read rows of several columns; a binary table is passed through once only.

        Parameters and errors are those of `read`; the result is a dict of arrays.
        """
        stop = self.row_count if stop is None else stop
        if not 0 <= start <= stop <= self.row_count:
            raise InputError(f"{self.path}: rows {start} to {stop} asked of a table of {self.row_count} rows")
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            if self.layout == "image":
                return {name: self._read_image(descriptor, name, start, stop) for name in names}
            return self._read_table(descriptor, names, start, stop)
        finally:
            os.close(descriptor)

    def wavelength_runs(self, low: float, high: float, join_rows: int = 256) -> np.ndarray:
        """Find where the rows of a wavelength range lie.

        Parameters
        ----------
        low, high : float
            Angstrom; both ends belong to the range.
        join_rows : int
            Runs with fewer rows than this between them are joined into one.

        Returns
        -------
        runs : int64 array, shape (n, 2)
            First and one-past-last row. Every row in range is in a run; a run also holds some rows outside.
        """
        edges = []
        step = _READ_BYTES // 4
        for start in range(0, self.row_count, step):
            wavelength = self.read("lambda", start, min(start + step, self.row_count))
            inside = np.concatenate(([False], (wavelength >= low) & (wavelength <= high), [False]))
            edges.append(np.flatnonzero(inside[1:] != inside[:-1]).reshape(-1, 2) + start)
        runs = np.concatenate(edges) if edges else np.empty((0, 2), np.int64)
        if len(runs) == 0:
            return runs
        apart = runs[1:, 0] - runs[:-1, 1] >= join_rows
        return np.column_stack((runs[np.r_[True, apart], 0], runs[np.r_[apart, True], 1]))

    def _read_image(self, descriptor, name, start, stop):
        column = self.columns[name]
        values = np.empty(stop - start, column.dtype)
        self._fill(descriptor, memoryview(values).cast("B"), column.offset_bytes + start * 4)
        return _native(name, values)

    def _read_table(self, descriptor, names, start, stop):
        stride = self.columns[names[0]].stride_bytes
        first = min(column.offset_bytes for column in self.columns.values())
        record = np.dtype({
            "names": list(names),
            "formats": [self.columns[name].dtype for name in names],
            "offsets": [self.columns[name].offset_bytes - first for name in names],
            "itemsize": stride,
        })
        values = {name: np.empty(stop - start, self.columns[name].dtype) for name in names}
        step = max(1, _READ_BYTES // stride)
        for row in range(start, stop, step):
            count = min(step, stop - row)
            # the last record may end before its stride does when columns that are not wanted follow
            buffer = np.zeros(count * stride, np.uint8)
            wanted = count * stride - (stride - _record_end(self.columns, names, first))
            self._fill(descriptor, memoryview(buffer)[:wanted], first + row * stride)
            records = buffer.view(record)
            for name in names:
                values[name][row - start : row - start + count] = records[name]
        return {name: _native(name, column) for name, column in values.items()}

    def _fill(self, descriptor, view, position):
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done : done + (1 << 30)]], position + done)
            if count == 0:
                raise InputError(
                    f"{self.path}: truncated: the file ends at byte {position + done}, {len(view) - done} "
                    "bytes before the rows asked for do; it was cut after it was opened, copy it again"
                )
            done += count


def _record_end(columns, names, first):
    return max(columns[name].offset_bytes - first + columns[name].dtype.itemsize for name in names)


def _native(name, values):
    if values.dtype.byteorder == ">" and np.little_endian:
        values = values.byteswap(inplace=True).view(values.dtype.newbyteorder("="))
    return values.view({**COLUMNS, **_OPTIONAL}[name])


@dataclass(frozen=True)
class _Hdu:
    header: fits.Header
    data_offset: int
    data_bytes: int


def open_pixel_table(path: str | os.PathLike) -> PixelTable:
    """Open a reduced pixel table: read its headers, check them, touch no data.

    Parameters
    ----------
    path : path of a FITS file, either layout

    Returns
    -------
    PixelTable

    Raises
    ------
    InputError
        The file cannot be read, is no FITS, is truncated, is no pixel table, lacks a column, has a column of
        the wrong type or unit, columns of different lengths, or coordinates not native spherical ('rad').
    """
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check path and rights") from error
    try:
        facts = os.fstat(descriptor)
        hdus = _walk(path, descriptor, facts.st_size)
    finally:
        os.close(descriptor)
    if len(hdus) < 2:
        raise InputError(f"{path}: not a pixel table: it has no extension; give PIXTABLE_REDUCED files")
    layout = "image" if hdus[1].header["XTENSION"].strip() == "IMAGE" else "table"
    columns, lengths = _image_columns(path, hdus) if layout == "image" else _table_columns(path, hdus[1])
    header = hdus[0].header
    _check_columns(path, header, columns, lengths)
    return PixelTable(path, lengths["data"], layout, header, columns, facts.st_size, facts.st_mtime_ns)


def _walk(path, descriptor, size):
    """Headers of all HDUs with the places of their data."""
    hdus, position = [], 0
    while position < size:
        header, position = _read_header(path, descriptor, position, size, first=not hdus)
        if header is None:
            break
        axes = [header[f"NAXIS{n}"] for n in range(1, header["NAXIS"] + 1)]
        count = header.get("GCOUNT", 1) * (header.get("PCOUNT", 0) + int(np.prod(axes, dtype=np.int64)))
        data_bytes = abs(header["BITPIX"]) // 8 * count if axes else 0
        if position + data_bytes > size:
            raise InputError(
                f"{path}: truncated: extension {len(hdus)} ({header.get('EXTNAME', 'no name')}) needs "
                f"{position + data_bytes} bytes, the file has {size}; copy it again"
            )
        hdus.append(_Hdu(header, position, data_bytes))
        position += -(-data_bytes // _BLOCK) * _BLOCK
    return hdus


def _read_header(path, descriptor, position, size, first):
    """One header and the position behind it; no header where neither SIMPLE nor XTENSION is found."""
    text, end, searched = b"", None, 0
    while end is None:
        chunk = os.pread(descriptor, 24 * _BLOCK if text else _BLOCK, position + len(text))
        if not text and not chunk.startswith(b"SIMPLE  =" if first else b"XTENSION="):
            if first:
                raise InputError(f"{path}: not a FITS file ({_kind(chunk)}); give PIXTABLE_REDUCED files")
            return None, size
        text += chunk
        cards = range(searched, len(text), _CARD)
        end = next((card for card in cards if text[card : card + _CARD] == _END), None)
        searched = len(text) - len(text) % _CARD
        if end is None and not chunk:
            raise InputError(f"{path}: truncated: the header at byte {position} has no end; copy it again")
    try:
        header = fits.Header.fromstring(text[:end].decode("ascii"))
        # asked for here, so that a broken header shows now
        header["BITPIX"], header["NAXIS"]
    except (UnicodeDecodeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: broken header at byte {position} ({error}); copy it again") from error
    return header, position + -(-(end + _CARD) // _BLOCK) * _BLOCK


def _kind(start):
    if not start:
        return "it is empty"
    compressed = start.startswith((b"\x1f\x8b", b"BZh"))
    return "it is compressed, unpack it first" if compressed else "it does not begin with SIMPLE"


def _image_columns(path, hdus):
    columns, lengths = {}, {}
    for hdu in hdus[1:]:
        name = str(hdu.header.get("EXTNAME", "")).strip()
        if hdu.header["XTENSION"].strip() != "IMAGE" or name not in {**COLUMNS, **_OPTIONAL}:
            continue
        if name in columns:
            raise InputError(f"{path}: two extensions bear the name '{name}'; one is allowed")
        if hdu.header["NAXIS"] != 2 or hdu.header["NAXIS1"] != 1:
            axes = " x ".join(str(hdu.header[f"NAXIS{n}"]) for n in range(1, hdu.header["NAXIS"] + 1))
            raise InputError(f"{path}: column '{name}' has shape {axes}; a pixel table has 1 x rows")
        dtype = _DTYPE_NAMES.get(hdu.header["BITPIX"], "unknown")
        _check_dtype(path, name, dtype, hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0))
        dtype = np.dtype(dtype).newbyteorder(">")
        columns[name] = Column(dtype, hdu.data_offset, dtype.itemsize, _unit(hdu.header, "BUNIT"))
        lengths[name] = hdu.header["NAXIS2"]
    return columns, lengths


def _table_columns(path, hdu):
    columns, lengths, offset = {}, {}, hdu.data_offset
    header = hdu.header
    for number in range(1, header.get("TFIELDS", 0) + 1):
        name = str(header.get(f"TTYPE{number}", "")).strip()
        form = str(header[f"TFORM{number}"]).strip()
        if name in {**COLUMNS, **_OPTIONAL}:
            repeat, code = re.match(r"(\d*)(\w)", form).groups()
            dtype = _TABLE_CODES.get(code, form) if repeat in ("", "1") else form
            _check_dtype(path, name, dtype, header.get(f"TSCAL{number}", 1), header.get(f"TZERO{number}", 0))
            dtype = np.dtype(dtype).newbyteorder(">")
            columns[name] = Column(dtype, offset, header["NAXIS1"], _unit(header, f"TUNIT{number}"))
            lengths[name] = header["NAXIS2"]
        offset += _field_bytes(form)
    return columns, lengths


def _field_bytes(form):
    repeat, code = re.match(r"(\d*)(\w)", form).groups()
    count = int(repeat) if repeat else 1
    sizes = {"L": 1, "B": 1, "A": 1, "I": 2, "J": 4, "E": 4, "K": 8, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
    return -(-count // 8) if code == "X" else count * sizes[code]


def _unit(header, keyword):
    return str(header.get(keyword, "")).strip()


def _check_dtype(path, name, found, scale, zero):
    wanted = {**COLUMNS, **_OPTIONAL}[name].replace("uint32", "int32")
    if found != wanted:
        raise InputError(f"{path}: column '{name}' has type {found}; {wanted} is wanted")
    if (scale, zero) != (1, 0):
        found = f"{scale} * value + {zero}"
        raise InputError(f"{path}: column '{name}' is scaled ({found}); plain {wanted} is wanted")


def _check_columns(path, header, columns, lengths):
    missing = [name for name in COLUMNS if name not in columns]
    if len(missing) == len(COLUMNS):
        raise InputError(
            f"{path}: not a pixel table: none of the columns {', '.join(COLUMNS)} is there "
            f"(ESO PRO CATG = {header.get('ESO PRO CATG', 'absent')}); give PIXTABLE_REDUCED files"
        )
    if missing:
        raise InputError(f"{path}: column '{missing[0]}' is missing; a pixel table has {', '.join(COLUMNS)}")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"{path}: the columns have different lengths ({found}); make the file again")
    kind = header.get(f"{PIXTABLE_PREFIX}TYPE")
    if kind not in (None, "GEOFULL"):
        raise InputError(f"{path}: pixel table of type '{kind}'; GEOFULL, with both coordinates, is wanted")
    _check_units(path, columns)


def _check_units(path, columns):
    answers = {
        "deg": "the rows are already positioned on the sky (PIXTABLE_COMBINED or PIXTABLE_POSITIONED); "
        "give PIXTABLE_REDUCED files instead",
        "pix": "the rows are not projected to the sky yet; run muse_scipost with its astrometry step "
        "and give PIXTABLE_REDUCED files",
    }
    for name in ("xpos", "ypos"):
        unit = columns[name].unit
        if unit[:3] != "rad":
            answer = answers.get(unit[:3], "give PIXTABLE_REDUCED files")
            raise InputError(f"{path}: column '{name}' has unit '{unit}', 'rad' is wanted: {answer}")
    if columns["lambda"].unit.lower() not in ("angstrom", "a", "0.1nm"):
        unit = columns["lambda"].unit
        raise InputError(f"{path}: column 'lambda' has unit '{unit}'; '{UNITS['lambda']}' is wanted")
    data, stat = columns["data"].unit, columns["stat"].unit
    squares = [square.replace(" ", "") for square in (f"({data})**2", f"{data}**2")]
    if data and stat and stat.replace(" ", "") not in squares:
        raise InputError(f"{path}: column 'stat' has unit '{stat}'; the square of '{data}' is wanted")


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
        angle = float(first.header.get("ESO INS DROT POSANG", 0.0))
        flip = str(first.header.get("ESO INS DROT MODE", "")).strip() == "SKY"
        words = {
            "mode": "ESO INS MODE", "object_name": "OBJECT", "ob_id": "ESO OBS ID", "ob_name": "ESO OBS NAME",
            "prog_id": "ESO OBS PROG ID",
        }
        return cls(
            tables=tables,
            date_obs=_date_obs(first),
            mjd_obs=float(first.header.get("MJD-OBS", np.nan)),
            exptime=exptime,
            ra_deg=_number(first, "RA"),
            dec_deg=_number(first, "DEC"),
            cd=_cd_matrix(first.header),
            position_angle_deg=-angle if flip else angle,
            **{name: str(first.header.get(keyword, "")).strip() for name, keyword in words.items()},
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
            datasum = table.header.get("DATASUM", "")
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
    value = table.header.get(keyword)
    try:
        return float(value)
    except (TypeError, ValueError):
        found = "is missing" if value is None else f"is {value!r}, which is no number"
        raise InputError(f"{table.path}: keyword {keyword} {found}; correct the header") from None


def _date_obs(table):
    value = str(table.header.get("DATE-OBS", "")).strip()
    if not value:
        raise InputError(f"{table.path}: keyword DATE-OBS, which names the exposure, is missing; correct it")
    return value[:23]


def _cd_matrix(header):
    keywords = [[f"CD{i}_{j}" for j in (1, 2)] for i in (1, 2)]
    if all(keyword in header for row in keywords for keyword in row):
        return np.array([[header[keyword] for keyword in row] for row in keywords], np.float64)
    xscale, yscale = sampling_arcsec(header.get("ESO INS MODE", ""))
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
