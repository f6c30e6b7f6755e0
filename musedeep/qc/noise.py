"""Is the variance honest? Of the rows of each exposure, and of apertures on the deep cube."""

import math

import numpy as np

from musedeep.qc.deep import APERTURES, BANDS
from musedeep.qc.evidence import finding
from musedeep.qc.sky import line_planes

__all__ = ["find_variances", "noise_factors", "noise_table", "row_noise"]

_FEWEST_ROWS = 500


def row_noise(survey, planes):
    """Measured over propagated variance of an exposure's rows on blank sky.

    The difference of a row and the deep cube, squared, over what is expected of it; the row's own part in the
    cube is allowed for.

    Parameters
    ----------
    survey : Survey
    planes : ndarray, shape (nz,), bool
        Planes that count.

    Returns
    -------
    float
        NaN with too few rows.
    """
    number, _, _, mean, square, _, _ = survey.planes[planes].sum(axis=0)
    if number < _FEWEST_ROWS:
        return math.nan
    return float(square / number - (mean / number) ** 2)


def find_variances(evidence):
    """Measured over propagated variance of every exposure beside sky lines, or its inverse."""
    _, clean = line_planes(evidence.deep)
    values = {}
    for survey in evidence.surveys:
        ratio = row_noise(survey, clean) if len(evidence.surveys) > 2 else math.nan
        values[survey.date_obs] = max(ratio, 1 / ratio) if ratio > 0 else math.nan
    note = "the variances of {exposures} are wrong by a factor {value:.2f}"
    return finding(evidence, "variance", values, note, none="too little blank sky or too few exposures")


def noise_factors(deep):
    """By how much the noise of an aperture exceeds the propagated one, for every plane.

    Drizzled voxels share rows, so their errors are correlated, which the propagated variance leaves out:
    the noise of a sum over an aperture is larger by a factor that grows with it. Measured on blank sky in
    bands of wavelength; linear between their middles, constant beyond.

    Parameters
    ----------
    deep : Deep

    Returns
    -------
    ndarray, shape (nz, len(APERTURES)), float64
        NaN for apertures that blank sky has no room for.
    """
    planes = len(deep.wavelength)
    edges = np.arange(BANDS + 1) * planes / BANDS
    middles = np.interp((edges[:-1] + edges[1:] - 1) / 2, np.arange(planes), deep.wavelength)
    factors = np.full((planes, len(APERTURES)), np.nan)
    for n in range(len(APERTURES)):
        known = np.isfinite(deep.apertures[:, n])
        if known.any():
            factors[:, n] = np.interp(deep.wavelength, middles[known], deep.apertures[known, n])
    return factors


def noise_table(evidence):
    """The correction of the noise as a table to be read by others.

    Returns
    -------
    astropy.table.Table
        WAVELENGTH [Angstrom], LEVEL, SCATTER and NOISE of blank sky, and FACTOR_<side> for apertures of
        that many spaxels.
    """
    from astropy.table import Table

    deep = evidence.deep
    table = Table(
        {"WAVELENGTH": deep.wavelength, "LEVEL": deep.level, "SCATTER": deep.scatter, "NOISE": deep.noise}
    )
    table["WAVELENGTH"].unit = "Angstrom"
    for side, column in zip(APERTURES, noise_factors(deep).T, strict=True):
        if np.isfinite(column).any():
            table[f"FACTOR_{side}"] = column
    for column in table.columns.values():
        column.info.format = ".6g"
    return table
