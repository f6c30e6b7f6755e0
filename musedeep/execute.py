"""Run many small tasks on threads or on a dask cluster: bounded, with retries, progress and a clean stop."""

import concurrent.futures
import errno
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sized
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from musedeep.errors import MemoryLimitError, MuseDeepError, UsageError, WorkError
from musedeep.kinds import memory_bytes
from musedeep.progress import Progress

__all__ = ["Progress", "check_workers", "connect", "peak_memory", "reset_peak_memory", "run_tasks"]

# Trying again cannot help against these; the disk is full or may not be written.
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
# After so many items have failed for good, the others are not tried any more.
_MOST_FAILURES = 5
_TICK = 1.0
_CLUSTER_LOOK = 5.0
_PATIENCE = "15s"


@dataclass
class _Attempt:
    item: object
    number: int = 1


def run_tasks(
    function, items, *, client=None, workers=None, window=2, retries=2, progress=None, describe=repr
):
    """Call `function` on every item, a bounded number at a time, and yield results as they come.

    Parameters
    ----------
    function : callable
        Takes one item. With a `client` it is importable by the workers, and its result is small.
    items : iterable
        Taken one by one, only as fast as they are worked off.
    client : distributed.Client, optional
        Where to run; without it, threads of this process.
    workers : int, optional
        Number of threads without a client; the number of cores by default.
    window : int, optional
        Items in flight for each thread.
    retries : int, optional
        How often an item that failed is tried again.
    progress : Progress, optional
        Is started with the number of items and advanced by one for each that is done.
    describe : callable, optional
        Gives the words for an item in messages.

    Yields
    ------
    (item, result)
        In the order in which they finish.

    Raises
    ------
    WorkError
        Items failed and failed again; the others were finished, and the message names those that were not.
    MuseDeepError
        As a task raised it: an input or a setting at fault is not tried again.
    """
    if progress is not None:
        progress.start(len(items) if isinstance(items, Sized) else None)
    run = _Run(function, items, retries, progress, describe)
    pool = _ClientPool(client) if client is not None else _ThreadPool(workers)
    try:
        yield from run.results(pool, window)
    finally:
        for future in run.pending:
            future.cancel()
        # What runs on threads is waited for: it holds files open and ends soon.
        pool.close()
        if progress is not None:
            progress.close(quiet=sys.exc_info()[0] is not None)


