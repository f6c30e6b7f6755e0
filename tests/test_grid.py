import dataclasses
import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from musedeep import VoxelGrid
from musedeep.errors import InputError
from musedeep.grid import air_to_vacuum, sky_frame, sky_vectors

STEP = 0.2 / 3600


def make_grid(shape=(5, 30, 40), crval=(10.0, -30.0), crpix=(20.3, 15.5), angle=0.0, **changes):
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    cd = ((-STEP * c, STEP * s), (STEP * s, STEP * c))
    return VoxelGrid(
        shape, crval, crpix, cd, **({"wavelength_start": 6500.3, "wavelength_step": 1.25} | changes)
    )


def numbers(grid):
    """Every number of a grid, in a row."""
    axis = grid.wavelength_start, grid.wavelength_step, grid.wavelength_crpix, grid.log, grid.vacuum
    return [*grid.shape, *grid.crval, *grid.crpix, *grid.cd[0], *grid.cd[1], *axis]


def sky_to_pixels(grid, ra, dec, frame):
    local = sky_vectors(ra, dec) @ frame
    x, y, w = grid.from_sky(frame) @ np.stack(
        [local[:, 0] / local[:, 2], local[:, 1] / local[:, 2], np.ones(len(local))]
    )
    return np.stack([x / w, y / w])


@pytest.mark.parametrize(
    ("crval", "angle"),
    [((10, -30), 0), ((10, -30), 25), ((0.001, 2), 0), ((359.999, 60), -70), ((200, 89.9), 10)],
)
def test_homography_agrees_with_wcslib(crval, angle):
    # The positions of ESO's own test of its projections: 19 pixels, 0.2 arcsec.
    grid = make_grid((1, 300, 300), crval, (156, 151), angle)
    rng = np.random.default_rng(3)
    pixels = rng.uniform(0, 299, (2, 19))
    ra, dec = WCS(grid.to_header(), naxis=2).all_pix2world(*pixels, 0)
    for frame in (sky_frame(*crval), sky_frame(crval[0] + 0.01, crval[1] - 0.02, 33)):
        np.testing.assert_allclose(sky_to_pixels(grid, ra, dec, frame), pixels, atol=2e-8)


def test_wcs_is_three_dimensional_and_agrees():
    grid = make_grid(log=True)
    ra, dec, wavelength = grid.wcs.all_pix2world(3.0, 4.0, np.arange(5), 0)
    np.testing.assert_allclose(wavelength * 1e10, grid.wavelengths, rtol=1e-12)
    x, y = sky_to_pixels(grid, ra[:1], dec[:1], sky_frame(10, -30))
    assert (x[0], y[0]) == pytest.approx((3, 4), abs=1e-8)
    assert grid.wcs.array_shape == grid.shape


@pytest.mark.parametrize("log", [False, True])
def test_planes_and_wavelengths_are_inverse(log):
    grid = make_grid((4000, 2, 2), wavelength_start=4750.0, wavelength_crpix=3.5, log=log)
    np.testing.assert_allclose(grid.plane_of(grid.wavelengths), np.arange(4000), atol=1e-9)
    np.testing.assert_allclose(grid.plane_of(grid.plane_edges), np.arange(4001) - 0.5, atol=1e-9)
    assert grid.plane_edges.shape == (4001,)
    assert grid.plane_of(4750.0) == 2.5
    steps = np.diff(grid.wavelengths)
    if log:
        np.testing.assert_allclose(np.diff(np.log(grid.wavelengths)), 1.25 / 4750, rtol=1e-9)
        assert steps[-1] > 2 * steps[0]
    else:
        np.testing.assert_allclose(steps, 1.25, rtol=1e-9)


def test_step_is_the_side_of_a_voxel_at_any_rotation():
    for angle in (0, 30, 90, 200):
        assert make_grid(angle=angle).step_arcsec == pytest.approx((0.2, 0.2), rel=1e-12)
    stretched = dataclasses.replace(make_grid(), cd=((-0.3 / 3600, 0), (0, 0.1 / 3600)))
    assert stretched.step_arcsec == pytest.approx((0.3, 0.1))


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("vacuum", [False, True])
def test_header_and_dict_keep_the_grid(log, vacuum):
    grid = make_grid(crval=(1 / 3, -np.pi), angle=12.3, log=log, vacuum=vacuum, wavelength_crpix=2.0)
    header = grid.to_header()
    assert header["CTYPE3"] == ("WAVE" if vacuum else "AWAV") + ("-LOG" if log else "")
    assert header["CUNIT3"] == "Angstrom"
    assert "WCSAXES" not in header
    assert [header[f"CD{name}"] for name in ("1_3", "2_3", "3_1", "3_2")] == [0, 0, 0, 0]
    text = fits.Header.fromstring(header.tostring())
    assert VoxelGrid.from_header(header, shape=grid.shape) == grid
    np.testing.assert_allclose(
        numbers(VoxelGrid.from_header(text, shape=grid.shape)), numbers(grid), rtol=1e-13
    )
    assert VoxelGrid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid
    assert hash(VoxelGrid.from_dict(grid.to_dict())) == hash(grid)


def write_cube(path, grid, primary=None):
    cube = fits.ImageHDU(np.zeros(grid.shape, np.float32), header=grid.to_header(), name="DATA")
    fits.HDUList([primary or fits.PrimaryHDU(), cube]).writeto(path)
    return path


