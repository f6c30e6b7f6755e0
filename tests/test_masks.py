"""Masks take out the rows that they name, and no others."""

import shutil

import numpy as np
import pytest
import reference
from fields import change_table, copy_of, files_of, ingested, maps_of, read_table, stored_rows, write_rows

from musedeep.combine import combine_to_store
from musedeep.errors import UsageError
from musedeep.muse import DQ_BITS, origin_ifu, origin_slice, pack_origin
from musedeep.recipe import prepare
from musedeep.store import PartReader, open_cube

COUNT = 400
BITS = {"cosmic_ray": 0x20, "hot_pixel": 0x100, "dead_pixel": 0x2000}


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Two exposures of scattered rows, of many IFUs, slices and flags."""
    folder = tmp_path_factory.mktemp("masks")
    paths = []
    for number in (1, 2):
        rng = np.random.default_rng(number)
        flags = rng.choice([0, 0, 0, *BITS.values(), 0x120], COUNT)
        ifu, slices = rng.integers(1, 25, COUNT), rng.integers(1, 49, COUNT)
        origin = pack_origin(rng.integers(1, 99, COUNT), rng.integers(1, 4112, COUNT), ifu, slices, 0)
        paths.append(
            write_rows(
                folder, rng.uniform(-4, 4, COUNT), rng.uniform(-4, 4, COUNT), rng.uniform(6500, 6530, COUNT),
                rng.normal(10, 3, COUNT), dq=flags, origin=origin, number=number,
            )
        )  # fmt: skip
    return ingested(paths, folder / "field", reject="none")


def rows_of_files(field):
    """Columns of all rows, and the number of their exposure."""
    tables = [read_table(path) for path in files_of(field)]
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return columns, np.repeat([0, 1], COUNT)


def weight_of(field, **changes):
    """Sum of the weights over the cube: the number of rows, since every drop lies inside."""
    return float(maps_of(field, pixfrac=0.3, **changes)["weight"].sum(dtype=float))


def expected(field, chosen):
    columns, exposure = rows_of_files(field)
    return np.count_nonzero(chosen(columns, exposure))


def ifu(columns):
    return origin_ifu(columns["origin"])


def number(columns):
    return origin_slice(columns["origin"])


def between(columns, low, high):
    return (columns["lambda"] >= low) & (columns["lambda"] <= high)


MASKS = {
    "ifu": ([{"ifu": [3, 17]}], lambda c, e: np.isin(ifu(c), [3, 17])),
    "slice": ([{"slice": [1, 48, 20]}], lambda c, e: np.isin(number(c), [1, 48, 20])),
    "ifu and slice": (
        [{"ifu": list(range(1, 13)), "slice": list(range(10, 30))}],
        lambda c, e: (ifu(c) < 13) & (number(c) >= 10) & (number(c) < 30),
    ),
    "wavelength": ([{"wavelength": [6505, 6510]}], lambda c, e: between(c, 6505, 6510)),
    "exposure": ([{"exposures": ["2014-08-10T01:02:00.000"]}], lambda c, e: e == 1),
    "exposure and ifu": (
        [{"exposures": ["2014-08-10T01:01:00.000"], "ifu": [5, 6, 7]}],
        lambda c, e: (e == 0) & np.isin(ifu(c), [5, 6, 7]),
    ),
    "two masks": (
        [{"ifu": [1, 2]}, {"wavelength": [6520, 6530], "exposures": ["2014-08-10T01:01:00.000"]}],
        lambda c, e: np.isin(ifu(c), [1, 2]) | (between(c, 6520, 6530) & (e == 0)),
    ),
    "nothing": ([{"wavelength": [7000, 7100]}], lambda c, e: np.zeros(len(e), bool)),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_takes_out_the_rows_it_names(field, name):
    masks, inside = MASKS[name]
    left = expected(field, lambda c, e: (c["dq"] == 0) & ~inside(c, e))
    assert weight_of(field, masks=masks) == pytest.approx(left, rel=1e-5)


REGIONS = [
    ('icrs; circle(53.1, -27.8, 2.5")', lambda x, y: np.hypot(x, y) < 2.5),
    ('fk5; circle(53.1, -27.8, 2.5")', lambda x, y: np.hypot(x, y) < 2.5),
    ('icrs; box(53.1, -27.8, 6", 2", 0)', lambda x, y: (np.abs(x) < 3) & (np.abs(y) < 1)),
    ('icrs; ellipse(53.1, -27.8, 3", 1.5", 0)', lambda x, y: (x / 3) ** 2 + (y / 1.5) ** 2 < 1),
    (
        'icrs; circle(53.1, -27.8, 1")\nicrs; circle(53.1, -27.7995, 1")',
        lambda x, y: (np.hypot(x, y) < 1) | (np.hypot(x, y - 1.8) < 1),
    ),
]


@pytest.mark.parametrize("text, inside", REGIONS)
def test_a_region_takes_out_the_rows_in_it(field, text, inside):
    columns, _ = rows_of_files(field)
    distance, angle = np.degrees(-columns["ypos"].astype(float)) * 3600, columns["xpos"].astype(float)
    x, y = distance * np.sin(angle), -distance * np.cos(angle)
    left = np.count_nonzero((columns["dq"] == 0) & ~inside(x, y))
    assert left < np.count_nonzero(columns["dq"] == 0) - 10
    assert weight_of(field, masks=[{"region": text}]) == pytest.approx(left, abs=0.01)


def test_a_region_and_a_range_take_out_what_is_in_both(field):
    columns, _ = rows_of_files(field)
    inside = (np.degrees(-columns["ypos"].astype(float)) * 3600 < 2.5) & (columns["lambda"] <= 6515)
    left = np.count_nonzero((columns["dq"] == 0) & ~inside)
    masks = [{"region": 'icrs; circle(53.1, -27.8, 2.5")', "wavelength": [6500, 6515]}]
    assert weight_of(field, masks=masks) == pytest.approx(left, abs=0.01)


# ---------------------------------------------------------------------- flags


def test_rows_with_a_flag_do_not_count(field):
    assert weight_of(field) == pytest.approx(expected(field, lambda c, e: c["dq"] == 0), rel=1e-5)


@pytest.mark.parametrize(
    "names", [["hot_pixel"], ["cosmic_ray", "hot_pixel"], ["cosmic_ray", "hot_pixel", "dead_pixel"]]
)
def test_kept_flags_do_not_make_a_row_bad(field, names):
    kept = sum(BITS[name] for name in names)
    wanted = expected(field, lambda c, e: (c["dq"] & ~np.uint32(kept)) == 0)
    assert weight_of(field, keep_dq=names) == pytest.approx(wanted, rel=1e-5)


def test_a_mask_of_flags_takes_them_out_again(field):
    wanted = expected(field, lambda c, e: (c["dq"] == 0) | ((c["dq"] == 0x100) & (e == 1)))
    masks = [{"dq": ["hot_pixel"], "exposures": ["2014-08-10T01:01:00.000"]}]
    assert weight_of(field, keep_dq=["hot_pixel"], masks=masks) == pytest.approx(wanted, rel=1e-5)
    assert weight_of(field, masks=masks) == weight_of(field)


def test_masked_rows_are_in_no_sample(small):
    """A mask works before the rejection: the same as if the rows were not there."""
    masks = [{"slice": list(range(10, 25))}, {"wavelength": [6505, 6507]}]
    rows, recipe = stored_rows(small)
    slices = []
    for exposure in recipe.exposures:
        name, facts = next(iter(exposure.parts.items()))
        reader = PartReader(recipe.store / exposure.name / name, facts, exposure.columns)
        good = reader.read_flat("dq", 0, facts["row_count"]) == 0
        slices.append(reader.read_flat("slice", 0, facts["row_count"])[good])
        reader.close()
    number = (np.concatenate(slices).astype(int) - 1) % 48 + 1
    left = ~((number >= 10) & (number < 25)) & ~((rows.wavelength >= 6505) & (rows.wavelength <= 6507))
    assert 0.3 < left.mean() < 0.97
    rejected = reference.guarded_rejected(rows, recipe.grid.shape, left, margin=9)
    flux, _ = reference.resample(
        rows, recipe.grid, left & ~rejected, step_deg=_pixel(recipe), geometry="plane"
    )
    maps = maps_of(small, masks=masks)
    np.testing.assert_array_equal(np.isnan(maps["flux"]), np.isnan(flux))
    np.testing.assert_allclose(maps["flux"], flux, rtol=1e-5, atol=1e-3)
    assert maps["rejected_count"].sum() == rejected.sum()


def _pixel(recipe):
    """Sides of the instrument's pixels, degrees."""
    step = np.array(recipe.grid.step_arcsec) / 3600
    return tuple(np.array(recipe.method.drop[:2]) / 0.6 * step)


