"""The native reduction held against ESO's recipe, step by step and as a whole."""

import os
import shutil
import subprocess

import numpy as np
import pytest
from astropy.io import fits

from musedeep.errors import InputError, UsageError
from musedeep.muse import DQ_BITS
from musedeep.pixtable import open_pixel_table
from musedeep.reduce import reduce_exposures
from musedeep.reduce.native import reduce_tables
from musedeep.reduce.native.sky import read_sky_model

pytestmark = pytest.mark.esorex


def rows_of(path):
    """Rows of a table in the order of their origin, which names a row; also its header."""
    table = open_pixel_table(path)
    rows = table.read_columns(list(table.columns))
    order = np.argsort(rows["origin"])
    return {name: values[order] for name, values in rows.items()}, table.header


def tables_of(result):
    """Tables of the IFUs of the first exposure."""
    folder = result.folder / "work" / result.exposures[0]["exposure"].replace(":", "_")
    return sorted(folder.glob("scibasic-*/PIXTABLE_OBJECT*.fits"))


def calibrations(night, **more):
    names = "EXTINCT_TABLE", "STD_RESPONSE", "STD_TELLURIC", "ASTROMETRY_WCS"
    return {name: [night / "calib" / f"{name}.fits"] for name in names} | more


def sky_of(night, result):
    folder = next((result.folder / "work").glob("*/create_sky"))
    return calibrations(
        night,
        SKY_LINES=[folder / "SKY_LINES.fits"],
        SKY_CONTINUUM=[folder / "SKY_CONTINUUM.fits"],
        LSF_PROFILE=sorted((night / "calib").glob("LSF_PROFILE-*.fits")),
    )


def assert_agrees(own, theirs, *, within):
    """Hold rows against those of the recipe, but for rows that a curve does not reach."""
    np.testing.assert_array_equal(own["origin"], theirs["origin"])
    np.testing.assert_array_equal(own["lambda"], theirs["lambda"])
    good = np.isfinite(own["data"])
    assert good.mean() > 0.9999
    scale = np.sqrt(theirs["stat"][good]) + np.abs(theirs["data"][good])
    off = np.abs(own["data"][good].astype(float) - theirs["data"][good]) / scale
    assert off.max() < within
    assert np.mean(own["data"][good] == theirs["data"][good]) > 0.999
    np.testing.assert_array_equal(own["stat"][good], theirs["stat"][good])
    np.testing.assert_array_equal(own["dq"][good], theirs["dq"][good])
    distance = np.degrees(-theirs["ypos"].astype(float)) * 3600
    turn = own["xpos"].astype(float) - theirs["xpos"]
    turn = np.abs((turn + np.pi) % (2 * np.pi) - np.pi)
    radial = np.degrees(np.abs(own["ypos"].astype(float) - theirs["ypos"])) * 3600
    assert np.hypot(distance * turn, radial).max() < 3e-6


