"""Rows sorted by cell are judged as the slow reference judges them, whatever the rows look like."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from musedeep.kernels import reject, reject_eso, window
from musedeep.kernels import sample as sampling

SHAPE = (5, 7, 8)
BITS = 3
SAMPLES = {"own": 1, "27": 27, "auto": 0}


def make_rows(seed=0, count=900, exposures=6, step=0.0, relative_variance=0.0, shape=SHAPE, trail=0.0):
    """Rows in random cells: a sky of unit noise with a source, sharper in one exposure, and outliers; and, if
    asked for, a trail across another exposure."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, shape, (count, 3))
    exposure = rng.integers(0, exposures, count)
    width = np.where(exposure == 0, 1.0, 1.8)
    source = step * np.exp(-(((cells[:, 1] - 3) ** 2 + (cells[:, 2] - 4) ** 2) / (2 * width**2))) / width**2
    variance = (1 + relative_variance * rng.uniform(-1, 1, count)).astype(np.float32)
    data = 5 + source + rng.normal(size=count) * np.sqrt(variance)
    outliers = rng.random(count) < 0.03
    data[outliers] += rng.choice([-1, 1, 1], outliers.sum()) * np.exp(rng.uniform(1.4, 6, outliers.sum()))
    data[exposure == 1] += trail * np.exp(-0.5 * (cells[:, 1] - cells[:, 2])[exposure == 1] ** 2)
    return reference.Rows(
        *(cells[:, axis].astype(float) for axis in (2, 1, 0)),
        np.full(count, 6500.0, np.float32),
        data.astype(np.float32),
        variance,
        np.zeros(count, np.uint32),
        exposure,
        np.ones(count),
    )


class Box:
    """Rows sorted by cell as the kernels want them."""

    def __init__(self, rows, shape=SHAPE, low=0, high=None):
        k, j, i = (rows.pz.astype(int), rows.py.astype(int), rows.px.astype(int))
        count, high = len(rows), shape[0] if high is None else high
        cells = shape[1] << BITS
        self.shape, self.low, self.high = shape, low, high
        self.start = np.empty((high - low) * cells + 1, np.int32)
        self.value, self.variance = np.empty((2, count), np.float32)
        self.owner, self.index = np.empty(count, np.uint16), np.empty(count, np.int32)
        payload = np.zeros((5, count), np.float32)
        payload[3], payload[4] = rows.data, rows.variance
        window.sort_planes(
            ((j << BITS) | i).astype(np.int32), k.astype(np.int16), payload, rows.exposure.astype(np.uint16),
            np.array([[0, count]]), low, high, cells, self.start, 0, self.value, self.variance, self.owner,
            self.index,
        )  # fmt: skip
        self.window = sampling.Window(
            self.start, low, high, BITS, *shape[1:], self.value, self.variance, self.owner, self.index
        )
        deepest = int(np.diff(self.start).max())
        self.buffers = np.empty((5, 27 * deepest + 16), np.float32)
        self.state = (rows.dq == reference.COSMIC_RAY).astype(np.uint8)
        self.rejected = np.zeros(shape, np.int32)
        self.centre, self.scale = np.empty((2, *shape))
        self.number = np.full(shape, -1, np.int32)

    def judge(
        self,
        first,
        last,
        *,
        sample="auto",
        nclip=(4.0, 4.0),
        gradient=0.5,
        coherence=2.0,
        nkeep=0,
        nmax=1,
        trails=1.5,
        edge=0,
    ):
        rule = sampling.Rule(
            *map(float, nclip), float(gradient), float(coherence), nkeep, nmax, SAMPLES[sample], trails
        )
        statistics = sampling.Statistics(self.centre, self.scale, self.number)
        reject.judge_guarded(
            self.window, first, last, edge, rule, statistics, self.state, self.rejected, self.buffers
        )
        return self.state == reject.REJECTED

    def judge_eso(self, crtype="median", crsigma=5.0, direction="none", edge=0):
        reject_eso.judge_eso(
            self.window, 0, self.shape[0], edge, ("none", "x", "y").index(direction),
            ("median", "mean", "iraf").index(crtype), float(crsigma), self.state, self.rejected, self.buffers,
        )  # fmt: skip
        return self.state == reject.REJECTED


