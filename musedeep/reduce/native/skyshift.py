"""How far the wavelengths of an IFU are off, told by bright lines of the night sky."""

import warnings

import numpy as np

__all__ = ["HALF_WIDTH", "SKY_LINES", "measure_shift"]

SKY_LINES = (5577.339, 6300.304)
"""Lines whose places tell the shift, Angstrom."""

HALF_WIDTH = 5.0
"""How far around a line rows are taken, Angstrom."""

_STEP = 0.1
_REJECT_SIGMA = 15.0
_FWHM = 2.5
_FEWEST_BINS = 10


def measure_shift(near, origin):
    """The shift to add to the wavelengths of an IFU.

    Parameters
    ----------
    near : callable
        Gives rows (dict of columns) in a range (low, high) of wavelengths.
    origin : float
        Wavelength from which bins are counted, Angstrom.

    Returns
    -------
    shift : float
        Angstrom; 0 where no line could be fitted.
    errors : dict of float to float
        Error of the place of every line that was fitted, Angstrom.

    Notes
    -----
    A Gaussian on a constant is fitted to the spectrum of all good rows around each line; the shifts of the
    lines count by the inverse of their errors.
    """
    total, weights, errors = 0.0, 0.0, {}
    for line in SKY_LINES:
        found = _fit_line(near(line - HALF_WIDTH, line + HALF_WIDTH), line, origin)
        if found is None:
            continue
        centre, errors[line] = found
        total += (line - centre) / errors[line]
        weights += 1 / errors[line]
    return (total / weights if weights else 0.0), errors


def _fit_line(rows, line, origin):
    """Place of a line and its error; None where it cannot be fitted."""
    # a third of a second, which the steps behind this one do without
    from scipy.optimize import OptimizeWarning, curve_fit

    wavelength, values, errors = _spectrum(rows, origin)
    if len(wavelength) < _FEWEST_BINS:
        return None
    level, peak = np.median(values), np.argmax(values)
    sigma = _FWHM / 2.3548200450309493
    start = (values[peak] - level) * sigma * np.sqrt(2 * np.pi), wavelength[peak], sigma, level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            found, covariance = curve_fit(
                _bell, wavelength, values, start, errors, absolute_sigma=True, xtol=1e-12, ftol=1e-12
            )
    except (RuntimeError, OptimizeWarning):
        return None
    error = float(np.sqrt(covariance[1, 1]))
    if not (found[0] > 0 and error > 0 and abs(found[1] - line) < HALF_WIDTH):
        return None
    return float(found[1]), error


def _bell(x, area, centre, sigma, level):
    return area / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((x - centre) / sigma) ** 2) + level


def _spectrum(rows, origin):
    """Wavelengths of the bins that have any rows, mean of the good rows in them, and scatter of a row.

    A row counts for the two bins that it lies between, by its nearness; those far above or below are left
    out.
    """
    good = rows["dq"] == 0
    wavelength, data, variance = (rows[name][good].astype(np.float64) for name in ("lambda", "data", "stat"))
    if not len(data):
        return wavelength, data, variance
    place = (wavelength - origin) / _STEP
    low = np.floor(place).astype(int)
    part, first = place - low, low.min()
    low -= first
    count = low.max() + 2
    kept = np.ones(len(data), bool)
    for again in (True, False):
        weight, total, spread = (
            np.bincount(low[kept], ((1 - part) * values)[kept], count)
            + np.bincount(low[kept] + 1, (part * values)[kept], count)
            for values in (np.ones(len(data)), data, variance)
        )
        filled = weight > 0
        weight[~filled] = 1
        mean, scatter = total / weight, np.sqrt(spread / weight)
        if again:
            # of the two bins the larger mean and the larger scatter count, as in the recipe
            level, reach = np.maximum(mean[low], mean[low + 1]), np.maximum(scatter[low], scatter[low + 1])
            kept = np.abs(data - level) <= _REJECT_SIGMA * reach
    return origin + _STEP * (first + np.flatnonzero(filled)), mean[filled], scatter[filled]
