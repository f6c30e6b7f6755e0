"""Headers, settings and stores made by somebody who means harm: nothing outside the field is touched, nothing
of them is run."""

import json
import os
import pickle
import shutil
import warnings

import numpy as np
import pytest
from fields import change_table, copy_of, files_of, make_field

from musedeep import InputError, MuseDeepError, UsageError, open_cube, open_field, run
from musedeep.combine import combine_to_store
from musedeep.ingest import ingest_exposures
from musedeep.names import product_name
from musedeep.store import PixelStore


@pytest.fixture
def outside(tmp_path):
    """Things that must stay as they are, around the folder that fields may use; its path."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years of work")
    before = listing(tmp_path)
    (tmp_path / "own").mkdir()
    yield tmp_path / "own"
    shutil.rmtree(tmp_path / "own")
    assert listing(tmp_path) == before


def listing(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("date", ["..", "../precious", ".", "/etc", "2014-08-10T01:02:03/../../precious"])
def test_an_exposure_whose_time_is_a_path(four, outside, date):
    file = shutil.copy2(files_of(four)[0], outside / "PIXTABLE_REDUCED_0001.fits")
    change_table(file, cards={"DATE-OBS": date})
    with pytest.raises(InputError, match="DATE-OBS is '.*', which is no time"):
        field = make_field([file], outside / "field")
        ingest_exposures(field)
    assert not (outside / "field").exists()


@pytest.mark.parametrize("card", ["ESO OBS ID", "ESO INS MODE"])
def test_a_header_that_would_name_a_file_elsewhere(four, card):
    (exposure, *_) = four.exposures
    headers = dict(exposure.header) | {card: "../../precious/x"}

    class Hostile:
        header, date_obs = headers, exposure.date_obs

    with pytest.raises(UsageError, match="has letters that no file name may have"):
        product_name("DATACUBE_DEEP", Hostile, "origfile")
    with pytest.raises(UsageError, match="has letters that no file name may have"):
        product_name("IMAGE_FOV_DEEP_../../precious/x", exposure)


@pytest.mark.parametrize("part", ["../../../precious", "/etc", "part000/../../x"])
def test_a_store_that_names_parts_elsewhere(four, outside, part):
    field = copy_of(four, outside / "field")
    file = field.pixels_path / field.exposures[0].name / "zarr.json"
    data = json.loads(file.read_text())
    parts = data["attributes"]["parts"]
    parts[part] = parts.pop(next(iter(parts)))
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match="is no name of a part"):
        combine_to_store(field)


def test_attributes_that_are_not_what_they_should_be(four, outside):
    """Of a cube store: whatever stands in them, it ends with a message or is put right."""
    field = copy_of(four, outside / "field")
    combine_to_store(field)
    file = field.cube_path / "zarr.json"
    good = json.loads(file.read_text())
    for name, value in [
        ("block_shape", [0, 0, 0]),
        ("block_shape", ["../x"]),
        ("grid", {"a": "b"}),
        ("grid", []),
    ]:
        data = json.loads(json.dumps(good))
        data["attributes"][name] = value
        file.write_text(json.dumps(data))
        try:
            combine_to_store(field)
        except (MuseDeepError, ValueError, TypeError, KeyError, ZeroDivisionError, AttributeError):
            pass


def test_nothing_in_a_store_is_unpickled(four, outside, tmp_path):
    """An array of Python objects, as older formats allow, in the place of a map and of an exposure's rows."""
    mark = outside / "pwned"
    field = copy_of(four, outside / "field")
    combine_to_store(field)
    for folder in (field.cube_path / "flux", field.pixels_path / field.exposures[0].name / "part000"):
        shutil.rmtree(folder)
        folder.mkdir()
        codec = {"id": "pickle", "protocol": 5}
        (folder / ".zarray").write_text(
            json.dumps(
                {
                    "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None,
                    "fill_value": None, "order": "C", "filters": [codec],
                }
            )
        )  # fmt: skip
        (folder / "0").write_bytes(pickle.dumps(np.array([Evil(mark)], object)))
    for attempt in (lambda: open_cube(field.cube_path).flux.values, lambda: run(field, progress=False)):
        # zarr warns of what it does not know
        with warnings.catch_warnings(), pytest.raises((MuseDeepError, KeyError, AttributeError, OSError)):
            warnings.simplefilter("ignore")
            attempt()
        assert not mark.exists()
    pickle.loads((field.cube_path / "flux" / "0").read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('cluster = "threads"', 'cluster = "tcp://127.0.0.1:9"'),
        ('cluster = "threads"', 'cluster = "../evil.yaml"'),
        ("memory = ", 'workers = \'__import__("os").mkdir("x")\' #'),
        ("[grid]", "[grid]\n__class__ = 'x'"),
        ("[grid]", "[__init__]\nx = 1\n[grid]"),
    ],
)
def test_a_field_toml_runs_nothing(four, outside, old, new):
    field = make_field(files_of(four), outside / "field")
    text = field.toml.read_text()
    assert old in text
    field.toml.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match="field.toml: "):
        open_field(outside / "field")


def test_a_field_whose_name_is_a_path(four, outside):
    field = copy_of(four, outside / "field")
    field.toml.write_text(field.toml.read_text().replace('name = "', 'name = "../../precious/', 1))
    run(open_field(outside / "field"), stages=("ingest", "combine", "products"), progress=False)
    assert len(PixelStore(field.pixels_path).exposures()) == 4
