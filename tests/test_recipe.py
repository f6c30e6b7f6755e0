"""A recipe holds all numbers of a combination: right, complete, and the same for the same question."""

import json
import pickle

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from fields import files_of, ingested, make_field, maps_of, read_table, stored_rows, write_rows

from musedeep.errors import InputError, UsageError
from musedeep.grid import VoxelGrid
from musedeep.ingest import ingest_exposures
from musedeep.muse import DQ_BITS
from musedeep.offsets import OffsetTable
from musedeep.recipe import prepare
from musedeep.simulate import simulate_exposures
from musedeep.store import PartReader, PixelStore


def true_positions(exposure, ra_offset=0.0, dec_offset=0.0, rotation=0.0):
    """Sky positions of the rows of an exposure's file by way of astropy, with its offset taken off."""
    table = read_table(exposure.tables[0].path)
    # distance and position angle of a row as seen from the pointing
    distance, angle = -table["ypos"].astype(float), np.pi - table["xpos"].astype(float)
    pointing = SkyCoord(exposure.ra_deg - ra_offset, exposure.dec_deg - dec_offset, unit="deg")
    return pointing.directional_offset_by((angle - np.radians(rotation)) * units.rad, distance * units.rad)


def row_pixels(field, exposure):
    """Voxel coordinates that the recipe gives to the rows of an exposure, and the rows' detector pixels."""
    recipe = prepare(field)
    inputs = next(e for e in recipe.exposures if e.name == exposure.name)
    name, facts = next(iter(inputs.parts.items()))
    reader = PartReader(recipe.store / inputs.name / name, facts, inputs.columns)
    rows = reader.read_flat("rows", 0, facts["row_count"]).astype(float)
    origin = reader.read_flat("origin", 0, facts["row_count"])
    reader.close()
    x, y, w = inputs.matrix @ np.stack([*(rows[:2] + inputs.origin[:, None]), np.ones(rows.shape[1])])
    return x / w + recipe.anchor[0], y / w + recipe.anchor[1], origin, recipe


OFFSETS = [(0.0, 0.0, 0.0), (3e-4, -5e-4, 0.0), (-2e-4, 1e-4, 0.7), (0.0, 0.0, -25.0)]


@pytest.mark.parametrize("dec", [-27.8, 0.0, 80.0])
def test_rows_fall_where_astropy_says_with_and_without_offsets(tmp_path, dec):
    paths = simulate_exposures(
        tmp_path,
        exposures=4,
        field_arcsec=4.0,
        wavelength=(6500, 6503),
        ra_deg=0.0,
        dec_deg=dec,
        fov_images=False,
    )
    field = make_field(paths, tmp_path / "field")
    columns = zip(*OFFSETS, strict=True)
    table = Table(
        [field.exposures.dates, *columns], names=["DATE_OBS", "RA_OFFSET", "DEC_OFFSET", "ROTATION"]
    )
    OffsetTable(table).write(field.offsets_path)
    ingest_exposures(field)
    for exposure, offset in zip(field.exposures, OFFSETS, strict=True):
        x, y, origin, recipe = row_pixels(field, exposure)
        wanted = recipe.grid.wcs.celestial.world_to_pixel(true_positions(exposure, *offset))
        table = np.argsort(read_table(exposure.tables[0].path)["origin"])
        stored = np.argsort(origin)
        for found, axis in ((x, wanted[0]), (y, wanted[1])):
            np.testing.assert_allclose(found[stored], axis[table], atol=2e-4)
        # all of them are on the grid
        assert -0.01 <= x.min() and x.max() <= recipe.grid.shape[2] - 0.99
        assert -0.01 <= y.min() and y.max() <= recipe.grid.shape[1] - 0.99


