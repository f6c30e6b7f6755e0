import warnings

import pytest
from astropy.io import fits
from cubes import StandInExposure, exposure_header

from musedeep.keywords import product_header, set_card


def make_header(headers, settings=None, **changes):
    exposures = [StandInExposure(header, number) for number, header in enumerate(headers, 1)]
    record = {"weight": 1.0, "ra_offset": 0.0, "dec_offset": 0.0, "flux_scale": 1.0, "in_offset_list": False}
    records = [record | changes for _ in headers]
    return product_header(
        records,
        exposures,
        object_name="UDF",
        position=(53.0, -27.0),
        settings=settings or {},
        version="0.1.0",
    )


def test_time_keywords_are_those_of_the_earliest_exposure():
    headers = [exposure_header(number) for number in range(3)]
    header = make_header(headers)
    for key in ("DATE-OBS", "MJD-OBS", "ESO TEL AIRM START", "ESO OBS ID"):
        assert header[key] == headers[0][key]
    assert header["MJD-END"] == pytest.approx(headers[2]["MJD-OBS"] + 902 / 86400, abs=1e-8)
    assert (header["TEXPTIME"], header["NCOMBINE"]) == (900 + 901 + 902, 3)
    assert (header["RA"], header["DEC"], header["OBJECT"]) == (53.0, -27.0, "UDF")


def test_the_end_is_the_latest_end_and_not_the_end_of_the_last():
    headers = [exposure_header(0), exposure_header(1)]
    headers[0]["EXPTIME"] = 3 * 86400.0
    assert make_header(headers)["MJD-END"] == pytest.approx(headers[0]["MJD-OBS"] + 3)


def test_what_belongs_to_one_file_is_not_inherited():
    header = make_header([exposure_header(0)])
    kept = set(header)
    assert not [key for key in kept if "PIXTABLE" in key or " QC " in key or key.startswith(("CD", "CTYPE"))]
    assert not kept & {
        "CHECKSUM",
        "DATASUM",
        "DATAMD5",
        "ARCFILE",
        "WCSAXES",
        "CRPIX1",
        "SIMPLE",
        "NAXIS",
        "RADECSYS",
    }
    assert header["RADESYS"] == "FK5" and header["EQUINOX"] == 2000.0
    assert header["ESO DRS MUSE DAR CORRECT"] == 7000.0
    assert header["ESO PRO CATG"] == "DATACUBE_DEEP"
    assert header["DATE"] != "2015-01-01T00:00:00"
    assert len(kept) == len(header.cards), "a keyword stands twice"


def test_blocks_programmes_and_raw_files_are_listed():
    headers = [exposure_header(number) for number in range(4)]
    header = make_header(headers)
    assert [header["OBID1"], header["OBID2"]] == [200099, 200100] and "OBID3" not in header
    assert header["PROG_ID"] == "094.A-0289(B)" and "PROGID1" not in header
    assert header["PROV4"] == headers[3]["ARCFILE"] and "PROV5" not in header
    headers[1]["ESO OBS PROG ID"] = "095.A-0010(A)"
    header = make_header(headers)
    assert [header[key] for key in ("PROG_ID", "PROGID1", "PROGID2")] == [
        "MULTI",
        "094.A-0289(B)",
        "095.A-0010(A)",
    ]


def test_raw_files_fall_back_to_other_keywords():
    first, second, third, fourth = (exposure_header(number) for number in range(4))
    first["HIERARCH ESO PRO ANCESTOR"] = "ancestor.fits"
    del second["ARCFILE"]
    second["ORIGFILE"] = "original.fits"
    del third["ARCFILE"]
    third["HIERARCH ESO PRO REC1 RAW2 NAME"] = "raw2.fits"
    del fourth["ARCFILE"], fourth["ESO PRO REC1 RAW1 NAME"]
    header = make_header([first, second, third, fourth])
    assert [header[f"PROV{n}"] for n in range(1, 6)] == [
        "ancestor.fits", "original.fits", "raw.fits", "raw2.fits", "PIXTABLE_REDUCED_0004.fits",
    ]  # fmt: skip


def test_flux_is_absolute_only_if_it_is_in_all():
    headers = [exposure_header(0), exposure_header(1)]
    header = make_header(headers)
    assert header["FLUXCAL"] == "ABSOLUTE" and header["ESO DRS MUSE FLUX FFCORR"] == 1
    headers[1]["ESO DRS MUSE PIXTABLE FLUXCAL"] = False
    del headers[1]["ESO DRS MUSE PIXTABLE FFCORR"]
    header = make_header(headers)
    assert header["FLUXCAL"] == "UNCALIBRATED" and "ESO DRS MUSE FLUX FFCORR" not in header


def test_offsets_and_scales_are_recorded_where_a_list_gave_them():
    headers = [exposure_header(0)]
    header = make_header(headers, ra_offset=1e-5, dec_offset=-2e-5, flux_scale=1.05, in_offset_list=True)
    assert header["ESO DRS MUSE OFFSET1 DATE-OBS"] == headers[0]["DATE-OBS"]
    assert header["ESO DRS MUSE OFFSET1 DRA"] == 1e-5
    assert header["ESO DRS MUSE OFFSET1 DDEC"] == -2e-5
    assert header["ESO DRS MUSE FLUX SCALE1"] == 1.05
    assert not [key for key in make_header(headers) if "OFFSET" in key or "SCALE" in key]


def test_settings_become_parameters():
    settings = {"combine": {"reject": "guarded", "nclip": [4.0, 4.0], "ld": 0}, "masks": []}
    header = make_header([exposure_header(0)], settings)
    found = {
        header[f"ESO PRO REC1 PARAM{n} NAME"]: header[f"ESO PRO REC1 PARAM{n} VALUE"] for n in range(1, 5)
    }
    assert found == {
        "combine.reject": "guarded",
        "combine.nclip": "[4.0,4.0]",
        "combine.ld": "0",
        "masks": "[]",
    }
    assert header["ESO PRO REC1 RAW1 NAME"] == "PIXTABLE_REDUCED_0001.fits"


@pytest.mark.parametrize("key", ["OBJECT", "ESO PRO REC1 RAW12 NAME"])
@pytest.mark.parametrize(
    "value", ["short", "x" * 90, "it's " * 30, "caf\xe9 \u03b1", -1.2345e-5, True, 10**6]
)
@pytest.mark.parametrize("comment", ["", "c" * 90])
def test_every_keyword_fills_one_card(key, value, comment):
    header = fits.Header()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_card(header, key, value, comment)
        text = header.tostring(padding=False, endcard=False)
    assert len(text) == 80
    found = fits.Header.fromstring(text)[key]
    if isinstance(value, str):
        head = found.removesuffix("...")
        assert value.encode("ascii", "replace").decode().startswith(head) and len(head) >= min(len(value), 20)
    else:
        assert found == value
