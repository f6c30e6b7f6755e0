"""How the work scales: over threads and processes, the area of a mosaic, the size of blocks, and exposures.

    python benchmarks/scaling.py --rows 3e6
    python benchmarks/scaling.py --only workers --exposures 32
    python benchmarks/scaling.py --only exposures --numbers 32 128 512

Every combination runs in a process of its own on stores that were made before; `speedup` is its wall time
beside that of one thread, or of one process, in the same run, and `cpu_ratio` likewise its CPU time a row. A
mosaic has pointings side by side, each with all exposures. For more and more (small) exposures the CPU time a
row of ingest and combine counts after their start-up, which is that of two tiny exposures.
"""

import json
import sys

from harness import (
    Report,
    carry_out,
    command_line,
    measure,
    musedeep,
    offsets_of,
    repeated,
    row_count,
    run_stages,
    simulated,
    start_up,
    warm_up,
)

EXPOSURES_OF_A_POINTING = 4
PARTS = ("workers", "area", "blocks", "exposures")

# Two workers take at least so many times less wall time than one.
TARGETS = {"threads": 1.85, "processes": 1.85}
# A row takes at most so many times the CPU time in the largest field as in the smallest.
GROWTH_TARGET = 1.05
DISTINCT = 8

_COMBINE = """
import json, sys, time
from musedeep import open_field, plan
from musedeep.combine import combine_to_store
from musedeep.clusters import connect

def cpu_of(client):
    return time.process_time() + (sum(client.run(time.process_time).values()) if client else 0.0)

if __name__ == "__main__":
    kind, workers, side = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if side:
        plan.LARGEST_BLOCK = plan.LARGEST_BLOCK[0], side, side
    field = open_field(sys.argv[1]).changed(workers=workers)
    with connect(kind, workers=workers) as client:
        if client is not None:
            client.wait_for_workers(workers)
        cpu, wall = cpu_of(client), time.perf_counter()
        facts = combine_to_store(field, client=client)
        wall, cpu = time.perf_counter() - wall, cpu_of(client) - cpu
    print(json.dumps(facts | {"cpu": cpu, "wall": wall}))
"""


def combine(folder, kind, workers, side=0):
    """Combine an ingested field; its facts with ``cpu`` and ``wall`` [s]."""
    for leftover in ("cube.zarr", "cube.ledger"):
        measure(["rm", "-rf", folder / leftover])
    script = folder.parent / "combine_field.py"
    script.write_text(_COMBINE)
    return json.loads(measure([sys.executable, script, folder, kind, workers, side]).output)


def ingested(name, files, options, folder):
    """The folder of a field whose exposures are ingested, and the number of its rows."""
    field = folder / f"field-{name}"
    words = ["--overwrite", "--memory", options.memory]
    musedeep("init", *files, "-o", field, *words, *offsets_of(files))
    musedeep("ingest", field, "--quiet")
    return field, row_count(files)


def measure_workers(options, folder, report):
    """One thread, all threads; one process, as many as cores."""
    files = simulated(folder / "exposures", options.exposures, options.rows, options.field)
    field, rows = ingested("workers", files, options, folder)
    for kind in ("threads", "processes"):
        best = {}
        for workers in (1, options.workers):
            runs = [combine(field, kind, workers) for _ in range(options.repeat)]
            best[workers] = min(runs, key=lambda run: run["wall"])
        for workers, run in best.items():
            gain = best[1]["wall"] / run["wall"]
            add(report, f"{workers} {kind}", rows, run, best[1], speedup=gain)
            if workers == 2:
                report.hold(f"combine, 2 {kind} against one", gain, "times faster", at_least=TARGETS[kind])


