"""What is read of files: headers with odd characters, broken files, tables of many hands, versions."""

import gzip

import pytest
from frames import RA, arcfile_of, date_of, header_bytes, select, write_csv, write_frame

from musedeep.errors import InputError, UsageError
from musedeep.select import select_exposures
from musedeep.select.headers import find_files, read_header
from musedeep.select.index import Index
from musedeep.select.names import base_name, moving_name, name_likeness, slug
from musedeep.select.overrides import Overrides, read_overrides, write_overrides
from musedeep.select.tables import read_notes
from musedeep.thresholds import Thresholds, read_thresholds, thresholds_text


def test_a_header_with_odd_characters(tmp_path):
    path = write_frame(tmp_path, 0, target="O'Brien's = field / 3", **{"ESO OBS NAME": "x" * 40})
    raw = path.read_bytes().replace(b"094.A-0001", b"094.A-\xe9001")
    path.write_bytes(raw)
    header = read_header(path)
    assert header["ESO OBS TARG NAME"] == "O'Brien's = field / 3"
    assert header["ESO OBS PROG ID"] == "094.A-?001(A)"
    assert header["RA"] == RA and header["ESO OBS ID"] == 100


def test_a_card_that_cannot_be_read_is_passed_over(tmp_path):
    path = tmp_path / "a.fits"
    path.write_bytes(header_bytes({"RA": 1.5, "DEC": -1.0}).replace(b"-1.0", b"-1;0"))
    assert read_header(path) == {"RA": 1.5}


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ("OBJECT  = 'O'Brien'", {"OBJECT": "O'Brien"}),
        ("OBJECT  = 'no end", {}),
        ("EXPTIME =1.5", {"EXPTIME": 1.5}),
        ("MJD-OBS = 5.7D4", {"MJD-OBS": 57000.0}),
        ("RA      = 12:34:56.7", {}),
        ("HIERARCH ESO OBS TARG NAME='abc' / why", {"ESO OBS TARG NAME": "abc"}),
        ("ESO OBS ID= 5", {"ESO OBS ID": 5}),
        ("EXPTIME = / no value", {}),
        ("COMMENT RA = 5", {}),
    ],
)
def test_cards_as_they_are_found(tmp_path, card, wanted):
    path = tmp_path / "a.fits"
    path.write_bytes(
        header_bytes({}).replace(b"END".ljust(80), (card.ljust(80) + "END".ljust(80)).encode())[:2880]
    )
    assert read_header(path) == wanted


def test_compressed_headers_are_read(tmp_path):
    path = write_frame(tmp_path, 0)
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_header(packed) == read_header(path)


def test_files_are_found_in_folders_and_by_patterns(tmp_path):
    paths = [write_frame(tmp_path / "a" / "b", 0), write_frame(tmp_path / "a", 1)]
    (tmp_path / "a" / "notes.txt").write_text("no file of the instrument")
    assert find_files([tmp_path]) == sorted(paths)
    assert find_files([tmp_path / "a" / "*.fits", tmp_path / "a"]) == sorted(paths)
    assert find_files([tmp_path / "nothing*"]) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no FITS file at all" * 200, "does not begin with SIMPLE"),
        (header_bytes({"RA": 1.0})[:1000], "ends within its header"),
        (header_bytes({"OBJECT": "bias"}), None),
    ],
)
def test_broken_files_are_told_and_do_not_stop_the_others(tmp_path, content, words):
    for number in range(4):
        write_frame(tmp_path, number)
    (tmp_path / "broken.fits").write_bytes(content)
    found = select_exposures(tmp_path)
    assert len(found.datasets[0].taken) == 4
    if words:
        assert words in found.problems[0]["problem"] and found.problems[0]["file"].endswith("broken.fits")
    else:
        assert found.calibrations == 1


def test_nothing_to_select_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no FITS file matches"):
        select_exposures(tmp_path)
    (tmp_path / "broken.fits").write_bytes(b"x" * 5000)
    with pytest.raises(InputError, match="none is an exposure of a target.*does not begin with SIMPLE"):
        select_exposures(tmp_path)


