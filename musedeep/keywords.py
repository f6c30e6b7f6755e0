"""The primary header of a product: what it inherits from the exposures, and what is new."""

import json
import math
import re
from datetime import UTC, datetime

from astropy.io import fits

from musedeep.resolution import combined_strehl, sky_resolution, spectral_resolution

__all__ = ["coordinate_errors", "missing_keywords", "product_header", "raw_names", "set_card", "sky_system"]

_PIXTABLE = "ESO DRS MUSE PIXTABLE"
# Not inherited: structure and checksums of the file, its WCS, what describes that one file or exposure only,
# what is written anew below, and what ESO's standard forbids.
_DROPPED = re.compile(
    r"SIMPLE|BITPIX|NAXIS\d*|EXTEND|XTENSION|PCOUNT|GCOUNT|INHERIT|EXTNAME|EXTVER|BUNIT|BSCALE|BZERO|BLANK"
    r"|CHECKSUM|DATASUM|DATAMD5|PIPEFILE|ARCFILE|ORIGFILE|P3ORIG|DATE|COMMENT|HISTORY|CONTINUE|LONGSTRN|"
    r"|WCSAXES|C(TYPE|UNIT|RPIX|RVAL|DELT|ROTA|RDER|SYER|NAME)\d|(CD|PC|PV)\d_\d+|LONPOLE|LATPOLE|SPECSYS"
    r"|RADECSYS|RADESYS|EQUINOX|TIMESYS|RA|DEC|RA_ERR|DEC_ERR|OBJECT|FILTER|SPEC_BIN|M_EPOCH"
    r"|EXPTIME|TEXPTIME|NCOMBINE|MJD-OBS|MJD-END|PROG_ID|PRODCATG|PROCSOFT|OBSTECH|FLUXCAL|REFERENC"
    r"|WAVELMIN|WAVELMAX|SPEC_RES|SKY_RES|SKY_RERR|PIXNOISE|ABMAGLIM|STREHL|ELLIPTIC|QCFLAG|SM_VM|QCCOMM\d*"
    r"|(PROV|OBID|PROGID|ASSO[NCM])\d*|ESO (DRS MUSE (PIXTABLE|OFFSET|FLUX|WEIGHT)|QC|PRO)\b.*"
)
# What is known of MUSE where a header does not say so.
_OBSERVATORY = {"ORIGIN": "ESO-PARANAL", "TELESCOP": "ESO-VLT-U4", "INSTRUME": "MUSE"}
_FRAME = {"RADESYS": "FK5", "EQUINOX": 2000.0}
_POINTING_ARCSEC = 1.0
_WAVELENGTH_ERROR_ANGSTROM = 0.026


def product_header(
    records,
    exposures,
    *,
    object_name,
    position,
    wavelength_nm,
    settings,
    version,
    reference="",
    suffix=False,
    left_out=(),
):
    """Primary header that all files of a product share.

    Keywords of the telescope, the instrument and the observation come from the chronologically earliest
    exposure, and from no other. The others follow the ESO Science Data Products Standard, version 8. EXPTIME
    is 0 until the exposure map is known. A keyword that the exposures do not give is left out, or has the
    default of ESO's pipeline; `missing_keywords` tells which.

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
    wavelength_nm : tuple of float
        Wavelengths of the first and the last plane.
    settings : dict
        Sections of settings the cube was made with.
    version : str
        Version of this package.
    reference : str
        Bibcode or DOI of the paper that presents the data.
    suffix : bool
        Whether names of raw files keep their ending .fits, as ESO's pipeline writes them.
    left_out : sequence of str
        DATE-OBS of the exposures that the list of offsets keeps out.

    Returns
    -------
    astropy.io.fits.Header
    """
    headers = [exposure.header for exposure in exposures]
    header = _inherited(headers[0])
    for key, value in _OBSERVATORY.items():
        if key not in header:
            set_card(header, key, value, "assumed")
    set_card(header, "DATE", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}", "[UTC] when this file was written")
    set_card(header, "OBJECT", object_name, "target")
    set_card(header, "RA", position[0], "[deg] centre of the field (J2000)")
    set_card(header, "DEC", position[1], "[deg] centre of the field (J2000)")
    for key, value, comment in sky_system(headers[0]):
        set_card(header, key, value, comment)
    _add_times(header, exposures)
    _add_provenance(header, exposures, suffix)
    _add_status(header, headers)
    _add_quality(header, exposures, wavelength_nm)
    _add_exposures(header, records, exposures)
    for number, date in enumerate(left_out, 1):
        set_card(header, f"ESO DRS MUSE DEEP LEFTOUT{number}", date, "exposure kept out by the offsets")
    set_card(header, "ESO QC DEEP NLEFTOUT", len(left_out), "exposures kept out by the offsets")
    _add_spread(header, records, exposures, position[1])
    _add_processing(header, exposures, settings, _software(headers, version))
    set_card(header, "REFERENC", reference, "bibliographic reference")
    return header


