import json

import numpy as np
import pytest

import musedeep as md
from musedeep.demo import compare_with_truth, draw, simulate_demo
from musedeep.demo.picture import _colours, _hues
from musedeep.demo.scene import scene
from musedeep.errors import UsageError
from musedeep.offsets import OffsetTable
from musedeep.store import CubeStore


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The demonstration, with its cube and its products."""
    field = simulate_demo(tmp_path_factory.mktemp("demo"))
    md.run(field, progress=False)
    return field


def test_every_figure_meets_what_is_wanted(finished):
    rows = compare_with_truth(finished)
    assert [row["what"] for row in rows if row["good"] != "yes"] == []
    assert len(rows) == 8 and all(isinstance(text, str) for row in rows for text in row.values())


def test_figures_that_are_wrong_are_told(finished):
    """Without the flux scale, with shifted offsets and without rejection the table says so."""
    table = OffsetTable.read(finished.offsets_path).table
    table["FLUX_SCALE"], table["DEC_OFFSET"] = 1.0, table["DEC_OFFSET"] + 0.1 / 3600
    path = finished.folder / "wrong.fits"
    OffsetTable(table).write(path)
    wrong = finished.changed(offsets=str(path), reject="none")
    md.run(wrong, progress=False, stages=("combine",))
    good = {row["what"]: row["good"] for row in compare_with_truth(wrong)}
    md.run(finished, progress=False, stages=("combine",))
    for words in (
        "places of 4 stars",
        "cosmic rays of 8",
        "cosmic rays above",
        "satellite trail",
        "exposure 8",
    ):
        assert [value for what, value in good.items() if what.startswith(words)] == ["no"], words
    assert good["clean rows lost"] == "yes"


def test_the_picture_is_drawn(finished, tmp_path):
    path = draw(finished, tmp_path / "picture.png")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 100_000
    assert draw(finished) == finished.folder / "demo.png"


def test_what_is_simulated(finished):
    truth = json.loads((finished.folder / "exposures" / "truth.json").read_text())
    exposures = truth["exposures"]
    assert len(exposures) == len(finished.exposures) == 12
    assert len({exposure["position_angle_deg"] for exposure in exposures}) == 4
    assert [len(exposure["trails"]) for exposure in exposures].count(1) == 1
    assert sorted({round(exposure["flux_scale"], 4) for exposure in exposures}) == [round(1 / 1.12, 4), 1.0]
    assert sum(exposure.row_count for exposure in finished.exposures) < 8e6
    assert np.isfinite(CubeStore(finished.cube_path).read("flux", 26, 27)).mean() > 0.5


def test_another_field_is_not_overwritten(finished, tmp_path):
    files = [str(table.path) for exposure in finished.exposures for table in exposure.tables]
    md.Field.from_exposures(files, tmp_path, name="mine")
    with pytest.raises(UsageError, match="holds a field of another name"):
        simulate_demo(tmp_path)


def test_hue_is_wavelength_and_brightness_is_flux():
    wavelengths = np.linspace(6508, 6572, 53)
    hues = _hues(wavelengths)
    assert hues[0].argmax() == 2 and hues[-1].argmax() == 0 and 0 <= hues.min() and hues.max() <= 1
    flux = np.zeros((53, 1, 5))
    flux[:2, 0, 0] = flux[-2:, 0, 1] = 400.0
    flux[:, 0, 2], flux[:, 0, 3], flux[:, 0, 4] = 20.0, 60.0, np.nan
    blue, red, grey, brighter, empty = _colours(flux, wavelengths)[0]
    assert blue[:3].argmax() == 2 and red[:3].argmax() == 0
    assert np.ptp(grey[:3]) < 0.1 and (brighter[:3] > grey[:3]).all()
    assert (empty[3], grey[3]) == (0, 1)


def test_sources_lie_in_the_field():
    sources = scene()
    assert {source.kind for source in sources} == {"star", "gaussian", "exponential"}
    assert max(np.hypot(source.east_arcsec, source.north_arcsec) for source in sources) < 10.5
    assert scene() == sources
