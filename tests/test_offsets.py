from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from musedeep import OffsetTable
from musedeep.errors import InputError, UsageError
from musedeep.offsets import Offset
from musedeep.sky import sky_frame, sky_vectors

DATES = [f"2014-08-1{n}T01:23:45.67{n}" for n in range(4)]


def make_table(**columns):
    table = Table(
        {"DATE_OBS": DATES, "RA_OFFSET": [0.0, 1e-4, -1e-4, 2e-4], "DEC_OFFSET": [0.0, 2e-4, 1e-4, 0.0]}
    )
    for name, values in columns.items():
        table[name] = values
    return table


def exposures(dates):
    return [SimpleNamespace(date_obs=date) for date in dates]


def test_lookup_compares_23_characters():
    offsets = OffsetTable(make_table())
    assert offsets.lookup(DATES[1] + "999") == Offset(1e-4, 2e-4)
    assert offsets.lookup("2014-08-11T01:23:45.672") is None


@pytest.mark.parametrize("pair", [(np.nan, 1e-4), (1e-4, np.inf), (np.nan, np.nan)])
def test_a_shift_counts_only_where_both_numbers_are_finite(pair):
    table = make_table(FLUX_SCALE=1.1)
    table["RA_OFFSET"][1], table["DEC_OFFSET"][1] = pair
    assert OffsetTable(table).lookup(DATES[1]) == Offset(0.0, 0.0, 0.0, 1.1)


@pytest.mark.parametrize(
    ("scale", "used"),
    [(np.nan, 1.0), (np.inf, 1.0), (0.0, 1.0), (1e-310, 1.0), (-2.0, -2.0), (0.5, 0.5), (2.3e-308, 2.3e-308)],
)
def test_a_flux_scale_that_is_no_normal_number_is_1(scale, used):
    assert OffsetTable(make_table(FLUX_SCALE=scale)).lookup(DATES[0]).flux_scale == used


def test_optional_columns_may_be_missing():
    offset = OffsetTable(make_table()).lookup(DATES[3])
    assert (offset.rotation_deg, offset.flux_scale) == (0.0, 1.0)
    assert OffsetTable(make_table(ROTATION=[0.1, np.nan, 0, 0])).lookup(DATES[0]).rotation_deg == 0.1
    assert OffsetTable(make_table(ROTATION=[0.1, np.nan, 0, 0])).lookup(DATES[1]).rotation_deg == 0.0


def test_units_of_angle_are_converted():
    table = make_table(ROTATION=[6.0, 0, 0, 0], RA_OFFSET_ERROR=[0.036, 0, 0, 0])
    table["RA_OFFSET"] = table["RA_OFFSET"] * 3600
    table["RA_OFFSET"].unit, table["RA_OFFSET_ERROR"].unit, table["ROTATION"].unit = (
        "arcsec",
        "arcsec",
        "arcmin",
    )
    offsets = OffsetTable(table)
    assert offsets.lookup(DATES[1]).ra_deg == pytest.approx(1e-4, rel=1e-14)
    assert offsets.lookup(DATES[0]).rotation_deg == pytest.approx(0.1, rel=1e-14)
    assert offsets.table["RA_OFFSET_ERROR"][0] == pytest.approx(1e-5, rel=1e-14)
    table["RA_OFFSET"].unit = "pix"
    with pytest.raises(InputError, match="RA_OFFSET has the unit 'pix'"):
        OffsetTable(table)


def test_the_offset_is_taken_off():
    """Stars that appear too far east by RA_OFFSET, and turned by ROTATION, are put where they belong."""
    truth = sky_vectors(150.0, 2.0)
    offset = Offset(3e-4, -1e-4, rotation_deg=0.5)
    header = (150.002 + offset.ra_deg, 1.999 + offset.dec_deg)
    # what the exposure recorded: the true direction as seen from its true frame, which is turned back
    plane = np.linalg.inv(sky_frame(150.002, 1.999, -0.5)) @ truth
    np.testing.assert_allclose(offset.frame(*header) @ plane, truth, atol=1e-15)
    assert offset.pointing(*header) == pytest.approx((150.002, 1.999), abs=1e-13)
    # a position angle measured in the uncorrected frame comes out too large by ROTATION
    north = sky_frame(*header) @ (0, 1e-6, 1) - sky_frame(*header) @ (0, 0, 1)
    true = np.linalg.inv(sky_frame(150.002, 1.999)) @ (offset.frame(*header) @ (0, 1e-6, 1))
    assert np.degrees(np.arctan2(true[0], true[1])) == pytest.approx(-0.5, abs=1e-6)
    assert np.linalg.norm(north) == pytest.approx(1e-6, rel=1e-6)


