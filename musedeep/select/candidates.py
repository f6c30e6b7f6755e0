"""Candidates: what all files of one exposure tell about it, put together."""

import math
import re
from dataclasses import dataclass, replace
from functools import cached_property

from astropy.time import Time

from musedeep.select.footprints import field_arcsec
from musedeep.select.names import moving_name

__all__ = ["Candidate", "candidates_of"]

_KINDS = ("pixel table", "raw", "image")
_YEAR_SECONDS = 365.25 * 86400


@dataclass(frozen=True)
class Candidate:
    """One exposure that may become part of a deep field; NaN or empty where nothing tells.

    Attributes
    ----------
    date_obs : str
        First 23 characters of DATE-OBS: its key.
    mjd, exptime_s, ra_deg, dec_deg, angle_deg : float
    mode : str
        ``ESO INS MODE``.
    category, kind : str
        ``ESO DPR CATG`` and ``ESO DPR TYPE``.
    target, ob_id, ob_name, run, pi, container : str
    request_arcsec, measured_arcsec : float
        Seeing that was asked for and that was measured.
    transparency : str
    moving : str
        Why it is thought to move, or empty.
    arcfile : str
        Name of the raw file, without suffix.
    files : tuple of str
        The newest pixel tables, else the raw file, else the image.
    source : str
        "pixel table", "raw" or "image": what `files` are.
    is_in_reach : bool
        Whether its files can be read today.
    older : tuple of str
        Pixel tables of earlier reductions.
    image : dict or None
        What `musedeep.select.images.measure_image` found.
    ob_is_guessed : bool
        Whether the header has no OB, and `ob_id` is that of others with the same run, OB name and night.
    """

    date_obs: str
    mjd: float
    exptime_s: float
    ra_deg: float
    dec_deg: float
    angle_deg: float
    mode: str
    category: str
    kind: str
    target: str
    ob_id: str
    ob_name: str
    run: str
    pi: str
    container: str
    request_arcsec: float
    measured_arcsec: float
    transparency: str
    moving: str
    arcfile: str
    files: tuple
    source: str
    is_in_reach: bool
    older: tuple
    image: dict | None
    ob_is_guessed: bool = False

    @property
    def is_placed(self):
        """Whether it is known where on the sky it was taken."""
        return math.isfinite(self.ra_deg) and math.isfinite(self.dec_deg)

    @cached_property
    def block(self):
        """What tells its observing block from others."""
        return self.ob_id or "|".join(map(str, self.night_block))

    @property
    def night_block(self):
        """Run, name and night of its observing block."""
        night = math.floor(self.mjd - 0.5) if math.isfinite(self.mjd) else self.date_obs[:10]
        return self.run, self.ob_name or self.target, night

    @property
    def side_arcsec(self):
        """Side of its field of view."""
        return field_arcsec(self.mode)


def candidates_of(index, moving_arcsec_per_year):
    """Put the files of an index together to exposures.

    Parameters
    ----------
    index : Index
    moving_arcsec_per_year : float
        Proper motion from which a target is thought to move.

    Returns
    -------
    candidates : list of Candidate
        In the order of time.
    problems : list of dict
        Files that could not be used: ``file`` and ``problem``.
    calibrations : int
        Number of files that show no target.
    """
    groups, problems, calibrations = {}, [], 0
    for path, entry in index.items():
        if "error" in entry:
            problems.append({"file": path, "problem": entry["error"]})
            continue
        header = entry["header"]
        kind = _file_kind(header)
        if kind is None:
            calibrations += 1
            continue
        date = _date_of(header)
        if not date:
            problems.append({"file": path, "problem": "DATE-OBS, MJD-OBS and ARCFILE are missing"})
            continue
        groups.setdefault(date, {}).setdefault(kind, []).append((path, entry))
    found = [_candidate(date, groups[date], moving_arcsec_per_year) for date in sorted(groups)]
    return _with_blocks(found), problems, calibrations


def _with_blocks(candidates):
    """Give exposures without an OB that of others with the same run, OB name and night."""
    known = {}
    for item in candidates:
        if item.ob_id:
            known.setdefault(item.night_block, set()).add(item.ob_id)
    made = []
    for item in candidates:
        same = known.get(item.night_block, ()) if not item.ob_id else ()
        if len(same) == 1:
            item = replace(item, ob_id=next(iter(same)), ob_is_guessed=True)
        made.append(item)
    return made


def _file_kind(header):
    """Kind of a file, None for what shows no target."""
    product = header.get("ESO PRO CATG")
    if product is not None and "combine" in str(header.get("ESO PRO REC1 ID", "")):
        return None
    if product is not None:
        return {"PIXTABLE_REDUCED": "pixel table", "IMAGE_FOV": "image"}.get(str(product))
    if header.get("ESO DPR CATG", "SCIENCE") != "SCIENCE":
        return None
    known = any(name in header for name in ("ESO DPR TYPE", "ESO OBS ID", "ESO INS MODE"))
    return "raw" if known and header.get("ESO DPR TYPE") in ("OBJECT", "SKY", None) else None


def _date_of(header):
    date = str(header.get("DATE-OBS", ""))[:23]
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", date):
        found = re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", str(header.get("ARCFILE", "")))
        date = found[0] if found else ""
    if not date and isinstance(header.get("MJD-OBS"), int | float):
        date = Time(header["MJD-OBS"], format="mjd").isot
    return date


def _in_reach(files):
    """Those of some files that can be read today; all of them where none can."""
    return [item for item in files if not item[1].get("gone")] or files


def _by_path(files):
    return sorted(files, key=lambda item: item[0])


