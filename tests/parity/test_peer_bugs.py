"""Where the recipe is known to be wrong: musedeep does the right thing, each with the reason."""

import dataclasses

import numpy as np
import pytest
import reference
from fields import ingested, maps_of, stored_rows
from parity.peer import disagreement, write_output_wcs

from musedeep import simulate_exposures

pytestmark = pytest.mark.esorex

STEP = 0.2 / 3600


def rows_and_step(ours, **settings):
    """All rows on the field's grid, and the sides of the instrument's pixels in degrees."""
    rows, recipe = stored_rows(ours.changed(**settings), flagged=True)
    sides = zip(recipe.method.pixel, recipe.grid.step_arcsec, strict=False)
    return rows, recipe.grid, [voxels * arcsec / 3600 for voxels, arcsec in sides]


def number_of_rows(rows, shape):
    """How many rows each voxel holds, flagged ones too."""
    cells = reference.cells_of(rows, shape, clamp=True)
    return np.bincount(np.ravel_multi_index(cells.T, shape), minlength=np.prod(shape)).reshape(shape)


def test_nearest_takes_the_nearest_row(peer, ours):
    """The recipe adds the zero point of RA and Dec where it should be taken off: it takes any row of the
    voxel.

    Where a voxel holds one row alone there is nothing to choose, and both agree. It also copies a bad row if
    that is the one it takes, and leaves the voxel empty; a bad row is no row here.
    """
    theirs = peer.combine("--resample=nearest", "--crsigma=0")
    _, maps = ours.combine(resample="nearest", reject="none")
    rows, grid, step_deg = rows_and_step(ours)
    data, variance = reference.resample(rows, grid, rows.dq == 0, "nearest", step_deg=step_deg)
    np.testing.assert_array_equal(maps["flux"], data)
    np.testing.assert_array_equal(maps["variance"], variance)
    count = number_of_rows(rows, grid.shape)
    alone, several = count == 1, count > 1
    assert min(alone.sum(), several.sum()) > 1000
    # a row may lie so close to a border that the last digit of its position decides
    same = (data == theirs.data) | (np.isnan(data) & np.isnan(theirs.data))
    assert same[alone].mean() > 0.999
    assert np.isnan(data[alone]).sum() > 10
    assert 0.1 < same[several].mean() < 0.9


