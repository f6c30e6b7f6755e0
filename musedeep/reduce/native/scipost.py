"""One exposure from the tables of its IFUs to its reduced pixel table, in chunks of rows."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from musedeep import __version__
from musedeep.errors import InputError, UsageError
from musedeep.kernels.reduction import calibrate_rows, project_rows
from musedeep.muse import COLUMNS, DQ_BITS, PIXTABLE_PREFIX
from musedeep.pixtable import PixelTableWriter, open_pixel_table
from musedeep.reduce.native.curves import FluxCurves, lamp_spectrum, read_flux_curves
from musedeep.reduce.native.headers import (
    Observation,
    effective_airmass,
    projection,
    refraction,
    velocity_km_s,
)
from musedeep.reduce.native.sky import read_sky_model

__all__ = ["METHODS", "reduce_tables"]

METHODS = ("none", "subtract-model")
_MODE = "WFM-NOAO-N"
_REFERENCE_ANGSTROM = 7000.0
_TELLURIC_ANGSTROM = 6273.0
_LIGHT_KM_S = 299792.458
_CHUNK_ROWS = 1 << 20


@dataclass(frozen=True)
class _Plan:
    """What is the same for all rows of an exposure."""

    observation: Observation
    airmass: float
    air: np.ndarray
    curves: FluxCurves
    lamp: tuple
    limits: dict
    centre: np.ndarray
    cd: np.ndarray
    velocity: float

    @property
    def stretch(self):
        beta = self.velocity / _LIGHT_KM_S
        return math.sqrt((1 + beta) / (1 - beta))


def reduce_tables(
    paths, calibrations, output, *, skymethod="none", velocity=None, names=None, chunk_rows=_CHUNK_ROWS
):
    """Reduce an exposure: merge its IFUs, correct refraction, flux, sky and velocity, and project it.

    Parameters
    ----------
    paths : list of Path
        PIXTABLE_OBJECT of each IFU, as muse_scibasic writes them.
    calibrations : dict of str to list of Path
        EXTINCT_TABLE and STD_RESPONSE; STD_TELLURIC and ASTROMETRY_WCS where there are; for subtract-model
        SKY_CONTINUUM, SKY_LINES and LSF_PROFILE.
    output : Path
        The PIXTABLE_REDUCED to write; replaced if it exists.
    skymethod : str, optional
        ``none`` or ``subtract-model``.
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
        ``velocity_km_s``.

    Raises
    ------
    InputError
        A file is broken, of another mode or state, or lacks what the others have.
    UsageError
        What is asked for cannot be done yet.
    """
    if skymethod not in METHODS:
        raise UsageError(
            f"native: skymethod {skymethod!r} does not exist yet; there are {', '.join(METHODS)}"
        )
    paths = sorted(map(Path, paths))
    tables = sorted((open_pixel_table(path, "pix") for path in paths), key=lambda table: table.ifu or 0)
    plan = _plan(tables, calibrations, velocity, chunk_rows)
    models = _sky_models(tables, calibrations) if skymethod == "subtract-model" else {}
    count = sum(_kept_count(table, models.get(table.ifu), chunk_rows) for table in tables)
    header = _header(tables, plan, len(tables))
    _quote(header, tables, calibrations, skymethod, names or {})
    facts = {"rows": count, "left_out": sum(table.row_count for table in tables) - count, "flagged": 0}
    first = _flat_flux(tables[0], tables)
    with PixelTableWriter(output, "image", header, count, COLUMNS) as writer:
        for table in tables:
            scale = _flat_flux(table, tables) / first
            for start in range(0, table.row_count, chunk_rows):
                rows = table.read_columns(list(COLUMNS), start, min(start + chunk_rows, table.row_count))
                facts["flagged"] += _reduce_rows(rows, plan, scale)
                model = models.get(table.ifu)
                if model is not None:
                    inside = model.subtract(rows)
                    rows = {name: values[inside] for name, values in rows.items()}
                project_rows(rows["lambda"], rows["xpos"], rows["ypos"], plan.stretch, plan.centre, plan.cd)
                writer.append(rows)
        names = {"X": "xpos", "Y": "ypos", "LAMBDA": "lambda"}
        for name, column in names.items():
            for end, value in zip(("LOW", "HIGH"), writer.ranges[column], strict=True):
                header[f"{PIXTABLE_PREFIX}LIMITS {name} {end}"] = float(value)
        writer.finish(header)
    return facts | {"airmass": plan.airmass, "velocity_km_s": plan.velocity}


def _plan(tables, calibrations, velocity, chunk_rows):
    dates = {table.date_obs for table in tables}
    if len(dates) > 1 or len({table.ifu for table in tables}) < len(tables):
        names = ", ".join(table.path.name for table in tables)
        raise InputError(f"{names}: not the IFUs of one exposure (DATE-OBS {', '.join(sorted(dates))})")
    for table in tables:
        if table.columns["data"].unit != "count":
            unit = table.columns["data"].unit
            raise InputError(f"{table.path}: data in '{unit}', 'count' is wanted: it is calibrated already")
    observation = Observation(tables[0].header, tables[0].path)
    if observation.mode != _MODE:
        raise UsageError(f"native: mode {observation.mode} was not held against the recipe; there is {_MODE}")
    airmass = effective_airmass(observation)
    telluric, astrometry = (calibrations.get(tag, [None])[0] for tag in ("STD_TELLURIC", "ASTROMETRY_WCS"))
    needed = [calibrations.get(tag, [None])[0] for tag in ("EXTINCT_TABLE", "STD_RESPONSE")]
    if None in needed:
        raise InputError(f"{observation.path}: EXTINCT_TABLE and STD_RESPONSE are needed; give both")
    curves = read_flux_curves(*needed, telluric, observation.mode, airmass)
    lamp = lamp_spectrum([table.path for table in tables])
    if len(lamp[0]) == 0 and curves.corrected_lamp:
        raise InputError(
            f"{needed[1]}: made with the spectrum of the lamp, which the tables do not have; give a response "
            "without (ESO DRS MUSE FLUX FFCORR)"
        )
    limits = _limits(tables, chunk_rows)
    cd, correction = projection(observation, fits.getheader(astrometry) if astrometry else None)
    centre = np.array([sum(limits["X"]) / 2, sum(limits["Y"]) / 2]) + correction
    return _Plan(
        observation=observation,
        airmass=airmass,
        air=refraction(observation, airmass, _REFERENCE_ANGSTROM),
        curves=curves,
        # a response that was made without it has it in itself
        lamp=lamp if curves.corrected_lamp else (np.empty(0), np.empty(0)),
        limits=limits,
        centre=centre,
        cd=cd,
        velocity=velocity_km_s(observation) if velocity is None else float(velocity),
    )


def _limits(tables, chunk_rows):
    """Smallest and largest focal-plane coordinates of all rows; headers round them."""
    limits = {"X": [math.inf, -math.inf], "Y": [math.inf, -math.inf]}
    for table in tables:
        for start in range(0, table.row_count, chunk_rows):
            found = table.read_columns(["xpos", "ypos"], start, min(start + chunk_rows, table.row_count))
            for ends, values in zip(limits.values(), found.values(), strict=True):
                ends[:] = min(ends[0], float(values.min())), max(ends[1], float(values.max()))
    return limits


def _flat_flux(table, tables):
    """Flux of the flat field of an IFU: that of the twilight if all IFUs have it, else that of the lamp."""
    for kind in ("SKY", "LAMP"):
        fluxes = {t.ifu: t.header.get(f"ESO DRS MUSE FLAT FLUX {kind}", 0) for t in tables}
        if all(flux > 0 for flux in fluxes.values()):
            return float(fluxes[table.ifu])
    return 1.0


def _sky_models(tables, calibrations):
    missing = [tag for tag in ("SKY_CONTINUUM", "SKY_LINES", "LSF_PROFILE") if not calibrations.get(tag)]
    if missing:
        raise InputError(f"{tables[0].path}: subtract-model needs {', '.join(missing)}; give them")
    return {
        table.ifu: read_sky_model(
            calibrations["SKY_CONTINUUM"][0],
            calibrations["SKY_LINES"][0],
            _profile_path(calibrations["LSF_PROFILE"], table.ifu),
            table.ifu,
        )
        for table in tables
    }


def _profile_path(paths, ifu):
    """The file of an IFU among those of single IFUs, or the merged one."""
    for path in paths:
        if str(fits.getheader(path).get("EXTNAME", "")).startswith(f"CHAN{ifu:02d}"):
            return path
    return paths[0]


def _kept_count(table, model, chunk_rows):
    """Rows of a table that the continuum of the sky reaches."""
    if model is None:
        return table.row_count
    count = 0
    for start in range(0, table.row_count, chunk_rows):
        wavelength = table.read("lambda", start, min(start + chunk_rows, table.row_count))
        low, high = model.nodes[[0, -1]]
        count += int(np.count_nonzero((wavelength >= low) & (wavelength <= high)))
    return count


def _reduce_rows(rows, plan, scale):
    """Calibrate rows in place; how many are beyond the curves, and flagged."""
    outside = np.zeros(len(rows["data"]), np.uint8)
    curves = plan.curves
    calibrate_rows(
        rows["lambda"], rows["xpos"], rows["ypos"], rows["data"], rows["stat"], outside, scale, *plan.lamp,
        plan.air, *curves.extinction, *curves.response, *curves.telluric,
        plan.observation.number("EXPTIME"), plan.airmass, _TELLURIC_ANGSTROM,
    )  # fmt: skip
    rows["dq"][outside != 0] |= np.uint32(DQ_BITS["outside_range"])
    return int(outside.sum())


def _quote(header, tables, calibrations, skymethod, names):
    """Add to the header what was done to which files, after what earlier recipes have written there."""
    number = next(n for n in range(1, 100) if f"ESO PRO REC{n} ID" not in header)
    cards = {"ID": "musedeep_scipost", "PIPE ID": f"musedeep/{__version__}"}
    inputs = {"RAW": [(table.path, "PIXTABLE_OBJECT") for table in tables]}
    inputs["CAL"] = [(path, tag) for tag, paths in sorted(calibrations.items()) for path in paths if path]
    for kind, files in inputs.items():
        for n, (path, tag) in enumerate(files, start=1):
            cards |= {f"{kind}{n} NAME": names.get(path, Path(path).name), f"{kind}{n} CATG": tag}
    cards |= {"PARAM1 NAME": "skymethod", "PARAM1 VALUE": skymethod}
    for name, value in cards.items():
        header[f"HIERARCH ESO PRO REC{number} {name}"] = value


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
    state = {
        "MERGED": ifu_count,
        "FLUXCAL": True,
        "DAR CORRECT": _REFERENCE_ANGSTROM,
        "RVCORR": plan.velocity,
    }
    if len(plan.lamp[0]):
        state["FFCORR"] = ifu_count
    for axis, (low, high) in plan.limits.items():
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
