"""What a stage will take before anything runs: tasks, rows, bytes and peak memory. Arithmetic only, no rows
are read."""

import math
import os
from dataclasses import asdict, dataclass

import numpy as np

from musedeep.clusters import planned_threads
from musedeep.errors import MemoryLimitError
from musedeep.presets import read_preset
from musedeep.reads import ROWS_OF_A_STEP, SMALLEST_TILE, spaxels_read, tile_bytes

__all__ = [
    "MOST_ROWS",
    "Plan",
    "block_shape",
    "blocks_of",
    "parallel_of",
    "part_rows",
    "plan_combine",
    "plan_ingest",
    "threads_of",
    "tile_budget",
]

# Resident size of a worker that has loaded everything and done nothing yet (docs/memory.md says how it was
# measured).
BASE_BYTES = 240_000_000
# Columns as they are read (28), key and whether usable (5), the sorted rows (20); and a part of an exposure
# is read with up to a half of other rows around it.
INGEST_BYTES_PER_ROW = 70
INGEST_FIXED_BYTES = 20_000_000
# Rows of one part: enough for long runs, small enough for a modest worker. The split never changes a result.
MOST_ROWS = 8_000_000
FEWEST_ROWS = 250_000
STORED_BYTES_PER_ROW = 11.5  # compressed, with dq, slice and origin
COMBINE_BYTES_PER_ROW = 10.5  # compressed, what a combination reads
MAP_BYTES_PER_VOXEL = 20
# Maps of a block exist as sums' results, as the block, and once more while they are compressed.
MAP_COPIES = 2.5
LARGEST_BLOCK = (128, 160, 160)
SMALLEST_BLOCK = (32, 64, 64)
SMALLEST_TILE_BYTES = 24_000_000
# What a process keeps of each exposure while it combines: header, place in the recipe, index of its parts.
BYTES_PER_EXPOSURE = 55_000


@dataclass(frozen=True)
class Plan:
    """What a stage will take.

    Attributes
    ----------
    stage : str
    tasks : int
    rows : int
        Rows to be worked on.
    voxels : int
    bytes_read, bytes_written : int
    files : int
        Files that the stage leaves.
    peak_bytes : int
        Predicted peak of one worker process.
    memory_bytes : int
        What one worker process may use.
    """

    stage: str
    tasks: int
    rows: int
    voxels: int
    bytes_read: int
    bytes_written: int
    files: int
    peak_bytes: int
    memory_bytes: int

    @property
    def fits(self):
        """Whether the predicted peak is within the memory that was granted."""
        return self.peak_bytes <= self.memory_bytes

    def to_dict(self):
        """All figures as a dict, with ``fits``."""
        return {**asdict(self), "fits": self.fits}

    def check(self):
        """Refuse what cannot fit.

        Raises
        ------
        MemoryLimitError
        """
        if not self.fits:
            raise MemoryLimitError(
                f"{self.stage}: a worker needs {self.peak_bytes / 1e6:.0f} MB, but memory = "
                f"{self.memory_bytes / 1e6:.0f} MB; "
                "grant more memory or use fewer threads in a worker."
            )


def threads_of(run, client=None):
    """Threads that share the memory of one worker process."""
    if client is not None:
        return max(client.nthreads().values(), default=run.threads)
    if run.cluster.endswith((".yaml", ".yml")):
        return read_preset(run.cluster).threads or run.threads
    if run.cluster != "threads":
        return run.threads
    return run.workers or os.cpu_count() or 1


def parallel_of(run, client=None):
    """Number of blocks from which on there are enough of them to keep all workers busy."""
    if client is not None:
        # also those whose jobs still wait: the cut of the cube is made once
        threads = planned_threads(client)
    elif run.cluster.endswith((".yaml", ".yml")):
        threads = read_preset(run.cluster).most_threads or threads_of(run)
    else:
        threads = threads_of(run)
    return 2 * max(threads, 1)


