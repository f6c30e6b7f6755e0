"""The light of the bright sources of every exposure against that of the deep cube, by wavelength."""

import math

import numpy as np

from musedeep.qc.deep import BANDS, median_of, robust_scatter
from musedeep.qc.evidence import finding
from musedeep.qc.spectra import beside_bands, smooth_spectrum

__all__ = ["find_flux_colour", "find_telluric_exposures", "light_ratios"]

_FEWEST = 3
_FEWEST_PLANES = 8
# Share of the planes of a telluric band and beside it in which the sources of an exposure must be seen.
_COMPLETE = 0.9
# Wider waves come from where rows meet a source, which changes slowly with wavelength.
_SMOOTH_PLANES = 31
# Signal-to-noise ratio of the light of all bright sources in a plane, and in a band, from which it tells.
_SEEN, _SEEN_BAND = 3.0, 20.0
_SURE = 5.0


def light_ratios(evidence, bands=None):
    """Light of the bright sources in each exposure over that in the deep cube at the same places.

    Sums of rows over sums of the voxels that they lie in; by what the sky of an exposure differs is taken
    off.

    Parameters
    ----------
    evidence : Evidence
    bands : int, optional
        Equal ranges of planes to sum over; every plane by itself without.

    Returns
    -------
    ratios, errors : ndarray, shape (N, nz) or (N, bands), float64
        NaN where sources are too faint, and in exposures that see none.
    """
    number = len(evidence.deep.wavelength)
    of_plane = np.arange(number) * (bands or number) // number
    least = _SEEN if bands is None else _SEEN_BAND
    pairs = []
    for survey in evidence.surveys:
        count, value, cube, variance = survey.light.T
        sky = survey.planes[:, 2] / np.maximum(survey.planes[:, 0], 1)
        value, cube, variance = (
            np.bincount(of_plane, part) for part in (value - count * sky, cube, variance)
        )
        seen = cube > least * np.sqrt(np.maximum(variance, 1e-30))
        safe = np.where(seen, cube, 1.0)
        pairs.append([np.where(seen, part / safe, math.nan) for part in (value, np.sqrt(variance))])
    return np.array(pairs, float).reshape(len(pairs), 2, -1).swapaxes(0, 1)


def _typical(ratios):
    """Median over the exposures, by wavelength; NaN where there are too few."""
    known = np.isfinite(ratios).sum(axis=0) >= _FEWEST
    typical = np.full(ratios.shape[1], math.nan)
    typical[known] = np.nanmedian(ratios[:, known], axis=0)
    return typical


def find_flux_colour(evidence):
    """Whether the fluxes of an exposure are off in a part of the spectrum only.

    Ratio of its light to the deep cube's in six ranges of wavelength, against the median of these ranges and
    of the other exposures, in dex.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    Finding
    """
    ratios, errors = light_ratios(evidence, BANDS)
    good = ratios > 0
    logs = np.log10(ratios, where=good, out=np.full(ratios.shape, math.nan))
    errors = np.divide(errors, ratios, where=good, out=np.full(ratios.shape, math.nan)) / math.log(10)
    logs = logs - np.array([median_of(row) for row in logs]).reshape(-1, 1)
    logs = logs - _typical(logs)
    values, sure = {}, {}
    for date, row, error in zip(evidence.dates, logs, errors, strict=True):
        known = np.flatnonzero(np.isfinite(row))
        values[date], sure[date] = math.nan, False
        if len(known) >= 2:
            n = known[np.argmax(np.abs(row[known]))]
            values[date], sure[date] = float(row[n]), bool(abs(row[n]) > _SURE * error[n])
    note = "fluxes of {exposures} are off by {value:+.2f} dex in a part of the spectrum: look at the response"
    return finding(evidence, "flux_colour", values, note, sure=sure, none="no bright source")


def find_telluric_exposures(evidence):
    """Scatter of the light of an exposure, over that of the others, in telluric bands over that beside them.

    Parameters
    ----------
    evidence : Evidence

    Returns
    -------
    Finding
        The value of an exposure is that of the band in which it differs most.
    """
    ratios, errors = light_ratios(evidence)
    found = {date: [] for date in evidence.dates}
    for inside, beside in beside_bands(evidence.deep.wavelength):
        near = inside | beside
        if not near.any():
            continue
        whole = np.flatnonzero(np.isfinite(ratios[:, near]).mean(axis=1) > _COMPLETE)
        if len(whole) <= _FEWEST:
            continue
        near &= np.isfinite(ratios[whole]).all(axis=0)
        if min((near & part).sum() for part in (inside, beside)) < _FEWEST_PLANES:
            continue
        rough = np.array([row - smooth_spectrum(row, _SMOOTH_PLANES) for row in ratios[whole][:, near]])
        for n, row in zip(whole, rough, strict=True):
            scaled = (row - np.median(rough[whole != n], axis=0)) / errors[n, near]
            scatter = [robust_scatter(scaled[part[near]]) for part in (inside, beside)]
            found[evidence.dates[n]].append(scatter[0] / max(scatter[1], 1e-9))
    values = {date: max(ratios, default=math.nan) for date, ratios in found.items()}
    note = "{exposures} have absorption of the atmosphere that others have not ({value:.1f} times the noise)"
    return finding(evidence, "telluric_exposure", values, note, none="no bright sources in a telluric band")
