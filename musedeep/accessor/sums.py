"""Images and spectra out of a cube, with the noise that correlated voxels really give."""

import json

import numpy as np
import xarray

from musedeep.correlation import measure_correlation, sum_variance
from musedeep.errors import InputError, UsageError
from musedeep.images import read_filters
from musedeep.lineage import recipe_of

__all__ = ["band_image", "correlation_of", "filter_image", "region_spectrum"]

_measured = {}


def correlation_of(dataset):
    """Correlation of the voxels' noise; see `MuseAccessor.correlation`."""
    if "correlation" in dataset.attrs:
        return {tuple(int(n) for n in lag): float(value) for *lag, value in dataset.attrs["correlation"]}
    if "folder" not in dataset.attrs:
        raise InputError(
            "this dataset does not tell of which field it is, so the correlation of its noise cannot be "
            "measured; start from open_cube or combine_exposures, or ask for noise='naive'"
        )
    # what tells one combination from another; to prepare it takes longer
    key = json.dumps([dataset.attrs[name] for name in ("folder", "grid", "settings", "exposures")])
    if key not in _measured:
        _measured[key] = measure_correlation(recipe_of(dataset))
    return _measured[key]


def _variance_of_sum(dataset, factor, axes, noise):
    """Variance of the sum of factor * flux over some axes; array."""
    if noise not in ("correlated", "naive"):
        raise UsageError(f"noise = {noise!r} is not allowed: give 'correlated' or 'naive'")
    sigma = np.sqrt(dataset.variance.astype("float64")).fillna(0.0) * factor
    correlation = {} if noise == "naive" else correlation_of(dataset)
    if noise == "correlated":
        _check_steps(dataset)
    return sum_variance(sigma.transpose("wavelength", "y", "x").data, correlation, axes)


def _check_steps(dataset):
    for name in ("y", "x"):
        step = int(dataset[name][1] - dataset[name][0]) if dataset.sizes[name] > 1 else 1
        if step != 1:
            raise UsageError(
                f"only every {step}th voxel along {name!r} is left, so the correlation of neighbours does "
                "not apply; sum before you thin out, or ask for noise='naive'"
            )


def _result(dataset, flux, variance, dims, **attrs):
    unit = dataset.attrs.get("unit", "")
    variance = xarray.DataArray(variance, dims=dims)
    result = xarray.Dataset(
        {"flux": flux.astype("float32"), "variance": variance.astype("float32")}, attrs=attrs
    )
    result["variance"] = result.variance.where(result.flux.notnull())
    result.flux.attrs["units"], result.variance.attrs["units"] = unit, f"({unit})**2"
    return result


def region_spectrum(dataset, chosen, how, noise):
    """Sum or mean of spaxels; see `MuseAccessor.spectrum`."""
    if how not in ("sum", "mean"):
        raise UsageError(f"how = {how!r} is not allowed: give 'sum' or 'mean'")
    y, x = (slice(int(places.min()), int(places.max()) + 1) for places in np.nonzero(chosen))
    data = dataset[["flux", "variance"]].isel(y=y, x=x)
    chosen = xarray.DataArray(chosen[y, x], dims=("y", "x"))
    flux = data.flux.where(chosen)
    count = flux.notnull().sum(("y", "x"))
    seen = count.where(count > 0)
    norm = seen if how == "mean" else seen / seen
    data = data.assign_attrs(dataset.attrs)
    variance = xarray.DataArray(_variance_of_sum(data, chosen, (1, 2), noise), dims="wavelength") / norm**2
    total = flux.astype("float64").sum(("y", "x"), skipna=True) / norm
    result = _result(dataset, total, variance.data, "wavelength", how=how, noise=noise)
    return result.assign(voxel_count=count)


def filter_image(dataset, wavelengths, filter, filter_list, noise):
    """Image through a filter; see `MuseAccessor.image`."""
    if filter == "all":
        throughput = np.ones(len(wavelengths))
    else:
        throughput = read_filters([filter], filter_list)[0].throughput_at(wavelengths)
    used = np.flatnonzero(throughput)
    planes = slice(used[0], used[-1] + 1) if len(used) else slice(0, 0)
    return _weighted_image(dataset, planes, throughput[planes], noise, filter=filter)


def _weighted_image(dataset, planes, throughput, noise, **attrs):
    data = dataset[["flux", "variance"]].isel(wavelength=planes).assign_attrs(dataset.attrs)
    weight = xarray.DataArray(throughput, dims="wavelength")
    total = (weight * data.flux.notnull()).sum("wavelength")
    total = total.where(total > 0)
    flux = (weight * data.flux).sum("wavelength", skipna=True) / total
    variance = _variance_of_sum(data, weight, (0,), noise) / (total**2).data
    return _result(dataset, flux, variance, ("y", "x"), noise=noise, **attrs)


def band_image(dataset, grid, wavelength, width_angstrom, continuum, noise):
    """Narrow band less continuum; see `MuseAccessor.narrow_band`."""
    centres = grid.wavelengths
    half = width_angstrom / 2
    inside = np.abs(centres - wavelength) <= half
    if not inside.any():
        raise UsageError(
            f"no plane lies within {half:g} Angstrom of {wavelength:g}; the cube reaches from "
            f"{centres[0]:.2f} to {centres[-1]:.2f} Angstrom in steps of {grid.wavelength_step:g}"
        )
    weight = inside / inside.sum()
    if continuum is not None:
        low, high = continuum
        beside = (np.abs(centres - wavelength) >= low) & (np.abs(centres - wavelength) <= high)
        if not beside.any() or (beside & inside).any():
            raise UsageError(
                f"continuum = ({low:g}, {high:g}) holds no plane, or planes of the band: give distances in "
                f"Angstrom from {wavelength:g}, beyond {half:g}"
            )
        weight = weight - beside / beside.sum()
    used = np.flatnonzero(weight)
    planes = slice(int(used[0]), int(used[-1]) + 1)
    data = dataset[["flux", "variance"]].isel(wavelength=planes).assign_attrs(dataset.attrs)
    weight = xarray.DataArray(weight[planes], dims="wavelength")
    complete = (data.flux.notnull() | (weight == 0)).all("wavelength")
    flux = (weight * data.flux.fillna(0.0)).sum("wavelength").where(complete)
    variance = _variance_of_sum(data, weight, (0,), noise)
    attrs = {"wavelength": float(wavelength), "width_angstrom": float(width_angstrom)}
    return _result(dataset, flux, variance, ("y", "x"), noise=noise, **attrs)