def sky_system(header):
    """RADESYS (RADECSYS of old) and EQUINOX of an exposure, as (keyword, value, comment).

    MUSE's FK5 and 2000.0 where the exposure has none.
    """
    system = header.get("RADESYS", header.get("RADECSYS", _FRAME["RADESYS"]))
    yield "RADESYS", str(system).strip(), "coordinate system"
    yield "EQUINOX", float(header.get("EQUINOX", _FRAME["EQUINOX"])), "[yr] equinox of the coordinates"


def coordinate_errors(records, dec_deg):
    """Errors of the coordinates, as (keyword, value, comment) for the extensions of a cube.

    The systematic error of its place on the sky is that of a telescope's pointing. Its offsets tell how the
    pointings of the exposures scatter; 1 arcsec is assumed where there are less than two.

    Parameters
    ----------
    records : list of dict
        As for `product_header`.
    dec_deg : float
        Declination.
    """
    listed = [record for record in records if record["in_offset_list"]]
    for number, (key, scale) in enumerate(
        (("ra_offset", math.cos(math.radians(dec_deg))), ("dec_offset", 1.0)), 1
    ):
        offsets = [record[key] * scale for record in listed]
        mean = sum(offsets) / max(len(offsets), 1)
        scatter = math.sqrt(sum((offset - mean) ** 2 for offset in offsets) / max(len(offsets) - 1, 1))
        comment = (
            "[deg] scatter of the pointings" if scatter > 0 else "[deg] a telescope's pointing, typically"
        )
        yield f"CSYER{number}", scatter or _POINTING_ARCSEC / 3600, comment
    yield "CRDER3", _WAVELENGTH_ERROR_ANGSTROM, "[Angstrom] random error of the wavelengths"


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


def _start_mjd(exposure):
    """MJD of the start of an exposure; by DATE-OBS where MJD-OBS is missing, NaN where both are unusable."""
    if exposure.mjd_obs == exposure.mjd_obs:
        return exposure.mjd_obs
    from astropy.time import Time

    try:
        return float(Time(exposure.date_obs).mjd)
    except ValueError:
        return math.nan


def _add_times(header, exposures):
    set_card(header, "TIMESYS", "UTC", "time system")
    set_card(header, "EXPTIME", 0.0, "[s] median of the exposure map where it is not 0")
    set_card(header, "TEXPTIME", sum(e.exptime for e in exposures), "[s] exposure time of all exposures")
    set_card(header, "NCOMBINE", len(exposures), "number of exposures")
    times = [(_start_mjd(e), e.exptime / 86400) for e in exposures]
    times = [(start, start + days) for start, days in times if start == start]
    if times:
        set_card(header, "MJD-OBS", round(min(times)[0], 8), "[d] start of the first exposure")
        set_card(header, "MJD-END", round(max(end for _, end in times), 8), "[d] end of the last exposure")


