"""Offsets and flux scales of exposures, measured on their white-light images."""

from importlib import import_module

__all__ = ["Alignment", "align_exposures", "draw_alignment"]

_HOMES = {"Alignment": "exposures", "align_exposures": "exposures", "draw_alignment": "drawing"}


def __getattr__(name):
    # A run with given offsets asks for the state alone; scipy and photutils take a second to import.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
