"""Which exposures make which deep field: reproducible, and with a reason for every exposure left out."""

from musedeep.select.datasets import Dataset
from musedeep.select.selection import Selection, select_exposures
from musedeep.thresholds import Thresholds

__all__ = ["Dataset", "Thresholds", "Selection", "select_exposures"]
