"""The slices of an IFU on its detector and in the focal plane, and the rows that their pixels become."""

import math
import re
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits
from numpy.polynomial import polynomial

from musedeep.errors import InputError
from musedeep.kernels.detector import bin_pixels, count_rows, fill_rows, wavelength_ends
from musedeep.muse import COLUMNS, SLICE_COUNT
from musedeep.reduce.native.reading import reading

__all__ = ["Slice", "lamp_bins", "read_slices", "slice_rows", "wavelength_limits"]

_OFFSET_MARGIN = 20
_EVERYTHING = (0.0, np.inf)
_LAMP_STEP = 1.25
# more than lines of equal wavelength bend between the middle of a slice and its edges, Angstrom
_BOW = 3.0


@dataclass(frozen=True)
class Slice:
    """One slice of an IFU.

    Attributes
    ----------
    ifu, number : int
        Both from 1, the slice in the order of the detector.
    left, right : float64 arrays (lines,)
        Its edges, 1-based columns.
    powers : float64 array (order + 1, lines)
        Coefficients of the wavelength (Angstrom) over powers of the 1-based column.
    place : float64 array (5,)
        Its middle in the focal plane, its length there (pixels), cosine and sine of its angle.
    """

    ifu: int
    number: int
    left: np.ndarray
    right: np.ndarray
    powers: np.ndarray
    place: np.ndarray

    @property
    def offset(self):
        """Column from which packed origins count."""
        return math.floor(self.left[0]) - _OFFSET_MARGIN

    def lines(self, low, high):
        """Lines (slice, counted from 0) that hold all its pixels between two wavelengths (Angstrom)."""
        columns = np.array([self.left, (self.left + self.right) / 2, self.right])
        values = sum(coefficients * columns**power for power, coefficients in enumerate(self.powers))
        inside = (values.max(axis=0) >= low - _BOW) & (values.min(axis=0) <= high + _BOW)
        found = np.flatnonzero(inside)
        return slice(found[0], found[-1] + 1) if len(found) else slice(0, 0)

    def cut(self, lines):
        """The slice on some lines (slice) alone; its origins count from the first of them."""
        powers = np.ascontiguousarray(self.powers[:, lines])
        return replace(self, left=self.left[lines], right=self.right[lines], powers=powers)

    def count(self, shift, low, high):
        """Number of the rows that `rows` gives."""
        return count_rows(self.left, self.right, self.powers, shift, low, high)

    def rows(self, image, shift, low, high):
        """Rows of its pixels in a range of wavelengths.

        Parameters
        ----------
        image : object with data and variance (float32) and dq (uint32), arrays (lines, columns)
            Without lines where values are not asked for.
        shift : float
            Added to all wavelengths, Angstrom.
        low, high : float, Angstrom

        Returns
        -------
        dict of column name to array
        """
        count = self.count(shift, low, high)
        rows = {name: np.empty(count, kind) for name, kind in COLUMNS.items()}
        names = "xpos", "ypos", "lambda", "data", "stat", "dq", "origin"
        fill_rows(
            self.left, self.right, self.powers, shift, low, high, self.place, self.offset,
            self.ifu << 6 | self.number, image.data, image.variance, image.dq, *(rows[n] for n in names),
        )  # fmt: skip
        return rows


def read_slices(calibrations, ifu, shape):
    """The slices of an IFU.

    Parameters
    ----------
    calibrations : dict of str to Path
        TRACE_TABLE, WAVECAL_TABLE and GEOMETRY_TABLE.
    ifu : int
    shape : (int, int)
        Lines and columns of the detector.

    Returns
    -------
    list of Slice
        In the order of the detector; without those that could not be traced or have no wavelengths.

    Raises
    ------
    InputError
        A table is not what it should be, or holds nothing about the IFU.
    """
    edges = _traces(*_table(calibrations["TRACE_TABLE"], ifu), shape[0])
    powers = _dispersions(*_table(calibrations["WAVECAL_TABLE"], ifu), shape[0])
    places = _places(calibrations["GEOMETRY_TABLE"], ifu)
    found = []
    for number in range(1, SLICE_COUNT + 1):
        if number in edges and number in powers and number in places:
            left, right = edges[number]
            if left.min() < 0.5 or right.max() > shape[1] + 0.5 or (right - left).min() <= 1:
                raise InputError(
                    f"{calibrations['TRACE_TABLE']}: slice {number} reaches from {left.min():.1f} to "
                    f"{right.max():.1f} on a detector of {shape[1]} columns; give the tables of this read-out"
                )
            found.append(Slice(ifu, number, left, right, powers[number], places[number]))
    return found


