import gc
import warnings

import dask.array
import numpy as np
import pytest
import xarray
from astropy.io import fits
from cubes import UNIT, fitsverify, make_arrays, make_grid
from regions import CirclePixelRegion, PixCoord, RectanglePixelRegion, Regions

import musedeep.accessor  # noqa: F401  (registers .muse)
from musedeep.errors import InputError, UsageError
from musedeep.grid import VoxelGrid
from musedeep.images import collapse


def make_dataset(grid, arrays=None):
    """A lazy cube as open_cube gives it."""
    arrays = arrays or make_arrays(grid)
    return xarray.Dataset(
        {
            name: (("wavelength", "y", "x"), dask.array.from_array(values, chunks=(16, 8, 8)))
            for name, values in arrays.items()
        },
        coords={"wavelength": grid.wavelengths, "y": np.arange(grid.shape[1]), "x": np.arange(grid.shape[2])},
        attrs={"grid": grid.to_dict(), "unit": UNIT},
    )


def sky(grid, k, j, i):
    return np.array(grid.wcs.all_pix2world(i, j, k, 0))


@pytest.mark.parametrize("options", [{}, {"log": True}])
def test_a_cut_keeps_its_place_on_the_sky_and_in_wavelength(options):
    whole = make_grid(**options)
    dataset = make_dataset(whole)
    assert dataset.muse.grid == whole
    part = dataset.isel(wavelength=slice(5, 30), y=slice(2, 9), x=slice(4, 12)).muse
    assert part.grid.shape == (25, 7, 8)
    np.testing.assert_allclose(sky(part.grid, 3, 1, 2), sky(whole, 8, 3, 6), rtol=1e-12)
    np.testing.assert_allclose(part.grid.wavelengths, whole.wavelengths[5:30], rtol=1e-13)
    coarse = dataset.isel(wavelength=slice(1, None, 3), y=slice(1, None, 2), x=slice(0, None, 4)).muse
    np.testing.assert_allclose(sky(coarse.grid, 4, 2, 1), sky(whole, 13, 5, 4), rtol=1e-12)
    np.testing.assert_allclose(coarse.grid.wavelengths, whole.wavelengths[1::3], rtol=1e-13)
    assert part.wcs.array_shape == (25, 7, 8)


def test_cuts_that_cannot_be_placed_are_refused():
    dataset = make_dataset(make_grid())
    with pytest.raises(InputError, match="lost its dimension 'x'; cut with a slice"):
        _ = dataset.isel(x=3).muse.grid
    with pytest.raises(InputError, match="not evenly cut along 'y'"):
        _ = dataset.isel(y=[0, 1, 3]).muse.grid
    with pytest.raises(InputError, match="not evenly cut along 'x'"):
        _ = dataset.isel(x=slice(None, None, -1)).muse.grid
    with pytest.raises(InputError, match="cut along 'x' and has no coordinate"):
        _ = dataset.drop_vars("x").isel(x=slice(3, 6)).muse.grid
    with pytest.raises(InputError, match="no attribute 'grid'"):
        _ = dataset.drop_attrs().muse.grid
    assert dataset.drop_vars("x").muse.grid == make_grid()


@pytest.mark.parametrize("filter", ["white", "all"])
def test_white_light_is_lazy_and_equals_the_product(filter):
    grid = make_grid()
    arrays = make_arrays(grid)
    found = make_dataset(grid, arrays).muse.image(filter, noise="naive")
    assert dask.is_dask_collection(found.flux)
    wavelengths = grid.wavelengths if filter == "white" else np.full(len(grid.wavelengths), 7000.0)
    image, variance = collapse(arrays["flux"], arrays["variance"], wavelengths)
    np.testing.assert_allclose(found.flux.values, image, rtol=1e-6)
    np.testing.assert_allclose(found.variance.values, variance, rtol=1e-6)
    assert found.flux.attrs["units"] == UNIT and found.flux.dtype == np.float32


def test_white_light_outside_the_filter_is_empty():
    found = make_dataset(make_grid(start=4000.0)).muse.white_light(noise="naive")
    assert np.isnan(found.flux.values).all()


