"""What both stores share: codecs, attributes and the number of the format."""

import json

from musedeep.errors import InputError
from musedeep.objects import ObjectPath, place_of

__all__ = ["FORMAT", "check_format", "codecs", "read_attributes", "zarr_module", "zarr_place"]

FORMAT = 1


def zarr_module():
    """zarr, loaded when it is first needed: it takes a fifth of a second."""
    import zarr

    return zarr


def zarr_place(path):
    """What zarr takes for a place: the path itself, or its store of objects."""
    if not isinstance(path, ObjectPath):
        return path
    from zarr.storage import ObjectStore

    return ObjectStore(path.below())


def codecs():
    """Compression of every array: blosc lz4 with shuffle, and a checksum of each chunk."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    return [BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()]


def read_attributes(folder, what, *needed):
    """Attributes of a group; an InputError names what is missing or damaged."""
    try:
        attributes = json.loads((place_of(folder) / "zarr.json").read_text())["attributes"]
    except FileNotFoundError:
        raise InputError(f"{folder}: there is no {what} here.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: the {what} has a damaged zarr.json ({error}); delete the folder and run its stage "
            "again."
        ) from None
    for name in needed:
        if name not in attributes:
            raise InputError(f"{folder}: this is no {what}, or its zarr.json is damaged: it lacks {name!r}.")
    return attributes


def check_format(path, attributes):
    """Refuse a store that another version wrote."""
    if attributes["musedeep_format"] != FORMAT:
        raise InputError(
            f"{path}: has format {attributes['musedeep_format']!r}, this version of musedeep knows {FORMAT}; "
            "move it away and run again, or use the version that wrote it."
        )
