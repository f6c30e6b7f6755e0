"""The strongest emission line of a field: where it is, and images of it. Gas may lie where no star does."""

import math

import numpy as np

__all__ = ["LINE_BINS", "LINE_PLANES", "line_image", "line_strengths", "strongest_line"]

LINE_PLANES = 3
"""Planes of the image of a line, and of each of the two images of the continuum beside it."""
LINE_BINS = 5
"""Bins of so many planes about a line: continuum, gap, line, gap, continuum."""

# Planes that must be read at once for their median to stand for the continuum.
_FEWEST_PLANES = 10
# Mean square of a line's image on sources, over that of the noise, from which it is one.
_LEAST_STRENGTH = 4.0
_STRUCK = 5.0


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
        Mean square of the smoothed difference from the median of the planes, in units of the noise, off the
        blank sky over that on it; NaN with too few planes or too little sky.
    """
    from scipy.ndimage import gaussian_filter

    strengths = np.full(len(flux), math.nan)
    covered = np.isfinite(flux).all(axis=0) & (variance > 0).all(axis=0)
    sky, rest = blank & covered, ~blank & covered
    if len(flux) < _FEWEST_PLANES or min(sky.sum(), rest.sum()) < 20:
        return strengths
    noise = np.where(covered, np.sqrt(variance.mean(axis=0)), 1.0)
    continuum = np.where(covered, np.median(flux, axis=0), 0.0)
    for n in range(len(flux)):
        image = np.where(covered, flux[max(n - 1, 0) : n + 2].mean(axis=0), 0.0) - continuum
        image = gaussian_filter(image / noise, 1.0)
        image -= np.median(image[sky])
        strengths[n] = np.mean(image[rest] ** 2) / max(np.mean(image[sky] ** 2), 1e-30)
    return strengths


def strongest_line(strengths):
    """Plane in the middle of the strongest line that leaves room for the continuum on both sides, or None.

    Parameters
    ----------
    strengths : ndarray, shape (nz,)
    """
    margin = LINE_PLANES * LINE_BINS // 2 + 1
    inner = strengths[margin:-margin]
    if not np.isfinite(inner).any() or np.nanmax(inner) < _LEAST_STRENGTH:
        return None
    return margin + int(np.nanargmax(inner))


def line_image(sums):
    """Image of a line without the continuum and without cosmic rays.

    Parameters
    ----------
    sums : ndarray, shape (LINE_BINS, 3, ny, nx), float32
        As `musedeep.kernels.white.drizzle_rows` makes them.

    Returns
    -------
    ndarray, shape (ny, nx), float32
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
    return np.where(good, np.where(struck, around, flux), np.nan).astype(np.float32)
