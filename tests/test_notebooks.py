"""The notebooks run as they stand, and what they show is kept in them."""

import re
import warnings
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MINUTES = 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the notebook's own machinery
        client = NotebookClient(notebook, timeout=60 * MINUTES, resources={"metadata": {"path": tmp_path}})
        client.execute()
    saved = nbformat.read(path, 4)
    for cell, before in zip(notebook.cells, saved.cells, strict=True):
        kinds = [sorted(output.get("data", {})) for output in cell.get("outputs", []) if "data" in output]
        kept = [sorted(output.get("data", {})) for output in before.get("outputs", []) if "data" in output]
        assert kinds == kept, f"the saved outputs are not those of this cell:\n{cell.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_saved_with_pictures_and_small(path):
    notebook = nbformat.read(path, 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert path.stat().st_size < 300_000
    assert not re.search(r"/(tmp|root|home)/", path.read_text()), "it names a place on a machine"


def test_there_are_notebooks_for_what_analysts_ask():
    names = {path.stem for path in NOTEBOOKS}
    assert {
        "first-look",
        "one-field",
        "is-this-line-real",
        "what-was-rejected",
        "depth-and-noise",
        "on-a-cluster",
    } <= names
