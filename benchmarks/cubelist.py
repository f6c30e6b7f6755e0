"""MPDAF's combination of ready-made cubes and musedeep's of the rows, for the same exposures.

    python benchmarks/cubelist.py --exposures 16 --rows 1e6

MPDAF is given a cube of each exposure on the common grid, which somebody had to make; that is not counted.
musedeep begins with the pixel tables. Times are user plus system of whole processes with one thread.
"""

import sys

from harness import Report, carry_out, command_line, measure, musedeep, row_count, simulated, warm_up

_CUBES = """
import sys
import musedeep as md
field = md.open_field(sys.argv[1])
grid = md.combine_exposures(field).muse.grid
for n, date in enumerate(field.exposures.dates):
    cube = md.combine_exposures(field, grid=grid, select=[date], reject="none")
    cube.muse.to_mpdaf().write(f"{sys.argv[2]}/{n:03d}.fits", savemask="nan")
"""

_MPDAF = """
import sys
from pathlib import Path
from mpdaf import obj
cubes = obj.CubeList(sorted(str(path) for path in Path(sys.argv[1]).glob("*.fits")))
cubes.combine(nmax=2, nclip=5.0, var="stat_mean")[0].write(sys.argv[2], savemask="nan")
"""


def main():
    parser = command_line(__doc__)
    parser.add_argument("--exposures", type=int, default=16)
    parser.add_argument("--rows", type=float, default=1e6, help="of an exposure")
    parser.add_argument("--field", type=float, default=24.0, help="side of the field in arcsec")
    carry_out(parser, compare)


def compare(options, folder):
    """Run both and report."""
    warm_up(folder)
    files = simulated(folder / "exposures", options.exposures, options.rows, options.field)
    report = Report("musedeep beside MPDAF's CubeList")
    words = ["--workers", "1", "--assess", "off", "--quiet", "--no-align"]
    ours = musedeep("run", *files, "-o", folder / "field", "--overwrite", *words)
    cubes = folder / "cubes"
    cubes.mkdir(exist_ok=True)
    measure([sys.executable, "-c", _CUBES, folder / "field", cubes])
    theirs = measure([sys.executable, "-c", _MPDAF, cubes, folder / "mpdaf.fits"])
    rows = row_count(files)
    for name, begins_with, run in (("musedeep run", "tables", ours), ("CubeList.combine", "cubes", theirs)):
        report.add(
            program=name,
            begins_with=begins_with,
            exposures=options.exposures,
            cpu_ns_per_row=run.cpu / rows * 1e9,
            wall_ns_per_row=run.seconds / rows * 1e9,
            peak_MB=run.peak_bytes / 1e6,
            cpu_of_ours=run.cpu / ours.cpu,
        )
    return report.write(options.output)


if __name__ == "__main__":
    main()
