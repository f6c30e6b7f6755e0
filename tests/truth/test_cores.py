"""What the rejection leaves of the cores of stars where seeing differs between exposures.

Without cosmic rays, rejection should change nothing: a core's flux is held against that without rejection.
"""

import numpy as np
import pytest
from truth.stacks import LINE, emitters, mixed_seeing, simulated, stars

# peaks of 50 and 500 sigma a row
RATIOS = (50, 500, 50, 50, 500, 50, 500, 500)
NO_RAYS = {"cosmic_ray_rate": 0, "wavelength": (6505.0, 6535.0)}
SMALL = NO_RAYS | {"field_arcsec": 8.0}
PLACES = ((-2.0, -1.7), (1.9, -1.2), (0.1, 1.9))


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """Seeing of 0.6 to 1.2 arcsec."""
    folder = tmp_path_factory.mktemp("even")
    return simulated(folder, sources=stars(RATIOS), seeing_fwhm=(0.6, 1.2), **NO_RAYS)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Thirteen exposures of 1.0 arcsec and three of 0.6."""
    folder = tmp_path_factory.mktemp("mixed")
    return simulated(folder, sources=stars(RATIOS), seeing_fwhm=mixed_seeing(), **NO_RAYS)


@pytest.mark.parametrize("rule", [{}, {"sample": "own"}, {"sample": "27"}, {"nmax": 2}], ids=str)
@pytest.mark.parametrize("seeing", ["even", "mixed"])
def test_star_cores_are_kept(seeing, rule, request):
    for radius in (0.15, 0.4, 1.0):
        kept = request.getfixturevalue(seeing).cores(radius_arcsec=radius, **rule)
        assert kept == pytest.approx(np.ones(len(RATIOS)), abs=0.002)


def test_it_is_the_guard_that_keeps_them(mixed):
    """And the rule of ESO has none."""
    for rule, most in (({"coherence": 0}, 0.95), ({"reject": "eso"}, 0.97)):
        assert mixed.cores(**rule).max() < most


@pytest.mark.parametrize("exposures", [4, 8, 12])
def test_few_exposures_keep_them_too(mixed, exposures):
    """A quarter of them sharper."""
    sharp = exposures // 4
    select = [*mixed.dates[: exposures - sharp], *mixed.dates[-sharp:]]
    assert mixed.cores(select=select).min() >= 0.998


@pytest.mark.parametrize("seeing", [(0.5,) * 16, mixed_seeing(sharp_fwhm=0.5)], ids=["all", "three"])
def test_undersampled_cores_are_kept(seeing, tmp_path):
    stack = simulated(tmp_path, sources=stars((10, 50, 500), places=PLACES), seeing_fwhm=seeing, **SMALL)
    assert stack.cores().min() >= 0.998


def test_points_that_shine_in_one_line_are_kept(tmp_path):
    """Three planes, three spaxels."""
    points = emitters((8, 30, 150), places=PLACES)
    stack = simulated(tmp_path, sources=points, seeing_fwhm=mixed_seeing(), **SMALL)
    middle = round(float(stack.grid.plane_of(LINE)))
    planes = slice(middle - 1, middle + 2)
    flux = stack.flux(reject="none")
    light = stack.fluxes(flux, planes=planes) / stack.fluxes(flux)
    assert (light > 0.7).all()
    kept = stack.cores(planes=planes)
    assert kept == pytest.approx(np.ones(3), abs=0.002)
    assert stack.cores(planes=planes, coherence=0).max() < 0.97
