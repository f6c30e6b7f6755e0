"""The native way from a raw frame to the rows of an IFU, held against ESO's recipe, row by row."""

import shutil

import numpy as np
import pytest
from astropy.io import fits

from musedeep.errors import InputError, UsageError
from musedeep.muse import DQ_BITS
from musedeep.pixtable import open_pixel_table
from musedeep.reduce import reduce_exposures
from musedeep.reduce.native import reduce_frame, reduce_tables
from musedeep.reduce.native.scibasic import IfuRows
from musedeep.reduce.recipes import run_recipe
from musedeep.reduction import ReductionSettings
from musedeep.simulate.raw import simulate_raw_exposures

pytestmark = pytest.mark.esorex
OF_IFU = "MASTER_BIAS", "MASTER_FLAT", "TRACE_TABLE", "WAVECAL_TABLE"
OF_FILE = "DATE", "DATAMD5", "PIPEFILE", "ARCFILE", "COMMENT", ""
MORE = "MASTER_DARK", "BADPIX_TABLE"


@pytest.fixture(scope="module")
def uneven_night(tmp_path_factory):
    """An OBJECT and an ILLUM frame of an IFU with uneven light, dark current, bad pixels and moved lines."""
    folder = tmp_path_factory.mktemp("uneven")
    simulate_raw_exposures(
        folder, sky_exposures=0, ifus=(12,), all_calibrations=True, wavelength_error=0.07, seed=6
    )
    return folder


def frames_of(night, kind):
    return [
        path for path in sorted((night / "raw").iterdir()) if fits.getheader(path)["ESO DPR TYPE"] == kind
    ]


def calibrations(night, ifu, *more):
    tags = {tag: f"{tag}-{ifu:02d}.fits" for tag in (*OF_IFU, *MORE) if tag in OF_IFU or tag in more}
    tags |= {"GEOMETRY_TABLE": "GEOMETRY_TABLE.fits"}
    tags |= {"TWILIGHT_CUBE": "TWILIGHT_CUBE.fits"} if "TWILIGHT_CUBE" in more else {}
    found = {tag: night / "calib" / name for tag, name in tags.items()}
    return found | ({"ILLUM": frames_of(night, "FLAT,LAMP,ILLUM")[0]} if "ILLUM" in more else {})


def by_recipe(folder, path, tag, ifu, given):
    """What the recipe makes of an IFU."""
    frames = [(path, tag, path.name), *((p, t, f"{t}.fits") for t, p in given.items())]
    run = run_recipe(
        "muse_scibasic", frames, {"nifu": ifu, "saveimage": False}, folder, {f"PIXTABLE_{tag}": 1},
        ReductionSettings.of({"recipe_memory": "4GB"}),
    )  # fmt: skip
    assert not run.problems
    return run.products[0]


def rows_of(path, coordinates="pix"):
    """Rows of a table in the order of their origin, which names a row; also its header."""
    table = open_pixel_table(path, coordinates)
    rows = table.read_columns(list(table.columns))
    order = np.argsort(rows["origin"])
    return {name: values[order] for name, values in rows.items()}, table.header


def assert_agrees(own, theirs):
    """Hold rows against those of the recipe."""
    assert set(own) == set(theirs)
    for name in ("origin", "dq"):
        np.testing.assert_array_equal(own[name], theirs[name])
    np.testing.assert_array_equal(own["xpos"], theirs["xpos"])
    np.testing.assert_array_equal(own["ypos"], theirs["ypos"])
    assert np.mean(own["lambda"] == theirs["lambda"]) > 0.999
    np.testing.assert_allclose(own["lambda"], theirs["lambda"], rtol=1e-7)
    good = theirs["stat"] > 0
    scale = np.sqrt(theirs["stat"][good]) + np.abs(theirs["data"][good])
    off = np.abs(own["data"][good].astype(float) - theirs["data"][good]) / scale
    # the recipe's own polynomials of the overscan are rounded where they are of a high order
    assert off.max() < 1e-5
    assert np.mean(off < 1e-6) > 0.999
    np.testing.assert_allclose(own["stat"], theirs["stat"], rtol=1e-5)


