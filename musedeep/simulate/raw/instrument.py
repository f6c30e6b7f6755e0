"""The spectrograph as its master calibrations describe it: traces, wavelengths and places of slices.

Everything is a polynomial, so that tables of the calibrations give exactly what the raw frames were made
with. A small instrument has fewer IFUs, shorter slices and fewer detector lines than the real one; the size
of its spaxels and its dispersion are the real ones.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial import polynomial

from musedeep.muse import IFU_COUNT, PLANE_ANGSTROM, SLICE_SKY_NUMBERS, SLICES_PER_STACK

__all__ = ["DetectorSlice", "Spectrograph", "TRACE_ORDER", "WAVELENGTH_ORDERS"]

TRACE_ORDER = 5
WAVELENGTH_ORDERS = (2, 6)
_SEED = 20140131
_PITCH = 300.0 / (IFU_COUNT * SLICES_PER_STACK)
_FIRST_COLUMN = 26.0


@dataclass(frozen=True)
class DetectorSlice:
    """One slice of one IFU on the detector and in the focal plane.

    Attributes
    ----------
    number, sky_number : int
        From 1: in the order of the detector, and of the sky.
    x, y : float
        Centre in the focal plane, pixels.
    width : float
        Length in the focal plane, pixels.
    angle : float
        Tilt, radians.
    middle : float64 array (6,)
        Coefficients of the slice's middle, 1-based column, over the 1-based line.
    columns : float
        Width on the detector.
    wavelength : float64 array (3, 7)
        Coefficients of the wavelength (Angstrom) over powers of column and line.
    """

    number: int
    sky_number: int
    x: float
    y: float
    width: float
    angle: float
    middle: np.ndarray
    columns: float
    wavelength: np.ndarray

    def pixels(self, lines):
        """Detector pixels of the slice.

        Parameters
        ----------
        lines : int
            Lines of the detector.

        Returns
        -------
        x, y : int64 arrays (lines, columns) and (lines, 1), 1-based
        inside : bool array (lines, columns)
            Which of them lie between the edges.
        """
        y = np.arange(1, lines + 1)[:, None]
        left, right = self.edges(y)
        x = np.ceil(left).astype(np.int64) + np.arange(math.floor(self.columns) + 1)
        return x, y, x <= np.floor(right)

    def edges(self, y):
        """Columns (float64) of the left and the right edge at lines (array, 1-based)."""
        middle = polynomial.polyval(y, self.middle)
        return middle - self.columns / 2, middle + self.columns / 2

    def wavelengths(self, x, y):
        """Wavelengths (float64, Angstrom) of pixels."""
        return polynomial.polyval2d(*np.broadcast_arrays(x.astype(float), y.astype(float)), self.wavelength)

    def focal_plane(self, x, y):
        """Focal-plane x and y (float64, pixels) of detector pixels; the detector runs against the sky."""
        along = (polynomial.polyval(y, self.middle) - x) / self.columns * self.width
        return self.x + along * math.cos(self.angle), self.y + along * math.sin(self.angle)


@dataclass(frozen=True)
class Spectrograph:
    """A spectrograph of some IFUs.

    Parameters
    ----------
    ifus : tuple of int
        Numbers of the IFUs, 1 to 24.
    slice_columns : float
        Detector columns of a slice; 75.9 in the real instrument.
    columns, lines : int
        Of the detector: 4096 and 4112 in the real instrument.
    blue : float
        Wavelength of the first line, Angstrom; 4550 in the real instrument.
    """

    ifus: tuple[int, ...]
    slice_columns: float = 75.9
    columns: int = 4096
    lines: int = 4112
    blue: float = 4550.0

    def slices(self, ifu):
        """The 48 slices (tuple of DetectorSlice) of an IFU in the order of the detector."""
        return _slices(ifu, self.slice_columns, self.columns, self.lines, self.blue)

    def throughput(self, ifu):
        """Throughput of an IFU relative to the first, which sets the scale of the fluxes."""
        own, first = (1 + np.random.default_rng((_SEED, n, 2)).normal(0, 0.03) for n in (ifu, self.ifus[0]))
        return float(own / first)

    @property
    def height(self):
        """Height of the field in focal-plane pixels."""
        return len(self.ifus) * SLICES_PER_STACK * _PITCH

    def limits(self, low, high):
        """Smallest and largest focal-plane coordinates of the pixels in a range of wavelengths.

        Parameters
        ----------
        low, high : float
            Angstrom.

        Returns
        -------
        (xlow, xhigh), (ylow, yhigh) : float
        """
        return _limits(self, low, high)


@lru_cache(maxsize=4)
def _limits(spectrograph, low, high):
    ranges = []
    for ifu in spectrograph.ifus:
        for piece in spectrograph.slices(ifu):
            x, y, inside = piece.pixels(spectrograph.lines)
            wavelength = piece.wavelengths(x, y)
            kept = inside & (wavelength >= low) & (wavelength <= high)
            across, along = piece.focal_plane(x, y)
            if kept.any():
                found = across[kept], along[kept]
                ranges.append([(values.min(), values.max()) for values in found])
    ranges = np.array(ranges)
    return tuple((ranges[:, axis, 0].min(), ranges[:, axis, 1].max()) for axis in (0, 1))


@lru_cache(maxsize=4 * IFU_COUNT)
def _slices(ifu, columns, detector_columns, lines, blue):
    rng = np.random.default_rng((_SEED, ifu, 1))
    scale = columns / 75.9
    made = []
    for number, sky in enumerate(SLICE_SKY_NUMBERS, start=1):
        stack, place = divmod(sky - 1, SLICES_PER_STACK)
        scatter = rng.normal(0, (0.1, 0.04, 0.15, 3e-4, 0.2, 2.0, 0.15, 0.2))
        row = (IFU_COUNT - ifu) * SLICES_PER_STACK + SLICES_PER_STACK - 1 - place
        width = columns + scatter[2] * scale
        on_detector = columns * 1.003 + scatter[4] * scale
        centre = _FIRST_COLUMN + (number - 1) * (detector_columns - 30) / 48 + columns / 2
        # offset from the middle line over half the lines, as a polynomial of the 1-based line
        across = np.array([-1 - 2 / lines, 2 / lines])
        square = polynomial.polymul(across, across)
        middle = polynomial.polyadd([centre], 1.5 * scale * (number / 24.5 - 1) * square)
        start = blue + 5 + 12 * ((number - 1) % 3) + scatter[5]
        made.append(
            DetectorSlice(
                number=number,
                sky_number=sky,
                x=(stack - 1.5) * columns + scatter[0],
                y=(row + 0.5) * _PITCH - 150 + scatter[1],
                width=width,
                angle=scatter[3],
                middle=np.pad(middle, (0, TRACE_ORDER + 1 - len(middle))),
                columns=on_detector,
                wavelength=_dispersion(start, square, middle, on_detector, 0.8 + scatter[6], scatter[7]),
            )
        )
    return tuple(made)


def _dispersion(start, square, middle, columns, bow, tilt):
    """Coefficients (3, 7) of the wavelength: bent along the lines, bent and tilted along the slice."""
    along = -2 / columns * np.asarray(middle)
    slope = 2 / columns
    coefficients = np.zeros((WAVELENGTH_ORDERS[0] + 1, WAVELENGTH_ORDERS[1] + 1))

    def add(power, values):
        coefficients[power, : len(values)] += values

    add(0, polynomial.polyadd([start - PLANE_ANGSTROM, PLANE_ANGSTROM], 6.0 * square))
    add(0, tilt * along)
    add(0, bow * polynomial.polymul(along, along))
    add(1, [tilt * slope])
    add(1, 2 * bow * slope * along)
    add(2, [bow * slope**2])
    return coefficients
