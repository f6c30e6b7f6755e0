"""How deep a cube is: limiting magnitude, of all and in boxes, noise of a voxel, peak of the background."""

import math
from dataclasses import dataclass

import numpy as np

__all__ = [
    "BOX_PIXELS",
    "Depth",
    "DepthSums",
    "FluxPeak",
    "LocalLimits",
    "VarianceHistogram",
    "flux_peak",
    "limiting_magnitude",
    "local_limits",
    "measure_depth",
]

BOX_PIXELS = 32
_SIGMA_OF_MAD = 1.4826
_FWHM_OF_SIGMA = math.sqrt(4.0 * math.log(4.0))
# What is left of a Gaussian below its mode has this part of its standard deviation.
_LOWER_HALF = math.sqrt(1.0 - 2.0 / math.pi)
# The pipeline writes this factor with fewer digits than _FWHM_OF_SIGMA.
_FWHM_OF_SIGMA_IN_AREA = 2.35482
_LEAST_PIXELS = 50
_PLANE_ROUNDS = 4

_ESO_VARIANCE_BIN, _ESO_VARIANCE_MOST = 0.04, 25.0
_VARIANCE_BINS = 250  # of the median, where ESO's bin is too coarse or ESO's histogram ends too early
_FINE_SHIFT = 12  # what is left of a float32's bits: 2048 bins for each factor of two
_HISTO_DEX = 1.7


def limiting_magnitude(image, fwhm_pixels, wavelength_nm):
    """Limiting magnitude ABMAGLIM of an image, by the formula of muse_exp_combine.

    The image is smoothed by the seeing, and the noise told from the pixels below the mode, where no sources
    are: sigma = 1.4826 MAD / sqrt(1 - 2/pi). A point source is detected at 5 sigma, with the optimal
    extraction's area of 4 pi (FWHM / 2.35482)^2 pixels.

    Parameters
    ----------
    image : ndarray, shape (ny, nx), 1e-20 erg/s/cm2/Angstrom
        Mean of all planes of a cube, NaN without data.
    fwhm_pixels : float
        Seeing (SKY_RES) in pixels.
    wavelength_nm : (float, float)
        WAVELMIN and WAVELMAX.

    Returns
    -------
    float
        AB magnitudes; NaN where the image has too few pixels or no noise.

    Notes
    -----
    Quality parameter of the MUSE pipeline from version 2.8.6; the ESO Science Data Products Standard defines
    its meaning. It saturates in deep fields, since gradients widen what it takes for noise: see
    `local_limits`.
    """
    smoothed = _smoothed(np.asarray(image, np.float64), fwhm_pixels)
    noise = _noise_below_mode(smoothed[np.isfinite(smoothed)])
    return _magnitude(noise, fwhm_pixels, wavelength_nm)


@dataclass(frozen=True)
class LocalLimits:
    """Limiting magnitudes in boxes.

    Attributes
    ----------
    magnitudes : ndarray, shape (rows, columns), float64
        One for each box, NaN where less than half of it has data.
    y_edges, x_edges : ndarray of int
        Pixels at which the boxes begin and end; one more than there are boxes.
    median : float
        Magnitude that half of the area reaches.
    """

    magnitudes: np.ndarray
    y_edges: np.ndarray
    x_edges: np.ndarray
    median: float

    def map(self, valid):
        """The limits as an image.

        Parameters
        ----------
        valid : ndarray, shape (ny, nx), bool
            Pixels that have data.

        Returns
        -------
        ndarray, shape (ny, nx), float32
            Every pixel with the magnitude of its box; NaN without data.
        """
        rows, columns = np.diff(self.y_edges), np.diff(self.x_edges)
        full = np.repeat(np.repeat(self.magnitudes, rows, axis=0), columns, axis=1)
        return np.where(valid, full, np.nan).astype(np.float32)


def local_limits(image, fwhm_pixels, wavelength_nm, box_pixels=BOX_PIXELS):
    """Limiting magnitudes in sub-windows, each by the formula of `limiting_magnitude`.

    What varies over more than a box is no noise here: a plane is taken off each box, fitted without sources.
    So the limit goes on growing with exposure time where that of the whole image is held up by gradients.
    The image is smoothed as a whole: boxes have no edges.

    Parameters
    ----------
    image, fwhm_pixels, wavelength_nm
        As for `limiting_magnitude`.
    box_pixels : int
        Side of a box, as nearly as the image can be cut into equal ones.

    Returns
    -------
    LocalLimits
    """
    image = np.asarray(image, np.float64)
    smoothed = _smoothed(image, fwhm_pixels)
    y_edges, x_edges = (_edges(length, box_pixels) for length in image.shape)
    magnitudes = np.full((len(y_edges) - 1, len(x_edges) - 1), np.nan)
    areas = np.zeros(magnitudes.shape)
    for row, column in np.ndindex(*magnitudes.shape):
        box = slice(*y_edges[row : row + 2]), slice(*x_edges[column : column + 2])
        known = np.isfinite(image[box])
        if known.mean() < 0.5:
            continue
        noise = _noise_below_mode(_without_plane(smoothed[box], known))
        magnitudes[row, column] = _magnitude(noise, fwhm_pixels, wavelength_nm)
        areas[row, column] = known.sum()
    return LocalLimits(magnitudes, y_edges, x_edges, _weighted_median(magnitudes, areas))