def test_a_date_is_found_in_other_keywords(tmp_path):
    for number in range(4):
        write_frame(tmp_path, number, **{"DATE-OBS": None if number < 2 else "yesterday"})
        if number == 1:
            write_frame(tmp_path, number, **{"DATE-OBS": None, "ARCFILE": None})
    found = select_exposures(tmp_path)
    assert found.datasets[0].dates == [date_of(number) for number in range(4)]


def test_the_index_reads_a_file_once(tmp_path):
    paths = [write_frame(tmp_path / "raw", number) for number in range(3)]
    place = tmp_path / "index.json"
    index = Index(place)
    assert index.update(paths) == 3 and index.update(paths) == 0
    index.write()
    index = Index(place)
    write_frame(tmp_path / "raw", 1, target="a longer name, so that it is another file")
    assert index.update([]) == 1 and len(index) == 3
    paths[2].unlink()
    assert index.update([]) == 0 and len(index) == 2
    # a folder that is gone may come back: what was in it is remembered
    (tmp_path / "raw").rename(tmp_path / "away")
    assert index.update([]) == 0 and len(index) == 2
    assert [entry["gone"] for _, entry in index.items()] == [True, True]
    assert index.update(find_files([tmp_path / "away"])) == 2 and len(index) == 4
    (tmp_path / "away").rename(tmp_path / "raw")
    assert index.update([]) == 0 and [entry["gone"] for _, entry in index.items()] == [
        True,
        True,
        False,
        False,
    ]
    place.write_text("{broken")
    assert Index(place).update(paths[:2]) == 2


def test_the_newest_pixel_table_is_taken(tmp_path):
    cards = {"ESO PRO CATG": "PIXTABLE_REDUCED"}
    for number in range(4):
        for folder, version, day in (("a", "muse/2.8.7", "2020-01-01"), ("b", "muse/2.10.1", "2020-01-01")):
            write_frame(tmp_path / folder, number, **cards, DATE=day, **{"ESO PRO REC1 PIPE ID": version})
    write_frame(tmp_path / "c", 3, **cards, DATE="2021-01-01", **{"ESO PRO REC1 PIPE ID": "muse/1.0"})
    write_frame(tmp_path / "raw", 3)
    dataset = select_exposures(tmp_path).datasets[0]
    taken = [decision.candidate for decision in dataset.taken]
    assert [item.files[0].split("/")[-2] for item in taken] == ["b", "b", "b", "c"]
    assert [len(item.older) for item in taken] == [1, 1, 1, 2]
    assert any("reduced again" in text for text in dataset.looks)


def test_tables_of_single_ifus_are_one_exposure(tmp_path):
    for number in range(2):
        for ifu in (1, 2, 3):
            cards = {"ESO PRO CATG": "PIXTABLE_REDUCED", "EXTNAME": f"CHAN{ifu:02d}"}
            path = write_frame(tmp_path, number, **cards)
            path.rename(tmp_path / f"{number}-{ifu}.fits")
    dataset = select_exposures(tmp_path).datasets[0]
    assert [len(decision.candidate.files) for decision in dataset.taken] == [3, 3]


def test_products_of_several_exposures_are_none(tmp_path):
    for number in range(2):
        write_frame(tmp_path, number)
    write_frame(tmp_path, 2, **{"ESO PRO CATG": "PIXTABLE_REDUCED", "ESO PRO REC1 ID": "muse_exp_combine"})
    write_frame(tmp_path, 3, **{"ESO PRO CATG": "DATACUBE_FINAL"})
    found = select_exposures(tmp_path)
    assert (len(found.datasets[0].decisions), found.calibrations) == (2, 2)


def test_copies_of_a_raw_frame_are_one_exposure(tmp_path):
    for number in range(2):
        for folder in ("a", "b"):
            write_frame(tmp_path / folder, number)
    taken = select_exposures(tmp_path).datasets[0].taken
    assert [d.candidate.files for d in taken] == [
        (str(tmp_path / "a" / f"{arcfile_of(n)}.fits"),) for n in range(2)
    ]


