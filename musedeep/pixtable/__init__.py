"""Reduced pixel tables on disk: header facts and columns, read by byte range and never whole."""

from musedeep.pixtable.exposure import Exposure, group_exposures
from musedeep.pixtable.table import Column, PixelTable, open_pixel_table
from musedeep.pixtable.writer import PixelTableWriter

__all__ = ["Column", "Exposure", "PixelTable", "PixelTableWriter", "group_exposures", "open_pixel_table"]
