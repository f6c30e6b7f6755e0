"""Shard files of zarr v3 arrays, read and written without going through zarr for every chunk.

zarr-python spends 0.6 to 1 ms on a chunk of rows, as much as the arithmetic on them. A shard file is simple:
compressed chunks one behind the other, then a table of their offsets and lengths. These few lines handle the
one layout that our stores use (blosc lz4 with shuffle, a CRC32C behind every chunk, the table at the end);
zarr-python reads the same files, and a test holds both to that.
"""

import math
import os
import threading
from collections import OrderedDict

import numpy as np
from google_crc32c import value as crc32c
from numcodecs import blosc

from musedeep.errors import InputError
from musedeep.objects import ObjectPath, place_of

__all__ = ["ShardReader", "read_bytes", "write_shard"]

_ENTRY = np.dtype([("offset", "<u8"), ("length", "<u8")])
_CRC_BYTES = 4
_NO_CHUNK = np.array((2**64 - 1, 2**64 - 1), _ENTRY)  # entry of a chunk that is not there

# Our own threads and processes share the cores; blosc's would only get in their way (and hold a global lock).
blosc.use_threads = False


def write_shard(path, values, chunks, shape=None, fill=None):
    """Write one shard, and make it durable.

    Parameters
    ----------
    path : Path
        The shard's file; its folder is made.
    values : ndarray
        What the shard holds.
    chunks : tuple of int
        Shape of a chunk.
    shape : tuple of int, optional
        Of the whole shard, where it is larger than what it holds.
    fill : float, optional
        Fill value of the array: chunks of nothing else are left out, as zarr does. By default every chunk is
        written, and filled up with zeros.

    Returns
    -------
    int
        Bytes written; 0, and no file, where every chunk was left out.
    """
    counts = [max(1, -(-n // step)) for n, step in zip(shape or values.shape, chunks, strict=True)]
    table = np.full(math.prod(counts), _NO_CHUNK, _ENTRY)
    block = np.empty(chunks, values.dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    # under its name it is whole, or not there
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    at = 0
    try:
        with partial.open("wb") as file:
            for number, place in enumerate(np.ndindex(*counts)):
                part = values[tuple(slice(p * n, (p + 1) * n) for p, n in zip(place, chunks, strict=True))]
                if fill is not None and _is_filled(part, fill):
                    continue
                if part.shape != block.shape:
                    block.fill(0 if fill is None else fill)
                block[tuple(map(slice, part.shape))] = part
                table[number] = at, _write_checked(file, blosc.compress(block, b"lz4", 5, blosc.SHUFFLE, 0))
                at += int(table[number]["length"])
            size = at + _write_checked(file, table.tobytes())
            file.flush()
            os.fsync(file.fileno())
        if at > 0:
            partial.replace(path)
            return size
        path.unlink(missing_ok=True)
        return 0
    finally:
        partial.unlink(missing_ok=True)


def _write_checked(file, data):
    """Write bytes and their checksum; how many bytes that are."""
    file.write(data)
    file.write(crc32c(data).to_bytes(_CRC_BYTES, "little"))
    return len(data) + _CRC_BYTES


def _is_filled(values, fill):
    """Whether an array holds nothing but a fill value."""
    return bool(np.isnan(values).all() if fill != fill else (values == fill).all())


_MOST_OPEN = 128  # files that a thread keeps open: fields of hundreds of exposures meet the system's limit
_local = threading.local()


def _descriptor(path):
    """Descriptor of a file, opened when needed; the one that was not used for longest is closed for it."""
    opened = _local.__dict__.setdefault("opened", OrderedDict())
    if path in opened:
        opened.move_to_end(path)
        return opened[path]
    while len(opened) >= _MOST_OPEN:
        os.close(opened.popitem(last=False)[1])
    opened[path] = os.open(path, os.O_RDONLY)
    return opened[path]


def read_bytes(path, start, length):
    """Bytes of a file or an object from ``start`` on; fewer where it ends. FileNotFoundError without one."""
    if isinstance(path, ObjectPath):
        return path.read_range(start, length)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _size_of(path):
    return path.size() if isinstance(path, ObjectPath) else os.fstat(_descriptor(path)).st_size


def _fill(path, raw, start):
    """Read into a buffer; how many bytes there were."""
    if not isinstance(path, ObjectPath):
        return os.preadv(_descriptor(path), [raw], start)
    found = path.read_range(start, len(raw))
    raw[: len(found)] = found
    return len(found)


def _chunk_buffer(shape, dtype):
    """Array for one decoded chunk, the same for all readers of a thread."""
    buffers = _local.__dict__.setdefault("buffers", {})
    if (shape, dtype) not in buffers:
        buffers[shape, dtype] = np.empty(shape, dtype)
    return buffers[shape, dtype]


def _raw_buffer(size):
    """Bytes to read into, the same for all readers of a thread: fresh memory costs more than reading."""
    if len(_local.__dict__.get("raw", b"")) < size:
        _local.raw = bytearray(size)
    return memoryview(_local.raw)[:size]


class ShardReader:
    """Chunks of one shard file; to be used by the thread that made it.

    Parameters
    ----------
    path : path
    shape : tuple of int
        Shape of a chunk, (columns, chunk) or (chunk,).
    dtype : dtype
    count : int
        Number of chunks in the shard.
    """

    def __init__(self, path, shape, dtype, count):
        self.path = place_of(path)
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.count = count
        self.bytes_read = 0
        try:
            self._table_at = _size_of(self.path) - count * _ENTRY.itemsize - _CRC_BYTES
        except FileNotFoundError:
            raise self._broken("there is no such shard") from None
        if self._table_at < 0:
            self.close()
            raise self._broken("the shard is truncated")

    def _broken(self, what):
        return InputError(
            f"{self.path}: {what}; delete the exposure's folder in the pixel store and ingest it again."
        )

    def close(self):
        """Give the file back."""
        file = _local.__dict__.get("opened", {}).pop(self.path, None)
        if file is not None:
            os.close(file)

    def table(self, first, last):
        """Offsets and lengths of chunks first <= c < last; structured array."""
        raw = bytearray((last - first) * _ENTRY.itemsize)
        _fill(self.path, memoryview(raw), self._table_at + first * _ENTRY.itemsize)
        return np.frombuffer(raw, _ENTRY)

    def chunks(self, first, last):
        """Decode chunks first <= c < last, one after the other.

        Yields
        ------
        ndarray
            Of the chunk's shape; all readers of a thread share its memory: good until the next is read.

        Raises
        ------
        InputError
            The checksum of a chunk is wrong, or the table says where no chunk can be.
        """
        entries = self.table(first, last).tolist()
        start, stop = entries[0][0], sum(entries[-1])
        if not start < stop <= self._table_at:
            raise self._broken(f"the table of chunks is damaged (chunks {first} to {last - 1})")
        raw = _raw_buffer(stop - start)
        if _fill(self.path, raw, start) < len(raw):
            raise self._broken("the shard is truncated")
        self.bytes_read += len(raw)
        chunk = _chunk_buffer(self.shape, self.dtype)
        for c, (offset, length) in enumerate(entries, first):
            # a wrong entry ends here too: what lies there has another checksum
            begin, end = max(offset - start, 0), max(offset + length - start, 0)
            packed, check = raw[begin : max(end - _CRC_BYTES, 0)], raw[max(end - _CRC_BYTES, 0) : end]
            if len(check) < _CRC_BYTES or crc32c(bytes(packed)) != int.from_bytes(check, "little"):
                raise self._broken(f"chunk {c} is damaged (its checksum is wrong)")
            blosc.decompress(packed, chunk)
            yield chunk
