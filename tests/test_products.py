import gc
import os
import tracemalloc
import warnings

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS
from cubes import (
    UNIT,
    StandInExposure,
    exposure_header,
    fitsverify,
    make_arrays,
    make_field,
    make_grid,
    names_in,
)
from test_images import reference_image, write_filter_list

from musedeep.depth import measure_depth
from musedeep.errors import InputError, UsageError, WorkError
from musedeep.grid import VoxelGrid
from musedeep.names import plot_name
from musedeep.products import associate_files, product_notes, write_products
from musedeep.store import CubeStore, Ledger

NAMES = ["DATACUBE_DEEP", "IMAGE_FOV_DEEP", "EXPOSURE_MAP", "EXPOSURE_COUNT", "REJECTED_MAP", "DEPTH_MAP"]
EXTENSIONS = ("exposure_count", "exposure_time", "rejected_count", "weight")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """All files of one small cube: grid, arrays, paths by name."""
    grid = make_grid()
    arrays = make_arrays(grid)
    field = make_field(tmp_path_factory.mktemp("field"), grid, arrays, extensions=EXTENSIONS)
    paths = write_products(field)
    return grid, arrays, {path.stem: path for path in paths}


def test_files_are_there_under_their_final_names_only(written):
    paths = written[2]
    assert list(paths) == NAMES
    assert names_in(paths["DATACUBE_DEEP"].parent) == sorted(f"{name}.fits" for name in NAMES)


def test_cube_holds_data_and_variance(written):
    grid, arrays, paths = written
    with fits.open(paths["DATACUBE_DEEP"]) as hdus:
        assert [hdu.name for hdu in hdus] == [
            "PRIMARY", "DATA", "STAT", "EXPCOUNT", "EXPTIME", "REJECTED", "WEIGHT",
        ]  # fmt: skip
        assert hdus[0].data is None
        for name, variable in (("DATA", "flux"), ("STAT", "variance"), ("EXPTIME", "exposure_time")):
            assert hdus[name].data.dtype == np.dtype(">f4")
            np.testing.assert_array_equal(hdus[name].data, arrays[variable])
        for name, variable in (("EXPCOUNT", "exposure_count"), ("REJECTED", "rejected_count")):
            np.testing.assert_array_equal(hdus[name].data, arrays[variable])
        flux, square = (units.Unit(hdus[name].header["BUNIT"], format="fits") for name in ("DATA", "STAT"))
        assert flux == units.Unit(UNIT, format="fits") and square == flux**2
        assert hdus["EXPTIME"].header["BUNIT"] == "s" and "BUNIT" not in hdus[0].header
        assert hdus[0].header["ESO PRO CATG"] == "DATACUBE_DEEP"
        assert VoxelGrid.from_header(hdus["STAT"].header) == grid


def test_a_voxel_without_variance_has_no_data_either(tmp_path):
    grid = make_grid()
    arrays = make_arrays(grid)
    voxel = (30, 8, 8)
    arrays["flux"][voxel], arrays["variance"][voxel] = 1.0, np.nan
    arrays["flux"][31, 8, 8], arrays["variance"][31, 8, 8] = np.inf, 1.0
    (path, *_) = write_products(make_field(tmp_path, grid, arrays))
    with fits.open(path) as hdus:
        assert (
            np.isnan(hdus["DATA"].data[30:32, 8, 8]).all() and np.isnan(hdus["STAT"].data[30:32, 8, 8]).all()
        )


def test_images_and_maps(written):
    grid, arrays, paths = written
    inside = (grid.wavelengths >= 4650) & (grid.wavelengths <= 9300)
    image, noise = reference_image(arrays["flux"], arrays["variance"], inside.astype(float))
    with fits.open(paths["IMAGE_FOV_DEEP"]) as hdus:
        np.testing.assert_allclose(hdus["DATA"].data, image, rtol=1e-6)
        np.testing.assert_allclose(hdus["STAT"].data, noise, rtol=1e-6)
        assert hdus[0].header["ESO DRS MUSE FILTER NAME"] == "white"
        assert hdus[0].header["OBJECT"] == "UDF-01 (white)"
        assert hdus[0].header["ESO PRO CATG"] == "IMAGE_FOV_DEEP"
        exptime = hdus[0].header["EXPTIME"]
    planes = inside & np.isfinite(arrays["flux"]).any(axis=(1, 2))
    assert planes.sum() == inside.sum() - 1, "one plane is to be without data"
    seconds = fits.getdata(paths["EXPOSURE_MAP"])
    np.testing.assert_allclose(seconds, arrays["exposure_time"][planes].mean(axis=0), rtol=1e-6)
    assert not seconds[:3, :2].any()
    assert exptime == np.median(seconds[seconds > 0])
    count = arrays["exposure_count"][planes].astype(float)
    np.testing.assert_allclose(fits.getdata(paths["EXPOSURE_COUNT"]), count.mean(axis=0), rtol=1e-6)
    rejected = arrays["rejected_count"][planes].astype(int)
    np.testing.assert_array_equal(fits.getdata(paths["REJECTED_MAP"]), rejected.sum(axis=0))
    header = fits.getheader(paths["EXPOSURE_MAP"])
    assert header["ESO DRS MUSE DEEP NPLANES"] == planes.sum()
    assert header["ESO DRS MUSE DEEP MAP"] == "mean over planes inside filter white"
    assert fits.getheader(paths["EXPOSURE_MAP"], 1)["BUNIT"] == "s"


