"""What reaches the detector: the night sky, the atmosphere and the response, as curves over wavelength."""

import math

import numpy as np

__all__ = [
    "LINE_GROUPS",
    "RESPONSE_RANGE",
    "continuum",
    "electrons_per_unit",
    "extinction",
    "lamp",
    "lines_spectrum",
    "response",
    "sky_lines",
    "telluric",
]

RESPONSE_RANGE = (4500.0, 9500.0)
_UNIT_ELECTRONS = 4.4e-4
_BIN = 1.25
_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
LINE_GROUPS = {
    0: ((5577.339, 15000.0),),
    1: ((6300.304, 12000.0), (6363.776, 4000.0)),
    2: ((5889.951, 1500.0), (5895.924, 800.0)),
    3: ((6498.7, 500.0), (6533.0, 600.0), (6553.6, 500.0), (6863.9, 1500.0), (6923.2, 1400.0)),
    4: ((7276.4, 2500.0), (7316.3, 2600.0), (7340.9, 3000.0), (7714.0, 2500.0), (7750.6, 4000.0)),
    5: ((7794.1, 4500.0), (7821.5, 3500.0), (7913.7, 4500.0), (7964.6, 4800.0), (7993.3, 4600.0)),
    6: ((8344.6, 4000.0), (8399.2, 6000.0), (8430.2, 5500.0), (8465.4, 4000.0)),
    7: ((8761.0, 3500.0), (8827.1, 7000.0), (8867.6, 6500.0), (8885.9, 7500.0), (8919.6, 6000.0)),
}
"""Lines of the night sky by group: wavelength (Angstrom), flux (1e-20 erg/s/cm2 a spaxel)."""


def sky_lines(low, high):
    """Lines of the night sky in a range.

    Returns
    -------
    list of (group, wavelength, flux)
        Groups numbered anew from 0.
    """
    found, number = [], 0
    for lines in LINE_GROUPS.values():
        inside = [(number, centre, flux) for centre, flux in lines if low <= centre <= high]
        found += inside
        number += bool(inside)
    return found


def lines_spectrum(wavelength, fwhm, low, high):
    """Flux of the lines (1e-20 erg/s/cm2/Angstrom a spaxel) at wavelengths (array, Angstrom)."""
    sigma, total = fwhm / _FWHM_PER_SIGMA, np.zeros(np.shape(wavelength))
    for _, centre, flux in sky_lines(low, high):
        near = np.abs(wavelength - centre) < 6 * sigma
        bell = np.exp(-0.5 * ((wavelength[near] - centre) / sigma) ** 2)
        total[near] += flux / (sigma * math.sqrt(2 * math.pi)) * bell
    return total


def continuum(wavelength):
    """Continuum of the night sky, 1e-20 erg/s/cm2/Angstrom a spaxel."""
    return 55.0 * (0.8 + 0.2 * np.asarray(wavelength) / 7000)


def extinction(wavelength):
    """Extinction, magnitudes for one airmass."""
    return 0.09 * (np.asarray(wavelength) / 6000) ** -2 + 0.02


def response(wavelength):
    """Response, 2.5 log10 of (counts/s/Angstrom) / (erg/s/cm2/Angstrom), without the lamp's spectrum."""
    bell = np.exp(-0.5 * ((np.asarray(wavelength) - 7000.0) / 1900.0) ** 2)
    return 2.5 * np.log10(_UNIT_ELECTRONS * bell * 1e20 / _BIN)


def telluric(wavelength):
    """Transmission of the air's own lines at airmass 1: the bands of oxygen, and one of water."""
    transmission = np.ones(np.shape(wavelength))
    for centre, depth, width in ((6880.0, 0.35, 18.0), (7620.0, 0.7, 25.0), (7220.0, 0.15, 60.0)):
        transmission -= depth * np.exp(-0.5 * ((np.asarray(wavelength) - centre) / width) ** 2)
    return transmission


def lamp(wavelength):
    """Spectrum of the flat-field lamp, 1 at 7000 Angstrom."""
    return 1 + 1.2e-4 * (np.asarray(wavelength) - 7000.0) - 2e-8 * (np.asarray(wavelength) - 7000.0) ** 2


def electrons_per_unit(wavelength, exptime, airmass):
    """Electrons that a pixel counts of 1e-20 erg/s/cm2/Angstrom above the atmosphere.

    Parameters
    ----------
    wavelength : array, Angstrom
    exptime : float, s
    airmass : float

    Returns
    -------
    float64 array
    """
    rate = 10 ** (0.4 * (response(wavelength) - airmass * extinction(wavelength))) * 1e-20
    return rate * exptime * _BIN * telluric(wavelength) ** airmass
