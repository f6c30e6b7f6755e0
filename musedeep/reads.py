"""What has to be read for a tile, in which steps, and how much memory the work on it takes."""

import itertools
import math

import numpy as np

from musedeep.grid import air_to_vacuum

__all__ = [
    "ROWS_OF_A_STEP",
    "SMALLEST_TILE",
    "Box",
    "Reads",
    "bytes_of",
    "pieces_of",
    "plan_reads",
    "spaxels_read",
    "steps_of",
    "tile_bytes",
]

# Of the arrays of a tile's work in `block` and in the kernels: a row that is located, one that is sorted by
# cell, a cell of the window of sorted planes and one of the whole box (by rule), and a voxel of the sums and
# their results.
BYTES_PER_LOCATED_ROW = 29
BYTES_PER_SORTED_ROW = 14
BYTES_PER_WINDOW_CELL = {"guarded": 12 + 44, "eso": 12 + 76, "none": 0}
BYTES_PER_BOX_CELL = {"guarded": 24, "eso": 4, "none": 4}
BYTES_PER_VOXEL = 50
SMALLEST_TILE = 8
# A step is filled up to this many rows where memory allows: the calls cost more than the rows of a thin one.
ROWS_OF_A_STEP = 200_000
# Wavelength boundaries are rounded in more than one place; a plane counts as complete only this far behind
# its edge.
_MARGIN_ANGSTROM = 0.01


class Box:
    """The voxels of a tile with the halo around them, and what the kernels want to know of it."""

    def __init__(self, recipe, tile):
        grid, method = recipe.grid, recipe.method
        self.tile = tile
        self.halo = np.array(method.halo, np.int64)
        self.first = (tile[0][0] - method.halo[0], tile[1][0] - method.halo[1], tile[2][0] - method.halo[1])
        self.shape = tuple(
            b - a + 2 * h
            for (a, b), h in zip(tile, (method.halo[0], method.halo[1], method.halo[1]), strict=True)
        )
        self.bits = _pitch_bits(self.shape[2])
        self.cells = self.shape[1] << self.bits
        planes = np.arange(self.shape[0] + 1) + self.first[0]
        self.centres = np.ascontiguousarray(grid.wavelength_at(planes[:-1]))
        self.edges = grid.wavelength_at(planes - 0.5)
        self.widths = np.diff(self.edges) if not grid.log else _log_widths(grid, planes[:-1])
        # rows are located relative to the recipe's anchor
        first = np.array(self.first) - [0, recipe.anchor[1], recipe.anchor[0]]
        self.numbers = np.array([*first, *self.shape, self.bits], np.int64)
        self.spectral = np.array(
            [
                grid.wavelength_start,
                grid.wavelength_step,
                grid.wavelength_crpix - 1.0,
                float(grid.log),
                float(grid.vacuum),
                *method.wavelength,
            ]
        )


def _pitch_bits(columns):
    """Bits of the number of a column: rows of cells lie a power of two apart."""
    return max(1, math.ceil(math.log2(columns)))


def _log_widths(grid, planes):
    """Width of planes on a logarithmic axis [Angstrom], by the peer's rule: from half a step to one and a
    half behind the plane before."""
    q = grid.wavelength_step / grid.wavelength_start
    steps = planes + 1 - grid.wavelength_crpix
    return grid.wavelength_start * np.exp((steps - 1) * q) * (np.exp(1.5 * q) - np.exp(0.5 * q))


class Reads:
    """Which rows of which parts have to be read, segment by segment.

    Attributes
    ----------
    first : int
        First segment.
    rows : ndarray, shape (segments,)
        Rows to be read of each.
    runs : list of (exposure, part, list of (flagged, first row of pencils, ndarray (segments, rows, 2)))
    """

    def __init__(self, first, rows, runs):
        self.first = first
        self.rows = rows
        self.runs = runs


def _segments_of(recipe, box):
    """Segments of the store, first and behind last, that hold rows of the box."""
    low, high = float(box.edges[0]) - _MARGIN_ANGSTROM, float(box.edges[-1]) + _MARGIN_ANGSTROM
    if recipe.grid.vacuum:  # the store keeps wavelengths in air, 1 to 3 Angstrom less
        low, high = low - 5.0, high
    low, high = max(low, recipe.method.wavelength[0]), min(high, recipe.method.wavelength[1])
    start, length = recipe.lattice[2], recipe.lattice[3]
    return int(np.floor((low - start) / length)), max(
        int(np.floor((high - start) / length)) + 1, int(np.floor((low - start) / length)) + 1
    )


