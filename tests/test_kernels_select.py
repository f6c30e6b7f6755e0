"""Medians by counting give what sorting gives."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from musedeep.kernels.select import median, median_absolute_deviation

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
POOLS = st.lists(FLOATS, min_size=1, max_size=5)
GUESSES = st.floats(allow_nan=False)
WIDTHS = st.floats(min_value=0, allow_nan=False, exclude_min=True)

LENGTHS = st.integers(1, 400)


def float32s(length, elements):
    return hnp.arrays(np.float32, length, elements=elements)


@st.composite
def values(draw):
    """Arbitrary values, or few different ones many times."""
    elements = draw(st.sampled_from(["any", "few", "tiny", "close"]))
    if elements == "any":
        return draw(float32s(LENGTHS, FLOATS))
    if elements == "few":
        return draw(float32s(LENGTHS, st.sampled_from(draw(POOLS))))
    if elements == "tiny":  # the smallest numbers that float32 has, around zero
        steps = draw(hnp.arrays(np.int32, LENGTHS, elements=st.integers(-20, 20)))
        return (steps * np.float64(np.finfo(np.float32).smallest_subnormal)).astype(np.float32)
    start = draw(st.floats(1, 1e6, width=32))  # neighbouring floats
    steps = draw(hnp.arrays(np.int32, LENGTHS, elements=st.integers(0, 6)))
    return (np.float32(start).view(np.int32) + steps).view(np.float32)


@given(values(), GUESSES, WIDTHS)
@example(np.zeros(13, np.float32), 0.0, 1.0)
@example(np.array([0.0] * 7 + [1.0] * 6, np.float32), 0.0, 1.0)
@example(np.array([0.0] * 7 + [1.0] * 7, np.float32), 1.0, 1e-30)
@example(np.array([1.0] + [2.0] * 12, np.float32), 1e300, 1e300)
def test_median_is_that_of_the_sorted_values(array, guess, width):
    wanted = np.median(array.astype(np.float64))
    assert median(array.copy(), array.size, guess, width) == wanted


@given(values(), st.data())
def test_only_the_first_values_count(array, data):
    count = data.draw(st.integers(1, array.size))
    wanted = np.median(array[:count].astype(np.float64))
    assert median(array.copy(), count, 0.0, 1.0) == wanted


@given(values(), st.floats(-1e30, 1e30), st.floats(0, 1e30))
def test_deviation_is_the_median_of_absolute_differences(array, centre, guess):
    wanted = np.median(np.abs(array.astype(np.float64) - centre).astype(np.float32).astype(np.float64))
    assert median_absolute_deviation(array.copy(), array.size, centre, guess) == wanted


@pytest.mark.parametrize("count", [12, 13, 14, 27, 1000, 1001])
@pytest.mark.parametrize("outliers", [0, 1, 5])
def test_outliers_of_many_orders_do_not_mislead_the_search(count, outliers):
    rng = np.random.default_rng(count)
    array = rng.normal(20.0, 3.0, count).astype(np.float32)
    array[:outliers] = [3e38, -3e38, 1e20, 1e-40, -1e30][:outliers]
    for guess, width in ((20.0, 1.0), (0.0, 1e-30), (-3e38, 3e38), (3e38, 1.0)):
        assert median(array.copy(), count, guess, width) == np.median(array.astype(np.float64))


def test_a_good_guess_changes_nothing():
    array = np.random.default_rng(0).normal(size=501).astype(np.float32)
    exact = np.median(array.astype(np.float64))
    for guess in (exact, np.nextafter(exact, 9), np.nextafter(exact, -9), array.min(), array.max()):
        for width in (1e-300, 1e-7, 0.1, 1e9):
            assert median(array.copy(), 501, guess, width) == exact
