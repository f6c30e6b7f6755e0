"""Curves over wavelength: response, extinction, lines of the air, the spectrum of the lamp."""

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.lib.stride_tricks import sliding_window_view

from musedeep.errors import InputError
from musedeep.muse import MODES

__all__ = [
    "FluxCurves",
    "lamp_spectrum",
    "merge_curves",
    "read_curve",
    "read_flux_curves",
    "read_lamp",
]

_GRID = (4150.0, 9800.0, 1.25)
_FIT_ANGSTROM, _MEAN_BINS, _CLIP_SIGMA = 150.0, 12, 3.0
# Where the filter of a mode cuts the blue off; the extended modes have none.
_BLUE_ANGSTROM = {"WFM-NOAO-N": 4775.0, "WFM-AO-N": 4700.0, "NFM-AO-N": 4770.0}
_FEWEST_BINS = 5
_TELLURIC_ANGSTROM = 6273.0
# Of the exponent of the flux of a count, within an interval: kernels sum a short series.
_LARGEST_CHANGE = 1 / 32
# Angstrom to which the width of a bin is known, over that width.
_WIDTH_ERROR = 0.02 / 1.25
_NONE = np.empty(0)


@dataclass(frozen=True)
class FluxCurves:
    """What turns counts into fluxes; arrays of float64, wavelengths in ascending order.

    Attributes
    ----------
    extinction : (nodes, magnitudes for one airmass)
    response : (nodes, magnitudes, errors)
    telluric : (nodes, factors at the airmass of the exposure, errors); empty without correction
    corrected_lamp : bool
        The response was made with the spectrum of the lamp put back.
    """

    extinction: tuple
    response: tuple
    telluric: tuple
    corrected_lamp: bool


def read_curve(path, *names):
    """Columns of the first table of a file.

    Parameters
    ----------
    path : Path
    *names : str

    Returns
    -------
    tuple of float64 arrays

    Raises
    ------
    InputError
        There is no such table, or it has fewer than two rows, or wavelengths that do not ascend.
    """
    try:
        with fits.open(path) as hdus:
            columns = tuple(np.asarray(hdus[1].data[name], np.float64) for name in names)
    except (OSError, IndexError, KeyError) as error:
        raise InputError(
            f"{path}: not a table with {', '.join(names)} ({error}); is it the right file?"
        ) from error
    if len(columns[0]) < 2 or np.any(np.diff(columns[0]) <= 0):
        raise InputError(f"{path}: its wavelengths do not ascend; correct the table")
    return columns


def read_flux_curves(extinction, response, telluric, mode, airmass):
    """Read the calibrations of the flux.

    Parameters
    ----------
    extinction, response : Path
    telluric : Path or None
    mode : str
        Instrument mode of the exposure.
    airmass : float

    Returns
    -------
    FluxCurves

    Raises
    ------
    InputError
        A table cannot be read, or the response is of another mode.
    """
    header = fits.getheader(response)
    found = str(header.get("ESO INS MODE", mode)).strip()
    if found != mode:
        raise InputError(f"{response}: the response is of mode {found}, the exposure of {mode}; give its own")
    air = (_NONE, _NONE, _NONE)
    if telluric is not None:
        nodes, transmission, error = read_curve(telluric, "lambda", "ftelluric", "ftellerr")
        # the power is taken at the nodes; the error is not raised to it, as in the recipe
        air = nodes, transmission**-airmass, error
    return FluxCurves(
        extinction=read_curve(extinction, "lambda", "extinction"),
        response=read_curve(response, "lambda", "response", "resperr"),
        telluric=air,
        corrected_lamp=bool(header.get("ESO DRS MUSE FLUX FFCORR", False)),
    )


def read_lamp(path):
    """Spectrum of the lamp in a table of an IFU.

    Parameters
    ----------
    path : Path

    Returns
    -------
    (wavelengths, values), float64 arrays, or None
    """
    with fits.open(path, memmap=True) as hdus:
        if "PIXTABLE_FLAT_FIELD" not in hdus:
            return None
        data = hdus["PIXTABLE_FLAT_FIELD"].data
        return np.asarray(data["lambda"], np.float64), np.asarray(data["data"], np.float64)


