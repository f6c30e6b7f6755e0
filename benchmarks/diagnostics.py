"""Do the diagnostics find what is planted, and nothing where nothing is?

Usage: python benchmarks/diagnostics.py FOLDER [--seeds 20] [--first 1] [--case NAME ...] [--output NAME]

Every case simulates a small field twice for every seed, with faults and without, combines both and runs all
diagnostics. The table has a line for each diagnostic: in how many seeds the planted fault was found and named
rightly, in how many clean fields it gave an alarm, and the values. Other alarms of a faulty field are counted
too: a fault may show in more than one way. Exits with 1 where a fault is found in fewer than 95 % of the
seeds, or a clean field gives an alarm.
"""

import json
import shutil
import time
from dataclasses import dataclass, field

import numpy as np
from harness import Report, carry_out, command_line

import musedeep as md
from musedeep.qc.alignment import find_line_misalignment
from musedeep.qc.assess import gather
from musedeep.qc.diagnose import diagnose
from musedeep.qc.rejections import measure_rejections
from musedeep.recipe import prepare
from musedeep.simulate import Fault, Source, Trail

BASE = {
    "field_arcsec": 14.0,
    "stars": 5,
    "galaxies": 1,
    "star_flux": (5e3, 5e4),
    "diffuse": 0.0,
    "fov_images": False,
    "pointing_error_arcsec": 0.2,
    "seeing_fwhm": (0.6, 1.0),
}
BRIGHT = BASE | {"field_arcsec": 8.0, "stars": 4, "galaxies": 0, "star_flux": (2e4, 1e5)}
# Clouds of gas that shine in one line, and next to nothing beside it: east, north, radius, arcsec.
CLOUDS = ((-3.5, -2.0, 0.6), (2.5, 3.0, 0.4), (3.5, -3.0, 0.7), (-2.0, 3.5, 0.5), (0.5, 0.0, 0.6))
GAS = {
    "wavelength": (6400.0, 6440.0),
    "exposures": 6,
    "stars": 0,
    "galaxies": 0,
    "sources": tuple(
        Source("gaussian", *place, 20.0, radius_arcsec=radius, lines=((6418.0, 6e4, 3.0),))
        for *place, radius in CLOUDS
    ),
}


@dataclass(frozen=True)
class Case:
    """A field, what is wrong with it, and which diagnostics shall name which exposures (None: any)."""

    settings: dict
    planted: dict
    expected: dict
    reject: str = "guarded"
    clean: dict = field(default_factory=dict)


CASES = {
    "sixteen": Case(
        BASE
        | {
            "field_arcsec": 18.0,
            "wavelength": (6600.0, 6630.0),
            "stars": 4,
            "galaxies": 0,
            "star_flux": (5e3, 2e4),
        },
        {
            "exposures": 16,
            "trails": (Trail(3, 35.0, 1.5, 60.0),),
            "faults": (
                Fault("shift", 0.5, 1),
                Fault("flux", 1.5, 2),
                Fault("saturation", 150.0, 4),
                Fault("background", 8.0, 5),
                Fault("quadrant", 8.0, 6),
                Fault("ifu", 8.0, 7),
                Fault("variance", 0.4, 8),
                Fault("edge", 10.0, 9),
            ),
        },
        {
            "misalignment": {1},
            "flux_scale": {2},
            "trail": {3},
            "saturation": {4},
            "background_level": {5},
            "background_quadrant": {6},
            "background_ifu": {7},
            "variance": {8},
            "slice_edge": {9},
        },
        clean={"exposures": 8},
    ),
    "crater": Case(
        BASE
        | {"field_arcsec": 12.0, "star_flux": (3e4, 2e5), "wavelength": (6600.0, 6625.0), "exposures": 8},
        {"faults": (Fault("shift", 0.8, 3),)},
        {"crater": {3}},
        reject="eso",
    ),
    "blur": Case(
        BASE | {"wavelength": (6600.0, 6625.0), "exposures": 8, "seeing_fwhm": 0.7},
        {
            "faults": (
                *(Fault("shift", 0.7, n) for n in (0, 2, 4, 6)),
                *(Fault("quadrant", 15.0, n) for n in range(8)),
            )
        },
        {"blur": None, "background_width": None},
    ),
    "sky": Case(
        BASE | {"field_arcsec": 9.0, "stars": 3, "wavelength": (6285.0, 6380.0), "exposures": 6},
        {"faults": (Fault("sky", 0.03, 1), Fault("wavelength", 0.4, 2))},
        {"sky_level": {1}, "wavelength_shift": {2}},
    ),
    "lsf": Case(
        BASE | {"field_arcsec": 9.0, "stars": 3, "wavelength": (6285.0, 6380.0), "exposures": 6},
        {"faults": (Fault("lsf", 0.15),)},
        {"sky_residual": None},
    ),
    "sodium": Case(
        BRIGHT
        | {
            "wavelength": (5700.0, 5860.0),
            "exposures": 6,
            "mode": ("WFM-NOAO-N", "WFM-AO-N"),
            "seeing_fwhm": 0.8,
        },
        {"faults": tuple(Fault("flux", 0.15, n) for n in (1, 3, 5))},
        {"sodium_step": {1, 3, 5}},
    ),
    "telluric": Case(
        BRIGHT | {"wavelength": (7530.0, 7780.0), "exposures": 4},
        {"faults": (Fault("telluric", 0.12), Fault("background", -40.0))},
        {"telluric": None, "over_subtraction": None},
    ),
    "light": Case(
        BRIGHT | {"wavelength": (7530.0, 7780.0), "exposures": 5},
        {"faults": (Fault("telluric", 0.12, 1), Fault("colour", 0.5, 3, from_angstrom=7730.0))},
        {"telluric_exposure": {1}, "flux_colour": {3}},
    ),
    "gas": Case(
        BASE | GAS,
        {"faults": (Fault("shift", 0.3, 2),)},
        {"misalignment_line": {2}},
    ),
    "wiggles": Case(
        BRIGHT | {"wavelength": (4650.0, 5700.0), "exposures": 3, "mode": "WFM-AO-E"},
        {"faults": (Fault("wiggle", 0.03),)},
        {"wiggles": {0, 1, 2}},
    ),
}


