"""A cost model: what each stage takes to start, and for every exposure, row and voxel; checked, then applied.

    python benchmarks/model.py --output model

The stages run on small fields of several numbers and sizes of exposures, with one thread, each in a process
of its own. Non-negative least squares of their CPU times tell the costs. Larger runs that the fit has not
seen are predicted; the error is told. Then follows what a large field takes on several machines, stage by
stage: CPU time over the cores, bytes over the bandwidth of the files, or the scheduler, which hands out one
task after the other, whichever is longest. With ``--output NAME`` there are NAME.md, NAME.json and NAME.png.
"""

import json
import math
import shutil
import sys
from types import SimpleNamespace

from harness import (
    STAGES,
    Report,
    carry_out,
    command_line,
    measure,
    megabytes,
    repeated,
    row_count,
    run_stages,
    simulated,
    start_up,
    warm_up,
)

# Exposures, rows of each and side of the field in arcsec.
FITTED = (
    (2, 1.5e6, 16.0),
    (8, 1.5e6, 16.0),
    (24, 1.5e6, 16.0),
    (3, 3e6, 24.0),
    (96, 4e5, 12.0),
    (4, 1e5, 8.0),
    (32, 1e5, 8.0),
    (128, 1e5, 8.0),
)
HELD_OUT = ((12, 4e6, 30.0), (64, 1.5e6, 16.0), (256, 1e5, 8.0))
LARGEST_ERROR_PERCENT = 15.0
# Fields of fewer rows are measured several times, and the best times count.
SHORT_RUN_ROWS = 2e7

# What the CPU time of a stage goes with; `few` are voxels with rows of so few exposures that the 27 voxels
# around them are needed to judge them.
TERMS = {
    "ingest": ("start", "exposure", "row"),
    "combine": ("start", "exposure", "row read", "voxel", "voxel of few"),
    "products": ("start", "exposure", "voxel"),
}
FEW = 16
HALO = 2  # voxels on each side of a block whose rows are read too
DISTINCT = 4

# A large field: all of the instrument in all of its range.
FULL_ROWS, FULL_EXPOSURES, FULL_SHAPE = 3.3e8, 275, (3681, 313, 305)
# Cores, and GB a second that the files may be read or written with by all of them together.
MACHINES = ((2, 1.0), (64, 10.0), (1024, 10.0), (1024, 100.0))
FITS_BYTES_PER_ROW, CUBE_BYTES_PER_VOXEL = 24.0, 20.0

_TASKS = """
import time, musedeep as md
from musedeep.execute import run_tasks

def nothing(item):
    return {"block": item[0], "key": "0" * 32, "rows_read": 10**6}

if __name__ == "__main__":
    items = [(n, b"r" * 4000) for n in range(400)]
    with md.connect("processes", memory="1GB", workers=2) as client:
        client.wait_for_workers(2)
        begun = time.process_time()
        for _ in run_tasks(nothing, items, client=client):
            pass
    print((time.process_time() - begun) / len(items))
"""

_COUNTS = """
import sys, json, musedeep
count = musedeep.open_cube(sys.argv[1]).exposure_count.values
print(json.dumps([int((count > 0).sum()), int(((count > 0) & (count < int(sys.argv[2]))).sum())]))
"""


def measure_run(case, folder, memory, repeat):
    """Run all stages on a field; dict of its size and the CPU seconds of its stages."""
    number, rows, field_arcsec = case
    distinct = simulated(folder / f"{rows:g}-{field_arcsec:g}", DISTINCT, rows, field_arcsec)
    copies, field = folder / "copies", folder / "field"
    files = repeated(distinct, number, copies)
    repeat = repeat if number * rows < SHORT_RUN_ROWS else 1
    runs = [run_stages(files, field, "--memory", memory, "--workers", "1") for _ in range(repeat)]
    counts = json.loads(measure([sys.executable, "-c", _COUNTS, field / "cube.zarr", FEW]).output)
    facts = json.loads((field / "cube.zarr" / "zarr.json").read_text())["attributes"]
    found = {
        "exposures": number,
        "rows": row_count(files),
        "voxels": counts[0],
        "few": counts[1],
        "read_twice": read_twice(facts["grid"]["shape"], facts["block_shape"]),
        "rows_read": runs[0]["combine"]["facts"]["rows_read"],
        "bytes_read": runs[0]["combine"]["facts"]["bytes_read"],
        "bytes_stored": size_of(field / "pixels.zarr"),
        "cpu": {stage: min(run[stage]["cpu"] for run in runs) for stage in STAGES},
    }
    for leftover in (copies, field):
        shutil.rmtree(leftover)
    return found


