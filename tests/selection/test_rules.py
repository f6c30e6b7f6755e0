"""Every rule on both sides of its threshold."""

import math

import pytest
from frames import RA, arcfile_of, decision_on, east, groups, select


def is_taken(selection, number, rule=""):
    decision = decision_on(selection, number)
    assert (decision.rule == rule) or decision.taken
    return decision.taken


FOUR = ({}, {}, {}, {})


@pytest.mark.parametrize("mode", ["WFM-NOAO-N", "WFM-AO-N", "WFM-NOAO-E", "WFM-AO-E"])
def test_r1_takes_the_wide_field(tmp_path, mode):
    assert is_taken(select(tmp_path, *[{"mode": mode}] * 4), 3)


@pytest.mark.parametrize(("mode", "value"), [("NFM-AO-N", "NFM-AO-N"), (None, "INS MODE is missing")])
def test_r1_leaves_other_modes_out(tmp_path, mode, value):
    found = select(tmp_path, {}, {}, {}, {"mode": mode})
    decision = decision_on(found, 3)
    assert (decision.taken, decision.rule, decision.value) == (False, "R1", value)


def test_r1_takes_the_modes_that_are_asked_for(tmp_path):
    narrow = [{"mode": "NFM-AO-N"}] * 4
    assert select(tmp_path, *narrow, modes=("NFM-AO-N",)).datasets[0].case == "deep"


@pytest.mark.parametrize(("mix", "count"), [(False, 2), (True, 1)])
def test_r2_keeps_wavelength_ranges_apart(tmp_path, mix, count):
    exposures = [{"mode": f"WFM-NOAO-{'NE'[n // 2 % 2]}"} for n in range(8)]
    found = select(tmp_path, *exposures, mix_range=mix)
    assert len(found.datasets) == count
    if not mix:
        assert groups(found) == [[0, 1, 4, 5], [2, 3, 6, 7]]


def ao_beside_natural(request):
    natural, assisted = (
        {"request": 0.6, "seeing": 0.6},
        {"mode": "WFM-AO-N", "request": request, "seeing": 0.6},
    )
    return [natural, natural, assisted, assisted] * 2


@pytest.mark.parametrize(
    ("request_arcsec", "mixed"), [(1.2, True), (1.21, False), (0.3, True), (0.29, False)]
)
def test_r3_mixes_ao_where_the_seeing_matches(tmp_path, request_arcsec, mixed):
    found = select(tmp_path, *ao_beside_natural(request_arcsec))
    assert len(found.datasets) == (1 if mixed else 2)
    assert any(
        ("AO and NOAO are mixed" if mixed else "R3: not mixed") in text for text in found.datasets[0].looks
    )


def test_r3_mixes_where_neither_asked_for_a_seeing(tmp_path):
    exposures = [facts | {"request": None} for facts in ao_beside_natural(1.0)]
    assert len(select(tmp_path, *exposures).datasets) == 1


@pytest.mark.parametrize(("seeing", "mixed"), [(1.1, True), (1.5, False)])
def test_r3_compares_what_was_measured_where_one_did_not_ask(tmp_path, seeing, mixed):
    exposures = [
        facts | {"request": None, "seeing": seeing} if "mode" in facts else facts
        for facts in ao_beside_natural(1.0)
    ]
    assert len(select(tmp_path, *exposures).datasets) == (1 if mixed else 2)


@pytest.mark.parametrize(
    ("blocks", "case"), [((1, 2), "deep"), ((1, 1), "combined"), ((1,), "single"), ((1, 2, 3, 3), "deep")]
)
def test_r4_tells_the_case_of_table_1(tmp_path, blocks, case):
    found = select(tmp_path, *[{"ob": block} for block in blocks])
    assert found.datasets[0].case == case


def test_r4_counts_what_is_left(tmp_path):
    found = select(tmp_path, {"ob": 1}, {"ob": 1}, {"ob": 2, "seeing": 3.0})
    assert found.datasets[0].case == "combined"
    found = select(tmp_path / "other", {"ob": 1, "seeing": 3.0})
    assert found.datasets[0].case == "none"
    with_one_block = select(tmp_path / "more", {"ob": 1}, {"ob": 1}, fewest_obs=1)
    assert with_one_block.datasets[0].case == "deep"