@pytest.mark.parametrize("kind", ["OBJECT", "SKY"])
def test_rows_agree_with_the_recipe(raw_night, reduced, tmp_path, kind):
    frame = frames_of(raw_night, kind)[0]
    for ifu in (12, 13):
        facts = reduce_frame(frame, kind, ifu, calibrations(raw_night, ifu), tmp_path / "own.fits")
        own, header = rows_of(tmp_path / "own.fits")
        name = frame.name.removeprefix("MUSE.").removesuffix(".fits").replace(":", "_")
        product = next((reduced.folder / "work" / name).glob(f"scibasic-{ifu}/PIXTABLE_*.fits"))
        theirs, their_header = rows_of(product)
        assert_agrees(own, theirs)
        assert facts["rows"] == len(own["data"])
        assert_headers_agree(header, their_header)
        lamps = [fits.getdata(path, "PIXTABLE_FLAT_FIELD") for path in (tmp_path / "own.fits", product)]
        np.testing.assert_allclose(lamps[0]["lambda"], lamps[1]["lambda"])
        np.testing.assert_allclose(lamps[0]["data"], lamps[1]["data"], rtol=1e-6)


def assert_headers_agree(own, theirs):
    """What later steps ask of a header."""
    for name in theirs:
        if not name.startswith(("ESO PRO ", "ESO QC ")) and name not in OF_FILE:
            wanted = theirs[name]
            # the recipe tells the range of wavelengths as it was before they were shifted
            moved = 0.1 if "LIMITS LAMBDA" in name else None
            wanted = pytest.approx(wanted, rel=1e-6, abs=moved) if isinstance(wanted, float) else wanted
            assert own[name] == wanted, name
    assert own["ESO PRO CATG"] == theirs["ESO PRO CATG"]
    assert own["ESO QC SCIBASIC NSATURATED"] == theirs["ESO QC SCIBASIC NSATURATED"]
    shift = theirs["ESO QC SCIBASIC LAMBDA SHIFT"]
    assert own["ESO QC SCIBASIC LAMBDA SHIFT"] == pytest.approx(shift, abs=1e-6)


@pytest.mark.parametrize(
    "more",
    [
        ("MASTER_DARK",),
        ("BADPIX_TABLE",),
        ("ILLUM",),
        ("TWILIGHT_CUBE",),
        ("MASTER_DARK", "BADPIX_TABLE", "ILLUM", "TWILIGHT_CUBE"),
    ],
    ids=lambda more: "+".join(more),
)
def test_every_calibration_is_used_as_by_the_recipe(uneven_night, tmp_path, more):
    frame, given = frames_of(uneven_night, "OBJECT")[0], calibrations(uneven_night, 12, *more)
    theirs, their_header = rows_of(by_recipe(tmp_path / "recipe", frame, "OBJECT", 12, given))
    facts = reduce_frame(frame, "OBJECT", 12, given, tmp_path / "own.fits")
    own, header = rows_of(tmp_path / "own.fits")
    assert_agrees(own, theirs)
    assert_headers_agree(header, their_header)
    # the lines of the frame lie 0.07 Angstrom lower on the detector than the calibration has them
    assert facts["shift_angstrom"] == pytest.approx(0.07, abs=0.01)
    if "BADPIX_TABLE" in more:
        assert np.any(own["dq"] & DQ_BITS["hot_pixel"]) and np.any(own["dq"] & DQ_BITS["dead_pixel"])


def test_the_recipe_goes_on_with_our_tables(raw_night, crowded, tmp_path):
    frame, calib = frames_of(raw_night, "OBJECT")[0], raw_night / "calib"
    tags = "EXTINCT_TABLE", "STD_RESPONSE", "STD_TELLURIC", "ASTROMETRY_WCS"
    given = [(calib / f"{tag}.fits", tag) for tag in tags]
    for ifu in (12, 13):
        path = tmp_path / f"PIXTABLE_OBJECT_0001-{ifu}.fits"
        reduce_frame(frame, "OBJECT", ifu, calibrations(raw_night, ifu), path)
        given.append((path, "PIXTABLE_OBJECT"))
    run = run_recipe(
        "muse_scipost", [(path, tag, path.name) for path, tag in given],
        {"save": "individual", "skymethod": "none"}, tmp_path / "post", {"PIXTABLE_REDUCED": 1},
        ReductionSettings.of({"recipe_memory": "4GB"}),
    )  # fmt: skip
    assert not run.problems
    assert_reduced_alike(run.products[0], crowded.tables[0])
    own, theirs = (fits.getheader(path) for path in (run.products[0], crowded.tables[0]))
    for name in ("FLUXCAL", "MERGED", "FFCORR", "DAR CORRECT", "RVCORR"):
        keyword = f"ESO DRS MUSE PIXTABLE {name}"
        assert own[keyword] == pytest.approx(theirs[keyword])


