"""The level of blank sky: of exposures, of their quadrants, IFUs and slice ends, and of the deep image."""

import math

import numpy as np

from musedeep.qc.deep import robust_scatter
from musedeep.qc.evidence import Finding, finding

__all__ = [
    "find_ifu_levels",
    "find_levels",
    "find_over_subtraction",
    "find_quadrants",
    "find_slice_edges",
    "find_wide_peak",
    "ifu_levels",
]

_FEWEST_SPAXELS = 40
_SURE = 5.0
_FEWEST_ROWS = 500
_EDGE_COLUMNS = 3
_FEWEST_EDGE_ROWS = 50
# The noise of neighbouring spaxels of a white image is correlated: sums scatter by so much more.
_CORRELATED = 2.0
_NO_SKY = "too little sky away from sources"


def find_levels(evidence):
    """Level of every exposure against the others, in units of the noise of a spaxel of its white image."""
    values, sure = {}, {}
    for survey in _sky_surveys(evidence):
        off = (survey.white - evidence.others(survey))[evidence.calm(survey)]
        off = off[np.isfinite(off)]
        noise, date = evidence.spaxel_noise[survey.date_obs], survey.date_obs
        values[date] = float(np.median(off)) / noise if len(off) >= _FEWEST_SPAXELS else math.nan
        error = _CORRELATED * robust_scatter(off) / math.sqrt(max(len(off), 1)) if len(off) else math.nan
        sure[date] = abs(values[date]) * noise > _SURE * error
    # one that lies off moves the others against it
    known = [value for value in values.values() if math.isfinite(value)]
    middle = np.median(known) if known else math.nan
    values = {date: value - middle for date, value in values.items()}
    note = "the background of {exposures} lies {value:+.1f} sigma off: subtract the sky again"
    return finding(evidence, "background_level", values, note, sure=sure, none=_NO_SKY)


def _sky_surveys(evidence):
    """All surveys, or none in a crowded field, where the seeing decides what blank sky is."""
    return [] if evidence.deep.crowded else evidence.surveys


def find_quadrants(evidence):
    """Largest difference between a quadrant of an exposure and its others, against the other exposures."""
    values, sure = {}, {}
    for survey in _sky_surveys(evidence):
        difference = survey.white - evidence.others(survey)
        levels, errors = _quadrants(difference, evidence.calm(survey))
        values[survey.date_obs], sure[survey.date_obs] = _stands_out(
            levels, errors, evidence.spaxel_noise[survey.date_obs]
        )
    note = "a quadrant of {exposures} has a level of its own ({value:+.1f} sigma)"
    return finding(evidence, "background_quadrant", values, note, sure=sure, none=_NO_SKY)


def _quadrants(image, good):
    """Levels of the quadrants around the middle of the data, and their errors."""
    rows, columns = np.indices(image.shape)
    if not good.any():
        return np.full(4, math.nan), np.full(4, math.nan)
    data = np.isfinite(image)
    upper, right = rows > np.median(rows[data]), columns > np.median(columns[data])
    levels, errors = [], []
    for a in (False, True):
        for b in (False, True):
            values = image[good & (upper == a) & (right == b)]
            enough = len(values) >= _FEWEST_SPAXELS
            levels.append(float(np.median(values)) if enough else math.nan)
            errors.append(
                _CORRELATED * robust_scatter(values) / math.sqrt(len(values)) if enough else math.nan
            )
    return np.array(levels), np.array(errors)


def _stands_out(levels, errors, noise):
    """Largest distance of a level from the median of the others in units of the noise, and if it is sure."""
    best, sure = math.nan, False
    for n in np.flatnonzero(np.isfinite(levels)):
        rest = np.delete(levels, n)
        rest = rest[np.isfinite(rest)]
        if len(rest) < 3:
            continue
        spread = 5 * robust_scatter(rest) if len(rest) > 4 else 1.5 * np.ptp(rest)
        off = levels[n] - np.median(rest)
        value = off / noise
        if not math.isfinite(best) or abs(value) > abs(best):
            best, sure = float(value), bool(abs(off) > max(_SURE * errors[n], spread))
    return best, sure


def ifu_levels(survey):
    """Level of the rows of every IFU on blank sky against the deep cube, and its error; two arrays (24,)."""
    sums = survey.slices.reshape(24, 48, 4).sum(axis=1)
    enough = sums[:, 0] >= _FEWEST_ROWS
    number = np.maximum(sums[:, 0], 1)
    levels = np.where(enough, sums[:, 2] / number, math.nan)
    return levels, np.where(enough, np.sqrt(sums[:, 3]) / number, math.nan)


