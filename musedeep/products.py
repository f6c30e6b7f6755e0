"""The cube store as FITS files: deep cube, white-light and filter images, exposure maps."""

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

import musedeep
from musedeep.errors import InputError, UsageError, WorkError
from musedeep.fitsstream import FitsStream, require_space
from musedeep.images import WHITE, ImageSum, MapMean, extension_header, read_filters
from musedeep.keywords import product_header, set_card, sky_system
from musedeep.store import CubeStore, Ledger

__all__ = ["EXTENSIONS", "write_products"]

#: Maps of the cube store that the FITS cube can carry: variable -> (EXTNAME, type, unit).
EXTENSIONS = {
    "exposure_count": ("EXPCOUNT", "i4", ""),
    "exposure_time": ("EXPTIME", "f4", "s"),
    "rejected_count": ("REJECTED", "i4", ""),
    "weight": ("WEIGHT", "f4", ""),
}
#: Two-dimensional maps: variable -> (file, type, unit, how planes become one value).
_MAPS = {
    "exposure_time": ("EXPOSURE_MAP", "f4", "s", "mean"),
    "exposure_count": ("EXPOSURE_COUNT", "f4", "", "mean"),
    "rejected_count": ("REJECTED_MAP", "i4", "", "sum"),
}
_KEY = "ESO DRS MUSE DEEP KEY"
_SIZE = "ESO DRS MUSE DEEP SIZE"
_FORMAT = 1  # raised when the same cube store gives other files than before


def write_products(field, *, filters=None, extensions=None, filter_list=None, overwrite=False, progress=None):
    """Write the FITS files of a field from its cube store.

    The store is read once, a few planes at a time. The files are written under hidden names beside their
    final ones and renamed when all of them are complete, so a file of the final name is never a partial one.
    What is up to date stays as it is.

    Parameters
    ----------
    field : Field
        With a finished cube store; its exposures give the keywords.
    filters : sequence of str, optional
        Images to make, "white" or names in `filter_list`; the field's settings by default.
    extensions : sequence of str, optional
        Keys of `EXTENSIONS` that the cube carries besides DATA and STAT; the field's settings by default.
    filter_list : path, optional
        Throughput curves, see `musedeep.images.read_filters`; the field's settings by default.
    overwrite : bool
        Write the files anew even where they are up to date.
    progress : callable, optional
        Called with (planes written, planes in all).

    Returns
    -------
    list of Path
        DATACUBE_DEEP.fits (DATA float32, STAT float32 variance, NaN without data), IMAGE_FOV_DEEP.fits (white
        light, with variance; IMAGE_FOV_DEEP_<filter>.fits for others), EXPOSURE_MAP.fits [s],
        EXPOSURE_COUNT.fits and REJECTED_MAP.fits.

    Raises
    ------
    UsageError
        An extension is unknown.
    InputError
        No finished cube store, an unknown filter, or an exposure of the cube that the field no longer has.
    WorkError
        The disk is full or the folder cannot be written. Nothing is left under the final names.
    """
    settings = field.settings.products
    filters = settings.filter if filters is None else filters
    extensions = tuple(settings.extensions if extensions is None else extensions)
    filter_list = settings.filter_list if filter_list is None else filter_list
    for name in extensions:
        if name not in EXTENSIONS:
            raise UsageError(f"extension {name!r} is unknown; allowed are {', '.join(EXTENSIONS)}")
    store = CubeStore(field.cube_path)
    if not store.attrs.get("finished"):
        raise InputError(f"the cube {store.path} is not finished; run the combination to its end first")
    curves = read_filters([name for name in filters if name != "none"], filter_list or None)
    products = _plan_products(store, curves, extensions)
    folder = Path(field.products_dir)
    paths = [folder / f"{product.name}.fits" for product in products]
    key = _key(store, field.name, curves, extensions)
    if overwrite or any(_key_of(path) != key for path in paths):
        exposures = _exposures_of(field, store)
        primary = _primary(field, store, exposures, key)
        wcs = store.grid.to_header()
        wcs.extend(sky_system(exposures[0].header))
        _make_folder(folder)
        with ExitStack() as stack:
            files = _open_files(stack, paths, products, primary, wcs, field.name)
            sums = _Sums(store.grid, curves)
            _stream(store, files["DATACUBE_DEEP"], extensions, sums, progress)
            sums.write(files)
            for file in files.values():
                file.finish()
            for file in files.values():
                file.publish()
    return paths


@dataclass(frozen=True)
class _Product:
    """One file: name, ESO PRO CATG, extensions (EXTNAME, type, unit), their shape, keywords of its own."""

    name: str
    category: str
    parts: tuple
    shape: tuple
    cards: tuple = ()


def _plan_products(store, curves, extensions):
    grid, unit = store.grid, store.attrs["unit"]
    image = ("DATA", "f4", unit), ("STAT", "f4", unit)
    parts = (*image, *(EXTENSIONS[name] for name in extensions))
    products = [_Product("DATACUBE_DEEP", "DATACUBE_DEEP", parts, grid.shape)]
    for curve in curves:
        cards = tuple(_filter_cards(curve, grid.wavelengths))
        products.append(_Product(_image_name(curve), "IMAGE_FOV_DEEP", image, grid.shape[1:], cards))
    for name, kind, map_unit, how in _MAPS.values():
        parts = (("DATA", kind, map_unit),)
        products.append(_Product(name, name, parts, grid.shape[1:], _map_cards(how, curves)))
    return products


def _image_name(curve):
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