def assert_judged_alike(rows, found, wanted, box, shape=SHAPE):
    different = np.flatnonzero(found != wanted)
    assert different.size == 0, f"rows {different[:5]} of {len(rows)}: found {found[different[:5]]}"
    cells = np.ravel_multi_index((rows.pz.astype(int), rows.py.astype(int), rows.px.astype(int)), shape)
    counts = np.bincount(cells[wanted], minlength=np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(box.rejected, counts)


RULES = [
    {},
    {"sample": "own"},
    {"sample": "27"},
    {"gradient": 0.0},
    {"coherence": 0.0},
    {"gradient": 0.0, "coherence": 0.0, "nclip": (2.0, 3.0)},
    {"gradient": 2.0, "coherence": 0.7, "sample": "own", "nclip": (3.0, 2.5)},
    {"nmax": 2},
    {"nmax": 5, "nclip": (2.5, 2.5), "sample": "own"},
    {"nkeep": 2, "sample": "own", "nclip": (1.0, 1.0)},
    {"nkeep": 4, "nclip": (1.5, 1.5)},
    {"trails": 0.0},
    {"trails": 0.7, "nclip": (2.0, 2.0), "coherence": 0.2},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("count", [60, 600, 6000])
@pytest.mark.parametrize("step, relative", [(0, 0), (100, 0.9)])
def test_rows_are_judged_as_by_the_reference(rule, count, step, relative):
    rows = make_rows(count, count, step=step, relative_variance=relative)
    box = Box(rows)
    found = box.judge(0, SHAPE[0], **rule)
    wanted = reference.guarded_rejected(rows, SHAPE, **rule)
    assert_judged_alike(rows, found, wanted, box)
    if count > 60:
        assert 2 <= wanted.sum() < count / 2


@given(
    seed=st.integers(0, 10**9),
    count=st.integers(1, 500),
    exposures=st.integers(1, 12),
    step=st.sampled_from([0.0, 3.0, 30.0, 3000.0]),
    relative=st.sampled_from([0.0, 0.5, 1.0]),
    trail=st.sampled_from([0.0, 4.0, 40.0]),
    rule=st.fixed_dictionaries(
        {
            "sample": st.sampled_from(sorted(SAMPLES)),
            "nclip": st.tuples(st.floats(1.0, 6.0), st.floats(1.0, 6.0)),
            "gradient": st.sampled_from([0.0, 0.5, 1.0]),
            "coherence": st.sampled_from([0.0, 0.5, 2.0]),
            "nkeep": st.integers(0, 3),
            "nmax": st.integers(1, 3),
            "trails": st.sampled_from([0.0, 0.3, 1.5]),
        }
    ),
)
@settings(max_examples=60, deadline=None)
def test_any_rule_judges_any_rows_as_the_reference(
    seed, count, exposures, step, relative, trail, rule
):  # fmt: skip
    rows = make_rows(seed, count, exposures, step, relative, (3, 4, 5), trail)
    box = Box(rows, (3, 4, 5))
    found = box.judge(0, 3, **rule)
    wanted = reference.guarded_rejected(rows, (3, 4, 5), **rule)
    assert_judged_alike(rows, found, wanted, box, (3, 4, 5))


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("trail", [-8, 8])
def test_a_trail_goes_with_its_wings(sample, trail):
    """What is rejected along it takes the faint rows beside it along, and no rows of other exposures."""
    rows = make_rows(4, 16_000, exposures=20, trail=trail)
    wanted, alone = (
        reference.guarded_rejected(rows, SHAPE, sample=sample, trails=trails) for trails in (1.5, 0)
    )
    box = Box(rows)
    assert_judged_alike(rows, box.judge(0, SHAPE[0], sample=sample), wanted, box)
    wing = (rows.exposure == 1) & (np.abs(rows.px - rows.py) == 2)
    assert wanted[wing].mean() > 0.8 > 0.2 > alone[wing].mean()
    others = rows.exposure != 1
    np.testing.assert_array_equal(wanted[others], alone[others])


@pytest.mark.parametrize("sample", SAMPLES)
def test_equal_values_and_variances_of_zero_do_no_harm(sample):
    rows = make_rows(1, 800)
    rows.data[:] = np.round(rows.data)
    rows.variance[::3] = 0
    box = Box(rows)
    wanted = reference.guarded_rejected(rows, SHAPE, sample=sample)
    assert_judged_alike(rows, box.judge(0, SHAPE[0], sample=sample), wanted, box)


def test_planes_judged_one_by_one_are_judged_alike():
    """The window moves: two planes on each side of those that are judged, and no more."""
    rows = make_rows(7, 4000, step=100, shape=(9, 7, 8))
    wanted = reference.guarded_rejected(rows, (9, 7, 8), sample="27")
    found = np.zeros(len(rows), bool)
    centre, scale, number = np.empty((9, 7, 8)), np.empty((9, 7, 8)), np.full((9, 7, 8), -1, np.int32)
    for k in range(9):
        box = Box(rows, (9, 7, 8), max(k - 2, 0), min(k + 3, 9))
        box.centre, box.scale, box.number = centre, scale, number
        found |= box.judge(k, k + 1, sample="27")
    assert wanted.sum() > 50
    np.testing.assert_array_equal(found, wanted)


def test_cells_at_the_edge_are_left_alone():
    rows = make_rows(3, 3000)
    whole, inner = Box(rows), Box(rows)
    everywhere, inside = whole.judge(0, SHAPE[0]), inner.judge(0, SHAPE[0], edge=2)
    deep = (rows.py >= 2) & (rows.py < SHAPE[1] - 2) & (rows.px >= 2) & (rows.px < SHAPE[2] - 2)
    np.testing.assert_array_equal(inside, everywhere & deep)
    assert inside.sum() and inner.rejected.sum() == inside.sum()


def test_a_sharper_exposure_keeps_its_rows_and_a_lone_outlier_does_not():
    """What the coherence guard is for: one exposure of twenty has a peak nearly twice as high."""
    shape = (3, 7, 7)
    k, j, i, n = (axis.ravel() for axis in np.mgrid[:3, :7, :7, :20])
    radius2 = (j - 3) ** 2 + (i - 3) ** 2
    width = np.where(n == 0, 1.5, 2.0)
    data = 2000 / width**2 * np.exp(-radius2 / (2 * width**2)) + np.random.default_rng(0).normal(size=k.size)
    ray = (k == 1) & (j == 1) & (i == 5) & (n == 4)
    data[ray] += 60
    rows = reference.Rows(
        i.astype(float), j.astype(float), k.astype(float), np.full(k.size, 6500, np.float32),
        data.astype(np.float32), np.ones(k.size, np.float32), np.zeros(k.size, np.uint32), n, np.ones(k.size),
    )  # fmt: skip
    guarded = Box(rows, shape).judge(0, 3)
    plain = Box(rows, shape).judge(0, 3, coherence=0.0, gradient=0.0)
    core = (n == 0) & (radius2 <= 2)
    assert plain[core].mean() > 0.5
    assert not guarded[core].any()
    assert guarded[ray].all() and guarded.sum() < 6


def test_fewer_than_three_rows_are_never_judged():
    rows = make_rows(0, 2)
    rows.px[:] = rows.py[:] = rows.pz[:] = 2
    rows.data[:] = [0, 1e9]
    for sample in SAMPLES:
        assert not Box(rows).judge(0, SHAPE[0], sample=sample, nclip=(0.1, 0.1)).any()


@pytest.mark.parametrize("nkeep", [1, 2, 3])
def test_nkeep_spares_the_rows_nearest_to_the_median(nkeep):
    rows = make_rows(0, 5)
    rows.px[:] = rows.py[:] = rows.pz[:] = 2
    rows.data[:] = [0, 0, 100, 300, 200]
    rows.variance[:] = 1
    rule = {"sample": "own", "gradient": 0.0, "coherence": 0.0, "nclip": (0.5, 0.5)}
    rows.data[:] = [-40, 0.1, 100, 300, 200]
    box = Box(rows)
    found = box.judge(0, SHAPE[0], nkeep=nkeep, **rule)
    order = np.argsort(np.abs(rows.data - 100))
    assert set(np.flatnonzero(~found)) == set(order[: max(nkeep, (~Box(rows).judge(0, 5, **rule)).sum())])
    assert box.rejected[2, 2, 2] == found.sum()


# --------------------------------------------------------------------------------------------------- the peer


@pytest.mark.parametrize("direction", ["none", "x", "y"])
@pytest.mark.parametrize("crtype", ["median", "mean", "iraf"])
@pytest.mark.parametrize("count", [40, 400, 4000])
def test_the_peers_rule_is_that_of_the_reference(count, crtype, direction):
    rows = make_rows(count, count, step=30, relative_variance=0.5)
    rows.dq[::20] = reference.COSMIC_RAY
    rows.data[::20] += 100
    box = Box(rows)
    found = box.judge_eso(crtype, 3.0, direction)
    wanted = reference.eso_rejected(rows, SHAPE, crtype, 3.0, direction) & (rows.dq == 0)
    assert_judged_alike(rows, found, wanted, box)
    assert wanted.any() or count == 40


def test_the_peers_rule_leaves_the_edge_alone():
    rows = make_rows(5, 3000)
    everywhere, inside = Box(rows).judge_eso(), Box(rows).judge_eso(edge=1)
    deep = (rows.py >= 1) & (rows.py < SHAPE[1] - 1) & (rows.px >= 1) & (rows.px < SHAPE[2] - 1)
    np.testing.assert_array_equal(inside, everywhere & deep)
