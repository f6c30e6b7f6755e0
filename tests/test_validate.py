import json
import shutil
import warnings

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from cubes import exposure_header, make_arrays, make_field, make_grid

import musedeep as md
from musedeep.cli.command import cli
from musedeep.errors import InputError
from musedeep.fitsstream import update_primary
from musedeep.products import associate_files, cube_file
from musedeep.validate import validate_products
from musedeep.validate.rules import RULES


def complete_header(number):
    """Header of an exposure that has everything a product needs; five of them are two blocks of two runs."""
    header = exposure_header(number)
    header["HIERARCH ESO DRS MUSE PIXTABLE RVCORR"] = 12.5
    header["HIERARCH ESO TEL IA FWHMLIN"] = 0.8 + 0.1 * number
    header["HIERARCH ESO TEL AIRM END"] = 1.2
    header["HIERARCH ESO TEL AMBI FWHM START"], header["HIERARCH ESO TEL AMBI FWHM END"] = 0.9, 1.1
    header["HIERARCH ESO PRO REC1 PIPE ID"] = "muse/2.8.7"
    header["HIERARCH ESO OBS PROG ID"] = ("094.A-0289(B)", "110.23AB.001")[number % 2]
    return header


def make_products(folder, **settings):
    """Products of a small cube, and its field."""
    grid = make_grid((24, 70, 80), start=4800.0)
    field = make_field(folder, grid, make_arrays(grid), block=grid.shape, **settings)
    for exposure in field.exposures:
        exposure.header = complete_header(int(exposure.date_obs[8:10]) - 10)
    return field, md.write_products(field)


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Folder with complete products; tests change copies."""
    return make_products(tmp_path_factory.mktemp("products"))[1][0].parent


@pytest.fixture
def copy(products, tmp_path):
    """A copy of them that a test may spoil."""
    return shutil.copytree(products, tmp_path / "copy")


def texts(paths):
    return [f"{f.severity} {f.hdu} {f.keyword}: {f.text}" for f in validate_products(paths)]


def test_nothing_is_found_in_our_products(products):
    assert len(list(products.glob("*.fits"))) == 6
    assert texts(products) == []


@pytest.mark.parametrize("settings", [{"names": "origfile", "publication": "2017A&A...608A...1B"}])
def test_nothing_is_found_under_the_names_of_the_archive(tmp_path, settings):
    field, paths = make_products(tmp_path, **settings)
    assert [path.name for path in paths] == [
        "MU_SCBD_200100_2014-08-10T01:02:03.456_WFM-NOAO-N_OBJ.fits",
        "MU_SIMD_200100_2014-08-10T01:02:03.456_WFM-NOAO-N_OBJ.fits",
        "MU_SXPM_200100_2014-08-10T01:02:03.456_WFM-NOAO-N_OBJ.fits",
        "EXPOSURE_COUNT.fits", "REJECTED_MAP.fits", "DEPTH_MAP.fits",
    ]  # fmt: skip
    assert texts(paths) == []
    assert fits.getheader(paths[0])["REFERENC"] == "2017A&A...608A...1B"


def test_nothing_is_found_with_log_and_plots(tmp_path):
    field, _ = make_products(tmp_path)
    (tmp_path / "qc").mkdir()
    for name in ("r.MUSE.x_dpc.log", "r.MUSE.x_dpc.png", "r.MUSE.y_pst.png"):
        (tmp_path / "qc" / name).write_text(name)
    files = sorted((tmp_path / "qc").glob("r.*"))
    associate_files(field, files, [("QCFLAG", "0010000000", "quality"), ("QCCOMM1", "fine", "")])
    cube = cube_file(field)
    assert texts(cube) == []
    header = fits.getheader(cube)
    assert [header[f"ASSOC{n}"] for n in (6, 7, 8)] == ["ANCILLARY.README"] + 2 * ["ANCILLARY.PREVIEW"]
    assert len(header["ASSOM6"]) == 32 and header["QCFLAG"] == "0010000000"
    assert sorted(path.name for path in field.products_dir.glob("r.*")) == [path.name for path in files]
    # Again with fewer: what is not said any more goes away.
    associate_files(field, files[:1])
    header = fits.getheader(cube)
    assert header["ASSON6"] == files[0].name and "ASSON7" not in header and "QCCOMM1" not in header
    assert [path.name for path in field.products_dir.glob("r.*")] == [files[0].name]
    assert all(path.exists() for path in files)
    assert texts(cube) == []
    cube.with_name(files[0].name).write_text("changed")
    (text,) = texts(cube)
    assert text.startswith("error primary ASSOM6: is ")


def test_only_logs_and_plots_are_associated(tmp_path):
    field, paths = make_products(tmp_path)
    with pytest.raises(md.UsageError, match="neither a log nor a plot"):
        associate_files(field, [paths[1]])


CUBE, WHITE, EXPMAP = "DATACUBE_DEEP.fits", "IMAGE_FOV_DEEP.fits", "EXPOSURE_MAP.fits"


def drop(key):
    return lambda header: header.remove(key)


def put(key, value):
    return lambda header: header.set(key, value)


@pytest.mark.parametrize(
    "change, wanted",
    [
        (drop("TIMESYS"), "advice primary TIMESYS: is missing and recommended"),
        (drop("OBID1"), "error primary OBID1: is missing and mandatory"),
        (drop("PROV2"), "error primary PROV2: is missing, though PROV3 is there"),
        (drop("PROV3"), "error primary NCOMBINE: is 3, but PROVi name 2 files only"),
        (drop("EQUINOX"), "error primary EQUINOX: is missing and mandatory with RADESYS FK5"),
        (put("ABMAGLIM", -99.0), "error primary ABMAGLIM: is -99.0, but must lie between 0 and 99"),
        (put("ABMAGLIM", "25"), "error primary ABMAGLIM: is '25', but must be a number"),
        (put("NCOMBINE", 3.0), "error primary NCOMBINE: is 3.0, but must be an integer"),
        (put("OBID1", "x"), "error primary OBID1: is 'x', but must be int"),
        (put("OBID1", 200100), "error primary OBID: OBID1 to OBID2 name something twice"),
        (put("PROV01", "x"), "error primary PROV01: is forbidden: numbers start at 1"),
        (put("CDELT1", 1.0), "error primary CDELT1: is forbidden: the CD matrix says it"),
        (put("FILTER", "V"), "error primary FILTER: is forbidden"),
        (
            put("PRODCATG", "SCIENCE.IMAGE"),
            "error primary PRODCATG: is 'SCIENCE.IMAGE', which has not the form",
        ),
        (put("REFERENC", "a paper"), "error primary REFERENC: is 'a paper', which has not the form"),
        (
            put("FLUXCAL", "maybe"),
            "error primary FLUXCAL: is 'maybe', but must be 'ABSOLUTE' or 'UNCALIBRATED'",
        ),
        (put("MJD-END", 56870.0), "error primary MJD-END: is 56870.0, which is not after MJD-OBS"),
        (put("TEXPTIME", 1e9), "error primary TEXPTIME: is 1e+09 s, more than lie between"),
        (put("EXPTIME", 1e5), "error primary EXPTIME: is 100000 s, more than TEXPTIME"),
        (put("EXPTIME", 1200.0), "error primary EXPTIME: is 1200 s, but the exposure map's median is"),
        (put("PROG_ID", "094.A-0289(B)"), "error primary PROGID1: must not be there"),
        (drop("PROGID2"), "error primary PROGID1: PROG_ID is MULTI, but 1 PROGIDi are there"),
        (put("WAVELMAX", 500.0), "error primary WAVELMAX: is 500 nm, but the plane is at 482.875 nm"),
        (put("RA", 200.0), "error primary RA: RA and DEC, 200.0, "),
        (
            put("ESO INS MODE", "NFM-AO-N"),
            "error primary STREHL: is missing and mandatory in the narrow field",
        ),
        (put("ASSON2", "gone.fits"), "error primary ASSON2: gone.fits is not beside the cube"),
        (put("ASSON1", EXPMAP), "error primary ASSON1: is not the white-light image"),
        (put("ASSON6", "log.txt"), "error primary ASSOC6: is missing: log.txt is no FITS file"),
        (put("ASSOC1", "ANCILLARY.README"), "error primary ASSOC1: must not be there"),
        (put("QCFLAG", "0"), "advice primary QCFLAG: is '0', which has not the form"),
    ],
)
def test_what_is_wrong_in_the_first_header_is_found(copy, change, wanted):
    update_primary(copy / CUBE, change)
    found = texts(copy / CUBE)
    assert any(text.startswith(wanted) for text in found), found
    assert len(found) <= 3


def test_every_mandatory_keyword_is_missed(copy):
    keys = {rule.key for rule in RULES if rule.hdu == "primary" and rule.status == "mandatory"}

    def drop_all(header):
        for key in keys:
            del header[key]

    update_primary(copy / CUBE, drop_all)
    found = texts(copy / CUBE)
    assert {f"error primary {key}: is missing and mandatory" for key in keys} <= set(found)


def spoil(path, hdu, change):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, mode="update", checksum=True) as hdus:
            change(hdus[hdu])


def set_one(value):
    def change(hdu):
        hdu.data[tuple(np.argwhere(np.isfinite(hdu.data))[0])] = value

    return change


@pytest.mark.parametrize(
    "name, hdu, change, wanted",
    [
        (CUBE, 1, lambda h: h.header.remove("BUNIT"), "error DATA BUNIT: is missing and mandatory"),
        (
            CUBE,
            1,
            lambda h: h.header.set("BUNIT", "10**(-20)*erg/s/cm**2/Angstrom"),
            "error DATA BUNIT: is '10",
        ),
        (
            CUBE,
            2,
            lambda h: h.header.set("CRVAL3", 4810.0),
            "error STAT CRVAL3: is 4810.0, but 4800.0 in DATA",
        ),
        (
            CUBE,
            2,
            lambda h: h.header.set("CD1_3", 0.1),
            "error STAT CD1_3: is 0.1, but must lie between 0 and 0",
        ),
        (
            CUBE,
            2,
            lambda h: h.header.set("EXTNAME", "ERROR"),
            "error  EXTNAME: the extensions are DATA, ERROR",
        ),
        (
            CUBE,
            1,
            lambda h: h.header.set("PRODCATG", "x"),
            "error DATA PRODCATG: belongs into the first HDU only",
        ),
        (
            CUBE,
            1,
            lambda h: h.header.set("CSYER1", -1.0),
            "advice DATA CSYER1: is -1.0, but must lie between",
        ),
        (CUBE, 1, set_one(np.nan), "error STAT : 1 values are NaN in one of DATA and STAT only"),
        (CUBE, 2, set_one(-1.0), "error STAT : 1 variances are negative"),
        (EXPMAP, 1, set_one(np.nan), "error DATA : 1 pixels of the exposure map are NaN"),
        (EXPMAP, 1, set_one(-1.0), "error DATA : the exposure map has values below 0"),
        (EXPMAP, 1, lambda h: h.header.set("BUNIT", "h"), "error DATA BUNIT: is 'h', but must be 's'"),
        (WHITE, 1, lambda h: h.header.remove("CTYPE1"), "error DATA CTYPE1: is missing and mandatory"),
    ],
)
def test_what_is_wrong_in_an_extension_is_found(copy, name, hdu, change, wanted):
    spoil(copy / name, hdu, change)
    found = texts(copy / name)
    assert any(text.startswith(wanted) for text in found), found


def test_a_partner_elsewhere_on_the_sky_is_found(copy):
    spoil(copy / WHITE, 1, lambda hdu: hdu.header.set("CRVAL1", hdu.header["CRVAL1"] + 0.001))
    assert texts(copy / CUBE) == [f"error primary ASSON1: {WHITE} lies elsewhere on the sky than the cube"]


def test_a_partner_of_another_size_is_found(copy):
    spoil(copy / WHITE, 1, lambda hdu: setattr(hdu, "data", hdu.data[:, :40].copy()))
    assert f"error primary ASSON1: {WHITE} has (40, 70) pixels, the cube has (80, 70)" in texts(copy / CUBE)


@pytest.mark.parametrize(
    "mark, wanted", [(None, "error STAT DATASUM"), (b"observation tech", "error primary CHECKSUM")]
)
def test_changed_bytes_are_found(copy, mark, wanted):
    data = bytearray((copy / CUBE).read_bytes())
    data[data.index(mark) if mark else -2000] ^= 1
    (copy / CUBE).write_bytes(data)
    assert any(text.startswith(wanted) for text in texts(copy / CUBE))


def test_no_checksum_is_found(copy):
    with fits.open(copy / WHITE) as hdus:
        del hdus[1].header["CHECKSUM"]
        hdus.writeto(copy / "without.fits")
    assert "error DATA CHECKSUM: is missing and mandatory" in texts(copy / "without.fits")


def test_more_than_three_images_are_found(tmp_path):
    _, paths = make_products(tmp_path, extensions=("exposure_time", "weight"))
    (text,) = texts(paths)
    assert text == "error  : it has 4 image extensions, 3 are allowed: DATA, STAT, DQ"


def test_data_in_the_first_hdu_are_found(tmp_path):
    fits.PrimaryHDU(np.zeros((3, 4))).writeto(tmp_path / "plain.fits")
    assert "error primary NAXIS: the first HDU holds data; they belong into extensions" in texts(tmp_path)


def test_names_that_are_too_long_and_files_that_are_none_are_found(tmp_path):
    (tmp_path / f"{'x' * 70}.fits").write_text("no FITS")
    long, broken = texts(tmp_path)
    assert long == "error  : its name has 75 letters, 68 are allowed"
    assert broken.startswith("error  : it cannot be read as FITS")


def test_nothing_to_check_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.fits does not exist"):
        validate_products(tmp_path / "gone.fits")
    with pytest.raises(InputError, match="no FITS file in"):
        validate_products([tmp_path])


def test_the_command_prints_text_or_json_and_ends_with_4_on_errors(copy):
    run = CliRunner().invoke(cli, ["validate", str(copy)], standalone_mode=False)
    assert (run.return_value, run.output) == (0, "0 errors, 0 recommendations\n")
    update_primary(copy / CUBE, drop("TIMESYS"))
    run = CliRunner().invoke(cli, ["validate", str(copy)], standalone_mode=False)
    assert run.return_value == 0 and "  advice  primary TIMESYS: is missing and recommended\n" in run.output
    update_primary(copy / CUBE, drop("SPECSYS"))
    run = CliRunner().invoke(cli, ["validate", "--json", str(copy / CUBE)], standalone_mode=False)
    told = json.loads(run.output)
    assert run.return_value == 4 and told["errors"] == 1
    assert [finding["keyword"] for finding in told["findings"]] == ["TIMESYS", "SPECSYS"]
