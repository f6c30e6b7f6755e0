"""What is the same for all rows of an exposure, and its rows as they are calibrated with it."""

import math
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.kernels.reduction import calibrate_rows, refract_rows
from musedeep.muse import DQ_BITS, MODES
from musedeep.reduce.native.curves import lamp_spectrum, merge_curves, read_flux_curves, read_lamp
from musedeep.reduce.native.headers import (
    Observation,
    effective_airmass,
    projection,
    refraction,
    velocity_km_s,
)
from musedeep.reduce.native.scibasic import IfuRows
from musedeep.reduce.native.survey import Survey, survey_tables

__all__ = ["REFERENCE_ANGSTROM", "Plan", "make_plan"]

REFERENCE_ANGSTROM = 7000.0
_LIGHT_KM_S = 299792.458


@dataclass(frozen=True)
class Plan:
    """What is the same for all rows of an exposure.

    Attributes
    ----------
    observation : Observation
        Its header.
    airmass : float
    air : float64 array (5,)
        Refraction.
    curves : (edges, factors)
        All that depends on wavelength alone, see `musedeep.reduce.native.curves.merge_curves`.
    with_lamp : bool
        Rows are multiplied by the spectrum of the lamp.
    survey : Survey
    centre : float64 array (2,), pixels
        Where in the focal plane the pointing lies.
    cd : float64 array (2, 2), deg
    velocity : float, km/s
    scales : dict of int to float
        By IFU, the flux of its flat field over that of the first.
    """

    observation: Observation
    airmass: float
    air: np.ndarray
    curves: tuple
    with_lamp: bool
    survey: Survey
    centre: np.ndarray
    cd: np.ndarray
    velocity: float
    scales: dict

    @property
    def refracted(self):
        """Whether rows are corrected for refraction: in the narrow field the instrument does it."""
        return bool(self.air[3:].any())

    @property
    def stretch(self):
        """Factor from measured wavelengths to those of the barycentre."""
        beta = self.velocity / _LIGHT_KM_S
        return math.sqrt((1 + beta) / (1 - beta))

    def calibrate(self, rows, ifu):
        """Calibrate rows (dict of columns) in place; how many are beyond the curves, and flagged."""
        refract_rows(rows["lambda"], rows["xpos"], rows["ypos"], self.air)
        return calibrate_rows(
            rows["lambda"], rows["data"], rows["stat"], rows["dq"], self.scales[ifu], *self.curves,
            np.uint32(DQ_BITS["outside_range"]),
        )  # fmt: skip


def make_plan(tables, calibrations, velocity, chunk_rows, *, good_only=False, places_only=False):
    """Read the calibrations of an exposure and survey its rows.

    Parameters
    ----------
    tables : list of PixelTable or IfuRows
        Its IFUs.
    calibrations : dict of str to list of Path
    velocity : float or None
        km/s; None for that of the header's place and time.
    chunk_rows : int
    good_only : bool, optional
        The extents of its rows are those of rows without a flag.
    places_only : bool, optional
        Of these extents only the measured ones are wanted.

    Returns
    -------
    Plan

    Raises
    ------
    InputError, UsageError
        As `musedeep.reduce.native.reduce_tables` tells.
    """
    dates = {table.date_obs for table in tables}
    if len(dates) > 1 or len({table.ifu for table in tables}) < len(tables):
        names = ", ".join(table.path.name for table in tables)
        raise InputError(f"{names}: not the IFUs of one exposure (DATE-OBS {', '.join(sorted(dates))})")
    for table in tables:
        if table.columns["data"].unit != "count":
            unit = table.columns["data"].unit
            raise InputError(f"{table.path}: data in '{unit}', 'count' is wanted: it is calibrated already")
    observation = Observation(tables[0].header, tables[0].path)
    if observation.mode not in MODES:
        raise InputError(
            f"{observation.path}: mode {observation.mode!r}; known are {', '.join(MODES)}; correct the header"
        )
    airmass = effective_airmass(observation)
    telluric, astrometry = (calibrations.get(tag, [None])[0] for tag in ("STD_TELLURIC", "ASTROMETRY_WCS"))
    needed = [calibrations.get(tag, [None])[0] for tag in ("EXTINCT_TABLE", "STD_RESPONSE")]
    if None in needed:
        raise InputError(f"{observation.path}: EXTINCT_TABLE and STD_RESPONSE are needed; give both")
    curves = read_flux_curves(*needed, telluric, observation.mode, airmass)
    spectra = {f"{table.path.name} (IFU {table.ifu})": _lamp_of(table) for table in tables}
    lamp, none = lamp_spectrum(spectra, observation.mode), (np.empty(0), np.empty(0))
    if len(lamp[0]) == 0 and curves.corrected_lamp:
        raise InputError(
            f"{needed[1]}: made with the spectrum of the lamp, which the tables do not have; give a response "
            "without (ESO DRS MUSE FLUX FFCORR)"
        )
    air = refraction(observation, airmass, REFERENCE_ANGSTROM)
    survey = survey_tables(tables, air, chunk_rows, good_only=good_only, places_only=places_only)
    cd, correction = projection(observation, fits.getheader(astrometry) if astrometry else None)
    return Plan(
        observation=observation,
        airmass=airmass,
        air=air,
        # a response that was made without it has it in itself
        curves=merge_curves(
            curves, lamp if curves.corrected_lamp else none, observation.number("EXPTIME"), airmass
        ),
        with_lamp=curves.corrected_lamp,
        survey=survey,
        centre=survey.measured.mean(axis=1) + correction,
        cd=cd,
        velocity=velocity_km_s(observation) if velocity is None else float(velocity),
        scales=_flat_fluxes(tables),
    )


def _lamp_of(table):
    return table.lamp() if isinstance(table, IfuRows) else read_lamp(table.path)


def _flat_fluxes(tables):
    """Flux of the flat field of every IFU, in units of the first's: that of the twilight if all IFUs have
    it, else that of the lamp."""
    for kind in ("SKY", "LAMP"):
        fluxes = [float(table.header.get(f"ESO DRS MUSE FLAT FLUX {kind}", 0)) for table in tables]
        if min(fluxes) > 0:
            return {table.ifu: flux / fluxes[0] for table, flux in zip(tables, fluxes, strict=True)}
    return {table.ifu: 1.0 for table in tables}
