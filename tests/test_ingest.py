"""Every usable row of a pixel table is in the store once, where it belongs, however it got there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fields import (
    ARCSEC,
    FOUR,
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

from musedeep import ingest
from musedeep.errors import InputError, MemoryLimitError
from musedeep.ingest import ingest_exposures
from musedeep.plan import part_rows
from musedeep.recipe import prepare
from musedeep.simulate import simulate_exposures
from musedeep.store import PartReader, PixelStore


def rows_in_store(field, name):
    """All rows of an exposure in the store, sorted by their origin; dict of arrays, and its facts."""
    store = PixelStore(field.pixels_path)
    facts = store.exposures()[name]
    pieces = []
    for part, inner in facts["parts"].items():
        reader = PartReader(store.path / name / part, inner, 6 if facts["weighted"] else 5)
        count = inner["row_count"]
        integers = [reader.read_flat(kind, 0, count) for kind in ("dq", "slice", "origin")]
        pieces.append([*reader.read_flat("rows", 0, count), *integers])
        reader.close()
    columns = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
    names = [
        "x",
        "y",
        "wavelength",
        "value",
        "variance",
        *["weight"] * facts["weighted"],
        "dq",
        "slice",
        "origin",
    ]
    order = np.argsort(columns[-1], kind="stable")
    return {key: values[order] for key, values in zip(names, columns, strict=True)}, facts


def unit_vectors(xpos, ypos, ra_deg, dec_deg):
    """Directions of rows by spherical trigonometry (Calabretta & Greisen 2002), float64."""
    phi, theta = xpos.astype(np.float64), ypos.astype(np.float64) + np.pi / 2
    dec0 = np.radians(dec_deg)
    ra = np.radians(ra_deg) + np.arctan2(
        np.cos(theta) * np.sin(phi), np.sin(theta) * np.cos(dec0) + np.cos(theta) * np.sin(dec0) * np.cos(phi)
    )
    dec = np.arcsin(np.sin(theta) * np.sin(dec0) - np.cos(theta) * np.cos(dec0) * np.cos(phi))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def vectors_of_plane(x_arcsec, y_arcsec, ra_deg, dec_deg):
    """Directions of points on a tangent plane."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    east = np.array([-np.sin(ra), np.cos(ra), 0])
    north = np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    pole = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    vectors = np.outer(east, x_arcsec / ARCSEC) + np.outer(north, y_arcsec / ARCSEC) + pole[:, None]
    return vectors / np.linalg.norm(vectors, axis=0)


def assert_rows_are_those_of_the_file(field, exposure):
    table = read_table(exposure.tables[0].path)
    order = np.argsort(table["origin"], kind="stable")
    rows, facts = rows_in_store(field, exposure.name)
    assert len(np.unique(table["origin"])) == exposure.row_count == facts["row_count"]
    for stored, column in (
        ("wavelength", "lambda"), ("value", "data"), ("variance", "stat"), ("dq", "dq"), ("origin", "origin")
    ):  # fmt: skip
        np.testing.assert_array_equal(rows[stored], table[column][order], column)
    number = 48 * (((table["origin"] >> 6) & 0x1F).astype(int) - 1) + (table["origin"] & 0x3F)
    np.testing.assert_array_equal(rows["slice"], number[order])
    wanted = unit_vectors(table["xpos"][order], table["ypos"][order], exposure.ra_deg, exposure.dec_deg)
    x0, y0 = facts["origin_arcsec"]
    tangent = PixelStore(field.pixels_path).tangent
    found = vectors_of_plane(rows["x"].astype(float) + x0, rows["y"].astype(float) + y0, *tangent)
    assert np.linalg.norm(found - wanted, axis=0).max() * ARCSEC < 3e-5
    assert facts["flagged_count"] == np.count_nonzero(table["dq"])
    assert facts["dropped_count"] == 0


def stop(*args):
    raise InputError("stopped")


def count_parts(monkeypatch):
    """A list that receives the name of every part that is written from now on."""
    written, write = [], PixelStore.write_part

    def counted(self, exposure, part, *args):
        write(self, exposure, part, *args)
        written.append((exposure, part))

    monkeypatch.setattr(PixelStore, "write_part", counted)
    return written


