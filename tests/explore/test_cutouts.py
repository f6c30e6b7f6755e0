"""A cut combined again, whole or for groups of exposures, is what a combination of those alone makes."""

import numpy as np
import pytest
from fields import arrays_of, assert_same_bits

import musedeep as md
from musedeep import combine
from musedeep.combine import combine_exposures
from musedeep.errors import UsageError


@pytest.fixture(scope="module")
def deep(four):
    return combine_exposures(four)


@pytest.fixture(scope="module")
def cut(deep):
    grid = deep.muse.grid
    return deep.muse.cutout(grid.position(14, 15), 2.4, wavelength=(6506.0, 6518.0))


def part_of(maps, cut):
    y, x = cut.y.values, cut.x.values
    first = int(round(float(np.argmin(abs(maps["wavelength"] - cut.wavelength.values[0])))))
    region = slice(first, first + cut.sizes["wavelength"]), slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
    return {name: values[region] for name, values in maps.items() if name != "wavelength"}


CHANGES = {
    "nothing": {},
    "clip": {"nclip": (2.5, 2.5)},
    "half": {"select": "half:B"},
    "kernel": {"resample": "lanczos", "ld": 2},
    "weights": {"weight": "none"},
    "no rejection": {"reject": "none"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_cut_combined_again_equals_the_whole_to_the_last_bit(four, deep, cut, name):
    changes = CHANGES[name]
    whole = combine_exposures(four, grid=deep.muse.grid, **changes)
    maps = arrays_of(whole) | {"wavelength": whole.wavelength.values}
    again = md.recombine(cut, **changes)
    assert_same_bits(arrays_of(again), part_of(maps, cut))
    np.testing.assert_allclose(again.wavelength, cut.wavelength, rtol=1e-14)
    np.testing.assert_allclose(again.muse.grid.position(1, 2), cut.muse.grid.position(1, 2), rtol=1e-13)


def test_only_rows_around_the_cut_are_read(deep, cut, monkeypatch):
    records, work = [], combine.combine_block

    def counted(*arguments, **options):
        maps, record = work(*arguments, **options)
        records.append(record)
        return maps, record

    monkeypatch.setattr(combine, "combine_block", counted)
    deep.compute(scheduler="synchronous")
    whole = {name: sum(r[name] for r in records) for name in ("rows_read", "bytes_read")}
    records.clear()
    md.recombine(cut).compute(scheduler="synchronous")
    assert 0 < sum(r["rows_read"] for r in records) < 0.8 * whole["rows_read"]


def test_a_selection_is_one_of_the_exposures_of_the_cube(four, cut):
    dates = four.exposures.dates
    three = md.recombine(cut, select=f"without={dates[0]}")
    assert [e["date_obs"] for e in three.attrs["exposures"]] == dates[1:]
    half = md.recombine(three, select="half:A")
    assert [e["date_obs"] for e in half.attrs["exposures"]] == [dates[1], dates[3]]


def test_groups_are_the_means_of_their_exposures_alone(four, deep, cut):
    """Without rejection they have only the size of a pixel in common, that of the first exposure."""
    plain = md.recombine(cut, reject="none")
    split = md.split_exposures(plain, by="half").compute(scheduler="synchronous")
    assert list(split.group.values) == ["A", "B"]
    for half in "AB":
        alone = md.recombine(plain, select=f"half:{half}").compute(scheduler="synchronous")
        mine = split.sel(group=half)
        for name in ("flux", "variance", "weight"):
            np.testing.assert_allclose(
                mine[name], alone[name], rtol=2e-6 if half == "A" else 5e-4, err_msg=name
            )


def test_groups_add_up_to_the_cube_and_share_its_rejection(cut):
    whole = cut.compute(scheduler="synchronous")
    assert whole.rejected_count.sum() > 0
    for by, count in (("exposure", 4), ("half", 2), (["a", "b", "a", "c"], 3)):
        split = md.split_exposures(cut, by=by).compute(scheduler="synchronous")
        assert split.sizes["group"] == count
        weight = split.weight.astype(float)
        mean = (split.flux * weight).sum("group") / weight.sum("group")
        np.testing.assert_allclose(mean, whole.flux, rtol=3e-6)
        np.testing.assert_allclose(weight.sum("group"), whole.weight, rtol=1e-6)
        variance = (split.variance * weight**2).sum("group") / weight.sum("group") ** 2
        np.testing.assert_allclose(variance, whole.variance, rtol=3e-6)


def test_leaving_one_out_is_the_combination_of_the_others(four, cut):
    plain = md.recombine(cut, reject="none")
    left = md.leave_out(md.split_exposures(plain)).compute(scheduler="synchronous")
    assert list(left.group.values) == four.exposures.dates
    for date in four.exposures.dates[1:3]:
        alone = md.recombine(plain, select=f"without={date}").compute(scheduler="synchronous")
        mine = left.sel(group=date)
        both = np.isfinite(alone.flux) & (alone.weight > 1e-3)
        np.testing.assert_allclose(mine.flux.where(both), alone.flux.where(both), rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(mine.variance.where(both), alone.variance.where(both), rtol=1e-3)


def test_groups_by_night_and_by_observing_block(four, cut):
    by_night = md.split_exposures(cut, by="night")
    by_ob = md.split_exposures(cut, by="ob")
    assert list(by_night.group.values) == sorted({date[:10] for date in by_night.group.values})
    assert set(by_ob.group.values) == {exposure.ob_name for exposure in four.exposures}
    split = md.split_exposures(cut)
    assert np.all(np.diff(split.mjd.values) > 0)
    assert split.mjd.values[0] == pytest.approx(four.exposures[0].mjd_obs + 450 / 86400, abs=1e-9)


def test_what_cannot_be_split_is_refused(cut):
    with pytest.raises(UsageError, match="one label for each of the 4 exposures"):
        md.split_exposures(cut, by="weather")
    with pytest.raises(UsageError, match="one row for each voxel"):
        md.split_exposures(md.recombine(cut, resample="nearest"))
