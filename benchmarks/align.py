"""Offsets against the truth, beside muse_exp_align on the same images.

    python benchmarks/align.py FOLDER [case ... | alarms | sharpness | many]
                                      [--repeat] [--seeds 20] [--images 300]

For each case, exposures are simulated with errors of their headers, and the offsets are measured three times:
from the pixel tables, from the IMAGE_FOV files, and by ESO's recipe from the same IMAGE_FOV files. Told is
the rms of each coordinate about the truth; what all exposures have in common, which nobody can know, is off.

`--repeat` does each case with many seeds, from 11 on; `alarms` tells how often a
clean set of eight exposures is called suspicious, and one that lies off is named; `sharpness`, the stars of a
cube combined with each of the lists; `many`, the cost of many large images. The cases have a report, and so
has each part, in FOLDER or in the folder that `--output` names.
"""

import dataclasses
import math
import shutil
import subprocess
import sys

import numpy as np
from harness import Report, carry_out, command_line, measure

from musedeep import (
    Field,
    OffsetTable,
    align_exposures,
    combine_exposures,
    group_exposures,
    ingest_exposures,
    simulate_exposures,
)
from musedeep.align.check import check_offsets
from musedeep.align.fit import moffat
from musedeep.align.images import placed_rows, read_image, write_image
from musedeep.align.joint import moved
from musedeep.align.sources import find_sources
from musedeep.settings import AlignSettings
from musedeep.simulate import Source

__all__ = [
    "CASES",
    "main",
    "report_alarms",
    "report_cases",
    "report_many",
    "report_seeds",
    "report_sharpness",
]

_NARROW = {"wavelength": (6500.0, 6550.0)}


def _cluster(count=600, radius=9.0):
    rng = np.random.default_rng(5)
    away, angle = radius * np.sqrt(rng.random(count)), rng.uniform(0, 2 * math.pi, count)
    flux = np.exp(rng.uniform(np.log(1e3), np.log(1e5), count))
    places = zip(away * np.sin(angle), away * np.cos(angle), flux, strict=True)
    return tuple(Source("star", float(x), float(y), float(f)) for x, y, f in places)


CASES = {
    "45 stars": {"exposures": 8, "field_arcsec": 40.0, "stars": 45, "galaxies": 3, "star_flux": (3e3, 1e5)},
    "5 stars": {"exposures": 6, "field_arcsec": 20.0, "stars": 5, "galaxies": 2},
    "3 stars": {"exposures": 6, "field_arcsec": 20.0, "stars": 3, "galaxies": 0},
    "galaxies": {"exposures": 6, "field_arcsec": 20.0, "stars": 0, "galaxies": 12},
    "cluster": {"exposures": 4, "field_arcsec": 20.0, "sources": _cluster()},
    "mosaic": {
        "exposures": 8,
        "field_arcsec": 40.0,
        "stars": 150,
        "galaxies": 10,
        "star_flux": (3e3, 1e5),
        "pointings": ((-18.0, -18.0), (18.0, -18.0), (18.0, 18.0), (-18.0, 18.0)),
    },
    "20 arcsec off": {
        "exposures": 5, "field_arcsec": 40.0, "stars": 45, "star_flux": (3e3, 1e5),
        "pointing_error_arcsec": 12.0,
    },
    "30 arcsec off": {
        "exposures": 5, "field_arcsec": 40.0, "stars": 45, "star_flux": (3e3, 1e5),
        "pointing_error_arcsec": 15.0, "seed": 13,
    },
    "rotations": {
        "exposures": 6, "field_arcsec": 40.0, "stars": 45, "star_flux": (3e3, 1e5),
        "rotation_error_deg": 0.05,
    },
    "seeing 0.5 to 1.5": {
        "exposures": 6, "field_arcsec": 25.0, "stars": 20, "star_flux": (3e3, 1e5),
        "seeing_fwhm": (0.5, 0.7, 0.9, 1.1, 1.3, 1.5),
    },
    "scales": {
        "exposures": 6, "field_arcsec": 25.0, "stars": 20, "star_flux": (1e4, 1e5),
        "flux_scale_error": (0.0, 0.1, -0.3, 9.0, 0.5, 0.0),
    },
}  # fmt: skip
# What the cases ask for; ESO's recipe gets the same rsearch, and has no rotation.
SETTINGS = {
    "30 arcsec off": {"rsearch": (60.0, 4.0, 2.0, 0.8)},
    "rotations": {"fit_rotation": True},
}