def _key(store, object_name, curves, extensions):
    """Hash of all that the files depend on."""
    blocks = Ledger(store.path.with_name("cube.ledger")).read()
    digest = hashlib.sha256(json.dumps([_FORMAT, musedeep.__version__, object_name, extensions]).encode())
    digest.update(json.dumps(store.attrs, sort_keys=True, default=str).encode())
    digest.update(json.dumps(sorted((n, block["key"]) for n, block in blocks.items())).encode())
    for curve in curves:
        digest.update(curve.name.encode() + curve.wavelength.tobytes() + curve.throughput.tobytes())
    return digest.hexdigest()[:32]


def _key_of(path):
    """Key of a finished file; None where there is none, or where it is not as long as it was."""
    try:
        with path.open("rb") as file:
            header = fits.Header.fromfile(file)
        return header.get(_KEY) if header.get(_SIZE) == path.stat().st_size else None
    except (OSError, ValueError):
        return None


def _exposures_of(field, store):
    """The exposures in the cube, earliest first."""
    found = {exposure.date_obs: exposure for exposure in field.exposures}
    dates = sorted(record["date_obs"] for record in store.attrs["exposures"])
    for date in dates:
        if date not in found:
            raise InputError(
                f"exposure {date} is part of {field.cube_path}, but the field has no such exposure any more; "
                "add it to the field again, or combine without it"
            )
    return [found[date] for date in dates]


def _primary(field, store, exposures, key):
    grid = store.grid
    header = product_header(
        sorted(store.attrs["exposures"], key=lambda record: record["date_obs"]),
        exposures,
        object_name=field.name,
        position=grid.position((grid.shape[2] - 1) / 2, (grid.shape[1] - 1) / 2),
        settings=store.attrs["settings"],
        version=musedeep.__version__,
    )
    set_card(header, _KEY, key, "changes with cube and settings")
    set_card(header, _SIZE, 0, "[byte] length of this file")
    return header


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(
            f"cannot make the folder {folder}: {error.strerror}; nothing was written; choose a folder that "
            "you may write, and run again"
        ) from error


def _open_files(stack, paths, products, primary, wcs, object_name):
    files = {}
    for path, product in zip(paths, products, strict=True):
        header = primary.copy()
        set_card(header, "PIPEFILE", path.name, "name of this file")
        set_card(header, "ESO PRO CATG", product.category, "category of this file")
        for card in product.cards:
            set_card(header, *card)
        if product.category == "IMAGE_FOV_DEEP":
            set_card(
                header, "OBJECT", f"{object_name} ({header['ESO DRS MUSE FILTER NAME']})", "target (filter)"
            )
        options = {"axes": len(product.shape), "has_variance": len(product.parts) > 1}
        images = [
            (extension_header(part, wcs, unit, object_name, **options), kind, product.shape)
            for part, kind, unit in product.parts
        ]
        file = stack.enter_context(FitsStream(path, header, images))
        file.headers[0][_SIZE] = file.size
        files[product.name] = file
    require_space(paths[0].parent, sum(file.size for file in files.values()))
    return files


def _stream(store, cube, extensions, sums, progress):
    """One pass over the cube store: into the FITS cube, the images and the maps."""
    for start, slab in store.slabs(("flux", "variance", *_MAPS, *extensions)):
        empty = ~(np.isfinite(slab["flux"]) & np.isfinite(slab["variance"]))
        slab["flux"][empty] = slab["variance"][empty] = np.nan
        cube.write(1, start, slab["flux"])
        cube.write(2, start, slab["variance"])
        for hdu, name in enumerate(extensions, 3):
            cube.write(hdu, start, slab[name])
        sums.add(start, slab, ~empty.all(axis=(1, 2)))
        if progress is not None:
            progress(start + len(empty), store.grid.shape[0])


class _Sums:
    """What becomes of the images and the maps while the planes pass by."""

    def __init__(self, grid, curves):
        shape = grid.shape[1:]
        self.throughputs = [curve.throughput_at(grid.wavelengths) for curve in curves]
        self.images = {_image_name(curve): ImageSum(shape) for curve in curves}
        self.maps = {variable: MapMean(shape) for variable in _MAPS}
        inside = self.throughputs[0] > 0 if curves else np.ones(grid.shape[0], bool)
        # A cube that lies outside the filter altogether still has a depth to tell.
        self.inside = inside if inside.any() else ~inside

    def add(self, start, slab, covered):
        """Add the planes of a slab; `covered` tells which of them hold data."""
        planes = slice(start, start + len(covered))
        for total, throughput in zip(self.images.values(), self.throughputs, strict=True):
            total.add(slab["flux"], slab["variance"], throughput[planes])
        for variable, total in self.maps.items():
            total.add(slab[variable], covered & self.inside[planes])

    def write(self, files):
        """Write images and maps, and the exposure time they tell into every file."""
        for name, total in self.images.items():
            image, variance = total.image()
            files[name].write(1, 0, image)
            files[name].write(2, 0, variance)
        for variable, (name, _, _, how) in _MAPS.items():
            total = self.maps[variable]
            files[name].write(1, 0, total.mean() if how == "mean" else total.total())
            files[name].headers[0]["ESO DRS MUSE DEEP NPLANES"] = total.planes
        seconds = self.maps["exposure_time"].mean()
        seen = seconds[seconds > 0]
        for file in files.values():
            header = file.headers[0]
            header["EXPTIME"] = min(float(np.median(seen)), header["TEXPTIME"]) if len(seen) else 0.0
