"""What is written down about a reduction: one record a step, one an exposure, and its bits of QCFLAG."""

import json
import math
import re

from astropy.io import fits

__all__ = ["harvest_qc", "qc_bits", "read_record", "write_record"]

_QC = re.compile(r"ESO QC (.+)")


def read_record(path):
    """A record; None where there is none, or half of one.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict or None
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_record(path, record):
    """Write a record so that it is there as a whole or not at all.

    Parameters
    ----------
    path : Path
    record : dict
    """
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps(record, indent=1, default=str))
    beside.replace(path)


def harvest_qc(path):
    """Keywords ``ESO QC`` of the headers of a product.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to value
        Without the prefix, such as ``SCIBASIC NSATURATED``.
    """
    found = {}
    with fits.open(path, memmap=True) as hdus:
        for hdu in hdus[:2]:
            for name, value in hdu.header.items():
                match = _QC.fullmatch(name)
                if match and isinstance(value, str | int | float) and value == value:
                    found[match[1]] = value
    return found


def qc_bits(steps, association, settings):
    """The bits of QCFLAG that a reduction decides.

    Parameters
    ----------
    steps : list of dict
        Records of the steps of the exposure, and of its SKY frame.
    association : Association
    settings : ReductionSettings

    Returns
    -------
    dict
        ``bits``: number (str) to 0 or 1; with what they were told from: ``sky_fit_failed``, ``arc_days``,
        ``saturated`` (pixels of all IFUs) and ``shift_angstrom`` (of the IFU with the largest one).
    """
    own = [
        step
        for step in steps
        if step["step"] == "scibasic" and step["exposure"] == association.frame.date_obs
    ]
    saturated = sum(int(step["qc"].get("SCIBASIC NSATURATED", 0)) for step in own)
    shifts = [float(step["qc"].get("SCIBASIC LAMBDA SHIFT", 0.0)) for step in own]
    shift = max(shifts, key=abs, default=0.0)
    failed = any(step["sky_fit_failed"] for step in steps)
    arc = association.arc_days
    return {
        "bits": {
            "1": int(failed),
            "3": int(association.case != "sky"),
            "4": int(math.isfinite(arc) and arc > settings.arc_days),
            "6": int(saturated >= settings.saturation),
            "9": int(abs(shift) >= settings.shift),
        },
        "sky_fit_failed": failed,
        "arc_days": arc if math.isfinite(arc) else None,
        "saturated": saturated,
        "shift_angstrom": shift,
    }