def pointings_of(side, step):
    """East and north [arcsec] of the pointings of all exposures of a square mosaic."""
    places = [
        ((n % side - (side - 1) / 2) * step, (n // side - (side - 1) / 2) * step) for n in range(side**2)
    ]
    return [place for place in places for _ in range(EXPOSURES_OF_A_POINTING)]


def measure_area(options, folder, report):
    """Mosaics of more and more pointings of the same exposures each."""
    first = None
    for side in options.pointings:
        files = simulated(
            folder / f"mosaic{side}",
            side**2 * EXPOSURES_OF_A_POINTING,
            options.rows / 4,
            options.field / 2,
            pointings=pointings_of(side, options.field / 2),
        )
        field, rows = ingested(f"area{side}", files, options, folder)
        run = combine(field, "threads", 1)
        first = first or run | {"rows": rows}
        add(report, f"{side} x {side} pointings", rows, run, first)


def measure_blocks(options, folder, report):
    """Blocks of other sides than the plan's own."""
    files = simulated(folder / "exposures", options.exposures, options.rows, options.field)
    field, rows = ingested("blocks", files, options, folder)
    first = None
    for side in (0, *options.sides):
        run = combine(field, "threads", 1, side)
        first = first or run
        add(report, f"blocks of {side} spaxels" if side else "blocks as planned", rows, run, first)


def measure_exposures(options, folder, report):
    """Fields of more and more exposures: CPU time a row of ingest and combine, start-up taken off."""
    stages, words = ("ingest", "combine"), ("--memory", options.memory, "--workers", "1")
    distinct = simulated(folder / "small", DISTINCT, options.small_rows, options.small_field)
    starts = start_up(folder, *words, stages=stages, repeat=options.repeat)
    found = {}
    for number in sorted(options.numbers):
        files = repeated(distinct, number, folder / f"copies{number}")
        rows = row_count(files)
        # the best of several where start-up is much of it
        repeat = 1 if number == max(options.numbers) else 1 + options.repeat
        runs = [run_stages(files, folder / "field-many", *words, stages=stages) for _ in range(repeat)]
        cpu = {stage: min(run[stage]["cpu"] for run in runs) for stage in stages}
        found[number] = {stage: (cpu[stage] - starts[stage]) / rows * 1e9 for stage in stages}
        report.add(
            what="exposures",
            exposures=number,
            rows=rows,
            cpu_ns_per_row=sum(found[number].values()),
            rows_read_of_rows=runs[0]["combine"]["facts"]["rows_read"] / rows,
            peak_MB=runs[0]["combine"]["peak"] / 1e6,
            **{f"{stage}_ns_per_row": value for stage, value in found[number].items()},
        )
        measure(["rm", "-rf", folder / "field-many", folder / f"copies{number}"])
    few, many = min(found), max(found)
    ratio = sum(found[many].values()) / sum(found[few].values())
    figure = f"CPU time a row of ingest and combine, N = {many} against {few}"
    report.hold(figure, ratio, "times", at_most=GROWTH_TARGET)


def add(report, what, rows, run, first, **more):
    """A line of the report."""
    ratio = run["cpu"] / rows / (first["cpu"] / first.get("rows", rows))
    report.add(
        what=what,
        rows=rows,
        blocks=run["blocks"],
        cpu_ns_per_row=run["cpu"] / rows * 1e9,
        wall_ns_per_row=run["wall"] / rows * 1e9,
        cpu_ratio=ratio,
        rows_read_of_rows=run["rows_read"] / rows,
        peak_MB=run["peak_bytes"] / 1e6,
        **more,
    )


def measure_parts(options, folder):
    """The parts that are asked for; whether they scale as promised."""
    warm_up(folder)
    report = Report("Scaling")
    work = {
        "workers": measure_workers,
        "area": measure_area,
        "blocks": measure_blocks,
        "exposures": measure_exposures,
    }
    for part in options.only:
        work[part](options, folder, report)
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--exposures", type=int, default=16)
    parser.add_argument("--rows", type=float, default=3e6, help="of an exposure")
    parser.add_argument("--field", type=float, default=24.0, help="side of the field in arcsec")
    parser.add_argument("--workers", type=int, default=2, help="beside one")
    parser.add_argument("--pointings", type=int, nargs="+", default=[1, 2, 3], help="sides of mosaics")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 96], help="of blocks in spaxels")
    parser.add_argument("--numbers", type=int, nargs="+", default=[32, 128, 512], help="of small exposures")
    parser.add_argument("--small-rows", type=float, default=4e5, help="of a small exposure")
    parser.add_argument("--small-field", type=float, default=10.0, help="its side in arcsec")
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each number of workers")
    carry_out(parser, measure_parts)


if __name__ == "__main__":
    main()