def _candidate(date, files, moving_limit):
    files = {kind: _in_reach(some) for kind, some in files.items()}
    tables, older = _newest(files.get("pixel table", []))
    # The same raw frame may lie in two folders.
    raw, images = (_by_path(files.get(kind, []))[:1] for kind in ("raw", "image"))
    chosen, source = next(
        (some, kind) for some, kind in zip((tables, raw, images), _KINDS, strict=True) if some
    )
    # The image's OBJECT bears the name of its filter, so it is asked last.
    headers = [entry["header"] for _, entry in (*tables, *raw, *images)]
    first = _Facts(headers)
    return Candidate(
        date_obs=date,
        mjd=first.number("MJD-OBS", default=None) or _mjd(date),
        exptime_s=first.number("EXPTIME", least=1e-3),
        ra_deg=first.number("RA", least=0, most=360),
        dec_deg=first.number("DEC", least=-90, most=90),
        angle_deg=_angle(first),
        mode=first.text("ESO INS MODE"),
        category=first.text("ESO DPR CATG") or "SCIENCE",
        kind=first.text("ESO DPR TYPE") or "OBJECT",
        target=first.text("ESO OBS TARG NAME")
        or re.sub(r" \([\w-]+\)$", "", first.text("OBJECT"))
        or first.text("ESO OBS NAME"),
        ob_id=_identifier(first.text("ESO OBS ID")),
        ob_name=first.text("ESO OBS NAME"),
        run=first.text("ESO OBS PROG ID"),
        pi=first.text("ESO OBS PI-COI ID") or _known(first.text("ESO OBS PI-COI NAME", "PI-COI")),
        container=_container(first),
        request_arcsec=first.number("ESO OBS AMBI FWHM", least=0.05, most=20),
        measured_arcsec=_measured(first),
        transparency=first.text("ESO OBS AMBI TRANS"),
        moving=_moving(first, moving_limit),
        arcfile=_arcname(first.text("ARCFILE") or f"MUSE.{date}"),
        files=tuple(path for path, _ in chosen),
        source=source,
        is_in_reach=not any(entry.get("gone") for _, entry in chosen),
        older=tuple(path for path, _ in older),
        image=next((entry["image"] for _, entry in images if entry.get("image")), None),
    )


class _Facts:
    """The first good value that a list of headers has for a keyword."""

    def __init__(self, headers):
        self._headers = headers

    def text(self, *keywords):
        for keyword in keywords:
            for header in self._headers:
                if str(header.get(keyword, "")).strip():
                    return str(header[keyword]).strip()
        return ""

    def number(self, keyword, *, least=-math.inf, most=math.inf, default=math.nan):
        for header in self._headers:
            try:
                value = float(header.get(keyword))
            except (TypeError, ValueError):
                continue
            if least <= value <= most:
                return value
        return default


def _newest(tables):
    """Pixel tables of the newest reduction, and those of earlier ones.

    The tables of one reduction lie in one folder and were made by one version; a table of one IFU has 23
    sisters.
    """
    versions = {}
    for path, entry in tables:
        header = entry["header"]
        alone = "" if str(header.get("EXTNAME", "")).startswith("CHAN") else path
        key = path.rpartition("/")[0], str(header.get("ESO PRO REC1 PIPE ID", "")), alone
        versions.setdefault(key, []).append((path, entry))
    if not versions:
        return [], []
    order = sorted(
        versions,
        key=lambda key: (
            max(str(entry["header"].get("DATE", "")) for _, entry in versions[key]),
            _version_numbers(key[1]),
            key,
        ),
    )
    return _by_path(versions[order[-1]]), _by_path(item for key in order[:-1] for item in versions[key])


def _version_numbers(text):
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _angle(first):
    angle = first.number("ESO INS DROT POSANG", default=0.0)
    # In this mode the rotator's angle counts against the position angle.
    return -angle if first.text("ESO INS DROT MODE") == "SKY" else angle


def _measured(first):
    ends = [first.number(f"ESO TEL AMBI FWHM {end}", least=0.05, most=20) for end in ("START", "END")]
    known = [value for value in ends if math.isfinite(value)]
    return sum(known) / len(known) if known else first.number("ESO TEL IA FWHMLIN", least=0.05, most=20)


def _moving(first, limit):
    for keyword in ("ESO TEL TARG PMA", "ESO TEL TARG PMD"):
        value = first.number(keyword, default=0.0)
        if abs(value) > limit:
            return f"{keyword[4:]} = {value:g} arcsec a year"
    for keyword in ("ESO TEL TARG ADDVELALPHA", "ESO TEL TARG ADDVELDELTA"):
        value = first.number(keyword, default=0.0)
        if abs(value) * _YEAR_SECONDS > limit:
            return f"{keyword[4:]} = {value:g} arcsec a second"
    name = first.text("ESO OBS TARG NAME", "OBJECT")
    return f"the target is called {name!r}" if moving_name(name) else ""


def _container(first):
    # Type U is no container, and the group '0' of an OB that has none is the same for all.
    if first.text("ESO OBS CONTAINER TYPE") in ("", "U"):
        return ""
    return _identifier(first.text("ESO OBS CONTAINER ID"))


def _identifier(text):
    return "" if text in ("", "0", "-1") else re.sub(r"\.0$", "", text)


def _known(text):
    return "" if text.upper() in ("", "UNKNOWN") else text


def _arcname(text):
    return re.sub(r"\.fits(\.\w+)?$", "", text)


def _mjd(date):
    return float(Time(date, format="isot").mjd) if date else math.nan
