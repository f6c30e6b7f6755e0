"""Write a large FITS file piece by piece: bounded memory, checksums on the way, published by one rename."""

import errno
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from musedeep.errors import WorkError

__all__ = ["FitsStream", "require_space", "update_primary"]

_CARD = 80  # bytes of a card of a header
BLOCK = 2880  # every FITS header and data unit fills whole blocks of this many bytes
_BITPIX = {"f4": -32, "i4": 32}
_PUNCTUATION = frozenset(range(0x3A, 0x41)) | frozenset(range(0x5B, 0x61))


class FitsStream:
    """A FITS file of images, whose pieces may be written in any order.

    Nothing appears under the final name before :meth:`publish`; until then the bytes lie in a hidden
    file beside it. CHECKSUM and DATASUM are summed while the pieces pass by, so nothing is read again.

    Parameters
    ----------
    path : Path
        The final name.
    primary : astropy.io.fits.Header
        Keywords of the first HDU, which holds no data; SIMPLE, BITPIX, NAXIS, EXTEND are added.
    images : list of (astropy.io.fits.Header, str, tuple of int)
        One entry an extension: its keywords (EXTNAME among them), its type ("f4" or "i4") and its shape in
        numpy order. XTENSION ... GCOUNT are added.
    spare_cards : int
        Room in the first header for keywords that `update_primary` adds later; blank cards until then.

    Notes
    -----
    `primary` and the extensions' headers (:attr:`headers`, in order of the HDUs) may still be changed until
    :meth:`finish`, as long as the number of cards does not grow.
    """

    def __init__(self, path, primary, images, spare_cards=0):
        self.path = Path(path)
        self.part = self.path.with_name(f".{self.path.name}.part")
        self._shapes = [()] + [tuple(shape) for _, _, shape in images]
        self._dtypes = [None] + [np.dtype(dtype) for _, dtype, _ in images]
        self.headers = [_primary_header(primary)]
        self.headers += [_image_header(*image) for image in images]
        self._sums = [0] * len(self.headers)
        self._layout(spare_cards)
        with _clear_errors(self.path, self.size):
            self._descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            os.ftruncate(self._descriptor, self.size)

    def _layout(self, spare_cards):
        self._header_starts, self._data_starts, self._header_sizes = [], [], []
        position = 0
        for header, shape, dtype in zip(self.headers, self._shapes, self._dtypes, strict=True):
            self._header_starts.append(position)
            spare = spare_cards if dtype is None else 0
            self._header_sizes.append(_header_size(len(header) + spare))
            position += self._header_sizes[-1]
            self._data_starts.append(position)
            if dtype is not None:
                position += -(-int(np.prod(shape)) * dtype.itemsize // BLOCK) * BLOCK
        self.size = position

    def write(self, hdu, start, data):
        """Write a run of planes (or of rows, in a 2-D image); each must be written once.

        Parameters
        ----------
        hdu : int
            1 for the first extension.
        start : int
            Index of the first plane along the first axis.
        data : ndarray, shape (n, ...)
            The values; cast to the type of the extension.

        Raises
        ------
        WorkError
            When the disk is full or the folder cannot be written; the unfinished file is removed.
        """
        dtype, shape = self._dtypes[hdu], self._shapes[hdu]
        if data.shape[1:] != shape[1:] or start + len(data) > shape[0]:
            raise ValueError(f"planes {start}+{data.shape} do not fit into {shape} of {self.path.name}")
        values = np.ascontiguousarray(data, dtype=dtype)
        # The words that a reader sums are these very 32 bits; adding them before the swap of bytes is faster.
        self._sums[hdu] = _fold(self._sums[hdu] + int(values.view(np.uint32).sum(dtype=np.uint64)))
        offset = self._data_starts[hdu] + start * int(np.prod(shape[1:])) * dtype.itemsize
        self._put(offset, memoryview(values.astype(dtype.newbyteorder(">"), copy=False)).cast("B"))

    def finish(self):
        """Write the headers with their checksums and force everything to the disk."""
        for start, size, header, total in zip(
            self._header_starts, self._header_sizes, self.headers, self._sums, strict=True
        ):
            block = _checked_header(header, total, size)
            if len(block) != size:
                raise ValueError(f"a header of {self.path.name} grew from {size} to {len(block)} bytes")
            self._put(start, memoryview(block))
        with self._cleaning():
            os.fsync(self._descriptor)
        self._close()

    def publish(self):
        """Give the finished file its name (an older file of that name is replaced)."""
        with self._cleaning():
            self.part.replace(self.path)
            sync_folder(self.path.parent)

    def abort(self):
        """Remove the unfinished file."""
        self._close()
        self.part.unlink(missing_ok=True)

    def _put(self, offset, view):
        with self._cleaning():
            while view:
                count = os.pwrite(self._descriptor, view, offset)
                view, offset = view[count:], offset + count

    def _close(self):
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _cleaning(self):
        return _clear_errors(self.path, self.size, self.abort)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.abort()


@contextmanager
def _clear_errors(path, size, undo=None):
    """Turn an OSError into a WorkError that says which file, how many bytes it needs and what to do."""
    try:
        yield
    except OSError as error:
        if undo is not None:
            undo()
        raise WorkError(_explain(error, path, size)) from error


def _explain(error, path, size):
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free some space" if full else "check that the folder exists and that you may write to it"
    return (
        f"cannot write {path} ({size} bytes needed): {error.strerror}; nothing was left under that name; "
        f"{advice} and run again"
    )


def require_space(folder, size):
    """Refuse at once what the disk cannot hold.

    Parameters
    ----------
    folder : Path
        An existing folder.
    size : int
        Bytes that are going to be written there.

    Raises
    ------
    WorkError
        When fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise WorkError(
            f"the disk of {folder} is too full: {size} bytes needed, {free} bytes free; nothing was written; "
            "free some space or choose another folder, and run again"
        )


def update_primary(path, cards):
    """Set keywords in the first header of a finished file, in place and with a new checksum.

    Parameters
    ----------
    path : Path
        A file that `FitsStream` wrote: its first HDU has no data.
    cards : callable
        Called with the `astropy.io.fits.Header`, which it may change.

    Raises
    ------
    WorkError
        The header has no room for more cards, or the file cannot be written. Nothing was changed.
    """
    from astropy.io import fits

    path = Path(path)
    try:
        with path.open("r+b") as file:
            header = fits.Header.fromfile(file)
            room = file.tell()
            while header.cards and not header.cards[-1].keyword:
                del header[-1]
            cards(header)
            block = _checked_header(header, 0, room)
            if len(block) > room:
                raise WorkError(
                    f"the header of {path} needs {len(block)} bytes and has {room}; nothing was changed; "
                    "write the file anew"
                )
            os.pwrite(file.fileno(), block, 0)
            os.fsync(file.fileno())
    except OSError as error:
        raise WorkError(
            f"cannot change the header of {path}: {error.strerror or error}; check that you may write to it, "
            "and run again"
        ) from error


def sync_folder(folder):
    """Force the names in a folder to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _primary_header(primary):
    header = primary.copy()
    for index, (key, value, comment) in enumerate(
        (
            ("SIMPLE", True, "file conforms to the FITS standard"),
            ("BITPIX", 8, "no data in this HDU"),
            ("NAXIS", 0, "number of axes"),
            ("EXTEND", True, "the data are in the extensions"),
        )
    ):
        header.insert(index, (key, value, comment))
    return _with_checksum_cards(header)


def _image_header(keywords, dtype, shape):
    header = keywords.copy()
    cards = [
        ("XTENSION", "IMAGE", "image extension"),
        ("BITPIX", _BITPIX[dtype], "type of the values"),
        ("NAXIS", len(shape), "number of axes"),
        *((f"NAXIS{axis}", length, "") for axis, length in enumerate(reversed(shape), 1)),
        ("PCOUNT", 0, "no parameters"),
        ("GCOUNT", 1, "one group"),
    ]
    for index, card in enumerate(cards):
        header.insert(index, card)
    return _with_checksum_cards(header)


def _with_checksum_cards(header):
    header["CHECKSUM"] = ("0" * 16, "checksum of this HDU")
    header["DATASUM"] = ("0", "checksum of the data")
    return header


def _header_size(cards):
    """Bytes of a header of so many cards and END."""
    return -(-(cards + 1) * _CARD // BLOCK) * BLOCK


def _checked_header(header, datasum, size):
    """Bytes of the header, filled up to a size, whose CHECKSUM makes the sum over the whole HDU all ones."""
    if _header_size(len(header)) < size:
        header = header.copy()
        for _ in range(size // _CARD - 1 - len(header)):
            header.append(bottom=True)
    header["DATASUM"] = str(datasum)
    header["CHECKSUM"] = "0" * 16
    total = _fold(datasum + _sum_bytes(header.tostring().encode("ascii")))
    header["CHECKSUM"] = _encode(total ^ 0xFFFFFFFF)
    return header.tostring().encode("ascii")


def _sum_bytes(block):
    return int(np.frombuffer(block, dtype=">u4").sum(dtype=np.uint64))


def _fold(total):
    """Add the carries back in: the 32-bit ones' complement sum of the FITS checksum convention."""
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _encode(value):
    """Write 32 bits as 16 letters and digits (FITS standard 4.0, appendix J).

    Each byte is spread over four characters that sum to it; characters that are punctuation are moved in
    pairs, one up and one down, which keeps the sum.
    """
    columns = []
    for shift in (24, 16, 8, 0):
        byte = (value >> shift) & 0xFF
        characters = [byte // 4 + 0x30] * 4
        characters[0] += byte % 4
        while any(character in _PUNCTUATION for character in characters):
            for first in (0, 2):
                if characters[first] in _PUNCTUATION or characters[first + 1] in _PUNCTUATION:
                    characters[first] += 1
                    characters[first + 1] -= 1
        columns.append(characters)
    text = "".join(chr(columns[byte][row]) for row in range(4) for byte in range(4))
    # A FITS string starts one column off the word boundary, hence the rotation.
    return text[-1] + text[:-1]
