"""Raw exposures to reduced pixel tables and white-light images."""

from musedeep.reduce.exposures import Reduction, reduce_exposures

__all__ = ["Reduction", "reduce_exposures"]