@pytest.mark.parametrize("suffix", [".fits", ".ecsv"])
def test_a_written_table_is_read_back(tmp_path, suffix):
    offsets = OffsetTable(
        make_table(
            FLUX_SCALE=[np.nan, 1.1, 0.9, 1 / 3],
            ROTATION=0.01,
            RA_OFFSET_ERROR=1e-7,
            NOTE=["a", "bb", "", "d"],
        )
    )
    path = offsets.write(tmp_path / f"list{suffix}")
    found = OffsetTable.read(path)
    assert found.table.colnames[:6] == [
        "DATE_OBS",
        "MJD_OBS",
        "RA_OFFSET",
        "DEC_OFFSET",
        "ROTATION",
        "FLUX_SCALE",
    ]
    for name in offsets.table.colnames:
        np.testing.assert_array_equal(found.table[name], offsets.table[name])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert len(found) == 4


def test_a_fits_table_is_an_offset_list(tmp_path):
    path = OffsetTable(make_table(MJD_OBS=56879.5)).write(tmp_path / "list.fits")
    with fits.open(path) as hdus:
        assert hdus[0].header["ESO PRO CATG"] == "OFFSET_LIST"
        assert hdus[1].columns.names[:5] == ["DATE_OBS", "MJD_OBS", "RA_OFFSET", "DEC_OFFSET", "FLUX_SCALE"]
        assert [hdus[1].columns[name].format for name in hdus[1].columns.names[:5]] == [
            "23A",
            "D",
            "D",
            "D",
            "D",
        ]
        assert hdus[1].columns["RA_OFFSET"].unit == "deg"


def test_esos_own_list_is_read(tmp_path):
    # As muse_exp_align declares it: MJD_OBS in 's', and FLUX_SCALE not filled.
    columns = [
        fits.Column("DATE_OBS", "23A", array=DATES),
        fits.Column("MJD_OBS", "D", unit="s", array=[56879.0] * 4),
        fits.Column("RA_OFFSET", "D", unit="deg", array=[0, 1e-4, 0, 0]),
        fits.Column("DEC_OFFSET", "D", unit="deg", array=[0, 2e-4, 0, 0]),
        fits.Column("FLUX_SCALE", "D", array=[np.nan] * 4),
    ]
    path = tmp_path / "OFFSET_LIST.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)
    assert OffsetTable.read(path).lookup(DATES[1]) == Offset(1e-4, 2e-4)


def test_masked_values_count_as_missing():
    table = Table(make_table(FLUX_SCALE=1.1), masked=True)
    table["FLUX_SCALE"].mask = [True, False, False, False]
    table["RA_OFFSET"].mask = [False, True, False, False]
    offsets = OffsetTable(table)
    assert offsets.lookup(DATES[0]).flux_scale == 1.0
    assert offsets.lookup(DATES[1]) == Offset(0.0, 0.0, 0.0, 1.1)


def test_match_keeps_the_order_and_marks_the_missing():
    offsets = OffsetTable(make_table()).match(exposures([DATES[2], "2015-01-01T00:00:00.000", DATES[0]]))
    assert offsets == [Offset(-1e-4, 1e-4), None, Offset()]


def test_a_list_of_other_exposures_is_refused():
    with pytest.raises(
        InputError, match=r"none of its 4 rows matches one of the 1 exposures.*2015-01-01.*2014-08-10"
    ):
        OffsetTable(make_table()).match(exposures(["2015-01-01T00:00:00.000"]))


def test_one_exposure_cannot_have_two_offsets():
    table = make_table()
    table["DATE_OBS"][2] = DATES[1]
    with pytest.raises(InputError, match=f"{DATES[1]} stands in it twice"):
        OffsetTable(table)
    table["RA_OFFSET"][2], table["DEC_OFFSET"][2] = table["RA_OFFSET"][1], table["DEC_OFFSET"][1]
    assert OffsetTable(table).lookup(DATES[1]) == Offset(1e-4, 2e-4)


def test_what_is_no_offset_list_is_refused(tmp_path):
    with pytest.raises(InputError, match="column DEC_OFFSET is missing"):
        OffsetTable(make_table()["DATE_OBS", "RA_OFFSET"])
    with pytest.raises(InputError, match="RA_OFFSET is of type"):
        OffsetTable(make_table(RA_OFFSET=["a", "b", "c", "d"]))
    with pytest.raises(InputError, match="DATE_OBS is of type"):
        OffsetTable(make_table(DATE_OBS=[1.0, 2.0, 3.0, 4.0]))
    with pytest.raises(InputError, match=r"missing\.fits: cannot be read"):
        OffsetTable.read(tmp_path / "missing.fits")
    image, text, broken = (tmp_path / name for name in ("image.fits", "text.txt", "broken.fits"))
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(image)
    text.write_text("nothing of the kind\n")
    good = OffsetTable(make_table()).write(tmp_path / "good.fits").read_bytes()
    broken.write_bytes(good[:-2880])
    (tmp_path / "short.fits").write_bytes(good[:100])
    for path, message in (
        (image, "no binary table"),
        (text, "neither FITS nor an ECSV"),
        (tmp_path / "short.fits", r"short\.fits.*damaged|cannot be read"),
        (broken, r"broken\.fits: Offset list: the file is damaged"),
    ):
        with pytest.raises(InputError, match=message):
            OffsetTable.read(path)
    with pytest.raises(UsageError, match=r"must end in \.fits or \.ecsv"):
        OffsetTable(make_table()).write(tmp_path / "list.csv")
