"""Where an exposure shows the sky, and the spectrum of the rows there."""

import math
from dataclasses import dataclass, field

import numpy as np
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.images import WHITE
from musedeep.kernels.sky import select_sky, sum_spectrum
from musedeep.muse import DQ_BITS, PLANE_ANGSTROM, SLICE_COUNT
from musedeep.reduce.native.planes import PlaneGrid, Planes, RowSpace

__all__ = ["SkyMask", "SkySpectrum", "read_mask", "sky_mask", "sky_spectrum", "white_image"]

_DROP = 0.6
_ALONG_X = 1


@dataclass(frozen=True)
class SkyMask:
    """Pixels of the focal plane that show the sky.

    Attributes
    ----------
    chosen : bool array (rows, columns)
    corner : (float, float)
        x and y of the middle of the first pixel; pixels are one unit wide.
    low, high : float
        Limits of the image between which they lie.
    """

    chosen: np.ndarray = field(repr=False)
    corner: tuple
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class SkySpectrum:
    """The spectrum of the sky.

    Attributes
    ----------
    first, step : float, Angstrom
    flux, variance : float64 arrays (bins,)
        Weighted means of the values and of the variances of rows; NaN where there are none.
    slices : dict of int to int64 array (48,)
        By IFU, how many rows of each slice it was made of.
    """

    first: float
    step: float
    flux: np.ndarray = field(repr=False)
    variance: np.ndarray = field(repr=False)
    slices: dict = field(repr=False)

    @property
    def wavelength(self):
        """Wavelengths of the bins, Angstrom."""
        return self.first + self.step * np.arange(len(self.flux))


class _CalibratedRows:
    """The rows of an exposure, calibrated, in the focal plane.

    Parameters
    ----------
    tables : list of PixelTable
    plan : Plan
    """

    def __init__(self, tables, plan):
        self.tables, self.plan, self._space = tables, plan, RowSpace()
        self.row_counts = [table.row_count for table in tables]
        self.runs = plan.survey.runs

    def place(self, n, start, stop):
        """Rows of table n for `musedeep.reduce.native.planes.Planes`."""
        table = self.tables[n]
        values, rows = self._space.read(table, start, stop)
        self.plan.calibrate(rows, table.ifu)
        return values, self._space.states(rows["dq"])


def white_image(tables, plan, crsigma, *, rows_of_a_slab=None):
    """White-light image of the focal plane of an exposure.

    Parameters
    ----------
    tables : list of PixelTable
    plan : Plan
    crsigma : float
        Of the rejection of cosmic rays.
    rows_of_a_slab : int, optional
        About so many rows are in memory at a time.

    Returns
    -------
    image : float32 array
    corner : (float, float)
        x and y of the middle of its first pixel.
    struck : list of int64 arrays
        Of each table the numbers of rows that cosmic rays have struck.
    """
    (x0, x1), (y0, y1) = np.float32(plan.survey.refracted).astype(float)
    low, high = np.float32(plan.survey.wavelengths)
    shape = (
        math.ceil(float(high - low) / PLANE_ANGSTROM) + 1,
        math.floor(y1 - y0 + 0.5) + 1,
        math.floor(x1 - x0 + 0.5) + 1,
    )
    matrix = np.array([[1.0, 0.0, -x0], [0.0, 1.0, -y0], [0.0, 0.0, 1.0]])
    planes = Planes(
        _CalibratedRows(tables, plan), PlaneGrid(shape, matrix, float(low), PLANE_ANGSTROM), WHITE,
        drop=(_DROP, _DROP, _DROP * PLANE_ANGSTROM), crsigma=crsigma, direction=_ALONG_X,
        rows_of_a_slab=rows_of_a_slab,
    )  # fmt: skip
    image, struck = planes.image(struck=True)
    return image, (x0, y0), struck


def sky_mask(image, corner, fraction, ignore):
    """The darkest pixels of an image, without the very darkest.

    Parameters
    ----------
    image : float array, NaN without data
    corner : (float, float)
    fraction : float
        Part of the pixels that are not ignored.
    ignore : float
        Part of the pixels, the darkest, that are ignored.

    Returns
    -------
    SkyMask

    Raises
    ------
    InputError
        The image has no pixel with data.
    """
    values = np.sort(image[np.isfinite(image)].astype(np.float64))
    if len(values) == 0:
        raise InputError("the white-light image has no pixel with data: every row is flagged")
    places = [len(values) * part for part in (ignore, ignore + fraction * (1 - ignore))]
    low, high = (values[min(max(math.floor(place + 0.5) - 1, 0), len(values) - 1)] for place in places)
    with np.errstate(invalid="ignore"):
        chosen = (image >= low) & (image <= high)
    return SkyMask(chosen, corner, float(low), float(high))


