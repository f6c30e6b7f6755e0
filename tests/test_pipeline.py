import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

import musedeep as md
from musedeep import InputError, MemoryLimitError, UsageError
from musedeep.clusters import connect
from musedeep.lock import holder_of, run_lock
from musedeep.pipeline import plan_stages
from musedeep.simulate import simulate_exposures


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return simulate_exposures(
        tmp_path_factory.mktemp("simulated"), exposures=4, field_arcsec=8, wavelength=(6500, 6540), stars=2,
        cosmic_ray_rate=0.001, position_angles=(0, 90), fov_images=False,
    )  # fmt: skip


@pytest.fixture
def field(tables, tmp_path):
    return md.Field.from_exposures(tables, tmp_path / "f", memory="1GB", assess="off")


def cube_of(field):
    cube = md.open_cube(field.cube_path)
    return {name: cube[name].values for name in cube.data_vars}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert np.array_equal(values.view(np.uint8), other[name].view(np.uint8)), name


@pytest.fixture(scope="module")
def expected(tables, tmp_path_factory):
    """The cube of an undisturbed run."""
    field = md.Field.from_exposures(tables, tmp_path_factory.mktemp("expected"), memory="1GB", assess="off")
    md.run(field, progress=False)
    return cube_of(field)


def test_a_run_does_everything_and_tells_what_it_took(field, capsys):
    before = psutil.Process().memory_info().rss  # what the tests before this one left in the process
    report = md.run(field, progress=False)
    assert capsys.readouterr() == ("", "")
    assert [stage.stage for stage in report.stages] == ["align", "ingest", "combine", "products", "qc"]
    _, ingest, combine, products, _ = report.stages
    assert ingest.facts["exposures"] == 4
    assert combine.facts["computed"] == combine.facts["blocks"] > 1
    for stage in (ingest, combine):
        assert 50e6 < stage.measured_bytes <= before + 0.7e9
        assert stage.predicted_bytes <= 1e9
    assert json.loads(json.dumps(report.to_dict()))["stages"][2]["facts"]["computed"] > 0
    assert {path.name for path in field.products_dir.glob("*.fits")} >= {
        "DATACUBE_DEEP.fits",
        "IMAGE_FOV_DEEP.fits",
    }
    assert np.isfinite(cube_of(field)["flux"]).mean() > 0.5
    again = md.run(field.folder, progress=False)
    assert again.stages[2].facts["computed"] == 0


def test_the_log_tells_versions_settings_times_and_memory(field):
    md.run(field, progress=False)
    text = field.log_path.read_text()
    assert f"musedeep {md.__version__}" in text and f"numpy {np.__version__}" in text
    assert f"process {os.getpid()} on {socket.gethostname()}" in text
    assert "'reject': 'guarded'" in text
    for stage in ("ingest", "combine", "products"):
        assert f"INFO {stage}: " in text
    assert "peak memory of a worker" in text and ", predicted " in text
    assert logging.getLogger("musedeep").handlers == []


def test_progress_is_shown_when_wanted(field, capsys):
    md.run(field)
    text = capsys.readouterr().err
    assert "ingest: 4 of 4 parts in " in text and "combine: " in text and "products: " in text


def test_processes_give_the_same_bits(field, expected):
    report = md.run(field.changed(cluster="processes", workers=2, memory="800MB"), progress=False)
    assert report.stages[2].measured_bytes > 50e6
    assert_same_bits(cube_of(field), expected)


def test_ctrl_c_ends_workers_in_good_order(field):
    """A terminal sends it to the whole group of processes; the workers leave the ending to the main one."""
    script = f"import musedeep.cli as c; c.main(['run', {str(field.folder)!r}, '--cluster', 'processes'])"
    with subprocess.Popen(
        [sys.executable, "-c", script], start_new_session=True, text=True, stderr=subprocess.PIPE
    ) as run:
        line = run.stderr.readline()
        assert "the dashboard is at http://127.0.0.1:" in line
        os.killpg(run.pid, signal.SIGINT)
        error = run.stderr.read()
    assert run.returncode == 130
    assert "Traceback" not in error
    assert "musedeep: error: stopped; what is finished is kept" in error
    assert not field.lock_path.exists()