def test_spectrum_of_a_mask():
    grid = make_grid()
    arrays = make_arrays(grid)
    mask = np.zeros(grid.shape[1:], bool)
    mask[2:6, 1:5] = True
    dataset = make_dataset(grid, arrays)
    flux, variance = arrays["flux"][:, mask].astype("f8"), arrays["variance"][:, mask].astype("f8")
    count = np.isfinite(flux).sum(axis=1)
    total = dataset.muse.spectrum(mask, noise="naive")
    assert dask.is_dask_collection(total.flux)
    expected = np.where(count > 0, np.nansum(flux, axis=1), np.nan)
    np.testing.assert_allclose(total.flux.values, expected, rtol=1e-6)
    np.testing.assert_array_equal(total.voxel_count.values, count)
    mean = dataset.muse.spectrum(mask, how="mean", noise="naive")
    seen = count > 0
    np.testing.assert_allclose(mean.flux.values[seen], (expected / np.maximum(count, 1))[seen], rtol=1e-6)
    noise = np.nansum(variance, axis=1) / np.maximum(count, 1) ** 2
    np.testing.assert_allclose(mean.variance.values[seen], noise[seen], rtol=1e-6)
    assert np.isnan(total.flux.values[20]), "plane 20 is empty"


def test_spectrum_of_a_region_follows_the_cut():
    grid = make_grid()
    dataset = make_dataset(grid)
    ra, dec = grid.wcs.celestial.all_pix2world(6, 5, 0)
    region = f'icrs; circle({ra:.8f}, {dec:.8f}, 0.45")'
    y, x = np.indices(grid.shape[1:])
    mask = np.hypot((x - 6) * 0.198, (y - 5) * 0.2016) < 0.45
    expected = dataset.muse.spectrum(mask, noise="naive")
    assert 10 < mask.sum() < 30
    np.testing.assert_array_equal(dataset.muse.spectrum(region, noise="naive").flux, expected.flux)
    part = dataset.isel(y=slice(1, 11), x=slice(2, 12))
    np.testing.assert_array_equal(part.muse.spectrum(region, noise="naive").flux, expected.flux)


def test_regions_of_the_package_regions_count_too():
    grid = make_grid()
    dataset = make_dataset(grid)
    y, x = np.indices(grid.shape[1:])
    round_one, square = np.hypot(x - 6, y - 5) < 2.2, (abs(x - 3) <= 1) & (abs(y - 8) <= 1)
    expected = dataset.muse.spectrum(round_one, noise="naive")
    circle = CirclePixelRegion(PixCoord(6, 5), 2.2)
    found = dataset.muse.spectrum(circle, noise="naive")
    np.testing.assert_array_equal(found.flux, expected.flux)
    both = Regions([circle.to_sky(dataset.muse.spatial_wcs), RectanglePixelRegion(PixCoord(3, 8), 3, 3)])
    found = dataset.muse.spectrum(both, noise="naive")
    expected = dataset.muse.spectrum(round_one | square, noise="naive")
    np.testing.assert_array_equal(found.flux, expected.flux)


def test_positions_and_cutouts():
    grid = make_grid()
    dataset = make_dataset(grid)
    place = dataset.muse.sky(6.0, 5.0)
    assert dataset.muse.pixel(place) == pytest.approx((6, 5), abs=1e-7)
    cut = dataset.muse.cutout(place, (1.0, 0.6), wavelength=(4650.0, 4660.0))
    assert list(cut.x.values) == [4, 5, 6, 7, 8] and list(cut.y.values) == [4, 5, 6]
    assert 4650.0 <= cut.wavelength.values[0] < 4651.25 and 4658.75 < cut.wavelength.values[-1] <= 4660.0
    assert cut.muse.pixel(place) == pytest.approx((2, 1), abs=1e-7)
    np.testing.assert_array_equal(cut.flux.values, dataset.flux.values[8:17, 4:7, 4:9])
    assert dask.is_dask_collection(cut.flux)
    corner = dataset.muse.cutout((place.ra.deg, place.dec.deg), 100.0)
    assert corner.sizes == dataset.sizes
    assert dataset.muse.cutout(place, 0.01).sizes["x"] == 1
    with pytest.raises(InputError, match="holds no voxel of this cube"):
        dataset.muse.cutout((10.0, -27.0), 1.0)
    with pytest.raises(InputError, match="from 7000 to 7010 Angstrom holds no voxel"):
        dataset.muse.cutout(place, 1.0, wavelength=(7000, 7010))
    with pytest.raises(UsageError, match="one or two lengths"):
        dataset.muse.cutout(place, -1.0)