def _without_plane(values, known):
    """The known values of a box less the plane of its background."""
    y, x = np.nonzero(known)
    values, places = values[known], np.column_stack([np.ones(len(x)), x, y])
    background = np.ones(len(values), bool)
    for _ in range(_PLANE_ROUNDS):
        plane = np.linalg.lstsq(places[background], values[background], rcond=None)[0]
        rest = values - places @ plane
        near = np.abs(rest - np.median(rest)) <= 2.5 * _mad(rest)
        if near.sum() < _LEAST_PIXELS:
            break
        background = near
    return rest


def _edges(length, step):
    return np.linspace(0, length, max(1, round(length / step)) + 1).astype(int)


def _weighted_median(values, weights):
    known = np.isfinite(values)
    if not known.any():
        return math.nan
    order = np.argsort(values[known])
    total = np.cumsum(weights[known][order])
    return float(np.interp(total[-1] / 2, total - weights[known][order] / 2, values[known][order]))


def _smoothed(image, fwhm_pixels):
    """Mean of the valid pixels around each, weighted by a Gaussian cut off at one FWHM on either side."""
    reach = np.arange(-int(fwhm_pixels), int(fwhm_pixels) + 1)
    kernel = np.exp(-0.5 * (reach * _FWHM_OF_SIGMA / fwhm_pixels) ** 2)
    valid = np.isfinite(image)
    total, weight = np.where(valid, image, 0.0), valid.astype(np.float64)
    for _ in range(2):  # along x, then along y
        total, weight = (_along_x(values, kernel).T for values in (total, weight))
    # Sums of zeros only, which rounding may leave a little beside 0.
    empty = weight <= 1e-12
    return np.where(empty, np.nan, total / np.where(empty, 1.0, weight))


