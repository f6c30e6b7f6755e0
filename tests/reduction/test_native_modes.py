"""Every instrument mode reduced by our own code and by ESO's recipes: the same fluxes at the same places."""

import numpy as np
import pytest

from musedeep.muse import DQ_BITS, MODES
from musedeep.pixtable import open_pixel_table
from musedeep.reduce import reduce_exposures
from musedeep.simulate.raw import simulate_raw_exposures

pytestmark = pytest.mark.esorex
# where the filters cut off, the gap of the notch filter and a line of the sky
SMALL = {"ifus": (12,), "binning": (4, 2), "slice_columns": 5.0, "blue": 4500.0, "stars": 2, "seed": 8}


def rows_of(path):
    """Rows of a table in the order of their origin, which names a row; also its header."""
    table = open_pixel_table(path)
    rows = table.read_columns(list(table.columns))
    order = np.argsort(rows["origin"])
    return {name: values[order] for name, values in rows.items()}, table.header


@pytest.fixture(scope="module", params=[mode for mode in MODES if mode != "WFM-NOAO-N"])
def night(request, tmp_path_factory):
    """An exposure of a mode; mode and folder."""
    folder = tmp_path_factory.mktemp("night")
    simulate_raw_exposures(folder, sky_exposures=0, mode=request.param, **SMALL)
    return request.param, folder


def reduced(folder, case):
    """Rows and headers as the recipes have them, and as our own code."""
    tables = []
    for backend in ("esorex", "auto"):
        result = reduce_exposures(
            folder / "raw", folder / backend, calibrations=folder / "calib", case=case, backend=backend,
            fov_image=False, keep=True, recipe_memory="4GB", progress=False,
        )  # fmt: skip
        assert result.exposures[0]["state"] == "done", result.exposures[0]["problems"]
        tables.append(rows_of(result.tables[0]))
    assert result.exposures[0]["backend"]["name"] == "native"
    (theirs, their_header), (own, header) = tables
    both = np.isin(own["origin"], theirs["origin"])
    assert both.mean() > 0.9999
    own = {name: values[both] for name, values in own.items()}
    good = np.isfinite(own["data"])
    assert good.mean() > 0.9999
    np.testing.assert_array_equal(own["dq"][good], theirs["dq"][good])
    scale = np.sqrt(theirs["stat"][good])
    off = (own["data"][good].astype(float) - theirs["data"][good]) / (
        scale + np.abs(theirs["data"][good]) if case == "crowded" else scale
    )
    return own, theirs, off, header, their_header


def test_the_chain_agrees_with_the_recipes(night):
    mode, folder = night
    own, theirs, off, header, their_header = reduced(folder, "crowded")
    assert np.abs(off).max() < 1e-5
    assert np.mean(np.abs(off) < 1e-6) > 0.999
    turn = np.abs((own["xpos"].astype(float) - theirs["xpos"] + np.pi) % (2 * np.pi) - np.pi)
    radius, their_radius = (np.degrees(-rows["ypos"].astype(float)) * 3600 for rows in (own, theirs))
    assert np.hypot(radius * turn, radius - their_radius).max() < 3e-6
    assert np.any(own["dq"] & DQ_BITS["nad_gap"] != 0) == (MODES[mode].gap is not None)
    states = [f"ESO DRS MUSE PIXTABLE {name}" for name in ("DAR CORRECT", "PREDAR LIMITS XLO", "FFCORR")]
    assert [name in header for name in states] == [name in their_header for name in states]
    for name in ("CRPIX1", "CD1_1", "CD2_2", "ESO INS MODE"):
        wanted = their_header[name]
        assert header[name] == (wanted if isinstance(wanted, str) else pytest.approx(wanted, rel=1e-9))


def test_the_model_of_the_sky_agrees_with_the_recipes(night):
    _, folder = night
    off = reduced(folder, "no-sky")[2]
    assert np.sqrt(np.mean(off**2)) < 0.1