def assert_reduced_alike(own, theirs):
    """Hold fluxes of reduced tables against each other, but for those that a curve does not reach."""
    (rows, _), (their_rows, _) = rows_of(own, "rad"), rows_of(theirs, "rad")
    np.testing.assert_array_equal(rows["origin"], their_rows["origin"])
    scale = np.abs(their_rows["data"]) + np.sqrt(their_rows["stat"])
    good = np.isfinite(rows["data"]) & (scale > 0)
    assert good.mean() > 0.9999
    off = np.abs(rows["data"].astype(float) - their_rows["data"])[good] / scale[good]
    assert np.mean(off < 1e-6) > 0.999
    assert off.max() < 1e-5


def test_crowded_fields_are_reduced_without_the_recipes(raw_night, crowded, tmp_path):
    given = {"calibrations": raw_night / "calib", "case": "crowded", "backend": "auto", "progress": False}
    given["esorex"] = str(tmp_path / "no-esorex")
    frame = frames_of(raw_night, "OBJECT")[0]
    result = reduce_exposures(frame, tmp_path / "out", **given)
    record = result.exposures[0]
    assert (record["state"], record["ifus"]) == ("done", [12, 13])
    assert set(result.versions) == {"musedeep"}
    assert record["backend"]["name"] == "native"
    assert record["qc"]["saturated"] == 0
    assert 0 < abs(record["qc"]["shift_angstrom"]) < 0.01
    assert_reduced_alike(result.tables[0], crowded.tables[0])
    steps = [fits.getheader(result.tables[0])[f"ESO PRO REC{n} ID"] for n in (1, 2)]
    assert steps == ["musedeep_scibasic", "musedeep_scipost"]
    assert reduce_exposures(frame, tmp_path / "out", **given).exposures == result.exposures


def test_an_ifu_that_cannot_be_calibrated_is_left_out(raw_night, tmp_path):
    calib = tmp_path / "calib"
    shutil.copytree(raw_night / "calib", calib)
    with (calib / "MASTER_FLAT-13.fits").open("r+b") as file:
        file.truncate(9_000_000)
    result = reduce_exposures(
        frames_of(raw_night, "OBJECT")[0], tmp_path / "out", calibrations=calib, case="crowded",
        backend="native", progress=False,
    )  # fmt: skip
    record = result.exposures[0]
    assert (record["state"], record["ifus"]) == ("incomplete", [12])
    assert "MASTER_FLAT-13.fits" in record["problems"][0]


def test_what_cannot_be_used_is_refused(raw_night, tmp_path):
    frame, given = frames_of(raw_night, "OBJECT")[0], calibrations(raw_night, 12)

    def refuse(words, error=InputError, **changes):
        with pytest.raises(error, match=words):
            reduce_frame(frame, "OBJECT", 12, given | changes, tmp_path / "out.fits")

    refuse("TRACE_TABLE are needed", TRACE_TABLE=None)
    refuse("NONLINEARITY_GAIN is not used yet", UsageError, NONLINEARITY_GAIN=frame)
    refuse("is of CHAN13, not of CHAN12", MASTER_BIAS=raw_night / "calib" / "MASTER_BIAS-13.fits")
    refuse("holds no table of CHAN12", TRACE_TABLE=raw_night / "calib" / "TRACE_TABLE-13.fits")
    refuse("wlc## is wanted", WAVECAL_TABLE=given["TRACE_TABLE"])
    refuse("the trace table cannot be read", TRACE_TABLE=given["WAVECAL_TABLE"])
    refuse("the geometry table cannot be read", GEOMETRY_TABLE=given["TRACE_TABLE"])
    refuse("the cube of the twilight cannot be read", TWILIGHT_CUBE=given["TRACE_TABLE"])
    for name, value, words in (
        ("ESO DET READ CURNAME", "SCI9.9", "read-out SCI9.9, the frame SCI1.0"),
        ("ESO DRS MUSE OVSC2 MEAN", 700.0, "overscan 2 lies at 99"),
    ):
        bias = tmp_path / "MASTER_BIAS.fits"
        shutil.copy(given["MASTER_BIAS"], bias)
        fits.setval(bias, name, value=value)
        refuse(words, MASTER_BIAS=bias)
    with pytest.raises(InputError, match="the frame of CHAN07 cannot be read"):
        reduce_frame(frame, "OBJECT", 7, given, tmp_path / "out.fits")
    assert not (tmp_path / "out.fits").exists()