def test_a_client_that_is_handed_in_is_used(field, expected):
    with connect("processes", memory="1GB", workers=1, threads_per_worker=2) as client:
        md.run(field, client=client, progress=False)
        assert len(client.nthreads()) == 1
        with pytest.raises(MemoryLimitError, match="has a limit of 1.30 GB, but memory = 2.00 GB"):
            md.run(field.changed(memory="2GB"), client=client, progress=False)
    assert_same_bits(cube_of(field), expected)
    assert "_combine_one" in (field.folder / "performance.html").read_text()


def test_what_cannot_fit_is_refused_before_anything_runs(field):
    with pytest.raises(MemoryLimitError, match="Grant more memory"):
        md.run(field.changed(memory="100MB"), progress=False)
    assert not field.pixels_path.exists() and not field.cube_path.exists()
    assert "stopped: MemoryLimitError" in field.log_path.read_text()


@pytest.mark.parametrize("moment", ["_ingest_part", "_combine_one"])
def test_a_killed_run_goes_on_where_it_was(field, expected, moment):
    """The process is killed, without any warning, when half of the tasks of a stage are done."""
    module = {"_ingest_part": "ingest", "_combine_one": "combine"}[moment]
    script = (
        f"import os, signal, time, musedeep as md\nfrom musedeep import {module} as stage\n"
        f"inner, calls = stage.{moment}, []\n"
        "def killing(*args, **kwargs):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2:\n"
        # What was done before is noted down by another thread.
        "        time.sleep(1)\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return inner(*args, **kwargs)\n"
        f"stage.{moment} = killing\n"
        f"field = md.open_field({str(field.folder)!r}).changed(workers=1)\n"
        "md.run(field, progress=False)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], check=False)
    assert run.returncode == -signal.SIGKILL
    assert field.lock_path.exists()
    state = md.status(field)
    assert state["running"] is None
    done = state["stages"][module]["done"]
    assert 1 <= done < state["stages"][module]["total"]
    report = md.run(field, progress=False)
    if module == "combine":
        assert report.stages[2].facts["computed"] == report.stages[2].facts["blocks"] - done
    assert_same_bits(cube_of(field), expected)
    assert not field.lock_path.exists()


def test_products_of_an_unfinished_cube_are_refused(field):
    md.run(field, stages=("ingest", "combine"), progress=False)
    lines = [line for line in field.cube_path.with_name("cube.ledger").read_text().splitlines() if line]
    field.cube_path.with_name("cube.ledger").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(
        InputError, match=f"is not finished: {len(lines) - 1} of {len(lines)} blocks are done"
    ):
        md.run(field, stages=("products",), progress=False)
    assert not field.products_dir.exists()


def test_an_exposure_that_is_added_is_taken_in_alone(field, tables, tmp_path, expected):
    fewer = md.Field.from_exposures(tables[:3], tmp_path / "g", memory="1GB")
    md.run(fewer, progress=False)
    stamps = {path.parent.name: path.stat().st_mtime_ns for path in fewer.pixels_path.glob("*/zarr.json")}
    grown = fewer.add_exposures(tables)
    md.run(grown, progress=False)
    after = {path.parent.name: path.stat().st_mtime_ns for path in grown.pixels_path.glob("*/zarr.json")}
    assert len(after) == 4 and {name: after[name] for name in stamps} == stamps
    flux = cube_of(grown)["flux"]
    assert flux.shape == expected["flux"].shape


def test_status_before_during_and_after(field):
    state = md.status(field.folder)
    assert state["stages"]["ingest"] == {"unit": "exposures", "done": 0, "total": 4, "bytes": 0}
    assert state["stages"]["combine"]["total"] is None and state["running"] is None
    with run_lock(field.lock_path):
        running = md.status(field)["running"]
    assert running["pid"] == os.getpid() and running["host"] == socket.gethostname()
    md.run(field, progress=False)
    stages = md.status(field)["stages"]
    assert stages["ingest"]["done"] == 4 and stages["ingest"]["bytes"] > 1e6
    assert stages["combine"]["done"] == stages["combine"]["total"] > 1
    assert stages["products"]["done"] >= 3 and stages["products"]["bytes"] > 1e5


def test_plans_need_no_rows(field):
    assert [plan.stage for plan in plan_stages(field)] == ["align", "ingest"]
    md.run(field, stages=("ingest",), progress=False)
    plans = {plan.stage: plan for plan in plan_stages(field)}
    assert list(plans) == ["align", "ingest", "combine"]
    assert plans["align"].rows == plans["ingest"].rows
    assert plans["ingest"].rows == sum(exposure.row_count for exposure in field.exposures)
    assert plans["combine"].tasks == md.run(field, progress=False).stages[2].facts["blocks"]


def test_a_plan_knows_how_many_threads_share_the_memory(field):
    local = plan_stages(field.changed(workers=2), ("ingest",))[0]
    processes = plan_stages(field.changed(workers=2, cluster="processes"), ("ingest",))[0]
    assert processes.peak_bytes < local.peak_bytes
    both = plan_stages(field.changed(workers=1, threads=2, cluster="processes"), ("ingest",))[0]
    assert both.peak_bytes == local.peak_bytes


def test_a_field_made_in_memory_is_written_when_it_runs(field, tmp_path):
    import dataclasses

    other = dataclasses.replace(field, folder=tmp_path / "g")
    md.run(other, stages=("ingest",), progress=False)
    assert md.open_field(tmp_path / "g") == other


def test_two_runs_on_one_field_do_not_meet(field):
    with run_lock(field.lock_path):
        with pytest.raises(UsageError, match=f"another run works on this field: process {os.getpid()} on "):
            md.run(field, progress=False)
    assert not field.log_path.exists()
    md.run(field, stages=("ingest",), progress=False)
    assert not field.lock_path.exists()


def write_lock(path, **facts):
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": "2026-01-01T00:00:00Z",
        "birth": "1",
    }
    path.write_text(json.dumps(holder | facts))


