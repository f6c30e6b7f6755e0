"""Memory of a worker: within what was granted, at most what was planned, and not more for more exposures."""

import shutil

import pytest
from harness import musedeep

MEMORY, MEMORY_BYTES = "450MB", 450e6


@pytest.fixture(scope="module")
def ingested(deep_field, run_stage):
    """The field of 512 exposures, and what its ingest took."""
    (taken,) = run_stage("ingest", deep_field, MEMORY)
    return deep_field, taken


def test_the_ingest_stays_within_its_plan(ingested):
    _, taken = ingested
    assert taken.facts["exposures"] == 512
    assert taken.worker <= taken.predicted <= MEMORY_BYTES
    assert taken.predicted <= 1.5 * taken.worker


@pytest.fixture(scope="module")
def every_fourth(ingested, run_stage):
    """What the combination of 128 of the exposures takes."""
    (taken,) = run_stage("combine", ingested[0], MEMORY, "--select", "every:4")
    assert taken.worker <= taken.predicted <= min(MEMORY_BYTES, 1.5 * taken.worker)
    return taken


@pytest.mark.parametrize("cluster", ["threads", "processes"])
def test_four_times_the_exposures_take_no_more_memory(ingested, every_fourth, run_stage, cluster):
    shutil.rmtree(ingested[0] / "cube.zarr")  # nothing shall be kept of what was done before
    (taken,) = run_stage("combine", ingested[0], MEMORY, "--cluster", cluster, "--threads", "1")
    assert taken.facts["rows_used"] > 3.9 * every_fourth.facts["rows_used"]
    assert taken.worker <= taken.predicted <= min(MEMORY_BYTES, 1.5 * taken.worker)
    assert taken.worker <= 1.10 * every_fourth.worker


def test_the_first_run_ever_takes_no_more(deep_field, run_stage, tmp_path):
    """The compiler would leave 150 MB in the process that it runs in."""
    files = sorted((deep_field.parent / "distinct").glob("PIXTABLE_REDUCED_*.fits"))
    field, cache = tmp_path / "field", tmp_path / "cache"
    musedeep("init", *files, "-o", field)
    for stage in ("ingest", "combine"):
        (taken,) = run_stage(stage, field, MEMORY, NUMBA_CACHE_DIR=str(cache))
        assert taken.worker <= taken.predicted <= MEMORY_BYTES
    sets = {path.name.rsplit("-", 1)[0] for path in cache.glob("*/*.compiled")}
    assert sets == {"signatures", "drizzle-guarded"}
