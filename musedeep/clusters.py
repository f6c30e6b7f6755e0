"""Where tasks run: threads, worker processes, jobs of a batch system, or a dask scheduler that runs."""

import gc
import logging
import os
import re
import shutil
import signal
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

from musedeep.certificates import make_security
from musedeep.errors import MemoryLimitError, UsageError
from musedeep.kinds import memory_bytes
from musedeep.presets import read_preset
from musedeep.ranks import join_as_worker, lead_tasks
from musedeep.submissions import Submissions

__all__ = ["become_worker", "check_workers", "connect", "planned_threads"]

_PATIENCE = "15s"
_LOOK = 0.5
_REMIND = 60.0
_VARIABLE = re.compile(r"^\$\{?([A-Z][A-Z0-9_]*)\}?")
_log = logging.getLogger(__name__)

_SUBMIT = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub", "htcondor": "condor_submit"}
# Threads that a client's cluster will have when all jobs run.
_planned = WeakKeyDictionary()


@contextmanager
def connect(cluster="threads", *, memory="4GB", workers=0, threads_per_worker=1, folder=None, note=None):
    """A dask client for the time of a ``with`` block, or None where threads do.

    Parameters
    ----------
    cluster : str or path, optional
        ``"threads"``; ``"processes"`` for worker processes on this machine; a preset file (``....yaml``, see
        `musedeep.presets`); the address of a scheduler (``tls://...``, ``tcp://...``), or the name of its
        scheduler file (``....json``).
    memory : str or int, optional
        What each worker process will be asked for.
    workers : int, optional
        Number of worker processes of ``"processes"``; 0 stands for the number of cores.
    threads_per_worker : int, optional
        Threads of each worker process of ``"processes"``.
    folder : path, optional
        Where logs and certificates of jobs lie, on a file system that all nodes see; by default
        ``.musedeep`` in the home folder.
    note : callable, optional
        Takes a line of text about what is being waited for.

    Yields
    ------
    distributed.Client or None

    Raises
    ------
    UsageError
        `cluster` is none of these, a preset is not right, or no scheduler answers there.
    MemoryLimitError
        Workers would have less than `memory`; nothing was submitted.

    Notes
    -----
    Whatever this function starts speaks TLS with a certificate that is made for it and gone with it, and
    shows its dashboard on the loopback interface only.
    """
    cluster, note = str(cluster), note or _log.info
    folder = Path(folder) if folder is not None else Path.home() / ".musedeep"
    with ExitStack() as stack:
        if cluster == "threads":
            client = None
        elif cluster == "processes":
            client = stack.enter_context(_local(memory_bytes(memory), workers, threads_per_worker))
        elif cluster.startswith(("tcp://", "tls://", "ucx://", "ws://", "wss://")):
            client = stack.enter_context(_remote({"address": cluster}, cluster))
        elif cluster.endswith(".json"):
            client = stack.enter_context(_remote({"scheduler_file": cluster}, cluster))
        elif cluster.endswith((".yaml", ".yml")):
            preset = read_preset(cluster)
            _check_memory(preset, memory_bytes(memory))
            client = stack.enter_context(_of_preset(preset, memory_bytes(memory), folder, note))
            _planned[client] = preset.most_threads
        else:
            raise UsageError(
                f"cluster = {cluster!r} is not allowed: give 'threads', 'processes', a preset (.yaml), the "
                "address of a scheduler (tls://host:port) or its scheduler file (.json)"
            )
        yield client


def become_worker(cluster, folder):
    """Become a dask worker, if the preset says so and this is not the first task of its step.

    Parameters
    ----------
    cluster : str
        As for `connect`.
    folder : path
        As for `connect`.

    Raises
    ------
    UsageError, WorkError
        As `musedeep.ranks.join_as_worker`.
    """
    if cluster.endswith((".yaml", ".yml")):
        preset = read_preset(cluster)
        if preset.kind == "tasks":
            join_as_worker(preset, folder, _here(preset["local_directory"]), _environment_here(preset))


def _of_preset(preset, memory, folder, note):
    if preset.kind == "local":
        return _local_of_preset(preset, memory)
    if preset.kind == "scheduler":
        return _remote(*_scheduler_of(preset))
    if preset.kind == "tasks":
        return _tasks(preset, folder, note)
    return _jobs(preset, folder, note)


def planned_threads(client):
    """Threads that a client's cluster has, or will have when all jobs that were asked for run.

    Parameters
    ----------
    client : distributed.Client

    Returns
    -------
    int
    """
    return max(sum(client.nthreads().values()), _planned.get(client, 0))


def _check_memory(preset, memory):
    limit = preset.worker_bytes
    if limit is not None and limit < memory:
        raise MemoryLimitError(
            f"{preset.path} gives {limit / 1e9:.2f} GB to each worker process, but memory = "
            f"{memory / 1e9:.2f} GB is granted to each; lower `memory`, or raise memory in the preset"
        )


