"""Both stores are plain zarr with the schemas they promise; the ledger survives a crash."""

import json

import numpy as np
import pytest
import xarray
import zarr
from fields import MAPS, arrays_of, assert_same_bits, copy_of

from musedeep.combine import combine_to_store
from musedeep.errors import InputError
from musedeep.grid import VoxelGrid
from musedeep.store import CUBE_VARIABLES, CubeStore, Ledger, PartReader, PixelStore, open_cube

GRID = VoxelGrid((20, 40, 50), (53.0, -27.8), (25, 20), ((-5.5e-5, 0), (0, 5.5e-5)), 6500.0, 1.25)
BLOCK = (16, 32, 32)
BOUNDS = [(z, y, x) for z in ((0, 16), (16, 20)) for y in ((0, 32), (32, 40)) for x in ((0, 32), (32, 50))]


@pytest.fixture
def cube(tmp_path):
    return CubeStore.create(tmp_path / "cube.zarr", GRID, BLOCK, {"unit": "erg", "settings": {"a": 1}})


def block_values(bounds, seed=0):
    shape = tuple(b - a for a, b in bounds)
    rng = np.random.default_rng((seed, *(a for a, _ in bounds)))
    return {
        name: rng.uniform(1, 60000, shape).astype(dtype) for name, (dtype, _, _) in CUBE_VARIABLES.items()
    }


def part_of(field, n=0):
    store = PixelStore(field.pixels_path)
    name, facts = list(store.exposures().items())[n]
    part, inner = next(iter(facts["parts"].items()))
    return store.path / name / part, inner, facts


# ------------------------------------------------------------------------------------------------ pixel store


def test_zarr_opens_the_pixel_store_and_tells_what_is_in_it(four):
    root = zarr.open_group(four.pixels_path, mode="r")
    assert root.attrs["musedeep_format"] == 1 and root.attrs["kind"] == "pixel store"
    names = [exposure.name for exposure in four.exposures]
    assert sorted(name for name, _ in root.groups()) == names
    for exposure in four.exposures:
        group = root[exposure.name]
        assert group.attrs["date_obs"] == exposure.date_obs
        assert group.attrs["fingerprint"] == exposure.fingerprint
        assert group.attrs["exptime"] == exposure.exptime
        assert group.attrs["row_count"] + group.attrs["dropped_count"] == exposure.row_count
        kinds = {"rows": "float32", "dq": "uint32", "slice": "uint16", "origin": "uint32", "offset": "int64"}
        for name, part in group.groups():
            assert {key: array.dtype.name for key, array in part.arrays()} == kinds, name
            count = group.attrs["parts"][name]["row_count"]
            assert part["rows"].shape == (5, count)
            assert part["rows"].attrs["columns"] == ["x", "y", "wavelength", "value", "variance"]
            assert part["dq"].shape == part["slice"].shape == part["origin"].shape == (count,)
            assert part["offset"][0] == 0 and part["offset"][-1] == count


def test_zarr_and_the_reader_see_the_same_rows(four):
    folder, facts, _ = part_of(four)
    group = zarr.open_group(folder, mode="r")
    reader = PartReader(folder, facts, 5)
    for name in ("rows", "dq", "slice", "origin"):
        np.testing.assert_array_equal(reader.read_flat(name, 0, facts["row_count"]), group[name][:], name)
        np.testing.assert_array_equal(reader.read_flat(name, 4000, 4200), group[name][..., 4000:4200], name)
    reader.close()


def test_runs_name_the_rows_of_segments_and_pencils(four):
    """Runs of part of the lattice hold the rows of just these segments, flags and pencils."""
    folder, facts, exposure = part_of(four)
    lattice = PixelStore(four.pixels_path).lattice_numbers
    group = zarr.open_group(folder, mode="r")
    rows, dq = group["rows"][:], group["dq"][:]
    segment = np.floor((rows[2].astype(float) - lattice[2]) / lattice[3]).astype(int)
    reader = PartReader(folder, facts, 5)
    s0, r0, c0, ns, nr, nc = facts["box"]
    for flagged in (0, 1):
        found = reader.runs(flagged, s0 - 1, s0 + ns + 2, (r0 - 3, r0 + nr), (c0, c0 + nc + 1))
        assert len(found) == ns + 3
        for number, runs in enumerate(found, s0 - 1):
            inside = np.concatenate([np.arange(a, b) for a, b in runs] or [[]]).astype(int)
            np.testing.assert_array_equal(
                inside, np.flatnonzero((segment == number) & ((dq != 0) == flagged))
            )
    y = rows[1] + exposure["origin_arcsec"][1]
    x = rows[0] + exposure["origin_arcsec"][0]
    row, column = r0 + nr // 2, c0 + nc // 2
    runs = reader.runs(0, s0, s0 + ns, (row, row + 1), (column, column + 1)).reshape(-1, 2)
    inside = np.concatenate([np.arange(a, b) for a, b in runs]).astype(int)
    mine = (np.floor(x / lattice[0]) == column) & (np.floor(y / lattice[1]) == row) & (dq == 0)
    np.testing.assert_array_equal(np.sort(inside), np.flatnonzero(mine))
    assert inside.size
    assert reader.runs(0, s0 + ns, s0 + ns + 4, (r0, r0 + nr), (c0, c0 + nc)).shape[:2] == (4, 0)


