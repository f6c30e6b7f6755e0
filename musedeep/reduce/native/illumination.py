"""What evens out the slices and the field: a lamp frame beside the exposure, and the twilight sky."""

from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.kernels.detector import flatten_rows
from musedeep.reduce.native.reading import reading
from musedeep.reduce.native.slices import slice_rows

__all__ = ["LAMP_ANGSTROM", "Twilight", "illumination_factors", "read_twilight"]

LAMP_ANGSTROM = (6500.0, 7500.0)
"""Where the light of slices is compared."""


@dataclass(frozen=True)
class Twilight:
    """The twilight sky over the field, 1 on average.

    Attributes
    ----------
    cube : float32 array (planes, rows, columns)
    origin : float64 array (4,)
        Reference pixel (x, y; 1-based), and the focal-plane coordinates there.
    inverse : float64 array (2, 2)
        Pixels of the cube for one pixel of the focal plane.
    first, step : float, Angstrom
        Of the planes.
    fluxes : dict of int to float
        Flux of the twilight in every IFU.
    """

    cube: np.ndarray
    origin: np.ndarray
    inverse: np.ndarray
    first: float
    step: float
    fluxes: dict

    def flatten(self, rows):
        """Divide rows (dict of columns) by it in place."""
        flatten_rows(
            rows["xpos"], rows["ypos"], rows["lambda"], rows["data"], rows["stat"], self.cube, self.origin,
            self.inverse, self.first, self.step,
        )  # fmt: skip


def illumination_factors(slices, lamp):
    """Factors that even out the slices of an IFU, 1 on average.

    Parameters
    ----------
    slices : list of Slice
    lamp : Calibrated
        A frame of the lamp, divided by the flat field.

    Returns
    -------
    dict of int to float
        By number of the slice.

    Raises
    ------
    InputError
        The lamp was off.
    """
    medians = {}
    for piece, rows in slice_rows(slices, lamp, wavelengths=LAMP_ANGSTROM):
        # bad pixels too, as in the recipe: they do not move a median
        medians[piece.number] = float(np.median(rows["data"])) if len(rows["data"]) else np.nan
        if not medians[piece.number] > 0:
            raise InputError(
                f"ILLUM: slice {piece.number} of IFU {piece.ifu} has a median of {medians[piece.number]:g} "
                "between 6500 and 7500 Angstrom; leave this frame out"
            )
    mean = np.mean([1 / value for value in medians.values()])
    return {number: 1 / value / mean for number, value in medians.items()}


def read_twilight(path):
    """Read a TWILIGHT_CUBE.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Twilight

    Raises
    ------
    InputError
        It has no cube, or no coordinates.
    """
    with reading(path, "the cube of the twilight"), fits.open(path) as hdus:
        primary, header = hdus[0].header, hdus["DATA"].header
        cube = np.asarray(hdus["DATA"].data, np.float32)
        axes = {name: float(header[name]) for name in _keywords()}
    if cube.ndim != 3 or axes["CD3_3"] <= 0:
        raise InputError(
            f"{path}: shape {cube.shape}, CD3_3 {axes['CD3_3']:g}; a cube with growing wavelengths is wanted"
        )
    cd = np.array([[axes[f"CD{i}_{j}"] for j in (1, 2)] for i in (1, 2)])
    origin = np.array([axes[name] for name in ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2")])
    first = axes["CRVAL3"] + (1 - axes["CRPIX3"]) * axes["CD3_3"]
    start = "ESO DRS MUSE FLAT FLUX SKY"
    fluxes = {
        int(name.removeprefix(start)): float(primary[name]) for name in primary if name.startswith(start)
    }
    return Twilight(cube, origin, np.linalg.inv(cd), first, axes["CD3_3"], fluxes)


def _keywords():
    names = [f"{start}{axis}" for start in ("CRPIX", "CRVAL") for axis in (1, 2, 3)]
    return [*names, "CD1_1", "CD1_2", "CD2_1", "CD2_2", "CD3_3"]
