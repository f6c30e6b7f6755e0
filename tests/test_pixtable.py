"""Pixel tables: both layouts, byte ranges, exposures, and every file that is not usable."""

import gzip
import os
import pickle
import time

import numpy as np
import pytest
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.muse import COLUMNS, UNITS, xoffset_keyword
from musedeep.pixtable import group_exposures, open_pixel_table

ROWS = 5000
FACTS = {
    "DATE-OBS": "2014-08-10T01:02:03.456",
    "MJD-OBS": 56879.04,
    "EXPTIME": 1500.0,
    "RA": 53.16,
    "DEC": -27.78,
    "OBJECT": "UDF-10",
    "ESO INS MODE": "WFM-NOAO-N",
    "ESO INS DROT POSANG": 30.0,
    "ESO INS DROT MODE": "SKY",
    "ESO OBS ID": 200342,
    "ESO OBS NAME": "UDF10-1",
    "ESO OBS PROG ID": "094.A-0289(B)",
    "ESO DRS MUSE PIXTABLE TYPE": "GEOFULL",
    xoffset_keyword(2, 3): 321,
}


@pytest.fixture
def columns():
    rng = np.random.default_rng(7)
    return {
        name: rng.integers(0, 1 << 32, ROWS, dtype=np.uint32) if kind == "uint32"
        else rng.normal(size=ROWS).astype(np.float32)
        for name, kind in COLUMNS.items()
    }  # fmt: skip


def write_table(path, columns, layout="image", facts=None, units=UNITS, change=None):
    """Write a pixel table with astropy; `change` may alter the HDUs before."""
    primary = fits.PrimaryHDU()
    for name, value in (FACTS | (facts or {})).items():
        if value is not None:
            primary.header[f"HIERARCH {name}" if " " in name else name] = value
    columns = {name: c.view(np.int32) if c.dtype == np.uint32 else c for name, c in columns.items()}
    if layout == "image":
        hdus = [fits.ImageHDU(column.reshape(-1, 1)) for column in columns.values()]
        for name, hdu in zip(columns, hdus, strict=True):
            hdu.header["EXTNAME"] = name
            if units.get(name):
                hdu.header["BUNIT"] = units[name]
    else:
        codes = {"f": "E", "i": "J"}
        hdus = [
            fits.BinTableHDU.from_columns(
                [
                    fits.Column(name, codes[column.dtype.kind], unit=units.get(name) or None, array=column)
                    for name, column in columns.items()
                ]
            )
        ]
    hdus = fits.HDUList([primary, *hdus])
    if change is not None:
        change(hdus)
    hdus.writeto(path)
    return path


@pytest.fixture(params=["image", "table"])
def layout(request):
    return request.param


def test_columns_come_back_bit_by_bit(tmp_path, columns, layout):
    table = open_pixel_table(write_table(tmp_path / "a.fits", columns, layout))
    assert table.layout == layout
    assert table.row_count == ROWS
    assert table.coordinate_state == "rad"
    for name, column in columns.items():
        for start, stop in ((0, None), (17, 1203), (ROWS - 1, ROWS), (40, 40)):
            values = table.read(name, start, stop)
            assert values.dtype == np.dtype(COLUMNS[name])
            assert values.dtype.isnative
            np.testing.assert_array_equal(values.view(np.uint32), column[start:stop].view(np.uint32))


def test_both_layouts_give_the_same(tmp_path, columns):
    image = open_pixel_table(write_table(tmp_path / "a.fits", columns))
    table = open_pixel_table(write_table(tmp_path / "b.fits", columns, "table"))
    names = list(COLUMNS)
    one, other = image.read_columns(names, 100, 4000), table.read_columns(names, 100, 4000)
    for name in names:
        np.testing.assert_array_equal(one[name].view(np.uint32), other[name].view(np.uint32))


