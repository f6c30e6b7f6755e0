"""The whole assessment: what it finds, what it writes, and that it goes on where it was."""

import dataclasses
import json
import re
import shutil
import tomllib

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from matplotlib.image import imread

from musedeep.errors import InputError
from musedeep.products import cube_file
from musedeep.qc import assess_field, is_assessed
from musedeep.qc.deep import Deep
from musedeep.qc.stage import quality_state, run_quality


def named(assessment, field):
    dates = field.exposures.dates
    return {f.name: [dates.index(date) for date in f.exposures] for f in assessment.alarms}


def test_every_fault_is_found_and_named(spoilt):
    field, found = spoilt
    alarms = named(found, field)
    assert alarms.pop("misalignment") == [1]
    assert alarms.pop("background_level") == [2]
    assert alarms.pop("wavelength_shift") == [3]
    assert alarms.pop("saturation") == [4]
    assert alarms.pop("trail") == [5]
    # a star that lost its middle looks faint
    assert set(alarms) <= {"background_width", "flux_scale"}, alarms


def test_nothing_is_found_where_nothing_is_wrong(clean):
    field, found = clean
    assert found.alarms == []
    assert found.verdict.startswith("nothing stands out: ")
    measured = {f.name for f in found.findings if f.measured}
    assert {"misalignment", "flux_scale", "trail", "variance", "wavelength_shift", "sky_level"} <= measured
    assert "crater" not in measured  # that takes the map of rejections
    assert found.transients is None
    assert found.flag == "0010000000"


def test_values_are_those_that_were_planted(spoilt):
    field, found = spoilt
    by_name = {f.name: f for f in found.findings}
    dates = field.exposures.dates
    assert by_name["misalignment"].values[dates[1]] == pytest.approx(0.5, abs=0.01)
    assert by_name["wavelength_shift"].values[dates[3]] == pytest.approx(0.4, abs=0.03)
    others = [v for d, v in by_name["wavelength_shift"].values.items() if d != dates[3]]
    assert np.abs(others).max() < 0.05
    assert [v for d, v in by_name["saturation"].values.items() if d != dates[4]] == [0] * 5


def test_flags_follow_the_findings(spoilt):
    _, found = spoilt
    # no sky frame; saturated; wavelengths; alignment
    assert found.flag == "0010010011"
    assert [bit.number for bit in found.bits] == list(range(1, 11))


def test_what_rejection_removed_is_listed(spoilt):
    field, found = spoilt
    trail = found.transients[found.transients["KIND"] == "trail"]
    assert set(trail["DATE_OBS"]) == {field.exposures.dates[5]}
    shares = {row["DATE_OBS"]: row["REJECTED"] for row in found.exposures}
    worst = max(shares, key=shares.get)
    assert worst == field.exposures.dates[5]
    assert min(shares.values()) > 0.0001  # cosmic rays are everywhere


def test_maps_of_rejected_rows_lie_where_the_exposures_do(spoilt):
    field, found = spoilt
    with fits.open(field.qc_dir / "rejected.fits") as hdus:
        assert [hdu.name for hdu in hdus[1:]] == field.exposures.dates
        shares = {row["DATE_OBS"]: row["REJECTED"] for row in found.exposures}
        for hdu in hdus[1:]:
            assert hdu.data.sum() / hdu.header["NROWS"] == pytest.approx(shares[hdu.name])
            exposure = field.exposures[hdu.name]
            x, y = WCS(hdu.header).world_to_pixel_values(exposure.ra_deg, exposure.dec_deg)
            # headers are off by some tenths of an arcsecond
            assert np.hypot(x - hdu.shape[1] / 2, y - hdu.shape[0] / 2) < 8


def test_files_are_complete_and_small(spoilt):
    field, found = spoilt
    assert all(path.exists() for path in found.files)
    pictures = [path for path in found.files if path.suffix == ".png"]
    assert len(pictures) == 2 + len(field.exposures)
    for path in pictures:
        assert path.stat().st_size < 300_000
        image = imread(path)
        assert image.shape[1] > 1000
        assert len(np.unique(image[..., 0])) > 100
        assert (image[:, -24:] == 1).all() and (image[:, :10] == 1).all(), "something runs over the edge"
    assert json.loads((field.qc_dir / "assessment.json").read_text())["qcflag"] == found.flag
    table = Table.read(field.qc_dir / "noise.ecsv")
    assert len(table) == len(Deep.load(field.qc_dir / "deep.npz").wavelength)
    assert 0.8 < np.nanmedian(table["FACTOR_1"]) < 1.2 < np.nanmedian(table["FACTOR_5"]) < 2
    assert tomllib.loads((field.qc_dir / "thresholds.toml").read_text())["misalignment"] == 0.1