def diagnosed(folder, case, seed, planted):
    """Simulate, combine and diagnose one field; findings by name with the numbers of the exposures."""
    changes = case.planted if planted else case.clean
    paths = md.simulate_exposures(folder / "sim", **(case.settings | {"seed": seed} | changes))
    offsets = folder / "sim" / "OFFSET_LIST.fits"
    options = {"memory": "1GB", "workers": 1, "offsets": str(offsets), "reject": case.reject}
    made = md.Field.from_exposures(paths, folder / "field", overwrite=True, **options)
    md.ingest_exposures(made)
    md.combine_to_store(made)
    evidence = gather(made)
    rejections = measure_rejections(made, prepare(made, grid=evidence.grid), evidence.surveys)
    found = diagnose(evidence, rejections).findings
    # on its own, whether or not the white images show the same
    found = [f for f in found if f.name != "misalignment_line"] + [find_line_misalignment(evidence)]
    shutil.rmtree(folder)
    return {
        f.name: {
            "value": f.value,
            "alarm": f.alarm,
            "exposures": [evidence.dates.index(d) for d in f.exposures],
        }
        for f in found
    }


def run(folder, cases, seeds):
    """All cases and seeds; one line of JSON each, kept so that a run can be continued."""
    record = folder / "diagnostics.jsonl"
    done = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    known = {(entry["case"], entry["seed"], entry["planted"]) for entry in done}
    for seed in seeds:
        for name in cases:
            for planted in (True, False):
                if (name, seed, planted) in known:
                    continue
                found = diagnosed(folder / f"{name}{seed}", CASES[name], seed, planted)
                done.append({"case": name, "seed": seed, "planted": planted, "findings": found})
                with record.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    return [entry for entry in done if entry["case"] in cases and entry["seed"] in seeds]


def judge(entries, cases, report):
    """A row for each diagnostic: planted, found, rightly named, and alarms of all clean fields."""
    everywhere = [entry["findings"] for entry in entries if not entry["planted"]]
    for case in cases:
        for name, expected in CASES[case].expected.items():
            planted = [e["findings"][name] for e in entries if e["planted"] and e["case"] == case]
            right = [f["alarm"] and expected in (None, set(f["exposures"])) for f in planted]
            clean = [findings[name] for findings in everywhere]
            report.add(
                diagnostic=name,
                case=case,
                planted=len(planted),
                found=sum(f["alarm"] for f in planted),
                named_rightly=sum(right),
                clean_fields=int(sum(np.isfinite(f["value"]) for f in clean)),
                false_alarms=sum(f["alarm"] for f in clean),
                values_planted=_range(planted),
                values_clean=_range(clean),
            )
            if sum(right) < 0.95 * len(right):
                report.fail(f"{name} is found and named rightly in {sum(right)} of {len(right)} fields.")
            if any(f["alarm"] for f in clean):
                report.fail(f"{name} gives an alarm in clean fields.")


def _range(findings):
    values = np.abs([entry["value"] for entry in findings if np.isfinite(entry["value"])])
    return f"{values.min():.3g} to {values.max():.3g}" if len(values) else ""


def diagnose_all(options, folder):
    """Run all cases and print the table; whether all is as promised."""
    report = Report("Diagnostics")
    began = time.process_time()
    seeds = range(options.first, options.first + options.seeds)
    entries = run(folder, options.case, seeds)
    judge(entries, options.case, report)
    others = {}
    for entry in entries:
        for name, found in entry["findings"].items():
            if found["alarm"] and entry["planted"] and name not in CASES[entry["case"]].expected:
                others.setdefault((entry["case"], name), []).append(entry["seed"])
    for (case, name), where in sorted(others.items()):
        report.note(f"The faults of {case} also show as {name} in {len(where)} fields.")
    report.note(f"{len(seeds)} seeds, {time.process_time() - began:.0f} s of CPU time.")
    return report.write(options.output)


def main():
    parser = command_line(__doc__, folder_given=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    carry_out(parser, diagnose_all)


if __name__ == "__main__":
    main()
