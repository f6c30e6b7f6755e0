"""The rules for keywords of ESO Science Data Products (ESO-044286, version 8) from MUSE, as one table."""

import math
import re
from dataclasses import dataclass

__all__ = ["FORBIDDEN", "GROUPS", "KINDS", "RULES", "Rule", "kind_of"]

#: Kinds of products: the beginning of PRODCATG, longest first, and what such a file is.
KINDS = {
    "SCIENCE.CUBE.IFS": "cube",
    "ANCILLARY.IMAGE.WHITELIGHT": "white",
    "ANCILLARY.IMAGE": "image",
    "ANCILLARY.EXPMAP": "expmap",
}

#: Keywords that no product may have, and why.
FORBIDDEN = {
    r"CDELT\d+|CROTA\d+|PC\d+_\d+": "the CD matrix says it",
    r"CONTINUE|LONGSTRN": "strings must not be continued",
    r"FILTER|SPEC_BIN": "it has no meaning for a cube",
    r"RA_ERR|DEC_ERR": "CSYERi say it",
    r"(PROV|OBID|PROGID|ASSO[NCM])0\d*": "numbers start at 1, without zeros before them",
    r"C(TYPE|RVAL|RPIX|UNIT)\d[A-Z]|CD\d_\d[A-Z]": "only one WCS is allowed",
    r"M_EPOCH": "it belongs to catalogues",
}

#: Numbered keywords of the first HDU: name, whether they must be there in a cube, type of the values.
GROUPS = {
    "PROV": (True, str),
    "OBID": (True, int),
    "PROGID": (False, str),
    "ASSON": (True, str),
    "ASSOC": (False, str),
    "ASSOM": (False, str),
}

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?"
_RUN = r"\d{2,4}\.[A-Z]-\d{3,4}\([A-Z]\)|\d{3}\.[0-9A-Z]{4}\.\d{3}|MULTI"
_ALL = ("cube", "white", "image", "expmap")


@dataclass(frozen=True)
class Rule:
    """What is asked of one keyword.

    Attributes
    ----------
    key : str
    hdu : str
        "primary", or the EXTNAME of an extension; "*" for all extensions.
    type : type
        str, int, float or bool; a float may be written as an integer.
    allowed : tuple of str, (low, high), re.Pattern or None
        Values, a closed range, a pattern, or anything.
    status : {"mandatory", "recommended", "optional"}
        Whether it must be there. What is there but not mandatory had better be right.
    kinds : tuple of str
        Products that it holds for.
    """

    key: str
    hdu: str
    type: type
    allowed: object = None
    status: str = "mandatory"
    kinds: tuple = _ALL

    def fault(self, value):
        """What is wrong with a value; None if nothing is."""
        if self.type is float:
            right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else:
            right = type(value) is self.type
        if not right:
            return f"is {value!r}, but must be {_TYPE_NAMES[self.type]}"
        if isinstance(self.allowed, re.Pattern) and not self.allowed.fullmatch(value):
            return f"is {value!r}, which has not the form {self.allowed.pattern}"
        if isinstance(self.allowed, tuple):
            return self._outside(value)
        return None

    def _outside(self, value):
        if self.type is str:
            wanted = " or ".join(repr(word) for word in self.allowed)
            return None if value.strip() in self.allowed else f"is {value!r}, but must be {wanted}"
        low, high = self.allowed
        return None if low <= value <= high else f"is {value!r}, but must lie between {low:g} and {high:g}"


_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "T or F"}


def _form(pattern):
    return re.compile(pattern)


_MORE_THAN_0 = (1e-300, math.inf)
_FLUX = r"10\*\*\(-20\)erg\.s\*\*\(-1\)\.cm\*\*\(-2\)\.angstrom\*\*\(-1\)"
_SQUARE = r"10\*\*\(-40\)erg\*\*2\.s\*\*\(-2\)\.cm\*\*\(-4\)\.angstrom\*\*\(-2\)"

