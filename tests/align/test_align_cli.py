import json

import pytest

from musedeep.cli import _main
from musedeep.offsets import OffsetTable


def run(capsys, *words):
    code = _main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_images_are_aligned_from_the_command_line(sky, tmp_path, capsys):
    paths = sky(stars=20).add().add((0.5, -0.3)).add((0.1, 0.2)).write(tmp_path)
    code, text, _ = run(capsys, "align", *paths, "-o", tmp_path / "list.fits", "--quiet", "--srcmax", "60")
    assert code == 0 and "verdict: aligned" in text
    assert abs(OffsetTable.read(tmp_path / "list.fits").table["DEC_OFFSET"][1] * 3600 + 0.3) < 0.01
    assert (tmp_path / "list.png").exists() and (tmp_path / "list.ecsv").exists()
    words = ("align", *paths, "-o", tmp_path / "list.ecsv", "--quiet", "--json")
    found = json.loads(run(capsys, *words)[1])
    assert found["verdict"] == "aligned" and len(found["exposures"]) == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [((), 2, "give -o"), (("-o", "list.fits", "--srcmin", "9", "--srcmax", "5"), 2, "srcmin = 9 is above")],
)
def test_what_is_missing_or_wrong_is_told(sky, tmp_path, capsys, words, code, message):
    paths = sky(stars=5).add().add().write(tmp_path)
    found = run(capsys, "align", *paths, *words)
    assert found[0] == code and message in found[2]