def _simulated(folder, name):
    """Folder of a case, simulated unless it is there, and its true offsets."""
    place = folder / name.replace(" ", "-")
    if not (place / "truth.json").exists():
        simulate_exposures(place, **({"seed": 11, "pointing_error_arcsec": 0.7} | _NARROW | CASES[name]))
    return place, OffsetTable.read(place / "OFFSET_LIST.fits")


def _from_tables(place, **changes):
    """Offsets from the pixel tables of a case, as `musedeep align` measures them."""
    tables = sorted(place.glob("PIXTABLE_REDUCED_*.fits"))
    field = Field.from_exposures(tables, place / "field", overwrite=True, memory="2GB")
    return align_exposures(field, **changes)


def report_cases(folder, names):
    """Offsets of the cases named; Report."""
    report = Report("Offsets of exposures against the truth")
    for name in names:
        place, truth = _simulated(folder, name)
        images = sorted(place.glob("IMAGE_FOV_*.fits"))
        asked = SETTINGS.get(name, {})
        tables = _from_tables(place, **asked)
        fov = align_exposures(images, **asked)
        told = np.nanmedian(np.concatenate([tables.result.shift_errors]))
        report.add(
            case=name,
            preset=tables.result.preset,
            sources=int(np.median(tables.result.matched)),
            pixel_tables_mas=_rms(tables, truth),
            error_told_mas=float(told * 1000),
            bound_mas=_bound(place, tables.result) * 1000,
            image_fov_mas=_rms(fov, truth),
            eso_mas=_rms(_eso(images, place / "eso", asked.get("rsearch")), truth),
            scale_percent=_scale(tables, truth),
            scale_fov_percent=_scale(fov, truth),
            scale_told_percent=float(100 * np.nanmax(tables.result.scale_errors)),
            scale_fov_told_percent=float(100 * np.nanmax(fov.result.scale_errors)),
            scale_sigma=_scale_in_errors(tables, truth),
            scale_fov_sigma=_scale_in_errors(fov, truth),
            rotation_deg=_rotation(tables, truth) if asked.get("fit_rotation") else "",
            rotation_fov_deg=_rotation(fov, truth) if asked.get("fit_rotation") else "",
            verdict=tables.verdict,
        )
    return report


def report_seeds(folder, name, seeds):
    """Places and flux scales of one case, over many seeds, and the rms of all; Report."""
    report = Report(f"Many seeds: {name}")
    lines = {"pixel tables": [], "IMAGE_FOV": []}
    asked = SETTINGS.get(name, {})
    for seed in range(11, 11 + seeds):
        place = folder / f"{name.replace(' ', '-')}-{seed}"
        if not (place / "truth.json").exists():
            facts = {"pointing_error_arcsec": 0.7} | _NARROW | CASES[name]
            simulate_exposures(place, **facts | {"seed": seed})
        truth = OffsetTable.read(place / "OFFSET_LIST.fits")
        images = sorted(place.glob("IMAGE_FOV*"))
        measured = {
            "pixel tables": _from_tables(place, **asked),
            "IMAGE_FOV": align_exposures(images, **asked),
        }
        for words, found in measured.items():
            sigmas = _scale_errors(found, truth) / found.result.scale_errors
            lines[words].append({
                "rms_mas": _rms(found, truth),
                "bound_mas": _bound(place, found.result) * 1000,
                "scale_percent": _scale(found, truth),
                "scale_told_percent": float(100 * np.nanmax(found.result.scale_errors)),
                "scale_sigma": float(np.sqrt(np.nanmean(sigmas**2))),
            })  # fmt: skip
            report.add(seed=seed, images=words, **lines[words][-1], verdict=found.verdict)
    for words, of_seeds in lines.items():
        report.add(
            seed="all", images=words, **{key: _together(key, of_seeds) for key in of_seeds[0]}, verdict=""
        )
    return report


