"""Every benchmark runs, at a tiny size; what it promises is not held to here."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALL = "--rows 6e3 --field 6 --folder {folder}"
TINY = {
    "addition": "--exposures 3 --rows 6e3 --folder {folder}",
    "align": "{folder} '3 stars'",
    "cluster": "--blocks 20 --exposures 3 --folder {folder}",
    "combine": f"--exposures 2 {SMALL}",
    "cutout": "--exposures 2 --field 6 --length 20 --size 3 --band 10 --folder {folder}",
    "depth": "--exposures 2",
    "diagnostics": "{folder} --seeds 1 --case sky",
    "memory": f"--exposures 2 {SMALL}",
    "noise": "--exposures 2 --folder {folder}",
    "peer": f"--exposures 2 --reject guarded {SMALL}",
    "rejection": "--exposures 3",
    "selection": "{folder} --headers 60",
    "speed": "--exposures 2 3 --rows 6e3 --field 6 --folder {folder} --output {folder}/speed",
}
# run at a size where what it promises can be held to
ELSEWHERE = {"cluster_faults": "cluster/test_slurm.py", "mosaic275": "scale/test_mosaic.py"}
NEED_ESOREX = {"align", "peer"}
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "harness")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.esorex] if name in NEED_ESOREX else []) for name in NAMES],
)
def test_the_benchmark_runs(name, tmp_path):
    assert f"`{name}.py`" in (FOLDER / "README.md").read_text()
    if name in ELSEWHERE:
        assert f"{name}.py" in (Path(__file__).parent / ELSEWHERE[name]).read_text()
        return
    assert name in TINY, f"benchmarks/{name}.py needs a tiny command here, so that it is run at all"
    words = shlex.split(TINY[name].format(folder=tmp_path))
    run = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *words], cwd=tmp_path, capture_output=True, text=True
    )
    # 1 tells that something promised was missed, which at this size says nothing
    assert run.returncode in (0, 1) and "Traceback" not in run.stderr, run.stderr[-3000:]
    assert "|" in run.stdout, run.stdout
