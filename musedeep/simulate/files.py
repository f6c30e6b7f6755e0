"""Files of a simulated exposure: its pixel table in both layouts, and its white-light image."""

import os
from pathlib import Path

import numpy as np
from astropy.io import fits

from musedeep.muse import UNITS

__all__ = ["FovImage", "PixelTableWriter", "write_fov_image"]

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
    """

    def __init__(self, path, layout, header, row_count, kinds):
        self.path, self.layout, self.row_count, self._kinds = Path(path), layout, row_count, kinds
        self._record = np.dtype([(name, _DISK_TYPES[kind]) for name, kind in kinds.items()])
        self.ranges = {name: (np.inf, -np.inf) for name in ("xpos", "ypos", "lambda")}
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._header_bytes = len(_encoded(header))
        self._written = 0
        parts = _image_headers(row_count, kinds) if layout == "image" else _table_header(row_count, kinds)
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

    def finish(self, header):
        """Write the headers, the primary one as it is now, and give the file its name."""
        text = _encoded(header)
        if self._written != self.row_count or len(text) != self._header_bytes:
            raise RuntimeError(f"{self.path}: {self._written} of {self.row_count} rows were written")
        for position, header_text in [(0, text), *self._headers]:
            os.pwrite(self._descriptor, header_text, position)
        self._partial.replace(self.path)

    def _put(self, columns, row):
        if self.layout == "image":
            for name, kind in self._kinds.items():
                values = columns[name].astype(_DISK_TYPES[kind])
                self._write(values, self._offsets[name] + 4 * row)
            return
        records = np.empty(len(columns["data"]), self._record)
        for name in self._kinds:
            records[name] = columns[name]
        self._write(records, self._offsets["table"] + records.itemsize * row)

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


def _image_headers(row_count, kinds):
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
        if UNITS.get(name):
            header["BUNIT"] = (UNITS[name], "Unit of the column")
        yield name, _encoded(header), 4 * row_count


def _table_header(row_count, kinds):
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
        if UNITS.get(name):
            header[f"TUNIT{number}"] = UNITS[name]
    yield "table", _encoded(header), row_bytes * row_count


class FovImage:
    """White-light image that grows with the rows of an exposure: north up, on the plane of its pointing.

    Parameters
    ----------
    half_width_arcsec : float
        Half the side of the image.
    step_arcsec : float
        Size of a spaxel.
    """

    def __init__(self, half_width_arcsec, step_arcsec):
        half = int(np.ceil(half_width_arcsec / step_arcsec)) + 2
        self.centre, self.step_arcsec = half, step_arcsec
        self._sum = np.zeros((2 * half + 1) ** 2)
        self._weight = np.zeros_like(self._sum)

    def add(self, x_arcsec, y_arcsec, total, count):
        """Share means of rows among the four spaxels around them.

        Parameters
        ----------
        x_arcsec, y_arcsec : float64 arrays, east and north of the pointing
        total, count : float64 arrays, sum and number of the rows at these places
        """
        side = 2 * self.centre + 1
        x, y = self.centre - x_arcsec / self.step_arcsec, self.centre + y_arcsec / self.step_arcsec
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        inside = (column >= 0) & (column < side - 1) & (row >= 0) & (row < side - 1) & (count > 0)
        x, y, column, row = x[inside], y[inside], column[inside], row[inside]
        upper, right = y - row, x - column
        share = np.stack([(1 - upper) * (1 - right), (1 - upper) * right, upper * (1 - right), upper * right])
        place = (row * side + column + np.array([[0], [1], [side], [side + 1]])).reshape(-1)
        self._sum += np.bincount(place, (share * total[inside]).reshape(-1), len(self._sum))
        self._weight += np.bincount(place, (share * count[inside]).reshape(-1), len(self._sum))

    def image(self):
        """Mean flux (float32, square array), NaN where next to no rows lie."""
        side = 2 * self.centre + 1
        filled = self._weight[self._weight > 0]
        enough = self._weight > 0.25 * (np.median(filled) if len(filled) else 1)
        mean = np.divide(self._sum, self._weight, out=np.full_like(self._sum, np.nan), where=enough)
        return mean.reshape(side, side).astype(np.float32)


def write_fov_image(path, image, header):
    """Write a white-light image as an IMAGE_FOV.

    Parameters
    ----------
    path : Path
    image : FovImage
    header : fits.Header
        Primary header, with RA and DEC of the pointing.
    """
    data = fits.ImageHDU(image.image(), name="DATA")
    step = image.step_arcsec / 3600
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRPIX1": image.centre + 1.0,
        "CRPIX2": image.centre + 1.0,
        "CRVAL1": header["RA"],
        "CRVAL2": header["DEC"],
        "CD1_1": -step,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": step,
        "BUNIT": UNITS["data"],
        "OBJECT": f"{header['OBJECT']} (DATA)",
    }
    data.header.update(cards)
    partial = path.with_name(f".{path.name}.partial")
    fits.HDUList([fits.PrimaryHDU(header=header), data]).writeto(partial, overwrite=True, checksum=True)
    partial.replace(path)