def _table(path, ifu):
    """Path and columns of the table of an IFU, in a file of its own or a merged one."""
    name = f"CHAN{ifu:02d}"
    with reading(path, f"the table of {name}"), fits.open(path) as hdus:
        whole = str(hdus[0].header.get("EXTNAME", "")).startswith(name)
        for hdu in hdus[1:]:
            if whole or str(hdu.header.get("EXTNAME", "")).startswith(name):
                return path, {column: np.array(hdu.data[column]) for column in hdu.columns.names}
    raise InputError(f"{path}: holds no table of {name}; give that of the IFU, or the merged file")


def _traces(path, table, lines):
    """Left and right edge of every line, by number of the slice."""
    order = (len(table) - 2) // 3 - 2
    y, edges = np.arange(1, lines + 1, dtype=np.float64), {}
    with reading(path, "the trace table"):
        for n, number in enumerate(table["SliceNo"]):
            polynomials = [[table[f"tc{part}_{k:02d}"][n] for k in range(order + 1)] for part in (1, 2)]
            if np.all(np.isfinite(polynomials)):
                edges[int(number)] = tuple(polynomial.polyval(y, values) for values in polynomials)
    return edges


def _dispersions(path, table, lines):
    """Coefficients of every line over powers of the column, by number of the slice."""
    name = re.fullmatch(r"wlc(\d)(\d)", list(table)[-2])
    if not name:
        raise InputError(
            f"{path}: column {list(table)[-2]!r} before the last, wlc## is wanted; give WAVECAL_TABLE"
        )
    y, powers = np.arange(1, lines + 1, dtype=np.float64), {}
    for n, number in enumerate(table["SliceNo"]):
        values = [[table[f"wlc{i}{k}"][n] for k in range(int(name[2]) + 1)] for i in range(int(name[1]) + 1)]
        if np.all(np.isfinite(values)):
            powers[int(number)] = np.array([polynomial.polyval(y, row) for row in values])
    return powers


def _places(path, ifu):
    """Where the slices lie in the focal plane, by their number on the detector."""
    with reading(path, "the geometry table"), fits.open(path) as hdus:
        table = hdus[1].data
        places = {
            int(row["SliceCCD"]): np.array(
                [row["x"], row["y"], row["width"], *_turn(float(row["angle"]))], np.float64
            )
            for row in table[table["SubField"] == ifu]
        }
    if len(places) != SLICE_COUNT:
        raise InputError(
            f"{path}: {len(places)} slices of IFU {ifu}, not {SLICE_COUNT}; give a whole geometry table"
        )
    return places


def _turn(angle_deg):
    return math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))


def slice_rows(slices, image, shift=0.0, wavelengths=_EVERYTHING):
    """Rows of every slice, one slice at a time.

    Parameters
    ----------
    slices : list of Slice
    image : object with data, variance and dq
    shift : float, optional
        Angstrom.
    wavelengths : (float, float), optional
        Range that is kept, Angstrom.

    Yields
    ------
    Slice, dict of column name to array
    """
    for piece in slices:
        yield piece, piece.rows(image, shift, *wavelengths)


def wavelength_limits(slices):
    """Shortest and longest wavelength (float, Angstrom) of all pixels of slices."""
    ends = [wavelength_ends(piece.left, piece.right, piece.powers) for piece in slices]
    shortest, longest = zip(*ends, strict=True)
    return float(min(shortest)), float(max(longest))


def lamp_bins(slices, flat, dq, limits, wavelengths):
    """Spectrum of the lamp: the mean of the flat field in bins of 1.25 Angstrom.

    Parameters
    ----------
    slices : list of Slice
    flat : float32 array (lines, columns)
    dq : uint32 array (lines, columns)
    limits : (float, float)
        Of the wavelengths of all pixels, Angstrom.
    wavelengths : (float, float)
        Range that is kept, Angstrom.

    Returns
    -------
    wavelength, spectrum : float64 arrays
        Bins count from the shortest wavelength of all pixels; two beyond the range are kept.
    """
    first, last = limits
    count = int((last - first) / _LAMP_STEP) + 2
    sums, weights = np.zeros(count), np.zeros(count)
    for piece in slices:
        bin_pixels(piece.left, piece.right, piece.powers, flat, dq, first, _LAMP_STEP, sums, weights)
    low, high = wavelengths
    bins = first + np.arange(count) * _LAMP_STEP
    kept = (bins >= low - 2 * _LAMP_STEP) & (bins <= high + 2 * _LAMP_STEP)
    return bins[kept], np.divide(sums, weights, out=sums, where=weights > 0)[kept]
