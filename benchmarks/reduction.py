"""Every step of the reduction of a raw exposure beside ESO's recipe on the same files: CPU time and memory.

    python benchmarks/reduction.py
    python benchmarks/reduction.py --ifus 12 --small

An OBJECT and a SKY frame of some whole IFUs are simulated. Each step is done by the recipe and by our own
code, one after the other, with one thread, from the tables that the recipe made in the step before. Times are
user plus system of whole processes, with all that they take before they look at a row. The same is done with
the first IFU alone: what the others add tells what grows with the rows (``per_ifu``); the rest is the same
for an exposure of any size (``fixed``). IMAGE_FOV of the recipe is what `cube` adds to it. In the chains our
own code goes from the raw frame to the reduced table in one process.
"""

import copy
import json
import shutil
import sys

from harness import Measured, Report, carry_out, command_line, measure

# How many times less CPU time is promised.
CHAIN_TARGET, IMAGE_TARGET = 4.0, 8.0
CHAIN = (
    *(f"muse_scipost, {method}" for method in ("none", "subtract-model", "model")),
    *(f"raw to reduced, {method}" for method in ("none", "subtract-model")),
)
MAKE = {
    "whole": {"binning": [1, 1], "slice_columns": 75.0, "blue": 4550.0},
    "small": {"binning": [4, 2], "slice_columns": 8.0, "blue": 5200.0},
}
OF_IFU = "MASTER_BIAS", "MASTER_FLAT", "TRACE_TABLE", "WAVECAL_TABLE"
FLUX = "EXTINCT_TABLE", "STD_RESPONSE", "STD_TELLURIC"

_SIMULATE = """
import json, sys
from musedeep.simulate.raw import simulate_raw_exposures
simulate_raw_exposures(sys.argv[1], **json.loads(sys.argv[2]))
"""

