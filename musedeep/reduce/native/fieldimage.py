"""The white-light image of a reduced exposure, without a cube."""

import math
import re

import numpy as np
from astropy.io import fits

from musedeep.images import WHITE, extension_header
from musedeep.kernels.ingest import place_rows
from musedeep.kernels.sky import block_extremes, sky_extent
from musedeep.layout import eso_grid
from musedeep.muse import (
    FLUX_UNIT,
    PIXTABLE_PREFIX,
    PLANE_ANGSTROM,
    sampling_arcsec,
    scales_from_cd,
)
from musedeep.pixtable import open_pixel_table
from musedeep.reduce.native.headers import Observation
from musedeep.reduce.native.planes import PlaneGrid, Planes, RowSpace
from musedeep.reduce.native.seeing import seeing_cards
from musedeep.reduce.native.skyfiles import base_header, write_fits
from musedeep.reduce.native.survey import BLOCK_ROWS, read_chunks, runs_of_blocks
from musedeep.sky import sky_frame

__all__ = ["field_image", "write_field_image"]

_ARCSEC = math.degrees(1) * 3600
_CHUNK_ROWS = 1 << 16
_DROP, _CRSIGMA = 0.8, 15.0
_TURN_DEG = 5.0
_OF_AXES = re.compile(r"(?:CTYPE|CUNIT|CRPIX)\d|CD\d_\d|SPECSYS")


