"""All benchmarks, one after the other, and one report: Markdown, JSON and a figure.

    python benchmarks/suite.py --output report
    python benchmarks/suite.py --size speed --output report
    python benchmarks/suite.py --size tiny --output report

The whole takes hours. `speed` runs what tells of CPU time and memory, in less than half an hour on two cores
that do nothing else. `tiny` takes some minutes; its figures mean nothing, but everything is run. Each
benchmark is a process of its own and runs at its own size (`COMMANDS`). What ends with an error is told, and
the rest goes on. `report` is a folder, with what each benchmark wrote; begun again, it keeps those that are
finished.
The report begins with every figure of which something is wanted: what, what was found, and whether it is so.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from harness import Report, measure

HERE = Path(__file__).parent
_TINY = "--rows 6e3 --field 6"
_OURS, _OTHER = "#3b6ea8", "#c2703d"
_COLOURS = {"combine": _OURS, "measured": _OURS, "ingest": _OTHER, "predicted": "0.6"}
_MEMORY = {"measured": "worker", "predicted": "predicted"}
_END = 4.0  # of the scale of what is better than wanted

# Arguments by benchmark and size; {work} is a folder for its data.
COMMANDS = {
    "startup": {"full": "", "speed": "--no-first-run", "tiny": "--repeat 1 --no-first-run"},
    "peer": {
        "full": "--exposures 8 --rows 3.5e6 --folder {work}",
        "speed": "--exposures 8 --rows 3.5e6 --folder {work}",
        "tiny": f"--exposures 2 --reject guarded {_TINY} --folder {{work}}",
    },
    "peer 32": {
        "full": "--exposures 32 --rows 3.5e6 --reject guarded --threads 1 2 --folder {work}",
        "speed": "--exposures 32 --rows 3.5e6 --reject guarded --threads 1 2 --folder {work}",
    },
    "combine": {
        "full": "--exposures 4 8 64 --rows 3e6 --reject guarded eso --folder {work}",
        "speed": "--exposures 4 8 64 --rows 3e6 --reject guarded eso --folder {work}",
        "tiny": f"--exposures 2 {_TINY} --folder {{work}}",
    },
    "speed": {
        "full": "--exposures 2 8 32 --rows 3.5e6 --folder {work}",
        "speed": "--exposures 32 --rows 3.5e6 --folder {work}",
        "tiny": f"--exposures 2 3 {_TINY} --repeat 1 --folder {{work}}",
    },
    "model": {
        "full": "--folder {work}",
        "speed": "--folder {work}",
        "tiny": "--scale 0.01 --cases 1 --repeat 1 --folder {work}",
    },
    "scaling": {
        "full": "--exposures 16 --rows 3e6 --folder {work}",
        "speed": "--only workers exposures --exposures 16 --rows 3e6 --numbers 32 512 --folder {work}",
        "tiny": f"--exposures 2 {_TINY} --pointings 2 --sides 32 --repeat 1 --numbers 2 4 --small-rows 6e3 "
        "--small-field 6 --folder {work}",
    },
    "memory": {
        "full": "--memory 500MB --exposures 32 128 512 1024 --folder {work}",
        "speed": "--memory 500MB --exposures 128 1024 --folder {work}",
        "tiny": f"--exposures 2 {_TINY} --folder {{work}}",
    },
    "memory of whole exposures": {
        "full": "--memory 4GB --exposures --large 3.3e8 --large-exposures 2 --folder {work}",
    },
    "cubelist": {
        "full": "--exposures 16 --rows 1e6 --folder {work}",
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
    (place / "report.json").unlink(missing_ok=True)
    begun = time.monotonic()
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=place)
    whole = run.returncode in (0, 1) and "Traceback" not in run.stderr
    found = {
        "name": name,
        "command": command,
        "seconds": time.monotonic() - begun,
        "state": {0: "met", 1: "missed"}[run.returncode] if whole else "broken",
        "text": run.stdout if whole else run.stderr[-4000:],
    }
    measure(["rm", "-rf", place / "work"])
    record.write_text(json.dumps(found, indent=1) + "\n")
    return found


def told_by(folder, name, what="rows"):
    """The rows of a benchmark's own JSON, or its figures; empty where it did not run."""
    path = folder / name.replace(" ", "-") / "report.json"
    return json.loads(path.read_text())[what] if path.exists() else []


