"""Disks that are full or may not be written, and stores that were damaged."""

import re
import shutil
from pathlib import Path

import pytest
from fields import assert_same_bits, copy_of, files_of, make_field, stored_maps

from musedeep import plan
from musedeep.combine import combine_to_store
from musedeep.errors import InputError, WorkError
from musedeep.ingest import ingest_exposures
from musedeep.store import PixelStore


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


def test_no_file_stays_open(four, tmp_path):
    """Neither those of the blocks nor those of threads that ended."""

    def opened():
        return [path.resolve() for path in Path("/proc/self/fd").iterdir()]

    field = copy_of(four, tmp_path)
    combine_to_store(field.changed(workers=3))
    assert not [path for path in opened() if ".zarr" in str(path)]
