"""The slow reference is ESO's rule: with the geometry of the sky it gives the recipe's cube nearly to the
bit."""

import numpy as np
import pytest
import reference
from astropy.io import fits
from parity.peer import disagreement, sky_rows

from musedeep import OffsetTable
from musedeep.pixtable import group_exposures
from musedeep.recipe import prepare
from musedeep.weights import exposure_weights

pytestmark = pytest.mark.esorex


@pytest.fixture(scope="module")
def rows_of(ours, exposures):
    """A function that gives grid, rows and pixel size of some exposures, as the recipe sees them."""

    def rows(numbers):
        chosen = [exposures.paths[n] for n in numbers]
        weights = exposure_weights(group_exposures(chosen))
        grid = prepare(ours.changed(numbers)).grid
        return grid, *sky_rows(chosen, OffsetTable.read(exposures.offsets), weights, grid)

    return rows


def assert_same(data, variance, theirs):
    """Nearly all float32 values are the same; the rest differ by the order of the sums."""
    found = disagreement(data, variance, theirs)
    assert (found.empty, found.data, found.variance) == (0, 0, 0), str(found)
    common = np.isfinite(data)
    assert (data[common] == theirs.data[common]).mean() > 0.99
    np.testing.assert_allclose(data[common], theirs.data[common], rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("method", ["drizzle", "linear", "quadratic", "renka", "lanczos"])
def test_resampling(peer, rows_of, method):
    theirs = peer.combine(f"--resample={method}", "--crsigma=0")
    grid, rows, step_deg = rows_of(range(4))
    data, variance = reference.resample(
        rows, grid, rows.dq == 0, method, step_deg=step_deg, geometry="sky", clamp=True
    )
    assert_same(data, variance, theirs)


@pytest.mark.parametrize(
    ("numbers", "crtype", "crsigma", "direction"),
    [((0, 1, 2, 3), "median", 5.0, "x"), ((1, 2, 3), "mean", 3.0, "y"), ((2, 3), "iraf", 5.0, "none")],
)
def test_rejection(peer, exposures, rows_of, numbers, crtype, crsigma, direction):
    frames = exposures.frames(numbers)
    theirs = peer.combine(f"--crtype={crtype}", f"--crsigma={crsigma}", frames=frames)
    grid, rows, step_deg = rows_of(numbers)
    angle = fits.getheader(exposures.paths[numbers[0]])["ESO INS DROT POSANG"]
    assert reference.slice_direction(angle) == direction
    rejected = reference.eso_rejected(rows, grid.shape, crtype, crsigma, direction, clamp=True)
    assert 100 < rejected.sum() < 0.8 * len(rows)
    kept = (rows.dq == 0) & ~rejected
    data, variance = reference.resample(rows, grid, kept, step_deg=step_deg, geometry="sky", clamp=True)
    assert_same(data, variance, theirs)
