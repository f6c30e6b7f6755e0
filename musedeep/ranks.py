"""A cluster without a controlling job: the tasks of one job step share the roles (srun, mpirun).

Every task runs the same command. The first is scheduler and client, the others become workers of it.
"""

import json
import os
import shutil
import stat
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from musedeep.certificates import make_security
from musedeep.errors import UsageError, WorkError

__all__ = ["join_as_worker", "lead_tasks"]

# Rank and number of tasks as launchers tell them, and what names the step they belong to.
_LAUNCHERS = (
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", ("SLURM_JOB_ID", "SLURM_STEP_ID")),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ("PMIX_NAMESPACE",)),
    ("PMI_RANK", "PMI_SIZE", ("PBS_JOBID", "LSB_JOBID", "JOB_ID", "PMI_KVS")),
)
_LOOK = 0.3


def _place():
    """Rank of this task, number of tasks, and a name of the step that no other step has."""
    for rank, size, names in _LAUNCHERS:
        if rank in os.environ and size in os.environ:
            step = "-".join(os.environ[name] for name in names if name in os.environ)
            return (
                int(os.environ[rank]),
                int(os.environ[size]),
                "".join(c for c in step if c.isalnum() or c in "-_"),
            )
    raise UsageError(
        "a preset of kind tasks is for `srun -n N musedeep run ...` or `mpirun -n N musedeep run ...`, and "
        "no launcher told this process its rank"
    )


def _meeting_folder(folder, step):
    return Path(folder) / f".cluster-{step}"


def join_as_worker(preset, folder, scratch, variables):
    """Become a dask worker if this process is not the first task of its step; return otherwise.

    Parameters
    ----------
    preset : Preset
        Of kind ``"tasks"``.
    folder : path
        Shared by all tasks: where the first one says how it is reached.
    scratch : str
        Folder for what the worker keeps on its node; empty for dask's own choice.
    variables : dict of str
        Environment of the worker.

    Raises
    ------
    UsageError
        No launcher started this process, or it started just one.
    WorkError
        The first task did not come up.
    """
    rank, size, step = _place()
    if size < 2:
        raise UsageError("a preset of kind tasks needs two tasks or more: the first leads, the others work")
    if rank == 0:
        return
    meeting = _meeting_folder(folder, step)
    deadline = time.monotonic() + preset["death_timeout"]
    while not (meeting / "scheduler.json").exists():
        if time.monotonic() > deadline:
            raise WorkError(f"the first task did not start a scheduler within {preset['death_timeout']} s")
        time.sleep(_LOOK)
    address = json.loads((meeting / "scheduler.json").read_text())["address"]
    os.environ |= variables
    words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", f"task-{rank}"]
    words += ["--nthreads", str(preset["threads"]), "--protocol", "tls://"]
    words += ["--tls-ca-file", str(meeting / "cert.pem"), "--tls-cert", str(meeting / "cert.pem")]
    words += ["--tls-key", str(meeting / "key.pem"), "--dashboard-address", "127.0.0.1:0"]
    words += ["--death-timeout", str(preset["death_timeout"])]
    if preset["memory"]:
        words += ["--memory-limit", str(preset["memory"])]
    if scratch:
        words += ["--local-directory", scratch]
    if preset["interface"]:
        words += ["--interface", preset["interface"]]
    os.execv(sys.executable, words)


@contextmanager
def lead_tasks(preset, folder):
    """Be the scheduler and its client in the first task of a step; the others find them by a file.

    Parameters
    ----------
    preset : Preset
        Of kind ``"tasks"``.
    folder : path
        As for `join_as_worker`.

    Yields
    ------
    distributed.Client
    """
    from distributed import Client, LocalCluster

    meeting = _meeting_folder(folder, _place()[2])
    shutil.rmtree(meeting, ignore_errors=True)
    meeting.mkdir(parents=True, mode=stat.S_IRWXU)
    security = make_security(meeting)
    network = {"interface": preset["scheduler_interface"] or preset["interface"]}
    if not network["interface"]:
        network = {"host": "0.0.0.0"}
    try:
        with (
            LocalCluster(
                n_workers=0,
                protocol="tls://",
                security=security,
                dashboard_address="127.0.0.1:0",
                **network,
            ) as cluster,
            Client(cluster) as client,
        ):
            partial = meeting / "scheduler.json.partial"
            partial.write_text(json.dumps({"address": cluster.scheduler_address}))
            partial.rename(meeting / "scheduler.json")
            yield client
    finally:
        shutil.rmtree(meeting, ignore_errors=True)
