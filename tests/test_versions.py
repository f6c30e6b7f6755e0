"""A cube that grew by an exposure equals one made from nothing, and the one before can be made again."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from fields import arrays_of, assert_same_bits, files_of, make_field, stored_maps

import musedeep as md
from musedeep import plan
from musedeep.combine import combine_exposures, combine_to_store
from musedeep.errors import InputError, UsageError, WorkError
from musedeep.grid import VoxelGrid
from musedeep.ingest import ingest_exposures
from musedeep.simulate import simulate_exposures


@pytest.fixture
def growing(four_files, tmp_path):
    """A field of three exposures with its cube."""
    offsets = four_files[0].parent / "OFFSET_LIST.fits"
    field = make_field(four_files[:3], tmp_path / "field", offsets=offsets)
    ingest_exposures(field)
    combine_to_store(field)
    return field


def test_one_more_exposure_and_back_again(growing, four_files, tmp_path):
    first = stored_maps(growing)
    stamps = {path: path.stat().st_mtime_ns for path in growing.pixels_path.rglob("*") if path.is_file()}
    grown = growing.add_exposures([four_files[3]])
    ingest_exposures(grown)
    for path, stamp in stamps.items():
        assert path.stat().st_mtime_ns == stamp, f"{path} was written again"
    combine_to_store(grown)
    # the bits of a field that has had them all from the beginning
    scratch = make_field(four_files, tmp_path / "scratch", offsets=four_files[0].parent / "OFFSET_LIST.fits")
    ingest_exposures(scratch)
    combine_to_store(scratch)
    assert_same_bits(stored_maps(grown), stored_maps(scratch))
    withdrawn = grown.without(grown.exposures.dates[0])
    combine_to_store(withdrawn)
    combine_to_store(withdrawn)

    table = md.history(growing.folder)
    assert list(table["version"]) == [1, 2, 3] and list(table["exposures"]) == [3, 4, 3]
    assert table["added"][1] == grown.exposures.dates[3] and table["withdrawn"][2] == grown.exposures.dates[0]
    assert table["added"][0] == table["withdrawn"][1] == "" and table["hours"][1] == pytest.approx(1.0)
    assert "output grid" in table["changed"][1] or table["changed"][1] == ""

    for version, wanted in ((1, first), (2, stored_maps(scratch))):
        again = md.earlier_field(growing.folder, version)
        assert_same_bits(arrays_of(combine_exposures(again)), wanted)
    # durably too, which is a version of its own
    combine_to_store(md.earlier_field(grown, 1))
    assert_same_bits(stored_maps(grown), first)
    assert len(md.history(grown)) == 4


def test_offsets_and_weights_of_that_time_count(growing, four_files, tmp_path):
    first = stored_maps(growing)
    changed = growing.changed(offsets=str(_other_offsets(growing, tmp_path)), weight="none", nclip=(3, 3))
    combine_to_store(changed)
    table = md.history(growing)
    words = {"nclip", "weight", "offsets", "offset table", "exposure weights"}
    assert words <= set(table["changed"][1].split(", "))
    assert not np.array_equal(stored_maps(growing)["weight"], first["weight"])
    assert_same_bits(arrays_of(combine_exposures(md.earlier_field(growing, 1))), first)


def _other_offsets(field, folder):
    from astropy.table import Table

    path = folder / "other.ecsv"
    columns = {"DATE_OBS": field.exposures.dates, "RA_OFFSET": [1e-5] * 3, "DEC_OFFSET": [0.0] * 3}
    Table(columns).write(path)
    return path


def test_only_blocks_that_an_exposure_touches_are_combined(tmp_path, monkeypatch):
    """A mosaic of two pointings; the grid is kept, as that of the version before."""
    monkeypatch.setattr(plan, "LARGEST_BLOCK", (16, 16, 16))
    monkeypatch.setattr(plan, "SMALLEST_BLOCK", (16, 16, 16))
    folder = tmp_path / "exposures"
    files = simulate_exposures(
        folder, exposures=6, seed=4, field_arcsec=4.0, wavelength=(6500.0, 6510.0), fov_images=False,
        pointings=[(0.0, 0.0), (6.0, 0.0)], dither_arcsec=0.2, pointing_error_arcsec=0.0,
    )  # fmt: skip
    field = make_field(files[:5], tmp_path / "field")
    ingest_exposures(field)
    everything = combine_to_store(field)
    grid = str(field.folder / "history" / "0001.json")
    grown = field.changed(grid=grid).add_exposures([files[5]])
    ingest_exposures(grown)
    facts = combine_to_store(grown)
    assert 0 < facts["computed"] < 0.7 * everything["computed"]
    scratch = make_field(files, tmp_path / "scratch", grid=grid)
    ingest_exposures(scratch)
    combine_to_store(scratch)
    assert_same_bits(stored_maps(grown), stored_maps(scratch))


def test_a_version_that_cannot_be_made_again_is_refused(growing, tmp_path):
    with pytest.raises(UsageError, match="no version 7 of its cube; known are: 1"):
        md.earlier_field(growing, 7)
    name = growing.exposures[0].name
    shutil.rmtree(growing.pixels_path / name)
    with pytest.raises(InputError, match=r"exposure .* is not in the pixel store any more"):
        md.earlier_field(growing, 1)
    assert len(md.history(dataclasses.replace(growing, folder=tmp_path / "empty"))) == 0


def test_the_grid_of_a_version_is_exact(growing):
    path = growing.folder / "history" / "0001.json"
    assert VoxelGrid.from_file(path) == VoxelGrid.from_dict(json.loads(path.read_text())["grid"])
    path.write_text("{}")
    with pytest.raises(InputError, match="holds no grid of a cube"):
        VoxelGrid.from_file(path)


def test_a_version_that_cannot_be_kept_is_told(growing):
    shutil.rmtree(growing.folder / "history")
    (growing.folder / "history").write_text("in the way")
    with pytest.raises(WorkError, match=r"history: what went into the cube cannot be kept .* run again"):
        combine_to_store(growing)


def test_files_of_a_version_are_kept(growing):
    facts = json.loads((growing.folder / "history" / "0001.json").read_text())
    assert [path for e in facts["exposures"] for path in e["files"]] == list(map(str, files_of(growing)))
