"""The steps of ESO's muse_scibasic, muse_create_sky and muse_scipost in our own code, in bounded memory."""

from importlib import import_module

__all__ = [
    "IfuRows",
    "SkyChoice",
    "create_sky",
    "field_image",
    "reduce_frame",
    "reduce_tables",
    "write_field_image",
]

_HOMES = {
    "IfuRows": "scibasic",
    "SkyChoice": "skymodel",
    "create_sky": "skyframe",
    "field_image": "fieldimage",
    "reduce_frame": "scibasic",
    "reduce_tables": "scipost",
    "write_field_image": "fieldimage",
}


def __getattr__(name):
    # No step waits for the libraries and the kernels of the others.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
