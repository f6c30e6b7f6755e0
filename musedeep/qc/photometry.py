"""Does every exposure see the same fluxes, and how many of its pixels are saturated?"""

import math

import numpy as np

from musedeep.qc.evidence import finding

__all__ = ["find_flux_scale", "find_saturation", "saturated_pixels"]

_ROUNDS = 10
_FEWEST_SPAXELS = 20
_BRIGHT_SIGMA = 10.0


def find_flux_scale(evidence, deviations=None):
    """Slope of every white image against the others on the spaxels of sources, in dex of the median.

    Parameters
    ----------
    evidence : Evidence
    deviations : dict of str to ndarray, shape (2,), optional
        Exposures that lie off the others, and how many arcsec east and north: they are put in place first, or
        else they would seem to be faint where the others are bright.
    """
    from scipy.ndimage import gaussian_filter

    slopes = {}
    for survey in evidence.surveys:
        white, others = survey.white, evidence.others(survey)
        if survey.date_obs in (deviations or {}):
            white = _moved_back(white, evidence.grid, deviations[survey.date_obs])
        good = np.isfinite(others) & np.isfinite(white)
        blank = evidence.blank(survey) & good
        if blank.sum() < _FEWEST_SPAXELS:
            slopes[survey.date_obs] = math.nan
            continue
        # smoothing takes the difference of the seeing out of the slope
        own, rest = white - np.median(white[blank]), others - np.median(others[blank])
        own, rest = (gaussian_filter(np.where(good, image, 0), 3.0) for image in (own, rest))
        noise = evidence.spaxel_noise[survey.date_obs]
        bright = good & (rest > _BRIGHT_SIGMA * noise / 3) & (gaussian_filter(good * 1.0, 3.0) > 0.9)
        slopes[survey.date_obs] = _slope(rest[bright], own[bright])
    known = {date: math.log10(value) for date, value in slopes.items() if value > 0}
    middle = np.median(list(known.values())) if known else math.nan
    values = {date: known.get(date, math.nan) - middle for date in slopes}
    note = "fluxes of {exposures} differ by {value:+.2f} dex: measure the flux scale, or leave out"
    return finding(evidence, "flux_scale", values, note, none="no bright source")


def _moved_back(image, grid, deviation):
    """An image without its deviation, arcsec east and north; NaN where that moves no data."""
    from scipy.ndimage import shift

    x, y = np.linalg.inv(np.array(grid.cd) * 3600) @ deviation
    empty = ~np.isfinite(image)
    moved = shift(np.where(empty, 0.0, image), (-y, -x), order=1)
    return np.where(shift(empty.astype(float), (-y, -x), order=1, cval=1.0) > 0.01, math.nan, moved)


def _slope(x, y):
    """Slope of a line through the origin with outliers weighted down."""
    if len(x) < _FEWEST_SPAXELS:
        return math.nan
    weight = np.ones(len(x))
    for _ in range(_ROUNDS):
        slope = float((weight * x * y).sum() / (weight * x * x).sum())
        off = np.abs(y - slope * x)
        scale = 1.4826 * np.median(off) + 1e-30
        weight = 1 / np.maximum(off / (1.5 * scale), 1.0)
    return slope


def saturated_pixels(evidence):
    """Saturated pixels of every exposure: what its header or the record of its reduction tells, or the rows
    with that flag if they are more.

    Returns
    -------
    dict of str to int
    """
    result = {}
    for survey in evidence.surveys:
        header = evidence.exposures[survey.date_obs].header
        told = [header.get(f"ESO QC {name} NSATURATED", 0) for name in ("SCIBASIC", "SCIPOST")]
        told.append(evidence.exposures[survey.date_obs].reduction.get("qc", {}).get("saturated", 0))
        told = [value for value in told if isinstance(value, int | float)]
        result[survey.date_obs] = int(max([survey.saturated.sum(), *told]))
    return result


def find_saturation(evidence):
    """Exposures with more saturated pixels than the release allows."""
    values = {date: float(count) for date, count in saturated_pixels(evidence).items()}
    note = "{exposures} have saturated pixels, up to {value:.0f}: see the map, and distrust those sources"
    return finding(evidence, "saturation", values, note)
