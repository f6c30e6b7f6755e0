"""Products of simulated exposures through the command line, and every file of them in users' programs."""

import gc
import json
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner
from cubes import fitsverify
from test_images import write_filter_list

import musedeep as md
from musedeep.cli.command import cli


def command(*words):
    run = CliRunner().invoke(cli, list(map(str, words)), standalone_mode=False)
    assert run.exception is None, run.output
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A combined field of three exposures, two with adaptive optics; one lacks the number of its block."""
    folder = tmp_path_factory.mktemp("field")
    paths = md.simulate_exposures(
        folder / "exposures",
        exposures=3,
        exposures_per_ob=2,
        field_arcsec=8.0,
        wavelength=(5796.0, 5812.0),
        mode=("WFM-NOAO-N", "WFM-AO-N", "WFM-AO-N"),
        fov_images=False,
    )
    with fits.open(paths[1], mode="update") as hdus:
        del hdus[0].header["ESO OBS ID"]
    offsets = folder / "exposures" / "OFFSET_LIST.fits"
    command("init", *paths, "-o", folder / "f", "--offsets", offsets, "--memory", "1GB", "--workers", 1)
    command("ingest", folder / "f", "--quiet")
    command("combine", folder / "f", "--quiet")
    write_filter_list(folder / "list.fits", nodes=(5790, 5800, 5810))
    return folder


@pytest.fixture(scope="module")
def products(folder):
    """Paths of its products under plain names, with a filter of a list."""
    words = ("--filter", "white,Johnson_v", "--filter-list", folder / "list.fits", "--json")
    told = json.loads(command("products", folder / "f", *words, "--quiet").output)
    return told["stages"][0]["facts"]["files"]


def test_the_command_tells_files_and_what_is_missing(folder):
    printed = command("products", folder / "f", "--names", "origfile", "--quiet").output
    assert "MU_SCBD_1000100_2014-08-10T01:00:02.880_WFM-NOAO-N_OBJ.fits" in printed
    assert "note: ESO OBS ID is missing in 1 of 3 exposures, the first 2014-08-10T01:" in printed


def test_nothing_is_found_in_the_products(products):
    assert len(products) == 7
    run = command("validate", *products)
    assert (run.return_value, run.output) == (0, "0 errors, 0 recommendations\n")


def test_fitsverify_finds_nothing(products):
    for path in products:
        assert fitsverify(path).strip() == f"verification OK: {path}"


def test_astropy_opens_every_file_without_a_warning(products):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in products:
            with fits.open(path, checksum=True) as hdus:
                hdus.verify("exception")
                for hdu in hdus[1:]:
                    wcs = WCS(hdu.header)
                    wcs.pixel_to_world(*[1.0] * wcs.naxis)
                    assert np.isfinite(hdu.data).any() or hdu.header["NAXIS"] == 2
                for hdu in hdus:
                    repr(hdu.header)


def test_mpdaf_opens_every_file(products):
    with warnings.catch_warnings():
        # MPDAF warns of deprecated calls and leaves files open.
        warnings.simplefilter("ignore")
        from mpdaf.obj import Cube, Image

        cube, images = Cube(products[0]), [Image(path) for path in products[1:]]
        unit, wave, shapes = cube.unit, cube.wave.coord(), {image.shape for image in images}
        shape = cube.shape
        gc.collect()
    assert unit.is_equivalent("erg / (s cm2 Angstrom)") and unit.scale == 1e-20
    assert shapes == {shape[1:]}
    np.testing.assert_allclose(np.diff(wave), 1.25)


def test_what_lies_in_the_gap_is_known(products):
    header = fits.getheader(products[0])
    assert 15 < header["ESO QC DEEP ABMAGLIM LOC"] < 30 and header["SPECSYS"] == "BARYCENT"
    assert (header["OBID1"], header["OBID2"], header["NCOMBINE"]) == (1000100, 1000107, 3)
    seconds = fits.getdata(next(path for path in products if "EXPOSURE_MAP" in path))
    # Planes beyond 5805 Angstrom were seen without adaptive optics only.
    assert 900 < seconds.max() < 2700
