"""Which backend reduces an exposure: what it has to correct decides, and what is installed."""

import pytest
from reduction.stand import calibration, calibrations, ran, raw_frame, stand_in

from musedeep.errors import UsageError
from musedeep.reduce import reduce_exposures

AO = {"ESO INS MODE": "WFM-AO-N"}


@pytest.fixture
def reduce(tmp_path):
    """A function that reduces a frame of a mode with the calibrations of it, and more, with the stand-in."""
    esorex = stand_in(tmp_path / "bin")

    def run(cards, more, **changes):
        raw_frame(tmp_path / "raw", **cards)
        calibrations(tmp_path / "calib", **cards)
        for tag, ifu in more:
            calibration(tmp_path / "calib", tag, ifu, **cards)
        settings = {"esorex": str(esorex), "progress": False, "backend": "auto"} | changes
        return reduce_exposures(
            tmp_path / "raw", tmp_path / "out", calibrations=tmp_path / "calib", **settings
        )

    return run


@pytest.mark.parametrize(
    ("cards", "more", "why"),
    [
        (AO, [("RAMAN_LINES", 0)], "RAMAN_LINES: light scattered by the lasers is not corrected"),
        ({}, [("NONLINEARITY_GAIN", 1)], "NONLINEARITY_GAIN: the response of the detectors"),
    ],
    ids=["raman", "linearity"],
)
def test_what_our_own_code_cannot_do_goes_to_the_recipes(reduce, tmp_path, cards, more, why):
    result = reduce(cards, more)
    record = result.exposures[0]
    assert record["state"] == "done"
    assert record["backend"]["name"] == "esorex"
    assert why in record["backend"]["why"]
    assert ran(tmp_path / "bin") == ["scibasic 1", "scibasic 2", "scipost all"]
    assert result.versions["pipeline"] == "7.7.7"


def test_without_the_recipes_it_is_refused(reduce, tmp_path):
    record = reduce(AO, [("RAMAN_LINES", 0)], esorex=str(tmp_path / "nothing")).exposures[0]
    assert (record["state"], record["backend"]["name"]) == ("failed", "")
    assert "not native, for RAMAN_LINES" in record["problems"][0]
    assert "nothing is not found; install esorex" in record["problems"][0]
    assert not record["steps"]


def test_native_refuses_what_it_cannot_do_before_it_begins(reduce):
    record = reduce(AO, [("RAMAN_LINES", 0)], backend="native").exposures[0]
    assert record["state"] == "failed"
    assert "RAMAN_LINES: light scattered" in record["problems"][0]
    assert "give backend = auto" in record["problems"][0]
    # nothing is scattered into a sky that is not subtracted: there it is not asked for
    assert reduce(AO, [], case="crowded").exposures[0]["backend"]["name"] == "native"


def test_the_recipes_are_the_default(reduce, tmp_path):
    result = reduce({}, [], backend="esorex")
    assert result.exposures[0]["backend"] == {"name": "esorex", "why": "backend = esorex"}
    with pytest.raises(UsageError, match="'auto'|auto"):
        reduce({}, [], backend="quick")
