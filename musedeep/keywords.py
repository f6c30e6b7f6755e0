"""The primary header of a product: what it inherits from the exposures, and what is new."""

import json
import re
from datetime import UTC, datetime

from astropy.io import fits

__all__ = ["product_header", "set_card"]

_PIXTABLE = "ESO DRS MUSE PIXTABLE"
# Not inherited: structure and checksums of the file, its WCS, what describes that one file or exposure only,
# and what is written anew below.
_DROPPED = re.compile(
    r"SIMPLE|BITPIX|NAXIS\d*|EXTEND|XTENSION|PCOUNT|GCOUNT|INHERIT|EXTNAME|EXTVER|BUNIT|BSCALE|BZERO|BLANK"
    r"|CHECKSUM|DATASUM|DATAMD5|PIPEFILE|ARCFILE|ORIGFILE|P3ORIG|DATE|COMMENT|HISTORY|CONTINUE|"
    r"|WCSAXES|C(TYPE|UNIT|RPIX|RVAL|DELT|ROTA|RDER|SYER|NAME)\d|(CD|PC|PV)\d_\d+|LONPOLE|LATPOLE|SPECSYS"
    r"|RADECSYS|RADESYS|RA|DEC|OBJECT|EXPTIME|TEXPTIME|NCOMBINE|MJD-END|PROG_ID|PRODCATG|PROCSOFT"
    r"|(PROV|OBID|PROGID|ASSO[NCM])\d*|ESO (DRS MUSE (PIXTABLE|OFFSET|FLUX|WEIGHT)|QC|PRO)\b.*"
)