@pytest.mark.parametrize(("cap", "count"), [(0, 1), (4, 1), (3, 2)])
def test_r5_splits_what_is_too_large(tmp_path, cap, count):
    found = select(tmp_path, *FOUR, max_inputs=cap)
    assert len(found.datasets) == count
    assert all(len(d.taken) <= (cap or 4) for d in found.datasets)
    # whole OBs stay together
    assert count == 1 or groups(found) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("facts", "value"), [({"kind": "SKY"}, "SCIENCE SKY"), ({"category": "TEST"}, "")])
def test_r6_takes_objects_only(tmp_path, facts, value):
    found = select(tmp_path, {}, {}, {}, {}, {"ob": 101, **facts})
    assert len(found.datasets[0].decisions) == 4
    assert len(found.datasets[0].sky) == (1 if value else 0)
    assert found.calibrations == (0 if value else 1)


def test_r6_sky_of_a_block_without_objects_is_in_no_field(tmp_path):
    found = select(tmp_path, {}, {}, {"kind": "SKY", "ob": 999})
    assert [(d.rule, d.value) for d in found.loose] == [("R6", "SCIENCE SKY")]


@pytest.mark.parametrize(
    ("seeing", "taken", "looks"), [(1.79, True, 0), (1.8, True, 1), (2.0, True, 1), (2.01, False, 0)]
)
def test_r7_holds_the_seeing_against_the_request(tmp_path, seeing, taken, looks):
    decision = decision_on(select(tmp_path, {}, {}, {}, {"seeing": seeing}), 3)
    assert decision.taken is taken and len(decision.looks) == looks
    if not taken:
        assert decision.rule == "R7" and decision.value == "2.01 arcsec, 2.01 times 1.00 requested"


@pytest.mark.parametrize(("seeing", "taken"), [(1.2, True), (1.22, False)])
def test_r7_takes_the_request_from_the_table(tmp_path, seeing, taken):
    exposures = [{"request": None}] * 3 + [{"request": None, "seeing": seeing}]
    rows = [{"ob_id": 101, "mode": "SM", "grade": "A", "ambi_req": 0.6, "comment": ""}]
    assert is_taken(select(tmp_path, *exposures, grades=rows), 3, "R7") is taken


@pytest.mark.parametrize(("seeing", "taken"), [(3.2, True), (3.21, False)])
def test_r7_in_service_mode_without_a_request_allows_twice_the_median(tmp_path, seeing, taken):
    exposures = [{"request": None}] * 5 + [{"request": None, "seeing": seeing}]
    rows = [{"ob_id": ob, "mode": "SM", "grade": "A"} for ob in (100, 101, 102)]
    assert is_taken(select(tmp_path, *exposures, grades=rows), 5, "R7") is taken


@pytest.mark.parametrize(
    ("usual", "seeing", "taken"), [(1.0, 2.0, True), (1.0, 2.01, False), (0.5, 1.6, True), (0.5, 1.61, False)]
)
def test_r7b_in_visitor_mode_the_others_are_the_request(tmp_path, usual, seeing, taken):
    exposures = [{"request": None, "seeing": usual}] * 5 + [{"request": None, "seeing": seeing}]
    decision = decision_on(select(tmp_path, *exposures), 5)
    assert decision.taken is taken and decision.rule == ("" if taken else "R7b")


def test_r7b_does_not_believe_requests_in_visitor_mode(tmp_path):
    exposures = [{"request": 0.3}] * 4
    rows = [{"ob_id": ob, "mode": "VM", "grade": "-"} for ob in (100, 101)]
    assert all(d.taken for d in select(tmp_path, *exposures, grades=rows).datasets[0].decisions)
    assert not any(d.taken for d in select(tmp_path / "sm", *exposures).datasets[0].decisions)


def test_r7_seeing_that_was_not_measured_is_to_be_looked_at(tmp_path):
    decision = decision_on(select(tmp_path, {}, {}, {}, {"seeing": -1.0}), 3)
    assert decision.taken and decision.looks == ("seeing not measured",)