def _add_provenance(header, exposures, suffix):
    headers = [exposure.header for exposure in exposures]
    programmes = sorted({_text(h, "ESO OBS PROG ID") for h in headers} - {""})
    if programmes:
        single = len(programmes) == 1
        set_card(header, "PROG_ID", programmes[0] if single else "MULTI", "ESO programme")
        for number, programme in enumerate([] if single else programmes, 1):
            set_card(header, f"PROGID{number}", programme, "ESO programme")
    for number, block in enumerate(sorted({_block(h) for h in headers} - {None}), 1):
        set_card(header, f"OBID{number}", block, "observation block")
    sources = (name for exposure in exposures for name in raw_names(exposure))
    for number, name in enumerate(dict.fromkeys(sources), 1):
        set_card(header, f"PROV{number}", name if suffix else name.removesuffix(".fits"), "raw science file")


def _text(header, key):
    return str(header.get(key, "")).strip()


def _block(header):
    """Number of the observing block; None where it is missing or no number."""
    text = _text(header, "ESO OBS ID")
    return int(text) if text.isdigit() else None


def raw_names(exposure):
    """Names of the raw files of an exposure, or of its pixel tables where the header names none.

    Parameters
    ----------
    exposure : Exposure

    Returns
    -------
    list of str
    """
    header = exposure.header
    for key in ("ESO PRO ANCESTOR", "ARCFILE", "ORIGFILE"):
        if header.get(key):
            return [_text(header, key)]
    names, number = [], 1
    while f"ESO PRO REC1 RAW{number} NAME" in header:
        names.append(_text(header, f"ESO PRO REC1 RAW{number} NAME"))
        number += 1
    return names or [table.path.name for table in exposure.tables]


def _add_status(header, headers):
    set_card(header, "OBSTECH", "IFU", "observation technique")
    calibrated = all(h.get(f"{_PIXTABLE} FLUXCAL") is True for h in headers)
    set_card(header, "FLUXCAL", "ABSOLUTE" if calibrated else "UNCALIBRATED", "state of the flux calibration")
    frames = {_velocity_frame(h) for h in headers}
    frame = frames.pop() if len(frames) == 1 else "TOPOCENT"
    set_card(header, "SPECSYS", frame, "frame of reference of the wavelengths")
    if all(f"{_PIXTABLE} FFCORR" in h for h in headers):
        set_card(
            header, "ESO DRS MUSE FLUX FFCORR", headers[0][f"{_PIXTABLE} FFCORR"], "flat spectrum corrected"
        )


def _velocity_frame(header):
    """SPECSYS of an exposure: muse_scipost's parameter rvcorr, which is "bary" where it is not recorded."""
    if f"{_PIXTABLE} RVCORR" not in header:
        return "TOPOCENT"
    frames = {"helio": "HELIOCEN", "geo": "GEOCENTR", "none": "TOPOCENT"}
    for key in header:
        if re.fullmatch(r"ESO PRO REC\d+ PARAM\d+ NAME", key) and _text(header, key) == "rvcorr":
            return frames.get(_text(header, key.replace("NAME", "VALUE")), "BARYCENT")
    return "BARYCENT"


def _add_quality(header, exposures, wavelength_nm):
    """What headers and the grid tell of the quality; `musedeep.products` measures the rest."""
    headers = [exposure.header for exposure in exposures]
    mode = _text(headers[0], "ESO INS MODE")
    low, high = (float(edge) for edge in wavelength_nm)
    set_card(header, "WAVELMIN", low, "[nm] first plane")
    set_card(header, "WAVELMAX", high, "[nm] last plane")
    set_card(header, "SPEC_RES", spectral_resolution((low, high), mode), "resolving power in the middle")
    seeing = sky_resolution(headers, [exposure.exptime for exposure in exposures])
    told = {True: "(measured)", False: "(default)"}
    set_card(header, "SKY_RES", seeing.fwhm_arcsec, f"[arcsec] FWHM of point sources {told[seeing.measured]}")
    set_card(
        header, "SKY_RERR", seeing.error_arcsec, f"[arcsec] error of SKY_RES {told[seeing.error_measured]}"
    )
    if mode.startswith("NFM"):
        strehl, _ = combined_strehl(headers)
        if strehl > 0:
            set_card(header, "STREHL", strehl / 100.0, "Strehl ratio, mean of the exposures")


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


