"""What must be true of any resampling: nothing is lost, and twice the light is twice the flux."""

import math
import shutil

import numpy as np
import pytest
from astropy.table import Table
from fields import (
    assert_same_bits,
    change_table,
    copy_of,
    files_of,
    ingested,
    make_field,
    maps_of,
    read_table,
    write_rows,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from musedeep.grid import VoxelGrid
from musedeep.ingest import ingest_exposures

STEP = 0.2 / 3600
GRID = VoxelGrid((15, 30, 32), (53.1, -27.8), (16.0, 15.0), ((-STEP, 0), (0, STEP)), 6500.0, 1.25)
TURNED = VoxelGrid(
    (15, 30, 32), (53.1, -27.8), (16.0, 15.0),
    ((-STEP * math.cos(0.5), STEP * math.sin(0.5)), (STEP * math.sin(0.5), STEP * math.cos(0.5))),
    6500.0, 1.25,
)  # fmt: skip


def scattered(folder, count, exposures=2, seed=0, **columns):
    """Rows well inside the grid, with values of both signs and different variances."""
    paths = []
    for n in range(exposures):
        rng = np.random.default_rng((seed, n))
        values = {"data": rng.normal(3, 10, count), "stat": rng.uniform(0.5, 2, count)} | columns
        paths.append(
            write_rows(
                folder, rng.uniform(-1.8, 1.8, count), rng.uniform(-1.8, 1.8, count),
                rng.uniform(6504, 6513, count), values["data"], values["stat"], number=n + 1,
                EXPTIME=100.0 * (n + 1),
            )
        )  # fmt: skip
    return paths


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws")
    return ingested(scattered(folder, 3000), folder / "field", reject="none")


def total_flux(field):
    """Sum of weight times value, and of weights, over all rows of the files."""
    weights = [1.0, 2.0]
    data = [read_table(path)["data"].astype(float) for path in files_of(field)]
    return sum(w * d.sum() for w, d in zip(weights, data, strict=True)), sum(
        w * d.size for w, d in zip(weights, data, strict=True)
    )


@given(
    pixfrac=st.tuples(*[st.floats(0.01, 2.5)] * 3),
    grid=st.sampled_from([GRID, TURNED]),
    dlambda=st.sampled_from([1.25, 0.8]),
)
@settings(max_examples=12, deadline=None)
def test_drizzle_conserves_flux_and_weight(rows, pixfrac, grid, dlambda):
    """Whatever the size of the drops: each row brings its weight and its light into the cube, once."""
    grid = VoxelGrid(
        (int(19 / dlambda), *grid.shape[1:]), grid.crval, grid.crpix, grid.cd, 6500.0, dlambda, log=False
    )
    maps = maps_of(rows, grid=grid, pixfrac=pixfrac)
    flux, weight = total_flux(rows)
    assert maps["weight"].sum(dtype=float) == pytest.approx(weight, rel=2e-6)
    assert np.nansum(maps["weight"] * maps["flux"].astype(float)) == pytest.approx(flux, rel=2e-5)


def test_a_filled_grid_of_equal_values_stays_equal(tmp_path):
    x, y, z = (
        axis.ravel()
        for axis in np.meshgrid(
            np.arange(-1.5, 1.5, 0.13), np.arange(-1.5, 1.5, 0.17), np.arange(6503, 6512, 0.7)
        )
    )
    field = ingested([write_rows(tmp_path, x, y, z, 7.5)], tmp_path / "field")
    for changes in (
        {},
        {"pixfrac": 0.1},
        {"pixfrac": (1.9, 1.0, 1.4)},
        {"resample": "linear"},
        {"resample": "renka"},
    ):
        maps = maps_of(field, grid=GRID, **changes)
        filled = np.isfinite(maps["flux"])
        assert filled.sum() > 15 * 15 * 6 * 0.9
        np.testing.assert_allclose(maps["flux"][filled], 7.5, rtol=1e-6)
        assert (maps["variance"][filled] <= 1.0000001).all() and maps["rejected_count"].sum() == 0


def test_tiny_drops_are_nearest_neighbours_where_rows_are_alone(tmp_path):
    k, j, i = (axis.ravel() for axis in np.mgrid[2:13:3, 3:27:2, 3:29:2])
    rng = np.random.default_rng(2)
    offset = rng.uniform(-0.3, 0.3, (3, k.size))
    x, y = -(i + offset[0] - 15) * 0.2, (j + offset[1] - 14) * 0.2
    path = write_rows(
        tmp_path, x, y, 6500 + 1.25 * (k + offset[2]), rng.normal(size=k.size), rng.uniform(1, 2, k.size)
    )
    field = ingested([path], tmp_path / "field", reject="none")
    drizzled, nearest = (maps_of(field, grid=GRID, **c) for c in ({"pixfrac": 1e-3}, {"resample": "nearest"}))
    assert (nearest["exposure_count"] == 1).sum() == k.size
    for name in ("flux", "variance", "exposure_count", "exposure_time"):
        np.testing.assert_array_equal(drizzled[name], nearest[name], name)


# ------------------------------------------------------------------------------------------- linearity


def scaled_copy(field, folder, factor):
    """The same exposures with values times a factor and variances times its square."""
    folder.mkdir()
    paths = [shutil.copy2(path, folder) for path in files_of(field)]
    for path in paths:
        change_table(
            path, {"data": lambda v: v * np.float32(factor), "stat": lambda v: v * np.float32(factor**2)}
        )
    copied = make_field(paths, folder / "field", **{"offsets": field.settings.combine.offsets})
    ingest_exposures(copied)
    return copied


@pytest.mark.parametrize(
    "changes", [{}, {"reject": "none"}, {"reject": "eso"}, {"sample": "own", "nmax": 2, "dx": 0.6}]
)
def test_a_power_of_two_scales_exactly_rejection_included(four, tmp_path, changes):
    """Fluxes by the factor, variances by its square, everything else not at all; to the bit."""
    plain, scaled = maps_of(four, **changes), maps_of(scaled_copy(four, tmp_path / "x", 8.0), **changes)
    assert_same_bits(scaled, plain | {"flux": plain["flux"] * 8, "variance": plain["variance"] * 64})


def test_any_factor_scales(rows, tmp_path):
    plain = maps_of(rows, grid=GRID)
    scaled = maps_of(scaled_copy(rows, tmp_path / "x", -3.3), grid=GRID, reject="none")
    np.testing.assert_allclose(scaled["flux"], plain["flux"] * np.float32(-3.3), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(scaled["variance"], plain["variance"] * np.float32(3.3**2), rtol=1e-5)


def test_the_cube_of_a_sum_is_the_sum_of_the_cubes(tmp_path):
    parts = [np.random.default_rng(n).normal(0, 10, 2000) for n in (1, 2)]
    maps = []
    for name, data in (("a", parts[0]), ("b", parts[1]), ("both", parts[0] + parts[1])):
        paths = scattered(tmp_path / name, 2000, data=data)
        maps.append(maps_of(ingested(paths, tmp_path / name / "field", reject="none"), grid=GRID)["flux"])
    np.testing.assert_allclose(maps[2], maps[0] + maps[1], rtol=1e-5, atol=1e-5)


def test_scales_of_an_offset_list_do_what_scaled_tables_do(four, tmp_path):
    dates = four.exposures.dates
    Table(
        {"DATE_OBS": dates, "RA_OFFSET": [0.0] * 4, "DEC_OFFSET": [0.0] * 4, "FLUX_SCALE": [4.0] * 4}
    ).write(tmp_path / "o.ecsv")
    by_list = maps_of(copy_of(four, tmp_path / "a", offsets=str(tmp_path / "o.ecsv")))
    scaled = scaled_copy(four, tmp_path / "b", 4.0)
    Table({"DATE_OBS": dates, "RA_OFFSET": [0.0] * 4, "DEC_OFFSET": [0.0] * 4}).write(tmp_path / "p.ecsv")
    assert_same_bits(by_list, maps_of(scaled, offsets=str(tmp_path / "p.ecsv")))