def draw(folder, figures, path):
    """What is wanted and found; kernels, whole programs, and what grows with the number of exposures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    height = 0.26 * len(figures) + 1.2
    figure = pyplot.figure(figsize=(11, height + 7.0), layout="constrained")
    # rows of their own, since their labels are not equally long
    rows = figure.subfigures(3, 1, height_ratios=[height, 3.7, 3.3], hspace=0.04)
    axes = {"figures": rows[0].subplots()}
    axes["kernels"], axes["programs"] = rows[1].subplots(1, 2)
    axes["many"], axes["memory"] = rows[2].subplots(1, 2)
    draw_figures(axes["figures"], figures)
    kernels = [row for row in told_by(folder, "speed") if row["what"] == "kernel"]
    kernels = {row["name"]: row["value"] for row in kernels}
    draw_bars(axes["kernels"], "Kernels", kernels, [name.startswith("combine") for name in kernels])
    programs = {}
    for name in ("peer", "peer 32", "cubelist"):
        for row in told_by(folder, name):
            words = [row["program"], row.get("reject"), f"N = {row['exposures']}"]
            words.append("2 threads" if row.get("threads") == 2 else None)
            programs[", ".join(filter(None, words))] = row["cpu_ns_per_row"]
    draw_bars(axes["programs"], "Whole runs", programs, [name.startswith("musedeep") for name in programs])
    many = [row for row in told_by(folder, "scaling") if "ingest_ns_per_row" in row]
    lines = {name: [row[f"{name}_ns_per_row"] for row in many] for name in ("ingest", "combine")}
    numbers = [row["exposures"] for row in many]
    draw_lines(axes["many"], "More and more exposures", numbers, lines, "CPU time a row [ns]")
    memory = [row for row in told_by(folder, "memory") if row["stage"] == "combine"]
    lines = {name: [row[f"{key}_MB"] for row in memory] for name, key in _MEMORY.items()}
    numbers = [row["exposures"] for row in memory]
    draw_lines(axes["memory"], "Memory of a worker", numbers, lines, "peak memory [MB]")
    for panel in axes.values():
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def draw_figures(axes, figures):
    """How many times better or worse than wanted each figure is, to an end of the scale."""
    names = [f"{row['figure']}:  {row['found']}  ({row['wanted']})" for row in figures][::-1]
    margins = [min(max(row["margin"], 1 / _END), _END) for row in figures][::-1]
    colours = ["#5b8c5a" if margin >= 1.0 else "#b5483d" for margin in margins]
    axes.barh(range(len(names)), [margin - 1.0 for margin in margins], left=1.0, color=colours)
    axes.axvline(1.0, color="0.2", lw=1)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xscale="log", xlim=(1 / _END, _END), title="What was found (and is wanted)")
    ticks = {1 / _END: f"1/{_END:g}", 0.5: "1/2", 1.0: "1", 2.0: "2", _END: f"{_END:g}"}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlabel("times better than wanted")


def draw_lines(axes, title, numbers, lines, quantity):
    """What goes with the number of exposures; each line in the colour of its name."""
    for name, values in lines.items():
        axes.plot(numbers, values, "o-", color=_COLOURS[name], label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.set(xlabel="exposures", ylabel=quantity, title=title)
    axes.set_ylim(0, 1.1 * max([1.0, *sum(lines.values(), [])]))
    if numbers:
        axes.legend(frameon=False, fontsize=8)


def draw_bars(axes, title, values, first):
    """CPU time a row by name; those of the first kind in a colour of their own."""
    names = list(values)[::-1]
    colours = [_OURS if kind else _OTHER for kind in first][::-1]
    bars = axes.barh(names, [values[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.set(xlabel="CPU time a row [ns]", title=title)


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--size", default="full", choices=("full", "speed", "tiny"))
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    options = parser.parse_args()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    report = Report("All benchmarks")
    found, figures = [], []
    for name in options.only:
        if options.size in COMMANDS[name]:
            run = run_benchmark(name, options.size, folder)
            found.append(run)
            report.note(f"- {name}: promises are {run['state']}; {run['seconds']:.0f} s")
            if run["state"] == "broken":
                report.fail(f"{name} ended with an error.")
            for row in told_by(folder, name, "figures"):
                figures.append(row)
                told = {key: row[key] for key in ("figure", "wanted", "found", "reached")}
                report.add(**told, benchmark=name)
    draw(folder, figures, folder / "report.png")
    whole = report.write(folder / "report")
    texts = [f"\n## {run['name']}\n\n" + run["text"].replace("\n# ", "\n### ") for run in found]
    with (folder / "report.md").open("a") as file:
        file.write("\n![](report.png)\n" + "".join(texts))
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
