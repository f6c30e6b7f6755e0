"""The steps of ESO's muse_scipost in our own code, row by row, in chunks of bounded size."""

from musedeep.reduce.native.scipost import reduce_tables

__all__ = ["reduce_tables"]
