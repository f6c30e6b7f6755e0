"""Run many small tasks on threads or on a dask cluster: bounded, with retries, progress and a clean stop."""

import concurrent.futures
import ctypes
import errno
import os
import sys
import time
from collections import deque
from collections.abc import Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from musedeep.errors import MuseDeepError, WorkError
from musedeep.progress import Progress

__all__ = ["Progress", "give_back_memory", "peak_memory", "reset_peak_memory", "resident_bytes", "run_tasks"]

# Trying again cannot help against these; the disk is full or may not be written.
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
# After so many items have failed for good, the others are not tried any more.
_MOST_FAILURES = 5
_TICK = 1.0
_CLUSTER_LOOK = 5.0
_REMIND = 60.0


@dataclass
class _Attempt:
    item: object
    number: int = 1


def run_tasks(
    function,
    items,
    *,
    client=None,
    workers=None,
    window=2,
    retries=2,
    progress=None,
    describe=repr,
    stop=None,
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
    stop : callable, optional
        Ends what tasks wait for in this process, when the work is broken off.

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
        if run.pending and stop is not None:
            stop()
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
                reason = future.exception()
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
            attempt = self._next()
            if attempt is None:
                return False
            self.pending[pool.submit(self.function, attempt.item)] = attempt
        return False

    def _next(self):
        """The next attempt: what failed waits until all others are done, lest it takes one worker after the
        other with it; unless so much failed that the others may be no better."""
        if len(self.again) < _MOST_FAILURES:
            for item in self.items:
                return _Attempt(item)
        return self.again.popleft() if self.again else None

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
        if type(reason).__name__ == "KilledWorker":
            words = (
                "KilledWorker: the workers that did it died; they were killed, out of memory, or ended by "
                f"the walltime before it was done, the last one was {reason.last_worker.name}"
            )
        last = attempt.number > self.retries
        if self.progress is not None:
            self.progress.failure(
                f"{self.describe(attempt.item)} failed ({words}); {'set aside' if last else 'trying again'}"
            )
        if last:
            self.failed.append((attempt, words, reason))
            return
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
        self._futures = set()
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
            future = self._client.submit(function, item, pure=False)
        self._futures.add(future)
        outcome = concurrent.futures.Future()
        self._client.loop.add_callback(self._pass_on, future, outcome)
        return outcome

    async def _pass_on(self, future, outcome):
        """Tell the outcome of a task. dask's own executor forgets tasks whose result is lost on the way here
        and that then fail: it would be waited for for ever."""
        result, error = None, None
        try:
            found = await self._client.gather([future], errors="skip", asynchronous=True)
            if found:
                result = found[0]
            elif future.status == "error":
                error = await future.exception(asynchronous=True)
                error = error.with_traceback(await future.traceback(asynchronous=True))
            else:
                error = WorkError("the task was lost: the scheduler is gone, or it was cancelled")
        except BaseException as raised:  # whatever it is, somebody waits
            # its frames hold the future, which would then stay with the scheduler
            error = raised.with_traceback(None)
        self._futures.discard(future)
        if not outcome.set_running_or_notify_cancel():
            return
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)

    def close(self):
        # A scheduler that is gone has nothing left to cancel.
        with suppress(Exception):
            self._client.cancel(list(self._futures))


@contextmanager
def _scheduler_needed():
    try:
        yield
    except Exception as error:
        raise WorkError(
            f"the connection to the dask scheduler is lost ({error}); start it and run again: "
            "what is finished is kept"
        ) from error


def reset_peak_memory(client=None):
    """Begin to measure the peak memory anew, here or on every worker.

    Parameters
    ----------
    client : distributed.Client, optional
    """
    if client is not None:
        with _scheduler_needed():
            client.run(_reset_peak, on_error="ignore")
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
    if client is None:
        return _read_peak()
    with _scheduler_needed():
        return max(client.run(_read_peak, on_error="ignore").values(), default=0)


def _reset_peak():
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _read_peak():
    return _status_bytes("VmHWM")


def _status_bytes(name):
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(name))


def give_back_memory():
    """Let the system have what this process freed; the C library keeps some of it otherwise."""
    # only the C library of GNU has it
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes():
    """Resident memory of this process now.

    Returns
    -------
    int
        Bytes; 0 where the system does not tell.
    """
    return _status_bytes("VmRSS")