def check_workers(client, memory):
    """Refuse a cluster whose workers have less memory than a task may use.

    Parameters
    ----------
    client : distributed.Client
    memory : int
        Bytes that each worker process may use.

    Raises
    ------
    MemoryLimitError
        The smallest worker has a limit below `memory`.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    limits = {info["memory_limit"]: address for address, info in workers.items() if info["memory_limit"]}
    if limits and min(limits) < memory:
        raise MemoryLimitError(
            f"worker {limits[min(limits)]} has a limit of {min(limits) / 1e9:.2f} GB, but memory = "
            f"{memory / 1e9:.2f} GB is granted to each; lower `memory`, or give workers more"
        )


# ---------------------------------------------------------------------------------------------- this machine


@contextmanager
def _local(memory, workers, threads, folder=None):
    import dask
    from distributed import Client, LocalCluster, Security

    # Tasks bound their own memory, so the worker must neither spill nor pause, which would only stall it; it
    # is ended when it is far above what it was granted.
    rules = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({**rules, "distributed.worker.memory.terminate": 0.95}))
        with _started_without_interrupts():
            # Other users of this machine reach its loopback interface too: a certificate keeps them out.
            security = Security.temporary()
            cluster = LocalCluster(
                n_workers=workers or os.cpu_count() or 1,
                threads_per_worker=threads,
                memory_limit=int(1.3 * memory),
                processes=True,
                host="127.0.0.1",
                protocol="tls://",
                security=security,
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                local_directory=folder,
            )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster))
        yield client


@contextmanager
def _local_of_preset(preset, memory):
    scratch = _here(preset["local_directory"]) or None
    memory = preset.worker_bytes or memory
    with _environment(preset), _local(memory, preset["workers"], preset["threads"], scratch) as client:
        yield client


@contextmanager
def _environment(preset):
    """Environment variables for processes that are started in a ``with`` block."""
    before = dict(os.environ)
    os.environ |= _environment_here(preset)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def _variables(preset):
    """What workers find in their environment."""
    found = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    # Tasks bound their own memory: a worker that spilled or paused would only stall.
    found |= {f"DASK_DISTRIBUTED__WORKER__MEMORY__{name}": "False" for name in ("TARGET", "SPILL", "PAUSE")}
    if preset["numba_cache"]:
        found["NUMBA_CACHE_DIR"] = preset["numba_cache"]
    return found


def _here(path):
    """A path of a preset as it is for this process."""
    path = _VARIABLE.sub(lambda found: os.environ.get(found[1]) or tempfile.gettempdir(), path)
    return str(Path(path).expanduser()) if path else ""


def _on_node(path):
    """The same for a job script: the node fills in the variable, or its own folder for scratch."""
    return _VARIABLE.sub(r"${\1:-/tmp}", path)


def _environment_here(preset):
    return {name: _here(value) if "/" in value else value for name, value in _variables(preset).items()}


@contextmanager
def _started_without_interrupts():
    """Let what is started in a ``with`` block ignore Ctrl-C for good, and this process for that time.

    A terminal sends Ctrl-C to every process; it is for this one to end the others in good order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ---------------------------------------------------------------------------------------- a running scheduler


def _scheduler_of(preset):
    from distributed import Security

    where = {name: preset[name] for name in ("address", "scheduler_file") if preset[name]}
    if preset["tls_cert"]:
        where["security"] = Security(
            require_encryption=True,
            tls_ca_file=preset["tls_ca_file"],
            tls_client_cert=preset["tls_cert"],
            tls_client_key=preset["tls_key"],
        )
    return where, preset["address"] or preset["scheduler_file"]


@contextmanager
def _remote(where, name):
    from distributed import Client

    if "scheduler_file" in where and not Path(where["scheduler_file"]).exists():
        raise UsageError(f"there is no scheduler file {where['scheduler_file']}; is the scheduler running?")
    failure = None
    try:
        client = Client(**where, timeout=_PATIENCE)
    except (OSError, ValueError, TypeError) as error:
        failure = error.with_traceback(None)
    if failure is not None:
        # A client that never connected is taken down here: should the collector find it while the next one is
        # being made, both would wait for one lock for ever.
        gc.collect()
        raise UsageError(
            f"no dask scheduler answers at {name} ({failure}); is it running, is the address right, and has "
            "this process its certificate?"
        ) from failure
    with client:
        if not client.scheduler.address.startswith("tls://"):
            _log.warning(
                "%s speaks without TLS: whoever reaches it can run code as you", client.scheduler.address
            )
        yield client


# --------------------------------------------------------------------------------------------- batch systems


