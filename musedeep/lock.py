"""One run at a time on a field: a lock that a crashed run does not leave closed."""

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


@contextmanager
def run_lock(path):
    """Hold the lock of a field for the time of a ``with`` block.

    Parameters
    ----------
    path : Path
        The lock file; it is there only while the lock is held.

    Raises
    ------
    UsageError
        Another run holds it; the message says which.
    """
    _take(path)
    released = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, released), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        released.set()
        renewing.join()
        path.unlink(missing_ok=True)


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
    except (OSError, ValueError):
        # Being written this moment, or cut by a crash; only its age can tell.
        holder, age = {"pid": 0, "host": "", "started": "", "birth": None}, _age_of(path)
        return holder if age < 5 else None
    if holder["host"] == socket.gethostname():
        return holder if _birth_of(holder["pid"]) == holder["birth"] is not None else None
    return holder if age < _GONE_SECONDS else None


def _take(path):
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "birth": _birth_of(os.getpid()),
    }
    for _ in range(3):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            _clear_if_gone(path)
            continue
        except OSError as error:
            raise UsageError(
                f"cannot write {path}: {error.strerror}; the field's folder must be writable"
            ) from error
        with os.fdopen(descriptor, "w") as file:
            json.dump(me, file)
        return
    raise UsageError(f"{path} cannot be taken: other runs are starting on this field; try again")


def _clear_if_gone(path):
    holder = holder_of(path)
    if holder is not None:
        raise UsageError(
            f"another run works on this field: process {holder['pid']} on {holder['host'] or 'here'}, "
            f"since {holder['started'] or 'just now'}; wait for it, or stop it (see `musedeep status`)"
        )
    # Renamed, since only one of several newcomers can do that.
    grave = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        path.rename(grave)
        grave.unlink()


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


def _age_of(path):
    try:
        return _file_clock(path) - path.stat().st_mtime
    except OSError:
        return float("inf")


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