def test_exposures_come_in_the_order_of_time_with_their_numbers(four):
    recipe = prepare(four)
    assert [e.date_obs for e in recipe.exposures] == four.exposures.dates == sorted(four.exposures.dates)
    assert [e.seconds for e in recipe.exposures] == [900, 900, 600, 1200]
    np.testing.assert_allclose([e.weight for e in recipe.exposures], [1, 1, 2 / 3, 4 / 3], rtol=1e-15)
    np.testing.assert_allclose([e.scale for e in recipe.exposures], [1, 1 / 1.1, 1, 1], rtol=1e-15)
    assert recipe.unit == "10**(-20)*erg/s/cm**2/Angstrom"
    assert json.loads(json.dumps(recipe.describe_exposures()))[1]["in_offset_list"] is True


def test_the_extent_of_an_exposure_holds_its_rows(four):
    rows, recipe = stored_rows(four, flagged=True)
    for n, exposure in enumerate(recipe.exposures):
        mine = rows.select(rows.exposure == n)
        x0, x1, y0, y1 = exposure.extent
        assert x0 <= mine.px.min() < x0 + 0.5 and x1 - 0.5 < mine.px.max() <= x1
        assert y0 <= mine.py.min() < y0 + 0.5 and y1 - 0.5 < mine.py.max() <= y1


@pytest.mark.parametrize("which, places", [("half:A", [0, 2]), ("half:B", [1, 3]), ("every:3", [0, 3])])
def test_a_selection_takes_just_its_exposures(four, which, places):
    recipe = prepare(four.changed(select=which))
    assert [e.date_obs for e in recipe.exposures] == [four.exposures.dates[n] for n in places]


def test_weights_follow_the_first_of_the_selected_exposures(four):
    dates = four.exposures.dates
    assert [e.weight for e in prepare(four.changed(select=dates[2:])).exposures] == [1, 2]
    assert [e.weight for e in prepare(four.changed(weight="none")).exposures] == [1] * 4


# ---------------------------------------------------------------------- method


@pytest.mark.parametrize(
    "changes, reach",
    [
        ({}, 1),
        ({"pixfrac": 1.0}, 1),
        ({"pixfrac": 2.1}, 2),
        ({"pixfrac": (0.5, 0.5, 2.01)}, 2),
        ({"pixfrac": (0.5, 4.5, 0.5)}, 3),
        ({"ld": 2}, 2),
        ({"pixfrac": 5.0, "ld": 1}, 1),
        ({"resample": "nearest", "ld": 2}, 0),
        ({"resample": "lanczos"}, 1),
        ({"resample": "lanczos", "ld": 3}, 3),
        ({"dx": 0.1, "dy": 0.1, "pixfrac": 1.2}, 2),
    ],
)
def test_rows_reach_as_far_as_needed(four, changes, reach):
    method = prepare(four.changed(**changes)).method
    assert method.reach == reach
    assert method.halo == (reach + 2, reach + 3)
    assert prepare(four.changed(trails=1.5, **changes)).method.halo == (reach + 3, reach + 4)
    assert prepare(four.changed(reject="eso", **changes)).method.halo == (reach + 1, reach + 1)
    assert prepare(four.changed(reject="none", **changes)).method.halo == (reach, reach)


def test_drops_have_the_size_of_the_instruments_pixels(four):
    """The spaxels of the simulated instrument are not quite 0.2 arcsec; turned exposures do not matter."""
    pixel = PixelStore(four.pixels_path).exposures()[four.exposures[0].name]["pixel_deg"]
    method = prepare(four.changed(dx=0.4, pixfrac=(0.8, 0.6, 0.5))).method
    wanted = (0.8 * pixel[0] * 3600 / 0.4, 0.6 * pixel[1] * 3600 / 0.2, 0.5 * 1.25)
    np.testing.assert_allclose(method.drop, wanted, rtol=1e-6)


ANGLES = {0: 1, -4.9: 1, 175.2: 1, 356: 1, 90: 2, -86: 2, 274: 2, 45: 0, 6: 0, 95.1: 0}


