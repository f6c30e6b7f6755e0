import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from musedeep import MemoryLimitError, UsageError
from musedeep.clusters import _dask_jobqueue, _job_cluster, check_workers, connect, planned_threads
from musedeep.execute import run_tasks
from musedeep.presets import read_preset
from musedeep.submissions import Submissions

ROOT = Path(__file__).parents[1]


def square(item):
    return item * item


def threads_and_cache(_):
    return [os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR")]


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def client():
    with connect("processes", memory="1GB", workers=2) as client:
        yield client


def security_of(client):
    return client.cluster.security


def test_workers_with_too_little_memory_are_refused(client):
    check_workers(client, 10**9)
    with pytest.raises(MemoryLimitError, match="has a limit of 1.30 GB, but memory = 3.00 GB"):
        check_workers(client, 3 * 10**9)


def test_a_preset_with_too_little_memory_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "small.yaml").write_text("kind: slurm\nmemory: 2GB\nprocesses: 2\ncores: 2\n")
    with pytest.raises(
        MemoryLimitError, match="small.yaml gives 1.00 GB to each worker process, but memory = 4"
    ):
        with connect(tmp_path / "small.yaml", memory="4GB"):
            pass


def test_threads_need_no_client():
    with connect("threads") as client:
        assert client is None


def test_everything_speaks_tls_and_listens_on_this_machine_only(client):
    assert re.match(r"http://127\.0\.0\.1:\d+", client.dashboard_link)
    assert client.scheduler.address.startswith("tls://127.0.0.1:")
    workers = client.scheduler_info(n_workers=-1)["workers"]
    assert len(workers) == 2 and all(address.startswith("tls://127.0.0.1:") for address in workers)
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        for found in process.net_connections("tcp"):
            if found.status == psutil.CONN_LISTEN:
                assert found.laddr.ip in ("127.0.0.1", "::1"), (process.cmdline(), found.laddr)


def test_who_has_not_the_certificate_is_refused(client, tmp_path, monkeypatch):
    monkeypatch.setattr("musedeep.clusters._PATIENCE", "3s")
    address = client.scheduler.address
    subprocess.run([ROOT / "cluster" / "certificates.sh", tmp_path], check=True, capture_output=True)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    # without any, without encryption, and with one of somebody else's making
    foreign = f"tls_ca_file: cert.pem\ntls_cert: cert.pem\ntls_key: key.pem\naddress: {address}\n"
    (tmp_path / "foreign.yaml").write_text("kind: scheduler\n" + foreign)
    for cluster in (address, address.replace("tls://", "tcp://"), tmp_path / "foreign.yaml"):
        with pytest.raises(UsageError, match="no dask scheduler answers .* has this process its certificate"):
            with connect(cluster):
                pass
    assert dict(run_tasks(square, range(3), client=client)) == {n: n * n for n in range(3)}


def test_a_running_scheduler_is_used_and_left_running(client, tmp_path):
    security = security_of(client)
    (tmp_path / "cert.pem").write_text(security.tls_ca_file)
    (tmp_path / "key.pem").touch(mode=0o600)
    (tmp_path / "key.pem").write_text(security.tls_client_key)
    # What `dask scheduler --scheduler-file` writes has more in it, but only this is needed.
    (tmp_path / "scheduler.json").write_text(json.dumps({"address": client.scheduler.address}))
    tls = "tls_ca_file: cert.pem\ntls_cert: cert.pem\ntls_key: key.pem\n"
    for where in (f"address: {client.scheduler.address}", "scheduler_file: scheduler.json"):
        (tmp_path / "scheduler.yaml").write_text(f"kind: scheduler\n{where}\n{tls}")
        with connect(tmp_path / "scheduler.yaml", memory="1GB") as other:
            assert dict(run_tasks(square, range(4), client=other)) == {n: n * n for n in range(4)}
            wait_until(lambda: len(other.nthreads()) == 2)
    assert len(client.nthreads()) == 2


def test_workers_of_a_local_preset(tmp_path):
    (tmp_path / "local.yaml").write_text(
        f"kind: local\nworkers: 1\nthreads: 2\nmemory: 1GB\nnumba_cache: {tmp_path}/cache\n"
        f"local_directory: {tmp_path}/scratch\n"
    )
    before = dict(os.environ)
    with connect(tmp_path / "local.yaml", memory="1GB") as client:
        assert client.nthreads() and set(client.nthreads().values()) == {2}
        assert planned_threads(client) == 2
        ((_, found),) = run_tasks(threads_and_cache, [0], client=client)
        assert found == ["1", "1", f"{tmp_path}/cache"]
        assert list((tmp_path / "scratch").iterdir())
    assert dict(os.environ) == before


