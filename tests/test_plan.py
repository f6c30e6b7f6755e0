"""The plan refuses what cannot fit, before anything runs, and cuts blocks by memory and workers."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
from fields import copy_of, files_of, make_field

from musedeep import plan
from musedeep.combine import combine_to_store
from musedeep.errors import InputError, MemoryLimitError
from musedeep.grid import VoxelGrid
from musedeep.plan import (
    LARGEST_BLOCK,
    block_shape,
    blocks_of,
    parallel_of,
    part_rows,
    plan_combine,
    plan_ingest,
    threads_of,
    tile_budget,
)
from musedeep.recipe import prepare
from musedeep.settings import RunSettings
from musedeep.store import PixelStore

CD = ((-5.5e-5, 0.0), (0.0, 5.5e-5))


def grid_of(*shape):
    return VoxelGrid(shape, (53.0, -27.8), (1.0, 1.0), CD, 4750.0, 1.25)


GRIDS = [(3681, 320, 320), (3681, 1000, 1000), (21, 40, 45), (1, 1, 1), (100, 33, 129), (16, 2000, 16)]


@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("memory, threads", [(10**9, 1), (4 * 10**9, 2), (64 * 10**9, 16)])
@pytest.mark.parametrize("parallel", [1, 8, 1000])
def test_blocks_tile_the_grid(shape, memory, threads, parallel):
    grid = grid_of(*shape)
    block = block_shape(grid, memory, threads, parallel)
    assert all(n % 16 == 0 and 16 <= n <= most for n, most in zip(block, LARGEST_BLOCK, strict=True))
    assert all(b < n + 16 for b, n in zip(block, shape, strict=True))
    blocks = blocks_of(grid, block)
    assert len(set(blocks)) == len(blocks)
    assert sum(math.prod(b - a for a, b in bounds) for bounds in blocks) == math.prod(shape)
    assert all(
        0 <= a < b <= n and a % step == 0
        for bounds in blocks
        for (a, b), n, step in zip(bounds, shape, block, strict=True)
    )
    # the maps of a block take a small part of the memory, unless it is the smallest there is
    smallest = math.prod(plan.SMALLEST_BLOCK)
    assert math.prod(block) <= max(0.12 * memory / threads / 50, smallest)


def test_many_workers_get_many_blocks():
    grid = grid_of(3681, 320, 320)
    few, many = (len(blocks_of(grid, block_shape(grid, 8 * 10**9, 1, n))) for n in (1, 2000))
    assert few < 300 and many >= 2000


def test_threads_share_the_memory_of_their_process(four):
    run = four.settings.run
    assert threads_of(run) == 1 and parallel_of(run) == 2
    assert threads_of(dataclasses.replace(run, workers=3)) == 3
    assert threads_of(dataclasses.replace(run, workers=3, threads=2, cluster="processes")) == 2

    class Client:
        def nthreads(self):
            return {"a": 2, "b": 4}

    assert threads_of(run, Client()) == 4 and parallel_of(run, Client()) == 12


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_budget_of_a_tile_leaves_room_for_the_rest(threads):
    block = (64, 64, 64)
    memory = 4 * 10**9
    budget = tile_budget(memory, threads, block, 100)
    fixed = plan.BASE_BYTES + 100 * plan.BYTES_PER_EXPOSURE
    assert fixed + threads * (budget + 2.5 * 20 * 64**3) <= memory
    assert budget > 0.8 * (memory - plan.BASE_BYTES) / threads
    with pytest.raises(
        MemoryLimitError, match=r"memory = 300 MB for \d thread.*MB are needed .*64 x 64 x 64"
    ):
        tile_budget(300_000_000, 8, block, 1)


def test_what_is_named_as_needed_is_enough():
    with pytest.raises(MemoryLimitError) as error:
        tile_budget(200_000_000, 4, (32, 64, 64), 10)
    need = float(str(error.value).split("too little: ")[1].split(" MB")[0]) * 1e6 + 1e6
    assert tile_budget(need, 4, (32, 64, 64), 10) >= plan.SMALLEST_TILE_BYTES


def test_the_ingest_plan_counts_rows_and_bytes(four, tmp_path):
    field = make_field(files_of(four), tmp_path)
    found = plan_ingest(field)
    rows = sum(exposure.row_count for exposure in field.exposures)
    assert (found.stage, found.tasks, found.rows, found.bytes_read) == ("ingest", 4, rows, 28 * rows)
    assert found.memory_bytes == 10**9 and found.fits
    assert plan.BASE_BYTES < found.peak_bytes < 10**9
    assert found.to_dict()["fits"] is True
    found.check()


def test_little_memory_means_more_parts():
    tasks = []
    for memory in ("4GB", "500MB", "278MB"):
        run = RunSettings(memory=memory, workers=1)
        large = SimpleNamespace(
            settings=SimpleNamespace(run=run), exposures=[SimpleNamespace(row_count=10**7)]
        )
        tasks.append(plan_ingest(large).tasks)
    assert tasks == [2, 3, 39]


def test_parts_that_are_taken_in_at_once_share_the_memory():
    for memory, workers in ((4e9, 8), (1e9, 4), (5e8, 2), (3e8, 1)):
        rows, together = part_rows(RunSettings(memory=memory, workers=workers))
        need = together * (rows * plan.INGEST_BYTES_PER_ROW + plan.INGEST_FIXED_BYTES) + plan.BASE_BYTES
        assert 1 <= together <= workers and need <= memory
        assert rows == plan.MOST_ROWS or need > 0.9 * memory


def test_threads_of_a_cluster_all_need_their_part():
    run = RunSettings(memory="500MB", threads=8, cluster="processes")
    with pytest.raises(MemoryLimitError, match="memory = 500MB: .* needs at least 540 MB .* fewer threads"):
        part_rows(run)
    assert part_rows(dataclasses.replace(run, memory="1GB"))[1] == 8


def test_a_plan_that_does_not_fit_is_refused():
    too_much = plan.Plan("combine", 1, 1, 1, 1, 1, 1, 2_000_000_000, 1_000_000_000)
    assert not too_much.fits
    with pytest.raises(
        MemoryLimitError, match="combine: a worker needs 2000 MB, but memory = 1000 MB; grant more"
    ):
        too_much.check()


def test_the_combine_plan_says_what_combining_does(four, tmp_path):
    field = copy_of(four, tmp_path)
    found = plan_combine(field)
    total = combine_to_store(field)
    assert found.tasks == total["blocks"] and found.fits
    assert found.voxels == 21 * 42 * 45
    assert found.rows == sum(e["row_count"] for e in PixelStore(field.pixels_path).exposures().values())
    # chunks are read whole, which matters in a field as small as this
    assert 0.5 < total["bytes_read"] / found.bytes_read < 3
    with pytest.raises(MemoryLimitError):
        plan_combine(field.changed(memory="260MB")).check()
        combine_to_store(field.changed(memory="260MB"))


def test_a_plan_needs_the_exposures(four, tmp_path):
    with pytest.raises(InputError, match="no pixel store"):
        plan_combine(make_field(files_of(four), tmp_path))


def test_deep_blocks_are_predicted_to_need_more(four):
    recipe = prepare(four)
    blocks = blocks_of(recipe.grid, (32, 64, 64))
    needs = [
        plan._tile_needs(dataclasses.replace(recipe, exposures=n * recipe.exposures), (32, 64, 64), blocks)
        for n in (1, 100, 1000)
    ]
    assert all(0 < least <= need for need, least in needs)
    assert needs[1][0] > 3 * needs[0][0] and needs[2][0] > 8 * needs[1][0]
    assert needs[2][1] < 0.7 * needs[2][0]
