"""Frames without data and a stand-in for esorex, for what goes wrong around the recipes."""

import os
import stat
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time

from musedeep.muse import PIXTABLE_PREFIX

MJD = 57000.2
MODE = "WFM-NOAO-N"
OF_IFU = ("MASTER_BIAS", "MASTER_FLAT", "TRACE_TABLE", "WAVECAL_TABLE", "LSF_PROFILE")
OF_ALL = ("GEOMETRY_TABLE", "EXTINCT_TABLE", "STD_RESPONSE", "STD_TELLURIC", "ASTROMETRY_WCS", "SKY_LINES")

# It knows the recipes, and leaves copies of prepared products; a file named after a task holds shell commands
# that are run in their place.
_SCRIPT = """#!/bin/sh
here=$(dirname "$0")
ifu=all
for word in "$@"; do
  case "$word" in
    --version) echo "EsoRex version 9.9.9"; echo "Libraries used: CPL = 8.8.8"; exit 0;;
    --recipes) echo "muse_scibasic muse_create_sky muse_scipost"; exit 0;;
    muse_*) recipe=$word;;
    --nifu=*) ifu=${word#--nifu=};;
    *.sof) sof=$word;;
  esac
done
if [ ! -s "$sof" ]; then echo "00:00:00 [ INFO  ] $recipe: MUSE Instrument Pipeline v7.7.7"; exit 255; fi
exec > recipe.log
date=$(basename "$(dirname "$PWD")")
echo "$recipe $ifu $date" >> "$here/ran"
for fault in "$here/$recipe-$ifu" "$here/$recipe-$date"; do
  if [ -e "$fault" ]; then . "$fault"; fi
done
case $recipe in
  muse_scibasic)
    tag=$(head -1 "$sof" | cut -d' ' -f2)
    cp "$here/PIXTABLE_OBJECT.fits" "PIXTABLE_${tag}_0001-$(printf %02d "$ifu").fits";;
  muse_create_sky) for name in SKY_LINES SKY_CONTINUUM; do cp "$here/TABLE.fits" $name.fits; done;;
  muse_scipost)
    count=$(grep -c 'PIXTABLE_OBJECT$' "$sof")
    cp "$here/PIXTABLE_REDUCED-$count.fits" PIXTABLE_REDUCED_0001.fits
    for name in IMAGE_FOV SKY_MASK; do cp "$here/TABLE.fits" ${name}_0001.fits; done
    cp "$here/TABLE.fits" DATACUBE_FINAL.fits;;
esac
"""


def _write(path, cards, names=(), shape=(4, 4)):
    primary = fits.PrimaryHDU()
    for name, value in cards.items():
        primary.header[f"HIERARCH {name}" if " " in name else name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([primary, *(fits.ImageHDU(np.zeros(shape, np.int16), name=n) for n in names)]).writeto(
        path, overwrite=True
    )
    return path


def raw_frame(folder, minute=0, kind="OBJECT", ifus=(1, 2), **cards):
    """A raw frame without light."""
    mjd = MJD + minute / 1440
    facts = {
        "INSTRUME": "MUSE", "MJD-OBS": mjd, "DATE-OBS": Time(round(mjd, 8), format="mjd").isot,
        "EXPTIME": 900.0, "ESO DPR TYPE": kind, "ESO INS MODE": MODE, "ESO DET READ CURNAME": "SCI1.0",
        "ESO OBS ID": 7,
    }  # fmt: skip
    return _write(folder / f"{kind}_{minute}.fits", facts | cards, [f"CHAN{ifu:02d}" for ifu in ifus])


def calibration(folder, tag, ifu=0, days=0.0, name="", **cards):
    """A master calibration without data, taken so many days after the exposures."""
    facts = {
        "INSTRUME": "MUSE", "MJD-OBS": MJD + days, "DATE-OBS": Time(round(MJD + days, 8), format="mjd").isot,
        "ESO PRO CATG": tag, "ESO INS MODE": MODE, "ESO DET READ CURNAME": "SCI1.0",
    }  # fmt: skip
    if ifu:
        facts["EXTNAME"] = f"CHAN{ifu:02d}"
    return _write(folder / (name or f"{tag}-{ifu:02d}_{days:g}.fits"), facts | cards)


def calibrations(folder, ifus=(1, 2), skip=(), **cards):
    """All calibrations that are needed, but for some: tags, or (tag, ifu)."""
    for tag in OF_IFU:
        for ifu in ifus:
            if tag not in skip and (tag, ifu) not in skip:
                calibration(folder, tag, ifu, **cards)
    for tag in OF_ALL:
        if tag not in skip:
            calibration(folder, tag, **cards)
    return folder


def stand_in(folder, **faults):
    """A program that behaves like esorex.

    Parameters
    ----------
    folder : Path
    **faults
        Shell commands for tasks: ``scibasic_2`` for an IFU, ``scipost_all`` for all exposures.

    Returns
    -------
    Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "esorex"
    path.write_text(_SCRIPT)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    for name, commands in faults.items():
        set_fault(folder, name, commands)
    qc = {"ESO QC SCIBASIC NSATURATED": 200, "ESO QC SCIBASIC LAMBDA SHIFT": -0.25}
    _write(folder / "PIXTABLE_OBJECT.fits", qc, ["data"], shape=(40, 40))
    _write(folder / "TABLE.fits", {})
    for count in (1, 2):
        facts = {f"{PIXTABLE_PREFIX}FLUXCAL": True, f"{PIXTABLE_PREFIX}MERGED": count}
        _write(folder / f"PIXTABLE_REDUCED-{count}.fits", facts, ["data"])
    return path


def write_large(path, blocks):
    """Write a FITS file of so many blocks of 2880 bytes, with holes, so that it takes no room."""
    image = fits.ImageHDU(np.zeros((1, 1), np.uint8)).header
    image["NAXIS1"], image["NAXIS2"] = 2880, blocks
    path.write_text(fits.PrimaryHDU().header.tostring() + image.tostring())
    os.truncate(path, path.stat().st_size + 2880 * blocks)


def set_fault(folder, name, commands):
    """Let a task go wrong; None mends it."""
    recipe, _, which = name.rpartition("_")
    path = folder / f"muse_{recipe}-{which}"
    if commands is None:
        path.unlink()
    else:
        path.write_text(commands + "\n")


def ran(folder):
    """What was run since this was asked last: 'recipe ifu' of each."""
    path = folder / "ran"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    path.unlink(missing_ok=True)
    return sorted(" ".join(line.split()[:2]).removeprefix("muse_") for line in lines)


def alive(pid):
    """Whether a process runs; one that nobody has asked for its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
