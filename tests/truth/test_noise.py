"""A deep cube against its exposures without noise: noise, fluxes of stars, strong cosmic rays."""

import numpy as np
import pytest
from truth.stacks import LINE, simulated, stars

from musedeep.simulate import Source

GALAXIES = (
    Source("exponential", 1.2, -2.2, 6e4, 0.0, 0.6, 0.6, 30.0, lines=((6531.0, 4e5, 5.0),)),
    Source("gaussian", -3.0, 1.2, 4e4, 0.0, 0.5, 0.8, 100.0, lines=((LINE, 3e5, 4.0),)),
)
SCENE = stars((50, 12, 8, 30, 20, 5, 80, 15)) + GALAXIES


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """Sixteen exposures with cosmic rays of 6 to 200 sigma on 0.2 % of the rows."""
    return simulated(tmp_path_factory.mktemp("deep"), sources=SCENE)


@pytest.fixture(scope="module")
def truth(tmp_path_factory, deep):
    """What the same exposures give without noise and cosmic rays; ndarray (nz, ny, nx)."""
    twin = simulated(tmp_path_factory.mktemp("twin"), sources=SCENE, noise="none", cosmic_ray_rate=0)
    assert twin.grid == deep.grid
    return twin.flux(reject="none")


@pytest.fixture(scope="module")
def combined(deep):
    """Flux and variance with the default settings."""
    return deep.maps("flux", "variance")


def width(pulls):
    """Half of the range that holds 68.27 % of the values, which a few outliers do not change."""
    low, high = np.nanpercentile(pulls, [15.865, 84.135])
    return (high - low) / 2


def test_pulls_have_unit_width(deep, truth, combined):
    flux, variance = combined
    pulls = (flux - truth) / np.sqrt(variance)
    assert np.isfinite(pulls).sum() > 300_000
    assert width(pulls) == pytest.approx(1.0, abs=0.02)
    assert width(pulls[:, ~deep.sky]) == pytest.approx(1.0, abs=0.02)
    assert abs(np.nanmean(pulls)) < 0.03


def test_pulls_on_sky_have_unit_width_with_all_their_outliers(deep, truth, combined):
    flux, variance = combined
    for expected in (truth, deep.model()):
        pulls = ((flux - expected) / np.sqrt(variance))[:, deep.sky]
        assert np.nanstd(pulls) == pytest.approx(1.0, abs=0.02)
        assert np.nanmax(np.abs(pulls)) < 7
    unjudged = deep.flux(reject="none")
    assert np.nanstd(((unjudged - truth) / np.sqrt(variance))[:, deep.sky]) > 2


def test_star_fluxes_are_right_though_cosmic_rays_hit(deep, truth, combined):
    """Each exposure samples a star at other places and with other seeing, so that even without noise the sum
    over its voxels is up to a percent off. The same exposures without noise have that in common."""
    flux, _ = combined
    found = deep.fluxes(flux, 1.2)
    against_twin = found / deep.fluxes(truth, 1.2) - 1
    assert np.abs(against_twin).max() < 0.005
    seen = np.where(np.isfinite(flux), deep.model(), np.nan)
    assert abs((found / deep.fluxes(seen, 1.2) - 1).mean()) < 0.005
    unjudged = deep.fluxes(deep.flux(reject="none"), 1.2)
    assert (unjudged / deep.fluxes(truth, 1.2) - 1).max() > 0.02


def test_strong_cosmic_rays_are_removed_from_the_sky(deep):
    rows, taken = deep.rows, deep.rejected()
    sky = deep.at_rows(deep.sky) & (deep.at_rows(deep.depth()) >= 8)
    strong = sky & (rows.ray >= 12)
    assert strong.sum() > 1000
    assert taken[strong].mean() >= 0.999
    assert taken[sky & (rows.ray == 0)].mean() <= 1e-4
