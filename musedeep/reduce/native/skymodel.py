"""The model of the sky that an exposure shows of itself: image, mask, spectrum, lines and continuum."""

from dataclasses import dataclass, replace

import numpy as np

from musedeep.errors import InputError
from musedeep.muse import SLICE_COUNT
from musedeep.reduce.native.sky import (
    SkyLines,
    SkyModel,
    make_sky_model,
    profile_path,
    read_lines,
    read_profile,
)
from musedeep.reduce.native.skyfit import SkyFitError, fit_lines, mean_profile
from musedeep.reduce.native.skyspectrum import (
    SkyMask,
    SkySpectrum,
    read_mask,
    sky_mask,
    sky_spectrum,
    white_image,
)

__all__ = ["ModelledSky", "SkyChoice", "model_sky"]


@dataclass(frozen=True)
class SkyChoice:
    """How the sky of an exposure is found.

    Attributes
    ----------
    fraction, ignore : float
        Of the pixels of the white-light image the darkest, `ignore`, are left out, and `fraction` of the
        others is taken.
    step : float, Angstrom
        Sampling of the spectrum and of the continuum.
    crsigma : (float, float)
        Of the rejection in the image and in the spectrum; 0 to reject nothing.
    """

    fraction: float
    ignore: float = 0.05
    step: float = 0.3125
    crsigma: tuple = (15.0, 15.0)


@dataclass(frozen=True)
class ModelledSky:
    """What the sky of an exposure is like.

    Attributes
    ----------
    image : float32 array
    mask : SkyMask
        It has the place of the image, too.
    spectrum : SkySpectrum
    lines : SkyLines or None
        As fitted: 0 for those that are not in the spectrum, and all if the fit failed. None where none were
        looked for.
    continuum : float64 array (bins of the spectrum,)
    failure : str
        Why the fit of the lines failed; empty otherwise. The continuum is the whole spectrum then.
    profiles : dict of int to (cube, offsets, wavelengths)
        Of the lines, by IFU.
    """

    image: np.ndarray
    mask: SkyMask
    spectrum: SkySpectrum
    lines: SkyLines
    continuum: np.ndarray
    failure: str
    profiles: dict

    @property
    def nodes(self):
        """Wavelengths (Angstrom) of the continuum, and its values: without gaps, and as far as rows go."""
        wavelength, good = self.spectrum.wavelength, np.isfinite(self.continuum)
        return wavelength, np.interp(wavelength, wavelength[good], self.continuum[good])

    def for_ifu(self, ifu):
        """The `musedeep.reduce.native.sky.SkyModel` that is subtracted from the rows of an IFU."""
        nodes, continuum = self.nodes
        if self.lines is None:
            none = np.empty(0)
            return SkyModel(
                nodes,
                continuum,
                none,
                none,
                np.empty((SLICE_COUNT, 0, 2)),
                np.empty((SLICE_COUNT, 0)),
                0.0,
                1.0,
            )
        return make_sky_model(nodes, continuum, self.lines.wavelength, self.lines.flux, self.profiles[ifu])


def model_sky(tables, plan, calibrations, choice, chunk_rows, *, with_lines=True):
    """Model the sky of an exposure.

    Parameters
    ----------
    tables : list of PixelTable
        Its IFUs.
    plan : Plan
    calibrations : dict of str to list of Path
        With SKY_LINES and LSF_PROFILE; with a SKY_MASK, its pixels are the sky.
    choice : SkyChoice
    chunk_rows : int
        Rows in memory at a time.
    with_lines : bool, optional
        Without, the spectrum itself is the continuum.

    Returns
    -------
    ModelledSky

    Raises
    ------
    InputError
        A calibration is missing or broken, or no row shows the sky.
    """
    lines, profiles = _read_lines(tables, calibrations) if with_lines else (None, {})
    image, corner, struck = white_image(tables, plan, choice.crsigma[0])
    if calibrations.get("SKY_MASK"):
        mask = read_mask(calibrations["SKY_MASK"][0])
    else:
        mask = sky_mask(image, corner, choice.fraction, choice.ignore)
    spectrum = sky_spectrum(tables, plan, mask, struck, choice.step, choice.crsigma[1], chunk_rows)
    if lines is None:
        return ModelledSky(image, mask, spectrum, None, spectrum.flux, "", {})
    try:
        fit = fit_lines(lines, mean_profile(profiles, spectrum.slices, choice.step), spectrum)
    except SkyFitError as error:
        none = replace(lines, flux=np.zeros(len(lines.flux)))
        return ModelledSky(image, mask, spectrum, none, spectrum.flux, str(error), profiles)
    return ModelledSky(image, mask, spectrum, fit.lines, fit.continuum, "", profiles)


def _read_lines(tables, calibrations):
    missing = [tag for tag in ("SKY_LINES", "LSF_PROFILE") if not calibrations.get(tag)]
    if missing:
        raise InputError(f"{tables[0].path}: a model of the sky needs {', '.join(missing)}; give them")
    lines = read_lines(calibrations["SKY_LINES"][0])
    profiles = {
        table.ifu: read_profile(profile_path(calibrations["LSF_PROFILE"], table.ifu), table.ifu)
        for table in tables
    }
    return lines, profiles