def size_of(folder):
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_twice(shape, block):
    """How many times rows are read on the average, since blocks read beyond their borders."""
    return math.prod(
        1 + 2 * HALO * (-(-n // step) - 1) / n for n, step in zip(shape, block, strict=True) if n > step
    )


def amounts(run, stage):
    """How much of each term of a stage a run has; list."""
    much = {
        "start": 1.0,
        "exposure": run["exposures"],
        "row": run["rows"],
        "row read": run["rows"] * run["read_twice"],
        "voxel": run["voxels"],
        "voxel of few": run["few"],
    }
    return [much[term] for term in TERMS[stage]]


def fit(runs, starts):
    """Seconds that one of each term costs, by non-negative least squares of the relative errors.

    The start-up is measured apart, with next to nothing to do, and counts as one more run.

    Returns
    -------
    dict of str to ndarray
        By stage, in the order of `TERMS`.
    """
    import numpy as np
    from scipy.optimize import nnls

    costs = {}
    for stage in STAGES:
        nothing = [1.0] + [0.0] * (len(TERMS[stage]) - 1)
        table = np.array([amounts(run, stage) for run in runs] + [nothing])
        took = np.array([run["cpu"][stage] for run in runs] + [starts[stage]])
        # in columns of one size, so that the solver sees no tiny numbers
        scale = table.max(axis=0).clip(min=1.0)
        costs[stage] = nnls(table / scale / took[:, None], np.ones(len(took)))[0] / scale
    return costs


def predict(costs, run):
    """CPU seconds of each stage of a run."""
    return {stage: float(costs[stage] @ amounts(run, stage)) for stage in STAGES}


def tell_runs(report, runs, costs, what):
    """Measured beside predicted, of every run; largest relative error of the sum of all stages."""
    errors = []
    for run in runs:
        told = predict(costs, run)
        errors.append(100 * (sum(told.values()) / sum(run["cpu"].values()) - 1))
        report.add(
            what=what,
            exposures=run["exposures"],
            rows_each=run["rows"] / run["exposures"],
            **{f"{stage}_s": f"{run['cpu'][stage]:.2f} ({told[stage]:.2f})" for stage in STAGES},
            error_percent=errors[-1],
        )
    return max(map(abs, errors))


def large_field(cores, memory):
    """The size of the large field, and the number of tasks of its stages; with blocks as they are planned."""
    from musedeep import plan

    grid = SimpleNamespace(shape=FULL_SHAPE)
    shape = plan.block_shape(grid, int(megabytes(memory) * 1e6), 1, 2 * cores)
    blocks = len(plan.blocks_of(grid, shape))
    parts = FULL_EXPOSURES * math.ceil(FULL_ROWS / plan.MOST_ROWS)
    return {
        "exposures": FULL_EXPOSURES,
        "rows": FULL_ROWS * FULL_EXPOSURES,
        "voxels": math.prod(FULL_SHAPE),
        "few": 0,
        "read_twice": read_twice(FULL_SHAPE, shape),
    }, {"ingest": parts, "combine": blocks, "products": 1}


def apply(report, costs, runs, task_seconds, memory):
    """What the large field takes on several machines."""
    rows = sum(run["rows"] for run in runs)
    stored = sum(run["bytes_stored"] for run in runs) / rows
    read = sum(run["bytes_read"] for run in runs) / sum(run["rows_read"] for run in runs)
    for cores, bandwidth in MACHINES:
        size, tasks = large_field(cores, memory)
        cpu, times = predict(costs, size), {}
        moved = {
            "ingest": size["rows"] * (FITS_BYTES_PER_ROW + stored),
            "combine": size["rows"] * size["read_twice"] * read + size["voxels"] * CUBE_BYTES_PER_VOXEL,
            "products": 2 * size["voxels"] * CUBE_BYTES_PER_VOXEL,
        }
        for stage in STAGES:
            # tasks are whole: the last ones do not fill all cores
            rounds = math.ceil(tasks[stage] / cores) / tasks[stage]
            limits = {
                "cores": cpu[stage] * rounds,
                "files": moved[stage] / bandwidth / 1e9,
                "scheduler": tasks[stage] * task_seconds * (cores > 2),
            }
            times[stage] = max((seconds, limit) for limit, seconds in limits.items())
        report.add(
            what=f"{FULL_EXPOSURES} full exposures",
            cores=cores,
            GB_a_second=bandwidth,
            **{f"{stage}_s": f"{seconds:.0f} ({limit})" for stage, (seconds, limit) in times.items()},
            hours=sum(seconds for seconds, _ in times.values()) / 3600,
        )
    report.note(
        f"These exposures have {FULL_ROWS:.3g} rows each, and one cube of {' x '.join(map(str, FULL_SHAPE))} "
        f"voxels; {memory} are granted a core. {stored:.1f} bytes of a row are stored; {read:.1f} are read "
        f"of each row that a block needs, and a row is needed {size['read_twice']:.2f} times on the largest "
        f"machine. The scheduler takes {1e3 * task_seconds:.1f} ms of CPU time for a task. In brackets: what "
        "limits a stage. The bandwidths are assumed; waiting for files and uneven nodes are not in it."
    )


def draw(path, costs, fitted, held_out):
    """Predicted beside measured CPU time of all stages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator

    figure, axes = pyplot.subplots(figsize=(5.2, 4.6), layout="constrained")
    colours = {"ingest": "#3b6ea8", "combine": "#c2703d", "products": "#5b8c5a"}
    for runs, marker, size in ((fitted, "o", 22), (held_out, "D", 48)):
        for stage, colour in colours.items():
            told = [predict(costs, run)[stage] for run in runs]
            took = [run["cpu"][stage] for run in runs]
            face = colour if marker == "D" else "none"
            label = f"{stage}, {'held out' if marker == 'D' else 'fitted'}"
            axes.scatter(took, told, s=size, marker=marker, facecolor=face, edgecolor=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="measured CPU time [s]", ylabel="predicted CPU time [s]")
    values = [
        v for run in [*fitted, *held_out] for v in (*run["cpu"].values(), *predict(costs, run).values())
    ]
    ends = 0.8 * min(values), 1.2 * max(values)
    axes.plot(ends, ends, color="0.5", lw=1)
    limits = [1 - LARGEST_ERROR_PERCENT / 100, 1 + LARGEST_ERROR_PERCENT / 100]
    axes.fill_between(
        ends, [e * limits[0] for e in ends], [e * limits[1] for e in ends], color="0.9", zorder=0
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.set(xlim=ends, ylim=ends, title=f"Cost model (band: {LARGEST_ERROR_PERCENT:g} %)")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def measure_all(options, folder):
    """Fit, check and apply the model; whether it predicts as well as wanted."""
    warm_up(folder)
    report = Report("Cost model of the stages")
    words = ["--memory", options.memory, "--workers", "1"]
    starts = start_up(folder, *words, repeat=options.repeat)
    fitted, held_out = (
        [
            measure_run((number, rows * options.scale, field), folder, options.memory, options.repeat)
            for number, rows, field in cases[: options.cases]
        ]
        for cases in (FITTED, HELD_OUT)
    )
    script = folder / "tasks.py"
    script.write_text(_TASKS)
    task_seconds = float(measure([sys.executable, script]).output)
    costs = fit(fitted, starts)
    for stage in STAGES:
        for term, value in zip(TERMS[stage], costs[stage], strict=True):
            unit, factor = (
                ("s", 1.0) if term == "start" else ("ms", 1e3) if term == "exposure" else ("ns", 1e9)
            )
            report.add(what=f"cost of {stage}", term=term, value=float(value) * factor, unit=unit)
    tell_runs(report, fitted, costs, "fitted: measured (predicted)")
    worst = tell_runs(report, held_out, costs, "held out: measured (predicted)")
    apply(report, costs, fitted + held_out, task_seconds, options.memory)
    figure = "largest error of the cost model in runs that it was not fitted to"
    report.hold(figure, worst, "%", at_most=LARGEST_ERROR_PERCENT)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw(options.output.with_suffix(".png"), costs, fitted, held_out)
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--scale", type=float, default=1.0, help="times the rows of all exposures")
    parser.add_argument("--cases", type=int, help="only so many fields that are fitted, and held out [all]")
    parser.add_argument("--repeat", type=int, default=2, help="runs of what is short")
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
