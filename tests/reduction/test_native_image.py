"""The image of a reduced exposure without a cube, held against the recipe's, and the kernels behind it."""

import numpy as np
import pytest
from astropy.io import fits

from musedeep.align.images import read_image
from musedeep.kernels.planes import drizzle_sorted, judge_few
from musedeep.kernels.reject_eso import judge_eso
from musedeep.kernels.resample import spread_drizzle
from musedeep.kernels.sample import Window
from musedeep.kernels.window import sort_planes
from musedeep.reduce.native import field_image, write_field_image
from musedeep.reduce.native.seeing import seeing_cards

SHAPE, BITS = (9, 14, 11), 4


def sorted_rows(seed, per_cell):
    """Rows in random cells, some far above the others; and the same sorted by cell."""
    rng = np.random.default_rng(seed)
    planes, rows, columns = SHAPE
    count = int(per_cell * planes * rows * columns)
    cell = (rng.integers(rows, size=count) << BITS | rng.integers(columns, size=count)).astype(np.int32)
    plane = rng.integers(planes, size=count).astype(np.int16)
    payload = rng.uniform(-0.5, 0.5, (5, count)).astype(np.float32)
    payload[2] *= 1.25
    payload[3] = rng.normal(10, 1, count) * np.where(plane == 4, 30, 1) + 40 * (cell >> BITS > 9)
    payload[3, rng.random(count) < 0.02] += 200
    payload[3, : count // 3] = np.round(payload[3, : count // 3])
    payload[4] = 1
    cells = rows << BITS
    start, index = np.empty(planes * cells + 1, np.int32), np.empty(count, np.int32)
    value, variance = np.zeros(count + 4, np.float32), np.empty(count, np.float32)
    owner = np.zeros(count, np.uint16)
    ranges = np.array([[0, count]])
    sort_planes(
        cell, plane, payload, owner, ranges, 0, planes, cells, start, 0, value, variance, owner.copy(), index
    )
    return cell, plane, payload, start, value, variance, index


@pytest.mark.parametrize("direction", [0, 1, 2])
@pytest.mark.parametrize("per_cell", [0.3, 1.0, 4.0])
def test_few_rows_are_judged_as_many(direction, per_cell):
    cell, _, _, start, value, variance, index = sorted_rows(1, per_cell)
    planes, rows, columns = SHAPE
    few, many = np.zeros(len(cell), np.uint8), np.zeros(len(cell), np.uint8)
    most = 27 * int(np.diff(start).max())
    judge_few(
        start, value, index, BITS, SHAPE, 1, planes - 1, direction, 6.0, few,
        np.empty(most + 8, np.float32),
    )  # fmt: skip
    owner = np.zeros(len(cell), np.uint16)
    window = Window(start, 0, planes, BITS, rows, columns, value[:-4], variance, owner, index)
    counts, buffers = np.zeros(SHAPE, np.int32), np.empty((5, most + 16), np.float32)
    judge_eso(window, 1, planes - 1, 0, direction, 0, 6.0, many, counts, buffers)
    assert 0 < np.count_nonzero(many) < 0.2 * len(many)
    np.testing.assert_array_equal(few, many)


def test_sorted_rows_are_drizzled_as_others():
    cell, plane, payload, start, _, _, index = sorted_rows(2, 1.5)
    planes, rows, columns = SHAPE
    state = np.zeros(len(cell), np.uint8)
    state[::17] = 2
    drop, step, first, count = np.array([0.8, 0.6, 1.0]), 1.25, 2, 5
    sums = np.zeros((count, rows, columns, 2))
    drizzle_sorted(start, index, payload, state, BITS, SHAPE, first, drop, step, sums)
    expected = np.zeros((count, rows, columns, 3))
    seen, owner = np.zeros((1, count, rows, columns), np.uint64), np.zeros(len(cell), np.uint16)
    spread_drizzle(
        cell, plane, payload, owner, state, np.array([[0, len(cell)]]), BITS, np.array([first, 0]), drop,
        5000 + step * np.arange(planes), np.full(planes, step), np.ones(1), expected, seen,
    )  # fmt: skip
    assert expected[..., 0].min() < 0.5 < expected[..., 0].max()
    np.testing.assert_allclose(sums, expected[..., :2], rtol=1e-6, atol=1e-6)


@pytest.mark.esorex
def test_the_image_is_that_of_the_recipe(reduced, tmp_path):
    table = reduced.tables[0]
    stem = table.name.removeprefix("PIXTABLE_REDUCED")
    output = tmp_path / f"IMAGE_FOV{stem}"
    write_field_image(table, output)
    with fits.open(output) as own, fits.open(reduced.folder / output.name) as theirs:
        assert [hdu.name for hdu in own] == [hdu.name for hdu in theirs]
        image, expected = own["DATA"].data, theirs["DATA"].data
        np.testing.assert_array_equal(np.isfinite(image), np.isfinite(expected))
        seen = np.isfinite(expected)
        off = np.abs(image[seen] - expected[seen])
        # but where the rounding of a position moves a row to another cell
        assert np.quantile(off, 0.99) < 1e-3
        assert off.max() < 0.1
        wanted = set(theirs["DATA"].header)
        assert wanted == set(own["DATA"].header)
        for name in ("CRPIX1", "CRPIX2", "CRVAL1", "CRVAL2", "CD1_1", "CD1_2", "CD2_1", "CD2_2"):
            assert own["DATA"].header[name] == pytest.approx(theirs["DATA"].header[name], rel=1e-9)
        for name in ("OBJECT", "ESO PRO CATG", "ESO DRS MUSE FILTER NAME", "DATE-OBS", "EXPTIME"):
            assert own[0].header[name] == theirs[0].header[name]
        name = "ESO DRS MUSE FILTER FRACTION"
        assert own[0].header[name] == pytest.approx(theirs[0].header[name], rel=1e-5)
    assert read_image(output).filter_name == "white"


@pytest.mark.esorex
def test_the_image_does_not_depend_on_how_many_planes_are_in_memory(reduced):
    whole, _ = field_image(reduced.tables[0])
    parts, _ = field_image(reduced.tables[0], rows_of_a_slab=150_000)
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.esorex
def test_sources_in_the_middle_plane_are_those_of_the_recipe(reduced, tmp_path):
    for table in reduced.tables:
        write_field_image(table, tmp_path / "own.fits")
        path = table.with_name(table.name.replace("PIXTABLE_REDUCED", "IMAGE_FOV"))
        own, theirs = (seeing_of(file) for file in (tmp_path / "own.fits", path))
        assert set(own) == set(theirs)
        assert own["NDET"] == theirs["NDET"] >= 2
        assert own["LAMBDA"] == pytest.approx(theirs["LAMBDA"], abs=0.01)
        for name, value in theirs.items():
            if name.startswith("POS"):
                # the middle of a source may lie between two pixels
                assert own[name] == pytest.approx(value, abs=1), name
            elif name.startswith("FWHM") and name[-1] in "XYN":
                assert own[name] == pytest.approx(value, rel=0.15), (name, own, theirs)


def seeing_of(path):
    start = "ESO QC SCIPOST "
    return {k.removeprefix(start): v for k, v in fits.getheader(path).items() if k.startswith(start)}


def test_widths_and_their_median_are_measured_above_the_background():
    y, x = np.mgrid[:60, :50]
    plane = np.random.default_rng(3).normal(100, 1, x.shape)
    for row, column, height in ((12, 10, 900), (30, 35, 1400), (50, 12, 700)):
        plane += height * np.exp(-0.5 * (((y - row) / 2) ** 2 + ((x - column) / 1.5) ** 2))
    plane[:, 20] = np.nan
    cards = seeing_cards(plane, 7000.0, (0.2, 0.2))
    assert (cards["LAMBDA"], cards["NDET"], cards["FWHM NVALID"]) == (7000.0, 3, 3)
    assert (cards["POS2 X"], cards["POS2 Y"]) == (36.0, 31.0)
    for number in (1, 2, 3):
        assert cards[f"FWHM{number} X"] == pytest.approx(0.2 * 1.5 * 2.355, rel=0.05)
        assert cards[f"FWHM{number} Y"] == pytest.approx(0.2 * 2 * 2.355, rel=0.05)
    assert cards["FWHM MEDIAN"] == pytest.approx(0.2 * 1.75 * 2.355, rel=0.05)
    assert cards["FWHM MAD"] == pytest.approx(0.2 * 0.25 * 2.355, rel=0.2)
    # a source at the edge has no width, and two of them make no median
    edge = seeing_cards(plane[:53, 11:], 7000.0, (0.2, 0.2))
    assert edge["NDET"] == 2 and edge["FWHM MEDIAN"] == 0
    assert sorted(edge[f"FWHM{n} X"] == -1 for n in (1, 2)) == [False, True]
    nothing = seeing_cards(np.full((20, 20), np.nan), 7000.0, (0.2, 0.2))
    assert (nothing["NDET"], nothing["POS0 X"], nothing["FWHM0 Y"]) == (0, -1.0, -1.0)
