import pickle
import re
import tomllib

import numpy as np
import pytest

from musedeep import InputError, UsageError
from musedeep.exposures import night_of
from musedeep.field import Field, open_field
from musedeep.kinds import memory_bytes
from musedeep.settings import SECTIONS, Mask, Settings, setting_fields


@pytest.fixture
def field(write_table, tmp_path):
    paths = [write_table(number) for number in (3, 1, 2, 4)]
    return Field.from_exposures(paths, tmp_path / "udf10")


DATES = [f"2014-08-10T01:0{minute}:00.000" for minute in (1, 2, 3, 4)]


def test_field_toml_comes_back_as_it_was_written(write_table, tmp_path):
    mask = {"ifu": [6], "wavelength": [5577.1, 5578.3], "note": 'the "sky" line'}
    settings = {
        "pixfrac": (0.1 + 0.2, 0.7), "nclip": (3, 5.5), "keep_dq": ["telluric_corrected"], "rotation": 12.25,
        "select": "without=2014-08-10T01:01:00.000", "memory": "1.5 GB", "log": True, "masks": [mask],
    }  # fmt: skip
    made = Field.from_exposures(
        [write_table(1), write_table(2)], tmp_path / "f", name="a 'b' \\ c", **settings
    )
    read = open_field(tmp_path / "f")
    assert read == made
    assert read.settings.combine.pixfrac == (0.1 + 0.2, 0.1 + 0.2, 0.7)
    assert read.settings.masks == (Mask(ifu=[6], wavelength=[5577.1, 5578.3], note='the "sky" line'),)
    assert read.name == "a 'b' \\ c"
    assert read.to_toml() == made.toml.read_text()


def test_every_setting_stands_in_field_toml_with_its_meaning(field):
    text = field.toml.read_text()
    data = tomllib.loads(text)
    for section, item in setting_fields():
        assert item.name in data[section]
        assert f"# {item.metadata['help']}\n{item.name} = " in text


def test_setting_names_are_unique_and_settings_are_plain_data():
    names = [item.name for _, item in setting_fields()]
    # muse_exp_align and muse_exp_combine both have one of this name
    names.remove("weight")
    assert len(names) == len(set(names))
    changed = Settings().changed(weight="none", align={"weight": False})
    assert (changed.combine.weight, changed.align.weight) == ("none", False)
    settings = Settings().changed(masks=[{"slice": [3]}], grid="eso")
    assert settings.to_dict()["mask"] == [{"slice": [3]}]
    assert Settings.from_dict(settings.to_dict()) == settings


def test_hand_written_field_needs_exposures_only(write_table, tmp_path):
    write_table(1, folder=tmp_path / "f" / "data")
    toml = tmp_path / "f" / "field.toml"
    toml.write_text(
        "[combine]\npixfrac = 0.8\nsample = 27\n[[exposure]]\ndate_obs = 2014-08-10T01:01:00.000\n"
        'file = "data/PIXTABLE_REDUCED_0001.fits"\n'
    )
    field = open_field(toml)
    assert field.settings.combine.pixfrac == (0.8, 0.8, 0.8)
    assert field.settings.combine.sample == "27"
    assert field.settings.run == SECTIONS["run"]()
    assert field.name == "f"
    assert field.exposures[0].row_count == 20


def test_files_below_the_folder_are_relative_and_others_absolute(write_table, tmp_path):
    inside = write_table(1, folder=tmp_path / "f" / "data")
    outside = write_table(2, folder=tmp_path / "elsewhere")
    field = Field.from_exposures([inside, outside], tmp_path / "f", offsets=tmp_path / "f" / "o.fits")
    data = tomllib.loads(field.toml.read_text())
    assert [entry["file"] for entry in data["exposure"]] == ["data/PIXTABLE_REDUCED_0001.fits", str(outside)]
    assert data["combine"]["offsets"] == "o.fits"
    (tmp_path / "f").rename(tmp_path / "moved")
    moved = open_field(tmp_path / "moved")
    assert moved.sources[0].files == (tmp_path / "moved" / "data" / inside.name,)
    assert moved.settings.combine.offsets == str(tmp_path / "moved" / "o.fits")


