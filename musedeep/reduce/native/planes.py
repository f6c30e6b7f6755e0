"""An image from rows that stay on disk: some planes of a cube at a time, judged, drizzled and collapsed."""

import math
from dataclasses import dataclass

import numpy as np

from musedeep.images import Filter
from musedeep.kernels.planes import drizzle_sorted, judge_few, states_of_rows
from musedeep.kernels.sky import collapse_planes
from musedeep.kernels.window import REJECTED, locate_rows, sort_planes
from musedeep.muse import DQ_BITS

__all__ = ["PlaneGrid", "Planes", "RowSpace"]

# A drop reaches into the plane beside its own, and a row is judged by those of the planes beside its own.
_HALO = 2
# so few that they stay in the cache of a processor from step to step
_ROWS_AT_ONCE = 1 << 16
# A slab has so few rows that their cells stay in the cache of a processor, but so many planes that
# those beside it are few, unless that makes it too large.
_ROWS_OF_A_SLAB, _PLANES_OF_A_SLAB, _MOST_ROWS_OF_A_SLAB = 3 << 19, 64, 6 << 20
_CELLS_OF_A_SLAB = 10 << 20


class RowSpace:
    """Memory for some rows at a time, filled anew for the next."""

    def __init__(self):
        self._values = np.empty(5 * _ROWS_AT_ONCE, np.float32)
        self._dq, self._states = np.empty(_ROWS_AT_ONCE, np.uint32), np.empty(_ROWS_AT_ONCE, np.uint8)
        self._usable = np.ones(_ROWS_AT_ONCE, np.uint8)

    def read(self, table, start, stop):
        """Read rows of a table.

        Parameters
        ----------
        table : PixelTable
        start, stop : int
            Not more than `Planes` asks for at once.

        Returns
        -------
        values : float32 array (5, rows)
            x, y, wavelength, value and variance.
        rows : dict of column name to array
            The same by name, and ``dq``.
        """
        count = stop - start
        values = self._values[: 5 * count].reshape(5, count)
        rows = dict(zip(("xpos", "ypos", "lambda", "data", "stat"), values, strict=True))
        rows["dq"] = self._dq[:count]
        return values, table.read_columns([*rows], start, stop, rows)

    def states(self, dq, usable=None):
        """States (uint8 array) of rows, see `musedeep.kernels.planes.states_of_rows`; all rows are usable by
        default."""
        count = len(dq)
        usable = self._usable[:count] if usable is None else usable
        states_of_rows(dq, usable, np.uint32(DQ_BITS["cosmic_ray"]), self._states[:count])
        return self._states[:count]


@dataclass(frozen=True)
class PlaneGrid:
    """Where the voxels of a cube lie.

    Attributes
    ----------
    shape : (planes, rows, columns)
    matrix : float64 array (3, 3)
        Homography from the x and y of rows to columns and rows, counted from 0.
    first, step : float, Angstrom
        Wavelength of the first plane, and from plane to plane.
    """

    shape: tuple
    matrix: np.ndarray
    first: float
    step: float

    def wavelength(self, plane):
        """Wavelength (Angstrom) of planes, counted from 0."""
        return self.first + self.step * np.asarray(plane, np.float64)


