"""Products of muse_exp_combine in the format of ESO's archive, and those of musedeep of the same rows."""

import re

import numpy as np
import pytest
from astropy.io import fits
from fields import ingested
from parity.peer import run_recipe

from musedeep import simulate_exposures, validate_products, write_products
from musedeep.combine import combine_to_store

pytestmark = pytest.mark.esorex


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folders with ESO's and with our products of six exposures, three blocks and two runs."""
    folder = tmp_path_factory.mktemp("products")
    paths = simulate_exposures(
        folder / "exposures", exposures=6, exposures_per_ob=2, exptime=(900.0, 1200.0), field_arcsec=12.0,
        wavelength=(6500.0, 6515.0), dec_deg=-12.8, seed=5, cosmic_ray_rate=0.0, defects=0.0,
        fov_images=False,
    )  # fmt: skip
    offsets = folder / "exposures" / "OFFSET_LIST.fits"
    frames = [(path, "PIXTABLE_REDUCED") for path in paths] + [(offsets, "OFFSET_LIST")]
    run_recipe(folder / "eso", "muse_exp_combine", frames, "--format=sdpCube", "--filter=white")
    field = ingested(paths, folder / "ours", offsets=str(offsets), grid="eso", reject="eso", ld=1)
    combine_to_store(field)
    write_products(field)
    return folder / "eso", field.products_dir


def headers(both, name, theirs):
    return fits.getheader(both[0] / theirs), fits.getheader(both[1] / name)


def test_keywords_that_must_be_equal_are_equal(both):
    eso, ours = headers(both, "DATACUBE_DEEP.fits", "DATACUBE_FINAL.fits")
    exact = (
        "TEXPTIME", "NCOMBINE", "OBID1", "OBID2", "OBID3", "PROG_ID", "PROGID1", "PROGID2", "PRODCATG",
        "OBSTECH", "FLUXCAL", "RADESYS", "EQUINOX", "DATE-OBS", "INSTRUME", "TELESCOP", "ORIGIN", "REFERENC",
    )  # fmt: skip
    assert {key: ours[key] for key in exact} == {key: eso[key] for key in exact}
    assert (ours["PROG_ID"], ours["NCOMBINE"]) == ("MULTI", 6)
    assert not {"OBID4", "PROGID3"} & (set(ours) | set(eso))
    for key, tolerance in (
        ("WAVELMIN", 1e-9), ("WAVELMAX", 1e-9), ("MJD-OBS", 1e-8), ("MJD-END", 1e-8),
        ("SPEC_RES", 1e-2), ("SKY_RES", 1e-6), ("SKY_RERR", 1e-6), ("RA", 1.5e-4), ("DEC", 1.5e-4),
    ):  # fmt: skip
        assert ours[key] == pytest.approx(eso[key], rel=0, abs=tolerance), key
    raw = [f"PROV{number}" for number in range(1, 7)]
    assert [ours[key] for key in raw] == [eso[key].removesuffix(".fits") for key in raw]


def test_depth_and_noise_of_the_two_cubes_agree(both):
    eso, ours = headers(both, "DATACUBE_DEEP.fits", "DATACUBE_FINAL.fits")
    assert ours["ABMAGLIM"] == pytest.approx(eso["ABMAGLIM"], abs=1e-3)
    assert ours["ESO QC DEEP PIXNOISE ESO"] * 1e-20 == pytest.approx(eso["PIXNOISE"], rel=1e-6)
    assert ours["PIXNOISE"] == pytest.approx(eso["PIXNOISE"], rel=0.3)


def test_the_exposure_time_of_the_pipeline_stands_beside_that_of_the_standard(both):
    eso, ours = headers(both, "DATACUBE_DEEP.fits", "DATACUBE_FINAL.fits")
    assert ours["ESO QC DEEP EXPTIME PIPE"] == pytest.approx(eso["EXPTIME"], rel=1e-4)
    assert ours["EXPTIME"] <= ours["TEXPTIME"] < eso["EXPTIME"]


def test_white_light_images_agree(both):
    eso, ours = (fits.getdata(both[0] / "IMAGE_FOV_0001.fits"), fits.getdata(both[1] / "IMAGE_FOV_DEEP.fits"))
    seen = np.isfinite(ours)
    np.testing.assert_array_equal(seen, np.isfinite(eso))
    assert (np.abs(ours - eso)[seen] < 1e-3 * np.nanstd(eso)).mean() > 0.99


def test_nothing_is_found_in_ours_and_the_faults_of_theirs_are(both):
    assert validate_products(both[1]) == []
    cube = validate_products(both[0] / "DATACUBE_FINAL.fits")
    errors = {finding.keyword for finding in cube if finding.severity == "error"}
    # They spread the exposure time over a whole field of view, and call the white-light image an image.
    assert errors == {"SPECSYS", "EXPTIME", "ASSON1"}
    advice = {finding.keyword for finding in cube if finding.severity == "advice"}
    assert advice == {"TIMESYS", "CSYER1", "CSYER2", "ASSON2"}
    assert validate_products(both[0] / "IMAGE_FOV_0001.fits") == []


def test_keywords_of_theirs_that_we_do_not_write_are_known(both):
    eso, ours = headers(both, "DATACUBE_DEEP.fits", "DATACUBE_FINAL.fits")
    plain = {key for key in set(eso) - set(ours) if not key.startswith("ESO ")}
    # ARCFILE is the archive's to write; DATAMD5 would take a second look at the whole file.
    assert plain <= {"ARCFILE", "DATAMD5", "COMMENT"}, plain
    kinds = {key.split()[1] for key in set(eso) - set(ours) if re.match(r"ESO \w+ ", key)}
    assert kinds <= {"PRO", "QC", "DRS"}
