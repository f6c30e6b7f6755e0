"""Files held against the rules: keywords, structure, what keywords say of one another, values, partners."""

import math
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from astropy.io import fits

from musedeep.errors import InputError
from musedeep.validate.partners import check_partners
from musedeep.validate.rules import FORBIDDEN, GROUPS, RULES, kind_of
from musedeep.validate.values import check_checksums, check_values

__all__ = ["Finding", "validate_products"]

_MOST_LETTERS = 68
_MOST_IMAGES = 3
_SECONDS = 0.01  # tolerance of times, as ESO's validator has it
_ONLY_PRIMARY = ("PRODCATG", "ORIGFILE", "ARCFILE")


@dataclass(frozen=True)
class Finding:
    """Something that is not as the standard wants it.

    Attributes
    ----------
    file : str
        Path of the file.
    hdu : str
        "primary", the EXTNAME of an extension, or empty for the file as a whole.
    keyword : str
        Empty where it is not about one keyword.
    severity : {"error", "advice"}
        Whether ESO's archive would refuse it, or only recommends otherwise.
    text : str
        What is wrong, and what is allowed.
    """

    file: str
    hdu: str
    keyword: str
    severity: str
    text: str

    def to_dict(self):
        """All of it as a dict of str."""
        return asdict(self)


def validate_products(paths):
    """Hold products against the ESO Science Data Products Standard, as far as it concerns MUSE.

    Files of musedeep, of ESO's pipeline and of its archive can be checked. The files that a cube names as its
    partners are looked for beside it. Data are read a few MB at a time.

    Parameters
    ----------
    paths : path, or iterable of paths
        FITS files, or folders with such files.

    Returns
    -------
    list of Finding
        In the order of the files; empty if all is well.

    Raises
    ------
    InputError
        A file or folder does not exist, or no file was given.
    """
    found = []
    for path in _files_of(paths):
        found += _Check(path).findings()
    return found


def _files_of(paths):
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path} does not exist; name FITS files or folders with FITS files")
        files += sorted(path.glob("*.fits")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"no FITS file in {', '.join(map(str, paths)) or 'nothing'}; name products to check")
    return files


