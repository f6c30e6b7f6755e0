"""What a cluster costs: seconds a block, memory of scheduler and client, and the planning of a large field.

    python benchmarks/cluster.py --blocks 10000 --exposures 1000

Blocks that do nothing go through the same function as those of a combination, to two worker processes. The
process that steers holds client and scheduler both; its memory must not grow with what is done already. Then
a field of many exposures is planned, before and after its ingest; that must take seconds.
"""

import sys
import time

from harness import Report, carry_out, command_line, measure, repeated, simulated

# Memory may still grow by this much after the first tenth: logs and counters of a bounded length fill up.
MOST_GROWTH_MB = 30.0
MOST_PLAN_SECONDS = 60.0


def nothing(item):
    """A block that takes no time; what it returns is as large as a block's record."""
    return {"block": item[0], "key": "0" * 32, "checksum": dict.fromkeys("abcdef", 0), "rows_read": 10**6}


def pass_blocks(report, count):
    """Blocks one after the other through the window: time of each, and memory as they go."""
    import musedeep as md
    from musedeep.execute import resident_bytes, run_tasks

    # what a block is told: its place, and a recipe of some kilobytes
    items = [(n, ((0, 128), (0, 160), (0, 160)), b"r" * 4000) for n in range(count)]
    marks = {max(1, count * tenth // 10) for tenth in (1, 2, 5, 10)}
    with md.connect("processes", memory="1GB", workers=2) as client:
        client.wait_for_workers(2)
        began, cpu, done, sizes = time.monotonic(), time.process_time(), 0, []
        for _ in run_tasks(nothing, items, client=client):
            done += 1
            if done in marks:
                sizes.append(resident_bytes() / 1e6)
                report.add(
                    what="blocks",
                    done=done,
                    ms_each=(time.monotonic() - began) / done * 1e3,
                    cpu_ms_each=(time.process_time() - cpu) / done * 1e3,
                    memory_MB=sizes[-1],
                )
    if sizes[-1] - sizes[0] > MOST_GROWTH_MB:
        report.fail(f"the memory of scheduler and client grew by {sizes[-1] - sizes[0]:.0f} MB")


def plan_field(report, folder, number):
    """Plan a field of many exposures, before and after its ingest."""
    files = simulated(folder / "data", 2, 1e3, field_arcsec=3.0)
    many = repeated(files, number, folder / "many")
    code = """
import sys, time, musedeep as md
folder, *files = sys.argv[1:]
field = md.Field.from_exposures(files, folder, overwrite=True, memory="1GB", workers=1)
began = time.process_time(); md.plan_ingest(md.open_field(folder)); print(time.process_time() - began)
md.ingest_exposures(field)
began = time.process_time(); md.plan_combine(md.open_field(folder)); print(time.process_time() - began)
"""
    found = measure([sys.executable, "-c", code, folder / "field", *many]).output.split()
    for stage, seconds in zip(("ingest", "combine"), map(float, found), strict=True):
        report.add(what=f"plan of the {stage}", done=number, cpu_s=seconds)
        if seconds > MOST_PLAN_SECONDS:
            report.fail(f"planning the {stage} of {number} exposures took {seconds:.0f} s")


def measure_all(options, folder):
    """Measure and report; whether all is as promised."""
    report = Report("What a cluster costs")
    pass_blocks(report, options.blocks)
    plan_field(report, folder, options.exposures)
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--blocks", type=int, default=10_000)
    parser.add_argument("--exposures", type=int, default=1000)
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