def test_depth_and_its_map(written):
    grid, arrays, paths = written
    header = fits.getheader(paths["DATACUBE_DEEP"])
    store = CubeStore(paths["DATACUBE_DEEP"].parents[1] / "cube.zarr")
    depth = measure_depth(store, header["SKY_RES"])
    assert header["PIXNOISE"] == pytest.approx(depth.pixel_sigma * 1e-20)
    assert header["ESO QC DEEP PIXNOISE ESO"] == pytest.approx(depth.eso_pixel_sigma)
    assert header["ABMAGLIM"] == pytest.approx(depth.limit)
    assert header["ESO QC DEEP ABMAGLIM LOC"] == pytest.approx(depth.local.median)
    assert header["ESO QC DEEP ABMAGLIM BOX"] == 32
    seen = np.isfinite(arrays["flux"]).any(axis=0)
    with fits.open(paths["DEPTH_MAP"]) as hdus:
        np.testing.assert_array_equal(hdus["DATA"].data, depth.local.map(seen))
        assert hdus["DATA"].header["BUNIT"] == "mag" and (~np.isnan(hdus["DATA"].data) == seen).all()
    for name in NAMES[1:]:
        assert "ABMAGLIM" not in fits.getheader(paths[name]) and "SPEC_RES" not in fits.getheader(paths[name])


def test_peak_of_the_background_and_exposure_time_of_the_pipeline(tmp_path):
    grid = make_grid((3, 90, 80), start=5000.0)
    arrays = make_arrays(grid)
    arrays["flux"] = np.random.default_rng(1).normal(2, 3, grid.shape).astype("f4")
    arrays["variance"][:] = 9
    field = make_field(tmp_path, grid, arrays, block=(3, 90, 80))
    header = fits.getheader(write_products(field)[0])
    assert header["ESO QC DEEP HISTO MODE"] == pytest.approx(2, abs=0.5)
    assert header["ESO QC DEEP HISTO 17"] == pytest.approx(2 - 2.8 * 3 / 3**0.5, abs=0.8)
    assert header["ESO QC DEEP HISTO SIGMA"] == pytest.approx(3 / 3**0.5, rel=0.2)
    assert header["ESO QC DEEP EXPTIME PIPE"] == pytest.approx(2703 * 90000 / (90 * 80), rel=1e-6)


def test_fluxes_in_another_unit_have_no_magnitudes(tmp_path, caplog):
    field = make_field(tmp_path)
    CubeStore(field.cube_path).set_attributes(unit="count")
    cube, *_, depth = write_products(field)
    header = fits.getheader(cube)
    assert not {"ABMAGLIM", "PIXNOISE", "ESO QC DEEP ABMAGLIM LOC"} & set(header)
    assert "ABMAGLIM cannot be told of this cube and is left out" in caplog.text
    assert fits.getheader(cube, "STAT")["BUNIT"] == "(count)**2"
    assert np.isnan(fits.getdata(depth)).all()
    assert fitsverify(cube).strip() == f"verification OK: {cube}"


