import json
import os
import signal
import subprocess
import sys
import time

import pytest

from musedeep import __version__
from musedeep.cli import _main
from musedeep.field import open_field
from musedeep.settings import setting_fields
from musedeep.simulate import simulate_exposures


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    return simulate_exposures(
        folder, exposures=3, field_arcsec=5, wavelength=(6500, 6520), stars=1, galaxies=0, fov_images=False
    )


@pytest.fixture
def musedeep(capsys, tmp_path, monkeypatch):
    """Runs a command line in an empty folder; its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = _main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def test_handlers_of_signals_are_given_back(musedeep):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert musedeep("info", "nothing")[0] != 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_version_and_help_come_at_once():
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "musedeep", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"musedeep {__version__}\n"
    # Three times what is promised: the machine that tests may be busy.
    assert time.monotonic() - began < 1.5


def test_no_thread_waits_for_matrices():
    script = (
        "import os; from musedeep.cli import _main; _main(['--version']); import numpy; "
        "print(len(os.listdir('/proc/self/task')))"
    )
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    words = [sys.executable, "-c", script]
    run = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == "1"


@pytest.mark.parametrize("command", ["init", "run", "align"])
def test_every_setting_is_an_option(musedeep, command):
    code, text, _ = musedeep(command, "--help")
    assert code == 0
    words = text.split()
    for section, item in setting_fields():
        if (section == "align") != (command == "align"):
            continue
        assert any(f"--{item.name.replace('_', '-')}" == word.strip(",") for word in words), item.name
        assert f"[{section}]:" in text


@pytest.mark.parametrize(
    ("command", "has", "has_not"),
    [
        ("ingest", "--memory", "--pixfrac"),
        ("combine", "--pixfrac", "--filter-list"),
        ("products", "--filter-list", "--pixfrac"),
        ("align", "--rsearch", "--pixfrac"),
        ("plan", "--pixfrac", "--filter-list"),
    ],
)
def test_a_stage_has_its_own_settings(musedeep, command, has, has_not):
    text = musedeep(command, "--help")[1].split()
    assert has in text and has_not not in text


def test_init_writes_the_options_into_field_toml(musedeep, tables, tmp_path):
    options = (
        "--pixfrac 0.8,0.7 --nclip 3 --log --reject eso --keep-dq telluric_corrected --memory 2GB".split()
    )
    mask = "ifu = [6], wavelength = [6505, 6506]"
    code, text, error = musedeep("init", *tables, "-o", "f", *options, "--mask", mask, "--rotation", "12.5")
    assert (code, error) == (0, "")
    assert text.startswith("f/field.toml: 3 exposures, 0.75 h, ")
    assert text.endswith("Next: musedeep run f\n")
    settings = open_field(tmp_path / "f").settings
    assert settings.combine.pixfrac == (0.8, 0.8, 0.7)
    assert settings.combine.nclip == (3.0, 3.0)
    assert settings.combine.reject == "eso"
    assert settings.combine.keep_dq == ("telluric_corrected",)
    assert settings.grid.log is True and settings.grid.rotation == 12.5
    assert settings.masks[0].ifu == (6,)


def test_init_takes_a_pattern_and_relative_files_of_settings(musedeep, tables, tmp_path):
    code, _, _ = musedeep(
        "init", tables[0].parent / "PIXTABLE*.fits", "-o", "f/field.toml", "--output-wcs", "c.fits"
    )
    assert code == 0
    field = open_field("f")
    assert len(field.exposures) == 3
    assert field.settings.grid.grid == str(tmp_path / "c.fits")


def test_init_adds_exposures(musedeep, tables):
    assert musedeep("init", tables[0], "-o", "f", "--pixfrac", "0.9")[0] == 0
    assert musedeep("init", *tables, "-o", "f", "--add")[0] == 0
    field = open_field("f")
    assert len(field.exposures) == 3 and field.settings.combine.pixfrac[0] == 0.9
    code, _, error = musedeep("init", *tables, "-o", "f", "--add", "--pixfrac", "0.5")
    assert code == 2 and "--add only adds exposures" in error


def test_init_replaces_another_field_when_asked(musedeep, tables):
    musedeep("init", *tables, "-o", "f")
    code, _, error = musedeep("init", *tables, "-o", "f", "--pixfrac", "0.9")
    assert code == 2 and "exists and says something else" in error
    assert musedeep("init", *tables, "-o", "f", "--pixfrac", "0.9", "--overwrite")[0] == 0
    assert open_field("f").settings.combine.pixfrac[0] == 0.9


def test_info(musedeep, tables):
    musedeep("init", *tables, "-o", "f")
    code, text, _ = musedeep("info", "f")
    assert code == 0
    for exposure in open_field("f").exposures:
        assert exposure.date_obs in text
    data = json.loads(musedeep("info", "f", "--json")[1])
    assert [row["DATE_OBS"] for row in data["exposures"]] == open_field("f").exposures.dates
    assert data["settings"]["combine"]["reject"] == "guarded"


def test_run_of_pixel_tables_makes_everything_and_then_has_nothing_to_do(musedeep, tables, tmp_path):
    words = ["run", *tables, "-o", "f", "--memory", "1GB", "--pixfrac", "0.8"]
    code, text, error = musedeep(*words)
    assert code == 0
    assert "products/DATACUBE_DEEP.fits" in text and (tmp_path / "f/products/DATACUBE_DEEP.fits").exists()
    assert "ingest: 3 of 3 parts in " in error
    assert "peak memory" in text and "predicted" in text
    assert open_field("f").settings.combine.pixfrac[0] == 0.8
    code, text, error = musedeep(*words)
    assert code == 0
    assert "ingest: nothing to do" in error and "combine: nothing to do" in error
    # Other resources do not make another field.
    assert musedeep(*words, "--memory", "2GB")[0] == 0
    assert musedeep("run", "f", "--quiet")[2] == ""


def test_stages_one_by_one(musedeep, tables):
    musedeep("init", *tables, "-o", "f", "--memory", "1GB")
    code, text, _ = musedeep("plan", "f")
    assert code == 0
    assert (
        text.startswith("align: 3 tasks, ")
        and "ingest: 3 tasks, " in text
        and "combine: can be planned when" in text
    )
    assert musedeep("status", "f", "--json")[0] == 0
    code, _, error = musedeep("products", "f")
    assert code == 4 and "is not finished: 0 of its blocks are done with these settings" in error
    assert musedeep("ingest", "f", "--quiet")[0] == 0
    plans = json.loads(musedeep("plan", "f", "--json")[1])["plans"]
    assert [plan["stage"] for plan in plans] == ["align", "ingest", "combine"]
    assert json.loads(musedeep("combine", "f", "--dry-run", "--json")[1])["plans"][0]["stage"] == "combine"
    state = json.loads(musedeep("status", "f", "--json")[1])
    assert state["stages"]["ingest"]["done"] == state["stages"]["ingest"]["total"] == 3
    assert state["stages"]["combine"]["done"] == 0 and state["running"] is None
    report = json.loads(musedeep("combine", "f", "--quiet", "--json")[1])
    assert report["stages"][0]["facts"]["rows_used"] > 0
    assert musedeep("products", "f", "--quiet")[0] == 0
    text = musedeep("status", "f")[1]
    assert (
        "ingest    3 of 3 exposures" in text
        and "offsets are not measured yet" in text
        and "no run is going on" in text
    )


def test_options_of_a_stage_hold_for_it_alone(musedeep, tables):
    musedeep("run", *tables, "-o", "f", "--memory", "1GB", "--assess", "off", "--quiet")
    before = open_field("f").toml.read_text()
    report = json.loads(musedeep("combine", "f", "--quiet", "--json", "--select", "half:A")[1])
    assert report["stages"][0]["facts"]["computed"] > 0
    assert open_field("f").toml.read_text() == before
    code, _, error = musedeep("products", "f", "--quiet")
    assert code == 4 and "is not finished" in error


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["init", "missing_*.fits", "-o", "f"], 4, "no file matches 'missing_*.fits'"),
        (
            ["init", "TABLE", "-o", "f", "--pixfrac", "big"],
            2,
            "pixfrac = 'big' is not allowed: give a number",
        ),
        (["init", "TABLE", "-o", "f", "--pixfrac", "-1"], 2, "pixfrac = -1.0 is not allowed"),
        (["init", "TABLE", "-o", "f", "--mask", "ifu = "], 2, "--mask 'ifu = '"),
        (["init", "TABLE", "-o", "f", "--mask", "ifus = [3]"], 2, "did you mean 'ifu'?"),
        (["init", "TABLE", "-o", "f", "--memory", "4"], 2, "memory = '4' is not allowed"),
        (["init", "TABLE"], 2, "Missing option '-o'"),
        (["run", "TABLE", "TABLE"], 2, "give one field, or pixel tables and -o"),
        (["run", "TABLE"], 2, "give one field, or pixel tables and -o"),
        (["run", "TABLE", "-o", "f", "--memory", "50MB"], 3, "Grant more memory"),
        (["run", "TABLE", "-o", "f", "--memory", "50MB", "--dry-run"], 3, "memory"),
        (["run", "TABLE", "-o", "f", "--cluster", "slurm"], 2, "cluster = 'slurm' is not allowed"),
        (["run", "nowhere"], 2, "nowhere/field.toml; make one with `musedeep init"),
        (["status", "nowhere"], 2, "make one with `musedeep init"),
        (["combine", "nowhere", "--pixfrak", "1"], 2, "No such option"),
        (["simulate", "s", "--layout", "cube"], 2, "layout"),
        (["simulate", "s", "--exposures", "0"], 2, "exposures = 0 is not allowed"),
        (["cook"], 2, "No such command 'cook'"),
    ],
)
def test_errors_are_one_message_and_an_exit_code(musedeep, tables, words, code, text):
    words = [tables[0] if word == "TABLE" else word for word in words]
    found, _, error = musedeep(*words)
    assert found == code
    assert text in error
    assert "Traceback" not in error


def test_a_failing_disk_is_an_error_not_a_traceback(musedeep, tables, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("musedeep.field.open_field", fail)
    assert musedeep("info", "f") == (5, "", "musedeep: error: [Errno 28] No space left on device\n")


def test_simulate_writes_what_run_reads(musedeep, tmp_path):
    words = "simulate s --exposures 2 --field-arcsec 5 --wavelength 6500,6510 --position-angles 0,37".split()
    code, text, _ = musedeep(*words, "--seeing-fwhm", "0.7", "--no-shuffle-rows")
    assert code == 0
    assert text.splitlines()[-1] == "Next: musedeep run s/PIXTABLE_REDUCED_*.fits -o s/field"
    truth = json.loads((tmp_path / "s" / "truth.json").read_text())
    assert len(truth["exposures"]) == 2
    assert musedeep("run", "s/PIXTABLE_REDUCED_*.fits", "-o", "s/field", "--memory", "1GB", "--quiet")[0] == 0


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_how_to_go_on(tables, tmp_path, signal_number, code):
    script = (
        "import sys, time, musedeep.ingest\n"
        "def slow(field, **_):\n    print('began', flush=True)\n    time.sleep(60)\n"
        "musedeep.ingest.ingest_exposures = slow\n"
        "from musedeep.cli import main\n"
        f"main(['run', {str(tables[0])!r}, '-o', 'f', '--memory', '1GB', '--quiet'])\n"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as run:  # fmt: skip
        assert run.stdout.readline() == "began\n"
        run.send_signal(signal_number)
        error = run.stderr.read()
    assert run.returncode == code
    assert error.strip() == (
        "musedeep: error: stopped; what is finished is kept, run the same command again to go on"
    )
    assert not (tmp_path / "f" / "run.lock").exists()
    assert "stopped: " in (tmp_path / "f" / "log").read_text()


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost(tables, tmp_path, name, code):
    """Python only prints what is raised there; distributed has such a callback."""
    script = (
        "import gc, os, signal, musedeep.execute as execute\n"
        "def hit(*_):\n"
        "    gc.callbacks.clear()\n"
        f"    os.kill(os.getpid(), signal.{name})\n"
        "tell = execute.Progress.start\n"
        "def start(self, total=None):\n"
        "    tell(self, total)\n"
        "    gc.callbacks.append(hit)\n"
        "    gc.collect()\n"
        "execute.Progress.start = start\n"
        "from musedeep.cli import main\n"
        f"main(['ingest', 'f', '--quiet'])\n"
    )
    words = [sys.executable, "-m", "musedeep", "init", str(tables[0]), "-o", "f", "--memory", "1GB"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True)
    assert "Exception ignored" in run.stderr and "stopped; what is finished is kept" in run.stderr
    assert run.returncode == code
    assert not (tmp_path / "f" / "run.lock").exists()


def test_the_kernel_cache_moves_where_nothing_else_may_be_written(monkeypatch):
    from musedeep.cli import _choose_kernel_cache

    monkeypatch.setenv("NUMBA_CACHE_DIR", "x")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    _choose_kernel_cache()
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setattr(os, "access", lambda *_: False)
    _choose_kernel_cache()
    assert f"musedeep-{os.getuid()}" in os.environ["NUMBA_CACHE_DIR"]


def test_demo(musedeep, tmp_path):
    began = time.monotonic()
    code, text, _ = musedeep("demo", "--quiet")
    assert code == 0
    # Under two minutes on two quiet cores; twice that where tests share them.
    assert time.monotonic() - began < 240
    assert "noise of the sky over its predicted sigma" in text
    assert (tmp_path / "demo" / "products" / "DATACUBE_DEEP.fits").exists()
    picture = tmp_path / text.split("Look at it:")[1].split()[0]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "musedeep run demo --reject eso" in text


def test_demo_for_machines(musedeep, monkeypatch, tmp_path):
    from musedeep import pipeline

    row = {"what": "flux", "found": "1", "wanted": "1", "good": "yes"}
    report = pipeline.RunReport("demo/field.toml", (), 1.0)
    result = pipeline.DemoReport(None, [row], tmp_path / "demo.png", report, 2.0)
    monkeypatch.setattr(pipeline, "run_demo", lambda folder, progress: result)
    code, text, _ = musedeep("demo", "--json")
    assert code == 0
    data = json.loads(text)
    assert data["rows"] == [row] and data["picture"].endswith("demo.png") and data["run"]["seconds"] == 1.0
