"""What the benchmarks share: measured processes, simulated exposures, the machine, and the report.

Importing it needs the standard library only. A process begins its life with the peak memory of the one that
started it, so what is measured is started from here, before anything large is loaded.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = [
    "ROWS_PER_ARCSEC2_ANGSTROM",
    "STAGES",
    "Measured",
    "Report",
    "carry_out",
    "command_line",
    "machine",
    "measure",
    "megabytes",
    "musedeep",
    "offsets_of",
    "repeated",
    "row_count",
    "run_stages",
    "simulated",
    "start_up",
    "warm_up",
]

STAGES = ("ingest", "combine", "products")
# Rows that the instrument takes of a square arcsecond in an Angstrom: 25 spaxels, 0.8 planes.
ROWS_PER_ARCSEC2_ANGSTROM = 20.0

# Offsets of repeated exposures: of each date the row of the exposure that it is a copy of.
_OFFSETS = """
import json, sys
from astropy.table import Table
old, new, dates = Table.read(f"{sys.argv[1]}/OFFSET_LIST.fits"), sys.argv[2], json.loads(sys.argv[3])
table = old[list(dates.values())]
table["DATE_OBS"] = list(dates)
table.remove_column("MJD_OBS")
table.meta.clear()
table.write(f"{new}/OFFSET_LIST.fits", overwrite=True)
"""


@dataclass(frozen=True)
class Measured:
    """What a process and its children took.

    Attributes
    ----------
    cpu, seconds : float
        User and system time of all of them, and wall time.
    peak_bytes : int
        Peak resident memory of the largest of them.
    output : str
        What the process printed on standard output.
    """

    cpu: float
    seconds: float
    peak_bytes: int
    output: str


def measure(command, **environment):
    """Run a command to its end.

    Parameters
    ----------
    command : sequence of str or path
    **environment
        Variables to set.

    Returns
    -------
    Measured

    Raises
    ------
    RuntimeError
        It failed; the message holds the end of what it printed.
    """
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | environment,
        )
        with process.stdout:
            output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begun
        if process.returncode:
            errors.seek(0)
            words = f"{' '.join(process.args[:4])} ... ended with {process.returncode}"
            raise RuntimeError(f"{words}:\n{output[-2000:]}{errors.read()[-4000:]}")
    return Measured(usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss * 1024, output)


def musedeep(*words, **environment):
    """Run the command line of this interpreter's package; see `measure`."""
    return measure([sys.executable, "-m", "musedeep", *words], **environment)


def simulated(folder, exposures, rows, field_arcsec=24.0, **settings):
    """Files of simulated exposures, made unless they are there already.

    Parameters
    ----------
    folder : Path
    exposures : int
    rows : float
        Rows of an exposure, about; the wavelength range is chosen for it.
    field_arcsec : float
    **settings
        More of `musedeep.simulate_exposures`.

    Returns
    -------
    list of Path
        The pixel tables; ``OFFSET_LIST.fits`` lies beside them.
    """
    low = 6500.0
    width = rows / (ROWS_PER_ARCSEC2_ANGSTROM * field_arcsec**2)
    wanted = {
        "exposures": exposures,
        "field_arcsec": field_arcsec,
        "wavelength": [low, low + width],
        "seed": 5,
        "pointing_error_arcsec": 0.3,
        "flux_scale_error": [0.0, 0.02, -0.02],
        "fov_images": False,
    } | settings
    mark = folder / "benchmark.json"
    if not mark.exists() or json.loads(mark.read_text()) != wanted:
        mark.unlink(missing_ok=True)
        code = (
            "import json, sys, musedeep; musedeep.simulate_exposures(sys.argv[1], **json.loads(sys.argv[2]))"
        )
        measure([sys.executable, "-c", code, folder, json.dumps(wanted)])
        mark.write_text(json.dumps(wanted))
    return sorted(folder.glob("PIXTABLE_REDUCED_*.fits"))


