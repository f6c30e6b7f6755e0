from pathlib import Path

import pytest

from musedeep import UsageError
from musedeep.presets import read_preset, seconds_of

SHIPPED = sorted((Path(__file__).parents[1] / "cluster").glob("*.yaml"))
SMALLEST = "kind: slurm\nmemory: 2GB\n"


@pytest.fixture
def preset(tmp_path):
    def write(text):
        (tmp_path / "preset.yaml").write_text(text)
        return read_preset(tmp_path / "preset.yaml")

    return write


@pytest.mark.parametrize("path", [p for p in SHIPPED if p.stem != "scheduler"], ids=lambda path: path.stem)
def test_presets_that_come_with_the_package_are_right(path):
    preset = read_preset(path)
    assert preset.kind == path.stem
    assert preset.worker_bytes >= 4e9
    if "walltime" in preset.values:
        assert preset["lifetime"] + preset["lifetime_stagger"] < preset["walltime"]


def test_every_kind_has_a_preset():
    kinds = {"slurm", "pbs", "lsf", "sge", "htcondor", "local", "tasks", "scheduler"}
    assert {path.stem for path in SHIPPED} == kinds


def test_values_are_brought_to_their_units(preset):
    found = preset(
        "kind: slurm\ncores: 8\nprocesses: 2\nmemory: 20GB\nmaximum_jobs: 3\nwalltime: '1-00:00:00'\n"
        "directives: ['--qos=long', '--constraint=haswell|broadwell']\nlocal_directory: $TMPDIR/dask\n"
    )
    assert (found.threads, found.worker_bytes, found.most_threads) == (4, 10**10, 24)
    assert found["walltime"] == 86400
    assert found["directives"] == ("--qos=long", "--constraint=haswell|broadwell")
    assert found["lost_worker_timeout"] == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("04:00:00", 14400), ("2-00:30:00", 174600), ("30:00", 1800), ("90 m", 5400), ("3h 30m", 12600)],
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "4", "00:00", "4 x", "3h and 2m", "-3h"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError):
        seconds_of(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: slrum", "kind = 'slrum' is not allowed: give one of slurm, pbs"),
        ("kind: os.system", "kind = 'os.system' is not allowed"),
        ("- slurm", "kind = .* is not allowed"),
        ("", "kind = None is not allowed"),
        ("kind: [slurm", "not valid YAML"),
        ("kind: slurm", "memory is missing"),
        (SMALLEST + "coers: 2", "'coers' is not known for kind slurm; did you mean 'cores'"),
        (SMALLEST + "job_script_prologue: ['rm -rf /']", "'job_script_prologue' is not known"),
        (SMALLEST + "python: /bin/evil", "'python' is not known"),
        (SMALLEST + "cores: 0", "cores = 0 is not allowed: give a whole number from 1 on"),
        (SMALLEST + "cores: true", "cores = True is not allowed"),
        (SMALLEST + "cores: 3\nprocesses: 2", "cannot be shared evenly"),
        (SMALLEST + "minimum_jobs: 3\nmaximum_jobs: 2", "minimum_jobs = 3 is above"),
        (SMALLEST + "walltime: 4:00:00", "walltime = 14400 is not allowed: give a duration in quotes"),
        (
            SMALLEST + "walltime: '1h'\nlifetime: '55m'\nlifetime_stagger: '5m'",
            "must end before the walltime",
        ),
        (SMALLEST + "lifetime_stagger: '5m'", "lifetime_stagger must be below lifetime"),
        ("kind: local\nmemory: lots", "memory = 'lots' is not allowed: give a size"),
        ("kind: scheduler", "give either address or scheduler_file"),
        ("kind: scheduler\naddress: http://host:80", "address = 'http://host:80' is not allowed"),
        ("kind: scheduler\naddress: tls://h:1\ntls_key: a", "belong together"),
    ],
)
def test_what_is_wrong_is_named(preset, text, words):
    with pytest.raises(UsageError, match=rf"preset.yaml: .*{words}"):
        preset(text)


@pytest.mark.parametrize(
    "line",
    [
        "queue: 'debug\n#SBATCH --wrap=evil'",
        "queue: '$(evil)'",
        "account: 'a; evil'",
        "interface: 'lo --preload evil.py'",
        "local_directory: '/tmp; evil'",
        "local_directory: '$(evil)'",
        "local_directory: '`evil`'",
        "local_directory: '${TMPDIR:=$(evil)}'",
        "numba_cache: '/tmp\nevil'",
        "directives: ['--qos=long\nevil']",
        'directives: ["--qos=long\\n evil"]',
        "directives: ['--qos=long --wrap=evil']",
        "directives: ['--wrap=evil']",
        "directives: ['--task-prolog=evil']",
        "directives: ['--qos=$(evil)']",
        "directives: '--qos=long'",
        "lost_worker_timeout: !!python/object/apply:os.system ['evil']",
    ],
)
def test_nothing_that_could_run_is_taken(preset, line):
    with pytest.raises(UsageError, match="not allowed|not valid YAML"):
        preset(SMALLEST + line)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("pbs", "-S /bin/evil"),
        ("lsf", "-E evil"),
        ("lsf", "-R select[avx2] -E evil"),
        ("sge", "-S /bin/evil"),
        ("htcondor", "executable = /bin/evil"),
    ],
)
def test_options_that_run_commands_are_refused_for_each_kind(preset, kind, line):
    with pytest.raises(UsageError, match="directive .* is not allowed"):
        preset(f"kind: {kind}\nmemory: 2GB\ndirectives: ['{line}']")


def test_a_key_that_others_may_read_is_refused(preset, tmp_path):
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("")
    text = (
        "kind: scheduler\naddress: tls://h:1\ntls_ca_file: cert.pem\ntls_cert: cert.pem\ntls_key: key.pem\n"
    )
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(UsageError, match="key.pem may be read by others"):
        preset(text)
    (tmp_path / "key.pem").chmod(0o600)
    assert preset(text)["tls_key"] == str(tmp_path / "key.pem")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot read the preset .*none.yaml: No such file"):
        read_preset(tmp_path / "none.yaml")
    (tmp_path / "large.yaml").write_text("# " + "x" * 200_000)
    with pytest.raises(UsageError, match="too large for a preset"):
        read_preset(tmp_path / "large.yaml")
