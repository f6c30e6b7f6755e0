"""Disks that are full or may not be written, and stores that were damaged."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from fields import assert_same_bits, change_table, copy_of, files_of, ingested, make_field, stored_maps

from musedeep import open_field, plan, run
from musedeep.combine import combine_to_store, cube_progress
from musedeep.errors import InputError, WorkError
from musedeep.ingest import ingest_exposures
from musedeep.store import CubeStore, Ledger, PixelStore


@pytest.fixture
def offsets(four):
    return four.settings.combine.offsets


def test_a_full_disk_while_ingesting(four, four_maps, disk, offsets):
    field = make_field(files_of(four), disk("size=1m") / "field", offsets=offsets)
    with pytest.raises(
        WorkError, match="exposure 2014.*No space left on device.*make room.*what is finished is kept"
    ):
        ingest_exposures(field)
    done = len(PixelStore(field.pixels_path).exposures())
    assert done < 4
    disk("size=100m")
    ingest_exposures(field)
    combine_to_store(field)
    assert_same_bits(stored_maps(field), four_maps)


def test_a_full_disk_while_combining(four, four_maps, disk, monkeypatch):
    monkeypatch.setattr(plan, "LARGEST_BLOCK", (16, 16, 16))
    monkeypatch.setattr(plan, "SMALLEST_BLOCK", (16, 16, 16))
    folder = disk("size=100m")
    field = copy_of(four, folder / "field")
    used = int(1.02 * sum(path.stat().st_size for path in folder.rglob("*"))) + 500_000
    filler = folder / "filler"
    filler.write_bytes(b"0" * (100 * 1024**2 - used - 200_000))
    with pytest.raises(
        WorkError, match="block .*No space left on device.*make room.*what is finished is kept"
    ):
        combine_to_store(field)
    filler.unlink()
    combine_to_store(field)
    assert_same_bits(stored_maps(field), four_maps)


def test_a_disk_without_room_for_the_first_file(four, musedeep, disk):
    code, _, error = musedeep("run", *files_of(four), "-o", disk("size=4k") / "field", "--quiet")
    assert code in (2, 5) and "No space left" in error and "Traceback" not in error


def test_a_folder_that_may_not_be_written(four, musedeep, disk):
    folder = disk("size=10m")
    assert musedeep("init", *files_of(four), "-o", folder / "field")[0] == 0
    disk("ro")
    for words in (("init", *files_of(four), "-o", folder / "new"), ("run", folder / "field", "--quiet")):
        code, _, error = musedeep(*words)
        assert code in (2, 5), words
        assert "Read-only file system" in error and str(folder) in error and "Traceback" not in error


def test_a_folder_that_is_a_file(four, musedeep, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, error = musedeep("run", *files_of(four), "-o", tmp_path / "file" / "field", "--quiet")
    assert code == 2 and re.search("cannot write .*file.*choose a folder that you may write", error)


# ------------------------------------------------------------------------------------------ damage


def first_shard(field, name="rows"):
    exposure = field.exposures[1].name
    (path,) = [p for p in (field.pixels_path / exposure).rglob(f"{name}/c/*") if p.is_file() or p.is_dir()]
    return path if path.is_file() else next(p for p in path.rglob("*") if p.is_file())


@pytest.mark.parametrize("damage", ["bits", "cut", "gone", "index"])
def test_a_damaged_pixel_store_is_named_and_can_be_mended(four, four_maps, tmp_path, damage):
    field = copy_of(four, tmp_path)
    shard = first_shard(field, "offset" if damage == "index" else "rows")
    if damage == "gone":
        shard.unlink()
    elif damage == "bits":
        raw = bytearray(shard.read_bytes())
        raw[len(raw) // 2] ^= 1
        shard.write_bytes(raw)
    else:
        raw = shard.read_bytes()
        shard.write_bytes(raw[:-3000] if damage == "cut" else raw[: len(raw) // 4])
    with pytest.raises(
        InputError, match=f"{field.exposures[1].name}.*delete the exposure's folder.*ingest it again"
    ):
        combine_to_store(field)
    shutil.rmtree(field.pixels_path / field.exposures[1].name)
    ingest_exposures(field)
    combine_to_store(field)
    assert_same_bits(stored_maps(field), four_maps)


@pytest.mark.parametrize("which", ["store", "exposure", "cube"])
def test_a_damaged_description_is_named_with_what_to_do(four, four_maps, tmp_path, which):
    field = copy_of(four, tmp_path)
    combine_to_store(field)
    folder = {
        "store": field.pixels_path,
        "exposure": field.pixels_path / field.exposures[1].name,
        "cube": field.cube_path,
    }[which]
    text = (folder / "zarr.json").read_text()
    (folder / "zarr.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=f"{folder}: the .* has a damaged zarr.json .*; delete the folder"):
        ingest_exposures(field)
        combine_to_store(field)
    shutil.rmtree(folder)
    ingest_exposures(field)
    combine_to_store(field)
    assert_same_bits(stored_maps(field), four_maps)


def test_a_pixel_store_of_another_version_is_refused(four, tmp_path):
    field = copy_of(four, tmp_path)
    file = field.pixels_path / "zarr.json"
    file.write_text(file.read_text().replace('"musedeep_format": ', '"musedeep_format": 99'))
    with pytest.raises(InputError, match="format 99.*"):
        ingest_exposures(field)


@pytest.fixture(scope="module")
def combined(four, tmp_path_factory):
    """A field with its cube, in blocks small enough that there are many."""
    field = copy_of(four, tmp_path_factory.mktemp("combined") / "field")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "LARGEST_BLOCK", (16, 16, 16))
        patch.setattr(plan, "SMALLEST_BLOCK", (16, 16, 16))
        combine_to_store(field)
    return field


@pytest.mark.parametrize("damage", ["bit", "cut", "empty"])
def test_a_damaged_block_is_found_and_redone_alone(combined, four_maps, tmp_path, damage, capfd):
    """By the checksums of the store where it is read, and of the ledger for which block it is."""
    shutil.copytree(combined.folder, tmp_path / "field")
    field = open_field(tmp_path / "field")
    ledger = Ledger(field.folder / "cube.ledger")
    before = ledger.path.read_text().splitlines()
    # one in the middle, and one at the edge of the cube, whose shard is larger than what it holds
    spoiled = {("flux", "0/1/1"), ("variance", "1/2/2")}
    for name, place in spoiled:
        shard = field.cube_path / name / "c" / place
        raw = bytearray(shard.read_bytes())
        if damage == "bit":
            raw[len(raw) // 3] ^= 4
        shard.write_bytes({"bit": raw, "cut": raw[: len(raw) // 2], "empty": b""}[damage])
    run(field, stages=("combine", "products"))
    told = re.search("cube.zarr: .* damaged .*: 2 blocks were computed anew", capfd.readouterr().err)
    assert told or damage == "empty"  # that one is missed before anything reads it
    assert_same_bits(stored_maps(field), four_maps)
    added = [json.loads(line) for line in ledger.path.read_text().splitlines()[len(before) :] if line]
    assert sum("key" in record for record in added) == 2
    assert (field.products_dir / "DATACUBE_DEEP.fits").exists()


def test_a_damaged_block_is_named_where_it_is_read(combined, tmp_path):
    shutil.copytree(combined.cube_path, tmp_path / "cube.zarr")
    shard = tmp_path / "cube.zarr" / "flux" / "c" / "0" / "1" / "1"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(
        InputError, match="cube.zarr: flux of planes 0 to 15 is damaged .*; run `musedeep run"
    ):
        CubeStore(tmp_path / "cube.zarr").read("flux", 0, 16)


def test_a_full_disk_while_writing_products(combined, four_maps, disk):
    folder = disk("size=100m")
    shutil.copytree(combined.folder, folder / "field")
    field = open_field(folder / "field")
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    disk(f"size={used // 1024 + 900}k")
    with pytest.raises(WorkError, match="is too full: .* bytes needed, .* bytes free"):
        run(field, stages=("products",), progress=False)
    assert not list(field.products_dir.glob("*.fits"))
    disk("size=100m")
    run(field, stages=("products",), progress=False)
    assert (field.products_dir / "DATACUBE_DEEP.fits").exists()
    assert_same_bits(stored_maps(field), four_maps)


def test_an_input_replaced_in_the_middle_is_taken_in_anew(four, tmp_path):
    """Other rows under the same name when the run has begun: no exposure mixes the two."""
    files = [Path(shutil.copy2(path, tmp_path)) for path in files_of(four)]
    field = make_field(files, tmp_path / "field", offsets=four.settings.combine.offsets)
    list(field.exposures)
    change_table(files[1], columns={"data": lambda values: 2 * values})
    with pytest.raises(InputError, match=f"{files[1].name}: was changed or replaced while it was taken in"):
        ingest_exposures(field)
    assert len(PixelStore(field.pixels_path).exposures()) < 4
    again = open_field(tmp_path / "field")
    ingest_exposures(again)
    combine_to_store(again)
    fresh = ingested(files, tmp_path / "fresh", offsets=four.settings.combine.offsets)
    combine_to_store(fresh)
    assert_same_bits(stored_maps(again), stored_maps(fresh))


def test_a_store_on_another_file_system(four, four_maps, disk, tmp_path):
    """Scratch for the pixel store by a symbolic link, the rest elsewhere."""
    field = make_field(files_of(four), tmp_path / "field", offsets=four.settings.combine.offsets)
    scratch = disk("size=100m") / "pixels.zarr"
    scratch.mkdir()
    field.pixels_path.symlink_to(scratch)
    ingest_exposures(field)
    assert len(list(scratch.glob("2014*"))) == 4
    combine_to_store(field)
    assert_same_bits(stored_maps(field), four_maps)


def test_permission_lost_in_the_middle(four, four_maps, disk, monkeypatch):
    """The file system becomes read-only between two blocks."""
    field = copy_of(four, disk("size=100m") / "field")
    monkeypatch.setattr(plan, "LARGEST_BLOCK", (16, 16, 16))
    monkeypatch.setattr(plan, "SMALLEST_BLOCK", (16, 16, 16))
    inner, written = CubeStore.write_block, []

    def write_block(self, bounds, maps):
        written.append(bounds)
        if len(written) == 4:
            disk("ro")
        inner(self, bounds, maps)

    monkeypatch.setattr(CubeStore, "write_block", write_block)
    with pytest.raises(WorkError, match="block .*Read-only file system.*give permission, then run again"):
        combine_to_store(field)
    disk("rw")
    kept = len(Ledger(field.folder / "cube.ledger").read())
    assert 1 <= kept <= 4
    monkeypatch.setattr(CubeStore, "write_block", inner)
    assert combine_to_store(field)["computed"] == cube_progress(field)["total"] - kept
    assert_same_bits(stored_maps(field), four_maps)


def test_clocks_that_jump(four, four_maps, tmp_path, monkeypatch):
    """Files from the future, and a clock that falls back while a run goes on: nothing is redone or lost."""
    field = copy_of(four, tmp_path / "field")
    combine_to_store(field)
    for path in field.folder.rglob("*"):
        os.utime(path, (4e9, 4e9))
    assert combine_to_store(field)["computed"] == 0
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3e8)
    changed = field.changed(nclip=(3.0, 3.0))
    run(changed, stages=("combine",), progress=False)
    assert run(changed, stages=("combine",), progress=False).stages[0].facts["computed"] == 0
    monkeypatch.undo()
    run(field, stages=("combine",), progress=False)
    assert_same_bits(stored_maps(field), four_maps)


def test_no_file_stays_open(four, tmp_path):
    """Neither those of the blocks nor those of threads that ended."""

    def opened():
        return [path.resolve() for path in Path("/proc/self/fd").iterdir()]

    field = copy_of(four, tmp_path)
    combine_to_store(field.changed(workers=3))
    assert not [path for path in opened() if ".zarr" in str(path)]
