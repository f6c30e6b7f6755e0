"""The list that `musedeep align` writes, read and applied by muse_exp_combine."""

import math

import numpy as np
import pytest
from fields import arrays_of, ingested
from parity.conftest import SHUFFLED, simulated
from parity.peer import Peer, assert_agreement, assert_same_grid, disagreement

from musedeep import OffsetTable, VoxelGrid, combine_exposures
from musedeep.align.stage import alignment_state
from musedeep.cli import _main

pytestmark = pytest.mark.esorex


@pytest.fixture(scope="module")
def exposures(tmp_path_factory):
    """Four exposures with stars enough to be aligned by."""
    changes = {"field_arcsec": 12.0, "wavelength": (6500.0, 6513.0), "stars": 9, "star_flux": (2e4, 1e5)}
    return simulated(tmp_path_factory.mktemp("stars"), galaxies=0, **changes)


@pytest.fixture(scope="module")
def aligned(exposures, tmp_path_factory):
    """A field with the list that it measured."""
    paths = [exposures.paths[n] for n in SHUFFLED]
    field = ingested(paths, tmp_path_factory.mktemp("aligned"), grid="eso", reject="eso")
    assert _main(["align", str(field.folder), "--quiet"]) == 0
    assert alignment_state(field)["state"] == "measured"
    return field


def combined(field, **settings):
    cube = combine_exposures(field.changed(**settings))
    return VoxelGrid.from_dict(cube.attrs["grid"]), arrays_of(cube)


def test_the_measured_list_holds_shifts_and_scales(aligned, exposures):
    """The agreement below would say nothing of a list that changes nothing."""
    found = OffsetTable.read(aligned.offsets_path)
    truth = OffsetTable.read(exposures.paths[0].parent / "OFFSET_LIST.fits")
    dates = [str(date) for date in truth.table["DATE_OBS"]]
    pairs = [(found.lookup(date), truth.lookup(date)) for date in dates]
    cos = math.cos(math.radians(-12.8))
    wrong = np.array([[(a.ra_deg - b.ra_deg) * cos, a.dec_deg - b.dec_deg] for a, b in pairs]) * 3600
    assert np.abs(wrong - wrong.mean(axis=0)).max() < 0.02
    ratio = np.array([a.flux_scale / b.flux_scale for a, b in pairs])
    assert np.abs(ratio / np.median(ratio) - 1).max() < 0.03
    assert np.ptp(found.table["FLUX_SCALE"]) > 0.1 and np.ptp(found.table["RA_OFFSET"]) * 3600 > 0.5


def test_the_recipe_applies_the_list_as_musedeep_does(aligned, exposures, tmp_path):
    frames = [(exposures.paths[n], "PIXTABLE_REDUCED") for n in SHUFFLED]
    peer = Peer(tmp_path, frames)
    theirs = peer.combine(frames=[*frames, (aligned.offsets_path, "OFFSET_LIST")])
    grid, maps = combined(aligned)
    assert_same_grid(grid, theirs, pixels=1e-9)
    assert_agreement(maps, theirs)
    # of the list without its scales the recipe makes another cube
    plain = OffsetTable.read(aligned.offsets_path).table
    plain["FLUX_SCALE"] = 1.0
    path = OffsetTable(plain).write(tmp_path / "plain.fits")
    _, maps = combined(aligned, offsets=str(path))
    assert disagreement(maps["flux"], maps["variance"], theirs).data > 0.1