def test_flags_that_the_peer_uses_for_its_statistics_are_not_spread(small, tmp_path):
    """Rows flagged as cosmic rays alone are in the sample of the peer's rule but in no voxel."""
    paths = [shutil.copy2(path, tmp_path) for path in files_of(small)]
    for n, path in enumerate(paths):
        hit = np.random.default_rng(n).random(len(read_table(path)["data"])) < 0.2
        change_table(path, {"dq": lambda v, h=hit: v | 0x20 * h, "data": lambda v, h=hit: v + 100 * h})
    field = ingested(paths, tmp_path / "field", reject="eso", crsigma=3)
    rows, recipe = stored_rows(field, flagged=True)
    rule = {"crsigma": 3, "direction": ("none", "x", "y")[recipe.method.direction]}
    rejected = reference.eso_rejected(rows, recipe.grid.shape, **rule) & (rows.dq == 0)
    plain = reference.eso_rejected(rows.select(rows.dq == 0), recipe.grid.shape, **rule)
    assert 0 < rejected.sum() < plain.sum() - 10  # the flagged rows make a difference
    maps = maps_of(field)
    left = (rows.dq == 0) & ~rejected
    flux, _ = reference.resample(rows, recipe.grid, left, step_deg=_pixel(recipe))
    np.testing.assert_array_equal(np.isnan(maps["flux"]), np.isnan(flux))
    np.testing.assert_allclose(maps["flux"], flux, rtol=1e-5, atol=1e-3)
    assert maps["rejected_count"].sum() == rejected.sum()


