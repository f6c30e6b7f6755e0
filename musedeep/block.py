"""Combine the rows of one block: read them segment by segment, judge them, spread them over the voxels.

A block is cut into tiles so that the rows of a few planes fit into memory. Within a tile the rows of one
*step* (a few wavelength segments) are read and located in voxels, those of complete planes are sorted by
cell, judged, and the rows of the step before are spread. The sums of a voxel always grow in the order
(segment, row of pencils, exposure, place in the store), whatever the tiles, steps and blocks are: same bits.
"""

import bisect
import threading
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import numpy as np

from musedeep.arena import scratch
from musedeep.errors import MemoryLimitError
from musedeep.kernels import reject, reject_eso, resample, sample, window
from musedeep.kernels.apart import compile_apart
from musedeep.masks import row_states
from musedeep.reads import SMALLEST_TILE, Box, bytes_of, pieces_of, plan_reads, steps_of
from musedeep.store import CUBE_VARIABLES, PartReader, join_runs

__all__ = ["Tile", "combine_block", "run_empty"]

_loading = threading.Lock()
_loaded = set()


_scratch = partial(scratch, "combine")


def combine_block(recipe, bounds, memory, keep_rejected=False, make_tile=None):
    """Combine all rows of one block.

    Parameters
    ----------
    recipe : Recipe
    bounds : ((int, int), (int, int), (int, int))
        Planes, rows and columns of the grid: first, behind last.
    memory : int
        Bytes that the rows and sums of one tile may take.
    keep_rejected : bool
        Also return which rows were rejected.
    make_tile : callable, optional
        Makes the `Tile` of (recipe, box, keep_rejected): for who wants to see more of the rows than their
        sums.

    Returns
    -------
    maps : dict of ndarray, shape (planes, rows, columns)
        The variables of `store.CUBE_VARIABLES`.
    record : dict
        rows_read, rows_used, rows_rejected, bytes_read; and, when asked for, rejected: list of (exposure,
        part, row numbers).

    Raises
    ------
    MemoryLimitError
        Not even the smallest tile fits.
    """
    shape = tuple(b - a for a, b in bounds)
    maps = {name: np.zeros(shape, dtype) for name, (dtype, _, _) in CUBE_VARIABLES.items()}
    maps["flux"][:] = maps["variance"][:] = np.nan
    record = {"rows_read": 0, "rows_used": 0, "rows_rejected": 0, "bytes_read": 0}
    if keep_rejected:
        record["rejected"] = []
    touching = recipe.touching(bounds)
    _load_kernels(recipe)
    if touching:
        with ExitStack() as stack:
            sources = [(n, _open_parts(recipe, n, stack)) for n in touching]
            _combine_tile(recipe, bounds, bounds, sources, memory, maps, record, make_tile or Tile)
            record["bytes_read"] = sum(part.bytes_read for _, parts in sources for part in parts)
    return maps, record


def _load_kernels(recipe):
    """Have the kernels of a recipe ready, once a process; compiled in another process where they are new."""
    key = recipe.method.resample, recipe.method.reject
    with _loading:
        if key not in _loaded:
            compile_apart("-".join(key), "from musedeep.block import run_empty\nrun_empty(argument)", recipe)
            run_empty(recipe)
            _loaded.add(key)


def run_empty(recipe):
    """Call every kernel of a recipe on a tile without rows.

    Parameters
    ----------
    recipe : Recipe
    """
    box = Box(recipe, ((0, 1), (0, 1), (0, 1)))
    reads = plan_reads(recipe, box, [])
    tile = Tile(recipe, box, keep_rejected=False)
    tile.run(reads, steps_of(recipe, box, reads.rows))
    if recipe.method.resample == "drizzle":
        # which of the two it is may depend on the block: planes of a logarithmic grid have many widths
        tile.drizzle(_NO_ROWS, wide=False)
        tile.drizzle(_NO_ROWS, wide=True)
    tile.finish({name: np.zeros((1, 1, 1), dtype) for name, (dtype, _, _) in CUBE_VARIABLES.items()})


def _open_parts(recipe, n, stack):
    exposure = recipe.exposures[n]
    parts = []
    for name, facts in exposure.parts.items():
        part = PartReader(recipe.store / exposure.name / name, facts, exposure.columns)
        stack.callback(part.close)
        parts.append(part)
    return parts


