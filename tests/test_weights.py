import logging
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from musedeep import exposure_weights
from musedeep.errors import InputError, UsageError

AG = [(0.774, 0.744), (0.790, 0.799), (0.825, 0.834), (0.831, 0.857)]
IA = [0.80, 0.75, 0.87, 1.02]
DIMM = [(0.91, 0.89), (0.89, 0.91), (0.88, 0.97), (0.93, 1.01)]


def exposure(number, exptime=900.0, **cards):
    header = fits.Header(
        {f"HIERARCH ESO {name}": value for name, value in cards.items() if value is not None}
    )
    return SimpleNamespace(date_obs=f"2014-03-0{number + 1}T00:00:00.000", exptime=exptime, header=header)


def cosmos(ag=AG, ia=IA, dimm=DIMM):
    """The four exposures of the COSMOS field that ESO's own test of the weights uses."""
    exposures = []
    for n in range(4):
        cards = {"OCS SGS AG FWHMX AVG": ag[n][0], "OCS SGS AG FWHMY AVG": ag[n][1], "TEL IA FWHM": ia[n]}
        cards |= {"TEL AMBI FWHM START": dimm[n][0], "TEL AMBI FWHM END": dimm[n][1]}
        exposures.append(exposure(n, **cards))
    return exposures


NO_AG = [*AG[:2], (AG[2][0], None), AG[3]]
NO_IA = [*IA[:1], None, *IA[2:]]
NO_DIMM = [*DIMM[:3], (None, None)]


@pytest.mark.parametrize(
    ("exposures", "weights"),
    [
        (cosmos(), [1, 0.9553, 0.9150, 0.8993]),
        (cosmos(ag=NO_AG), [1, 1.0667, 0.9195, 0.7843]),
        (cosmos(ag=NO_AG, ia=NO_IA), [1, 1, 0.9730, 0.9278]),
    ],
)
def test_seeing_weights_of_the_cosmos_exposures(exposures, weights):
    np.testing.assert_allclose(exposure_weights(exposures, "fwhm"), weights, atol=1e-4)


def test_without_a_complete_measurement_only_exposure_times_count(caplog):
    with caplog.at_level(logging.WARNING, logger="musedeep"):
        found = exposure_weights(cosmos(NO_AG, NO_IA, NO_DIMM), "fwhm")
    assert found.tolist() == [1, 1, 1, 1]
    assert "no seeing measurement exists in all 4 exposures" in caplog.text


def test_half_a_seeing_monitor_measurement_is_enough():
    dimm = [(1.0, None), (None, 0.5), (0.0, 0.8), (2.0, 1.0)]
    found = exposure_weights(cosmos(NO_AG, NO_IA, dimm), "fwhm")
    np.testing.assert_allclose(found, [1, 2, 1.25, 1 / 1.5])


def test_exposure_times_count_in_units_of_the_earliest():
    exposures = [exposure(n, exptime) for n, exptime in enumerate((200.0, 400.0, 100.0))]
    assert exposure_weights(exposures).tolist() == [1, 2, 0.5]
    assert exposure_weights(exposures[::-1], "exptime").tolist() == [0.5, 2, 1]
    assert exposure_weights([], "exptime").tolist() == []


def test_seeing_multiplies_the_exposure_time():
    cards = [{"TEL AMBI FWHM START": v, "TEL AMBI FWHM END": v} for v in (1.0, 0.8, 0.5)]
    exposures = [exposure(n, (n + 1) * 100.0, **cards[n]) for n in range(3)]
    np.testing.assert_allclose(exposure_weights(exposures, "fwhm"), [1, 2 * 1.25, 3 * 2])


def test_header_weights_multiply_the_exposure_time(caplog):
    exposures = [
        exposure(n, (n + 1) * 100.0, **{"DRS MUSE WEIGHT": w}) for n, w in enumerate((1.0, 0.5, 2.0))
    ]
    assert exposure_weights(exposures, "header").tolist() == [1, 1, 6]
    exposures += [exposure(3, 100.0), exposure(4, 100.0, **{"DRS MUSE WEIGHT": -1.0})]
    with caplog.at_level(logging.WARNING, logger="musedeep"):
        assert exposure_weights(exposures, "header").tolist() == [1, 1, 6, 1, 1]
    assert caplog.text.count("no ESO DRS MUSE WEIGHT") == 2


@pytest.mark.parametrize("scheme", ["none", "column"])
def test_other_schemes_leave_the_exposures_alike(scheme):
    assert exposure_weights([exposure(0, 100.0), exposure(1, 300.0)], scheme).tolist() == [1, 1]


@pytest.mark.parametrize("exptime", [0.0, -1.0, np.nan, None])
def test_an_impossible_exposure_time_is_refused(exptime):
    with pytest.raises(InputError, match=r"2014-03-02.*EXPTIME is"):
        exposure_weights([exposure(0), exposure(1, exptime)])


@pytest.mark.parametrize("name", ["weights.csv", "weights.ecsv"])
def test_a_users_table_is_taken_as_it_is(tmp_path, name):
    exposures = [exposure(n) for n in range(3)]
    table = Table({"DATE_OBS": [e.date_obs for e in exposures[::-1]], "WEIGHT": [3.0, 0.5, 1.0]})
    path = tmp_path / name
    table.write(path, format="ascii.ecsv" if path.suffix == ".ecsv" else "ascii.csv")
    for found in (
        exposure_weights(exposures, "table", path),
        exposure_weights(exposures, str(path)),
        exposure_weights(exposures, "table", table),
    ):
        assert found.tolist() == [1.0, 0.5, 3.0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"DATE_OBS": ["2014-03-01T00:00:00.000"], "WEIGHT": [1.0]}, "1 of 2 exposures are missing"),
        ({"DATE_OBS": ["2014-03-01T00:00:00.000"], "W": [1.0]}, "column WEIGHT is missing"),
        ({"DATE_OBS": ["2014-03-01T00:00:00.000"], "WEIGHT": [0.0]}, "must be a number above 0"),
        ({"DATE_OBS": ["2014-03-01T00:00:00.000"], "WEIGHT": ["many"]}, "must be a number above 0"),
        ({"DATE_OBS": ["2014-03-01T00:00:00.000"] * 2, "WEIGHT": [1.0, 2.0]}, "stands in it twice"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, message):
    with pytest.raises(InputError, match=message):
        exposure_weights([exposure(0), exposure(1)], "table", Table(table))


def test_an_unknown_scheme_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"'seeing' is neither a file nor one of exptime, fwhm"):
        exposure_weights([exposure(0)], "seeing")
    with pytest.raises(UsageError, match="needs a table"):
        exposure_weights([exposure(0)], "table")
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        exposure_weights([exposure(0)], "table", tmp_path / "none.csv")
