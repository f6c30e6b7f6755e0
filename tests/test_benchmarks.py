"""Every benchmark runs, at a tiny size; what it promises is not held to here."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
# run at a size where what it promises can be held to
ELSEWHERE = {"cluster_faults": "cluster/test_slurm.py", "mosaic275": "scale/test_mosaic.py"}
NEED_ESOREX = {"align", "peer", "reduction"}
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("harness", "suite"))


@pytest.fixture(scope="module")
def reports(request, tmp_path_factory):
    """All benchmarks that tests are chosen for, run one after the other; folder of their reports."""
    items = [item for item in request.session.items if item.function is test_the_benchmark_runs]
    chosen = {item.callspec.params["name"] for item in items if not item.get_closest_marker("skip")}
    folder = tmp_path_factory.mktemp("benchmarks")
    words = [FOLDER / "suite.py", "--size", "tiny", "--output", folder / "all", "--only"]
    words += sorted(chosen - set(ELSEWHERE))
    run = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert run.returncode in (0, 1) and "Traceback" not in run.stderr, run.stderr
    assert (folder / "all/report.png").stat().st_size > 10_000
    return folder / "all"


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.esorex] if name in NEED_ESOREX else []) for name in NAMES],
)
def test_the_benchmark_runs(name, request):
    assert f"`{name}.py`" in (FOLDER / "README.md").read_text()
    if name in ELSEWHERE:
        assert f"{name}.py" in (Path(__file__).parent / ELSEWHERE[name]).read_text()
        return
    reports = request.getfixturevalue("reports")
    record = json.loads((reports / name / "record.json").read_text())
    # what it promises says nothing at this size
    assert record["state"] in ("met", "missed") and "|" in record["text"], record["text"]
    assert record["text"].splitlines()[-1] in (reports / "report.md").read_text()


def test_all_benchmarks_are_in_the_suite(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    commands = runpy.run_path(str(FOLDER / "suite.py"))["COMMANDS"]
    assert {name.split()[0] for name in commands} == set(NAMES)
    assert all("full" in sizes for sizes in commands.values())
    assert {name for name in NAMES if "tiny" not in commands[name]} == set(ELSEWHERE)


def test_a_benchmark_that_breaks_is_told_and_run_again(tmp_path):
    (tmp_path / "zarr.py").write_text("raise ImportError('no zarr here')")
    words = [FOLDER / "suite.py", "--size", "tiny", "--only", "noise", "--output", tmp_path / "all"]
    command = [sys.executable, *map(str, words)]
    without = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, env=without, capture_output=True, text=True)
    assert run.returncode == 1 and "noise ended with an error" in run.stdout
    assert "no zarr here" in (tmp_path / "all/report.md").read_text()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    record = tmp_path / "all/noise/record.json"
    finished = record.stat().st_mtime_ns
    subprocess.run(command, capture_output=True, check=True)
    assert record.stat().st_mtime_ns == finished
