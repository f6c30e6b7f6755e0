"""Raw exposures to reduced pixel tables and white-light images."""

from importlib import import_module

__all__ = ["Reduction", "reduce_exposures"]


def __getattr__(name):
    # The steps of one exposure need nothing of what looks after many.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.exposures"), name)
