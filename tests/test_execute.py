import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pytest

from musedeep import InputError, WorkError
from musedeep.clusters import connect
from musedeep.execute import Progress, give_back_memory, resident_bytes, run_tasks


def square(item):
    return item * item


def fail_once(path):
    if not path.exists():
        path.write_text("")
        raise OSError(errno.EIO, "the disk hiccuped")
    return path.name


def fail_on_three(item):
    if item == 3:
        raise RuntimeError("three is not allowed")
    return item


def kill_worker_once(path):
    if not path.exists():
        path.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def kill_worker_always(item):
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


class KillsWorkerThatSendsIt:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def lose_result_then_fail(path):
    """Its first result is lost on the way, then two workers die of it."""
    attempts = len(list(path.iterdir()))
    (path / str(attempts)).write_text("")
    if attempts == 0:
        return KillsWorkerThatSendsIt()
    if attempts < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def process_id(_):
    time.sleep(0.2)
    return os.getpid()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def client():
    with connect("processes", memory="1GB", workers=2) as client:
        yield client


def test_results_of_all_items():
    assert dict(run_tasks(square, range(50), workers=3)) == {n: n * n for n in range(50)}
    assert list(run_tasks(square, [])) == []


def test_no_more_items_are_taken_than_the_window_holds():
    taken, done, most_ahead = [0], 0, 0

    def items():
        for number in range(2000):
            taken[0] += 1
            yield number

    for _, _ in run_tasks(square, items(), workers=2, window=3):
        done += 1
        most_ahead = max(most_ahead, taken[0] - done)
    assert done == 2000
    assert most_ahead <= 2 * 3


def test_threads_work_at_the_same_time():
    together = threading.Barrier(3, timeout=10)
    assert len(list(run_tasks(lambda _: together.wait(), range(3), workers=3))) == 3


def test_an_item_that_fails_is_tried_again(tmp_path):
    stream = io.StringIO()
    progress = Progress("combine", "blocks", stream=stream)
    items = [tmp_path / "a", tmp_path / "b"]
    results = run_tasks(
        fail_once, items, workers=1, progress=progress, describe=lambda item: f"block {item.name}"
    )
    assert dict(results) == {items[0]: "a", items[1]: "b"}
    assert (
        "combine: block a failed (OSError: [Errno 5] the disk hiccuped); trying again\n" in stream.getvalue()
    )
    assert "combine: 2 of 2 blocks in " in stream.getvalue()


def test_an_item_that_keeps_failing_is_named_and_the_others_are_done():
    done = []
    with pytest.raises(WorkError) as caught:
        for item, _ in run_tasks(fail_on_three, range(20), workers=2, describe=lambda item: f"block {item}"):
            done.append(item)
    assert sorted(done) == [item for item in range(20) if item != 3]
    assert "1 of the tasks failed 3 times:\n  block 3: RuntimeError: three is not allowed\n" in str(
        caught.value
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_when_many_items_fail_the_rest_is_not_tried():
    tried = []

    def fail(item):
        tried.append(item)
        raise RuntimeError("nothing works")

    with pytest.raises(WorkError, match="5 of the tasks failed 1 times"):
        list(run_tasks(fail, range(1000), workers=1, retries=0))
    assert len(tried) < 10


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_stops_at_once(code):
    tried = []

    def fail(item):
        tried.append(item)
        raise OSError(code, os.strerror(code))

    with pytest.raises(WorkError, match=f"block 0: OSError: .*{os.strerror(code)}; make room"):
        list(run_tasks(fail, range(100), workers=1, describe=lambda item: f"block {item}"))
    assert len(tried) <= 3


def test_an_input_at_fault_is_not_tried_again():
    tried = []

    def fail(item):
        tried.append(item)
        raise InputError("x.fits: truncated")

    with pytest.raises(InputError, match="x.fits: truncated"):
        list(run_tasks(fail, [1], workers=1))
    assert tried == [1]


def test_ctrl_c_stops_after_what_is_running():
    began, ended = [], []

    def work(item):
        began.append(item)
        time.sleep(0.1)
        ended.append(item)

    interrupt = threading.Timer(0.35, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in run_tasks(work, range(1000), workers=2):
            pass
    count = len(began)
    assert 2 <= count < 50
    assert sorted(ended) == sorted(began)
    time.sleep(0.3)
    assert len(began) == count


def test_a_consumer_that_stops_early_stops_the_work():
    began = []
    results = run_tasks(began.append, range(1000), workers=1)
    next(results)
    results.close()
    assert len(began) <= 4


def test_processes_give_the_same_results(client):
    assert dict(run_tasks(square, range(30), client=client)) == {n: n * n for n in range(30)}
    wait_until(lambda: len(client.nthreads()) == 2)
    ids = {result for _, result in run_tasks(process_id, range(8), client=client)}
    assert len(ids) == 2
    assert os.getpid() not in ids


def test_an_item_that_fails_on_a_worker_is_tried_again_and_named(client, tmp_path):
    assert dict(run_tasks(fail_once, [tmp_path / "a"], client=client)) == {tmp_path / "a": "a"}
    with pytest.raises(WorkError, match="3: RuntimeError: three is not allowed"):
        list(run_tasks(fail_on_three, range(6), client=client, retries=1))


def test_a_killed_worker_costs_only_what_it_was_doing(client, tmp_path):
    items = [tmp_path / name for name in "abcdef"]
    for item in items[1:]:
        item.write_text("")
    assert dict(run_tasks(kill_worker_once, items, client=client)) == {item: item.name for item in items}


def test_a_task_that_fails_after_its_result_was_lost_is_tried_again(tmp_path):
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        connect("processes", memory="1GB", workers=2) as client,
    ):
        assert dict(run_tasks(lose_result_then_fail, [tmp_path], client=client)) == {tmp_path: tmp_path.name}


def test_no_futures_stay_behind(client):
    list(run_tasks(square, range(200), client=client))
    some = run_tasks(square, range(200), client=client)
    next(some)
    some.close()
    wait_until(lambda: not client.futures)


def test_items_that_failed_wait_until_the_others_are_done():
    order = []

    def work(item):
        order.append(item)
        if item == 2:
            raise RuntimeError("two is not allowed")
        return item

    with pytest.raises(WorkError, match="1 of the tasks failed 3 times:\n  2: RuntimeError: two"):
        list(run_tasks(work, range(10), workers=1, window=1))
    assert order == [*range(10), 2, 2]


def test_when_the_first_items_all_fail_they_are_tried_again_before_the_others():
    tried = []

    def fail(item):
        tried.append(item)
        raise RuntimeError("nothing works")

    with pytest.raises(WorkError, match="5 of the tasks failed 3 times"):
        list(run_tasks(fail, range(1000), workers=1))
    assert len(tried) < 40


def test_an_item_that_kills_every_worker_is_named():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        connect("processes", memory="1GB", workers=1) as client,
        pytest.raises(
            WorkError, match="1: KilledWorker: the workers that did it died; they were killed, out of memory"
        ),
    ):
        list(run_tasks(kill_worker_always, range(3), client=client, retries=0))