def read_mask(path):
    """Read a SKY_MASK.

    Parameters
    ----------
    path : Path
        As muse_create_sky writes it: pixels of the focal plane.

    Returns
    -------
    SkyMask

    Raises
    ------
    InputError
        It is no such mask.
    """
    try:
        with fits.open(path) as hdus:
            hdu = next(hdu for hdu in hdus if hdu.is_image and hdu.data is not None)
            header, chosen = hdu.header, np.asarray(hdu.data) != 0
        pixel = [str(header.get(f"CTYPE{axis}", "")).strip() == "PIXEL" for axis in (1, 2)]
        corner = tuple(float(header[f"CRVAL{axis}"]) + 1 - float(header[f"CRPIX{axis}"]) for axis in (1, 2))
    except (OSError, StopIteration, KeyError, AttributeError) as error:
        raise InputError(f"{path}: not a SKY_MASK ({error}); is it the right file?") from error
    if chosen.ndim != 2 or not all(pixel):
        raise InputError(
            f"{path}: not a mask of the focal plane (CTYPE1 {header.get('CTYPE1')!r}, 'PIXEL' is wanted); "
            "give the SKY_MASK of muse_create_sky or muse_scipost"
        )
    return SkyMask(chosen, corner)


def sky_spectrum(tables, plan, mask, struck, step, crsigma, chunk_rows):
    """Mean spectrum of the rows of the sky, once more without those far above it.

    Parameters
    ----------
    tables : list of PixelTable
    plan : Plan
    mask : SkyMask
    struck : list of int64 arrays
        Rows to leave out, see `white_image`.
    step : float
        Angstrom a bin.
    crsigma : float
        Rows that lie above the spectrum by so many standard deviations of the rows of their bin are left out.
    chunk_rows : int
        Rows in memory at a time.

    Returns
    -------
    SkySpectrum

    Raises
    ------
    InputError
        No row lies on the sky.
    """
    low, high = (float(np.float32(value)) for value in plan.survey.wavelengths)
    bins = math.floor((high - low) / step) + 2
    limit = np.full(bins, np.inf)
    for _ in range(2):
        sums = np.zeros((bins, 4))
        slices = {table.ifu: np.zeros(SLICE_COUNT, np.int64) for table in tables}
        for table, rows in _rows_of_sky(tables, plan, mask, struck, chunk_rows):
            sum_spectrum(rows["lambda"], rows["data"], rows["stat"], low, step, limit, sums)
            slices[table.ifu] += np.bincount((rows["origin"] & 0x3F) - 1, minlength=SLICE_COUNT)
        if not sums[:, 0].any():
            raise InputError(f"{tables[0].path}: no good row lies on the sky; give another fraction or mask")
        with np.errstate(invalid="ignore", divide="ignore"):
            flux, variance = sums[:, 1] / sums[:, 0], sums[:, 2] / sums[:, 0]
            limit = flux + crsigma * np.sqrt(sums[:, 3] / sums[:, 0] - flux**2)
        limit[~np.isfinite(limit)] = np.inf
        if crsigma <= 0:
            break
    return SkySpectrum(low, step, flux, variance, slices)


def _rows_of_sky(tables, plan, mask, struck, chunk_rows):
    """Tables and calibrated rows of the sky."""
    place = np.array([-mask.corner[0], -mask.corner[1], 1.0, 1.0])
    chosen = np.empty(chunk_rows, np.int64)
    names = ("lambda", "xpos", "ypos", "dq", "data", "stat", "origin")
    for table, bad in zip(tables, struck, strict=True):
        for start in range(0, table.row_count, chunk_rows):
            rows = table.read_columns(names, start, min(start + chunk_rows, table.row_count))
            a, b = np.searchsorted(bad, (start, start + chunk_rows))
            rows["dq"][bad[a:b] - start] |= np.uint32(DQ_BITS["cosmic_ray"])
            count = select_sky(*(rows[name] for name in names[:4]), plan.air, mask.chosen, place, chosen)
            rows = {name: values[chosen[:count]] for name, values in rows.items()}
            plan.calibrate(rows, table.ifu)
            yield table, rows
