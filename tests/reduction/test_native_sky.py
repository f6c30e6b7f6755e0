"""The native model of the sky held against ESO's recipes: mask, spectrum, lines, what is left of them."""

import shutil

import numpy as np
import pytest
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.pixtable import open_pixel_table
from musedeep.reduce import reduce_exposures
from musedeep.reduce.native import SkyChoice, create_sky, reduce_tables
from musedeep.reduce.native.plan import make_plan
from musedeep.reduce.native.skyspectrum import white_image

pytestmark = pytest.mark.esorex

FLUXES = "EXTINCT_TABLE", "STD_RESPONSE", "STD_TELLURIC", "ASTROMETRY_WCS"


def calibrations(night, **more):
    given = {name: [night / "calib" / f"{name}.fits"] for name in (*FLUXES, "SKY_LINES")}
    return given | {"LSF_PROFILE": sorted((night / "calib").glob("LSF_PROFILE-*.fits"))} | more


def rows_of(path):
    """Rows of a table in the order of their origin, which names a row; also its header."""
    table = open_pixel_table(path)
    rows = table.read_columns(list(table.columns))
    order = np.argsort(rows["origin"])
    return {name: values[order] for name, values in rows.items()}, table.header


@pytest.fixture(scope="module")
def modelled(raw_night, reduced, tmp_path_factory):
    """The first exposure without its SKY frame, reduced by the recipe, from the tables that there are."""
    folder = tmp_path_factory.mktemp("modelled")
    shutil.copytree(reduced.folder / "work", folder / "work", ignore=lambda *_: ["scipost", "create_sky"])
    first = sorted((raw_night / "raw").iterdir())[0]
    return reduce_exposures(
        first, folder, calibrations=raw_night / "calib", case="no-sky", fov_image=False,
        recipe_memory="4GB", progress=False, keep=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tables(modelled):
    name = modelled.exposures[0]["exposure"].replace(":", "_")
    return sorted((modelled.folder / "work" / name).glob("scibasic-*/PIXTABLE_OBJECT*.fits"))


@pytest.fixture(scope="module")
def own(raw_night, modelled, tables, tmp_path_factory):
    """The same by our own code: folder and facts."""
    folder = tmp_path_factory.mktemp("own")
    _, header = rows_of(modelled.tables[0])
    facts = reduce_tables(
        tables, calibrations(raw_night), folder / "PIXTABLE_REDUCED_0001.fits", skymethod="model",
        sky=SkyChoice(0.2), velocity=header["ESO DRS MUSE PIXTABLE RVCORR"],
    )  # fmt: skip
    return folder, facts


def products(folder, name):
    return next(path for path in sorted(folder.glob(f"{name}*.fits")))


def assert_same_lines(own, theirs, *, flux, wavelength):
    # lines that are about as strong may stand in another order
    ours, lines = (np.sort(fits.getdata(path), order="lambda") for path in (own, theirs))
    np.testing.assert_array_equal(ours["name"], lines["name"])
    np.testing.assert_array_equal(ours["group"], lines["group"])
    np.testing.assert_allclose(ours["flux"], lines["flux"], rtol=flux)
    np.testing.assert_allclose(ours["lambda"], lines["lambda"], rtol=0, atol=wavelength)


def test_the_model_of_an_exposure_agrees_with_the_recipe(modelled, own):
    folder, facts = own
    theirs, _ = rows_of(modelled.tables[0])
    ours, header = rows_of(folder / "PIXTABLE_REDUCED_0001.fits")
    assert (facts["sky_fit"], facts["left_out"]) == ("", 0)
    # the recipe deletes the rows that its continuum does not reach: a few at the red end
    both = np.isin(ours["origin"], theirs["origin"])
    assert both.sum() == len(theirs["data"]) > len(ours["data"]) - 20
    ours = {name: values[both] for name, values in ours.items()}
    np.testing.assert_array_equal(ours["lambda"], theirs["lambda"])
    good = np.isfinite(ours["data"])
    assert good.mean() > 0.9999
    np.testing.assert_array_equal(ours["stat"][good], theirs["stat"][good])
    off = (ours["data"].astype(float) - theirs["data"])[good] / np.sqrt(theirs["stat"][good])
    assert np.sqrt(np.mean(off**2)) < 0.03
    assert abs(off.mean()) < 0.005
    assert header["ESO PRO REC2 PARAM2 VALUE"] == "0.2"
    assert_same_lines(
        products(folder, "SKY_LINES"), products(modelled.folder / "sky", "SKY_LINES"), flux=1e-3,
        wavelength=1e-3,
    )  # fmt: skip


def test_the_mask_is_that_of_the_recipe(modelled, own):
    sky = modelled.folder / "sky"
    with fits.open(products(own[0], "SKY_IMAGE")) as ours, fits.open(products(sky, "SKY_IMAGE")) as theirs:
        np.testing.assert_array_equal(ours["DQ"].data, theirs["DQ"].data)
        seen = theirs["DQ"].data == 0
        same = ours["DATA"].data[seen] == theirs["DATA"].data[seen]
        # others hold rows beyond the spectrum of the lamp, which are flagged here
        assert same.mean() > 0.8
        for name in ("CRPIX1", "CRVAL1", "CRPIX2", "CRVAL2", "CD1_1", "CD2_2"):
            assert ours["DATA"].header[name] == pytest.approx(theirs["DATA"].header[name], abs=1e-6)
    with fits.open(products(own[0], "SKY_MASK")) as ours, fits.open(products(sky, "SKY_MASK")) as theirs:
        assert theirs[0].data.sum() > 200
        assert np.count_nonzero(ours[0].data != theirs[0].data) < 0.03 * theirs[0].data.sum()
        for name in ("LOWLIMIT", "THRESHOLD"):
            keyword = f"ESO QC SCIPOST {name}"
            assert ours[0].header[keyword] == pytest.approx(theirs[0].header[keyword], rel=1e-3)


def test_images_do_not_depend_on_how_many_planes_are_in_memory(raw_night, tables):
    opened = [open_pixel_table(path, "pix") for path in tables]
    plan = make_plan(opened, calibrations(raw_night), 0.0, 1 << 20)
    whole, _, struck = white_image(opened, plan, 6.0)
    parts, _, again = white_image(opened, plan, 6.0, rows_of_a_slab=150_000)
    np.testing.assert_array_equal(whole, parts)
    assert 0 < sum(map(len, struck)) < 1e-2 * len(opened) * opened[0].row_count
    for one, other in zip(struck, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_with_the_recipe_s_mask_hardly_a_bit_differs(raw_night, modelled, tables, tmp_path):
    theirs, header = rows_of(modelled.tables[0])
    mask = products(modelled.folder / "sky", "SKY_MASK")
    reduce_tables(
        tables, calibrations(raw_night, SKY_MASK=[mask]), tmp_path / "PIXTABLE_REDUCED.fits",
        skymethod="model", velocity=header["ESO DRS MUSE PIXTABLE RVCORR"],
    )  # fmt: skip
    np.testing.assert_array_equal(fits.getdata(tmp_path / "SKY_MASK.fits"), fits.getdata(mask))
    lines = products(modelled.folder / "sky", "SKY_LINES")
    assert_same_lines(tmp_path / "SKY_LINES.fits", lines, flux=3e-6, wavelength=3e-4)
    spectra = tmp_path / "SKY_SPECTRUM.fits", products(modelled.folder / "sky", "SKY_SPECTRUM")
    flux, expected = (fits.getdata(path)["data"][20:-20] for path in spectra)
    np.testing.assert_allclose(flux[: len(expected)], expected[: len(flux)], rtol=1e-9)
    ours, _ = rows_of(tmp_path / "PIXTABLE_REDUCED.fits")
    both = np.isin(ours["origin"], theirs["origin"])
    # but at the ends, where the recipe takes in what fades with the spectrum of the lamp
    wavelength = theirs["lambda"]
    inner = (wavelength > wavelength.min() + 5) & (wavelength < wavelength.max() - 5)
    off = (ours["data"][both].astype(float) - theirs["data"])[inner] / np.sqrt(theirs["stat"][inner])
    assert np.sqrt(np.mean(off**2)) < 3e-5
    assert np.abs(off).max() < 2e-3


def test_the_sky_of_a_sky_frame_agrees_with_the_recipe(raw_night, reduced, tmp_path):
    sky = next((reduced.folder / "work").glob("*/create_sky"))
    frames = sorted(sky.parent.glob("scibasic-*/PIXTABLE_SKY*.fits"))
    facts = create_sky(frames, calibrations(raw_night), tmp_path)
    names = "SKY_IMAGE", "SKY_MASK", "SKY_SPECTRUM", "SKY_LINES", "SKY_CONTINUUM"
    assert [path.name for path in facts["products"]] == [f"{name}.fits" for name in names]
    assert_same_lines(tmp_path / "SKY_LINES.fits", sky / "SKY_LINES.fits", flux=3e-3, wavelength=3e-3)
    ours, theirs = (fits.getdata(folder / "SKY_CONTINUUM.fits") for folder in (tmp_path, sky))
    level = np.interp(theirs["lambda"], ours["lambda"], ours["flux"]) - theirs["flux"]
    assert np.sqrt(np.mean(level[20:-20] ** 2)) < 2
    for name in names:
        with fits.open(tmp_path / f"{name}.fits") as own, fits.open(sky / f"{name}.fits") as their:
            assert [hdu.name for hdu in own] == [hdu.name for hdu in their]
            assert own[0].header["ESO PRO CATG"] == name
            qc = [{k for k in hdus[0].header if k.startswith("ESO QC SKY ")} for hdus in (own, their)]
            assert qc[0] == qc[1]
            if isinstance(own[-1], fits.BinTableHDU):
                assert own[-1].columns.names == their[-1].columns.names
                assert own[-1].columns.units == their[-1].columns.units


def test_simple_subtracts_the_mean_spectrum(raw_night, modelled, tables, tmp_path):
    facts = reduce_tables(
        tables, calibrations(raw_night), tmp_path / "PIXTABLE_REDUCED.fits", skymethod="simple",
        sky=SkyChoice(0.2),
    )  # fmt: skip
    names = sorted(path.name for path in facts["products"])
    assert names == ["SKY_IMAGE.fits", "SKY_MASK.fits", "SKY_SPECTRUM.fits"]
    rows, header = rows_of(tmp_path / "PIXTABLE_REDUCED.fits")
    plain = reduce_tables(tables, calibrations(raw_night), tmp_path / "plain.fits")
    before, _ = rows_of(tmp_path / "plain.fits")
    spectrum = fits.getdata(tmp_path / "SKY_SPECTRUM.fits")
    measured = rows["lambda"] / np.float32(1) / (1 + plain["velocity_km_s"] / 299792.458)
    sky = np.interp(measured, spectrum["lambda"], spectrum["data"])
    inner = (spectrum["lambda"][20] < measured) & (measured < spectrum["lambda"][-20])
    left = (before["data"] - rows["data"] - sky)[inner]
    assert np.abs(np.median(left)) < 0.01
    assert np.sqrt(np.mean(left**2)) < 0.02 * np.sqrt(np.mean(sky[inner] ** 2))


def test_a_fit_that_fails_is_told_and_the_mean_spectrum_is_subtracted(raw_night, tables, tmp_path):
    broken = tmp_path / "SKY_LINES.fits"
    with fits.open(raw_night / "calib" / "SKY_LINES.fits") as hdus:
        hdus["LINES"].data["flux"] = np.nan
        hdus.writeto(broken)
    outputs = {}
    for method in ("model", "simple"):
        folder = tmp_path / method
        folder.mkdir()
        facts = reduce_tables(
            tables, calibrations(raw_night, SKY_LINES=[broken]), folder / "PIXTABLE_REDUCED.fits",
            skymethod=method, sky=SkyChoice(0.2),
        )  # fmt: skip
        outputs[method] = facts, rows_of(folder / "PIXTABLE_REDUCED.fits")[0]["data"]
    assert "can be fitted" in outputs["model"][0]["sky_fit"]
    assert outputs["simple"][0]["sky_fit"] == ""
    np.testing.assert_array_equal(outputs["model"][1], outputs["simple"][1])


def test_reduce_models_the_sky_natively_and_sets_bit_1(raw_night, modelled, tmp_path):
    shutil.copytree(modelled.folder / "work", tmp_path / "work", ignore=lambda *_: ["scipost", "create_sky"])
    calib = tmp_path / "calib"
    shutil.copytree(raw_night / "calib", calib)
    with fits.open(calib / "SKY_LINES.fits", mode="update") as hdus:
        hdus["LINES"].data["lambda"] += 40
    first = sorted((raw_night / "raw").iterdir())[0]
    for case, bit in (("no-sky", 1), ("crowded", 0)):
        result = reduce_exposures(
            first, tmp_path, calibrations=calib, case=case, backend="native", recipe_memory="4GB",
            progress=False, keep=True,
        )  # fmt: skip
        record = result.exposures[0]
        assert (record["state"], record["qc"]["bits"]["1"]) == ("done", bit)
    assert record["steps"][-1]["parameters"]["skymethod"] == "none"


def test_what_has_no_sky_is_refused(raw_night, modelled, tables, tmp_path):
    given, out = calibrations(raw_night), tmp_path / "out.fits"
    with pytest.raises(InputError, match="a model of the sky needs SKY_LINES"):
        reduce_tables(tables, given | {"SKY_LINES": []}, out, skymethod="model")
    with pytest.raises(InputError, match="not a SKY_MASK"):
        reduce_tables(tables, given | {"SKY_MASK": given["SKY_LINES"]}, out, skymethod="simple")
    empty = tmp_path / "SKY_MASK.fits"
    with fits.open(products(modelled.folder / "sky", "SKY_MASK")) as hdus:
        hdus[0].data[:] = 0
        hdus.writeto(empty)
    with pytest.raises(InputError, match="no good row lies on the sky"):
        reduce_tables(tables, given | {"SKY_MASK": [empty]}, out, skymethod="simple")
    assert not out.exists()
