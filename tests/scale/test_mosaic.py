"""A mosaic with a deep centre, in small: benchmarks/mosaic275.py says what is held against what."""

import json
import sys
from pathlib import Path

from harness import measure

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mosaic275.py"


def test_a_mosaic_with_a_deep_centre_comes_out_right_in_little_memory(tmp_path):
    """It ends with an error where memory, depth, fluxes or noise are not as they must be."""
    words = "--memory 300MB --exposures 60 --rows 2.5e4 --field 10 --spacing 8 --stars 25"
    measure([sys.executable, SCRIPT, *words.split(), "--folder", tmp_path, "--output", tmp_path / "report"])
    report = json.loads((tmp_path / "report.json").read_text())
    ingest, combine, products = report["rows"]
    for stage in (ingest, combine):
        assert stage["measured_MB"] <= stage["predicted_MB"] <= 300
    assert products["measured_MB"] <= 300
    assert any("4: 4" in note and "28: 28" in note for note in report["notes"])
