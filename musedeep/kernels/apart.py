"""Kernels are compiled by a process of their own: the compiler leaves 150 MB in the one that it ran in, for
good, and memory is promised for the first run as well.

numba keeps compiled code in its cache. A mark beside it tells that a set of kernels has been compiled as they
are now; without the mark, a child compiles them, and the caller finds them in the cache.
"""

import fcntl
import hashlib
import logging
import os
import pickle
import platform
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numba
from numba.core.registry import cpu_target

__all__ = ["compile_apart"]

# Set for the child, which compiles at once.
_HERE = "MUSEDEEP_COMPILE_HERE"
_log = logging.getLogger(__name__)


def compile_apart(name, code, argument=None):
    """See to it that a set of kernels is in the cache.

    Whatever goes wrong is no error: what is missing is compiled when it is called for, at the price of
    memory.

    Parameters
    ----------
    name : str
        Of the set; part of the name of the mark.
    code : str
        Python code that makes numba compile the kernels.
    argument : object, optional
        Is there as ``argument`` for the code; can be pickled.
    """
    if _HERE in os.environ or numba.config.DISABLE_JIT:
        return
    folder = Path(numba.njit(cache=True)(_nothing).stats.cache_path)
    mark = folder / f"{name}-{_state()}.compiled"
    if mark.exists():
        return
    with suppress(OSError), _one_at_a_time(folder / f"{name}.compiling"):
        if mark.exists():  # another process was faster
            return
        _log.info("compiling kernels (%s), once for this kind of machine", name)
        program = f"import pickle, sys\nargument = pickle.load(sys.stdin.buffer)\n{code}"
        child = subprocess.run(
            [sys.executable, "-c", program],
            input=pickle.dumps(argument),
            env=os.environ | {_HERE: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
        )
        if child.returncode == 0:
            mark.touch()
        else:
            _log.warning("the kernels (%s) were not compiled apart: %s", name, child.stderr.decode()[-1000:])


def _nothing():
    """A function of this folder, to ask numba where its cache is."""


def _state():
    """A short name of all that compiled code depends on: sources, numba, its settings, the processor."""
    folder = Path(__file__).parent
    sources = [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.py"))]
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("NUMBA_"))
    processor = cpu_target.target_context.codegen().magic_tuple()
    facts = sources, settings, processor, platform.python_version(), numba.__version__
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


@contextmanager
def _one_at_a_time(path):
    """Let one process in after the other, where the file system has locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
