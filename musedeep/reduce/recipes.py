"""Run ESO's recipes: one process in a folder of its own, watched, and judged by all that it left behind."""

import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from astropy.io import fits

from musedeep.errors import UsageError

__all__ = ["RecipeRun", "check_fits", "find_engine", "run_recipe", "stop_recipes", "stopping"]

_RECIPES = ("muse_scibasic", "muse_create_sky", "muse_scipost")
_SKY_FAILED = re.compile(r"sky (?:line )?fit failed with error code (\d+)", re.IGNORECASE)
_PATIENCE = 5.0
_LOG = "recipe.log"
_BLOCK = 2880
_running = set()
_lock = threading.Lock()
_stopped = threading.Event()
# Becomes the program that is named behind it, which then ends with the process that waits for it: a recipe in
# a session of its own would outlive a worker that is killed. The first word tells whose child it is, lest
# that one was gone before it could be asked.
_BOUND = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
if hasattr(libc, "prctl"):
    libc.prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class RecipeRun:
    """What came of a recipe.

    Attributes
    ----------
    recipe : str
    folder : Path
    status : int
        Exit status; negative for the signal that ended it.
    seconds : float
        Wall time.
    timed_out : bool
    products : list of Path
        Complete FITS files that it wrote.
    problems : list of str
        Why its result cannot be used; empty when it can.
    errors, warnings : list of str
        Lines of its log.
    sky_fit_failed : bool
        The log tells of a fit of the sky lines that failed.
    """

    recipe: str
    folder: Path
    status: int
    seconds: float
    timed_out: bool
    products: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    sky_fit_failed: bool = False

    @property
    def worth_another_try(self):
        """Whether it ended by a signal or hung: what comes to a bad end by itself does so again."""
        return self.timed_out or self.status < 0


@lru_cache(maxsize=8)
def find_engine(esorex=""):
    """Find esorex and the recipes, and their versions.

    Parameters
    ----------
    esorex : str, optional
        The command; that on the PATH by default.

    Returns
    -------
    dict
        ``command``, and the versions of ``esorex``, ``cpl`` and ``pipeline``.

    Raises
    ------
    UsageError
        esorex or one of the recipes is not installed.
    """
    command = shutil.which(esorex or "esorex")
    if command is None:
        raise UsageError(
            f"{esorex or 'esorex'} is not found; install esorex with ESO's MUSE recipes, name it with "
            "esorex = ..., or do without it: backend = native, or auto"
        )
    # esorex leaves a log wherever it is asked something
    with tempfile.TemporaryDirectory() as folder:
        told = _ask(folder, command, "--version")
        recipes = _ask(folder, command, "--recipes")
        absent = [name for name in _RECIPES if name not in recipes]
        if absent:
            raise UsageError(
                f"{command} does not know {', '.join(absent)}; install ESO's MUSE pipeline for it"
            )
        # the version of the pipeline is told by a recipe at work only: one without inputs ends at once
        (Path(folder) / "empty.sof").touch()
        words = "--log-dir=.", "--log-file=log", _RECIPES[0], "empty.sof"
        pipeline = re.search(r"Pipeline v([\w.+-]+)", _ask(folder, command, *words))
    versions = {
        "esorex": re.search(r"version ([\w.]+)", told),
        "cpl": re.search(r"CPL = ([\w.]+)", told),
        "pipeline": pipeline,
    }
    return {"command": command} | {name: found[1] if found else "unknown" for name, found in versions.items()}