class _Run:
    """The state of one `run_tasks`: what waits, what is pending, what failed."""

    def __init__(self, function, items, retries, progress, describe):
        self.function = function
        self.items = iter(items)
        self.retries = retries
        self.progress = progress
        self.describe = describe
        self.again = deque()
        self.pending = {}
        self.failed = []

    def results(self, pool, window):
        while self._fill(pool, window) or self.pending:
            done, _ = concurrent.futures.wait(
                self.pending, timeout=_TICK, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                attempt = self.pending.pop(future)
                reason = _reason_of(future)
                if reason is not None:
                    self._failure(attempt, reason)
                    continue
                if self.progress is not None:
                    self.progress.advance()
                yield attempt.item, future.result()
            if self.progress is not None:
                self.progress.tick()
        if self.failed:
            raise self._error()

    def _fill(self, pool, window):
        """Submit until the window is full; false when nothing is left to submit."""
        while len(self.failed) < _MOST_FAILURES:
            if len(self.pending) >= window * pool.threads:
                return True
            attempt = self.again.popleft() if self.again else self._next()
            if attempt is None:
                return False
            self.pending[pool.submit(self.function, attempt.item)] = attempt
        return False

    def _next(self):
        for item in self.items:
            return _Attempt(item)
        return None

    def _failure(self, attempt, reason):
        if isinstance(reason, MuseDeepError) and not isinstance(reason, WorkError):
            raise reason
        words = f"{type(reason).__name__}: {reason}".removesuffix(": ")
        hopeless = isinstance(reason, OSError) and reason.errno in _HOPELESS
        if hopeless:
            raise WorkError(
                f"{self.describe(attempt.item)}: {words}; make room or give permission, then run again: "
                "what is finished is kept"
            ) from reason
        if attempt.number > self.retries:
            self.failed.append((attempt, words, reason))
            return
        if self.progress is not None:
            self.progress.note(f"{self.describe(attempt.item)} failed ({words}); trying again")
        self.again.append(_Attempt(attempt.item, attempt.number + 1))

    def _error(self):
        lines = [f"  {self.describe(attempt.item)}: {words}" for attempt, words, _ in self.failed]
        text = (
            f"{len(self.failed)} of the tasks failed {self.retries + 1} times:\n" + "\n".join(lines) + "\n"
            "What is finished is kept: mend the cause and run again, only what is missing will be done."
        )
        error = WorkError(text)
        error.__cause__ = self.failed[0][2]
        return error


def _reason_of(future):
    """The exception of a future, or None if it has a result."""
    try:
        return future.exception()
    except concurrent.futures.CancelledError:
        return WorkError("the task was lost; the connection to the scheduler broke, or it was cancelled")


class _ThreadPool:
    """Threads of this process."""

    def __init__(self, workers):
        self.threads = workers or os.cpu_count() or 1
        self._pool = concurrent.futures.ThreadPoolExecutor(self.threads, thread_name_prefix="musedeep")

    def submit(self, function, item):
        return self._pool.submit(function, item)

    def close(self):
        self._pool.shutdown(wait=True, cancel_futures=True)


class _ClientPool:
    """The workers of a dask cluster, which may come and go."""

    def __init__(self, client):
        self._client = client
        self._pool = client.get_executor(pure=False)
        self._looked = -_CLUSTER_LOOK
        self._threads = 1

    @property
    def threads(self):
        now = time.monotonic()
        if now - self._looked > _CLUSTER_LOOK:
            self._looked = now
            with _scheduler_needed():
                self._threads = max(1, sum(self._client.nthreads().values()))
        return self._threads

    def submit(self, function, item):
        with _scheduler_needed():
            return self._pool.submit(function, item)

    def close(self):
        # A scheduler that is gone has nothing left to cancel.
        with suppress(Exception):
            self._pool.shutdown(wait=False)


@contextmanager
def _scheduler_needed():
    try:
        yield
    except Exception as error:
        raise WorkError(
            f"the connection to the dask scheduler is lost ({error}); start it and run again: "
            "what is finished is kept"
        ) from error


@contextmanager
def connect(memory="4GB", workers=0, threads_per_worker=1, kind="threads"):
    """A dask client for the time of a ``with`` block, or None where threads do.

    Parameters
    ----------
    memory : str or int, optional
        What each worker process may use.
    workers : int, optional
        Number of worker processes of a local cluster; 0 stands for the number of cores.
    threads_per_worker : int, optional
        Threads of each worker process of a local cluster.
    kind : str, optional
        ``"threads"``; ``"processes"`` for a local cluster; the address of a scheduler (``tcp://...``), or the
        name of its scheduler file (``....json``).

    Yields
    ------
    distributed.Client or None

    Raises
    ------
    UsageError
        `kind` is none of these, or no scheduler answers there.
    """
    if kind == "threads":
        yield None
    elif kind == "processes":
        with _local_cluster(memory, workers or os.cpu_count() or 1, threads_per_worker) as client:
            yield client
    elif kind.startswith(("tcp://", "tls://", "ucx://", "ws://", "wss://")) or kind.endswith(".json"):
        with _remote_client(kind) as client:
            yield client
    else:
        raise UsageError(
            f"cluster = {kind!r} is not allowed: give 'threads', 'processes', the address of a scheduler "
            "(tcp://host:port) or its scheduler file (.json)"
        )


@contextmanager
def _local_cluster(memory, workers, threads):
    import dask
    from distributed import Client, LocalCluster

    # Tasks bound their own memory, so the worker must neither spill nor pause, which would only stall it; it
    # is ended when it is far above what it was granted.
    rules = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({**rules, "distributed.worker.memory.terminate": 0.95}))
        with _started_without_interrupts():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                memory_limit=int(1.3 * memory_bytes(memory)),
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
            )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster))
        yield client


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


@contextmanager
def _remote_client(kind):
    from distributed import Client

    where = {"address": kind}
    if kind.endswith(".json"):
        if not Path(kind).exists():
            raise UsageError(f"there is no scheduler file {kind}; is the scheduler running?")
        where = {"scheduler_file": kind}
    try:
        client = Client(**where, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no dask scheduler answers at {kind} ({error}); is it running, and is the address right?"
        ) from error
    with client:
        yield client


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


def reset_peak_memory(client=None):
    """Begin to measure the peak memory anew, here or on every worker.

    Parameters
    ----------
    client : distributed.Client, optional
    """
    if client is not None:
        client.run(_reset_peak)
    else:
        _reset_peak()


def peak_memory(client=None):
    """Largest resident memory of this process, or of any worker, since it was last reset.

    Parameters
    ----------
    client : distributed.Client, optional

    Returns
    -------
    int
        Bytes; 0 where the system does not tell or no worker is there.
    """
    return max(client.run(_read_peak).values(), default=0) if client is not None else _read_peak()


def _reset_peak():
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _read_peak():
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM"))
