"""From a voxel back to the detector pixels behind it."""

from dataclasses import replace

import numpy as np
from astropy.table import Table

from musedeep.kernels.window import STATISTICS_ONLY, USABLE
from musedeep.lineage import field_of, place_of, recipe_of
from musedeep.masks import row_states
from musedeep.muse import DQ_BITS, origin_ifu, origin_slice, origin_x, origin_y
from musedeep.store import PartReader
from musedeep.witness import witness

__all__ = ["trace"]

_EVERY_BIT = 0xFFFFFFFF


def trace(deep, wavelength, sky):
    """List the very rows behind a voxel of a deep cube: those in its mean, and those that were kept out.

    Parameters
    ----------
    deep : xarray.Dataset
        Of `open_cube` or `combine_exposures`, whole or cut.
    wavelength : float
        Angstrom.
    sky : SkyCoord or (float, float)
        RA and Dec, degrees. The voxel that holds this point is taken.

    Returns
    -------
    astropy.table.Table
        A row for each detector pixel that the kernel spreads over the voxel, in the order of exposures:
        date_obs; ifu, slice, column, line (where on which detector); ra, dec [deg]; wavelength [Angstrom];
        value, sigma (flux scale applied); weight (kernel times weight of the exposure); used (bool); reason
        (why it was kept out: "outlier", "flagged: ...", "masked: ...", or "not the nearest"); median (what an
        outlier was compared with, NaN where this was not needed). ``meta`` has the voxel, its flux and its
        variance, as the rows give them.

    Raises
    ------
    InputError
        The point lies outside of the cube, or the exposures, weights or offsets changed since.
    """
    recipe = recipe_of(deep)
    voxel = place_of(recipe.grid, wavelength, sky)
    field_exposures = {e.date_obs: e for e in field_of(deep).exposures}
    judged = _rows_in(recipe, voxel)
    every = _rows_in(_unjudged(recipe), voxel)
    known = {row["key"]: row for row in judged}
    rows = [known.get(row["key"], row | {"state": None}) for row in every]
    if recipe.method.resample == "nearest":
        _mark_nearest(rows)
    columns = [_describe(row, recipe, field_exposures) for row in rows]
    return _table(columns, recipe, voxel)


def _unjudged(recipe):
    """The same combination of every row, flagged and masked ones too."""
    exposures = tuple(replace(exposure, masks=()) for exposure in recipe.exposures)
    method = replace(recipe.method, reject="none", keep_dq=_EVERY_BIT)
    return replace(recipe, method=method, exposures=exposures)


def _rows_in(recipe, voxel):
    """Rows that the kernel spreads over a voxel; list of dict."""
    found, _ = witness(recipe, tuple((v, v + 1) for v in voxel))
    # place of the voxel in the box of weights around each row
    place = np.array(voxel) - found.voxel + recipe.method.reach
    weight = found.weight[np.arange(len(place)), *place.T]
    rows = []
    for r in np.flatnonzero(weight != 0.0):
        row = {name: values[r] for name, values in found._asdict().items()}
        key = int(row["exposure"]), str(row["part"]), int(row["number"])
        rows.append(row | {"key": key, "weight": float(weight[r])})
    return rows


def _mark_nearest(rows):
    """Of the usable rows only the nearest one is in the voxel."""
    usable = [row for row in rows if row["state"] == USABLE]
    nearest = min(usable, key=lambda row: row["distance"], default=None)
    for row in usable:
        row["far"] = row is not nearest


def _describe(row, recipe, exposures):
    """A line of the table."""
    n, name, number = row["key"]
    exposure = recipe.exposures[n]
    part = PartReader(recipe.store / exposure.name / name, exposure.parts[name], exposure.columns)
    try:
        origin = part.read_flat("origin", number, number + 1)
        reason = _reason(row, recipe, part, number)
    finally:
        part.close()
    ifu, slice_number = int(origin_ifu(origin)[0]), int(origin_slice(origin)[0])
    xoffset = exposures[exposure.date_obs].xoffsets()[ifu, slice_number]
    ra, dec = recipe.grid.position(row["x"], row["y"])
    return {
        "date_obs": exposure.date_obs,
        "ifu": ifu,
        "slice": slice_number,
        "column": int(origin_x(origin, xoffset)[0]),
        "line": int(origin_y(origin)[0]),
        "ra": ra,
        "dec": dec,
        "wavelength": row["wavelength"],
        "value": row["value"],
        "sigma": float(row["variance"]) ** 0.5,
        "weight": row["weight"],
        "used": not reason,
        "reason": reason,
        "median": row["median"],
    }


def _reason(row, recipe, part, number):
    """Why a row is not in the voxel; empty when it is."""
    exposure = recipe.exposures[row["key"][0]]
    if row["state"] == USABLE:
        return "not the nearest" if row.get("far") else ""
    if row["state"] is not None and row["state"] != STATISTICS_ONLY:
        return "outlier"
    dq = int(part.read_flat("dq", number, number + 1)[0])
    left = dq & ~recipe.method.keep_dq
    if left:
        return "flagged: " + ", ".join(name for name, bit in DQ_BITS.items() if left & bit)
    values = part.read_flat("rows", number, number + 1)
    for mask in exposure.masks:
        alone = replace(exposure, masks=(mask,))
        if row_states(recipe, alone, part, values, 0, 1, number, bool(dq))[0] != USABLE:
            return "masked: " + ", ".join(f"{name} = {value}" for name, value in mask.items())
    raise AssertionError(f"row {row['key']} was kept out for no known reason")


_UNITS = {"ra": "deg", "dec": "deg", "wavelength": "Angstrom"}
_KINDS = {
    "date_obs": "U23",
    "ifu": "i2",
    "slice": "i2",
    "column": "i4",
    "line": "i4",
    "ra": "f8",
    "dec": "f8",
    "wavelength": "f8",
    "value": "f4",
    "sigma": "f4",
    "weight": "f8",
    "used": "bool",
    "reason": "U80",
    "median": "f4",
}


def _table(lines, recipe, voxel):
    table = Table({name: np.array([line[name] for line in lines], kind) for name, kind in _KINDS.items()})
    for name, digits in {"ra": 6, "dec": 6, "wavelength": 2, "value": 2, "sigma": 2, "weight": 4}.items():
        table[name].info.format = f".{digits}f"
    for name, unit in _UNITS.items():
        table[name].unit = unit
    used = table[table["used"]]
    total = used["weight"].sum()
    ra, dec = recipe.grid.position(voxel[2], voxel[1])
    table.meta = {
        "voxel": voxel,
        "wavelength": float(recipe.grid.wavelengths[voxel[0]]),
        "ra": ra,
        "dec": dec,
        "unit": recipe.unit,
        "flux": float((used["weight"] * used["value"]).sum() / total) if total else np.nan,
        "variance": float(((used["weight"] * used["sigma"]) ** 2).sum() / total**2) if total else np.nan,
    }
    return table
