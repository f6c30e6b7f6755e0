"""Writing the files of a product in one pass over the cube store, and what is said in their headers later."""

import hashlib
import json
import logging
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from astropy.io import fits

import musedeep
from musedeep.errors import InputError, UsageError, WorkError
from musedeep.fitsstream import FitsStream, require_space, update_primary
from musedeep.images import extension_header, read_filters
from musedeep.keywords import coordinate_errors, missing_keywords, product_header, set_card, sky_system
from musedeep.names import origfile, product_name
from musedeep.products.effort import read_variables, slab_bytes
from musedeep.products.files import EXTENSIONS, plan_files
from musedeep.products.sums import MEASURED, CubeSums
from musedeep.store import CubeStore, Ledger

__all__ = ["associate_files", "cube_file", "product_notes", "write_products"]

_KEY = "ESO DRS MUSE DEEP KEY"
_SIZE = "ESO DRS MUSE DEEP SIZE"
_FORMAT = 2  # raised when the same cube store gives other files than before
# Room in the cube's header for quality control: its keywords, and the log and plots that go with the cube.
_SPARE_CARDS = 160
_FILE_CATEGORIES = {".log": "ANCILLARY.README", ".txt": "ANCILLARY.README", ".png": "ANCILLARY.PREVIEW"}

_log = logging.getLogger(__name__)