def test_a_scheduler_that_dies_ends_the_run_with_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr("musedeep.clusters._PATIENCE", "1s")
    place = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--no-dashboard", "--scheduler-file", str(place)]
    scheduler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: place.exists() and place.stat().st_size)
        with connect(place) as client:
            threading.Timer(0.5, scheduler.kill).start()
            with pytest.raises(WorkError, match="connection to the dask scheduler is lost|was cancelled"):
                list(run_tasks(square, range(4), client=client))
    finally:
        scheduler.kill()
        scheduler.wait()


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_plain_lines_come_now_and_then():
    clock, stream = Clock(), io.StringIO()
    progress = Progress("ingest", "exposures", stream=stream, interval=10.0, clock=clock)
    progress.start(100)
    for _ in range(50):
        clock.now += 1.0
        progress.advance()
    assert stream.getvalue().splitlines() == [
        "ingest: 10/100 exposures (10 %), 1/s, 1 min 30 s left",
        "ingest: 20/100 exposures (20 %), 1/s, 1 min 20 s left",
        "ingest: 30/100 exposures (30 %), 1/s, 1 min 10 s left",
        "ingest: 40/100 exposures (40 %), 1/s, 1 min 00 s left",
        "ingest: 50/100 exposures (50 %), 1/s, 50 s left",
    ]
    clock.now += 3670
    progress.close()
    assert stream.getvalue().endswith("ingest: 50 of 100 exposures in 1 h 02 min\n")


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with Progress("combine", "blocks", stream=stream) as progress:
        progress.start(4)
        for _ in range(4):
            progress.advance()
        progress.note("a [word] to say")
    text = stream.getvalue()
    assert "combine" in text and "4/4" in text and "a [word] to say" in text


def test_the_state_tells_rate_time_and_failures():
    clock, stream, looks = Clock(), io.StringIO(), []
    progress = Progress("combine", "blocks", stream=stream, clock=clock, watch=lambda: looks.append(1))
    progress.start(8)
    assert progress.state()["seconds_left"] is None and progress.state()["rate"] == 0
    clock.now += 4
    progress.advance(2)
    progress.failure("block 3 failed")
    state = progress.state()
    assert (state["label"], state["unit"], state["done"], state["total"]) == ("combine", "blocks", 2, 8)
    assert (state["rate"], state["seconds_left"], state["failures"]) == (0.5, 12, ["block 3 failed"])
    assert len(looks) == 1 and stream.getvalue() == "combine: block 3 failed\n"


def test_progress_that_is_not_shown_writes_nothing():
    stream = Terminal()
    with Progress("combine", stream=stream, shown=False) as progress:
        list(run_tasks(square, range(5), workers=1, progress=progress))
        progress.failure("block 3 failed")
    assert stream.getvalue() == "" and progress.failures == ["block 3 failed"]


def test_nothing_is_written_without_progress(capsys):
    list(run_tasks(square, range(5), workers=1))
    assert capsys.readouterr() == ("", "")


def test_tasks_of_an_unknown_number_are_counted():
    clock, stream = Clock(), io.StringIO()
    progress = Progress("scan", stream=stream, interval=0.0, clock=clock)
    list(run_tasks(square, iter(range(2)), workers=1, progress=progress))
    assert "scan: 2 items" in stream.getvalue()


def test_importing_the_module_does_not_import_dask():
    code = "import sys, musedeep.execute; sys.exit(any(m in sys.modules for m in ('dask', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path.cwd(), check=False).returncode == 0


def test_freed_memory_goes_back_to_the_system():
    pieces = [np.ones(2000) for _ in range(10_000)]
    full = resident_bytes()
    # what was taken last holds what lies below it, as far as the C library is concerned
    last = pieces[-1]
    del pieces
    give_back_memory()
    assert last.all()
    assert full - resident_bytes() > 120e6
