"""Reduced pixel tables on disk: header facts and columns, read by byte range and never whole."""

from musedeep.pixtable.exposure import Exposure, group_exposures
from musedeep.pixtable.table import Column, PixelTable, open_pixel_table

__all__ = ["Column", "Exposure", "PixelTable", "group_exposures", "open_pixel_table"]
