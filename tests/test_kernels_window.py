"""Rows find their voxels, and are sorted by them, as slow numpy says."""

import numpy as np
import pytest

from musedeep.grid import VoxelGrid, air_to_vacuum
from musedeep.kernels import window

GRID = {"crval": (53.0, -27.8), "crpix": (10.0, 9.0), "cd": ((-2e-4, 1e-5), (1e-5, 2e-4))}
MATRIX = np.array([[-4.9, 0.3, 11.2], [0.25, 5.1, 9.7], [1e-6, -2e-6, 1.0]])
ORIGIN = np.array([3.25, -1.5])


def make_grid(log=False, vacuum=False, crpix=1.0):
    return VoxelGrid(
        (12, 20, 22), wavelength_start=6500.0, wavelength_step=1.25, wavelength_crpix=crpix, log=log,
        vacuum=vacuum, **GRID,
    )  # fmt: skip


def make_rows(count=4000, columns=5, seed=1):
    rng = np.random.default_rng(seed)
    rows = np.empty((columns, count), np.float32)
    rows[0], rows[1] = rng.uniform(-6, 2, count), rng.uniform(-3, 5, count)
    rows[2] = rng.uniform(6490, 6525, count)
    rows[3:] = rng.uniform(1, 2, (columns - 3, count))
    return rows


class Output:
    """The arrays that rows are located into."""

    def __init__(self, capacity, columns=5, identity=True):
        self.cell, self.plane = np.full(capacity, -9, np.int32), np.full(capacity, -9, np.int16)
        self.payload = np.full((columns, capacity), np.nan, np.float32)
        self.owner, self.state = np.zeros(capacity, np.uint16), np.full(capacity, 9, np.uint8)
        self.identity = np.full(capacity if identity else 0, -9, np.int64)


def locate(
    rows,
    grid,
    output,
    *,
    box=((0, 12), (0, 20), (0, 22)),
    first=0,
    last=None,
    scale=1.0,
    states=None,
    limits=(4000.0, 10000.0),
    base=0,
    at=0,
    exposure=3,
):
    (k0, k1), (j0, j1), (i0, i1) = box
    numbers = np.array([k0, j0, i0, k1 - k0, j1 - j0, i1 - i0, 5], np.int64)
    spectral = np.array(
        [
            grid.wavelength_start,
            grid.wavelength_step,
            grid.wavelength_crpix - 1,
            grid.log,
            grid.vacuum,
            *limits,
        ],
        float,
    )
    return window.locate_rows(
        rows, np.array([first, rows.shape[1] if last is None else last]), MATRIX, ORIGIN, spectral,
        grid.wavelength_at(np.arange(k0, k1)), numbers, scale, exposure,
        np.zeros(0, np.uint8) if states is None else states, base, output.cell, output.plane, output.payload,
        output.owner, output.state, output.identity, at, np.empty(1, np.int64),
    )  # fmt: skip


def expected(rows, grid, box=((0, 12), (0, 20), (0, 22)), limits=(4000.0, 10000.0)):
    """Rows in the box with their voxels and offsets: (numbers, k, j, i, dx, dy, dlambda)."""
    x, y, w = MATRIX @ np.stack([*(rows[:2].astype(float) + ORIGIN[:, None]), np.ones(rows.shape[1])])
    wavelength = rows[2].astype(float)
    kept = (wavelength >= limits[0]) & (wavelength <= limits[1])
    if grid.vacuum:
        wavelength = air_to_vacuum(wavelength).astype(np.float32).astype(float)
    places = [grid.plane_of(wavelength), y / w, x / w]
    voxels = [np.floor(place + 0.5).astype(int) for place in places]
    for v, (low, high) in zip(voxels, box, strict=True):
        kept &= (v >= low) & (v < high)
    numbers = np.flatnonzero(kept)
    k, j, i = (v[kept] for v in voxels)
    return (
        numbers,
        k,
        j,
        i,
        places[2][kept] - i,
        places[1][kept] - j,
        wavelength[kept] - grid.wavelength_at(k),
    )


