"""The result as a table, and the QC keywords of ESO's list."""

import math

import numpy as np

__all__ = ["is_off_scale", "offset_table", "qc_cards"]

_FEW = 3


def offset_table(result, check, settings):
    """Table of offsets with errors, numbers and a quality word for every exposure.

    Parameters
    ----------
    result : Result
    check : Check
    settings : AlignSettings

    Returns
    -------
    astropy.table.Table
    """
    from astropy.table import Table

    images, offsets = result.images, result.offsets
    cos = np.array([math.cos(math.radians(image.dec_deg)) for image in images])
    columns = {
        "DATE_OBS": [image.date_obs for image in images],
        "MJD_OBS": [image.mjd_obs for image in images],
        "RA_OFFSET": [offset.ra_deg for offset in offsets],
        "DEC_OFFSET": [offset.dec_deg for offset in offsets],
        "ROTATION": [offset.rotation_deg for offset in offsets],
        "FLUX_SCALE": [offset.flux_scale if settings.fit_scale else math.nan for offset in offsets],
        "RA_OFFSET_ERROR": result.shift_errors[:, 0] / 3600 / cos,
        "DEC_OFFSET_ERROR": result.shift_errors[:, 1] / 3600,
        "ROTATION_ERROR": result.rotation_errors,
        "FLUX_SCALE_ERROR": result.scale_errors * np.array([offset.flux_scale for offset in offsets]),
        "BACKGROUND": [listed.background.median for listed in result.sources],
        "BACKGROUND_ERROR": [_level_error(image, s) for image, s in zip(images, result.sources, strict=True)],
        "FWHM": [s.fwhm * image.step_arcsec for image, s in zip(images, result.sources, strict=True)],
        "N_SOURCES": [len(listed) for listed in result.sources],
        "N_MATCHED": result.matched,
        "DEVIATION": np.hypot(*check.deviations.T),
        "METHOD": result.methods,
        "QUALITY": [_quality(n, result, check, settings) for n in range(len(images))],
        "LEFT_OUT": [float(_left_out(n, result, settings)) for n in range(len(images))],
    }
    table = Table(columns)
    table["FWHM"].unit = table["DEVIATION"].unit = "arcsec"
    table.meta = {"preset": result.preset, "reason": result.reason, "verdict": check.verdict}
    return table


def _level_error(image, sources):
    """Standard error of the background: its scatter over the root of the pixels that it is taken from."""
    pixels = 0.1 * np.isfinite(image.flux).sum()
    return sources.background.sigma / math.sqrt(pixels) if pixels else math.nan


def _quality(n, result, check, settings):
    if result.methods[n] == "header":
        return "unsolved"
    if is_off_scale(result.offsets[n], settings):
        return "scale"
    if result.images[n].date_obs in check.suspicious:
        return "suspicious"
    if result.methods[n] == "sources" and result.matched[n] < _FEW:
        return "few"
    if settings.fit_scale and not result.scale_known[n]:
        return "no scale"
    return "good"


def _left_out(n, result, settings):
    """Whether an exposure is not to be combined."""
    if result.methods[n] == "header":
        return settings.unsolved == "omit"
    return is_off_scale(result.offsets[n], settings)


def is_off_scale(offset, settings):
    """Whether a flux scale is off by more than the limit, upwards or downwards."""
    off = max(abs(offset.flux_scale), 1 / max(abs(offset.flux_scale), 1e-30))
    return settings.fit_scale and off > settings.scale_limit


def qc_cards(alignment):
    """QC keywords of an OFFSET_LIST, without their prefix.

    Parameters
    ----------
    alignment : Alignment

    Yields
    ------
    (str, int or float or str, str)
        Keyword, value and comment.
    """
    result, table = alignment.result, alignment.table
    for n, listed in enumerate(result.sources, start=1):
        yield f"NDET{n}", listed.detected, "sources detected in this image"
    for n, count in enumerate(result.matched, start=1):
        yield f"NMATCH{n}", int(count), "sources matched with other images"
    yield "NMATCH MIN", int(result.matched.min()), "least number of matches"
    yield "NOMATCH", int((result.matched == 0).sum()), "images without a match"
    for axis in ("RA", "DEC"):
        values = np.asarray(table[f"{axis}_OFFSET"]) * 3600
        yield f"OFFSET {axis} MIN", round(float(values.min()), 5), "[arcsec] smallest offset"
        yield f"OFFSET {axis} MAX", round(float(values.max()), 5), "[arcsec] largest offset"
        yield f"OFFSET {axis} MEAN", round(float(values.mean()), 5), "[arcsec] mean offset"
        yield (
            f"OFFSET {axis} STDEV",
            float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            "[arcsec] scatter",
        )
    yield "VERDICT", alignment.verdict[:60], "are the exposures aligned"
