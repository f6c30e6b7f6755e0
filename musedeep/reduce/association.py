"""Which master calibrations and which SKY frame belong to an exposure."""

import math
from dataclasses import dataclass, field

from musedeep.muse import IFU_COUNT, MODES
from musedeep.reduce.frames import Frame

__all__ = ["Association", "associate", "steps_of"]

# Days within which calibrations are as good as those of the night; older ones serve, and it is told.
_VALID_DAYS = {
    "MASTER_BIAS": 3.0, "MASTER_DARK": 400.0, "MASTER_FLAT": 3.0, "TRACE_TABLE": 3.0, "WAVECAL_TABLE": 1.5,
    "LSF_PROFILE": 30.0, "TWILIGHT_CUBE": 30.0, "GEOMETRY_TABLE": 400.0, "ASTROMETRY_WCS": 400.0,
    "STD_RESPONSE": 30.0, "STD_TELLURIC": 30.0,
}  # fmt: skip
_OF_MODE = {
    "MASTER_FLAT", "TRACE_TABLE", "WAVECAL_TABLE", "LSF_PROFILE", "TWILIGHT_CUBE", "ASTROMETRY_WCS",
    "STD_RESPONSE", "STD_TELLURIC", "ILLUM",
}  # fmt: skip
_OF_READOUT = {"MASTER_BIAS", "MASTER_DARK", "MASTER_FLAT"}
_OF_IFU = {
    "MASTER_BIAS", "MASTER_DARK", "MASTER_FLAT", "TRACE_TABLE", "WAVECAL_TABLE", "LSF_PROFILE",
    "BADPIX_TABLE", "NONLINEARITY_GAIN",
}  # fmt: skip
_BASIC = ("MASTER_BIAS", "MASTER_FLAT", "TRACE_TABLE", "WAVECAL_TABLE", "GEOMETRY_TABLE")
_BASIC_OPTIONAL = ("MASTER_DARK", "TWILIGHT_CUBE", "BADPIX_TABLE", "NONLINEARITY_GAIN", "ILLUM")
_FLUX = ("EXTINCT_TABLE", "STD_RESPONSE")
_MODEL = ("SKY_LINES", "LSF_PROFILE")
_ILLUM_HOURS = 4.0


@dataclass
class Association:
    """What belongs to an exposure.

    Attributes
    ----------
    frame : Frame
    case : str
        ``sky``, ``no-sky`` or ``crowded``; empty for a SKY frame.
    sky : Frame or None
    chosen : dict of (str, int) to Frame
        Calibrations by tag and IFU; IFU 0 for those that serve all.
    missing : list of str
        What is needed and not there, in words.
    ifu_missing : dict of int to str
        The same for single IFUs.
    notes : list of str
        What a human should know: old calibrations, IFUs that the frame does not hold.
    arc_days : float
        Time to the arc that is furthest away, NaN where there is none.
    backend, backend_reason : str
        What reduces it (``native`` or ``esorex``), and why.
    """

    frame: Frame
    case: str = ""
    sky: Frame | None = None
    chosen: dict = field(default_factory=dict)
    missing: list = field(default_factory=list)
    ifu_missing: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    arc_days: float = math.nan
    backend: str = ""
    backend_reason: str = ""

    @property
    def ifus(self):
        """IFUs that can be reduced."""
        return [ifu for ifu in self.frame.ifus if ifu not in self.ifu_missing]

    def calibrations(self, tags, ifu=None):
        """Frames of some tags (iterable): of one IFU, or of all that can be reduced."""
        ifus = self.ifus if ifu is None else [ifu]
        found = {}
        for tag in tags:
            for n in ifus if tag in _OF_IFU else [0]:
                frame = self.chosen.get((tag, n))
                if frame is not None:
                    found[frame.path] = frame
        return list(found.values())


def steps_of(association, with_sky):
    """Tags of the calibrations of every step of an exposure.

    Parameters
    ----------
    association : Association
    with_sky : str
        ``subtract-model`` or ``model``, for exposures with a SKY frame.

    Returns
    -------
    dict of str to (tuple, tuple)
        Step (``scibasic``, ``create_sky``, ``scipost``) to tags that are needed, and that are used if there.
    """
    steps = {"scibasic": (_BASIC, _BASIC_OPTIONAL)}
    if association.frame.tag == "SKY":
        return steps | {"create_sky": (_FLUX + _MODEL, ("STD_TELLURIC",))}
    needed = _FLUX
    if association.case == "no-sky" or (association.case == "sky" and with_sky == "model"):
        needed += _MODEL
    elif association.case == "sky":
        needed += ("LSF_PROFILE",)
    used = ("STD_TELLURIC", "ASTROMETRY_WCS", "FILTER_LIST")
    mode = MODES.get(association.frame.mode)
    if mode is not None and mode.gap and needed != _FLUX:
        used += ("RAMAN_LINES",)
    return steps | {"scipost": (needed, used)}


