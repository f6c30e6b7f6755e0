"""The page: complete in itself, careful with names, and in a real browser."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from frames import arcfile_of, date_of, decision_on, east, select, write_frame

from musedeep.select import select_exposures
from musedeep.select.maps import all_sky_map, colour, depth_map, field_map
from musedeep.select.overrides import read_overrides

CHROMIUM = next(
    (name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None
)
ODD = '</script><b>"O\'Brien" & co'


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Two fields that overlap a little, one exposure with bad seeing, one comet; the folder of the fields."""
    folder = tmp_path_factory.mktemp("page")
    other = {"target": ODD, "ra": east(40), "pi": 99, "ob_name": "other"}
    exposures = [{}, {}, {}, {"seeing": 3.0}, other, other, other, other | {"seeing": 1.9}, {"target": "67P"}]
    select(
        folder,
        *exposures,
        output=folder / "fields",
        overrides=f"blocks: {{999: reject}}\nexposures: {{{date_of(5)}: keep}}",
    )
    return folder / "fields"


class Tags(HTMLParser):
    """Checks that tags are closed in their order, and gathers attributes that load something."""

    void = {"meta", "input", "image", "path", "polygon", "ellipse", "br", "circle"}

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [
            value for name, value in attributes if name in ("src", "href") and not value.startswith("#")
        ]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag


def test_the_page_needs_no_other_file(fields):
    text = (fields / "index.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.loads and all(value.startswith("data:image/png;base64,") for value in tags.loads)
    assert not re.search(r"https?://|@import|url\(", text)


def test_names_cannot_break_the_page(fields):
    text = (fields / "index.html").read_text()
    assert ODD not in text and html.escape(ODD) in text
    assert text.count("<script") == text.count("</script>") == 2


def test_the_page_tells_everything(fields):
    text = html.unescape((fields / "index.html").read_text())
    assert "3.00 arcsec, 3.00 times 1.00 requested" in text and "borderline seeing" in text
    assert "overlaps it and is kept apart" in text and "the target is called '67P'" in text
    for number in range(9):
        assert f'data-exposure="{date_of(number)}"' in text


def test_the_map_counts_seconds(tmp_path):
    found = select(tmp_path, {}, {}, {"ra": east(30)}, {"ra": east(30)})
    taken = [d.candidate for d in found.datasets[0].taken]
    depth = depth_map(taken, (150.0, -30.0), 90.0, cells=180)
    # the pixels are of one arcsec: two exposures of 900 s everywhere, four where both pointings lie
    assert np.unique(depth).tolist() == [0.0, 1800.0, 3600.0]
    assert np.sum(depth == 3600) == pytest.approx(30 * 60, rel=0.05)
    # east is left
    assert depth[90, 90 - 50] == 1800 and depth[90, 90 + 50] == 0
    assert depth.sum() == pytest.approx(4 * 900 * 3600, rel=0.02)


def test_maps_of_what_has_no_place_are_empty(tmp_path):
    found = select(tmp_path, {}, {"ra": None, "ob": 5})
    assert field_map(found.datasets[0]).count("<polygon") == 1
    assert "ellipse" in all_sky_map([]) and all_sky_map(found.datasets).count("<circle") == 1


def test_colours_grow_lighter():
    shades = colour(np.linspace(0, 1, 20)).astype(float) @ (0.3, 0.6, 0.1)
    assert (np.diff(shades) > 0).all()


def in_browser(page, tmp_path, script):
    """The page's DOM after a script has run in a real browser."""
    text = page.read_text().replace("</body>", f"<script>{script}</script></body>")
    copy = tmp_path / "page.html"
    copy.write_text(text)
    words = f"--headless --no-sandbox --disable-gpu --user-data-dir={tmp_path}/profile --dump-dom"
    run = subprocess.run(
        [CHROMIUM, *words.split(), copy.as_uri()], capture_output=True, text=True, timeout=120
    )
    return run.stdout


def yaml_of(dom, path):
    path.write_text(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)[1]))
    return path


SEEN = """
const seen = document.createElement("pre"); seen.id = "seen";
seen.textContent = document.getElementById("yaml").value; document.body.append(seen);
document.body.dataset.count = document.getElementById("count").textContent;
document.body.dataset.shown = all(".field").filter((field) => !field.hidden).map((field) => field.id).join();
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_what_is_chosen_in_a_browser_is_replayed(fields, tmp_path):
    script = f"""
    const change = (what, value) => {{ const choice = document.querySelector(what); choice.value = value;
      choice.dispatchEvent(new Event("change", {{bubbles: true}})); }};
    change('select[data-exposure="{date_of(3)}"]', "keep");
    change('select[data-exposure="{date_of(0)}"]', "reject");
    change('select[data-exposure="{date_of(5)}"]', "");
    for (const box of all("input[data-tick]")) box.checked = true;
    document.getElementById("join").click();
    document.getElementById("confirm").click();
    {SEEN}"""
    dom = in_browser(fields / "index.html", tmp_path, script)
    assert 'data-count="6 changes"' in dom
    said = read_overrides(yaml_of(dom, tmp_path / "targets.yaml"))
    assert said.exposures == {date_of(3): "keep", date_of(0): "reject"}
    assert said.blocks == {"999": "reject"}
    assert len(said.join) == 1 and len(said.join[0]) == 2 and len(said.fields) == 2
    found = select_exposures(fields.parent / "raw", overrides=tmp_path / "targets.yaml")
    assert [len(d.taken) for d in found.datasets] == [7]
    assert decision_on(found, 3).taken and not decision_on(found, 0).taken


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_hides_what_is_not_asked_for(fields, tmp_path):
    script = f"""
    const find = document.getElementById("find"); find.value = "BORDERLINE";
    find.dispatchEvent(new Event("input")); {SEEN}"""
    dom = in_browser(fields / "index.html", tmp_path, script)
    (shown,) = re.findall(r'data-shown="([^"]*)"', dom)
    assert shown and "ngc-300" not in shown
    assert 'data-count="0 changes"' in dom
    # without a change, what is saved says what was said before
    said = read_overrides(yaml_of(dom, tmp_path / "targets.yaml"))
    assert said.exposures == {date_of(5): "keep"} and said.blocks == {"999": "reject"}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_confirmed_in_the_browser_is_accepted(tmp_path):
    for number in range(4):
        write_frame(tmp_path / "raw", number)
    select_exposures(tmp_path / "raw", tmp_path / "fields")
    script = f'document.getElementById("confirm").click(); {SEEN}'
    dom = in_browser(tmp_path / "fields" / "index.html", tmp_path, script)
    yaml_of(dom, tmp_path / "fields" / "targets.yaml")
    assert [d.accepted for d in select_exposures((), tmp_path / "fields").datasets] == [True]
    assert f'data-arcfile="{arcfile_of(0)}"' in dom
