"""A real Slurm of three one-core nodes on this machine, and runs on it that can be watched and disturbed."""

import os
import shutil

import pytest
from batch import PRESET, Run, Scheduler, Slurm, environment_of
from fields import files_of, make_field

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")


def pytest_collection_modifyitems(items):
    found = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=found) is None]
    for item in items:
        if missing and "cluster" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=f"{', '.join(missing)} is not installed"))


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Starts it, and stops it with everything on it."""
    with Slurm.started(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture
def start_run(four, tmp_path):
    """Starts a run of a field of four exposures on a preset; what is still running at the end is ended."""
    started = []

    def start(*words, name="field", preset=None, jobs=3, walltime="00:20:00", block_seconds=0.2, launcher=()):
        field = make_field(
            files_of(four), tmp_path / name, offsets=four.settings.combine.offsets, memory="1GB"
        )
        if preset is None:
            preset = tmp_path / f"{name}.yaml"
            preset.write_text(PRESET.format(jobs=jobs, walltime=walltime))
        environment = environment_of(tmp_path, tmp_path / f"{name}.blocks", block_seconds)
        run = Run(field, ["--cluster", preset, "--memory", "1GB", *words], environment, launcher)
        started.append(run)
        return run

    yield start
    for run in started:
        if run.going_on():
            run.process.kill()
            run.process.communicate()


@pytest.fixture
def scheduler(slurm, tmp_path):
    """A dask scheduler of its own; its workers leave a line for each block in workers.blocks."""
    folder = tmp_path / "scheduler"
    folder.mkdir()
    scheduler = Scheduler(folder, environment_of(tmp_path, tmp_path / "workers.blocks", 1.0))
    yield scheduler
    scheduler.kill()
    for job in slurm.jobs("R,PD"):
        slurm.cancel(job)
