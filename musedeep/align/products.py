"""What an alignment leaves beside its list: a table of all sources, the mean image, a map of exposure."""

import math

import numpy as np

from musedeep.align.joint import common_frame
from musedeep.align.refine import Stack
from musedeep.align.registration import make_canvas
from musedeep.errors import InputError
from musedeep.offsets import DATE_OBS_LENGTH, Offset
from musedeep.sky import sky_position

__all__ = ["read_places", "source_table", "write_exposure_map", "write_preview"]


def source_table(result):
    """All sources of all images, in the columns of ESO's SOURCE_LIST.

    Parameters
    ----------
    result : Result

    Returns
    -------
    astropy.table.Table
        DATE_OBS, Id (from 1 in each image, brightest first), X and Y (pixels, from 1), Flux, Sharpness,
        Roundness; RA and DEC by the header, RA_CORR and DEC_CORR with the offset taken off, degrees.
    """
    from astropy.table import Table, vstack

    tables = []
    for image, listed, offset in zip(result.images, result.sources, result.offsets, strict=True):
        pixels = np.stack([listed.x, listed.y, np.ones(len(listed))])
        columns = {
            "DATE_OBS": [image.date_obs] * len(listed),
            "Id": np.arange(1, len(listed) + 1),
            "X": listed.x + 1,
            "Y": listed.y + 1,
            "Flux": listed.flux,
            "Sharpness": listed.sharpness,
            "Roundness": listed.roundness,
        }
        for suffix, taken_off in (("", Offset()), ("_CORR", offset)):
            vectors = (taken_off.frame(image.ra_deg, image.dec_deg) @ image.to_sky @ pixels).T
            places = np.array([sky_position(vector) for vector in vectors]).reshape(-1, 2)
            columns |= {f"RA{suffix}": places[:, 0], f"DEC{suffix}": places[:, 1]}
        tables.append(Table(columns, dtype=["U23", int, *[float] * 9]))
    return vstack(tables)


def read_places(path):
    """Places of sources that are to be measured instead of those that would be detected.

    Parameters
    ----------
    path : Path
        A table (FITS, ECSV or CSV) with the columns DATE_OBS, X and Y, as `source_table` makes it.

    Returns
    -------
    dict of str to ndarray, shape (n, 2)
        Pixels, counted from 0, of each DATE-OBS.

    Raises
    ------
    InputError
        It cannot be read, or a column is missing.
    """
    from astropy.table import Table

    try:
        table = Table.read(path)
    except Exception as error:
        raise InputError(
            f"{path}: the list of sources is no table that can be read ({error}); give FITS, ECSV or CSV"
        ) from error
    missing = [name for name in ("DATE_OBS", "X", "Y") if name not in table.colnames]
    if missing:
        raise InputError(
            f"{path}: the list of sources has no column {missing[0]}; it has {', '.join(table.colnames)}, "
            "but needs DATE_OBS, X and Y"
        )
    dates = np.array([str(date).strip()[:DATE_OBS_LENGTH] for date in table["DATE_OBS"]])
    places = np.column_stack([np.array(table[name], float) - 1 for name in ("X", "Y")])
    return {str(date): places[dates == date] for date in np.unique(dates)}


def write_preview(result, path):
    """Write the mean of all images, aligned and on one flux scale.

    Parameters
    ----------
    result : Result
    path : Path

    Returns
    -------
    Path
    """
    canvas = _canvas_of(result)
    stack = Stack(canvas)
    for image, offset in zip(result.images, result.offsets, strict=True):
        stack.add(image, offset)
    return _write(stack.mean(), canvas, "PREVIEW_FOV", path)


def write_exposure_map(result, path):
    """Write the seconds that each place was exposed.

    Parameters
    ----------
    result : Result
    path : Path

    Returns
    -------
    Path
    """
    canvas = _canvas_of(result)
    seconds = np.zeros(canvas.shape, np.float32)
    for image, offset in zip(result.images, result.offsets, strict=True):
        exptime = image.exptime if math.isfinite(image.exptime) else 0.0
        seconds += np.float32(exptime) * np.isfinite(canvas.draw(image, offset))
    cards = {"BUNIT": "s"}
    covered = seconds[seconds > 0]
    if len(covered):
        figures = {
            "MIN": covered.min(),
            "MAX": covered.max(),
            "AVG": covered.mean(),
            "MED": np.median(covered),
        }
        cards |= {f"HIERARCH ESO QC EXPALIGN EXPTIME {name}": float(value) for name, value in figures.items()}
    return _write(np.where(seconds > 0, seconds, np.nan), canvas, "EXPOSURE_MAP", path, **cards)


def _canvas_of(result):
    """A canvas that holds all images, aligned."""
    return make_canvas(common_frame(result.images), result.images, result.offsets)


def _write(values, canvas, category, path, **cards):
    from astropy.io import fits

    ra, dec = sky_position(canvas.frame[:, 2])
    step = canvas.step_arcsec / 3600
    primary = fits.PrimaryHDU()
    primary.header["HIERARCH ESO PRO CATG"] = category
    data = fits.ImageHDU(values.astype(np.float32), name="DATA")
    data.header.update(
        {
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg",
            "CRVAL1": ra, "CRVAL2": dec, "CD1_1": -step, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": step,
            "CRPIX1": 1 + canvas.origin[0] / canvas.step_arcsec,
            "CRPIX2": 1 - canvas.origin[1] / canvas.step_arcsec,
        }
        | cards
    )  # fmt: skip
    partial = path.with_name(f".{path.name}.partial")
    fits.HDUList([primary, data]).writeto(partial, overwrite=True, checksum=True)
    partial.replace(path)
    return path