@pytest.mark.parametrize("crpix", [1.0, 3.0, -2.5, 1.5])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("vacuum", [False, True])
def test_rows_fall_into_the_voxel_whose_centre_is_nearest(log, vacuum, crpix):
    rows, grid = make_rows(), make_grid(log, vacuum, crpix)
    box = ((1, 11), (2, 20), (3, 22))
    output = Output(rows.shape[1])
    count = locate(rows, grid, output, box=box)
    numbers, k, j, i, dx, dy, dlambda = expected(rows, grid, box)
    assert count == len(numbers) > 300
    np.testing.assert_array_equal(output.identity[:count], numbers)
    np.testing.assert_array_equal(output.plane[:count], k - 1)
    np.testing.assert_array_equal(output.cell[:count] >> 5, j - 2)
    np.testing.assert_array_equal(output.cell[:count] & 31, i - 3)
    np.testing.assert_allclose(output.payload[0, :count], dx, rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(output.payload[1, :count], dy, rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(output.payload[2, :count], dlambda, rtol=2e-7, atol=1e-7)
    np.testing.assert_array_equal(output.payload[3:5, :count], rows[3:5, numbers])
    assert (output.owner[:count] == 3).all() and (output.state[:count] == window.USABLE).all()


def test_offsets_reach_half_a_voxel_only():
    rows, grid = make_rows(), make_grid()
    output = Output(rows.shape[1])
    count = locate(rows, grid, output)
    assert np.abs(output.payload[:2, :count]).max() <= 0.5
    assert np.abs(output.payload[2, :count]).max() <= 0.625


def test_values_are_scaled_and_variances_by_the_square():
    rows, grid = make_rows(), make_grid()
    output, plain = Output(rows.shape[1]), Output(rows.shape[1])
    count = locate(rows, grid, output, scale=-1.7)
    assert locate(rows, grid, plain) == count
    value, variance = plain.payload[3:5, :count].astype(float)
    np.testing.assert_array_equal(output.payload[3, :count], (value * -1.7).astype(np.float32))
    np.testing.assert_array_equal(output.payload[4, :count], (variance * (1.7 * 1.7)).astype(np.float32))


def test_wavelength_limits_keep_both_ends():
    rows, grid = make_rows(), make_grid()
    rows[2, :4] = [6505.0, 6510.0, np.nextafter(np.float32(6505), np.float32(0)), 6510.0005]
    rows[:2, :4] = rows[:2, expected(rows, grid)[0][10]][:, None]
    output = Output(rows.shape[1])
    count = locate(rows, grid, output, limits=(6505.0, 6510.0))
    numbers = expected(rows, grid, limits=(6505.0, 6510.0))[0]
    np.testing.assert_array_equal(output.identity[:count], numbers)
    assert {0, 1} <= set(numbers.tolist()) and not {2, 3} & set(numbers.tolist())


def test_limits_are_in_air_on_a_grid_in_vacuum():
    rows, grid = make_rows(), make_grid(vacuum=True)
    output = Output(rows.shape[1])
    count = locate(rows, grid, output, limits=(6505.0, 6510.0))
    used = rows[2, output.identity[:count]]
    assert used.min() >= 6505 and used.max() <= 6510 and used.max() > 6509.5


def test_rows_of_another_state_are_passed_over():
    rows, grid = make_rows(), make_grid()
    states = (
        np.random.default_rng(2)
        .choice([window.USABLE, window.STATISTICS_ONLY, window.REJECTED], rows.shape[1])
        .astype(np.uint8)
    )
    output = Output(rows.shape[1])
    count = locate(rows, grid, output, states=states)
    numbers = expected(rows, grid)[0]
    numbers = numbers[states[numbers] != window.REJECTED]
    np.testing.assert_array_equal(output.identity[:count], numbers)
    np.testing.assert_array_equal(output.state[:count], states[numbers])


def test_a_range_of_rows_is_appended_behind_what_is_there():
    rows, grid = make_rows(), make_grid()
    whole, pieces = Output(rows.shape[1], 5), Output(rows.shape[1], 5)
    count = locate(rows, grid, whole)
    at = locate(rows, grid, pieces, last=1234)
    at = locate(rows, grid, pieces, first=1234, at=at)
    assert at == count
    for name in ("cell", "plane", "owner", "state", "identity"):
        np.testing.assert_array_equal(getattr(pieces, name)[:count], getattr(whole, name)[:count])
    np.testing.assert_array_equal(pieces.payload[:, :count], whole.payload[:, :count])


def test_numbers_of_rows_start_at_the_base():
    rows, grid = make_rows(), make_grid()
    output = Output(rows.shape[1])
    count = locate(rows, grid, output, base=10**10)
    np.testing.assert_array_equal(output.identity[:count] - 10**10, expected(rows, grid)[0])


def test_a_full_output_is_told_and_never_overrun():
    rows, grid = make_rows(), make_grid()
    count = len(expected(rows, grid)[0])
    assert locate(rows, grid, Output(count)) == count
    assert locate(rows, grid, Output(count - 1)) == -1


def test_the_weight_of_a_row_comes_along_when_there_is_room_for_it():
    rows, grid = make_rows(columns=6), make_grid()
    output = Output(rows.shape[1], columns=6, identity=False)
    count = locate(rows, grid, output)
    np.testing.assert_array_equal(output.payload[5, :count], rows[5, expected(rows, grid)[0]])


@pytest.mark.parametrize("low, high", [(0, 6), (2, 4), (3, 3)])
def test_sorting_is_stable_and_by_plane_and_cell(low, high):
    rng = np.random.default_rng(4)
    count, cells, filled = 500, 32, 17
    cell, plane = rng.integers(0, cells, count).astype(np.int32), rng.integers(0, 6, count).astype(np.int16)
    payload, owner = (
        rng.normal(size=(5, count)).astype(np.float32),
        rng.integers(0, 9, count).astype(np.uint16),
    )
    ranges = np.array([(300, 450), (20, 200)])
    value, variance = np.zeros((2, count + filled), np.float32)
    sorted_owner, index = np.zeros(count + filled, np.uint16), np.full(count + filled, -1, np.int32)
    start = np.empty((high - low) * cells + 1, np.int32)
    end = window.sort_planes(
        cell,
        plane,
        payload,
        owner,
        ranges,
        low,
        high,
        cells,
        start,
        filled,
        value,
        variance,
        sorted_owner,
        index,
    )
    order = np.r_[300:450, 20:200]
    order = order[(plane[order] >= low) & (plane[order] < high)]
    keys = (plane[order] - low) * cells + cell[order]
    wanted = order[np.argsort(keys, kind="stable")]
    assert end == filled + len(order)
    np.testing.assert_array_equal(index[filled:end], wanted)
    np.testing.assert_array_equal(value[filled:end], payload[3, wanted])
    np.testing.assert_array_equal(variance[filled:end], payload[4, wanted])
    np.testing.assert_array_equal(sorted_owner[filled:end], owner[wanted])
    assert (index[:filled] == -1).all() and (index[end:] == -1).all()
    counts = np.bincount(keys, minlength=(high - low) * cells)
    np.testing.assert_array_equal(start, filled + np.concatenate([[0], np.cumsum(counts)]))
