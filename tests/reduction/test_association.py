"""Which calibrations and which SKY frame an exposure gets."""

import pytest
from astropy.io import fits
from reduction.stand import calibration, calibrations, raw_frame

from musedeep.errors import InputError
from musedeep.reduce.association import associate, steps_of
from musedeep.reduce.frames import find_frames
from musedeep.reduction import ReductionSettings


def associated(folder, raw, case="no-sky", **settings):
    frames, problems = find_frames([folder])
    assert not problems
    frame = next(f for f in frames if f.path == raw)
    return associate(frame, frames, ReductionSettings(**settings), case=case)


def test_the_nearest_calibration_of_the_mode_is_taken(tmp_path):
    raw = raw_frame(tmp_path)
    calibrations(tmp_path)
    calibration(tmp_path, "MASTER_FLAT", 1, days=0.1)
    near = calibration(tmp_path, "MASTER_FLAT", 1, days=-0.05, name="near.fits")
    calibration(tmp_path, "MASTER_FLAT", 1, days=-0.01, name="other.fits", **{"ESO INS MODE": "WFM-AO-N"})
    (tmp_path / "MASTER_FLAT-01_0.fits").unlink()
    found = associated(tmp_path, raw)
    assert found.chosen["MASTER_FLAT", 1].path == near
    assert found.chosen["MASTER_FLAT", 2].path.name == "MASTER_FLAT-02_0.fits"
    assert not found.missing
    assert not found.ifu_missing
    assert found.ifus == [1, 2]


def test_of_two_for_one_time_the_newer_is_taken(tmp_path):
    raw = raw_frame(tmp_path)
    calibrations(tmp_path, skip=["STD_RESPONSE"])
    calibration(tmp_path, "STD_RESPONSE", name="a.fits", DATE="2020-01-01T00:00:00")
    newer = calibration(tmp_path, "STD_RESPONSE", name="b.fits", DATE="2021-01-01T00:00:00")
    assert associated(tmp_path, raw).chosen["STD_RESPONSE", 0].path == newer


def test_another_readout_does_not_serve(tmp_path):
    raw = raw_frame(tmp_path)
    calibrations(tmp_path, skip=[("MASTER_BIAS", 2)])
    calibration(tmp_path, "MASTER_BIAS", 2, **{"ESO DET READ CURNAME": "FAST"})
    found = associated(tmp_path, raw)
    assert found.ifus == [1]
    assert "no MASTER_BIAS for WFM-NOAO-N, read-out SCI1.0: those there are for" in found.ifu_missing[2]
    assert "FAST" in found.ifu_missing[2]


def test_a_far_arc_serves_and_is_told(tmp_path):
    raw = raw_frame(tmp_path)
    calibrations(tmp_path, skip=["WAVECAL_TABLE"])
    for ifu, days in ((1, 0.2), (2, -1.7)):
        calibration(tmp_path, "WAVECAL_TABLE", ifu, days=days)
    found = associated(tmp_path, raw)
    assert found.arc_days == pytest.approx(1.7)
    assert any("the arc is 1.70 d away" in note for note in found.notes)
    assert not any("arc is" in note for note in associated(tmp_path, raw, arc_days=2.0).notes)


def test_what_is_missing_is_told(tmp_path):
    raw = raw_frame(tmp_path)
    calibrations(tmp_path, skip=["STD_RESPONSE", "SKY_LINES", "TRACE_TABLE"])
    found = associated(tmp_path, raw)
    assert found.missing == ["no STD_RESPONSE: there is none", "no SKY_LINES: there is none"]
    assert found.ifus == []
    # a crowded field needs no lines of the sky
    assert associated(tmp_path, raw, case="crowded").missing == ["no STD_RESPONSE: there is none"]


def test_a_lamp_frame_serves_its_hours_only(tmp_path):
    calibrations(tmp_path)
    raw = raw_frame(tmp_path)
    lamp = raw_frame(tmp_path, minute=200, kind="FLAT,LAMP,ILLUM")
    assert associated(tmp_path, raw).chosen["ILLUM", 0].path == lamp
    later = raw_frame(tmp_path, minute=600)
    assert ("ILLUM", 0) not in associated(tmp_path, later).chosen


def test_ifus_that_the_frame_lacks_are_told(tmp_path):
    raw = raw_frame(tmp_path, ifus=(2,))
    calibrations(tmp_path)
    found = associated(tmp_path, raw)
    assert found.ifus == [2]
    assert found.notes[0] == "the frame holds no IFU 1, 3-24"


@pytest.mark.parametrize(
    ("case", "with_sky", "needed"),
    [
        ("no-sky", "subtract-model", {"SKY_LINES", "LSF_PROFILE"}),
        ("sky", "subtract-model", {"LSF_PROFILE"}),
        ("sky", "model", {"SKY_LINES", "LSF_PROFILE"}),
        ("crowded", "model", set()),
    ],
)
def test_each_case_needs_its_own(tmp_path, case, with_sky, needed):
    raw = raw_frame(tmp_path)
    found = associated(tmp_path, raw, case=case)
    assert set(steps_of(found, with_sky)["scipost"][0]) == {"EXTINCT_TABLE", "STD_RESPONSE"} | needed


def test_files_that_cannot_be_read_are_told_and_others_passed_over(tmp_path):
    raw_frame(tmp_path)
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE  = nonsense")
    fits.PrimaryHDU().writeto(tmp_path / "other.fits")
    frames, problems = find_frames([tmp_path])
    assert [frame.tag for frame in frames] == ["OBJECT"]
    assert [path.name for path, _ in problems] == ["broken.fits"]
    with pytest.raises(InputError, match="there is no"):
        find_frames([tmp_path / "nowhere"])
