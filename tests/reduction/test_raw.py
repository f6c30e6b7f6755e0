"""Simulated raw frames: what stands in them is where their calibrations say, and what was put in."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner
from numpy.polynomial import polynomial

from musedeep.cli.command import cli
from musedeep.errors import UsageError
from musedeep.simulate.raw import RawSettings, simulate_raw_exposures

TINY = {"ifus": (3,), "binning": (8, 8), "slice_columns": 5.0, "blue": 5400.0, "exptime": 300.0, "stars": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    simulate_raw_exposures(folder, wavelength_error=0.8, **TINY)
    return folder


def trimmed(path):
    """Electrons of the only IFU of a frame, its overscans taken out by their medians."""
    with fits.open(path) as hdus:
        header, frame = hdus[1].header, hdus[1].data.astype(float)
    binning = header["ESO DET BINX"], header["ESO DET BINY"]
    half = [header[f"ESO DET OUT1 N{axis}"] // n for axis, n in zip("YX", binning[::-1], strict=True)]
    scan = [header[f"ESO DET OUT1 PRSC{axis}"] // n for axis, n in zip("YX", binning[::-1], strict=True)]
    rows, columns = (
        (slice(0, n + 2 * s), slice(n + 2 * s, 2 * n + 4 * s)) for n, s in zip(half, scan, strict=True)
    )
    parts = {}
    for output, (row, column) in enumerate(((0, 0), (0, 1), (1, 1), (1, 0)), start=1):
        quadrant = frame[rows[row], columns[column]]
        overscan = quadrant[:, -scan[1] :] if column == 0 else quadrant[:, : scan[1]]
        bright = quadrant[scan[0] : scan[0] + half[0], scan[1] : scan[1] + half[1]]
        parts[row, column] = (bright - np.median(overscan)) * header[f"ESO DET OUT{output} GAIN"]
    return np.block([[parts[0, 0], parts[0, 1]], [parts[1, 0], parts[1, 1]]])


def test_frames_and_calibrations_are_complete(tiny):
    frames = sorted((tiny / "raw").glob("*.fits"))
    kinds = [fits.getheader(path)["ESO DPR TYPE"] for path in frames]
    assert kinds == ["OBJECT", "SKY"]
    with fits.open(frames[0]) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == ["CHAN03"]
        assert hdus[1].data.shape == ((4112 + 128) // 8, (4096 + 128) // 8)
        assert hdus[1].data.dtype == np.uint16
    found = {fits.getheader(path)["ESO PRO CATG"] for path in (tiny / "calib").glob("*.fits")}
    assert {"MASTER_BIAS", "MASTER_FLAT", "TRACE_TABLE", "WAVECAL_TABLE", "GEOMETRY_TABLE"} <= found
    assert {"STD_RESPONSE", "STD_TELLURIC", "EXTINCT_TABLE", "SKY_LINES", "LSF_PROFILE"} <= found
    truth = json.loads((tiny / "truth.json").read_text())
    assert [exposure["kind"] for exposure in truth["exposures"]] == kinds


def test_sky_lines_lie_where_the_calibrations_say(tiny):
    frame = trimmed(next((tiny / "raw").glob("*T01:00*.fits")))
    traces, waves = (
        Table.read(tiny / "calib" / f"{name}-03.fits") for name in ("TRACE_TABLE", "WAVECAL_TABLE")
    )
    found = []
    for trace, wave in zip(traces, waves, strict=True):
        y = np.arange(1, frame.shape[0] + 1)
        left, right = (
            polynomial.polyval(y, [trace[f"tc{part}_{power:02d}"] for power in range(6)]) for part in (1, 2)
        )
        x = int(round(float(left.mean() + right.mean()) / 2))
        assert np.all((left < x) & (x < right))
        coefficients = np.array([[wave[f"wlc{i}{k}"] for k in range(7)] for i in range(3)])
        wavelength = polynomial.polyval2d(np.full(len(y), float(x)), y.astype(float), coefficients)
        near = np.abs(wavelength - 5577.339) < 8
        light = frame[near, x - 1] - np.median(frame[:, x - 1])
        found.append(np.average(wavelength[near], weights=np.maximum(light, 0)))
        assert frame[near, x - 1].max() > 10 * np.abs(frame[:, int(right.max()) + 1]).mean()
    # the frames were made with wavelengths 0.8 Angstrom above those of the calibrations
    assert np.median(found) - 5577.339 == pytest.approx(-0.8, abs=0.05)


def test_the_same_seed_gives_the_same_bits(tiny, tmp_path):
    again = simulate_raw_exposures(tmp_path, wavelength_error=0.8, **TINY)
    for path in again:
        assert path.read_bytes() == (tiny / "raw" / path.name).read_bytes()
    other = simulate_raw_exposures(tmp_path, wavelength_error=0.8, seed=2, **TINY)
    assert other[0].read_bytes() != (tiny / "raw" / again[0].name).read_bytes()


def test_a_dead_ifu_is_missing_after_the_first_frame(tmp_path):
    paths = simulate_raw_exposures(
        tmp_path, exposures=2, sky_exposures=0, dead_ifus=(4,), **TINY | {"ifus": (3, 4)}
    )
    names = []
    for path in paths:
        with fits.open(path) as hdus:
            names.append([hdu.name for hdu in hdus[1:]])
    assert names == [["CHAN03", "CHAN04"], ["CHAN03"]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ifus": (0,)}, "ifus is"),
        ({"ifus": (3, 3)}, "each once"),
        ({"binning": (3, 1)}, "binning is"),
        ({"slice_columns": 70.0}, "slice_columns is 70.0"),
        ({"blue": 9300.0}, "leave less than"),
        ({"trails": 2}, "unknown setting 'trails'"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        simulate_raw_exposures(tmp_path, **TINY | changes)
    assert not list(tmp_path.iterdir())


def test_frames_of_others_are_kept(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "night.fits").write_bytes(b"SIMPLE")
    with pytest.raises(UsageError, match="no simulation made"):
        simulate_raw_exposures(tmp_path, settings=RawSettings(**TINY))
    assert (tmp_path / "raw" / "night.fits").exists()


def test_the_command_writes_raw_frames(tmp_path):
    words = (
        "--raw --ifus 3 --binning 8,8 --slice-columns 5 --blue 5400 --sky-exposures 0 --exptime 300 --quiet"
    )
    run = CliRunner().invoke(cli, ["simulate", str(tmp_path / "s"), *words.split()])
    assert run.exit_code == 0, run.output
    assert "musedeep reduce" in run.output
    assert len(list((tmp_path / "s" / "raw").glob("*.fits"))) == 1
    refused = CliRunner().invoke(cli, ["simulate", str(tmp_path / "t"), "--ifus", "3"])
    assert isinstance(refused.exception, UsageError)
    assert "give --raw too" in str(refused.exception)
