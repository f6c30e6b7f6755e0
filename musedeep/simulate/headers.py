"""Primary headers of simulated exposures, with the keywords that the pipelines and their users look at."""

import math

from astropy.io import fits
from astropy.time import Time

from musedeep.muse import FLUX_UNIT, IFU_COUNT, PIXTABLE_PREFIX, mode_facts, xoffset_keyword
from musedeep.simulate.spectrograph import slitlets

__all__ = ["common_cards", "exposure_header", "fov_header", "set_limits"]


def exposure_header(exposure, cd, ifus):
    """Primary header of a reduced pixel table.

    Parameters
    ----------
    exposure : ExposurePlan
    cd : float64 array (2, 2), deg per pixel
    ifus : sequence of int, IFUs whose rows the file holds

    Returns
    -------
    fits.Header
    """
    cards = common_cards(exposure)
    cards |= {"WCSAXES": 2, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"}
    cards |= {"CRPIX1": 0.0, "CRPIX2": 0.0}
    cards |= {f"CD{i}_{j}": float(cd[i - 1, j - 1]) for i in (1, 2) for j in (1, 2)}
    if exposure.split_ifus:
        cards["EXTNAME"] = f"CHAN{ifus[0]:02d}"
        # without the fluxes of its flat fields a file passes for a whole exposure; equal ones scale nothing
        cards |= {"ESO DRS MUSE FLAT FLUX LAMP": 1e6, "ESO DRS MUSE FLAT FLUX SKY": 1e6}
    else:
        cards[f"{PIXTABLE_PREFIX}MERGED"] = len(ifus)
    cards |= {
        "ESO PRO CATG": "PIXTABLE_REDUCED",
        "ESO PRO TYPE": "REDUCED",
        "ESO PRO TECH": "IFU",
        "ESO PRO SCIENCE": True,
        "ESO PRO DID": "PRO-1.16",
        "ESO PRO ANCESTOR": cards["ARCFILE"],
        "ESO PRO REC1 ID": "muse_scipost",
        "ESO PRO REC1 DRS ID": "cpl-7.3.2",
        "ESO PRO REC1 PIPE ID": "muse/2.8.7",
        "ESO PRO REC1 RAW1 NAME": cards["ARCFILE"],
        "ESO PRO REC1 RAW1 CATG": "OBJECT",
    }
    half = exposure.field_pixels / 2
    pixtable = {
        "TYPE": "GEOFULL", "FLUXCAL": True, "SKYSUB": True, "FFCORR": len(ifus),
        "WCS": "projected (intermediate)", "DAR CORRECT": 7000.0, "RVCORR": exposure.rvcorr_km_s,
        "PREDAR LIMITS XLO": -half, "PREDAR LIMITS XHI": half,
        "PREDAR LIMITS YLO": -half, "PREDAR LIMITS YHI": half,
    }  # fmt: skip
    if exposure.weight is not None:
        cards["ESO DRS MUSE WEIGHT"] = exposure.weight
    cards |= {PIXTABLE_PREFIX + name: value for name, value in pixtable.items()}
    # limits of coordinates are known when all rows are written
    limits = {"X": (0, 0), "Y": (0, 0), "LAMBDA": (0, 0), "IFU": (ifus[0], ifus[-1]), "SLICE": (1, 48)}
    cards |= _limit_cards(limits)
    cards |= {
        xoffset_keyword(ifu, slitlet.number): slitlet.xoffset for ifu in ifus for slitlet in slitlets(ifu)
    }
    return _header(cards)


def set_limits(header, ranges):
    """Set the limits of columns: a dict of 'X', 'Y' or 'LAMBDA' to (low, high)."""
    for keyword, value in _limit_cards(ranges).items():
        header[keyword] = value


def fov_header(exposure):
    """Primary header of the white-light image of an exposure."""
    cards = common_cards(exposure)
    cards |= {
        "OBJECT": f"{exposure.object_name} (white)",
        "ESO PRO CATG": "IMAGE_FOV",
        "ESO PRO TYPE": "REDUCED",
        "ESO PRO TECH": "IFU",
        "ESO PRO SCIENCE": True,
        "ESO DRS MUSE FILTER NAME": "white",
    }
    return _header(cards)


def _header(cards):
    return fits.Header(
        [
            (keyword if len(keyword) <= 8 and " " not in keyword else f"HIERARCH {keyword}", value)
            for keyword, value in cards.items()
        ]
    )


def _limit_cards(ranges):
    number = {"IFU": int, "SLICE": int}
    return {
        f"{PIXTABLE_PREFIX}LIMITS {name} {end}": number.get(name, float)(value)
        for name, limits in ranges.items()
        for end, value in zip(("LOW", "HIGH"), limits, strict=True)
    }


def common_cards(exposure):
    """Cards that all files of an exposure (ExposurePlan) share: dict of keyword to value."""
    cards = {
        "SIMPLE": True,
        "BITPIX": 8,
        "NAXIS": 0,
        "EXTEND": True,
        "ORIGIN": "ESO-PARANAL",
        "TELESCOP": "ESO-VLT-U4",
        "INSTRUME": "MUSE",
        "OBJECT": exposure.object_name,
        "RA": exposure.header_ra_deg,
        "DEC": exposure.header_dec_deg,
        "EQUINOX": 2000.0,
        "RADECSYS": "FK5",
        "EXPTIME": exposure.exptime,
        "MJD-OBS": exposure.mjd_obs,
        "DATE-OBS": exposure.date_obs,
        "UTC": round(exposure.mjd_obs % 1 * 86400, 3),
        "LST": round(exposure.mjd_obs * 1.0027379 % 1 * 86400, 3),
        "PI-COI": "UNKNOWN",
        "OBSERVER": "UNKNOWN",
        "ARCFILE": f"MUSE.{exposure.date_obs}.fits",
        "BUNIT": FLUX_UNIT,
    }
    return cards | _observing_block(exposure) | _telescope(exposure) | _instrument(exposure)


def _observing_block(exposure):
    start = Time(exposure.ob_start_mjd, format="mjd").isot
    return {
        "ESO OBS ID": exposure.ob_id,
        "ESO OBS NAME": exposure.ob_name,
        "ESO OBS PROG ID": exposure.prog_id,
        "ESO OBS GRP": "0",
        "ESO OBS START": start[:19],
        "ESO OBS TARG NAME": exposure.object_name,
        "ESO OBS NTPL": 2,
        "ESO OBS TPLNO": 2,
        "ESO OBS AMBI FWHM": 1.2,
        "ESO OBS AMBI TRANS": "2CLR",
        "ESO TPL ID": "MUSE_wfm-noao_obs_genericoffset",
        "ESO TPL START": start[:19],
        "ESO TPL EXPNO": exposure.ob_exposure,
        "ESO TPL NEXP": exposure.exposures_per_ob,
        "ESO DPR CATG": "SCIENCE",
        "ESO DPR TYPE": "OBJECT",
        "ESO DPR TECH": "IFU",
    }


def _telescope(exposure):
    # the monitors see the seeing of the exposure at 5000 Angstrom, in their own way
    ambient, guide = exposure.seeing_fwhm * 1.07, exposure.seeing_fwhm
    cards = {
        "ESO TEL AIRM START": round(exposure.airmass, 3),
        "ESO TEL AIRM END": round(exposure.airmass + 0.012, 3),
        "ESO TEL ALT": round(math.degrees(math.asin(1 / exposure.airmass)), 3),
        "ESO TEL AMBI FWHM START": round(ambient * 0.98, 2),
        "ESO TEL AMBI FWHM END": round(ambient * 1.02, 2),
        "ESO TEL AMBI PRES START": 743.0,
        "ESO TEL AMBI PRES END": 743.1,
        "ESO TEL AMBI RHUM": 9.5,
        "ESO TEL AMBI TEMP": 12.3,
        "ESO TEL AMBI TAU0": 0.0042,
        "ESO TEL GEOELEV": 2648.0,
        "ESO TEL GEOLAT": -24.627,
        "ESO TEL GEOLON": -70.404,
        "ESO TEL IA FWHM": round(ambient * exposure.airmass**-0.6, 3),
        "ESO TEL IA FWHMLIN": round(ambient, 3),
        "ESO TEL PARANG START": round(exposure.parallactic_deg, 3),
        "ESO TEL PARANG END": round(exposure.parallactic_deg + 1.5, 3),
    }
    for axis, factor in (("X", 0.99), ("Y", 1.01)):
        cards[f"ESO OCS SGS AG FWHM{axis} AVG"] = round(guide * factor, 3)
        cards[f"ESO OCS SGS AG FWHM{axis} RMS"] = round(guide * 0.06, 3)
    return cards


def _instrument(exposure):
    cards = {
        "ESO INS MODE": exposure.mode,
        "ESO INS DROT MODE": "SKY",
        # in this mode the rotator's angle counts against the position angle
        "ESO INS DROT POSANG": -exposure.position_angle_deg,
        "ESO INS TEMP1 VAL": 11.8,
        "ESO DET READ CURNAME": "SCI1.0",
        "ESO DET NCHIPS": IFU_COUNT,
    }
    if mode_facts(exposure.mode).gap:
        cards["ESO AOS RTC DET DST R0"] = 0.13
    if exposure.mode.startswith("NFM"):
        cards |= {"ESO DRS MUSE RTC STREHL": 32.0, "ESO DRS MUSE RTC STREHERR": 2.5}
    return cards
