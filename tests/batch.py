"""A batch system on this machine and runs on it, to be watched and disturbed; for tests and benchmarks."""

import subprocess
import sys
import time

import psutil

from musedeep.pipeline import status

__all__ = ["HOOK", "Run", "Slurm", "wait_until"]

# Loaded by every interpreter of a run, workers included. Blocks are small so that there are many, last a
# while so that they are hit at work, and leave a line each time that one is computed.
HOOK = """
import os
import musedeep.plan
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


def wait_until(condition, seconds=60):
    """Wait for a condition, and fail if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Slurm:
    """What the tests do with it."""

    def jobs(self, state="R"):
        """Numbers of the jobs in a state, ascending."""
        words = ["squeue", "--noheader", "--format=%i", "--states", state]
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        return sorted(map(int, found))

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

    def wait_for_end(self):
        """Until no job is left."""
        wait_until(lambda: not self.jobs("PD,R,CG"), 90)


class Run:
    """A `musedeep run` in a process of its own."""

    def __init__(self, field, words, environment, log, launcher=()):
        self.field = field
        self._log = log
        command = [*launcher, sys.executable, "-m", "musedeep", "run", str(field.folder), *map(str, words)]
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
