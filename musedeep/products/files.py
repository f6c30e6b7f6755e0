"""Which files a product has, and the keywords that are a file's own."""

from dataclasses import dataclass

from musedeep.images import WHITE

__all__ = ["EXTENSIONS", "MAPS", "PlannedFile", "image_name", "plan_files"]

#: Maps of the cube store that the FITS cube can carry: variable -> (EXTNAME, type, unit).
EXTENSIONS = {
    "exposure_count": ("EXPCOUNT", "i4", ""),
    "exposure_time": ("EXPTIME", "f4", "s"),
    "rejected_count": ("REJECTED", "i4", ""),
    "weight": ("WEIGHT", "f4", ""),
}
#: Two-dimensional maps: variable -> (file, type, unit, how planes become one value).
MAPS = {
    "exposure_time": ("EXPOSURE_MAP", "f4", "s", "mean"),
    "exposure_count": ("EXPOSURE_COUNT", "f4", "", "mean"),
    "rejected_count": ("REJECTED_MAP", "i4", "", "sum"),
}
_IMAGE = "ANCILLARY.IMAGE"


@dataclass(frozen=True)
class PlannedFile:
    """One file.

    Attributes
    ----------
    name : str
        Plain name without ending.
    category, prodcatg : str
        ESO PRO CATG and PRODCATG.
    parts : tuple of (str, str, str)
        EXTNAME, type and unit of its extensions.
    shape : tuple of int
        Of each of them.
    cards : tuple of (str, value, str)
        Keywords of its own.
    """

    name: str
    category: str
    prodcatg: str
    parts: tuple
    shape: tuple
    cards: tuple = ()


def plan_files(store, curves, extensions):
    """The files of a product, the cube first.

    Parameters
    ----------
    store : CubeStore
    curves : list of Filter
        Of the images.
    extensions : sequence of str
        Keys of `EXTENSIONS`.

    Returns
    -------
    list of PlannedFile
    """
    grid, unit = store.grid, store.attrs["unit"]
    image = ("DATA", "f4", unit), ("STAT", "f4", unit)
    parts = (*image, *(EXTENSIONS[name] for name in extensions))
    files = [PlannedFile("DATACUBE_DEEP", "DATACUBE_DEEP", "SCIENCE.CUBE.IFS", parts, grid.shape)]
    plane = grid.shape[1:]
    for curve in curves:
        cards = tuple(_filter_cards(curve, grid.wavelengths))
        prodcatg = f"{_IMAGE}.WHITELIGHT" if curve is WHITE else _IMAGE
        files.append(PlannedFile(image_name(curve), "IMAGE_FOV_DEEP", prodcatg, image, plane, cards))
    for name, kind, map_unit, how in MAPS.values():
        prodcatg = "ANCILLARY.EXPMAP" if name == "EXPOSURE_MAP" else _IMAGE
        parts = (("DATA", kind, map_unit),)
        files.append(PlannedFile(name, name, prodcatg, parts, plane, _map_cards(how, curves)))
    depth = (("DATA", "f4", "mag"),)
    files.append(PlannedFile("DEPTH_MAP", "DEPTH_MAP", _IMAGE, depth, plane))
    return files


def image_name(curve):
    """Plain name of the image in a filter."""
    return "IMAGE_FOV_DEEP" if curve is WHITE else f"IMAGE_FOV_DEEP_{curve.name}"


def _filter_cards(curve, wavelengths):
    prefix = "ESO DRS MUSE FILTER"
    yield f"{prefix} NAME", curve.name, "filter that the cube was collapsed with"
    if curve.zp_vega is not None:
        yield f"{prefix} ZPVEGA", curve.zp_vega, "[mag] zero point, Vega"
    if curve.zp_ab is not None:
        yield f"{prefix} ZPAB", curve.zp_ab, "[mag] zero point, AB"
    yield f"{prefix} FRACTION", curve.covered_percent(wavelengths), "[%] part of the filter that is covered"


def _map_cards(how, curves):
    planes = f"planes inside filter {curves[0].name}" if curves else "all planes"
    return (
        ("ESO DRS MUSE DEEP MAP", f"{how} over {planes}", ""),
        ("ESO DRS MUSE DEEP NPLANES", 0, "number of such planes that hold data"),
    )