def test_files_of_single_ifus_are_listed_together(write_table, tmp_path):
    date = "2014-08-10T01:01:00.000"
    files = [write_table(ifu, date, EXTNAME=f"CHAN{ifu:02d}") for ifu in (7, 2)]
    field = Field.from_exposures(files, tmp_path / "f")
    assert field.sources[0].files == (files[1], files[0])
    assert open_field(field.folder) == field
    assert len(open_field(field.folder).exposures) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("[combine]\npixfrak = 1", "unknown setting 'pixfrak' in [combine]; did you mean 'pixfrac'?"),
        ("[combine]\ndlambda = 1", "unknown setting 'dlambda' in [combine]; it belongs in [grid]"),
        ("[combin]\npixfrac = 1", "unknown setting 'combin' (a section); did you mean 'combine'?"),
        ("[combine]\npixfrac = 0", "pixfrac = 0 is not allowed: give a number above 0 to 10"),
        ("[combine]\npixfrac = [1, 1, 1, 1]", "pixfrac = [1, 1, 1, 1] is not allowed: give 1 to 3 values"),
        ("[combine]\nreject = 'kappa'", "reject = 'kappa' is not allowed: give one of guarded, eso, none"),
        ("[combine]\nnmax = 1.5", "nmax = 1.5 is not allowed: give a whole number from 1 to 20"),
        ("[combine]\nrc = nan", "rc = nan is not allowed"),
        ("[combine]\nrc = true", "rc = True is not allowed"),
        ("[combine]\nld = '2'", "ld = '2' is not allowed"),
        ("[combine]\nkeep_dq = ['cosmic']", "keep_dq = 'cosmic' is not allowed: give some of "),
        ("[combine]\nselect = 'half:C'", "select = 'half:C' is not allowed: give 'all', DATE-OBS values"),
        ("[combine]\nselect = []", "select = [] is not allowed"),
        ("[combine]\nlambdamin = 7000\nlambdamax = 6000", "lambdamin = 7000 is not below lambdamax = 6000"),
        ("[combine]\nweight = 'exptme'", "weight = 'exptme' is not allowed: give one of exptime, fwhm"),
        (
            "[grid]\ngrid = 'daat'",
            "grid = 'daat' is not allowed: give one of data, eso, or the name of a file",
        ),
        ("[grid]\nrotation = 'nort'", "rotation = 'nort' is not allowed: give one of north, minimise, or a"),
        ("[grid]\nlog = 1", "log = 1 is not allowed: give true or false"),
        ("[run]\nmemory = '4'", "memory = '4' is not allowed: give a size of at least 1 MB"),
        ("[run]\nmemory = '4 GX'", "memory = '4 GX' is not allowed"),
        ("[[mask]]\nnote = 'x'", "mask: names no rows"),
        ("[[mask]]\nifu = [25]", "ifu = 25 is not allowed: give a whole number from 1 to 24"),
        ("[[mask]]\nwavelength = [6000]", "mask: wavelength = [6000.0] is not allowed: give [low, high]"),
        (
            "[[mask]]\nwavelenth = [6000]",
            "unknown setting 'wavelenth' in [[mask]]; did you mean 'wavelength'?",
        ),
        ("format = 9", "format = 9 is not known to this version"),
        ("[[exposure]]\nfile = 'x.fits'", "[[exposure]] wants file = ... and date_obs = ..."),
        ("[combine", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_field_toml_is_named(field, change, words):
    entries = field.toml.read_text()
    field.toml.write_text(change + "\n" + entries[entries.index("\n[[exposure]]") :])
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        open_field(field.folder)
    assert str(caught.value).startswith(f"{field.toml}: ")


def test_field_without_exposures_or_with_one_twice_is_refused(field):
    text = field.toml.read_text()
    field.toml.write_text(text + text[text.rindex("[[exposure]]") :])
    with pytest.raises(UsageError, match="DATE-OBS 2014-08-10T01:04:00.000 is listed 2 times"):
        open_field(field.folder)
    field.toml.write_text("name = 'empty'\n")
    with pytest.raises(UsageError, match="it lists no exposure"):
        open_field(field.folder)
    with pytest.raises(UsageError, match="there is no .*field.toml; make one with `musedeep init"):
        open_field(field.folder / "nowhere")


def test_another_field_toml_is_not_overwritten_unasked(write_table, tmp_path):
    paths = [write_table(1)]
    first = Field.from_exposures(paths, tmp_path / "f")
    edited = first.toml.read_text() + "# a remark by hand\n"
    first.toml.write_text(edited)
    Field.from_exposures(paths, tmp_path / "f")
    assert first.toml.read_text() == edited
    with pytest.raises(UsageError, match="exists and says something else"):
        Field.from_exposures(paths, tmp_path / "f", pixfrac=0.9)
    assert open_field(first.folder) == first
    Field.from_exposures(paths, tmp_path / "f", pixfrac=0.9, overwrite=True)
    assert open_field(first.folder).settings.combine.pixfrac == (0.9, 0.9, 0.9)


def test_field_toml_that_is_broken_is_not_overwritten_unasked(write_table, tmp_path):
    field = Field.from_exposures([write_table(1)], tmp_path / "f")
    field.toml.write_text("[combine")
    with pytest.raises(UsageError, match="not valid TOML"):
        Field.from_exposures([field.sources[0].files[0]], tmp_path / "f")
    assert field.toml.read_text() == "[combine"


def test_unwritable_folder_is_named(write_table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write .*field.toml: .*choose a folder that you may write"):
        Field.from_exposures([write_table(1)], tmp_path / "file" / "f")


def test_exposures_are_sorted_and_found_by_date_and_name(field):
    assert field.exposures.dates == DATES
    assert [exposure.date_obs for exposure in field.exposures] == DATES
    assert field.exposures[DATES[2]].date_obs == DATES[2]
    assert field.exposures[field.exposures[1].name].date_obs == DATES[1]
    with pytest.raises(InputError, match="has no exposure '2014-01-01'"):
        field.exposures["2014-01-01"]


@pytest.mark.parametrize(
    ("which", "places"),
    [
        ("all", (0, 1, 2, 3)),
        ("half:A", (0, 2)),
        ("half:B", (1, 3)),
        ("every:3", (0, 3)),
        (f"without={DATES[0]},{DATES[2]}", (1, 3)),
        ((DATES[3], DATES[1]), (1, 3)),
        ((DATES[3] + "9",), (3,)),
    ],
)
def test_selection(field, which, places):
    assert field.exposures.select(which) == places
    assert field.changed(select=which).settings.combine.select == which


def test_selection_by_night_and_by_observing_block(write_table, tmp_path):
    """A night begins at noon at the telescope; nights are counted as they come, whatever their dates."""
    dates = [
        "2014-08-10T23:00:00.000",
        "2014-08-11T04:00:00.000",
        "2014-08-11T23:30:00.000",
        "2014-08-13T02:00:00.000",
    ]
    blocks = ["a", "a", "b", "b"]
    paths = [
        write_table(n, date_obs=date, **{"ESO OBS NAME": f"udf {block}", "ESO OBS ID": 100 + n // 2})
        for n, (date, block) in enumerate(zip(dates, blocks, strict=True))
    ]
    field = Field.from_exposures(paths, tmp_path / "nights")
    assert [night_of(date) for date in dates] == ["2014-08-10", "2014-08-10", "2014-08-11", "2014-08-12"]
    assert field.exposures.select("night:odd") == (0, 1, 3)
    assert field.exposures.select("night:even") == (2,)
    assert field.exposures.select("ob:udf b") == (2, 3)
    assert field.exposures.select("ob:100") == (0, 1)
    assert field.changed(select="ob:udf b").settings.combine.select == "ob:udf b"
    with pytest.raises(UsageError, match="leaves none"):
        field.exposures.select("ob:udf c")
    with pytest.raises(UsageError, match="night:odd"):
        field.changed(select="night:first")


def test_selection_of_nothing_or_of_the_unknown_is_refused(field):
    with pytest.raises(UsageError, match="has no exposure with DATE-OBS '2019-01-01T00:00:00'"):
        field.exposures.select("without=2019-01-01T00:00:00")
    with pytest.raises(UsageError, match="leaves none of the 4 exposures"):
        field.exposures.select("without=" + ",".join(DATES))


def test_info_table(field):
    table = field.exposures.info()
    assert list(table["DATE_OBS"]) == DATES
    assert table["EXPTIME"].unit == "s" and list(table["EXPTIME"]) == [1500.0] * 4
    assert list(table["PA"]) == [-90.0] * 4
    assert list(table["ROWS"]) == [20] * 4
    assert list(table["SEEING"]) == [0.8] * 4
    assert list(table["SIZE"]) == [source.files[0].stat().st_size for source in field.sources]
    assert DATES[2] in field.exposures._repr_html_()
    assert repr(field.exposures) == f"<4 exposures, {DATES[0]} to {DATES[3]}>"


def test_seeing_is_the_autoguider_s_where_there_is_one(write_table, tmp_path):
    guided = {"ESO OCS SGS AG FWHMX AVG": 0.6, "ESO OCS SGS AG FWHMY AVG": 0.7}
    paths = [write_table(1, **guided), write_table(2, **{"ESO TEL IA FWHM": 0.0})]
    seeing = Field.from_exposures(paths, tmp_path / "f").exposures.info()["SEEING"]
    assert np.allclose(seeing, [0.65, np.nan], equal_nan=True)


def test_a_missing_or_replaced_file_is_named(field, write_table):
    files = [source.files[0] for source in field.sources]
    spare = files[0].with_name("spare.fits")
    files[0].rename(spare)
    with pytest.raises(InputError, match=f"exposure {DATES[0]}: there is no file .*PIXTABLE_REDUCED_0001"):
        len(open_field(field.folder).exposures.info())
    files[1].rename(files[0])
    spare.rename(files[1])
    with pytest.raises(InputError, match=f"DATE-OBS is {DATES[0]}, but .* lists the file for {DATES[1]}"):
        open_field(field.folder).exposures[0]


def test_adding_exposures_keeps_the_text_of_field_toml(field, write_table):
    field.toml.write_text("# mine\n" + field.toml.read_text())
    before = field.toml.read_text()
    earlier = write_table(0)
    grown = open_field(field.folder).add_exposures([earlier, field.sources[0].files[0]])
    assert grown.toml.read_text().startswith(before)
    assert open_field(field.folder) == grown
    assert grown.exposures.dates == ["2014-08-10T01:00:00.000", *DATES]


def test_adding_another_file_of_a_known_exposure_is_refused(field, write_table):
    other = write_table(9, DATES[1])
    with pytest.raises(InputError, match=f"has an exposure with DATE-OBS {DATES[1]} already"):
        field.add_exposures([other])


def test_without_leaves_field_toml_alone_until_it_is_written(field):
    fewer = field.without(DATES[0], DATES[3])
    assert fewer.exposures.dates == DATES[1:3]
    assert open_field(field.folder) == field
    fewer.write()
    assert open_field(field.folder) == fewer


def test_a_mask_names_exposures_of_the_field(field):
    with pytest.raises(UsageError, match="mask: exposures = '2014-08-10T01:09:00.000' is none of this field"):
        field.changed(masks=[{"exposures": ["2014-08-10T01:09:00.000"], "ifu": [3]}])
    masks = [
        {"exposures": [DATES[0]], "ifu": [1]},
        {"exposures": DATES[:2], "ifu": [2]},
        {"ifu": [3]},
    ]
    masked = field.changed(masks=masks)
    masked.write()
    assert open_field(field.folder) == masked
    fewer = masked.without(DATES[0])
    assert [mask.exposures for mask in fewer.settings.masks] == [(DATES[1],), ()]
    text = masked.toml.read_text().replace(
        f'exposures = ["{DATES[0]}"]', 'exposures = ["2013-01-01T00:00:00"]'
    )
    masked.toml.write_text(text)
    with pytest.raises(UsageError, match="field.toml: mask: exposures = '2013-01-01T00:00:00' is none of"):
        open_field(field.folder)


def test_changed_settings_leave_the_field_alone(field):
    changed = field.changed(nclip=3, select="half:A")
    assert changed.settings.combine.nclip == (3.0, 3.0)
    assert field.settings.combine.nclip == (4.0, 4.0)
    with pytest.raises(UsageError, match="unknown setting 'nclp'; did you mean 'nclip'"):
        field.changed(nclp=3)


def test_field_travels_without_the_headers_it_read(field):
    small = len(pickle.dumps(field))
    assert len(field.exposures.info()) == 4
    assert len(pickle.dumps(field)) == small
    assert pickle.loads(pickle.dumps(field)) == field


def test_offsets_are_the_settings_or_the_field_s_own(field, tmp_path):
    from astropy.table import Table

    assert field.read_offsets() is None
    Table({"DATE_OBS": [DATES[0]], "RA_OFFSET": [1e-4], "DEC_OFFSET": [0.0]}).write(field.folder / "o.ecsv")
    given = field.changed(offsets=field.folder / "o.ecsv")
    given.read_offsets().write(field.offsets_path)
    assert field.read_offsets().lookup(DATES[0]).ra_deg == pytest.approx(1e-4)
    assert given.read_offsets().lookup(DATES[0]).ra_deg == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4 * 10**9),
        ("4 gib", 4 * 2**30),
        ("512MiB", 512 * 2**20),
        ("1.5e9", 1500000000),
        ("2T", 2 * 10**12),
    ],
)
def test_memory_sizes_agree_with_dask(text, size):
    from dask.utils import parse_bytes

    assert memory_bytes(text) == size == parse_bytes(text)
