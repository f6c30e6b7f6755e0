import math

import pytest

from musedeep.resolution import combined_strehl, sky_resolution, spectral_resolution


def header(seeing=0.9, airmass=1.2, mode="WFM-NOAO-N", **cards):
    return {
        "ESO INS MODE": mode,
        "ESO TEL IA FWHMLIN": seeing,
        "ESO TEL AIRM START": airmass - 0.01,
        "ESO TEL AIRM END": airmass + 0.01,
        "ESO TEL AMBI FWHM START": 0.8,
        "ESO TEL AMBI FWHM END": 1.0,
    } | cards


def quality(seeing, airmass):
    fried = 0.976 * 5e-7 / seeing * 206264.8 * 1.4**1.2 * airmass**-0.6
    factor = 1 / (1 + 300 * 8.11753657 / 23) - 1
    return seeing * 1.4**-0.2 * airmass**0.6 * math.sqrt(1 + factor * 2.183 * (fried / 23) ** 0.356)


@pytest.mark.parametrize(
    "wavelength_nm, power",
    [
        ((475, 935), 3027),
        ((465, 465), 1674.77),
        ((400, 420), 1674.77),
        ((930, 930), 3767.93),
        ((651.5, 654.5), 2760),
    ],
)
def test_spectral_resolution(wavelength_nm, power):
    assert spectral_resolution(wavelength_nm, "WFM-AO-E") == pytest.approx(power, rel=5e-3)


def test_spectral_resolution_of_the_narrow_field():
    assert spectral_resolution((480, 930), "NFM-AO-N") == pytest.approx((1740 + 3450) / 2)


def test_seeing_is_weighted_by_exposure_time():
    found = sky_resolution([header(0.8), header(1.2, 1.5)], [1000, 3000])
    assert found.fwhm_arcsec == pytest.approx(0.25 * quality(0.8, 1.2) + 0.75 * quality(1.2, 1.5), rel=1e-6)
    assert found.error_arcsec == pytest.approx(math.hypot(0.1, 0.3))
    assert found.measured and found.error_measured


@pytest.mark.parametrize("key", ["ESO TEL IA FWHMLIN", "ESO TEL AIRM START"])
@pytest.mark.parametrize("value", [None, 0.0, "unknown", True])
def test_defaults_where_a_keyword_is_missing(key, value):
    found = sky_resolution([header(), header(**{key: value})], [1, 1])
    assert (found.fwhm_arcsec, found.measured) == (0.853823, False)
    assert found.error_measured


def test_default_error_without_a_monitor():
    gone = {"ESO TEL AMBI FWHM START": 0.0, "ESO TEL AMBI FWHM END": -1.0}
    found = sky_resolution([header(**gone)], [1])
    assert (found.error_arcsec, found.error_measured) == (0.495547, False)


def strehls(*pairs):
    return [
        {"ESO INS MODE": "NFM-AO-N", "ESO DRS MUSE RTC STREHL": value, "ESO DRS MUSE RTC STREHERR": error}
        for value, error in pairs
    ]


def test_strehl_ratios_are_weighted_by_their_errors():
    assert combined_strehl(strehls((1, 0.25), (2, 0.1), (3, 0.5))) == pytest.approx((1.9, 0.091287), abs=1e-6)
    assert combined_strehl(strehls((1, 0.25), (3, 0.5), (5, 0))) == pytest.approx((1.4, 0.223607), abs=1e-6)
    assert all(math.isnan(value) for value in combined_strehl([{}]))


def test_resolution_of_the_narrow_field():
    found = sky_resolution(strehls((30, 3)), [1])
    assert found.fwhm_arcsec == pytest.approx(-0.71985411 + 0.81622807 * 30**-0.01941496)
    assert 0.01 < found.error_arcsec < 0.02 and found.measured
    assert sky_resolution(strehls((0, 0)), [1]).fwhm_arcsec == 0.15
