"""The cube store: flux, variance and maps, written block by block."""

import math
import shutil
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from musedeep.errors import InputError
from musedeep.grid import VoxelGrid
from musedeep.objects import ObjectPath, place_of
from musedeep.shards import write_shard
from musedeep.store.common import FORMAT, codecs, read_attributes, zarr_module, zarr_place

__all__ = ["CUBE_VARIABLES", "CubeStore", "DamagedCubeError", "open_cube"]

CUBE_VARIABLES = {
    "flux": ("float32", "unit", "weighted mean of the rows"),
    "variance": ("float32", "unit**2", "propagated variance of the mean, covariance between voxels ignored"),
    "exposure_count": ("uint16", "1", "number of exposures in the mean"),
    "exposure_time": ("float32", "s", "seconds of the exposures in the mean"),
    "rejected_count": ("uint16", "1", "rows rejected in this voxel"),
    "weight": ("float32", "1", "sum of kernel times exposure weight"),
}
_SLAB_PLANES = 16  # the depth of a chunk, so that no chunk is read twice
_SLAB_BYTES = 64e6  # of one variable; larger fields take fewer planes at a time


class DamagedCubeError(InputError):
    """A file of the cube store is not what was written: cut, changed, or unreadable."""


class CubeStore:
    """The deep cube: flux, variance and maps, written block by block.

    Parameters
    ----------
    path : path
        Its folder, or its address on object storage.
    """

    def __init__(self, path):
        self.path = place_of(path)
        self.attrs = read_attributes(self.path, "cube store", "grid", "block_shape")
        self.grid = VoxelGrid.from_dict(self.attrs["grid"])
        self.shape = self.grid.shape
        self.block_shape = tuple(self.attrs["block_shape"])
        self._group = zarr_module().open_group(zarr_place(self.path), mode="r+")

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
        path = place_of(path)
        if isinstance(path, ObjectPath):
            # made here, and brought there with what makes it count last
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / path.name
                cls.create(made, grid, block_shape, attributes)
                path.remove_tree()
                path.upload(made)
            return cls(path)
        partial = path.with_name(path.name + ".writing")
        shutil.rmtree(partial, ignore_errors=True)
        unit = attributes.get("unit", "")
        group = zarr_module().create_group(
            partial,
            attributes={
                **attributes,
                "musedeep_format": FORMAT,
                "grid": grid.to_dict(),
                "block_shape": list(block_shape),
            },
        )
        chunks = tuple(
            _largest_divisor(n, limit) for n, limit in zip(block_shape, (16, 128, 128), strict=True)
        )
        for name, (dtype, kind, text) in CUBE_VARIABLES.items():
            group.create_array(
                name,
                shape=grid.shape,
                dtype=dtype,
                chunks=chunks,
                shards=tuple(block_shape),
                compressors=codecs(),
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
            zarr_module().consolidate_metadata(group.store)
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
        return cls(path)

    def set_attributes(self, **attributes):
        """Change attributes of the store (settings, exposures) in place."""
        self._group.attrs.update(attributes)
        self.attrs = read_attributes(self.path, "cube store")

    def write_block(self, bounds, maps):
        """Write one block and make it durable.

        Parameters
        ----------
        bounds : ((int, int), (int, int), (int, int))
            Planes, rows, columns; whole blocks only, so that no two writers share a shard.
        maps : dict of ndarray
            Every variable of `CUBE_VARIABLES`, of the block's shape.
        """
        for name, values in maps.items():
            array, file = self._group[name], self._shard(name, bounds)
            if isinstance(file, ObjectPath):  # there for good once it is there
                array[tuple(slice(*bound) for bound in bounds)] = values
            else:
                values = np.asarray(values, array.dtype)
                write_shard(file, values, array.chunks, self.block_shape, array.fill_value)

    def remove_leftovers(self):
        """Remove what a killed run was writing; only for who holds the lock of the field."""
        if isinstance(self.path, Path):
            for file in self.path.rglob("*.partial"):
                file.unlink(missing_ok=True)

    def remove_block(self, bounds):
        """Remove the files of one block: a block at the edge would be read before it is written."""
        for name in CUBE_VARIABLES:
            self._shard(name, bounds).unlink(missing_ok=True)

    def _shard(self, name, bounds):
        place = (str(bound[0] // n) for bound, n in zip(bounds, self.block_shape, strict=True))
        return self.path.joinpath(name, "c", *place)

    def stored_blocks(self):
        """Places (plane, row, column of blocks) of the filled blocks that are there; set of tuples of int."""
        # a block that has not a single rejected row has no shard of their counts
        names = [name for name in CUBE_VARIABLES if name != "rejected_count"]
        return set.intersection(*(self._stored_blocks_of(name) for name in names))

    def _stored_blocks_of(self, name):
        folder = self.path.joinpath(name, "c")
        if isinstance(folder, ObjectPath):
            files = folder.files().items()
        else:
            files = ((f.relative_to(folder).as_posix(), f.stat().st_size) for f in folder.glob("*/*/*"))
        places = ((file.split("/"), size) for file, size in files)
        # not one that was being written when a run was killed, nor one that a crash of the machine left
        # empty: zarr would take it for a block of nothing
        return {tuple(map(int, parts)) for parts, size in places if parts[-1].isdigit() and size}

    def read(self, variable, first, last, rows=slice(None), columns=slice(None)):
        """Planes first <= k < last of one variable, or a part of them; ndarray of three dimensions.

        Raises
        ------
        DamagedCubeError
            A checksum is wrong, or a file too short.
        """
        try:
            return self._group[variable][first:last, rows, columns]
        except (ValueError, RuntimeError, OSError) as error:
            raise DamagedCubeError(
                f"{self.path}: {variable} of planes {first} to {last - 1} is damaged ({error}); run "
                "`musedeep run` on the field, which computes the blocks that are damaged anew"
            ) from error

    def plane_bytes(self, variables):
        """Bytes of one plane of some variables, as they are read."""
        each = sum(np.dtype(CUBE_VARIABLES[name][0]).itemsize for name in set(variables))
        return each * self.grid.shape[1] * self.grid.shape[2]

    def slab_planes(self, variables, most_bytes=math.inf):
        """Planes that `slabs` reads at once."""
        most = _SLAB_BYTES // (4 * self.grid.shape[1] * self.grid.shape[2])
        most = min(_SLAB_PLANES, most, most_bytes // (2 * self.plane_bytes(variables)))
        # a number that does not divide the depth of a chunk would have more of them read twice
        return _largest_divisor(_SLAB_PLANES, int(max(1, most)))

    def slabs(self, variables, most_bytes=math.inf):
        """Go through the cube a few planes at a time; the next are read while the caller works on some.

        Parameters
        ----------
        variables : iterable of str
            Of `CUBE_VARIABLES`; one named twice is read once.
        most_bytes : float, optional
            What the planes in work and the next ones may take; one plane of each is the least.

        Yields
        ------
        first : int
            Index of the first plane.
        slab : dict of ndarray, shape (n, ny, nx)
            Those planes of each variable.
        """
        planes, names = self.grid.shape[0], tuple(dict.fromkeys(variables))
        step = self.slab_planes(names, most_bytes)

        def read(start):
            return {name: self.read(name, start, min(start + step, planes)) for name in names}

        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(read, 0)
            for start in range(0, planes, step):
                slab = ahead.result()
                if start + step < planes:
                    ahead = reader.submit(read, start + step)
                yield start, slab


def _largest_divisor(n, limit):
    return max(d for d in range(1, min(n, limit) + 1) if n % d == 0)


def open_cube(path, folder=None):
    """Open a cube store as an `xarray.Dataset`.

    Parameters
    ----------
    path : path
        Folder of the store (``cube.zarr``), or its address on object storage.
    folder : path, optional
        Folder of the field, for `recombine`, `trace` and others; by default that of the store.

    Returns
    -------
    xarray.Dataset
        Lazy; dask chunks are the stored blocks. Dimensions (wavelength, y, x), with y and x counted from 0;
        its geometry, images and spectra are under ``.muse``, see `musedeep.accessor.MuseAccessor`. The
        attribute ``store`` tells where it lies.
    """
    import xarray

    import musedeep.accessor  # noqa: F401  (registers .muse)

    cube = CubeStore(path)
    chunks = dict(zip(("wavelength", "y", "x"), cube.block_shape, strict=True))
    data = xarray.open_zarr(zarr_place(cube.path), chunks=chunks, consolidated=False)
    data = data.assign_coords(y=np.arange(cube.shape[1]), x=np.arange(cube.shape[2]))
    place = cube.path.absolute() if isinstance(cube.path, Path) else cube.path
    if folder is None and isinstance(place, Path):
        folder = place.parent
    data = data.assign_attrs(store=str(place))
    return data.assign_attrs(folder=str(Path(folder).absolute())) if folder is not None else data