class Planes:
    """The planes of a cube, a slab of them after the other.

    Parameters
    ----------
    source : object
        With ``row_counts``, ``runs(n, low, high)`` (see `Survey.runs`) and ``place(n, start, stop)``, which
        gives rows of table n as a float32 array (5, rows) of x, y, wavelength, value and variance, and their
        states (uint8; 0 usable, 1 for statistics only, 3 neither).
    grid : PlaneGrid
    curve : Filter
        Weights of the planes in the image.
    drop : (float, float, float)
        Size of a drop along x, y (pixels) and wavelength (Angstrom).
    crsigma : float
        Rows above the median of those around by so many median absolute deviations are struck; see
        `musedeep.kernels.planes.judge_few`.
    direction : int
        Along which axis of the grid slices run: 1 for columns, 2 for rows, 0 for neither.
    rows_of_a_slab : int, optional
        About so many rows are in memory at a time.

    Attributes
    ----------
    middle : float64 array (rows, columns)
        The plane in the middle, once `image` has passed it; NaN without data.
    """

    def __init__(self, source, grid, curve: Filter, *, drop, crsigma, direction, rows_of_a_slab=None):
        self.source, self.grid, self.drop = source, grid, np.array(drop, np.float64)
        self.crsigma, self.direction = float(crsigma), direction
        nz, ny, nx = grid.shape
        self.bits = max(1, math.ceil(math.log2(nx)))
        self.cells = ny << self.bits
        self.throughput = curve.throughput_at(grid.wavelength(np.arange(nz)))
        rows_of_a_plane = sum(source.row_counts) / nz
        if rows_of_a_slab is None:
            least = min(_PLANES_OF_A_SLAB * rows_of_a_plane, _MOST_ROWS_OF_A_SLAB)
            rows_of_a_slab = max(_ROWS_OF_A_SLAB, least)
        planes = math.ceil(rows_of_a_slab / rows_of_a_plane)
        self.thickness = max(1, min(planes, nz, _CELLS_OF_A_SLAB // self.cells))
        self._image, self._space = np.zeros((ny, nx, 2)), {}
        self.middle = np.full((ny, nx), np.nan)

    def image(self, *, struck=False):
        """Pass through the planes of the image; or through all, to learn of all rows that are struck.

        Parameters
        ----------
        struck : bool, optional

        Returns
        -------
        image : float32 array (rows, columns)
            NaN without data.
        struck : list of int64 arrays
            Of each table the numbers of its rows that were struck, in ascending order.
        """
        used = np.arange(self.grid.shape[0]) if struck else np.flatnonzero(self.throughput)
        found = [[np.empty(0, np.int64)] for _ in self.source.row_counts]
        if len(used):
            for first in range(used[0], used[-1] + 1, self.thickness):
                self._slab(first, min(first + self.thickness, used[-1] + 1), found)
        image = _mean(*np.moveaxis(self._image, -1, 0)).astype(np.float32)
        return image, [np.sort(np.concatenate(numbers)) for numbers in found]

    def _slab(self, first, last, struck):
        rows = self._locate(first - _HALO, last + _HALO)
        count = len(rows["cell"])
        if count == 0:
            return
        shape = last - first + 2 * _HALO, *self.grid.shape[1:]
        start, value, index = self._sort(rows, shape[0])
        if self.crsigma > 0:
            sample = np.empty(27 * int(np.diff(start).max()) + 8, np.float32)
            judge_few(
                start, value, index, self.bits, shape, 1, shape[0] - 1, self.direction, self.crsigma,
                rows["state"], sample,
            )  # fmt: skip
            own = rows["state"] == REJECTED
            own &= (rows["plane"] >= _HALO) & (rows["plane"] < shape[0] - _HALO)
            for n, numbers in enumerate(struck):
                numbers.append(rows["identity"][own & (rows["owner"] == n)])
        sums = self._array("sums", (last - first, *shape[1:], 2), np.float64)
        sums[:] = 0
        drizzle_sorted(
            start, index, rows["payload"], rows["state"], self.bits, shape, _HALO, self.drop, self.grid.step,
            sums,
        )  # fmt: skip
        middle = self.grid.shape[0] // 2
        if first <= middle < last:
            weights, values = np.moveaxis(sums[middle - first], -1, 0)
            self.middle = _mean(values, weights)
        collapse_planes(sums, self.throughput[first:last], self._image)

    def _locate(self, first, last):
        """Rows of the planes first <= k < last of the grid, in the arrays that kernels want."""
        low, high = self.grid.wavelength([first - 0.6, last - 0.4])
        runs = [
            (n, int(a), min(int(b), count))
            for n, count in enumerate(self.source.row_counts)
            for a, b in self.source.runs(n, low, high)
        ]
        size = sum(b - a for _, a, b in runs)
        kinds = {
            "cell": np.int32, "plane": np.int16, "owner": np.uint16, "state": np.uint8, "identity": np.int64
        }  # fmt: skip
        rows = {name: self._array(name, (size,), kind) for name, kind in kinds.items()}
        rows["payload"] = self._array("payload", (5, size), np.float32)
        centres = self.grid.wavelength(np.arange(first, last))
        spectral = np.array([self.grid.first, self.grid.step, 0.0, 0.0, 0.0, -np.inf, np.inf])
        box = np.array([first, 0, 0, last - first, *self.grid.shape[1:], self.bits], np.int64)
        at, ends = 0, np.empty(1, np.int64)
        for n, a, b in runs:
            for start in range(a, b, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, b)
                values, states = self.source.place(n, start, stop)
                edges = np.array([0, stop - start])
                at = locate_rows(
                    values, edges, self.grid.matrix, np.zeros(2), spectral, centres, box,
                    1.0, n, states, start, rows["cell"], rows["plane"], rows["payload"], rows["owner"],
                    rows["state"], rows["identity"], at, ends,
                )  # fmt: skip
        # of the payload the rest stays behind it: a part would not lie in one piece
        return {name: values if name == "payload" else values[:at] for name, values in rows.items()}

    def _array(self, name, shape, kind):
        """An array in memory that later slabs use again."""
        size = math.prod(shape)
        if name not in self._space or self._space[name].size < size:
            self._space[name] = np.empty(size, kind)
        return self._space[name][:size].reshape(shape)

    def _sort(self, rows, planes):
        """Rows by cell: first row of every cell, values, and places before."""
        count = len(rows["cell"])
        start = self._array("start", (planes * self.cells + 1,), np.int32)
        # a few more, as `judge_few` wants them
        value = self._array("value", (count + 4,), np.float32)
        variance = self._array("variance", (count,), np.float32)
        owner = self._array("owner sorted", (count,), np.uint16)
        index = self._array("index", (count,), np.int32)
        sort_planes(
            rows["cell"], rows["plane"], rows["payload"], rows["owner"], np.array([[0, count]]), 0, planes,
            self.cells, start, 0, value, variance, owner, index,
        )  # fmt: skip
        return start, value, index


def _mean(sums, weights):
    """Sums over weights; NaN where there are none."""
    return sums / np.where(weights >= np.finfo(np.float64).tiny, weights, np.nan)
