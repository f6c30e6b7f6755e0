"""What has to be read for a tile, and in which steps."""

import math

import numpy as np

from musedeep.grid import air_to_vacuum

__all__ = ["Box", "Reads", "plan_reads", "steps_of"]

# A step is filled up to this many rows where memory allows: the calls cost more than the rows of a thin one.
_ROWS_OF_A_STEP = 200_000
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
        self.bits = max(1, math.ceil(math.log2(self.shape[2])))
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
    runs : list of (exposure, part, list of (flagged, ndarray of shape (segments, runs, 2)))
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
            found = [(kind, part.runs(kind, first, last, row_range, column_range)) for kind in kinds]
            count = sum((r[..., 1] - r[..., 0]).sum(axis=1) for _, r in found)
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
            or rows[cuts[-1] : stop + 1].sum() <= _ROWS_OF_A_STEP
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
