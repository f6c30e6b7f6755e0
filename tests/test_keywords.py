import warnings

import pytest
from astropy.io import fits
from cubes import StandInExposure, exposure_header

from musedeep.keywords import coordinate_errors, missing_keywords, product_header, set_card


def exposures_of(headers):
    return [StandInExposure(header, number) for number, header in enumerate(headers, 1)]


def make_header(headers, settings=None, suffix=False, **changes):
    exposures = exposures_of(headers)
    record = {"weight": 1.0, "ra_offset": 0.0, "dec_offset": 0.0, "flux_scale": 1.0, "in_offset_list": False}
    records = [record | changes for _ in headers]
    return product_header(
        records,
        exposures,
        object_name="UDF",
        position=(53.0, -27.0),
        settings=settings or {},
        version="0.1.0",
        wavelength_nm=(475.0, 935.0),
        reference="doi:10.1051/0004-6361/201730833",
        suffix=suffix,
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
    assert not [
        key for key in kept if "PIXTABLE" in key or "SCIPOST" in key or key.startswith(("CD", "CTYPE"))
    ]
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
    assert header["PROV4"] == headers[3]["ARCFILE"].removesuffix(".fits") and "PROV5" not in header
    assert make_header(headers, suffix=True)["PROV4"] == headers[3]["ARCFILE"]
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
    found = [header[f"PROV{n}"] for n in range(1, 6)]
    assert found == ["ancestor", "original", "raw", "raw2", "PIXTABLE_REDUCED_0004"]


def test_keywords_that_the_standard_wants():
    headers = [exposure_header(number) for number in range(3)]
    for header in headers:
        header["HIERARCH ESO DRS MUSE PIXTABLE RVCORR"] = 12.5
        header["HIERARCH ESO TEL IA FWHMLIN"] = 0.9
        header["HIERARCH ESO TEL AIRM END"] = 1.2
        header["HIERARCH ESO PRO REC1 PIPE ID"] = "muse/2.8.7"
        header["HIERARCH ESO PRO REC2 PIPE ID"] = "muse/2.8.9"
        header["FILTER"], header["LONGSTRN"] = "white", "OGIP"
    header = make_header(headers)
    wanted = {
        "TIMESYS": "UTC",
        "OBSTECH": "IFU",
        "SPECSYS": "BARYCENT",
        "PROCSOFT": "musedeep/0.1.0 (muse/2.8.9)",
        "REFERENC": "doi:10.1051/0004-6361/201730833",
        "WAVELMIN": 475.0,
        "WAVELMAX": 935.0,
    }
    assert {key: header[key] for key in wanted} == wanted
    assert header["SPEC_RES"] == pytest.approx(3026.7, abs=0.1)
    assert 0.7 < header["SKY_RES"] < 0.8 and "(measured)" in header.comments["SKY_RES"]
    assert header["SKY_RERR"] == 0.495547 and "(default)" in header.comments["SKY_RERR"]
    assert not {"FILTER", "LONGSTRN", "STREHL"} & set(header)


def test_how_far_exposures_lie_apart():
    records = [
        {"weight": 1.0, "ra_offset": ra, "dec_offset": dec, "flux_scale": 1.0, "in_offset_list": listed}
        for ra, dec, listed in ((0.0, 0.0, True), (2e-4, 0.0, True), (0.0, 3e-4, True), (9.0, 9.0, False))
    ]
    exposures = exposures_of([exposure_header(number) for number in range(4)])
    header = product_header(
        records,
        exposures,
        object_name="x",
        position=(53.0, 60.0),
        wavelength_nm=(475, 935),
        settings={},
        version="0",
    )
    assert header["ESO QC DEEP TIMESPAN"] == 3.0 and header["ESO QC DEEP NOFFSET"] == 3
    assert header["ESO QC DEEP NLEFTOUT"] == 0
    assert header["ESO QC DEEP OFFSET MAX"] == pytest.approx(3600 * (1e-4**2 + 3e-4**2) ** 0.5, abs=1e-5)
    assert make_header([exposure_header(0)])["ESO QC DEEP OFFSET MAX"] == 0.0


def test_the_strehl_ratio_of_the_narrow_field():
    headers = [exposure_header(number) for number in range(2)]
    for header in headers:
        header["ESO INS MODE"] = "NFM-AO-N"
        header["HIERARCH ESO DRS MUSE RTC STREHL"] = 32.0
        header["HIERARCH ESO DRS MUSE RTC STREHERR"] = 2.0
    header = make_header(headers)
    assert header["STREHL"] == pytest.approx(0.32) and header["SKY_RES"] < 0.2


@pytest.mark.parametrize(
    "value, frame", [(None, "BARYCENT"), ("bary", "BARYCENT"), ("helio", "HELIOCEN"), ("none", "TOPOCENT")]
)
def test_the_frame_of_the_wavelengths_is_that_of_the_recipe(value, frame):
    header = exposure_header(0)
    header["HIERARCH ESO DRS MUSE PIXTABLE RVCORR"] = 12.5
    if value:
        header["HIERARCH ESO PRO REC2 PARAM7 NAME"] = "rvcorr"
        header["HIERARCH ESO PRO REC2 PARAM7 VALUE"] = value
    assert make_header([header])["SPECSYS"] == frame
    assert make_header([exposure_header(0)])["SPECSYS"] == "TOPOCENT"
    if frame != "TOPOCENT":
        assert make_header([header, exposure_header(1)])["SPECSYS"] == "TOPOCENT"


def test_a_poor_header_gives_warnings_and_a_product():
    poor = exposure_header(1)
    for key in (
        "ORIGIN", "TELESCOP", "INSTRUME", "RADECSYS", "EQUINOX", "MJD-OBS", "ARCFILE", "ESO OBS ID",
        "ESO OBS PROG ID", "ESO PRO REC1 RAW1 NAME", "ESO INS MODE", "ESO DRS MUSE PIXTABLE FLUXCAL",
    ):  # fmt: skip
        del poor[key]
    exposures = exposures_of([poor])
    header = make_header([poor])
    assert header["MJD-OBS"] == pytest.approx(56880.0430955, abs=1e-6), "of DATE-OBS"
    assert (header["ORIGIN"], header["TELESCOP"], header["INSTRUME"]) == ("ESO-PARANAL", "ESO-VLT-U4", "MUSE")
    assert (header["RADESYS"], header["EQUINOX"], header["FLUXCAL"]) == ("FK5", 2000.0, "UNCALIBRATED")
    assert not {"PROG_ID", "OBID1"} & set(header) and header["PROV1"] == "PIXTABLE_REDUCED_0001"
    notes = missing_keywords(exposures)
    for key in ("ESO OBS ID", "ESO OBS PROG ID", "ARCFILE", "MJD-OBS", "RADESYS", "TELESCOP", "FWHMLIN"):
        assert any(key in note for note in notes), key
    assert "1 of 1 exposures, the first 2014-08-11T01:02:03.456" in notes[0]


def test_what_is_missing_in_some_exposures_is_counted():
    headers = [exposure_header(number) for number in range(3)]
    headers[2]["ESO OBS ID"] = "none"
    (note,) = [note for note in missing_keywords(exposures_of(headers)) if "OBS ID" in note]
    assert note.startswith("ESO OBS ID is missing in 1 of 3 exposures, the first 2014-08-12")


def test_errors_of_coordinates_are_the_scatter_of_the_pointings():
    record = {"in_offset_list": True, "dec_offset": 0.0}
    records = [record | {"ra_offset": value} for value in (0.0, 2e-4, 4e-4)]
    found = {key: value for key, value, _ in coordinate_errors(records, 60.0)}
    assert found["CSYER1"] == pytest.approx(1e-4)
    assert found["CSYER2"] == pytest.approx(1 / 3600)
    assert found["CRDER3"] == 0.026


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
    assert not [key for key in make_header(headers) if "MUSE OFFSET" in key or "SCALE" in key]


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
