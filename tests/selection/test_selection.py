"""The selection as a whole: a simulated archive, what tomorrow's exposures change, folders, commands."""

import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest
from frames import arcfile_of, date_of, east, groups, select, write_frame

import musedeep as md
from musedeep.cli import _main
from musedeep.errors import InputError, UsageError
from musedeep.field import open_field
from musedeep.lock import run_lock
from musedeep.select import select_exposures
from musedeep.simulate import simulate_exposures
from musedeep.simulate.archive import simulate_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A simulated archive of 1100 headers; folder."""
    folder = tmp_path_factory.mktemp("archive")
    simulate_archive(folder, 1100, seed=5, spare_cards=20)
    return folder


def tables(folder):
    return {"grades": folder / "ob_grades.csv", "nightlog": folder / "nightlog.csv"}


@pytest.fixture(scope="module")
def found(archive):
    return select_exposures(archive, **tables(archive))


def pair_count(names):
    return sum(n * (n - 1) // 2 for n in Counter(names).values())


def test_an_archive_is_grouped_as_it_was_made(archive, found):
    truth = json.loads((archive / "truth.json").read_text())
    home = {date: d.name for d in found.datasets for date in d.all_dates}
    objects = [date for date in truth if truth[date]["dataset"] != "SKY"]
    predicted = {date: home.get(date, date) for date in objects}
    true = {date: truth[date]["dataset"] for date in objects}
    right = pair_count([(predicted[date], true[date]) for date in objects])
    assert len(set(true.values())) >= 60
    assert right / pair_count(predicted.values()) >= 0.99
    assert right / pair_count(true.values()) >= 0.99
    # and every exposure is taken, or left out, as it should be
    taken = {date for d in found.datasets for date in d.dates}
    assert [date for date in truth if truth[date]["taken"] != (date in taken)] == []


def test_what_no_rule_can_know_is_told(found):
    assert any("R16: sgr-stream overlaps it" in text for text in found["pal-5-core"].looks)
    assert any("different names" in text for text in found["a370"].looks)


def test_decisions_do_not_depend_on_the_order_of_the_files(archive, found, tmp_path):
    paths = sorted(archive.glob("*.fits"))
    rng = np.random.default_rng(1)
    for name, path in zip(rng.permutation(len(paths)), paths, strict=True):
        # other names make another order of the files in the index
        os.link(path, tmp_path / f"{name:04d}.fits")
    shuffled = sorted(tmp_path.glob("*.fits"))
    rng.shuffle(shuffled)
    other = select_exposures(shuffled, **tables(archive))

    def plain(selection):
        data = selection.to_dict()
        for decision in [*data["loose"], *(d for f in data["fields"].values() for d in f["decisions"])]:
            del decision["files"]
        for facts in data["fields"].values():
            for left in facts["selection"].get("left_out", ()):
                del left["file"]
        return data

    assert plain(other) == plain(found)


def field_times(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/field.toml")}


def two_fields(folder):
    for number in range(8):
        place = {} if number < 4 else {"ra": east(600), "target": "other"}
        write_frame(folder, number, **place)


def test_tomorrows_exposures_update_only_their_fields(tmp_path):
    fields = tmp_path / "fields"
    two_fields(tmp_path / "night1")
    first = select_exposures(tmp_path / "night1", fields, today="2014-12-12")
    assert (first.read, sorted(first.written)) == (8, ["ngc-300", "other"])
    before = field_times(fields)
    again = select_exposures((), fields, today="2014-12-12")
    assert (again.read, again.written) == (0, []) and field_times(fields) == before
    # the next night: one more OB of the second field, under a new name of the target
    for number in (8, 9):
        write_frame(tmp_path / "night2", number, ra=east(601), target="another name", run="095.A-0001(A)")
    later = select_exposures(tmp_path / "night2", fields, today="2014-12-14")
    assert (later.read, later.written) == (2, ["other"])
    assert field_times(fields)["ngc-300"] == before["ngc-300"]
    assert open_field(fields / "other").exposures.dates == [date_of(n) for n in range(4, 10)]
    assert later["other"].version == 1


def test_a_complete_field_that_grows_is_a_new_version(tmp_path):
    fields = tmp_path / "fields"
    two_fields(tmp_path / "raw")
    select_exposures(tmp_path / "raw", fields, today="2016-01-01")
    old = (fields / "other" / "field.toml").read_text()
    write_frame(tmp_path / "raw", 8, ra=east(600), target="other")
    later = select_exposures(tmp_path / "raw", fields, today="2016-01-02")
    assert [(d.name, d.version) for d in later.datasets] == [("ngc-300", 1), ("other", 2)]
    assert (fields / "other" / "field.v1.toml").read_text() == old
    assert "R17: supersedes version 1, of 4 exposures" in later["other"].looks
    times = field_times(fields)
    assert select_exposures((), fields)["other"].version == 2 and field_times(fields) == times


def test_a_field_that_was_made_and_grows_is_a_new_version(tmp_path):
    fields = tmp_path / "fields"
    two_fields(tmp_path / "raw")
    select_exposures(tmp_path / "raw", fields, today="2014-12-12")
    (fields / "other" / "products").mkdir()
    write_frame(tmp_path / "raw", 8, ra=east(600), target="other")
    write_frame(tmp_path / "raw", 9)
    later = select_exposures(tmp_path / "raw", fields, today="2014-12-12")
    assert [(d.name, d.version) for d in later.datasets] == [("ngc-300", 1), ("other", 2)]


def test_a_field_that_is_none_any_more_is_put_aside(tmp_path):
    fields = tmp_path / "fields"
    two_fields(tmp_path / "raw")
    select_exposures(tmp_path / "raw", fields)
    (fields / "targets.yaml").write_text("join: [[other, NGC 300]]")
    joined = select_exposures((), fields)
    assert [d.name for d in joined.datasets] == ["ngc-300"] and joined.retired == ["other"]
    assert not (fields / "other" / "field.toml").exists() and (fields / "other" / "field.v1.toml").exists()
    (fields / "targets.yaml").write_text("blocks: {100: reject, 101: reject, 102: reject, 103: reject}")
    none = select_exposures((), fields)
    assert [d.case for d in none.datasets] == ["none", "none"] and none.retired == ["ngc-300"]


def test_settings_of_a_field_are_kept(tmp_path):
    fields = tmp_path / "fields"
    two_fields(tmp_path / "raw")
    select_exposures(tmp_path / "raw", fields)
    masks = [
        {"exposures": [date_of(0)], "ifu": [3]},
        {"exposures": [date_of(0), date_of(1)], "ifu": [4]},
        {"ifu": [5]},
    ]
    open_field(fields / "ngc-300").changed(pixfrac=0.8, masks=masks).write()
    (fields / "targets.yaml").write_text(f"exposures: {{{date_of(0)}: reject}}")
    select_exposures((), fields)
    field = open_field(fields / "ngc-300")
    assert field.settings.combine.pixfrac == (0.8, 0.8, 0.8)
    # masks that name no exposure that is left would stop the field from being opened
    assert [mask.ifu for mask in field.settings.masks] == [(4,), (5,)]
    assert field.exposures.dates == [date_of(n) for n in (1, 2, 3)]


def test_field_toml_says_why(tmp_path):
    select(tmp_path, {}, {}, {}, {"seeing": 1.9}, {"seeing": 3.0}, output=tmp_path / "fields")
    field = open_field(tmp_path / "fields" / "ngc-300")
    said = field.selection
    assert (said["case"], said["version"], said["exposures"], said["observing_blocks"]) == ("deep", 1, 4, 2)
    (left,) = said["left_out"]
    assert (left["date_obs"], left["rule"], left["allowed"]) == (date_of(4), "R7", "2 times")
    assert left["value"] == "3.00 arcsec, 3.00 times 1.00 requested"
    assert any(date_of(3) in text and "borderline seeing" in text for text in said["look_at"])
    # what was said stays when the field is changed and written again
    field.changed(pixfrac=0.7).write()
    assert open_field(field.folder).selection == said


def test_fields_are_accepted_until_their_exposures_change(tmp_path):
    fields = tmp_path / "fields"
    two_fields(tmp_path / "raw")
    found = select_exposures(tmp_path / "raw", fields, accept="other")
    assert [d.accepted for d in found.datasets] == [False, True]
    assert open_field(fields / "other").selection["confirmed"] is True
    assert [d.accepted for d in select_exposures((), fields).datasets] == [False, True]
    write_frame(tmp_path / "raw", 8, ra=east(600), target="other")
    assert [d.accepted for d in select_exposures(tmp_path / "raw", fields).datasets] == [False, False]
    assert [d.accepted for d in select_exposures((), fields, accept="all").datasets] == [True, True]
    with pytest.raises(UsageError, match="there is no field 'nowhere'; there are ngc-300, other"):
        select_exposures((), fields, accept=["nowhere"])


def test_names_of_fields(tmp_path):
    exposures = [
        {}, {}, {"ra": east(600)}, {"ra": east(600)},  # one name, two places
        {"ra": 10.0, "target": "UDF-01"}, {"ra": 10.0, "target": "UDF-02"},
        {"ra": 20.0, "target": "N1", "mode": "WFM-NOAO-E"}, {"ra": 20.0, "target": "N1"},
        {"ra": 30.0, "target": None, "OBJECT": None, "ob_name": None},
    ]  # fmt: skip
    names = [d.name for d in select(tmp_path, *exposures).datasets]
    assert names == ["field", "n1-e", "n1-n", "ngc-300-j1000-3000", "ngc-300-j1000-3000-2", "udf"]


def test_one_selection_at_a_time_works_on_a_folder(tmp_path):
    write_frame(tmp_path / "raw", 0)
    fields = tmp_path / "fields"
    fields.mkdir()
    with run_lock(fields / "select.lock"):
        with pytest.raises(UsageError, match=f"another run works on {fields}: process {os.getpid()}"):
            select_exposures(tmp_path / "raw", fields)
    assert list(fields.iterdir()) == []
    select_exposures(tmp_path / "raw", fields)
    assert (fields / "selection.json").exists() and not (fields / "select.lock").exists()


def test_a_selection_of_nothing_leaves_no_folder(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match="no FITS file matches"):
        select_exposures(tmp_path / "raw", tmp_path / "fields")
    assert not (tmp_path / "fields").exists()


def test_a_broken_memory_of_names_is_told(tmp_path):
    two_fields(tmp_path / "raw")
    select_exposures(tmp_path / "raw", tmp_path / "fields")
    (tmp_path / "fields" / "selection.json").write_text("{")
    with pytest.raises(UsageError, match="remove it to name all fields anew"):
        select_exposures((), tmp_path / "fields")


def test_the_result_is_a_table_and_plain_data(tmp_path):
    found = select(tmp_path, {}, {}, {}, {}, {"target": "67P"})
    table = found.table()
    assert list(table["FIELD"]) == ["ngc-300"] and list(table["HOURS"]) == [1.0]
    data = json.loads(json.dumps(found.to_dict()))
    assert data["fields"]["ngc-300"]["taken"] == [date_of(n) for n in range(4)]
    assert data["loose"][0]["rule"] == "R16"


@pytest.fixture(scope="module")
def three_fields(tmp_path_factory):
    """Pixel tables and images of a night with three fields, one of them of a single OB; folder."""
    folder = tmp_path_factory.mktemp("three")
    for n, (ra, blocks) in enumerate(((150.0, 2), (150.1, 2), (150.2, 1))):
        simulate_exposures(
            folder / f"{n}", exposures=2, field_arcsec=10.0, wavelength=(6500, 6510), ra_deg=ra, dec_deg=2.2,
            stars=6, galaxies=0, exposures_per_ob=2 // blocks, dither_arcsec=0.5,
        )  # fmt: skip
        shift_night(folder / f"{n}", n)
    return folder


def shift_night(folder, n):
    """Let the exposures of a simulation be of other minutes, other blocks and another target."""
    for path in sorted(folder.glob("*.fits")):
        raw = path.read_bytes()
        if b"DATE-OBS=" in raw[:20000]:
            at = raw.index(b"DATE-OBS=") + 11
            raw = raw.replace(raw[at : at + 14], raw[at : at + 12] + b"%d" % (4 + n) + raw[at + 13 : at + 14])
            raw = raw.replace(b"SIMULATED FIELD", b"Night target %d " % n)
            path.write_bytes(raw)


def test_from_select_to_run(three_fields, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert _main(["select", str(three_fields), "-o", "fields", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "3 fields, 6 exposures taken, 0 left out" in text
    assert "Next: musedeep run fields/night-target-0" in text
    names = sorted(path.parent.name for path in (tmp_path / "fields").glob("*/field.toml"))
    assert len(names) == 3
    cases = [open_field(tmp_path / "fields" / name).selection["case"] for name in names]
    assert sorted(cases) == ["combined", "deep", "deep"]
    for name, offsets in zip(names, ("auto", "none", "none"), strict=True):
        words = f"run fields/{name} --memory 1GB --workers 1 --quiet --offsets {offsets}"
        assert _main(words.split()) == 0
        assert (tmp_path / "fields" / name / "products" / "DATACUBE_DEEP.fits").exists()
    # what is made already is not made again when the same night is selected again
    assert _main(["select", "-o", "fields", "--quiet"]) == 0
    assert "0 of 15 files read, 0 field.toml written" in capsys.readouterr().out


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    two_fields(tmp_path / "raw")
    assert _main(["select", "raw", "-o", "fields", "--seeing-factor", "1.85", "--modes", "WFM-NOAO-N"]) == 0
    out, error = capsys.readouterr()
    assert "2 fields, 8 exposures taken" in out and "select: 8 of 8 headers" in error
    assert "Next: reduce the exposures to pixel tables" in out
    assert "seeing_factor = 1.85" in (tmp_path / "fields" / "select.toml").read_text()
    assert _main(["select", "-o", "fields", "--accept", "other", "--json", "--quiet"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["fields"]["other"]["selection"]["confirmed"] is True
    assert _main(["select", "-o", "fields", "--seeing-factor", "none"]) == 2
    assert "seeing_factor = 'none' is not allowed: give a number above 0" in capsys.readouterr().err
    assert _main(["select", "nowhere*", "-o", "fields"]) == 4


def test_what_was_made_in_the_folder_of_the_fields_is_no_input(tmp_path):
    two_fields(tmp_path)
    select_exposures(tmp_path, tmp_path / "fields")
    write_frame(tmp_path / "fields" / "ngc-300" / "products", 9)
    assert select_exposures(tmp_path, tmp_path / "fields").files == 8


def test_python_names(tmp_path):
    two_fields(tmp_path / "raw")
    assert len(md.select_exposures(tmp_path / "raw").datasets) == 2
    assert groups(md.select_exposures(str(tmp_path / "raw" / "*.fits"))) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    shutil.rmtree(tmp_path / "raw")
    assert arcfile_of(0).startswith("MUSE.2014-12-09T00")
