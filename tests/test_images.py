import subprocess

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import Table
from cubes import UNIT, make_arrays, make_grid

from musedeep.errors import InputError
from musedeep.grid import VoxelGrid
from musedeep.images import WHITE, Filter, ImageSum, MapMean, collapse, extension_header, read_filters
from musedeep.simulate import simulate_exposures


def reference_image(flux, variance, throughput):
    """Spaxel by spaxel, in plain words."""
    image, noise = np.full(flux.shape[1:], np.nan), np.full(flux.shape[1:], np.nan)
    for y, x in np.ndindex(image.shape):
        used = np.isfinite(flux[:, y, x]) & (throughput != 0)
        weights = throughput[used]
        if used.any():
            image[y, x] = np.average(flux[used, y, x].astype("f8"), weights=weights)
            noise[y, x] = (weights**2 * variance[used, y, x]).sum() / weights.sum() ** 2
    return image, noise


def test_white_light_is_the_mean_between_4650_and_9300():
    grid = make_grid()
    arrays = make_arrays(grid)
    image, variance = collapse(arrays["flux"], arrays["variance"], grid.wavelengths)
    inside = ((grid.wavelengths >= 4650) & (grid.wavelengths <= 9300)).astype(float)
    assert 0 < inside.sum() < len(inside)
    expected, noise = reference_image(arrays["flux"], arrays["variance"], inside)
    np.testing.assert_allclose(image, expected, rtol=1e-6)
    np.testing.assert_allclose(variance, noise, rtol=1e-6)
    assert np.isnan(image[:3, :2]).all() and np.isfinite(image[3:]).all()
    assert image.dtype == variance.dtype == np.float32


def test_filter_image_is_weighted_by_the_throughput():
    grid = make_grid()
    arrays = make_arrays(grid)
    curve = Filter("v", np.array([4650.0, 4660.0, 4685.0]), np.array([0.0, 0.8, 0.1]))
    throughput = curve.throughput_at(grid.wavelengths)
    total = ImageSum(grid.shape[1:])
    for start in (0, 7, 23):
        planes = slice(start, {0: 7, 7: 23, 23: 40}[start])
        total.add(arrays["flux"][planes], arrays["variance"][planes], throughput[planes])
    for found, expected in zip(
        total.image(), reference_image(arrays["flux"], arrays["variance"], throughput), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_edges_of_white_belong_to_it():
    np.testing.assert_allclose(WHITE.throughput_at([4649.9, 4650, 7000, 9300, 9300.1]), [0, 1, 1, 1, 0])


def test_covered_percent():
    assert WHITE.covered_percent(np.arange(4600.0, 9400.0, 1.25)) == pytest.approx(100.0, abs=0.03)
    half = WHITE.covered_percent(np.arange(4650.0, 6975.0, 1.25))
    assert half == pytest.approx(50.0, abs=0.03)
    assert WHITE.covered_percent(np.arange(4000.0, 4600.0, 1.25)) == 0.0


def test_map_mean_passes_over_planes_without_data():
    values = np.zeros((4, 2, 2))
    values[0], values[3] = 100.0, [[300, 300], [300, 0]]
    total = MapMean((2, 2))
    total.add(values[:2], np.array([True, False]))
    total.add(values[2:], np.array([False, True]))
    np.testing.assert_array_equal(total.mean(), [[200, 200], [200, 50]])
    np.testing.assert_array_equal(total.total(), [[400, 400], [400, 100]])
    assert total.planes == 2
    np.testing.assert_array_equal(MapMean((1, 2)).mean(), [[0, 0]])


def write_filter_list(path, nodes=(5000.0, 5100.0, 5200.0)):
    table = fits.BinTableHDU(Table({"lambda": np.array(nodes, float), "throughput": [0.0, 0.5, 0.0]}))
    table.header["EXTNAME"], table.header["ZP_VEGA"] = "Johnson_v", 20.5
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)


def test_filters_are_read_from_fits(tmp_path):
    write_filter_list(tmp_path / "list.fits")
    curve, white = read_filters(["Johnson_v", "white"], tmp_path / "list.fits")
    assert white is WHITE
    assert (curve.name, curve.zp_vega, curve.zp_ab) == ("Johnson_v", 20.5, None)
    np.testing.assert_allclose(curve.throughput_at([4990, 5050, 5100, 5250]), [0, 0.25, 0.5, 0])


def test_filter_is_read_from_ecsv(tmp_path):
    table = Table({"lambda": [5000.0, 5100.0], "throughput": [0.2, 0.4]}, meta={"ZP_AB": 25.0})
    table.write(tmp_path / "halpha.ecsv")
    (curve,) = read_filters(["halpha"], tmp_path / "halpha.ecsv")
    assert (curve.name, curve.zp_ab) == ("halpha", 25.0)
    np.testing.assert_allclose(curve.throughput_at(5050), 0.3)