def test_grid_of_a_cube_file(tmp_path):
    grid = make_grid(angle=30)
    found = VoxelGrid.from_file(write_cube(tmp_path / "cube.fits", grid))
    np.testing.assert_allclose(numbers(found), numbers(grid), rtol=1e-13)


def test_units_and_pc_matrix_are_understood():
    grid = make_grid(angle=30)
    header = grid.to_header()
    for name in ("1_1", "1_2", "2_1", "2_2"):
        header[f"PC{name}"] = header.pop(f"CD{name}") / STEP
    for name in ("3_3", "1_3", "2_3", "3_1", "3_2"):
        del header[f"CD{name}"]
    header["CDELT1"], header["CDELT2"], header["CDELT3"] = STEP, STEP, 1.25e-10
    header["CRVAL3"], header["CUNIT3"] = 6500.3e-10, "m"
    found = VoxelGrid.from_header(header, shape=grid.shape)
    np.testing.assert_allclose(found.cd, grid.cd, rtol=1e-13)
    assert (found.wavelength_start, found.wavelength_step) == pytest.approx((6500.3, 1.25), rel=1e-14)


def test_an_image_takes_its_wavelengths_from_the_default(tmp_path):
    default = make_grid((7, 3, 3), crval=(11, 12), log=True)
    header = make_grid().to_header()
    for name in ("CTYPE3", "CUNIT3", "CRVAL3", "CRPIX3", "CD3_3", "CD1_3", "CD2_3", "CD3_1", "CD3_2"):
        del header[name]
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(np.zeros((30, 40), np.float32), header=header).writeto(path)
    found = VoxelGrid.from_file(path, default=default)
    assert (found.shape, found.crval, found.log) == ((7, 30, 40), (10.0, -30.0), True)
    np.testing.assert_array_equal(found.wavelengths, default.wavelengths)
    with pytest.raises(InputError, match=r"image\.fits.*wavelengths are unknown"):
        VoxelGrid.from_file(path)


def test_a_header_without_lengths_takes_them_from_the_default(tmp_path):
    path = tmp_path / "header.fits"
    fits.PrimaryHDU(header=make_grid().to_header()).writeto(path)
    assert VoxelGrid.from_file(path, default=make_grid((7, 8, 9))).shape == (7, 8, 9)
    with pytest.raises(InputError, match="NAXIS3 is missing"):
        VoxelGrid.from_file(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CTYPE1": "RA---SIN"}, "RA---SIN"),
        ({"CTYPE3": "VELO"}, "'VELO'"),
        ({"CUNIT3": "Hz"}, "'Hz'"),
        ({"CRVAL3": 0.5}, "cannot be an optical wavelength"),
        ({"CRVAL1": "ten"}, "CRVAL1 is 'ten'"),
        ({"CD1_3": 1e-5}, "mixes sky and wavelength"),
        ({"CD2_2": 0.0}, "singular"),
        ({"CD3_3": -1.25}, "above 0 Angstrom"),
    ],
)
def test_an_unusable_header_is_refused(changes, message):
    header = make_grid().to_header()
    header.update(changes)
    with pytest.raises(InputError, match=message):
        VoxelGrid.from_header(header, shape=(5, 30, 40))


def test_a_file_without_a_gnomonic_image_is_refused(tmp_path):
    path = tmp_path / "other.fits"
    fits.PrimaryHDU(np.zeros((3, 3), np.float32)).writeto(path)
    with pytest.raises(InputError, match=r"other\.fits.*none of its 1 HDUs"):
        VoxelGrid.from_file(path)
    path = tmp_path / "text.fits"
    path.write_text("no FITS")
    with pytest.raises(InputError, match=r"text\.fits: cannot be read"):
        VoxelGrid.from_file(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (0, 3, 3)}, "shape is"),
        ({"crval": (np.nan, 0)}, "not finite"),
        ({"cd": ((1, 2), (2, 4))}, "singular"),
        ({"wavelength_step": 0.0}, "above 0"),
    ],
)
def test_an_impossible_grid_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(make_grid(), **changes)


def test_air_to_vacuum_agrees_with_known_lines():
    # H-alpha, [O III] and Ca II triplet in air and in vacuum, from the NIST atomic spectra database.
    air = np.array([6562.79, 5006.843, 8542.09])
    vacuum = np.array([6564.60, 5008.240, 8544.44])
    np.testing.assert_allclose(air_to_vacuum(air), vacuum, atol=0.006)


def test_pixel_is_the_inverse_of_position():
    grid = VoxelGrid(
        shape=(10, 11, 13),
        crval=(0.001, -27.8),
        crpix=(5.5, 6.25),
        cd=((-5.5e-5, 1e-6), (1e-6, 5.6e-5)),
        wavelength_start=4750.0,
        wavelength_step=1.25,
    )
    for x, y in ((0.0, 0.0), (12.3, 4.0), (-40.0, 7.5)):
        np.testing.assert_allclose(grid.pixel(*grid.position(x, y)), (x, y), rtol=0, atol=1e-8)
    ra, dec = np.array([[0.001, 359.999], [0.0005, 180.0]]), np.array([[-27.8, -27.8], [-27.801, 27.8]])
    x, y = grid.pixel(ra, dec)
    assert x.shape == (2, 2) and x[0, 0] == pytest.approx(4.5) and y[0, 0] == pytest.approx(5.25)
    assert np.isnan(x[1, 1]), "the other side of the sky"
