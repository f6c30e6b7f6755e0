"""The rows that a voxel is traced to are those that a search through the FITS tables finds."""

import json

import numpy as np
import pytest
import reference
from astropy.coordinates import SkyCoord
from astropy.table import Table
from fields import copy_of, ingested, read_table, write_rows

import musedeep as md
from musedeep.combine import combine_exposures, rejected_rows
from musedeep.errors import InputError
from musedeep.grid import sky_frame
from musedeep.muse import DQ_BITS, origin_ifu, origin_slice, origin_y


def tables_of(field, grid):
    """Of each FITS table: date, facts, columns, and x and y of its rows in voxels, by the true pointings."""
    truth = json.loads((field.sources[0].files[0].parent / "truth.json").read_text())["exposures"]
    for source, facts in zip(field.sources, truth, strict=True):
        columns = read_table(source.files[0])
        cotangent, phi = -np.tan(columns["ypos"].astype(float)), columns["xpos"].astype(float)
        plane = np.stack([cotangent * np.sin(phi), -cotangent * np.cos(phi), np.ones(len(phi))])
        x, y, w = grid.from_sky(sky_frame(facts["ra_deg"], facts["dec_deg"], -facts["rotation_deg"])) @ plane
        yield source.date_obs[:23], facts, columns, x / w, y / w


def searched(field, grid, voxel):
    """Rows of all FITS tables that drizzle spreads over a voxel; a list of dict."""
    found = []
    for date, facts, columns, x, y in tables_of(field, grid):
        rows = reference.Rows(x, y, None, columns["lambda"], None, None, None, None, None)
        distances = reference.native_distances(rows, grid, *voxel)
        step, pixfrac = np.array([0.2 / 3600, 0.2 / 3600]), field.settings.combine.pixfrac
        weight = reference.drizzle(*distances, voxel[0], grid, step, pixfrac)
        for r in np.flatnonzero(weight > 1e-4):
            origin = columns["origin"][r]
            found.append(
                {
                    "key": (date, int(origin_ifu(origin)), int(origin_slice(origin)),
                            int(origin_y(origin)), int(origin >> 24)),
                    "origin": origin, "weight": weight[r] * facts["exptime"] / 900.0,
                    "value": columns["data"][r] * facts["flux_scale"], "dq": int(columns["dq"][r]),
                    "sigma": columns["stat"][r] ** 0.5 * facts["flux_scale"],
                }
            )  # fmt: skip
    return found


def traced(field, table):
    """Rows of a table of `trace` by the same key."""
    keys = {}
    for row in table:
        xoffset = field.exposures[str(row["date_obs"])].xoffsets()[row["ifu"], row["slice"]]
        column = int(row["column"]) - int(xoffset)
        key = str(row["date_obs"]), int(row["ifu"]), int(row["slice"]), int(row["line"]), column
        keys[key] = row
    return keys


@pytest.fixture(scope="module")
def deep(small):
    return combine_exposures(small).compute()


def interesting_voxels(deep):
    """A voxel with rejected rows, the brightest, one at the edge, and two at random."""
    flux = deep.flux.values
    rng = np.random.default_rng(4)
    yield tuple(
        int(v) for v in np.argwhere(deep.rejected_count.values == deep.rejected_count.values.max())[0]
    )
    yield tuple(int(v) for v in np.unravel_index(np.nanargmax(flux), flux.shape))
    filled = np.argwhere(np.isfinite(flux))
    yield tuple(int(v) for v in filled[0])
    for n in rng.integers(0, len(filled), 2):
        yield tuple(int(v) for v in filled[n])


def test_a_search_in_the_tables_finds_the_same_rows(small, deep):
    rejected = rejected_rows(small)
    grid = deep.muse.grid
    reasons = set()
    for voxel in interesting_voxels(deep):
        wavelength = float(deep.wavelength[voxel[0]])
        table = md.trace(deep, wavelength, grid.position(voxel[2], voxel[1]))
        assert table.meta["voxel"] == voxel
        found, wanted = traced(small, table), searched(small, grid, voxel)
        assert wanted
        assert {row["key"] for row in wanted} == {key for key, row in found.items() if row["weight"] > 1e-4}
        for row in wanted:
            mine = found[row["key"]]
            assert mine["weight"] == pytest.approx(row["weight"], abs=2e-4)
            assert mine["value"] == pytest.approx(row["value"], rel=1e-6)
            assert mine["sigma"] == pytest.approx(row["sigma"], rel=1e-6)
            outlier = row["dq"] == 0 and row["origin"] in rejected[row["key"][0]]
            assert mine["used"] == (row["dq"] == 0 and not outlier)
            flags = ", ".join(name for name, bit in DQ_BITS.items() if row["dq"] & bit)
            assert mine["reason"] == ("outlier" if outlier else f"flagged: {flags}" if flags else "")
            reasons.add(mine["reason"])
        assert table.meta["flux"] == pytest.approx(float(deep.flux[voxel]), rel=2e-6)
        assert table.meta["variance"] == pytest.approx(float(deep.variance[voxel]), rel=2e-6)
    assert "outlier" in reasons and "" in reasons