class _Check:
    """All checks of one file."""

    def __init__(self, path):
        self.path = path
        self.found = []

    def findings(self):
        """Findings about the file; list of Finding."""
        if len(self.path.name) > _MOST_LETTERS:
            self.error("", "", f"its name has {len(self.path.name)} letters, {_MOST_LETTERS} are allowed")
        try:
            with self.path.open("rb") as file, fits.open(file, memmap=True) as hdus:
                self._check(hdus)
        except (OSError, ValueError) as error:
            self.error("", "", f"it cannot be read as FITS: {error}")
        return self.found

    def error(self, hdu, keyword, text):
        """Note what ESO's archive would refuse."""
        self.found.append(Finding(str(self.path), hdu, keyword, "error", text))

    def advise(self, hdu, keyword, text):
        """Note what ESO recommends otherwise."""
        self.found.append(Finding(str(self.path), hdu, keyword, "advice", text))

    def _check(self, hdus):
        primary = hdus[0].header
        kind = kind_of(str(primary.get("PRODCATG", "")).strip())
        if kind is None:
            kind = "cube" if any(hdu.header.get("NAXIS") == 3 for hdu in hdus) else "image"
        self._check_structure(hdus, kind)
        for rule in RULES:
            if kind in rule.kinds:
                self._check_rule(rule, hdus)
        self._check_forbidden(hdus)
        if kind == "cube":
            self._check_groups(primary)
            self._check_observation(primary)
            self._check_wcs(primary, hdus)
            self._check_times(primary)
        check_checksums(self, hdus)
        check_values(self, hdus, kind)
        if kind == "cube":
            check_partners(self, hdus)

    def _check_structure(self, hdus, kind):
        if hdus[0].header.get("NAXIS", 0) != 0:
            self.error("primary", "NAXIS", "the first HDU holds data; they belong into extensions")
        images = [hdu for hdu in hdus[1:] if hdu.is_image]
        if len(images) > _MOST_IMAGES:
            self.error(
                "", "", f"it has {len(images)} image extensions, {_MOST_IMAGES} are allowed: DATA, STAT, DQ"
            )
        names = [_name(hdu) for hdu in hdus[1:]]
        if names[:1] != ["DATA"] or (kind == "cube" and names[:2] != ["DATA", "STAT"]):
            wanted = "DATA and STAT" if kind == "cube" else "DATA"
            self.error(
                "", "EXTNAME", f"the extensions are {', '.join(names) or 'none'}; {wanted} must come first"
            )
        axes = 3 if kind == "cube" else 2
        for hdu in hdus[1:3]:
            shape = hdu.header.get("NAXIS"), hdu.header.get("BITPIX")
            if _name(hdu) in ("DATA", "STAT") and shape[0] != axes:
                self.error(_name(hdu), "NAXIS", f"it has {shape[0]} axes, {axes} are needed")
            if _name(hdu) in ("DATA", "STAT") and kind == "cube" and shape[1] != -32:
                self.error(_name(hdu), "BITPIX", f"is {shape[1]}, but must be -32 (float32)")

    def _check_rule(self, rule, hdus):
        for number, hdu in enumerate(hdus):
            name = "primary" if number == 0 else _name(hdu)
            wanted = rule.hdu == name or (rule.hdu == "*" and name in ("DATA", "STAT"))
            if not wanted:
                continue
            if rule.key in hdu.header:
                fault = rule.fault(hdu.header[rule.key])
                if fault:
                    note = self.error if rule.status == "mandatory" else self.advise
                    note(name, rule.key, fault)
            elif rule.status == "mandatory":
                self.error(name, rule.key, "is missing and mandatory")
            elif rule.status == "recommended":
                self.advise(name, rule.key, "is missing and recommended")

    def _check_forbidden(self, hdus):
        for number, hdu in enumerate(hdus):
            name = "primary" if number == 0 else _name(hdu)
            for pattern, reason in FORBIDDEN.items():
                for key in hdu.header:
                    if re.fullmatch(pattern, key):
                        self.error(name, key, f"is forbidden: {reason}")
            for key in _ONLY_PRIMARY if number else ():
                if key in hdu.header:
                    self.error(name, key, "belongs into the first HDU only")
            if hdu.header.get("BSCALE", 1) != 1 or hdu.header.get("BZERO", 0) != 0:
                self.advise(name, "BSCALE", "scaled values are discouraged")

    def _check_groups(self, header):
        for name, (mandatory, kind) in GROUPS.items():
            values = {
                int(k.removeprefix(name)): v for k, v in header.items() if re.fullmatch(rf"{name}[1-9]\d*", k)
            }
            if mandatory and 1 not in values:
                self.error("primary", f"{name}1", "is missing and mandatory")
            # The file of a number in ASSOC and ASSOM is that of ASSON.
            gaps = set(range(1, max(values, default=0) + 1)) - set(values)
            if gaps and name not in ("ASSOC", "ASSOM"):
                self.error(
                    "primary", f"{name}{min(gaps)}", f"is missing, though {name}{max(values)} is there"
                )
            for number, value in values.items():
                if type(value) is not kind:
                    self.error("primary", f"{name}{number}", f"is {value!r}, but must be {kind.__name__}")
            if len(set(values.values())) < len(values) and name in ("PROV", "OBID", "PROGID", "ASSON"):
                self.error("primary", name, f"{name}1 to {name}{max(values)} name something twice")

    def _check_observation(self, header):
        programmes = sum(1 for key in header if re.fullmatch(r"PROGID\d+", key))
        multiple = str(header.get("PROG_ID", "")).strip() == "MULTI"
        if multiple and programmes < 2:
            self.error("primary", "PROGID1", f"PROG_ID is MULTI, but {programmes} PROGIDi are there")
        if not multiple and programmes:
            self.error("primary", "PROGID1", "must not be there where PROG_ID names the one programme")
        sources = sum(1 for key in header if re.fullmatch(r"PROV\d+", key))
        if sources < header.get("NCOMBINE", 0):
            self.error("primary", "NCOMBINE", f"is {header['NCOMBINE']}, but PROVi name {sources} files only")
        if str(header.get("RADESYS", "")).startswith("FK") and "EQUINOX" not in header:
            self.error("primary", "EQUINOX", "is missing and mandatory with RADESYS FK5")
        if str(header.get("ESO INS MODE", "")).startswith("NFM") and "STREHL" not in header:
            self.error("primary", "STREHL", "is missing and mandatory in the narrow field")

    def _check_times(self, header):
        start, end, seconds, total = (
            _number(header, key) for key in ("MJD-OBS", "MJD-END", "EXPTIME", "TEXPTIME")
        )
        if end <= start:
            self.error("primary", "MJD-END", f"is {end}, which is not after MJD-OBS, {start}")
        if total > (end - start) * 86400 + _SECONDS:
            self.error("primary", "TEXPTIME", f"is {total:g} s, more than lie between MJD-OBS and MJD-END")
        if seconds > total + _SECONDS:
            self.error("primary", "EXPTIME", f"is {seconds:g} s, more than TEXPTIME, {total:g} s")

    def _check_wcs(self, header, hdus):
        from astropy.wcs import WCS, FITSFixedWarning

        data = next((hdu.header for hdu in hdus[1:] if _name(hdu) == "DATA"), None)
        if data is None or data.get("NAXIS") != 3:
            return
        for key in ("CTYPE", "CUNIT", "CRVAL", "CRPIX"):
            for axis in (1, 2, 3):
                others = [h.header.get(f"{key}{axis}") for h in hdus[1:3]]
                if len(others) == 2 and others[0] != others[1]:
                    self.error("STAT", f"{key}{axis}", f"is {others[1]!r}, but {others[0]!r} in DATA")
        step, start = _number(data, "CD3_3"), _number(data, "CRVAL3")
        first = start + (1 - _number(data, "CRPIX3")) * step
        for key, wanted in (("WAVELMIN", first), ("WAVELMAX", first + (data["NAXIS3"] - 1) * step)):
            if "LOG" not in str(data.get("CTYPE3")) and abs(10 * _number(header, key) - wanted) > 1.5 * step:
                self.error("primary", key, f"is {header[key]:g} nm, but the plane is at {wanted / 10:g} nm")
        try:
            with warnings.catch_warnings():
                # Units as ESO writes them are put right, loudly.
                warnings.simplefilter("ignore", FITSFixedWarning)
                celestial = WCS(data).celestial
        except (ValueError, KeyError) as error:
            self.error("DATA", "CTYPE1", f"the WCS cannot be read: {error}")
            return
        place = celestial.all_world2pix(_number(header, "RA"), _number(header, "DEC"), 1)
        inside = all(0.5 <= p <= data[f"NAXIS{n}"] + 0.5 for n, p in enumerate(map(float, place), 1))
        if not inside:
            self.error(
                "primary", "RA", f"RA and DEC, {header.get('RA')}, {header.get('DEC')}, lie outside the image"
            )


def _name(hdu):
    return str(hdu.header.get("EXTNAME", "")).strip()


def _number(header, key):
    """A number of a header; NaN, with which nothing compares, where it is none."""
    value = header.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
