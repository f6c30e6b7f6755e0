"""A batch system on this machine and runs on it, to be watched and disturbed; for tests and benchmarks."""

import os
import shlex
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

from musedeep.pipeline import status

__all__ = ["PRESET", "Run", "Scheduler", "Slurm", "environment_of", "wait_until"]

ROOT = Path(__file__).parents[1]

# Loaded by every interpreter of a run, workers included. Blocks are small so that there are many, last a
# while so that they are hit at work, and leave a line each time that one is computed.
HOOK = """
import os
import sys
if "FIRST_JOB_DIES" in os.environ and "distributed.cli.dask_worker" in sys.orig_argv:
    try:
        os.close(os.open(os.environ["FIRST_JOB_DIES"], os.O_CREAT | os.O_EXCL))
        os._exit(1)
    except FileExistsError:
        pass
import musedeep.plan
import musedeep.submissions
musedeep.submissions._LIST_PAUSE = 5.0
musedeep.plan.SMALLEST_BLOCK = musedeep.plan.LARGEST_BLOCK = (16, 16, 16)
from musedeep.store import CubeStore
inner = CubeStore.write_block

def write_block(self, bounds, maps):
    import time
    with open(os.environ["BLOCK_LOG"], "a") as file:
        file.write(f"{bounds}\\n")
    time.sleep(float(os.environ["BLOCK_SECONDS"]))
    inner(self, bounds, maps)

CubeStore.write_block = write_block
"""

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


def environment_of(folder, log, block_seconds):
    """Environment of a run and its workers: small, slow blocks that leave a line in a file each.

    Parameters
    ----------
    folder : Path
        For what has to be made for it.
    log : Path
    block_seconds : float

    Returns
    -------
    dict
    """
    hook = folder / "hook"
    if not hook.exists():
        # once: another run may be reading it
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(HOOK)
    paths = [str(hook), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "BLOCK_SECONDS": str(block_seconds),
        "BLOCK_LOG": str(log),
        # dask-jobqueue would write its defaults into the home folder
        "DASK_CONFIG": str(folder / "dask"),
    }


def wait_until(condition, seconds=60):
    """Wait for a condition, and fail if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Slurm:
    """A Slurm of three one-core nodes, and what is done to its jobs."""

    @classmethod
    @contextmanager
    def started(cls, folder):
        """Start it in a folder; at the end of the ``with`` block it is stopped with everything on it."""
        scripts = ROOT / "cluster" / "local-slurm"
        environment = os.environ | {"MUSE_SLURM_PORT": str(20000 + os.getpid() % 20000)}
        command = ["bash", str(scripts / "start.sh"), str(folder)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        try:
            yield cls()
        finally:
            command = ["bash", str(scripts / "stop.sh"), "--purge", str(folder)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            del os.environ["SLURM_CONF"]

    def jobs(self, state="R"):
        """Numbers of the jobs in a state, ascending."""
        words = ["squeue", "--noheader", "--format=%i", "--states", state]
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        return sorted(map(int, found))

    def submit(self, words):
        """A job that is not of a run; its number."""
        command = ["sbatch", "--parsable", "--output=/dev/null", "--wrap", words]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def cancel(self, job, *options):
        """Cancel a job; it may have ended meanwhile."""
        subprocess.run(["scancel", *options, str(job)], check=False, capture_output=True)

    def kill_worker(self, job):
        """End the process that computes, as by kill -9: neither it nor its nanny is told before."""
        for process in psutil.process_iter():
            try:
                if process.environ().get("SLURM_JOB_ID") != str(job) or process.children():
                    continue
                if "python" in process.name():
                    process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue

    def wait_for_end(self, seconds=90):
        """Until no job is left."""
        wait_until(lambda: not self.jobs("PD,R,CG"), seconds)


class Scheduler:
    """A dask scheduler of its own with TLS, as `cluster/scheduler.yaml` says, with jobs of Slurm as its
    workers.

    Parameters
    ----------
    folder : Path
        For certificate and preset.
    environment : dict
        Of the workers.
    """

    def __init__(self, folder, environment):
        self._folder, self._environment = folder, environment
        self._file = folder / "scheduler.json"
        subprocess.run([ROOT / "cluster" / "certificates.sh", folder], check=True, capture_output=True)
        self._tls = ["--tls-ca-file", folder / "cert.pem", "--tls-cert", folder / "cert.pem"]
        self._tls = [str(word) for word in [*self._tls, "--tls-key", folder / "key.pem"]]
        self.preset = folder / "scheduler.yaml"
        self.preset.write_text(
            f"kind: scheduler\nscheduler_file: {self._file}\n"
            "tls_ca_file: cert.pem\ntls_cert: cert.pem\ntls_key: key.pem\n"
        )
        self._process = None

    def start(self, jobs):
        """Start it, and so many jobs that work for it."""
        self._file.unlink(missing_ok=True)
        words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--protocol", "tls", *self._tls]
        words += ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", self._file]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: self._file.exists() and self._file.stat().st_size)
        words = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(self._file)]
        words += [*self._tls, "--nthreads", "1", "--memory-limit", "1500MB", "--death-timeout", "20"]
        words += ["--local-directory", str(self._folder / "scratch"), "--no-dashboard"]
        for _ in range(jobs):
            command = ["sbatch", "--mem=1600M", "--output=/dev/null", "--wrap", shlex.join(words)]
            subprocess.run(command, env=self._environment, check=True, stdout=subprocess.DEVNULL)

    def kill(self):
        """End it as by kill -9; its workers are not told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Run:
    """A `musedeep run` in a process of its own."""

    def __init__(self, field, words, environment, launcher=(), stage="run"):
        self.field = field
        self._log = Path(environment["BLOCK_LOG"])
        command = [*launcher, sys.executable, "-m", "musedeep", stage, str(field.folder), *map(str, words)]
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self.error = ""

    def computed(self):
        """Blocks computed so far, one item each time, the repeated ones too."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def going_on(self):
        """Whether the process runs."""
        return self.process.poll() is None

    def work(self):
        """What `status` tells about the work that goes on; an empty dict where it tells nothing."""
        return status(self.field)["work"] or {}

    def end(self, seconds=240):
        """Wait for the end; the exit code."""
        try:
            _, self.error = self.process.communicate(timeout=seconds)
        finally:
            if self.going_on():
                self.process.kill()
                _, self.error = self.process.communicate()
        return self.process.returncode
