"""One pixel table file: where its columns lie, and reading them.

A file has one of two layouts: one IMAGE extension a column (``NAXIS1 = 1``), or one binary table. Nothing
but the headers is touched when a file is opened.
"""

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.muse import COLUMNS, OPTIONAL_COLUMNS, PIXTABLE_PREFIX, UNITS

__all__ = ["Column", "PixelTable", "open_pixel_table"]

_BLOCK = 2880
_CARD = 80
_END = b"END".ljust(_CARD)
_READ_BYTES = 1 << 23
_KINDS = COLUMNS | OPTIONAL_COLUMNS
_TABLE_CODES = {"E": "float32", "J": "int32"}
# Values of the primary header that are asked of every table; the whole of it has thousands of cards, which
# take longer to be parsed than all the rest of opening a file.
_KEYWORDS = (
    *("DATE-OBS", "MJD-OBS", "EXPTIME", "RA", "DEC", "OBJECT", "EXTNAME", "DATASUM"),
    *("CD1_1", "CD1_2", "CD2_1", "CD2_2", "ESO INS MODE", "ESO INS DROT MODE", "ESO INS DROT POSANG"),
    *("ESO OBS ID", "ESO OBS NAME", "ESO OBS PROG ID", "ESO PRO CATG", f"{PIXTABLE_PREFIX}TYPE"),
    *(f"{PIXTABLE_PREFIX}LIMITS IFU {end}" for end in ("LOW", "HIGH")),
)
_LONG_NAMES = "|".join(
    keyword.replace(" ", " +") for keyword in _KEYWORDS if keyword.startswith("ESO ")
).encode()
_WANTED_CARD = re.compile(rb"(?!HIERARCH )|HIERARCH +(%s) *=" % _LONG_NAMES, re.IGNORECASE)
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
    packed_header : bytes, the primary header, compressed: thousands of them stay in memory.
    keywords : dict, values of the primary header that are asked of every table, as far as it has them.
    date_obs : str, DATE-OBS to the millisecond, which names the exposure; empty when the header has none.
    ifu : int or None, number of the IFU if the file holds a single one.
    columns : dict of name to Column
    size_bytes, mtime_ns : int, size and modification time of the file when it was opened.
    """

    path: Path
    row_count: int
    layout: str
    packed_header: bytes
    keywords: dict
    date_obs: str
    ifu: int | None
    columns: dict[str, Column]
    size_bytes: int
    mtime_ns: int

    @property
    def header(self) -> fits.Header:
        """The primary header; make a copy to change it."""
        return _unpacked(self.packed_header)

    @property
    def coordinate_state(self) -> str:
        """State of the coordinates, as their unit says: 'rad' (projected), 'deg' (positioned) or 'pix'."""
        return self.columns["xpos"].unit[:3]

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
        self,
        names: Sequence[str],
        start: int = 0,
        stop: int | None = None,
        out: dict[str, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Read rows of several columns; a binary table is passed through once only.

        Parameters and errors are those of `read`; the result is a dict of arrays. With ``out``, a dict of
        arrays of the right type and length, these are filled and returned.
        """
        stop = self.row_count if stop is None else stop
        if not 0 <= start <= stop <= self.row_count:
            raise InputError(f"{self.path}: rows {start} to {stop} asked of a table of {self.row_count} rows")
        values = out or {name: np.empty(stop - start, _KINDS[name]) for name in names}
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            if self.layout == "table":
                self._read_table(descriptor, names, start, stop, values)
                return values
            for name in names:
                self._read_image(descriptor, self.columns[name], start, values[name])
            return values
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

    def _read_image(self, descriptor, column, start, values):
        self._fill(descriptor, memoryview(values).cast("B"), column.offset_bytes + start * 4)
        if np.little_endian:
            values.byteswap(inplace=True)

    def _read_table(self, descriptor, names, start, stop, values):
        stride = self.columns[names[0]].stride_bytes
        first = min(column.offset_bytes for column in self.columns.values())
        record = np.dtype(
            {
                "names": list(names),
                "formats": [np.dtype(_KINDS[name]).newbyteorder(">") for name in names],
                "offsets": [self.columns[name].offset_bytes - first for name in names],
                "itemsize": stride,
            }
        )
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

    def _fill(self, descriptor, view, position):
        done = 0
        while done < len(view):
            count = os.preadv(descriptor, [view[done : done + (1 << 30)]], position + done)
            if count == 0:
                raise InputError(
                    f"{self.path}: truncated: the file ends at byte {os.fstat(descriptor).st_size}, the rows "
                    f"asked for at {position + len(view)}; it was cut after it was opened, copy it again"
                )
            done += count