_ONE_THREAD = {"NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_NATIVE = """
import atexit, gc, json, sys
from pathlib import Path
from musedeep.reduce import native
atexit.register(gc.freeze)  # as the command does
job = json.loads(sys.argv[1])
output, frames = Path(job["output"]), {k: [Path(p) for p in v] for k, v in job["frames"].items()}
output.mkdir(parents=True, exist_ok=True)
def of_ifu(ifu):
    names = {tag: path for tag, path in job["of_ifu"][str(ifu)].items()}
    return {tag: Path(path) for tag, path in names.items()}
def reduce(sources):
    choice = native.SkyChoice(0.2) if job["skymethod"] == "model" else None
    product = output / "PIXTABLE_REDUCED.fits"
    native.reduce_tables(sources, frames, product, skymethod=job["skymethod"], sky=choice)
if job["step"] == "scibasic":
    for ifu in job["ifus"]:
        native.reduce_frame(job["raw"], job["tag"], ifu, of_ifu(ifu), output / f"PIXTABLE_{ifu}.fits")
elif job["step"] == "create_sky":
    native.create_sky([Path(p) for p in job["tables"]], frames, output)
elif job["step"] == "scipost":
    reduce([Path(p) for p in job["tables"]])
elif job["step"] == "chain":
    reduce([native.IfuRows(job["raw"], job["tag"], ifu, of_ifu(ifu)) for ifu in job["ifus"]])
else:
    native.write_field_image(Path(job["tables"][0]), output / "IMAGE_FOV.fits")
"""


class Night:
    """Simulated frames with their calibrations, and what is made of them.

    Parameters
    ----------
    folder : Path
    ifus : list of int
    size : str
        Of `MAKE`.
    """

    def __init__(self, folder, ifus, size):
        self.folder, self.ifus, self.output = folder, ifus, folder
        mark, wanted = folder / "made.json", MAKE[size] | {"ifus": ifus, "seed": 5, "stars": 4}
        if not mark.exists() or json.loads(mark.read_text()) != wanted:
            folder.mkdir(parents=True, exist_ok=True)
            measure([sys.executable, "-c", _SIMULATE, folder, json.dumps(wanted)])
            mark.write_text(json.dumps(wanted))
        self.object, self.sky = sorted((folder / "raw").glob("*.fits"))
        calib = folder / "calib"
        self.of_ifu = {
            ifu: {tag: calib / f"{tag}-{ifu:02d}.fits" for tag in OF_IFU}
            | {"GEOMETRY_TABLE": calib / "GEOMETRY_TABLE.fits"}
            for ifu in ifus
        }
        self.flux = {tag: [calib / f"{tag}.fits"] for tag in FLUX}
        self.astrometry = {"ASTROMETRY_WCS": [calib / "ASTROMETRY_WCS.fits"]}
        self.lines = {
            "SKY_LINES": [calib / "SKY_LINES.fits"],
            "LSF_PROFILE": [calib / f"LSF_PROFILE-{ifu:02d}.fits" for ifu in ifus],
        }

    def only(self, ifus):
        """The same night with some of its IFUs, and products of its own."""
        part = copy.copy(self)
        part.ifus, part.output = ifus, self.folder / f"of-{len(ifus)}"
        part.lines = self.lines | {"LSF_PROFILE": self.lines["LSF_PROFILE"][: len(ifus)]}
        return part

    def native(
        self, name, step, *, tables=(), frames=None, raw=None, tag="OBJECT", skymethod="none",
        keep=False,
    ):  # fmt: skip
        """One step by our own code: `harness.Measured`. Products are removed unless they are to be kept."""
        job = {
            "step": step,
            "output": str(self.product(name)),
            "ifus": self.ifus,
            "tables": [str(path) for path in tables],
            "frames": {tag: [str(path) for path in paths] for tag, paths in (frames or {}).items()},
            "of_ifu": {ifu: {k: str(v) for k, v in given.items()} for ifu, given in self.of_ifu.items()},
            "raw": str(raw),
            "tag": tag,
            "skymethod": skymethod,
        }
        run = measure([sys.executable, "-c", _NATIVE, json.dumps(job)], **_ONE_THREAD)
        if not keep:
            shutil.rmtree(self.product(name))
        return run

    def product(self, name):
        """Folder of what our own code makes in a step."""
        return self.output / "native" / name

    def recipe(self, name, recipe, frames, **parameters):
        """One recipe: `harness.Measured`, and the folder of its products."""
        folder = self.output / "recipe" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{path} {tag}\n" for tag, paths in frames.items() for path in paths]
        (folder / "frames.sof").write_text("".join(lines))
        words = ["esorex", "--no-checksum=true", f"--output-dir={folder}", f"--log-dir={folder}", recipe]
        words += [f"--{option}={value}" for option, value in parameters.items()]
        return measure([*words, folder / "frames.sof"], OMP_NUM_THREADS="1"), folder

    def basic(self, name, raw, tag):
        """muse_scibasic for all IFUs: `harness.Measured`, and the tables."""
        runs, tables = [], []
        for ifu in self.ifus:
            frames = {tag: [raw]} | {kind: [path] for kind, path in self.of_ifu[ifu].items()}
            run, folder = self.recipe(f"{name}-{ifu}", "muse_scibasic", frames, nifu=ifu, saveimage="false")
            runs.append(run)
            tables += sorted(folder.glob(f"PIXTABLE_{tag}*.fits"))
        return added(runs), tables


def added(runs):
    """Several processes as one: times added, the largest memory."""
    cpu, seconds = sum(run.cpu for run in runs), sum(run.seconds for run in runs)
    return Measured(cpu, seconds, max(run.peak_bytes for run in runs), "")


def steps(night):
    """Do every step.

    Parameters
    ----------
    night : Night

    Yields
    ------
    name : str
    recipe, native : harness.Measured
    """
    basic, tables = night.basic("object", night.object, "OBJECT")
    yield "muse_scibasic", basic, night.native("object", "scibasic", raw=night.object)
    _, sky_tables = night.basic("sky", night.sky, "SKY")
    given = night.flux | night.lines
    run, sky = night.recipe("create_sky", "muse_create_sky", {"PIXTABLE_SKY": sky_tables} | given)
    yield "muse_create_sky", run, night.native("create_sky", "create_sky", tables=sky_tables, frames=given)
    science = {"PIXTABLE_OBJECT": tables}
    plain = night.flux | night.astrometry
    found = {tag: [sky / f"{tag}.fits"] for tag in ("SKY_LINES", "SKY_CONTINUUM")}
    frames = {
        "none": plain,
        "subtract-model": plain | found | {"LSF_PROFILE": night.lines["LSF_PROFILE"]},
        "model": plain | night.lines,
    }
    runs = {}
    for method, given in frames.items():
        options = {"skymethod": method, "save": "individual"}
        options |= {"skymodel_fraction": 0.2} if method == "model" else {}
        runs[method], folder = night.recipe(method, "muse_scipost", science | given, **options)
        shutil.rmtree(folder)
        ours = night.native(method, "scipost", tables=tables, frames=given, skymethod=method)
        yield f"muse_scipost, {method}", runs[method], ours
    cube, folder = night.recipe(
        "cube", "muse_scipost", science | plain, skymethod="none", save="individual,cube", filter="white"
    )
    reduced = next(folder.glob("PIXTABLE_REDUCED*.fits"))
    more = Measured(cube.cpu - runs["none"].cpu, cube.seconds, cube.peak_bytes, "")
    yield "IMAGE_FOV", more, night.native("image", "image", tables=[reduced])
    shutil.rmtree(folder)
    for method in ("none", "subtract-model"):
        ours = night.native(
            f"chain-{method}", "chain", frames=frames[method], raw=night.object, skymethod=method
        )
        yield f"raw to reduced, {method}", added([basic, runs[method]]), ours


def compare(night, report):
    """Measure every step with all IFUs and with the first alone; how many times less CPU time all take.

    Parameters
    ----------
    night : Night
    report : harness.Report

    Returns
    -------
    dict of str to float
    """
    whole = {}
    for name, theirs, ours in steps(night):
        whole[name] = theirs, ours
        report.add(
            step=name,
            recipe_cpu_s=theirs.cpu,
            native_cpu_s=ours.cpu,
            times_less_cpu=theirs.cpu / ours.cpu,
            recipe_peak_MB=theirs.peak_bytes / 1e6,
            native_peak_MB=ours.peak_bytes / 1e6,
        )
    others = len(night.ifus) - 1
    for name, *single in steps(night.only(night.ifus[:1])) if others else ():
        theirs, ours = ((a.cpu - b.cpu) / others for a, b in zip(whole[name], single, strict=True))
        report.add(
            step=name,
            recipe_per_ifu_s=theirs,
            native_per_ifu_s=ours,
            times_less_per_ifu=theirs / ours,
            native_fixed_s=whole[name][1].cpu - len(night.ifus) * ours,
        )
    return {name: theirs.cpu / ours.cpu for name, (theirs, ours) in whole.items()}


def measure_all(options, folder):
    """All steps; whether they take as little as promised."""
    report = Report(f"Reduction of raw frames beside ESO's recipes, IFUs {options.ifus}")
    # kernels are compiled once
    for _ in steps(Night(folder / "warm", [12], "small")):
        pass
    ifus = [int(word) for word in options.ifus.split(",")]
    ratios = compare(Night(folder / "night", ifus, "small" if options.small else "whole"), report)
    for step, ratio in ratios.items():
        target = IMAGE_TARGET if step == "IMAGE_FOV" else CHAIN_TARGET if step in CHAIN else 0
        if ratio < target:
            report.fail(f"{step}: {ratio:.1f} times less CPU time; {target:g} are wanted.")
    return report.write(options.output)


def main():
    parser = command_line(__doc__)
    parser.add_argument("--ifus", default="12,13", help="their numbers, separated by commas")
    parser.add_argument("--small", action="store_true", help="short slices on detectors read with binning")
    carry_out(parser, measure_all)


if __name__ == "__main__":
    main()
