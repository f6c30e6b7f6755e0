"""Splitting fields: ESO's 275 exposures of the UDF in seven cubes, and what else R5 and R18 do."""

import itertools
from types import SimpleNamespace

import pytest
from frames import RA, date_of, east, select, write_frame

from musedeep.select import select_exposures
from musedeep.select.parts import Part, split_field
from musedeep.select.pointings import Pointing

# Nine pointings of 25 exposures in a grid with narrow overlaps, and one of 50 in the middle of four of them,
# a little nearer to three of these: the release description sketches it so.
STEP = 53.0
GRID = {f"UDF-{n + 1:02d}": (STEP * (1 - n % 3), STEP * (1 - n // 3)) for n in range(9)}
CENTRES = GRID | {"UDF-10": (STEP / 2 - 2.0, STEP / 2 - 2.0)}


@pytest.fixture(scope="module")
def udf(tmp_path_factory):
    """275 headers of the field; the folder."""
    folder = tmp_path_factory.mktemp("udf")
    number = itertools.count()
    for name, (right, up) in CENTRES.items():
        for n in range(50 if name == "UDF-10" else 25):
            place = {"ra": east(right), "dec": -30.0 + up / 3600, "angle": 90.0 * (n % 4)}
            # an OB, and a run, have exposures of one pointing
            block = {"ob": 1000 * int(name[-2:]) + n // 5, "ob_name": f"{name}-{n // 5}"}
            write_frame(folder, next(number), target=name, exptime=1500.0, **place, **block)
    return folder


def names_of(dataset):
    return sorted({d.candidate.target[-2:] for d in dataset.taken})


def test_the_udf_is_one_cube_without_a_limit(udf):
    found = select_exposures(udf)
    assert [(d.name, len(d.taken), d.case) for d in found.datasets] == [("udf", 275, "deep")]


@pytest.mark.parametrize("reuse", [False, True])
def test_the_udf_is_seven_cubes_with_a_limit_of_125(udf, reuse):
    found = select_exposures(udf, max_inputs=125, allow_reuse=reuse)
    members = sorted((names_of(d) for d in found.datasets), key=lambda names: (-len(names), names))
    last = ["01", "10"] if reuse else ["01"]
    singles = sorted([["03"], ["06"], ["07"], ["08"], ["09"]] + ([] if reuse else [last]))
    assert members == [["02", "04", "05", "10"], *([last] if reuse else []), *singles]
    assert max(len(d.taken) for d in found.datasets) == 125
    assert [d.facts["exposures"] for d in found.datasets] == [len(d.taken) for d in found.datasets]
    shared = [d for d in found.datasets if d.shared]
    assert len(shared) == int(reuse)
    if reuse:
        # R18: all 50 of UDF-10, used twice, and both products say so
        assert len(shared[0].shared) == 50 and set(shared[0].shared.values()) == {"udf-2"}
        assert any("R18: 50 exposures" in text for text in shared[0].looks)


def pointing(number, right, up, count):
    place = east(right), -30.0 + up / 3600
    members = tuple(
        SimpleNamespace(
            date_obs=date_of(100 * number + n), block=n // 4, ra_deg=place[0], dec_deg=place[1],
            angle_deg=0.0, side_arcsec=60.0,
        )
        for n in range(count)
    )  # fmt: skip
    return Pointing(members, *place, 0.0, 60.0)


@pytest.mark.parametrize(("cap", "count"), [(40, 1), (39, 2), (20, 2), (19, 3)])
def test_a_deep_pointing_is_parted_by_its_blocks(cap, count):
    pieces, parts = split_field([pointing(0, 0, 0, 40)], cap, 0.2, False)
    assert len(parts) == count
    assert sum(len(piece.members) for piece in pieces) == 40
    sizes = [sum(len(pieces[n].members) for n in part.pointings) for part in parts]
    assert max(sizes) <= cap and min(sizes) >= 40 / count / 2
    homes = [{m.block for m in piece.members} for piece in pieces]
    assert all(not a & b for a, b in itertools.combinations(homes, 2))


@pytest.mark.parametrize(("overlap_arcsec", "together"), [(12.1, True), (11.9, False)])
def test_pointings_share_a_part_where_they_overlap_enough(overlap_arcsec, together):
    chain = [pointing(n, n * (60.0 - overlap_arcsec), 0, 10) for n in range(4)]
    _, parts = split_field(chain, 20, 0.2, False)
    assert [len(part.pointings) for part in parts] == ([2, 2] if together else [1, 1, 1, 1])


def test_the_deepest_overlap_is_kept():
    # the second overlaps the first by half, and the third by three quarters
    pointings = [pointing(0, -30, 0, 10), pointing(1, 0, 0, 10), pointing(2, 15, 0, 10)]
    _, parts = split_field(pointings, 20, 0.2, False)
    assert parts == [Part((0,)), Part((1, 2))]


def test_many_pointings_are_parted_too():
    wide = [pointing(n, 40 * (n % 5), 40 * (n // 5), 10) for n in range(25)]
    _, parts = split_field(wide, 60, 0.2, False)
    assert sorted(n for part in parts for n in part.pointings) == list(range(25))
    assert all(len(part.pointings) <= 6 for part in parts) and len(parts) <= 8


def test_a_field_of_its_own_limit(tmp_path):
    exposures = [{"ra": RA} for _ in range(4)]
    found = select(tmp_path, *exposures, overrides="fields: {ngc-300: {max_inputs: 2}}")
    assert [len(d.taken) for d in found.datasets] == [2, 2]
    assert [d.part_of for d in found.datasets] == ["ngc-300", "ngc-300"]
    assert any("R5: a part of ngc-300, since" in text for text in found["ngc-300-1"].looks)


def test_parts_keep_their_names_and_make_way_for_the_whole(tmp_path):
    fields = tmp_path / "fields"
    found = select(tmp_path, *[{}] * 4, output=fields, max_inputs=2)
    assert sorted(found.written) == ["ngc-300-1", "ngc-300-2"]
    # select.toml remembers the limit
    assert select_exposures((), fields).written == []
    write_frame(tmp_path / "raw", 4)
    write_frame(tmp_path / "raw", 5)
    assert select_exposures(tmp_path / "raw", fields).written == ["ngc-300-3"]
    whole = select_exposures((), fields, max_inputs=0)
    assert whole.written == ["ngc-300"] and whole.retired == ["ngc-300-1", "ngc-300-2", "ngc-300-3"]


def test_what_was_said_of_a_field_holds_for_its_parts(tmp_path):
    words = "fields: {ngc-300: {max_inputs: 2, complete: true}, ngc-300-2: {complete: false}}"
    found = select(tmp_path, *[{}] * 4, overrides=words)
    assert [d.facts["complete"] for d in found.datasets] == [True, False]
