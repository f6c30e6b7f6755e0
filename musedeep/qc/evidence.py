"""What the diagnostics look at, and what they find."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from musedeep.qc.deep import Deep, robust_scatter, white_image

__all__ = ["Evidence", "Finding", "finding"]


@dataclass(frozen=True)
class Finding:
    """What one diagnostic found.

    Attributes
    ----------
    name : str
        As in the reference file.
    value, threshold : float
        The largest value, and what it is held against; the value is NaN where nothing could be measured.
    unit : str
    alarm : bool
    exposures : tuple of str
        DATE-OBS of those that are at fault; empty where it is all of them, or none.
    note : str
        A sentence.
    values : dict of str to float
        The value of every exposure that was measured, by DATE-OBS.
    """

    name: str
    value: float
    threshold: float
    unit: str
    alarm: bool
    exposures: tuple
    note: str
    values: dict = field(default_factory=dict)

    def __post_init__(self):
        # numpy's numbers are no JSON
        for name, kind in (("value", float), ("threshold", float), ("alarm", bool)):
            object.__setattr__(self, name, kind(getattr(self, name)))

    def without(self, dates):
        """The same, with some exposures explained by something else."""
        rest = {date: value for date, value in self.values.items() if date not in dates}
        guilty = tuple(date for date in self.exposures if date not in dates)
        if guilty == self.exposures or not rest:
            return self
        value = max((rest[date] for date in guilty or rest), key=abs)
        note = "no exposure stands out that nothing else explains"
        if guilty:
            note = self.note.replace(", ".join(self.exposures), ", ".join(guilty))
        return replace(self, value=value, alarm=bool(guilty), exposures=guilty, note=note, values=rest)

    @property
    def measured(self):
        """Whether there is a value."""
        return math.isfinite(self.value)

    def to_dict(self):
        """All of it as plain values."""
        return {
            "id": self.name,
            "value": self.value if self.measured else None,
            "threshold": self.threshold,
            "unit": self.unit,
            "flag": self.alarm,
            "exposures": list(self.exposures),
            "note": self.note,
            "values": {date: value for date, value in self.values.items() if math.isfinite(value)},
        }


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured.

    Attributes
    ----------
    grid : VoxelGrid
    deep : Deep
    surveys : list of Survey
    exposures : dict of str to musedeep.pixtable.Exposure
        By DATE-OBS.
    seconds : dict of str to float
        Exposure time of each.
    thresholds : dict of str to float
    """

    grid: object
    deep: Deep
    surveys: list
    exposures: dict
    seconds: dict
    thresholds: dict

    @property
    def dates(self):
        """DATE-OBS of the surveyed exposures."""
        return [survey.date_obs for survey in self.surveys]

    @cached_property
    def _sums(self):
        shape = self.deep.white.shape
        total, weight = np.zeros(shape), np.zeros(shape)
        for survey in self.surveys:
            rows, columns = self.box(survey)
            good = np.isfinite(survey.white)
            total[rows, columns] += np.where(good, survey.white, 0) * self.seconds[survey.date_obs]
            weight[rows, columns] += good * self.seconds[survey.date_obs]
        return total, weight

    def box(self, survey):
        """Rows and columns of the grid that the images of a survey cover, as slices."""
        return tuple(slice(c, c + n) for c, n in zip(survey.corner, survey.white.shape, strict=True))

    def others(self, survey):
        """Mean white image of all other exposures, where a survey lies; NaN without data."""
        total, weight = (values[self.box(survey)] for values in self._sums)
        good, seconds = np.isfinite(survey.white), self.seconds[survey.date_obs]
        rest = weight - good * seconds
        left = total - np.where(good, survey.white, 0) * seconds
        return np.where(rest > 1e-6, left / np.maximum(rest, 1e-6), np.nan)

    def blank(self, survey):
        """Blank sky where a survey has data."""
        return self.deep.blank[self.box(survey)] & np.isfinite(survey.white)

    def calm(self, survey, off_arcsec=0.0):
        """Where neither seeing nor flux scale explains a difference between an exposure and the others.

        That is more than blank sky: faint wings of sources do not matter here. An exposure that lies off has
        its sources so far beside those of the others.
        """
        others, noise = self.others(survey), np.sqrt(survey.white_variance)
        good = np.isfinite(others) & np.isfinite(noise)
        blank = self.blank(survey) & good
        if not blank.any():
            return good
        smooth = gaussian_filter(np.where(good, others - np.median(others[blank]), 0.0), 1.0)
        sources = good & (smooth > np.where(good, 2 * noise, np.inf))
        reach = 1 + math.ceil(off_arcsec / min(self.grid.step_arcsec))
        return good & ~binary_dilation(sources, iterations=reach)

    @cached_property
    def spaxel_noise(self):
        """Noise of a spaxel of each exposure's white image on blank sky; dict of str to float.

        As propagated, but not less than the rows scatter.
        """
        noise = {}
        for survey in self.surveys:
            blank = self.blank(survey)
            values = survey.white_variance[blank]
            number, _, _, _, square, _, _ = survey.planes.sum(axis=0)
            honest = max(square / number, 1.0) if number else 1.0
            noise[survey.date_obs] = float(np.sqrt(np.median(values) * honest)) if len(values) else math.nan
        return noise

    def image(self, survey, line=None, line_variance=None):
        """A survey's white image, or that of a line, as the alignment takes it."""
        return white_image(
            self.grid,
            survey.white if line is None else line,
            survey.white_variance if line is None else line_variance,
            survey.corner,
            survey.date_obs,
            self.seconds[survey.date_obs],
        )


def finding(evidence, name, values, note, *, sure=None, none="it could not be measured"):
    """Judge the values of exposures.

    Parameters
    ----------
    evidence : Evidence
    name : str
    values : dict of str to float
        Of each exposure; NaN where it could not be measured.
    note : str
        What is wrong with those above the threshold: "{exposures}" and "{value}" are filled in.
    sure : dict of str to bool, optional
        Whether the value of an exposure is significant.
    none : str
        The note where nothing was measured.

    Returns
    -------
    Finding
    """
    from musedeep.qc.reference import REFERENCE

    threshold, unit = evidence.thresholds[name], REFERENCE[name][1]
    good = {date: value for date, value in values.items() if math.isfinite(value)}
    if not good:
        return Finding(name, math.nan, threshold, unit, False, (), none)
    guilty = tuple(
        date for date, value in good.items() if abs(value) > threshold and (sure is None or sure[date])
    )
    # what is not significant does not stand for the field
    counted = {date: value for date, value in good.items() if sure is None or sure[date]} or good
    worst = max(counted.values(), key=abs)
    text = "no exposure stands out"
    if guilty:
        text = note.format(exposures=", ".join(guilty), value=worst)
    return Finding(name, float(worst), threshold, unit, bool(guilty), guilty, text, good)


def scatter_of(values):
    """Robust scatter of the values of a dict."""
    return robust_scatter(list(values.values()))