# ------------------------------------------------------------------------------------------------- the rows


def test_every_row_is_there_once_and_in_its_place(four):
    for exposure in four.exposures:
        assert_rows_are_those_of_the_file(four, exposure)


@pytest.mark.parametrize(
    "ra, dec", [(0.0001, 0.0), (359.9999, -60.0), (200.0, 89.995), (10.0, -89.99), (120.0, 75.0)]
)
def test_places_are_right_everywhere_on_the_sky(tmp_path, ra, dec):
    paths = simulate_exposures(
        tmp_path, exposures=2, field_arcsec=4.0, wavelength=(6500, 6503), ra_deg=ra, dec_deg=dec,
        dither_arcsec=5.0, fov_images=False,
    )  # fmt: skip
    field = ingested(paths, tmp_path / "field")
    for exposure in field.exposures:
        assert_rows_are_those_of_the_file(field, exposure)


def test_rows_far_from_the_pointing_are_in_their_place(tmp_path):
    """The corners of the field of view are 45 arcsec from the pointing, those of a turned one no further."""
    east, north = (axis.ravel() for axis in np.meshgrid(np.linspace(-60, 60, 41), np.linspace(-60, 60, 41)))
    path = write_rows(tmp_path, east, north, 6500.0, 1.0, origin=np.arange(1681) << 11)
    field = ingested([path], tmp_path / "field")
    rows, facts = rows_in_store(field, field.exposures[0].name)
    tangent = PixelStore(field.pixels_path).tangent
    assert tangent == (53.0, -28.0)  # whole degrees
    order = np.argsort(rows["origin"])
    x0, y0 = facts["origin_arcsec"]
    x, y = rows["x"][order].astype(float) + x0, rows["y"][order].astype(float) + y0
    found = vectors_of_plane(x, y, *tangent)
    wanted = vectors_of_plane(east, north, 53.1, -27.8)
    assert np.linalg.norm(found - wanted, axis=0).max() * ARCSEC < 3e-5


def test_unusable_rows_are_dropped_and_counted(tmp_path, monkeypatch):
    count = 5000
    rng = np.random.default_rng(0)
    wavelength = rng.uniform(6500, 6530, count).astype(np.float32)
    data, stat = np.ones(count, np.float32), np.ones(count, np.float32)
    wavelength[[0, 4900]] = np.nan, -np.inf
    data[[1, 7, 9]] = np.nan, np.inf, -np.inf
    stat[[2, 8]] = np.nan, -1
    path = write_rows(tmp_path, rng.uniform(-3, 3, count), rng.uniform(-3, 3, count), wavelength, data, stat,
                      origin=np.arange(count) << 11)  # fmt: skip
    bad = [0, 1, 2, 7, 8, 9, 10, 11, 4900]
    change_table(path, {"xpos": lambda v: np.where(np.arange(count) == 10, np.nan, v)})
    change_table(path, {"ypos": lambda v: np.where(np.arange(count) == 11, np.inf, v)})
    for most_rows in (10**6, 1000):
        monkeypatch.setattr(ingest, "MOST_ROWS", most_rows)
        field = ingested([path], tmp_path / f"field{most_rows}")
        rows, facts = rows_in_store(field, field.exposures[0].name)
        np.testing.assert_array_equal(rows["origin"] >> 11, np.delete(np.arange(count), bad))
        assert facts["dropped_count"] == len(bad) and facts["row_count"] == count - len(bad)
    assert len(facts["parts"]) > 3


def test_a_variance_of_zero_is_no_fault(tmp_path):
    field = ingested(
        [write_rows(tmp_path, np.arange(5.0), np.zeros(5), 6500.0, 1.0, stat=0.0)], tmp_path / "field"
    )
    assert rows_in_store(field, field.exposures[0].name)[1]["row_count"] == 5


def test_the_weight_column_is_kept(tmp_path):
    weight = np.linspace(0, 2, 50, dtype=np.float32)
    weight[[3, 5]] = np.nan, np.inf
    path = write_rows(tmp_path, np.linspace(-2, 2, 50), np.linspace(-1, 2, 50), 6500.0, 1.0, weight=weight,
                      origin=np.arange(50) << 11)  # fmt: skip
    field = ingested([path], tmp_path / "field")
    weight[[3, 5]] = 0  # of no weight, and used where weights do not matter
    np.testing.assert_array_equal(rows_in_store(field, field.exposures[0].name)[0]["weight"], weight)


