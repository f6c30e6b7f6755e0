"""A real Slurm of three one-core nodes on this machine, and runs on it that can be watched and disturbed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from batch import HOOK, Run, Slurm
from fields import files_of, make_field

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "cluster" / "local-slurm"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")

PRESET = """
kind: slurm
cores: 1
memory: 1500MB
minimum_jobs: {jobs}
maximum_jobs: {jobs}
walltime: "{walltime}"
interface: lo
local_directory: $TMPDIR
death_timeout: "20s"
"""


def pytest_collection_modifyitems(items):
    found = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=found) is None]
    for item in items:
        if missing and "cluster" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=f"{', '.join(missing)} is not installed"))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Starts it, and stops it with everything on it."""
    folder = tmp_path_factory.mktemp("slurm")
    environment = os.environ | {"MUSE_SLURM_PORT": str(20000 + os.getpid() % 20000)}
    command = ["bash", str(SCRIPTS / "start.sh"), str(folder)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield Slurm()
    subprocess.run(
        ["bash", str(SCRIPTS / "stop.sh"), "--purge", str(folder)], check=True, stdout=subprocess.DEVNULL
    )
    del os.environ["SLURM_CONF"]


@pytest.fixture
def start_run(four, tmp_path):
    """Starts a run of a field of four exposures on a preset; what is still running at the end is ended."""
    started = []
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)

    def start(*words, name="field", preset=None, jobs=3, walltime="00:20:00", block_seconds=0.2, launcher=()):
        folder, log = tmp_path / name, tmp_path / f"{name}.blocks"
        field = make_field(files_of(four), folder, offsets=four.settings.combine.offsets, memory="1GB")
        if preset is None:
            preset = tmp_path / f"{name}.yaml"
            preset.write_text(PRESET.format(jobs=jobs, walltime=walltime))
        paths = [str(tmp_path / "hook"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "BLOCK_SECONDS": str(block_seconds),
            "BLOCK_LOG": str(log),
            "DASK_CONFIG": str(tmp_path / "dask"),
        }
        run = Run(field, ["--cluster", preset, "--memory", "1GB", *words], environment, log, launcher)
        started.append(run)
        return run

    yield start
    for run in started:
        if run.going_on():
            run.process.kill()
            run.process.communicate()
