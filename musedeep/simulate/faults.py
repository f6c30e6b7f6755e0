"""Faults of exposures that the true offsets and flux scales do not tell of, for the trial of diagnostics."""

import math
from dataclasses import dataclass

import numpy as np

from musedeep.errors import UsageError
from musedeep.muse import DQ_BITS

__all__ = ["FAULTS", "Fault", "spoil_rows"]

#: What can be wrong with an exposure, and what the size of a fault means.
FAULTS = {
    "shift": "rows lie so many arcsec too far east",
    "flux": "fluxes are too large by this share",
    "colour": "fluxes are too large by this share beyond a wavelength",
    "background": "flux that is added everywhere",
    "ifu": "flux that is added in one IFU",
    "quadrant": "flux that is added north-east of the pointing",
    "edge": "flux that is added in the three columns at either end of each slice",
    "sky": "share of the night sky's light that is left",
    "lsf": "share of the night sky's light that is left in one slice and missing in another",
    "wavelength": "wavelengths are too large by so many Angstrom",
    "variance": "factor on the variances",
    "wiggle": "amplitude of the wiggles of the response below 5700 Angstrom",
    "telluric": "depth of the telluric lines that are left",
    "saturation": "flux from which on rows are saturated",
}
_WIGGLE_PERIOD = 120.0
_WIGGLES_END = 5700.0
_EDGE_COLUMNS = 3
# Bands (Angstrom) in which telluric lines are left, and their distance.
_TELLURIC = ((6860.0, 6930.0), (7160.0, 7340.0), (7590.0, 7720.0), (8120.0, 8340.0), (8930.0, 9300.0))
_TELLURIC_PERIOD = 9.0


@dataclass(frozen=True)
class Fault:
    """Something wrong with an exposure.

    Parameters
    ----------
    kind : str
        One of `FAULTS`, which also says what the size means.
    size : float
        Fluxes in 1e-20 erg/s/cm2/Angstrom per spaxel.
    exposure : int or None
        Index of the exposure, from 0; None for all of them.
    ifu : int
        For the kind "ifu".
    from_angstrom : float
        For the kind "colour".
    """

    kind: str
    size: float
    exposure: int | None = None
    ifu: int = 12
    from_angstrom: float = 7000.0

    def __post_init__(self):
        if self.kind not in FAULTS:
            raise UsageError(f"simulate: a fault is {self.kind!r}; allowed are {', '.join(FAULTS)}")


def spoil_rows(exposure, part, wavelength, x, y, counts):
    """Put the faults of an exposure into the rows of a slice.

    Parameters
    ----------
    exposure : ExposurePlan
    part : SlicePart
    wavelength : float32 array (lines, columns), Angstrom
    x, y : float64 arrays (lines, columns), arcsec
        True place on the plane of the pointing.
    counts : object with arrays data, variance, dq, background, electrons_per_unit
        Data, variance and dq are changed.

    Returns
    -------
    wavelength, x : arrays
        As the table shall have them.
    """
    for fault in exposure.faults:
        size = np.float32(fault.size)
        if fault.kind == "shift":
            x = x + fault.size
        elif fault.kind == "wavelength":
            wavelength = wavelength + size
        elif fault.kind == "variance":
            counts.variance *= size
        elif fault.kind == "saturation":
            counts.dq[counts.data > size] |= np.uint32(DQ_BITS["saturated"])
        elif fault.kind in ("flux", "colour", "wiggle", "telluric"):
            factor = _response(fault, wavelength)
            counts.data *= factor
            counts.variance *= factor * factor
        else:
            counts.data += _added(fault, part, x, y, counts)
    return wavelength, x


def _response(fault, wavelength):
    """Factor on the fluxes."""
    if fault.kind == "flux":
        return np.float32(1 + fault.size)
    if fault.kind == "colour":
        return np.where(wavelength > fault.from_angstrom, 1 + fault.size, 1.0).astype(np.float32)
    if fault.kind == "wiggle":
        wave = np.sin(2 * math.pi * (wavelength - 4650.0) / _WIGGLE_PERIOD)
        return np.where(wavelength < _WIGGLES_END, 1 + fault.size * wave, 1.0).astype(np.float32)
    inside = np.any([(wavelength > low) & (wavelength < high) for low, high in _TELLURIC], axis=0)
    comb = np.cos(2 * math.pi * wavelength / _TELLURIC_PERIOD)
    return np.where(inside, 1 + fault.size * comb, 1.0).astype(np.float32)


def _added(fault, part, x, y, counts):
    """Flux that is added."""
    if fault.kind in ("sky", "lsf"):
        number = part.slitlet.ifu * 48 + part.slitlet.number
        sign = 1.0 if fault.kind == "sky" else math.cos(2.4 * number)
        return np.float32(fault.size * sign) * counts.background / counts.electrons_per_unit
    if fault.kind == "ifu" and part.slitlet.ifu != fault.ifu:
        return np.float32(0)
    where = np.ones(counts.data.shape, np.float32)
    if fault.kind == "quadrant":
        where = ((x > 0) & (y > 0)).astype(np.float32)
    elif fault.kind == "edge":
        detector_x, _ = part.detector()
        left, right = (edge[slice(*part.lines)][:, None] for edge in (part.slitlet.left, part.slitlet.right))
        at_end = (detector_x - left < _EDGE_COLUMNS) | (right - detector_x < _EDGE_COLUMNS)
        where = at_end.astype(np.float32)
    return np.float32(fault.size) * where
