"""What lies in the pixel store and in the cube store, and the ledger of finished blocks.

Pixel store (``pixels.zarr``)::

    zarr.json                      lattice of pencils and wavelength segments, tangent point, format
    <exposure>/zarr.json           facts of the exposure; written last, so an exposure is there whole or not
    at all
    <exposure>/<part>/rows         float32 (column, row): x, y, wavelength, value, variance[, weight]
    <exposure>/<part>/dq           uint32 (row,)
    <exposure>/<part>/slice        uint16 (row,): 48 * (IFU - 1) + slice
    <exposure>/<part>/origin       uint32 (row,): the detector pixel
    <exposure>/<part>/offset       int64: first row of each (flagged, segment, pencil row, pencil column)

Cube store (``cube.zarr``): six variables over (wavelength, y, x); a shard is a block.
"""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np

from musedeep import shards
from musedeep.errors import InputError
from musedeep.grid import VoxelGrid

__all__ = [
    "CUBE_VARIABLES",
    "CubeStore",
    "Ledger",
    "PartReader",
    "PixelStore",
    "join_runs",
    "open_cube",
]

FORMAT = 1
ROW_CHUNK = 4096
INTEGER_CHUNK = 65536
COLUMNS = ("x", "y", "wavelength", "value", "variance", "weight")

CUBE_VARIABLES = {
    "flux": ("float32", "unit", "weighted mean of the rows"),
    "variance": ("float32", "unit**2", "propagated variance of the mean, covariance between voxels ignored"),
    "exposure_count": ("uint16", "1", "number of exposures in the mean"),
    "exposure_time": ("float32", "s", "seconds of the exposures in the mean"),
    "rejected_count": ("uint16", "1", "rows rejected in this voxel"),
    "weight": ("float32", "1", "sum of kernel times exposure weight"),
}


def _zarr():
    import zarr

    return zarr


def _row_codecs():
    from zarr.codecs import BloscCodec, Crc32cCodec

    return [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()]


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
        compressors=_row_codecs(),
        fill_value=0,
        attributes=attributes,
    )
    folder = Path(str(group.store.root)) / group.path / name / "c" / "/".join("0" * values.ndim)
    shards.write_shard(folder, values, chunk)
    return array


