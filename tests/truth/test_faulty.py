"""Exposures that are misaligned or of another flux scale, and the edge of a mosaic, where they are few."""

import numpy as np
import pytest
from truth.stacks import Stack, simulated, stars

from musedeep import OffsetTable
from musedeep.simulate import Trail

FAULTY = 5
PLACES = ((-2.0, -1.7), (1.9, -1.2), (0.1, 1.9))
SMALL = {"field_arcsec": 8.0, "wavelength": (6505.0, 6535.0), "cosmic_ray_rate": 0}
MOSAIC = {
    "sources": stars((20, 50, 20, 50), places=((-1.5, 1.8), (2.6, -0.6), (5.2, 1.5), (7.6, -1.0))),
    "pointings": ((0, 0), (0, 0), (0, 0), (6.0, 0)),
    "field_arcsec": 8.0,
    "seed": 5,
}


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """Exposures that are all alike."""
    return simulated(
        tmp_path_factory.mktemp("right"), sources=stars((10, 50, 500), 0.8, PLACES), seeing_fwhm=(0.8,) * 16,
        **SMALL,
    )  # fmt: skip


def with_fault(stack, folder, column, change):
    """The same exposures with another entry of one of them in the offset list."""
    table = OffsetTable.read(stack.exposures / "OFFSET_LIST.fits").table
    table[column][FAULTY] = change(table[column][FAULTY])
    return Stack(stack.exposures, folder, offsets=OffsetTable(table).write(folder.with_suffix(".fits")))


@pytest.mark.parametrize(
    "column, change",
    [("DEC_OFFSET", lambda value: value + 0.2 / 3600), ("FLUX_SCALE", lambda value: value * 1.2)],
    ids=["0.2 arcsec off", "1.2 times too bright"],
)
def test_a_faulty_exposure_is_averaged_not_picked_apart(right, tmp_path, column, change):
    """Rejection cannot mend alignment and scales: it leaves the rows of such an exposure in, rather than
    some of them."""
    faulty = with_fault(right, tmp_path / "field", column, change)
    near = np.any([faulty.aperture(place, 0.6) for place in faulty.star_places], axis=0)
    own = faulty.at_rows(near) & (faulty.rows.exposure == FAULTY)
    assert own.sum() > 1500
    assert faulty.rejected()[own].mean() < 0.001
    assert faulty.cores() == pytest.approx(np.ones(3), abs=0.001)
    # the fault is there
    shift = faulty.fluxes(faulty.flux(), 0.6) / right.fluxes(right.flux(), 0.6) - 1
    assert np.abs(shift).min() > 0.001


def test_edges_of_a_mosaic_are_judged_like_its_middle(tmp_path):
    """Where depth falls from 16 to 4 and to 1, the rows around a voxel judge what it holds."""
    stack = simulated(tmp_path, cosmic_ray_sigma=(8.0, 40.0), **MOSAIC)
    rows, taken, depth = stack.rows, stack.rejected(), stack.at_rows(stack.depth())
    sky = stack.at_rows(stack.sky)
    for low, high in ((1, 4), (4, 12), (12, 17)):
        here = sky & (depth >= low) & (depth < high)
        strong = here & (rows.ray >= 12)
        assert strong.sum() > 25
        assert taken[strong].mean() >= 0.99
        assert taken[here & (rows.ray == 0)].mean() < 2e-4


def test_stars_on_edges_of_a_mosaic_are_kept(tmp_path):
    stack = simulated(tmp_path, cosmic_ray_rate=0, **MOSAIC)
    depths = [np.median(stack.depth()[stack.aperture(place, 0.4)]) for place in stack.star_places]
    assert min(depths) <= 4 and max(depths) >= 12
    assert stack.cores() == pytest.approx(np.ones(4), abs=0.002)


def test_a_trail_goes_with_its_wings(tmp_path):
    """Rows below the limit too, as far as they lie around rejected ones; stars, and rows elsewhere, stay."""
    trail = Trail(FAULTY, 75.0, -0.6, 184.0, 1.0)
    stack = simulated(tmp_path, sources=stars(30, places=PLACES[:2]), exposures=12, trails=(trail,), **SMALL)
    rows, sky = stack.rows, stack.at_rows(stack.sky)
    wing = sky & (rows.trail > 2) & (rows.trail < 4)
    assert wing.sum() > 300
    with_wings, without = stack.rejected(trails=1.5), stack.rejected()
    assert with_wings[wing].mean() > 0.95 > 0.3 > without[wing].mean()
    left = [(rows.trail * ~taken)[sky].sum() for taken in (with_wings, without)]
    assert left[0] < 0.15 * left[1]
    others = rows.exposure != FAULTY
    assert (with_wings & ~without & others).sum() < 1e-5 * others.sum()