def test_flagged_rows_say_so(small, deep):
    """Cosmic rays that the tables flag, and nothing but the flag keeps them out."""
    grid = deep.muse.grid
    date, _, columns, x, y = next(tables_of(small, grid))
    inside = (x > 0) & (y > 0) & (x < grid.shape[2] - 1) & (y < grid.shape[1] - 1)
    for r in np.flatnonzero((columns["dq"] == DQ_BITS["cosmic_ray"]) & inside)[:3]:
        table = md.trace(deep, float(columns["lambda"][r]), grid.position(x[r], y[r]))
        mine = table[np.abs(table["value"] / columns["data"][r] - 1) < 1e-6]
        assert list(mine["reason"]) == ["flagged: cosmic_ray"] and not mine["used"][0]
        assert mine["date_obs"][0] == date
        assert (mine["ra"][0], mine["dec"][0]) == pytest.approx(grid.position(x[r], y[r]), abs=1e-8)


def test_masks_say_which(small, tmp_path):
    date = small.exposures.dates[1]
    masks = [
        {"wavelength": [6500.0, 6505.0], "exposures": [date]},
        {"ifu": [12, 13], "wavelength": [6507, 6509]},
    ]
    field = copy_of(small, tmp_path / "masked", masks=masks[:1])
    deep = combine_exposures(field)
    grid = deep.muse.grid
    place = grid.position(grid.shape[2] // 2, grid.shape[1] // 2)
    table = md.trace(deep, 6503.0, place)
    mine = table["date_obs"] == date
    assert mine.any() and not table["used"][mine].any() and table["used"][~mine].any()
    assert "masked: wavelength = (6500.0, 6505.0)" in table["reason"][mine]
    table = md.trace(combine_exposures(field, masks=masks), 6508.0, place)
    inside = (table["wavelength"] > 6507) & (table["wavelength"] < 6509)
    assert not table["used"][inside].any() and table["used"][~inside].any()
    assert "masked: ifu = (12, 13), wavelength = (6507.0, 6509.0)" in table["reason"][inside]


@pytest.mark.parametrize(
    "changes",
    [{"reject": "eso", "crsigma": 3}, {"resample": "lanczos"}, {"resample": "nearest"}, {"select": "half:B"}],
    ids=str,
)
def test_other_methods_add_up_too(small, changes):
    deep = combine_exposures(small, **changes).compute()
    for voxel in interesting_voxels(deep):
        table = md.trace(deep, float(deep.wavelength[voxel[0]]), deep.muse.grid.position(*voxel[:0:-1]))
        assert table.meta["flux"] == pytest.approx(float(deep.flux[voxel]), rel=2e-5, abs=1e-3)
        assert table["used"].sum() >= int(deep.exposure_count[voxel])
        if changes.get("resample") == "nearest":
            assert table["used"].sum() == 1


def test_a_cut_and_a_sky_coordinate_lead_to_the_same_rows(deep):
    grid = deep.muse.grid
    ra, dec = grid.position(14, 12)
    whole = md.trace(deep, 6505.0, (ra, dec))
    part = deep.isel(wavelength=slice(2, 9), y=slice(8, 20), x=slice(9, 20))
    cut = md.trace(part, 6505.0, SkyCoord(ra, dec, unit="deg"))
    assert cut.meta == whole.meta and (cut["value"] == whole["value"]).all()


def test_what_cannot_be_traced_is_refused(small, deep, tmp_path):
    place = deep.muse.grid.position(14, 12)
    with pytest.raises(InputError, match="outside of the cube"):
        md.trace(deep, 7000.0, place)
    with pytest.raises(InputError, match="outside of the cube"):
        md.trace(deep, 6505.0, (10.0, 20.0))
    with pytest.raises(InputError, match="no attribute 'folder'"):
        md.trace(deep.drop_attrs(), 6505.0, place)
    field = copy_of(small, tmp_path / "moved")
    older = combine_exposures(field)
    offsets = {"DATE_OBS": field.exposures.dates, "RA_OFFSET": [1e-4] * 4, "DEC_OFFSET": [0.0] * 4}
    path = tmp_path / "offsets.ecsv"
    Table(offsets).write(path)
    older.attrs["settings"]["combine"]["offsets"] = str(path)
    with pytest.raises(InputError, match="its flux_scale was|its ra_offset was"):
        md.trace(older, 6505.0, place)
    field.without(field.exposures.dates[0]).write()
    with pytest.raises(InputError, match=r"lists exposure .* no more"):
        md.trace(combine_exposures(small).assign_attrs(folder=str(field.folder)), 6505.0, place)


def test_rows_of_several_files_and_a_voxel_without_any(tmp_path):
    paths = [
        write_rows(tmp_path, [0.0, 1.0], [0.0, 1.0], [6500.0, 6510.0], [3.0, 4.0], number=n) for n in (1, 2)
    ]
    deep = combine_exposures(ingested(paths, tmp_path / "field", reject="none"))
    grid = deep.muse.grid
    table = md.trace(deep, 6500.0, grid.position(*grid.pixel(53.1, -27.8)))
    assert len(table) == 2 and set(table["value"]) == {3.0}
    empty = md.trace(deep, 6505.0, grid.position(0, 0))
    assert len(empty) == 0 and np.isnan(empty.meta["flux"])
