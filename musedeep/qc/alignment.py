"""Are the exposures where they belong? Recentring, and craters around bright sources."""

import math

import numpy as np

from musedeep.align.check import check_offsets
from musedeep.align.sources import find_sources
from musedeep.offsets import Offset
from musedeep.qc.evidence import Finding, finding
from musedeep.qc.lines import shift_evidence, strongest_line
from musedeep.settings import AlignSettings

__all__ = ["find_craters", "find_line_misalignment", "find_misalignment"]

# A crater is looked for around sources of this signal-to-noise ratio in their middle.
_BRIGHT = 50.0
_FEWEST = 3
# Signal-to-noise ratio of a line in an exposure from which it has a place; the gain of chi-square from which
# that is another one than in the others (six standard errors, as it was looked for anywhere), and the least
# share of what a true shift would gain.
_SEEN = 20.0
_SURE_GAIN = 36.0
_SHARE_OF_GAIN = 0.5
# Others that an exposure is held against in the light of a line, at most.
_MOST_BESIDE = 15


def find_misalignment(evidence):
    """Each exposure against the others, by `musedeep.align.check.check_offsets`.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    finding : Finding
    check : musedeep.align.check.Check or None
        None with fewer than three exposures, or without sources.
    """
    few = "too few exposures" if len(evidence.surveys) < _FEWEST else "no sources in the deep image"
    if len(evidence.surveys) < _FEWEST or not len(evidence.deep.x):
        threshold = evidence.thresholds["misalignment"]
        return Finding("misalignment", math.nan, threshold, "arcsec", False, (), few), None
    images = [evidence.image(survey) for survey in evidence.surveys]
    sources = [survey.sources for survey in evidence.surveys]
    check = check_offsets(images, sources, [Offset()] * len(images), AlignSettings())
    size, least = np.hypot(*check.deviations.T), evidence.thresholds["misalignment"]
    with np.errstate(invalid="ignore"):
        far = size > 5 * check.errors
        # what cannot tell the distance that counts tells nothing, nor what the image does not bear out
        known = far | (check.errors < least / 2)
        for n in np.flatnonzero(far & (size > least)):
            known[n] = _borne_out(evidence, n, check.deviations[n])
    values = dict(zip(evidence.dates, np.where(known, size, math.nan).tolist(), strict=True))
    sure = dict(zip(evidence.dates, (known & far).tolist(), strict=True))
    note = "{exposures} lie off the others, by up to {value:.2f} arcsec: align again"
    return finding(evidence, "misalignment", values, note, sure=sure), check


def _borne_out(evidence, number, deviation):
    """Whether the white image of the others fits that of an exposure better where it seems to lie."""
    survey = evidence.surveys[number]
    shift = (np.linalg.inv(np.array(evidence.grid.cd) * 3600) @ deviation)[::-1]
    dark = np.zeros_like(survey.white)
    _, gain, expected, _ = shift_evidence(
        survey.white, survey.white_variance, dark, evidence.others(survey), shift, alone=True
    )
    return gain > max(_SURE_GAIN, _SHARE_OF_GAIN * expected)


def find_line_misalignment(evidence):
    """Each exposure against the others, in the light of the strongest line of the deep cube.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    Finding
    """
    # without sources nothing tells where a line would shine
    plane = strongest_line(evidence.deep.line_strength) if len(evidence.deep.x) else None
    values, sure, none = {}, {}, "no line stands out of the noise"
    if plane is not None and len(evidence.surveys) < _FEWEST:
        none = "too few exposures"
    elif plane is not None:
        images = [evidence.image(survey, survey.line, survey.line_variance) for survey in evidence.surveys]
        settings = AlignSettings()
        sources = [find_sources(image, settings) for image in images]
        check = check_offsets(images, sources, [Offset()] * len(images), settings)
        told, share = _told(evidence, check)
        size = share * np.hypot(*check.deviations.T)
        # what cannot tell the distance that counts tells nothing
        known = (check.errors < evidence.thresholds["misalignment_line"] / 2) & told
        values = dict(zip(evidence.dates, np.where(known, size, math.nan).tolist(), strict=True))
        sure = dict(zip(evidence.dates, (known & (size > 5 * check.errors)).tolist(), strict=True))
        none = "the line is too faint in single exposures, or of one source alone"
    wavelength = evidence.deep.wavelength[plane] if plane is not None else math.nan
    note = f"at {wavelength:.0f} Angstrom {{exposures}} lie off the others, by up to {{value:.2f}} arcsec"
    return finding(evidence, "misalignment_line", values, note, sure=sure, none=none)


