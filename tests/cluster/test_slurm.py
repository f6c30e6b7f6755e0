"""Everything on a real Slurm: undisturbed, and with workers and controlling processes that die.

Some moments and seeds; `benchmarks/cluster_faults.py` plays many more.
"""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch import PRESET, environment_of, wait_until
from fields import assert_same_bits, files_of, make_field, stored_maps

from musedeep.store import CubeStore, Ledger

pytestmark = pytest.mark.cluster

CLUSTER = Path(__file__).parents[2] / "cluster"
JOBS = 3
# Blocks that a worker has: one at work, and one that may be done and not yet recorded.
IN_FLIGHT = 2


def records(run):
    ledger = Ledger(run.field.folder / "cube.ledger")
    return [record for record in ledger.read().values() if record.get("key")]


def wait_for_blocks(run, slurm, count, jobs=1):
    """Until so many blocks were begun and so many jobs run, or the run is over."""
    wait_until(
        lambda: (len(run.computed()) >= count and len(slurm.jobs()) >= jobs) or not run.going_on(), 120
    )


def assert_all_is_well(run, maps, most_redone):
    """The same bits as ever, every block recorded once, and no more blocks redone than were at work."""
    assert run.process.returncode == 0, run.error
    assert_same_bits(stored_maps(run.field), maps)
    lines = [line for line in (run.field.folder / "cube.ledger").read_text().splitlines() if line]
    assert len(lines) == len(records(run))
    computed = run.computed()
    assert len(computed) - len(set(computed)) <= most_redone
    blocks = CubeStore(run.field.cube_path)
    assert len(set(computed)) >= len(blocks.stored_blocks()) > 3 * JOBS


def test_the_whole_pipeline_on_three_jobs(slurm, start_run, four_maps):
    run = start_run(jobs=JOBS, block_seconds=2.0)
    works = []
    wait_until(
        lambda: works.append(run.work()) or (works[-1].get("label") == "combine" and works[-1]["total"]), 120
    )
    assert len(slurm.jobs()) == JOBS
    work = works[-1]
    assert len(work["workers"]) == JOBS and all(50e6 < worker["memory"] < 1.5e9 for worker in work["workers"])
    assert work["total"] > work["done"] >= 0 and re.match(r"http://127\.0\.0\.1:\d+", work["dashboard"])
    second = start_run(jobs=JOBS)
    assert second.end(60) == 2
    assert "another run works on this field: process" in second.error
    assert run.end() == 0, run.error
    assert_all_is_well(run, four_maps, 0)
    slurm.wait_for_end()
    page = (run.field.folder / "performance.html").read_text()
    assert "<script" in page and "_combine_one" in page
    assert not list(run.field.folder.glob(".cluster-*"))
    assert not run.work()


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_that_die_at_any_moment(slurm, start_run, four_maps, seed):
    """By scancel, by SIGKILL of the job, and by SIGKILL of the process that computes."""
    chance = random.Random(seed)
    run = start_run(jobs=JOBS, block_seconds=1.0)
    wait_until(lambda: slurm.jobs() and (run.field.folder / "log").exists(), 60)
    killed = 0
    for way in chance.sample(["cancel", "kill", "worker"], 3):
        wait_for_blocks(run, slurm, len(run.computed()) + chance.randint(1, 4))
        jobs = slurm.jobs()
        if not run.going_on() or not jobs:
            break
        job = chance.choice(jobs)
        killed += 1
        if way == "worker":
            slurm.kill_worker(job)
        else:
            slurm.cancel(job, *(["--signal=KILL", "--full"] if way == "kill" else []))
    assert run.end() == 0, run.error
    assert killed >= 2
    assert_all_is_well(run, four_maps, IN_FLIGHT * killed)


def test_all_workers_at_once(slurm, start_run, four_maps):
    run = start_run(jobs=JOBS, block_seconds=1.0)
    for count in (2, 8):
        wait_for_blocks(run, slurm, count, JOBS)
        for job in slurm.jobs():
            slurm.cancel(job, "--signal=KILL", "--full")
    assert run.end() == 0, run.error
    assert_all_is_well(run, four_maps, 2 * IN_FLIGHT * JOBS)


def test_jobs_killed_in_their_first_moment(slurm, start_run, four_maps):
    """Before the first line of their scripts, some of them."""
    run = start_run(jobs=JOBS)
    killed = set()
    while run.going_on() and len(killed) < JOBS:
        for job in set(slurm.jobs()) - killed:
            slurm.cancel(job, "--signal=KILL", "--full")
            killed.add(job)
    assert run.end() == 0, run.error
    assert len(killed) == JOBS
    assert_all_is_well(run, four_maps, 0)


