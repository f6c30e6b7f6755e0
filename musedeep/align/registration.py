"""Offsets from the images themselves, where sources are too few: correlation, then least squares."""

import math
from dataclasses import dataclass

import numpy as np

from musedeep.align.sources import background_of

__all__ = ["Canvas", "Match", "correlate", "make_canvas", "register"]

_SPREAD = (0.0, 0.5, 0.8, 1.2, 1.7, 2.4, 3.2)
_STEPS = 12
_TUKEY = 4.685
# The PSF of two images is never quite the same: this share of the light counts as noise.
_LIKENESS = 0.03
# Least share of the smaller image that must overlap for a correlation to mean something.
_OVERLAP = 0.15
# Neighbouring pixels of a drizzled image share their noise.
_CORRELATED = 2.0
# What two images have in common must stand this many standard errors above nothing: noise has a place, too.
_ALIKE = 4.0


@dataclass(frozen=True)
class Canvas:
    """A plane of pixels, north up, x to the west, that all images are brought to.

    Attributes
    ----------
    frame : ndarray, shape (3, 3)
        Tangent frame, as `sky_frame` makes it.
    step_arcsec : float
    origin : (float, float)
        East and north, arcsec, of the middle of pixel (0, 0).
    shape : (int, int)
    """

    frame: np.ndarray
    step_arcsec: float
    origin: tuple
    shape: tuple

    def draw(self, image, offset):
        """An image on this canvas.

        Parameters
        ----------
        image : WhiteImage
        offset : Offset
            Is taken off.

        Returns
        -------
        ndarray of the canvas' shape, float32
            NaN without data; the median of the image is taken off.
        """
        from scipy.ndimage import map_coordinates

        good = np.isfinite(image.flux)
        level = np.median(image.flux[good]) if good.any() else 0.0
        back = np.linalg.inv(image.onto(self.frame, offset))
        row, column = np.mgrid[: self.shape[0], : self.shape[1]]
        east = self.origin[0] - column * self.step_arcsec
        north = self.origin[1] + row * self.step_arcsec
        x, y, w = (line[0] * east + line[1] * north + line[2] for line in back)
        filled = np.where(good, image.flux - level, 0.0)
        values = map_coordinates(filled, (y / w, x / w), order=3, mode="constant")
        inside = map_coordinates(good.astype(np.float32), (y / w, x / w), order=1, mode="constant")
        return np.where(inside > 0.999, values, np.nan).astype(np.float32)


@dataclass(frozen=True)
class Match:
    """How an image lies on another.

    Attributes
    ----------
    shift : ndarray, shape (2,), arcsec
        East and north: place in the image minus place in the other.
    error : ndarray, shape (2,), arcsec
    scale, scale_error : float
        Flux of the image over that of the other.
    level, level_error : float
        Background of the image minus that of the other, once scaled.
    """

    shift: np.ndarray
    error: np.ndarray
    scale: float
    scale_error: float
    level: float
    level_error: float


def make_canvas(frame, images, offsets, margin=0.0):
    """A canvas that holds images.

    Parameters
    ----------
    frame : ndarray, shape (3, 3)
    images : list of WhiteImage
    offsets : list of Offset
    margin : float
        Arcsec to add on every side.

    Returns
    -------
    Canvas
    """
    corners = []
    for image, offset in zip(images, offsets, strict=True):
        ny, nx = image.flux.shape
        edges = np.array([[0, 0, 1], [nx, 0, 1], [0, ny, 1], [nx, ny, 1]], float)
        x, y, w = image.onto(frame, offset) @ edges.T
        corners.append(np.column_stack([x / w, y / w]))
    corners = np.concatenate(corners)
    step = float(np.median([image.step_arcsec for image in images]))
    low, high = corners.min(axis=0) - margin, corners.max(axis=0) + margin
    shape = tuple(int(math.ceil(size / step)) + 1 for size in (high - low)[::-1])
    return Canvas(frame, step, (float(high[0]), float(low[1])), shape)