def test_a_disk_that_is_not_there_today_changes_no_field(tmp_path):
    for number in range(4):
        write_frame(tmp_path / f"disk{number // 2}", number)
    first = select_exposures(tmp_path, tmp_path / "fields")
    (tmp_path / "disk1").rename(tmp_path / ".away")
    later = select_exposures(tmp_path / "disk0", tmp_path / "fields")
    assert later.datasets[0].dates == first.datasets[0].dates and later.datasets[0].version == 1
    assert ["out of reach" in " ".join(d.looks) for d in later.datasets[0].taken] == [
        False,
        False,
        True,
        True,
    ]
    # and files that were moved are found at their new place
    (tmp_path / ".away").rename(tmp_path / "disk2")
    moved = select_exposures(tmp_path, tmp_path / "fields").datasets[0]
    assert [d.candidate.files[0].split("/")[-2] for d in moved.taken] == ["disk0", "disk0", "disk2", "disk2"]
    assert moved.dates == first.datasets[0].dates


def test_grades_of_many_hands(tmp_path):
    path = tmp_path / "grades.csv"
    path.write_bytes(
        b"\xef\xbb\xbfOB_ID, Grade ,ambi_req,comment\n"
        b'7,c,0.8,"seeing, mostly"\n8,,,\xe9toile, second, third\n,A,,no block\n7,,,more words\n'
    )
    blocks = read_notes(path).blocks
    assert sorted(blocks) == ["7", "8"]
    assert (blocks["7"].grade, blocks["7"].request_arcsec) == ("C", 0.8)
    assert blocks["7"].comment == "seeing, mostly; more words"
    assert blocks["8"].comment == "\ufffdtoile, second, third"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ob,grade\n1,A\n", "column 'ob_id' is missing; it has ob, grade"),
        ("ob_id,grade\n1,good\n", "OB 1: grade = 'GOOD' is not allowed"),
        ("ob_id,ambi_req\n1,low\n", "OB 1: ambi_req = 'low' is no number"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, text, words):
    (tmp_path / "grades.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_notes(tmp_path / "grades.csv")
    with pytest.raises(InputError, match="cannot read"):
        read_notes(tmp_path / "nowhere.csv")


def test_names():
    same = ("UDF-01", "udf_10_deep", "UDF10", "UDF P3", "UDF-OB12", "UDF II")
    assert {base_name(name) for name in same} == {"UDF"}
    assert base_name("NGC 3201 P2") == base_name("NGC3201-4") == "NGC3201"
    assert base_name("Müller 1") == "MULLER" and base_name("  ") == ""
    assert name_likeness("NGC 3201 P1", "ngc3201-p4") == 1.0
    assert name_likeness("NGC 3201", "NGC 3200") < 0.6
    assert name_likeness("HUDF", "UDF-01") > 0.8 > 0.5 > name_likeness("UDF-01", "XMM-1")
    assert name_likeness("", "") == 0.0
    assert moving_name("67P/C-G") and moving_name("C/2014 Q2") and moving_name("Io")
    assert not any(map(moving_name, ("Io galaxy cluster field", "Saturn Nebula", "IO-37", "2dF 12")))
    assert slug("O'Brien's  field/3") == "o-brien-s-field-3"


def test_overrides_are_read_and_written(tmp_path):
    text = """
exposures:
  2014-12-09T03:00:00.000: reject
  MUSE.2014-12-09T04:00:00.000: {decision: keep, note: "the data are ok"}
blocks: {200: reject}
join: [[UDF, HDF], [100, 101]]
runs: {094.A-0001(A): finished}
fields: {udf: {crowded: yes, max_inputs: 125, name: "UDF"}}
"""
    path = tmp_path / "targets.yaml"
    path.write_text(text)
    said = read_overrides(path)
    assert said.exposures["2014-12-09T03:00:00.000"] == "reject"
    assert said.notes == {"MUSE.2014-12-09T04:00:00.000": "the data are ok"}
    assert said.join == [["UDF", "HDF"], ["100", "101"]]
    assert said.fields == {"udf": {"crowded": True, "max_inputs": 125, "name": "UDF"}}
    write_overrides(path, said)
    assert read_overrides(path) == said
    write_overrides(path, Overrides())
    assert read_overrides(path) == Overrides() == read_overrides(None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("exposure: {}", "unknown entry 'exposure'; known are exposures, blocks"),
        ("exposures: {a: maybe}", "exposures: a: 'maybe' is not allowed; give keep or reject"),
        ("join: [[a]]", "join: .* give a list of lists"),
        ("runs: {a: open}", "runs: a: 'open' is not allowed; give finished"),
        ("fields: {a: {crowded: perhaps}}", "crowded: 'perhaps' is not allowed; give true or false"),
        ("fields: {a: {max_inputs: -1}}", "max_inputs: '-1' is not allowed; give a whole number"),
        ("fields: {a: {colour: red}}", "some of name, crowded"),
        ("a: [", "no valid YAML"),
        ("just words", "unknown entry 'just words'"),
    ],
)
def test_overrides_that_cannot_be_meant(tmp_path, text, words):
    path = tmp_path / "targets.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_overrides(path)


