"""Peak memory of a worker for fields of more and more exposures, and of the ingest of a large one.

    python benchmarks/memory.py --memory 500MB --exposures 32 128 512
    python benchmarks/memory.py --memory 500MB --exposures 128 512 --cluster processes
    python benchmarks/memory.py --memory 1GB --exposures --large 8e6

A deep field has more rows in a voxel, so memory is where it hurts: it must stay within `memory=` and must not
grow with the number of exposures. Each stage runs as a process of its own. The figures are the peak resident
size as the system saw it, of the process (all of it) and, on a cluster, of the largest worker.
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

from harness import Report, musedeep, repeated, row_count, simulated, warm_up

# Simulated exposures that a field is made of, over and over again.
DISTINCT = 8


def measure_field(report, files, folder, options):
    """Ingest and combine a field with one worker, and report both; the peak of the combination in bytes."""
    offsets = files[0].parent / "OFFSET_LIST.fits"
    words = ["--memory", options.memory, "--workers", str(options.workers), "--cluster", options.cluster]
    words += ["--offsets", offsets] if offsets.exists() else []
    musedeep("init", *files, "-o", folder, "--overwrite", *words)
    rows, peak = row_count(files), 0
    for stage in ("ingest", "combine"):
        run = musedeep(stage, folder, "--quiet", "--json")
        facts = json.loads(run.output)["stages"][0]
        # without a cluster the process is the worker, and everything since its start counts
        peak = run.peak_bytes if options.cluster == "threads" else facts["measured_bytes"]
        report.add(
            stage=stage,
            exposures=len(files),
            rows=rows,
            cluster=options.cluster,
            memory=options.memory,
            predicted_MB=facts["predicted_bytes"] / 1e6,
            worker_MB=peak / 1e6,
            largest_process_MB=run.peak_bytes / 1e6,
            cpu_ns_per_row=run.cpu / rows * 1e9,
            rows_read_of_rows=facts["facts"].get("rows_read", rows) / rows,
        )
        if peak > megabytes(options.memory) * 1e6:
            report.note(f"{stage} of {len(files)} exposures took more than {options.memory}.")
    return peak


def megabytes(memory):
    """A size such as 500MB or 1GB in MB."""
    number, unit = re.fullmatch(r"([0-9.]+)(MB|GB)", memory).groups()
    return float(number) * {"MB": 1.0, "GB": 1000.0}[unit]


def measure_all(options, folder):
    """All fields; whether memory held."""
    warm_up(folder)
    report = Report(f"Peak memory within {options.memory}")
    peaks = {}
    small = simulated(folder / "small", DISTINCT, options.rows, options.field, dither_arcsec=0.4)
    for number in options.exposures:
        files = repeated(small, number, folder / f"exposures{number}")
        peaks[number] = measure_field(report, files, folder / f"field{number}", options)
    if options.large:
        large = simulated(folder / "large", 1, options.large, 60.0)
        measure_field(report, large, folder / "field-large", options)
    if len(peaks) > 1:
        first, last = sorted(peaks)[-2:]
        grown = peaks[last] / peaks[first] - 1
        report.note(
            f"From {first} to {last} exposures the peak changes by {100 * grown:+.1f} %; 10 % are allowed."
        )
        if grown > 0.10:
            report.note("IT GROWS WITH THE NUMBER OF EXPOSURES.")
    report.write(options.output)
    return not any("took more" in note or "IT GROWS" in note for note in report.notes)


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--memory", default="500MB", help="in MB or GB")
    parser.add_argument("--exposures", type=int, nargs="*", default=[32, 128, 512])
    parser.add_argument("--rows", type=float, default=1e5, help="of an exposure")
    parser.add_argument("--field", type=float, default=8.0, help="side of the field in arcsec")
    parser.add_argument("--large", type=float, default=0.0, help="also an exposure of so many rows")
    parser.add_argument("--cluster", default="threads", choices=("threads", "processes"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work and keep the simulation [temporary]")
    parser.add_argument("--output", type=Path, help="write the report here, .md and .json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(0 if measure_all(options, options.folder or Path(temporary)) else 1)


if __name__ == "__main__":
    main()
