"""Sources of a white-light image: found as DAOFIND does, then fitted together with the image's own PSF."""

import math
import warnings
from dataclasses import dataclass

import numpy as np

__all__ = ["Background", "Sources", "background_of", "find_sources", "moffat"]

_BETA = 2.8
_FWHM_PER_MAD = 1.4826
_ROUNDS = 4
_MOST_CANDIDATES = 2000
# Peaks that are fitted, at most, for each one that is asked for.
_FITTED = 2
# Below this many standard deviations of the convolved image a peak is noise, whatever the threshold says.
_LEAST_SIGNIFICANCE = 5.0
# What the seeing is measured on, at most, and of those the sharper part: galaxies are wider than stars.
_PSF_SOURCES = 15
_SHARPER = 0.3
# Radii, in units of the FWHM, of the aperture for fluxes and of the ring around it.
_APERTURE = 2.5
_ANNULUS = 4.0
# Share of a neighbour's light that may be left where its model was taken off.
_UNCLEAN = 0.03


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

    def __len__(self):
        return len(self.x)


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
    return float(_FWHM_PER_MAD * np.median(np.abs(values)) / math.sqrt(6)) if len(values) else math.nan


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
    fit = _Fit(data, _variance(image, background), peaks["x"], peaks["y"], options.fwhm)
    fit.run()
    keep = fit.usable() & peaks["listed"]
    flux, flux_error = fit.aperture_fluxes()
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
    )


def _nothing(background, first=0, detected=0, threshold=math.nan):
    return Sources(*(np.empty(0) for _ in range(7)), first, detected, threshold, background, math.nan)


def _variance(image, background):
    """Variance of every pixel; infinite where there are no data."""
    floor = background.sigma**2
    known = np.full(image.flux.shape, floor) if image.variance is None else image.variance.astype(np.float64)
    return np.where(np.isfinite(image.flux) & np.isfinite(known), np.maximum(known, floor * 0.25), np.inf)


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


def moffat(radius2, fwhm, beta=_BETA):
    """Moffat profile of unit flux.

    Parameters
    ----------
    radius2 : ndarray
        Squared distance from the middle.
    fwhm : float or ndarray
        Full width at half maximum, in the same unit.
    beta : float, optional

    Returns
    -------
    ndarray of the broadcast shape
    """
    core2 = (np.asarray(fwhm) / 2) ** 2 / (2 ** (1 / beta) - 1)
    return (beta - 1) / (np.pi * core2) * (1 + radius2 / core2) ** -beta


