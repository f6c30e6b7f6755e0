"""The quality of a field: measured, judged, drawn and told."""

from importlib import import_module

__all__ = ["Assessment", "assess_field", "is_assessed"]


def __getattr__(name):
    # Status and a run without assessment need none of its libraries, which take a second to import.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.assess"), name)