class PixelStore:
    """The rows of all exposures of a field, each exposure a group of its own.

    Parameters
    ----------
    path : path
        Folder of the store.
    """

    def __init__(self, path):
        self.path = Path(path)
        attributes = _read_attributes(self.path, "pixel store", "musedeep_format", "lattice", "tangent_deg")
        _check_format(self.path, attributes)
        self.lattice = attributes["lattice"]
        self.tangent = tuple(attributes["tangent_deg"])

    @classmethod
    def create(cls, path, tangent, *, pencil_arcsec=(0.8, 3.2), segment_angstrom=5.0):
        """Make an empty store, or open the one that is there.

        Parameters
        ----------
        path : path
        tangent : (float, float)
            RA, Dec of the common tangent point, degrees.
        pencil_arcsec : (float, float)
            Width (x) and height (y) of a pencil. The pencils of a row lie one behind the other, so a narrow
            width costs nothing and lets a block read just its own columns; each row is a read of its own.
        segment_angstrom : float
            Length of a wavelength segment.
        """
        path = Path(path)
        if not (path / "zarr.json").exists():
            path.mkdir(parents=True, exist_ok=True)
            lattice = {
                "pencil_arcsec": list(pencil_arcsec),
                "segment_start_angstrom": 0.0,
                "segment_angstrom": segment_angstrom,
            }
            _zarr().create_group(
                path,
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
        return cls(path)

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
        for file in sorted(self.path.glob("*/zarr.json")):
            facts = _read_attributes(file.parent, "exposure in the pixel store", "fingerprint", "parts")
            found[file.parent.name] = facts
        return dict(sorted(found.items(), key=lambda item: item[1]["date_obs"]))

    def staging(self, exposure):
        """Folder where parts of an exposure wait until all are there."""
        return self.path.with_name(self.path.name + ".partial") / exposure

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
        group = _zarr().create_group(partial, attributes=facts)
        _create_sharded(group, "rows", rows, ROW_CHUNK, columns=list(COLUMNS[: rows.shape[0]]))
        _create_sharded(group, "dq", dq, INTEGER_CHUNK)
        _create_sharded(group, "slice", slices, INTEGER_CHUNK)
        _create_sharded(group, "origin", origin, INTEGER_CHUNK)
        # Uncompressed in one chunk: a reader takes just the bytes of its own segments.
        array = group.create_array(
            "offset", shape=offset.shape, dtype="int64", chunks=offset.shape, compressors=None, fill_value=0
        )
        array[:] = offset
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)

    def staged_part(self, exposure, part):
        """Attributes of a part that was finished before an interruption, or None."""
        folder = self.staging(exposure) / part
        return _read_attributes(folder, "part", "box") if (folder / "zarr.json").exists() else None

    def commit(self, exposure, facts):
        """Make the staged parts the exposure: one rename, after which it counts as ingested."""
        staging = self.staging(exposure)
        for leftover in staging.glob("*.writing"):
            shutil.rmtree(leftover)
        _zarr().create_group(staging, attributes=facts, overwrite=False)
        final = self.path / exposure
        if final.exists():
            shutil.rmtree(final)
        staging.rename(final)

    def remove(self, exposure):
        """Take an exposure out of the store."""
        shutil.rmtree(self.path / exposure)


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
        self.folder = Path(folder)
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
        path = self.folder / "offset" / "c" / "0"
        raw = b""
        if path.exists():
            with path.open("rb") as file:
                file.seek(8 * first)
                raw = file.read(8 * count)
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
            path = self.folder / name / "c" / "/".join("0" * (len(lead) + 1))
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
        elif first - end > ROW_CHUNK:
            yield begin, end
            begin = first
        end = last
    if begin is not None:
        yield begin, end


def _read_attributes(folder, what, *needed):
    try:
        with (Path(folder) / "zarr.json").open() as file:
            attributes = json.load(file)["attributes"]
    except FileNotFoundError:
        raise InputError(f"{folder}: there is no {what} here.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: the {what} has a damaged zarr.json ({error}).") from None
    for name in needed:
        if name not in attributes:
            raise InputError(f"{folder}: this is no {what}, or its zarr.json is damaged: it lacks {name!r}.")
    return attributes


def _check_format(path, attributes):
    if attributes["musedeep_format"] != FORMAT:
        raise InputError(
            f"{path}: has format {attributes['musedeep_format']!r}, this version of musedeep knows {FORMAT}; move it "
            "away and run again, or use the version that wrote it."
        )


