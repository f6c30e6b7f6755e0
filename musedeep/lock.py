"""One run at a time on a field: a lock that a crashed run does not leave closed."""

import fcntl
import json
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from musedeep.errors import UsageError

__all__ = ["holder_of", "run_lock"]

# The holder renews its lock this often; on another machine, where its process cannot be looked at, it counts
# as gone after the longer time.
_RENEW_SECONDS = 20.0
_GONE_SECONDS = 180.0
_UNKNOWN = {"pid": "unknown", "host": "unknown", "started": "just now"}


@contextmanager
def run_lock(path, what="this field"):
    """Hold the lock of a field, or of another folder, for the time of a ``with`` block.

    Parameters
    ----------
    path : Path
        The lock file; it is there only while the lock is held.
    what : str
        What it locks, for the message.

    Raises
    ------
    UsageError
        Another run holds it; the message says which.
    """
    descriptor = _take(path, what)
    released = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, released), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        released.set()
        renewing.join()
        path.unlink(missing_ok=True)
        os.close(descriptor)


def holder_of(path):
    """Who holds a lock.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict or None
        ``pid``, ``host``, ``started`` (ISO time, UTC) of a run that is alive; None if nobody holds it.
    """
    try:
        holder = json.loads(path.read_text())
        age = _file_clock(path) - path.stat().st_mtime
    except FileNotFoundError:
        return None
    except ValueError:
        # Being written this moment, or cut by a crash.
        return _UNKNOWN
    if holder["host"] == socket.gethostname():
        return holder if _birth_of(holder["pid"]) == holder["birth"] is not None else None
    return holder if age < _GONE_SECONDS else None


def _take(path, what):
    """Lock the file and write into it who holds it; its open descriptor."""
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}; its folder must be writable") from error
        try:
            _lock_or_refuse(path, descriptor, what)
            # The former holder may have removed the file after it was opened here.
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_or_refuse(path, descriptor, what):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(what, holder_of(path) or _UNKNOWN) from None
    except OSError:
        # A file system without locks: what stands in the file has to do.
        pass
    holder = holder_of(path)
    if holder is not None and holder is not _UNKNOWN:
        raise _taken(what, holder)


def _taken(what, holder):
    return UsageError(
        f"another run works on {what}: process {holder['pid']} on {holder['host']}, since "
        f"{holder['started']}; wait for it, or stop it"
    )


def _sign(descriptor):
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "birth": _birth_of(os.getpid()),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(me).encode(), 0)


def _renew(path, released):
    while not released.wait(_RENEW_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _file_clock(path):
    """The time now by the clock of the file server, which may differ from this machine's."""
    probe = path.with_name(f".clock.{os.getpid()}.{threading.get_ident()}")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


def _birth_of(pid):
    """When a process began, in the system's own ticks; None if there is no such process."""
    try:
        # The name in brackets may hold blanks, so what follows it is counted.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "alive"
    except OSError:
        return None
    return "alive"