def test_the_outline_holds_all_rows_and_little_more(four):
    for exposure in four.exposures:
        rows, facts = rows_in_store(four, exposure.name)
        hull = np.array(facts["hull_arcsec"])
        edges = np.roll(hull, -1, axis=0) - hull
        points = np.stack([rows["x"], rows["y"]], -1).astype(float)
        side = np.stack(
            [
                e[0] * (points[:, 1] - h[1]) - e[1] * (points[:, 0] - h[0])
                for h, e in zip(hull, edges, strict=True)
            ]
        )
        side /= np.hypot(*edges.T)[:, None]
        side *= np.sign(np.median(side))
        assert side.min() > -1e-5
        assert points.min(axis=0) == pytest.approx(hull.min(axis=0), abs=0.06)
        assert points.max(axis=0) == pytest.approx(hull.max(axis=0), abs=0.06)


# ------------------------------------------------------------------------------------------------ the files


@pytest.mark.parametrize(
    "form", [{"layout": "table"}, {"split_ifus": True}, {"layout": "table", "split_ifus": True}]
)
def test_the_form_of_the_files_does_not_matter(four, four_maps, tmp_path, form):
    paths = simulate_exposures(tmp_path, **(FOUR | form))
    assert len(paths) > 4 or "split_ifus" not in form
    field = ingested(paths, tmp_path / "field", offsets=tmp_path / "OFFSET_LIST.fits")
    assert_same_bits(maps_of(field), four_maps)


def test_the_order_of_rows_matters_to_the_last_digit_only(four, four_maps, tmp_path):
    paths = simulate_exposures(tmp_path, **(FOUR | {"shuffle_rows": True}))
    field = ingested(paths, tmp_path / "field", offsets=tmp_path / "OFFSET_LIST.fits")
    maps = maps_of(field)
    for name in ("exposure_count", "exposure_time", "rejected_count"):
        np.testing.assert_array_equal(maps[name], four_maps[name], name)
    for name in ("flux", "variance", "weight"):
        np.testing.assert_allclose(maps[name], four_maps[name], rtol=2.5e-7, atol=1e-6, err_msg=name)


# -------------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize("most_rows", [12000, 4000, 1])
def test_parts_by_wavelength_give_the_same_bits(four, four_maps, tmp_path, monkeypatch, most_rows):
    monkeypatch.setattr(ingest, "MOST_ROWS", most_rows)
    field = ingested(files_of(four), tmp_path, offsets=four.settings.combine.offsets)
    facts = PixelStore(field.pixels_path).exposures()
    assert all(len(exposure["parts"]) > 1 for exposure in facts.values())
    for exposure in field.exposures:
        assert_rows_are_those_of_the_file(field, exposure)
    assert_same_bits(maps_of(field), four_maps)


def test_little_memory_makes_small_parts_and_too_little_is_refused(four, tmp_path):
    field = make_field(files_of(four), tmp_path, memory="278MB", workers=1)
    assert part_rows(field.settings.run)[0] < 300_000
    ingest_exposures(field)
    with pytest.raises(MemoryLimitError, match="memory = 275MB: .* needs at least 27[0-9] MB"):
        ingest_exposures(field.changed(memory="275MB"))


def test_what_is_there_is_not_done_again(four, tmp_path, monkeypatch):
    field = copy_of(four, tmp_path)
    written = count_parts(monkeypatch)
    ingest_exposures(field)
    assert written == []


