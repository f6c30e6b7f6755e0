"""Flux scales from the images themselves: how bright is one, blurred until it looks like the other?"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from musedeep.align.joint import common_frame
from musedeep.align.matching import pairs_to_compare
from musedeep.align.registration import make_canvas
from musedeep.align.solution import solve_scales
from musedeep.align.sources import background_of

__all__ = ["Ratio", "flux_ratio", "image_scales", "scaled_by_images"]

# Both images are smoothed by this much, pixels, so that the narrowest part of the kernel holds little noise.
_SMOOTH = 1.0
# Widths of the Gaussians, pixels, that together blur the sharper image as the seeing does; the widest make
# the wings.
_WIDTHS = (0.0, 0.7, 1.1, 1.6, 2.3, 3.2, 4.5, 6.5, 9.0)
# Blurred pixels that lie nearer to the border than this hold less than their share.
_BORDER = 8
_FEWEST_PIXELS = 400
_ROUNDS = 8
_TUKEY = 4.685
# The share of the light that no sum of Gaussians describes.
_LIKENESS = 0.01
# Neighbouring pixels of a drizzled image share their noise.
_CORRELATED = 2.0
# What a kernel of Gaussians leaves unknown of a flux scale.
_KERNEL = 0.003
# A ratio that is known less well than this is not used.
_USELESS = 0.1
# Scales of sources that are known as well as this tie those of images to their own.
_ANCHOR = 0.05


@dataclass(frozen=True)
class Ratio:
    """Flux of an image over that of another one.

    Attributes
    ----------
    value, error : float
    misfit : float
        Typical residual, in standard deviations.
    """

    value: float
    error: float
    misfit: float


def flux_ratio(image, other):
    """Flux of an image over that of another one, whatever the seeing of both.

    The sharper one, blurred by a sum of Gaussians, is fitted to the other, with a small shift and a level;
    the ratio is the sum of the kernel (Alard & Lupton 1998, ApJ 503, 325). All light counts, that of blends
    and of galaxies too. Robust weights leave out cosmic rays.

    Parameters
    ----------
    image, other : ndarray of one shape, float32
        On one canvas, aligned; NaN without data.

    Returns
    -------
    Ratio or None
        None where too little overlaps, or too little light is there.
    """
    from scipy.ndimage import binary_erosion

    good = np.isfinite(image) & np.isfinite(other)
    inside = binary_erosion(good, np.ones((3, 3)), iterations=_BORDER)
    if inside.sum() < _FEWEST_PIXELS:
        return None
    images = [np.where(good, values, 0.0).astype(np.float64) for values in (image, other)]
    noises = [background_of(np.where(good, values, np.nan), 0.0, 1.0).sigma for values in (image, other)]
    if not min(noises) > 0:
        return None
    first, second = zip(images, noises, strict=True)
    forth, back = _blurred_onto(first, second, inside), _blurred_onto(second, first, inside)
    if back is not None:
        back = Ratio(1 / back.value, back.error / back.value**2, back.misfit)
    # a blurred image is never made sharp: the wrong way leaves more
    found = min((one for one in (forth, back) if one is not None), key=lambda one: one.misfit, default=None)
    return found if found is not None and found.error < _USELESS * found.value else None


def _blurred_onto(blurred, sharp, inside):
    """Ratio of the first of two pairs of image and noise over the second, which is blurred."""
    from scipy.ndimage import gaussian_filter

    (target, noise), (source, source_noise) = blurred, sharp
    widths = np.hypot(_SMOOTH, _WIDTHS)
    parts = [gaussian_filter(source, width) for width in widths]
    slopes = np.gradient(parts[len(parts) // 2])
    design = np.stack([*(part[inside] for part in parts), *(slope[inside] for slope in slopes)])
    design = np.vstack([design, np.ones(design.shape[1])])
    values = gaussian_filter(target, _SMOOTH)[inside]
    trust, light = np.ones(len(values)), np.maximum(values - np.median(values), 0)
    for _ in range(_ROUNDS):
        sigma = np.hypot(_CORRELATED * noise, _LIKENESS * light)
        weighted = design * (trust / sigma**2)
        normal = weighted @ design.T
        size = np.sqrt(np.maximum(np.diag(normal), 1e-300))
        inverse = np.linalg.pinv(normal / size / size[:, None], rcond=1e-10) / size / size[:, None]
        found = inverse @ (weighted @ values)
        residual = np.abs(values - found @ design) / sigma
        typical = max(1.4826 * float(np.median(residual)), 1e-30)
        trust = np.clip(1 - (residual / typical / _TUKEY) ** 2, 0, None) ** 2
        light = np.maximum(found[:-1] @ design[:-1], 0)
    kernel = np.arange(len(found)) < len(widths)
    value, variance = found[kernel].sum(), inverse[np.ix_(kernel, kernel)].sum()
    # noise of the image that is blurred makes the sum of the kernel too small
    shared = source_noise**2 / (2 * math.pi * (widths[:, None] ** 2 + widths**2))
    lost = (trust / sigma**2).sum() * (inverse[kernel][:, kernel] @ shared @ found[kernel]).sum()
    value += lost
    if not value > 0:
        return None
    return Ratio(float(value), math.hypot(math.sqrt(max(variance, 0)) * max(typical, 1.0), lost), typical)


def image_scales(images, offsets, placed, frame):
    """Flux scales of exposures from the ratios of pairs of images.

    Parameters
    ----------
    images : list of WhiteImage
    offsets : list of Offset
        Good to a tenth of a pixel; their flux scales do not matter.
    placed : ndarray of bool, shape (N,)
        Which exposures take part.
    frame : ndarray, shape (3, 3)

    Returns
    -------
    magnitudes : ndarray, shape (N,)
        Natural logarithm of the factor by which each is too bright, about their mean.
    errors : ndarray, shape (N,)
        NaN for what no ratio ties to most of the others.
    """
    pairs, ratios = [], []
    for pair in _overlapping(images, offsets, placed, frame):
        two, places = [images[n] for n in pair], [offsets[n] for n in pair]
        canvas = make_canvas(frame, two, places)
        found = flux_ratio(*(canvas.draw(*each) for each in zip(two, places, strict=True)))
        if found is not None:
            pairs.append(pair)
            ratios.append(found)
    unknown = np.full(len(images), np.nan)
    if not pairs:
        return unknown, unknown
    pairs = np.array(pairs)
    linked = _linked(len(images), pairs)
    kept = linked[pairs[:, 0]]
    value, error = np.array([[one.value, one.error] for one in ratios])[kept].T
    # each pair is like a source that two exposures see
    number = np.repeat(np.arange(kept.sum()), 2)
    magnitude = np.column_stack([np.log(value), np.zeros(len(value))]).ravel()
    errors = np.repeat(error / value / math.sqrt(2), 2)
    solution = solve_scales(pairs[kept].ravel(), number, magnitude, errors, len(images))
    known = linked & (solution.counts > 0)
    # what is wrong with one image, half of the variance of a pair, is in all of its pairs: more of them make
    # the error no smaller
    alone = [np.median((error / value)[(pairs[kept] == n).any(axis=1)]) / math.sqrt(2) if known[n] else np.nan
             for n in range(len(images))]  # fmt: skip
    errors = np.hypot(np.fmax(solution.errors[:, 0], alone), _KERNEL)
    return np.where(known, solution.values[:, 0], np.nan), np.where(known, errors, np.nan)


def scaled_by_images(images, offsets, methods, errors):
    """Flux scales of what images place, by the ratios of pairs of images, on the scale of the others.

    Parameters
    ----------
    images : list of WhiteImage
    offsets : list of Offset
    methods : list of str
        As in `Result`.
    errors : ndarray, shape (N,)
        Of the flux scales.

    Returns
    -------
    offsets : list of Offset
    errors : ndarray, shape (N,)
    """
    methods = np.array(methods)
    found, found_errors = image_scales(images, offsets, methods != "header", common_frame(images))
    told = np.isfinite(found_errors)
    if not told.any():
        return offsets, errors
    scales = np.array([offset.flux_scale for offset in offsets])
    anchors = told & (methods == "sources") & (errors < _ANCHOR)
    anchors = anchors if anchors.any() else told
    new = np.exp(np.median((np.log(scales) + found)[anchors]) - found)
    taken = told & (methods == "image")
    result = [
        dataclasses.replace(offset, flux_scale=float(value)) if take else offset
        for offset, value, take in zip(offsets, new, taken, strict=True)
    ]
    return result, np.where(taken, found_errors, errors)


def _overlapping(images, offsets, placed, frame):
    """Pairs of exposures that may overlap; with many exposures each gets a few partners only."""
    corners, centers = [], []
    for image, offset, good in zip(images, offsets, placed, strict=True):
        ny, nx = image.flux.shape
        at = np.array([[0, 0, 1], [nx, 0, 1], [0, ny, 1], [nx, ny, 1], [nx / 2, ny / 2, 1]], float)
        x, y, w = image.onto(frame, offset) @ at.T
        places = np.column_stack([x / w, y / w])
        corners.append(places[:4] if good else places[:0])
        centers.append(places[4])
    return pairs_to_compare(corners, np.array(centers), 0.0)


def _linked(count, pairs):
    """Which exposures hang together in the largest group."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs)), pairs.T), (count, count))
    groups = connected_components(graph, directed=False)[1]
    return groups == np.bincount(groups).argmax()
