"""Is it real? The scatter of exposures against the propagated noise, and the course of a flux with time."""

import numpy as np
from astropy.table import Table

from musedeep.accessor.geometry import spaxels_of
from musedeep.errors import InputError
from musedeep.kernels.window import USABLE
from musedeep.lineage import field_of, recipe_of
from musedeep.witness import witness

__all__ = ["jackknife", "light_curve"]


def jackknife(split):
    """Variance of a deep cube from the scatter of its exposures.

    With the mean t of all groups, those t_g of all groups but one, and weights W_g and W, the weighted
    delete-one jackknife (Wu 1986, doi:10.1214/aos/1176350142) is

        variance = sum_g (1 - W_g / W) (t_g - t)**2.

    It asks nothing of the variances in the pixel tables, and counts what differs from exposure to exposure:
    flux scales, seeing, sky. With few groups it is itself uncertain, by sqrt(2 / (G - 1)).

    Parameters
    ----------
    split : xarray.Dataset
        Of `split_exposures`, by exposure, night or observing block.

    Returns
    -------
    xarray.Dataset
        flux, variance (jackknife), propagated (variance from the rows) and group_count over (wavelength, y,
        x), float32, lazy; NaN where fewer than two groups have rows.
    """
    weight = split.weight.astype("float64")
    seen = weight > 0
    count, total = seen.sum("group"), weight.sum("group")
    mean = (split.flux * weight).sum("group") / total.where(count > 1)
    # t - t_g = share (x_g - t) / (1 - share) with the mean x_g of a group itself
    share = (weight / total).where(seen)
    squares = share**2 * (split.flux - mean) ** 2 / (1.0 - share)
    result = split[["flux"]].isel(group=0, drop=True).drop_vars("mjd", errors="ignore")
    propagated = (split.variance * weight**2).sum("group") / total.where(count > 1) ** 2
    result = result.assign(
        flux=mean.astype("float32"),
        variance=squares.sum("group").where(count > 1).astype("float32"),
        propagated=propagated.astype("float32"),
        group_count=count,
    )
    for name in ("variance", "propagated"):
        result[name].attrs = dict(split.variance.attrs)
    result.flux.attrs = dict(split.flux.attrs)
    return result


def light_curve(deep, region, wavelength):
    """Flux of a region and a band in every exposure, in the order of time.

    Each row of an exposure is compared with the deep cube where it was measured (interpolated between
    voxels), and the mean of the differences added to the deep flux. Rows are independent of each other, so
    the errors need no covariance. Rows rejected in the cube are left out and counted.

    Parameters
    ----------
    deep : xarray.Dataset
        Of `open_cube` or `combine_exposures`, whole or cut; it must hold the region.
    region : regions.Region, str or array_like of shape (ny, nx)
        As of ``deep.muse.spectrum``.
    wavelength : (float, float)
        Limits of the band, Angstrom.

    Returns
    -------
    astropy.table.Table
        A row for each exposure: date_obs, mjd (of its middle), seconds, ob, rows, rejected, flux (of the
        region and band, in the cube's unit times Angstrom), sigma, deviation (from the deep flux, in sigma).
        ``meta`` has the deep flux. Exposures without rows there have NaN. What depends on the seeing counts
        too: take apertures that hold the source.

    Raises
    ------
    InputError
        No plane of the cube lies in the band.
    """
    grid = deep.muse.grid
    chosen = spaxels_of(grid, region)
    planes = np.flatnonzero((grid.wavelengths >= wavelength[0]) & (grid.wavelengths <= wavelength[1]))
    if not planes.size:
        raise InputError(
            f"no plane lies between {wavelength[0]:g} and {wavelength[1]:g} Angstrom; the cube reaches from "
            f"{grid.wavelengths[0]:.2f} to {grid.wavelengths[-1]:.2f} Angstrom"
        )
    y, x = np.nonzero(chosen)
    bounds = tuple((int(v.min()), int(v.max()) + 1) for v in (planes, y, x))
    recipe = recipe_of(deep.assign_attrs(grid=grid.to_dict()))
    rows, maps = witness(recipe, bounds)
    inside, difference = _differences(rows, maps["flux"], chosen, bounds)
    flux = np.where(chosen[bounds[1][0] : bounds[1][1], bounds[2][0] : bounds[2][1]], maps["flux"], 0.0)
    width = np.diff(grid.plane_edges)[slice(*bounds[0])]
    total = float(np.nansum(flux * width[:, None, None]))
    # mean difference of a voxel, times the number of voxels and the width of each
    scale = float(chosen.sum() * width.sum())
    lines = []
    for n, exposure in enumerate(field_of(deep).exposures):
        mine = inside & (rows.exposure == n)
        used = mine & (rows.state == USABLE) & np.isfinite(difference)
        count = int(used.sum())
        change = scale * float(difference[used].mean()) if count else np.nan
        sigma = scale * float(np.sqrt(rows.variance[used].astype(float).sum())) / count if count else np.nan
        middle = exposure.mjd_obs + exposure.exptime / 2 / 86400
        facts = exposure.date_obs, middle, exposure.exptime, exposure.ob_name, count, int(mine.sum()) - count
        lines.append((*facts, total + change, sigma, change / sigma))
    names = "date_obs mjd seconds ob rows rejected flux sigma deviation".split()
    table = Table(rows=lines, names=names, units={"mjd": "d", "seconds": "s"})
    for name, digits in {"mjd": 4, "flux": 1, "sigma": 1, "deviation": 2}.items():
        table[name].info.format = f".{digits}f"
    table.meta = {"flux": total, "unit": f"{recipe.unit} Angstrom"}
    return table


def _differences(rows, flux, chosen, bounds):
    """Which rows lie in the voxels of a region, and by how much each is above the cube."""
    from scipy.ndimage import map_coordinates

    low = np.array([first for first, _ in bounds])
    size = np.array([last - first for first, last in bounds])
    place = rows.voxel - low
    inside = ((place >= 0) & (place < size)).all(axis=1)
    inside[inside] = chosen[tuple(rows.voxel[inside, 1:].T)]
    along = np.stack([rows.plane - low[0], rows.y - low[1], rows.x - low[2]])
    model = map_coordinates(np.nan_to_num(flux), along, order=1, mode="nearest")
    model[inside & ~np.isfinite(flux[tuple(place.clip(0, size - 1).T)])] = np.nan
    return inside, rows.value.astype(float) - model
