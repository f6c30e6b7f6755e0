"""Names of the files of a product: plain ones, or those of ESO's archive (ORIGFILE)."""

import re

from musedeep.errors import UsageError

__all__ = [
    "CONVENTIONS",
    "MOST_LETTERS",
    "log_name",
    "observation_name",
    "origfile",
    "plot_name",
    "product_name",
]

CONVENTIONS = ("plain", "origfile")
MOST_LETTERS = 68
"""Longest file name that ESO's archive takes, with its ending."""

# Products that ESO's archive has a code for; the others keep their plain names.
_CODES = {"DATACUBE_DEEP": "SCBD", "IMAGE_FOV_DEEP": "SIMD", "EXPOSURE_MAP": "SXPM"}
_RAW_FILE = re.compile(r"MUSE\.(\d{4}-\d\d-\d\dT\d\d[:_]\d\d[:_]\d\d\.\d{3})")


def product_name(product, exposure, convention="plain"):
    """Name of a FITS product.

    Parameters
    ----------
    product : str
        Plain name without ending: DATACUBE_DEEP, IMAGE_FOV_DEEP, IMAGE_FOV_DEEP_<filter>, EXPOSURE_MAP, ...
    exposure : Exposure
        The earliest one, which gives OB, time and mode.
    convention : {"plain", "origfile"}

    Returns
    -------
    str
        With the ending .fits.

    Raises
    ------
    UsageError
        The name would be longer than ESO's archive takes, or is none.
    """
    name = f"{product}.fits" if convention == "plain" else origfile(product, exposure)
    if not re.fullmatch(r"[\w.:+-]+", name):
        raise UsageError(
            f"the file name {name!r}, made of headers or of the filter list, has letters that no file name "
            "may have; choose names = 'plain', or correct what it is made of"
        )
    if len(name) > MOST_LETTERS:
        raise UsageError(
            f"the file name {name} has {len(name)} letters, ESO's archive takes {MOST_LETTERS}; choose "
            "names = 'plain', or a shorter name in the filter list"
        )
    return name


def origfile(product, exposure):
    """Name of a product by ESO's rule: MU_<code>_<first OB>_<time of the first raw file>_<mode>_OBJ.fits.

    Parameters
    ----------
    product : str
        As for `product_name`. What the archive has no code for keeps its plain name.
    exposure : Exposure
        The earliest one; an OB number or mode that it lacks becomes 0 or "WFM".

    Returns
    -------
    str
    """
    known = next((known for known in _CODES if product == known or product.startswith(f"{known}_")), None)
    if known is None:
        return f"{product}.fits"
    block = str(exposure.header.get("ESO OBS ID", "")).strip() or "0"
    mode = str(exposure.header.get("ESO INS MODE", "")).strip() or "WFM"
    time = observation_name(exposure).removeprefix("MUSE.")
    filter_name = product.removeprefix(known)
    return f"MU_{_CODES[known]}_{block}_{time}_{mode}_OBJ{filter_name}.fits"


def observation_name(exposure):
    """Name of an exposure's raw file without ending, such as MUSE.2014-08-10T01:02:03.456.

    Parameters
    ----------
    exposure : Exposure

    Returns
    -------
    str
        From ESO PRO ANCESTOR or ARCFILE; from DATE-OBS where neither has the form of a raw file's name.
    """
    for key in ("ESO PRO ANCESTOR", "ARCFILE"):
        found = _RAW_FILE.match(str(exposure.header.get(key, "")).strip())
        if found:
            return f"MUSE.{found[1].replace('_', ':')}"
    return f"MUSE.{exposure.date_obs}"


def plot_name(exposure, kind="pst"):
    """Name of a quality plot as ESO names it: r.MUSE.<time>_pst.png for an exposure, _dpc.png for the cube.

    Parameters
    ----------
    exposure : Exposure
        The exposure, or the earliest one of the deep cube.
    kind : {"pst", "dpc"}

    Returns
    -------
    str
    """
    return f"r.{observation_name(exposure)}_{kind}.png"


def log_name(exposure):
    """Name of the text log of a deep cube as ESO names it: r.MUSE.<time of the earliest>_dpc.log."""
    return f"r.{observation_name(exposure)}_dpc.log"
