"""Where the voxels of a dataset lie, whole or cut, and which of them a region holds."""

from dataclasses import replace

import numpy as np

from musedeep.errors import InputError, UsageError
from musedeep.grid import VoxelGrid
from musedeep.sky import degrees_of

__all__ = ["cut_around", "grid_of", "pixel_regions", "spaxels_of"]

_NAMES = ("wavelength", "y", "x")


def grid_of(dataset):
    """The `VoxelGrid` of a dataset, cut or not; see `MuseAccessor.grid`."""
    if "grid" not in dataset.attrs:
        raise InputError(
            "this dataset has no attribute 'grid', which tells where its voxels lie; start from "
            "open_cube or combine_exposures, and compute with xarray.set_options(keep_attrs=True)"
        )
    whole = VoxelGrid.from_dict(dataset.attrs["grid"])
    (plane, depth), (y, y_step), (x, x_step) = (_places(dataset, name, whole) for name in _NAMES)
    steps = np.array([x_step, y_step])
    return replace(
        whole,
        shape=tuple(dataset.sizes[name] for name in _NAMES),
        crpix=tuple((np.array(whole.crpix) - 1 - (x, y)) / steps + 1),
        cd=tuple(map(tuple, np.array(whole.cd) * steps)),
        wavelength_crpix=(whole.wavelength_crpix - 1 - plane) / depth + 1,
        wavelength_step=whole.wavelength_step * depth,
    )


def _places(dataset, name, whole):
    """First voxel and step of one dimension in the whole grid."""
    if name not in dataset.dims:
        raise InputError(f"this dataset lost its dimension {name!r}; cut with a slice, which keeps it")
    if name not in dataset.coords:
        if dataset.sizes[name] == whole.shape[_NAMES.index(name)]:
            return 0, 1
        raise InputError(
            f"this dataset was cut along {name!r} and has no coordinate that tells where; keep it"
        )
    places = dataset[name].values
    if name == "wavelength":
        places = whole.plane_of(places)
    steps = np.diff(places)
    step = int(round(float(steps[0]))) if len(steps) else 1
    if step < 1 or np.abs(steps - step).max(initial=0) > 1e-3:
        raise InputError(f"this dataset is not evenly cut along {name!r}; take a slice with one step upwards")
    return int(round(float(places[0]))), step


def cut_around(grid, sky, size_arcsec, wavelength):
    """Slices of planes, rows and columns around a position; see `MuseAccessor.cutout`."""
    widths = np.broadcast_to(np.asarray(size_arcsec, float), 2)
    if not (np.isfinite(widths).all() and (widths > 0).all()):
        raise UsageError(f"size_arcsec = {size_arcsec!r} is not allowed: give one or two lengths above 0")
    ra, dec = degrees_of(sky)
    slices = [slice(0, grid.shape[0])]
    if wavelength is not None:
        low, high = wavelength
        first, last = np.ceil(grid.plane_of(low) - 1e-6), np.floor(grid.plane_of(high) + 1e-6)
        slices[0] = slice(max(int(first), 0), min(int(last) + 1, grid.shape[0]))
    middle = grid.pixel(ra, dec)[::-1]
    for place, width, step, length in zip(
        middle, widths[::-1], grid.step_arcsec[::-1], grid.shape[1:], strict=True
    ):
        count = max(1, round(width / step))
        first = round(float(place) - (count - 1) / 2) if np.isfinite(place) else length
        slices.append(slice(max(first, 0), min(first + count, length)))
    if any(part.start >= part.stop for part in slices):
        raise InputError(
            f"a cutout of {size_arcsec} arcsec at RA {ra:.6f}, Dec {dec:.6f} deg"
            + (f" from {low:g} to {high:g} Angstrom" if wavelength is not None else "")
            + " holds no voxel of this cube; check position and wavelengths"
        )
    return tuple(slices)


def spaxels_of(grid, region):
    """Spaxels whose centres lie in a region; see `MuseAccessor.spectrum`.

    Returns
    -------
    ndarray, shape (ny, nx), bool
    """
    shape = grid.shape[1:]
    if region is None:
        return np.ones(shape, bool)
    if isinstance(region, str) or type(region).__module__.startswith("regions."):
        chosen = _in_regions(grid, region)
    else:
        chosen = np.asarray(region, bool)
    if chosen.shape != shape:
        raise UsageError(f"the mask has shape {chosen.shape}, but the cube has {shape} spaxels (y, x)")
    if not chosen.any():
        raise UsageError("the mask or region holds no spaxel of this cube")
    return chosen


def pixel_regions(grid, region):
    """Regions in pixels of a grid.

    Parameters
    ----------
    grid : VoxelGrid
    region : regions.Region, regions.Regions or str
        A string is read as DS9 writes it; regions in pixels stay as they are.

    Returns
    -------
    list of regions.PixelRegion

    Raises
    ------
    UsageError
        The string cannot be read.
    """
    from regions import Regions, SkyRegion

    if isinstance(region, str):
        try:
            region = Regions.parse(region, format="ds9")
        except Exception as error:  # the parser raises whatever it stumbles over
            raise UsageError(f"region = {region!r} cannot be read as a DS9 region: {error}") from error
    shapes = list(region) if isinstance(region, Regions) else [region]
    celestial = grid.wcs.celestial
    return [shape.to_pixel(celestial) if isinstance(shape, SkyRegion) else shape for shape in shapes]


def _in_regions(grid, region):
    from regions import PixCoord

    y, x = np.indices(grid.shape[1:])
    chosen = np.zeros(x.shape, bool)
    for shape in pixel_regions(grid, region):
        chosen |= shape.contains(PixCoord(x, y))
    return chosen