def test_what_is_joined_and_kept_apart_by_hand(tmp_path):
    apart = [{}, {}, {"dec": -30.02, "target": "other"}, {"dec": -30.02, "target": "other"}]
    assert len(select(tmp_path / "a", *apart).datasets) == 2
    joined = select(tmp_path / "b", *apart, overrides="join: [[NGC 300, Other]]")
    assert [len(d.taken) for d in joined.datasets] == [4]
    same = [{}, {}, {}, {}]
    assert len(select(tmp_path / "c", *same).datasets) == 1
    two = select(tmp_path / "d", *same, overrides=f'separate: [["100", {date_of(2)}]]')
    assert sorted(len(d.taken) for d in two.datasets) == [2, 2]


def test_what_is_kept_apart_is_cut_where_it_hangs_together_least(tmp_path):
    # a chain of four pointings; the weakest of its three links is the second
    places = [0, 30, 70, 100]
    chain = [{"dec": -30 + place / 3600, "ob": place} for place in places for _ in range(2)]
    found = select(tmp_path, *chain, overrides=f"separate: [[{date_of(0)}, {date_of(7)}]]")
    assert sorted(len(d.taken) for d in found.datasets) == [4, 4]


def test_an_exposure_left_out_by_hand(tmp_path):
    words = f"exposures: {{{arcfile_of(1)}.fits: {{decision: reject, note: a fly on the mirror}}}}"
    found = select(tmp_path, {}, {}, {}, overrides=words)
    (decision,) = found.datasets[0].left_out
    assert (decision.rule, decision.value) == ("override", "a fly on the mirror")


def test_thresholds_are_kept_in_a_file(tmp_path):
    settings = Thresholds(
        seeing_factor=1.9, modes=("WFM-AO-N",), grades=str(tmp_path / "g.csv"), mix_range=True
    )
    path = tmp_path / "select.toml"
    path.write_text(thresholds_text(settings, tmp_path))
    assert read_thresholds(path) == settings
    assert 'grades = "g.csv"' in path.read_text() and "# R7: largest measured seeing" in path.read_text()
    assert read_thresholds(tmp_path / "nothing.toml") == Thresholds()
    # the day is only for the call that names it
    assert thresholds_text(Thresholds(today="2020-01-01"), tmp_path) == thresholds_text(
        Thresholds(), tmp_path
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeing_faktor = 2", "unknown setting 'seeing_faktor'; did you mean 'seeing_factor'"),
        ("seeing_factor = 0", "seeing_factor = 0 is not allowed: give a number above 0"),
        ("seeing_factor = 1.5", "seeing_borderline = 1.8 is above seeing_factor = 1.5"),
        ('trouble_words = "("', "is no regular expression"),
        ('today = "tomorrow"', "give a date, YYYY-MM-DD"),
        ('modes = ["IFU"]', "modes = 'IFU' is not allowed"),
        ("= 3", "not valid TOML"),
    ],
)
def test_thresholds_that_cannot_be_meant(tmp_path, text, words):
    path = tmp_path / "select.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_thresholds(path)


def test_tables_are_named_in_the_file(tmp_path):
    grades = write_csv(tmp_path / "g.csv", [{"ob_id": 100, "grade": "X"}])
    found = select(tmp_path, {}, {}, {}, {}, output=tmp_path / "fields", grades=[])
    assert len(found.datasets[0].taken) == 4
    toml = tmp_path / "fields" / "select.toml"
    toml.write_text(toml.read_text().replace('grades = ""', f'grades = "{grades}"'))
    assert len(select_exposures((), tmp_path / "fields").datasets[0].taken) == 2