def _record_end(columns, names, first):
    return max(columns[name].offset_bytes - first + columns[name].dtype.itemsize for name in names)


@dataclass(frozen=True)
class _Hdu:
    text: bytes
    header: fits.Header
    data_offset: int
    data_bytes: int


def open_pixel_table(path: str | os.PathLike, coordinates: str = "rad") -> PixelTable:
    """Open a reduced pixel table: read its headers, check them, touch no data.

    Parameters
    ----------
    path : path of a FITS file, either layout
    coordinates : 'rad' or 'pix'
        State that its coordinates have to be in: projected, or, before the reduction is finished, as in the
        focal plane.

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
    keywords = {name: header[name] for name in _KEYWORDS if name in header}
    _check_columns(path, keywords, columns, lengths, coordinates)
    packed = zlib.compress(hdus[0].text, 1)
    date_obs = str(keywords.get("DATE-OBS", "")).strip()[:23]
    facts = columns, facts.st_size, facts.st_mtime_ns
    ifu = _single_ifu(keywords)
    return PixelTable(path, lengths["data"], layout, packed, keywords, date_obs, ifu, *facts)


def _single_ifu(keywords):
    """Number of the IFU, from the header of a file that holds only one."""
    name = re.match(r"CHAN(\d\d)", str(keywords.get("EXTNAME", "")))
    if name:
        return int(name[1])
    low, high = (keywords.get(f"{PIXTABLE_PREFIX}LIMITS IFU {end}") for end in ("LOW", "HIGH"))
    return int(low) if low is not None and low == high else None


@lru_cache(maxsize=64)  # 0.4 MB each
def _unpacked(packed):
    return fits.Header.fromstring(zlib.decompress(packed).decode("ascii"))


def _walk(path, descriptor, size):
    """Headers of all HDUs with the places of their data."""
    hdus, position = [], 0
    while position < size:
        text, header, position = _read_header(path, descriptor, position, size, first=not hdus)
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
        hdus.append(_Hdu(text, header, position, data_bytes))
        position += -(-data_bytes // _BLOCK) * _BLOCK
    return hdus


def _read_header(path, descriptor, position, size, first):
    """One header as text and parsed (of the first one wanted cards only), and the position behind it; None
    where neither SIMPLE nor XTENSION is found."""
    text, end, searched = b"", None, 0
    while end is None:
        chunk = os.pread(descriptor, 24 * _BLOCK if text else _BLOCK, position + len(text))
        if not text and not chunk.startswith(b"SIMPLE  =" if first else b"XTENSION="):
            if first:
                raise InputError(f"{path}: not a FITS file ({_kind(chunk)}); give PIXTABLE_REDUCED files")
            return None, None, size
        text += chunk
        cards = range(searched, len(text), _CARD)
        end = next((card for card in cards if text[card : card + _CARD] == _END), None)
        searched = len(text) - len(text) % _CARD
        if end is None and not chunk:
            raise InputError(f"{path}: truncated: the header at byte {position} has no end; copy it again")
    try:
        wanted = text[:end].decode("ascii")
        header = fits.Header.fromstring(_wanted_cards(text[:end]) if first else wanted)
        # asked for here, so that a broken header shows now
        header["BITPIX"], header["NAXIS"]
    except (UnicodeDecodeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: broken header at byte {position} ({error}); copy it again") from error
    return text[:end], header, position + -(-(end + _CARD) // _BLOCK) * _BLOCK


def _wanted_cards(text):
    """The cards of a primary header without those with long names that nobody asks for; str."""
    kept, keep = [], True
    for at in range(0, len(text), _CARD):
        card = text[at : at + _CARD]
        if not card.startswith(b"CONTINUE"):  # goes with the card that it continues
            keep = _WANTED_CARD.match(card) is not None
        if keep:
            kept.append(card)
    return b"".join(kept).decode("ascii")


def _kind(start):
    if not start:
        return "it is empty"
    compressed = start.startswith((b"\x1f\x8b", b"BZh"))
    return "it is compressed, unpack it first" if compressed else "it does not begin with SIMPLE"


def _image_columns(path, hdus):
    columns, lengths = {}, {}
    for hdu in hdus[1:]:
        name = str(hdu.header.get("EXTNAME", "")).strip()
        if hdu.header["XTENSION"].strip() != "IMAGE" or name not in _KINDS:
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
        if name in _KINDS:
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
    wanted = _KINDS[name].replace("uint32", "int32")
    if found != wanted:
        raise InputError(f"{path}: column '{name}' has type {found}; {wanted} is wanted")
    if (scale, zero) != (1, 0):
        found = f"{scale} * value + {zero}"
        raise InputError(f"{path}: column '{name}' is scaled ({found}); plain {wanted} is wanted")


def _check_columns(path, keywords, columns, lengths, coordinates):
    missing = [name for name in COLUMNS if name not in columns]
    if len(missing) == len(COLUMNS):
        raise InputError(
            f"{path}: not a pixel table: none of the columns {', '.join(COLUMNS)} is there "
            f"(ESO PRO CATG = {keywords.get('ESO PRO CATG', 'absent')}); give PIXTABLE_REDUCED files"
        )
    if missing:
        raise InputError(f"{path}: column '{missing[0]}' is missing; a pixel table has {', '.join(COLUMNS)}")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"{path}: the columns have different lengths ({found}); make the file again")
    kind = keywords.get(f"{PIXTABLE_PREFIX}TYPE")
    if kind not in (None, "GEOFULL"):
        raise InputError(f"{path}: pixel table of type '{kind}'; GEOFULL, with both coordinates, is wanted")
    _check_units(path, columns, coordinates)


def _check_units(path, columns, coordinates):
    answers = {
        "deg": "the rows are already positioned on the sky (PIXTABLE_COMBINED or PIXTABLE_POSITIONED); "
        "give PIXTABLE_REDUCED files instead",
        "pix": "the rows are not projected to the sky yet; run muse_scipost with its astrometry step "
        "and give PIXTABLE_REDUCED files",
    }
    for name in ("xpos", "ypos"):
        unit = columns[name].unit
        if unit[:3] != coordinates:
            answer = "give the tables of muse_scibasic, PIXTABLE_OBJECT"
            if coordinates == "rad":
                answer = answers.get(unit[:3], "give PIXTABLE_REDUCED files")
            raise InputError(
                f"{path}: column '{name}' has unit '{unit}', '{coordinates}' is wanted: {answer}"
            )
    if columns["lambda"].unit.lower() not in ("angstrom", "a", "0.1nm"):
        unit = columns["lambda"].unit
        raise InputError(f"{path}: column 'lambda' has unit '{unit}'; '{UNITS['lambda']}' is wanted")
    data, stat = columns["data"].unit, columns["stat"].unit
    squares = [square.replace(" ", "") for square in (f"({data})**2", f"{data}**2")]
    if data and stat and stat.replace(" ", "") not in squares:
        raise InputError(f"{path}: column 'stat' has unit '{stat}'; the square of '{data}' is wanted")