@pytest.mark.parametrize(
    ("grade", "comment", "taken", "looks"),
    [
        ("A", "", True, 0),
        ("B", "seeing a bit high", True, 0),
        ("C", "Seeing out of constraint", True, 0),
        ("C", "", True, 1),
        ("C", "seeing bad, clouds", False, 1),
        ("D", "", False, 0),
        ("X", "", False, 0),
        ("-", "", True, 0),
    ],
)
def test_r8_grades(tmp_path, grade, comment, taken, looks):
    rows = [{"ob_id": 101, "mode": "SM", "grade": grade, "ambi_req": "", "comment": comment}]
    decision = decision_on(select(tmp_path, *FOUR, grades=rows), 3)
    assert decision.taken is taken and len(decision.looks) == looks
    assert decision.rule == ("" if taken else "R8")


def test_r8_grade_c_for_a_seeing_that_r7_refuses(tmp_path):
    rows = [{"ob_id": 101, "grade": "C", "comment": "seeing"}]
    decision = decision_on(select(tmp_path, {}, {}, {}, {"seeing": 2.5}, grades=rows), 3)
    assert (decision.taken, decision.rule) == (False, "R7")


def test_r9_photometry_never_rejects_and_is_told(tmp_path):
    found = select(tmp_path, *[{"transparency": word} for word in ("1PHO", "2CLR", "2CLR", "3THN")])
    assert len(found.datasets[0].taken) == 4
    assert found.datasets[0].facts["transparency"] == ["1 of 1PHO", "2 of 2CLR", "1 of 3THN"]


@pytest.mark.parametrize(
    ("comment", "rule", "looks"),
    [
        ("aborted due to increasing background", "R10", 0),
        ("OB aborted because of twilight", "R10", 0),
        ("background somewhat high", "", 0),
        ("Aborted because of derotator issue", "R11", 0),
        ("guiding failure at the end", "R11", 0),
        ("M2 problem", "R11", 0),
        ("M25 in the field, guiding fine", "", 0),
        ("no guiding problem", "", 1),
        ("derotator issue, recovered after a minute", "", 1),
    ],
)
def test_r10_and_r11_comments(tmp_path, comment, rule, looks):
    decision = decision_on(select(tmp_path, *FOUR, log=[{"arcfile": arcfile_of(3), "comment": comment}]), 3)
    assert decision.rule == rule and decision.taken is not bool(rule) and len(decision.looks) == looks
    rows = [{"ob_id": 101, "comment": comment}]
    found = select(tmp_path / "ob", *FOUR, grades=rows)
    assert [decision_on(found, n).rule for n in range(4)] == ["", "", rule, rule]


def test_r11_can_be_overridden(tmp_path):
    log = [{"arcfile": arcfile_of(3) + ".fits", "comment": "aborted because of derotator issue"}]
    found = select(tmp_path, *FOUR, log=log, overrides=f"exposures:\n  {arcfile_of(3)}: keep\n")
    decision = decision_on(found, 3)
    assert decision.taken and decision.rule == "override" and "kept by hand against R11" in decision.looks[0]


@pytest.mark.parametrize(("seconds", "rule"), [(449.0, "R13"), (450.0, "R11")])
def test_r13_short_and_aborted(tmp_path, seconds, rule):
    log = [{"arcfile": arcfile_of(3), "comment": "aborted by the observer"}]
    found = select(tmp_path, {}, {}, {}, {"exptime": seconds}, log=log)
    decision = decision_on(found, 3)
    assert (decision.taken, decision.rule) == (False, rule)
    assert len(found.datasets) == 1


def test_r13_does_not_reject_what_is_only_short(tmp_path):
    assert is_taken(select(tmp_path, {}, {}, {}, {"exptime": 449.0}), 3)


@pytest.mark.parametrize(
    ("times", "count"),
    [
        ((300.0, 900.0), 1),
        ((299.0, 900.0), 2),
        ((100.0, 150.0, 250.0, 400.0), 1),  # a factor 4, and no gap of a factor 2
        ((30.0, 300.0, 1500.0), 3),
    ],
)
def test_r14_sequences_of_exposure_times(tmp_path, times, count):
    exposures = [{"exptime": seconds} for seconds in times for _ in range(4)]
    found = select(tmp_path, *exposures)
    assert len(found.datasets) == count
    if count == 3:
        assert [d.name for d in found.datasets] == ["ngc-300-1500s", "ngc-300-300s", "ngc-300-30s"]


def test_r14_an_exposure_without_a_time_is_left_out(tmp_path):
    decision = decision_on(select(tmp_path, {}, {}, {}, {"exptime": None}), 3)
    assert (decision.taken, decision.rule) == (False, "R14")


