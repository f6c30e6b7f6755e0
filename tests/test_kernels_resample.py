"""Rows are spread over voxels with the weights that the slow reference gives them."""

import numpy as np
import pytest
import reference

from musedeep.grid import VoxelGrid
from musedeep.kernels import resample

GRID = VoxelGrid((9, 11, 12), (53.0, -27.8), (6.0, 6.0), ((-6e-5, 0.0), (0.0, 5e-5)), 6500.0, 1.25)
LOG = VoxelGrid((9, 11, 12), (53.0, -27.8), (6.0, 6.0), ((-6e-5, 0.0), (0.0, 5e-5)), 6500.0, 0.9, log=True)
STEP_DEG = (5.5e-5, 5.7e-5)
RADIAL = ("linear", "quadratic", "renka", "lanczos")
BITS = 5


def make_rows(grid=GRID, count=700, seed=0, exposures=5, beyond=0.0):
    """Rows anywhere in the grid, or a little outside of it."""
    rng = np.random.default_rng(seed)
    nz, ny, nx = grid.shape
    px, py = (
        rng.uniform(-0.5 - beyond, nx - 0.5 + beyond, count),
        rng.uniform(-0.5 - beyond, ny - 0.5 + beyond, count),
    )
    wavelength = grid.wavelength_at(rng.uniform(-0.49 - beyond, nz - 0.51 + beyond, count)).astype(np.float32)
    return reference.Rows(
        px, py, grid.plane_of(wavelength), wavelength, rng.normal(10, 5, count).astype(np.float32),
        rng.uniform(1, 3, count).astype(np.float32), np.zeros(count, np.uint32),
        rng.integers(0, exposures, count), np.ones(count),
    )  # fmt: skip


