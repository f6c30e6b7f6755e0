"""The simulated instrument: where slices lie on sky and detector, how it disperses, what it counts.

The same instrument stands behind every simulation: its irregularities come from a fixed seed. Focal-plane
coordinates are in pixels of 0.2 arcsec (wide field), centred on the field, x mirrored to the detector.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from musedeep.muse import (
    DETECTOR_LINES,
    DQ_BITS,
    IFU_COUNT,
    PLANE_ANGSTROM,
    SLICE_COUNT,
    SLICE_SKY_NUMBERS,
    SLICES_PER_STACK,
)

__all__ = [
    "CountTables",
    "DEFECT_NAMES",
    "READ_NOISE_ELECTRONS",
    "SlicePart",
    "Slitlet",
    "atmospheric_shift",
    "calibration_cd",
    "count_tables",
    "defects",
    "projection_cd",
    "slice_parts",
    "slitlets",
]

READ_NOISE_ELECTRONS = 2.6
DEFECT_NAMES = ("low_qe", "hot_pixel", "dead_pixel", "other_bad")

_INSTRUMENT_SEED = 20140131
_FIELD_PIXELS = 300.0
_SLICE_WIDTH = 75.6
_COLUMNS = 76
_DARK_ELECTRONS_PER_SECOND = 3.0 / 3600
_ELECTRONS_PER_UNIT_SECOND = 4.4e-4
_SKY_CONTINUUM = 55.0
_SKY_LINE_FWHM = 2.6
_COUNT_TABLE = (4500.0, 9800.0, 0.1)
# wavelength (Angstrom) and integrated flux (1e-20 erg/s/cm2 a spaxel) of the brighter lines of the night sky
_SKY_LINES = (
    (5197.9, 200), (5577.3, 15000), (5889.9, 1500), (5895.9, 800), (6300.3, 12000), (6363.8, 4000),
    (6498.7, 500), (6533.0, 600), (6553.6, 500), (6863.9, 1500), (6923.2, 1400), (7276.4, 2500),
    (7316.3, 2600), (7340.9, 3000), (7714.0, 2500), (7750.6, 4000), (7794.1, 4500), (7821.5, 3500),
    (7913.7, 4500), (7964.6, 4800), (7993.3, 4600), (8344.6, 4000), (8399.2, 6000), (8430.2, 5500),
    (8465.4, 4000), (8761.0, 3500), (8827.1, 7000), (8867.6, 6500), (8885.9, 7500), (8919.6, 6000),
    (8958.1, 5000), (9313.0, 5000),
)  # fmt: skip


@dataclass(frozen=True)
class Slitlet:
    """One slice of one IFU.

    Attributes
    ----------
    ifu, number : int, IFU 1 to 24 and slice 1 to 48 in the order of the detector.
    x, y : float, centre in the focal plane, pixels.
    width : float, length of the slice in the focal plane, pixels.
    angle : float, tilt, radians.
    left, right : float64 arrays (4112,), edges on the detector at every line, 1-based columns.
    wavelength : float64 array (4112,), Angstrom at the middle of the slice.
    bow, tilt : float, Angstrom, change of the wavelength at the ends of the slice: even and odd part.
    throughput : float, relative.
    """

    ifu: int
    number: int
    x: float
    y: float
    width: float
    angle: float
    left: np.ndarray
    right: np.ndarray
    wavelength: np.ndarray
    bow: float
    tilt: float
    throughput: float

    @property
    def xoffset(self) -> int:
        """Offset of the slice's columns, as the header gives it."""
        return int(math.floor(self.left[0])) - 20


