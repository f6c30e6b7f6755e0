"""A whole exposure of 24 IFUs by our own code, with a model of its sky: CPU time and memory.

    python benchmarks/exposure.py
    python benchmarks/exposure.py --ifus 2 --skymethods model --small

Frames of one whole IFU are simulated, an OBJECT and a SKY frame, and calibrated. Its rows are then written as
those of every IFU, each twelve pixels below the one before it in the field: 319 million rows, 9 GB for either
frame and for the product, of which 18 GB are there at a time. The SKY frame is modelled, its model is
subtracted from the OBJECT frame, and the OBJECT frame is reduced with a model of its own sky. Times are user
plus system of whole processes with one thread.
"""

import json
import shutil
import sys

from harness import Report, carry_out, command_line, measure
from reduction import Night

IFU = 12
PROMISED_BYTES = 2e9

_SPREAD = """
import json, sys
from pathlib import Path
import numpy as np
from astropy.io import fits
from musedeep.muse import COLUMNS
from musedeep.pixtable import PixelTableWriter, open_pixel_table
job = json.loads(sys.argv[1])
table = open_pixel_table(Path(job["table"]), "pix")
units = {name: table.columns[name].unit for name in COLUMNS}
with fits.open(table.path) as hdus:
    lamp = hdus["PIXTABLE_FLAT_FIELD"].copy()
for ifu in job["ifus"]:
    header, own = table.header.copy(), f" IFU{table.ifu:02d} "
    for name in [name for name in header if own in name]:
        value = header[name]
        del header[name]
        header[f"HIERARCH {name.replace(own, f' IFU{ifu:02d} ')}"] = value
    header["EXTNAME"] = f"CHAN{ifu:02d}"
    path = Path(job["folder"]) / f"PIXTABLE_{ifu:02d}.fits"
    with PixelTableWriter(path, "image", header, table.row_count, COLUMNS, units=units) as writer:
        for start in range(0, table.row_count, 1 << 16):
            rows = table.read_columns(list(COLUMNS), start, min(start + (1 << 16), table.row_count))
            rows["ypos"] += 12 * (table.ifu - ifu)
            rows["origin"] = rows["origin"] & np.uint32(0xFFFFF83F) | np.uint32(ifu << 6)
            writer.append(rows)
        writer.finish(header, [lamp])
print(table.row_count)
"""


def spread(table, ifus, folder):
    """Write the rows of a table as those of other IFUs: their tables, and the number of all rows."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = {"table": str(table), "ifus": ifus, "folder": str(folder)}
    rows = int(measure([sys.executable, "-c", _SPREAD, json.dumps(job)]).output)
    return sorted(folder.glob("*.fits")), rows * len(ifus)


def reduce_all(options, folder):
    """All steps; whether they stay within the promised memory."""
    report = Report(f"An exposure of {options.ifus} IFUs with a model of its sky")
    night = Night(folder / "night", [IFU], "small" if options.small else "whole")
    ifus = list(range(1, options.ifus + 1))

    def step(name, what, rows, **given):
        run = night.native(name, what, keep=True, **given)
        report.add(step=name, million_rows=rows / 1e6, cpu_s=run.cpu, peak_MB=run.peak_bytes / 1e6)
        if run.peak_bytes > PROMISED_BYTES:
            report.fail(f"{name}: {run.peak_bytes / 1e9:.1f} GB; {PROMISED_BYTES / 1e9:g} GB are promised.")

    def tables_of(kind, raw):
        night.native(kind, "scibasic", raw=raw, tag=kind, keep=True)
        table = night.product(kind) / f"PIXTABLE_{IFU}.fits"
        return spread(table, ifus, folder / f"tables-{kind}")

    lines, plain = night.flux | night.lines, night.flux | night.astrometry
    if "subtract-model" in options.skymethods:
        tables, rows = tables_of("SKY", night.sky)
        step("create_sky", "create_sky", rows, tables=tables, frames=lines)
        shutil.rmtree(folder / "tables-SKY")
    tables, rows = tables_of("OBJECT", night.object)
    found = {tag: [night.product("create_sky") / f"{tag}.fits"] for tag in ("SKY_LINES", "SKY_CONTINUUM")}
    frames = {"model": plain | night.lines, "subtract-model": plain | night.lines | found, "none": plain}
    for method in options.skymethods:
        step(method, "scipost", rows, tables=tables, frames=frames[method], skymethod=method)
        shutil.rmtree(night.product(method))
    shutil.rmtree(folder / "tables-OBJECT")
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--ifus", type=int, default=24, help="how many [%(default)s]")
    parser.add_argument("--small", action="store_true", help="short slices on detectors read with binning")
    parser.add_argument(
        "--skymethods", nargs="+", choices=("none", "subtract-model", "model"),
        default=["subtract-model", "model"], help="of the OBJECT frame [%(default)s]",
    )  # fmt: skip
    carry_out(parser, reduce_all)


if __name__ == "__main__":
    main()
