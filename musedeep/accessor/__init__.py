"""The ``.muse`` accessor of xarray: what one asks of a deep cube, whole or cut."""

import xarray

from musedeep.accessor.convert import as_mpdaf, as_spectrum, as_spectrum3d, write_cube
from musedeep.accessor.drawing import draw_cube
from musedeep.accessor.geometry import cut_around, grid_of, spaxels_of
from musedeep.accessor.sums import band_image, correlation_of, filter_image, region_spectrum
from musedeep.picture import cube_html
from musedeep.sky import degrees_of

__all__ = ["MuseAccessor"]


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

    def _repr_html_(self):
        return cube_html(self._dataset)

    # ------------------------------------------------------------------------------------------- geometry

    @property
    def grid(self):
        """The `VoxelGrid` of the dataset, cut or not.

        Raises
        ------
        InputError
            The dataset has no ``grid``, lost a dimension, or was cut unevenly.
        """
        return grid_of(self._dataset)

    @property
    def wcs(self):
        """World coordinates of the three axes, an `astropy.wcs.WCS`."""
        return self.grid.wcs

    @property
    def spatial_wcs(self):
        """World coordinates of an image of the cube, an `astropy.wcs.WCS`."""
        return self.grid.wcs.celestial

    @property
    def spectral_wcs(self):
        """World coordinates of a spectrum of the cube, an `astropy.wcs.WCS` (in metres, as astropy does)."""
        return self.grid.wcs.spectral

    def pixel(self, sky):
        """Place of a sky position: (x, y), 0-based, counted in this dataset; integers at voxel centres.

        Parameters
        ----------
        sky : SkyCoord or (float, float)
            RA and Dec, degrees.
        """
        x, y = self.grid.pixel(*degrees_of(sky))
        return float(x), float(y)

    def sky(self, x, y):
        """Sky position of a place in this dataset, an `astropy.coordinates.SkyCoord`.

        Parameters
        ----------
        x, y : float
            0-based, counted in this dataset.
        """
        from astropy.coordinates import SkyCoord

        return SkyCoord(*self.grid.position(x, y), unit="deg")

    def cutout(self, sky, size_arcsec, wavelength=None):
        """The part of the cube around a position.

        Parameters
        ----------
        sky : SkyCoord or (float, float)
            Its middle; RA and Dec, degrees.
        size_arcsec : float or (float, float)
            Width along x and height along y.
        wavelength : (float, float), optional
            Planes whose centres lie between these, Angstrom; all by default.

        Returns
        -------
        xarray.Dataset
            A cut, lazy where the cube is. At the edge of the cube it is smaller than asked for.

        Raises
        ------
        InputError
            No voxel of the cube lies there.
        """
        planes, y, x = cut_around(self.grid, sky, size_arcsec, wavelength)
        return self._dataset.isel(wavelength=planes, y=y, x=x)

    # ---------------------------------------------------------------------------------- images and spectra

    @property
    def correlation(self):
        """Correlation of the noise of neighbouring voxels, as `musedeep.correlation.measure_correlation`
        finds it from the rows of the field (some seconds at the first time); a dict.

        An attribute ``correlation`` of the dataset, a list of (planes, rows, columns, coefficient), takes
        precedence.
        """
        return correlation_of(self._dataset)

    def image(self, filter="white", *, filter_list=None, noise="correlated"):
        """Image through a filter.

        Parameters
        ----------
        filter : str
            "white" (4650 to 9300 Angstrom), "all" for every plane alike, or a name in `filter_list`.
        filter_list : path, optional
            Throughput curves, see `musedeep.images.read_filters`.
        noise : {"correlated", "naive"}
            Whether the variance takes into account that neighbouring planes share rows. The FITS products
            are naive.

        Returns
        -------
        xarray.Dataset
            flux and variance over (y, x), float32, lazy where the cube is; NaN without data.

        Raises
        ------
        InputError
            The filter is in no list.
        """
        return filter_image(self._dataset, self.grid.wavelengths, filter, filter_list, noise)

    def white_light(self, *, noise="correlated"):
        """`image` from 4650 to 9300 Angstrom."""
        return self.image("white", noise=noise)

    def narrow_band(self, wavelength, width_angstrom, *, continuum=None, noise="correlated"):
        """Mean of the planes around a wavelength, if asked less the continuum beside them.

        Parameters
        ----------
        wavelength, width_angstrom : float
            Middle and width of the band, Angstrom. Planes whose centres lie in it count.
        continuum : (float, float), optional
            The continuum is the mean of the planes between these distances from `wavelength`, on both sides,
            Angstrom.
        noise : {"correlated", "naive"}
            See `image`.

        Returns
        -------
        xarray.Dataset
            flux and variance over (y, x), float32; NaN where one of the planes has no data.

        Raises
        ------
        UsageError
            No plane lies in the band or in the continuum, or they overlap.
        """
        return band_image(self._dataset, self.grid, wavelength, width_angstrom, continuum, noise)

    def spectrum(self, region=None, *, how="sum", noise="correlated"):
        """Spectrum of some spaxels.

        Parameters
        ----------
        region : regions.Region, str or array_like of shape (ny, nx), optional
            The spaxels whose centres lie in a region of the package regions (on the sky or in pixels of this
            dataset), or in DS9's words as ``'icrs; circle(150.1, 2.2, 1.5")'``; or a mask of them. All by
            default.
        how : {"sum", "mean"}
            What is made of the spaxels.
        noise : {"correlated", "naive"}
            Whether the variance takes into account that neighbouring spaxels share rows. The sum of their
            variances alone is too small: by 30 % for 4 spaxels, by 50 % for 25 and more.

        Returns
        -------
        xarray.Dataset
            flux, variance and voxel_count over wavelength; lazy where the cube is. NaN where no spaxel has
            data; where some lack data, a sum lacks their flux. Planes next to each other are correlated too,
            see `correlation`.

        Raises
        ------
        UsageError
            `how` is unknown, the region cannot be read, or no spaxel is chosen.
        InputError
            The correlation is asked for and the field that the cube was made of is not there.
        """
        return region_spectrum(self._dataset, spaxels_of(self.grid, region), how, noise)

    def plot(self, region=None, *, filter="white", filter_list=None, noise="correlated"):
        """Draw the image of the cube and, of a region, its place and its spectrum with the noise.

        Parameters
        ----------
        region : regions.Region, str or array_like of shape (ny, nx), optional
            As for `spectrum`; the image alone without it.
        filter, filter_list
            As for `image`.
        noise : {"correlated", "naive"}
            As for `spectrum`.

        Returns
        -------
        matplotlib.figure.Figure
            One of `matplotlib.pyplot`, which a notebook shows.

        Raises
        ------
        UsageError, InputError
            As of `spectrum` and `image`.
        """
        return draw_cube(self._dataset, self.grid, region, filter, filter_list, noise)

    # ------------------------------------------------------------------------------------ to other packages

    def to_spectrum1d(self, region=None, *, how="sum", noise="correlated"):
        """`spectrum` as a `specutils.Spectrum` with its sigma.

        Raises
        ------
        UsageError
            The package specutils is not installed.
        """
        spectrum = self.spectrum(region, how=how, noise=noise)
        return as_spectrum(spectrum, self.grid, self._dataset.attrs.get("unit", ""))

    def to_spectrum3d(self):
        """The cube as a `specutils.Spectrum` with sigmas and world coordinates, in memory; jdaviz takes it.

        Raises
        ------
        UsageError
            The package specutils is not installed.
        """
        return as_spectrum3d(self._dataset, self.grid)

    def to_mpdaf(self):
        """The cube as a `mpdaf.obj.Cube`, in memory.

        Raises
        ------
        UsageError
            The package mpdaf is not installed.
        """
        return as_mpdaf(self._dataset, self.grid)

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
        return write_cube(self._dataset, self.grid, path, overwrite)
