import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import apart_work
import pytest

from musedeep.apart import run_apart
from musedeep.errors import InputError, WorkError
from musedeep.progress import Progress


def gone(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_results_progress_and_log_records_arrive(caplog):
    progress = Progress("count", "numbers", shown=False)
    with caplog.at_level(logging.INFO, "musedeep"):
        (total, pid), _ = run_apart(apart_work.count, [1, 2, 3], progress=progress)
    assert total == 6
    assert pid != os.getpid() and gone(pid)
    assert (progress.done, progress.total) == (3, 3)
    assert "a sum of 6" in caplog.text


def test_memory_is_that_of_the_other_process():
    _, small = run_apart(apart_work.take, 1)
    _, large = run_apart(apart_work.take, 200)
    assert 190e6 < large - small < 260e6


def test_errors_are_raised_here():
    with pytest.raises(InputError, match="there.fits: no"):
        run_apart(apart_work.refuse, "there.fits")


def test_a_killed_process_is_told():
    with pytest.raises(WorkError, match="exit code -9"):
        run_apart(apart_work.die)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_its_caller(tmp_path, number):
    marker = tmp_path / "pid"
    program = (
        "import pathlib, apart_work; from musedeep.apart import run_apart; "
        f"run_apart(apart_work.sleep, pathlib.Path({str(marker)!r}))"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: marker.exists() and marker.read_text())
    caller.send_signal(number)
    caller.wait()
    wait_for(lambda: gone(int(marker.read_text())))