def repeated(files, number, folder, first=0):
    """Many exposures from a few: copies with other values of DATE-OBS, those of one file behind each other.

    Parameters
    ----------
    files : list of Path
    number : int
        Of copies in all.
    folder : Path
        Its ``OFFSET_LIST.fits`` tells the offsets of the copies that this call made.
    first : int
        Number of copies that are there already, of other files.

    Returns
    -------
    list of Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    made, dates = [], {}
    for n in range(first, first + number):
        path = folder / f"PIXTABLE_REDUCED_{n + 1:04d}.fits"
        date = f"2015-01-{1 + n // 1440:02d}T{n // 60 % 24:02d}:{n % 60:02d}:00.000"
        made.append(path)
        origin = files[(n - first) * len(files) // number]
        dates[date] = files.index(origin)
        if not path.exists():
            raw = bytearray(origin.read_bytes())
            place = raw.index(b"'", raw.index(b"DATE-OBS=")) + 1
            raw[place : place + 23] = date.encode()
            path.write_bytes(raw)
    measure([sys.executable, "-c", _OFFSETS, files[0].parent, folder, json.dumps(dates)])
    return made


def offsets_of(files):
    """Words of a command that name the offset list beside simulated or repeated exposures."""
    return ["--offsets", files[0].parent / "OFFSET_LIST.fits"]


def row_count(files):
    """Rows of all pixel tables."""
    code = (
        "import sys; from musedeep.pixtable import open_pixel_table as o; "
        "print(sum(o(p).row_count for p in sys.argv[1:]))"
    )
    return int(measure([sys.executable, "-c", code, *files]).output)


def megabytes(memory):
    """A size such as 500MB or 1GB in MB."""
    number, unit = re.fullmatch(r"([0-9.]+)(MB|GB)", memory).groups()
    return float(number) * {"MB": 1.0, "GB": 1000.0}[unit]


def run_stages(files, folder, *words, stages=STAGES):
    """Make a field and run its stages one after the other, each in a process of its own.

    Parameters
    ----------
    files : list of Path
        Simulated or repeated exposures, with their offset list beside them.
    folder : Path
        Of the field.
    *words
        Options of ``musedeep init``, such as ``--memory 4GB``.
    stages : sequence of str

    Returns
    -------
    dict of str to dict
        Of every stage ``cpu`` and ``wall`` [s], ``peak`` [bytes] and its own ``facts``.
    """
    measure(["rm", "-rf", folder])
    musedeep("init", *files, "-o", folder, "--assess", "off", *offsets_of(files), *words)
    found = {}
    for stage in stages:
        run = musedeep(stage, folder, "--quiet", "--json")
        facts = json.loads(run.output)["stages"][0]["facts"]
        found[stage] = {"cpu": run.cpu, "wall": run.seconds, "peak": run.peak_bytes, "facts": facts}
    return found


def start_up(folder, *words, stages=STAGES, repeat=2):
    """CPU seconds that each stage takes with next to nothing to do: two exposures of five thousand rows.

    Kernels are loaded in it, unlike in a stage that finds all its work done.
    """
    files = simulated(folder / "warm", 2, 5e3, field_arcsec=6.0)
    runs = [run_stages(files, folder / "warm-start", *words, stages=stages) for _ in range(repeat)]
    return {stage: min(run[stage]["cpu"] for run in runs) for stage in stages}


def warm_up(folder):
    """Let every kernel be compiled, so that what is measured finds them in the cache."""
    files = simulated(folder / "warm", 2, 5e3, field_arcsec=6.0)
    code = """
import sys, musedeep as md
for reject in ("guarded", "eso", "none"):
    field = md.Field.from_exposures(
        sys.argv[2:], f"{sys.argv[1]}/warm-{reject}", overwrite=True, reject=reject, workers=1
    )
    md.ingest_exposures(field)
    md.combine_to_store(field)
"""
    measure([sys.executable, "-c", code, folder, *files])


def machine():
    """What the figures depend on: processor, cores, memory, load, versions; dict."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    libraries = ("musedeep", "numpy", "numba", "zarr", "distributed", "astropy")
    return {
        "processor": facts.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "memory_gb": round(int(meminfo["MemTotal"].split()[0]) / 1e6, 1),
        "load": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
    }


