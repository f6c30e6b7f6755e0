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

Either may lie on object storage (`musedeep.objects`); the ledger is always a file.
"""

from musedeep.store.cube import CUBE_VARIABLES, CubeStore, DamagedCubeError, open_cube
from musedeep.store.ledger import Ledger
from musedeep.store.pixels import PartReader, PixelStore, join_runs

__all__ = [
    "CUBE_VARIABLES",
    "CubeStore",
    "DamagedCubeError",
    "Ledger",
    "PartReader",
    "PixelStore",
    "join_runs",
    "open_cube",
]
