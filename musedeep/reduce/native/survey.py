"""What has to be known of all rows of an exposure before any of them is worked on."""

from dataclasses import dataclass

import numpy as np

from musedeep.kernels.sky import block_extremes, extremes, focal_extent
from musedeep.muse import COLUMNS

__all__ = ["BLOCK_ROWS", "Survey", "read_chunks", "runs_of_blocks", "survey_tables"]

BLOCK_ROWS = 512


@dataclass(frozen=True)
class Survey:
    """Extents of the rows of an exposure.

    Attributes
    ----------
    measured : float64 array (2, 2), pixels
        Smallest and largest x and y, as measured.
    refracted : float64 array (2, 2), pixels
        The same after the correction of refraction.
    wavelengths : float64 array (2,), Angstrom
    blocks : list of (lowest, highest), float32 arrays, Angstrom
        For every table, between which wavelengths each of its blocks of `BLOCK_ROWS` rows lies.
    """

    measured: np.ndarray
    refracted: np.ndarray
    wavelengths: np.ndarray
    blocks: list

    def runs(self, n, low, high):
        """Runs of rows of table n that hold all rows between two wavelengths (Angstrom)."""
        return runs_of_blocks(*self.blocks[n], low, high)


def survey_tables(tables, air, chunk_rows, *, good_only=False, places_only=False):
    """Read places and wavelengths of all rows once.

    Parameters
    ----------
    tables : list of PixelTable
    air : float64 array (5,)
        The refraction, see `musedeep.reduce.native.headers.refraction`.
    chunk_rows : int
        Rows in memory at a time.
    good_only : bool, optional
        Extents are those of rows without a flag.
    places_only : bool, optional
        Of all extents only the measured ones are wanted.

    Returns
    -------
    Survey
        With ``places_only`` without wavelengths, blocks and what depends on them.
    """
    limits = np.tile([np.inf, -np.inf], (5, 1))
    if places_only:
        for _, rows in read_chunks(tables, ("xpos", "ypos"), chunk_rows):
            for n, name in enumerate(("xpos", "ypos")):
                limits[n] = extremes(rows[name], *limits[n])
        return Survey(limits[:2], limits[2:4], limits[4], [])
    names = ["lambda", "xpos", "ypos", *(["dq"] if good_only else [])]
    step = max(chunk_rows // BLOCK_ROWS, 1) * BLOCK_ROWS
    blocks = []
    for table in tables:
        lowest, highest = (np.empty(-(-table.row_count // BLOCK_ROWS), np.float32) for _ in range(2))
        for start, rows in read_chunks([table], names, step):
            dq = rows.get("dq", np.empty(0, np.uint32))
            here = slice(start // BLOCK_ROWS, -(-(start + len(rows["lambda"])) // BLOCK_ROWS))
            block_extremes(rows["lambda"], BLOCK_ROWS, lowest[here], highest[here])
            focal_extent(rows["lambda"], rows["xpos"], rows["ypos"], dq, good_only, air, limits)
        blocks.append((lowest, highest))
    return Survey(limits[:2], limits[2:4], limits[4], blocks)


def read_chunks(tables, names, chunk_rows):
    """Rows of tables, chunk after chunk, in arrays that are filled anew for the next.

    Parameters
    ----------
    tables : list of PixelTable or IfuRows
    names : sequence of str
        Of columns.
    chunk_rows : int

    Yields
    ------
    int, dict of column name to array
        First row of the chunk in its table, and the rows.
    """
    space = {name: np.empty(chunk_rows, COLUMNS[name]) for name in names}
    for table in tables:
        for start in range(0, table.row_count, chunk_rows):
            count = min(chunk_rows, table.row_count - start)
            rows = {name: values[:count] for name, values in space.items()}
            yield start, table.read_columns(names, start, start + count, rows)


def runs_of_blocks(lowest, highest, low, high):
    """Runs (first row, row behind the last) of the blocks that reach into a range of wavelengths."""
    inside = np.concatenate(([False], (highest >= low) & (lowest <= high), [False]))
    return np.flatnonzero(inside[1:] != inside[:-1]).reshape(-1, 2) * BLOCK_ROWS
