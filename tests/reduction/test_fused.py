"""All native steps of an exposure as one task: the bits and records of the steps one by one."""

import shutil

import numpy as np
import pytest
from astropy.io import fits

from musedeep.pixtable import open_pixel_table
from musedeep.reduce import reduce_exposures
from musedeep.simulate.raw import simulate_raw_exposures


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    folder = tmp_path_factory.mktemp("night")
    simulate_raw_exposures(folder, ifus=(12, 13), slice_columns=5.0, binning=(4, 4), blue=5300.0, stars=3)
    return folder


def reduced(night, output, calib=None, **changes):
    return reduce_exposures(
        night / "raw", output, calibrations=calib or night / "calib", backend="native", progress=False,
        **changes,
    )  # fmt: skip


def told(record):
    """What a record says, but for times, sizes, and what was read in between."""
    steps = [
        {name: step[name] for name in ("step", "ifu", "state", "problems", "qc", "parameters", "key")}
        for step in record["steps"]
    ]
    for step in steps:
        # a table has it with the digits of a header
        step["qc"] = {name: value for name, value in step["qc"].items() if not name.endswith("SHIFT")}
    names = "state", "case", "backend", "sky", "ifus", "problems", "notes", "calibrations", "key"
    return {name: record[name] for name in names} | {"steps": steps, "bits": record["qc"]["bits"]}


@pytest.mark.parametrize("case", ["sky", "crowded"])
def test_bits_and_records_are_those_of_the_steps_one_by_one(night, tmp_path, case):
    apart = reduced(night, tmp_path / "apart", case=case, keep=True)
    fused = reduced(night, tmp_path / "fused", case=case)
    assert list((tmp_path / "apart" / "work").glob("*/scibasic-12/PIXTABLE_OBJECT*"))
    one, other = apart.exposures[0], fused.exposures[0]
    assert told(one) == told(other)
    assert one["state"] == "done"
    assert one["qc"]["shift_angstrom"] == pytest.approx(other["qc"]["shift_angstrom"], abs=1e-9)
    # nothing was written for an IFU, but its log
    assert [bool(step["products"]) for step in other["steps"]] == [False, False, True]
    assert "SCIBASIC NSATURATED" in fused.tables[0].with_suffix(".log").read_text()
    tables = [open_pixel_table(result.tables[0]) for result in (apart, fused)]
    for name in tables[0].columns:
        np.testing.assert_array_equal(tables[0].read(name), tables[1].read(name))
    images = [next(result.folder.glob("IMAGE_FOV_*.fits")) for result in (apart, fused)]
    np.testing.assert_array_equal(fits.getdata(images[0]), fits.getdata(images[1]))
    # done is done, with either
    for keep in (False, True):
        assert reduced(night, tmp_path / "fused", case=case, keep=keep).exposures == fused.exposures


def test_tables_that_are_kept_are_used(night, tmp_path):
    reduced(night, tmp_path, case="crowded", keep=True)
    record = reduced(night, tmp_path, case="sky").exposures[0]
    assert record["state"] == "done"
    assert all(step["products"] for step in record["steps"])


@pytest.mark.parametrize(
    ("tag", "size"), [("TRACE_TABLE", 3000), ("MASTER_FLAT", 2_000_000)], ids=["at once", "later"]
)
def test_a_broken_ifu_is_left_out_and_comes_back(night, tmp_path, tag, size):
    calib = tmp_path / "calib"
    shutil.copytree(night / "calib", calib)
    with (calib / f"{tag}-13.fits").open("r+b") as file:
        file.truncate(size)
    broken = reduced(night, tmp_path / "out", calib, case="crowded")
    record = broken.exposures[0]
    assert (record["state"], record["ifus"]) == ("incomplete", [12])
    assert record["problems"][0].startswith("IFU 13: ") and f"{tag}-13.fits" in record["problems"][0]
    states = [(step["ifu"], step["state"]) for step in record["steps"]]
    assert states == [(12, "done"), (13, "failed"), (None, "done")]
    assert open_pixel_table(broken.tables[0]).header["ESO DRS MUSE PIXTABLE MERGED"] == 1
    assert broken.sky == []
    shutil.copy(night / "calib" / f"{tag}-13.fits", calib)
    mended = reduced(night, tmp_path / "out", calib, case="crowded").exposures[0]
    assert (mended["state"], mended["ifus"]) == ("done", [12, 13])


def test_without_any_ifu_there_is_no_table(night, tmp_path):
    calib = tmp_path / "calib"
    shutil.copytree(night / "calib", calib)
    for path in calib.glob("TRACE_TABLE-*.fits"):
        with path.open("r+b") as file:
            file.truncate(3000)
    result = reduced(night, tmp_path / "out", calib, case="crowded")
    assert result.exposures[0]["state"] == "failed"
    assert "muse_scibasic failed for every IFU" in result.exposures[0]["problems"][0]
    assert not list((tmp_path / "out").glob("*.fits"))