class _Fit:
    """All sources of an image fitted together: position, flux, local background; a common PSF.

    Each round takes the models of all others off, so that neighbours do not pull on each other.
    """

    def __init__(self, data, variance, x, y, fwhm):
        self.data, self.variance = data, variance
        self.x, self.y = x.copy(), y.copy()
        self.start = x.copy(), y.copy()
        self.fwhm = float(fwhm)
        self.flux = np.zeros(len(x))
        self.position_error = self.flux_error = np.full(len(x), np.inf)
        self.gain = 0.0

    def run(self):
        """Measure the seeing, then fit."""
        self._fit_once(steps=3)
        for _ in range(2):
            self._measure_seeing()
            self._fit_once(steps=2)
        for _ in range(_ROUNDS):
            self._fit_once(steps=2)

    def usable(self):
        """Which sources were fitted well, stayed where they were found, and have a flux."""
        moved = np.hypot(self.x - self.start[0], self.y - self.start[1])
        good = np.isfinite(self.position_error) & (self.flux > 3 * self.flux_error)
        return good & (moved < max(1.5, 0.6 * self.fwhm)) & (self.position_error < 0.5 * self.fwhm)

    def aperture_fluxes(self):
        """Flux within a wide aperture, completed by the profile; and its standard error.

        The fitted flux follows the core, and takes the wings from a profile that suits one seeing better than
        another; here the profile answers for a few percent of the flux only. The error holds a share of the
        light of neighbours that was taken off, and what the aperture has more, or less, of than is usual in
        the image: the light of what was not found.
        """
        radius, outer = _APERTURE * self.fwhm, _ANNULUS * self.fwhm
        half = math.ceil(outer)
        scene = self._scene()
        rest = self.data - scene
        ny, nx = rest.shape
        core2 = (self.fwhm / 2) ** 2 / (2 ** (1 / _BETA) - 1)
        enclosed = 1 - (1 + radius**2 / core2) ** (1 - _BETA)
        flux, error, others = (np.empty_like(self.flux) for _ in range(3))
        for n, (x, y) in enumerate(zip(self.x, self.y, strict=True)):
            rows = np.arange(max(round(y) - half, 0), min(round(y) + half + 1, ny))
            columns = np.arange(max(round(x) - half, 0), min(round(x) + half + 1, nx))
            away = np.hypot(columns - x, (rows - y)[:, None])
            part = rest[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            variance = self.variance[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            good = np.isfinite(variance)
            ring, inside = good & (away > radius) & (away < outer), good & (away <= radius)
            level = np.median(part[ring]) if ring.any() else 0.0
            flux[n] = self.flux[n] + (part[inside].sum() - inside.sum() * level) / enclosed
            noise = variance[inside].sum() * (1 + inside.sum() / max(ring.sum(), 1))
            error[n] = math.hypot(math.sqrt(noise) / enclosed, self.flux_error[n])
            modelled = scene[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][away <= radius].sum()
            others[n] = max(modelled - self.flux[n] * enclosed, 0)
        excess = self._excess(flux / np.maximum(self.flux, 1e-30)) * np.abs(self.flux)
        return flux, np.sqrt(error**2 + (_UNCLEAN * others) ** 2 + excess**2)

    def _excess(self, ratio):
        """By how much a ratio of aperture to profile differs from that of most, where it is unusual."""
        known = np.isfinite(ratio) & self.usable()
        if not known.any():
            return np.zeros_like(ratio)
        off = np.abs(ratio - np.median(ratio[known]))
        usual = _FWHM_PER_MAD * np.median(off[known])
        return np.where(off > 2 * usual, off, 0.0)

    def _patches(self):
        """Pixels around every source: coordinates (n, p), data without the other sources, weights."""
        half = int(np.clip(math.ceil(1.5 * self.fwhm), 3, 15))
        offset = np.arange(-half, half + 1)
        dy, dx = (grid.ravel() for grid in np.meshgrid(offset, offset, indexing="ij"))
        round_patch = dx**2 + dy**2 <= (half + 0.5) ** 2
        px = np.rint(self.x).astype(int)[:, None] + dx[round_patch]
        py = np.rint(self.y).astype(int)[:, None] + dy[round_patch]
        ny, nx = self.data.shape
        inside = (px >= 0) & (px < nx) & (py >= 0) & (py < ny)
        cx, cy = np.clip(px, 0, nx - 1), np.clip(py, 0, ny - 1)
        own = self._profile(px, py) * self.flux[:, None]
        data = (self.data - self._scene())[cy, cx] + own
        variance = self.variance[cy, cx] + self.gain * np.maximum(own, 0)
        return px, py, data, np.where(inside, 1 / variance, 0.0)

    def _profile(self, px, py, fwhm=None):
        radius2 = (px - self.x[:, None]) ** 2 + (py - self.y[:, None]) ** 2
        return moffat(radius2, self.fwhm if fwhm is None else fwhm)

    def _scene(self):
        """Image of all fitted sources."""
        scene = np.zeros(self.data.shape)
        if not self.flux.any():
            return scene
        half = int(np.clip(math.ceil(4 * self.fwhm), 5, 40))
        ny, nx = scene.shape
        for x, y, flux in zip(self.x, self.y, self.flux, strict=True):
            i, j = round(x), round(y)
            columns = np.arange(max(i - half, 0), min(i + half + 1, nx))
            rows = np.arange(max(j - half, 0), min(j + half + 1, ny))
            radius2 = (columns - x) ** 2 + ((rows - y) ** 2)[:, None]
            scene[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += flux * moffat(radius2, self.fwhm)
        return scene

    def _fit_once(self, steps):
        px, py, data, weight = self._patches()
        background = np.zeros(len(self.x))
        for _ in range(steps):
            normal, gradient = self._equations(px, py, data - background[:, None], weight)
            change, variances = _solved(normal, gradient)
            shift = np.hypot(change[:, 0], change[:, 1])
            brake = np.minimum(1.0, 0.5 * self.fwhm / np.maximum(shift, 1e-9))
            self.x = self.x + brake * change[:, 0]
            self.y = self.y + brake * change[:, 1]
            self.flux = self.flux + change[:, 2]
            background += change[:, 3]
        own = self._profile(px, py) * self.flux[:, None]
        self._measure_gain(own, data - background[:, None] - own, weight)
        self.position_error = np.sqrt((variances[:, 0] + variances[:, 1]) / 2)
        self.flux_error = np.sqrt(variances[:, 2])

    def _equations(self, px, py, data, weight, fwhm=None):
        """Normal equations of x, y, flux and background, linearised about the present values."""
        profile = self._profile(px, py, fwhm)
        core2 = ((self.fwhm if fwhm is None else fwhm) / 2) ** 2 / (2 ** (1 / _BETA) - 1)
        dx, dy = px - self.x[:, None], py - self.y[:, None]
        slope = 2 * _BETA / (core2 + dx**2 + dy**2) * profile * np.maximum(self.flux, 1e-9)[:, None]
        parts = np.stack([slope * dx, slope * dy, profile, np.ones_like(profile)], axis=1)
        if not self.flux.any():
            # the first step finds the fluxes; a position cannot be improved before
            parts[:, :2] = 0
        weighted = parts * weight[:, None]
        residual = data - profile * self.flux[:, None]
        return weighted @ parts.transpose(0, 2, 1), (weighted @ residual[:, :, None])[..., 0]

    def _measure_gain(self, own, residual, weight):
        """Noise that grows with the flux: that of the photons, and what the profile does not describe."""
        bright = (weight > 0) & (own * np.sqrt(weight) > 5)
        if bright.sum() < 20:
            return
        floor = 1 / weight[bright] - self.gain * own[bright]
        # the median of a chi-square of one degree of freedom is 0.455
        extra = (residual[bright] ** 2 - 0.455 * floor) / (0.455 * own[bright])
        self.gain = max(float(np.median(extra)), 0.0)

    def _measure_seeing(self):
        """FWHM of the bright sources, each fitted by itself; the common one is that of the sharper ones."""
        signal = np.where(np.isfinite(self.flux_error), self.flux / self.flux_error, 0)
        chosen = np.argsort(-signal)[:_PSF_SOURCES]
        # what is left of cosmic rays is narrow, and fainter than the stars
        chosen = chosen[signal[chosen] >= 0.1 * signal[chosen[min(2, len(chosen) - 1)]]]
        part = _Fit(self.data, self.variance, self.x[chosen], self.y[chosen], self.fwhm)
        part.flux, part.gain = self.flux[chosen], self.gain
        px, py, data, weight = self._patches()
        widths = part.widths(px[chosen], py[chosen], data[chosen], weight[chosen])
        order = np.argsort(widths)
        share = np.cumsum(np.minimum(signal[chosen], 100)[order])
        if share.size and share[-1] > 0:
            self.fwhm = float(np.clip(np.interp(_SHARPER * share[-1], share, widths[order]), 1.5, 15))

    def widths(self, px, py, data, weight):
        """FWHM of every source of its own, pixels; from the best of a ladder of widths."""
        ladder = self.fwhm * np.geomspace(0.55, 1.8, 13)
        chi = np.empty((len(ladder), len(self.x)))
        for n, fwhm in enumerate(ladder):
            profile = self._profile(px, py, fwhm)
            parts = np.stack([profile, np.ones_like(profile)], axis=1)
            weighted = parts * weight[:, None]
            normal = weighted @ parts.transpose(0, 2, 1) + 1e-30 * np.eye(2)
            right = (weighted @ data[:, :, None])[..., 0]
            chi[n] = -(right * _solved(normal, right)[0]).sum(axis=1)
        best = np.clip(np.argmin(chi, axis=0), 1, len(ladder) - 2)
        at = np.arange(chi.shape[1])
        below, middle, above = (chi[best + n, at] for n in (-1, 0, 1))
        bend = below - 2 * middle + above
        move = np.divide(below - above, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
        return np.exp(np.log(ladder[best]) + np.clip(move, -1, 1) * np.log(ladder[1] / ladder[0]))


def _solved(normal, gradient):
    """Solutions and variances of many small systems; a parameter without information stays as it is."""
    diagonal = np.diagonal(normal, axis1=1, axis2=2)
    known = diagonal > 0
    scale = np.where(known, 1 / np.sqrt(np.where(known, diagonal, 1)), 0)
    scaled = normal * scale[:, :, None] * scale[:, None, :]
    inverse = np.linalg.inv(scaled + np.eye(normal.shape[1]) * np.where(known, 1e-9, 1.0)[:, None, :])
    solution = (inverse @ (gradient * scale)[:, :, None])[..., 0] * scale
    variances = np.diagonal(inverse, axis1=1, axis2=2) * scale**2
    return solution, np.where(known, variances, np.inf)