def _together(key, lines):
    """The largest percentage of many seeds, or the rms of other numbers."""
    values = np.array([line[key] for line in lines])
    return float(values.max() if key.endswith("percent") else np.sqrt(np.nanmean(values**2)))


def report_alarms(folder, seeds):
    """How often a clean set is called suspicious, and one of eight that lies off is named."""
    report = Report("Alarms of the check, eight exposures")
    clean, named = 0, {0.2: 0, 0.5: 0}
    for seed in range(seeds):
        place = folder / f"alarms-{seed}"
        if not (place / "truth.json").exists():
            simulate_exposures(
                place, exposures=8, field_arcsec=20.0, wavelength=(6500.0, 6510.0), stars=15, galaxies=4,
                star_flux=(1e4, 1e5), pointing_error_arcsec=0.5, seeing_fwhm=(0.6, 1.2), seed=100 + seed,
                fov_images=False,
            )  # fmt: skip
        found = _from_tables(place)
        clean += found.verdict == "aligned"
        result = found.result
        for size in named:
            offsets, angle = list(result.offsets), seed * 2.4
            off = size * np.array([math.sin(angle), math.cos(angle)])
            offsets[seed % 8] = moved(result.images[seed % 8], offsets[seed % 8], off)
            check = check_offsets(result.images, result.sources, offsets, AlignSettings())
            named[size] += check.suspicious == [result.images[seed % 8].date_obs]
    report.add(sets=seeds, clean_sets_without_alarm=clean, shifted_0_2_named=named[0.2],
               shifted_0_5_named=named[0.5])  # fmt: skip
    if clean < seeds or min(named.values()) < seeds:
        report.fail("a clean set raised an alarm, or a shifted exposure was not named alone")
    return report


def report_sharpness(folder, names=("45 stars", "mosaic")):
    """FWHM and peaks of stars in cubes of the same exposures, combined with each list of offsets."""
    report = Report("Stars of a combined cube")
    for name in names:
        place, truth = _simulated(folder, name)
        images = sorted(place.glob("IMAGE_FOV_*.fits"))
        lists = {
            "true": truth,
            "musedeep, pixel tables": _from_tables(place),
            "musedeep, IMAGE_FOV": align_exposures(images),
            "ESO, IMAGE_FOV": _eso(images, place / "eso"),
            "headers": None,
        }
        tables = sorted(place.glob("PIXTABLE_REDUCED_*.fits"))
        field = Field.from_exposures(tables, place / "field", overwrite=True, memory="2GB")
        ingest_exposures(field)
        for words, found in lists.items():
            if found is None and words != "headers":
                report.add(case=name, offsets=words, fwhm_arcsec="fails")
                continue
            path = "none"
            if found is not None:
                # the scales of all lists alike, so that the offsets alone make the difference
                same = OffsetTable(found.table)
                same.table["FLUX_SCALE"] = [truth.lookup(d).flux_scale for d in same.table["DATE_OBS"]]
                path = str(same.write(place / "list.fits"))
            report.add(case=name, offsets=words, **_stars(field, path, read_image(images[0])))
    return report


def _stars(field, offsets, like):
    """FWHM, and mean peak of the 15 brightest sources, of the white image of a combination."""
    cube = combine_exposures(field, offsets=offsets, lambdamin=6510.0, lambdamax=6525.0, reject="none")
    white = cube.flux.mean("wavelength").values.astype(np.float32)
    found = find_sources(dataclasses.replace(like, flux=white, variance=None), AlignSettings())
    peaks = [white[round(y), round(x)] for x, y in zip(found.x[:15], found.y[:15], strict=True)]
    return {
        "fwhm_arcsec": float(found.fwhm * like.step_arcsec),
        "mean_peak": float(np.mean(peaks)),
        "sources": len(found),
    }


