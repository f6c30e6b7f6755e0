"""From a deep cube back to the field, the settings and the exposures that it was made of."""

import dataclasses

import numpy as np

from musedeep.errors import InputError
from musedeep.field import open_field
from musedeep.grid import VoxelGrid
from musedeep.recipe import prepare
from musedeep.settings import Settings
from musedeep.sky import degrees_of

__all__ = ["field_of", "place_of", "recipe_of"]

_SAME = ("fingerprint", "weight", "flux_scale", "ra_offset", "dec_offset", "rotation")


def field_of(deep):
    """The field that a deep cube was made of, with the settings and exposures of the cube.

    Parameters
    ----------
    deep : xarray.Dataset
        Of `open_cube` or `combine_exposures`, whole or cut.

    Returns
    -------
    Field
        Of the exposures of the cube alone.

    Raises
    ------
    InputError
        The dataset does not tell where its field lies, or the field has no such exposure any more.
    """
    if "folder" not in deep.attrs:
        raise InputError(
            "this dataset has no attribute 'folder', which tells where its exposures lie; start from "
            "open_cube or combine_exposures, and compute with xarray.set_options(keep_attrs=True)"
        )
    field = open_field(deep.attrs["folder"])
    recorded = deep.attrs["settings"]
    dates = [exposure["date_obs"] for exposure in deep.attrs["exposures"]]
    sources = tuple(source for source in field.sources if source.date_obs[:23] in dates)
    missing = sorted(set(dates) - {source.date_obs[:23] for source in sources})
    if missing:
        raise InputError(
            f"{field.toml} lists exposure {missing[0]} no more, which the cube was made of; add it again"
        )
    settings = dataclasses.replace(
        Settings.from_dict(recorded, field.folder),
        align=field.settings.align,
        products=field.settings.products,
        run=field.settings.run,
    )
    return dataclasses.replace(field, sources=sources, settings=settings.changed(select="all"))


def recipe_of(deep):
    """The combination that made a deep cube, on its whole grid.

    Parameters
    ----------
    deep : xarray.Dataset

    Returns
    -------
    Recipe

    Raises
    ------
    InputError
        The exposures, their weights or their offsets are not those of the cube any more.
    """
    recipe = prepare(field_of(deep), grid=VoxelGrid.from_dict(deep.attrs["grid"]))
    for now, then in zip(recipe.describe_exposures(), deep.attrs["exposures"], strict=True):
        for name in _SAME:
            if now[name] != then[name]:
                raise InputError(
                    f"exposure {now['date_obs']}: its {name} was {then[name]!r} when the cube was made "
                    f"and is {now[name]!r} now; combine again, or use the offsets and weights of that time"
                )
    return recipe


def place_of(grid, wavelength, sky):
    """The voxel that holds a point.

    Parameters
    ----------
    grid : VoxelGrid
    wavelength : float
        Angstrom.
    sky : SkyCoord or (float, float)
        RA and Dec, degrees.

    Returns
    -------
    (int, int, int)
        Plane, y, x, 0-based.

    Raises
    ------
    InputError
        The point lies outside of the grid.
    """
    x, y = grid.pixel(*degrees_of(sky))
    place = np.floor(np.array([grid.plane_of(wavelength), y, x]) + 0.5)
    voxel = tuple(int(v) if np.isfinite(v) else -1 for v in place)
    if any(not 0 <= v < n for v, n in zip(voxel, grid.shape, strict=True)):
        raise InputError(
            f"wavelength {wavelength:.2f} Angstrom at {sky} is voxel {voxel} (plane, y, x), outside of the "
            f"cube of {grid.shape} voxels; wavelengths reach from {grid.wavelengths[0]:.2f} to "
            f"{grid.wavelengths[-1]:.2f} Angstrom"
        )
    return voxel