@pytest.mark.parametrize("angle, direction", ANGLES.items())
def test_the_direction_of_slices_comes_from_the_first_exposure(tmp_path, angle, direction):
    path = write_rows(
        tmp_path, np.linspace(-2, 2, 9), np.linspace(-1, 2, 9), 6500.0, 1.0,
        **{"ESO INS DROT MODE": "STAT", "ESO INS DROT POSANG": float(angle)},
    )  # fmt: skip
    assert prepare(ingested([path], tmp_path / "field")).method.direction == direction


def test_flags_to_be_kept_are_added_up(four):
    method = prepare(four.changed(keep_dq=["cosmic_ray", "hot_pixel"])).method
    assert method.keep_dq == DQ_BITS["cosmic_ray"] + DQ_BITS["hot_pixel"]


def test_a_sigma_of_zero_switches_the_peers_rule_off(four):
    assert prepare(four.changed(reject="eso", crsigma=0)).method.reject == "none"


# ---------------------------------------------------------------------- what blocks need


WHOLE = ((0, 21), (0, 42), (0, 45))
BLOCK = ((0, 16), (0, 16), (0, 16))


def test_the_key_of_a_block_depends_on_all_that_its_values_depend_on(four, tmp_path):
    weights = Table({"DATE_OBS": four.exposures.dates, "WEIGHT": [1.0, 1.0, 1.0, 1.001]})
    weights.write(tmp_path / "w.ecsv")
    Table({"DATE_OBS": four.exposures.dates, "RA_OFFSET": [0, 0, 0, 1e-7], "DEC_OFFSET": [0.0] * 4}).write(
        tmp_path / "o.ecsv"
    )
    changes = [
        {}, {"nclip": (4, 4.1)}, {"nmax": 2}, {"nkeep": 1}, {"gradient": 0.51}, {"coherence": 1.9},
        {"sample": "own"}, {"trails": 1.4}, {"reject": "none"}, {"reject": "eso"},
        {"reject": "eso", "crsigma": 9},
        {"reject": "eso", "crtype": "mean"}, {"resample": "linear"}, {"resample": "renka"},
        {"resample": "renka", "rc": 1.3}, {"pixfrac": 0.61}, {"ld": 2}, {"lambdamin": 6501},
        {"lambdamax": 6520}, {"keep_dq": ["hot_pixel"]}, {"weight": "none"},
        {"weight": str(tmp_path / "w.ecsv")}, {"offsets": str(tmp_path / "o.ecsv")}, {"select": "half:A"},
        {"masks": [{"ifu": [3]}]}, {"masks": [{"ifu": [4]}]},
        {"masks": [{"ifu": [3], "wavelength": [6500, 6510]}]},
        {"dx": 0.21}, {"log": True}, {"vacuum": True}, {"rotation": 10.0},
    ]  # fmt: skip
    keys = [prepare(four.changed(**change)).block_key(BLOCK) for change in changes]
    repeated = [changes[n] for n, key in enumerate(keys) if keys.count(key) > 1]
    assert not repeated
    assert prepare(four).block_key(((0, 16), (0, 16), (0, 15))) != keys[0]