@dataclass(frozen=True)
class SlicePart:
    """The rows of one slice that lie in the patch of sky and in the wavelength range.

    Attributes
    ----------
    slitlet : Slitlet
    lines : (first, last + 1), 0-based detector lines.
    columns : (first, last + 1), detector columns counted from the left edge of the slice.
    row_count : int
    """

    slitlet: Slitlet
    lines: tuple[int, int]
    columns: tuple[int, int]
    row_count: int

    def detector(self):
        """Detector x (lines, columns) and y (lines, 1) of the part's pixels, 1-based, int64."""
        first = np.ceil(self.slitlet.left[slice(*self.lines)]).astype(np.int64)
        return first[:, None] + np.arange(*self.columns), np.arange(*self.lines)[:, None] + 1

    def wavelength(self, stretch):
        """Wavelengths (lines, columns), float32, Angstrom, times `stretch`; and which are on the slice."""
        x, _ = self.detector()
        left, right = (edge[slice(*self.lines)][:, None] for edge in (self.slitlet.left, self.slitlet.right))
        along = (2 * x - left - right) / (right - left)
        middle = self.slitlet.wavelength[slice(*self.lines)][:, None]
        bent = middle + (self.slitlet.bow * along + self.slitlet.tilt) * along
        return (bent * stretch).astype(np.float32), x <= np.floor(right)

    def focal_plane(self):
        """Focal-plane x and y of the columns (columns,), and what each line adds to x (lines,)."""
        slitlet, lines = self.slitlet, slice(*self.lines)
        left, right = slitlet.left[lines], slitlet.right[lines]
        pitch = slitlet.width / (slitlet.right[0] - slitlet.left[0])
        # the detector runs against the sky; the edges keep their distance, hence the sum
        added = ((left + right) / 2 - np.ceil(left)) * pitch
        along = -np.arange(*self.columns) * pitch
        cos, sin = math.cos(slitlet.angle), math.sin(slitlet.angle)
        middle = (slitlet.right[0] - slitlet.left[0]) / 2 * pitch
        return slitlet.x + along * cos, slitlet.y + (along + middle) * sin, added * cos


@lru_cache(maxsize=IFU_COUNT)
def slitlets(ifu: int) -> tuple[Slitlet, ...]:
    """The 48 slices of an IFU (1 to 24) in the order of the detector."""
    rng = np.random.default_rng((_INSTRUMENT_SEED, ifu))
    pitch = _FIELD_PIXELS / (IFU_COUNT * SLICES_PER_STACK)
    ifu_x, ifu_angle, ifu_throughput = rng.normal((0, 0, 1), (0.4, 5e-4, 0.03))
    stack_y = rng.normal(0, 0.06, 4)
    line = np.arange(DETECTOR_LINES)
    across = (line - DETECTOR_LINES / 2) / (DETECTOR_LINES / 2)
    made = []
    for number, sky in enumerate(SLICE_SKY_NUMBERS, start=1):
        stack, place = divmod(sky - 1, SLICES_PER_STACK)
        scatter = rng.normal(0, (0.12, 0.04, 0.15, 3e-4, 0.4, 0.2, 2.0, 0.15, 0.2, 0.02))
        width = _SLICE_WIDTH + scatter[2]
        left = 26.0 + (number - 1) * 84.4 + scatter[4] + 1.5 * (number / 24.5 - 1) * across**2
        start = 4555.0 + 12 * ((number - 1) % 3) + scatter[6]
        row = (IFU_COUNT - ifu) * SLICES_PER_STACK + SLICES_PER_STACK - 1 - place
        made.append(
            Slitlet(
                ifu=ifu,
                number=number,
                x=(stack - 1.5) * (_FIELD_PIXELS / 4) + ifu_x + scatter[0],
                y=(row + 0.5) * pitch - _FIELD_PIXELS / 2 + stack_y[stack] + scatter[1],
                width=width,
                angle=ifu_angle + scatter[3],
                left=left,
                right=left + width * 1.003 + scatter[5],
                wavelength=start + PLANE_ANGSTROM * line + 6.0 * across**2,
                bow=0.8 + scatter[7],
                tilt=scatter[8],
                throughput=ifu_throughput + scatter[9],
            )
        )
    return tuple(made)


def slice_parts(ifu, half_width, wavelength, stretch) -> Iterator[SlicePart]:
    """The parts of an IFU's slices inside a centred square of the field and a wavelength range.

    Parameters
    ----------
    ifu : int
    half_width : float
        Half the side of the square, pixels.
    wavelength : (low, high)
        Angstrom.
    stretch : float
        Factor on the wavelengths, such as the barycentric correction.
    """
    low, high = np.float32(wavelength)
    for slitlet in slitlets(ifu):
        if abs(slitlet.y) > half_width or abs(slitlet.x) > half_width + slitlet.width / 2:
            continue
        full = SlicePart(slitlet, (0, DETECTOR_LINES), (0, math.ceil(slitlet.width * 1.02)), 0)
        x, _, added = full.focal_plane()
        columns = np.flatnonzero(np.abs(x + added.mean()) <= half_width)
        middle = slitlet.wavelength * stretch
        lines = np.flatnonzero((middle >= low - 4) & (middle <= high + 4))
        if len(columns) == 0 or len(lines) == 0:
            continue
        part = SlicePart(slitlet, (lines[0], lines[-1] + 1), (columns[0], columns[-1] + 1), 0)
        values, on_slice = part.wavelength(stretch)
        count = int(np.count_nonzero(on_slice & (values >= low) & (values <= high)))
        if count:
            yield SlicePart(slitlet, part.lines, part.columns, count)