def block_shape(grid, memory_bytes, threads, parallel):
    """Voxels of a block: large blocks waste little on their borders, small ones spread over many workers.

    Parameters
    ----------
    grid : VoxelGrid
    memory_bytes : int
        Of a worker process.
    threads : int
        That share it.
    parallel : int
        How many blocks there should be at least, see `parallel_of`.

    Returns
    -------
    tuple of int
        (wavelength, y, x), each at most the grid's size rounded up to what divides evenly into stored chunks.
    """
    shape = list(LARGEST_BLOCK)
    most = max(0.12 * memory_bytes / threads / MAP_BYTES_PER_VOXEL / MAP_COPIES, np.prod(SMALLEST_BLOCK))
    for axis in (0, 2, 1, 0, 2, 1):
        enough = math.prod(-(-n // s) for n, s in zip(grid.shape, shape, strict=True)) >= parallel
        large = min(shape[axis], grid.shape[axis]) > SMALLEST_BLOCK[axis]
        if large and (np.prod(shape) > most or not enough):
            shape[axis] //= 2
    # blocks of one size instead of whole ones and a rest
    return tuple(_rounded(-(-n // -(-n // s))) for s, n in zip(shape, grid.shape, strict=True))


def _rounded(n):
    """Next multiple of 16, so that a narrow grid still has chunks of a handy size."""
    return -(-n // 16) * 16


def blocks_of(grid, shape):
    """Bounds of all blocks, in order of (wavelength, y, x); list of ((z0, z1), (y0, y1), (x0, x1))."""
    ranges = [
        [(a, min(a + step, n)) for a in range(0, n, step)] for n, step in zip(grid.shape, shape, strict=True)
    ]
    return [(z, y, x) for z in ranges[0] for y in ranges[1] for x in ranges[2]]


def tile_budget(memory_bytes, threads, shape, exposures):
    """Bytes that the rows and sums of one tile may take.

    Parameters
    ----------
    memory_bytes : int
        Of a worker process.
    threads : int
        That share it.
    shape : tuple of int
        Voxels of a block.
    exposures : int
        Of the field.

    Returns
    -------
    int

    Raises
    ------
    MemoryLimitError
        Nothing is left for them.
    """
    maps = MAP_COPIES * MAP_BYTES_PER_VOXEL * math.prod(shape)
    fixed = BASE_BYTES + exposures * BYTES_PER_EXPOSURE
    budget = (memory_bytes - fixed) / threads - maps
    if budget < SMALLEST_TILE_BYTES:
        need = fixed + threads * (maps + SMALLEST_TILE_BYTES)
        raise MemoryLimitError(
            f"memory = {memory_bytes / 1e6:.0f} MB for {threads} thread(s) is too little: "
            f"{need / 1e6:.0f} MB are needed for blocks of "
            f"{shape[0]} x {shape[1]} x {shape[2]} voxels. Grant more memory or use fewer threads."
        )
    return int(budget)


def part_rows(run, client=None, most_rows=MOST_ROWS):
    """How large a part of an exposure may be.

    Parameters
    ----------
    run : RunSettings
    client : distributed.Client, optional
    most_rows : int, optional

    Returns
    -------
    rows : int
        Most rows of a part, so that it fits into the memory of a worker.
    together : int
        Parts that a worker process may take in at once: fewer than it has threads where memory is short.

    Raises
    ------
    MemoryLimitError
        Not even the smallest part fits.
    """
    threads = threads_of(run, client)
    budget = run.memory_bytes - BASE_BYTES
    # the threads of a cluster's workers cannot be told to wait
    counts = range(threads, 0, -1) if client is None and run.cluster == "threads" else [threads]
    for count in counts:
        rows = int((budget / count - INGEST_FIXED_BYTES) / INGEST_BYTES_PER_ROW)
        if rows >= FEWEST_ROWS * (4 if count > 1 and len(counts) > 1 else 1):
            return min(rows, most_rows), count
    need = BASE_BYTES + counts[-1] * (INGEST_FIXED_BYTES + FEWEST_ROWS * INGEST_BYTES_PER_ROW)
    raise MemoryLimitError(
        f"memory = {run.memory}: taking in a pixel table needs at least {need / 1e6:.0f} MB a worker; "
        f"grant more memory{' or use fewer threads' if counts[-1] > 1 else ''}."
    )


def plan_ingest(field, client=None):
    """Predict the ingest stage of a field.

    Parameters
    ----------
    field : Field
    client : distributed.Client, optional

    Returns
    -------
    Plan
    """
    run = field.settings.run
    rows = [exposure.row_count for exposure in field.exposures]
    part, together = part_rows(run, client)
    parts = sum(-(-n // part) for n in rows)
    one = INGEST_FIXED_BYTES + min(max(rows), part) * INGEST_BYTES_PER_ROW
    return Plan(
        "ingest",
        parts,
        sum(rows),
        0,
        28 * sum(rows),
        int(STORED_BYTES_PER_ROW * sum(rows)),
        10 * parts + len(rows),
        BASE_BYTES + together * one,
        run.memory_bytes,
    )


def plan_combine(field, client=None):
    """Predict the combine stage of a field whose exposures are ingested.

    Parameters
    ----------
    field : Field
    client : distributed.Client, optional

    Returns
    -------
    Plan
    """
    from musedeep.recipe import prepare

    run = field.settings.run
    threads = threads_of(run, client)
    recipe = prepare(field)
    shape = block_shape(recipe.grid, run.memory_bytes, threads, parallel_of(run, client))
    blocks = blocks_of(recipe.grid, shape)
    rows = sum(part["row_count"] for exposure in recipe.exposures for part in exposure.parts.values())
    voxels = math.prod(recipe.grid.shape)
    maps = MAP_COPIES * MAP_BYTES_PER_VOXEL * math.prod(shape)
    fixed = BASE_BYTES + len(recipe.exposures) * BYTES_PER_EXPOSURE
    left = max((run.memory_bytes - fixed) / threads - maps, SMALLEST_TILE_BYTES)
    need, least = _tile_needs(recipe, shape, blocks)
    peak = fixed + threads * (maps + max(min(need, left), least))
    return Plan(
        "combine",
        len(blocks),
        rows,
        voxels,
        int(COMBINE_BYTES_PER_ROW * 1.4 * rows),
        10 * voxels,
        6 * len(blocks) + 9,
        int(peak),
        run.memory_bytes,
    )


def _tile_needs(recipe, shape, blocks):
    """Bytes of a tile as large as the deepest block, and of the smallest tile there."""
    # blocks of the same part of the sky hold the same exposures; the planes hardly matter
    tiles = {(y, x) for _, y, x in blocks}
    spaxels, (y, x) = max((spaxels_read(recipe, tile, pencils=2.0), tile) for tile in tiles)
    middle = tuple((a + b - SMALLEST_TILE) // 2 for a, b in (y, x))
    smallest = tuple((a, a + SMALLEST_TILE) for a in middle)
    need = _tile_bytes(recipe, shape, spaxels)
    least = _tile_bytes(recipe, (shape[0], SMALLEST_TILE, SMALLEST_TILE), spaxels_read(recipe, smallest))
    return need, min(need, least)


def _tile_bytes(recipe, shape, spaxels):
    """Bytes of a tile of a shape that reads so many spaxels."""
    method, segment = recipe.method, recipe.lattice[3]
    widths = np.diff(recipe.grid.plane_edges)
    segments = math.ceil((method.lag + 1) * widths.max() / segment)
    rows = spaxels / (method.pixel[0] * method.pixel[1]) * segment / method.pixel[2]
    # thin steps are joined
    segments = max(segments, ROWS_OF_A_STEP / max(rows, 1.0))
    planes = math.ceil(min(segments * segment / widths.min() + 1, shape[0] + 2 * method.halo[0]))
    return tile_bytes(method, shape, int(rows * segments), planes, len(recipe.exposures))