class CubeStore:
    """The deep cube: flux, variance and maps, written block by block.

    Parameters
    ----------
    path : path
    """

    def __init__(self, path):
        self.path = Path(path)
        self.attrs = _read_attributes(self.path, "cube store", "grid", "block_shape")
        self.grid = VoxelGrid.from_dict(self.attrs["grid"])
        self.shape = self.grid.shape
        self.block_shape = tuple(self.attrs["block_shape"])
        self._group = _zarr().open_group(self.path, mode="r+")

    @classmethod
    def create(cls, path, grid, block_shape, attributes):
        """Make a cube store without any data yet; what was at ``path`` is replaced.

        Parameters
        ----------
        path : path
        grid : VoxelGrid
        block_shape : (int, int, int)
            Voxels of a block (wavelength, y, x): the shard of every variable.
        attributes : dict
            JSON-able; ``unit`` names the unit of flux.
        """
        path = Path(path)
        partial = path.with_name(path.name + ".writing")
        shutil.rmtree(partial, ignore_errors=True)
        unit = attributes.get("unit", "")
        group = _zarr().create_group(
            partial,
            attributes={
                **attributes,
                "musedeep_format": FORMAT,
                "grid": grid.to_dict(),
                "block_shape": list(block_shape),
            },
        )
        chunks = tuple(_largest_divisor(n, limit) for n, limit in zip(block_shape, (16, 64, 64), strict=True))
        for name, (dtype, kind, text) in CUBE_VARIABLES.items():
            group.create_array(
                name,
                shape=grid.shape,
                dtype=dtype,
                chunks=chunks,
                shards=tuple(block_shape),
                compressors=_row_codecs(),
                fill_value=np.nan if name in ("flux", "variance") else 0,
                dimension_names=("wavelength", "y", "x"),
                attributes={
                    "units": kind.replace("unit", f"({unit})" if "**" in kind else unit),
                    "long_name": text,
                },
            )
        axis = group.create_array(
            "wavelength",
            shape=(grid.shape[0],),
            dtype="float64",
            chunks=(grid.shape[0],),
            dimension_names=("wavelength",),
            attributes={
                "units": "Angstrom",
                "long_name": "wavelength in " + ("vacuum" if grid.vacuum else "air"),
            },
            fill_value=0,
        )
        axis[:] = grid.wavelengths
        with warnings.catch_warnings():
            # zarr warns that other readers pass over this; without it xarray warns whoever opens the cube
            warnings.simplefilter("ignore")
            _zarr().consolidate_metadata(group.store)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        return cls(path)

    def set_attributes(self, **attributes):
        """Change attributes of the store (settings, exposures) in place."""
        self._group.attrs.update(attributes)
        self.attrs = _read_attributes(self.path, "cube store")

    def write_block(self, bounds, maps):
        """Write one block and make it durable.

        Parameters
        ----------
        bounds : ((int, int), (int, int), (int, int))
            Planes, rows, columns; whole blocks only, so that no two writers share a shard.
        maps : dict of ndarray
            Every variable of `CUBE_VARIABLES`, of the block's shape.
        """
        region = tuple(slice(*bound) for bound in bounds)
        place = "/".join(str(bound[0] // n) for bound, n in zip(bounds, self.block_shape, strict=True))
        for name, values in maps.items():
            self._group[name][region] = values
            file = self.path / name / "c" / place
            if file.exists():  # zarr writes nothing for a block that holds only the fill value
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())

    def read(self, variable, first, last):
        """Planes first <= k < last of one variable; ndarray, shape (last - first, ny, nx)."""
        return self._group[variable][first:last]


def _largest_divisor(n, limit):
    return max(d for d in range(1, min(n, limit) + 1) if n % d == 0)


def open_cube(path):
    """Open a cube store as an `xarray.Dataset`.

    Parameters
    ----------
    path : path
        Folder of the store (``cube.zarr``).

    Returns
    -------
    xarray.Dataset
        Lazy; dask chunks are the stored blocks. Dimensions (wavelength, y, x), with y and x counted from 0;
        its geometry, images and spectra are under ``.muse``, see `musedeep.accessor.MuseAccessor`.
    """
    import xarray

    import musedeep.accessor  # noqa: F401  (registers .muse)

    cube = CubeStore(path)
    chunks = dict(zip(("wavelength", "y", "x"), cube.block_shape, strict=True))
    data = xarray.open_zarr(path, chunks=chunks, consolidated=False)
    return data.assign_coords(y=np.arange(cube.shape[1]), x=np.arange(cube.shape[2]))


class Ledger:
    """Which blocks are done, with the key of what went into them: one line of JSON each, appended and synced.

    A line that was cut by a crash does not parse and does not count. The last line of a block is the valid
    one.

    Parameters
    ----------
    path : path
        The ledger's file.
    """

    def __init__(self, path):
        self.path = Path(path)

    def read(self):
        """Records of all blocks by their number; dict of int to dict."""
        records = {}
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    record = json.loads(line)
                    records[record["block"]] = record
                except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
                    continue
        return records

    def append(self, record):
        """Add the record of a finished block."""
        with self.path.open("ab") as file:
            # A torn last line must not swallow this one.
            file.write(b"\n" + json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def clear(self):
        """Forget all blocks."""
        self.path.unlink(missing_ok=True)