def calibration_cd(sampling_arcsec):
    """CD matrix (deg per pixel) of the astrometric calibration: slightly off scale, slightly turned."""
    dx, dy = sampling_arcsec
    return np.array([[-0.9996 * dx, -0.0021 * dx], [0.0013 * dy, 0.9998 * dy]]) / 3600


def projection_cd(cd, position_angle_deg):
    """CD matrix (deg per pixel) that projects an exposure of a position angle, from the calibration's CD."""
    scales = np.hypot(*cd.T)
    inverse = np.linalg.inv(cd / scales[:, None])
    angle = math.radians(position_angle_deg)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return turn @ (inverse * scales[:, None])


def atmospheric_shift(wavelength, airmass):
    """Differential refraction towards the zenith relative to 7000 Angstrom.

    Parameters
    ----------
    wavelength : float array, Angstrom
    airmass : float

    Returns
    -------
    shift : float64 array, arcsec
    """

    def refractivity(angstrom):
        square = (1e4 / angstrom) ** 2
        sea_level = 64.328 + 29498.1 / (146 - square) + 255.4 / (41 - square)
        return sea_level * 1e-6 * (743.0 / 1013.25) * (288.15 / 285.15)

    tangent = math.sqrt(airmass**2 - 1)
    return np.degrees(refractivity(np.asarray(wavelength)) - refractivity(7000.0)) * 3600 * tangent


@dataclass(frozen=True)
class CountTables:
    """What the detector counts, tabulated over wavelength.

    Attributes
    ----------
    electrons_per_unit : float32 array, electrons that 1e-20 erg/s/cm2/Angstrom in a spaxel gives.
    background : float32 array, electrons of the night sky and the dark current in a pixel.
    """

    electrons_per_unit: np.ndarray
    background: np.ndarray

    def index(self, wavelength):
        """Index (int32 array) of wavelengths (float array, Angstrom) in the tables."""
        start, stop, step = _COUNT_TABLE
        index = ((wavelength - np.float32(start)) * np.float32(1 / step) + np.float32(0.5)).astype(np.int32)
        return np.clip(index, 0, len(self.background) - 1, out=index)


@lru_cache(maxsize=8)
def count_tables(exptime: float, spaxel_arcsec2: float = 0.04) -> CountTables:
    """Tables of an exposure time (s) and the area of a spaxel (arcsec2)."""
    wavelength = np.arange(*_COUNT_TABLE)
    bell = np.exp(-0.5 * ((wavelength - 7000.0) / 1900.0) ** 2)
    per_unit = _ELECTRONS_PER_UNIT_SECOND * exptime * bell
    sky = _SKY_CONTINUUM * (0.8 + 0.2 * wavelength / 7000)
    sigma = _SKY_LINE_FWHM / (2 * math.sqrt(2 * math.log(2)))
    for centre, flux in _SKY_LINES:
        peak = flux / (sigma * math.sqrt(2 * math.pi))
        sky += peak * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
    background = per_unit * sky * (spaxel_arcsec2 / 0.04) + _DARK_ELECTRONS_PER_SECOND * exptime
    return CountTables(per_unit.astype(np.float32), background.astype(np.float32))


def defects(part, fraction):
    """Defective pixels of the detector, the same in every exposure.

    Parameters
    ----------
    part : SlicePart
    fraction : float
        Share of all pixels that are defective.

    Returns
    -------
    line, column : int64 arrays, indices into the arrays of the part
    bits : uint32 array, DQ flags
    """
    line, column, bits = _defects_of_slice(part.slitlet.ifu, part.slitlet.number, fraction)
    (first, last), (left, right) = part.lines, part.columns
    here = (line >= first) & (line < last) & (column >= left) & (column < right)
    return line[here] - first, column[here] - left, bits[here]


@lru_cache(maxsize=IFU_COUNT * SLICE_COUNT)
def _defects_of_slice(ifu, number, fraction):
    rng = np.random.default_rng((_INSTRUMENT_SEED, ifu, number, 1))
    count = rng.poisson(fraction * DETECTOR_LINES * _COLUMNS)
    line, column = rng.integers(0, DETECTOR_LINES, count), rng.integers(0, _COLUMNS, count)
    return line, column, rng.choice(np.array([DQ_BITS[name] for name in DEFECT_NAMES], np.uint32), count)
