"""Files and settings that cannot be combined: what the user is told, and that nothing is made of them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fields import assert_same_bits, change_table, ingested, make_field, maps_of, read_table, write_rows

from musedeep.combine import combine_exposures
from musedeep.errors import InputError
from musedeep.ingest import ingest_exposures
from musedeep.recipe import prepare
from musedeep.simulate import simulate_exposures


@pytest.fixture(scope="module")
def two_files(tmp_path_factory):
    """Two small simulated pixel tables."""
    return simulate_exposures(
        tmp_path_factory.mktemp("two"),
        exposures=2,
        field_arcsec=3.0,
        wavelength=(6500, 6506),
        fov_images=False,
    )


@pytest.fixture
def files(two_files, tmp_path):
    """Copies of them that a test may spoil."""
    (tmp_path / "in").mkdir()
    return [Path(shutil.copy2(path, tmp_path / "in")) for path in two_files]


def refused(musedeep, files, tmp_path, *options, code=4):
    """Run everything on files, expect an error; its text."""
    found, _, error = musedeep("run", *files, "-o", tmp_path / "field", "--quiet", *options)
    assert found == code, error
    assert error.startswith("musedeep: error: ") and "Traceback" not in error
    assert not (tmp_path / "field" / "cube.zarr").exists()
    assert not (tmp_path / "field" / "products").exists()
    return error


# ------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.999])
def test_a_truncated_file(musedeep, files, tmp_path, share):
    with files[1].open("r+b") as file:
        file.truncate(int(files[1].stat().st_size * share) - 2880 * (share > 0.99))
    error = refused(musedeep, files, tmp_path)
    assert re.search(r"PIXTABLE_REDUCED_0002.fits: truncated: .*copy it again", error)


def test_a_file_cut_after_it_was_looked_at(files, tmp_path):
    field = make_field(files, tmp_path / "field")
    list(field.exposures)
    with files[1].open("r+b") as file:
        file.truncate(files[1].stat().st_size // 2 + 7)
    with pytest.raises(InputError, match="PIXTABLE_REDUCED_0002.fits: truncated: .*copy it again"):
        ingest_exposures(field)


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "not a (FITS file|pixel table): it"),
        (b"DATE-OBS,RA\n1,2\n" * 500, "not a FITS file .it does not begin with SIMPLE"),
        (b"\x1f\x8b" + b"0" * 5000, "not a FITS file .it is compressed, unpack it first"),
        (b"SIMPLE  =" + b" " * 6000, "truncated|broken header"),
    ],
)
def test_a_file_that_is_no_fits(musedeep, files, tmp_path, content, text):
    files[0].write_bytes(content)
    assert re.search(f"PIXTABLE_REDUCED_0001.fits: ({text})", refused(musedeep, files, tmp_path))


def test_a_fits_file_that_is_no_pixel_table(musedeep, files, tmp_path):
    header = fits.Header({"HIERARCH ESO PRO CATG": "DATACUBE_FINAL"})
    hdus = [fits.PrimaryHDU(header=header), fits.ImageHDU(np.zeros((3, 4, 5), np.float32), name="DATA")]
    fits.HDUList(hdus).writeto(files[0], overwrite=True)
    error = refused(musedeep, files, tmp_path)
    assert re.search(r"0001.fits: not a pixel table: .*DATACUBE_FINAL.*give PIXTABLE_REDUCED files", error)


@pytest.mark.parametrize("name", ["xpos", "lambda", "stat", "dq", "origin"])
def test_a_missing_column(musedeep, files, tmp_path, name):
    with fits.open(files[1]) as hdus:
        kept = fits.HDUList([hdu.copy() for hdu in hdus if hdu.header.get("EXTNAME") != name])
    kept.writeto(files[1], overwrite=True)
    assert f"PIXTABLE_REDUCED_0002.fits: column '{name}' is missing" in refused(musedeep, files, tmp_path)


def test_a_column_of_the_wrong_type(musedeep, files, tmp_path):
    with fits.open(files[1]) as hdus:
        changed = [hdu.copy() for hdu in hdus]
        changed[4] = fits.ImageHDU(hdus[4].data.astype(np.float64), hdus[4].header)
    fits.HDUList(changed).writeto(files[1], overwrite=True)
    error = refused(musedeep, files, tmp_path)
    assert "PIXTABLE_REDUCED_0002.fits: column 'data' has type float64; float32 is wanted" in error


@pytest.mark.parametrize(
    "name, unit, text",
    [
        ("xpos", "pix", "column 'xpos' has unit 'pix', 'rad' is wanted: .*not projected to the sky yet"),
        (
            "ypos",
            "deg",
            "column 'ypos' has unit 'deg', 'rad' is wanted: .*already positioned .*PIXTABLE_COMBINED",
        ),
        ("lambda", "nm", "column 'lambda' has unit 'nm'; 'Angstrom' is wanted"),
        ("stat", "count", "column 'stat' has unit 'count'; the square of"),
        ("data", "count", "column 'stat' has unit .*; the square of 'count' is wanted"),
    ],
)
def test_a_wrong_unit(musedeep, files, tmp_path, name, unit, text):
    with fits.open(files[0], mode="update") as hdus:
        next(hdu for hdu in hdus[1:] if hdu.header["EXTNAME"] == name).header["BUNIT"] = unit
    assert re.search(f"PIXTABLE_REDUCED_0001.fits: {text}", refused(musedeep, files, tmp_path))


def test_other_flux_units(musedeep, files, tmp_path):
    with fits.open(files[0], mode="update") as hdus:
        for hdu in hdus[1:]:
            if hdu.header["EXTNAME"] in ("data", "stat"):
                hdu.header["BUNIT"] = "count" if hdu.header["EXTNAME"] == "data" else "count**2"
    error = refused(musedeep, files, tmp_path)
    assert re.search(
        "different flux units: .*'count' in .*0001.fits.*erg.*0002.fits.*calibrate all of them alike", error
    )


# -------------------------------------------------------------------------------------- the exposures


def test_two_tables_of_one_exposure(musedeep, files, tmp_path):
    twin = shutil.copy2(files[0], tmp_path / "in" / "TWIN.fits")
    error = refused(musedeep, [*files, twin], tmp_path)
    assert re.search(
        r"two pixel tables have DATE-OBS 2014-08-10T01:00.*0001.fits and .*TWIN.fits; .*remove one", error
    )


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_no_exposure_time(musedeep, files, tmp_path, value):
    change_table(files[1], cards={"EXPTIME": value})
    error = refused(musedeep, files, tmp_path)
    assert f"PIXTABLE_REDUCED_0002.fits: EXPTIME is {value:g} s, not positive; correct the header" in error


@pytest.mark.parametrize("keyword", ["EXPTIME", "RA", "DEC", "DATE-OBS"])
def test_a_missing_keyword(musedeep, files, tmp_path, keyword):
    with fits.open(files[1], mode="update") as hdus:
        del hdus[0].header[keyword]
    error = refused(musedeep, files, tmp_path)
    assert re.search(f"PIXTABLE_REDUCED_0002.fits: keyword {keyword}.* missing; correct", error)


def test_no_common_field(musedeep, files, tmp_path):
    change_table(files[1], cards={"DEC": 3.0})
    error = refused(musedeep, files, tmp_path)
    assert re.search(
        r"the exposures have no common field: 2014-08-10T01:00\S+ and 0 more lie together; then there are "
        r"2014-08-10T01:17\S+ and 0 more, 47\.\d arcmin away. Make a field of each group", error
    )  # fmt: skip


def test_fields_on_both_sides_of_the_sky(musedeep, files, tmp_path):
    change_table(files[1], cards={"DEC": -80.0, "RA": 330.0})
    assert re.search("common field|combine them apart", refused(musedeep, files, tmp_path))


def test_no_files(musedeep, tmp_path):
    error = refused(musedeep, [tmp_path / "nothing*.fits"], tmp_path)
    assert "no file matches" in error and "nothing*.fits" in error
    error = refused(musedeep, [tmp_path / "gone.fits"], tmp_path)
    assert re.search("gone.fits: cannot be opened .No such file", error)


# ---------------------------------------------------------------------------------------- the offsets


def test_an_offset_list_that_matches_nothing(musedeep, files, tmp_path):
    Table({"DATE_OBS": ["2010-01-01T00:00:00.000"], "RA_OFFSET": [0.0], "DEC_OFFSET": [0.0]}).write(
        tmp_path / "o.ecsv"
    )
    error = refused(musedeep, files, tmp_path, "--offsets", tmp_path / "o.ecsv")
    assert re.search(
        "none of its 1 rows matches one of the 2 exposures; the first exposure has DATE-OBS 2014-08-10T01.*"
        "list has DATE_OBS 2010-01-01T00:00:00.000. Give the list that belongs to these exposures", error
    )  # fmt: skip


@pytest.mark.parametrize("what", ["gone", "text", "columns"])
def test_an_offset_list_that_is_none(musedeep, files, tmp_path, what):
    if what == "text":
        (tmp_path / "o.ecsv").write_text("hello\n")
    elif what == "columns":
        Table({"DATE_OBS": ["2014"], "RA": [0.0]}).write(tmp_path / "o.ecsv")
    error = refused(musedeep, files, tmp_path, "--offsets", tmp_path / "o.ecsv")
    text = {
        "gone": "o.ecsv: cannot be read",
        "text": "neither FITS nor an ECSV",
        "columns": "column RA_OFFSET is missing",
    }
    assert "o.ecsv" in error and text[what] in error


def test_an_offset_that_moves_an_exposure_out_of_the_field(musedeep, files, tmp_path, two_files):
    dates = [fits.getheader(path)["DATE-OBS"] for path in two_files]
    Table({"DATE_OBS": dates, "RA_OFFSET": [0.0, 0.0], "DEC_OFFSET": [0.0, 0.2]}).write(tmp_path / "o.ecsv")
    error = refused(musedeep, files, tmp_path, "--offsets", tmp_path / "o.ecsv")
    assert "no common field" in error and "correct RA, DEC or the offsets" in error


# ------------------------------------------------------------------------------------ broken coordinates


def test_rows_without_coordinates_are_left_out(files, tmp_path):
    """A tenth of the rows lost their coordinates; the others make the cube."""
    lost = np.random.default_rng(0).random(len(read_table(files[1])["data"])) < 0.1
    other = shutil.copy2(files[1], tmp_path / "flagged.fits")
    for column in ("xpos", "lambda"):
        change_table(files[1], {column: lambda v: np.where(lost, np.nan, v)})
    change_table(other, {"dq": lambda v: v | 0x4000 * lost})
    found = ingested(files, tmp_path / "a")
    facts = list(ingest_exposures(found).values())
    assert facts[1]["dropped_count"] == lost.sum() and facts[0]["dropped_count"] == 0
    flagged = ingested([files[0], other], tmp_path / "b")
    grid = prepare(found).grid
    assert_same_bits(maps_of(found, grid=grid), maps_of(flagged, grid=grid))


def test_coordinates_that_are_all_broken(musedeep, files, tmp_path):
    change_table(files[1], {"ypos": lambda v: v * np.nan})
    error = refused(musedeep, files, tmp_path)
    assert re.search(
        r"exposure 2014-08-10T01:17\S+ .*0002.fits.: none of its \d+ rows has usable coordinates", error
    )


def test_coordinates_in_another_unit_than_they_say(musedeep, files, tmp_path):
    change_table(files[1], {"ypos": lambda v: np.degrees(v) * 60})
    error = refused(musedeep, files, tmp_path)
    assert re.search(
        "0002.fits.: .*arcsec from the pointing; at most 300 are possible. Its coordinates are broken", error
    )


# ------------------------------------------------------------------------------------------- 0h and poles


@pytest.mark.parametrize("dec", [0.0, -60.0, 84.0])
@pytest.mark.parametrize("grid", ["data", "eso"])
def test_a_field_across_0h_is_the_field_elsewhere_turned(tmp_path, dec, grid):
    """Same rows, other place on the sky: the same cube. The pointings lie on both sides of 0h."""
    made = []
    for name, ra in (("0h", 0.0), ("8h", 120.0)):
        paths = simulate_exposures(
            tmp_path / name, exposures=4, field_arcsec=3.0, wavelength=(6500, 6506), ra_deg=ra, dec_deg=dec,
            dither_arcsec=1.5, fov_images=False,
        )  # fmt: skip
        field = ingested(paths, tmp_path / name / "field", grid=grid)
        made.append((field, combine_exposures(field)))
    across = [exposure.ra_deg for exposure in made[0][0].exposures]
    assert min(across) < 1 and max(across) > 359
    (_, first), (_, second) = made
    if grid == "eso":  # float32 rounds absolute positions, which moves the grid a little
        assert first.flux.shape[1:] == pytest.approx(second.flux.shape[1:], abs=1)
        assert float(first.weight.sum()) == pytest.approx(float(second.weight.sum()), rel=0.03)
        return
    assert first.flux.shape == second.flux.shape
    for name, rtol in (("flux", 2e-3), ("weight", 2e-3)):
        a, b = first[name].values, second[name].values
        both = np.isfinite(a) & np.isfinite(b)
        assert both.mean() > 0.999 * np.isfinite(a).mean()
        close = np.isclose(a[both], b[both], rtol=rtol, atol=0.05)
        assert close.mean() > 0.99, name


# ------------------------------------------------------------------------------------------ other mistakes


def test_an_input_that_changed_after_the_ingest(musedeep, files, tmp_path):
    folder = tmp_path / "field"
    assert musedeep("init", *files, "-o", folder)[0] == 0
    assert musedeep("ingest", folder, "--quiet")[0] == 0
    change_table(files[0], {"data": lambda v: v + 1})
    code, _, error = musedeep("combine", folder, "--quiet")
    assert code == 4
    assert re.search(
        r"PIXTABLE_REDUCED_0001.fits: the file changed after exposure .*; run the ingest stage again", error
    )
    assert musedeep("run", folder, "--quiet")[0] == 0
    assert (folder / "products" / "DATACUBE_DEEP.fits").exists()


def test_an_input_that_is_gone_after_the_init(musedeep, files, tmp_path):
    assert musedeep("init", *files, "-o", tmp_path / "field")[0] == 0
    files[0].unlink()
    code, _, error = musedeep("run", tmp_path / "field", "--quiet")
    assert code == 4
    assert re.search(
        "exposure 2014-08-10T01:00.*: there is no file .*0001.fits; correct its entry in .*field.toml", error
    )


def test_combining_before_the_ingest(musedeep, files, tmp_path):
    musedeep("init", *files, "-o", tmp_path / "field")
    code, _, error = musedeep("combine", tmp_path / "field", "--quiet")
    assert code == 4 and "pixels.zarr: there is no pixel store here" in error


def test_too_little_memory_is_refused_before_anything_runs(musedeep, files, tmp_path):
    error = refused(musedeep, files, tmp_path, "--memory", "200MB", code=3)
    assert re.search(r"memory = 200 ?MB.*(are|is) needed|needs at least \d+ MB|too little", error)
    assert not (tmp_path / "field" / "pixels.zarr").exists()


def test_a_grid_without_end(musedeep, files, tmp_path):
    error = refused(musedeep, files, tmp_path, "--dx", "0.0000001")
    assert "voxels" in error and "check dx, dy, dlambda and the offsets" in error


def test_rows_on_one_line_or_in_one_point_still_make_a_cube(tmp_path):
    line = write_rows(
        tmp_path / "line", np.linspace(-2, 2, 30), np.zeros(30), np.linspace(6500, 6510, 30), 1.0
    )
    point = write_rows(tmp_path / "point", np.zeros(9), np.zeros(9), np.full(9, 6500.0), 2.0)
    for path in (line, point):
        maps = maps_of(ingested([path], path.parent / "field"))
        assert np.nanmax(maps["flux"]) == (1.0 if path is line else 2.0)
