"""Large arrays of a thread that are used again and again: fresh memory costs more than the arithmetic."""

import threading

import numpy as np

__all__ = ["scratch"]

_local = threading.local()


def scratch(stage, name, shape, dtype):
    """An array of this thread with any values in it; the next call with its name may give the same memory.

    Parameters
    ----------
    stage : str
        Arrays of another stage are given back first.
    name : str
    shape : tuple of int
    dtype : dtype

    Returns
    -------
    ndarray
    """
    arrays = _local.__dict__
    if arrays.get("stage") != stage:
        arrays.clear()
        arrays["stage"] = stage
        arrays["kept"] = {}
    kept = arrays["kept"]
    size = int(np.prod(shape))
    if name not in kept or kept[name].size < size or kept[name].dtype != dtype:
        kept.pop(name, None)  # first give back, then take
        kept[name] = np.empty(max(size, 1), dtype)
    return kept[name][:size].reshape(shape)
