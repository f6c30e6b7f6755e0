"""The bias that an output has along its lines, from the overscan beside its pixels."""

import numpy as np
from numpy.polynomial import chebyshev

__all__ = ["HIGHEST", "fit_overscan"]

HIGHEST = 65500
"""Counts above it are saturated."""

_HIGHEST_ORDER = 15
_FACTOR = 1.00001
_CLIP_SIGMA = 30.0


def fit_overscan(strip):
    """Fit a polynomial to an overscan, along its lines.

    The order grows from 0 to 15 as long as the scatter becomes smaller by more than 1e-5 of it; the order
    that fails is taken. Saturated values are left out, then those off by more than thirty sigma, again
    and again until all that are left lie nearer.

    Parameters
    ----------
    strip : integer array (lines, columns)

    Returns
    -------
    levels : float64 array (lines,)
    """
    values = strip.astype(np.float64)
    place = np.linspace(-1, 1, len(values))
    kept = (strip > 0) & (strip <= HIGHEST)
    before = np.inf
    for order in range(_HIGHEST_ORDER + 1):
        levels, scatter = _fit(place, values, kept, order)
        if before <= _FACTOR * scatter:
            break
        before = scatter
    while True:
        near = kept & (np.abs(values - levels[:, None]) <= _CLIP_SIGMA * scatter)
        if near.sum() == kept.sum():
            return levels
        kept = near
        levels, scatter = _fit(place, values, kept, order)


def _fit(place, values, kept, order):
    """Levels, and the scatter of values around them."""
    counts = kept.sum(axis=1)
    means = np.where(kept, values, 0).sum(axis=1) / np.maximum(counts, 1)
    levels = chebyshev.chebval(place, chebyshev.chebfit(place, means, order, w=np.sqrt(counts)))
    return levels, np.sqrt(np.mean((values - levels[:, None])[kept] ** 2))
