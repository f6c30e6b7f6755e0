"""Raw frames and master calibrations: what their headers tell that the association needs."""

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

from astropy.io import fits
from astropy.time import Time

from musedeep.errors import InputError

__all__ = ["Frame", "find_frames", "fingerprint"]

_SUFFIXES = (".fits", ".fits.fz")
_RAW_TAGS = {"OBJECT": "OBJECT", "SKY": "SKY", "FLAT,LAMP,ILLUM": "ILLUM"}


@dataclass(frozen=True)
class Frame:
    """One file.

    Attributes
    ----------
    path : Path
    tag : str
        ``OBJECT``, ``SKY``, ``ILLUM``, or the category of a calibration.
    date_obs : str
        To the millisecond.
    mjd : float
        NaN for calibrations that belong to no time.
    mode, readout : str
        Instrument mode and name of the read-out; empty where the file does not tell.
    ifus : tuple of int
        IFUs that the file holds; empty for a file that serves all.
    exptime : float, s
    ob : int
        Number of the observing block, 0 where there is none.
    made : str
        When it was written, for calibrations that were made twice.
    """

    path: Path
    tag: str
    date_obs: str
    mjd: float
    mode: str
    readout: str
    ifus: tuple[int, ...]
    exptime: float
    ob: int
    made: str


def find_frames(paths):
    """Raw frames and master calibrations among files and folders.

    Parameters
    ----------
    paths : iterable of path
        A folder stands for all FITS files in and below it.

    Returns
    -------
    frames : list of Frame
    problems : list of (Path, str)
        Files that cannot be used, and why.

    Raises
    ------
    InputError
        There is no such file or folder.
    """
    files = {}
    for path in map(Path, paths):
        path = path.expanduser().absolute()
        if not path.exists():
            raise InputError(f"there is no {path}; give raw frames, calibrations, or folders of them")
        found = sorted(p for p in path.rglob("*") if p.name.endswith(_SUFFIXES)) if path.is_dir() else [path]
        files |= dict.fromkeys(found)
    frames, problems = [], []
    for path in files:
        try:
            frame = _read(path)
        except (OSError, ValueError, KeyError, TypeError, fits.VerifyError) as error:
            problems.append((path, f"cannot be read ({error}); fetch or write it again"))
            continue
        if frame is not None:
            frames.append(frame)
    return frames, problems


def fingerprint(*parts):
    """A short hash of files (by name, size and time of modification) and of plain values."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            facts = part.stat()
            part = (part.name, facts.st_size, facts.st_mtime_ns)
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()[:20]


def _read(path):
    with fits.open(path, memmap=True) as hdus:
        header = hdus[0].header
        tag = header.get("ESO PRO CATG") or _RAW_TAGS.get(str(header.get("ESO DPR TYPE", "")).strip())
        if tag is None or str(header.get("INSTRUME", "MUSE")).strip() != "MUSE":
            return None
        names = [str(header.get("EXTNAME", ""))]
        if not re.match(r"CHAN\d\d", names[0]):
            names = [hdu.name for hdu in hdus[1:]]
        facts = header.copy()
    date = str(facts.get("DATE-OBS", "")).strip()[:23]
    mjd = facts.get("MJD-OBS")
    if mjd is None:
        mjd = Time(date).mjd if date else math.nan
    found = sorted({int(name[4:6]) for name in names if re.match(r"CHAN\d\d", name)})
    return Frame(
        path=path,
        tag=str(tag).strip(),
        date_obs=date,
        mjd=float(mjd),
        mode=str(facts.get("ESO INS MODE", "")).strip(),
        readout=str(facts.get("ESO DET READ CURNAME", "")).strip(),
        ifus=tuple(found),
        exptime=float(facts.get("EXPTIME", 0.0)),
        ob=int(facts.get("ESO OBS ID", 0) or 0),
        made=str(facts.get("DATE", "")),
    )
