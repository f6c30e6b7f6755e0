"""QCFLAG, its ten bits, the comments of the product, and who may have it."""

import datetime
import math
import re
from dataclasses import dataclass

import numpy as np

from musedeep.access import product_access
from musedeep.qc.photometry import saturated_pixels

__all__ = ["Bit", "access_of", "acquisition_pattern", "flag_cards", "qc_bits", "qc_flag"]

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d[:_]\d\d[:_]\d\d(?:\.\d+)?)")
# in the words of older and of newer pipelines
_SKY_FAILED = re.compile(r"(?:master )?sky (?:line )?fit failed with error code \d+", re.IGNORECASE)
_MOST_LETTERS = 68


@dataclass(frozen=True)
class Bit:
    """One bit of QCFLAG.

    Attributes
    ----------
    number : int
        From 1, the leftmost.
    name : str
        As ESO calls it.
    value : int
        0 where there is no concern.
    comment : str
        What it was told from.
    """

    number: int
    name: str
    value: int
    comment: str


def qc_bits(evidence, diagnosis, matched):
    """The bits of QCFLAG of a deep cube.

    Parameters
    ----------
    evidence : Evidence
    diagnosis : Diagnosis
    matched : dict of str to bool
        Whether the list of offsets names each exposure.

    Returns
    -------
    list of Bit

    Notes
    -----
    Table 4 of the description of ESO's MUSE-DEEP release. What the headers do not tell counts as fine, and
    the comment says so.
    """
    limits = evidence.thresholds
    saturated = max(saturated_pixels(evidence).values(), default=0)
    sources, peak = len(evidence.deep.x), diagnosis.peak.histo_17
    shift = diagnosis["wavelength_shift"]
    return [
        _sky_fit(evidence),
        Bit(2, "IS_OBJ", 0, "made of OBJECT exposures"),
        _has_sky(evidence),
        _arcs(evidence, limits["arc_days"]),
        Bit(5, "SKY_FLAT", 0, "always 0 for deep cubes"),
        Bit(6, "NUM_SAT", int(saturated >= limits["saturation"]), f"at most {saturated} saturated pixels"),
        Bit(7, "NUM_SRC", int(sources == 0), f"{sources} sources"),
        Bit(8, "HISTO_BKG", int(peak <= -limits["over_subtraction"]), f"HISTO_17 = {_number(peak, 2)}"),
        _line_shift(evidence, shift),
        _alignment(evidence, diagnosis, limits["offset_arcsec"], matched),
    ]


def qc_flag(bits):
    """The ten characters of QCFLAG."""
    return "".join(str(bit.value) for bit in bits)


def _number(value, digits):
    return f"{value:.{digits}f}" if math.isfinite(value) else "unknown"


def _sky_fit(evidence):
    """Whether a log of muse_scipost beside a pixel table tells of a failed fit of the sky."""
    failed, read = [], 0
    for date, exposure in evidence.exposures.items():
        for table in exposure.tables:
            log = table.path.with_suffix(".log")
            if log.exists():
                read += 1
                if _SKY_FAILED.search(log.read_text(errors="replace")):
                    failed.append(date)
    comment = f"failed for {', '.join(failed)}" if failed else f"{read} logs read, none tells of a failure"
    return Bit(1, "CHECK_BKG", int(bool(failed)), comment if read else "no log beside the pixel tables")


def _has_sky(evidence):
    """Whether a frame of the sky, or what was made of one, went into every exposure."""
    having = 0
    for exposure in evidence.exposures.values():
        kinds = [
            str(v) for k, v in exposure.header.items() if re.fullmatch(r"ESO PRO REC\d+ (RAW|CAL)\d+ CATG", k)
        ]
        having += any(kind == "SKY" or kind.startswith("SKY_CONTINUUM") for kind in kinds)
    comment = f"{having} of {len(evidence.exposures)} exposures have one"
    return Bit(3, "HAS_SKY", int(having == 0), comment)


def _arcs(evidence, most_days):
    """Time between the exposures and the arc lamps of their wavelength calibration."""
    worst = None
    for exposure in evidence.exposures.values():
        for time in _arc_times(exposure.header):
            days = abs(time - exposure.mjd_obs)
            worst = days if worst is None else max(worst, days)
    if worst is None:
        return Bit(4, "ARC_CLOSE", 0, "no header names a wavelength calibration with its time")
    return Bit(4, "ARC_CLOSE", int(worst >= most_days), f"at most {worst:.2f} d between arc and exposure")


