"""Headers of exposures for the tests of the selection: raw frames without data."""

import csv
import math

import numpy as np
from astropy.io import fits
from astropy.time import Time

from musedeep.select import select_exposures

NAMES = {
    "target": "ESO OBS TARG NAME", "ob": "ESO OBS ID", "ob_name": "ESO OBS NAME", "run": "ESO OBS PROG ID",
    "pi": "ESO OBS PI-COI ID", "mode": "ESO INS MODE", "kind": "ESO DPR TYPE", "category": "ESO DPR CATG",
    "request": "ESO OBS AMBI FWHM", "exptime": "EXPTIME", "ra": "RA", "dec": "DEC",
    "angle": "ESO INS DROT POSANG",
    "container": "ESO OBS CONTAINER ID", "container_type": "ESO OBS CONTAINER TYPE",
    "transparency": "ESO OBS AMBI TRANS",
}  # fmt: skip
FIRST_MJD = 57000.0
RA, DEC = 150.0, -30.0


def date_of(number):
    """DATE-OBS of the exposure of that number: one an hour."""
    return Time(round(FIRST_MJD + number / 24, 8), format="mjd").isot


def arcfile_of(number):
    """ARCFILE of the exposure of that number, without suffix."""
    return f"MUSE.{date_of(number)}"


def east(arcsec):
    """RA of a place so far to the east."""
    return RA + arcsec / 3600 / math.cos(math.radians(DEC))


def write_frame(folder, number, **facts):
    """Write a raw frame without data; facts of None are left out of its header."""
    seeing = facts.pop("seeing", 0.8)
    cards = {
        "ARCFILE": f"{arcfile_of(number)}.fits",
        "DATE-OBS": date_of(number),
        "MJD-OBS": FIRST_MJD + number / 24,
        "ESO TEL AMBI FWHM START": seeing,
        "ESO TEL AMBI FWHM END": seeing,
    }
    defaults = {
        "target": "NGC 300", "ob": 100 + number // 2, "ob_name": "block", "run": "094.A-0001(A)", "pi": 7,
        "mode": "WFM-NOAO-N", "kind": "OBJECT", "category": "SCIENCE", "request": 1.0, "exptime": 900.0,
        "ra": RA, "dec": DEC, "angle": 0.0,
    }  # fmt: skip
    for name, value in (defaults | facts).items():
        cards[NAMES.get(name, name)] = value
    path = folder / f"{arcfile_of(number)}.fits"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header_bytes(cards))
    return path


def header_bytes(cards):
    """A primary header without data, as bytes; much faster than the library, for thousands of them."""
    lines = [
        "SIMPLE  =                    T",
        "BITPIX  =                    8",
        "NAXIS   =                    0",
    ]
    for name, value in cards.items():
        if value is not None:
            text = (
                "'" + value.replace("'", "''").ljust(8) + "'" if isinstance(value, str) else f"{value!r:>20}"
            )
            lines.append((f"{name:<8}= " if len(name) <= 8 else f"HIERARCH {name} = ") + text)
    block = b"".join(line.encode()[:80].ljust(80) for line in (*lines, "END"))
    return block.ljust(-(-len(block) // 2880) * 2880)


def write_image(folder, number, flux, step_arcsec=0.2, **cards):
    """Write an IMAGE_FOV of the exposure of that number."""
    primary = fits.PrimaryHDU()
    facts = {"DATE-OBS": date_of(number), "OBJECT": "NGC 300 (white)", "RA": RA, "DEC": DEC}
    for name, value in (facts | {"ESO PRO CATG": "IMAGE_FOV"} | cards).items():
        primary.header[f"HIERARCH {name}" if " " in name else name] = value
    data = fits.ImageHDU(np.asarray(flux, np.float32), name="DATA")
    step = step_arcsec / 3600
    ny, nx = flux.shape
    data.header.update(
        {
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "CRVAL1": RA,
            "CRVAL2": DEC, "CRPIX1": nx / 2, "CRPIX2": ny / 2, "CD1_1": -step, "CD2_2": step, "CD1_2": 0.0,
            "CD2_1": 0.0,
        }
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"IMAGE_FOV_{number:04d}.fits"
    fits.HDUList([primary, data]).writeto(path)
    return path


def write_csv(path, rows):
    """Write a list of dicts."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def select(folder, *exposures, grades=(), log=(), bad=(), overrides="", output=None, **settings):
    """Write exposures (dicts of what differs from the default) with their tables, and select.

    Two exposures make an OB if they do not say otherwise; it is the year 2020, long after.
    """
    for number, facts in enumerate(exposures):
        write_frame(folder / "raw", number, **facts)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("grades", grades), ("nightlog", log), ("known_bad", bad)):
        if rows:
            settings[name] = write_csv(folder / f"{name}.csv", rows)
    if overrides:
        settings["overrides"] = folder / "overrides.yaml"
        settings["overrides"].write_text(overrides)
    return select_exposures(folder / "raw", output, **({"today": "2020-01-01"} | settings))


def decision_on(selection, number):
    """What was decided about the exposure of that number."""
    everything = [d for dataset in selection.datasets for d in dataset.decisions] + selection.loose
    return next(d for d in everything if d.candidate.date_obs == date_of(number))


def groups(selection):
    """Numbers of the exposures of each dataset, those left out too."""
    numbers = {date_of(n): n for n in range(100)}
    return sorted(sorted(numbers[date] for date in d.all_dates) for d in selection.datasets)
