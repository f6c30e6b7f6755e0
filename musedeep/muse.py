"""Facts about the MUSE instrument and its pixel tables: modes, samplings, flags, origin packing, keywords."""

from dataclasses import dataclass

import numpy as np

__all__ = [
    "COLUMNS", "DETECTOR_LINES", "DQ_BITS", "FIELD_ARCSEC", "FLUX_UNIT", "IFU_COUNT", "MODES", "Mode",
    "OPTIONAL_COLUMNS", "PIXTABLE_PREFIX", "PLANE_ANGSTROM", "SLICES_PER_STACK", "SLICE_COUNT",
    "SLICE_SKY_NUMBERS", "UNITS", "mode_facts", "origin_ifu", "origin_slice", "origin_x", "origin_y",
    "pack_origin", "sampling_arcsec", "scales_from_cd", "xoffset_keyword",
]  # fmt: skip

IFU_COUNT = 24
SLICE_COUNT = 48
SLICES_PER_STACK = 12
DETECTOR_LINES = 4112
PLANE_ANGSTROM = 1.25

FLUX_UNIT = "10**(-20)*erg/s/cm**2/Angstrom"
PIXTABLE_PREFIX = "ESO DRS MUSE PIXTABLE "

COLUMNS = {
    "xpos": "float32", "ypos": "float32", "lambda": "float32", "data": "float32",
    "dq": "uint32", "stat": "float32", "origin": "uint32",
}  # fmt: skip
"""Columns every pixel table has, with their native dtypes; dq and origin are bit patterns."""

OPTIONAL_COLUMNS = {"weight": "float32"}
"""Columns a pixel table may have besides."""

UNITS = {
    "xpos": "rad", "ypos": "rad", "lambda": "Angstrom", "data": FLUX_UNIT,
    "dq": "", "stat": f"({FLUX_UNIT})**2", "origin": "",
}  # fmt: skip
"""Units of the columns of a reduced pixel table."""

DQ_BITS = {
    "telluric_uncorrected": 0x1,
    "telluric_corrected": 0x2,
    "cosmic_ray": 0x20,
    "low_qe": 0x40,
    "hot_pixel": 0x100,
    "dark_pixel": 0x200,
    "saturated": 0x1000,
    "dead_pixel": 0x2000,
    "other_bad": 0x4000,
    "object": 0x2000000,
    "outlier": 0x4000000,
    "nad_gap": 0x8000000,
    "trap": 0x20000000,
    "missing": 0x40000000,
    "outside_range": 0x80000000,
}
"""Quality flags by name."""

SLICE_SKY_NUMBERS = tuple(
    stack * SLICES_PER_STACK + number
    for stack in range(4)
    for number in (9, 8, 1, 10, 7, 2, 11, 6, 3, 12, 5, 4)
)
"""Position on the sky (1 to 48: stack by stack, top to bottom) of the slices in the order of the detector."""


@dataclass(frozen=True)
class Mode:
    """Wavelengths and sampling of one instrument mode.

    Attributes
    ----------
    wavelength_range : (low, high), Angstrom, air, that the reduction keeps.
    gap : (low, high), Angstrom, blocked by the sodium notch filter, or None.
    sampling_arcsec : (x, y) nominal size of a spaxel, arcsec.
    field_arcsec : side of the field of view, arcsec.
    """

    wavelength_range: tuple[float, float]
    gap: tuple[float, float] | None
    sampling_arcsec: tuple[float, float]
    field_arcsec: float


_WIDE = (0.2, 0.2)
_NARROW = (0.02519, 0.02542)
FIELD_ARCSEC = {"WFM": 60.0, "NFM": 7.5}

MODES = {
    "WFM-NOAO-N": Mode((4750.0, 9350.0), None, _WIDE, FIELD_ARCSEC["WFM"]),
    "WFM-NOAO-E": Mode((4600.0, 9350.0), None, _WIDE, FIELD_ARCSEC["WFM"]),
    "WFM-AO-N": Mode((4700.0, 9350.0), (5805.0, 5966.0), _WIDE, FIELD_ARCSEC["WFM"]),
    "WFM-AO-E": Mode((4600.0, 9350.0), (5755.0, 6008.0), _WIDE, FIELD_ARCSEC["WFM"]),
    "NFM-AO-N": Mode((4750.0, 9350.0), (5780.0, 6050.0), _NARROW, FIELD_ARCSEC["NFM"]),
}


