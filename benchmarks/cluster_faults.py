"""A combination on a real Slurm, disturbed again and again: the same bits, and how much was done twice.

    python benchmarks/cluster_faults.py --rounds 20

Needs Debian's slurmctld, slurmd, slurm-client and munge; starts three one-core nodes on this machine. A round
combines four simulated exposures on three jobs, in small blocks that are made to last a second. At random
moments, by the seed of the round, jobs are cancelled (SIGTERM), killed with all in them (SIGKILL), the
process that computes is killed alone, all jobs are killed at once, or the controlling process is (and started
again).
"""

import random
import shutil
import signal
import sys
import time
from pathlib import Path

from harness import Report, carry_out, command_line, simulated

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
WAYS = ("cancel", "kill", "worker", "all", "control")
JOBS = 3


def prepared(folder):
    """A field with its exposures in the pixel store, and the maps of an undisturbed combination."""
    import musedeep as md
    from musedeep import plan

    files = simulated(folder / "data", 4, 6e4, field_arcsec=6.0)
    field = md.Field.from_exposures(
        files,
        folder / "field",
        overwrite=True,
        memory="1GB",
        workers=1,
        offsets=str(files[0].parent / "OFFSET_LIST.fits"),
    )
    md.ingest_exposures(field)
    plan.SMALLEST_BLOCK = plan.LARGEST_BLOCK = (16, 16, 16)
    md.combine_to_store(field)
    maps = maps_of(field)
    shutil.rmtree(field.cube_path)
    (field.folder / "cube.ledger").unlink()
    return field, maps


def maps_of(field):
    """All maps as bytes; dict."""
    import musedeep as md

    cube = md.open_cube(field.cube_path).compute()
    return {name: values.values.tobytes() for name, values in cube.data_vars.items()}


def disturb(chance, slurm, run, way):
    """Do something bad now; the number of jobs that it hits."""
    jobs = slurm.jobs()
    if way == "control":
        run.process.send_signal(signal.SIGKILL)
        run.end()
        slurm.wait_for_end()
        return len(jobs)
    chosen = jobs if way == "all" else chance.sample(jobs, min(1, len(jobs)))
    for job in chosen:
        if way == "worker":
            slurm.kill_worker(job)
        else:
            slurm.cancel(job, *([] if way == "cancel" else ["--signal=KILL", "--full"]))
    return len(chosen)


def play(seed, folder, field, slurm, options):
    """One round; facts about it and the field that came out."""
    import dataclasses

    from batch import PRESET, Run, environment_of

    chance = random.Random(seed)
    place = folder / f"round{seed}"
    place.mkdir()
    own = dataclasses.replace(field, folder=place / "field")
    shutil.copytree(field.folder, own.folder)
    preset = place / "slurm.yaml"
    preset.write_text(PRESET.format(jobs=JOBS, walltime="00:30:00"))
    environment = environment_of(place, place / "blocks", options.block_seconds)

    def start():
        return Run(own, ["--cluster", preset, "--memory", "1GB", "--quiet"], environment, stage="combine")

    began, run, ways, hit = time.monotonic(), start(), [], 0
    for _ in range(chance.randint(1, 3)):
        more, way = len(run.computed()) + chance.randint(1, 5), chance.choice(WAYS)
        while run.going_on() and (len(run.computed()) < more or not slurm.jobs()):
            time.sleep(0.1)
        if not run.going_on():
            break
        time.sleep(chance.random())
        hit += disturb(chance, slurm, run, way)
        ways.append(way)
        if way == "control":
            run = start()
    code = run.end(600)
    slurm.wait_for_end()
    computed = run.computed()
    facts = {
        "seed": seed,
        "disturbed": ", ".join(ways) or "not",
        "jobs_hit": hit,
        "blocks": len(set(computed)),
        "redone": len(computed) - len(set(computed)),
        "seconds": time.monotonic() - began,
    }
    return facts, code, own, run.error


def play_all(options, folder):
    """Play the rounds; whether all is as it must be."""
    from batch import Slurm

    report = Report("A combination on Slurm that is disturbed")
    field, maps = prepared(folder)
    with Slurm.started(folder / "slurm") as slurm:
        for seed in range(options.first, options.first + options.rounds):
            facts, code, own, error = play(seed, folder, field, slurm, options)
            same = code == 0 and maps_of(own) == maps
            report.add(**facts, same_bits="yes" if same else "NO")
            if not same:
                report.fail(f"seed {seed}: exit code {code}, {error[-500:]}")
            # a job does one block at a time; one more may be done and not yet recorded
            if facts["redone"] > 2 * facts["jobs_hit"]:
                report.fail(f"seed {seed}: more blocks were redone than were in flight")
            shutil.rmtree(own.folder.parent)
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="seed of the first round")
    parser.add_argument("--block-seconds", type=float, default=1.0)
    carry_out(parser, play_all)


if __name__ == "__main__":
    main()