def test_the_report_needs_no_other_file(spoilt):
    field, found = spoilt
    text = (field.qc_dir / "report.html").read_text()
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 2 + len(field.exposures)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    for alarm in found.alarms:
        assert alarm.name.replace("_", " ") in text


def test_the_header_of_the_cube_tells(spoilt):
    field, found = spoilt
    with fits.open(cube_file(field), memmap=False) as hdus:
        header = hdus[0].header
        assert header["QCFLAG"] == found.flag
        assert "6 exposures of 2 OBs" in header["QCCOMM1"]
        names = [header[key] for key in header if re.fullmatch(r"ASSON\d+", key)]
    assert any(name.endswith("_dpc.log") for name in names)
    assert sum(name.endswith("_pst.png") for name in names) == len(field.exposures)


def test_the_stage_skips_what_is_done(spoilt, tmp_path):
    field, found = spoilt
    assert is_assessed(field)
    assert run_quality(field) == {"state": "kept"}
    assert run_quality(field.changed(assess="off")) == {"state": "off"}
    assert not is_assessed(field.changed(assess="quick"))
    assert quality_state(field)["done"] == 1
    cube = cube_file(field)
    kept = cube.read_bytes()
    try:
        with fits.open(cube, mode="update") as hdus:
            hdus[0].header["QCFLAG"] = ""
        assert not is_assessed(field)
    finally:
        cube.write_bytes(kept)
    assert is_assessed(field)


def test_the_log_has_its_four_sections(spoilt):
    field, found = spoilt
    text = next(path for path in found.files if path.suffix == ".log").read_text()
    order = [text.index(f"=== {n}. {title} ===") for n, title in enumerate(
        ("ASSOCIATION", "RECIPE LOGS", "SELECTION", "QC"), start=1)]  # fmt: skip
    assert order == sorted(order)
    for exposure in field.exposures:
        assert f"EXPOSURE {exposure.date_obs}  fingerprint {exposure.fingerprint}" in text
    assert "OBID OBNAME AMBI_REQ SEEING_MED GRADE DECISION REASON COMMENT" in text
    toml = text.split("--- 2.3 field.toml\n")[1].split("--- 2.4")[0]
    assert tomllib.loads(toml) == tomllib.loads(field.toml.read_text())
    assert f"QCFLAG = '{found.flag}'" in text


def test_a_second_assessment_reads_what_was_measured(clean, monkeypatch):
    field, found = clean
    before = {p: p.stat().st_mtime_ns for p in field.qc_dir.rglob("*.npz")}
    assert len(before) == 2 + len(field.exposures)
    again = assess_field(field.changed(assess="quick"))
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert [f.to_dict() for f in again.findings] == [f.to_dict() for f in found.findings]


def test_an_exposure_that_was_not_surveyed_is_surveyed_alone(clean):
    field, _ = clean
    surveys = sorted((field.qc_dir / "exposures").glob("*.npz"))
    before = {p: p.stat().st_mtime_ns for p in surveys}
    surveys[2].write_bytes(b"broken")
    assess_field(field.changed(assess="quick"))
    changed = [p for p in surveys if p.stat().st_mtime_ns != before[p]]
    assert changed == [surveys[2]]


def test_thresholds_of_a_group(clean, tmp_path):
    field, _ = clean
    file = tmp_path / "ours.toml"
    file.write_text("misalignment = 0.00001\n")
    found = assess_field(field.changed(assess="quick", thresholds=str(file)))
    assert [f.name for f in found.alarms] in ([], ["misalignment"])
    assert next(f for f in found.findings if f.name == "misalignment").threshold == 0.00001
    file.write_text("misalignmend = 1\n")
    with pytest.raises(InputError, match="unknown reference 'misalignmend'"):
        assess_field(field.changed(thresholds=str(file)))


def test_an_unfinished_cube_is_refused(clean, tmp_path):
    field, _ = clean
    copied = tmp_path / "field"
    shutil.copytree(field.folder, copied, ignore=shutil.ignore_patterns("pixels.zarr", "qc"))
    attributes = json.loads((copied / "cube.zarr" / "zarr.json").read_text())
    attributes["attributes"]["finished"] = False
    (copied / "cube.zarr" / "zarr.json").write_text(json.dumps(attributes))
    (copied / "pixels.zarr").symlink_to(field.pixels_path)
    with pytest.raises(InputError, match="is not finished"):
        assess_field(dataclasses.replace(field, folder=copied))
