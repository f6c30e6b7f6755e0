"""What the night sky left behind, and whether its lines stand where they should."""

import math
from dataclasses import dataclass

import numpy as np

from musedeep.qc.evidence import Finding, finding

__all__ = ["SkyLines", "find_line_shifts", "find_sky_levels", "find_sky_noise", "line_planes", "line_shifts"]

#: Lines of the night sky that stand alone at the resolution of the instrument: Angstrom in air.
SKY_LINES = (
    5577.338, 6300.304, 6363.776, 6863.955, 6923.220, 7276.405, 7340.885, 7750.640, 7794.112, 7821.503,
    7913.708, 7993.332, 8399.170, 8430.174, 8885.850,
)  # fmt: skip
_LINE_NOISE = 1.3
_REACH_ANGSTROM = 7.0
_FEWEST_PLANES = 3
_FEWEST_ROWS = 30
_SURE = 5.0


def line_planes(deep):
    """Planes in which a line of the night sky makes the propagated noise larger, and those without a line.

    Parameters
    ----------
    deep : Deep

    Returns
    -------
    lines, clean : ndarray, shape (nz,), bool
    """
    from scipy.ndimage import percentile_filter

    good = np.isfinite(deep.noise)
    if good.sum() < 10:
        return np.zeros(len(good), bool), np.zeros(len(good), bool)
    noise = np.interp(np.arange(len(good)), np.flatnonzero(good), deep.noise[good])
    # beside the gap fewer exposures count: noise for one exposure
    noise = noise * np.sqrt(np.maximum(np.nan_to_num(deep.median_count, nan=1.0), 1.0))
    base = percentile_filter(noise, 25, size=min(161, len(noise)), mode="nearest")
    return good & (noise > _LINE_NOISE * base), good & (noise < 1.1 * base)


def find_sky_noise(evidence):
    """Measured over propagated noise of blank sky at sky lines, over the same beside them."""
    name, deep = "sky_residual", evidence.deep
    threshold = evidence.thresholds[name]
    lines, clean = line_planes(deep)
    if lines.sum() < _FEWEST_PLANES or clean.sum() < _FEWEST_PLANES:
        return Finding(
            name, math.nan, threshold, "", False, (), "no bright line of the night sky in the range"
        )
    ratio = deep.scatter / deep.noise
    value = float(np.median(ratio[lines]) / np.median(ratio[clean]))
    alarm = value > threshold
    note = (
        "sky lines left residuals: clean the cube"
        if alarm
        else "sky lines left no more noise than photons do"
    )
    return Finding(name, value, threshold, "", alarm, (), note)


def find_sky_levels(evidence):
    """Flux of blank sky at sky lines against that beside them, exposure by exposure.

    The root mean square over the planes of lines of the mean difference to the deep cube, in units of a row's
    expected error, less what the noise of the means explains.
    """
    lines, clean = line_planes(evidence.deep)
    values, sure = {}, {}
    for survey in evidence.surveys:
        date, planes = survey.date_obs, survey.planes
        used = [part & (planes[:, 0] >= _FEWEST_ROWS) for part in (lines, clean)]
        values[date], sure[date] = math.nan, False
        if min(part.sum() for part in used) < _FEWEST_PLANES:
            continue
        base = np.median(planes[used[1], 2] / planes[used[1], 0])
        number = planes[used[0], 0]
        mean = (planes[used[0], 2] / number - base) / np.sqrt(planes[used[0], 6] / number)
        noise = float(np.mean(1 / number))
        excess = float(np.mean(mean**2)) - noise
        values[date] = math.copysign(math.sqrt(max(excess, 0.0)), float(mean[np.argmax(np.abs(mean))]))
        sure[date] = excess > _SURE * noise * math.sqrt(2 / len(mean))
    note = (
        "{exposures} have flux left at the sky lines ({value:+.2f} of a row's noise): subtract the sky again"
    )
    return finding(evidence, "sky_level", values, note, sure=sure, none="no bright line of the night sky")


@dataclass(frozen=True)
class SkyLines:
    """Where an exposure has the lines of the night sky.

    Attributes
    ----------
    wavelength : ndarray, shape (n,), Angstrom
        Where they belong, in air, on Earth.
    shift, error : ndarray, shape (n,), Angstrom
        How much redder they are, and its standard error.
    """

    wavelength: np.ndarray
    shift: np.ndarray
    error: np.ndarray

    @property
    def median(self):
        """Median shift; NaN without lines."""
        return float(np.median(self.shift)) if len(self.shift) else math.nan


def line_shifts(survey):
    """Measure the lines of the night sky in the variances of an exposure's rows.

    The sky was subtracted from the data, not from its noise: the mean variance of blank rows still shows
    every line where the detector saw it.

    Parameters
    ----------
    survey : Survey

    Returns
    -------
    SkyLines
    """
    count = survey.lines[:, 0]
    level = np.divide(survey.lines[:, 1], count, out=np.full(len(count), np.nan), where=count >= 5)
    found = []
    for line in SKY_LINES:
        near = (np.abs(survey.line_wavelengths - line) < _REACH_ANGSTROM) & np.isfinite(level)
        if near.sum() < 1.6 * _REACH_ANGSTROM / 0.3125:
            continue
        shift, error = _centroid(survey.line_wavelengths[near] - line, level[near])
        if error < 0.05:
            found.append((line, shift, error))
    return SkyLines(*np.array(found, float).reshape(-1, 3).T)


def _centroid(offset, level):
    """Place of a Gaussian on a slope, Angstrom, and its error, which is infinite where there is no line."""
    from scipy.optimize import least_squares

    base = np.quantile(level, 0.2)
    peak = level.max() - base
    if not peak > 0.15 * base:
        return math.nan, math.inf

    def residual(p):
        return p[0] * np.exp(-0.5 * ((offset - p[1]) / p[2]) ** 2) + p[3] + p[4] * offset - level

    start = [peak, float(offset[np.argmax(level)]), 1.1, base, 0.0]
    limits = [[0, -_REACH_ANGSTROM, 0.5, 0, -np.inf], [np.inf, _REACH_ANGSTROM, 3.0, np.inf, np.inf]]
    fit = least_squares(
        residual, np.clip(start, np.array(limits[0]) + 1e-9, np.array(limits[1])), bounds=limits
    )
    variance = 2 * fit.cost / max(len(offset) - 5, 1)
    normal = fit.jac.T @ fit.jac
    if np.linalg.cond(normal) > 1e14:
        return math.nan, math.inf
    return float(fit.x[1]), math.sqrt(variance * np.linalg.inv(normal)[1, 1])


def find_line_shifts(evidence):
    """Median shift of the lines of the night sky in every exposure.

    Returns
    -------
    finding : Finding
    lines : dict of str to SkyLines
    """
    lines = {survey.date_obs: line_shifts(survey) for survey in evidence.surveys}
    values = {date: found.median for date, found in lines.items()}
    note = "the wavelengths of {exposures} are off by up to {value:+.2f} Angstrom: calibrate again"
    none = "no bright line of the night sky in the range"
    return finding(evidence, "wavelength_shift", values, note, none=none), lines
