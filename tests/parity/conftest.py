"""Simulated exposures that both combine, as ESO's recipe and as musedeep see them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fields import arrays_of, ingested
from parity.peer import Peer

from musedeep import OffsetTable, VoxelGrid, combine_exposures, simulate_exposures

# Declinations beyond 30 degrees are left out: ESO measures distances along RA and Dec at each voxel, musedeep
# along the axes of the grid's tangent plane. These directions part by (RA - RA0) sin(Dec0), which is neither
# right nor wrong, and changes weights by 1e-4 at the corners of such a field.
SIMULATION = {
    "exposures": 4,
    "seed": 11,
    "field_arcsec": 9.0,
    "wavelength": (6500.0, 6526.0),
    "ra_deg": 53.1,
    "dec_deg": -12.8,
    "position_angles": (0.0, 90.0, 37.0, 180.0),
    "pointing_error_arcsec": 0.5,
    "flux_scale_error": (0.0, 0.12, 0.0, -0.07),
    "exptime": (600.0, 900.0, 600.0, 1200.0),
    "seeing_fwhm": (0.7, 1.1),
    "stars": 5,
    "galaxies": 1,
    "cosmic_ray_rate": 0.004,
    "cosmic_ray_flagged": 0.3,
    "defects": 0.003,
    "weights": (1.0, 0.6, 1.7, 0.9),
    "fov_images": False,
}
NOT_IN_THE_LIST = 2
SHUFFLED = (2, 0, 3, 1)


@dataclass(frozen=True)
class Exposures:
    """Files of the simulation, in the order of time, and the list of their offsets."""

    paths: list
    offsets: Path

    def frames(self, numbers=SHUFFLED):
        """Frames of some exposures for the recipe, with the offset list."""
        return [(self.paths[n], "PIXTABLE_REDUCED") for n in numbers] + [(self.offsets, "OFFSET_LIST")]


def simulated(folder, **changes):
    paths = simulate_exposures(folder, **(SIMULATION | changes))
    table = OffsetTable.read(folder / "OFFSET_LIST.fits").table
    assert np.ptp(table["FLUX_SCALE"]) > 0.1
    table["FLUX_SCALE"][0] = np.nan
    table.remove_row(NOT_IN_THE_LIST)
    return Exposures(paths, OffsetTable(table).write(folder / "three_offsets.fits"))


class Ours:
    """musedeep with the same exposures; ingested once."""

    def __init__(self, exposures, folder):
        paths = [exposures.paths[n] for n in SHUFFLED]
        self.exposures = exposures
        self.field = ingested(paths, folder, offsets=str(exposures.offsets), grid="eso", reject="eso")

    def changed(self, numbers=None, **settings):
        """The field with other settings, and only some exposures."""
        if numbers is not None:
            settings["select"] = tuple(self.field.exposures[n].date_obs for n in numbers)
        return self.field.changed(**settings)

    def combine(self, numbers=None, **settings):
        """Grid and all maps with other settings, of all or some exposures."""
        cube = combine_exposures(self.changed(numbers, **settings))
        return VoxelGrid.from_dict(cube.attrs["grid"]), arrays_of(cube)


@pytest.fixture(scope="session")
def exposures(tmp_path_factory):
    """Four exposures in the image form."""
    return simulated(tmp_path_factory.mktemp("exposures"))


@pytest.fixture(scope="session")
def exposures_as_tables(tmp_path_factory):
    """The same rows in the form of binary tables, with a column of weights."""
    return simulated(tmp_path_factory.mktemp("tables"), layout="table", weight_column=True)


@pytest.fixture(scope="session")
def peer(exposures, tmp_path_factory):
    """ESO's recipe with the exposures in shuffled order and one of them missing in the offset list."""
    return Peer(tmp_path_factory.mktemp("peer"), exposures.frames())


@pytest.fixture(scope="session")
def ours(exposures, tmp_path_factory):
    """musedeep with the same."""
    return Ours(exposures, tmp_path_factory.mktemp("ours"))
