"""Look behind a deep cube: rows, cutouts combined otherwise, tests of significance, and earlier versions."""

from musedeep.explore.cutouts import leave_out, recombine, split_exposures
from musedeep.explore.pixels import PixelRows, open_pixels
from musedeep.explore.significance import jackknife, light_curve
from musedeep.explore.tracing import trace
from musedeep.explore.viewer import Viewer, view

__all__ = [
    "PixelRows",
    "Viewer",
    "jackknife",
    "leave_out",
    "light_curve",
    "open_pixels",
    "recombine",
    "split_exposures",
    "trace",
    "view",
]
