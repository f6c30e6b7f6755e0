"""Write a pixel table, row by row, in both layouts."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
from astropy.io import fits

from musedeep.muse import UNITS

__all__ = ["PixelTableWriter"]

_BLOCK = 2880
_DISK_TYPES = {"float32": ">f4", "uint32": ">u4"}


class PixelTableWriter:
    """Write a pixel table row by row; the file bears its name only when it is complete.

    Parameters
    ----------
    path : Path
    layout : 'image' or 'table'
        One IMAGE extension a column, or one binary table.
    header : fits.Header
        Primary header; `finish` may change values in it, not their number.
    row_count : int
        Rows that will be written.
    kinds : dict of column name to native dtype name
    units : dict of column name to str, optional
        Those of a reduced table by default.
    """

    def __init__(self, path, layout, header, row_count, kinds, units=UNITS):
        self.path, self.layout, self.row_count, self._kinds = Path(path), layout, row_count, kinds
        self._record = np.dtype([(name, _DISK_TYPES[kind]) for name, kind in kinds.items()])
        self.ranges = {name: (np.inf, -np.inf) for name in ("xpos", "ypos", "lambda")}
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._header_bytes = len(_encoded(header))
        self._written, self._space = 0, np.empty(0, ">u4")
        parts = (_image_headers if layout == "image" else _table_header)(row_count, kinds, units)
        self._offsets, self._headers, position = {}, [], self._header_bytes
        for name, text, data_bytes in parts:
            self._headers.append((position, text))
            self._offsets[name] = position + len(text)
            position += len(text) + -(-data_bytes // _BLOCK) * _BLOCK
        self._size = position

    def __enter__(self):
        self._descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.truncate(self._descriptor, self._size)
        return self

    def __exit__(self, kind, error, trace):
        os.close(self._descriptor)
        if kind is not None:
            self._partial.unlink()

    def append(self, columns):
        """Append rows: a dict of all columns, 1-D arrays of one length in their native dtypes."""
        count = len(columns["data"])
        self._put(columns, self._written)
        self._written += count
        for name, (low, high) in self.ranges.items():
            if count:
                self.ranges[name] = min(low, columns[name].min()), max(high, columns[name].max())

    def shuffle(self, rng):
        """Put the rows into a random order.

        Returns
        -------
        place : int64 array, shape (rows,)
            New place of every old row.
        """
        order = rng.permutation(self.row_count)
        if self.layout == "image":
            for name in self._kinds:
                column = self._read(self._offsets[name], np.dtype(">u4"))
                self._write(column[order], self._offsets[name])
        else:
            offset = self._offsets["table"]
            self._write(self._read(offset, self._record)[order], offset)
        place = np.empty_like(order)
        place[order] = np.arange(self.row_count)
        return place

    def finish(self, header, tables=()):
        """Write the headers, the primary one as it is now, and give the file its name.

        Parameters
        ----------
        header : fits.Header
        tables : iterable of fits.BinTableHDU
            Extensions that follow the rows.
        """
        text = _encoded(header)
        if self._written != self.row_count or len(text) != self._header_bytes:
            raise RuntimeError(f"{self.path}: {self._written} of {self.row_count} rows were written")
        for position, header_text in [(0, text), *self._headers]:
            os.pwrite(self._descriptor, header_text, position)
        for table in tables:
            stream = BytesIO()
            fits.HDUList([fits.PrimaryHDU(), table]).writeto(stream)
            self._write(stream.getbuffer()[_BLOCK:], self._size)
            self._size += stream.getbuffer().nbytes - _BLOCK
        self._partial.replace(self.path)

    def _put(self, columns, row):
        if self.layout == "image":
            for name, kind in self._kinds.items():
                self._write(self._swapped(columns[name], kind), self._offsets[name] + 4 * row)
            return
        records = np.empty(len(columns["data"]), self._record)
        for name in self._kinds:
            records[name] = columns[name]
        self._write(records, self._offsets["table"] + records.itemsize * row)

    def _swapped(self, values, kind):
        """Values as they are stored, in memory that the next call fills anew."""
        if len(self._space) < len(values):
            self._space = np.empty(len(values), ">u4")
        stored = self._space[: len(values)].view(_DISK_TYPES[kind])
        stored[:] = values
        return stored

    def _write(self, values, position):
        view, done = memoryview(np.ascontiguousarray(values)).cast("B"), 0
        while done < len(view):
            done += os.pwrite(self._descriptor, view[done : done + (1 << 30)], position + done)

    def _read(self, position, dtype):
        values = np.empty(self.row_count, dtype)
        view, done = memoryview(values).cast("B"), 0
        while done < len(view):
            done += os.preadv(self._descriptor, [view[done : done + (1 << 30)]], position + done)
        return values


def _encoded(header):
    return header.tostring(sep="", endcard=True, padding=True).encode("ascii")


def _image_headers(row_count, kinds, units):
    for name, kind in kinds.items():
        header = fits.Header(
            [
                ("XTENSION", "IMAGE", "Image extension"),
                ("BITPIX", -32 if kind == "float32" else 32),
                ("NAXIS", 2),
                ("NAXIS1", 1),
                ("NAXIS2", row_count),
                ("PCOUNT", 0),
                ("GCOUNT", 1),
                ("EXTNAME", name, "Name of the column"),
            ]
        )
        if units.get(name):
            header["BUNIT"] = (units[name], "Unit of the column")
        yield name, _encoded(header), 4 * row_count


def _table_header(row_count, kinds, units):
    row_bytes = 4 * len(kinds)
    header = fits.Header(
        [
            ("XTENSION", "BINTABLE", "Binary table extension"),
            ("BITPIX", 8),
            ("NAXIS", 2),
            ("NAXIS1", row_bytes),
            ("NAXIS2", row_count),
            ("PCOUNT", 0),
            ("GCOUNT", 1),
            ("TFIELDS", len(kinds)),
        ]
    )
    for number, (name, kind) in enumerate(kinds.items(), start=1):
        header[f"TTYPE{number}"] = name
        header[f"TFORM{number}"] = "1E" if kind == "float32" else "1J"
        if units.get(name):
            header[f"TUNIT{number}"] = units[name]
    yield "table", _encoded(header), row_bytes * row_count