def test_names_of_the_archive_and_settings_of_the_header(tmp_path):
    field = make_field(tmp_path, names="origfile", raw_suffix=True, publication="doi:10.1/x")
    paths = write_products(field)
    name = "MU_{}_200100_2014-08-10T01:02:03.456_WFM-NOAO-N_OBJ.fits"
    assert [path.name for path in paths[:3]] == [name.format(code) for code in ("SCBD", "SIMD", "SXPM")]
    header = fits.getheader(paths[0])
    assert (header["PIPEFILE"], header["ORIGFILE"]) == (paths[0].name, paths[0].name)
    assert [header[f"ASSON{n}"] for n in (1, 2)] == [paths[1].name, paths[2].name]
    assert header["PROV1"].endswith(".fits") and header["REFERENC"] == "doi:10.1/x"
    plain = write_products(make_field(tmp_path / "plain"))
    header = fits.getheader(plain[0])
    assert (header["PIPEFILE"], header["ORIGFILE"]) == ("DATACUBE_DEEP.fits", paths[0].name)
    assert not header["PROV1"].endswith(".fits") and header["REFERENC"] == ""


def test_what_exposures_lack_is_told_in_the_log_and_by_the_run(tmp_path, caplog):
    field = make_field(tmp_path)
    for exposure in field.exposures:
        del exposure.header["ESO OBS PROG ID"]
    field.exposures.append(StandInExposure(exposure_header(7), 7))  # not in the cube
    cube = write_products(field)[0]
    note = "ESO OBS PROG ID is missing in 3 of 3 exposures, the first 2014-08-10T01:02:03.456: PROG_ID does"
    assert note in caplog.text
    assert any(text.startswith(note) for text in product_notes(field))
    assert "PROG_ID" not in fits.getheader(cube)


def test_the_white_light_image_is_the_first_partner(tmp_path):
    write_filter_list(tmp_path / "list.fits")
    field = make_field(tmp_path, make_grid(start=5080.0))
    paths = write_products(field, filters=["Johnson_v", "white"], filter_list=tmp_path / "list.fits")
    header = fits.getheader(paths[0])
    assert [header[f"ASSON{n}"] for n in (1, 2)] == ["IMAGE_FOV_DEEP.fits", "IMAGE_FOV_DEEP_Johnson_v.fits"]
    found = [fits.getheader(path)["PRODCATG"] for path in paths]
    image, white, expmap = "ANCILLARY.IMAGE", "ANCILLARY.IMAGE.WHITELIGHT", "ANCILLARY.EXPMAP"
    assert found == ["SCIENCE.CUBE.IFS", image, white, expmap, image, image, image]


def test_the_header_has_room_for_hundreds_of_exposures_and_their_plots(tmp_path):
    field = make_field(tmp_path, exposures=300)
    cube = write_products(field)[0]
    plots = [tmp_path / plot_name(exposure) for exposure in field.exposures]
    plots += [tmp_path / "r.MUSE.2014-08-10T01:02:03.456_dpc.png", tmp_path / "r.MUSE_dpc.log"]
    for path in plots:
        path.write_bytes(b"plot or log")
    comments = [(f"QCCOMM{n}", "a" * 68, "") for n in range(1, 100)]
    associate_files(field, plots, [("QCFLAG", "0" * 10, "quality flags"), *comments])
    header = fits.getheader(cube)
    assert header["NCOMBINE"] == 300
    assert {f"PROV{n}" for n in range(1, 301)} <= set(header) and "PROV301" not in header
    assert {f"OBID{n}" for n in range(1, 151)} <= set(header) and "OBID151" not in header
    assert sum(key.startswith("ASSON") for key in header) == 5 + 302
    assert header["QCCOMM99"] == "a" * 68
    assert fitsverify(cube).startswith("verification OK")


def test_a_name_too_long_for_the_archive_is_refused(tmp_path):
    write_filter_list(tmp_path / "list.fits")
    field = make_field(tmp_path, make_grid(start=5080.0), names="origfile")
    field.exposures[-1].header["ESO INS MODE"] = "WFM-NOAO-N-EXTRA"
    with pytest.raises(UsageError, match="has 74 letters, ESO's archive takes 68"):
        write_products(field, filters=["Johnson_v"], filter_list=tmp_path / "list.fits")


def test_images_lie_where_the_cube_lies(written):
    _, _, paths = written
    cube = WCS(fits.getheader(paths["DATACUBE_DEEP"], "DATA")).celestial
    for name in NAMES[1:]:
        image = WCS(fits.getheader(paths[name], "DATA"))
        assert image.naxis == 2
        np.testing.assert_allclose(
            image.all_pix2world(3, 4, 0), cube.all_pix2world(3, 4, 0), rtol=0, atol=1e-12
        )


