"""Sources of a white-light image: found as DAOFIND does, then fitted together with the image's own PSF."""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np

from musedeep.align.fit import SourceFit

__all__ = ["Background", "Sources", "background_of", "find_sources"]

_SIGMA_PER_MAD = 1.4826
_MOST_CANDIDATES = 2000
# Peaks that are fitted, at most, for each one that is asked for.
_FITTED = 2
# Below this many standard deviations of the convolved image a peak is noise, whatever the threshold says.
_LEAST_SIGNIFICANCE = 5.0
_COLUMNS = ("x", "y", "flux", "position_error", "flux_error", "sharpness", "roundness")


@dataclass(frozen=True)
class Background:
    """Level and scatter of the dark part of an image, in its own unit.

    Attributes
    ----------
    median, mad : float
        Of the pixels between two quantiles, as muse_exp_align takes them (`mad` is the raw median absolute
        deviation of that part).
    sigma : float
        Standard deviation of the noise of a pixel, from the scatter between neighbours.
    """

    median: float
    mad: float
    sigma: float


@dataclass(frozen=True)
class Sources:
    """Sources of one image.

    Attributes
    ----------
    x, y : ndarray, shape (n,), float64
        Pixels, counted from 0.
    flux : ndarray, shape (n,), float64
        Total flux of the fitted profile, unit of the image times pixels.
    position_error, flux_error : ndarray, shape (n,), float64
        Standard errors: pixels (of each coordinate), and as `flux`.
    sharpness, roundness : ndarray, shape (n,), float64
        Of DAOFIND.
    first_detected : int
        Peaks above the threshold that the settings ask for.
    detected : int
        Peaks above the final threshold, before those near bad pixels were taken out.
    threshold : float
        The final one, in units of the image.
    background : Background
    fwhm : float
        Of the PSF, pixels; NaN without sources.
    points : bool
        Whether there are stars that tell the PSF: fluxes of galaxies and blends depend on the seeing.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    position_error: np.ndarray
    flux_error: np.ndarray
    sharpness: np.ndarray
    roundness: np.ndarray
    first_detected: int
    detected: int
    threshold: float
    background: Background
    fwhm: float
    points: bool = False

    def __len__(self):
        return len(self.x)

    def where(self, keep):
        """The sources for which `keep`, a bool or an array of them, is true; the rest stays as it is."""
        keep = np.broadcast_to(keep, len(self))
        return replace(self, **{name: getattr(self, name)[keep] for name in _COLUMNS})


def background_of(flux, ignore, fraction):
    """Background of an image.

    Parameters
    ----------
    flux : ndarray, shape (ny, nx), float32
        NaN without data.
    ignore, fraction : float
        Share of the darkest pixels that is left out, and share of the others that is taken (bkgignore and
        bkgfraction of muse_exp_align).

    Returns
    -------
    Background
        All NaN for an image without data.
    """
    good = np.sort(flux[np.isfinite(flux)].astype(np.float64))
    if len(good) < 2:
        return Background(math.nan, math.nan, math.nan)
    low, high = (
        good[min(max(round(len(good) * share) - 1, 0), len(good) - 1)]
        for share in (ignore, ignore + fraction * (1 - ignore))
    )
    dark = good[(good > low) & (good < high)]
    dark = dark if len(dark) else good
    median = float(np.median(dark))
    return Background(median, float(np.median(np.abs(dark - median))), _noise(flux))


def _noise(flux):
    """Noise of a pixel: sources and gradients drop out of the second differences along rows and columns."""
    steps = [flux[:, 4:] - 2 * flux[:, 2:-2] + flux[:, :-4], flux[4:] - 2 * flux[2:-2] + flux[:-4]]
    values = np.concatenate([step[np.isfinite(step)] for step in steps])
    return float(_SIGMA_PER_MAD * np.median(np.abs(values)) / math.sqrt(6)) if len(values) else math.nan


def find_sources(image, options, places=None):
    """Find the sources of an image and measure them.

    Parameters
    ----------
    image : WhiteImage
    options : AlignSettings
    places : ndarray, shape (n, 2), optional
        Pixels, counted from 0, where sources are, instead of those that would be detected.

    Returns
    -------
    Sources
        Brightest first; none where the image has no data or nothing stands out.
    """
    background = background_of(image.flux, options.bkgignore, options.bkgfraction)
    good = np.isfinite(image.flux)
    if not background.sigma > 0:
        return _nothing(background)
    data = np.where(good, image.flux - background.median, 0.0).astype(np.float64)
    if places is None:
        peaks, threshold, first, detected = _peaks(data, good, background, options)
    else:
        peaks, threshold, first, detected = _given(places, good)
    if len(peaks["x"]) == 0:
        return _nothing(background, first, detected, threshold)
    fit = _fit(image, data, background, peaks, options)
    fit.run()
    keep = fit.usable() & peaks["listed"]
    flux, flux_error = fit.whole_fluxes()
    order = np.flatnonzero(keep)[np.argsort(-fit.flux[keep], kind="stable")]
    return Sources(
        fit.x[order],
        fit.y[order],
        flux[order],
        fit.position_error[order],
        flux_error[order],
        peaks["sharpness"][order],
        peaks["roundness"][order],
        first,
        detected,
        threshold,
        background,
        fit.fwhm,
        fit.finds_points(),
    )


def _fit(image, data, background, peaks, options):
    """The fit of peaks to an image, or to its samples."""
    at = peaks["x"], peaks["y"], options.fwhm
    if image.samples is None:
        return SourceFit(data, _variance(image.flux, image.variance, background.sigma), *at)
    flux = image.samples.flux
    noise = background_of(flux, options.bkgignore, options.bkgfraction).sigma
    variance = _variance(flux, image.samples.variance, noise)
    data = np.where(np.isfinite(flux), flux - background.median, 0.0).astype(np.float64)
    return SourceFit(data, variance, *at, image.samples.places.astype(np.float64))


def _nothing(background, first=0, detected=0, threshold=math.nan):
    return Sources(*(np.empty(0) for _ in range(7)), first, detected, threshold, background, math.nan)


def _variance(flux, variance, sigma):
    """Variance of every pixel, not much less than its scatter; infinite where there are no data."""
    floor = sigma**2
    known = np.full(flux.shape, floor) if variance is None else variance.astype(np.float64)
    return np.where(np.isfinite(flux) & np.isfinite(known), np.maximum(known, floor * 0.25), np.inf)


def _peaks(data, good, background, options):
    """Peaks above the threshold that suits srcmin and srcmax; it, and the numbers above the first and it.

    Those that are not `listed`, too near to bad pixels or too many, are fitted for their neighbours' sake.
    """
    found = _daofind(data, background, options)
    start = options.threshold if options.threshold > 0 else -options.threshold * background.mad
    threshold = _walk(found["height"], start, options)
    above = found["height"] >= threshold
    detected = int(above.sum())
    clear = above & _far_from_bad(found["x"], found["y"], good, options.bpixdistance)
    order = np.flatnonzero(above)[np.argsort(-found["height"][above], kind="stable")]
    order = order[: _FITTED * options.srcmax]
    first = int((found["height"] >= start).sum())
    peaks = {name: values[order] for name, values in found.items()}
    listed = clear[order] & (np.cumsum(clear[order]) <= options.srcmax)
    return peaks | {"listed": listed}, threshold, first, detected


def _given(places, good):
    """Peaks where a list says, as `_peaks` gives them; those without data drop out."""
    kept = places[_far_from_bad(places[:, 0], places[:, 1], good, 0.0)]
    unknown = np.full(len(kept), np.nan)
    peaks = {"x": kept[:, 0], "y": kept[:, 1], "sharpness": unknown, "roundness": unknown}
    return peaks | {"listed": np.ones(len(kept), bool)}, math.nan, len(kept), len(kept)


def _walk(heights, start, options):
    """The threshold at which the walk by `step` ends, without the walk.

    As long as there are more than srcmax peaks it rises, with fewer than srcmin it falls; where no step gives
    a number in between, the lowest one with at most srcmax peaks is taken.
    """
    ordered = np.sort(heights)[::-1]

    def count(value):
        return int(np.searchsorted(-ordered, -value, side="right"))

    if options.srcmin <= count(start) <= options.srcmax or len(ordered) == 0:
        return float(start)
    if count(start) > options.srcmax:
        # just above the first peak that is too many
        rise = (ordered[options.srcmax] - start) / options.step
        return float(start + options.step * min(math.floor(rise) + 1, options.iterations))
    needed = ordered[min(options.srcmin, len(ordered)) - 1]
    steps = min(math.ceil((start - needed) / options.step), options.iterations)
    lowest = start - options.step * steps
    # A step too long for the scale of this image must not end below all of it, or beyond srcmax.
    return float(lowest if 0 < lowest and count(lowest) <= options.srcmax else needed)


def _daofind(data, background, options):
    """Every peak that stands out of the noise: place, height above its surroundings, shape."""
    from photutils.detection import DAOStarFinder
    from photutils.utils.exceptions import NoDetectionsWarning

    lowest = _LEAST_SIGNIFICANCE * background.sigma * _kernel_error(options.fwhm)
    finder = DAOStarFinder(
        lowest,
        options.fwhm,
        sharpness_range=(options.sharpmin, options.sharpmax),
        roundness_range=(options.roundmin, options.roundmax),
        min_separation=0,
        n_brightest=_MOST_CANDIDATES,
        scale_threshold=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        table = finder(data)
    names = {"x": "x_centroid", "y": "y_centroid", "sharpness": "sharpness", "roundness": "roundness2"}
    if table is None:
        return {name: np.empty(0) for name in (*names, "height")}
    found = {name: np.array(table[column], float) for name, column in names.items()}
    # the height of the convolved image is told as a magnitude below the threshold only
    return found | {"height": lowest * 10 ** (-0.4 * np.array(table["daofind_mag"], float))}


def _kernel_error(fwhm):
    """Noise of the convolved image over that of a pixel, for DAOFIND's lowered Gaussian."""
    sigma = fwhm / (2 * math.sqrt(2 * math.log(2)))
    radius = max(2.0, 1.5 * sigma)
    half = int(radius)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    inside = x**2 + y**2 <= radius**2
    profile = np.exp(-(x**2 + y**2) / (2 * sigma**2))[inside]
    return 1 / math.sqrt((profile**2).sum() - profile.sum() ** 2 / inside.sum())


def _far_from_bad(x, y, good, distance):
    """Whether each place keeps its distance (pixels) from pixels without data and from the border."""
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(good, 1)
    away = distance_transform_edt(padded)[1:-1, 1:-1]
    ny, nx = good.shape
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    clear = np.zeros(len(x), bool)
    clear[inside] = away[row[inside], column[inside]] > distance
    return clear
