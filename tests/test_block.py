"""A block takes no more memory than it was given, and says what it did."""

import threading
import tracemalloc

import numpy as np
import pytest
from fields import assert_same_bits, ingested, maps_of, stored_rows, write_rows

from musedeep import shards
from musedeep.block import combine_block
from musedeep.errors import MemoryLimitError
from musedeep.recipe import prepare


def in_new_thread(function):
    """What a function returns in a thread of its own, which has no arrays kept from earlier."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("changes", [{}, {"reject": "eso"}, {"reject": "none"}], ids=str)
@pytest.mark.parametrize("share", [0.35, 0.6, 1.0])
def test_a_block_takes_no_more_than_it_may(four, changes, share):
    recipe = prepare(four.changed(**changes))
    bounds = tuple((0, n) for n in recipe.grid.shape)
    whole = combine_block(recipe, bounds, 10**9)  # compiles, too
    budget = int(share * 20_000_000)

    def measured():
        tracemalloc.start()
        try:
            maps = combine_block(recipe, bounds, budget)
            return maps, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    (maps, _), peak = in_new_thread(measured)
    assert_same_bits(maps, whole[0])
    results = 2.5 * 20 * np.prod(recipe.grid.shape)
    assert peak < budget + results + 3_000_000


def test_a_tile_that_never_fits_is_told(four):
    recipe = prepare(four)
    with pytest.raises(
        MemoryLimitError, match=r"a tile of 8 x 8 voxels .* does not fit into 0\.\d MB|fit into 0 MB"
    ):
        combine_block(recipe, ((0, 21), (0, 42), (0, 45)), 100_000)


def test_the_record_counts_the_rows(four, four_maps):
    recipe = prepare(four)
    maps, record = combine_block(recipe, ((0, 21), (0, 42), (0, 45)), 10**9)
    rows, _ = stored_rows(four)
    assert_same_bits(maps, four_maps)
    assert record["rows_read"] == len(rows)
    assert record["rows_rejected"] == maps["rejected_count"].sum()
    assert record["rows_used"] == len(rows) - record["rows_rejected"]
    assert 5 * len(rows) < record["bytes_read"] < 60 * len(rows)


def test_a_block_beyond_all_exposures_is_empty_and_reads_nothing(four):
    recipe = prepare(four)
    maps, record = combine_block(recipe, ((0, 8), (500, 510), (500, 510)), 10**9)
    assert np.isnan(maps["flux"]).all() and np.isnan(maps["variance"]).all()
    assert all((maps[name] == 0).all() for name in maps if name not in ("flux", "variance"))
    assert record["rows_read"] == record["bytes_read"] == 0


def test_few_open_files_do(four, four_maps, monkeypatch):
    """More exposures than a process may have open files."""
    monkeypatch.setattr(shards, "_MOST_OPEN", 2)
    recipe = prepare(four)
    maps, _ = combine_block(recipe, ((0, 21), (0, 42), (0, 45)), 10**9)
    assert_same_bits(maps, four_maps)


def test_more_exposures_than_a_word_has_bits(tmp_path):
    """Seventy exposures of one row each, at one place."""
    paths = [
        write_rows(
            tmp_path / f"{n}.fits", [0.0, 1.0], [0.0, 0.6], [6500.0, 6503.0], float(n), number=n % 60,
            EXPTIME=float(10 + n), **{"DATE-OBS": f"2014-08-10T{n // 60:02d}:{n % 60:02d}:00.000"},
        )
        for n in range(70)
    ]  # fmt: skip
    field = ingested(paths, tmp_path / "field", weight="none")
    maps = maps_of(field)
    assert maps["exposure_count"].max() == 70
    assert maps["exposure_time"].max() == sum(range(10, 80))
    filled = maps["exposure_count"] == 70
    np.testing.assert_allclose(maps["flux"][filled], np.mean(range(70)), rtol=1e-5)
    half = maps_of(field, select="half:B")
    assert half["exposure_count"].max() == 35 and half["exposure_time"].max() == sum(range(11, 80, 2))