@contextmanager
def _jobs(preset, folder, note):
    """Jobs of a batch system, each a dask worker; lost ones are replaced."""
    import dask
    from distributed import Client

    command = _SUBMIT[preset.kind]
    if shutil.which(command) is None:
        raise UsageError(
            f"{preset.path}: {command} is not found on this machine; run where jobs can be submitted, such "
            "as a login node or a job of your own"
        )
    rules = {
        # A job that is gone is replaced after this time; by default dask would hope for its return.
        "distributed.deploy.lost-worker-timeout": f"{preset['lost_worker_timeout']} s",
        # Each attempt at a block is counted here and tried again at the end, see `execute`.
        "distributed.scheduler.allowed-failures": 1,
    }
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(rules))
        secrets = stack.enter_context(_private_folder(folder))
        # a worker gives up by itself when it could not start in the time that the preset says
        submissions = Submissions(secrets, 2.0 * preset["death_timeout"])
        cluster = _job_cluster(preset, folder / "workers", secrets, submissions)
        stack.callback(submissions.end, cluster.close)
        cluster.adapt(minimum_jobs=preset["minimum_jobs"], maximum_jobs=preset["maximum_jobs"])
        submissions.replace_lost(cluster)
        client = stack.enter_context(Client(cluster))
        _wait_for_worker(client, f"{preset.path} (logs of its jobs: {folder / 'workers'})", note, submissions)
        yield client


@contextmanager
def _private_folder(folder):
    """A folder that only this user may enter, for the time of a ``with`` block."""
    folder.mkdir(parents=True, exist_ok=True)
    mine = f".cluster-{socket.gethostname()}-"
    for left in folder.glob(f"{mine}*"):
        # of a run that was killed: nobody uses its certificate any more
        if not Path("/proc", left.name.removeprefix(mine).partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    private = Path(tempfile.mkdtemp(prefix=f"{mine}{os.getpid()}-", dir=folder.absolute()))
    try:
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _job_cluster(preset, logs, secrets, submissions):
    """The cluster object of dask-jobqueue for a preset."""
    jobqueue = _dask_jobqueue()
    kinds = {
        "slurm": jobqueue.SLURMCluster,
        "pbs": jobqueue.PBSCluster,
        "lsf": jobqueue.LSFCluster,
        "sge": jobqueue.SGECluster,
        "htcondor": jobqueue.HTCondorCluster,
    }
    options = {
        "job_cls": submissions.watched(kinds[preset.kind].job_cls),
        "cores": preset["cores"],
        "processes": preset["processes"],
        "memory": f"{preset['memory']} B",
        "job_name": "musedeep",
        "protocol": "tls://",
        "security": make_security(secrets),
        "log_directory": str(logs),
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
        "death_timeout": preset["death_timeout"],
        "worker_extra_args": ["--dashboard-address", "127.0.0.1:0"],
        "job_script_prologue": [
            f"export {name}={_on_node(value)}" for name, value in _variables(preset).items()
        ],
        "job_extra_directives": list(preset["directives"]),
    }
    if preset["lifetime"]:
        options["worker_extra_args"] += ["--lifetime", f"{preset['lifetime']}s"]
        options["worker_extra_args"] += ["--lifetime-stagger", f"{preset['lifetime_stagger'] or 0}s"]
    if preset["scheduler_interface"]:
        options["scheduler_options"]["interface"] = preset["scheduler_interface"]
    if preset["interface"]:
        options["interface"] = preset["interface"]
    if preset["local_directory"]:
        options["local_directory"] = _on_node(preset["local_directory"])
    return kinds[preset.kind](**options | _particular(preset))


def _particular(preset):
    """Options that not every batch system has, or that one calls by another name."""
    if preset.kind == "htcondor":
        return {
            "disk": f"{preset['disk']} B",
            "job_extra_directives": dict(line.split(" = ", 1) for line in preset["directives"]),
        }
    account = "account" if preset.kind in ("slurm", "pbs") else "project"
    found = {"queue": preset["queue"], account: preset["account"]}
    found["resource_spec"] = preset.values.get("resource_spec")
    if preset["walltime"]:
        minutes, seconds = divmod(preset["walltime"], 60)
        hours, minutes = divmod(minutes, 60)
        found["walltime"] = f"{hours:02d}:{minutes:02d}" + (f":{seconds:02d}" if preset.kind != "lsf" else "")
    return {name: value for name, value in found.items() if value}


def _dask_jobqueue():
    """The library, loaded without what it does to Ctrl-C: it would take it for itself."""
    on_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        import dask_jobqueue
    except ImportError as error:
        raise UsageError(
            f"dask-jobqueue is needed for jobs of a batch system ({error}): pip install 'musedeep[cluster]'"
        ) from error
    if on_main:
        signal.signal(signal.SIGINT, before)
    return dask_jobqueue


@contextmanager
def _tasks(preset, folder, note):
    with lead_tasks(preset, folder) as client:
        _wait_for_worker(client, str(preset.path), note)
        yield client


def _wait_for_worker(client, name, note, submissions=None):
    """Wait until the first worker is there, and say so now and then: a batch system takes its time."""
    began = said = time.monotonic()
    while not client.nthreads():
        time.sleep(_LOOK)
        if submissions is not None and submissions.refused:
            raise UsageError(f"{name}: {submissions.refused}")
        if time.monotonic() - said > _REMIND:
            said = time.monotonic()
            note(f"{name}: waiting for the first worker since {said - began:.0f} s")
