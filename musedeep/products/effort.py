"""What writing the products takes: memory and bytes."""

import math

from musedeep.plan import BASE_BYTES, BYTES_PER_EXPOSURE, Plan
from musedeep.products.files import MAPS
from musedeep.store import CubeStore

__all__ = ["plan_products", "read_variables", "slab_bytes"]

# Sums of maps and of the depth, the images that are smoothed in the end, and what a plane leaves behind.
SPAXEL_BYTES = 190
# What the stages before leave in the process: their kernels, and memory in pieces too small to go back.
_LEFT_BYTES = 50_000_000
# Sums of one more image, and the image with its variance.
FILTER_BYTES = 32
# Beside the planes in work and those ahead: their masks, and a copy as the file has them.
_WITH_COPIES = 1.4


def read_variables(extensions):
    """Variables of the cube store that the products are made of."""
    return ("flux", "variance", *MAPS, *extensions)


def slab_bytes(store, settings, filters):
    """What the planes in work and those that are read ahead may take.

    Parameters
    ----------
    store : CubeStore
    settings : Settings
    filters : int
        Images to be made.

    Returns
    -------
    float
    """
    return max((settings.run.memory_bytes - _fixed_bytes(store, filters)) / _WITH_COPIES, 0.0)


def _fixed_bytes(store, filters):
    """What is there whatever the number of planes at a time."""
    spaxels = store.grid.shape[1] * store.grid.shape[2]
    exposures = len(store.attrs["exposures"]) * BYTES_PER_EXPOSURE
    return BASE_BYTES + _LEFT_BYTES + exposures + (SPAXEL_BYTES + FILTER_BYTES * filters) * spaxels


def plan_products(field):
    """Predict the products of a field whose cube is finished.

    Parameters
    ----------
    field : Field

    Returns
    -------
    Plan
    """
    store, settings = CubeStore(field.cube_path), field.settings
    planes, ny, nx = store.grid.shape
    filters, extensions = len(settings.products.filter), settings.products.extensions
    names = read_variables(extensions)
    plane = store.plane_bytes(names)
    at_once = 2 * plane * store.slab_planes(names, slab_bytes(store, settings, filters))
    return Plan(
        stage="products",
        tasks=planes,
        rows=0,
        voxels=math.prod(store.grid.shape),
        bytes_read=planes * plane,
        bytes_written=4 * ny * nx * (planes * (2 + len(extensions)) + 2 * filters + len(MAPS) + 1),
        files=2 + len(MAPS) + filters,
        peak_bytes=int(_fixed_bytes(store, filters) + _WITH_COPIES * at_once),
        memory_bytes=settings.run.memory_bytes,
    )
