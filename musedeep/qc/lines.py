"""The strongest emission line of a field: where it is, and images of it. Gas may lie where no star does."""

import math

import numpy as np

__all__ = ["LINE_BINS", "LINE_PLANES", "line_image", "line_strengths", "shift_evidence", "strongest_line"]

LINE_PLANES = 3
"""Planes of the image of a line, and of each of the two images of the continuum beside it."""
LINE_BINS = 5
"""Bins of so many planes about a line: continuum, gap, line, gap, continuum."""

# Planes that must be read at once for their median to stand for the continuum.
_FEWEST_PLANES = 10
# Fewer spaxels, with or without sources, do not tell a line from noise.
_FEWEST_SPAXELS = 100
# Standard deviation of a plane's strength in so few spaxels, of which twelve are one after the smoothing; and
# how many of them a line stands above the best of all planes without one.
_STRENGTH_ERROR = 0.7
_ABOVE_CHANCE = 3.0
_STRUCK = 5.0
# Neighbouring spaxels of the images share their noise; light of the continuum, and of the line, that remains
# because seeing and sampling differ from exposure to exposure.
_CORRELATED = 2.25
_CONTINUUM_LEFT = 0.05
_LINE_LEFT = 0.1
# Spaxels about the place that speaks most for a shift: one source, or what a cosmic ray left.
_ONE_PLACE = 8.0


def line_strengths(flux, variance, blank):
    """How much light of sources stands above, or below, the continuum in each of some planes.

    Parameters
    ----------
    flux, variance : ndarray, shape (planes, ny, nx), float32
        Neighbouring planes.
    blank : ndarray, shape (ny, nx), bool
        Sky without sources.

    Returns
    -------
    ndarray, shape (planes,), float64
        Mean square of the smoothed difference from the median of the planes, in units of the noise and of
        what is left of the continuum, off the blank sky over that on it; NaN with too few planes or too
        little sky.
    """
    from scipy.ndimage import gaussian_filter

    strengths = np.full(len(flux), math.nan)
    covered = np.isfinite(flux).all(axis=0) & (variance > 0).all(axis=0)
    sky, rest = blank & covered, ~blank & covered
    if len(flux) < _FEWEST_PLANES or min(sky.sum(), rest.sum()) < _FEWEST_SPAXELS:
        return strengths
    continuum = np.where(covered, np.median(flux, axis=0), 0.0)
    # the rows meet a star at other places in every plane: that is no line
    left = _CONTINUUM_LEFT * (continuum - np.median(continuum[sky]))
    noise = np.where(covered, np.sqrt(variance.mean(axis=0) + left**2), 1.0)
    for n in range(len(flux)):
        image = np.where(covered, flux[max(n - 1, 0) : n + 2].mean(axis=0), 0.0) - continuum
        image = gaussian_filter(image / noise, 1.0)
        image -= np.median(image[sky])
        strengths[n] = np.mean(image[rest] ** 2) / max(np.mean(image[sky] ** 2), 1e-30)
    return strengths


def strongest_line(strengths):
    """Plane in the middle of the strongest line that leaves room for the continuum on both sides, or None.

    The more planes there are, the further the best of them rises by chance: sqrt(2 ln n) standard deviations.

    Parameters
    ----------
    strengths : ndarray, shape (nz,)
    """
    margin = LINE_PLANES * LINE_BINS // 2 + 1
    inner = strengths[margin:-margin]
    tried = int(np.isfinite(inner).sum())
    if not tried:
        return None
    chance = math.sqrt(2 * math.log(tried))
    if np.nanmax(inner) < 1 + _STRENGTH_ERROR * (chance + _ABOVE_CHANCE):
        return None
    return margin + int(np.nanargmax(inner))