def lamp_spectrum(spectra, mode):
    """Spectrum of the lamp that an exposure is multiplied by: the mean of its IFUs, smoothed.

    Parameters
    ----------
    spectra : dict of str to (wavelengths, values) or None
        Of each IFU, by its name.
    mode : str
        Instrument mode.

    Returns
    -------
    nodes, values : float64 arrays; empty where the tables have no such spectrum

    Raises
    ------
    InputError
        Only some of the IFUs have one.

    Notes
    -----
    A cubic is fitted within 150 Angstrom of every bin, again and again without what lies off by more than
    three sigma, and a running mean of up to 25 bins follows. What lies blueward of the filter's cut-off is
    not smoothed, nor within the gap of the notch filter in the wide field; what lies on either side of the
    gap is smoothed by itself.
    """
    having = [spectrum for spectrum in spectra.values() if spectrum is not None]
    if not having:
        return _NONE, _NONE
    if len(having) < len(spectra):
        names = ", ".join(name for name, found in spectra.items() if found is None)
        raise InputError(
            f"{names}: no PIXTABLE_FLAT_FIELD, which the other IFUs have; reduce these IFUs alike"
        )
    grid = np.arange(_GRID[0], _GRID[1] + _GRID[2] / 2, _GRID[2])
    low = max(spectrum[0][0] for spectrum in having)
    high = min(spectrum[0][-1] for spectrum in having)
    grid = grid[(grid >= low) & (grid <= high)]
    mean = np.mean([np.interp(grid, *spectrum) for spectrum in having], axis=0)
    for part in _smoothed_parts(grid, mode):
        mean[part] = _running_mean(_local_cubic(grid[part], mean[part]))
    return grid, mean


def merge_curves(curves, lamp, seconds, airmass):
    """All curves on common intervals, within which each of them is one smooth function.

    Parameters
    ----------
    curves : FluxCurves
    lamp : (nodes, values)
        Spectrum of the lamp that rows are multiplied by; empty to leave that out.
    seconds, airmass : float

    Returns
    -------
    edges : float64 array (intervals + 1,), Angstrom
        The last belongs to no interval. Without a wavelength that all curves reach there is no interval but
        one at infinity.
    factors : float64 array (intervals, 12)
        With w the distance from the lower edge of an interval: lamp, 0 + 1 w; 1e-20 erg/s/cm2/Angstrom of a
        count, 2 exp(3 w); square of its relative error, 4 + 5 w + 6 w2; correction of the lines of the air,
        7 + 8 w; square of its error, 9 + 10 w + 11 w2.
    """
    needed = [curves.extinction[0], curves.response[0], *([lamp[0]] if len(lamp[0]) else [])]
    low, high = max(nodes[0] for nodes in needed), min(nodes[-1] for nodes in needed)
    if low > high:
        return np.full(2, np.inf), np.zeros((1, 12))
    air = curves.telluric
    if len(air[0]):
        first, last = max(_TELLURIC_ANGSTROM, air[0][0]), air[0][-1]
        needed += [air[0], [first, np.nextafter(last, np.inf)]]
    # both ends of a curve belong to it
    end = np.nextafter(high, np.inf)
    edges = np.unique(np.concatenate([*needed, [low, end]]))
    edges = edges[(edges >= low) & (edges <= end)]
    width = np.diff(edges)
    parts = np.ceil(np.abs(_exponent(curves, airmass, edges[:-1])[1]) * width / _LARGEST_CHANGE)
    parts = np.maximum(parts, 1).astype(int)
    # number of each part within its interval
    place = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    edges = np.append(np.repeat(edges[:-1], parts) + place * np.repeat(width / parts, parts), end)
    lower = edges[:-1]
    factors = np.zeros((len(lower), 12))
    factors[:, [0, 7]] = 1
    if len(lamp[0]):
        factors[:, :2] = _line(*lamp, lower)
    exponent, factors[:, 3] = _exponent(curves, airmass, lower)
    factors[:, 2] = 1e20 * np.exp(exponent) / (seconds * 1.25)
    factors[:, 4:7] = (np.log(10) / 2.5) ** 2 * _square(curves.response[0], curves.response[2], lower)
    factors[:, 4] += _WIDTH_ERROR**2
    if len(air[0]):
        inside = (lower >= first) & (lower <= last)
        factors[inside, 7:9] = _line(*air[:2], lower[inside])
        factors[inside, 9:] = _square(air[0], air[2], lower[inside])
    return edges, factors


