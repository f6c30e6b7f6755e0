"""CPU time of the combination alone, for fields of more and more exposures.

    python benchmarks/combine.py --exposures 4 8 64 --rows 3e6 --reject guarded eso
    python benchmarks/combine.py --exposures 8 32 128 512 --rows 2e5 --field 10

The exposures are ingested first; then `combine_to_store` runs in a process of its own, whose CPU time from
the call to its return counts (with what it imports, and kernels come from the cache). Time per row should
not grow with the number of exposures. Two tiny exposures take `start_s`; without it remains
`after_start_ns_per_row`, which is held against what is wanted.
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
    simulated,
    warm_up,
)

# Core-nanoseconds a row that are wanted, by number of exposures and rule; and bytes a row that are read.
TARGETS = {(64, "guarded"): 50.0, (64, "eso"): 100.0, (8, "guarded"): 150.0, (4, "guarded"): 200.0}
BYTES_TARGETS = {64: 9.0}

DISTINCT = 16

_STAGE = """
import json, sys, time
from musedeep import open_field
from musedeep.combine import combine_to_store
field = open_field(sys.argv[1]).changed(reject=sys.argv[2], workers=int(sys.argv[3]))
cpu, wall = time.process_time(), time.perf_counter()
facts = combine_to_store(field)
print(json.dumps(facts | {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}))
"""


def measure_combine(folder, reject, workers):
    """Combine an ingested field in a child process; its facts with ``cpu`` and ``wall`` [s]."""
    for leftover in ("cube.zarr", "cube.ledger"):
        measure(["rm", "-rf", folder / leftover])
    run = measure([sys.executable, "-c", _STAGE, folder, reject, workers])
    return json.loads(run.output) | {"peak_bytes": run.peak_bytes}


def measure_all(options, folder):
    """All fields and rules; whether what is promised was reached."""
    warm_up(folder)
    report = Report("Combination alone")
    starts = {
        reject: min(
            measure_combine(folder / f"warm-{reject}", reject, options.workers)["cpu"] for _ in range(2)
        )
        for reject in options.reject
    }
    distinct = simulated(
        folder / "distinct", min(DISTINCT, max(options.exposures)), options.rows, options.field
    )
    for number in options.exposures:
        files = repeated(distinct, number, folder / f"exposures{number}")
        field = folder / f"field{number}"
        words = ["--overwrite", "--memory", options.memory, "--workers", str(options.workers)]
        musedeep("init", *files, "-o", field, *words, *offsets_of(files))
        musedeep("ingest", field, "--quiet")
        rows = row_count(files)
        for reject in options.reject:
            runs = [measure_combine(field, reject, options.workers) for _ in range(options.repeat)]
            facts = min(runs, key=lambda run: run["cpu"])
            cpu, after = facts["cpu"] / rows * 1e9, (facts["cpu"] - starts[reject]) / rows * 1e9
            report.add(
                exposures=number,
                reject=reject,
                rows=rows,
                cpu_ns_per_row=cpu,
                wall_ns_per_row=facts["wall"] / rows * 1e9,
                blocks=facts["blocks"],
                rows_read_of_rows=facts["rows_read"] / rows,
                bytes_read_per_row=facts["bytes_read"] / rows,
                peak_MB=facts["peak_bytes"] / 1e6,
                start_s=starts[reject],
                after_start_ns_per_row=after,
            )
            hold(report, number, reject, after, facts["bytes_read"] / rows)
        measure(["rm", "-rf", field, folder / f"exposures{number}"])
    return report.write(options.output)


def hold(report, number, reject, cpu, size):
    """Hold CPU time and bytes a row against what is wanted of them."""
    if (number, reject) in TARGETS:
        figure = f"combine, N = {number}, {reject}, CPU time a row after start-up"
        report.hold(figure, cpu, "core-ns", at_most=TARGETS[number, reject])
    if reject == "guarded" and number in BYTES_TARGETS:
        figure = f"bytes that combine reads, N = {number}, a row of the input"
        report.hold(figure, size, "bytes", at_most=BYTES_TARGETS[number])


def main():
    parser = command_line(__doc__)
    parser.add_argument("--exposures", type=int, nargs="+", default=[64])
    parser.add_argument("--rows", type=float, default=1.5e6, help="of an exposure")
    parser.add_argument("--field", type=float, default=24.0, help="side of the field in arcsec")
    parser.add_argument("--reject", nargs="+", default=["guarded"])
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--workers", type=int, default=1, help="threads")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each, of which the best counts")
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