def command_line(description, folder_given=False):
    """What every benchmark takes on its command line; it adds its own.

    Parameters
    ----------
    description : str
        Told by ``--help``, as it stands.
    folder_given : bool
        Whether a folder to work in must be named, as the first word; else ``--folder`` may name one.

    Returns
    -------
    argparse.ArgumentParser
        With ``folder`` and ``--output``.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=form)
    name = "folder" if folder_given else "--folder"
    parser.add_argument(
        name, type=Path, help="where to work and keep the simulation" + " [temporary]" * (not folder_given)
    )
    parser.add_argument("--output", type=Path, help="write the report here, .md and .json")
    return parser


def carry_out(parser, work):
    """Read the command line, work, and end the process: with 0 where all is as promised, else with 1.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        From `command_line`.
    work : callable
        Given the options and a folder that is there; writes the report, and returns whether nothing failed.
    """
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(0 if work(options, folder) else 1)


class Report:
    """Rows of figures with the machine and the command, as Markdown and JSON.

    Parameters
    ----------
    title : str
    """

    def __init__(self, title):
        self.title = title
        self.command = " ".join(["python", *sys.argv])
        self.before = machine()
        self.rows = []
        self.figures = []
        self.notes = []
        self.failed = False

    def add(self, **figures):
        """Add a row, and print it at once."""
        self.rows.append(figures)
        print("  ".join(f"{name} {_text(value)}" for name, value in figures.items()), flush=True)

    def note(self, text):
        """Add a sentence below the table, and print it."""
        self.notes.append(text)
        print(text, flush=True)

    def fail(self, text):
        """Note that something is not as it must be."""
        self.failed = True
        self.note(f"**Failed:** {text}")

    def hold(self, figure, found, unit="", at_most=None, at_least=None):
        """Hold a figure against what is wanted of it; fails where it is missed.

        Parameters
        ----------
        figure : str
            What it is, in words that are understood without the rest of the report.
        found : float
        unit : str
        at_most, at_least : float, optional
            One of them.
        """
        least = at_least is not None
        limit = at_least if least else at_most
        wanted, told = f"{'>=' if least else '<='} {limit:g} {unit}".strip(), f"{found:.3g} {unit}".strip()
        # how many times better than wanted, for the drawing of the suite
        margin = found / limit if least else limit / found
        reached = "yes" if margin >= 1.0 else "no"
        self.figures.append(
            {"figure": figure, "wanted": wanted, "found": told, "reached": reached, "margin": margin}
        )
        if reached == "no":
            self.fail(f"{figure}: {told}, but {wanted} is wanted.")

    def markdown(self):
        """The whole as Markdown."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        lines = [f"# {self.title}", "", f"`{self.command}`", "", "| " + " | ".join(names) + " |"]
        lines.append("|" + "---|" * len(names))
        lines += ["| " + " | ".join(_text(row.get(name, "")) for name in names) + " |" for row in self.rows]
        after = [round(value, 2) for value in os.getloadavg()]
        facts = self.before | {"load before": self.before["load"], "load after": after}
        lines += [""] if self.figures else []
        for row in self.figures:
            words = "reached" if row["reached"] == "yes" else "missed"
            lines.append(f"- {row['figure']}: {row['found']}; {row['wanted']} is wanted: {words}")
        lines += ["", *self.notes, "", ", ".join(f"{k} {v}" for k, v in facts.items() if k != "load")]
        return "\n".join(lines) + "\n"

    def write(self, path):
        """Write ``path`` with the suffixes .md and .json, and print the former.

        Parameters
        ----------
        path : Path or None
            None prints only.

        Returns
        -------
        bool
            Whether nothing failed.
        """
        text = self.markdown()
        print("\n" + text)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".md").write_text(text)
            facts = {"title": self.title, "command": self.command, "machine": self.before}
            facts |= {
                "rows": [{k: _plain(v) for k, v in row.items()} for row in self.rows],
                "figures": self.figures,
                "notes": self.notes,
            }
            path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        return not self.failed


def _plain(value):
    return asdict(value) if isinstance(value, Measured) else value


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