def _combine_tile(recipe, bounds, tile, sources, memory, maps, record, make_tile):
    """Combine one tile of a block, cutting it further until its rows fit into memory."""
    box = Box(recipe, tile)
    reads = plan_reads(recipe, box, sources)
    steps = steps_of(recipe, box, reads.rows)
    need = bytes_of(recipe, box, reads, steps, "rejected" in record)
    if need > memory:
        pieces = pieces_of(recipe, tile, need, memory)
        if pieces is None:
            raise MemoryLimitError(
                f"a tile of {SMALLEST_TILE} x {SMALLEST_TILE} voxels with {int(reads.rows.max())} "
                f"rows in one segment does not fit into "
                f"{memory / 1e6:.0f} MB; grant more memory or use fewer threads."
            )
        for piece in pieces:
            _combine_tile(recipe, bounds, piece, sources, memory, maps, record, make_tile)
        return
    work = make_tile(recipe, box, "rejected" in record)
    work.run(reads, steps)
    place = tuple(slice(t0 - b0, t1 - b0) for (t0, t1), (b0, _) in zip(tile, bounds, strict=True))
    work.finish({name: values[place] for name, values in maps.items()})
    record["rows_read"] += work.rows_read
    record["rows_used"] += work.rows_used
    record["rows_rejected"] += int(maps["rejected_count"][place].sum())
    if "rejected" in record:
        record["rejected"] += work.rejected_rows


class Located(NamedTuple):
    """Rows of one step in the arrays of a tile.

    Attributes
    ----------
    first, last : int
        The first, and the place behind the last.
    ranges : (n, 2) int64
        The same rows in parts, in the order in which they are sorted and added up: pencil row by pencil row,
        of all exposures, so that the voxels that these rows meet stay in the cache meanwhile.
    """

    first: int
    last: int
    ranges: np.ndarray


_NO_ROWS = Located(0, 0, np.zeros((0, 2), np.int64))