def test_a_job_that_never_becomes_a_worker_is_replaced(slurm, start_run, four_maps, tmp_path, monkeypatch):
    """As on a node that is broken: dask would wait for its worker for ever."""
    monkeypatch.setenv("FIRST_JOB_DIES", str(tmp_path / "died"))
    run = start_run(jobs=1)
    assert run.end() == 0, run.error
    assert (tmp_path / "died").exists() and "has no worker: it is replaced" in run.field.log_path.read_text()
    assert_all_is_well(run, four_maps, 0)


def test_jobs_cancelled_while_they_wait_are_replaced(slurm, start_run, four_maps):
    """As by a user or an administrator; the batch system tells nobody."""
    sleepers = [slurm.submit("sleep 600") for _ in range(JOBS)]
    wait_until(lambda: slurm.jobs() == sorted(sleepers))
    run = start_run(jobs=JOBS)
    wait_until(lambda: len(slurm.jobs("PD")) == JOBS or not run.going_on())
    for job in slurm.jobs("PD") + sleepers:
        slurm.cancel(job)
    assert run.end() == 0, run.error
    assert "has left the queue and never began: it is replaced" in run.field.log_path.read_text()
    assert_all_is_well(run, four_maps, 0)


def test_a_controlling_process_that_is_killed_and_started_again(slurm, start_run, four_maps):
    run = start_run(jobs=JOBS, block_seconds=1.0)
    wait_until(lambda: len(records(run)) > 4, 120)
    run.process.send_signal(signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    # nobody tells the workers; they notice
    slurm.wait_for_end()
    kept = len(records(run))
    again = start_run(jobs=JOBS)
    assert again.end() == 0, again.error
    assert kept >= 4
    assert_all_is_well(again, four_maps, IN_FLIGHT * JOBS)
    assert not list(run.field.folder.glob(".cluster-*"))


def test_a_controlling_process_that_is_told_to_end(slurm, start_run):
    """As a batch system does at the walltime: the jobs go with it, and the exit code says it is not done."""
    run = start_run(jobs=JOBS, block_seconds=1.0)
    wait_until(lambda: len(records(run)) > 1, 120)
    run.process.send_signal(signal.SIGTERM)
    assert run.end(60) == 143, run.error
    assert "stopped; what is finished is kept" in run.error and "Traceback" not in run.error
    slurm.wait_for_end()


@pytest.mark.slow
def test_walltimes_shorter_than_the_work(slurm, start_run, four_maps, tmp_path):
    """A minute for each job, and work for several. Slurm ends jobs that did not leave by themselves."""
    preset = tmp_path / "short.yaml"
    preset.write_text(
        "kind: slurm\ncores: 1\nmemory: 1500MB\nminimum_jobs: 3\nmaximum_jobs: 3\ninterface: lo\n"
        "walltime: '1m'\nlifetime: '35s'\nlifetime_stagger: '15s'\ndeath_timeout: '20s'\n"
    )
    run = start_run(preset=preset, block_seconds=9.0)
    assert run.end(540) == 0, run.error
    # every job that Slurm started may have had two
    jobs = len(list((run.field.folder / "workers").glob("*.err")))
    assert jobs > JOBS
    assert_all_is_well(run, four_maps, IN_FLIGHT * jobs)


def test_two_fields_at_once(slurm, start_run, four_maps):
    runs = [start_run(name=name, jobs=jobs) for name, jobs in (("one", 2), ("two", 1))]
    for run in runs:
        assert run.end() == 0, run.error
        assert_all_is_well(run, four_maps, 0)


def test_a_scheduler_that_dies_under_two_fields(slurm, scheduler, start_run, four_maps, tmp_path):
    """Two runs share a scheduler of its own and its workers; it is killed, started again, and they go on."""

    def start():
        scheduler.start(JOBS)
        return [start_run(name=name, preset=scheduler.preset) for name in ("one", "two")]

    runs = start()
    wait_until(lambda: all(len(records(run)) > 4 for run in runs), 120)
    scheduler.kill()
    for run in runs:
        assert run.end(60) == 5, run.error
        # before it dask may have told of its own futures
        assert re.search("^musedeep: error: (?s:.*)connection to the (dask )?scheduler", run.error, re.M)
    slurm.wait_for_end()
    assert all(len(records(run)) >= 4 for run in runs)
    runs = start()
    for run in runs:
        assert run.end() == 0, run.error
        assert_same_bits(stored_maps(run.field), four_maps)
    computed = (tmp_path / "workers.blocks").read_text().splitlines()
    assert len(computed) - sum(len(records(run)) for run in runs) <= IN_FLIGHT * JOBS


def test_more_jobs_are_asked_for_while_there_is_work(slurm, start_run, four_maps, tmp_path):
    preset = tmp_path / "adaptive.yaml"
    text = PRESET.format(jobs=1, walltime="00:20:00")
    preset.write_text(text.replace("maximum_jobs: 1", "maximum_jobs: 3"))
    run = start_run(preset=preset, block_seconds=3.0)
    seen = []
    wait_until(lambda: seen.append(len(slurm.jobs())) or seen[-1] == JOBS or not run.going_on(), 120)
    assert seen[-1] == JOBS and 1 in seen
    assert run.end() == 0, run.error
    assert_all_is_well(run, four_maps, IN_FLIGHT * JOBS)


def submit(script, words, environment, folder, *options):
    """Hand a script of the package to Slurm as a user would; the number of the job."""
    environment = environment | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}
    command = ["sbatch", "--parsable", *options, CLUSTER / script, *words]
    found = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return int(found.stdout)