def correlate(image, other, reach):
    """Shift in whole pixels at which two images are most alike; their gaps do not count.

    Parameters
    ----------
    image, other : ndarray of one shape, float32
        NaN without data.
    reach : float
        Largest shift, pixels.

    Returns
    -------
    (shift, significance) or None
        Row and column, image minus other; the height of the peak above the other values of the
        correlation, in standard deviations. None where the images do not overlap.
    """
    from scipy.fft import irfft2, next_fast_len, rfft2

    size = tuple(next_fast_len(2 * length, real=True) for length in image.shape)
    (a, ma), (b, mb) = (_prepared(values) for values in (image, other))
    fa, fma, fa2 = (rfft2(values, size) for values in (a, ma, a * a))
    fb, fmb, fb2 = (np.conj(rfft2(values, size)) for values in (b, mb, b * b))
    count = np.maximum(irfft2(fma * fmb, size), 1e-9)
    sum_a, sum_b = irfft2(fa * fmb, size), irfft2(fma * fb, size)
    variance = (irfft2(fa2 * fmb, size) - sum_a**2 / count) * (irfft2(fma * fb2, size) - sum_b**2 / count)
    likeness = irfft2(fa * fb, size) - sum_a * sum_b / count
    rows, columns = (np.arange(length) for length in size)
    rows, columns = (np.where(p > n // 2, p - n, p) for p, n in zip((rows, columns), size, strict=True))
    allowed = (count > _OVERLAP * min(ma.sum(), mb.sum())) & (variance > 1e-12 * variance.max())
    allowed &= np.hypot(rows[:, None], columns) <= reach
    if not allowed.any():
        return None
    value = np.where(allowed, likeness / np.sqrt(np.where(allowed, variance, 1.0)), -2.0)
    # with less overlap the correlation of noise is larger
    value = np.where(allowed, value * np.sqrt(count / count.max()), -2.0)
    best = np.unravel_index(np.argmax(value), size)
    others = value[allowed]
    spread = 1.4826 * np.median(np.abs(others - np.median(others)))
    significance = (value[best] - np.median(others)) / max(spread, 1e-9)
    return np.array([rows[best[0]], columns[best[1]]]), float(significance)


def _prepared(values):
    """Smoothed, with the brightest parts held back, 0 without data; and where there are data."""
    from scipy.ndimage import gaussian_filter

    good = np.isfinite(values)
    smooth = gaussian_filter(np.where(good, values, 0.0).astype(np.float64), 1.5)
    noise = 1.4826 * np.median(np.abs(smooth[good] - np.median(smooth[good]))) if good.any() else 1.0
    return np.where(good, np.arcsinh(smooth / max(3 * noise, 1e-30)), 0.0), good.astype(np.float64)


def register(image, other, step_arcsec):
    """Least squares of an image on another: shift, flux scale and level.

    The sharper of the two is blurred until they are alike; robust weights leave out what is in one only.

    Parameters
    ----------
    image, other : ndarray of one shape, float32
        On one canvas, shifted by a few pixels at most.
    step_arcsec : float

    Returns
    -------
    Match or None
        None where too little overlaps, or nothing is there to hold on to.
    """
    from scipy.ndimage import shift as shifted

    good = np.isfinite(image) & np.isfinite(other)
    if good.sum() < 50:
        return None
    a, b = (np.where(np.isfinite(values), values, 0.0).astype(np.float64) for values in (image, other))
    move = np.zeros(2)
    blur = (0.0, 0.0)
    for turn in range(_STEPS):
        moved = shifted(b, move, order=3, mode="nearest")
        inside = good & (shifted((~np.isfinite(other)).astype(float), move, order=1, mode="nearest") < 0.01)
        if inside.sum() < 50:
            return None
        if turn in (0, 3):
            blur = _best_blur(a, moved, inside)
        fit = _fitted(_blurred(a, blur[0]), _blurred(moved, blur[1]), inside)
        if fit is None:
            return None
        values, errors = fit
        step = np.clip(values[:2], -1.0, 1.0)
        move += step
        if np.abs(move).max() > 0.5 * min(image.shape):
            return None
        if turn > 3 and np.abs(step).max() < 1e-3:
            break
    if not values[2] > _ALIKE * errors[2]:
        return None
    # rows run north, columns run west
    sky = np.array([-move[1], move[0]]) * step_arcsec
    return Match(
        sky,
        errors[[1, 0]] * step_arcsec,
        float(values[2]),
        float(errors[2]),
        float(values[3]),
        float(errors[3]),
    )


def _blurred(values, sigma):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values, sigma) if sigma > 0 else values


def _best_blur(a, b, inside):
    """Sigmas (for a, for b), one of them 0, that make the images most alike."""
    best = None
    for pair in [(0.0, sigma) for sigma in _SPREAD] + [(sigma, 0.0) for sigma in _SPREAD[1:]]:
        x, y = _blurred(b, pair[1])[inside], _blurred(a, pair[0])[inside]
        x, y = x - x.mean(), y - y.mean()
        # what is left of the image, as a share of it, so that blur in itself does not win
        rest = 1 - (x @ y) ** 2 / max((x @ x) * (y @ y), 1e-300)
        rest *= (y @ y) / max(_energy(a, inside), 1e-300) if pair[0] == 0 else 1.0
        if best is None or rest < best[0]:
            best = (rest, pair)
    return best[1]


def _energy(values, inside):
    part = values[inside] - values[inside].mean()
    return part @ part


def _fitted(a, b, inside):
    """Change of row and column, scale and level, with errors; None where there is nothing to hold on to."""
    slope = np.gradient(b)
    parts = np.stack([-slope[0][inside], -slope[1][inside], b[inside], np.ones(inside.sum())])
    y = a[inside]
    noise = background_of(np.where(inside, a, np.nan), 0.0, 1.0).sigma
    noise = noise if noise > 0 else 1e-30
    scale = 1.0
    trust = np.ones_like(y)
    for _ in range(6):
        weight = trust / (noise**2 + (_LIKENESS * scale * parts[2]) ** 2)
        design = parts * np.array([scale, scale, 1.0, 1.0])[:, None]
        normal = (design * weight) @ design.T
        size = np.sqrt(np.diag(normal))
        if not (size > 0).all():
            return None
        inverse = np.linalg.pinv(normal / size / size[:, None], rcond=1e-9) / size / size[:, None]
        values = inverse @ ((design * weight) @ y)
        residual = y - values @ design
        spread = residual * np.sqrt(weight / np.maximum(trust, 1e-12))
        typical = max(1.4826 * np.median(np.abs(spread)), 1e-30)
        trust = np.clip(1 - (spread / typical / _TUKEY) ** 2, 0, None) ** 2
        scale = values[2] if values[2] > 0 else scale
    errors = np.sqrt(np.diag(inverse)) * max(typical, 1.0) * _CORRELATED
    errors[:2] *= _dilution(b, inside, slope, weight)
    return values, errors


def _dilution(b, inside, slope, weight):
    """By how much shifts are known less well than the slopes of an image say: its noise has slopes, too."""
    noise = background_of(np.where(inside, b, np.nan), 0.0, 1.0).sigma
    steep = np.array([(weight * part[inside] ** 2).sum() for part in slope])
    # a slope is half the difference of two pixels
    return steep / np.maximum(steep - weight.sum() * noise**2 / 2, 0.01 * steep)
