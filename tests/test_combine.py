"""A combination is what the reference makes of the same rows, and only what changed is done again."""

import numpy as np
import pytest
import reference
from astropy.table import Table
from fields import (
    MAPS,
    assert_maps_are,
    assert_same_bits,
    copy_of,
    expected_maps,
    files_of,
    ingested,
    make_field,
    maps_of,
    read_table,
    stored_maps,
    stored_rows,
    write_rows,
)

from musedeep import combine, plan
from musedeep.combine import combine_exposures, combine_to_store, cube_progress, rejected_rows
from musedeep.errors import InputError, UsageError
from musedeep.grid import VoxelGrid
from musedeep.ingest import ingest_exposures
from musedeep.recipe import prepare
from musedeep.simulate import simulate_exposures
from musedeep.store import Ledger, PixelStore, open_cube


@pytest.fixture
def small_blocks(monkeypatch):
    """Cut cubes of tests into many blocks."""
    monkeypatch.setattr(plan, "LARGEST_BLOCK", (16, 16, 32))
    monkeypatch.setattr(plan, "SMALLEST_BLOCK", (16, 16, 32))


def count_blocks(monkeypatch):
    """A list that receives the bounds of every block that is computed from now on."""
    done, work = [], combine.combine_block

    def counted(recipe, bounds, *args, **kwargs):
        done.append(bounds)
        return work(recipe, bounds, *args, **kwargs)

    monkeypatch.setattr(combine, "combine_block", counted)
    return done


# ---------------------------------------------------------------------------- against the reference

