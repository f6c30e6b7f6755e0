"""What the next exposure of a field costs, beside the whole; the bits must be those of a field from nothing.

    python benchmarks/addition.py
    python benchmarks/addition.py --exposures 100 --rows 2e6

A mosaic of two pointings is taken in and combined with all exposures but the last; then the last is added.
CPU time of its ingest is compared with that of all exposures, the headers of all of which are looked at in
either case; and the blocks that are combined anew are counted. A process of its own takes a second more to
load libraries and kernels, which stands in a column of its own: beside the ingest of real exposures,
a hundred times as large as these, it is nothing.
"""

import json
import sys

from harness import Report, carry_out, command_line, measure, musedeep, repeated, simulated, warm_up

DISTINCT = 4  # the others are copies of these
MOST_OF_INGEST = 0.03

_STAGE = """
import json, shutil, sys, time
from musedeep import open_field
from musedeep.combine import combine_to_store
from musedeep.ingest import ingest_exposures
folder, warm = sys.argv[1:3]
shutil.rmtree(warm + "/pixels.zarr")
ingest_exposures(open_field(warm))
start = time.process_time()
times = []
for stage in (ingest_exposures, ingest_exposures, combine_to_store):
    field = open_field(folder)
    cpu = time.process_time()
    facts = stage(field)
    times.append(time.process_time() - cpu)
print(json.dumps(dict(zip(("ingest", "check", "combine"), times), start=start) | facts))
"""

_BITS = """
import sys
import numpy as np
from musedeep import open_cube
one, two = (open_cube(path + "/cube.zarr") for path in sys.argv[1:3])
same = all(
    np.array_equal(one[name].values.view("u" + str(one[name].dtype.itemsize)),
                   two[name].values.view("u" + str(two[name].dtype.itemsize))) for name in one
)
print(same)
"""


def stages(field):
    """Ingest and combine a field in a process of its own, kernels being loaded.

    Returns
    -------
    dict
        CPU seconds of the ``start`` of the process, of ``ingest``, of the ``check`` that all exposures are
        there, and of ``combine``; facts of the latter.
    """
    return json.loads(measure([sys.executable, "-c", _STAGE, field, field.parent / "warm-none"]).output)


def measure_all(options, folder):
    """Add an exposure; whether it costs as little as promised."""
    warm_up(folder)
    report = Report("One exposure more")
    number = options.exposures + 1
    places = [[0.0, 0.0], [2.5 * options.field, 0.0]]
    distinct = simulated(folder / "distinct", DISTINCT, options.rows, options.field, pointings=places)
    files = repeated(distinct, number, folder / "exposures")
    words = ["--overwrite", "--memory", "512MB", "--workers", "1"]
    musedeep("init", *files[:-1], "-o", folder / "field", *words)
    before = stages(folder / "field")
    grid = folder / "field" / "history" / "0001.json"
    # an exposure beyond the others would make a larger grid; here it is kept
    musedeep("init", *files, "-o", folder / "whole", *words, "--grid", grid)
    whole = stages(folder / "whole")
    musedeep("init", *files, "-o", folder / "field", *words, "--grid", grid)
    after = stages(folder / "field")
    same = measure([sys.executable, "-c", _BITS, folder / "field", folder / "whole"]).output.strip()
    share = after["ingest"] / whole["ingest"]
    report.add(
        exposures=options.exposures,
        rows_each=options.rows,
        ingest_of_whole=share,
        ingest_seconds=after["ingest"],
        of_which_headers=after["check"],
        process_seconds=after["ingest"] + after["start"],
        blocks=after["blocks"],
        blocks_combined=after["computed"],
        combine_of_whole=after["combine"] / whole["combine"],
        same_bits=same,
    )
    report.note(
        f"Taking in the first {options.exposures} took {before['ingest']:.1f} s, all {whole['ingest']:.1f} s."
    )
    if share > MOST_OF_INGEST:
        report.fail(f"{share:.1%} of the whole ingest are more than {MOST_OF_INGEST:.0%}.")
    if same != "True":
        report.fail("The bits are not those of a field from nothing.")
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--exposures", type=int, default=100, help="before the last one is added")
    parser.add_argument("--rows", type=float, default=2e6, help="of an exposure")
    parser.add_argument("--field", type=float, default=24.0, help="side of an exposure in arcsec")
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
