"""Shards are written for zarr and read as zarr writes them; damage is found."""

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from musedeep.errors import InputError
from musedeep.shards import ShardReader, write_shard

CHUNK = 64
SHAPES = [
    (1,),
    (CHUNK - 1,),
    (CHUNK,),
    (CHUNK + 1,),
    (10 * CHUNK + 3,),
    (5, 1),
    (6, 3 * CHUNK),
    (5, 4 * CHUNK + 9),
]
DTYPES = ["float32", "uint32", "uint16"]


def make_values(shape, dtype="float32"):
    values = np.random.default_rng(5).normal(0, 1000, shape)
    return values.astype(np.int64).astype(dtype) if dtype != "float32" else values.astype(dtype)


def zarr_array(folder, values):
    """An array that zarr keeps in one shard, of the codecs that the pixel store uses."""
    lead = values.shape[:-1]
    return zarr.create_array(
        folder,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(*lead, CHUNK),
        shards=(*lead, -(-values.shape[-1] // CHUNK) * CHUNK),
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        fill_value=0,
    )


def shard_of(folder, values):
    return folder / "c" / "/".join("0" * values.ndim)


def reader_of(path, values):
    return ShardReader(path, (*values.shape[:-1], CHUNK), values.dtype, -(-values.shape[-1] // CHUNK))


def read_all(path, values):
    reader = reader_of(path, values)
    try:
        return np.concatenate([c.copy() for c in reader.chunks(0, reader.count)], axis=-1)[
            ..., : values.shape[-1]
        ]
    finally:
        reader.close()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_zarr_reads_what_is_written(tmp_path, shape, dtype):
    values = make_values(shape, dtype)
    array = zarr_array(tmp_path, values)
    size = write_shard(shard_of(tmp_path, values), values, (*values.shape[:-1], CHUNK))
    assert shard_of(tmp_path, values).stat().st_size == size
    np.testing.assert_array_equal(array[:], values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_zarr_writes_is_read(tmp_path, shape, dtype):
    values = make_values(shape, dtype)
    zarr_array(tmp_path, values)[:] = values
    np.testing.assert_array_equal(read_all(shard_of(tmp_path, values), values), values)


@pytest.mark.parametrize("fill", [np.nan, 0, 7])
def test_zarr_reads_blocks_with_edges_and_empty_chunks(tmp_path, fill):
    array = zarr.create_array(
        tmp_path / "cube",
        shape=(20, 30, 50),
        dtype="float32",
        chunks=(4, 8, 16),
        shards=(16, 24, 32),
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
        fill_value=fill,
    )
    cube = make_values((20, 30, 50))
    cube[:, 8:16, :20] = fill  # two chunks of a shard, and a part of others
    cube[:16, :24, 32:] = fill  # a whole shard
    array[:] = cube
    mine = {}
    for z, y, x in np.ndindex(2, 2, 2):
        file = tmp_path / "cube" / "c" / f"{z}" / f"{y}" / f"{x}"
        theirs = file.stat().st_size if file.exists() else 0
        block = cube[16 * z : 16 * z + 16, 24 * y : 24 * y + 24, 32 * x : 32 * x + 32]
        mine[z, y, x] = write_shard(file, block, (4, 8, 16), (16, 24, 32), fill)
        assert mine[z, y, x] == theirs == (file.stat().st_size if file.exists() else 0)
    assert mine[0, 0, 1] == 0 < mine[1, 1, 1]
    np.testing.assert_array_equal(array[:], cube)


def test_a_shard_that_could_not_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    values = make_values((5, 4 * CHUNK))
    write_shard(tmp_path / "c", values, (5, CHUNK))
    before = (tmp_path / "c").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / "c", 2 * values, (5, CHUNK))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert (tmp_path / "c").read_bytes() == before


def test_values_that_do_not_lie_one_behind_the_other_are_written_right(tmp_path):
    values = make_values((300, 5)).T
    write_shard(tmp_path / "c", values, (*values.shape[:-1], CHUNK))
    np.testing.assert_array_equal(read_all(tmp_path / "c", values), values)


def test_an_array_without_rows_has_one_chunk_of_nothing(tmp_path):
    values = np.zeros((5, 0), np.float32)
    write_shard(tmp_path / "c", values, (*values.shape[:-1], CHUNK))
    reader = ShardReader(tmp_path / "c", (5, CHUNK), np.float32, 1)
    assert next(reader.chunks(0, 1)).shape == (5, CHUNK)
    reader.close()


@pytest.mark.parametrize("first, last", [(0, 1), (3, 7), (9, 10)])
def test_chunks_in_the_middle_are_read_alone(tmp_path, first, last):
    values = make_values((5, 10 * CHUNK))
    size = write_shard(tmp_path / "c", values, (*values.shape[:-1], CHUNK))
    reader = reader_of(tmp_path / "c", values)
    found = np.concatenate([c.copy() for c in reader.chunks(first, last)], axis=1)
    np.testing.assert_array_equal(found, values[:, first * CHUNK : last * CHUNK])
    assert 0 < reader.bytes_read < 1.2 * size * (last - first) / 10
    reader.close()


def spoil(path, position, values=b"\x55\xaa"):
    with path.open("r+b") as file:
        file.seek(position)
        old = file.read(len(values))
        file.seek(position)
        file.write(bytes(a ^ b for a, b in zip(old, values, strict=True)))


def test_a_damaged_chunk_is_named_and_the_others_are_good(tmp_path):
    values = make_values((5, 10 * CHUNK))
    write_shard(tmp_path / "c", values, (*values.shape[:-1], CHUNK))
    reader = reader_of(tmp_path / "c", values)
    spoil(tmp_path / "c", int(reader.table(4, 5)["offset"][0]) + 40)
    with pytest.raises(InputError, match="c: chunk 4 is damaged .*ingest it again"):
        list(reader.chunks(0, 10))
    np.testing.assert_array_equal(next(reader.chunks(3, 4)), values[:, 3 * CHUNK : 4 * CHUNK])
    np.testing.assert_array_equal(next(reader.chunks(5, 6)), values[:, 5 * CHUNK : 6 * CHUNK])
    reader.close()


@pytest.mark.parametrize("lost", [1, 3, 4, 5, 16, 37, 100, 170, 1000, 5000])
def test_a_truncated_shard_is_found(tmp_path, lost):
    values = make_values((5, 10 * CHUNK))
    size = write_shard(tmp_path / "c", values, (*values.shape[:-1], CHUNK))
    with (tmp_path / "c").open("r+b") as file:
        file.truncate(size - lost)
    with pytest.raises(InputError, match="truncated|damaged.*ingest it again"):
        read_all(tmp_path / "c", values)


@pytest.mark.parametrize("at", range(-164, -4, 8))
def test_a_damaged_table_of_chunks_is_found(tmp_path, at):
    values = make_values((5, 10 * CHUNK))
    size = write_shard(tmp_path / "c", values, (*values.shape[:-1], CHUNK))
    for damage in (b"\x01", b"\xff" * 8):
        spoil(tmp_path / "c", size + at, damage)
        with pytest.raises(InputError, match="damaged.*ingest it again"):
            read_all(tmp_path / "c", values)


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(InputError, match="gone: there is no such shard.*ingest it again"):
        ShardReader(tmp_path / "gone", (CHUNK,), np.float32, 1)
