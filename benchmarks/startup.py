"""What musedeep takes before it does anything: importing it, its commands, the first run and a cluster.

    python benchmarks/startup.py

Every figure is that of a process of its own, the best of `--repeat`. "first run" combines two tiny exposures
with an empty cache of compiled kernels, which takes a minute, "next run" with a full one.
"""

import sys

from harness import Report, carry_out, command_line, measure, simulated

# Seconds of wall time that are wanted.
TARGETS = {"import musedeep": 0.4, "musedeep --help": 0.5}

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


def commands(folder, first_run):
    """What is measured: name to command and variables; a first run only if asked for."""
    files = simulated(folder / "tiny", 2, 5e3, field_arcsec=6.0)
    cluster = folder / "cluster.py"
    cluster.write_text(_CLUSTER)
    cache = {"NUMBA_CACHE_DIR": str(folder / "kernels")} if first_run else {}
    run = [sys.executable, "-c", _RUN, folder / "field", *files]
    return {
        "python": ([sys.executable, "-c", "pass"], {}),
        "import musedeep": ([sys.executable, "-c", "import musedeep"], {}),
        "musedeep --help": ([sys.executable, "-m", "musedeep", "--help"], {}),
        "musedeep combine --help": ([sys.executable, "-m", "musedeep", "combine", "--help"], {}),
        **({"first run": (run, cache)} if first_run else {}),
        "next run": (run, cache),
        "local cluster": ([sys.executable, cluster], {}),
    }


def measure_all(options, folder):
    """Every start; whether they are as quick as promised."""
    report = Report("Start-up")
    for name, (command, variables) in commands(folder, not options.no_first_run).items():
        repeat = 1 if name == "first run" else options.repeat
        runs = [measure(command, **variables) for _ in range(repeat)]
        wall, cpu = min(run.seconds for run in runs), min(run.cpu for run in runs)
        report.add(what=name, wall_s=wall, cpu_s=cpu, peak_MB=runs[0].peak_bytes / 1e6)
        if name in TARGETS:
            report.hold(f"{name}, wall time of the process", wall, "s", at_most=TARGETS[name])
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-first-run", action="store_true", help="the next run finds the usual cache")
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
