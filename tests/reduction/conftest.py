"""One simulated night of raw frames for all tests that run ESO's recipes, and what they make of it."""

import pytest

from musedeep.reduce import reduce_exposures
from musedeep.simulate.raw import simulate_raw_exposures


@pytest.fixture(scope="session")
def raw_night(tmp_path_factory):
    """Two OBJECT frames and a SKY frame of two IFUs, with their calibrations; a folder."""
    folder = tmp_path_factory.mktemp("night")
    simulate_raw_exposures(folder, exposures=2, sky_exposures=1, seed=5)
    return folder


@pytest.fixture(scope="session")
def reduced(raw_night, tmp_path_factory):
    """Both exposures, reduced by the recipes with their SKY frame; tables of the IFUs are kept."""
    return reduce_exposures(
        raw_night / "raw", tmp_path_factory.mktemp("reduced"), calibrations=raw_night / "calib",
        recipe_memory="4GB", progress=False, keep=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def crowded(raw_night, tmp_path_factory):
    """The first exposure, reduced by the recipes without a sky subtraction."""
    first = sorted((raw_night / "raw").iterdir())[0]
    return reduce_exposures(
        first, tmp_path_factory.mktemp("crowded"), calibrations=raw_night / "calib", case="crowded",
        fov_image=False, recipe_memory="4GB", progress=False, keep=True,
    )  # fmt: skip