def test_nothing_need_be_written_between_frame_and_reduced_table(raw_night, tmp_path):
    frame = frames_of(raw_night, "OBJECT")[0]
    given = {
        tag: [raw_night / "calib" / f"{tag}.fits"]
        for tag in ("EXTINCT_TABLE", "STD_RESPONSE", "STD_TELLURIC")
    }
    tables = [tmp_path / f"PIXTABLE_OBJECT-{ifu}.fits" for ifu in (12, 13)]
    for ifu, path in zip((12, 13), tables, strict=True):
        reduce_frame(frame, "OBJECT", ifu, calibrations(raw_night, ifu), path)
    fused = [IfuRows(frame, "OBJECT", ifu, calibrations(raw_night, ifu)) for ifu in (12, 13)]
    for name, inputs in (("apart", tables), ("fused", fused)):
        reduce_tables(inputs, given, tmp_path / f"{name}.fits", chunk_rows=77_777)
    apart, fused = (open_pixel_table(tmp_path / f"{name}.fits") for name in ("apart", "fused"))
    for name in apart.columns:
        np.testing.assert_array_equal(apart.read(name), fused.read(name))
    assert [fused.header[f"ESO PRO REC{n} ID"] for n in (1, 2)] == ["musedeep_scibasic", "musedeep_scipost"]
    assert fused.header["ESO PRO REC2 RAW1 NAME"] == frame.name
    assert "ESO PRO REC2 RAW2 NAME" not in fused.header
    with pytest.raises(UsageError, match="give tables"):
        reduce_tables(
            [IfuRows(frame, "OBJECT", 12, calibrations(raw_night, 12))],
            given,
            tmp_path / "m.fits",
            skymethod="model",
        )


def test_dirty_frames_are_calibrated_as_by_the_recipe(tmp_path):
    # with adaptive optics; saturated pixels, spikes in the overscan, masters with bad pixels of their own
    simulate_raw_exposures(tmp_path, sky_exposures=0, ifus=(12,), mode="WFM-AO-N", stars=0, seed=7)
    frame, given, rng = frames_of(tmp_path, "OBJECT")[0], calibrations(tmp_path, 12), np.random.default_rng(7)
    for tag, bit in (("MASTER_BIAS", DQ_BITS["low_qe"]), ("MASTER_FLAT", DQ_BITS["dark_pixel"])):
        with fits.open(given[tag], mode="update") as hdus:
            hdus["DQ"].data[rng.integers(0, 2056, 3000), rng.integers(0, 1024, 3000)] |= bit
    with fits.open(frame, mode="update") as hdus:
        counts = hdus["CHAN12"].data
        for value in (65535, 0):
            counts[rng.integers(30, 2080, 400), rng.integers(20, 1040, 400)] = value
        counts[500, 525], counts[700:703, 526] = 3000, 1400
    theirs, _ = rows_of(by_recipe(tmp_path / "recipe", frame, "OBJECT", 12, given))
    reduce_frame(frame, "OBJECT", 12, given, tmp_path / "own.fits")
    own, _ = rows_of(tmp_path / "own.fits")
    assert_agrees(own, theirs)
    assert np.any(own["dq"] & DQ_BITS["saturated"]) and np.any(own["dq"] == DQ_BITS["nad_gap"])
