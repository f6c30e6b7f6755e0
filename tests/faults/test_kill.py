"""Kill the command at any moment, run it again: the same bits, and only what is missing is done."""

import os
import signal
import subprocess
import sys

import pytest
from fields import assert_same_bits, files_of, make_field, stored_maps

from musedeep.store import Ledger, PixelStore

# Loaded by the interpreter before the command: dies, as by `kill -9`, when a file is to be made durable or to
# get its name for the n-th time. Blocks are small so that there are several.
DEADLY = """
import os, pathlib, signal
import musedeep.plan
musedeep.plan.SMALLEST_BLOCK = musedeep.plan.LARGEST_BLOCK = (16, 32, 32)
left = int(os.environ["DIE_AFTER"])

def deadly(function):
    def call(*args, **kwargs):
        global left
        # what `musedeep status` reads is written by the clock
        if "run.state" not in str(args[0]):
            left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

os.fsync = deadly(os.fsync)
pathlib.Path.rename = deadly(pathlib.Path.rename)
pathlib.Path.replace = deadly(pathlib.Path.replace)
"""


@pytest.fixture
def command(tmp_path):
    """Runs `python -m musedeep` that dies at a given moment; its exit code and standard error."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(DEADLY)

    def run(*words, die_after):
        path = os.pathsep.join([str(tmp_path / "hook"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = os.environ | {"PYTHONPATH": path, "DIE_AFTER": str(die_after)}
        words = [sys.executable, "-m", "musedeep", *map(str, words)]
        found = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
        return found.returncode, found.stderr

    return run


def progress(field):
    """Exposures that are in the store, and blocks that have a record."""
    store = field.pixels_path
    ingested = PixelStore(store).exposures() if (store / "zarr.json").exists() else {}
    records = Ledger(field.folder / "cube.ledger").read()
    return len(ingested), sum(1 for record in records.values() if record.get("key"))


def test_a_killed_run_goes_on_where_it_was(four, four_maps, tmp_path, command):
    """Killed in the first part, between parts, while an exposure gets its name, in the first block, between
    blocks, between a block and its record, and while the products are written."""
    field = make_field(files_of(four), tmp_path / "field", offsets=four.settings.combine.offsets)
    seen = []
    for die_after in (6, 12, 14, 22, 48, 31, 25, 50, 75, 60, 40):
        code, error = command("run", field.folder, "--quiet", die_after=die_after)
        if code == 0:
            break
        assert code == -signal.SIGKILL, error
        assert (field.folder / "run.lock").exists()
        seen.append(progress(field))
    # nothing is lost on the way
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in zip(seen[:-1], seen[1:], strict=True)), seen
    assert len({ingested for ingested, _ in seen}) >= 3, seen
    assert len({blocks for _, blocks in seen}) >= 3, seen
    code, error = command("run", field.folder, "--quiet", die_after=10**6)
    assert code == 0, error
    assert_same_bits(stored_maps(field), four_maps)
    names = {path.name for path in (field.folder / "products").iterdir()}
    assert "DATACUBE_DEEP.fits" in names and not any("partial" in name or "writing" in name for name in names)
    assert not (field.folder / "run.lock").exists()
