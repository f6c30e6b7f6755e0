"""Rows are selected as a search through the FITS tables would select them."""

import numpy as np
import pytest
import xarray
from astropy.coordinates import Angle, SkyCoord
from fields import read_table
from regions import CircleSkyRegion

import musedeep as md
from musedeep.errors import UsageError
from musedeep.explore import pixels
from musedeep.muse import origin_ifu, origin_slice, origin_x, origin_y


@pytest.fixture(scope="module")
def middle(four):
    from musedeep.recipe import prepare

    grid = prepare(four).grid
    return grid.position(grid.shape[2] / 2, grid.shape[1] / 2)


def test_all_rows_are_those_of_the_tables(four, monkeypatch):
    monkeypatch.setattr(pixels, "_CHUNK", 5000)
    rows = md.open_pixels(four)
    data = rows.to_xarray()
    assert data.chunks["row"] and len(data.chunks["row"]) > 8
    assert data.sizes["row"] == rows.most_rows == sum(e.row_count for e in four.exposures)
    assert (
        data.value.attrs["units"].startswith("10**(-20)") and data.attrs["exposures"] == four.exposures.dates
    )
    frame = rows.to_pandas()
    for n, exposure in enumerate(four.exposures):
        columns = read_table(exposure.tables[0].path)
        mine = frame[frame.date_obs == exposure.date_obs]
        assert len(mine) == len(columns["data"])
        scale = rows.recipe.exposures[n].scale
        order, found = np.lexsort((columns["lambda"], columns["origin"])), mine.sort_values(["ifu", "slice"])
        origin = columns["origin"][order]
        ifu, number = origin_ifu(origin), origin_slice(origin)
        x = origin_x(origin, exposure.xoffsets()[ifu, number])
        expected = np.stack([ifu, number, x, origin_y(origin)])
        found = np.stack([mine[name].to_numpy(np.int64) for name in ("ifu", "slice", "column", "line")])
        assert set(map(tuple, expected.T.tolist())) == set(map(tuple, found.T.tolist()))
        np.testing.assert_allclose(
            np.sort(mine.value), np.sort(columns["data"] * np.float32(scale)), rtol=1e-6
        )
        np.testing.assert_array_equal(np.sort(mine.dq), np.sort(columns["dq"]))
        np.testing.assert_array_equal(np.sort(mine.wavelength), np.sort(columns["lambda"]))


def test_a_region_a_band_and_a_slice(four, middle):
    everything = md.open_pixels(four).to_xarray().compute()
    centre = SkyCoord(*middle, unit="deg")
    circle = CircleSkyRegion(centre, Angle(1.1, "arcsec"))
    rows = md.open_pixels(four, region=circle, wavelength=(6507.0, 6511.5))
    found = rows.to_xarray().compute()
    places = SkyCoord(everything.ra.values, everything.dec.values, unit="deg")
    inside = (centre.separation(places).arcsec < 1.1) & (
        (everything.wavelength >= 6507.0) & (everything.wavelength <= 6511.5)
    ).values
    assert 100 < inside.sum() == found.sizes["row"] < rows.most_rows < 0.7 * everything.sizes["row"]
    np.testing.assert_array_equal(np.sort(found.value), np.sort(everything.value[inside]))
    text = f'icrs; circle({middle[0]:.9f}, {middle[1]:.9f}, 1.1")'
    assert rows.select(region=text).to_xarray().sizes["row"] == pytest.approx(inside.sum(), abs=2)
    ifus = sorted(set(found.ifu.values.tolist()))
    some = rows.select(ifu=ifus[0], slices=range(1, 30)).to_pandas()
    assert set(some.ifu) == {ifus[0]} and some.slice.max() < 30
    assert len(some) == int(((found.ifu == ifus[0]) & (found.slice < 30)).sum())


def test_some_exposures(four, middle):
    rows = md.open_pixels(four, exposures="half:B").to_pandas()
    assert list(rows.date_obs.cat.categories) == four.exposures.dates[1::2]
    assert len(rows) == sum(e.row_count for e in list(four.exposures)[1::2])
    assert list(rows.columns[:3]) == ["date_obs", "ra", "dec"]


def test_nothing_chosen_is_an_empty_table(four):
    empty = md.open_pixels(four, wavelength=(9000.0, 9001.0))
    assert empty.to_xarray().sizes["row"] == 0 and len(empty.to_pandas()) == 0
    assert md.open_pixels(four, region='icrs; circle(10, 10, 1")').to_xarray().sizes["row"] == 0


def test_a_selection_tells_itself(four):
    rows = md.open_pixels(four.folder, wavelength=(6505.0, 6510.0), ifu=[12, 13])
    assert "wavelength = (6505.0, 6510.0), ifu = (12, 13); at most" in repr(rows)
    page = rows._repr_html_()
    assert "<svg" in page and page.count("<polygon") == 4 and "4 of 4" in page and "at most" in page
    assert "at most" not in md.open_pixels(four)._repr_html_()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"ifu": 25}, "numbers go from 1 to 24"),
        ({"slices": [0]}, "numbers go from 1 to 48"),
        ({"wavelength": (7000, 6000)}, "smaller one first"),
    ],
)
def test_impossible_choices_are_refused(four, choice, words):
    with pytest.raises(UsageError, match=words):
        md.open_pixels(four, **choice)


def test_xarray_opens_the_store_as_it_is(four):
    part = next(four.pixels_path.glob("*/part*"))
    data = xarray.open_zarr(part, consolidated=False)
    assert data.rows.dims == ("column", "row") and data.dq.dims == ("row",)
    assert data.rows.attrs["columns"][2] == "wavelength"
    assert float(data.rows[2].min()) >= 6499 and data.sizes["key"] > 1