def _interval(nodes, wavelength):
    """Number of the interval of nodes that wavelengths lie in."""
    return np.clip(np.searchsorted(nodes, wavelength, side="right") - 1, 0, len(nodes) - 2)


def _line(nodes, values, wavelength):
    """A curve and its slope, array (n, 2), at wavelengths and until the next node."""
    j = _interval(nodes, wavelength)
    slope = np.diff(values)[j] / np.diff(nodes)[j]
    return np.column_stack([values[j] + (wavelength - nodes[j]) * slope, slope])


def _exponent(curves, airmass, wavelength):
    """Natural logarithm of the flux of a count and its slope at wavelengths and until the next node."""
    extinction, response = _line(*curves.extinction, wavelength), _line(*curves.response[:2], wavelength)
    return 0.4 * np.log(10) * (airmass * extinction - response).T


def _square(nodes, errors, wavelength):
    """The squared error of a value between two nodes, of which each has its own, as coefficients (n, 3)."""
    j = _interval(nodes, wavelength)
    width = np.diff(nodes)[j]
    part = (wavelength - nodes[j]) / width
    low, high = errors[j] ** 2, errors[j + 1] ** 2
    return np.column_stack(
        [
            low * (1 - part) ** 2 + high * part**2,
            2 * (high * part - low * (1 - part)) / width,
            (low + high) / width**2,
        ]
    )


def _smoothed_parts(grid, mode):
    """Bins (bool arrays) that are smoothed together."""
    red = grid >= _BLUE_ANGSTROM.get(mode, 0.0)
    # the recipe goes over the gap of the narrow field as if it were none
    gap = None if mode.startswith("NFM") else MODES[mode].gap
    parts = [red] if gap is None else [red & (grid <= gap[0]), red & (grid >= gap[1])]
    return [part for part in parts if np.count_nonzero(part) >= _FEWEST_BINS]


def _local_cubic(x, y):
    """Cubics around every point of an even grid, all at once, fitted until nothing more is left out."""
    half = int((_FIT_ANGSTROM + 1e-6) / (x[1] - x[0]))
    powers = np.vander(np.arange(-half, half + 1) / half, 4, increasing=True)
    products = (powers[:, :, None] * powers[:, None, :]).reshape(-1, 16)
    values = sliding_window_view(np.pad(y, half), 2 * half + 1)
    used = sliding_window_view(np.pad(np.ones(len(y)), half), 2 * half + 1)
    left = np.inf
    while used.sum() < left:
        left = used.sum()
        matrix = (used @ products).reshape(-1, 4, 4)
        fitted = np.linalg.solve(matrix, ((used * values) @ powers)[..., None])[..., 0]
        off = np.abs(values - fitted @ powers.T)
        scatter = np.sqrt((used * off**2).sum(axis=1) / used.sum(axis=1))
        used = used * (off <= _CLIP_SIGMA * scatter[:, None])
    return fitted[:, 0]


def _running_mean(y):
    """Mean of the bins around each, as many on either side, fewer towards the ends."""
    sums = np.concatenate([[0.0], np.cumsum(y)])
    place = np.arange(len(y))
    half = np.minimum(np.minimum(place, place[::-1]), _MEAN_BINS)
    return (sums[place + half + 1] - sums[place - half]) / (2 * half + 1)