def line_image(sums):
    """Image of a line without the continuum and without cosmic rays, and its variance.

    Parameters
    ----------
    sums : ndarray, shape (LINE_BINS, 3, ny, nx), float32
        As `musedeep.kernels.white.drizzle_rows` makes them.

    Returns
    -------
    flux, variance : ndarray, shape (ny, nx), float32
        NaN where next to no rows lie.
    """
    from scipy.ndimage import median_filter

    weight, total, square = sums[[0, LINE_BINS // 2, -1]].astype(np.float64).swapaxes(0, 1)
    filled = weight > 0
    least = 0.5 * np.median(weight[filled]) if filled.any() else math.inf
    good = (weight > least).all(axis=0)
    safe = np.where(good, weight, 1.0)
    share = np.array([-0.5, 1.0, -0.5])[:, None, None]
    flux = np.where(good, (share * total / safe).sum(axis=0), 0.0)
    noise = np.sqrt((share**2 * square / safe**2).sum(axis=0))
    # a median of nine spaxels holds more than half of any peak of the PSF, and less of a cosmic ray
    around = median_filter(flux, 3)
    struck = (np.abs(around) < 0.5 * np.abs(flux)) & (np.abs(flux - around) > _STRUCK * noise)
    flux = np.where(struck, around, flux)
    return tuple(np.where(good, values, np.nan).astype(np.float32) for values in (flux, noise**2))


def shift_evidence(image, variance, continuum, others, shift, *, alone=False):
    """How surely an image, mostly that of a line, is seen in an exposure, and lies off the others.

    The image of the others is fitted to that of the exposure, where it is and shifted, each with a free flux
    and level; the difference of the two chi-squares tells the places apart. What a single place says does not
    count, unless it may stand `alone`.

    Parameters
    ----------
    image, variance, continuum : ndarray, shape (ny, nx)
        Of the exposure; the continuum tells how much of it may be left in the image.
    others : ndarray, shape (ny, nx)
        The line in the other exposures.
    shift : (float, float)
        Rows and columns from the others to the exposure.
    alone : bool
        Whether one source is proof enough: where cosmic rays were taken out of both images.

    Returns
    -------
    seen : float
        Signal-to-noise ratio of the line without the surroundings of its brightest source.
    gain : float
        Of chi-square at the shifted place, without the surroundings of the spaxel that speaks most for it.
    expected : float
        All that a true shift would gain.
    share : float
        How much of the shift, from 0 to 1, fits best, without those surroundings.
    """
    from scipy.ndimage import gaussian_filter
    from scipy.ndimage import shift as shifted

    empty = ~np.isfinite(others)
    # smooth, or else what is moved would fit better for being smoother
    filled = gaussian_filter(np.where(empty, 0.0, others).astype(np.float64), 1.0)
    moved = shifted(filled, shift, order=3)
    good = np.isfinite(image) & np.isfinite(variance) & np.isfinite(continuum) & ~empty
    good &= shifted(empty.astype(float), shift, order=1, cval=1.0) < 0.01
    if good.sum() < _FEWEST_SPAXELS:
        return 0.0, 0.0, 0.0, 0.0
    a, level = image[good].astype(np.float64), np.median(continuum[good])
    left = (_CONTINUUM_LEFT * (continuum[good] - level)) ** 2 + (_LINE_LEFT * filled[good]) ** 2
    weight = 1 / (_CORRELATED * variance[good] + left + (_LINE_LEFT * moved[good]) ** 2)
    residual, other = (_amplitude(a, model[good], weight)[1] for model in (filled, moved))
    _, missed = _amplitude(a - other, filled[good], weight)
    better, true = weight * (residual**2 - other**2), weight * missed**2
    every = np.ones(len(a), bool)
    rest = every if alone else _without_best(better, good)
    gain, of_rest = float(better[rest].sum()), float(true[rest].sum())
    # chi-square is a parabola about the place that fits best
    share = (1 + gain / max(of_rest, 1e-30)) / 2
    several = every if alone else _without_best(weight * filled[good] ** 2, good)
    seen = max(_amplitude(a[several], m[good][several], weight[several])[0] for m in (filled, moved))
    return seen, gain, float(true.sum()), min(max(share, 0.0), 1.0)


def _without_best(values, good):
    """Which of the values, given for the good spaxels, lie away from the place where they are largest."""
    from scipy.ndimage import gaussian_filter

    image = np.zeros(good.shape)
    image[good] = values
    row, column = np.unravel_index(np.argmax(gaussian_filter(image, 2.0)), image.shape)
    rows, columns = np.nonzero(good)
    return np.hypot(rows - row, columns - column) > _ONE_PLACE


def _amplitude(values, model, weight):
    """Significance of a model's positive amplitude beside a free level, and what it leaves of the values."""
    values, model = (v - np.average(v, weights=weight) for v in (values, model))
    square = float((weight * model**2).sum())
    amplitude = max(float((weight * values * model).sum()) / max(square, 1e-30), 0.0)
    return amplitude * math.sqrt(square), values - amplitude * model