@pytest.mark.parametrize("kind", ["slrum", "", "localhost:8786"])
def test_an_unknown_cluster_is_refused(kind):
    with pytest.raises(UsageError, match=f"cluster = {kind!r} is not allowed: give 'threads', 'processes'"):
        with connect(kind):
            pass


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="there is no scheduler file .*missing.json"):
        with connect(tmp_path / "missing.json"):
            pass
    monkeypatch.setattr("musedeep.clusters._PATIENCE", "1s")
    with pytest.raises(UsageError, match="no dask scheduler answers at tcp://127.0.0.1:9 "):
        with connect("tcp://127.0.0.1:9"):
            pass


# ------------------------------------------------------------------------------------- scripts of jobs


SCRIPTS = {
    "slurm": ["#SBATCH --cpus-per-task=4", "#SBATCH --mem=17G", "#SBATCH -t 04:00:00", "#SBATCH -p fast"],
    "pbs": ["#PBS -q fast", "#PBS -l walltime=04:00:00", "#PBS -V"],
    "lsf": ["#BSUB -q fast", "#BSUB -n 4", "#BSUB -W 04:00"],
    "sge": ["#$ -q fast", "#$ -l h_rt=04:00:00", "#$ -l h_vmem=5G", "#$ -pe smp 4"],
    "htcondor": ["MY.DaskWorkerCores = 4", "getenv = True"],
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_scripts_of_jobs(kind, tmp_path, monkeypatch):
    """Every worker is asked for as the preset says, with its certificate, and with one thread a library."""
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
    monkeypatch.setenv("LSF_UNIT_FOR_LIMITS", "MB")
    monkeypatch.setattr(_dask_jobqueue().lsf, "lsf_detect_units", lambda: "mb")
    text = (ROOT / "cluster" / f"{kind}.yaml").read_text()
    (tmp_path / "preset.yaml").write_text(text.replace("# queue: ", "queue: fast #"))
    (tmp_path / "secrets").mkdir()
    with _job_cluster(
        read_preset(tmp_path / "preset.yaml"),
        tmp_path / "logs",
        tmp_path / "secrets",
        Submissions(tmp_path / "secrets", 120.0),
    ) as made:
        script = made.job_script()
        assert f": > {tmp_path / 'secrets' / 'job'}" in script
        for words in SCRIPTS[kind]:
            assert words in script
        lifetime = "39600s" if kind == "htcondor" else "12000s"
        for words in (f"--lifetime {lifetime}", "--dashboard-address 127.0.0.1:0", "--protocol tls://"):
            assert words in script
        assert "export OMP_NUM_THREADS=1" in script and "WORKER__MEMORY__SPILL=False" in script
        if kind != "htcondor":
            assert "--local-directory ${TMPDIR:-/tmp}" in script
        assert made.scheduler_address.startswith("tls://")
        keys = list((tmp_path / "secrets").iterdir())
        assert keys and all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)
        assert "BEGIN" not in script


def test_a_batch_system_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="sge.yaml: qsub is not found on this machine"):
        with connect(ROOT / "cluster" / "sge.yaml"):
            pass


def test_a_field_from_somebody_else_names_no_scheduler(four, tmp_path):
    """A scheduler can run code on its clients, so a field.toml must not lead to one."""
    from fields import files_of, make_field

    from musedeep import open_field

    field = make_field(files_of(four), tmp_path / "f", cluster="tls://127.0.0.1:9")
    assert field.settings.run.cluster == "tls://127.0.0.1:9"
    assert open_field(tmp_path / "f").settings.run.cluster == "threads"
    text = field.toml.read_text()
    for cluster in ("tcp://evil.example.org:8786", "preset.yaml", "scheduler.json"):
        field.toml.write_text(text.replace('cluster = "threads"', f'cluster = "{cluster}"'))
        with pytest.raises(UsageError, match="field.toml: cluster = .* is not allowed: give 'threads' or"):
            open_field(tmp_path / "f")


def test_a_plan_counts_the_threads_of_a_preset(client):
    from musedeep.plan import parallel_of, threads_of
    from musedeep.settings import RunSettings

    run = RunSettings(cluster=str(ROOT / "cluster" / "slurm.yaml"))
    assert threads_of(run) == 4
    assert parallel_of(run) == 2 * 4 * 20
    assert planned_threads(client) == 2
    assert parallel_of(run, client) == 4