class Tile:
    """The work on one tile: rows of two steps, the sorted rows of a window of planes, and the sums."""

    def __init__(self, recipe, box, keep_rejected):
        self.recipe = recipe
        self.method = recipe.method
        self.box = box
        self.keep_rejected = keep_rejected
        self.rejected_rows = []
        self.pieces = {}  # where the rows of each exposure and part lie, by the first row of their step
        self.rows_read = 0
        self.rows_used = 0
        shape = tuple(b - a for a, b in box.tile)
        self.sums = _scratch("sums", (*shape, 3), np.float64)
        self.sums[:] = 0.0
        self.seen = _scratch("seen", (-(-len(recipe.exposures) // 64), *shape), np.uint64)
        self.seen[:] = 0
        if self.method.resample == "nearest":
            self.nearest = np.full(shape, np.inf)
        self.rejected = _scratch("rejected", box.shape, np.int32)
        self.rejected[:] = 0
        if self.method.reject == "guarded":
            self.centre, self.scale = (_scratch(n, box.shape, np.float64) for n in ("centre", "spread"))
            self.number = _scratch("number", box.shape, np.int32)
            self.number[:] = -1
        self.weights = np.array([e.weight for e in recipe.exposures])
        # the window holds the sorted rows of planes [low, high); those of planes below `judged` are judged
        self.low = self.high = self.judged = 0
        self.start = np.zeros(1, np.int32)

    def run(self, reads, steps):
        """Pass through all steps."""
        in_step = [int(reads.rows[a:b].sum()) for a, b, _ in steps]
        capacity = max(in_step, default=0)
        self._take_rows(capacity)
        before = _NO_ROWS
        for number, (a, b, complete) in enumerate(steps):
            here = self._locate(reads, a, b, capacity * (number % 2))
            if self.method.reject != "none":
                self._sort((before, here), complete)
                self._judge(last=number == len(steps) - 1)
            self._settle(before)
            before = here
        self._settle(before)

    def _take_rows(self, capacity):
        columns = 6 if self.method.weight_column else 5
        n = 2 * capacity
        self.cell, self.plane = _scratch("cell", n, np.int32), _scratch("plane", n, np.int16)
        self.payload = _scratch("payload", (columns, n), np.float32)
        self.owner, self.state = _scratch("owner", n, np.uint16), _scratch("state", n, np.uint8)
        self.identity = np.empty(n if self.keep_rejected else 0, np.int64)
        sorted_size = n + capacity if self.method.reject != "none" else 0
        self.value = _scratch("value", sorted_size, np.float32)
        self.variance = _scratch("variance", sorted_size, np.float32)
        self.sorted_owner = _scratch("sorted_owner", sorted_size, np.uint16)
        self.index = _scratch("index", sorted_size, np.int32)

    def _locate(self, reads, a, b, at):
        """Read the segments a <= s < b and put their rows into the voxels of the box, from place ``at`` on;
        `Located`."""
        box = self.box
        self.pieces[at] = []
        base = at
        ranges = []
        for segment in range(a, b):
            for n, part, found in reads.runs:
                exposure = self.recipe.exposures[n]
                for flagged, pencil_row, runs in found:
                    starts = runs[segment, :, 0].tolist()
                    for first, last in join_runs(runs[segment]):
                        self.rows_read += last - first
                        begin = at
                        number = first
                        for rows, r0, r1 in part.read("rows", first, last):
                            states = row_states(self.recipe, exposure, part, rows, r0, r1, number, flagged)
                            # the place where each row of pencils begins in this chunk
                            p = bisect.bisect_right(starts, number)
                            q = bisect.bisect_left(starts, number + r1 - r0, p)
                            edges = [r0, *(start - number + r0 for start in starts[p:q]), r1]
                            ends = np.empty(q - p + 1, np.int64)
                            here = at
                            at = window.locate_rows(
                                rows,
                                np.array(edges),
                                exposure.matrix,
                                exposure.origin,
                                box.spectral,
                                box.centres,
                                box.numbers,
                                exposure.scale,
                                n,
                                states,
                                number - r0,
                                self.cell,
                                self.plane,
                                self.payload,
                                self.owner,
                                self.state,
                                self.identity,
                                here,
                                ends,
                            )
                            for row, end in enumerate(ends.tolist(), pencil_row + p - 1):
                                ranges.append((segment, row, n, flagged, here, end))
                                here = end
                            number += r1 - r0
                        if self.keep_rejected and at > begin:
                            self.pieces[base].append((begin, at, n, part.folder.name))
        in_order = np.array(sorted(ranges), np.int64).reshape(-1, 6)
        return Located(base, at, np.ascontiguousarray(in_order[:, 4:]))

    def _sort(self, located, complete):
        """Drop planes that are done with from the window and add those that became complete."""
        cells = self.box.cells
        # the next planes to be judged look at as many planes behind them as ahead
        keep = max(self.judged - self.method.lag, self.low)
        if keep > self.low:
            shift = int(self.start[(keep - self.low) * cells])
            end = int(self.start[(self.high - self.low) * cells])
            for array in (self.value, self.variance, self.sorted_owner, self.index):
                array[: end - shift] = array[shift:end].copy()
            self.start = self.start[(keep - self.low) * cells :] - np.int32(shift)
            self.low = keep
        filled = int(self.start[-1])
        fresh = np.empty((complete - self.high) * cells + 1, np.int32)
        window.sort_planes(
            self.cell,
            self.plane,
            self.payload,
            self.owner,
            np.concatenate([rows.ranges for rows in located]),
            self.high,
            complete,
            cells,
            fresh,
            filled,
            self.value,
            self.variance,
            self.sorted_owner,
            self.index,
        )
        self.start = np.concatenate([self.start[:-1], fresh])
        self.high = complete

    def _judge(self, last):
        """Judge the rows of the planes that now have all the neighbours that matter."""
        m, box = self.method, self.box
        # planes are judged one ahead of those that are done with, where rejected rows take others along
        judged = self.high if last else max(self.high - m.lag + m.grows, self.judged)
        buffers = self._buffers()
        nj, ni = box.shape[1:]
        edge = int(box.halo[1]) - (0 if m.resample == "nearest" else m.reach) - m.grows
        frame = sample.Window(
            self.start,
            self.low,
            self.high,
            box.bits,
            nj,
            ni,
            self.value,
            self.variance,
            self.sorted_owner,
            self.index,
        )
        if m.reject == "guarded":
            rule = sample.Rule(*m.nclip, m.gradient, m.coherence, m.nkeep, m.nmax, m.sample, m.trails)
            statistics = sample.Statistics(self.centre, self.scale, self.number)
            reject.judge_guarded(
                frame, self.judged, judged, edge, rule, statistics, self.state, self.rejected, buffers
            )
        else:
            reject_eso.judge_eso(
                frame,
                self.judged,
                judged,
                edge,
                m.direction,
                m.crtype,
                m.crsigma,
                self.state,
                self.rejected,
                buffers,
            )
        self.judged = judged

    def _buffers(self):
        deepest = int(np.diff(self.start).max()) if self.start.size > 1 else 0
        return np.empty((5, 27 * deepest + 16), np.float32)

    def _settle(self, rows):
        """Spread the rows of a step, whose states are final, and take note of them."""
        self.spread(rows)
        self.rows_used += int(np.count_nonzero(self.state[rows.first : rows.last] == window.USABLE))
        if self.keep_rejected and rows.first < rows.last:  # before the first step there is nothing to collect
            self._collect_rejected(rows)

    def spread(self, rows):
        """Add `Located` rows to the sums of the voxels."""
        m, box = self.method, self.box
        if m.resample == "drizzle":
            self.drizzle(rows, max(m.drop[0], m.drop[1], m.drop[2] / box.widths.min()) > 1.0)
        elif m.resample == "nearest":
            resample.spread_nearest(
                *self._common(rows), np.array(m.pixel), self.weights, self.sums, self.seen, self.nearest
            )
        else:
            kind = ("linear", "quadratic", "renka", "lanczos").index(m.resample)
            resample.spread_radial(
                *self._common(rows),
                m.reach,
                kind,
                m.radius,
                np.array(m.pixel),
                box.centres,
                self.weights,
                self.sums,
                self.seen,
            )

    def drizzle(self, rows, wide):
        """Add rows by the overlap of their drops with voxels; wide drops may be larger than a voxel."""
        m, box = self.method, self.box
        rest = (np.array(m.drop), box.centres, box.widths, self.weights, self.sums, self.seen)
        if wide:
            resample.spread_wide_drizzle(*self._common(rows), m.reach, *rest)
        else:
            resample.spread_drizzle(*self._common(rows), *rest)

    def _common(self, rows):
        """What every kernel that spreads rows takes first."""
        box = self.box
        return self.cell, self.plane, self.payload, self.owner, self.state, rows.ranges, box.bits, box.halo

    def _collect_rejected(self, rows):
        """Remember which rows of the tile's own voxels were rejected."""
        h, (nk, nj, ni) = self.box.halo, self.sums.shape[:3]
        for begin, end, n, part in self.pieces.get(rows.first, []):
            k = self.plane[begin:end] - h[0]
            j = (self.cell[begin:end] >> self.box.bits) - h[1]
            i = (self.cell[begin:end] & ((1 << self.box.bits) - 1)) - h[1]
            inside = (k >= 0) & (k < nk) & (j >= 0) & (j < nj) & (i >= 0) & (i < ni)
            found = self.identity[begin:end][inside & (self.state[begin:end] == window.REJECTED)]
            if found.size:
                self.rejected_rows.append((n, part, found.copy()))

    def finish(self, maps):
        """Divide the sums and hand over the maps of the tile."""
        (hk, hj), box = self.box.halo, self.box
        shape = self.sums.shape[:3]
        out = {
            name: np.empty(shape, maps[name].dtype)
            for name in ("flux", "variance", "exposure_count", "exposure_time", "weight")
        }
        resample.finish(
            self.sums,
            self.seen,
            np.array([e.seconds for e in self.recipe.exposures]),
            out["flux"],
            out["variance"],
            out["exposure_count"],
            out["exposure_time"],
            out["weight"],
        )
        for name, values in out.items():
            maps[name][:] = values
        inner = self.rejected[hk : box.shape[0] - hk, hj : box.shape[1] - hj, hj : box.shape[2] - hj]
        maps["rejected_count"][:] = np.minimum(inner, np.iinfo(np.uint16).max)
