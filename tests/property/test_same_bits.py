"""The same question gives the same bits, whatever the blocks, tiles, workers, files and interruptions."""

import dataclasses
import shutil

import numpy as np
import pytest
from fields import (
    assert_same_bits,
    copy_of,
    files_of,
    ingested,
    make_field,
    maps_of,
    stored_maps,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from musedeep import block, combine, plan, reads
from musedeep.block import combine_block
from musedeep.clusters import connect
from musedeep.combine import combine_to_store
from musedeep.errors import InputError, MemoryLimitError
from musedeep.ingest import ingest_exposures
from musedeep.recipe import prepare

SHAPE = (21, 42, 45)
PLENTY = 400_000_000
CHANGES = {
    "default": {},
    # a third of the rows are candidates, so that every neighbour that matters shows
    "sharp": {"nclip": (1.0, 1.0), "coherence": 1.0, "gradient": 0.1},
    "sharp, own voxel": {"nclip": (1.0, 1.0), "gradient": 0.1, "sample": "own"},
    "sharp, along trails": {"nclip": (1.5, 1.5), "trails": 0.3, "coherence": 0.1},
    "own voxel, repeated": {"sample": "own", "nmax": 2},
    "sharp, tight guard": {"nclip": (1.0, 1.0), "coherence": 0.1, "gradient": 0},
    "peer": {"reject": "eso", "crsigma": 4},
    "large drops": {"reject": "none", "pixfrac": (2.2, 1.7, 2.5)},
    "log, vacuum": {"log": True, "vacuum": True},
    "vacuum": {"vacuum": True, "reject": "none", "pixfrac": (0.6, 0.6, 1.0)},
    # planes nearly as long as the wavelength segments of the store, or longer
    "coarse planes": {"dlambda": 4.0, "nclip": (1.0, 1.0)},
    "coarsest planes": {"dlambda": 7.0, "reject": "eso", "crsigma": 2},
    # drops are wider than the planes in the blue and narrower in the red
    "log, both drizzles": {"log": True, "dlambda": 1.2487, "pixfrac": (0.6, 0.6, 1.0), "reject": "none"},
    "lanczos": {"resample": "lanczos", "ld": 2},
    "nearest": {"resample": "nearest"},
    "flags and masks": {"keep_dq": ["cosmic_ray"], "masks": [{"slice": [3, 4, 5]}]},
}


@pytest.fixture(scope="module")
def wholes(four):
    """For every question its recipe and the maps of the whole cube in one block."""
    found = {}
    for name, changes in CHANGES.items():
        recipe = prepare(four.changed(**changes))
        bounds = tuple((0, n) for n in recipe.grid.shape)
        found[name] = recipe, combine_block(recipe, bounds, PLENTY)[0]
    return found


def part_of(maps, bounds):
    return {name: values[tuple(slice(*bound) for bound in bounds)] for name, values in maps.items()}


@st.composite
def some_bounds(draw, shape):
    starts = [draw(st.integers(0, n - 1)) for n in shape]
    return tuple((a, draw(st.integers(a + 1, min(n, a + 20)))) for a, n in zip(starts, shape, strict=True))


@pytest.mark.parametrize("name", CHANGES)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_any_block_has_the_bits_of_the_whole(wholes, name, data):
    recipe, whole = wholes[name]
    bounds = data.draw(some_bounds(recipe.grid.shape))
    maps, _ = combine_block(recipe, bounds, PLENTY)
    assert_same_bits(maps, part_of(whole, bounds))


@pytest.mark.parametrize("name", CHANGES)
def test_every_plane_alone_has_the_bits_of_the_whole(wholes, name):
    """Wherever a block begins and ends within the wavelength segments of the store."""
    recipe, whole = wholes[name]
    for k in range(recipe.grid.shape[0]):
        bounds = ((k, k + 1), (15, 25), (20, 28))
        assert_same_bits(combine_block(recipe, bounds, PLENTY)[0], part_of(whole, bounds))


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("rows", [1, 5_000, 10**9])
def test_long_and_short_steps_give_the_same_bits(wholes, monkeypatch, name, rows):
    monkeypatch.setattr(reads, "ROWS_OF_A_STEP", rows)
    recipe, whole = wholes[name]
    nz = recipe.grid.shape[0]
    for bounds in (((0, nz), (10, 26), (7, 29)), ((nz // 4, nz - nz // 3), (0, 20), (0, 45))):
        assert_same_bits(combine_block(recipe, bounds, PLENTY)[0], part_of(whole, bounds))


@pytest.mark.parametrize("name", CHANGES)
def test_the_smallest_tiles_give_the_same_bits(wholes, monkeypatch, name):
    """As little memory as there may be."""
    recipe, whole = wholes[name]
    bounds = tuple((0, n) for n in recipe.grid.shape)
    tiles, work = [], block.Tile

    class Counted(work):
        def __init__(self, recipe, box, *rest):
            tiles.append(box.tile)
            super().__init__(recipe, box, *rest)

    monkeypatch.setattr(block, "Tile", Counted)
    monkeypatch.setattr(reads, "ROWS_OF_A_STEP", 1)
    memory = 500_000
    while True:
        try:
            tiles.clear()
            maps, _ = combine_block(recipe, bounds, memory)
            break
        except MemoryLimitError as error:
            assert "grant more memory" in str(error)
            memory = int(memory * 1.15)
    assert len(tiles) > 4
    assert_same_bits(maps, whole)


@pytest.mark.parametrize("seed", range(3))
def test_a_cutout_has_the_bits_of_the_whole_grid(wholes, four, seed):
    for name in ("default", "peer", "log, vacuum"):
        recipe, whole = wholes[name]
        rng = np.random.default_rng(seed)
        starts = [int(rng.integers(0, n - 8)) for n in recipe.grid.shape]
        bounds = tuple(
            (a, int(rng.integers(a + 4, n))) for a, n in zip(starts, recipe.grid.shape, strict=True)
        )
        (z, _), (y, _), (x, _) = bounds
        grid = dataclasses.replace(
            recipe.grid,
            shape=tuple(b - a for a, b in bounds),
            crpix=(recipe.grid.crpix[0] - x, recipe.grid.crpix[1] - y),
            wavelength_crpix=recipe.grid.wavelength_crpix - z,
        )
        assert_same_bits(maps_of(four, grid=grid, **CHANGES[name]), part_of(whole, bounds))


# ------------------------------------------------------------------------------------ files and exposures


def test_the_order_in_which_files_are_given_does_not_matter(four, four_maps, tmp_path):
    paths = files_of(four)
    for n, order in enumerate(([3, 1, 0, 2], [2, 3, 1, 0])):
        folder = tmp_path / str(n)
        field = ingested([paths[k] for k in order], folder, offsets=four.settings.combine.offsets)
        assert_same_bits(maps_of(field), four_maps)


def test_names_and_places_of_files_do_not_matter(four, four_maps, tmp_path):
    paths = [shutil.copy2(path, tmp_path / f"{9 - n}.fits") for n, path in enumerate(files_of(four))]
    field = ingested(paths, tmp_path / "field", offsets=four.settings.combine.offsets)
    assert_same_bits(maps_of(field), four_maps)


def test_exposures_added_one_by_one_make_the_same_cube(four, four_maps, tmp_path):
    paths = files_of(four)
    field = ingested([paths[2]], tmp_path, offsets=four.settings.combine.offsets)
    for n in (0, 3, 1):
        field = field.add_exposures([paths[n]])
        ingest_exposures(field)
    assert_same_bits(maps_of(field), four_maps)


# ------------------------------------------------------------------------- threads, processes, interruptions


@pytest.fixture
def many_blocks(monkeypatch):
    monkeypatch.setattr(plan, "LARGEST_BLOCK", (16, 16, 16))
    monkeypatch.setattr(plan, "SMALLEST_BLOCK", (16, 16, 16))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_give_the_same_bits(four, four_maps, tmp_path, many_blocks, workers):
    field = make_field(files_of(four), tmp_path, workers=workers, offsets=four.settings.combine.offsets)
    ingest_exposures(field)
    assert combine_to_store(field)["blocks"] == 18
    assert_same_bits(stored_maps(field), four_maps)


def test_processes_give_the_same_bits(four, four_maps, tmp_path, many_blocks):
    field = make_field(files_of(four), tmp_path, offsets=four.settings.combine.offsets)
    with connect("processes", memory="1GB", workers=2) as client:
        ingest_exposures(field, client=client)
        total = combine_to_store(field, client=client)
        lazy = combine.combine_exposures(field).flux[3:9].compute(scheduler=client)
    assert total["computed"] == total["blocks"] == 18
    assert_same_bits(stored_maps(field), four_maps)
    np.testing.assert_array_equal(lazy, four_maps["flux"][3:9])


def test_interrupted_and_resumed_gives_the_same_bits(four, four_maps, tmp_path, many_blocks, monkeypatch):
    """Again and again, after any number of blocks."""
    field = copy_of(four, tmp_path)
    work, left = combine.combine_block, []

    def interrupted(*args, **kwargs):
        if not left:
            raise InputError("stopped")
        left.pop()
        return work(*args, **kwargs)

    monkeypatch.setattr(combine, "combine_block", interrupted)
    tries, rng = 0, np.random.default_rng(1)
    while True:
        left[:] = [None] * int(rng.integers(0, 6))
        tries += 1
        try:
            combine_to_store(field)
            break
        except InputError as error:
            assert str(error) == "stopped"
    assert tries > 4
    assert_same_bits(stored_maps(field), four_maps)
