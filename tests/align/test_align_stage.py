import pytest
from astropy.io import fits

import musedeep as md
from musedeep.align.stage import alignment_state
from musedeep.cli import _main
from musedeep.offsets import OffsetTable
from musedeep.simulate import simulate_exposures


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Four exposures, the third ten times too bright."""
    return simulate_exposures(
        tmp_path_factory.mktemp("stage"), exposures=4, field_arcsec=10.0, wavelength=(6500.0, 6515.0),
        stars=6, galaxies=0, pointing_error_arcsec=0.5, star_flux=(3e4, 2e5), seed=4,
        flux_scale_error=(0, 0, 9.0, 0), fov_images=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tables, tmp_path_factory):
    field = md.Field.from_exposures(tables, tmp_path_factory.mktemp("finished") / "f", memory="1GB")
    return field, md.run(field, progress=False)


def test_a_run_measures_offsets_once(finished):
    field, report = finished
    assert report.stages[0].stage == "align" and report.stages[0].predicted_bytes < 1e9
    assert {path.rsplit("/", 1)[1] for path in report.stages[0].facts["files"]} >= {
        "offsets.fits",
        "offsets.ecsv",
        "offsets.png",
    }
    assert "it is left out" in field.log_path.read_text() and "verdict: aligned" in field.log_path.read_text()
    before = field.offsets_path.read_bytes()
    again = md.run(field, progress=False)
    assert again.stages[0].facts["files"] == [] and again.stages[2].facts["computed"] == 0
    assert field.offsets_path.read_bytes() == before


def test_an_exposure_that_is_set_aside_is_not_combined(finished):
    field, report = finished
    date = field.exposures.dates[2][:23]
    assert report.stages[0].facts["left_out"] == [date]
    cube = md.open_cube(field.cube_path)
    assert cube.exposure_count.max() == 3
    state = md.status(field)["stages"]["align"]
    assert state["left_out"] == [date] and state["done"] == 4 and state["verdict"] == "aligned"


def test_products_name_the_exposures_that_were_set_aside(finished):
    field, _ = finished
    assert md.open_cube(field.cube_path).attrs["left_out"] == [field.exposures.dates[2]]
    for path in sorted(field.products_dir.glob("*.fits")):
        header = fits.getheader(path)
        assert header["ESO DRS MUSE DEEP LEFTOUT1"] == field.exposures.dates[2]
        assert header["ESO QC DEEP NLEFTOUT"] == 1 and "ESO DRS MUSE DEEP LEFTOUT2" not in header
        assert header["NCOMBINE"] == 3


def test_other_settings_or_exposures_measure_anew(finished):
    field, _ = finished
    assert alignment_state(field)["state"] == "measured"
    assert alignment_state(field.changed(scale_limit=20.0))["state"] == "outdated"
    assert alignment_state(field.without(field.exposures.dates[0]))["state"] == "outdated"
    # what has nothing to do with it
    assert alignment_state(field.changed(pixfrac=0.8, memory="2GB"))["state"] == "measured"


def test_a_list_that_is_given_stays_as_it_is(tables, tmp_path, capsys):
    field = md.Field.from_exposures(tables, tmp_path / "f", memory="1GB")
    assert alignment_state(field)["state"] == "missing"
    truth = OffsetTable.read(tables[0].parent / "OFFSET_LIST.fits")
    truth.write(field.offsets_path)
    before = field.offsets_path.read_bytes()
    assert md.run(field, stages=("align",), progress=False).stages[0].facts["state"] == "given"
    assert field.offsets_path.read_bytes() == before
    assert alignment_state(field.changed(offsets="none"))["state"] == "off"
    assert field.changed(offsets="none").read_offsets() is None
    assert alignment_state(field.without(*field.exposures.dates[1:]))["state"] == "given"
    field.offsets_path.unlink()
    assert alignment_state(field.without(*field.exposures.dates[1:]))["state"] == "single"


def test_no_align_leaves_exposures_where_they_are(tables, tmp_path, capsys):
    words = [*map(str, tables), "-o", str(tmp_path / "f"), "--memory", "1GB"]
    assert _main(["run", *words, "--no-align", "--quiet"]) == 0
    assert "exposures are left where their headers say" in capsys.readouterr().out
    field = md.open_field(tmp_path / "f")
    assert field.settings.combine.offsets == "none" and not field.offsets_path.exists()
    assert md.open_cube(field.cube_path).exposure_count.max() == 4
    assert _main(["init", *words, "--no-align", "--offsets", "list.fits"]) == 2
    assert "not both" in capsys.readouterr().err


def test_a_list_that_leaves_out_all_is_refused(finished, tmp_path):
    field, _ = finished
    table = OffsetTable.read(field.offsets_path).table
    table["LEFT_OUT"] = 1.0
    OffsetTable(table).write(tmp_path / "none.fits")
    with pytest.raises(md.InputError, match="leaves out all 4 exposures"):
        field.changed(offsets=str(tmp_path / "none.fits")).combined_exposures(
            OffsetTable.read(tmp_path / "none.fits")
        )


def test_where_nothing_can_be_measured_exposures_stay_and_the_verdict_says_so(tmp_path):
    tables = simulate_exposures(
        tmp_path / "empty", exposures=2, field_arcsec=5.0, wavelength=(6500.0, 6510.0), stars=0, galaxies=0,
        fov_images=False,
    )  # fmt: skip
    field = md.Field.from_exposures(tables, tmp_path / "f", memory="1GB")
    facts = md.run(field, stages=("align",), progress=False).stages[0].facts
    assert facts["verdict"].startswith("unsolved") and facts["state"] == "measured"
    assert "all exposures are kept where their headers say" in field.log_path.read_text()
    assert all(field.read_offsets().lookup(date).ra_deg == 0 for date in field.exposures.dates)
    with pytest.raises(md.InputError, match="no image could be matched|show the same"):
        md.run(field.changed(unsolved="omit"), stages=("align",), progress=False)
