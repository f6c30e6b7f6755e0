"""Satellites: straight lines in the difference of an exposure and the others."""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import uniform_filter

from musedeep.qc.deep import robust_scatter
from musedeep.qc.evidence import finding

__all__ = ["Trail", "find_trails", "straight_line"]

_CLIP = 8.0
# Between sources that cover more than the rest of an exposure, what they leave looks like lines.
_FEWEST_CALM = 0.25
_STEP_DEG = 1.0
_BIN_SPAXELS = 3.0
# A line must be seen along this share of its way, and its way be this share of the longest.
_COVERED = 0.6
_SEEN = 0.5
_LONG = 0.5
_PIECES = 8
_PARALLEL_DEG = 12.0
# Bins between a line and those that it is held against, and the side of boxes for the correlation.
_FLANK = 3
_BOX = 5


@dataclass(frozen=True)
class Trail:
    """The brightest straight line of an exposure.

    Attributes
    ----------
    sigma : float
        Significance of the sum along it; 0 where nothing is as long.
    angle_deg, distance : float
        Direction of its normal from the x axis, and distance from voxel (0, 0) of the exposure's image.
    """

    sigma: float
    angle_deg: float
    distance: float


def find_trails(evidence, structured=(), shifts=None):
    """The brightest straight line of every exposure.

    Parameters
    ----------
    evidence : Evidence
    structured : collection of str
        Exposures whose background shows the instrument: their lines along its axes do not count.
    shifts : dict of str to float, optional
        Exposures that lie off the others, and by how many arcsec: what their sources leave makes no line.

    Returns
    -------
    finding : Finding
    trails : dict of str to Trail
    """
    trails = {}
    for survey in evidence.surveys:
        inside = np.isfinite(survey.white_variance)
        image = _difference(evidence, survey, (shifts or {}).get(survey.date_obs, 0.0))
        enough = np.isfinite(image).sum() >= _FEWEST_CALM * inside.sum()
        trails[survey.date_obs] = straight_line(image, inside) if enough else Trail(math.nan, 0.0, 0.0)
    values = {
        date: 0.0 if date in structured and _along_slices(evidence, date, trail) else trail.sigma
        for date, trail in trails.items()
    }
    note = "{exposures} are crossed by a line ({value:.0f} sigma): mask it with a region"
    return finding(evidence, "trail", values, note, none="too little sky away from sources"), trails


def _along_slices(evidence, date, trail):
    """Whether a line runs along the slices of an exposure, or across them."""
    cd = np.array(evidence.grid.cd)
    grid_angle = math.degrees(math.atan2(cd[0, 1], cd[1, 1]))
    angle = (trail.angle_deg - evidence.exposures[date].position_angle_deg + grid_angle) % 90.0
    return min(angle, 90.0 - angle) < _PARALLEL_DEG


def _difference(evidence, survey, off_arcsec):
    """Difference to the others in units of its noise; NaN around sources, whose shape the seeing changes."""
    others = evidence.others(survey)
    noise = np.sqrt(survey.white_variance)
    scaled = (survey.white - others) / noise
    return np.where(evidence.calm(survey, off_arcsec), scaled, np.nan)


def straight_line(image, inside):
    """Find the straight line whose sum stands out most.

    Values are clipped, so that a bright spot makes no line, and a line must be bright in most of its pieces.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        In units of its noise; NaN where it does not count.
    inside : ndarray of bool
        Spaxels that the exposure covers, whether they count or not.

    Returns
    -------
    Trail
    """
    rows, columns = np.nonzero(np.isfinite(image))
    if len(rows) < 100:
        return Trail(math.nan, 0.0, 0.0)
    values = image[rows, columns].astype(np.float64)
    values = (values - np.median(values)) / max(robust_scatter(values, lower=True), 1e-30)
    values = np.clip(values, -_CLIP, _CLIP)
    best = Trail(0.0, 0.0, 0.0)
    covered = np.nonzero(inside)
    for angle in np.arange(0.0, 180.0, _STEP_DEG):
        normal = _along_normal(rows, columns, angle)
        for shift in (0.0, 0.5):
            low = normal.min() - shift * _BIN_SPAXELS
            place = ((normal - low) / _BIN_SPAXELS).astype(np.int64)
            count = np.bincount(place)
            way = _along_normal(*covered, angle) - low
            whole = np.bincount(
                np.clip(way / _BIN_SPAXELS, 0, len(count) - 1).astype(np.int64), minlength=len(count)
            )
            sums = np.where(count >= _SEEN * whole, _contrast(np.bincount(place, values), count), 0.0)
            at = int(np.argmax(sums))
            if sums[at] > best.sigma and _is_covered(rows, columns, values, place == at, angle):
                best = Trail(float(sums[at]), float(angle), float(low + (at + 0.5) * _BIN_SPAXELS))
    return replace(best, sigma=best.sigma / _correlation(image))


def _along_normal(rows, columns, angle):
    """Distance of places along the normal of lines."""
    return columns * math.cos(math.radians(angle)) + rows * math.sin(math.radians(angle))


def _contrast(sums, count):
    """Mean along each line over the brighter of the lines on both sides of it, in units of its error."""
    mean = np.where(count > 0, sums / np.maximum(count, 1), np.nan)
    padded = np.pad(mean, _FLANK, constant_values=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # lines without a neighbour
        flanks = np.nanmax([padded[: -2 * _FLANK], padded[2 * _FLANK :]], axis=0)
    contrast = (mean - np.nan_to_num(flanks)) * np.sqrt(count / 1.5)
    return np.where(count >= _LONG * count.max(), np.nan_to_num(contrast), 0.0)


def _correlation(image):
    """By how much sums over boxes scatter more than without the noise that neighbouring spaxels share."""
    good = np.isfinite(image)
    filled = np.where(good, image - np.median(image[good]), 0.0)
    whole = uniform_filter(good.astype(float), _BOX) > 0.99
    if whole.sum() < 50:
        return 1.0
    boxes = uniform_filter(filled, _BOX)[whole] * _BOX
    return max(1.0, robust_scatter(boxes, lower=True) / robust_scatter(filled[good], lower=True))


def _is_covered(rows, columns, values, chosen, angle):
    """Whether most pieces of a line are bright."""
    along = rows[chosen] * math.cos(math.radians(angle)) - columns[chosen] * math.sin(math.radians(angle))
    piece = ((along - along.min()) / (np.ptp(along) + 1e-9) * _PIECES).astype(np.int64)
    count = np.bincount(piece, minlength=_PIECES)
    sums = np.bincount(piece, values[chosen], minlength=_PIECES) / np.sqrt(np.maximum(count, 1))
    return np.mean(sums[count > 0] > 1.5) >= _COVERED
