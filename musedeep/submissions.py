"""Jobs that a batch system does not take, or that begin and never become workers."""

import asyncio
import itertools
import logging
import re
import shlex
import time

__all__ = ["Submissions"]

_PAUSE = 20.0
_LOOK_MS = 2000
_TRIES = 3  # of as many jobs as there are, before it is said that none becomes a worker
_log = logging.getLogger(__name__)


class Submissions:
    """Watches the submissions of one cluster of jobs.

    As long as none was taken, the first refusal stands in `refused`: a queue or an account is wrong. Later
    ones are tried again, since then it is the batch system that has gone for a while; dask would count such a
    job as submitted and never replace it.

    Nor would dask replace a job that ended before its worker was there, on a node that is broken, or too slow
    for the time in which a worker must start. So each job leaves a mark where it begins. One that began long
    ago and has no worker is cancelled, and another is asked for.

    Parameters
    ----------
    marks : Path
        Folder for the marks, on a file system that all nodes see.
    patience : float
        Seconds from the beginning of a job until its worker must be there.

    Attributes
    ----------
    refused : str
        Why there will be no worker; empty where there is nothing to say.
    """

    def __init__(self, marks, patience):
        self._marks = marks
        self._patience = patience
        self._numbers = itertools.count()
        self._began = {}  # when the mark of a job was first seen
        self._arrived = set()
        self._without_worker = 0
        self.refused = ""
        self._taken = False
        self._ended = False
        self._failed = False
        self._logger = logging.getLogger("tornado.application")
        self._logger.addFilter(self._is_news)

    def _is_news(self, _):
        # What is told by `refused` needs no traceback of the event loop beside it.
        return not self.refused

    def end(self, close):
        """Stop trying, and close the cluster.

        Parameters
        ----------
        close : callable
        """
        self._ended = True
        try:
            close()
        except Exception:
            # dask stumbles over a job that never was; what is to be said about it was said
            if not self._failed:
                raise
        finally:
            self._logger.removeFilter(self._is_news)

    def watched(self, job_class):
        """The same class of jobs, with its submissions watched.

        Parameters
        ----------
        job_class : type
            Of dask_jobqueue.

        Returns
        -------
        type
        """
        watch = self

        class Watched(job_class):
            def __init__(self, *words, job_script_prologue=(), **options):
                self.mark = watch._marks / f"job{next(watch._numbers)}"
                leave_mark = f": > {shlex.quote(str(self.mark))}"
                super().__init__(*words, job_script_prologue=[leave_mark, *job_script_prologue], **options)

            async def _submit_job(self, script_filename):
                while True:
                    try:
                        answer = await super()._submit_job(script_filename)
                    except RuntimeError as error:
                        await watch.take_refusal(error)
                    else:
                        watch._taken = True
                        return answer

        Watched.__name__ = job_class.__name__
        return Watched

    def replace_lost(self, cluster):
        """Look from now on for jobs that began and have no worker.

        Parameters
        ----------
        cluster : dask_jobqueue.JobQueueCluster
            One whose jobs are `watched`, and which asks for new ones by itself.
        """
        from distributed.compatibility import PeriodicCallback

        look = PeriodicCallback(lambda: self._look(cluster), _LOOK_MS)
        cluster.periodic_callbacks["lost-jobs"] = look  # stopped with the cluster
        cluster.loop.add_callback(look.start)

    async def _look(self, cluster):
        here = {str(facts["name"]) for facts in cluster.scheduler_info["workers"].values()}
        now, lost = time.monotonic(), []
        for name, job in cluster.workers.items():
            suffixes = cluster.worker_spec.get(name, {}).get("group", [""])
            if here & {f"{name}{suffix}" for suffix in suffixes}:
                self._arrived.add(job.mark)
            if job.mark in self._arrived or not job.mark.exists():
                continue
            if now - self._began.setdefault(job.mark, now) > self._patience:
                lost.append(name)
        for name in lost:
            _log.warning("job %s began %.0f s ago and has no worker: it is replaced", name, self._patience)
        self._without_worker += len(lost)
        if not self._arrived and self._without_worker >= _TRIES * max(1, len(cluster.workers)):
            self.refused = f"{self._without_worker} jobs began and none of them became a worker"
        elif lost:
            await cluster.scale_down(lost)

    async def take_refusal(self, error):
        """Wait before the next try; raises where there shall be none."""
        words = str(error).partition("stderr:")[2].strip() or str(error)
        words = re.sub(r"\s*\n\s*", "; ", words)
        if not self._taken:
            self.refused = f"no job could be submitted: {words}"
        if not self._taken or self._ended:
            self._failed = True
            raise error
        _log.warning("a job could not be submitted, trying again in %.0f s: %s", _PAUSE, words)
        await asyncio.sleep(_PAUSE)
