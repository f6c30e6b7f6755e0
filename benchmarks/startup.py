"""What musedeep takes before it does anything: importing it, its commands, the first run and a cluster.

    python benchmarks/startup.py

Every figure is that of a process of its own, the best of `--repeat`. "first run" combines two tiny exposures
with an empty cache of compiled kernels, "next run" with a full one.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from harness import Report, measure, simulated

# Seconds of wall time that are promised.
TARGETS = {"import": 0.4, "--help": 0.5}

_RUN = """
import sys, musedeep as md
field = md.Field.from_exposures(sys.argv[2:], sys.argv[1], overwrite=True, workers=1)
md.ingest_exposures(field)
md.combine_to_store(field)
"""

_CLUSTER = """
from musedeep import connect
if __name__ == "__main__":
    with connect("processes", workers=2) as client:
        client.wait_for_workers(2)
"""


def commands(folder):
    """What is measured: name to command and variables."""
    files = simulated(folder / "tiny", 2, 5e3, field_arcsec=6.0)
    cluster = folder / "cluster.py"
    cluster.write_text(_CLUSTER)
    cache = {"NUMBA_CACHE_DIR": str(folder / "kernels")}
    run = [sys.executable, "-c", _RUN, folder / "field", *files]
    return {
        "python": ([sys.executable, "-c", "pass"], {}),
        "import": ([sys.executable, "-c", "import musedeep"], {}),
        "--help": ([sys.executable, "-m", "musedeep", "--help"], {}),
        "combine --help": ([sys.executable, "-m", "musedeep", "combine", "--help"], {}),
        "first run": (run, cache),
        "next run": (run, cache),
        "local cluster": ([sys.executable, cluster], {}),
    }


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work and keep the simulation [temporary]")
    parser.add_argument("--output", type=Path, help="write the report here, .md and .json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        report = Report("Start-up")
        for name, (command, variables) in commands(folder).items():
            repeat = 1 if name == "first run" else options.repeat
            runs = [measure(command, **variables) for _ in range(repeat)]
            wall, cpu = min(run.seconds for run in runs), min(run.cpu for run in runs)
            report.add(what=name, wall_s=wall, cpu_s=cpu, peak_MB=runs[0].peak_bytes / 1e6)
            if wall > TARGETS.get(name, float("inf")):
                report.fail(f"{name} took {wall:.2f} s; {TARGETS[name]} s are wanted.")
        sys.exit(0 if report.write(options.output) else 1)


if __name__ == "__main__":
    main()
