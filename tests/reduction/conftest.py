"""One simulated night of raw frames for all tests that run ESO's recipes."""

import pytest

from musedeep.simulate.raw import simulate_raw_exposures


@pytest.fixture(scope="session")
def raw_night(tmp_path_factory):
    """Two OBJECT frames and a SKY frame of two IFUs, with their calibrations; a folder."""
    folder = tmp_path_factory.mktemp("night")
    simulate_raw_exposures(folder, exposures=2, sky_exposures=1, seed=5)
    return folder
