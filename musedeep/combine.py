"""Pixel store -> deep cube: lazily, block by block, or durably into the cube store."""

from functools import partial

import numpy as np
from google_crc32c import value as crc32c

from musedeep.block import combine_block
from musedeep.errors import InputError
from musedeep.execute import peak_memory, run_tasks
from musedeep.plan import block_shape, blocks_of, parallel_of, threads_of, tile_budget
from musedeep.recipe import prepare
from musedeep.store import CUBE_VARIABLES, CubeStore, DamagedCubeError, Ledger
from musedeep.versions import record_version

__all__ = ["combine_exposures", "combine_to_store", "cube_progress", "mend_cube", "rejected_rows"]

# Small blocks where somebody waits for a slice.
_LAZY_BLOCK = (32, 64, 64)


def combine_exposures(field, *, grid=None, block=_LAZY_BLOCK, **changes):
    """Combine the exposures of a field lazily: nothing is computed until values are asked for, and then only
    their blocks.

    Parameters
    ----------
    field : Field
        Its exposures must be ingested.
    grid : VoxelGrid, optional
        Another output grid, such as a cutout of the field's.
    block : (int, int, int), optional
        Voxels of a dask chunk (wavelength, y, x). Large ones read fewer rows twice.
    **changes
        Settings that shall differ from the field's, for instance ``select="half:A"`` or ``nclip=(4, 4)``.

    Returns
    -------
    xarray.Dataset
        flux, variance, exposure_count, exposure_time [s], rejected_count, weight over (wavelength, y, x), on
        dask arrays. Works with any dask scheduler.

    Raises
    ------
    InputError, UsageError
    """
    import dask.array as da
    import xarray as xr

    import musedeep.accessor  # noqa: F401  (registers .muse)

    field = field.changed(**changes) if changes else field
    recipe = prepare(field, grid=grid)
    shape = tuple(min(a, b) for a, b in zip(block, recipe.grid.shape, strict=True))
    run = field.settings.run
    memory = tile_budget(run.memory_bytes, threads_of(run), shape, len(recipe.exposures))
    chunks = tuple(
        tuple(min(step, n - a) for a in range(0, n, step))
        for n, step in zip(recipe.grid.shape, shape, strict=True)
    )
    stack = da.map_blocks(
        _lazy_block,
        recipe=recipe,
        memory=memory,
        chunks=((len(CUBE_VARIABLES),), *chunks),
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), np.float32),
        name=f"combine-{recipe.block_key(_whole(recipe.grid))}",
    )
    variables = {}
    for n, (name, (dtype, unit, text)) in enumerate(CUBE_VARIABLES.items()):
        unit = unit.replace("unit", f"({recipe.unit})" if "**" in unit else recipe.unit)
        variables[name] = (
            ("wavelength", "y", "x"),
            stack[n].astype(dtype),
            {"units": unit, "long_name": text},
        )
    _, ny, nx = recipe.grid.shape
    axes = {
        "wavelength": ("wavelength", recipe.grid.wavelengths, {"units": "Angstrom"}),
        "y": np.arange(ny),
        "x": np.arange(nx),
    }
    return xr.Dataset(variables, axes, _attributes(field, recipe) | {"folder": str(field.folder)})


def _whole(grid):
    return tuple((0, n) for n in grid.shape)


def _lazy_block(recipe, memory, block_info=None):
    """All maps of one block in one float32 array; counts stay exact, they are far below 2**24."""
    bounds = tuple(tuple(int(v) for v in bound) for bound in block_info[None]["array-location"][1:])
    maps, _ = combine_block(recipe, bounds, memory)
    return np.stack([maps[name].astype(np.float32, copy=False) for name in CUBE_VARIABLES])


def _attributes(field, recipe):
    settings = field.settings.to_dict()
    dates, combined = field.exposures.dates, {exposure.date_obs for exposure in recipe.exposures}
    selected = [dates[n] for n in field.exposures.select(field.settings.combine.select)]
    return {
        "grid": recipe.grid.to_dict(),
        "unit": recipe.unit,
        "field": field.name,
        "exposures": recipe.describe_exposures(),
        "left_out": [date for date in selected if date not in combined],
        "settings": {name: settings[name] for name in settings if name in ("grid", "combine", "mask")},
        "version": _version(),
    }


def _version():
    from musedeep import __version__

    return __version__


def _ledger(field):
    return Ledger(field.ledger_path)