# ---------------------------------------------------------------------- refusals and notes


def test_masks_are_written_down_with_the_cube(field, tmp_path):
    copied = copy_of(field, tmp_path, masks=[{"ifu": [3], "note": "shutter"}])
    combine_to_store(copied)
    assert open_cube(copied.cube_path).attrs["settings"]["mask"] == [{"ifu": [3], "note": "shutter"}]


@pytest.mark.parametrize(
    "mask, text",
    [
        ({}, "names no rows"),
        ({"ifu": [25]}, "25"),
        ({"slice": [0]}, "0"),
        ({"wavelength": [6510, 6500]}, "low first"),
        ({"dq": ["hot"]}, "hot"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_impossible_masks_are_refused(field, mask, text):
    with pytest.raises(UsageError, match=text):
        field.changed(masks=[mask])


@pytest.mark.parametrize("text", ["nonsense", "icrs; circle(53.1, -27.8)", "circle(10, 10, 5)", ""])
def test_a_region_that_cannot_be_read_is_told(field, text):
    with pytest.raises(UsageError, match="region|names no rows"):
        prepare(field.changed(masks=[{"region": text}]))


def test_a_mask_for_an_exposure_that_is_not_there_is_told(field):
    with pytest.raises(UsageError, match="mask: exposures = .2020-01-01.* is none of this field"):
        prepare(field.changed(masks=[{"exposures": ["2020-01-01T00:00:00.000"], "ifu": [1]}]))


def test_all_flags_have_names():
    assert sum(DQ_BITS.values()) == 0xEE007363
