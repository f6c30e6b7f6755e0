"""Fields of simulated and of handmade exposures for the tests of the engine; loaded as a pytest plugin."""

import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import reference
from astropy.io import fits
from reference import Rows

from musedeep.combine import combine_exposures
from musedeep.field import Field
from musedeep.grid import air_to_vacuum
from musedeep.ingest import ingest_exposures
from musedeep.muse import COLUMNS, OPTIONAL_COLUMNS, UNITS, pack_origin
from musedeep.recipe import prepare
from musedeep.simulate import simulate_exposures
from musedeep.store import CUBE_VARIABLES, PartReader, open_cube

ARCSEC = 180.0 * 3600.0 / math.pi
STEP_DEG = (0.2 / 3600.0, 0.2 / 3600.0)
MAPS = tuple(CUBE_VARIABLES)

# Two tables of four are turned by other than a right angle, one has its fluxes wrong by 10 %.
FOUR = {
    "exposures": 4,
    "seed": 3,
    "field_arcsec": 6.0,
    "wavelength": (6500.0, 6525.0),
    "position_angles": (0.0, 90.0, 45.0, 200.0),
    "exptime": (900.0, 900.0, 600.0, 1200.0),
    "flux_scale_error": (0.0, 0.1, 0.0, 0.0),
    "pointing_error_arcsec": 0.3,
    "cosmic_ray_rate": 0.003,
    "cosmic_ray_flagged": 0.2,
    "fov_images": False,
}


def make_field(paths, folder, **settings):
    """A field of pixel tables, with one thread and little memory if not told otherwise."""
    settings = {"memory": "1GB", "workers": 1, "assess": "off"} | settings
    return Field.from_exposures(paths, folder, overwrite=True, **settings)


def ingested(paths, folder, **settings):
    """The same, with its exposures in the pixel store."""
    field = make_field(paths, folder, **settings)
    ingest_exposures(field)
    return field


def files_of(field):
    """The files of a field, in the order of time."""
    return [path for source in field.sources for path in source.files]


def copy_of(field, folder, **settings):
    """The same field in another folder, with the pixel store it had."""
    copied = dataclasses.replace(field, folder=Path(folder)).changed(**settings)
    shutil.copytree(field.pixels_path, copied.pixels_path)
    copied.write()
    return copied


def maps_of(field, *, grid=None, **changes):
    """All maps of a field as arrays, computed anew."""
    return arrays_of(combine_exposures(field, grid=grid, **changes))


def arrays_of(dataset):
    """Values of the maps of a dataset; dict of ndarray."""
    dataset = dataset[list(MAPS)].compute(scheduler="synchronous")
    return {name: dataset[name].values for name in MAPS}


def stored_maps(field):
    """All maps as the cube store has them."""
    return arrays_of(open_cube(field.cube_path))


def assert_same_bits(found, wanted):
    """Hold the maps of two combinations against each other, to the last bit."""
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        different = found[name].view(f"u{values.itemsize}") != values.view(f"u{values.itemsize}")
        # whatever bits a NaN has, it says the same
        different &= ~((found[name] != found[name]) & (values != values))
        assert not different.any(), f"{name}: {different.sum()} of {different.size} voxels differ"


def stored_rows(field, *, flagged=False, **changes):
    """Rows of a field as the store has them, on the grid that its settings ask for.

    Returns
    -------
    rows : reference.Rows
    recipe : Recipe
    """
    recipe = prepare(field.changed(**changes))
    grid, columns = recipe.grid, []
    for n, exposure in enumerate(recipe.exposures):
        for name, facts in exposure.parts.items():
            reader = PartReader(recipe.store / exposure.name / name, facts, exposure.columns)
            count = facts["row_count"]
            values, dq = reader.read_flat("rows", 0, count), reader.read_flat("dq", 0, count)
            reader.close()
            plane = np.stack([*(values[:2].astype(np.float64) + exposure.origin[:, None]), np.ones(count)])
            x, y, w = exposure.matrix @ plane
            scale = exposure.scale
            columns.append(
                (
                    x / w + recipe.anchor[0],
                    y / w + recipe.anchor[1],
                    np.zeros(count),
                    values[2],
                    (values[3] * np.float64(scale)).astype(np.float32),
                    (values[4] * np.float64(scale * scale)).astype(np.float32),
                    dq,
                    np.full(count, n),
                    np.full(count, exposure.weight),
                )
            )
    rows = Rows(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))
    low, high = recipe.method.wavelength
    rows = rows.select((rows.wavelength >= low) & (rows.wavelength <= high))
    if grid.vacuum:
        rows.wavelength = air_to_vacuum(rows.wavelength).astype(np.float32)
    rows.pz = grid.plane_of(rows.wavelength.astype(np.float64))
    return (rows if flagged else rows.select(rows.dq == 0)), recipe


