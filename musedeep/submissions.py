"""Jobs that a batch system does not take: said at the beginning, tried again later on."""

import asyncio
import logging
import re

__all__ = ["Submissions"]

_PAUSE = 20.0
_log = logging.getLogger(__name__)


class Submissions:
    """Watches the submissions of one cluster of jobs.

    As long as none was taken, the first refusal stands in `refused`: a queue or an account is wrong. Later
    ones are tried again, since then it is the batch system that has gone for a while; dask would count such a
    job as submitted and never replace it.

    Attributes
    ----------
    refused : str
        What the batch system said; empty where there is nothing to say.
    """

    def __init__(self):
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

    async def take_refusal(self, error):
        """Wait before the next try; raises where there shall be none."""
        words = str(error).partition("stderr:")[2].strip() or str(error)
        words = re.sub(r"\s*\n\s*", "; ", words)
        if not self._taken:
            self.refused = words
        if not self._taken or self._ended:
            self._failed = True
            raise error
        _log.warning("a job could not be submitted, trying again in %.0f s: %s", _PAUSE, words)
        await asyncio.sleep(_PAUSE)
