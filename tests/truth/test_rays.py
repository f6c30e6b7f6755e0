"""Cosmic rays that no flag tells of: which rows are rejected, and which are not."""

import pytest
from truth.stacks import STAR_PLACES, simulated, stars

TRACKS = {"cosmic_ray_rate": 0.002, "cosmic_ray_length": (1, 10), "cosmic_ray_flagged": 0.0}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Sixteen exposures with tracks of 7.5 to 16 sigma, and four stars."""
    sources = stars(30, places=STAR_PLACES[1::2])
    folder = tmp_path_factory.mktemp("rays")
    return simulated(folder, sources=sources, cosmic_ray_sigma=(7.5, 16.0), seed=11, **TRACKS)


def shares(stack, exposures=16, **changes):
    """Shares of the rows on the sky that are rejected where at least half of some exposures overlap.

    Returns
    -------
    dict
        at 8: of the rows to which a cosmic ray added 7.5 to 8.5 sigma; from 12: 12 or more; clean: none.
    """
    rows, picked = stack.rows, stack.dates[:exposures]
    taken = stack.rejected(select=picked, **changes)
    sky = stack.at_rows(stack.sky & (stack.depth(select=picked) >= exposures / 2))
    sky &= rows.exposure < exposures
    chosen = {
        "at 8": sky & (rows.ray > 0) & (rows.ray < 8.5),
        "from 12": sky & (rows.ray >= 12),
        "clean": sky & (rows.ray == 0),
    }
    assert min(part.sum() for part in chosen.values()) > 15 * exposures
    return {name: taken[part].mean() for name, part in chosen.items()}


def test_cosmic_rays_are_removed_and_clean_sky_is_kept(stack):
    found = shares(stack)
    assert found["at 8"] >= 0.97
    assert found["from 12"] >= 0.999
    assert found["clean"] <= 1e-4


@pytest.mark.parametrize("exposures", [3, 4, 6, 8, 12])
def test_few_exposures_are_enough(stack, exposures):
    """Where few rows meet in a voxel, those around it join the sample."""
    found = shares(stack, exposures)
    assert found["at 8"] >= 0.95
    assert found["from 12"] >= 0.99
    assert found["clean"] <= 1.5e-4


def test_the_own_voxel_alone_is_no_good_sample_of_few_rows(stack):
    own, around = (shares(stack, 6, sample=sample) for sample in ("own", "27"))
    assert own["at 8"] < 0.9 < around["at 8"]


def test_more_is_found_than_by_the_rule_of_eso(stack):
    """One-sided, 10 median absolute deviations above the median of 27 voxels: 6.7 sigma."""
    ours, theirs = shares(stack), shares(stack, reject="eso")
    assert theirs["at 8"] < 0.93 < ours["at 8"]
    assert theirs["clean"] < 1e-5


def test_a_second_round_changes_little(stack):
    """With cosmic rays on 0.2 % of the rows, the median and its deviation hardly feel them."""
    once, twice = shares(stack), shares(stack, nmax=2)
    assert twice["at 8"] == pytest.approx(once["at 8"], abs=0.01)
    assert once["clean"] <= twice["clean"] <= 1.2e-4