class Box:
    """Rows located in a grid with a halo around it, and the sums of the voxels of a tile."""

    def __init__(self, rows, grid=GRID, halo=(3, 4), clamp=False, tile=None, exposures=5):
        tile = tuple((0, n) for n in grid.shape) if tile is None else tile
        cells = reference.cells_of(rows, grid.shape, clamp)
        first = np.array([t[0] for t in tile]) - np.array([halo[0], halo[1], halo[1]])
        shape = np.array([b - a for a, b in tile])
        inside = cells - first
        kept = ((inside >= 0) & (inside < shape + 2 * np.array([halo[0], halo[1], halo[1]]))).all(axis=1)
        inside, self.kept = inside[kept], np.flatnonzero(kept)
        rows = rows.select(kept)
        planes = np.arange(first[0], first[0] + shape[0] + 2 * halo[0])
        self.centres = grid.wavelength_at(planes)
        self.widths = grid.wavelength_at(planes + 0.5) - grid.wavelength_at(planes - 0.5)
        self.cell, self.plane = (
            ((inside[:, 1] << BITS) | inside[:, 2]).astype(np.int32),
            inside[:, 0].astype(np.int16),
        )
        offsets = [
            rows.px - cells[kept, 2],
            rows.py - cells[kept, 1],
            rows.wavelength - self.centres[self.plane],
        ]
        self.payload = np.stack([*offsets, rows.data, rows.variance, rows.weight]).astype(np.float32)
        self.owner, self.state = rows.exposure.astype(np.uint16), (rows.dq != 0).astype(np.uint8)
        self.halo = np.array(halo)
        self.sums = np.zeros((*shape, 3))
        self.seen = np.zeros((-(-exposures // 64), *shape), np.uint64)
        self.weights, self.seconds = np.ones(exposures), np.full(exposures, 100.0)

    def common(self, columns=5):
        return (
            self.cell,
            self.plane,
            self.payload[:columns],
            self.owner,
            self.state,
            np.array([[0, self.cell.size // 3], [self.cell.size // 3, self.cell.size]]),
            BITS,
            self.halo,
        )

    def drizzle(self, grid, pixfrac, reach=1, *, wide=False, columns=5):
        step = np.array(grid.step_arcsec) / 3600
        drop = np.array([*(np.array(pixfrac[:2]) * STEP_DEG / step), pixfrac[2] * 1.25])
        rest = drop, self.centres, self.widths, self.weights, self.sums, self.seen
        if wide:
            resample.spread_wide_drizzle(*self.common(columns), reach, *rest)
        else:
            resample.spread_drizzle(*self.common(columns), *rest)
        return self.finish()

    def radial(self, grid, method, reach=1, rc=1.25, columns=5):
        step = np.array(grid.step_arcsec) / 3600
        radius = rc * np.sqrt(((step / STEP_DEG) ** 2).sum() + (grid.wavelength_step / 1.25) ** 2)
        resample.spread_radial(
            *self.common(columns), reach, RADIAL.index(method), radius, np.array([*(STEP_DEG / step), 1.25]),
            self.centres, self.weights, self.sums, self.seen,
        )  # fmt: skip
        return self.finish()

    def nearest(self, grid):
        step = np.array(grid.step_arcsec) / 3600
        far = np.full(self.sums.shape[:3], np.inf)
        resample.spread_nearest(
            *self.common(), np.array([*(STEP_DEG / step), 1.25]), self.weights, self.sums, self.seen, far
        )
        return self.finish()

    def finish(self):
        shape = self.sums.shape[:3]
        maps = [np.empty(shape, dtype) for dtype in ("f4", "f4", "u2", "f4", "f4")]
        resample.finish(self.sums, self.seen, self.seconds, *maps)
        return dict(zip(("flux", "variance", "count", "time", "weight"), maps, strict=True))


def assert_like(maps, wanted, rtol=2e-6):
    # positions pass through float32, so a weight that is nearly nothing may vanish
    flux, variance = wanted
    np.testing.assert_array_equal(np.isnan(maps["flux"]), np.isnan(flux))
    np.testing.assert_allclose(maps["flux"], flux, rtol=rtol, atol=2e-5)
    np.testing.assert_allclose(maps["variance"], variance, rtol=rtol)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("grid", [GRID, LOG], ids=["linear", "log"])
@pytest.mark.parametrize("pixfrac", [(0.6, 0.6, 0.6), (0.9, 0.3, 0.5), (0.01, 0.01, 0.01), (0.8, 0.8, 0.1)])
def test_small_drops_fall_on_two_voxels_an_axis(pixfrac, grid, clamp):
    rows = make_rows(grid, beyond=3.0 if clamp else 0.0)
    maps = Box(rows, grid, clamp=clamp).drizzle(grid, pixfrac)
    wanted = reference.resample(
        rows, grid, np.ones(len(rows), bool), step_deg=STEP_DEG, pixfrac=pixfrac, clamp=clamp
    )
    assert_like(maps, wanted, 2e-4)


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("grid", [GRID, LOG], ids=["linear", "log"])
@pytest.mark.parametrize(
    "pixfrac, reach", [((0.6, 0.6, 0.6), 1), ((1.0, 2.0, 1.0), 2), ((3.0, 1.0, 3.9), 3), ((3, 3, 3), 1)]
)
def test_wide_drops_fall_on_as_many_as_they_reach(pixfrac, reach, grid, clamp):
    rows = make_rows(grid, beyond=3.0 if clamp else 0.0)
    maps = Box(rows, grid, clamp=clamp).drizzle(grid, pixfrac, reach, wide=True)
    wanted = reference.resample(
        rows, grid, np.ones(len(rows), bool), step_deg=STEP_DEG, pixfrac=pixfrac, ld=reach, clamp=clamp
    )
    assert_like(maps, wanted, 2e-4)


@pytest.mark.parametrize("clamp", [False, True])
def test_both_drizzles_give_the_same_bits(clamp):
    rows = make_rows(beyond=2.0 if clamp else 0.0)
    small, wide = (Box(rows, clamp=clamp).drizzle(GRID, (0.7, 0.5, 0.6), wide=wide) for wide in (False, True))
    for name, values in small.items():
        np.testing.assert_array_equal(values, wide[name], name)


@pytest.mark.parametrize("wide", [False, True])
def test_a_tile_gets_the_bits_of_the_whole(wide):
    rows = make_rows()
    whole = Box(rows).drizzle(GRID, (0.6, 0.6, 0.6), wide=wide)
    for tile in (((2, 5), (3, 9), (0, 7)), ((0, 1), (0, 1), (0, 1)), ((4, 9), (10, 11), (5, 12))):
        part = Box(rows, tile=tile).drizzle(GRID, (0.6, 0.6, 0.6), wide=wide)
        for name, values in part.items():
            np.testing.assert_array_equal(values, whole[name][tuple(slice(*t) for t in tile)], name)


@pytest.mark.parametrize("wide", [False, True])
def test_all_of_a_drop_arrives(wide):
    """Weights of a row that lies inside sum to its own; variances by the squares."""
    rows = make_rows(count=1)
    for position in np.random.default_rng(1).uniform(-0.499, 0.499, (50, 3)):
        rows.px[:], rows.py[:], rows.pz[:] = 5 + position[0], 5 + position[1], 4 + position[2]
        rows.wavelength = GRID.wavelength_at(rows.pz).astype(np.float32)
        box = Box(rows)
        box.weights[:] = 3.0
        box.drizzle(GRID, (0.6, 0.6, 0.6), wide=wide)
        np.testing.assert_allclose(box.sums[..., 0].sum(), 3.0, rtol=1e-12)
        np.testing.assert_allclose(box.sums[..., 1].sum(), 3.0 * float(rows.data[0]), rtol=1e-12)
        np.testing.assert_allclose(box.sums[..., 2], box.sums[..., 0] ** 2 * rows.variance[0], rtol=1e-12)
        np.testing.assert_array_equal(box.seen[0] != 0, box.sums[..., 0] != 0)


@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize("grid", [GRID, LOG], ids=["linear", "log"])
@pytest.mark.parametrize("method", RADIAL)
def test_weights_by_distance(method, grid, reach):
    rows = make_rows(grid)
    box = Box(rows, grid)
    # the reference has to start from the same float32 positions
    cells = reference.cells_of(rows, grid.shape)
    rows.px, rows.py = cells[:, 2] + box.payload[0].astype(float), cells[:, 1] + box.payload[1].astype(float)
    rows.wavelength = box.payload[2] + grid.wavelength_at(cells[:, 0])
    maps = box.radial(grid, method, reach, rc=2.5)
    everything = np.ones(len(rows), bool)
    wanted = reference.resample(rows, grid, everything, method, step_deg=STEP_DEG, ld=reach, rc=2.5)
    assert_like(maps, wanted)


@pytest.mark.parametrize("method", ["linear", "quadratic", "renka"])
def test_a_row_at_the_centre_of_a_voxel_outweighs_all_others(method):
    rows = make_rows(count=20)
    rows.px[:], rows.py[:], rows.pz[:] = 5.2, 5.1, 4.0
    rows.px[3] = rows.py[3] = 5.0
    rows.wavelength[:] = GRID.wavelength_at(4)
    maps = Box(rows).radial(GRID, method)
    assert maps["flux"][4, 5, 5] == rows.data[3]
    assert maps["variance"][4, 5, 5] == rows.variance[3]


def test_beyond_renkas_radius_the_mean_is_plain_and_its_variance_right():
    """The peer finds 0/0 for the variance there."""
    rows = make_rows(count=4)
    rows.px[:], rows.py[:], rows.pz[:] = 5.4, 5.4, 4.4
    rows.wavelength[:] = GRID.wavelength_at(4.4)
    maps = Box(rows).radial(GRID, "renka", rc=0.2)
    assert maps["flux"][3, 4, 4] == pytest.approx(rows.data.mean(), rel=1e-6)
    assert maps["variance"][3, 4, 4] == pytest.approx(rows.variance.sum() / 16, rel=1e-6)


def test_nearest_takes_the_nearest_row_of_the_voxel_and_its_very_value():
    rows = make_rows(count=4000)
    box = Box(rows)
    box.weights[:] = [0.7, 1 / 3, 1.1, 2.3, 0.1]
    cells = reference.cells_of(rows, GRID.shape)
    rows.px, rows.py = cells[:, 2] + box.payload[0].astype(float), cells[:, 1] + box.payload[1].astype(float)
    rows.wavelength = box.payload[2] + GRID.wavelength_at(cells[:, 0])
    maps = box.nearest(GRID)
    flux, variance = reference.resample(rows, GRID, np.ones(len(rows), bool), "nearest", step_deg=STEP_DEG)
    np.testing.assert_array_equal(maps["flux"], flux)
    np.testing.assert_array_equal(maps["variance"], variance)
    assert set(np.unique(maps["count"])) == {0, 1} and (maps["count"] == ~np.isnan(flux)).all()
    np.testing.assert_array_equal(maps["time"], 100.0 * maps["count"])


def test_of_equally_near_rows_the_first_is_taken():
    rows = make_rows(count=3)
    rows.px[:], rows.py[:], rows.pz[:] = [5.25, 4.75, 5.25], 5.0, 4.0
    rows.wavelength[:] = GRID.wavelength_at(4)
    assert Box(rows).nearest(GRID)["flux"][4, 5, 5] == rows.data[0]


@pytest.mark.parametrize("method", ["drizzle", "wide", "linear", "lanczos"])
def test_weights_of_exposures_and_rows_multiply(method):
    rows = make_rows()
    rows.weight = np.random.default_rng(3).choice([0.0, 0.5, 2.0], len(rows))
    box = Box(rows)
    box.weights[:] = [1.0, 0.0, 2.0, 3.0, 0.25]
    maps = box.radial(GRID, method, columns=6) if method in RADIAL else box.drizzle(
        GRID, (0.6,) * 3, wide=method == "wide", columns=6
    )  # fmt: skip
    rows.weight *= box.weights[rows.exposure]
    wanted = reference.resample(
        rows, GRID, rows.weight > 0, method if method in RADIAL else "drizzle", step_deg=STEP_DEG
    )
    assert_like(maps, wanted, 2e-4)
    assert maps["count"].max() <= 4  # an exposure of weight 0 is in no mean


def test_only_usable_rows_are_spread():
    rows = make_rows()
    rows.dq[::2] = 1
    for method in ("drizzle", "wide", "nearest", *RADIAL):
        box, clean = Box(rows), Box(rows.select(rows.dq == 0))
        for each in (box, clean):
            if method == "nearest":
                each.nearest(GRID)
            elif method in RADIAL:
                each.radial(GRID, method)
            else:
                each.drizzle(GRID, (0.6,) * 3, wide=method == "wide")
        np.testing.assert_array_equal(box.sums, clean.sums)
        np.testing.assert_array_equal(box.seen, clean.seen)


@pytest.mark.parametrize("wide", [False, True])
def test_exposures_and_their_seconds_are_counted(wide):
    """More exposures than one word has bits."""
    rows = make_rows(count=6000, exposures=150)
    box = Box(rows, exposures=150)
    box.seconds = np.arange(150) + 0.5
    maps = box.drizzle(GRID, (0.6,) * 3, wide=wide)
    count, time = np.zeros(GRID.shape, int), np.zeros(GRID.shape)
    for exposure in range(150):
        data, _ = reference.resample(rows, GRID, rows.exposure == exposure, step_deg=STEP_DEG)
        count += ~np.isnan(data)
        time += ~np.isnan(data) * box.seconds[exposure]
    assert count.max() > 30
    np.testing.assert_array_equal(maps["count"], count)
    np.testing.assert_allclose(maps["time"], time, rtol=1e-6)


def test_sums_that_vanish_leave_an_empty_voxel():
    box = Box(make_rows(count=1))
    box.sums[0, 0, 0] = [1e-310, 1.0, 1.0]
    box.sums[0, 0, 1] = [np.inf, 1.0, 1.0]
    box.sums[0, 0, 2] = [-2.0, 4.0, 8.0]
    box.seen[0, 0, 0, :3] = 1
    maps = box.finish()
    for i in (0, 1):
        assert np.isnan(maps["flux"][0, 0, i]) and np.isnan(maps["variance"][0, 0, i])
        assert maps["count"][0, 0, i] == maps["time"][0, 0, i] == maps["weight"][0, 0, i] == 0
    assert maps["flux"][0, 0, 2] == -2 and maps["variance"][0, 0, 2] == 2 and maps["count"][0, 0, 2] == 1
