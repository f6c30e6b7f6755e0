"""What a run tells about itself while it goes on: a file that `musedeep status` reads, and dask's report."""

import json
import logging
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from musedeep.execute import resident_bytes

__all__ = ["Monitor", "performance", "read_state"]

_EVERY = 5.0
_MOST_FAILURES = 20
_log = logging.getLogger(__name__)


class Monitor:
    """Writes how far a run is to a file, every few seconds.

    Parameters
    ----------
    path : Path
        The file; replaced as a whole, so that a reader never sees half of it.
    client : distributed.Client, optional
        Whose workers are told about; this process without one.
    """

    def __init__(self, path, client=None):
        self._path = path
        self._client = client
        self._written = 0.0
        self._progress = None
        path.unlink(missing_ok=True)

    def begin(self, progress):
        """Tell about another stage from now on.

        Parameters
        ----------
        progress : musedeep.progress.Progress
            That of the stage; it calls `look` while the work goes on.
        """
        self._progress, self._written = progress, -_EVERY
        self.look()

    def look(self):
        """Write the state, unless it was written a moment ago and there is more to come."""
        now, progress = time.monotonic(), self._progress
        if progress is None or (now - self._written < _EVERY and progress.done != progress.total):
            return
        self._written = now
        state = progress.state()
        state["failures"] = state["failures"][-_MOST_FAILURES:]
        state |= {"written": time.time()} | self._cluster()
        beside = self._path.with_name(f"{self._path.name}.writing")
        # A disk without room stops the work itself with a message; here it only costs the news.
        with suppress(OSError):
            beside.write_text(json.dumps(state))
            beside.replace(self._path)

    def _cluster(self):
        """Name, threads, tasks at work, memory in use and allowed [bytes] of every worker, and the address of
        the dashboard."""
        if self._client is None:
            here = {
                "name": f"process {os.getpid()}",
                "threads": None,
                "working": None,
                "memory": resident_bytes(),
                "limit": None,
            }
            return {"workers": [here], "dashboard": None}
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
            dashboard = self._client.dashboard_link
        except Exception:  # the connection is lost; the work itself will say so
            return {"workers": [], "dashboard": None}
        found = [
            {
                "name": str(info["name"]),
                "threads": info["nthreads"],
                "working": info["metrics"].get("task_counts", {}).get("executing", 0),
                "memory": info["metrics"].get("memory", 0),
                "limit": info["memory_limit"],
            }
            for info in workers.values()
        ]
        return {"workers": found, "dashboard": dashboard}


def read_state(path):
    """What `Monitor` wrote last.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict or None
        None where nothing was written, or nothing that can be read.
    """
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


@contextmanager
def performance(client, path):
    """Keep dask's report of what happens in a ``with`` block: one HTML file that needs no network.

    Parameters
    ----------
    client : distributed.Client
    path : Path
        Written when the block ends, also after an error. Needs bokeh; without it, the log says so.
    """
    try:
        import bokeh  # noqa: F401  (dask draws the report with it)
    except ImportError:
        _log.info("no performance report: it needs bokeh (pip install 'musedeep[cluster]')")
        yield
        return
    from distributed import performance_report

    report = performance_report(filename=str(path), mode="inline")
    with client.as_current():
        report.__enter__()
        try:
            yield
        finally:
            # A scheduler that is gone takes the report with it; the error that is on its way matters more.
            with suppress(Exception):
                report.__exit__(None, None, None)
                _log.info("performance report: %s", Path(path))