def test_table_with_foreign_columns_and_heap_of_other_types(tmp_path, columns):
    extra = {"spare": np.zeros(ROWS, np.int32)}

    def add(hdus):
        names = [
            fits.Column("word", "5A", array=["abcde"] * ROWS),
            fits.Column("bits", "11X", array=np.ones((ROWS, 11))),
        ]
        hdus[1] = fits.BinTableHDU.from_columns(names + list(hdus[1].columns))

    table = open_pixel_table(write_table(tmp_path / "a.fits", extra | columns, "table", change=add))
    for name, column in columns.items():
        np.testing.assert_array_equal(table.read(name, 3, 77).view(np.uint32), column[3:77].view(np.uint32))


def test_long_reads_of_a_table_pass_through_in_pieces(tmp_path, columns, monkeypatch):
    monkeypatch.setattr("musedeep.pixtable.table._READ_BYTES", 1000)
    table = open_pixel_table(write_table(tmp_path / "a.fits", columns, "table"))
    values = table.read_columns(["data", "origin"], 5, ROWS)
    np.testing.assert_array_equal(values["data"], columns["data"][5:])
    np.testing.assert_array_equal(values["origin"], columns["origin"][5:])


def test_reads_only_the_bytes_of_the_range(tmp_path, columns, monkeypatch):
    table = open_pixel_table(write_table(tmp_path / "a.fits", columns))
    sizes = []
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: sizes.append(read(fd, views, at)) or sizes[-1])
    table.read("data", 100, 150)
    assert sizes == [200]


def test_optional_weight_column(tmp_path, columns, layout):
    columns["weight"] = np.full(ROWS, 1.5, np.float32)
    table = open_pixel_table(write_table(tmp_path / "a.fits", columns, layout))
    np.testing.assert_array_equal(table.read("weight", 0, 9), np.full(9, 1.5, np.float32))


def test_flat_field_spectrum_is_passed_over(tmp_path, columns, layout):
    def append(hdus):
        hdus.append(
            fits.BinTableHDU.from_columns(
                [
                    fits.Column("lambda", "D", array=np.arange(5.0)),
                    fits.Column("data", "D", array=np.ones(5)),
                ],
                name="PIXTABLE_FLAT_FIELD",
            )
        )

    table = open_pixel_table(write_table(tmp_path / "a.fits", columns, layout, change=append))
    np.testing.assert_array_equal(table.read("lambda"), columns["lambda"])


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (0, ROWS + 1), (9, 3)])
def test_rows_outside_the_table_are_refused(tmp_path, columns, start, stop):
    table = open_pixel_table(write_table(tmp_path / "a.fits", columns))
    with pytest.raises(InputError, match=f"rows {start} to {stop} asked of a table of {ROWS} rows"):
        table.read("data", start, stop)