def plan_reads(recipe, box, sources):
    """Find the runs of rows that hold everything a box needs.

    Parameters
    ----------
    recipe : Recipe
    box : Box
    sources : list of (int, list of PartReader)
        Place of each exposure in the recipe, and its parts.

    Returns
    -------
    Reads
    """
    first, last = _segments_of(recipe, box)
    # flagged rows are read only by who wants some of them
    kinds = (0, 1) if recipe.method.keep_dq or recipe.method.reject == "eso" else (0,)
    rows = np.zeros(last - first, np.int64)
    runs = []
    for n, parts in sources:
        row_range, column_range = _pencils_of(recipe, recipe.exposures[n], box)
        for part in parts:
            pencil_row = max(row_range[0], part.box[1])
            found = [
                (kind, pencil_row, part.runs(kind, first, last, row_range, column_range)) for kind in kinds
            ]
            count = sum((r[..., 1] - r[..., 0]).sum(axis=1) for _, _, r in found)
            if count.any():
                rows += count
                runs.append((n, part, found))
    return Reads(first, rows, runs)


def _pencils_of(recipe, exposure, box):
    """Ranges of pencil rows and columns of the store that hold the rows of a box."""
    (_, _), (y0, y1), (x0, x1) = box.tile
    h = box.halo[1] + 0.5
    left, right, bottom, top = x0 - h, x1 - 1 + h, y0 - h, y1 - 1 + h
    corners = np.array([[x, y, 1.0] for x in (left, right) for y in (bottom, top)])
    corners[:, :2] -= recipe.anchor
    plane = corners @ np.linalg.inv(exposure.matrix).T
    plane = plane[:, :2] / plane[:, 2:]
    low, high = plane.min(axis=0) - 1e-3, plane.max(axis=0) + 1e-3
    size = recipe.lattice[:2]
    first = np.floor(low / size).astype(int)
    last = np.floor(high / size).astype(int) + 1
    return (int(first[1]), int(last[1])), (int(first[0]), int(last[0]))


def _complete_planes(recipe, box, segment_end):
    """Planes of the box that are complete once all segments before ``segment_end`` are read."""
    wavelength = recipe.lattice[2] + recipe.lattice[3] * segment_end
    if recipe.grid.vacuum:
        wavelength = float(air_to_vacuum(wavelength))
    return int(np.searchsorted(box.edges[1:], wavelength - _MARGIN_ANGSTROM, side="right"))


def _begun_planes(recipe, box, segment_end):
    """Planes of the box into which rows before ``segment_end`` may fall: the first that none of them can
    reach."""
    wavelength = recipe.lattice[2] + recipe.lattice[3] * segment_end
    if recipe.grid.vacuum:
        wavelength = float(air_to_vacuum(wavelength))
    return int(np.searchsorted(box.edges[:-1], wavelength + _MARGIN_ANGSTROM, side="left"))


def steps_of(recipe, box, rows):
    """Group segments into steps, just long enough that all rows of a step can be judged when the next one is
    read.

    Returns
    -------
    list of (first, behind last, complete planes)
        Segments counted from the first to be read.
    """
    first = _segments_of(recipe, box)[0]
    count = len(rows)
    cuts = [0]
    while cuts[-1] < count:
        begun = _begun_planes(recipe, box, first + cuts[-1])
        stop = cuts[-1] + 1
        while stop < count and (
            _complete_planes(recipe, box, first + stop) - recipe.method.lag < begun
            or rows[cuts[-1] : stop + 1].sum() <= ROWS_OF_A_STEP
        ):
            stop += 1
        cuts.append(stop)
    steps = [
        (a, b, _complete_planes(recipe, box, first + b)) for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    ]
    steps[-1] = (*steps[-1][:2], box.shape[0])
    # a last step that is too thin for the one before to be judged joins it
    if len(steps) > 1 and box.shape[0] - recipe.method.lag < _begun_planes(recipe, box, first + steps[-1][0]):
        steps[-2:] = [(steps[-2][0], steps[-1][1], box.shape[0])]
    return steps