def combine_to_store(field, *, client=None, progress=None):
    """Combine the exposures of a field into its cube store, durably.

    Blocks that are finished with the same inputs and settings are kept; the others are computed. May be
    interrupted at any time and called again.

    Parameters
    ----------
    field : Field
    client : distributed.Client, optional
        Where to run; threads of this process otherwise.
    progress : Progress, optional

    Returns
    -------
    dict
        blocks, computed, rows_read, rows_used, rows_rejected, bytes_read, peak_bytes (largest resident size
        of a worker).

    Raises
    ------
    InputError, MemoryLimitError, WorkError
    """
    run = field.settings.run
    threads = threads_of(run, client)
    recipe = prepare(field)
    shape = _shape_of_store(field, recipe, threads, client)
    memory = tile_budget(run.memory_bytes, threads, shape, len(recipe.exposures))
    blocks = blocks_of(recipe.grid, shape)
    cube, ledger = _open_or_create(field, recipe, shape)
    keys = {n: recipe.block_key(bounds) for n, bounds in enumerate(blocks)}
    records = ledger.read()
    done = _finished(cube, records, keys, blocks)
    missing = [n for n in keys if n not in done]
    # so that nobody takes their new values for the old ones after a crash
    ledger.forget([n for n in missing if n in records])
    # the heaviest first, so that none of them is left alone at the end
    missing.sort(key=lambda n: (-len(recipe.touching(blocks[n])), n))
    cube.set_attributes(**_attributes(field, recipe), finished=not missing)
    work = partial(_combine_one, cube_path=field.cube_path, memory=memory)
    items = _Items(recipe, blocks, missing)
    total = {
        "blocks": len(blocks),
        "computed": 0,
        "rows_read": 0,
        "rows_used": 0,
        "rows_rejected": 0,
        "bytes_read": 0,
        "peak_bytes": 0,
    }
    for item, record in run_tasks(
        work, items, client=client, workers=run.workers or None, progress=progress, describe=_describe
    ):
        ledger.append({"block": item[0], "key": keys[item[0]], **record})
        total["computed"] += 1
        for name in ("rows_read", "rows_used", "rows_rejected", "bytes_read"):
            total[name] += record[name]
        total["peak_bytes"] = max(total["peak_bytes"], record["peak_bytes"])
    _check_not_empty(field, recipe, ledger)
    cube.set_attributes(finished=True)
    record_version(field, recipe)
    return total


class _Items:
    """Blocks to be done, each with just the exposures that touch it; made one by one, so that the graph
    stays small."""

    def __init__(self, recipe, blocks, numbers):
        self.recipe, self.blocks, self.numbers = recipe, blocks, numbers

    def __len__(self):
        return len(self.numbers)

    def __iter__(self):
        for n in self.numbers:
            yield n, self.blocks[n], self.recipe.restricted(self.blocks[n])


def _describe(item):
    (z0, z1), (y0, y1), (x0, x1) = item[1]
    return f"block {item[0]} (planes {z0}-{z1 - 1}, rows {y0}-{y1 - 1}, columns {x0}-{x1 - 1})"


def _combine_one(item, *, cube_path, memory):
    """Compute one block, write it, and say what was done."""
    _, bounds, recipe = item
    maps, record = combine_block(recipe, bounds, memory)
    CubeStore(cube_path).write_block(bounds, maps)
    record["checksum"] = {name: _checksum(values) for name, values in maps.items()}
    record["voxels_filled"] = int(np.count_nonzero(maps["exposure_count"]))
    record["peak_bytes"] = peak_memory()
    return record


