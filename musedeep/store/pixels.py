"""The pixel store: the rows of all exposures, sorted by wavelength segment and sky pencil."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np

from musedeep import shards
from musedeep.errors import InputError
from musedeep.objects import ObjectPath, place_of
from musedeep.store.common import FORMAT, check_format, codecs, read_attributes, zarr_module, zarr_place

__all__ = ["PartReader", "PixelStore", "join_runs"]

ROW_CHUNK = 4096
INTEGER_CHUNK = 65536
COLUMNS = ("x", "y", "wavelength", "value", "variance", "weight")


def _create_sharded(group, name, values, chunk, **attributes):
    """Create an array whose one shard holds it all, and write the shard."""
    n = values.shape[-1]
    lead = values.shape[:-1]
    whole = max(1, -(-n // chunk)) * chunk
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(*lead, chunk),
        shards=(*lead, whole),
        compressors=codecs(),
        fill_value=0,
        dimension_names=("column", "row")[-values.ndim :],
        attributes=attributes,
    )
    folder = Path(str(group.store.root)) / group.path / name / "c" / "/".join("0" * values.ndim)
    shards.write_shard(folder, values, (*lead, chunk))
    return array


class PixelStore:
    """The rows of all exposures of a field, each exposure a group of its own.

    Parameters
    ----------
    path : path
        Folder of the store, or its address on object storage.
    staging : path, optional
        Folder where parts of exposures wait until all are there; beside the store where none is given. A
        store on object storage that is written to needs one.
    """

    def __init__(self, path, staging=None):
        self.path = place_of(path)
        self._staging = staging
        attributes = read_attributes(self.path, "pixel store", "musedeep_format", "lattice", "tangent_deg")
        check_format(self.path, attributes)
        self.lattice = attributes["lattice"]
        self.tangent = tuple(attributes["tangent_deg"])

    @classmethod
    def create(cls, path, tangent, *, staging=None, pencil_arcsec=(0.8, 3.2), segment_angstrom=5.0):
        """Make an empty store, or open the one that is there.

        Parameters
        ----------
        path, staging : path
            As of the class.
        tangent : (float, float)
            RA, Dec of the common tangent point, degrees.
        pencil_arcsec : (float, float)
            Width (x) and height (y) of a pencil. The pencils of a row lie one behind the other, so a narrow
            width costs nothing and lets a block read just its own columns; each row is a read of its own.
        segment_angstrom : float
            Length of a wavelength segment.
        """
        path = place_of(path)
        if not (path / "zarr.json").exists():
            if isinstance(path, Path):
                path.mkdir(parents=True, exist_ok=True)
            lattice = {
                "pencil_arcsec": list(pencil_arcsec),
                "segment_start_angstrom": 0.0,
                "segment_angstrom": segment_angstrom,
            }
            zarr_module().create_group(
                zarr_place(path),
                attributes={
                    "musedeep_format": FORMAT,
                    "kind": "pixel store",
                    "tangent_deg": list(tangent),
                    "lattice": lattice,
                    "columns": list(COLUMNS),
                    "units": ["arcsec", "arcsec", "Angstrom"],
                },
                overwrite=False,
            )
        return cls(path, staging)

    @property
    def lattice_numbers(self):
        """Width, height of a pencil [arcsec], segment start and length [Angstrom]; shape (4,), float64."""
        lattice = self.lattice
        return np.array(
            [*lattice["pencil_arcsec"], lattice["segment_start_angstrom"], lattice["segment_angstrom"]]
        )

    def exposures(self):
        """Facts of every exposure that is completely there, by name, in order of DATE-OBS; dict of dicts."""
        found = {}
        for folder in self._folders():
            facts = read_attributes(folder, "exposure in the pixel store", "fingerprint", "parts")
            for part in facts["parts"]:
                # read as a path below the exposure's folder
                if not re.fullmatch(r"part\w+", part):
                    raise InputError(
                        f"{folder}: {part!r} is no name of a part; the store is damaged or foreign: delete "
                        "the folder and ingest the exposure again."
                    )
            found[folder.name] = facts
        return dict(sorted(found.items(), key=lambda item: item[1]["date_obs"]))

    def _folders(self):
        """Places of the exposures that are completely there, by name."""
        if isinstance(self.path, Path):
            return [file.parent for file in sorted(self.path.glob("*/zarr.json"))]
        folders = [self.path / name for name in self.path.folders()]
        return [folder for folder in folders if (folder / "zarr.json").exists()]

    def staging(self, exposure):
        """Folder where parts of an exposure wait until all are there."""
        if self._staging is not None:
            return Path(self._staging) / exposure
        # beside the store itself, where the field has a link to it: a rename stays on one file system
        place = self.path.resolve()
        return place.with_name(place.name + ".partial") / exposure

    def write_part(self, exposure, part, rows, dq, slices, origin, offset, facts):
        """Write one part of an exposure; it appears in the staging folder whole or not at all.

        Parameters
        ----------
        exposure, part : str
        rows : (columns, n) float32
        dq, origin : (n,) uint32
        slices : (n,) uint16
        offset : (keys + 1,) int64
        facts : dict
            Kept as attributes: the box of the lattice, row counts, limits.
        """
        final = self.staging(exposure) / part
        partial = final.with_name(f"{part}.{os.getpid()}.writing")
        shutil.rmtree(partial, ignore_errors=True)
        group = zarr_module().create_group(partial, attributes=facts)
        _create_sharded(group, "rows", rows, ROW_CHUNK, columns=list(COLUMNS[: rows.shape[0]]))
        _create_sharded(group, "dq", dq, INTEGER_CHUNK)
        _create_sharded(group, "slice", slices, INTEGER_CHUNK)
        _create_sharded(group, "origin", origin, INTEGER_CHUNK)
        # Uncompressed in one chunk: a reader takes just the bytes of its own segments.
        array = group.create_array(
            "offset",
            shape=offset.shape,
            dtype="int64",
            chunks=offset.shape,
            compressors=None,
            fill_value=0,
            dimension_names=("key",),
        )
        array[:] = offset
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)

    def staged_part(self, exposure, part):
        """Attributes of a part that was finished before an interruption, or None."""
        folder = self.staging(exposure) / part
        return read_attributes(folder, "part", "box") if (folder / "zarr.json").exists() else None

    def commit(self, exposure, facts):
        """Make the staged parts the exposure: one rename, after which it counts as ingested. To object
        storage they are uploaded, the facts last."""
        staging = self.staging(exposure)
        for leftover in staging.glob("*.writing"):
            shutil.rmtree(leftover)
        for leftover in staging.glob("*.partial"):
            leftover.unlink()
        zarr_module().create_group(staging, attributes=facts, overwrite=False)
        final = self.path / exposure
        if isinstance(final, ObjectPath):
            final.remove_tree()
            final.upload(staging)
            shutil.rmtree(staging)
            return
        if final.exists():
            shutil.rmtree(final)
        staging.rename(final)

    def remove(self, exposure):
        """Take an exposure out of the store."""
        place = self.path / exposure
        if isinstance(place, ObjectPath):
            place.remove_tree()
        else:
            shutil.rmtree(place)


class PartReader:
    """Rows of one part, by wavelength segment and pencil.

    Parameters
    ----------
    folder : path
        The part's folder.
    facts : dict
        Its attributes.
    columns : int
        Number of columns of ``rows``.
    """

    def __init__(self, folder, facts, columns):
        self.folder = place_of(folder)
        self.box = facts["box"]  # first segment, row, column; numbers of segments, rows, columns
        self.row_count = facts["row_count"]
        self.columns = columns
        self._readers = {}

    def close(self):
        """Close the files."""
        for reader in self._readers.values():
            reader.close()
        self._readers = {}

    @property
    def bytes_read(self):
        """Bytes read so far."""
        return sum(reader.bytes_read for reader in self._readers.values())

    def runs(self, flagged, first, last, row_range, column_range):
        """First and last row of the runs that cover pencils of a region.

        Parameters
        ----------
        flagged : int
            0 good rows, 1 rows with a DQ bit.
        first, last : int
            Segments first <= s < last of the lattice.
        row_range, column_range : (int, int)
            Pencils from <= p < to of the lattice.

        Returns
        -------
        ndarray, shape (last - first, rows, 2), int64
            Zero length where the part has nothing.
        """
        s0, r0, c0, ns, nr, nc = self.box
        ra, rb = max(row_range[0] - r0, 0), min(row_range[1] - r0, nr)
        ca, cb = max(column_range[0] - c0, 0), min(column_range[1] - c0, nc)
        a, b = max(first - s0, 0), min(last - s0, ns)
        if ra >= rb or ca >= cb or a >= b:
            return np.zeros((last - first, 0, 2), np.int64)
        result = np.zeros((last - first, rb - ra, 2), np.int64)
        cells = nr * nc
        offset = self._offsets((flagged * ns + a) * cells, (b - a) * cells + 1)
        table = offset[:-1].reshape(b - a, nr, nc)
        ends = offset[1:].reshape(b - a, nr, nc)
        result[a + s0 - first : b + s0 - first, :, 0] = table[:, ra:rb, ca]
        result[a + s0 - first : b + s0 - first, :, 1] = ends[:, ra:rb, cb - 1]
        return result

    def _offsets(self, first, count):
        path = self.folder.joinpath("offset", "c", "0")
        raw = b""
        with suppress(FileNotFoundError):
            raw = shards.read_bytes(path, 8 * first, 8 * count)
        offset = np.frombuffer(raw, np.int64) if len(raw) == 8 * count else np.array([-1])
        if offset[0] < 0 or offset[-1] > self.row_count or (offset[1:] < offset[:-1]).any():
            raise InputError(
                f"{path}: the index of rows is damaged; delete the exposure's folder in the pixel store and "
                "ingest it again."
            )
        return offset

    def _reader(self, name):
        if name not in self._readers:
            chunk, dtype, lead = {
                "rows": (ROW_CHUNK, np.float32, (self.columns,)),
                "dq": (INTEGER_CHUNK, np.uint32, ()),
                "slice": (INTEGER_CHUNK, np.uint16, ()),
                "origin": (INTEGER_CHUNK, np.uint32, ()),
            }[name]
            path = self.folder.joinpath(name, "c", *"0" * (len(lead) + 1))
            count = max(1, -(-self.row_count // chunk))
            self._readers[name] = shards.ShardReader(path, (*lead, chunk), dtype, count)
        return self._readers[name]

    def read(self, name, start, stop):
        """Rows start <= r < stop of one array, chunk by chunk.

        Yields
        ------
        chunk : ndarray, shape (..., n)
            A decoded chunk; good until the next one is asked for.
        first, last : int
            The range of rows in it that belongs to the request.
        """
        reader = self._reader(name)
        size = reader.shape[-1]
        c0 = start // size
        c1 = -(-stop // size)
        for c, chunk in enumerate(reader.chunks(c0, c1), c0):
            yield chunk, max(start - c * size, 0), min(stop - c * size, size)

    def read_flat(self, name, start, stop):
        """The same, gathered into one array of shape (..., stop - start)."""
        reader = self._reader(name)
        values = np.empty((*reader.shape[:-1], stop - start), reader.dtype)
        at = 0
        for chunk, a, b in self.read(name, start, stop):
            values[..., at : at + b - a] = chunk[..., a:b]
            at += b - a
        return values


def join_runs(runs):
    """Join runs of rows that lie so close that the chunks between them are read anyway.

    Parameters
    ----------
    runs : ndarray, shape (n, 2)
        First row and end, ascending; empty ones are left out.

    Yields
    ------
    (int, int)
    """
    begin = end = None
    for first, last in runs.tolist():
        if first == last:
            continue
        if begin is None:
            begin = first
        # a whole chunk between them would be read in vain
        elif first - end > ROW_CHUNK or first // ROW_CHUNK > -(-end // ROW_CHUNK):
            yield begin, end
            begin = first
        end = last
    if begin is not None:
        yield begin, end