def test_filters_of_a_list_and_the_planes_of_maps_follow_the_first(tmp_path):
    grid = make_grid(start=5080.0)
    arrays = make_arrays(grid)
    field = make_field(tmp_path, grid, arrays)
    write_filter_list(tmp_path / "list.fits")
    paths = write_products(field, filters=["Johnson_v", "white"], filter_list=tmp_path / "list.fits")
    assert [path.stem for path in paths][1:3] == ["IMAGE_FOV_DEEP_Johnson_v", "IMAGE_FOV_DEEP"]
    throughput = np.interp(grid.wavelengths, [5000, 5100, 5200], [0, 0.5, 0])
    image, _ = reference_image(arrays["flux"], arrays["variance"], throughput)
    np.testing.assert_allclose(fits.getdata(paths[1]), image, rtol=1e-6)
    header = fits.getheader(paths[1])
    assert header["ESO DRS MUSE FILTER ZPVEGA"] == 20.5 and "ESO DRS MUSE FILTER ZPAB" not in header
    assert 0 < header["ESO DRS MUSE FILTER FRACTION"] < 100


def test_without_a_filter_the_maps_use_all_planes(tmp_path):
    field = make_field(tmp_path)
    paths = write_products(field, filters=["none"])
    assert [path.stem for path in paths] == ["DATACUBE_DEEP", *NAMES[2:]]
    assert fits.getheader(paths[1])["ESO DRS MUSE DEEP NPLANES"] == 39


def test_a_cube_outside_the_filter_has_an_empty_image_and_full_maps(tmp_path):
    field = make_field(tmp_path, make_grid(start=4100.0))
    paths = {path.stem: path for path in write_products(field)}
    assert np.isnan(fits.getdata(paths["IMAGE_FOV_DEEP"])).all()
    assert fits.getdata(paths["EXPOSURE_MAP"]).max() > 900


def test_fitsverify_finds_nothing(written):
    for path in written[2].values():
        assert fitsverify(path).strip() == f"verification OK: {path}"


def test_astropy_opens_everything_without_a_warning(written):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in written[2].values():
            with fits.open(path, checksum=True) as hdus:
                hdus.verify("exception")
                for hdu in hdus[1:]:
                    wcs = WCS(hdu.header)
                    wcs.pixel_to_world(*[1.0] * wcs.naxis)
                for hdu in hdus:
                    repr(hdu.header)


def test_mpdaf_reads_cube_and_images(written):
    grid, arrays, paths = written
    with warnings.catch_warnings():
        # MPDAF warns of ESO's way to write units and of deprecated calls, and leaves files open.
        warnings.simplefilter("ignore")
        from mpdaf.obj import Cube, Image

        cube = Cube(str(paths["DATACUBE_DEEP"]))
        images = {name: Image(str(paths[name])) for name in NAMES[1:]}
        data, variance = cube.data.filled(np.nan), cube.var.filled(np.nan)
        image_variance = images["IMAGE_FOV_DEEP"].var
        gc.collect()
    np.testing.assert_array_equal(data, arrays["flux"])
    np.testing.assert_array_equal(variance, arrays["variance"])
    np.testing.assert_allclose(cube.wave.coord(), grid.wavelengths)
    assert cube.unit.is_equivalent("erg / (s cm2 Angstrom)") and cube.unit.scale == 1e-20
    position = cube.wcs.pix2sky([4, 3])[0][::-1]
    np.testing.assert_allclose(position, grid.wcs.celestial.all_pix2world(3, 4, 0), rtol=0, atol=1e-9)
    assert all(image.shape == grid.shape[1:] for image in images.values())
    np.testing.assert_array_equal(
        image_variance.filled(np.nan), fits.getdata(paths["IMAGE_FOV_DEEP"], "STAT")
    )


@pytest.mark.parametrize("options", [{"log": True}, {"vacuum": True}, {"log": True, "vacuum": True}])
def test_other_wavelength_axes_come_back(tmp_path, options):
    grid = make_grid(**options)
    path = write_products(make_field(tmp_path, grid))[0]
    assert VoxelGrid.from_header(fits.getheader(path, "DATA")) == grid
    assert fitsverify(path).strip() == f"verification OK: {path}"


def stamps(paths):
    return [(path.stat().st_mtime_ns, path.stat().st_ino) for path in paths]


def test_what_is_up_to_date_is_not_written_again(tmp_path):
    field = make_field(tmp_path)
    paths = write_products(field)
    first = stamps(paths)
    assert write_products(field) == paths and stamps(paths) == first
    assert stamps(write_products(field, overwrite=True)) != first


