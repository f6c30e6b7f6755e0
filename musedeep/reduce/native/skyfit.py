"""The lines of the sky, fitted to its spectrum, and the continuum that they leave."""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import least_squares, nnls

from musedeep.kernels.sky import spread_lines
from musedeep.reduce.native.sky import SkyLines

__all__ = ["LineFit", "SkyFitError", "fit_lines", "line_spectra", "mean_profile"]

_REFERENCE_ANGSTROM = 7000.0
_FAINTEST = 1e-4
# Wavelengths that are off by more than this were not fitted but lost.
_FARTHEST_ANGSTROM = 3.0


class SkyFitError(ValueError):
    """The lines of the sky could not be fitted; says why."""


@dataclass(frozen=True)
class LineProfile:
    """Mean profile of lines, by wavelength.

    Attributes
    ----------
    values : float64 array (wavelengths, offsets)
    offsets, wavelengths : float64 arrays, Angstrom
    """

    values: np.ndarray = field(repr=False)
    offsets: np.ndarray = field(repr=False)
    wavelengths: np.ndarray = field(repr=False)

    def at(self, wavelength):
        """Profiles (lines, offsets) at wavelengths, of area 1 and mean 0."""
        place = np.interp(wavelength, self.wavelengths, np.arange(len(self.wavelengths)))
        low = np.minimum(place.astype(int), len(self.wavelengths) - 2)
        part = (place - low)[:, None]
        return self.values[low] * (1 - part) + self.values[low + 1] * part


def mean_profile(profiles, slices, step):
    """Profile of lines in a spectrum that rows of many slices were added to.

    Parameters
    ----------
    profiles : dict of int to (cube, offsets, wavelengths)
        By IFU; cubes are float64 (48, wavelengths, offsets), and all have the same axes.
    slices : dict of int to array (48,)
        How many rows of every slice the spectrum is made of.
    step : float
        Angstrom a bin of the spectrum.

    Returns
    -------
    LineProfile
        Smeared by the width of a bin, its mean taken out, of area 1.
    """
    _, offsets, wavelengths = next(iter(profiles.values()))
    total = sum(np.tensordot(slices[ifu], cube, 1) for ifu, (cube, *_) in profiles.items())
    spacing = offsets[1] - offsets[0]
    values = _smeared(total, step / spacing)
    values /= values.sum(axis=1, keepdims=True) * spacing
    middles = (values * offsets).sum(axis=1) * spacing
    values = np.array(
        [
            np.interp(offsets + middle, offsets, row, left=0, right=0)
            for row, middle in zip(values, middles, strict=True)
        ]
    )
    values /= values.sum(axis=1, keepdims=True) * spacing
    return LineProfile(values, offsets, wavelengths)


def _smeared(values, width):
    """Mean of a function (linear between its values) over a window, in units of their spacing."""
    sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
    # the primitive, exact for steps of constant value around every sample
    place = np.arange(values.shape[1]) + 0.5
    edges = np.arange(values.shape[1] + 1)
    return np.array(
        [
            (np.interp(place + width / 2, edges, row) - np.interp(place - width / 2, edges, row)) / width
            for row in sums
        ]
    )


def line_spectra(lines, profile, spectrum, shift=(0.0, 0.0), flux=None):
    """Spectra of the groups of lines.

    Parameters
    ----------
    lines : SkyLines
    profile : LineProfile
    spectrum : SkySpectrum
        Whose bins they get.
    shift : (float, float), optional
        Relative and absolute (Angstrom at 7000) shift of the wavelengths.
    flux : float64 array, optional
        Instead of those of the list.

    Returns
    -------
    float64 array (groups, bins)
        In ascending order of the groups' numbers.
    """
    numbers, group = np.unique(lines.group, return_inverse=True)
    flux = lines.flux if flux is None else flux
    spectra = np.zeros((len(numbers), len(spectrum.flux)))
    spread_lines(
        spectrum.first, spectrum.step, shifted(lines.wavelength, shift), flux, group,
        profile.at(lines.wavelength), profile.offsets[0], profile.offsets[1] - profile.offsets[0], spectra,
    )  # fmt: skip
    return spectra


def shifted(wavelength, shift):
    """Wavelengths moved by a relative shift, and one at 7000 Angstrom."""
    relative, absolute = shift
    return wavelength * (1 + relative) + absolute - _REFERENCE_ANGSTROM * relative


@dataclass(frozen=True)
class LineFit:
    """What the fit found.

    Attributes
    ----------
    lines : SkyLines
    shift : (float, float)
        Of their wavelengths: relative, and Angstrom at 7000 Angstrom.
    continuum : float64 array (bins,)
        The spectrum without the lines.
    """

    lines: SkyLines
    shift: tuple
    continuum: np.ndarray


def fit_lines(lines, profile, spectrum):
    """Fit the strengths of groups of lines, and a shift of their wavelengths, to a spectrum of the sky.

    The differences of neighbouring bins are fitted, so that the continuum, which is smooth, drops out. For
    given wavelengths strengths are linear and not negative, so that only the two numbers of the shift are
    sought.

    Parameters
    ----------
    lines : SkyLines
    profile : LineProfile
    spectrum : SkySpectrum

    Returns
    -------
    LineFit

    Raises
    ------
    SkyFitError
        There is no bin to fit, or the fit does not find the lines near to where they are.
    """
    inside = (lines.wavelength > spectrum.wavelength[0]) & (lines.wavelength < spectrum.wavelength[-1])
    used = np.where(
        inside & (lines.flux > _FAINTEST * np.nanmax(lines.flux[inside], initial=0)), lines.flux, 0
    )
    noise = np.sqrt(spectrum.variance[1:] + spectrum.variance[:-1])
    good = np.isfinite(np.diff(spectrum.flux)) & np.isfinite(noise) & (noise > 0)
    if not good.any() or not used.any():
        raise SkyFitError("no bin of the spectrum, or no line of the list, can be fitted")
    target = np.diff(spectrum.flux)[good] / noise[good]

    def solve(shift):
        spectra = line_spectra(lines, profile, spectrum, shift, used)
        columns = np.diff(spectra, axis=1)[:, good].T / noise[good][:, None]
        # as many equations as unknowns, with the same solution
        q, r = np.linalg.qr(columns)
        strength = nnls(r, q.T @ target)[0]
        return strength, target - columns @ strength, spectra

    # parts of 1e-4 and tenths of an Angstrom are what to expect
    scale = np.array([1e-5, 0.01])
    found = least_squares(lambda x: solve(x * scale)[1], np.zeros(2), method="lm", diff_step=1e-2)
    shift = found.x * scale
    far = np.abs(shifted(spectrum.wavelength[[0, -1]], shift) - spectrum.wavelength[[0, -1]]).max()
    if not found.success or not far < _FARTHEST_ANGSTROM:
        raise SkyFitError(
            f"after {found.nfev} steps the wavelengths are off by {far:.2f} Angstrom; allowed are "
            f"{_FARTHEST_ANGSTROM:g}: do SKY_LINES and the exposure belong together?"
        )
    strength, _, spectra = solve(shift)
    if not strength.any():
        raise SkyFitError("no group of lines is in the spectrum")
    group = np.unique(lines.group, return_inverse=True)[1]
    fitted = replace(lines, wavelength=shifted(lines.wavelength, shift), flux=used * strength[group])
    return LineFit(fitted, tuple(shift), spectrum.flux - strength @ spectra)
