"""One exposure from the tables of its IFUs to its reduced pixel table, in chunks of rows."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from musedeep.errors import InputError, UsageError
from musedeep.kernels.reduction import project_rows
from musedeep.muse import COLUMNS, PIXTABLE_PREFIX
from musedeep.pixtable import PixelTableWriter, open_pixel_table
from musedeep.reduce.native.plan import REFERENCE_ANGSTROM, make_plan
from musedeep.reduce.native.provenance import quote_inputs
from musedeep.reduce.native.scibasic import IfuRows
from musedeep.reduce.native.sky import profile_path, read_sky_model
from musedeep.reduce.native.skyfiles import write_sky
from musedeep.reduce.native.survey import BLOCK_ROWS, read_chunks

__all__ = ["METHODS", "reduce_tables"]

METHODS = ("none", "simple", "subtract-model", "model")
_FRACTION = 0.1
# so few that they stay in the cache of a processor from step to step
_CHUNK_ROWS = 1 << 16


def reduce_tables(
    paths, calibrations, output, *, skymethod="none", sky=None, velocity=None, names=None,
    chunk_rows=_CHUNK_ROWS,
):  # fmt: skip
    """Reduce an exposure: merge its IFUs, correct refraction, flux, sky and velocity, and project it.

    Parameters
    ----------
    paths : list of Path or of IfuRows
        PIXTABLE_OBJECT of each IFU, as muse_scibasic writes them; or IFUs of a raw frame, whose rows are made
        as they are needed and written nowhere in between (not for a model of the exposure's own sky).
    calibrations : dict of str to list of Path
        EXTINCT_TABLE and STD_RESPONSE; STD_TELLURIC and ASTROMETRY_WCS where there are; for subtract-model
        SKY_CONTINUUM, SKY_LINES and LSF_PROFILE; for model SKY_LINES and LSF_PROFILE,
        and SKY_MASK for pixels of the focal plane that are taken for the sky as they are. RAMAN_LINES are
        refused.
    output : Path
        The PIXTABLE_REDUCED to write; replaced if it exists.
    skymethod : str, optional
        ``none``; ``subtract-model``: that of a SKY frame; ``model``: one of the exposure itself; ``simple``:
        the mean spectrum of the exposure's own sky, with no regard to the profiles of slices.
    sky : SkyChoice, optional
        Where the exposure shows the sky, for ``model`` and ``simple``; the darkest tenth by default, as with
        the recipe. Mask, spectrum, lines and continuum are written beside the table.
    velocity : float, optional
        Radial velocity (km/s) to correct for; that of the Earth towards the target by default.
    names : dict of Path to str, optional
        Under which names the header quotes files; their own by default.
    chunk_rows : int, optional
        Rows in memory at a time.

    Returns
    -------
    dict
        ``rows``, ``left_out`` (rows that the continuum of the sky does not reach), ``flagged`` (rows that a
        curve of the calibration does not reach: their values are NaN and their DQ says so), ``airmass`` and
        ``velocity_km_s``; with a model of its own sky ``sky_fit``, why the fit of its lines failed (empty
        otherwise), and ``products``, what else was written.

    Raises
    ------
    InputError
        A file is broken, of another mode or state, or lacks what the others have.
    UsageError
        The method is unknown, or there are RAMAN_LINES.
    """
    if skymethod not in METHODS:
        raise UsageError(f"native: skymethod {skymethod!r} does not exist; there are {', '.join(METHODS)}")
    if calibrations.get("RAMAN_LINES"):
        raise UsageError(
            "native: light scattered by the lasers is not removed yet; leave RAMAN_LINES out, or give "
            "backend = esorex"
        )
    tables = sorted(map(_opened, paths), key=lambda table: table.ifu or 0)
    if skymethod in ("model", "simple") and any(isinstance(table, IfuRows) for table in tables):
        raise UsageError(f"native: skymethod {skymethod!r} goes over all rows again and again; give tables")
    plan = make_plan(tables, calibrations, velocity, chunk_rows, places_only=skymethod == "none")
    found = None
    if skymethod in ("model", "simple"):
        # with the kernels and the libraries that only an image and a fit need
        from musedeep.reduce.native.skymodel import SkyChoice, model_sky

        sky = sky or SkyChoice(_FRACTION)
        found = model_sky(tables, plan, calibrations, sky, chunk_rows, with_lines=skymethod == "model")
        models = {table.ifu: found.for_ifu(table.ifu) for table in tables}
    else:
        models = _sky_models(tables, calibrations) if skymethod == "subtract-model" else {}
    count = sum(_kept_count(table, n, models.get(table.ifu), plan.survey) for n, table in enumerate(tables))
    header = _header(tables, plan, len(tables))
    inputs = {
        "RAW": list(dict.fromkeys((table.path, getattr(table, "tag", "PIXTABLE_OBJECT")) for table in tables))
    }
    inputs["CAL"] = [(path, tag) for tag, files in sorted(calibrations.items()) for path in files if path]
    parameters = {"skymethod": skymethod} | (asdict(sky) if found else {})
    quoted = "musedeep_scipost", inputs, parameters, names or {}
    quote_inputs(header, *quoted)
    facts = {"rows": count, "left_out": sum(table.row_count for table in tables) - count, "flagged": 0}
    with PixelTableWriter(output, "image", header, count, COLUMNS) as writer:
        for table in tables:
            model = models.get(table.ifu)
            for _, rows in read_chunks([table], list(COLUMNS), chunk_rows):
                facts["flagged"] += plan.calibrate(rows, table.ifu)
                if model is not None:
                    inside = model.subtract(rows)
                    if not inside.all():
                        rows = {name: values[inside] for name, values in rows.items()}
                project_rows(rows["lambda"], rows["xpos"], rows["ypos"], plan.stretch, plan.centre, plan.cd)
                writer.append(rows)
            if isinstance(table, IfuRows):
                table.release()
        names = {"X": "xpos", "Y": "ypos", "LAMBDA": "lambda"}
        for name, column in names.items():
            for end, value in zip(("LOW", "HIGH"), writer.ranges[column], strict=True):
                header[f"{PIXTABLE_PREFIX}LIMITS {name} {end}"] = float(value)
        writer.finish(header)
    if found:
        products = write_sky(
            Path(output).parent, found, tables, quoted, prefix="SCIPOST", suffix=_suffix(output)
        )
        facts |= {"sky_fit": found.failure, "products": products}
    return facts | {"airmass": plan.airmass, "velocity_km_s": plan.velocity}


def _opened(source):
    return source if isinstance(source, IfuRows) else open_pixel_table(Path(source), "pix")


def _suffix(output):
    """What follows the category in the name of a product."""
    return Path(output).stem.removeprefix("PIXTABLE_REDUCED")


def _sky_models(tables, calibrations):
    missing = [tag for tag in ("SKY_CONTINUUM", "SKY_LINES", "LSF_PROFILE") if not calibrations.get(tag)]
    if missing:
        raise InputError(f"{tables[0].path}: subtract-model needs {', '.join(missing)}; give them")
    return {
        table.ifu: read_sky_model(
            calibrations["SKY_CONTINUUM"][0],
            calibrations["SKY_LINES"][0],
            profile_path(calibrations["LSF_PROFILE"], table.ifu),
            table.ifu,
        )
        for table in tables
    }


def _kept_count(table, n, model, survey):
    """Rows of a table, the n-th of a survey, that the continuum of the sky reaches."""
    if model is None:
        return table.row_count
    low, high = model.nodes[[0, -1]]
    lowest, highest = survey.blocks[n]
    count = table.row_count
    # rows are looked at in those blocks alone that hold an end of the continuum
    for block in np.flatnonzero((lowest < low) | (highest > high)):
        start = int(block) * BLOCK_ROWS
        stop = min(start + BLOCK_ROWS, table.row_count)
        if highest[block] < low or lowest[block] > high:
            count -= stop - start
            continue
        wavelength = table.read("lambda", start, stop)
        count -= int(np.count_nonzero((wavelength < low) | (wavelength > high)))
    return count


def _header(tables, plan, ifu_count):
    """Primary header of the product, with room for the limits that are known at the end."""
    header = tables[0].header.copy()
    for name in ("EXTNAME", "CHECKSUM", "DATASUM", "DATAMD5"):
        header.remove(name, ignore_missing=True)
    for name in [name for name in header if name.startswith(("ESO QC ", "ESO DRS MUSE FLAT FLUX"))]:
        del header[name]
    for table in tables[1:]:
        for name, value in table.header.items():
            if name.endswith(" XOFFSET"):
                header[f"HIERARCH {name}"] = value
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "SPECSYS": "BARYCENT",
    }
    cards |= {"CRPIX1": plan.centre[0], "CRPIX2": plan.centre[1]}
    cards |= {f"CD{i + 1}_{j + 1}": plan.cd[i, j] for i in (0, 1) for j in (0, 1)}
    cards |= {"ESO PRO CATG": "PIXTABLE_REDUCED", "ESO PRO DATANCOM": ifu_count}
    state = {"MERGED": ifu_count, "FLUXCAL": True, "RVCORR": plan.velocity}
    if plan.with_lamp:
        state["FFCORR"] = ifu_count
    if plan.refracted:
        state["DAR CORRECT"] = REFERENCE_ANGSTROM
        for axis, (low, high) in zip("XY", plan.survey.measured.tolist(), strict=True):
            state |= {f"PREDAR LIMITS {axis}LO": low, f"PREDAR LIMITS {axis}HI": high}
    state["WCS"] = "projected (intermediate)"
    ifus = [table.ifu for table in tables]
    state |= {"LIMITS IFU LOW": min(ifus), "LIMITS IFU HIGH": max(ifus)}
    for name, value in (cards | {f"{PIXTABLE_PREFIX}{n}": v for n, v in state.items()}).items():
        header[name if len(name) <= 8 else f"HIERARCH {name}"] = value
    for axis in ("X", "Y", "LAMBDA"):
        for end in ("LOW", "HIGH"):
            header[f"HIERARCH {PIXTABLE_PREFIX}LIMITS {axis} {end}"] = 0.0
    return header
