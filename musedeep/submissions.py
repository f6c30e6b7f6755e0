"""Jobs that a batch system does not take or drops, or that begin and never become workers."""

import asyncio
import getpass
import itertools
import logging
import re
import shlex
import time

__all__ = ["Submissions"]

_PAUSE = 20.0
_LOOK_MS = 2000
_LIST_PAUSE = 30.0
_TRIES = 3  # of as many jobs as there are, before it is said that none becomes a worker
# What lists the jobs of a user that wait or run, by the command that submits them; the number comes first.
_LISTS = {
    "sbatch": "squeue --noheader --format=%i --user={user}",
    "qsub": "qstat -u {user}",
    "bsub": "bjobs -noheader -o jobid -u {user}",
    "condor_submit": "condor_q -autoformat ClusterId",
}
_log = logging.getLogger(__name__)


class Submissions:
    """Watches the submissions of one cluster of jobs.

    As long as none was taken, the first refusal stands in `refused`: a queue or an account is wrong. Later
    ones are tried again, since then it is the batch system that has gone for a while; dask would count such a
    job as submitted and never replace it.

    Nor would dask replace a job that ended before its worker was there, on a node that is broken, or too slow
    for the time in which a worker must start. So each job leaves a mark where it begins. One that began long
    ago and has no worker is cancelled, and another is asked for; so it is for one that left no mark and that
    the batch system does not know any more, cancelled while it waited or killed in its first moment.

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
        self._dropped = set()  # left no mark, and were missing when the jobs were listed last
        self._listed = time.monotonic()
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
        now, lost, waiting = time.monotonic(), [], {}
        for name, job in cluster.workers.items():
            suffixes = cluster.worker_spec.get(name, {}).get("group", [""])
            if here & {f"{name}{suffix}" for suffix in suffixes}:
                self._arrived.add(job.mark)
            if job.mark in self._arrived:
                continue
            if not job.mark.exists():
                waiting[name] = job
            elif (waited := now - self._began.setdefault(job.mark, now)) > self._patience:
                _log.warning("job %s began %.0f s ago and has no worker: it is replaced", name, waited)
                lost.append(name)
        lost += await self._ended_in_the_queue(waiting, now)
        self._without_worker += len(lost)
        if not self._arrived and self._without_worker >= _TRIES * max(1, len(cluster.workers)):
            self.refused = f"{self._without_worker} jobs were submitted and none of them became a worker"
        elif lost:
            await cluster.scale_down(lost)

    async def _ended_in_the_queue(self, waiting, now):
        """Names of those jobs that the batch system does not know any more, by two lists in a row: it may be
        slow to tell of a job that is new, and the file system of one that has begun."""
        if not waiting or now - self._listed < _LIST_PAUSE:
            return []
        self._listed = now
        job = next(iter(waiting.values()))
        command = _LISTS[job.submit_command.split()[0]].format(user=getpass.getuser())
        try:
            known = re.findall(r"^\s*(\d+)", await job._call(shlex.split(command)), re.MULTILINE)
        except (OSError, RuntimeError) as error:
            _log.info("the jobs of the batch system cannot be listed: %s", error)
            return []
        missing = {name for name, job in waiting.items() if str(job.job_id).partition(".")[0] not in known}
        dropped = {name for name in missing if waiting[name].mark in self._dropped}
        self._dropped = {waiting[name].mark for name in missing - dropped}
        for name in dropped:
            _log.warning("job %s has left the queue and never began: it is replaced", name)
        return list(dropped)

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
