"""How long a part of a deep cube takes to be combined again, beside the whole.

    python benchmarks/cutout.py
    python benchmarks/cutout.py --exposures 16 --field 60 --length 150

The exposures are ingested and combined into the cube store; then a cutout is combined again in a process of
its own: as it was, with other clipping, with half of the exposures, split into halves and into all exposures
in one pass, and without each exposure. What counts is CPU time from the call to the values, kernels being
loaded. Beside it stand the share of voxels of the cutout, the share of bytes that are read, and the peak
memory of the process so far. The whole of a real field is larger (300 x 300 x 3700 voxels), so its share is
smaller by as much.
"""

import json
import sys

from harness import (
    Report,
    carry_out,
    command_line,
    measure,
    musedeep,
    repeated,
    row_count,
    simulated,
    warm_up,
)

DISTINCT = 4
MOST_SECONDS = 20.0  # of one core for 10" x 10" x 100 Angstrom of 100 exposures

_WHOLE = """
import json, sys, time
from musedeep import open_field
from musedeep.combine import combine_to_store
cpu, wall = time.process_time(), time.perf_counter()
facts = combine_to_store(open_field(sys.argv[1]))
print(json.dumps(facts | {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}))
"""

_CUTOUT = """
import json, resource, sys, time
import musedeep as md
from musedeep import combine
from musedeep.explore import cutouts
folder, size, low, high = sys.argv[1], *map(float, sys.argv[2:5])
deep = md.open_cube(folder + "/cube.zarr")
grid = deep.muse.grid
middle = grid.position(grid.shape[2] / 2, grid.shape[1] / 2)
cut = deep.muse.cutout(middle, size, wavelength=(low, high))
records, work = [], combine.combine_block
def counted(*arguments, **options):
    maps, record = work(*arguments, **options)
    records.append(record)
    return maps, record
combine.combine_block = cutouts.combine_block = counted
md.recombine(cut.isel(wavelength=slice(0, 1), y=slice(0, 1), x=slice(0, 1))).compute(scheduler="synchronous")
first = md.split_exposures(cut.isel(wavelength=slice(0, 1), y=slice(0, 1), x=slice(0, 1)))
first.compute(scheduler="synchronous")
results = {}
tries = {
    "as it was": lambda: md.recombine(cut),
    "nclip = 3": lambda: md.recombine(cut, nclip=3),
    "half of the exposures": lambda: md.recombine(cut, select="half:A"),
    "halves apart": lambda: md.split_exposures(cut, by="half"),
    "every exposure apart": lambda: md.split_exposures(cut),
    "without each exposure": lambda: md.leave_out(md.split_exposures(cut)),
}
for name, make in tries.items():
    records.clear()
    cpu, wall = time.process_time(), time.perf_counter()
    make().compute(scheduler="synchronous")
    results[name] = {
        "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "voxels": cut.flux.size,
        "bytes_read": sum(r["bytes_read"] for r in records),
        "rows_read": sum(r["rows_read"] for r in records),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
print(json.dumps({"results": results, "voxels": deep.flux.size}))
"""


def measure_all(options, folder):
    """All depths; whether the cutouts are as quick as promised."""
    warm_up(folder)
    report = Report("Combining a cutout again")
    rows = 20.0 * options.field**2 * options.length
    distinct = simulated(folder / "distinct", DISTINCT, rows, options.field)
    for number in options.exposures:
        files = repeated(distinct, number, folder / f"exposures{number}")
        field = folder / f"field{number}"
        musedeep("init", *files, "-o", field, "--overwrite", "--memory", "4GB", "--workers", "1")
        musedeep("ingest", field, "--quiet")
        whole = json.loads(measure([sys.executable, "-c", _WHOLE, field]).output)
        low = 6500.0 + (options.length - options.band) / 2
        words = [field, options.size, low, low + options.band]
        found = json.loads(measure([sys.executable, "-c", _CUTOUT, *map(str, words)]).output)
        total = row_count(files)
        for name, facts in found["results"].items():
            report.add(
                exposures=number,
                what=name,
                seconds=facts["cpu"],
                of_whole=facts["cpu"] / whole["cpu"],
                voxels_of_whole=facts["voxels"] / found["voxels"],
                bytes_read_of_whole=facts["bytes_read"] / whole["bytes_read"],
                MB_read=facts["bytes_read"] / 1e6,
                rows_read_of_all=facts["rows_read"] / total,
                peak_MB=facts["peak"] / 1e6,
            )
            if facts["cpu"] > MOST_SECONDS:
                report.fail(f"{facts['cpu']:.1f} s are more than {MOST_SECONDS:.0f} s.")
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--exposures", type=int, nargs="+", default=[16, 100])
    parser.add_argument("--field", type=float, default=20.0, help="side of the field in arcsec")
    parser.add_argument("--length", type=float, default=150.0, help="of its spectra in Angstrom")
    parser.add_argument("--size", type=float, default=10.0, help="side of the cutout in arcsec")
    parser.add_argument("--band", type=float, default=100.0, help="its length in Angstrom")
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