def test_world_coordinates_of_an_image_and_of_a_spectrum():
    grid = make_grid()
    accessor = make_dataset(grid).muse
    ra, dec = accessor.spatial_wcs.all_pix2world(4, 7, 0)
    assert grid.position(4, 7) == pytest.approx((float(ra), float(dec)), abs=1e-9)
    np.testing.assert_allclose(accessor.spectral_wcs.all_pix2world([3], 0)[0] * 1e10, grid.wavelengths[3])


def test_a_narrow_band_less_its_continuum():
    grid = make_grid(shape=(60, 11, 13), start=6500.0)
    arrays = make_arrays(grid)
    dataset = make_dataset(grid, arrays)
    found = dataset.muse.narrow_band(6530.0, 7.5, continuum=(10.0, 20.0), noise="naive")
    far = np.abs(grid.wavelengths - 6530.0)
    line, beside = far <= 3.75, (far >= 10.0) & (far <= 20.0)
    flux, variance = arrays["flux"].astype(float), arrays["variance"].astype(float)
    expected = flux[line].mean(axis=0) - flux[beside].mean(axis=0)  # NaN where a plane lacks data
    np.testing.assert_allclose(found.flux, expected, rtol=1e-5, atol=1e-5)
    noise = variance[line].sum(axis=0) / line.sum() ** 2 + variance[beside].sum(axis=0) / beside.sum() ** 2
    np.testing.assert_allclose(found.variance, np.where(np.isnan(expected), np.nan, noise), rtol=1e-5)
    assert np.isfinite(expected).any() and np.isnan(expected).any()
    plain = dataset.muse.narrow_band(6530.0, 7.5, noise="naive")
    np.testing.assert_allclose(plain.flux, flux[line].mean(axis=0), rtol=1e-5)
    with pytest.raises(UsageError, match="no plane lies within"):
        dataset.muse.narrow_band(7000.0, 5.0)
    with pytest.raises(UsageError, match="planes of the band"):
        dataset.muse.narrow_band(6530.0, 7.5, continuum=(2.0, 9.0), noise="naive")


def test_a_given_correlation_widens_the_noise():
    grid = make_grid()
    arrays = make_arrays(grid) | {"variance": np.full(grid.shape, 4.0, "f4")}
    arrays["flux"][:] = 1.0
    dataset = make_dataset(grid, arrays).assign_attrs(
        correlation=[[0, 0, 1, 0.25], [0, 1, 0, 0.1], [1, 0, 0, 0.2]]
    )
    mask = np.zeros(grid.shape[1:], bool)
    mask[2, 3:5] = mask[3, 4] = True
    spectrum = dataset.muse.spectrum(mask)
    np.testing.assert_allclose(spectrum.variance, 4.0 * (3 + 2 * 0.25 + 2 * 0.1), rtol=1e-6)
    mean = dataset.muse.spectrum(mask, how="mean")
    np.testing.assert_allclose(mean.variance, spectrum.variance / 9, rtol=1e-6)
    band = dataset.muse.narrow_band(float(grid.wavelengths[10]), 3.0)
    np.testing.assert_allclose(band.variance, 4.0 * (3 + 2 * 2 * 0.2) / 9, rtol=1e-6)
    assert band.attrs["noise"] == "correlated"
    with pytest.raises(UsageError, match="only every 2th voxel along 'x'"):
        dataset.isel(x=slice(None, None, 2)).muse.spectrum()


