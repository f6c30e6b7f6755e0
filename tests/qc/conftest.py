"""Small fields with and without faults, combined and assessed once."""

import pytest

from musedeep.combine import combine_to_store
from musedeep.field import Field
from musedeep.ingest import ingest_exposures
from musedeep.products import write_products
from musedeep.qc import assess_field
from musedeep.simulate import Fault, Trail, simulate_exposures

SETTINGS = {
    "exposures": 6,
    "seed": 2,
    "field_arcsec": 13.0,
    "wavelength": (6285.0, 6320.0),
    "stars": 5,
    "galaxies": 0,
    "star_flux": (5e3, 3e4),
    "diffuse": 0.0,
    "fov_images": False,
    "pointing_error_arcsec": 0.2,
    "seeing_fwhm": (0.6, 0.9),
}
FAULTS = (
    Fault("shift", 0.5, 1),
    Fault("background", 10.0, 2),
    Fault("wavelength", 0.4, 3),
    Fault("saturation", 150.0, 4),
)


def combined(folder, products=False, **changes):
    """A field of simulated exposures with a finished cube."""
    paths = simulate_exposures(folder / "sim", **(SETTINGS | changes))
    offsets = str(folder / "sim" / "OFFSET_LIST.fits")
    options = {"memory": "1GB", "workers": 1, "offsets": offsets, "assess": "full"}
    field = Field.from_exposures(paths, folder / "field", overwrite=True, **options)
    ingest_exposures(field)
    combine_to_store(field)
    if products:
        write_products(field)
    return field


@pytest.fixture(scope="session")
def make_combined():
    """The function `combined`."""
    return combined


@pytest.fixture(scope="session")
def spoilt(tmp_path_factory):
    """A field with a fault in most of its exposures, and its assessment."""
    trails = (Trail(5, 35.0, 4.0, 150.0),)
    field = combined(tmp_path_factory.mktemp("spoilt"), products=True, faults=FAULTS, trails=trails)
    return field, assess_field(field)


@pytest.fixture(scope="session")
def clean(tmp_path_factory):
    """A field without any, and its assessment."""
    field = combined(tmp_path_factory.mktemp("clean"))
    return field, assess_field(field.changed(assess="quick"))