def test_wavelength_runs_hold_all_rows_in_range_and_few_others(tmp_path, columns):
    # two slices, each running through the wavelengths
    columns["lambda"] = np.tile(np.linspace(5000, 6000, ROWS // 2, dtype=np.float32), 2)
    table = open_pixel_table(write_table(tmp_path / "a.fits", columns))
    runs = table.wavelength_runs(5200, 5300)
    assert len(runs) == 2
    inside = np.zeros(ROWS, bool)
    for start, stop in runs:
        inside[start:stop] = True
    np.testing.assert_array_equal(inside, (columns["lambda"] >= 5200) & (columns["lambda"] <= 5300))
    assert len(table.wavelength_runs(7000, 8000)) == 0
    assert table.wavelength_runs(0, 1e4).tolist() == [[0, ROWS]]
    assert table.wavelength_runs(5200, 5300, join_rows=ROWS).tolist() == [[runs[0, 0], runs[1, 1]]]


def test_wavelength_runs_do_not_break_where_reading_does(tmp_path, columns, monkeypatch):
    monkeypatch.setattr("musedeep.pixtable.table._READ_BYTES", 400)
    columns["lambda"] = np.linspace(5000, 6000, ROWS, dtype=np.float32)
    table = open_pixel_table(write_table(tmp_path / "a.fits", columns))
    inside = np.flatnonzero((columns["lambda"] >= 5100) & (columns["lambda"] <= 5900))
    assert table.wavelength_runs(5100, 5900, join_rows=1).tolist() == [[inside[0], inside[-1] + 1]]


def test_a_nine_gigabyte_file_opens_in_milliseconds(tmp_path):
    rows = 325_000_000
    path = tmp_path / "big.fits"
    primary = fits.Header([("SIMPLE", True), ("BITPIX", 8), ("NAXIS", 0), ("EXTEND", True)])
    for name, value in FACTS.items():
        primary[f"HIERARCH {name}" if " " in name else name] = value
    for ifu in range(1, 25):
        for number in range(1, 49):
            primary[f"HIERARCH {xoffset_keyword(ifu, number)}"] = 10 * ifu + number
    with path.open("wb") as file:
        file.write(primary.tostring().encode())
        for name, kind in COLUMNS.items():
            header = fits.Header(
                [
                    ("XTENSION", "IMAGE"),
                    ("BITPIX", -32 if kind == "float32" else 32),
                    ("NAXIS", 2),
                    ("NAXIS1", 1),
                    ("NAXIS2", rows),
                    ("PCOUNT", 0),
                    ("GCOUNT", 1),
                    ("EXTNAME", name),
                ]
            )
            if UNITS[name]:
                header["BUNIT"] = UNITS[name]
            file.write(header.tostring().encode())
            file.truncate(file.tell() + -(-4 * rows // 2880) * 2880)
            file.seek(0, os.SEEK_END)
        size = file.tell()
    assert size > 9e9
    with path.open("r+b") as file:
        file.seek(open_pixel_table(path).columns["stat"].offset_bytes + 4 * (rows - 2))
        file.write(np.array([1.5, 2.5], ">f4").tobytes())
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        table = open_pixel_table(path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
    assert table.read("stat", rows - 2).tolist() == [1.5, 2.5]
    assert group_exposures([path])[0].xoffsets()[24, 48] == 288
    os.truncate(path, size - 4000)
    with pytest.raises(InputError, match=r"truncated: extension 7 \(origin\) needs \d+ bytes"):
        open_pixel_table(path)


def test_tables_and_exposures_travel_to_other_processes(tmp_path, columns):
    exposure = group_exposures([write_table(tmp_path / "a.fits", columns)])[0]
    again = pickle.loads(pickle.dumps(exposure))
    np.testing.assert_array_equal(again.tables[0].read("data", 5, 9), columns["data"][5:9])
    assert again.fingerprint == exposure.fingerprint


# files that cannot be used


def refused(path, match):
    with pytest.raises(InputError, match=match) as caught:
        open_pixel_table(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    refused(tmp_path / "no.fits", "cannot be opened .No such file")


def test_text_file(tmp_path):
    path = tmp_path / "a.fits"
    path.write_text("hello")
    refused(path, "not a FITS file .it does not begin with SIMPLE")


def test_empty_file(tmp_path):
    path = tmp_path / "a.fits"
    path.touch()
    refused(path, "not a FITS file .it is empty|no extension")


def test_compressed_file(tmp_path, columns):
    path = tmp_path / "a.fits.gz"
    path.write_bytes(gzip.compress(write_table(tmp_path / "a.fits", columns).read_bytes()))
    refused(path, "compressed, unpack it first")


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.2])
def test_truncated_file(tmp_path, columns, layout, keep):
    path = write_table(tmp_path / "a.fits", columns, layout)
    # the padding behind the data may be missing without harm
    os.truncate(path, int((path.stat().st_size - 2880) * keep))
    refused(path, "truncated")


def test_file_cut_within_the_header(tmp_path, columns):
    path = write_table(tmp_path / "a.fits", columns)
    os.truncate(path, 1000)
    refused(path, "truncated: the header at byte 0 has no end")


def test_file_cut_after_it_was_opened(tmp_path, columns, layout):
    table = open_pixel_table(write_table(tmp_path / "a.fits", columns, layout))
    os.truncate(table.path, 12000)
    with pytest.raises(InputError, match="a.fits: truncated: the file ends at byte 12000"):
        table.read("stat")


def test_broken_header(tmp_path, columns):
    path = write_table(tmp_path / "a.fits", columns)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"BITPIX  =", b"BROKEN  =", 1))
    refused(path, "broken header at byte 0")


def test_file_without_extensions(tmp_path):
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(tmp_path / "a.fits")
    refused(tmp_path / "a.fits", "not a pixel table: it has no extension")


def test_cube_instead_of_a_pixel_table(tmp_path):
    primary = fits.PrimaryHDU()
    primary.header["HIERARCH ESO PRO CATG"] = "DATACUBE_FINAL"
    fits.HDUList([primary, fits.ImageHDU(np.zeros((3, 4, 5)), name="DATA")]).writeto(tmp_path / "a.fits")
    refused(tmp_path / "a.fits", "not a pixel table: none of the columns.*DATACUBE_FINAL.*PIXTABLE_REDUCED")


@pytest.mark.parametrize("name", COLUMNS)
def test_missing_column(tmp_path, columns, layout, name):
    del columns[name]
    refused(write_table(tmp_path / "a.fits", columns, layout), f"column '{name}' is missing")


@pytest.mark.parametrize(("name", "dtype"), [("data", np.float64), ("origin", np.int16), ("dq", np.float32)])
def test_wrong_type(tmp_path, columns, name, dtype):
    columns[name] = np.zeros(ROWS, dtype)
    found = np.dtype(dtype).name
    wanted = COLUMNS[name].replace("uint", "int")
    refused(
        write_table(tmp_path / "a.fits", columns), f"column '{name}' has type {found}; {wanted} is wanted"
    )


def test_wrong_type_in_a_binary_table(tmp_path, columns):
    def widen(hdus):
        others = [column for column in hdus[1].columns if column.name != "stat"]
        hdus[1] = fits.BinTableHDU.from_columns(
            [*others, fits.Column("stat", "D", unit="a", array=np.zeros(ROWS))]
        )

    refused(
        write_table(tmp_path / "a.fits", columns, "table", change=widen), "column 'stat' has type D; float32"
    )


def test_scaled_column(tmp_path, columns):
    def scale(hdus):
        hdus["dq"].header["BZERO"] = 2147483648

    path = write_table(tmp_path / "a.fits", columns)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        scale(hdus)
    refused(path, r"column 'dq' is scaled \(1 \* value \+ 2147483648\)")


@pytest.mark.parametrize(
    ("unit", "answer"),
    [
        ("deg", "PIXTABLE_COMBINED or PIXTABLE_POSITIONED.*give PIXTABLE_REDUCED"),
        ("pix", "not projected to the sky yet; run muse_scipost"),
        ("mm", "has unit 'mm', 'rad' is wanted"),
        ("", "has unit '', 'rad' is wanted"),
    ],
)
@pytest.mark.parametrize("name", ["xpos", "ypos"])
def test_coordinates_in_another_state(tmp_path, columns, layout, name, unit, answer):
    units = UNITS | {name: unit}
    refused(write_table(tmp_path / "a.fits", columns, layout, units=units), f"column '{name}'.*{answer}")


def test_wavelengths_in_another_unit(tmp_path, columns, layout):
    path = write_table(tmp_path / "a.fits", columns, layout, units=UNITS | {"lambda": "nm"})
    refused(path, "column 'lambda' has unit 'nm'; 'Angstrom' is wanted")


def test_variance_that_is_not_the_square(tmp_path, columns, layout):
    path = write_table(tmp_path / "a.fits", columns, layout, units=UNITS | {"stat": "count**2"})
    refused(path, r"column 'stat' has unit 'count\*\*2'; the square of")


def test_counts_are_a_unit_too(tmp_path, columns, layout):
    units = UNITS | {"data": "count", "stat": "count**2"}
    assert open_pixel_table(write_table(tmp_path / "a.fits", columns, layout, units=units)).row_count == ROWS


def test_columns_of_different_length(tmp_path, columns):
    columns["stat"] = columns["stat"][:-1]
    refused(write_table(tmp_path / "a.fits", columns), "different lengths .*data 5000.*stat 4999")


def test_column_that_is_no_column(tmp_path, columns):
    columns["stat"] = columns["stat"]

    def widen(hdus):
        hdus["stat"].data = np.zeros((5, 7), np.float32)

    refused(write_table(tmp_path / "a.fits", columns, change=widen), "column 'stat' has shape 7 x 5")


def test_column_that_is_there_twice(tmp_path, columns):
    def double(hdus):
        hdus.append(hdus["dq"].copy())

    refused(write_table(tmp_path / "a.fits", columns, change=double), "two extensions bear the name 'dq'")


def test_table_without_a_second_coordinate(tmp_path, columns):
    path = write_table(tmp_path / "a.fits", columns, facts={"ESO DRS MUSE PIXTABLE TYPE": "SIMPLE"})
    refused(path, "type 'SIMPLE'; GEOFULL")


# exposures


def test_facts_of_an_exposure(tmp_path, columns):
    cd = {"CD1_1": -5e-5, "CD1_2": 1e-6, "CD2_1": 2e-6, "CD2_2": 6e-5}
    exposure = group_exposures(write_table(tmp_path / "a.fits", columns, facts=cd))[0]
    assert exposure.date_obs == "2014-08-10T01:02:03.456"
    assert exposure.name == "20140810T010203.456"
    assert (exposure.mjd_obs, exposure.exptime) == (56879.04, 1500.0)
    assert (exposure.ra_deg, exposure.dec_deg) == (53.16, -27.78)
    assert exposure.position_angle_deg == -30.0
    assert (exposure.mode, exposure.object_name) == ("WFM-NOAO-N", "UDF-10")
    assert (exposure.ob_id, exposure.ob_name) == ("200342", "UDF10-1")
    assert exposure.prog_id == "094.A-0289(B)"
    assert exposure.row_count == ROWS
    np.testing.assert_array_equal(exposure.cd, [[-5e-5, 1e-6], [2e-6, 6e-5]])
    offsets = exposure.xoffsets()
    assert offsets[2, 3] == 321
    assert (offsets >= 0).sum() == 1


def test_keywords_are_those_of_the_whole_header(tmp_path, columns):
    long = "a name that is far too long for one card, " * 4 + "even so"
    facts = {f"ESO PRO REC1 PARAM{n} NAME": f"p{n}" for n in range(300)}
    facts |= {"ESO PRO REC1 RAW1 NAME": long, "OBJECT": long, "ESO OBS NAME": long}
    path = write_table(tmp_path / "a.fits", columns, facts=facts)
    table, header = open_pixel_table(path), fits.getheader(path)
    assert {name: header[name] for name in table.keywords} == table.keywords
    asked = {"DATE-OBS", "EXPTIME", "RA", "DEC", "OBJECT", "ESO INS MODE", "ESO OBS NAME", "ESO OBS ID"}
    assert asked <= set(table.keywords)
    assert "ESO PRO REC1 RAW1 NAME" not in table.keywords
    assert table.header["ESO PRO REC1 RAW1 NAME"] == long and len(table.header) == len(header)


@pytest.mark.parametrize(("mode", "angle"), [("SKY", -30.0), ("STAT", 30.0), ("OFF", 30.0)])
def test_position_angle(tmp_path, columns, mode, angle):
    path = write_table(tmp_path / "a.fits", columns, facts={"ESO INS DROT MODE": mode})
    assert group_exposures(path)[0].position_angle_deg == angle


def test_long_date_obs_counts_to_the_millisecond(tmp_path, columns):
    path = write_table(tmp_path / "a.fits", columns, facts={"DATE-OBS": "2014-08-10T01:02:03.4567"})
    assert group_exposures(path)[0].date_obs == "2014-08-10T01:02:03.456"


def test_exposures_are_sorted_whatever_order_is_given(tmp_path, columns, layout):
    for number, hour in enumerate((5, 2, 9)):
        facts = {"DATE-OBS": f"2014-08-10T0{hour}:00:00.000"}
        write_table(tmp_path / f"t{number}.fits", columns, layout, facts)
    exposures = group_exposures([str(tmp_path / "t*.fits")])
    assert [exposure.date_obs[12] for exposure in exposures] == ["2", "5", "9"]


def ifu_table(path, columns, ifu, by_limits=False, facts=None):
    limits = "ESO DRS MUSE PIXTABLE LIMITS IFU "
    named = {limits + "LOW": ifu, limits + "HIGH": ifu} if by_limits else {"EXTNAME": f"CHAN{ifu:02d}"}
    return write_table(path, columns, facts=(facts or {}) | named)


@pytest.mark.parametrize("by_limits", [False, True])
def test_files_of_single_ifus_become_one_exposure(tmp_path, columns, by_limits):
    for ifu in (3, 24, 7):
        ifu_table(tmp_path / f"PIXTABLE_REDUCED_0001-{ifu:02d}.fits", columns, ifu, by_limits)
    (exposure,) = group_exposures(tmp_path / "*.fits")
    assert [table.ifu for table in exposure.tables] == [3, 7, 24]
    assert exposure.row_count == 3 * ROWS


def test_the_same_file_twice_counts_once(tmp_path, columns):
    path = write_table(tmp_path / "a.fits", columns)
    (tmp_path / "link.fits").symlink_to(path)
    assert len(group_exposures([path, str(path), tmp_path / "link.fits"])) == 1


def test_duplicate_exposure(tmp_path, columns):
    paths = [write_table(tmp_path / f"{name}.fits", columns) for name in "ab"]
    with pytest.raises(
        InputError, match=r"DATE-OBS 2014-08-10T01:02:03.456: .*a.fits and .*b.fits; .*once only"
    ):
        group_exposures(paths)


def test_duplicate_ifu(tmp_path, columns):
    paths = [ifu_table(tmp_path / f"{name}.fits", columns, 5) for name in "ab"]
    with pytest.raises(InputError, match="two pixel tables of IFU 5 have DATE-OBS"):
        group_exposures(paths)


@pytest.mark.parametrize("whole_first", [True, False])
def test_whole_exposure_beside_one_of_its_ifus(tmp_path, columns, whole_first):
    paths = [write_table(tmp_path / "a.fits", columns), ifu_table(tmp_path / "b.fits", columns, 5)]
    with pytest.raises(InputError, match="two pixel tables have DATE-OBS"):
        group_exposures(paths if whole_first else paths[::-1])


@pytest.mark.parametrize("value", [0.0, -5.0, float("nan")])
def test_exposure_time_that_is_not_positive(tmp_path, columns, value):
    facts = {"EXPTIME": value}
    if np.isnan(value):
        facts = {"EXPTIME": None}
    path = write_table(tmp_path / "a.fits", columns, facts=facts)
    with pytest.raises(InputError, match="a.fits: .*EXPTIME is (0 s|-5 s|missing)"):
        group_exposures(path)


@pytest.mark.parametrize("keyword", ["RA", "DEC", "DATE-OBS"])
def test_missing_keyword(tmp_path, columns, keyword):
    path = write_table(tmp_path / "a.fits", columns, facts={keyword: None})
    with pytest.raises(InputError, match=f"a.fits: keyword {keyword}.* is missing"):
        group_exposures(path)


def test_keyword_that_is_no_number(tmp_path, columns):
    path = write_table(tmp_path / "a.fits", columns, facts={"RA": "03:32:38"})
    with pytest.raises(InputError, match="keyword RA is '03:32:38', which is no number"):
        group_exposures(path)


def test_exposures_in_different_units(tmp_path, columns):
    write_table(tmp_path / "a.fits", columns)
    units = UNITS | {"data": "count", "stat": "count**2"}
    write_table(tmp_path / "b.fits", columns, facts={"DATE-OBS": "2014-08-11T00:00:00.000"}, units=units)
    with pytest.raises(InputError, match="different flux units: .*a.fits; 'count' in .*b.fits"):
        group_exposures(tmp_path / "*.fits")


def test_nothing_given_or_found(tmp_path):
    with pytest.raises(InputError, match=r"no file matches '.*x\*.fits'"):
        group_exposures(tmp_path / "x*.fits")
    with pytest.raises(InputError, match="no pixel tables were given"):
        group_exposures([])


def test_fingerprint_follows_the_content_and_not_the_place(tmp_path, columns):
    path = write_table(tmp_path / "a.fits", columns)
    before = group_exposures(path)[0].fingerprint
    (tmp_path / "sub").mkdir()
    moved = path.rename(tmp_path / "sub" / "b.fits")
    assert group_exposures(moved)[0].fingerprint == before
    os.utime(moved, ns=(0, moved.stat().st_mtime_ns + 1))
    assert group_exposures(moved)[0].fingerprint != before