def _checksum(values):
    """CRC32C of a map, whatever bits its NaN have: the store returns its own for chunks of nothing else."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), values.dtype.type(np.nan), values)
    return crc32c(np.ascontiguousarray(values).tobytes())


def mend_cube(field, client=None):
    """Compare every block in the cube store with the checksums of its record, and redo those that differ.

    Parameters
    ----------
    field : Field
    client : distributed.Client, optional

    Returns
    -------
    list of int
        Numbers of the blocks that were damaged.

    Raises
    ------
    InputError, MemoryLimitError, WorkError
        As `combine_to_store`.
    """
    cube, ledger = CubeStore(field.cube_path), _ledger(field)
    blocks = blocks_of(cube.grid, cube.block_shape)
    damaged = [
        n
        for n, record in ledger.read().items()
        if record.get("checksum") and n < len(blocks) and not _is_sound(cube, blocks[n], record)
    ]
    ledger.forget(damaged)
    for n in damaged:
        cube.remove_block(blocks[n])
    combine_to_store(field, client=client)
    return damaged


def _is_sound(cube, bounds, record):
    (z0, z1), *others = bounds
    try:
        return all(
            _checksum(cube.read(name, z0, z1, *(slice(*bound) for bound in others))) == wanted
            for name, wanted in record["checksum"].items()
        )
    except DamagedCubeError:
        return False


def _shape_of_store(field, recipe, threads, client):
    """Blocks as they are in the store, if its grid is the same: another memory figure shall not throw
    finished blocks away."""
    if (field.cube_path / "zarr.json").exists():
        cube = CubeStore(field.cube_path)
        if cube.grid == recipe.grid:
            return cube.block_shape
    run = field.settings.run
    return block_shape(recipe.grid, run.memory_bytes, threads, parallel_of(run, client))


def _open_or_create(field, recipe, shape):
    ledger = _ledger(field)
    if (field.cube_path / "zarr.json").exists():
        cube = CubeStore(field.cube_path)
        if cube.grid == recipe.grid and cube.block_shape == tuple(shape):
            cube.remove_leftovers()
            return cube, ledger
    ledger.clear()
    return CubeStore.create(field.cube_path, recipe.grid, shape, _attributes(field, recipe)), ledger


def _finished(cube, records, keys, blocks):
    """Records of the blocks that are done with the present inputs and settings, and still there."""
    stored = cube.stored_blocks()
    places = {
        n: tuple(a // step for (a, _), step in zip(bounds, cube.block_shape, strict=True))
        for n, bounds in enumerate(blocks)
    }
    return {
        n: record
        for n, record in records.items()
        if n in keys
        and record.get("key") == keys[n]
        and (places[n] in stored or record["voxels_filled"] == 0)
    }


def _check_not_empty(field, recipe, ledger):
    if not any(record.get("voxels_filled") for record in ledger.read().values()):
        raise InputError(
            f"field {field.name}: no voxel of the cube received a row. Check the grid, lambdamin and "
            f"lambdamax, keep_dq and the masks "
            f"against the {len(recipe.exposures)} exposures."
        )


def cube_progress(field):
    """How much of the cube is done with the present settings and inputs.

    Parameters
    ----------
    field : Field

    Returns
    -------
    dict
        done, total (blocks), rows_used, rows_rejected.
    """
    recipe = prepare(field)
    if not (field.cube_path / "zarr.json").exists():
        return {"done": 0, "total": None, "rows_used": 0, "rows_rejected": 0}
    cube = CubeStore(field.cube_path)
    if cube.grid != recipe.grid:
        return {"done": 0, "total": None, "rows_used": 0, "rows_rejected": 0}
    blocks = blocks_of(recipe.grid, cube.block_shape)
    keys = {n: recipe.block_key(bounds) for n, bounds in enumerate(blocks)}
    good = _finished(cube, _ledger(field).read(), keys, blocks).values()
    return {
        "done": len(good),
        "total": len(blocks),
        "rows_used": sum(r["rows_used"] for r in good),
        "rows_rejected": sum(r["rows_rejected"] for r in good),
    }


def rejected_rows(field, **changes):
    """Which detector pixels the rejection took out.

    Parameters
    ----------
    field : Field
        Its exposures must be ingested.
    **changes
        Settings that shall differ from the field's.

    Returns
    -------
    dict of str to ndarray, shape (n,), uint32
        For every DATE-OBS the ``origin`` of the rejected rows (`muse.origin_ifu` and its sisters decode it),
        sorted.
    """
    from musedeep.store import PartReader

    field = field.changed(**changes) if changes else field
    recipe = prepare(field)
    run = field.settings.run
    shape = block_shape(recipe.grid, run.memory_bytes, threads_of(run), parallel_of(run))
    memory = tile_budget(run.memory_bytes, threads_of(run), shape, len(recipe.exposures))
    work = partial(_rejected_of, memory=memory)
    found = {exposure.date_obs: [] for exposure in recipe.exposures}
    for _, pieces in run_tasks(
        work, [(bounds, recipe) for bounds in blocks_of(recipe.grid, shape)], workers=run.workers or None
    ):
        for n, part, rows in pieces:
            exposure = recipe.exposures[n]
            reader = PartReader(recipe.store / exposure.name / part, exposure.parts[part], exposure.columns)
            rows = np.sort(rows)
            found[exposure.date_obs].append(
                reader.read_flat("origin", int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]]
            )
            reader.close()
    return {
        date: np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.uint32)
        for date, parts in found.items()
    }


def _rejected_of(item, *, memory):
    bounds, recipe = item
    return combine_block(recipe, bounds, memory, keep_rejected=True)[1]["rejected"]