CHANGES = {
    "default": {},
    "no rejection": {"reject": "none"},
    "plain clip": {"gradient": 0, "coherence": 0, "nclip": (3, 3)},
    "own voxel": {"sample": "own", "dx": 0.4, "dy": 0.4},
    "27 voxels": {"sample": "27"},
    "both samples": {"dx": 0.5, "dy": 0.5},
    "repeated": {"nmax": 3, "nclip": (2.5, 3.5)},
    "spared": {"nkeep": 2, "nclip": (1.5, 1.5)},
    "selection": {"select": "half:A"},
    "wavelengths": {"lambdamin": 6503.3, "lambdamax": 6509.1},
    "no weights": {"weight": "none"},
    "logarithmic": {"log": True},
    "vacuum": {"vacuum": True, "log": True},
    "turned": {"rotation": 30.0},
    "coarse": {"dx": 0.3, "dy": 0.25, "dlambda": 2.0, "pixfrac": (0.8, 0.7, 0.9)},
    "fine": {"dx": 0.15, "dy": 0.13, "dlambda": 0.9, "pixfrac": 1.0},
    "large drops": {"pixfrac": (2.2, 1.0, 2.5)},
    "peer": {"reject": "eso", "crsigma": 3},
    "peer, mean": {"reject": "eso", "crtype": "mean", "crsigma": 2.5, "select": "half:B"},
    "nearest": {"resample": "nearest"},
    "linear": {"resample": "linear"},
    "quadratic": {"resample": "quadratic", "ld": 2},
    "renka": {"resample": "renka", "rc": 1.1},
    "lanczos": {"resample": "lanczos", "ld": 2},
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_maps_are_those_of_the_reference(small, name):
    rows, recipe = stored_rows(small, **CHANGES[name])
    method = recipe.method
    if method.reject == "guarded":
        sample = {0: "auto", 1: "own", 27: "27"}[method.sample]
        rule = {
            key: getattr(method, key) for key in ("nclip", "nmax", "nkeep", "gradient", "coherence", "trails")
        }
        rejected = reference.guarded_rejected(rows, recipe.grid.shape, sample=sample, margin=9, **rule)
    elif method.reject == "eso":
        flagged, _ = stored_rows(small, flagged=True, **CHANGES[name])
        crtype, direction = ("median", "mean", "iraf")[method.crtype], ("none", "x", "y")[method.direction]
        rejected = reference.eso_rejected(flagged, recipe.grid.shape, crtype, method.crsigma, direction)[
            flagged.dq == 0
        ]
    else:
        rejected = np.zeros(len(rows), bool)
    assert rejected.any() == (method.reject != "none")
    maps = maps_of(small, **CHANGES[name])
    assert maps["flux"].shape == recipe.grid.shape and 0.3 < np.isfinite(maps["flux"]).mean()
    assert_maps_are(maps, expected_maps(rows, recipe, rejected), method.resample)


def test_the_maps_do_not_depend_on_a_vacuum_wavelength_rounded_elsewhere(small):
    """In vacuum the planes are those of the vacuum wavelengths; in air of those in air."""
    air, vacuum = (combine_exposures(small, vacuum=v) for v in (False, True))
    assert vacuum.wavelength[0] - air.wavelength[0] == pytest.approx(1.81, abs=0.02)
    assert "vacuum" in open_cube_text(small, vacuum=True)


def open_cube_text(field, **changes):
    return str(prepare(field.changed(**changes)).grid.to_header())


def test_weights_of_a_table_and_of_the_rows_count(tmp_path):
    rng = np.random.default_rng(1)
    paths, weight = [], rng.uniform(0, 3, (3, 500))
    for n in range(3):
        paths.append(
            write_rows(
                tmp_path, rng.uniform(-2, 2, 500), rng.uniform(-2, 2, 500), rng.uniform(6500, 6510, 500),
                rng.normal(5, 1, 500), weight=weight[n], number=n + 1, EXPTIME=100.0 * (n + 1),
                **{"ESO DRS MUSE WEIGHT": 1.0 + n},
            )
        )  # fmt: skip
    field = ingested(paths, tmp_path / "field", reject="none")
    Table({"DATE_OBS": field.exposures.dates, "WEIGHT": [0.5, 0.25, 2.0]}).write(tmp_path / "w.csv")
    total = {}
    for scheme in ("exptime", "header", "none", "column", str(tmp_path / "w.csv")):
        rows, recipe = stored_rows(field, weight=scheme)
        if scheme == "column":
            rows.weight = np.concatenate([_stored_weights(field, n) for n in range(3)])
        maps = maps_of(field, weight=scheme)
        assert_maps_are(maps, expected_maps(rows, recipe, np.zeros(len(rows), bool)))
        total[scheme.rpartition("/")[2]] = maps["weight"].sum(dtype=float)
    # most of the weight lies within the grid
    assert total["exptime"] == pytest.approx(500 * 6, rel=0.05)
    assert total["header"] == pytest.approx(500 * 14, rel=0.05)
    assert total["none"] == pytest.approx(1500, rel=0.05)
    assert total["column"] == pytest.approx(weight.sum(), rel=0.05)
    assert total["w.csv"] == pytest.approx(1375, rel=0.05)


def _stored_weights(field, n):
    from musedeep.store import PartReader

    store = PixelStore(field.pixels_path)
    name, facts = list(store.exposures().items())[n]
    ((part, inner),) = facts["parts"].items()
    reader = PartReader(store.path / name / part, inner, 6)
    weights = reader.read_flat("rows", 0, inner["row_count"])[5]
    reader.close()
    return weights


def test_flux_scales_and_offsets_come_from_the_list(small, tmp_path):
    """Twice the scale: twice the flux, four times the variance; an offset moves the image."""
    dates = small.exposures.dates
    offsets = {"DATE_OBS": dates, "RA_OFFSET": [0.0] * 4, "DEC_OFFSET": [0.0] * 4, "FLUX_SCALE": [2.0] * 4}
    Table(offsets).write(tmp_path / "scaled.ecsv")
    Table(offsets | {"FLUX_SCALE": [np.nan, 0.0, 1.0, 1.0]}).write(tmp_path / "plain.ecsv")
    Table(offsets | {"FLUX_SCALE": [1.0] * 4, "DEC_OFFSET": [1 / 3600] * 4}).write(tmp_path / "moved.ecsv")
    grid = prepare(small.changed(offsets=str(tmp_path / "plain.ecsv"))).grid
    plain, scaled, moved = (
        maps_of(small, grid=grid, offsets=str(tmp_path / f"{name}.ecsv"))
        for name in ("plain", "scaled", "moved")
    )
    np.testing.assert_array_equal(scaled["flux"], 2 * plain["flux"])
    np.testing.assert_array_equal(scaled["variance"], 4 * plain["variance"])
    np.testing.assert_array_equal(scaled["weight"], plain["weight"])
    # measured 1 arcsec too far north: five voxels to the south
    shifted = moved["flux"][:, :-5], plain["flux"][:, 5:]
    both = np.isfinite(shifted[0]) & np.isfinite(shifted[1])
    assert both.mean() > 0.5
    np.testing.assert_allclose(shifted[0][both], shifted[1][both], rtol=1e-3, atol=0.05)


# -------------------------------------------------------------------------------------------- lazily


@pytest.mark.parametrize("changes", [{}, {"reject": "eso"}, {"resample": "linear", "log": True}])
def test_the_lazy_cube_and_the_stored_one_have_the_same_bits(four, tmp_path, small_blocks, changes):
    field = copy_of(four, tmp_path, **changes)
    total = combine_to_store(field)
    lazy = combine_exposures(field, block=(8, 16, 16))
    assert total["computed"] == total["blocks"] >= 8 and lazy.flux.data.npartitions > total["blocks"]
    assert_same_bits(
        stored_maps(field), {name: lazy[name].compute(scheduler="threads").values for name in MAPS}
    )


def test_nothing_is_computed_before_values_are_asked_for(four, monkeypatch):
    done = count_blocks(monkeypatch)
    dataset = combine_exposures(four)
    assert dataset.flux.mean("wavelength").shape == (42, 45)
    repr(dataset), dataset.wavelength.values, dataset.attrs
    assert done == []


def test_a_slice_computes_just_its_blocks(four, four_maps, monkeypatch):
    done = count_blocks(monkeypatch)
    dataset = combine_exposures(four, block=(8, 16, 16))
    found = dataset.flux[9, 20:30, 3:5].compute(scheduler="synchronous")
    np.testing.assert_array_equal(found, four_maps["flux"][9, 20:30, 3:5])
    assert done == [((8, 16), (16, 32), (0, 16))]
    dataset.variance.sel(wavelength=slice(6500, 6509)).isel(x=0, y=0).compute(scheduler="synchronous")
    assert done[1:] == [((0, 8), (0, 16), (0, 16))]


def test_all_maps_of_a_block_are_computed_at_once(four, monkeypatch):
    done = count_blocks(monkeypatch)
    dataset = combine_exposures(four, block=(8, 16, 16)).isel(wavelength=slice(0, 8))
    dataset.compute(scheduler="synchronous")
    assert len(done) == len(set(done)) == 3 * 3


def test_the_dataset_tells_units_and_origin(four):
    dataset = combine_exposures(four, select="half:A")
    assert dataset.flux.attrs["units"] == "10**(-20)*erg/s/cm**2/Angstrom"
    assert dataset.variance.attrs["units"] == "(10**(-20)*erg/s/cm**2/Angstrom)**2"
    assert dataset.exposure_time.attrs["units"] == "s"
    assert [dataset[name].dtype.name for name in MAPS] == [
        "float32",
        "float32",
        "uint16",
        "float32",
        "uint16",
        "float32",
    ]
    assert [e["date_obs"] for e in dataset.attrs["exposures"]] == four.exposures.dates[::2]
    assert dataset.attrs["settings"]["combine"]["select"] == "half:A"
    assert VoxelGrid.from_dict(dataset.attrs["grid"]).shape == dataset.flux.shape


def test_unknown_settings_are_refused(four):
    with pytest.raises(UsageError, match="nclip"):
        combine_exposures(four, nclp=(3, 3))


# -------------------------------------------------------------------------------------- in the store


def test_what_is_done_is_not_done_again(four, tmp_path, small_blocks, monkeypatch):
    field = copy_of(four, tmp_path)
    first = combine_to_store(field)
    done = count_blocks(monkeypatch)
    again = combine_to_store(field)
    assert (again["blocks"], again["computed"]) == (first["blocks"], 0) and done == []
    assert cube_progress(field) == {
        "done": first["blocks"], "total": first["blocks"], "rows_used": first["rows_used"],
        "rows_rejected": first["rows_rejected"],
    }  # fmt: skip
    assert combine_to_store(field.changed(memory="2GB", workers=2))["computed"] == 0


def test_another_rule_is_another_cube(four, four_maps, tmp_path, small_blocks):
    field = copy_of(four, tmp_path)
    total = combine_to_store(field)
    changed = field.changed(reject="none")
    assert cube_progress(changed)["done"] == 0
    assert combine_to_store(changed)["computed"] == total["blocks"]
    assert_same_bits(stored_maps(field), maps_of(four, reject="none"))
    assert open_cube(field.cube_path).attrs["settings"]["combine"]["reject"] == "none"
    combine_to_store(field)
    assert_same_bits(stored_maps(field), four_maps)


def test_another_grid_replaces_the_cube(four, tmp_path):
    field = copy_of(four, tmp_path)
    combine_to_store(field)
    combine_to_store(field.changed(dx=0.4))
    maps = stored_maps(field)
    assert maps["flux"].shape[2] < 30
    assert_same_bits(maps, maps_of(four, dx=0.4))


def test_rows_are_counted(four, four_maps, tmp_path):
    field = copy_of(four, tmp_path)
    total = combine_to_store(field)
    rows, _ = stored_rows(field)
    assert total["rows_rejected"] == four_maps["rejected_count"].sum() > 50
    assert total["rows_used"] + total["rows_rejected"] == len(rows)
    assert total["rows_read"] == len(rows)
    assert total["bytes_read"] > 10 * len(rows) and total["peak_bytes"] > 1e8


def test_a_cube_without_a_filled_voxel_is_told(four, tmp_path):
    masks = [{"wavelength": [6000, 7000], "note": "all"}]
    with pytest.raises(InputError, match="no voxel of the cube received a row. Check .*the masks"):
        combine_to_store(copy_of(four, tmp_path, masks=masks))


def test_a_crash_between_a_block_and_its_record_leaves_no_stale_record(
    four, four_maps, tmp_path, small_blocks, monkeypatch
):
    """The new values of a block are there, the ledger still names the old ones: going back must notice."""
    field = copy_of(four, tmp_path)
    combine_to_store(field)

    def crash(self, record):
        if record.get("key"):
            raise InputError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", crash)
        with pytest.raises(InputError, match="crash"):
            combine_to_store(field.changed(reject="none"))
    combine_to_store(field)
    assert_same_bits(stored_maps(field), four_maps)


def test_a_lost_shard_is_made_again(four, four_maps, tmp_path, small_blocks):
    field = copy_of(four, tmp_path)
    combine_to_store(field)
    shards = sorted(path for path in (field.cube_path / "variance" / "c").rglob("*") if path.is_file())
    shards[3].rename(shards[3].with_suffix(".0123.partial"))  # as zarr calls what it has not finished
    assert cube_progress(field)["done"] == len(shards) - 1
    assert combine_to_store(field)["computed"] == 1
    assert_same_bits(stored_maps(field), four_maps)


def test_files_that_a_killed_run_was_writing_go(four, four_maps, tmp_path):
    """zarr writes beside the file and renames; what a kill leaves is taken for a member of the store."""
    field = copy_of(four, tmp_path)
    combine_to_store(field)
    shard = next(file for file in (field.cube_path / "flux" / "c").glob("*/*/*"))
    left = [field.cube_path / "zarr.0123abcd.partial", shard.with_suffix(".0123abcd.partial")]
    for file in left:
        file.write_bytes(b"{")
    combine_to_store(field)
    assert not any(file.exists() for file in left)
    assert_same_bits(stored_maps(field), four_maps)


def test_the_cube_says_whether_it_is_finished(four, tmp_path, small_blocks, monkeypatch):
    field = copy_of(four, tmp_path)
    work = combine.combine_block
    calls = []

    def crash(*args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise InputError("crash")
        return work(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(combine, "combine_block", crash)
        with pytest.raises(InputError, match="crash"):
            combine_to_store(field)
    assert open_cube(field.cube_path).attrs["finished"] is False
    progress = cube_progress(field)
    assert 0 < progress["done"] < progress["total"]
    total = combine_to_store(field)
    assert total["computed"] == total["blocks"] - progress["done"]
    assert open_cube(field.cube_path).attrs["finished"] is True


# -------------------------------------------------------------------------- exposures come and go


@pytest.fixture(scope="module")
def row_of_fields(tmp_path_factory):
    """Four pointings side by side, 5 arcsec each, and a grid over all."""
    folder = tmp_path_factory.mktemp("row")
    paths = simulate_exposures(
        folder, exposures=4, seed=8, field_arcsec=5.0, wavelength=(6500, 6512), exptime=(600, 900, 600, 900),
        pointings=((0, 0), (8, 0), (16, 0), (24, 0)), dither_arcsec=0.0, fov_images=False,
    )  # fmt: skip
    field = ingested(paths, folder / "field")
    return field, prepare(field).grid


def save_grid(grid, path):
    from astropy.io import fits

    fits.HDUList([fits.PrimaryHDU(np.zeros(grid.shape, np.uint8), grid.to_header())]).writeto(path)
    return str(path)


def test_a_new_exposure_is_ingested_alone_and_only_its_blocks_are_redone(
    row_of_fields, tmp_path, small_blocks, monkeypatch
):
    whole, grid = row_of_fields
    grid = save_grid(grid, tmp_path / "grid.fits")
    paths = files_of(whole)
    three = make_field([paths[0], paths[1], paths[3]], tmp_path / "field", grid=grid)
    ingest_exposures(three)
    first = combine_to_store(three)
    written = []
    write = PixelStore.write_part
    monkeypatch.setattr(PixelStore, "write_part", lambda self, *a: (written.append(a[0]), write(self, *a))[1])
    done = count_blocks(monkeypatch)
    field = three.add_exposures([paths[2]])
    with pytest.raises(InputError, match="run the ingest stage first"):
        combine_to_store(field)
    ingest_exposures(field)
    assert written == [field.exposures[2].name]
    total = combine_to_store(field)
    recipe = prepare(field)
    touched = [bounds for bounds in plan.blocks_of(recipe.grid, (16, 16, 32)) if 2 in recipe.touching(bounds)]
    assert 0 < len(touched) < total["blocks"] == first["blocks"]
    assert sorted(done) == sorted(touched)
    scratch = ingested(paths, tmp_path / "scratch", grid=grid)
    combine_to_store(scratch)
    assert_same_bits(stored_maps(field), stored_maps(scratch))
    # and away again
    done.clear()
    combine_to_store(field.without(field.exposures.dates[2]))
    assert sorted(done) == sorted(touched)
    assert_same_bits(stored_maps(field), maps_of(three))


def test_a_changed_offset_redoes_only_what_it_touches(row_of_fields, tmp_path, small_blocks, monkeypatch):
    whole, grid = row_of_fields
    field = copy_of(whole, tmp_path, grid=save_grid(grid, tmp_path / "grid.fits"))
    combine_to_store(field)
    dates = field.exposures.dates
    Table({"DATE_OBS": dates, "RA_OFFSET": [0, 0, 0, 1e-5], "DEC_OFFSET": [0.0] * 4}).write(
        tmp_path / "o.ecsv"
    )
    moved = field.changed(offsets=str(tmp_path / "o.ecsv"))
    done = count_blocks(monkeypatch)
    total = combine_to_store(moved)
    assert 0 < total["computed"] < total["blocks"]
    recipe = prepare(moved)
    assert sorted(done) == sorted(
        b for b in plan.blocks_of(recipe.grid, (16, 16, 32)) if 3 in recipe.touching(b)
    )
    assert_same_bits(stored_maps(field), maps_of(moved))


def test_the_heaviest_blocks_begin_first(row_of_fields, tmp_path, small_blocks, monkeypatch):
    """So that none of them is left alone at the end."""
    whole, grid = row_of_fields
    field = copy_of(whole, tmp_path, grid=save_grid(grid, tmp_path / "grid.fits"))
    done = count_blocks(monkeypatch)
    combine_to_store(field)
    recipe = prepare(field)
    exposures = [len(recipe.touching(bounds)) for bounds in done]
    assert exposures == sorted(exposures, reverse=True) and exposures[0] > exposures[-1]
    assert sorted(done) == plan.blocks_of(recipe.grid, (16, 16, 32))


# --------------------------------------------------------------------------- which rows were rejected


def test_rejected_rows_are_named_by_their_detector_pixels(small, monkeypatch):
    rows, recipe = stored_rows(small)
    rejected = reference.guarded_rejected(rows, recipe.grid.shape, margin=9)
    found = rejected_rows(small)
    assert list(found) == small.exposures.dates
    assert sum(map(len, found.values())) == rejected.sum() > 5
    for n, exposure in enumerate(small.exposures):
        table = read_table(exposure.tables[0].path)
        values = table["data"][np.isin(table["origin"], found[exposure.date_obs])]
        mine = rows.data[rejected & (rows.exposure == n)] / np.float32(recipe.exposures[n].scale)
        np.testing.assert_allclose(np.sort(values), np.sort(mine), rtol=3e-7)
    monkeypatch.setattr(plan, "LARGEST_BLOCK", (16, 16, 16))
    monkeypatch.setattr(plan, "SMALLEST_BLOCK", (16, 16, 16))
    again = rejected_rows(small)
    for date, origin in found.items():
        np.testing.assert_array_equal(again[date], origin)


def test_nothing_rejected_is_an_empty_list(small):
    found = rejected_rows(small, reject="none")
    assert all(len(origin) == 0 and origin.dtype == np.uint32 for origin in found.values())