def test_a_lock_left_by_a_crash_does_not_block(tmp_path):
    path = tmp_path / "run.lock"
    # The number of the process is in use again, by another one: it began at another time.
    write_lock(path)
    assert holder_of(path) is None
    with run_lock(path):
        assert holder_of(path)["pid"] == os.getpid()
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    write_lock(path, pid=int(gone.stdout))
    with run_lock(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_machine_counts_while_it_is_renewed(tmp_path):
    path = tmp_path / "run.lock"
    write_lock(path, host="node17", pid=4)
    with pytest.raises(UsageError, match="process 4 on node17, since 2026-01-01T00:00:00Z"):
        with run_lock(path):
            pass
    old = time.time() - 600
    os.utime(path, (old, old))
    with run_lock(path):
        assert holder_of(path)["host"] == socket.gethostname()


def test_a_lock_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr("musedeep.lock._RENEW_SECONDS", 0.05)
    path = tmp_path / "run.lock"
    with run_lock(path):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime < 1e9:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_lock_cut_by_a_crash_does_not_block(tmp_path):
    path = tmp_path / "run.lock"
    path.write_text('{"pid": 12')
    with run_lock(path):
        assert holder_of(path)["pid"] == os.getpid()


def test_a_lock_works_without_the_file_system_s_help(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    path = tmp_path / "run.lock"
    with run_lock(path):
        with pytest.raises(UsageError, match="another run works on this field"):
            with run_lock(path):
                pass
    write_lock(path)
    with run_lock(path):
        pass


def test_only_one_of_many_takes_a_lock_that_was_left(tmp_path):
    path = tmp_path / "run.lock"
    write_lock(path)
    start, held, refused = threading.Barrier(8), [], []

    def take():
        start.wait()
        try:
            with run_lock(path):
                held.append(1)
                time.sleep(0.5)
        except UsageError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


def test_an_unwritable_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match="cannot write .*run.lock: .*its folder must be writable"):
        with run_lock(tmp_path / "nowhere" / "run.lock"):
            pass
