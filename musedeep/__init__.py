"""Hundreds of MUSE pixel tables in, one deep cube out, within the memory you grant.

The names below are looked up when they are first used, so that ``import musedeep`` and the command line's
``--help`` do not wait for numba, dask, zarr and xarray.
"""

from importlib import import_module

from musedeep.errors import InputError, MemoryLimitError, MuseDeepError, UsageError, WorkError

__version__ = "0.1.0"

_HOMES = {
    "Alignment": "align",
    "Assessment": "qc",
    "Exposure": "pixtable",
    "Field": "field",
    "OffsetTable": "offsets",
    "PixelTable": "pixtable",
    "VoxelGrid": "grid",
    "align_exposures": "align",
    "assess_field": "qc",
    "combine_exposures": "combine",
    "combine_to_store": "combine",
    "connect": "clusters",
    "earlier_field": "versions",
    "exposure_weights": "weights",
    "group_exposures": "pixtable",
    "history": "versions",
    "ingest_exposures": "ingest",
    "jackknife": "explore",
    "leave_out": "explore",
    "light_curve": "explore",
    "open_cube": "store",
    "open_field": "field",
    "open_pixel_table": "pixtable",
    "open_pixels": "explore",
    "plan_combine": "plan",
    "plan_ingest": "plan",
    "recombine": "explore",
    "reduce_exposures": "reduce",
    "run": "pipeline",
    "run_demo": "pipeline",
    "select_exposures": "select",
    "simulate_exposures": "simulate",
    "split_exposures": "explore",
    "status": "pipeline",
    "trace": "explore",
    "validate_products": "validate",
    "view": "explore",
    "write_products": "products",
}

__all__ = [
    "Alignment",
    "Assessment",
    "Exposure",
    "Field",
    "InputError",
    "MemoryLimitError",
    "MuseDeepError",
    "OffsetTable",
    "PixelTable",
    "UsageError",
    "VoxelGrid",
    "WorkError",
    "__version__",
    "align_exposures",
    "assess_field",
    "combine_exposures",
    "combine_to_store",
    "connect",
    "earlier_field",
    "exposure_weights",
    "group_exposures",
    "history",
    "ingest_exposures",
    "jackknife",
    "leave_out",
    "light_curve",
    "open_cube",
    "open_field",
    "open_pixel_table",
    "open_pixels",
    "plan_combine",
    "plan_ingest",
    "recombine",
    "reduce_exposures",
    "run",
    "run_demo",
    "select_exposures",
    "simulate_exposures",
    "split_exposures",
    "status",
    "trace",
    "validate_products",
    "view",
    "write_products",
]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'musedeep' has no attribute {name!r}")
    value = getattr(import_module(f"musedeep.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(__all__))
