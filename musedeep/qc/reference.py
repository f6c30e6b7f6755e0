"""Thresholds of the diagnostics and of the flags, which a group may change."""

import tomllib
from pathlib import Path

from musedeep.errors import InputError

__all__ = ["REFERENCE", "read_reference", "reference_text"]

#: Name: (threshold, unit, what it is held against).
REFERENCE = {
    "misalignment": (0.1, "arcsec", "distance of an exposure from where the others are"),
    "misalignment_line": (0.1, "arcsec", "the same in the light of the strongest line"),
    "crater": (0.2, "", "share of the rows of an exposure that are rejected around bright sources"),
    "blur": (1.15, "", "width of the stars of the deep image over that of the exposures"),
    "flux_scale": (0.3, "dex", "flux of the sources of an exposure over that of the others"),
    "flux_colour": (0.1, "dex", "flux scale of an exposure in a part of the spectrum over that of all of it"),
    "trail": (12.0, "sigma", "brightest straight line of an exposure minus the others"),
    "saturation": (300, "pixels", "saturated pixels of an exposure"),
    "background_level": (1.0, "sigma", "level of an exposure, in units of a spaxel's noise"),
    "background_quadrant": (1.0, "sigma", "level of a quadrant of an exposure against its others"),
    "background_ifu": (1.0, "sigma", "level of an IFU of an exposure against its others"),
    "background_width": (2.0, "", "width of the peak of the deep image's histogram over the noise"),
    "over_subtraction": (20.0, "1e-20", "minus HISTO_17: flux below the mode where the histogram ends"),
    "sky_residual": (1.8, "", "excess noise of blank sky at sky lines over that beside them"),
    "sky_level": (0.25, "sigma", "flux left at sky lines in an exposure, in units of a row's noise"),
    "wavelength_shift": (0.2, "Angstrom", "place of sky lines in an exposure"),
    "variance": (1.5, "", "measured over propagated variance of an exposure's rows, or its inverse"),
    "slice_edge": (1.0, "sigma", "level of the ends of slices, in units of a spaxel's noise"),
    "sodium_step": (0.02, "", "step of the spectra of bright sources at the sodium gap"),
    "sodium_zero": (0, "planes", "planes of the sodium gap that hold zeros instead of nothing"),
    "telluric": (3.0, "", "scatter of bright spectra in telluric bands over that beside them"),
    "telluric_exposure": (3.0, "", "the same for the light of an exposure over that of the others"),
    "wiggles": (0.01, "", "amplitude of what the bright spectra have in common below 5700 Angstrom"),
    "arc_days": (1.5, "d", "time between an exposure and its arc lamps (flag 4)"),
    "offset_arcsec": (0.2, "arcsec", "distance between exposures that raises flag 10"),
}


def read_reference(path=None):
    """Thresholds by name.

    Parameters
    ----------
    path : path, optional
        A TOML file with ``name = number`` for those that differ from `REFERENCE`.

    Returns
    -------
    dict of str to float

    Raises
    ------
    InputError
        The file cannot be read, or has a name that is unknown or a value that is no number.
    """
    values = {name: float(entry[0]) for name, entry in REFERENCE.items()}
    if not path:
        return values
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a reference file ({error})") from error
    for name, value in found.items():
        if name not in REFERENCE:
            raise InputError(f"{path}: unknown reference {name!r}; known are {', '.join(REFERENCE)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{path}: {name} = {value!r} is no number")
        values[name] = float(value)
    return values


def reference_text(values):
    """A reference file with some values, and what each of them means."""
    lines = ["# Thresholds of the quality assessment; name a changed copy as `thresholds` in [qc].", ""]
    for name, (_, unit, text) in REFERENCE.items():
        lines.append(f"{name} = {values[name]:g}".ljust(30) + f"# {text}" + (f" [{unit}]" if unit else ""))
    return "\n".join(lines) + "\n"