def test_one_job_of_many_tasks(slurm, four, four_maps, tmp_path):
    """Without a process that controls others: the first task leads, the others work."""
    field = make_field(files_of(four), tmp_path / "field", offsets=four.settings.combine.offsets)
    preset = tmp_path / "tasks.yaml"
    preset.write_text("kind: tasks\nthreads: 1\nmemory: 1500MB\ninterface: lo\nlocal_directory: $TMPDIR\n")
    environment = environment_of(tmp_path, tmp_path / "blocks", 0.2)
    words = [field.folder, preset, "--memory", "1GB"]
    submit("tasks.sbatch", words, environment, tmp_path, "--ntasks=3", "--mem-per-cpu=1600M")
    slurm.wait_for_end()
    (told,) = tmp_path.glob("musedeep-*.out")
    assert_same_bits(stored_maps(field), four_maps)
    assert (field.products_dir / "DATACUBE_DEEP.fits").exists(), told.read_text()
    assert not list(field.folder.glob(".cluster-*"))


@pytest.mark.slow
def test_a_controlling_job_is_queued_again_until_all_is_done(slurm, four, four_maps, tmp_path):
    """It is a job itself and submits the others; before its walltime Slurm tells it to end."""
    field = make_field(files_of(four), tmp_path / "field", offsets=four.settings.combine.offsets)
    preset = tmp_path / "slurm.yaml"
    preset.write_text(PRESET.format(jobs=2, walltime="00:20:00"))
    blocks = tmp_path / "blocks"
    words = [field.folder, preset, "--memory", "1GB"]
    job = submit("control.sbatch", words, environment_of(tmp_path, blocks, 1.0), tmp_path, "--mem=1600M")
    wait_until(lambda: blocks.exists() and len(blocks.read_text().splitlines()) > 5, 120)
    slurm.cancel(job, "--signal=TERM", "--batch")
    wait_until(lambda: slurm.jobs("PD") == [job], 60)
    (told,) = tmp_path.glob("musedeep-*.out")
    assert "stopped; what is finished is kept" in told.read_text()
    slurm.wait_for_end(240)
    assert_same_bits(stored_maps(field), four_maps)
    assert (field.products_dir / "DATACUBE_DEEP.fits").exists(), told.read_text()
    computed = blocks.read_text().splitlines()
    assert len(computed) - len(set(computed)) <= IN_FLIGHT * 2


def test_a_preset_of_tasks_needs_a_launcher(start_run, tmp_path):
    preset = tmp_path / "tasks.yaml"
    preset.write_text("kind: tasks\nmemory: 1500MB\n")
    run = start_run(preset=preset)
    assert run.end(60) == 2 and "no launcher told this process its rank" in run.error


def test_jobs_that_cannot_be_submitted_are_named(slurm, start_run, tmp_path):
    preset = tmp_path / "wrong.yaml"
    preset.write_text("kind: slurm\nmemory: 1500MB\nqueue: nosuchqueue\ninterface: lo\n")
    run = start_run(preset=preset)
    assert run.end(60) == 2
    assert re.search("wrong.yaml: .*nosuchqueue|invalid partition", run.error), run.error
    assert "Traceback" not in run.error
