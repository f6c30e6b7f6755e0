"""ESO's muse_exp_combine and musedeep on the same files: CPU time, peak memory and wall time of the whole
processes.

    python benchmarks/peer.py --exposures 8 --rows 3.5e6
    python benchmarks/peer.py --exposures 32 --rows 3.5e6 --reject guarded --threads 1 2

Both read the same simulated pixel tables and offset list, with as many threads, and write their cube and
their white-light image. Times are user plus system, of everything from start to end of the command, imports
included. The peer has one rule of rejection (`eso`); it stands beside both of musedeep's.
"""

import shutil

from harness import (
    Report,
    carry_out,
    command_line,
    measure,
    musedeep,
    offsets_of,
    row_count,
    simulated,
    warm_up,
)

# How many times less CPU time is wanted with one thread, by exposures and rule; and how many times less wall
# time with two.
CPU_TARGETS = {(8, "eso"): 10.0, (8, "guarded"): 10.0, (32, "guarded"): 25.0}
WALL_TARGETS = {(32, "guarded"): 20.0}


def run_peer(files, folder, threads):
    """Run ESO's recipe; `harness.Measured`."""
    folder.mkdir(parents=True)
    offsets = files[0].parent / "OFFSET_LIST.fits"
    frames = [f"{path} PIXTABLE_REDUCED" for path in files] + [f"{offsets} OFFSET_LIST"]
    (folder / "frames.sof").write_text("\n".join(frames) + "\n")
    words = [
        "esorex",
        f"--output-dir={folder}",
        f"--log-dir={folder}",
        "muse_exp_combine",
        folder / "frames.sof",
    ]
    return measure(words, OMP_NUM_THREADS=str(threads))


def run_ours(files, folder, reject, threads, memory):
    """Run all stages of musedeep that the peer has too; `harness.Measured`."""
    # the peer does not assess the quality of what it made
    words = ["--reject", reject, "--workers", str(threads), "--memory", memory, *offsets_of(files)]
    return musedeep("run", *files, "-o", folder, *words, "--assess", "off", "--quiet")


def best(run, files, folder, repeat):
    """The run that took least CPU time; what it wrote is removed. Each finds its input in memory."""
    found = []
    for number in range(repeat):
        for path in files:
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass
        found.append(run(folder / f"run{number}"))
        shutil.rmtree(folder / f"run{number}")
    return min(found, key=lambda measured: measured.cpu)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--exposures", type=int, default=8)
    parser.add_argument("--rows", type=float, default=3.5e6, help="of an exposure")
    parser.add_argument("--field", type=float, default=24.0, help="side of the field in arcsec")
    parser.add_argument("--reject", nargs="+", default=["eso", "guarded"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="of both, one after the other")
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each, of which the best counts")
    carry_out(parser, compare)


def compare(options, folder):
    """Run both and report; whether what is promised was reached."""
    files = simulated(
        folder / f"exposures{options.exposures}", options.exposures, options.rows, options.field
    )
    warm_up(folder)
    report = Report(f"musedeep beside muse_exp_combine, {options.exposures} exposures")
    rows = row_count(files)
    for threads in options.threads:
        ours = {
            reject: best(
                lambda path, reject=reject, threads=threads: run_ours(
                    files, path, reject, threads, options.memory
                ),
                files,
                folder,
                options.repeat,
            )
            for reject in options.reject
        }
        peer = best(
            lambda path, threads=threads: run_peer(files, path, threads), files, folder, options.repeat
        )
        runs = [("muse_exp_combine", "eso", peer)] + [("musedeep", *item) for item in ours.items()]
        for name, reject, run in runs:
            report.add(
                program=name,
                reject=reject,
                exposures=options.exposures,
                threads=threads,
                rows=rows,
                cpu_ns_per_row=run.cpu / rows * 1e9,
                wall_ns_per_row=run.seconds / rows * 1e9,
                peak_MB=run.peak_bytes / 1e6,
                bytes_per_row=run.peak_bytes / rows,
                times_less_cpu=peer.cpu / run.cpu,
                times_less_wall=peer.seconds / run.seconds,
            )
        hold(report, options.exposures, threads, ours, peer)
    return report.write(options.output)


def hold(report, exposures, threads, ours, peer):
    """Hold our runs against the peer's, where something is wanted of them."""
    for reject, run in ours.items():
        where = f"muse_exp_combine, N = {exposures}, {reject}"
        if threads == 1 and (exposures, reject) in CPU_TARGETS:
            less = CPU_TARGETS[exposures, reject]
            report.hold(
                f"CPU time of the whole run against {where}", peer.cpu / run.cpu, "times less", at_least=less
            )
        if threads == 2 and (exposures, reject) in WALL_TARGETS:
            less = WALL_TARGETS[exposures, reject]
            report.hold(
                f"wall time on two cores against {where}",
                peer.seconds / run.seconds,
                "times less",
                at_least=less,
            )


if __name__ == "__main__":
    main()
