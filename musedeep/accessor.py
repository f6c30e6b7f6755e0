"""The ``.muse`` accessor of xarray: what one asks of a deep cube, whole or cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray

from musedeep.errors import InputError, UsageError
from musedeep.fitsstream import FitsStream
from musedeep.grid import VoxelGrid
from musedeep.images import extension_header, read_filters

__all__ = ["MuseAccessor"]

_SLAB_PLANES = 16


@xarray.register_dataset_accessor("muse")
class MuseAccessor:
    """Geometry, images, spectra and files of a deep cube, as ``dataset.muse``.

    The dataset is one that `open_cube` or `combine_exposures` made, or any cut of it: ``isel`` and ``sel``
    with slices keep the coordinates in step, so positions on the sky stay right. Nothing is computed before
    it is asked for.

    Parameters
    ----------
    dataset : xarray.Dataset
        Variables flux and variance over (wavelength, y, x); attributes ``grid`` and ``unit``.
    """

    def __init__(self, dataset):
        self._dataset = dataset

    @property
    def grid(self):
        """The `VoxelGrid` of the dataset, cut or not.

        Raises
        ------
        InputError
            The dataset has no ``grid``, lost a dimension, or was cut unevenly.
        """
        if "grid" not in self._dataset.attrs:
            raise InputError(
                "this dataset has no attribute 'grid', which tells where its voxels lie; start from "
                "open_cube or combine_exposures, and compute with xarray.set_options(keep_attrs=True)"
            )
        whole = VoxelGrid.from_dict(self._dataset.attrs["grid"])
        names = ("wavelength", "y", "x")
        (plane, depth), (y, y_step), (x, x_step) = (self._places(name, whole) for name in names)
        steps = np.array([x_step, y_step])
        return replace(
            whole,
            shape=tuple(self._dataset.sizes[name] for name in names),
            crpix=tuple((np.array(whole.crpix) - 1 - (x, y)) / steps + 1),
            cd=tuple(map(tuple, np.array(whole.cd) * steps)),
            wavelength_crpix=(whole.wavelength_crpix - 1 - plane) / depth + 1,
            wavelength_step=whole.wavelength_step * depth,
        )

    def _places(self, name, whole):
        """First voxel and step of one dimension in the whole grid."""
        if name not in self._dataset.dims:
            raise InputError(f"this dataset lost its dimension {name!r}; cut with a slice, which keeps it")
        if name not in self._dataset.coords:
            if self._dataset.sizes[name] == whole.shape[("wavelength", "y", "x").index(name)]:
                return 0, 1
            raise InputError(
                f"this dataset was cut along {name!r} and has no coordinate that tells where; keep it"
            )
        places = self._dataset[name].values
        if name == "wavelength":
            places = whole.plane_of(places)
        steps = np.diff(places)
        step = int(round(float(steps[0]))) if len(steps) else 1
        if step < 1 or np.abs(steps - step).max(initial=0) > 1e-3:
            raise InputError(
                f"this dataset is not evenly cut along {name!r}; take a slice with one step upwards"
            )
        return int(round(float(places[0]))), step

    @property
    def wcs(self):
        """World coordinates of the three axes, an `astropy.wcs.WCS`."""
        return self.grid.wcs

    def white_light(self, filter="white", *, filter_list=None):
        """Image through a filter.

        Parameters
        ----------
        filter : str
            "white" (4650 to 9300 Angstrom), "all" for every plane alike, or a name in `filter_list`.
        filter_list : path, optional
            Throughput curves, see `musedeep.images.read_filters`.

        Returns
        -------
        xarray.Dataset
            flux and variance over (y, x), float32, lazy where the cube is; NaN without data.

        Raises
        ------
        InputError
            The filter is in no list.
        """
        data = self._dataset
        wavelengths = self.grid.wavelengths
        if filter == "all":
            throughput = np.ones(len(wavelengths))
        else:
            throughput = read_filters([filter], filter_list)[0].throughput_at(wavelengths)
        used = np.flatnonzero(throughput)
        planes = slice(used[0], used[-1] + 1) if len(used) else slice(0, 0)
        data = data.isel(wavelength=planes)
        weight = xarray.DataArray(throughput[planes], dims="wavelength")
        good = data.flux.notnull()
        total = (weight * good).sum("wavelength")
        total = total.where(total > 0)
        flux = (weight * data.flux).sum("wavelength", skipna=True) / total
        variance = (weight**2 * data.variance).sum("wavelength", skipna=True) / total**2
        return self._result(flux, variance, filter=filter)

    def spectrum(self, mask=None, *, region=None, how="sum"):
        """Spectrum of some spaxels.

        Parameters
        ----------
        mask : array_like, shape (ny, nx), bool, optional
            Spaxels that count; all of them by default.
        region : str, optional
            A DS9 region in sky coordinates instead, as ``icrs; circle(150.1, 2.2, 1.5")``; spaxels whose
            centres lie in it count.
        how : {"sum", "mean"}
            What is made of the spaxels.

        Returns
        -------
        xarray.Dataset
            flux, variance (covariance between voxels is left out) and voxel_count over wavelength; lazy
            where the cube is. NaN where no spaxel has data; where some lack data, a sum lacks their flux.

        Raises
        ------
        UsageError
            Both mask and region are given, `how` is unknown, or no spaxel is chosen.
        """
        if how not in ("sum", "mean"):
            raise UsageError(f"how = {how!r} is not allowed: give 'sum' or 'mean'")
        chosen = xarray.DataArray(self._mask(mask, region), dims=("y", "x"))
        data = self._dataset[["flux", "variance"]].where(chosen)
        count = data.flux.notnull().sum(("y", "x"))
        seen = count.where(count > 0)
        norm = seen if how == "mean" else seen / seen
        sums = data.astype("float64").sum(("y", "x"), skipna=True)
        result = self._result(sums.flux / norm, sums.variance / norm**2, how=how)
        return result.assign(voxel_count=count)

    def _mask(self, mask, region):
        shape = self.grid.shape[1:]
        if mask is not None and region is not None:
            raise UsageError("give a mask or a region, not both")
        if region is not None:
            chosen = self._in_region(region)
        else:
            chosen = np.ones(shape, bool) if mask is None else np.asarray(mask, bool)
        if chosen.shape != shape:
            raise UsageError(f"the mask has shape {chosen.shape}, but the cube has {shape} spaxels (y, x)")
        if not chosen.any():
            raise UsageError("the mask or region holds no spaxel of this cube")
        return chosen

    def _in_region(self, region):
        from regions import PixCoord, Regions

        y, x = np.indices(self.grid.shape[1:])
        chosen = np.zeros(x.shape, bool)
        for shape in Regions.parse(region, format="ds9"):
            chosen |= shape.to_pixel(self.grid.wcs.celestial).contains(PixCoord(x, y))
        return chosen

    def _result(self, flux, variance, **attrs):
        unit = self._dataset.attrs.get("unit", "")
        result = xarray.Dataset(
            {"flux": flux.astype("float32"), "variance": variance.astype("float32")}, attrs=attrs
        )
        result.flux.attrs["units"], result.variance.attrs["units"] = unit, f"({unit})**2"
        return result

    def to_mpdaf(self):
        """The cube as a `mpdaf.obj.Cube`, in memory.

        Raises
        ------
        UsageError
            The package mpdaf is not installed.
        """
        try:
            from mpdaf.obj import WCS, Cube, WaveCoord
        except ImportError as error:
            raise UsageError(
                f"to_mpdaf needs the package mpdaf ({error}); pip install 'musedeep[notebook]'"
            ) from error

        header = self.grid.to_header()
        header["NAXIS"] = 3
        for axis, length in enumerate(self.grid.shape[::-1], 1):
            header[f"NAXIS{axis}"] = length
        flux, variance = self._dataset.flux.values, self._dataset.variance.values
        shape = self.grid.shape
        return Cube(
            data=flux,
            var=variance,
            mask=~np.isfinite(flux),
            wcs=WCS(hdr=header, shape=shape[1:]),
            wave=WaveCoord(hdr=header, shape=shape[0]),
            unit=self._unit(),
            copy=False,
        )

    def _unit(self):
        from astropy import units

        return units.Unit(self._dataset.attrs.get("unit", ""))

    def to_fits(self, path, *, overwrite=False):
        """Write DATA and STAT as a FITS cube, a few planes at a time.

        `musedeep.write_products` also takes over the keywords of the exposures; this is for cuts and trials.

        Parameters
        ----------
        path : path
        overwrite : bool
            Replace a file of that name.

        Returns
        -------
        Path

        Raises
        ------
        UsageError
            The file exists and `overwrite` is false.
        WorkError
            The disk is full or the folder cannot be written.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists; choose another name, or overwrite=True")
        grid, unit = self.grid, self._dataset.attrs.get("unit", "")
        wcs = grid.to_header()
        parts = [
            (extension_header(name, wcs, unit, "musedeep"), "f4", grid.shape) for name in ("DATA", "STAT")
        ]
        with FitsStream(path, type(wcs)(), parts) as stream:
            for start in range(0, grid.shape[0], _SLAB_PLANES):
                slab = self._dataset[["flux", "variance"]]
                slab = slab.isel(wavelength=slice(start, start + _SLAB_PLANES)).compute()
                stream.write(1, start, slab.flux.values)
                stream.write(2, start, slab.variance.values)
            stream.finish()
            stream.publish()
        return path
