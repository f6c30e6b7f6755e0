"""Peak memory of a worker for fields of more and more exposures, and of the ingest of a large one.

    python benchmarks/memory.py --memory 500MB --exposures 32 128 512
    python benchmarks/memory.py --memory 500MB --exposures 128 512 --cluster processes
    python benchmarks/memory.py --memory 1GB --exposures --large 2.5e7
    python benchmarks/memory.py --memory 500MB --exposures --mosaic 50

A deep field has more rows in a voxel, so memory is where it hurts: it must stay within `memory=`, must be at
most what the plan predicted, and must not grow with the number of exposures. The largest field is ingested;
the smaller ones are every second, fourth, ... exposure of it. Each stage runs as a process of its own. The
figures are the peak resident size that the system saw, of the whole process or of a cluster's largest worker.
"""

import json
import math
import shutil

from harness import (
    Report,
    carry_out,
    command_line,
    megabytes,
    musedeep,
    repeated,
    row_count,
    simulated,
    warm_up,
)

# Simulated exposures that a field is made of, over and over again.
DISTINCT = 8
# Side of the pointings of a mosaic, arcsec: small, since it is the cube that counts.
MOSAIC_FIELD = 15.0


def measure_stage(report, stage, field, exposures, rows, options, *words):
    """Run one stage in a process of its own, with one worker, and report it; its facts."""
    words = [
        "--memory",
        options.memory,
        "--workers",
        str(options.workers),
        "--cluster",
        options.cluster,
        *words,
    ]
    run = musedeep(stage, field, "--quiet", "--json", *words)
    facts = json.loads(run.output)["stages"][0]
    # without a cluster the process is the worker, and everything since its start counts
    peak = run.peak_bytes if options.cluster == "threads" else facts["measured_bytes"]
    report.add(
        stage=stage,
        exposures=exposures,
        rows=rows,
        cluster=options.cluster,
        memory_MB=megabytes(options.memory),
        predicted_MB=facts["predicted_bytes"] / 1e6,
        worker_MB=peak / 1e6,
        cpu_ns_per_row=run.cpu / rows * 1e9,
        rows_read_of_rows=facts["facts"].get("rows_read", rows) / rows,
    )
    return facts["predicted_bytes"], peak


def measure_field(report, files, folder, options, numbers):
    """Ingest a field and combine parts of it; predicted and measured peak by number of exposures."""
    offsets = files[0].parent / "OFFSET_LIST.fits"
    words = ["--offsets", offsets] if offsets.exists() else []
    shutil.rmtree(folder, ignore_errors=True)
    musedeep("init", *files, "-o", folder, *words)
    rows, found = row_count(files), {}
    found["ingest"] = measure_stage(report, "ingest", folder, len(files), rows, options)
    for number in numbers:
        some = row_count(files[:: len(files) // number])
        words = ["--select", f"every:{len(files) // number}", "--reject", options.reject]
        found[number] = measure_stage(report, "combine", folder, number, some, options, *words)
    return found


def measure_mosaic(report, folder, options):
    """All stages of five pointings far apart, whose cube is far larger than the memory; peaks."""
    far = options.mosaic
    pointings = [(0.0, 0.0), *((x, y) for x in (-far, far) for y in (-far, far))]
    files = simulated(folder / "mosaic", 5, 2.8e6, MOSAIC_FIELD, pointings=pointings, dither_arcsec=0.0)
    field, rows = folder / "field-mosaic", row_count(files)
    shutil.rmtree(field, ignore_errors=True)
    musedeep("init", *files, "-o", field, "--offsets", files[0].parent / "OFFSET_LIST.fits")
    stages = ("ingest", "combine", "products", "qc")
    found = [measure_stage(report, stage, field, len(files), rows, options) for stage in stages]
    # two variables of four bytes a voxel
    shape = json.loads((field / "cube.zarr" / "zarr.json").read_text())["attributes"]["grid"]["shape"]
    size = 8 * math.prod(shape)
    report.note(
        f"The mosaic has {' x '.join(map(str, shape))} voxels, {size / 1e6:.0f} MB of flux and variance."
    )
    return found


def measure_all(options, folder):
    """All fields; whether memory held."""
    warm_up(folder)
    report = Report(f"Peak memory within {options.memory}")
    found = []
    if options.exposures:
        numbers = sorted(options.exposures)
        small = simulated(folder / "small", DISTINCT, options.rows, options.field, dither_arcsec=0.4)
        files = repeated(small, numbers[-1], folder / "exposures")
        peaks = measure_field(report, files, folder / "field", options, numbers)
        found += peaks.values()
        if len(numbers) > 1:
            grown = peaks[numbers[-1]][1] / peaks[numbers[-2]][1] - 1
            report.note(
                f"From {numbers[-2]} to {numbers[-1]} exposures the peak changes by {100 * grown:+.1f} %; "
                "10 % are allowed."
            )
            if grown > 0.10:
                report.fail("It grows with the number of exposures.")
    if options.large:
        large = simulated(folder / "large", 1, options.large, 60.0)
        found += measure_field(report, large, folder / "field-large", options, [1]).values()
    if options.mosaic:
        found += measure_mosaic(report, folder, options)
    for predicted, peak in found:
        if peak > megabytes(options.memory) * 1e6:
            report.fail(f"{peak / 1e6:.0f} MB are more than {options.memory}.")
        if peak > predicted:
            report.fail(f"{peak / 1e6:.0f} MB are more than the {predicted / 1e6:.0f} MB predicted.")
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--memory", default="500MB", help="in MB or GB")
    parser.add_argument("--exposures", type=int, nargs="*", default=[32, 128, 512])
    parser.add_argument("--rows", type=float, default=1e5, help="of an exposure")
    parser.add_argument("--field", type=float, default=8.0, help="side of the field in arcsec")
    parser.add_argument("--large", type=float, default=0.0, help="also an exposure of so many rows")
    parser.add_argument("--mosaic", type=float, default=0.0, help="also five pointings so many arcsec apart")
    parser.add_argument("--cluster", default="threads", choices=("threads", "processes"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--reject", default="guarded", choices=("guarded", "eso", "none"))
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