def associate(frame, frames, settings, *, sky=None, case=""):
    """Find the calibrations of an exposure.

    The instrument mode (or the read-out) has to be the exposure's. Of those left the best quality is taken:
    of the same night, of the nights beside it, within the time for which such a calibration is good, older;
    of one quality the nearest in time, of one time that which was made last.

    Parameters
    ----------
    frame : Frame
        OBJECT or SKY.
    frames : list of Frame
        The calibrations.
    settings : ReductionSettings
    sky : Frame, optional
        The SKY frame of an OBJECT.
    case : str, optional
        Its case.

    Returns
    -------
    Association
    """
    found = Association(frame, case=case, sky=sky)
    absent = sorted(set(range(1, IFU_COUNT + 1)) - set(frame.ifus))
    if absent:
        found.notes.append(f"the frame holds no IFU {_numbers(absent)}")
    for needed, used in steps_of(found, settings.with_sky).values():
        for tag in (*needed, *used):
            for ifu in frame.ifus if tag in _OF_IFU else (0,):
                _choose(found, frames, tag, ifu, tag in needed)
    arcs = [abs(f.mjd - frame.mjd) for (tag, _), f in found.chosen.items() if tag == "WAVECAL_TABLE"]
    found.arc_days = max(arcs, default=math.nan)
    if found.arc_days > settings.arc_days:
        found.notes.append(f"the arc is {found.arc_days:.2f} d away, more than {settings.arc_days:g} d")
    if not found.missing and not found.ifus:
        found.missing = sorted(set(found.ifu_missing.values()))
    return found


def _choose(found, frames, tag, ifu, needed):
    frame = found.frame
    pool = [f for f in frames if f.tag == tag and (not ifu or not f.ifus or ifu in f.ifus)]
    fitting = [f for f in pool if _fits(f, frame)]
    if tag == "ILLUM":
        fitting = [f for f in fitting if abs(f.mjd - frame.mjd) * 24 <= _ILLUM_HOURS]
    if fitting:
        best = min(fitting, key=lambda f: _order(f, frame))
        found.chosen[tag, ifu] = best
        days = abs(best.mjd - frame.mjd)
        note = f"{tag} is {days:.1f} d away"
        if days > _VALID_DAYS.get(tag, math.inf) and note not in found.notes:
            found.notes.append(note)
        return
    if not needed:
        return
    if pool:
        states = {
            f"{f.mode or 'no mode'}, read-out {f.readout or 'unknown'}, IFU {_numbers(f.ifus) or 'all'}"
            for f in pool
        }
        there = "; ".join(sorted(states))
        words = f"{tag} for {frame.mode}, read-out {frame.readout}: those there are for {there}"
    else:
        words = f"{tag}: there is none"
    if ifu:
        found.ifu_missing.setdefault(ifu, f"no {words}")
    else:
        found.missing.append(f"no {words}")


def _fits(calibration, frame):
    if calibration.tag in _OF_MODE and calibration.mode and calibration.mode != frame.mode:
        return False
    both = calibration.readout and frame.readout
    return not (calibration.tag in _OF_READOUT and both and calibration.readout != frame.readout)


def _order(calibration, frame):
    """What makes a calibration better than another: smaller is better."""
    days = abs(calibration.mjd - frame.mjd) if math.isfinite(calibration.mjd) else 0.0
    limits = (0.6, 1.5, _VALID_DAYS.get(calibration.tag, math.inf))
    quality = sum(days > limit for limit in limits)
    # of those made twice the newest: later letters sort higher, so they count from the end
    return quality, days, [-ord(letter) for letter in calibration.made], str(calibration.path)


def _numbers(ifus):
    """Numbers in words, runs joined: '1-11, 14'."""
    runs = []
    for ifu in ifus:
        if runs and ifu == runs[-1][1] + 1:
            runs[-1][1] = ifu
        else:
            runs.append([ifu, ifu])
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in runs)