_COUNT = """
import sys, musedeep
from pathlib import Path
found = musedeep.align_exposures(sorted(Path(sys.argv[1]).glob("IMAGE_FOV_*.fits")))
print(found.verdict)
"""


def report_many(folder, count, size=320, stars=40):
    """What it takes to align many images of a full field, drawn here with known shifts."""
    report = Report("Many images of a full field")
    place = folder / "many"
    place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    places, flux = rng.uniform(25, size - 25, (stars, 2)), np.exp(rng.uniform(8, 11.5, stars))
    template, step = read_image(_one_image(folder)), math.radians(0.2 / 3600)
    plane = np.diag([-step, step, 1.0])
    plane[:2, 2] = np.array([size / 2, -size / 2]) * step
    rows, columns = np.mgrid[-20:21, -20:21]
    shifts = rng.normal(0, 2.0, (count, 2))
    for n, shift in enumerate(shifts):
        values = rng.normal(0, 3.0, (size, size)).astype(np.float32)
        fwhm = rng.uniform(3.0, 6.0)
        for (x, y), light in zip(places + shift, flux, strict=True):
            i, j = round(x), round(y)
            if 20 < i < size - 21 and 20 < j < size - 21:
                profile = light * moffat((columns + i - x) ** 2 + (rows + j - y) ** 2, fwhm)
                values[j - 20 : j + 21, i - 20 : i + 21] += profile
        date = f"2014-08-{10 + n // 96:02d}T{n // 4 % 24:02d}:{15 * (n % 4):02d}:00.000"
        image = dataclasses.replace(
            template, date_obs=date, flux=values, variance=np.full_like(values, 9.0), to_sky=plane
        )
        write_image(image, place / f"IMAGE_FOV_{n:04d}.fits")
    took = measure([sys.executable, "-c", _COUNT, place])
    report.add(images=count, pixels=size, cpu_s=took.cpu, wall_s=took.seconds,
               peak_gb=took.peak_bytes / 1e9, verdict=took.output.strip())  # fmt: skip
    if took.cpu > 0.6 * count or took.peak_bytes > 1e9:
        report.fail("300 images must take less than 180 s of CPU time, and less than 1 GB")
    return report


def _one_image(folder):
    place = folder / "one"
    if not (place / "truth.json").exists():
        simulate_exposures(place, exposures=1, field_arcsec=6.0, wavelength=(6500.0, 6505.0), stars=1, seed=1)
    return next(place.glob("IMAGE_FOV_*.fits"))


def _eso(images, folder, radii=None):
    """Offsets of muse_exp_align, or None where it fails or is not there."""
    if shutil.which("esorex") is None:
        return None
    folder.mkdir(exist_ok=True)
    (folder / "images.sof").write_text("".join(f"{path.resolve()} IMAGE_FOV\n" for path in images))
    words = [
        "esorex",
        f"--output-dir={folder}",
        f"--log-dir={folder}",
        "muse_exp_align",
        *([f"--rsearch={','.join(map(str, radii))}"] if radii else []),
        folder / "images.sof",
    ]
    run = subprocess.run([str(word) for word in words], cwd=folder, capture_output=True)
    lists = sorted(folder.glob("OFFSET_LIST*.fits"))
    return OffsetTable.read(lists[-1]) if run.returncode == 0 and lists else None


def _rms(found, truth):
    if found is None:
        return "fails"
    dates = [str(date) for date in truth.table["DATE_OBS"]]
    dec = math.cos(math.radians(2.2))
    pairs = [(found.lookup(date), truth.lookup(date)) for date in dates]
    wrong = np.array([[(a.ra_deg - b.ra_deg) * dec, a.dec_deg - b.dec_deg] for a, b in pairs]) * 3.6e6
    return float(np.sqrt(np.mean((wrong - wrong.mean(axis=0)) ** 2)))