def pieces_of(recipe, tile, need, memory):
    """Cut a tile into pieces that should fit into memory, such that as few rows as possible are read twice.

    Parameters
    ----------
    recipe : Recipe
    tile : ((int, int), (int, int), (int, int))
    need : int
        Bytes that the work on it takes.
    memory : int
        Bytes that there are.

    Returns
    -------
    list of tiles or None
        None when it is too small to be cut. Pieces may turn out to need a little more than was foreseen, and
        must then be cut again.
    """
    planes, *sides = tile
    spaxels = spaxels_read(recipe, sides)
    most = [-(-(last - first) // SMALLEST_TILE) for first, last in sides]
    if most == [1, 1]:
        return None
    cheapest, best = math.inf, most
    for counts in itertools.product(*(range(1, n + 1) for n in most)):
        piece = []
        for (first, last), count in zip(sides, counts, strict=True):
            length = -(-(last - first) // count)
            start = (first + last - length) // 2
            piece.append((start, start + length))
        read = spaxels_read(recipe, piece)
        if counts != (1, 1) and need * read <= memory * spaxels and read * math.prod(counts) < cheapest:
            cheapest, best = read * math.prod(counts), counts
    cuts = [
        [first + (last - first) * n // count for n in range(count + 1)]
        for (first, last), count in zip(sides, best, strict=True)
    ]
    return [(planes, y, x) for y in itertools.pairwise(cuts[0]) for x in itertools.pairwise(cuts[1])]


def spaxels_read(recipe, sides, pencils=1.0):
    """Spaxels of all exposures together that are read for a tile: it, its halo, and the rest of the pencils.

    Parameters
    ----------
    recipe : Recipe
    sides : ((int, int), (int, int))
        Rows and columns of the tile.
    pencils : float
        How many pencils too many are read along each side, with both ends taken together: from 0 to 2,
        depending on where they lie.

    Returns
    -------
    float
    """
    extents = np.array([exposure.extent for exposure in recipe.exposures])
    total = np.ones(len(extents))
    for axis, (first, last) in zip((1, 0), sides, strict=True):
        pencil = recipe.lattice[axis] / recipe.grid.step_arcsec[axis]
        border = recipe.method.halo[1] + 0.5 + pencils / 2 * pencil
        low, high = extents[:, 2 * axis] - 0.5, extents[:, 2 * axis + 1] + 0.5
        total *= (np.minimum(high, last + border) - np.maximum(low, first - border)).clip(0.0)
    return float(total.sum())


def tile_bytes(method, shape, rows, planes, exposures, keep_rejected=False):
    """Memory that the work on a tile takes.

    Parameters
    ----------
    method : Method
    shape : tuple of int
        Voxels of the tile: planes, rows, columns.
    rows : int
        Rows that are read in one step, at most.
    planes : int
        Planes that become complete in one step, at most.
    exposures : int
        Exposures that touch it.
    keep_rejected : bool
        As of `combine_block`.

    Returns
    -------
    int
        Bytes.
    """
    halo = method.halo
    box = shape[0] + 2 * halo[0], shape[1] + 2 * halo[1], shape[2] + 2 * halo[1]
    located = BYTES_PER_LOCATED_ROW + 4 * method.weight_column + 8 * keep_rejected
    in_order = 0 if method.reject == "none" else BYTES_PER_SORTED_ROW
    # what is judged looks at `lag` planes ahead and behind
    window = (planes + 2 * method.lag) * box[1] << _pitch_bits(box[2])
    voxel = BYTES_PER_VOXEL + 8 * -(-exposures // 64) + 8 * (method.resample == "nearest")
    return (
        rows * (2 * located + 3 * in_order)
        + window * BYTES_PER_WINDOW_CELL[method.reject]
        + math.prod(box) * BYTES_PER_BOX_CELL[method.reject]
        + math.prod(shape) * voxel
    )


def bytes_of(recipe, box, reads, steps, keep_rejected=False):
    """Memory that the work on a tile takes whose reads are known; see `tile_bytes`."""
    rows = max((int(reads.rows[a:b].sum()) for a, b, _ in steps), default=0)
    complete = [0, *(s[2] for s in steps)]
    planes = max(b - a for a, b in zip(complete[:-1], complete[1:], strict=True))
    shape = tuple(b - a for a, b in box.tile)
    runs = sum(found.nbytes for _, _, kinds in reads.runs for _, _, found in kinds)
    return runs + tile_bytes(recipe.method, shape, rows, planes, len(recipe.exposures), keep_rejected)