def _told(evidence, check):
    """Which exposures show the line, and, where they seem to lie off, show that at more than one place.

    Also the share of each deviation that the image as a whole bears out.
    """
    to_pixels = np.linalg.inv(np.array(evidence.grid.cd) * 3600)
    told, share = np.zeros(len(evidence.surveys), bool), np.ones(len(evidence.surveys))
    for n in np.flatnonzero(np.isfinite(check.errors)):
        survey, shift = evidence.surveys[n], (to_pixels @ check.deviations[n])[::-1]
        seen, gain, expected, share[n] = shift_evidence(
            survey.line, survey.line_variance, survey.white, _line_beside(evidence, n), shift
        )
        sure = gain > max(_SURE_GAIN, _SHARE_OF_GAIN * expected)
        off = share[n] * math.hypot(*check.deviations[n]) > evidence.thresholds["misalignment_line"]
        told[n] = seen > _SEEN and (sure or not off)
    return told, share


def _line_beside(evidence, number):
    """Image of the line in the exposures before and after one, where that one lies; NaN without data."""
    box = evidence.box(evidence.surveys[number])
    images = []
    for n in sorted(range(len(evidence.surveys)), key=lambda n: abs(n - number))[1:]:
        survey, there = evidence.surveys[n], evidence.box(evidence.surveys[n])
        low = [max(a.start, b.start) for a, b in zip(box, there, strict=True)]
        high = [min(a.stop, b.stop) for a, b in zip(box, there, strict=True)]
        if len(images) == _MOST_BESIDE or low[0] >= high[0] or low[1] >= high[1]:
            continue
        image = np.full(evidence.surveys[number].line.shape, np.nan, np.float32)
        mine, its = (
            tuple(slice(a - c.start, b - c.start) for a, b, c in zip(low, high, own, strict=True))
            for own in (box, there)
        )
        image[mine] = survey.line[its]
        images.append(image)
    images = np.array(images or [np.full(evidence.surveys[number].line.shape, np.nan, np.float32)])
    # a median knows no cosmic rays
    covered = np.isfinite(images).any(axis=0)
    typical = np.full(covered.shape, math.nan)
    typical[covered] = np.nanmedian(images[:, covered], axis=0)
    return typical


def find_craters(evidence, rejections):
    """Rejected rows in rings around bright sources: the wings of a source in one exposure out of place.

    For every exposure, the share of its rows that were rejected in the worst spaxel within 2.5 FWHM of a
    source, less the share on blank sky; the median of the bright sources. Where an exposure lies off by half
    a FWHM or more, nearly all of its rows at the edge of the core are outliers to muse_exp_combine's rule.

    Parameters
    ----------
    evidence : Evidence
    rejections : Rejections or None
    """
    values, sources = {}, list(_bright(evidence.deep))
    if rejections is not None and len(sources) >= _FEWEST:
        fwhm = evidence.deep.fwhm[0] / evidence.grid.step_arcsec[0]
        for survey in evidence.surveys:
            share = _share(evidence, survey, rejections.maps[survey.date_obs])
            rings = [_ring(share, x - survey.corner[1], y - survey.corner[0], 2.5 * fwhm) for x, y in sources]
            rings = [ring for ring in rings if math.isfinite(ring)]
            values[survey.date_obs] = float(np.median(rings)) if len(rings) >= _FEWEST else math.nan
    note = "the rows of {exposures} are rejected around bright sources, up to {value:.0%}: align again"
    return finding(evidence, "crater", values, note, none="no map of rejections, or too few bright sources")


def _share(evidence, survey, rejected):
    """Share of the rows of an exposure that were rejected, less that of blank sky, means of nine spaxels."""
    from scipy.ndimage import uniform_filter

    planes = max(int((survey.planes[:, 0] > 0).sum()), 1)
    share = uniform_filter(rejected / planes, 3)
    blank = evidence.blank(survey)
    return share - (np.median(share[blank]) if blank.any() else 0.0)


def _bright(deep):
    """Sources that stand far above the noise."""
    for x, y in zip(deep.x, deep.y, strict=True):
        j, i = round(float(y)), round(float(x))
        if 0 <= j < deep.white.shape[0] and 0 <= i < deep.white.shape[1]:
            level = np.nanmedian(deep.white[deep.blank])
            if deep.white[j, i] - level > _BRIGHT * math.sqrt(deep.white_variance[j, i]):
                yield x, y


def _ring(share, x, y, reach):
    """Largest value within a distance of a place; NaN where it lies outside."""
    rows, columns = np.indices(share.shape)
    near = np.hypot(columns - x, rows - y) <= reach
    return float(share[near].max()) if near.any() else math.nan
