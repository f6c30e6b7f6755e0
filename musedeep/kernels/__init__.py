"""Numba loops: numpy arrays in, numpy arrays out, nothing of the package imported.

Every kernel releases the GIL, runs on one thread and gives the same bits on every machine of one kind:
no ``parallel=True``, no ``fastmath`` that may reorder a sum.
"""

__all__ = ["ingest", "reject", "resample", "select", "window"]
