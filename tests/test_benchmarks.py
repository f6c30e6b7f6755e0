"""Every benchmark runs, at a tiny size; what it promises is not held to here."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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


def test_the_suite_tells_every_figure_with_what_is_wanted(reports):
    told = json.loads((reports / "report.json").read_text())["rows"]
    figures = [
        row for path in reports.glob("*/report.json") for row in json.loads(path.read_text())["figures"]
    ]
    assert figures and {row["figure"] for row in told} == {row["figure"] for row in figures}
    names = ["figure", "wanted", "found", "reached", "benchmark"]
    assert "| " + " | ".join(names) + " |" in (reports / "report.md").read_text()
    assert all(list(row) == names and row["reached"] in ("yes", "no") for row in told)


def test_what_is_missed_fails(monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    report = runpy.run_path(str(FOLDER / "harness.py"))["Report"]("A title")
    report.hold("a time", 49.0, "s", at_most=50.0)
    report.hold("a share", 0.5, at_least=0.45)
    assert not report.failed and [row["reached"] for row in report.figures] == ["yes", "yes"]
    report.hold("a speed", 9.0, "times", at_least=10.0)
    assert report.failed and "a speed: 9 times, but >= 10 times is wanted" in capsys.readouterr().out
    assert report.figures[-1]["reached"] == "no" and report.figures[-1]["margin"] == 0.9


def cost_model(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "model.py")))


def test_the_cost_model_finds_the_costs_that_are_there(monkeypatch):
    model = cost_model(monkeypatch)
    costs = {
        "ingest": [1.5, 0.012, 80e-9],
        "combine": [1.9, 0.001, 90e-9, 40e-9, 700e-9],
        "products": [1.6, 0.009, 360e-9],
    }
    runs = []
    for n, (number, rows, few) in enumerate(
        [(2, 3e6, 1), (8, 2e7, 1), (64, 5e7, 0), (128, 1e7, 0), (32, 9e7, 0)]
    ):
        voxels = 1e6 + 3e5 * n**2
        run = {"exposures": number, "rows": rows, "voxels": voxels, "few": few * voxels, "read_twice": 1.1}
        run["cpu"] = {stage: float(costs[stage] @ np.array(model.amounts(run, stage))) for stage in costs}
        runs.append(run)
    found = model.fit(runs, {stage: costs[stage][0] for stage in costs})
    for stage, values in costs.items():
        assert found[stage] == pytest.approx(values, rel=1e-6)


def test_rows_at_borders_of_blocks_are_read_twice(monkeypatch):
    model = cost_model(monkeypatch)
    assert model.read_twice((100, 50, 50), (128, 64, 64)) == 1.0
    # two halves of a hundred planes: two voxels beyond the border in each
    assert model.read_twice((100, 50, 50), (50, 64, 64)) == pytest.approx(1.04)


@pytest.mark.parametrize("name", [path.stem for path in (FOLDER / "asv").glob("[a-z]*.py")])
def test_benchmarks_of_airspeed_velocity_run(name, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.chdir(tmp_path)
    module = runpy.run_path(str(FOLDER / "asv" / f"{name}.py"))
    caches = {}
    for kind in (module[word] for word in module["__all__"]):
        prepare, made = getattr(kind, "setup_cache", None), []
        if prepare:
            caches[prepare] = caches.get(prepare) or prepare(kind())
            made = [caches[prepare]]
        methods = [word for word in vars(kind) if word.split("_")[0] in ("time", "track", "peakmem")]
        assert methods, kind
        for method in methods:
            for value in getattr(kind, "params", [None]):
                words = made + ([] if value is None else [value])
                bench = kind()
                if hasattr(bench, "setup"):
                    bench.setup(*words)
                found = getattr(bench, method)(*words)
                # what is tracked is a number; of the others the time or memory is taken from outside
                assert found is None if method[:5] != "track" else isinstance(found, float), method


def test_airspeed_velocity_is_told_where_they_are():
    settings = json.loads((FOLDER.parent / "asv.conf.json").read_text())
    assert (FOLDER.parent / settings["benchmark_dir"] / "__init__.py").exists()


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