def find_ifu_levels(evidence):
    """Largest difference between an IFU of an exposure and its others, both against the deep cube."""
    values, sure = {}, {}
    for survey in _sky_surveys(evidence):
        levels, errors = ifu_levels(survey)
        noise = evidence.spaxel_noise[survey.date_obs]
        values[survey.date_obs], sure[survey.date_obs] = _stands_out(levels, 2 * errors, noise)
    note = "an IFU of {exposures} has a level of its own ({value:+.1f} sigma): mask it, or calibrate slices"
    return finding(evidence, "background_ifu", values, note, sure=sure, none=_NO_SKY)


def find_slice_edges(evidence):
    """Level of the outermost columns of all slices against those between, both against the deep cube."""
    values, sure = {}, {}
    for survey in _sky_surveys(evidence):
        off, error = _edge_level(survey.columns.reshape(24, -1, 4))
        values[survey.date_obs] = off / evidence.spaxel_noise[survey.date_obs]
        sure[survey.date_obs] = abs(off) > _SURE * error
    note = "the ends of the slices of {exposures} lie {value:+.1f} sigma off: mask them"
    return finding(evidence, "slice_edge", values, note, sure=sure, none=_NO_SKY)


def _edge_level(columns):
    """Mean of ends minus middles of the slices of the IFUs, and its error; NaN where there is too little.

    Each IFU is compared with itself: one with a level of its own may have its blank sky at the ends.
    """
    number = columns[..., 0]
    filled = np.flatnonzero(number.sum(axis=0) > 0.02 * max(number.sum(axis=0).max(), 1))
    if len(filled) < 6 * _EDGE_COLUMNS or number.sum() < _FEWEST_ROWS:
        return math.nan, math.nan
    edge = np.r_[filled[:_EDGE_COLUMNS], filled[-_EDGE_COLUMNS:]]
    inner = filled[2 * _EDGE_COLUMNS : -2 * _EDGE_COLUMNS]
    ends, middles = columns[:, edge].sum(axis=1), columns[:, inner].sum(axis=1)
    both = np.minimum(ends[:, 0], middles[:, 0]) >= _FEWEST_EDGE_ROWS
    if not both.any():
        return math.nan, math.nan
    off = ends[both, 2] / ends[both, 0] - middles[both, 2] / middles[both, 0]
    weight = 1.0 / sum(part[both, 3] / part[both, 0] ** 2 for part in (ends, middles))
    return float((off * weight).sum() / weight.sum()), 1.0 / math.sqrt(weight.sum())


def find_wide_peak(evidence, peak):
    """Width of the histogram's peak over the noise that the cube should have: fluctuations of the background.

    Parameters
    ----------
    evidence : Evidence
    peak : musedeep.depth.FluxPeak
        Of the deep image.
    """
    name, deep = "background_width", evidence.deep
    threshold = evidence.thresholds[name]
    blank = deep.blank & np.isfinite(deep.white_variance)
    if not blank.any() or not math.isfinite(peak.sigma) or deep.crowded:
        return Finding(name, math.nan, threshold, "", False, (), _NO_SKY)
    noise = math.sqrt(float(np.median(deep.white_variance[blank])))
    # 90 % of the spaxels lie within 3.29 sigma of a Gaussian
    value = float(np.ptp(np.quantile(deep.white[blank], (0.05, 0.95)))) / 3.29 / noise
    alarm = value > threshold
    note = "the background fluctuates" if alarm else "the background is as smooth as its noise lets it be"
    return Finding(name, float(value), threshold, "", alarm, (), f"{note} ({value:.2f} times the noise)")


def find_over_subtraction(evidence, peak):
    """HISTO_17 of the deep image: where the histogram has fallen by 1.7 dex below its mode."""
    name = "over_subtraction"
    threshold = evidence.thresholds[name]
    if not math.isfinite(peak.histo_17):
        return Finding(name, math.nan, threshold, "1e-20", False, (), "no peak in the histogram")
    alarm = -peak.histo_17 > threshold
    note = "too much sky was subtracted" if alarm else "the sky is not over-subtracted"
    note = f"{note} (HISTO_17 = {peak.histo_17:.2f})"
    return Finding(name, -peak.histo_17, threshold, "1e-20", alarm, (), note)
