"""ESO's recipes on simulated raw frames: what comes out is what was put in, and the next stages take it."""

import json

import numpy as np
import pytest
from astropy.io import fits

import musedeep as md
from musedeep.pixtable import open_pixel_table
from musedeep.simulate.raw.light import continuum, lines_spectrum

pytestmark = pytest.mark.esorex


def columns_of(path):
    table = open_pixel_table(path)
    return table, table.read_columns(list(table.columns))


def stars(truth, exposure, x, y, wavelength):
    """Flux of the stars at places (arcsec) on the plane of an exposure; this field is small enough for it
    to be flat."""
    total = np.zeros_like(wavelength)
    scale = exposure["seeing_fwhm"] * (wavelength / 7000) ** -0.2 / (2 * np.sqrt(2 ** (1 / 2.8) - 1))
    cos = np.cos(np.radians(exposure["dec_deg"]))
    for source in truth["sources"]:
        dx = x - (source["ra_deg"] - exposure["ra_deg"]) * 3600 * cos
        dy = y - (source["dec_deg"] - exposure["dec_deg"]) * 3600
        spectrum = source["flux"] * (1 + source["slope"] * (wavelength - 7000) / 1000)
        profile = 0.04 * 1.8 / (np.pi * scale**2) * (1 + (dx**2 + dy**2) / scale**2) ** -2.8
        total += spectrum * profile
    return total


def deviation(path, truth, index, *, with_sky):
    """Rows minus the truth in sigma, the truth, and the data of good rows."""
    _, rows = columns_of(path)
    exposure = truth["exposures"][index]
    # the lamp gives no spectrum for the first rows
    chosen = np.flatnonzero((rows["dq"] == 0) & (rows["stat"] > 0))[::5]
    rows = {name: values[chosen].astype(float) for name, values in rows.items()}
    distance = np.degrees(np.tan(-rows["ypos"])) * 3600
    x, y = distance * np.sin(rows["xpos"]), -distance * np.cos(rows["xpos"])
    wavelength = rows["lambda"]
    expected = stars(truth, exposure, x, y, wavelength)
    if with_sky:
        beta = exposure["rvcorr_km_s"] / 299792.458
        on_earth = wavelength / np.sqrt((1 + beta) / (1 - beta))
        expected += continuum(on_earth) + lines_spectrum(on_earth, 2.6, 4750, 9350)
    return (rows["data"] - expected) / np.sqrt(rows["stat"]), expected, rows["data"]


def test_the_reduced_rows_are_the_scene(raw_night, reduced):
    assert [record["state"] for record in reduced.exposures] == ["done", "done"]
    truth = json.loads((raw_night / "truth.json").read_text())
    for index, path in enumerate(reduced.tables):
        off, expected, data = deviation(path, truth, index, with_sky=False)
        # most of a night is sky, which is modelled to a part of the noise
        assert abs(np.median(off)) < 0.03
        assert 0.8 < np.percentile(off, 84.1) - np.median(off) < 1.1
        bright = expected > np.percentile(expected, 99.5)
        assert data[bright].sum() / expected[bright].sum() == pytest.approx(1, abs=0.01)


def test_nothing_is_subtracted_in_crowded_fields(raw_night, crowded):
    steps = [step["step"] for step in crowded.exposures[0]["steps"]]
    assert steps == ["scibasic", "scibasic", "scipost"]
    truth = json.loads((raw_night / "truth.json").read_text())
    off, expected, data = deviation(crowded.tables[0], truth, 0, with_sky=True)
    assert abs(np.median(off)) < 0.03
    bright = expected > np.percentile(expected, 99)
    assert data[bright].sum() / expected[bright].sum() == pytest.approx(1, abs=0.003)


def test_headers_logs_and_records_tell_what_was_done(reduced):
    record = reduced.exposures[0]
    assert record["case"] == "sky"
    assert record["ifus"] == [12, 13]
    assert record["qc"]["bits"] == {"1": 0, "3": 0, "4": 0, "6": 0, "9": 0}
    assert abs(record["qc"]["shift_angstrom"]) < 0.02
    steps = {step["step"]: step for step in record["steps"]}
    assert steps["scipost"]["parameters"]["skymethod"] == "subtract-model"
    assert "SCIPOST FWHM MEDIAN" in steps["scipost"]["qc"]
    log = reduced.tables[0].with_suffix(".log").read_text()
    for words in ("muse_scibasic of", "muse_create_sky of", "muse_scipost of", "Sky line fit finished"):
        assert words in log
    header = fits.getheader(reduced.tables[0])
    names = [str(value) for key, value in header.items() if key.endswith(" NAME") and " CAL" in key]
    # the time of the arc is what bit 4 of the deep product is told from
    assert any(name.startswith("WAVECAL_TABLE-12_2014-08-09T") for name in names)
    assert md.group_exposures([reduced.tables[0]])[0].reduction["state"] == "done"
    told = json.loads((reduced.folder / "reduction.json").read_text())
    assert told["versions"]["pipeline"] not in ("", "unknown")
    assert (reduced.folder / "log").read_text().count("muse_scipost of") >= 2


def test_raw_frames_become_a_deep_cube(raw_night, reduced, tmp_path):
    field = md.Field.from_exposures(
        reduced.tables, tmp_path / "deep", memory="1GB", workers=1, images=str(reduced.folder), srcmin=3,
        lambdamin=6950.0, lambdamax=7050.0,
    )  # fmt: skip
    report = md.run(field, progress=False)
    stages = {stage.stage: stage.facts for stage in report.stages}
    assert list(stages) == ["align", "ingest", "combine", "products", "qc"]
    assert stages["align"]["state"] == "measured"
    cube = md.open_cube(field.cube_path)
    both = cube.exposure_count.values.max()
    assert both == 2
    header = fits.getheader(next(field.products_dir.glob("DATACUBE_DEEP*.fits")))
    # made with a SKY frame, near an arc, without saturation: bits 1, 3, 4 and 6
    flag = header["QCFLAG"]
    assert [flag[n - 1] for n in (1, 3, 4, 6)] == ["0", "0", "0", "0"]
    report = next(field.qc_dir.glob("*.html")).read_text()
    assert "d between arc and exposure" in report