def _along_x(values, kernel):
    """Sums with a kernel along x; beyond the edges the pixels are repeated as in a mirror."""
    padded = np.pad(values, ((0, 0), (kernel.size // 2,) * 2), mode="symmetric")
    return sum(factor * padded[:, n : n + values.shape[1]] for n, factor in enumerate(kernel))


def _noise_below_mode(values):
    """Standard deviation of the background, told from the values below the mode; NaN where there is none."""
    if len(values) < _LEAST_PIXELS:
        return math.nan
    mode = _mode(values)
    noise = _mad(values[values <= mode]) / _LOWER_HALF
    return noise if noise > 0 else math.nan


def _mad(values):
    """Median absolute deviation in units of a Gaussian's sigma."""
    return _SIGMA_OF_MAD * float(np.median(np.abs(values - np.median(values)))) if len(values) else math.nan


def _mode(values):
    """Mode of a histogram with bins of 2 * 3.49 * sigma / n^(1/3), weighted by those beside the fullest."""
    width = 2.0 * 3.49 * _mad(values) / len(values) ** (1.0 / 3.0)
    if not width > 0:
        return float(np.median(values))
    start = float(values.min()) - 0.5 * width
    last = math.floor(float(values.max() - values.min()) / width)
    # Only bins with something in them: bright stars may lie millions of bins away.
    bins, counts = np.unique(
        np.minimum(((values - start) / width).astype(np.int64), last), return_counts=True
    )
    fullest = np.flatnonzero(counts == counts.max())
    if len(fullest) > 1:
        return start + width * float(bins[fullest].mean())
    found = dict(zip(bins.tolist(), counts.tolist(), strict=True))
    middle = int(bins[fullest[0]])
    left, right = (found[middle] - found.get(middle + side, 0) for side in (-1, 1))
    return start + width * (middle + (left / (left + right) if left else 0.5))


def _magnitude(noise, fwhm_pixels, wavelength_nm):
    if not noise > 0:
        return math.nan
    low, high = (10.0 * edge for edge in wavelength_nm)
    # Per wavelength to per frequency: 3.34e4 lambda^2, with 3631 Jy at magnitude 0 and the data in 1e-20.
    zero = 50.0 - 2.5 * math.log10(3.34e4 * low * high / 3631.0)
    area = 4.0 * math.pi * (fwhm_pixels / _FWHM_OF_SIGMA_IN_AREA) ** 2
    return zero - 2.5 * math.log10(5.0 * noise * area)


@dataclass(frozen=True)
class FluxPeak:
    """The peak of an image's histogram of fluxes.

    Attributes
    ----------
    mode : float
        Flux at the maximum.
    histo_17 : float
        Flux on the lower side at which the count has fallen by 1.7 dex, to a fiftieth of the maximum's.
        Subtracting too much sky drives it down; ESO's limit is -20. NaN where the image is too small to tell.
    edges, counts : ndarray
        The histogram: n + 1 edges and n counts.
    """

    mode: float
    histo_17: float
    edges: np.ndarray
    counts: np.ndarray

    @property
    def sigma(self):
        """Width of the peak, if it is a Gaussian, which falls by 1.7 dex within 2.80 of its sigma."""
        return (self.mode - self.histo_17) / math.sqrt(2.0 * _HISTO_DEX * math.log(10.0))


def flux_peak(image):
    """Mode and HISTO_17 of an image.

    Bins are 0.2 of the sigma of the background, as the lower side of the histogram tells it, and both fluxes
    are interpolated: the mode by a parabola through the three bins at the maximum, the other between the
    logarithms of the counts.

    Parameters
    ----------
    image : ndarray
        NaN without data; usually the white-light image in 1e-20 erg/s/cm2/Angstrom.

    Returns
    -------
    FluxPeak
        With NaN, and no counts, of an image that has less than 50 pixels or no noise.
    """
    values = np.asarray(image, np.float64)
    values = values[np.isfinite(values)]
    width = 0.2 * _noise_below_mode(values)
    if not width > 0:
        return FluxPeak(math.nan, math.nan, np.zeros(0), np.zeros(0, int))
    rough = _mode(values)
    # Nothing beyond 100 bins tells of the peak, but outliers would make the histogram huge.
    near = values[np.abs(values - rough) < 100 * width]
    start = (math.floor(near.min() / width) - 1) * width
    counts = np.bincount(((near - start) / width).astype(int))
    edges = start + width * np.arange(len(counts) + 1)
    top = int(np.argmax(counts))
    return FluxPeak(_parabola(counts, edges, width, top), _fallen(counts, edges, width, top), edges, counts)


def _parabola(counts, edges, width, top):
    left, middle, right = (float(counts[k]) if 0 <= k < len(counts) else 0.0 for k in (top - 1, top, top + 1))
    bend = left - 2.0 * middle + right
    return float(edges[top] + width * (0.5 + (0.5 * (left - right) / bend if bend else 0.0)))


def _fallen(counts, edges, width, top):
    """Flux below the maximum at which the logarithm of the counts crosses the level of 1.7 dex less."""
    level = math.log10(counts[top]) - _HISTO_DEX
    if level < 0:
        return math.nan
    below = np.flatnonzero(np.log10(np.maximum(counts[:top], 0.5)) < level)
    if len(below) == 0:
        return math.nan
    last = int(below[-1])
    low, high = (math.log10(max(float(counts[k]), 0.5)) for k in (last, last + 1))
    return float(edges[last] + width * (0.5 + (level - low) / (high - low)))


class VarianceHistogram:
    """Variances of all voxels, fed slab by slab: what PIXNOISE is told from.

    ESO's histogram has bins of 0.04 and ends at 25, so every cube with a typical variance below a few
    hundredths has the same PIXNOISE, and one above 25 has none. Here the variances are counted in bins of a
    part in two thousand, and the mode is taken with ESO's bin where that serves.
    """

    def __init__(self):
        self._fine = np.zeros(1 << (31 - _FINE_SHIFT), np.int64)
        self._coarse = np.zeros(round(_ESO_VARIANCE_MOST / _ESO_VARIANCE_BIN), np.int64)

    def add(self, variance):
        """Add variances: ndarray of any shape, float32; what is not finite or not above 0 does not count."""
        variance = np.asarray(variance, np.float32)
        # plane by plane, as counting takes six times the memory of the values
        for plane in variance if variance.ndim > 2 else [variance]:
            self._add(plane[(plane > 0) & (plane < np.inf)])

    def _add(self, values):
        self._fine += np.bincount(values.view(np.uint32) >> _FINE_SHIFT, minlength=len(self._fine))
        bins = (values[values < _ESO_VARIANCE_MOST].astype(np.float64) / _ESO_VARIANCE_BIN).astype(np.int64)
        self._coarse += np.bincount(bins, minlength=len(self._coarse))[: len(self._coarse)]

    def median(self):
        """Median of the variances; NaN without any."""
        total = int(self._fine.sum())
        if total == 0:
            return math.nan
        return float(self._edges()[np.searchsorted(np.cumsum(self._fine), total / 2)])

    def eso_mode(self):
        """Centre of the fullest bin of ESO's histogram; NaN where it is empty."""
        if not self._coarse.any():
            return math.nan
        return (int(np.argmax(self._coarse)) + 0.5) * _ESO_VARIANCE_BIN

    def mode(self):
        """Mode of the variances.

        Returns
        -------
        float
            That of ESO's histogram where the median lies between 10 and 25; else the centre of the fullest
            bin of a histogram with bins of a 250th of the median. NaN without any variance.
        """
        median = self.median()
        if not median > 0:
            return math.nan
        if _VARIANCE_BINS * _ESO_VARIANCE_BIN <= median <= _ESO_VARIANCE_MOST:
            return self.eso_mode()
        width = median / _VARIANCE_BINS
        edges = np.arange(20 * _VARIANCE_BINS + 1) * width
        # The fine counts are spread over their bins, so that the two kinds of bins make no beat.
        below = np.interp(edges, self._edges(), np.append(0, np.cumsum(self._fine)))
        return (int(np.argmax(np.diff(below))) + 0.5) * width

    def _edges(self):
        bits = np.arange(len(self._fine) + 1, dtype=np.uint32) << np.uint32(_FINE_SHIFT)
        # From the bits of infinity on they are no numbers; no variance lies there.
        numbers = bits < np.float32(np.inf).view(np.uint32)
        edges = np.full(len(bits), np.inf)
        edges[numbers] = bits[numbers].view(np.float32)
        return edges


@dataclass(frozen=True)
class Depth:
    """How deep a cube is.

    Attributes
    ----------
    limit : float
        ABMAGLIM by the pipeline's formula, AB magnitudes; NaN where it cannot be told.
    local : LocalLimits
        The same in boxes.
    pixel_sigma, eso_pixel_sigma : float
        Typical noise of a voxel, in the unit of the cube: root of the mode of its variances; with ESO's bin.
    fwhm_pixels : float
        Seeing that was assumed.
    """

    limit: float
    local: LocalLimits
    pixel_sigma: float
    eso_pixel_sigma: float
    fwhm_pixels: float


class DepthSums:
    """What the depth of a cube is told from, fed slab by slab.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx).
    """

    def __init__(self, shape):
        self._sum, self._count = np.zeros(shape), np.zeros(shape, np.int64)
        self.variances = VarianceHistogram()

    def add(self, flux, variance):
        """Add planes; two ndarrays, shape (n, ny, nx), float32, NaN without data."""
        for plane in flux:
            valid = np.isfinite(plane)
            self._sum += np.where(valid, plane, np.float32(0))
            self._count += valid
        self.variances.add(variance)

    def mean_image(self):
        """Mean of all planes, without a filter; ndarray, shape (ny, nx), float64, NaN without data."""
        return np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)

    def depth(self, fwhm_pixels, wavelength_nm, box_pixels=BOX_PIXELS):
        """The depth.

        Parameters
        ----------
        fwhm_pixels, wavelength_nm, box_pixels
            As for `local_limits`.

        Returns
        -------
        Depth
        """
        image = self.mean_image()
        return Depth(
            limit=limiting_magnitude(image, fwhm_pixels, wavelength_nm),
            local=local_limits(image, fwhm_pixels, wavelength_nm, box_pixels),
            pixel_sigma=math.sqrt(self.variances.mode()),
            eso_pixel_sigma=math.sqrt(self.variances.eso_mode()),
            fwhm_pixels=fwhm_pixels,
        )


def measure_depth(store, fwhm_arcsec, box_pixels=BOX_PIXELS):
    """Depth of a cube store, read once and a few planes at a time.

    Parameters
    ----------
    store : CubeStore
    fwhm_arcsec : float
        Seeing, see `musedeep.resolution.sky_resolution`.
    box_pixels : int
        Side of the boxes of the local limits.

    Returns
    -------
    Depth
    """
    grid = store.grid
    sums = DepthSums(grid.shape[1:])
    for _, slab in store.slabs(("flux", "variance")):
        sums.add(slab["flux"], slab["variance"])
    edges = grid.wavelengths[[0, -1]] / 10.0
    return sums.depth(fwhm_arcsec / max(grid.step_arcsec), tuple(edges), box_pixels)