def test_to_spectrum1d():
    grid = make_grid()
    dataset = make_dataset(grid).assign_attrs(correlation=[])
    mask = np.zeros(grid.shape[1:], bool)
    mask[2:6, 3:7] = True
    expected = dataset.muse.spectrum(mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of specutils on import
        spectrum = dataset.muse.to_spectrum1d(mask)
    np.testing.assert_allclose(spectrum.spectral_axis.to_value("Angstrom"), grid.wavelengths)
    np.testing.assert_array_equal(spectrum.flux.value, expected.flux.values)
    np.testing.assert_allclose(spectrum.uncertainty.array**2, expected.variance.values, rtol=1e-12)
    assert spectrum.mask[20] and not spectrum.mask[3] and spectrum.flux.unit.scale == 1e-20
    assert spectrum.meta["medium"] == "air"


def test_to_spectrum3d():
    grid = make_grid()
    dataset = make_dataset(grid).isel(y=slice(2, 9), wavelength=slice(1, 30))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of specutils on import
        cube = dataset.muse.to_spectrum3d()
    np.testing.assert_array_equal(cube.flux.value, dataset.flux.values)
    np.testing.assert_allclose(cube.uncertainty.array**2, dataset.variance.values, rtol=1e-12)
    np.testing.assert_allclose(cube.spectral_axis.to_value("Angstrom"), grid.wavelengths[1:30])
    place = cube.wcs.celestial.all_pix2world(4, 3, 0)
    np.testing.assert_allclose(place, grid.wcs.celestial.all_pix2world(4, 5, 0), rtol=0, atol=1e-9)


def test_wrong_requests_for_a_spectrum():
    accessor = make_dataset(make_grid()).muse
    with pytest.raises(UsageError, match=r"shape \(3, 3\), but the cube has \(11, 13\)"):
        accessor.spectrum(np.ones((3, 3)))
    with pytest.raises(UsageError, match="no spaxel"):
        accessor.spectrum(np.zeros((11, 13)))
    with pytest.raises(UsageError, match="'sum' or 'mean'"):
        accessor.spectrum(how="median", noise="naive")
    with pytest.raises(UsageError, match="'correlated' or 'naive'"):
        accessor.spectrum(noise="none")
    with pytest.raises(UsageError, match="cannot be read as a DS9 region"):
        accessor.spectrum("icrs; sphere(1, 2, 3)")
    with pytest.raises(InputError, match="does not tell of which field it is"):
        accessor.spectrum()


def test_to_mpdaf():
    grid = make_grid()
    dataset = make_dataset(grid).isel(wavelength=slice(2, 20), x=slice(3, 11))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MPDAF's own
        cube = dataset.muse.to_mpdaf()
        gc.collect()
    np.testing.assert_array_equal(cube.data.filled(np.nan), dataset.flux.values)
    np.testing.assert_array_equal(cube.var.filled(np.nan), dataset.variance.values)
    np.testing.assert_allclose(cube.wave.coord(), grid.wavelengths[2:20])
    position = cube.wcs.pix2sky([4, 1])[0][::-1]
    np.testing.assert_allclose(position, grid.wcs.celestial.all_pix2world(4, 4, 0), rtol=0, atol=1e-9)
    assert cube.unit.scale == 1e-20


def test_to_fits(tmp_path):
    dataset = make_dataset(make_grid()).isel(wavelength=slice(1, 38), x=slice(3, 11))
    path = dataset.muse.to_fits(tmp_path / "cut.fits")
    with fits.open(path, checksum=True) as hdus:
        np.testing.assert_array_equal(hdus["DATA"].data, dataset.flux.values)
        np.testing.assert_array_equal(hdus["STAT"].data, dataset.variance.values)
        assert VoxelGrid.from_header(hdus["DATA"].header) == dataset.muse.grid
    assert fitsverify(path).strip() == f"verification OK: {path}"
    with pytest.raises(UsageError, match=r"cut\.fits exists"):
        dataset.muse.to_fits(path)
    dataset.isel(y=slice(0, 4)).muse.to_fits(path, overwrite=True)
    assert fits.getheader(path, "DATA")["NAXIS2"] == 4


def test_plot_draws_the_image_and_the_spectrum_of_a_region():
    from matplotlib import pyplot

    dataset = make_dataset(make_grid())
    chosen = np.zeros(dataset.flux.shape[1:], bool)
    chosen[3:6, 4:8] = True
    figure = dataset.muse.plot(chosen, filter="all", noise="naive")
    image, spectrum = figure.axes
    drawn = image.images[0].get_array()
    known = np.isfinite(dataset.muse.image("all", noise="naive").flux.values)
    np.testing.assert_array_equal(~np.ma.getmaskarray(drawn), known)
    told = dataset.muse.spectrum(chosen, noise="naive")
    np.testing.assert_allclose(spectrum.lines[0].get_ydata(), told.flux.values)
    assert "Å" in spectrum.get_ylabel()
    alone = dataset.muse.plot(filter="all")
    assert len(alone.axes) == 1
    pyplot.close("all")
