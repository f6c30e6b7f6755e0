"""What the assessment takes: threads, memory and bytes."""

import math
from dataclasses import dataclass

from musedeep.plan import BASE_BYTES, BYTES_PER_EXPOSURE, Plan, threads_of
from musedeep.recipe import prepare
from musedeep.store import CubeStore

__all__ = ["Effort", "effort_of", "plan_quality"]

# What draws figures and measures sources, once it is loaded.
_LIBRARIES = 60_000_000
# Images of the deep cube and of its bands with their sums, and what finding sources in them takes.
_FIELD_BYTES = 340
# Of each spaxel of a slab of planes: flux, variance and count, and what their statistics take.
_SLAB_SPAXEL_BYTES = 20
_PLANE_SPAXEL_BYTES = 90
# Images of an exposure that stay until the end, and the bins of wavelength that they are made from.
_IMAGE_BYTES = 32
_BINS_BYTES = 64 * 12 + 60
# A row on its way, and the planes of the cube beside it.
_ROW_BYTES = 70
_MOST_ROWS, _FEWEST_ROWS = 2_000_000, 200_000
_MOST_PLANES_BYTES, _FEWEST_PLANES_BYTES = 48_000_000, 12_000_000


@dataclass(frozen=True)
class Effort:
    """How the work is cut.

    Attributes
    ----------
    threads : int
        Pieces of work at once in a process: fewer than it has threads where memory is short.
    rows : int
        Of an exposure, read at once.
    planes_bytes : int
        Planes of the cube beside them.
    peak_bytes : int
        Predicted peak of a process.
    """

    threads: int
    rows: int
    planes_bytes: int
    peak_bytes: int


def effort_of(field, recipe, client=None):
    """Cut the work so that it fits into the memory of a worker, if it can be.

    Parameters
    ----------
    field : Field
    recipe : Recipe
        Of its cube.
    client : distributed.Client, optional

    Returns
    -------
    Effort
    """
    run, spaxels = field.settings.run, recipe.grid.shape[1] * recipe.grid.shape[2]
    boxes = [(x1 - x0 + 5) * (y1 - y0 + 5) for x0, x1, y0, y1 in (e.extent for e in recipe.exposures)]
    fixed = BASE_BYTES + _LIBRARIES + len(boxes) * BYTES_PER_EXPOSURE + _IMAGE_BYTES * sum(boxes)
    fixed += _FIELD_BYTES * spaxels
    slab = CubeStore(field.cube_path).slab_planes(("flux",))
    planes = (_SLAB_SPAXEL_BYTES * slab + _PLANE_SPAXEL_BYTES) * spaxels
    bins = _BINS_BYTES * max(boxes, default=0)
    least = max(planes, bins + _FEWEST_ROWS * _ROW_BYTES + _FEWEST_PLANES_BYTES)
    threads = threads_of(run, client)
    if client is None and run.cluster == "threads":
        threads = int(min(max((run.memory_bytes - fixed) // least, 1), threads))
    room = max((run.memory_bytes - fixed) / threads - bins, 0.0)
    rows = int(min(max(0.6 * room / _ROW_BYTES, _FEWEST_ROWS), _MOST_ROWS))
    beside = int(min(max(0.3 * room, _FEWEST_PLANES_BYTES), _MOST_PLANES_BYTES))
    peak = fixed + threads * max(planes, bins + rows * _ROW_BYTES + beside)
    return Effort(threads, rows, beside, int(peak))


def plan_quality(field, client=None):
    """Predict the assessment of a field whose cube is finished.

    Parameters
    ----------
    field : Field
    client : distributed.Client, optional

    Returns
    -------
    Plan
    """
    store = CubeStore(field.cube_path)
    recipe = prepare(field, grid=store.grid)
    records = {exposure.date_obs for exposure in recipe.exposures}
    rows = sum(exposure.row_count for exposure in field.exposures if exposure.date_obs in records)
    effort = effort_of(field, recipe, client)
    return Plan(
        stage="qc",
        tasks=-(-store.grid.shape[0] // store.slab_planes(("flux",))) + len(records),
        rows=rows,
        voxels=math.prod(store.grid.shape),
        bytes_read=store.grid.shape[0] * store.plane_bytes(("flux", "variance")) * 2 + 11 * rows,
        bytes_written=0,
        files=9 + 2 * len(records),
        peak_bytes=effort.peak_bytes,
        memory_bytes=field.settings.run.memory_bytes,
    )
