"""Offsets against the truth, beside muse_exp_align on the same images.

    python benchmarks/align.py FOLDER [case ...]

For each case, exposures are simulated with errors of their headers, and the offsets are measured three times:
from the pixel tables, from the IMAGE_FOV files, and by ESO's recipe from the same IMAGE_FOV files. Told is
the rms of each coordinate about the truth; what all exposures have in common, which nobody can know, is off.
"""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from harness import Report

from musedeep import OffsetTable, align_exposures, group_exposures, simulate_exposures
from musedeep.align.images import exposure_image, write_image
from musedeep.simulate import Source

__all__ = ["CASES", "main"]

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
    "seeing 0.5 to 1.5": {
        "exposures": 6, "field_arcsec": 25.0, "stars": 20, "star_flux": (3e3, 1e5),
        "seeing_fwhm": (0.5, 0.7, 0.9, 1.1, 1.3, 1.5),
    },
    "scales": {
        "exposures": 6, "field_arcsec": 25.0, "stars": 20, "star_flux": (1e4, 1e5),
        "flux_scale_error": (0.0, 0.1, -0.3, 9.0, 0.5, 0.0),
    },
}  # fmt: skip


def main(folder, names):
    """Run the cases named, or all."""
    report = Report("Offsets of exposures against the truth")
    for name in names or CASES:
        place = folder / name.replace(" ", "-")
        if not (place / "truth.json").exists():
            simulate_exposures(place, **({"seed": 11, "pointing_error_arcsec": 0.7} | _NARROW | CASES[name]))
        truth = OffsetTable.read(place / "OFFSET_LIST.fits")
        images = sorted(place.glob("IMAGE_FOV_*.fits"))
        own = place / "white"
        own.mkdir(exist_ok=True)
        for exposure in group_exposures([str(place / "PIXTABLE_REDUCED_*.fits")]):
            write_image(exposure_image(exposure), own / f"IMAGE_FOV_{exposure.name}.fits")
        tables = align_exposures(sorted(own.glob("IMAGE_FOV_*.fits")))
        fov = align_exposures(images)
        bound = np.nanmedian(np.concatenate([tables.result.shift_errors]))
        report.add(
            case=name,
            preset=tables.result.preset,
            sources=int(np.median(tables.result.matched)),
            pixel_tables_mas=_rms(tables, truth),
            error_told_mas=float(bound * 1000),
            image_fov_mas=_rms(fov, truth),
            eso_mas=_rms(_eso(images, place / "eso"), truth),
            scale_percent=_scale(tables, truth),
            scale_fov_percent=_scale(fov, truth),
            verdict=tables.verdict,
        )
    report.write(folder / "align")


def _eso(images, folder):
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


def _scale(found, truth):
    dates = [str(date) for date in truth.table["DATE_OBS"]]
    ratio = np.array([found.lookup(date).flux_scale / truth.lookup(date).flux_scale for date in dates])
    return float(100 * np.abs(ratio / np.median(ratio) - 1).max())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
