"""Which rows a combination spreads over which voxels, and how much of each."""

import copy
import math
from typing import NamedTuple

import numpy as np

from musedeep.block import Tile, combine_block
from musedeep.reads import Box

__all__ = ["Witnessed", "witness"]

# Rows that are spread apart in one call.
_BATCH = 4096


class Witnessed(NamedTuple):
    """Rows of some voxels, with what the engine made of them.

    Attributes
    ----------
    exposure : (n,) int64
        Place of the exposure in the recipe.
    part : (n,) str
    number : (n,) int64
        Place of the row in its part.
    state : (n,) uint8
        See `kernels.window`.
    voxel : (n, 3) int64
        Voxel (plane, y, x) of the grid in which the row lies.
    x, y, plane, wavelength : (n,) float64
        Where it lies: 0-based voxel coordinates, Angstrom in the medium of the grid.
    value, variance : (n,) float32
        With the flux scale applied.
    distance : (n,) float64
        From the centre of its voxel, squared, in units of the input pixels.
    median : (n,) float32
        Of the sample that the row was judged by; NaN where nobody needed it.
    weight : (n, d, d, d) float64
        In the voxels around ``voxel``, d = 2 reach + 1: kernel times weight of the exposure.
    """

    exposure: np.ndarray
    part: np.ndarray
    number: np.ndarray
    state: np.ndarray
    voxel: np.ndarray
    x: np.ndarray
    y: np.ndarray
    plane: np.ndarray
    wavelength: np.ndarray
    value: np.ndarray
    variance: np.ndarray
    distance: np.ndarray
    median: np.ndarray
    weight: np.ndarray


def witness(recipe, bounds):
    """Combine a few voxels and tell of every row that may be spread over them, rejected ones too.

    Parameters
    ----------
    recipe : Recipe
    bounds : ((int, int), (int, int), (int, int))
        Planes, rows and columns: first, behind last. All their rows are held in memory.

    Returns
    -------
    rows : Witnessed
        Those within the kernel's reach of the voxels; flagged and masked rows are not among them, unless the
        recipe keeps them.
    maps : dict of ndarray
        As of `combine_block`.
    """
    tiles = []

    def make_tile(*arguments):
        tiles.append(_Witness(*arguments))
        return tiles[-1]

    maps, _ = combine_block(recipe, bounds, 1 << 62, keep_rejected=True, make_tile=make_tile)
    seen = [rows for tile in tiles for rows in tile.seen_rows]
    if not seen:
        seen = [_no_rows(recipe)]
    return Witnessed(*(np.concatenate(column) for column in zip(*seen, strict=True))), maps


def _no_rows(recipe):
    d = 2 * recipe.method.reach + 1
    ints, floats = np.zeros(0, np.int64), np.zeros(0)
    parts, states, voxels = np.zeros(0, str), np.zeros(0, np.uint8), np.zeros((0, 3), np.int64)
    singles = np.zeros(0, np.float32)
    return Witnessed(
        ints, parts, ints, states, voxels, floats, floats, floats, floats, singles, singles, floats, singles,
        np.zeros((0, d, d, d)),
    )  # fmt: skip


class _Witness(Tile):
    """A tile that keeps the rows within reach of its voxels."""

    def __init__(self, recipe, box, keep_rejected):
        super().__init__(recipe, box, keep_rejected)
        self.seen_rows = []

    def spread(self, rows):
        super().spread(rows)
        if rows.first == rows.last:
            return
        reach, halo = self.method.reach, np.array([self.box.halo[0], self.box.halo[1], self.box.halo[1]])
        place = self._places(slice(rows.first, rows.last)) - halo
        near = ((place >= -reach) & (place < self.sums.shape[:3] + np.array(reach))).all(axis=1)
        part = np.empty(rows.last - rows.first, object)
        for begin, end, _, name in self.pieces[rows.first]:
            part[begin - rows.first : end - rows.first] = name
        index = rows.first + np.flatnonzero(near)
        for start in range(0, len(index), _BATCH):
            chosen = index[start : start + _BATCH]
            self.seen_rows.append(self._describe(rows, chosen, part[chosen - rows.first].astype(str)))

    def _places(self, index):
        """Plane, row and column of rows in the box; ndarray (n, 3), int64."""
        cell = self.cell[index].astype(np.int64)
        mask = (1 << self.box.bits) - 1
        return np.stack([self.plane[index].astype(np.int64), cell >> self.box.bits, cell & mask], axis=-1)

    def _describe(self, rows, index, part):
        place = self._places(index)
        payload = self.payload[:, index].astype(np.float64)
        voxel = place + np.array(self.box.first)
        median = np.full(len(index), np.nan, np.float32)
        if self.method.reject == "guarded":
            known = self.number[tuple(place.T)] >= 0
            median[known] = self.centre[tuple(place[known].T)]
        return Witnessed(
            exposure=self.owner[index].astype(np.int64),
            part=part,
            number=self.identity[index].copy(),
            state=self.state[index].copy(),
            voxel=voxel,
            x=voxel[:, 2] + payload[0],
            y=voxel[:, 1] + payload[1],
            plane=self.recipe.grid.plane_of(self.box.centres[place[:, 0]] + payload[2]),
            wavelength=self.box.centres[place[:, 0]] + payload[2],
            value=self.payload[3, index].copy(),
            variance=self.payload[4, index].copy(),
            distance=((payload[:3] / np.array(self.method.pixel)[:, None]) ** 2).sum(axis=0),
            median=median,
            weight=self._weights(rows, index, place[:, 0]),
        )

    def _weights(self, rows, index, plane):
        """Weights of rows in the voxels around, found by spreading each row over voxels of its own."""
        count, reach = len(index), self.method.reach
        d = 2 * reach + 1
        (k0, k1), *sides = self.box.tile
        alone = copy.copy(self)
        # rows at the border reach beyond the box
        alone.box = Box(self.recipe, ((k0 - reach, k1 + reach), *sides))
        alone.box.bits = max(1, math.ceil(math.log2(d * count)))
        alone.box.halo = np.zeros(2, np.int64)
        alone.cell = ((reach << alone.box.bits) + reach + d * np.arange(count)).astype(np.int32)
        alone.plane = (plane + reach).astype(np.int16)
        alone.payload = np.ascontiguousarray(self.payload[:, index])
        alone.owner, alone.state = self.owner[index], np.zeros(count, np.uint8)
        shape = alone.box.shape[0], d, d * count
        alone.sums = np.zeros((*shape, 3))
        alone.seen = np.zeros((self.seen.shape[0], *shape), np.uint64)
        alone.nearest = np.full(shape, np.inf)
        Tile.spread(alone, rows._replace(first=0, last=count, ranges=np.array([[0, count]])))
        weight = alone.sums[..., 0].reshape(shape[0], d, count, d).transpose(2, 0, 1, 3)
        return weight[np.arange(count)[:, None], plane[:, None] + np.arange(d)]