RULES = (
    #    keyword     HDU        type   allowed                                    status        products
    Rule("PRODCATG", "primary", str, _form("|".join(f"{k}(\\..*)?" for k in KINDS))),
    Rule("ORIGIN", "primary", str, ("ESO-PARANAL",)),
    Rule("TELESCOP", "primary", str, ("ESO-VLT-U4",)),
    Rule("INSTRUME", "primary", str, ("MUSE",)),
    Rule("OBJECT", "primary", str, _form(r".*\S.*")),
    Rule("RA", "primary", float, (0.0, 360.0)),
    Rule("DEC", "primary", float, (-90.0, 90.0)),
    Rule("RADESYS", "primary", str, ("FK5", "ICRS", "FK4", "FK4-NO-E")),
    Rule("EQUINOX", "primary", float, (1900.0, 2100.0), "optional"),
    Rule("TIMESYS", "primary", str, ("UTC", "MJD(UTC)"), "recommended", ("cube",)),
    Rule("DATE", "primary", str, _form(_TIME)),
    Rule("DATE-OBS", "primary", str, _form(_TIME)),
    Rule("MJD-OBS", "primary", float, (56000.0, 100000.0), "mandatory", ("cube",)),
    Rule("MJD-END", "primary", float, (56000.0, 100000.0), "mandatory", ("cube",)),
    Rule("EXPTIME", "primary", float, _MORE_THAN_0, "mandatory", ("cube",)),
    Rule("TEXPTIME", "primary", float, _MORE_THAN_0, "mandatory", ("cube",)),
    Rule("NCOMBINE", "primary", int, (1, 99999), "mandatory", ("cube",)),
    Rule("PROG_ID", "primary", str, _form(_RUN), "mandatory", ("cube",)),
    Rule("OBSTECH", "primary", str, ("IFU",), "mandatory", ("cube",)),
    Rule("FLUXCAL", "primary", str, ("ABSOLUTE", "UNCALIBRATED"), "mandatory", ("cube",)),
    Rule("PROCSOFT", "primary", str, _form(r".*\S.*"), "mandatory", ("cube",)),
    Rule("REFERENC", "primary", str, _form(r"|\S{19}|(doi|DOI):\S+"), "mandatory", ("cube",)),
    Rule("SPECSYS", "primary", str, ("BARYCENT", "HELIOCEN", "GEOCENTR", "TOPOCENT"), "mandatory", ("cube",)),
    Rule("WAVELMIN", "primary", float, (300.0, 1200.0), "mandatory", ("cube",)),
    Rule("WAVELMAX", "primary", float, (300.0, 1200.0), "mandatory", ("cube",)),
    Rule("SPEC_RES", "primary", float, (100.0, 10000.0), "mandatory", ("cube",)),
    Rule("SKY_RES", "primary", float, (0.01, 10.0), "mandatory", ("cube",)),
    Rule("SKY_RERR", "primary", float, (0.0, 10.0), "recommended", ("cube",)),
    Rule("PIXNOISE", "primary", float, _MORE_THAN_0, "mandatory", ("cube",)),
    Rule("ABMAGLIM", "primary", float, (0.0, 99.0), "mandatory", ("cube",)),
    Rule("STREHL", "primary", float, (1e-6, 1.0), "optional", ("cube",)),
    Rule("ELLIPTIC", "primary", float, (0.0, 1.0), "optional", ("cube",)),
    Rule("QCFLAG", "primary", str, _form("[01]{10}"), "optional", ("cube",)),
    Rule("EXTNAME", "*", str, _form(r"\S+")),
    Rule("HDUCLASS", "*", str, ("ESO",)),
    Rule("HDUDOC", "*", str, ("SDP", "DICD")),
    Rule("HDUVERS", "*", str, _form(r"(SDP|DICD) version \d.*")),
    Rule("HDUCLAS1", "*", str, ("IMAGE",)),
    Rule("HDUCLAS2", "DATA", str, ("DATA",)),
    Rule("HDUCLAS2", "STAT", str, ("ERROR",), "mandatory", ("cube", "white", "image")),
    Rule("HDUCLAS3", "STAT", str, ("MSE",), "mandatory", ("cube", "white", "image")),
    Rule("ERRDATA", "DATA", str, ("STAT",), "mandatory", ("cube",)),
    Rule("SCIDATA", "STAT", str, ("DATA",), "mandatory", ("cube", "white", "image")),
    Rule("BUNIT", "DATA", str, _form(_FLUX), "mandatory", ("cube",)),
    Rule("BUNIT", "STAT", str, _form(_SQUARE), "mandatory", ("cube",)),
    Rule("BUNIT", "DATA", str, ("s",), "mandatory", ("expmap",)),
    Rule("CTYPE1", "*", str, ("RA---TAN",)),
    Rule("CTYPE2", "*", str, ("DEC--TAN",)),
    Rule("CTYPE3", "*", str, ("AWAV", "WAVE"), "mandatory", ("cube",)),
    Rule("CUNIT1", "*", str, ("deg",)),
    Rule("CUNIT2", "*", str, ("deg",)),
    Rule("CUNIT3", "*", str, ("angstrom", "Angstrom"), "mandatory", ("cube",)),
    *(Rule(f"{key}{axis}", "*", float) for key in ("CRPIX", "CRVAL") for axis in (1, 2)),
    *(Rule(f"{key}3", "*", float, None, "mandatory", ("cube",)) for key in ("CRPIX", "CRVAL")),
    *(Rule(f"CD{row}_{column}", "*", float) for row in (1, 2) for column in (1, 2)),
    *(
        Rule(f"CD{term}", "*", float, (0.0, 0.0), "mandatory", ("cube",))
        for term in ("1_3", "2_3", "3_1", "3_2")
    ),
    Rule("CD3_3", "*", float, _MORE_THAN_0, "mandatory", ("cube",)),
    Rule("CRDER3", "DATA", float, (0.0, 10.0), "recommended", ("cube",)),
    Rule("CSYER1", "DATA", float, (0.0, 1.0), "recommended", ("cube",)),
    Rule("CSYER2", "DATA", float, (0.0, 1.0), "recommended", ("cube",)),
)


def kind_of(category):
    """Kind of product of a PRODCATG; None where it is none of `KINDS`."""
    for name, kind in KINDS.items():
        if category == name or category.startswith(f"{name}."):
            return kind
    return None
