"""All benchmarks, one after the other, and one report: Markdown, JSON and a figure.

    python benchmarks/suite.py --output report
    python benchmarks/suite.py --size tiny --output report

The whole takes hours, `tiny` some minutes; its figures mean nothing, but everything is run. Each benchmark is
a process of its own and runs at its own size (`COMMANDS`). What ends with an error is told, and the rest goes
on. `report` is a folder, with what each benchmark wrote; begun again, it keeps those that are finished.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from harness import Report, measure

HERE = Path(__file__).parent
_TINY = "--rows 6e3 --field 6"

# Arguments by benchmark and size; {work} is a folder for its data.
COMMANDS = {
    "startup": {"full": "", "tiny": "--repeat 1 --no-first-run"},
    "speed": {
        "full": "--exposures 2 8 32 --rows 3.5e6 --folder {work}",
        "tiny": "--exposures 2 3 --rows 6e3 --field 6 --folder {work}",
    },
    "peer": {
        "full": "--exposures 8 --rows 3.5e6 --folder {work}",
        "tiny": f"--exposures 2 --reject guarded {_TINY} --folder {{work}}",
    },
    "peer 32": {"full": "--exposures 32 --rows 3.5e6 --reject guarded --folder {work}"},
    "peer on two cores": {"full": "--exposures 32 --rows 3.5e6 --reject guarded --threads 2 --folder {work}"},
    "cubelist": {
        "full": "--exposures 16 --rows 1e6 --folder {work}",
        "tiny": f"--exposures 2 {_TINY} --folder {{work}}",
    },
    "combine": {
        "full": "--exposures 64 --rows 3e6 --reject guarded eso --folder {work}",
        "tiny": f"--exposures 2 {_TINY} --folder {{work}}",
    },
    "combine of many": {"full": "--exposures 32 128 512 --rows 1e6 --field 14 --folder {work}"},
    "scaling": {
        "full": "--exposures 16 --rows 3e6 --folder {work}",
        "tiny": f"--exposures 2 {_TINY} --pointings 2 --sides 32 --repeat 1 --folder {{work}}",
    },
    "memory": {
        "full": "--memory 500MB --exposures 32 128 512 1000 --folder {work}",
        "tiny": f"--exposures 2 {_TINY} --folder {{work}}",
    },
    "mosaic275": {"full": "--memory 1GB --folder {work}"},
    "rejection": {"full": "", "tiny": "--exposures 3"},
    "noise": {"full": "--folder {work}", "tiny": "--exposures 2 --folder {work}"},
    "cutout": {
        "full": "--folder {work}",
        "tiny": "--exposures 2 --field 6 --length 20 --size 3 --band 10 --folder {work}",
    },
    "addition": {
        "full": "--exposures 100 --rows 3e6 --folder {work}",
        "tiny": "--exposures 3 --rows 6e3 --folder {work}",
    },
    "depth": {"full": "", "tiny": "--exposures 2"},
    "align": {"full": "{work}", "tiny": "{work} '3 stars'"},
    "reduction": {"full": "--folder {work}", "tiny": "--ifus 12 --small --folder {work}"},
    "exposure": {"full": "--folder {work}", "tiny": "--ifus 2 --small --folder {work}"},
    "selection": {"full": "{work}", "tiny": "{work} --headers 60"},
    "diagnostics": {"full": "{work}", "tiny": "{work} --seeds 1 --case sky"},
    "cluster": {"full": "--folder {work}", "tiny": "--blocks 20 --exposures 3 --folder {work}"},
    "cluster_faults": {"full": "--folder {work}"},
}


def script_of(name):
    """The script that a name of `COMMANDS` stands for."""
    return HERE / f"{name.split()[0]}.py"


def run_benchmark(name, size, folder):
    """Run one benchmark unless it is finished; dict with state, seconds and what it printed."""
    place = folder / name.replace(" ", "-")
    record = place / "record.json"
    words = shlex.split(COMMANDS[name][size].format(work=shlex.quote(str(place / "work"))))
    command = [str(script_of(name)), *words, "--output", str(place / "report")]
    if record.exists():
        found = json.loads(record.read_text())
        if found["command"] == command and found["state"] != "broken":
            return found
    (place / "work").mkdir(parents=True, exist_ok=True)
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=place)
    whole = run.returncode in (0, 1) and "Traceback" not in run.stderr
    found = {
        "name": name,
        "command": command,
        "state": {0: "met", 1: "missed"}[run.returncode] if whole else "broken",
        "text": run.stdout if whole else run.stderr[-4000:],
    }
    measure(["rm", "-rf", place / "work"])
    record.write_text(json.dumps(found, indent=1) + "\n")
    return found


def figures_of(folder, name):
    """The rows of a benchmark's own JSON; empty where it did not run."""
    path = folder / name.replace(" ", "-") / "report.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def draw(folder, path):
    """Four panels: kernels, time over the number of exposures, memory over it, and the programs compared."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    ours, theirs, grey = "#3b6ea8", "#c2703d", "0.35"
    speed = figures_of(folder, "speed")
    kernels = [row for row in speed if row["what"] == "kernel"][::-1]
    names = [row["name"] for row in kernels]
    colours = [ours if name.startswith("combine") else theirs for name in names]
    bars = axes[0, 0].barh(names, [row["value"] for row in kernels], color=colours)
    axes[0, 0].bar_label(bars, fmt="%.0f", padding=3, fontsize=7)
    axes[0, 0].tick_params(axis="y", labelsize=7)
    axes[0, 0].set(xlabel="CPU time a row [ns]", title="Kernels")
    many = figures_of(folder, "combine of many") or figures_of(folder, "combine")
    axes[0, 1].plot([r["exposures"] for r in many], [r["cpu_ns_per_row"] for r in many], "o-", color=ours)
    axes[0, 1].set(xlabel="exposures", ylabel="CPU time a row [ns]", title="Combination alone")
    axes[0, 1].set_ylim(bottom=0)
    memory = [row for row in figures_of(folder, "memory") if row["stage"] == "combine"]
    axes[1, 0].plot([r["exposures"] for r in memory], [r["worker_MB"] for r in memory], "o-", color=ours)
    axes[1, 0].set(xlabel="exposures", ylabel="peak memory [MB]", title="Memory of a worker")
    axes[1, 0].set_ylim(bottom=0)
    programs = []
    for name in ("peer", "peer 32"):
        programs += [
            (f"{row['program']}, {row['reject']}, N = {row['exposures']}", row)
            for row in figures_of(folder, name)
        ]
    programs += [(f"{r['program']}, N = {r['exposures']}", r) for r in figures_of(folder, "cubelist")]
    labels = [label for label, _ in programs][::-1]
    colours = [ours if label.startswith("musedeep") else grey for label in labels]
    bars = axes[1, 1].barh(labels, [row["cpu_ns_per_row"] for _, row in programs][::-1], color=colours)
    axes[1, 1].bar_label(bars, fmt="%.0f", padding=3, fontsize=7)
    axes[1, 1].tick_params(axis="y", labelsize=7)
    axes[1, 1].set(xlabel="CPU time a row [ns]", title="Whole processes")
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--size", default="full", choices=("full", "tiny"))
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    options = parser.parse_args()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    report = Report("All benchmarks")
    found = []
    for name in options.only:
        if options.size in COMMANDS[name]:
            found.append(run_benchmark(name, options.size, folder))
            report.add(benchmark=name, promises=found[-1]["state"])
            if found[-1]["state"] == "broken":
                report.fail(f"{name} ended with an error.")
    draw(folder, folder / "report.png")
    whole = report.write(folder / "report")
    texts = [f"\n## {run['name']}\n\n" + run["text"].replace("\n# ", "\n### ") for run in found]
    with (folder / "report.md").open("a") as file:
        file.write("\n![](report.png)\n" + "".join(texts))
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