def _arc_times(header):
    from astropy.time import Time

    for key, value in header.items():
        if re.fullmatch(r"ESO PRO REC\d+ CAL\d+ CATG", key) and str(value) == "WAVECAL_TABLE":
            found = _TIME.search(str(header.get(key.replace(" CATG", " NAME"), "")))
            if found:
                yield Time(found[1].replace("_", ":")).mjd


def _line_shift(evidence, shift):
    """What is left of the lines of the sky, and by how much the reduction had moved the wavelengths."""
    comment = f"sky lines off by {_number(abs(shift.value), 3)} Angstrom" if shift.measured else shift.note
    records = [exposure.reduction.get("qc", {}) for exposure in evidence.exposures.values()]
    moved = [abs(record["shift_angstrom"]) for record in records if "shift_angstrom" in record]
    if moved:
        comment += f"; wavelengths were moved by {max(moved):.3f} Angstrom at most"
    high = max(moved, default=0.0) >= evidence.thresholds["wavelength_shift"]
    return Bit(9, "LSHIFT_MAX", int(shift.alarm or high), comment)


def _alignment(evidence, diagnosis, most_arcsec, matched):
    check = diagnosis.check
    missing = [date for date, there in matched.items() if not there]
    if missing:
        comment = f"no offset for {len(missing)} of {len(matched)} exposures"
        return Bit(10, "ALIGNMENT", 1, comment)
    if check is None:
        return Bit(10, "ALIGNMENT", 0, "too few exposures, or no sources, to compare")
    size, errors = diagnosis["misalignment"].values, dict(zip(evidence.dates, check.errors, strict=True))
    largest = max(size.values(), default=math.nan)
    off = any(value > most_arcsec and value > 5 * errors[date] for date, value in size.items())
    return Bit(10, "ALIGNMENT", int(off), f"exposures lie {_number(largest, 3)} arcsec off, at most")


def acquisition_pattern(evidence):
    """A sentence about how the field was observed."""
    exposures = list(evidence.exposures.values())
    angles = len({round(e.position_angle_deg % 360.0) for e in exposures})
    blocks = len({e.ob_id for e in exposures})
    cos = math.cos(math.radians(exposures[0].dec_deg))
    east = np.array([(e.ra_deg - exposures[0].ra_deg + 180) % 360 - 180 for e in exposures]) * 3600 * cos
    north = np.array([e.dec_deg - exposures[0].dec_deg for e in exposures]) * 3600
    spread = math.hypot(np.ptp(east), np.ptp(north))
    days = np.ptp([e.mjd_obs for e in exposures])
    return (
        f"{len(exposures)} exposures of {blocks} OBs within {days:.1f} d, {angles} position angles, "
        f"pointings within {spread:.1f} arcsec"
    )


def access_of(exposures, months, today=None):
    """Who may have a product: all if all of its inputs are public, else the PI of their run, or nobody.

    Parameters
    ----------
    exposures : iterable of Exposure
    months : float
        How long an exposure belongs to its PI.
    today : datetime.date, optional

    Returns
    -------
    access : str
        'public', 'PI of <run>' or 'nobody'.
    since : datetime.date
        From when it is public.
    """
    exposures = list(exposures)
    private = datetime.timedelta(days=math.ceil(months * 365.25 / 12))
    days = [datetime.date.fromisoformat(e.date_obs[:10]) + private for e in exposures]
    today = today or datetime.datetime.now(datetime.UTC).date()
    return product_access(days, (e.prog_id for e in exposures), today)


def flag_cards(bits, comments):
    """Keywords of the product: QCFLAG and QCCOMMi.

    Parameters
    ----------
    bits : list of Bit
    comments : list of str

    Returns
    -------
    list of (str, str, str)
        Keyword, value, comment; long comments are cut into pieces.
    """
    cards = [("QCFLAG", qc_flag(bits), "quality flags, 0 is fine")]
    pieces = [piece for comment in comments for piece in _pieces(comment)]
    return cards + [(f"QCCOMM{n}", piece, "") for n, piece in enumerate(pieces[:99], start=1)]


def _pieces(text):
    import textwrap

    return textwrap.wrap(text, _MOST_LETTERS) or [""]
