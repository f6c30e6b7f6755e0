"""Peak memory of a worker for fields of more and more exposures, and of the ingest of a large one.

    python benchmarks/memory.py --memory 500MB --exposures 32 128 512 1024
    python benchmarks/memory.py --memory 500MB --exposures 128 512 --cluster processes
    python benchmarks/memory.py --memory 4GB --exposures --large 3.3e8 --large-exposures 2
    python benchmarks/memory.py --memory 500MB --exposures --mosaic 50

A deep field has more rows in a voxel, so memory is where it hurts: it must stay within `memory=`, must be at
most what the plan predicted, and must not grow with the number of exposures. The largest field is ingested;
the smaller ones are every second, fourth, ... exposure of it. Each stage runs as a process of its own. The
figures are the peak resident size that the system saw, of the whole process or of a cluster's largest worker.
"""

import json
import math
import re
import shutil

from harness import (
    ROWS_PER_ARCSEC2_ANGSTROM,
    Report,
    carry_out,
    command_line,
    megabytes,
    musedeep,
    offsets_of,
    repeated,
    row_count,
    simulated,
    warm_up,
)

# Simulated exposures that a field is made of, over and over again.
DISTINCT = 8
# From so many exposures on the peak may grow by so much, and be so much of the memory that is granted.
DEEP, MOST_GROWTH, MOST_OF_MEMORY = 128, 1.05, 1.1
# Side of the pointings of a mosaic, arcsec: small, since it is the cube that counts.
MOSAIC_FIELD = 15.0
# Side of a large exposure, arcsec: the whole field of view.
LARGE_FIELD = 60.0


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
    shutil.rmtree(folder, ignore_errors=True)
    musedeep("init", *files, "-o", folder, *offsets_of(files))
    rows, found = row_count(files), {}
    found["ingest"] = measure_stage(report, "ingest", folder, len(files), rows, options)
    for number in numbers:
        step = len(files) // number
        words = ["--select", f"every:{step}", "--reject", options.reject]
        some = files[::step]
        try:
            found[number] = measure_stage(
                report, "combine", folder, len(some), row_count(some), options, *words
            )
        except RuntimeError as refused:
            need = re.search(r"needs (\d+) MB", str(refused))
            if need is None:
                raise
            report.note(f"Refused with {len(some)} exposures before it ran: {need[1]} MB are needed.")
            found[number] = (float(need[1]) * 1e6,) * 2
    return found


def measure_mosaic(report, folder, options):
    """All stages of five pointings far apart, whose cube is far larger than the memory; peaks."""
    far = options.mosaic
    pointings = [(0.0, 0.0), *((x, y) for x in (-far, far) for y in (-far, far))]
    files = simulated(folder / "mosaic", 5, 2.8e6, MOSAIC_FIELD, pointings=pointings, dither_arcsec=0.0)
    field, rows = folder / "field-mosaic", row_count(files)
    shutil.rmtree(field, ignore_errors=True)
    musedeep("init", *files, "-o", field, *offsets_of(files))
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
        hold(report, {number: peaks[number][1] for number in numbers}, options.memory)
    if options.large:
        number, low = options.large_exposures, 4750.0
        high = low + options.large / (ROWS_PER_ARCSEC2_ANGSTROM * LARGE_FIELD**2)
        large = simulated(folder / "large", number, options.large, LARGE_FIELD, wavelength=[low, high])
        peaks = measure_field(report, large, folder / "field-large", options, [number])
        found += peaks.values()
        figure = f"peak memory of combining {number} exposures of {options.large:.2g} rows"
        report.hold(figure, peaks[number][1] / 1e6, "MB", at_most=megabytes(options.memory))
    if options.mosaic:
        found += measure_mosaic(report, folder, options)
    for predicted, peak in found:
        if peak > megabytes(options.memory) * 1e6:
            report.fail(f"{peak / 1e6:.0f} MB are more than {options.memory}.")
        if peak > predicted:
            report.fail(f"{peak / 1e6:.0f} MB are more than the {predicted / 1e6:.0f} MB predicted.")
    return report.write(options.output)


def hold(report, peaks, memory):
    """Hold the peaks of deep fields against what is wanted of them."""
    many = max(peaks)
    few = min((number for number in peaks if number >= DEEP), default=many)
    if few < many:
        figure = f"peak memory of a worker, memory = {memory}"
        most = MOST_OF_MEMORY * megabytes(memory)
        report.hold(f"{figure}, N = {many}", peaks[many] / 1e6, "MB", at_most=most)
        grown = peaks[many] / peaks[few]
        report.hold(f"{figure}, N = {many} against {few}", grown, "times", at_most=MOST_GROWTH)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--memory", default="500MB", help="in MB or GB")
    parser.add_argument("--exposures", type=int, nargs="*", default=[32, 128, 512, 1024])
    parser.add_argument("--rows", type=float, default=1e5, help="of an exposure")
    parser.add_argument("--field", type=float, default=8.0, help="side of the field in arcsec")
    parser.add_argument("--large", type=float, default=0.0, help="also exposures of so many rows")
    parser.add_argument("--large-exposures", type=int, default=1, help="number of these")
    parser.add_argument("--mosaic", type=float, default=0.0, help="also five pointings so many arcsec apart")
    parser.add_argument("--cluster", default="threads", choices=("threads", "processes"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--reject", default="guarded", choices=("guarded", "eso", "none"))
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
