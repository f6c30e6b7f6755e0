"""Where the time goes: the limits of the machine, every kernel and every stage beside them, and a cost model.

    python benchmarks/speed.py --exposures 2 8 32 --rows 3.5e6 --output speed
    python benchmarks/speed.py --exposures 2 4 --rows 2e5 --field 8

The limits are measured right before what is compared with them: reading, writing and copying bytes, swapping
their order, and adding to eight voxels in the cache. The stages run as processes of their own (user plus
system time; what each takes with next to nothing to do is its start-up, listed apart). The kernels are timed
within one process, on the rows of the largest field. ``fraction_of_limit`` is the time of the larger of two
limits (each row read once and each voxel written once; the least arithmetic on all cores) over the wall time.

`model.py` fits a cost model and predicts large fields. With ``--output NAME`` there are NAME.md, NAME.json
and NAME.png.
"""

import json
import os
import shutil
import sys
import time

from harness import (
    Report,
    carry_out,
    command_line,
    measure,
    repeated,
    row_count,
    run_stages,
    simulated,
    start_up,
    warm_up,
)

BYTES_READ, BYTES_WRITTEN = 24, 8  # of a row, and of a voxel
DISTINCT = 8
# What is wanted: core-nanoseconds a row, and the share of the limit that the largest field reaches.
INGEST_TARGET, LIMIT_TARGET = 60.0, 0.45

_KERNELS = """
import functools, json, shutil, sys, time
from collections import Counter
from musedeep import open_field, shards
from musedeep.combine import combine_to_store
from musedeep.ingest import ingest_exposures
from musedeep.kernels import ingest, reject, resample, window
from musedeep.pixtable.table import PixelTable

took = Counter()

def watch(owner, name, label):
    function = getattr(owner, name)
    @functools.wraps(function)
    def timed(*arguments, **options):
        begun = time.thread_time_ns()
        try:
            return function(*arguments, **options)
        finally:
            took[label] += time.thread_time_ns() - begun
    setattr(owner, name, timed)

for owner, name, label in (
    (PixelTable, "read_columns", "ingest: read"), (ingest, "place_rows", "ingest: place on the sky"),
    (ingest, "assign_keys", "ingest: find pencils"), (ingest, "find_places", "ingest: count places"),
    (ingest, "sort_column", "ingest: sort"), (shards, "write_shard", "ingest: compress and write"),
    (shards.ShardReader, "table", "combine: read"), (window, "locate_rows", "combine: locate"),
    (window, "sort_planes", "combine: sort"), (reject, "judge_guarded", "combine: judge"),
    (resample, "spread_drizzle", "combine: drizzle"), (resample, "finish", "combine: divide"),
):
    watch(owner, name, label)
chunks = shards.ShardReader.chunks
def timed_chunks(self, first, last):
    found = chunks(self, first, last)
    while True:
        begun = time.thread_time_ns()
        try:
            chunk = next(found, None)
        finally:
            took["combine: read"] += time.thread_time_ns() - begun
        if chunk is None:
            return
        yield chunk
shards.ShardReader.chunks = timed_chunks
field = open_field(sys.argv[1])
for folder in (field.pixels_path, field.cube_path):
    shutil.rmtree(folder)
field.cube_path.with_name("cube.ledger").unlink()
begun = time.process_time_ns()
ingest_exposures(field)
middle = time.process_time_ns()
combine_to_store(field)
took["ingest: the rest"] = middle - begun - sum(v for k, v in took.items() if k.startswith("ingest"))
took["combine: the rest"] = time.process_time_ns() - middle - sum(
    v for k, v in took.items() if k.startswith("combine"))
print(json.dumps(took))
"""

_ARITHMETIC = """
import json, time
import numpy as np
from numba import njit

@njit
def add(sums, place, value):
    for r in range(place.size):
        for step in (0, 3, 192, 195):
            for c in range(6):
                sums[place[r] + step + c] += value[r]

def best(function, number, repeat=5):
    times = []
    for _ in range(repeat):
        begun = time.thread_time_ns()
        function()
        times.append(time.thread_time_ns() - begun)
    return min(times) / number

n = 4_000_000
values = np.random.default_rng(1).normal(size=n).astype("f4")
copy, swapped = np.empty_like(values), values.astype(">f4")
sums = np.zeros(3 * 64 * 400)
place = np.random.default_rng(2).integers(0, sums.size - 400, n).astype(np.int32)
add(sums, place, values)
print(json.dumps({
    "copy_GB_s": 8.0 / best(lambda: np.copyto(copy, values), n),
    "byteswap_ns": best(lambda: np.copyto(copy, swapped), n),
    "add_ns": best(lambda: add(sums, place, values), n),
}))
"""


def disk_speed(folder, size=1 << 29):
    """Bytes a second written (and synced), and read again from the disk."""
    path = folder / "disk.bin"
    block = os.urandom(1 << 24)
    begun = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = size / (time.perf_counter() - begun)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
    read = size / (time.perf_counter() - begun)
    path.unlink()
    return written, read