def expected_maps(rows, recipe, rejected):
    """All maps that the slow reference makes of rows on the grid of a recipe, less the rejected ones."""
    method, grid = recipe.method, recipe.grid
    step = np.array(grid.step_arcsec) / 3600
    step_deg = (method.pixel[0] * step[0], method.pixel[1] * step[1])
    pixfrac = np.array(method.drop) / np.array(method.pixel)
    rc = method.radius / math.hypot(*(1 / np.array(method.pixel[:2])), grid.wavelength_step / 1.25)
    rest = {"step_deg": step_deg, "pixfrac": pixfrac, "ld": method.reach, "rc": rc}
    kept = ~rejected & (rows.weight != 0)
    flux, variance = reference.resample(rows, grid, kept, method.resample, **rest)
    maps = {"flux": flux, "variance": variance, "exposure_count": 0, "exposure_time": 0, "rejected_count": 0}
    if method.resample != "nearest":
        maps["weight"] = reference.sums_of(rows.select(kept), grid, method.resample, **rest)[0]
        for n, exposure in enumerate(recipe.exposures):
            mine = kept & (rows.exposure == n)
            seen = reference.sums_of(rows.select(mine), grid, method.resample, **rest)[0] != 0
            maps["exposure_count"] += seen & ~np.isnan(flux)
            maps["exposure_time"] += (seen & ~np.isnan(flux)) * exposure.seconds
    cells = reference.cells_of(rows, grid.shape)
    inside = rejected & ((cells >= 0) & (cells < grid.shape)).all(axis=1)
    count = np.bincount(np.ravel_multi_index(cells[inside].T, grid.shape), minlength=math.prod(grid.shape))
    return maps | {"rejected_count": count.reshape(grid.shape)}


def assert_maps_are(found, wanted, method="drizzle"):
    """Hold maps against those of the reference: places pass through float32, so to some 1e-6."""
    np.testing.assert_array_equal(found["rejected_count"], wanted["rejected_count"])
    if method == "renka":  # its smallest weight vanishes in the formula where no other row is near
        filled = ~np.isnan(wanted["flux"])
        assert filled.mean() > 0.9 * np.isfinite(found["flux"]).mean()
        found, wanted = ({name: m[filled] for name, m in maps.items()} for maps in (found, wanted))
    np.testing.assert_array_equal(np.isnan(found["flux"]), np.isnan(wanted["flux"]))
    # lanczos divides by sums that may nearly vanish
    rtol = 2e-5 if method != "lanczos" else 2e-3
    np.testing.assert_allclose(found["flux"], wanted["flux"], rtol=rtol, atol=100 * rtol)
    if method != "renka":  # where its formula gives 0/0
        np.testing.assert_allclose(found["variance"], wanted["variance"], rtol=5 * rtol)
    if method != "nearest":
        # a drop may touch a voxel by less than its place is known
        same = found["exposure_count"] == wanted["exposure_count"]
        assert same.mean() > 0.9995
        np.testing.assert_allclose(found["exposure_time"][same], wanted["exposure_time"][same], rtol=1e-6)
        np.testing.assert_allclose(found["weight"], wanted["weight"], rtol=1e-5, atol=1e-6)


def native_position(east_arcsec, north_arcsec):
    """Columns xpos and ypos of points on an exposure's tangent plane."""
    x, y = np.radians(np.asarray(east_arcsec) / 3600), np.radians(np.asarray(north_arcsec) / 3600)
    return (np.arctan2(x, -y) % (2 * np.pi)).astype(np.float32), (-np.arctan(np.hypot(x, y))).astype(
        np.float32
    )


