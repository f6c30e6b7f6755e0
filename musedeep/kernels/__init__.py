"""Numba loops: numpy arrays in, numpy arrays out, nothing of the package imported.

Every kernel releases the GIL, runs on one thread and gives the same bits on every machine of one kind:
no ``parallel=True``, no ``fastmath`` that may reorder a sum.
"""

from musedeep.kernels.apart import compile_apart

__all__ = ["apart", "ingest", "reject", "resample", "select", "window"]

# What has signatures is compiled where it is imported, the rest where it is called first (see `block`).
compile_apart("signatures", "import musedeep.kernels.ingest, musedeep.kernels.window")