@pytest.mark.parametrize("damage", ["cut", "wild"])
def test_a_damaged_index_of_rows_is_told(four, tmp_path, damage):
    field = copy_of(four, tmp_path)
    folder, facts, _ = part_of(field)
    file = folder / "offset" / "c" / "0"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        raw = bytearray(file.read_bytes())
        raw[8 * (len(raw) // 16) + 5] ^= 0x10
        file.write_bytes(raw)
    reader = PartReader(folder, facts, 5)
    s0, r0, c0, ns, nr, nc = facts["box"]
    with pytest.raises(InputError, match="offset.*damaged.*ingest it again"):
        for flagged in (0, 1):
            reader.runs(flagged, s0, s0 + ns, (r0, r0 + nr), (c0, c0 + nc))


def test_an_exposure_that_is_not_committed_is_not_there(four, tmp_path):
    field = copy_of(four, tmp_path)
    store = PixelStore(field.pixels_path)
    first = field.exposures[0].name
    assert first in store.exposures()
    store.remove(first)
    assert first not in store.exposures() and len(store.exposures()) == 3


def test_exposures_come_in_the_order_of_time(four):
    dates = [facts["date_obs"] for facts in PixelStore(four.pixels_path).exposures().values()]
    assert dates == sorted(dates) == four.exposures.dates


@pytest.mark.parametrize("text", ["", "{", "[]", '{"zarr_format": 3}', '{"attributes": {}}', "\x00\x01"])
def test_a_damaged_store_is_named(tmp_path, text):
    (tmp_path / "pixels.zarr").mkdir()
    (tmp_path / "pixels.zarr" / "zarr.json").write_text(text)
    with pytest.raises(InputError, match="pixels.zarr.*damaged"):
        PixelStore(tmp_path / "pixels.zarr")


def test_a_store_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="pixels.zarr: there is no pixel store here"):
        PixelStore(tmp_path / "pixels.zarr")
    with pytest.raises(InputError, match="cube.zarr: there is no cube store here"):
        CubeStore(tmp_path / "cube.zarr")


def test_a_store_of_another_kind_is_refused(cube):
    with pytest.raises(InputError, match="cube.zarr: this is no pixel store"):
        PixelStore(cube.path)


# ------------------------------------------------------------------------------------------------- cube store


def test_the_cube_store_opens_in_xarray_as_it_is(cube):
    """No argument and no warning: warnings are errors here."""
    for bounds in BOUNDS:
        cube.write_block(bounds, block_values(bounds))
    with xarray.open_zarr(cube.path) as dataset:
        assert set(dataset.data_vars) == set(MAPS)
        for name, (dtype, _, _) in CUBE_VARIABLES.items():
            assert dataset[name].dims == ("wavelength", "y", "x")
            assert dataset[name].shape == GRID.shape
            assert dataset[name].dtype == dtype, name
        assert dataset.wavelength.dtype == np.float64
        np.testing.assert_array_equal(dataset.wavelength, GRID.wavelengths)
        assert dataset.wavelength.attrs["units"] == "Angstrom"
        assert dataset.flux.attrs["units"] == "erg" and dataset.variance.attrs["units"] == "(erg)**2"
        assert dataset.exposure_time.attrs["units"] == "s"
        assert dataset.attrs["musedeep_format"] == 1
        assert VoxelGrid.from_dict(dataset.attrs["grid"]) == GRID
        assert dataset.attrs["settings"] == {"a": 1}


def test_open_cube_has_one_dask_chunk_a_block(cube):
    dataset = open_cube(cube.path)
    assert dataset.flux.chunks == ((16, 4), (32, 8), (32, 18))


def test_a_block_is_one_shard_of_each_variable(cube):
    cube.write_block(BOUNDS[3], block_values(BOUNDS[3]))
    for name in MAPS:
        files = [path.relative_to(cube.path / name / "c") for path in (cube.path / name / "c").rglob("*")]
        assert [str(file) for file in files if len(file.parts) == 3] == ["0/1/1"]


def test_blocks_come_back_in_their_places(cube):
    whole = {name: np.zeros(GRID.shape, dtype) for name, (dtype, _, _) in CUBE_VARIABLES.items()}
    for bounds in BOUNDS:
        values = block_values(bounds)
        cube.write_block(bounds, values)
        for name in MAPS:
            whole[name][tuple(slice(*bound) for bound in bounds)] = values[name]
    assert_same_bits(arrays_of(open_cube(cube.path)), whole)
    np.testing.assert_array_equal(cube.read("flux", 5, 17), whole["flux"][5:17])


def test_what_was_not_written_is_empty(cube):
    cube.write_block(BOUNDS[0], block_values(BOUNDS[0]))
    maps = arrays_of(open_cube(cube.path))
    assert np.isnan(maps["flux"][16:]).all() and np.isnan(maps["variance"][16:]).all()
    for name in ("exposure_count", "exposure_time", "rejected_count", "weight"):
        assert (maps[name][16:] == 0).all(), name


def test_a_block_can_become_empty_again(cube):
    cube.write_block(BOUNDS[0], block_values(BOUNDS[0]))
    empty = {name: values * 0 for name, values in block_values(BOUNDS[0]).items()}
    empty["flux"][:] = empty["variance"][:] = np.nan
    cube.write_block(BOUNDS[0], empty)
    maps = arrays_of(open_cube(cube.path))
    assert np.isnan(maps["flux"]).all() and (maps["weight"] == 0).all()


def test_making_a_cube_replaces_the_old_one_whole(cube):
    cube.write_block(BOUNDS[0], block_values(BOUNDS[0]))
    CubeStore.create(cube.path, GRID, (32, 32, 32), {"unit": "erg"})
    assert np.isnan(CubeStore(cube.path).read("flux", 0, 20)).all()
    assert CubeStore(cube.path).block_shape == (32, 32, 32)
    assert [path.name for path in cube.path.parent.iterdir()] == ["cube.zarr"]


def test_attributes_change_in_place(cube):
    cube.write_block(BOUNDS[0], block_values(BOUNDS[0]))
    cube.set_attributes(settings={"b": 2})
    again = CubeStore(cube.path)
    assert again.attrs["settings"] == {"b": 2} and again.grid == GRID
    with xarray.open_zarr(cube.path) as dataset:
        assert dataset.attrs["settings"] == {"b": 2}
    assert not np.isnan(again.read("flux", 0, 1)[0, :32, :32]).any()


def test_the_cube_tells_how_it_was_made(four, tmp_path):
    field = copy_of(four, tmp_path, nclip=(3.0, 5.0))
    combine_to_store(field)
    attributes = open_cube(field.cube_path).attrs
    assert attributes["settings"]["combine"]["nclip"] == [3.0, 5.0]
    assert [e["date_obs"] for e in attributes["exposures"]] == field.exposures.dates
    assert [e["exptime"] for e in attributes["exposures"]] == [900.0, 900.0, 600.0, 1200.0]
    np.testing.assert_allclose(
        [e["flux_scale"] for e in attributes["exposures"]], [1, 1 / 1.1, 1, 1], rtol=1e-12
    )
    assert attributes["unit"] == "10**(-20)*erg/s/cm**2/Angstrom"
    json.dumps(dict(attributes))


# ----------------------------------------------------------------------------------------------------- ledger


def test_the_ledger_keeps_the_last_record_of_a_block(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.read() == {}
    for block, key in ((3, "a"), (1, "b"), (3, "c")):
        ledger.append({"block": block, "key": key})
    assert ledger.read() == {3: {"block": 3, "key": "c"}, 1: {"block": 1, "key": "b"}}
    ledger.clear()
    ledger.clear()
    assert ledger.read() == {}


def test_a_torn_line_does_not_count_and_swallows_no_other(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    ledger.append({"block": 1, "key": "a"})
    ledger.append({"block": 2, "key": "b"})
    whole = ledger.path.read_bytes()
    for cut in range(1, len(whole)):
        ledger.path.write_bytes(whole[:cut])
        ledger.append({"block": 3, "key": "c"})
        found = ledger.read()
        assert found[3]["key"] == "c"
        assert set(found) <= {1, 2, 3}
        assert all(record["key"] == {1: "a", 2: "b", 3: "c"}[block] for block, record in found.items())
    ledger.path.write_bytes(b"\xff\xfe\x00garbage\n5\n[]\nnull\n" + whole)
    assert set(ledger.read()) == {1, 2}
