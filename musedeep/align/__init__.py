"""Offsets and flux scales of exposures, measured on their white-light images."""

from musedeep.align.drawing import draw_alignment
from musedeep.align.exposures import Alignment, align_exposures

__all__ = ["Alignment", "align_exposures", "draw_alignment"]
