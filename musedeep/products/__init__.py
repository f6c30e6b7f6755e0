"""The cube store as FITS files that follow ESO's standard: deep cube, images, exposure and depth maps."""

from musedeep.products.effort import plan_products
from musedeep.products.files import EXTENSIONS
from musedeep.products.write import associate_files, cube_file, product_notes, write_products

__all__ = [
    "EXTENSIONS", "associate_files", "cube_file", "plan_products", "product_notes", "write_products",
]  # fmt: skip