def _add_spread(header, records, exposures, dec_deg):
    """How far the exposures lie apart in time and, as their headers have it, on the sky."""
    starts = [start for start in map(_start_mjd, exposures) if start == start]
    if starts:
        set_card(
            header, "ESO QC DEEP TIMESPAN", round(max(starts) - min(starts), 6), "[d] first to last start"
        )
    listed = [record for record in records if record["in_offset_list"]]
    scale = math.cos(math.radians(dec_deg))
    places = [(record["ra_offset"] * scale, record["dec_offset"]) for record in listed]
    far = max((math.dist(a, b) for a in places for b in places), default=0.0) * 3600
    set_card(header, "ESO QC DEEP NOFFSET", len(listed), "exposures with an offset")
    set_card(header, "ESO QC DEEP OFFSET MAX", round(far, 6), "[arcsec] between two of them")


def _software(headers, version):
    """PROCSOFT: this package, and the pipelines that made the pixel tables."""
    pipelines = set()
    for header in headers:
        found = [key for key in header if re.fullmatch(r"ESO PRO REC\d+ PIPE ID", key)]
        pipelines |= (
            {_text(header, max(found, key=lambda key: int(re.search(r"\d+", key)[0])))} if found else set()
        )
    made_by = f" ({', '.join(sorted(pipelines))})" if pipelines else ""
    return f"musedeep/{version}{made_by}"


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


# What a product needs of every exposure: name, whether a header has it, and what comes of it otherwise.
_NEEDED = (
    ("ESO OBS ID", lambda h: _block(h) is not None, "OBIDi does not list its observing block"),
    ("ESO OBS PROG ID", lambda h: _text(h, "ESO OBS PROG ID") != "", "PROG_ID does not tell its programme"),
    (
        "ARCFILE",
        lambda h: any(
            h.get(key) for key in ("ESO PRO ANCESTOR", "ARCFILE", "ORIGFILE", "ESO PRO REC1 RAW1 NAME")
        ),
        "PROVi names its pixel table instead of its raw file",
    ),
    ("MJD-OBS", lambda h: isinstance(h.get("MJD-OBS"), int | float), "its DATE-OBS is taken instead"),
    ("ESO INS MODE", lambda h: _text(h, "ESO INS MODE") != "", "the wide field is assumed"),
    ("RADESYS", lambda h: "RADESYS" in h or "RADECSYS" in h, "FK5 is assumed"),
    ("EQUINOX", lambda h: "EQUINOX" in h, "2000.0 is assumed"),
    *((key, lambda h, key=key: key in h, f"{value} is assumed") for key, value in _OBSERVATORY.items()),
)


def missing_keywords(exposures):
    """What the headers of exposures lack for a product by ESO's standard, and what is done about it.

    Parameters
    ----------
    exposures : list of Exposure
        Earliest first.

    Returns
    -------
    list of str
        A sentence for each keyword.
    """
    headers = [exposure.header for exposure in exposures]
    notes = []
    for name, is_there, consequence in _NEEDED:
        lacking = [e.date_obs for e, h in zip(exposures, headers, strict=True) if not is_there(h)]
        if lacking:
            number = f"{len(lacking)} of {len(exposures)} exposures, the first {lacking[0]}"
            notes.append(f"{name} is missing in {number}: {consequence}")
    seeing = sky_resolution(headers, [exposure.exptime for exposure in exposures])
    if not seeing.measured:
        source = (
            "the Strehl ratios"
            if _text(headers[0], "ESO INS MODE").startswith("NFM")
            else "TEL IA FWHMLIN or AIRM"
        )
        notes.append(
            f"{source} are missing in an exposure: SKY_RES is ESO's default, {seeing.fwhm_arcsec:g} arcsec"
        )
    frames = {_velocity_frame(h) for h in headers}
    if len(frames) > 1:
        notes.append(
            f"the wavelengths of the exposures have different frames, {', '.join(sorted(frames))}: "
            "SPECSYS is TOPOCENT"
        )
    if any(h.get(f"{_PIXTABLE} FLUXCAL") is not True for h in headers):
        notes.append("an exposure is not flux calibrated: FLUXCAL is UNCALIBRATED")
    return notes