def test_the_key_of_a_block_does_not_depend_on_anything_else(four):
    key = prepare(four).block_key(BLOCK)
    for change in (
        {"memory": "3GB"}, {"workers": 7}, {"threads": 2}, {"cluster": "processes"}, {"filter": "none"},
    ):  # fmt: skip
        assert prepare(four.changed(**change)).block_key(BLOCK) == key, change
    note = [prepare(four.changed(masks=[{"ifu": [3], "note": n}])).block_key(BLOCK) for n in ("a", "b")]
    assert note[0] == note[1]


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Two exposures side by side and a third over both, far smaller than the gap of a mosaic."""
    folder = tmp_path_factory.mktemp("apart")
    paths = simulate_exposures(
        folder, exposures=3, field_arcsec=4.0, wavelength=(6500, 6510), pointings=((-10, 0), (10, 0), (0, 0)),
        dither_arcsec=0.0, fov_images=False,
    )  # fmt: skip
    return ingested(paths, folder / "field")


def test_an_exposure_that_does_not_touch_a_block_does_not_matter(apart):
    recipe, without = (
        prepare(apart),
        prepare(apart.without(apart.exposures.dates[1]), grid=prepare(apart).grid),
    )
    nz, ny, nx = recipe.grid.shape
    east, west = ((0, nz), (0, ny), (nx - 16, nx)), ((0, nz), (0, ny), (0, 16))
    assert recipe.touching(((0, nz), (0, ny), (0, nx))) == [0, 1, 2]
    assert recipe.touching(east) == [0] and recipe.touching(west) == [1]
    assert recipe.block_key(east) == without.block_key(east)
    assert recipe.block_key(west) != without.block_key(west)
    mask = {"ifu": [3], "exposures": [apart.exposures.dates[1]]}
    masked = prepare(apart.changed(masks=[mask]))
    assert masked.block_key(east) == recipe.block_key(east) and masked.block_key(west) != recipe.block_key(
        west
    )
    assert [e.name for e in recipe.restricted(east).exposures] == [recipe.exposures[0].name]
    assert recipe.restricted(east).block_key(east) == recipe.block_key(east)


def test_a_recipe_travels_to_workers(four):
    recipe = prepare(four)
    again = pickle.loads(pickle.dumps(recipe))
    assert again.block_key(BLOCK) == recipe.block_key(BLOCK)
    assert len(pickle.dumps(recipe)) < 20_000


def test_the_order_in_which_files_are_given_does_not_matter(four, tmp_path):
    field = ingested(files_of(four)[::-1], tmp_path, offsets=four.settings.combine.offsets)
    assert prepare(field).block_key(BLOCK) == prepare(four).block_key(BLOCK)


# ---------------------------------------------------------------------- refusals


def test_exposures_that_are_not_ingested_are_named(four, tmp_path):
    with pytest.raises(InputError, match="pixels.zarr: there is no pixel store here"):
        prepare(make_field(files_of(four), tmp_path))
    field = ingested(files_of(four)[:2], tmp_path / "two")
    field = make_field(files_of(four)[:3], tmp_path / "two")
    with pytest.raises(
        InputError, match=f"exposure {four.exposures.dates[2]} is not in .*run the ingest stage first"
    ):
        prepare(field)
    assert len(prepare(field.without(four.exposures.dates[2])).exposures) == 2


def test_wavelength_limits_without_rows_are_told(four):
    with pytest.raises(
        InputError, match=r"no row lies between lambdamin = 7000.* cover 6500\.\d+ to 652\d\.\d+"
    ):
        prepare(four.changed(lambdamin=7000.0))


def test_an_offset_list_of_other_exposures_is_refused(four, tmp_path):
    Table({"DATE_OBS": ["2010-01-01T00:00:00.000"], "RA_OFFSET": [0.0], "DEC_OFFSET": [0.0]}).write(
        tmp_path / "o.ecsv"
    )
    with pytest.raises(
        InputError, match="none of its 1 rows matches .*has DATE-OBS 2014.*list has DATE_OBS 2010"
    ):
        prepare(four.changed(offsets=str(tmp_path / "o.ecsv")))


def test_a_grid_that_no_exposure_touches_is_refused(four, tmp_path):
    grid = prepare(four).grid
    far = VoxelGrid(grid.shape, (grid.crval[0], grid.crval[1] + 0.1), grid.crpix, grid.cd, 6500.0, 1.25)
    with pytest.raises(
        InputError, match="none of the 4 exposures touches the output grid .*check the offsets"
    ):
        prepare(four, grid=far)


def far_fields(tmp_path, *decs, number=1):
    east, north = np.linspace(-3, 3, 20), np.tile([-2.0, 2.0], 10)
    return [
        write_rows(tmp_path, east, north, np.linspace(6500, 6510, 20), 1.0, number=n, DEC=dec)
        for n, dec in enumerate(decs, 1)
    ]


def test_exposures_without_a_common_field_are_named(tmp_path):
    paths = far_fields(tmp_path, -27.8, -27.8, -27.6, -27.601, -28.8)
    field = ingested(paths, tmp_path / "field")
    with pytest.raises(
        InputError,
        match="no common field: 2014-08-10T01:01:00.000 and 1 more lie together; then there are "
        r"2014-08-10T01:03:00.000 and 1 more, 11\.8 arcmin away; 2014-08-10T01:05:00.000 and 0 more, "
        r"59\.9 arcmin away. Make a field of each",
    ):
        prepare(field)
    with pytest.raises(InputError, match="no common field"):
        prepare(field.changed(grid="eso"))
    grid = prepare(
        field.without("2014-08-10T01:03:00.000", "2014-08-10T01:04:00.000", "2014-08-10T01:05:00.000")
    ).grid
    assert len(prepare(field, grid=grid).exposures) == 5
    # a file says it is meant
    header = grid.to_header()
    fits.HDUList([fits.PrimaryHDU(np.zeros(grid.shape, np.uint8), header)]).writeto(tmp_path / "grid.fits")
    found = prepare(field.changed(grid=str(tmp_path / "grid.fits"))).grid
    assert found.shape == grid.shape and found.crval == pytest.approx(grid.crval, abs=1e-12)


def test_a_mosaic_of_touching_fields_is_one_field(tmp_path):
    field = ingested(far_fields(tmp_path, *(-27.8 + n / 60 for n in range(6))), tmp_path / "field")
    assert len(prepare(field).exposures) == 6


@pytest.mark.parametrize("grid", ["data", "eso"])
def test_the_grid_is_the_same_across_0h_as_elsewhere(tmp_path, grid):
    east, north = np.linspace(-3, 3, 20), np.tile([-2.0, 2.0], 10)
    shapes = []
    for folder, ras in (("0h", (359.9995, 0.0005)), ("4h", (59.9995, 60.0005)), ("0h2", (0.0005, 359.9995))):
        paths = [
            write_rows(
                tmp_path / folder, east, north, np.linspace(6500, 6510, 20), 1.0, number=n, RA=ra, DEC=0.1
            )
            for n, ra in enumerate(ras, 1)
        ]
        field = ingested(paths, tmp_path / folder / "field", grid=grid)
        shapes.append(prepare(field).grid.shape)
        # every row is on it
        assert maps_of(field, reject="none", pixfrac=0.001)["weight"].sum() == pytest.approx(40, rel=1e-4)
    for shape in shapes[1:]:
        assert shapes[0] == pytest.approx(shape, abs=1)
    assert shapes[0][2] == pytest.approx(6 / 0.2 + 3.6 / 0.2, abs=2)


def test_a_grid_of_absurd_size_is_refused(four):
    with pytest.raises(InputError, match=r"planes of \d+ x \d+ voxels, .*steps are 1e-06 and 1e-06 arcsec"):
        prepare(four.changed(dx=1e-6, dy=1e-6))
    with pytest.raises(InputError, match="check dx, dy, dlambda"):
        prepare(four.changed(dlambda=1e-9))


def test_selecting_nothing_is_refused(four):
    with pytest.raises(UsageError, match="select.*leaves none"):
        prepare(four.changed(select="without=" + ",".join(four.exposures.dates)))


def test_exposures_of_other_units_are_refused(tmp_path):
    paths = far_fields(tmp_path, -27.8, -27.8)
    field = ingested(paths, tmp_path / "field")
    assert maps_of(field)["flux"].size
    for name, unit in (("data", "count"), ("stat", "count**2")):
        with fits.open(paths[1], mode="update") as hdus:
            next(hdu for hdu in hdus[1:] if hdu.header["EXTNAME"] == name).header["BUNIT"] = unit
    with pytest.raises(InputError, match="different flux units"):
        make_field(paths, tmp_path / "again")