def _bound(place, result):
    """What the photon noise of the rows allows, arcsec: the Fisher information of all sources and rows.

    Rows have independent noise, unlike the spaxels that they are drizzled to. The profiles are those that
    were fitted.
    """
    exposures = {item.date_obs: item for item in group_exposures([str(place / "PIXTABLE_REDUCED_*.fits")])}
    variances = []
    for image, listed in zip(result.images, result.sources, strict=True):
        x, y, w = image.to_sky @ np.stack([listed.x, listed.y, np.ones(len(listed))])
        stars = np.column_stack([x / w, y / w]) * math.degrees(3600)
        told = 0.0
        for rows in placed_rows(exposures[image.date_obs]):
            told += _information(rows, stars, listed.flux, listed.fwhm * image.step_arcsec, image.step_arcsec)
        variances.append(1 / told if told > 0 else math.nan)
    return float(np.sqrt(np.nanmean(variances) * (1 - 1 / len(result.images))))


def _information(rows, stars, fluxes, fwhm, step):
    """Of rows about a common shift of stars, mean of both coordinates, arcsec**-2."""
    east, north, _, _, variance, dq, usable = rows
    usable = usable.astype(bool) & (dq == 0)
    total = 0.0
    for (x, y), flux in zip(stars, fluxes, strict=True):
        near = usable & (np.abs(east - x) < 2 * fwhm) & (np.abs(north - y) < 2 * fwhm)
        radius2 = (east[near] - x) ** 2 + (north[near] - y) ** 2
        small = 1e-3
        slope = (moffat((np.sqrt(radius2) + small) ** 2, fwhm) - moffat(radius2, fwhm)) / small
        total += 0.5 * ((flux * step**2 * slope) ** 2 / variance[near]).sum()
    return total


def _scale(found, truth):
    return float(100 * np.abs(_scale_errors(found, truth)).max())


def _scale_errors(found, truth):
    dates = [image.date_obs for image in found.result.images]
    ratio = np.array([found.lookup(date).flux_scale / truth.lookup(date).flux_scale for date in dates])
    return ratio / np.median(ratio) - 1


def _scale_in_errors(found, truth):
    """The largest error of a flux scale, in units of what is told."""
    return float(np.nanmax(np.abs(_scale_errors(found, truth)) / found.result.scale_errors))


def _rotation(found, truth):
    """The largest error of a rotation, degrees; what all have in common is off."""
    dates = [image.date_obs for image in found.result.images]
    wrong = np.array([found.lookup(d).rotation_deg - truth.lookup(d).rotation_deg for d in dates])
    return float(np.abs(wrong - wrong.mean()).max())


def measure_parts(options, folder):
    """The cases and parts named, or all; whether all is as promised."""
    reports = options.output or folder
    parts = {
        "alarms": lambda: report_alarms(folder, options.seeds),
        "sharpness": lambda: report_sharpness(folder),
        "many": lambda: report_many(folder, options.images),
    }
    names = options.names or [*CASES, *parts]
    cases = [name for name in names if name not in parts]
    good = []
    if options.repeat:
        for name in cases:
            place = reports / f"seeds-{name.replace(' ', '-')}"
            good.append(report_seeds(folder, name, options.seeds).write(place))
    elif cases:
        good.append(report_cases(folder, cases).write(reports / "align"))
    for name in names:
        if name in parts:
            good.append(parts[name]().write(reports / name))
    return all(good)


def main():
    parser = command_line(__doc__, folder_given=True)
    parser.add_argument("names", nargs="*", default=[], help="cases and parts [all]")
    parser.add_argument("--repeat", action="store_true", help="do each case with many seeds")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--images", type=int, default=300)
    carry_out(parser, measure_parts)


if __name__ == "__main__":
    main()
