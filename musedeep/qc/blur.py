"""Is the deep image wider than the exposures that it is made of?"""

import math

import numpy as np

from musedeep.qc.evidence import Finding

__all__ = ["find_blur"]

# Sources of an exposure that are compared, at most and at least.
_MOST = 15
_FEWEST = 3
# The peak of a source is looked for this far from its place in the exposure; in the deep image as far as
# exposures may be off, arcsec, but not as far as the next source.
_PEAK_SPAXELS = 1.0
_REACH_ARCSEC = 1.0
# Smoothing, spaxels, what it leaves of the noise, and the signal-to-noise ratios that peaks must have then.
_SMOOTH_SPAXELS = 1.0
_SMOOTHED = 0.28
_SURE, _SURE_DEEP = 20.0, 10.0


def find_blur(evidence):
    """Whether the deep image is wider than the exposures that it is made of.

    A mean of images has the mean of their peaks, whatever the seeing of each, as long as all lie in place.
    What the peaks of the exposures, each where it is, exceed those of the deep image by is what was lost by
    adding them up out of place; its square root is by how much the deep image is wider.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    Finding
    """
    name, deep = "blur", evidence.deep
    threshold = evidence.thresholds[name]
    smooth = _smoothed(deep.white, deep.blank)
    if smooth is not None:
        smooth = np.where(smooth > _SURE_DEEP * _noise(deep.white_variance), smooth, np.nan)
    ratios = [_peak_ratio(evidence, survey, smooth) for survey in evidence.surveys if smooth is not None]
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    if len(known) < max(2, len(evidence.surveys) / 2):
        return Finding(name, math.nan, threshold, "", False, (), "too few stars")
    value = math.sqrt(np.mean(known))
    note = f"stars of the deep image are {value:.2f} times as wide as those of its exposures"
    return Finding(name, value, threshold, "", value > threshold, (), note)


def _smoothed(image, blank):
    """An image above its sky, smoothed; NaN near the rim, None where there is no sky."""
    from scipy.ndimage import gaussian_filter

    good = np.isfinite(image)
    if not (blank & good).any():
        return None
    above = gaussian_filter(np.where(good, image - np.median(image[blank & good]), 0.0), _SMOOTH_SPAXELS)
    return np.where(gaussian_filter(good.astype(float), _SMOOTH_SPAXELS) > 0.95, above, np.nan)


def _noise(variance):
    """Noise of a smoothed image."""
    good = np.isfinite(variance)
    return _SMOOTHED * math.sqrt(np.median(variance[good])) if good.any() else math.inf


def _peak_ratio(evidence, survey, deep):
    """Peaks of the sources of an exposure over those of the deep image, their median; NaN for too few."""
    sources, image = survey.sources, _smoothed(survey.white, evidence.blank(survey))
    if image is None or len(sources) < _FEWEST:
        return math.nan
    apart = np.hypot(sources.x[:, None] - sources.x, sources.y[:, None] - sources.y)
    np.fill_diagonal(apart, np.inf)
    reach = np.minimum(_REACH_ARCSEC / min(evidence.grid.step_arcsec), apart.min(axis=1) / 2)
    deep, least = deep[evidence.box(survey)], _SURE * _noise(survey.white_variance)
    ratios = []
    for x, y, far in list(zip(sources.x, sources.y, reach, strict=True))[:_MOST]:
        own, its = (_peak(part, x, y, radius) for part, radius in ((image, _PEAK_SPAXELS), (deep, far)))
        if own > least and math.isfinite(its):
            ratios.append(own / its)
    return float(np.median(ratios)) if len(ratios) >= _FEWEST else math.nan


def _peak(image, x, y, radius):
    """Largest value within a distance of a place; NaN where none is known."""
    half = math.ceil(radius) + 1
    top, left = max(round(y) - half, 0), max(round(x) - half, 0)
    part = image[top : round(y) + half + 1, left : round(x) + half + 1]
    rows, columns = np.indices(part.shape)
    near = part[(np.hypot(columns + left - x, rows + top - y) <= radius) & np.isfinite(part)]
    return float(near.max()) if len(near) else math.nan