def test_other_settings_cubes_or_damage_write_anew(tmp_path):
    field = make_field(tmp_path)
    paths = write_products(field)
    before = stamps(paths)
    for change in (
        lambda: write_products(field, extensions=["weight"]),
        lambda: write_products(field),
        lambda: (setattr(field, "name", "other"), write_products(field)),
        lambda: (paths[2].unlink(), write_products(field)),
        lambda: (os.truncate(paths[0], paths[0].stat().st_size - 2880), write_products(field)),
        lambda: (paths[1].write_text("broken"), write_products(field)),
        lambda: write_products(make_field(tmp_path, make_grid(start=4641.0))),
    ):
        change()
        after = stamps(paths)
        assert not set(before) & set(after)
        before = after


def test_files_do_not_depend_on_the_number_of_planes_at_a_time(tmp_path, monkeypatch):
    field = make_field(tmp_path)
    first = [path.read_bytes() for path in write_products(field)]
    monkeypatch.setattr("musedeep.store.cube._SLAB_PLANES", 7)
    second = [path.read_bytes() for path in write_products(field, overwrite=True)]
    for old, new, name in zip(first, second, NAMES, strict=True):
        assert len(old) == len(new)
        assert old[old.index(b"XTENSION") :] == new[new.index(b"XTENSION") :], name


def test_memory_does_not_grow_with_the_number_of_planes(tmp_path):
    def peak(planes):
        grid = make_grid((planes, 60, 60))
        field = make_field(tmp_path / str(planes), grid, make_arrays(grid), block=(64, 60, 60))
        write_products(field)
        tracemalloc.start()
        write_products(field, overwrite=True)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    (tmp_path / "64").mkdir(), (tmp_path / "256").mkdir()
    assert peak(256) < 1.3 * peak(64)


def test_progress_is_told(tmp_path):
    told = []
    write_products(make_field(tmp_path), progress=lambda done, planes: told.append((done, planes)))
    assert told == [(16, 40), (32, 40), (40, 40)]


def test_an_unknown_extension_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'expmap' is unknown; allowed are exposure_count, exposure_time"):
        write_products(make_field(tmp_path), extensions=["expmap"])


def test_an_exposure_that_the_field_lost_is_named(tmp_path):
    field = make_field(tmp_path)
    del field.exposures[1]
    with pytest.raises(InputError, match=r"exposure 2014-08-11T01:02:03.456 .* no such exposure any more"):
        write_products(field)
    assert not field.products_dir.exists()


def test_a_missing_cube_store_is_named(tmp_path):
    field = make_field(tmp_path)
    field.folder = tmp_path / "elsewhere"
    with pytest.raises(InputError, match=r"elsewhere/cube\.zarr"):
        write_products(field)


def test_an_unfinished_cube_is_refused(tmp_path):
    field = make_field(tmp_path)
    CubeStore(field.cube_path).set_attributes(finished=False)
    with pytest.raises(InputError, match=r"cube\.zarr is not finished"):
        write_products(field)


def test_blocks_computed_anew_write_anew(tmp_path):
    field = make_field(tmp_path)
    ledger = Ledger(field.cube_path.with_name("cube.ledger"))
    ledger.append({"block": 0, "key": "a"})
    before = stamps(write_products(field))
    assert stamps(write_products(field)) == before
    ledger.append({"block": 0, "key": "b"})
    assert not set(stamps(write_products(field))) & set(before)


def test_a_full_disk_leaves_the_older_files(tmp_path, monkeypatch):
    field = make_field(tmp_path)
    paths = write_products(field)
    old = [path.read_bytes() for path in paths]
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("usage", (), {"free": 1000}))
    with pytest.raises(WorkError, match=r"products is too full: \d+ bytes needed, 1000 bytes free"):
        write_products(field, overwrite=True)
    assert [path.read_bytes() for path in paths] == old
    assert names_in(field.products_dir) == sorted(path.name for path in paths)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    field = make_field(tmp_path)
    real, written = os.pwrite, []

    def pwrite(descriptor, view, offset):
        written.append(len(view))
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        return real(descriptor, view, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(WorkError, match=r"DATACUBE_DEEP\.fits \(\d+ bytes needed\): No space left"):
        write_products(field)
    assert names_in(field.products_dir) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    field = make_field(tmp_path)
    field.products_dir.write_text("a file is in the way")
    with pytest.raises(WorkError, match=r"cannot make the folder .*products"):
        write_products(field)


def test_an_interruption_leaves_the_older_files(tmp_path):
    field = make_field(tmp_path)
    paths = write_products(field)
    old = stamps(paths)

    def stop(done, planes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_products(field, overwrite=True, progress=stop)
    assert stamps(paths) == old
    assert names_in(field.products_dir) == sorted(path.name for path in paths)