def _ask(folder, *words):
    options = {"capture_output": True, "text": True, "errors": "replace", "timeout": 60, "check": False}
    try:
        done = subprocess.run(words, cwd=folder, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{words[0]} cannot be run ({error}); is it esorex?") from error
    return done.stdout + done.stderr


def run_recipe(recipe, frames, parameters, folder, expected, settings):
    """Run a recipe once.

    Parameters
    ----------
    recipe : str
    frames : list of (Path, str, str)
        Files with their tags, and the names under which the headers of the products will quote them.
    parameters : dict of str to value
        Options of the recipe.
    folder : Path
        Emptied, and left with the products, the log and the list of frames.
    expected : dict of str to int
        How many products of each name (up to the first digit) it has to leave.
    settings : ReductionSettings

    Returns
    -------
    RecipeRun
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inputs").mkdir(parents=True)
    sof = folder / "frames.sof"
    for path, _, name in frames:
        (folder / "inputs" / name).symlink_to(path)
    sof.write_text("".join(f"inputs/{name} {tag}\n" for _, tag, name in frames))
    words = [
        find_engine(settings.esorex)["command"],
        "--no-checksum=true",
        "--log-dir=.",
        f"--log-file={_LOG}",
    ]
    words += ["--output-dir=.", recipe, *(f"--{name}={_word(value)}" for name, value in parameters.items())]
    began = time.monotonic()
    status, timed_out = _watch([*words, sof.name], folder, settings)
    seconds = time.monotonic() - began
    log = _text(folder / _LOG) + _text(folder / "output")
    products, problems = [], []
    for path in sorted(folder.glob("*.fits")):
        fault = check_fits(path)
        problems += [f"{path.name} is not complete: {fault}"] if fault else []
        products += [] if fault else [path]
    errors = _lines(log, "ERROR")
    if timed_out:
        problems.insert(0, f"{recipe} took longer than {settings.timeout_minutes:g} min and was stopped")
    elif status < 0:
        problems.insert(0, f"{recipe} was ended by {_signal(status)}")
    elif status:
        problems.insert(0, f"{recipe} ended with exit status {status}{': ' + errors[0] if errors else ''}")
    for name, count in expected.items():
        found = sum(re.match(rf"{name}[_-]?\d*[-.]", path.name) is not None for path in products)
        if found < count:
            problems.append(f"{recipe} left {found} {name}, not {count}")
    return RecipeRun(
        recipe, folder, status, seconds, timed_out, products, problems, errors, _lines(log, "WARNING"),
        sky_fit_failed=_SKY_FAILED.search(log) is not None,
    )  # fmt: skip


def _word(value):
    return str(value).lower() if isinstance(value, bool) else value


def _watch(words, folder, settings):
    """Run a process until it ends or its time is up; exit status, and whether it was stopped."""
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    bound = [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid())]
    # in a session of its own, so that all of it can be ended
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [*bound, *words], cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,
        )  # fmt: skip
    with _lock:
        _running.add(process)
    try:
        # stopped while this one was being prepared
        if stopping():
            _end(process)
        limit = settings.recipe_bytes
        # a process that has ended meanwhile needs no limit
        if process.poll() is None:
            try:
                resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
            except (ProcessLookupError, PermissionError, ValueError):
                pass
        try:
            return process.wait(settings.timeout_minutes * 60), False
        except subprocess.TimeoutExpired:
            _end(process)
            return process.returncode, True
    finally:
        _end(process)
        with _lock:
            _running.discard(process)


def _end(process):
    """End a process and all that it started: politely, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
            process.wait(_PATIENCE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def stop_recipes():
    """End all recipes that this process runs, and let none be tried again until `stopping` is told so."""
    _stopped.set()
    with _lock:
        running = list(_running)
    for process in running:
        _end(process)


def stopping(go_on=None):
    """Whether recipes were stopped; `go_on=True` lets them be run again."""
    if go_on:
        _stopped.clear()
    return _stopped.is_set()


def check_fits(path):
    """What is wrong with a FITS file; empty if its headers can be read and all data they tell of are there.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str
    """
    size = path.stat().st_size
    if size == 0 or size % _BLOCK:
        return f"its size is {size} bytes, which is no multiple of {_BLOCK}"
    end = 0
    try:
        with path.open("rb") as file:
            while end < size:
                file.seek(end)
                header = fits.Header.fromfile(file)
                axes = [header[f"NAXIS{n}"] for n in range(1, header["NAXIS"] + 1)]
                count = header.get("GCOUNT", 1) * (header.get("PCOUNT", 0) + math.prod(axes)) if axes else 0
                end = file.tell() + -(-abs(header["BITPIX"]) // 8 * count // _BLOCK) * _BLOCK
    except (OSError, ValueError, KeyError, EOFError) as error:
        return f"the header at byte {end} cannot be read ({error})"
    return "" if size >= end else f"it has {size} bytes of {end}"


def _text(path):
    return path.read_text(errors="replace") if path.exists() else ""


def _lines(log, level):
    """Messages of a level, each once, without its time."""
    found = re.findall(rf"\[\s*{level}\s*\]\s*(?:esorex: |muse_\w+: )?(?:\[tid=\d+\]\s*)?(.+)", log)
    return list(dict.fromkeys(line.strip() for line in found if "cpl/plugins" not in line))


def _signal(status):
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