def write_products(field, *, filters=None, extensions=None, filter_list=None, overwrite=False, progress=None):
    """Write the FITS files of a field from its cube store.

    The store is read once, a few planes at a time. The files are written under hidden names beside their
    final ones and renamed when all of them are complete, so a file of the final name is never a partial one.
    What is up to date stays as it is. Their keywords follow the ESO Science Data Products Standard; what the
    exposures lack for that is told in the log, see `musedeep.keywords.missing_keywords`.

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
        EXPOSURE_COUNT.fits, REJECTED_MAP.fits and DEPTH_MAP.fits [AB mag]; or, with the setting ``names``,
        the names of ESO's archive.

    Raises
    ------
    UsageError
        An extension is unknown, or a name is too long for ESO's archive.
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
    store = _finished_store(field)
    curves = read_filters([name for name in filters if name != "none"], filter_list or None)
    planned = plan_files(store, curves, extensions)
    exposures = _exposures_of(field, store)
    folder = Path(field.products_dir)
    paths = [folder / product_name(file.name, exposures[0], settings.names) for file in planned]
    key = _key(store, field, curves, extensions)
    if not overwrite and all(_key_of(path) == key for path in paths):
        return paths
    for note in missing_keywords(exposures):
        _log.warning("%s", note)
    primary = _primary(field, store, exposures, key)
    _make_folder(folder)
    with ExitStack() as stack:
        files = _open_files(stack, paths, planned, primary, _wcs_header(store, exposures), exposures[0])
        sums = CubeSums(store.grid, curves, store.attrs["unit"])
        most = slab_bytes(store, field.settings, len(curves))
        _stream(store, files["DATACUBE_DEEP"], extensions, sums, progress, most)
        for keyword in sums.write(files):
            _log.warning("%s cannot be told of this cube and is left out", keyword)
        for file in files.values():
            file.finish()
        for file in files.values():
            file.publish()
    return paths


def cube_file(field):
    """Path of the FITS cube of a field, whether it was written yet or not.

    Parameters
    ----------
    field : Field
        With a finished cube store.

    Returns
    -------
    Path
    """
    earliest = _exposures_of(field, _finished_store(field))[0]
    return Path(field.products_dir) / product_name("DATACUBE_DEEP", earliest, field.settings.products.names)


def product_notes(field):
    """What the exposures of a cube lack for a product by ESO's standard, and what is done about it.

    Parameters
    ----------
    field : Field
        With a finished cube store.

    Returns
    -------
    list of str
        See `musedeep.keywords.missing_keywords`.
    """
    return missing_keywords(_exposures_of(field, _finished_store(field)))


def associate_files(field, files=(), cards=()):
    """Put log and plots beside the cube, name them in its header, and add what quality control found.

    The header is changed in place: the cube itself is not written again. What an earlier call added is
    replaced, and its files are removed from the folder of the products.

    Parameters
    ----------
    field : Field
        Whose products are written.
    files : sequence of path
        Text logs (.log, .txt) and plots (.png), which are copied and get ASSONi, ASSOCi and the checksum
        ASSOMi.
    cards : sequence of (str, value, str)
        Keywords, values and comments: QCFLAG, QCCOMM1, QCCOMM2, ...

    Raises
    ------
    UsageError
        A file is of another kind.
    WorkError
        The cube is not there, or its header has no room for so many.
    """
    cube, partners, old = cube_file(field), [], set()
    for file in map(Path, files):
        if file.suffix not in _FILE_CATEGORIES:
            raise UsageError(f"{file} is neither a log nor a plot; allowed are {', '.join(_FILE_CATEGORIES)}")
        partners.append((file.name, _FILE_CATEGORIES[file.suffix], _md5(file)))

    def change(header):
        for key in [key for key in header if re.fullmatch(r"ASSO[CM]\d+|QCCOMM\d+", key)]:
            number = key.removeprefix("ASSOC")
            if number.isdigit():
                old.add(str(header.pop(f"ASSON{number}")))
            del header[key]
        first = 1 + sum(1 for key in header if re.fullmatch(r"ASSON\d+", key))
        for number, (name, category, md5) in enumerate(partners, first):
            set_card(header, f"ASSON{number}", name, "file that goes with this one")
            set_card(header, f"ASSOC{number}", category, "category of it")
            set_card(header, f"ASSOM{number}", md5, "md5 of it")
        for card in cards:
            set_card(header, *card)

    update_primary(cube, change)
    for name in old - {name for name, _, _ in partners}:
        cube.with_name(name).unlink(missing_ok=True)
    for file in map(Path, files):
        _copy(file, cube.with_name(file.name))


def _copy(source, target):
    """Copy a file such that its name never means a part of it."""
    if target.exists() and target.samefile(source):
        return
    partial = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _md5(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _finished_store(field):
    store = CubeStore(field.cube_path)
    if not store.attrs.get("finished"):
        raise InputError(f"the cube {store.path} is not finished; run the combination to its end first")
    return store


def _key(store, field, curves, extensions):
    """Hash of all that the files depend on."""
    blocks = Ledger(field.ledger_path).read()
    settings = field.settings.products
    facts = [_FORMAT, musedeep.__version__, field.name, extensions, settings.publication, settings.raw_suffix]
    digest = hashlib.sha256(json.dumps(facts).encode())
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
    dates = [record["date_obs"] for record in _records(store)]
    for date in dates:
        if date not in found:
            raise InputError(
                f"exposure {date} is part of {field.cube_path}, but the field has no such exposure any more; "
                "add it to the field again, or combine without it"
            )
    return [found[date] for date in dates]


def _records(store):
    return sorted(store.attrs["exposures"], key=lambda record: record["date_obs"])


def _primary(field, store, exposures, key):
    grid, settings = store.grid, field.settings.products
    header = product_header(
        _records(store),
        exposures,
        object_name=field.name,
        position=grid.position((grid.shape[2] - 1) / 2, (grid.shape[1] - 1) / 2),
        wavelength_nm=grid.wavelengths[[0, -1]] / 10.0,
        settings=store.attrs["settings"],
        version=musedeep.__version__,
        reference=settings.publication,
        suffix=settings.raw_suffix,
        left_out=store.attrs.get("left_out", ()),
    )
    set_card(header, _KEY, key, "changes with cube and settings")
    set_card(header, _SIZE, 0, "[byte] length of this file")
    return header


def _wcs_header(store, exposures):
    """WCS of the extensions: the grid, its frame on the sky, and errors of its coordinates."""
    wcs = store.grid.to_header()
    wcs.extend(sky_system(exposures[0].header))
    wcs.extend(coordinate_errors(_records(store), store.grid.crval[1]))
    return wcs


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(
            f"cannot make the folder {folder}: {error.strerror}; nothing was written; choose a folder that "
            "you may write, and run again"
        ) from error


def _open_files(stack, paths, planned, primary, wcs, exposure):
    files = {}
    for path, file in zip(paths, planned, strict=True):
        is_cube = file.name == "DATACUBE_DEEP"
        header = _file_header(primary, file, path, origfile(file.name, exposure))
        if is_cube:
            _add_cube_cards(header, dict(zip(paths[1:], planned[1:], strict=True)))
        options = {"axes": len(file.shape), "has_variance": len(file.parts) > 1}
        images = [
            (extension_header(part, wcs, unit, primary["OBJECT"], **options), kind, file.shape)
            for part, kind, unit in file.parts
        ]
        spare = _SPARE_CARDS + 3 * header["NCOMBINE"] if is_cube else 0
        stream = stack.enter_context(FitsStream(path, header, images, spare))
        stream.headers[0][_SIZE] = stream.size
        files[file.name] = stream
    require_space(paths[0].parent, sum(file.size for file in files.values()))
    return files


def _file_header(primary, file, path, origfile_name):
    header = primary.copy()
    set_card(header, "PIPEFILE", path.name, "name of this file")
    set_card(header, "ORIGFILE", origfile_name, "name by the rule of ESO's archive")
    set_card(header, "PRODCATG", file.prodcatg, "category of this product")
    set_card(header, "ESO PRO CATG", file.category, "category of this file")
    for card in file.cards:
        set_card(header, *card)
    if file.category == "IMAGE_FOV_DEEP":
        name = f"{primary['OBJECT']} ({header['ESO DRS MUSE FILTER NAME']})"
        set_card(header, "OBJECT", name, "target (filter)")
    if len(file.shape) == 2:
        del header["SPEC_RES"]
    return header


def _add_cube_cards(header, partners):
    for key, comment in MEASURED.items():
        set_card(header, key, 0.0, comment)
    # The standard wants the white-light image first.
    white_first = sorted(partners, key=lambda path: not partners[path].prodcatg.endswith("WHITELIGHT"))
    for number, path in enumerate(white_first, 1):
        set_card(header, f"ASSON{number}", path.name, "file that goes with this one")


def _stream(store, cube, extensions, sums, progress, most_bytes):
    """One pass over the cube store: into the FITS cube, the images and the maps."""
    for start, slab in store.slabs(read_variables(extensions), most_bytes):
        empty = ~(np.isfinite(slab["flux"]) & np.isfinite(slab["variance"]))
        slab["flux"][empty] = slab["variance"][empty] = np.nan
        cube.write(1, start, slab["flux"])
        cube.write(2, start, slab["variance"])
        for hdu, name in enumerate(extensions, 3):
            cube.write(hdu, start, slab[name])
        sums.add(start, slab, ~empty.all(axis=(1, 2)))
        if progress is not None:
            progress(start + len(empty), store.grid.shape[0])
