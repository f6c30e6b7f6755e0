"""The files that a cube names as its partners."""

import hashlib
import re

import numpy as np
from astropy.io import fits

from musedeep.validate.rules import kind_of

__all__ = ["check_partners"]

_FITS = (".fits", ".fits.fz")
# Pixels by which the places of cube and partner may differ.
_SAME_PLACE = 1e-3
_SAME_EXPTIME = 0.01


def check_partners(check, hdus):
    """Note partners of a cube that are missing, of the wrong kind, or do not agree with it."""
    header = hdus[0].header
    kinds = []
    for number in sorted(int(key[5:]) for key in header if re.fullmatch(r"ASSON[1-9]\d*", key)):
        name = str(header[f"ASSON{number}"]).strip()
        path = check.path.with_name(name)
        is_fits = name.endswith(_FITS)
        if not is_fits and f"ASSOC{number}" not in header:
            check.error(
                "primary", f"ASSOC{number}", f"is missing: {name} is no FITS file and needs a category"
            )
        if is_fits and f"ASSOC{number}" in header:
            check.error("primary", f"ASSOC{number}", f"must not be there: {name} has a PRODCATG of its own")
        if not path.exists():
            check.error("primary", f"ASSON{number}", f"{name} is not beside the cube")
        elif is_fits:
            kinds.append(_check_image(check, path, hdus, number))
        else:
            _check_md5(check, path, header.get(f"ASSOM{number}"), number)
    if kinds and kinds[0] != "white":
        check.error("primary", "ASSON1", "is not the white-light image, which is mandatory and comes first")
    if "expmap" not in kinds:
        check.advise("primary", "ASSON2", "no exposure map goes with the cube, which is strongly recommended")


def _check_md5(check, path, expected, number):
    if expected is None:
        check.error("primary", f"ASSOM{number}", f"is missing: the checksum of {path.name}")
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if str(expected).strip().lower() != found:
        check.error("primary", f"ASSOM{number}", f"is {expected}, but {path.name} has {found}")


def _check_image(check, path, hdus, number):
    """Kind of a FITS partner; what does not agree with the cube is noted."""
    key = f"ASSON{number}"
    with path.open("rb") as file, fits.open(file) as partner:
        kind = kind_of(str(partner[0].header.get("PRODCATG", "")).strip())
        image = next((hdu for hdu in partner if hdu.header.get("NAXIS") == 2), None)
        cube = next((hdu for hdu in hdus if hdu.header.get("NAXIS") == 3), None)
        if kind is None:
            check.error("primary", key, f"{path.name} has no PRODCATG that goes with a cube")
        if image is None or cube is None:
            check.error("primary", key, f"{path.name} holds no image")
            return kind
        shapes = [tuple(hdu.header[f"NAXIS{axis}"] for axis in (1, 2)) for hdu in (cube, image)]
        if shapes[0] != shapes[1]:
            check.error("primary", key, f"{path.name} has {shapes[1]} pixels, the cube has {shapes[0]}")
        if _distance(cube.header, image.header) > _SAME_PLACE:
            check.error("primary", key, f"{path.name} lies elsewhere on the sky than the cube")
        if kind == "expmap" and shapes[0] == shapes[1]:
            _check_exptime(check, hdus[0].header, image.data)
    return kind


def _distance(first, second):
    """Largest difference of two WCS, in pixels."""
    keys = [f"CRPIX{axis}" for axis in (1, 2)]
    pixels = max(abs(first.get(key, np.inf) - second.get(key, np.inf)) for key in keys)
    scale = abs(first.get("CD2_2", 0) or 1) + abs(first.get("CD2_1", 0))
    sky = [*(f"CRVAL{axis}" for axis in (1, 2)), *(f"CD{n}_{m}" for n in (1, 2) for m in (1, 2))]
    return max(pixels, *(abs(first.get(key, 0) - second.get(key, 0)) / scale for key in sky))


def _check_exptime(check, header, seconds):
    """By the standard, EXPTIME is the median of the exposure map where it is not 0."""
    seen = seconds[np.isfinite(seconds) & (seconds > 0)]
    exptime = header.get("EXPTIME")
    if len(seen) and isinstance(exptime, int | float):
        median = float(np.median(seen))
        if abs(exptime - median) > _SAME_EXPTIME * median:
            check.error(
                "primary", "EXPTIME", f"is {exptime:g} s, but the exposure map's median is {median:g} s"
            )