class _ReducedRows:
    """The rows of a reduced table on the tangent plane of its pointing, in arcsec."""

    def __init__(self, table, ra_deg, dec_deg):
        self.table, self.row_counts, self._space = table, [table.row_count], RowSpace()
        blocks = -(-table.row_count // BLOCK_ROWS)
        self._lowest, self._highest = np.empty(blocks, np.float32), np.empty(blocks, np.float32)
        limits = np.tile([np.inf, -np.inf], (2, 1))
        for start, rows in read_chunks([table], ("xpos", "ypos", "lambda"), _CHUNK_ROWS):
            x, y, wavelength = rows["xpos"], rows["ypos"], rows["lambda"]
            here = slice(start // BLOCK_ROWS, -(-(start + len(x)) // BLOCK_ROWS))
            block_extremes(wavelength, BLOCK_ROWS, self._lowest[here], self._highest[here])
            _place(x, y, wavelength, wavelength, wavelength)
            sky_extent(x, y, _ARCSEC, math.radians(dec_deg), limits)
        self.wavelengths = float(self._lowest.min()), float(self._highest.max())
        self.ra_limits = np.degrees(np.arctan(limits[0])).astype(np.float32)
        self.dec_limits = (np.degrees(np.arcsin(limits[1])) - dec_deg).astype(np.float32)

    def runs(self, n, low, high):
        """Runs of rows, see `musedeep.reduce.native.planes.Planes`."""
        return runs_of_blocks(self._lowest, self._highest, low, high)

    def place(self, n, start, stop):
        """Rows and their states, see `musedeep.reduce.native.planes.Planes`."""
        values, rows = self._space.read(self.table, start, stop)
        return values, self._space.states(rows["dq"], _place(*values))


def _place(x, y, wavelength, data, variance):
    """Move rows to the tangent plane in place; which of them can be used (uint8 array)."""
    usable, limits = np.empty(len(x), np.uint8), np.tile([np.inf, -np.inf], 3)
    place_rows(x, y, wavelength, data, variance, np.eye(3), np.zeros(2), x, y, usable, limits)
    return usable


def field_image(path, *, rows_of_a_slab=None):
    """White-light image of a reduced exposure, as muse_scipost makes it of a cube.

    Rows are drizzled into planes of 1.25 Angstrom on the recipe's grid, cosmic rays are rejected by its
    rule, and the mean of the planes from 4650 to 9300 Angstrom is taken; only some planes are in memory at a
    time.

    Parameters
    ----------
    path : Path
        PIXTABLE_REDUCED.
    rows_of_a_slab : int, optional
        About so many rows are in memory at a time.

    Returns
    -------
    image : float32 array (rows, columns)
        NaN without data.
    grid : VoxelGrid
        Of the cube that it would be the image of.

    Raises
    ------
    InputError
        The table is not a reduced one.
    """
    planes, grid = _planes(open_pixel_table(path), rows_of_a_slab)
    return planes.image()[0], grid


def _planes(table, rows_of_a_slab=None):
    """The planes that the image is made of, and the grid that they lie on."""
    observation = Observation(table.header, table.path)
    pointing = observation.number("RA"), observation.number("DEC")
    rows = _ReducedRows(table, *pointing)
    steps = sampling_arcsec(observation.mode)
    grid = eso_grid(rows.ra_limits, rows.dec_limits, *pointing, rows.wavelengths, steps)
    cd = np.array([[observation.number(f"CD{i}_{j}") for j in (1, 2)] for i in (1, 2)])
    drop = [_DROP * abs(scale) * 3600 / step for scale, step in zip(scales_from_cd(cd), steps, strict=True)]
    planes = Planes(
        rows,
        PlaneGrid(
            grid.shape,
            np.ascontiguousarray(
                grid.from_sky(sky_frame(*pointing)) @ np.diag([1 / _ARCSEC, 1 / _ARCSEC, 1])
            ),
            grid.wavelength_start,
            grid.wavelength_step,
        ),
        WHITE,
        drop=(*drop, _DROP * PLANE_ANGSTROM),
        crsigma=_CRSIGMA,
        direction=_direction(observation.position_angle_deg),
        rows_of_a_slab=rows_of_a_slab,
    )
    return planes, grid


def _direction(position_angle_deg):
    """Along which axis slices run: 1 for columns, 2 for rows, 0 for neither."""
    off = position_angle_deg % 180
    if min(off, 180 - off) < _TURN_DEG:
        return 1
    return 2 if abs(off - 90) < _TURN_DEG else 0


def write_field_image(path, output):
    """Write the IMAGE_FOV of a reduced exposure, with QC of the sources in the middle plane of its cube.

    Parameters
    ----------
    path : Path
        PIXTABLE_REDUCED.
    output : Path
        Replaced if it exists.

    Raises
    ------
    InputError
        The table is not a reduced one.
    """
    table = open_pixel_table(path)
    planes, grid = _planes(table)
    image = planes.image()[0]
    header = base_header(table)
    for name in [name for name in header if _OF_AXES.fullmatch(name)]:
        del header[name]
    cards = {
        "OBJECT": f"{header.get('OBJECT', '')} (white)".strip(),
        "ESO PRO CATG": "IMAGE_FOV",
        "ESO DRS MUSE FILTER NAME": "white",
        "ESO DRS MUSE FILTER FRACTION": WHITE.covered_percent(grid.wavelengths),
    }
    if table.header.get(f"{PIXTABLE_PREFIX}FFCORR"):
        cards["ESO DRS MUSE FLUX FFCORR"] = True
    wavelength = float(planes.grid.wavelength(grid.shape[0] // 2))
    seeing = seeing_cards(planes.middle, wavelength, sampling_arcsec(str(header.get("ESO INS MODE", ""))))
    cards |= {f"ESO QC SCIPOST {name}": value for name, value in seeing.items()}
    for name, value in cards.items():
        header[name if len(name) <= 8 else f"HIERARCH {name}"] = value
    data = extension_header("DATA", grid.to_header(), FLUX_UNIT, "", axes=2, has_variance=False)
    # as in the recipe's image, which is no science data product by itself
    data.update({"BUNIT": FLUX_UNIT, "HDUDOC": "DICD", "HDUVERS": "DICD version 6", "INHERIT": True})
    del data["OBJECT"]
    write_fits(output, [fits.PrimaryHDU(header=header), fits.ImageHDU(image, data)])