def product_header(records, exposures, *, object_name, position, settings, version):
    """Primary header of a product.

    Keywords of the telescope, the instrument and the observation come from the chronologically earliest
    exposure, and from no other. EXPTIME is 0 until the exposure map is known.

    Parameters
    ----------
    records : list of dict
        What the cube store says about each exposure, earliest first: weight, ra_offset and dec_offset [deg],
        flux_scale, in_offset_list.
    exposures : list of Exposure
        The exposures themselves, in the same order.
    object_name : str
        OBJECT.
    position : tuple of float
        RA and Dec of the centre of the grid, degrees.
    settings : dict
        Sections of settings the cube was made with.
    version : str
        Version of this package.

    Returns
    -------
    astropy.io.fits.Header
    """
    headers = [exposure.header for exposure in exposures]
    header = _inherited(headers[0])
    set_card(header, "DATE", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", "[UTC] when this file was written")
    set_card(header, "OBJECT", object_name, "target")
    set_card(header, "RA", position[0], "[deg] centre of the field (J2000)")
    set_card(header, "DEC", position[1], "[deg] centre of the field (J2000)")
    for key, value, comment in sky_system(headers[0]):
        set_card(header, key, value, comment)
    _add_times(header, exposures)
    _add_provenance(header, exposures)
    _add_status(header, headers)
    _add_exposures(header, records, exposures)
    _add_processing(header, exposures, settings, f"musedeep/{version}")
    return header


def sky_system(header):
    """RADESYS (RADECSYS of old) and EQUINOX of an exposure, as (keyword, value, comment)."""
    system = header.get("RADESYS", header.get("RADECSYS"))
    if system is not None:
        yield "RADESYS", str(system).strip(), "coordinate system"
    if "EQUINOX" in header:
        yield "EQUINOX", float(header["EQUINOX"]), "[yr] equinox of the coordinates"


def set_card(header, key, value, comment=""):
    """Set a keyword so that it fills one card at most: ESO forbids continued strings.

    Parameters
    ----------
    header : astropy.io.fits.Header
    key : str
        Any keyword; long ones become HIERARCH cards.
    value : str, bool, int or float
        A string that is too long is cut and ends in "...".
    comment : str
        Cut where the card is full.
    """
    standard = len(key) <= 8 and " " not in key
    room = 80 - (10 if standard else len(f"HIERARCH {key} = "))
    if isinstance(value, str):
        value = _cut(value, room - 2)
        used = max(8, len(value.replace("'", "''"))) + 2
    else:
        used = len(str(value))
    comment = comment[: max(0, room - max(used, 20 if standard else 0) - 3)]
    header[key if standard else f"HIERARCH {key}"] = (value, comment) if comment else value


def _cut(text, room):
    text = text.encode("ascii", "replace").decode().replace("\n", " ")
    if len(text.replace("'", "''")) <= room:
        return text
    while len(text.replace("'", "''")) > room - 3:
        text = text[:-1]
    return text + "..."


def _inherited(source):
    header = fits.Header()
    for card in source.cards:
        if card.keyword and not _DROPPED.fullmatch(card.keyword) and card.keyword not in header:
            header.append(fits.Card.fromstring(card.image))
    return header


def _add_times(header, exposures):
    set_card(header, "EXPTIME", 0.0, "[s] median of the exposure map where it is not 0")
    set_card(header, "TEXPTIME", sum(e.exptime for e in exposures), "[s] exposure time of all exposures")
    set_card(header, "NCOMBINE", len(exposures), "number of exposures")
    end = max(e.mjd_obs + e.exptime / 86400 for e in exposures)
    if end == end:
        set_card(header, "MJD-END", round(end, 8), "[d] end of the last exposure")


def _add_provenance(header, exposures):
    headers = [exposure.header for exposure in exposures]
    programmes = sorted({str(h["ESO OBS PROG ID"]).strip() for h in headers if "ESO OBS PROG ID" in h})
    if programmes:
        single = len(programmes) == 1
        set_card(header, "PROG_ID", programmes[0] if single else "MULTI", "ESO programme")
        for number, programme in enumerate([] if single else programmes, 1):
            set_card(header, f"PROGID{number}", programme, "ESO programme")
    blocks = sorted({int(h["ESO OBS ID"]) for h in headers if str(h.get("ESO OBS ID", "")).strip().isdigit()})
    for number, block in enumerate(blocks, 1):
        set_card(header, f"OBID{number}", block, "observation block")
    sources = (name for exposure in exposures for name in _raw_names(exposure))
    for number, name in enumerate(dict.fromkeys(sources), 1):
        set_card(header, f"PROV{number}", name, "raw science file")


def _raw_names(exposure):
    """Names of the raw files of an exposure, or of its pixel tables where the header names none."""
    header = exposure.header
    for key in ("ESO PRO ANCESTOR", "ARCFILE", "ORIGFILE"):
        if header.get(key):
            return [str(header[key]).strip()]
    names, number = [], 1
    while f"ESO PRO REC1 RAW{number} NAME" in header:
        names.append(str(header[f"ESO PRO REC1 RAW{number} NAME"]).strip())
        number += 1
    return names or [table.path.name for table in exposure.tables]


def _add_status(header, headers):
    calibrated = all(h.get(f"{_PIXTABLE} FLUXCAL") is True for h in headers)
    set_card(header, "FLUXCAL", "ABSOLUTE" if calibrated else "UNCALIBRATED", "state of the flux calibration")
    if all(f"{_PIXTABLE} FFCORR" in h for h in headers):
        set_card(
            header, "ESO DRS MUSE FLUX FFCORR", headers[0][f"{_PIXTABLE} FFCORR"], "flat spectrum corrected"
        )


def _add_exposures(header, records, exposures):
    for number, (record, exposure) in enumerate(zip(records, exposures, strict=True), 1):
        if record["in_offset_list"]:
            offset = f"ESO DRS MUSE OFFSET{number}"
            set_card(header, f"{offset} DATE-OBS", exposure.date_obs, "exposure that was moved")
            set_card(header, f"{offset} DRA", record["ra_offset"], "[deg] taken off its RA")
            set_card(header, f"{offset} DDEC", record["dec_offset"], "[deg] taken off its Dec")
            key = f"ESO DRS MUSE FLUX SCALE{number}"
            set_card(header, key, record["flux_scale"], "factor applied to its data")
        set_card(header, f"ESO DRS MUSE WEIGHT{number}", record["weight"], "relative weight of the exposure")


def _add_processing(header, exposures, settings, software):
    cards = [
        ("CATG", "DATACUBE_DEEP", "category of this file"),
        ("TYPE", "REDUCED", "type of this file"),
        ("TECH", "IFU", "observation technique"),
        ("SCIENCE", True, "made of science exposures"),
        ("DATANCOM", len(exposures), "number of exposures combined"),
        ("REC1 ID", "musedeep", "what made this file"),
        ("REC1 PIPE ID", software, "name and version of it"),
    ]
    tables = [table for exposure in exposures for table in exposure.tables]
    for number, table in enumerate(tables, 1):
        cards.append((f"REC1 RAW{number} NAME", table.path.name, "pixel table"))
        cards.append((f"REC1 RAW{number} CATG", "PIXTABLE_REDUCED", "category of it"))
    for number, (name, value) in enumerate(_flat(settings), 1):
        cards.append((f"REC1 PARAM{number} NAME", name, "setting"))
        cards.append((f"REC1 PARAM{number} VALUE", value, "its value"))
    for key, value, comment in cards:
        set_card(header, f"ESO PRO {key}", value, comment)
    set_card(header, "PROCSOFT", software, "data reduction software")


def _flat(settings, prefix=""):
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            yield prefix + name, value
        else:
            yield prefix + name, json.dumps(value, separators=(",", ":"))