def test_renka_has_a_variance_where_all_rows_are_far(peer, ours, monkeypatch):
    """Beyond its radius the recipe gives rows the smallest weight there is, whose square is 0: the variance
    is 0/0.

    The mean it takes there is the plain one of these rows; so the variance is that of a plain mean.
    """
    theirs = peer.combine("--resample=renka", "--rc=0.5", "--crsigma=0")
    _, maps = ours.combine(resample="renka", rc=0.5, crsigma=0)
    rows, grid, step_deg = rows_and_step(ours, crsigma=0)
    far = np.isnan(theirs.variance) & ~np.isnan(theirs.data)
    assert far.sum() > 1000
    monkeypatch.setitem(reference.KERNELS, "plain", lambda dx, *_, **__: np.ones(len(dx)))
    data, variance = reference.resample(rows, grid, rows.dq == 0, "plain", step_deg=step_deg)
    np.testing.assert_allclose(maps["flux"][far], data[far], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(maps["variance"][far], variance[far], rtol=1e-5)
    assert (np.abs(maps["flux"][far] - theirs.data[far]) < 1e-3 * np.sqrt(variance[far])).mean() > 0.999


def turned(grid, angle_deg, **changes):
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return dataclasses.replace(grid, cd=((-STEP * c, STEP * s), (STEP * s, STEP * c)), **changes)


@pytest.mark.parametrize("reject", ["none", "guarded"])
def test_a_grid_turned_by_90_degrees_gives_the_turned_cube(peer, ours, tmp_path, reject):
    """The recipe takes |CD1_1| for the width of a voxel, which is 0 here, and nothing is left of the cube."""
    north, maps = ours.combine(reject=reject)
    nz, ny, nx = north.shape
    east = turned(north, 90.0, shape=(nz, nx, ny), crpix=(north.crpix[1], nx + 1 - north.crpix[0]))
    path = write_output_wcs(tmp_path / "wcs.fits", east)
    _, found = ours.combine(grid=str(path), reject=reject)
    for name, values in maps.items():
        wanted = values[:, :, ::-1].swapaxes(1, 2)
        # The pixels of the instrument are no squares: their sides, 2e-4 apart, have changed places.
        same = np.isclose(found[name], wanted, rtol=2e-3, atol=0.02, equal_nan=True)
        assert same.mean() > 0.999, name
    if reject == "none":
        theirs = peer.combine("--crsigma=0", output_wcs=path)
        assert np.isnan(theirs.data).mean() > np.isnan(found["flux"]).mean() + 0.1


def test_a_grid_turned_by_any_angle_has_boxes_along_its_axes(peer, ours, tmp_path):
    """The recipe measures distances along RA and Dec, and takes |CD1_1|, |CD2_2| for the sides of a voxel."""
    north, _ = ours.combine(reject="none")
    nz, ny, nx = north.shape
    grid = turned(north, 30.0, shape=(nz, ny + 26, nx + 26), crpix=(nx / 2 + 13.2, ny / 2 + 13.4))
    path = write_output_wcs(tmp_path / "wcs.fits", grid)
    for method, settings in (("drizzle", {}), ("renka", {"resample": "renka"})):
        _, maps = ours.combine(grid=str(path), reject="none", **settings)
        rows, grid, step_deg = rows_and_step(ours, grid=str(path), reject="none", **settings)
        data, variance = reference.resample(rows, grid, rows.dq == 0, method, step_deg=step_deg)
        assert np.array_equal(np.isnan(maps["flux"]), np.isnan(data))
        excess = np.abs(maps["flux"] - data) / np.sqrt(variance)
        assert np.nanpercentile(excess, 99.9) < 1e-3
        assert np.nanpercentile(np.abs(maps["variance"] / variance - 1), 99.9) < 1e-4
        if method == "drizzle":
            theirs = peer.combine("--crsigma=0", output_wcs=path)
            assert disagreement(maps["flux"], maps["variance"], theirs).data > 0.5


def test_a_fractional_reference_plane_of_a_logarithmic_axis_is_obeyed(peer, ours, tmp_path):
    """The recipe rounds to a plane before it adds CRPIX3 and cuts the fraction off after it.

    The same planes can be said with a whole CRPIX3, and then it agrees.
    """
    whole, _ = ours.combine()
    planes = {"shape": (40, *whole.shape[1:]), "log": True}
    split = dataclasses.replace(
        whole, **planes, wavelength_start=6500.3217, wavelength_step=0.78125, wavelength_crpix=2.6
    )
    start = float(split.wavelength_at(2.0))
    step = split.wavelength_step * start / split.wavelength_start
    same = dataclasses.replace(
        whole, **planes, wavelength_start=start, wavelength_step=step, wavelength_crpix=3.0
    )
    np.testing.assert_allclose(same.wavelengths, split.wavelengths, rtol=1e-14)
    maps, cubes = [], []
    for name, grid in (("split", split), ("same", same)):
        path = write_output_wcs(tmp_path / f"{name}.fits", grid)
        maps.append(ours.combine(grid=str(path))[1])
        cubes.append(peer.combine(output_wcs=path))
    np.testing.assert_allclose(maps[0]["flux"], maps[1]["flux"], rtol=1e-4, atol=1e-2)
    for found in maps:
        assert disagreement(found["flux"], found["variance"], cubes[0]).data > 0.1
        assert disagreement(found["flux"], found["variance"], cubes[1]).data < 1e-3


@pytest.mark.parametrize("reject", ["none", "guarded", "eso"])
def test_a_cut_out_is_cut_out_of_the_cube(peer, ours, tmp_path, reject):
    """The recipe moves all rows outside the grid into the cells of its edge, and mixes them with those that
    belong there.

    A voxel does not depend on where the grid ends.
    """
    whole, maps = ours.combine(reject=reject)
    cut = (slice(6, 15), slice(14, 45), slice(15, 48))
    small = dataclasses.replace(
        whole,
        shape=(9, 31, 33),
        crpix=(whole.crpix[0] - 15, whole.crpix[1] - 14),
        wavelength_crpix=whole.wavelength_crpix - 6,
    )
    path = write_output_wcs(tmp_path / "wcs.fits", small)
    _, found = ours.combine(grid=str(path), reject=reject)
    for name, values in maps.items():
        np.testing.assert_allclose(found[name], values[cut], rtol=1e-4, atol=1e-2, err_msg=name)
    if reject == "none":
        theirs, of_whole = (
            peer.combine("--resample=linear", "--crsigma=0", output_wcs=p) for p in (path, None)
        )
        edge = np.abs(theirs.data - of_whole.data[cut])[:, 0] > 0.1 * np.sqrt(theirs.variance[:, 0])
        assert edge.mean() > 0.3


def test_a_field_across_0h_is_as_good_as_any(tmp_path):
    """The recipe subtracts right ascensions and makes a cube of 360 degrees; it is not even tried here."""
    cubes = []
    for ra in (0.0, 120.0):
        folder = tmp_path / f"{ra:g}"
        paths = simulate_exposures(
            folder / "sim",
            exposures=3,
            seed=5,
            field_arcsec=5.0,
            wavelength=(6500.0, 6510.0),
            ra_deg=ra,
            dec_deg=-12.8,
            pointing_error_arcsec=0.5,
            fov_images=False,
        )
        field = ingested(paths, folder / "field", offsets=str(folder / "sim" / "OFFSET_LIST.fits"))
        cubes.append(maps_of(field))
    there, elsewhere = (cube["flux"] for cube in cubes)
    assert there.shape == elsewhere.shape
    assert np.isfinite(there).mean() > 0.5
    assert np.mean(np.isnan(there) == np.isnan(elsewhere)) > 0.999
    sigma = np.sqrt(cubes[1]["variance"])
    assert np.nanpercentile(np.abs(there - elsewhere) / sigma, 99) < 0.05