def test_the_chain_without_sky_agrees_with_the_recipe(raw_night, crowded, tmp_path):
    theirs, header = rows_of(crowded.tables[0])
    velocity = header["ESO DRS MUSE PIXTABLE RVCORR"]
    facts = reduce_tables(
        tables_of(crowded), calibrations(raw_night), tmp_path / "own.fits", velocity=velocity
    )
    own, own_header = rows_of(tmp_path / "own.fits")
    assert_agrees(own, theirs, within=1e-6)
    assert facts["flagged"] == np.isnan(own["data"]).sum() < 100
    for name in ("CRPIX1", "CRPIX2", "CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        assert own_header[name] == pytest.approx(header[name], rel=1e-9)
    for name in ("FLUXCAL", "MERGED", "FFCORR", "DAR CORRECT", "WCS", "LIMITS IFU HIGH"):
        assert own_header[f"ESO DRS MUSE PIXTABLE {name}"] == header[f"ESO DRS MUSE PIXTABLE {name}"]


def test_the_chain_with_a_model_of_the_sky_agrees_with_the_recipe(raw_night, reduced, tmp_path):
    theirs, header = rows_of(reduced.tables[0])
    facts = reduce_tables(
        tables_of(reduced), sky_of(raw_night, reduced), tmp_path / "own.fits", skymethod="subtract-model",
        velocity=header["ESO DRS MUSE PIXTABLE RVCORR"],
    )  # fmt: skip
    own, _ = rows_of(tmp_path / "own.fits")
    assert_agrees(own, theirs, within=1e-5)
    assert facts["rows"] == len(theirs["data"])


def test_rows_do_not_depend_on_the_size_of_chunks(raw_night, crowded, tmp_path):
    for name, size in (("one", 1 << 24), ("many", 77_777)):
        reduce_tables(
            tables_of(crowded)[:1], calibrations(raw_night), tmp_path / f"{name}.fits", chunk_rows=size
        )
    assert (tmp_path / "one.fits").read_bytes() == (tmp_path / "many.fits").read_bytes()


def test_lines_of_the_sky_go_through_the_profile_of_each_slice(raw_night, crowded, tmp_path):
    # a profile that changes with slice and wavelength, is skew, and is not centred
    rows, _ = rows_of(crowded.tables[0])
    calib = raw_night / "calib"
    for ifu in (12, 13):
        with fits.open(calib / f"LSF_PROFILE-{ifu}.fits") as hdus:
            cube, offset = hdus[1].data, (np.arange(150) - 75) * 0.1
            for n, j in np.ndindex(48, 30):
                sigma = 0.9 + 0.4 * j / 29 + 0.003 * n
                bell = np.exp(-0.5 * ((offset - 0.03 * n / 48) / sigma) ** 2)
                cube[n, j] = bell * (1 + 0.1 * np.tanh(offset))
            hdus.writeto(tmp_path / f"LSF_PROFILE-{ifu}.fits")
    frames = {
        crowded.tables[0]: "PIXTABLE_REDUCED", calib / "SKY_LINES.fits": "SKY_LINES",
        calib / "SKY_CONTINUUM.fits": "SKY_CONTINUUM", tmp_path / "LSF_PROFILE-12.fits": "LSF_PROFILE",
        tmp_path / "LSF_PROFILE-13.fits": "LSF_PROFILE",
    }  # fmt: skip
    theirs, _ = rows_of(run_split(tmp_path / "split", "muse_scipost_subtract_sky", frames))
    for ifu in (12, 13):
        mine = rows["origin"] >> 6 & 0x1F == ifu
        own = {name: values[mine].copy() for name, values in rows.items()}
        model = read_sky_model(
            calib / "SKY_CONTINUUM.fits", calib / "SKY_LINES.fits", tmp_path / f"LSF_PROFILE-{ifu}.fits", ifu
        )
        assert model.subtract(own).all()
        off = np.abs(own["data"].astype(float) - theirs["data"][mine])
        # where all values are lost against the largest of the lines
        assert off.max() < 3e-3 < 1e-6 * rows["data"].max()


def run_split(folder, recipe, frames):
    """Run one of the split recipes; its product."""
    folder.mkdir()
    (folder / "frames.sof").write_text("".join(f"{path} {tag}\n" for path, tag in frames.items()))
    words = ["esorex", "--no-checksum=true", "--log-dir=.", recipe, "frames.sof"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True, timeout=300)
    return next(folder.glob("PIXTABLE_*.fits"))


def test_rows_beyond_the_response_are_flagged(raw_night, crowded, tmp_path):
    short = tmp_path / "STD_RESPONSE.fits"
    with fits.open(raw_night / "calib" / "STD_RESPONSE.fits") as hdus:
        hdus[1].data = hdus[1].data[hdus[1].data["lambda"] <= 7500]
        hdus.writeto(short)
    given = calibrations(raw_night, STD_RESPONSE=[short])
    facts = reduce_tables(tables_of(crowded)[:1], given, tmp_path / "own.fits", velocity=0.0)
    own, _ = rows_of(tmp_path / "own.fits")
    beyond = own["lambda"] > 7500
    assert beyond.sum() > 10000
    assert np.isnan(own["data"][beyond]).all()
    assert (own["dq"][beyond] & DQ_BITS["outside_range"] != 0).all()
    inside = ~beyond & (own["lambda"] > 5220)
    assert np.isfinite(own["data"][inside]).all()
    assert facts["flagged"] == np.isnan(own["data"]).sum()
    # the recipe's fluxes there are larger by ten orders of magnitude and more; ours never
    assert np.nanmax(own["data"]) < 1e6


def test_the_velocity_is_that_of_astropy(raw_night, crowded, tmp_path):
    facts = reduce_tables(tables_of(crowded)[:1], calibrations(raw_night), tmp_path / "own.fits")
    _, header = rows_of(crowded.tables[0])
    # the recipe has an ephemeris of its own
    assert 0 < abs(facts["velocity_km_s"] - header["ESO DRS MUSE PIXTABLE RVCORR"]) < 0.2


def changed(path, folder, remove=(), **cards):
    """A copy of a table with other cards, or without some extensions."""
    copy = folder / path.name
    shutil.copy(path, copy)
    with fits.open(copy, mode="update") as hdus:
        for name, value in cards.items():
            hdus[0].header[f"HIERARCH {name}" if " " in name else name] = value
        for name in remove:
            del hdus[name]
    return copy


def test_what_cannot_be_reduced_is_refused(raw_night, reduced, crowded, tmp_path):
    first, second = tables_of(crowded)
    given, out = calibrations(raw_night), tmp_path / "out.fits"
    with pytest.raises(UsageError, match="skymethod 'zap' does not exist; there are none, simple"):
        reduce_tables([first], given, out, skymethod="zap")
    with pytest.raises(InputError, match="mode 'WFM-AO-X'; known are WFM-NOAO-N"):
        reduce_tables([changed(first, tmp_path, **{"ESO INS MODE": "WFM-AO-X"})], given, out)
    with pytest.raises(InputError, match="the response is of mode WFM-NOAO-N, the exposure of WFM-AO-N"):
        reduce_tables([changed(first, tmp_path, **{"ESO INS MODE": "WFM-AO-N"})], given, out)
    with pytest.raises(UsageError, match="leave RAMAN_LINES out, or give backend = esorex"):
        reduce_tables([first], given | {"RAMAN_LINES": [first]}, out)
    with pytest.raises(InputError, match="keyword LST is 'noon'"):
        reduce_tables([changed(first, tmp_path, LST="noon")], given, out)
    with pytest.raises(InputError, match="no PIXTABLE_FLAT_FIELD, which the other IFUs have"):
        reduce_tables([first, changed(second, tmp_path, remove=["PIXTABLE_FLAT_FIELD"])], given, out)
    with pytest.raises(InputError, match="which the tables do not have"):
        reduce_tables([changed(first, tmp_path, remove=["PIXTABLE_FLAT_FIELD"])], given, out)
    with pytest.raises(InputError, match="not the IFUs of one exposure"):
        reduce_tables(
            [first, changed(second, tmp_path, **{"DATE-OBS": "2014-08-11T01:00:00.000"})], given, out
        )
    with pytest.raises(InputError, match="'pix' is wanted"):
        reduce_tables([crowded.tables[0]], given, out)
    with pytest.raises(InputError, match="EXTINCT_TABLE and STD_RESPONSE are needed"):
        reduce_tables([first], given | {"STD_RESPONSE": [None]}, out)
    with pytest.raises(InputError, match="subtract-model needs SKY_CONTINUUM, SKY_LINES, LSF_PROFILE"):
        reduce_tables([first], given, out, skymethod="subtract-model")
    assert not out.exists()


def test_reduce_takes_the_native_step(raw_night, tmp_path):
    frames = sorted((raw_night / "raw").iterdir())
    result = reduce_exposures(
        [frames[0], frames[-1]], tmp_path, calibrations=raw_night / "calib", backend="native",
        recipe_memory="4GB", progress=False,
    )  # fmt: skip
    record = result.exposures[0]
    assert (record["state"], record["case"]) == ("done", "sky")
    assert record["steps"][-1]["parameters"]["backend"].startswith("musedeep/")
    header = fits.getheader(result.tables[0])
    assert header["ESO PRO REC2 ID"] == "musedeep_scipost"
    kinds = {
        header[f"ESO PRO REC2 CAL{n} CATG"] for n in range(1, 9) if f"ESO PRO REC2 CAL{n} CATG" in header
    }
    # by which the deep product knows that there was a frame of the sky
    assert "SKY_CONTINUUM" in kinds
    assert "musedeep/" in result.tables[0].with_suffix(".log").read_text()
    image = fits.getdata(next(tmp_path.glob("IMAGE_FOV_*.fits")))
    assert np.isfinite(image).sum() > 1000
