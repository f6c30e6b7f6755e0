"""The steps of ESO's muse_scibasic, muse_create_sky and muse_scipost in our own code, in bounded memory."""

from musedeep.reduce.native.create_sky import create_sky
from musedeep.reduce.native.fieldimage import field_image, write_field_image
from musedeep.reduce.native.scibasic import IfuRows, reduce_frame
from musedeep.reduce.native.scipost import reduce_tables
from musedeep.reduce.native.skymodel import SkyChoice

__all__ = [
    "IfuRows",
    "SkyChoice",
    "create_sky",
    "field_image",
    "reduce_frame",
    "reduce_tables",
    "write_field_image",
]