@pytest.mark.parametrize(("distance", "count"), [(53.9, 1), (54.1, 2)])
def test_r15_pointings_are_one_field_where_they_overlap(tmp_path, distance, count):
    exposures = [{}, {}, {"ra": east(distance)}, {"ra": east(distance)}]
    assert len(select(tmp_path, *exposures).datasets) == count


def test_r15_turned_fields_reach_further(tmp_path):
    # diagonal against diagonal: 60 sqrt(2) - 70 = 14.9 arcsec of a corner in common
    turned = [
        {"angle": 45.0},
        {"angle": 45.0},
        {"angle": 45.0, "ra": east(60)},
        {"angle": 45.0, "ra": east(60)},
    ]
    assert len(select(tmp_path, *turned, overlap=0.05).datasets) == 1
    straight = [facts | {"angle": 0.0} for facts in turned]
    assert len(select(tmp_path / "straight", *straight, overlap=0.05).datasets) == 2


def test_r15_several_pointings_of_one_block_are_several_fields(tmp_path):
    exposures = [{"ra": east(300 * (n % 2)), "ob": 100 + n // 4} for n in range(8)]
    found = select(tmp_path, *exposures)
    assert groups(found) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [d.case for d in found.datasets] == ["deep", "deep"]


def test_r15_a_mosaic_falls_apart_when_its_middle_is_left_out(tmp_path):
    places = [0, 0, 50, 50, 100, 100]
    good = [{"ra": east(place)} for place in places]
    assert len(select(tmp_path, *good).datasets) == 1
    bad = [facts | ({"seeing": 3.0} if n in (2, 3) else {}) for n, facts in enumerate(good)]
    found = select(tmp_path / "bad", *bad)
    assert len(found.datasets) == 2 and [len(d.taken) for d in found.datasets] == [2, 2]


def test_r15_an_exposure_without_a_place_is_told_with_its_block(tmp_path):
    found = select(tmp_path, {}, {}, {}, {"ra": None})
    decision = decision_on(found, 3)
    assert (decision.taken, decision.rule) == (False, "R15") and len(found.datasets[0].decisions) == 4
    alone = select(tmp_path / "alone", {}, {}, {}, {"ra": None, "ob": 999})
    assert [d.rule for d in alone.loose] == ["R15"]


@pytest.mark.parametrize(("distance", "count"), [(11.9, 1), (12.1, 2)])
def test_r16_place_alone_suffices_when_nearly_all_overlaps(tmp_path, distance, count):
    other = {"target": "XMM-42", "ra": east(distance), "pi": 99, "ob_name": "other"}
    found = select(tmp_path, {}, {}, other, other)
    assert len(found.datasets) == count
    if count == 2:
        assert any("R16: xmm-42 overlaps it" in text for text in found["ngc-300"].looks)


@pytest.mark.parametrize(("name", "count"), [("NGC300-P2", 1), ("N300 west", 1), ("Sculptor", 2)])
def test_r16_likeness_of_names(tmp_path, name, count):
    other = {"target": name, "ra": east(40)}
    assert len(select(tmp_path, {}, {}, other, other).datasets) == count


BOX = {"container": 55, "container_type": "G"}


@pytest.mark.parametrize(
    ("one", "two", "count"),
    [
        ({"pi": 1}, {"pi": 2}, 2),
        ({"pi": 1}, {"pi": 1}, 1),
        ({"pi": 1} | BOX, {"pi": 2} | BOX, 1),
        ({"pi": 1} | BOX, {"pi": 2} | BOX | {"container": 56}, 2),
        ({"pi": 1} | BOX, {"pi": 2} | BOX | {"container_type": "U"}, 2),
        ({"pi": None}, {"pi": None}, 2),
    ],
)
def test_r16_pi_and_container_count(tmp_path, one, two, count):
    # one name, blocks with nothing in common, a fifth of the field: 0.5 of the 0.6 that is needed
    there = {"ra": east(47.9), "ob_name": "zzzz"} | two
    here = {"ob_name": "aaaa"} | one
    assert len(select(tmp_path, here, here, there, there).datasets) == count


def test_r16_names_alone_never_suffice(tmp_path):
    assert len(select(tmp_path, {}, {}, {"ra": east(61)}, {"ra": east(61)}).datasets) == 2


@pytest.mark.parametrize(
    ("facts", "taken"),
    [
        ({"ESO TEL TARG PMA": 15.0}, True),
        ({"ESO TEL TARG PMD": -15.1}, False),
        ({"ESO TEL TARG ADDVELALPHA": 1e-9}, True),
        ({"ESO TEL TARG ADDVELALPHA": 1e-3}, False),
        ({"target": "67P"}, False),
        ({"target": "Saturn Nebula"}, True),
    ],
)
def test_r16_moving_targets(tmp_path, facts, taken):
    found = select(tmp_path, *[facts] * 4)
    assert bool(found.datasets) is taken
    assert [d.rule for d in found.loose] == [] if taken else ["R16"] * 4


@pytest.mark.parametrize(
    ("day", "run", "complete"),
    [
        ("2015-03-08", "094.A-0001(A)", False),  # the exposures are of 9 December 2014
        ("2015-03-09", "094.A-0001(A)", True),
        ("2015-06-06", "194.A-0001(A)", False),
        ("2015-06-07", "194.A-0001(A)", True),
    ],
)
def test_r17_complete(tmp_path, day, run, complete):
    dataset = select(tmp_path, *[{"run": run}] * 4, today=day).datasets[0]
    assert dataset.facts["complete"] is complete
    assert any(text.startswith("R17") for text in dataset.looks) is not complete


@pytest.mark.parametrize(
    "words", ['runs: {"094.A-0001(A)": finished}', "fields: {ngc-300: {complete: true}}"]
)
def test_r17_said_by_hand(tmp_path, words):
    dataset = select(tmp_path, *FOUR, today="2014-12-12", overrides=words).datasets[0]
    assert dataset.facts["complete"]


@pytest.mark.parametrize(("day", "access"), [("2015-12-08", "PI of 094.A-0001(A)"), ("2015-12-09", "public")])
def test_r19_access(tmp_path, day, access):
    assert select(tmp_path, *FOUR, today=day).datasets[0].facts["access"] == access


def test_r19_nobody_before_all_of_several_runs_are_public(tmp_path):
    exposures = [{"run": f"094.A-0001({'AB'[n // 2]})"} for n in range(4)]
    log = [{"arcfile": arcfile_of(0), "comment": "", "release_date": "2016-06-01"}]
    assert select(tmp_path, *exposures, log=log, today="2016-05-31").datasets[0].facts["access"] == "nobody"
    late = select(tmp_path, *exposures, log=log, today="2016-06-01").datasets[0].facts
    assert (late["access"], late["public_on"]) == ("public", "2016-06-01")


def test_r20_known_to_be_bad(tmp_path):
    found = select(tmp_path, *FOUR, bad=[{"arcfile": arcfile_of(3), "comment": "guiding error"}])
    assert [is_taken(found, n, "R20") for n in range(4)] == [True, True, True, False]
    assert decision_on(found, 3).value == "guiding error"


def test_a_field_across_zero_hours_is_one(tmp_path):
    places = [359.998, 359.999, 0.001, 0.002]
    found = select(tmp_path, *[{"ra": place, "dec": 0.0} for place in places])
    assert groups(found) == [[0, 1, 2, 3]]


def test_a_field_at_the_pole_is_one(tmp_path):
    found = select(tmp_path, *[{"ra": 90.0 * n, "dec": -89.998} for n in range(4)])
    assert groups(found) == [[0, 1, 2, 3]]


def test_an_ob_without_a_number_is_that_of_its_night(tmp_path):
    found = select(tmp_path, {"ob": 5}, {"ob": 5}, {"ob": None})
    assert found.datasets[0].case == "combined" and decision_on(found, 2).looks == ("header without OBS ID",)
    other = select(tmp_path / "other", {"ob": 5}, {"ob": 5}, {"ob": None, "ob_name": "another"})
    assert other.datasets[0].case == "deep"


def test_nothing_known_of_numbers_does_not_stop_it(tmp_path):
    odd = {"request": "1.0 arcsec", "pi": None, "target": "a'b", "run": None, "angle": None, "seeing": -1.0}
    found = select(tmp_path, odd, odd, odd, odd)
    assert len(found.datasets[0].taken) == 4
    assert (
        math.isnan(decision_on(found, 0).candidate.request_arcsec)
        and RA == decision_on(found, 0).candidate.ra_deg
    )