@pytest.mark.parametrize("stop_after", [0, 1, 5, 9])
def test_an_interrupted_ingest_goes_on_where_it_was(four, four_maps, tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr(ingest, "MOST_ROWS", 6000)
    field = make_field(files_of(four), tmp_path, offsets=four.settings.combine.offsets)
    written = count_parts(monkeypatch)
    counted = PixelStore.write_part

    def interrupted(self, *args):
        if len(written) == stop_after:
            raise InputError("stopped")
        counted(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PixelStore, "write_part", interrupted)
        with pytest.raises(InputError, match="stopped"):
            ingest_exposures(field)
    assert len(written) == stop_after
    ingest_exposures(field)
    assert len(set(written)) == len(written) == 12  # each part once
    assert_same_bits(maps_of(field), four_maps)
    assert not any(path.is_dir() for path in PixelStore(field.pixels_path).staging("x").parent.glob("*"))


def test_an_interrupted_ingest_goes_on_with_other_memory(four, four_maps, tmp_path, monkeypatch):
    """Parts of another cut must not stay beside the new ones."""
    field = make_field(files_of(four), tmp_path, offsets=four.settings.combine.offsets)
    write = PixelStore.write_part

    def interrupted(self, exposure, part, *args):
        if written:
            raise InputError("stopped")
        written.append(part)
        write(self, exposure, part, *args)

    for most_rows in (12000, 6000, 4000):
        written = []
        monkeypatch.setattr(ingest, "MOST_ROWS", most_rows)
        with monkeypatch.context() as patch:
            patch.setattr(PixelStore, "write_part", interrupted)
            with pytest.raises(InputError, match="stopped"):
                ingest_exposures(field)
    staging = PixelStore(field.pixels_path).staging(field.exposures[0].name)
    assert len(list(staging.glob("part*"))) > 1
    monkeypatch.setattr(ingest, "MOST_ROWS", 10**6)
    ingest_exposures(field)
    for exposure in field.exposures:
        assert_rows_are_those_of_the_file(field, exposure)
        left = [path.name for path in (field.pixels_path / exposure.name).iterdir()]
        assert sorted(left) == ["part000", "zarr.json"]
    assert_same_bits(maps_of(field), four_maps)


@pytest.mark.parametrize("method", ["commit", "write_part"])
def test_a_crash_while_an_exposure_gets_its_name_is_mended(four, four_maps, tmp_path, monkeypatch, method):
    """Everything is written but not renamed."""
    field = make_field(files_of(four), tmp_path, offsets=four.settings.combine.offsets)
    rename = Path.rename

    def crash(self, target):
        if (self.parent.name == "pixels.zarr.partial") == (method == "commit") and "pixels" in str(self):
            raise InputError("stopped")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(InputError, match="stopped"):
            ingest_exposures(field)
    store = PixelStore(field.pixels_path)
    assert store.exposures() == {}
    # what zarr leaves when it is killed while it writes
    (store.staging(field.exposures[0].name) / "zarr.0123abcd.partial").write_bytes(b"{")
    ingest_exposures(field)
    assert not list(field.pixels_path.rglob("*.partial"))
    assert_same_bits(maps_of(field), four_maps)


# ---------------------------------------------------------------------------------------------- changed input


def test_a_changed_file_is_taken_in_again_and_it_alone(four, tmp_path, monkeypatch):
    paths = [shutil.copy2(path, tmp_path) for path in files_of(four)]
    field = ingested(paths, tmp_path / "field")
    before = maps_of(field)
    change_table(tmp_path / "PIXTABLE_REDUCED_0002.fits", {"data": lambda v: v + 10})
    field = make_field(paths, tmp_path / "field")
    with pytest.raises(
        InputError, match="PIXTABLE_REDUCED_0002.fits: the file changed after .*ingest stage again"
    ):
        prepare(field)
    written = count_parts(monkeypatch)
    ingest_exposures(field)
    assert [name for name, _ in written] == [field.exposures[1].name]
    assert_rows_are_those_of_the_file(field, field.exposures[1])
    assert np.nanmean(maps_of(field, reject="none")["flux"]) > np.nanmean(before["flux"]) + 1


def test_a_moved_file_is_not_taken_in_again(four, tmp_path, monkeypatch):
    field = copy_of(four, tmp_path / "field")
    (tmp_path / "elsewhere").mkdir()
    paths = [shutil.copy2(path, tmp_path / "elsewhere") for path in files_of(four)]
    written = count_parts(monkeypatch)
    ingest_exposures(make_field(paths, field.folder))
    assert written == []


def test_parts_of_a_file_that_changed_meanwhile_are_not_kept(four, tmp_path, monkeypatch):
    monkeypatch.setattr(ingest, "MOST_ROWS", 6000)
    path = shutil.copy2(files_of(four)[0], tmp_path)
    field = make_field([path], tmp_path / "field")
    with monkeypatch.context() as patch:
        patch.setattr(PixelStore, "commit", stop)
        with pytest.raises(InputError, match="stopped"):
            ingest_exposures(field)
    change_table(path, {"data": lambda v: -v})
    field = make_field([path], tmp_path / "field")
    ingest_exposures(field)
    assert_rows_are_those_of_the_file(field, field.exposures[0])


# ---------------------------------------------------------------------------------------------- broken values


@pytest.mark.parametrize("most_rows", [10**6, 10])
@pytest.mark.parametrize("column", ["lambda", "data", "stat", "xpos"])
def test_an_exposure_without_a_usable_row_is_named(tmp_path, monkeypatch, column, most_rows):
    monkeypatch.setattr(ingest, "MOST_ROWS", most_rows)
    path = write_rows(
        tmp_path, np.linspace(-2, 2, 50), np.linspace(-1, 2, 50), np.linspace(6500, 6520, 50), 1.0
    )
    change_table(path, {column: lambda v: v * np.nan})
    with pytest.raises(
        InputError, match="2014-08-10T01:01:00.000 .*0001.fits.*none of its 50 rows has usable"
    ):
        ingested([path], tmp_path / "field")


def test_a_table_without_rows_is_named(tmp_path):
    path = write_rows(tmp_path, np.zeros(0), np.zeros(0), 6500.0, 1.0)
    with pytest.raises(InputError, match="0001.fits.*none of its 0 rows has usable"):
        ingested([path], tmp_path / "field")


@pytest.mark.parametrize("most_rows", [10**6, 10])
@pytest.mark.parametrize("value", [0.0, -6500.0, 650.0, 1e6, 3e38])
def test_rows_of_impossible_wavelengths_are_dropped(tmp_path, monkeypatch, value, most_rows):
    monkeypatch.setattr(ingest, "MOST_ROWS", most_rows)
    wavelength = np.linspace(6500, 6520, 50)
    wavelength[20] = value
    path = write_rows(
        tmp_path, np.linspace(-2, 2, 50), np.linspace(-1, 2, 50), wavelength, 1.0, origin=np.arange(50)
    )
    field = ingested([path], tmp_path / "field")
    rows, facts = rows_in_store(field, field.exposures[0].name)
    assert facts["row_count"] == 49 and facts["dropped_count"] == 1 and 20 not in rows["origin"]
    assert facts["wavelength"] == [6500, 6520]


def test_wavelengths_in_nanometres_are_told(tmp_path):
    path = write_rows(tmp_path, np.linspace(-2, 2, 50), np.linspace(-1, 2, 50), 650.0, 1.0)
    with pytest.raises(InputError, match="none of its 50 rows .* a wavelength in Angstrom"):
        ingested([path], tmp_path / "field")


@pytest.mark.parametrize("column, value", [("ypos", -0.01), ("ypos", 1e30), ("ypos", 0.5)])
def test_impossible_positions_are_told(tmp_path, column, value):
    path = write_rows(tmp_path, np.linspace(-2, 2, 50), np.linspace(-1, 2, 50), 6500.0, 1.0)
    change_table(path, {column: lambda v: np.where(np.arange(50) == 20, value, v)})
    with pytest.raises(InputError, match="20140810T010100.000 .*0001.fits.*arcsec from the pointing.*broken"):
        ingested([path], tmp_path / "field")


def test_files_of_one_exposure_agree_about_a_weight_column(tmp_path):
    paths = [
        write_rows(
            tmp_path / f"{ifu}.fits", np.linspace(-2, 2, 50), np.linspace(-1, 2, 50), 6500.0, 1.0,
            weight=weight, EXTNAME=f"CHAN{ifu:02d}",
        )
        for ifu, weight in ((3, 1.0), (4, None))
    ]  # fmt: skip
    with pytest.raises(InputError, match="20140810T010100.000: some of its files have a column weight"):
        ingested(paths, tmp_path / "field")
