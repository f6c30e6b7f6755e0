"""Work in a process of its own, whose memory is gone when it is done."""

import logging
import os
import pickle
import subprocess
import sys
import threading

from musedeep.errors import WorkError
from musedeep.execute import peak_memory

__all__ = ["run_apart"]

_PROGRAM = "from musedeep.apart import _serve; _serve()"


def run_apart(function, *arguments, progress=None):
    """Call a function in a process of its own.

    The process ends with this one, also when this one is killed. Its log records come to the loggers of this
    process, and what it raises is raised here.

    Parameters
    ----------
    function : callable
        Of a module that can be imported; takes the arguments and the keyword ``progress``.
    *arguments : object
        Can be pickled, as the result can.
    progress : Progress, optional
        Is told what the function tells its own.

    Returns
    -------
    result : object
        What the function returns.
    peak_bytes : int
        Largest resident memory of the process.

    Raises
    ------
    WorkError
        The process ended before its time.
    """
    paths = os.pathsep.join(filter(None, sys.path))
    child = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
        # Ctrl-C is for this process alone, which then ends the other.
        start_new_session=True,
    )
    try:
        pickle.dump((function, arguments), child.stdin)
        child.stdin.flush()
        return _listen(child, function, progress)
    finally:
        child.terminate()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def _listen(child, function, progress):
    while True:
        try:
            kind, *content = pickle.load(child.stdout)
        except EOFError:
            raise WorkError(
                f"the process for {function.__name__} ended before its time (exit code {child.wait()}), "
                "perhaps for want of memory; what is finished is kept, run the same command again to go on"
            ) from None
        if kind == "result":
            return tuple(content)
        if kind == "error":
            raise content[0]
        if kind == "log":
            record = logging.makeLogRecord(content[0])
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        elif progress is not None:
            getattr(progress, kind)(*content)


class _Teller:
    """Stands for the progress of the other process."""

    def __init__(self, tell):
        self._tell = tell

    def __getattr__(self, name):
        return lambda *arguments: self._tell(name, *arguments)

    def close(self, *, quiet=False):
        if not quiet:
            self._tell("close")


class _Forward(logging.Handler):
    def __init__(self, tell):
        super().__init__()
        self._tell = tell

    def emit(self, record):
        facts = record.__dict__ | {"msg": record.getMessage(), "args": None, "exc_info": None}
        self._tell("log", facts)


def _serve():
    """The other side of `run_apart`."""
    function, arguments = pickle.load(sys.stdin.buffer)
    # the pipe is for messages alone
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    turn = threading.Lock()

    def tell(*message):
        with turn:
            pickle.dump(message, pipe)
            pipe.flush()

    def end_with_parent():
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    logger = logging.getLogger("musedeep")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Forward(tell))
    try:
        result = function(*arguments, progress=_Teller(tell))
        tell("result", result, peak_memory())
    except Exception as error:
        tell("error", error)