def limits(folder, report):
    """Measure what the machine can do; dict of figures."""
    written, read = disk_speed(folder)
    found = json.loads(measure([sys.executable, "-c", _ARITHMETIC]).output)
    # six values are swapped, a place is counted, and eight voxels are added to
    found["floor_ns"] = 6 * found["byteswap_ns"] + 1.0 + found["add_ns"]
    found |= {"read_GB_s": read / 1e9, "write_GB_s": written / 1e9}
    for name, value in found.items():
        quantity, unit = name.split("_", 1)
        report.add(what="limit", name=quantity, value=value, unit=unit.replace("_", "/"))
    return found


def voxel_count(folder):
    """Voxels of the cube of a field."""
    code = "import sys, musedeep; print(musedeep.open_cube(sys.argv[1]).flux.size)"
    return int(measure([sys.executable, "-c", code, folder / "cube.zarr"]).output)


def measure_stages(options, folder, report, limit):
    """Every number of exposures with one thread, and the largest with all cores; list of runs."""
    distinct = simulated(
        folder / "distinct", min(DISTINCT, max(options.exposures)), options.rows, options.field
    )
    starts = start_up(folder, "--memory", options.memory, "--workers", "1", repeat=options.repeat)
    cases = [(number, 1) for number in sorted(options.exposures)]
    cases.append((max(options.exposures), os.cpu_count()))
    runs = []
    for number, workers in cases:
        files = distinct[:number]
        if number > len(distinct):
            files = repeated(distinct, number, folder / f"exposures{number}")
        place = folder / f"field{number}-{workers}"
        stages = run_stages(files, place, "--memory", options.memory, "--workers", str(workers))
        rows, voxels = row_count(files), voxel_count(place)
        runs.append({"number": number, "workers": workers, "rows": rows, "stages": stages, "folder": place})
        for stage, took in stages.items():
            report.add(
                what="stage",
                name=stage,
                exposures=number,
                threads=workers,
                value=(took["cpu"] - starts[stage]) / rows * 1e9,
                unit="ns/row",
                wall_ns=took["wall"] / rows * 1e9,
                start_s=starts[stage],
                peak_MB=took["peak"] / 1e6,
            )
        wall = sum(took["wall"] for took in stages.values())
        size = BYTES_READ * rows + BYTES_WRITTEN * voxels
        least = max(size / limit["read_GB_s"] / 1e9, rows * limit["floor_ns"] * 1e-9 / workers)
        runs[-1] |= {
            "fraction": least / wall,
            "ingest_ns": (stages["ingest"]["cpu"] - starts["ingest"]) / rows * 1e9,
        }
        report.add(
            what="end to end", name="fraction_of_limit", exposures=number, threads=workers, value=least / wall
        )
    return runs


def kernel_times(run):
    """CPU nanoseconds a row of every kernel, on a field whose stages were run; dict, longest first."""
    took = json.loads(measure([sys.executable, "-c", _KERNELS, run["folder"]]).output)
    return {name: value / run["rows"] for name, value in sorted(took.items(), key=lambda item: -item[1])}


def draw(path, kernels, limit):
    """Bars of the time a row that every kernel takes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.34 * len(kernels) + 1.4), layout="constrained")
    names = list(kernels)[::-1]
    colours = ["#3b6ea8" if name.startswith("ingest") else "#c2703d" for name in names]
    bars = axes.barh(names, [kernels[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axes.axvline(limit["floor_ns"], color="0.3", lw=1, ls="--")
    axes.annotate(
        "floor of the arithmetic",
        (limit["floor_ns"], 0),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=8,
    )
    axes.set_xlabel("CPU time a row [ns]")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def measure_all(options, folder):
    """Limits, stages and kernels, with a figure beside the report; whether all is as promised."""
    warm_up(folder)
    report = Report("Where the time goes")
    limit = limits(folder, report)
    runs = measure_stages(options, folder, report, limit)
    kernels = kernel_times(runs[-2])
    for name, value in kernels.items():
        report.add(
            what="kernel", name=name, value=value, unit="ns/row", exposures=runs[-2]["number"], threads=1
        )
    where = f"N = {runs[-1]['number']}"
    figure = f"ingest, {where}, CPU time a row after start-up"
    report.hold(figure, runs[-2]["ingest_ns"], "core-ns", at_most=INGEST_TARGET)
    figure = f"fraction_of_limit, end to end, {where}, {runs[-1]['workers']} threads"
    report.hold(figure, runs[-1]["fraction"], at_least=LIMIT_TARGET)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draw(options.output.with_suffix(".png"), kernels, limit)
    for run in runs:
        shutil.rmtree(run["folder"])
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--exposures", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--rows", type=float, default=1.5e6, help="of an exposure")
    parser.add_argument("--field", type=float, default=24.0, help="side of the field in arcsec")
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--repeat", type=int, default=2, help="measurements of the start-up")
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