def mode_facts(mode):
    """Facts of an instrument mode.

    Parameters
    ----------
    mode : str
        Value of ``ESO INS MODE``.

    Returns
    -------
    Mode

    Raises
    ------
    ValueError
        The mode is unknown.
    """
    try:
        return MODES[mode]
    except KeyError:
        raise ValueError(f"unknown instrument mode {mode!r}; known are {', '.join(MODES)}") from None


def sampling_arcsec(mode):
    """Nominal spaxel size of a mode: (x, y) in arcsec; every mode but the narrow field is wide field."""
    return _NARROW if str(mode).startswith("NFM") else _WIDE


def pack_origin(x, y, ifu, slice_number, offset):
    """Pack where a row was measured on its detector.

    Parameters
    ----------
    x, y : int or integer array
        Detector pixel, 1-based, 1 to 8191.
    ifu, slice_number : int or integer array
        IFU 1 to 24 and slice 1 to 48 in the order of the detector.
    offset : int or integer array
        The slice's ``XOFFSET``, 0 to 8191; kept apart so that x fits into a byte.

    Returns
    -------
    origin : uint32, shape of the broadcast inputs

    Raises
    ------
    ValueError
        A number lies outside its range.
    """
    limits = ("x", x, 1, 8191), ("y", y, 1, 8191), ("ifu", ifu, 1, 24), ("slice", slice_number, 1, 48)
    for name, values, low, high in (*limits, ("offset", offset, 0, 8191)):
        if np.any(np.less(values, low)) or np.any(np.greater(values, high)):
            raise ValueError(f"origin: {name} must lie in {low}..{high}, found {values!r}")
    x, y, ifu, slice_number, offset = (np.asarray(v, np.int64) for v in (x, y, ifu, slice_number, offset))
    # a byte is all that is left for x; a slice is 80 pixels wide, hence enough
    return (((x - offset) & 0xFF) << 24 | y << 11 | ifu << 6 | slice_number).astype(np.uint32)


def origin_y(origin):
    """Detector line, 1-based (uint32), of packed origins (uint32)."""
    return np.asarray(origin, np.uint32) >> np.uint32(11) & np.uint32(0x1FFF)


def origin_ifu(origin):
    """IFU number 1 to 24 (uint32) of packed origins (uint32)."""
    return np.asarray(origin, np.uint32) >> np.uint32(6) & np.uint32(0x1F)


def origin_slice(origin):
    """Slice number 1 to 48 in the order of the detector (uint32) of packed origins (uint32)."""
    return np.asarray(origin, np.uint32) & np.uint32(0x3F)


def origin_x(origin, xoffset):
    """Detector column, 1-based, of packed origins.

    Parameters
    ----------
    origin : uint32 array
    xoffset : int or integer array
        ``XOFFSET`` of each row's slice (`musedeep.pixtable.Exposure.xoffsets`).

    Returns
    -------
    x : int64 array
    """
    return (np.asarray(origin, np.uint32) >> np.uint32(24) & np.uint32(0x7F)).astype(np.int64) + xoffset


def xoffset_keyword(ifu, slice_number, exposure=0):
    """Header keyword of the x offset of one slice."""
    return f"{PIXTABLE_PREFIX}EXP{exposure} IFU{ifu:02d} SLICE{slice_number:02d} XOFFSET"


def scales_from_cd(cd):
    """Pixel scales of a CD matrix.

    Parameters
    ----------
    cd : array, shape (2, 2), float64
        Degrees per pixel.

    Returns
    -------
    xscale, yscale : float
        Degrees per pixel. Signed when the matrix has no cross terms, lengths otherwise.
    """
    (cd11, cd12), (cd21, cd22) = np.asarray(cd, np.float64)
    if cd11 * cd22 - cd12 * cd21 < 0:
        cd11, cd12 = -cd11, -cd12
    if cd12 == 0 and cd21 == 0:
        return float(cd11), float(cd22)
    return float(np.hypot(cd11, cd12)), float(np.hypot(cd22, cd21))