def write_rows(
    path,
    east_arcsec,
    north_arcsec,
    wavelength,
    data,
    stat=1.0,
    dq=0,
    origin=None,
    weight=None,
    *,
    number=1,
    layout="image",
    **cards,
):
    """Write a pixel table of given rows.

    Parameters
    ----------
    path : Path
        The file, or the folder it goes to as PIXTABLE_REDUCED_nnnn.fits.
    east_arcsec, north_arcsec : array_like
        Places on the tangent plane of the header's pointing.
    number : int
        Minutes of DATE-OBS.
    **cards
        Keywords of the primary header.
    """
    xpos, ypos = native_position(east_arcsec, north_arcsec)
    count = np.size(xpos)
    origin = pack_origin(100, 2000, 12, 7, 0) if origin is None else origin
    columns = {
        "xpos": xpos,
        "ypos": ypos,
        "lambda": wavelength,
        "data": data,
        "dq": dq,
        "stat": stat,
        "origin": origin,
    }
    kinds = dict(COLUMNS)
    if weight is not None:
        columns["weight"], kinds = weight, COLUMNS | OPTIONAL_COLUMNS
    columns = {
        name: np.broadcast_to(np.asarray(columns[name]), (count,)).astype(kind)
        for name, kind in kinds.items()
    }
    path = Path(path)
    path = path / f"PIXTABLE_REDUCED_{number:04d}.fits" if path.suffix != ".fits" else path
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "DATE-OBS": f"2014-08-10T01:{number:02d}:00.000",
        "MJD-OBS": 56879.0 + number / 1440,
        "EXPTIME": 1000.0,
        "RA": 53.1,
        "DEC": -27.8,
        "OBJECT": "ROWS",
        "ESO INS MODE": "WFM-NOAO-N",
        "ESO INS DROT POSANG": 0.0,
        "ESO INS DROT MODE": "SKY",
    }
    primary = fits.PrimaryHDU()
    for name, value in (facts | cards).items():
        primary.header[f"HIERARCH {name}" if " " in name else name] = value
    fits.HDUList([primary, *_hdus(columns, layout)]).writeto(path, overwrite=True)
    return path


def _hdus(columns, layout):
    stored = {
        name: values.view(np.int32) if values.dtype == np.uint32 else values
        for name, values in columns.items()
    }
    if layout == "table":
        codes = {"float32": "E", "int32": "J"}
        return [
            fits.BinTableHDU.from_columns(
                [
                    fits.Column(name, codes[values.dtype.name], unit=UNITS.get(name) or None, array=values)
                    for name, values in stored.items()
                ]
            )
        ]
    hdus = []
    for name, values in stored.items():
        hdu = fits.ImageHDU(values[:, None])
        hdu.header["EXTNAME"] = name
        if UNITS.get(name):
            hdu.header["BUNIT"] = UNITS[name]
        hdus.append(hdu)
    return hdus


def read_table(path):
    """Columns of a pixel table, read by astropy; dict of ndarray."""
    with fits.open(path) as hdus:
        if isinstance(hdus[1], fits.BinTableHDU):
            found = {name: np.array(hdus[1].data[name]) for name in hdus[1].columns.names}
        else:
            found = {hdu.header["EXTNAME"]: np.array(hdu.data[:, 0]) for hdu in hdus[1:]}
    kinds = COLUMNS | OPTIONAL_COLUMNS
    native = {name: values.astype(values.dtype.newbyteorder("=")) for name, values in found.items()}
    return {name: values.view(kinds[name]) for name, values in native.items()}


def change_table(path, columns=None, cards=None):
    """Change columns (name to function of the values) and cards of an image-layout pixel table in place."""
    with fits.open(path, mode="update") as hdus:
        for name, function in (columns or {}).items():
            hdu = next(hdu for hdu in hdus[1:] if hdu.header["EXTNAME"] == name)
            hdu.data[:, 0] = function(hdu.data[:, 0])
        for name, value in (cards or {}).items():
            hdus[0].header[f"HIERARCH {name}" if " " in name else name] = value


@pytest.fixture(scope="session")
def four_files(tmp_path_factory):
    """Four simulated pixel tables with an offset list beside them; list of Path. Change copies only."""
    return simulate_exposures(tmp_path_factory.mktemp("four"), **FOUR)


@pytest.fixture(scope="session")
def four(four_files, tmp_path_factory):
    """Their field, ingested. Nothing may be written into its folder: see `copy_of`."""
    offsets = four_files[0].parent / "OFFSET_LIST.fits"
    return ingested(four_files, tmp_path_factory.mktemp("field"), offsets=offsets)


@pytest.fixture(scope="session")
def four_maps(four):
    """All maps of it with the default settings."""
    return maps_of(four)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A field like `four` of a tenth of its rows, for what the slow reference has to work on."""
    folder = tmp_path_factory.mktemp("small")
    paths = simulate_exposures(
        folder, **(FOUR | {"field_arcsec": 3.2, "wavelength": (6500.0, 6512.0), "cosmic_ray_rate": 0.02})
    )
    return ingested(paths, folder / "field", offsets=folder / "OFFSET_LIST.fits")
