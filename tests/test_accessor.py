import gc
import warnings

import dask.array
import numpy as np
import pytest
import xarray
from astropy.io import fits
from cubes import UNIT, fitsverify, make_arrays, make_grid

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
    found = make_dataset(grid, arrays).muse.white_light(filter)
    assert dask.is_dask_collection(found.flux)
    wavelengths = grid.wavelengths if filter == "white" else np.full(len(grid.wavelengths), 7000.0)
    image, variance = collapse(arrays["flux"], arrays["variance"], wavelengths)
    np.testing.assert_allclose(found.flux.values, image, rtol=1e-6)
    np.testing.assert_allclose(found.variance.values, variance, rtol=1e-6)
    assert found.flux.attrs["units"] == UNIT and found.flux.dtype == np.float32


def test_white_light_outside_the_filter_is_empty():
    found = make_dataset(make_grid(start=4000.0)).muse.white_light()
    assert np.isnan(found.flux.values).all()


def test_spectrum_of_a_mask():
    grid = make_grid()
    arrays = make_arrays(grid)
    mask = np.zeros(grid.shape[1:], bool)
    mask[2:6, 1:5] = True
    dataset = make_dataset(grid, arrays)
    flux, variance = arrays["flux"][:, mask].astype("f8"), arrays["variance"][:, mask].astype("f8")
    count = np.isfinite(flux).sum(axis=1)
    total = dataset.muse.spectrum(mask)
    assert dask.is_dask_collection(total.flux)
    expected = np.where(count > 0, np.nansum(flux, axis=1), np.nan)
    np.testing.assert_allclose(total.flux.values, expected, rtol=1e-6)
    np.testing.assert_array_equal(total.voxel_count.values, count)
    mean = dataset.muse.spectrum(mask, how="mean")
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
    expected = dataset.muse.spectrum(mask)
    assert 10 < mask.sum() < 30
    np.testing.assert_array_equal(dataset.muse.spectrum(region=region).flux, expected.flux)
    part = dataset.isel(y=slice(1, 11), x=slice(2, 12))
    np.testing.assert_array_equal(part.muse.spectrum(region=region).flux, expected.flux)


def test_wrong_requests_for_a_spectrum():
    accessor = make_dataset(make_grid()).muse
    with pytest.raises(UsageError, match="not both"):
        accessor.spectrum(np.ones((11, 13)), region="icrs; circle(1, 2, 3)")
    with pytest.raises(UsageError, match=r"shape \(3, 3\), but the cube has \(11, 13\)"):
        accessor.spectrum(np.ones((3, 3)))
    with pytest.raises(UsageError, match="no spaxel"):
        accessor.spectrum(np.zeros((11, 13)))
    with pytest.raises(UsageError, match="'sum' or 'mean'"):
        accessor.spectrum(how="median")


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
