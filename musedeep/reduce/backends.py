"""What reduces an exposure: our own code, or ESO's recipes."""

from musedeep.errors import UsageError
from musedeep.muse import MODES
from musedeep.reduce.recipes import find_engine

__all__ = ["choose_backend", "native_obstacles"]

# Calibrations that our own code cannot use, and what it leaves out therefore.
_NOT_NATIVE = {
    "RAMAN_LINES": "light scattered by the lasers",
    "NONLINEARITY_GAIN": "the response of the detectors being not linear",
}


def native_obstacles(association):
    """Why our own code cannot reduce a frame.

    Parameters
    ----------
    association : Association

    Returns
    -------
    list of str
        Empty if it can.
    """
    mode = association.frame.mode
    found = [] if mode in MODES else [f"mode {mode or 'without a name'} is not known"]
    tags = {tag for tag, _ in association.chosen}
    return found + [f"{tag}: {words} is not corrected" for tag, words in _NOT_NATIVE.items() if tag in tags]


def choose_backend(association, settings):
    """What reduces a frame, and why.

    Parameters
    ----------
    association : Association
    settings : ReductionSettings
        ``auto`` takes our own code wherever it can do all that the calibrations ask for.

    Returns
    -------
    backend : str
        ``native`` or ``esorex``; empty if neither can.
    reason : str
        In words, for the record of the frame.
    """
    if settings.backend == "esorex":
        return "esorex", "backend = esorex"
    obstacles = "; ".join(native_obstacles(association))
    if not obstacles:
        return "native", f"backend = {settings.backend}: it can use all that there is for the frame"
    if settings.backend == "native":
        return "", f"backend = native, but {obstacles}; leave it out, or give backend = auto"
    try:
        find_engine(settings.esorex)
    except UsageError as error:
        return "", f"backend = auto: not native, for {obstacles}; not esorex, for {error}"
    return "esorex", f"backend = auto: not native, for {obstacles}"