def test_unknown_filters_name_the_known_ones(tmp_path):
    write_filter_list(tmp_path / "list.fits")
    with pytest.raises(InputError, match=r"'R' not found: .*list\.fits has Johnson_v, white"):
        read_filters(["R"], tmp_path / "list.fits")
    with pytest.raises(InputError, match="no filter list was given"):
        read_filters(["R"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"lambda": [5000.0, 4900.0], "throughput": [1.0, 1.0]}, "must not decrease"),
        ({"lambda": [5000.0, 5100.0], "throughput": [0.0, 0.0]}, "not all 0"),
        ({"lambda": [5000.0, np.nan], "throughput": [1.0, 0.0]}, "must be finite"),
        ({"wave": [5000.0, 5100.0], "throughput": [1.0, 0.0]}, "lacks the column 'lambda'; it has wave"),
    ],
)
def test_bad_curves_are_refused(tmp_path, columns, message):
    Table(columns).write(tmp_path / "f.ecsv")
    with pytest.raises(InputError, match=message):
        read_filters(["f"], tmp_path / "f.ecsv")


def test_files_that_are_no_filter_list(tmp_path):
    (tmp_path / "f.fits").write_text("no FITS")
    (tmp_path / "f.ecsv").write_text("no table")
    for name in ("f.fits", "f.ecsv", "missing.fits"):
        with pytest.raises(InputError, match=f"cannot read the filter.*{name}"):
            read_filters(["f"], tmp_path / name)


def test_extension_headers():
    wcs = make_grid().to_header()
    data = extension_header("DATA", wcs, UNIT, "UDF")
    stat = extension_header("STAT", wcs, UNIT, "UDF")
    assert (data["ERRDATA"], data["HDUCLAS2"], data["HDUDOC"]) == ("STAT", "DATA", "SDP")
    assert (stat["SCIDATA"], stat["HDUCLAS3"]) == ("DATA", "MSE")
    assert data["BUNIT"] == "10**(-20)erg.s**(-1).cm**(-2).angstrom**(-1)"
    assert stat["BUNIT"] == "10**(-40)erg**2.s**(-2).cm**(-4).angstrom**(-2)"
    assert units.Unit(data["BUNIT"], format="fits") == units.Unit(UNIT, format="fits")
    assert units.Unit(stat["BUNIT"], format="fits") == units.Unit(UNIT, format="fits") ** 2
    counts = extension_header("STAT", wcs, "count", "UDF")
    assert counts["BUNIT"] == "(count)**2"
    assert data["OBJECT"] == "UDF (DATA)"
    assert data["CD3_3"] == 1.25 and data["CD1_3"] == 0 and data["CUNIT3"] == "Angstrom"
    flat = extension_header("DATA", wcs, "s", "UDF", axes=2, has_variance=False)
    assert not [key for key in flat if "3" in key] and flat["CD1_2"] == wcs["CD1_2"]
    assert "ERRDATA" not in flat


CURVES = {
    "inside": (np.linspace(6510.3, 6531.7, 30), 12.0),
    "below": (np.linspace(6480.0, 6530.0, 26), 9.0),
    "above": (np.linspace(6511.24, 6620.7, 40), 40.0),
}


@pytest.mark.esorex
def test_images_are_those_of_the_peer(tmp_path):
    """The collapse of muse_exp_combine, with curves that begin and end inside and outside of its cube."""
    tables = simulate_exposures(
        tmp_path,
        exposures=2,
        field_arcsec=4.0,
        wavelength=(6500.0, 6540.0),
        stars=2,
        galaxies=0,
        fov_images=False,
    )
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for name, (wavelength, width) in CURVES.items():
        throughput = np.exp(-0.5 * ((wavelength - 6505) / width) ** 2)
        hdus.append(fits.BinTableHDU(Table({"lambda": wavelength, "throughput": throughput})))
        hdus[-1].header["EXTNAME"] = name
    hdus.writeto(tmp_path / "filters.fits")
    frames = [f"{path} PIXTABLE_REDUCED" for path in tables] + [f"{tmp_path / 'filters.fits'} FILTER_LIST"]
    (tmp_path / "frames.sof").write_text("\n".join(frames) + "\n")
    names = ["white", *CURVES]
    command = [
        "esorex",
        f"--output-dir={tmp_path}",
        "muse_exp_combine",
        "--filter=" + ",".join(names),
        "frames.sof",
    ]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    with fits.open(tmp_path / "DATACUBE_FINAL.fits") as cube:
        wavelengths = VoxelGrid.from_header(cube["DATA"].header).wavelengths
        flux, variance = (cube[name].data.astype("f4") for name in ("DATA", "STAT"))
    for number, curve in enumerate(read_filters(names, tmp_path / "filters.fits"), 1):
        with fits.open(tmp_path / f"IMAGE_FOV_{number:04d}.fits") as peer:
            image, _ = collapse(flux, variance, wavelengths, curve)
            np.testing.assert_allclose(image, peer["DATA"].data, rtol=1e-6, equal_nan=True)
            fraction = peer[0].header["ESO DRS MUSE FILTER FRACTION"]
        assert curve.covered_percent(wavelengths) == pytest.approx(fraction, rel=1e-6)
