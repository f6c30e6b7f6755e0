"""The pages are tried as a new user would: their Python runs as it stands, their commands are there, and so
are the files that they name."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
import xarray
from astropy.io import fits
from astropy.table import Table

import musedeep as md
from musedeep.cli.command import cli
from musedeep.explore.viewer import Viewer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRIED = ["README.md", "docs/alignment.md", "docs/analysts.md", "docs/cluster.md"]


def blocks(page, language):
    """Blocks of code in a page; list of str."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the pages speak of: the field udf10, one more exposure, filters and a preset."""
    folder = tmp_path_factory.mktemp("desk")
    files = md.simulate_exposures(
        folder / "reduced", exposures=5, field_arcsec=8.0, wavelength=(6478.0, 6582.0), ra_deg=53.16,
        dec_deg=-27.78, stars=6, galaxies=2, fov_images=False,
    )  # fmt: skip
    files[-1].rename(folder / "reduced" / "PIXTABLE_REDUCED_0101.fits")
    offsets = folder / "reduced" / "OFFSET_LIST.fits"
    field = md.Field.from_exposures(
        files[:-1], folder / "udf10", name="udf10", offsets=offsets, memory="1GB", assess="off"
    )
    md.run(field, progress=False)
    curve = Table({"lambda": [6480.0, 6500.0, 6560.0, 6580.0], "throughput": [0.0, 0.9, 0.9, 0.0]})
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(curve, name="SDSS_r")]).writeto(
        folder / "filter_list.fits"
    )
    with fits.open(folder / "filter_list.fits", mode="update") as hdus:
        hdus[1].header["EXTNAME"] = "SDSS_r"
    (folder / "my-cluster.yaml").write_text("kind: local\nworkers: 1\nmemory: 18GB\n")
    return folder


def show(value):
    """What a notebook does with the value of a line, and its reader with numbers that wait."""
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, xarray.Dataset):
            item.compute()
        if hasattr(item, "_repr_html_"):
            assert item._repr_html_() != ""
        if isinstance(item, Viewer):
            item.close()


class Shown(ast.NodeTransformer):
    """Hands the value of every line that only names one to `show`."""

    def visit_Expr(self, node):  # noqa: N802  (the name that ast calls)
        call = ast.Call(ast.Name("show", ast.Load()), [node.value], [])
        return ast.copy_location(ast.Expr(call), node)


@pytest.mark.filterwarnings("ignore")  # those of the packages that a page names
@pytest.mark.parametrize("name", TRIED)
def test_the_python_of_a_page_runs_from_top_to_bottom(desk, monkeypatch, name):
    from matplotlib import pyplot

    monkeypatch.chdir(desk)
    names = {"show": show, "field": md.open_field("udf10")}
    found = blocks(ROOT / name, "python")
    assert found
    for code in found:
        tree = ast.fix_missing_locations(Shown().visit(ast.parse(code)))
        exec(compile(tree, name, "exec"), names)
    pyplot.close("all")


def commands():
    """Every `musedeep ...` in the blocks of the pages: page and words."""
    for page in PAGES:
        for block in blocks(page, "[a-z]*"):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"\s*musedeep \w", line):
                    yield page.name, line.strip()


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_the_commands_of_a_page_are_there(page, line):
    for part in line.split(";"):
        words = shlex.split(part, comments=True)
        if words[:1] != ["musedeep"]:
            continue
        command = cli.commands[words[1]]
        command.make_parser(click.Context(command)).parse_args(words[2:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_of_the_project_are_there(page):
    text = page.read_text()
    targets = [(page.parent, target) for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", text)]
    named = re.findall(r"`((?:benchmarks|cluster|notebooks|tests|docs)/[\w./-]+)`", text)
    named += re.findall(r"(?:python|pytest) ((?:benchmarks|tests)/[\w./-]+)", text)
    missing = [
        target for folder, target in [*targets, *((ROOT, n) for n in named)] if not (folder / target).exists()
    ]
    assert not missing
