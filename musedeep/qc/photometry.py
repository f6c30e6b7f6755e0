"""Does every exposure see the same fluxes, and how many of its pixels are saturated?"""

import math

import numpy as np

from musedeep.qc.evidence import finding

__all__ = ["find_flux_scale", "find_saturation", "saturated_pixels"]

_ROUNDS = 10
_FEWEST_SPAXELS = 20
_BRIGHT_SIGMA = 10.0


def find_flux_scale(evidence):
    """Slope of every white image against the others on the spaxels of sources, in dex of the median."""
    from scipy.ndimage import gaussian_filter

    slopes, errors = {}, {}
    for survey in evidence.surveys:
        others = evidence.others(survey)
        good = np.isfinite(others) & np.isfinite(survey.white)
        blank = evidence.blank(survey) & good
        if blank.sum() < _FEWEST_SPAXELS:
            slopes[survey.date_obs] = math.nan
            continue
        # smoothing takes the difference of the seeing out of the slope
        own, rest = survey.white - np.median(survey.white[blank]), others - np.median(others[blank])
        own, rest = (gaussian_filter(np.where(good, image, 0), 3.0) for image in (own, rest))
        noise = evidence.spaxel_noise[survey.date_obs]
        bright = good & (rest > _BRIGHT_SIGMA * noise / 3) & (gaussian_filter(good * 1.0, 3.0) > 0.9)
        slopes[survey.date_obs], errors[survey.date_obs] = _slope(rest[bright], own[bright])
    known = {date: math.log10(value) for date, value in slopes.items() if value > 0}
    middle = np.median(list(known.values())) if known else math.nan
    values = {date: known.get(date, math.nan) - middle for date in slopes}
    note = "fluxes of {exposures} differ by {value:+.2f} dex: measure the flux scale, or leave out"
    return finding(evidence, "flux_scale", values, note, none="no bright source")


def _slope(x, y):
    """Slope of a line through the origin with outliers weighted down, and its error."""
    if len(x) < _FEWEST_SPAXELS:
        return math.nan, math.nan
    weight = np.ones(len(x))
    for _ in range(_ROUNDS):
        slope = float((weight * x * y).sum() / (weight * x * x).sum())
        off = np.abs(y - slope * x)
        scale = 1.4826 * np.median(off) + 1e-30
        weight = 1 / np.maximum(off / (1.5 * scale), 1.0)
    return slope, scale / math.sqrt(float((x * x).sum()))


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
