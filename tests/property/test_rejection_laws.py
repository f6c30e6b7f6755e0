"""What the rejection takes of noise, and what it leaves."""

import math

import numpy as np
import pytest
from fields import ingested, maps_of, write_rows

COUNT = 30_000


def noise(folder, exposures=3, stat=1.0, sigma=1.0, seed=0):
    """Pure noise in a few large voxels, many rows each."""
    paths = []
    for n in range(exposures):
        rng = np.random.default_rng((seed, n))
        paths.append(
            write_rows(
                folder, rng.uniform(-2, 2, COUNT), rng.uniform(-2, 2, COUNT), rng.uniform(6500, 6530, COUNT),
                rng.normal(50, sigma, COUNT), stat, number=n + 1,
            )
        )  # fmt: skip
    return ingested(paths, folder / "field", dx=1.5, dy=1.5, dlambda=12.0, gradient=0, coherence=0)


@pytest.fixture(scope="module", params=[1.0, 0.2])
def sky(request, tmp_path_factory):
    """Noise as its variances say, or larger: then the deviations set the scale."""
    return noise(tmp_path_factory.mktemp("noise"), stat=request.param)


def tail(kappa):
    return 0.5 * math.erfc(kappa / math.sqrt(2))


@pytest.mark.parametrize("sample", ["own", "27", "auto"])
@pytest.mark.parametrize("low, high", [(2, 2), (1.5, 3), (3, 2.5)])
def test_the_analytic_share_of_noise_is_rejected(sky, sample, low, high):
    """The scale is that of a normal distribution: kappa means sigma."""
    maps = maps_of(sky, nclip=(low, high), sample=sample)
    share = maps["rejected_count"].sum() / (3 * COUNT)
    assert share == pytest.approx(tail(low) + tail(high), rel=0.1)


def test_the_default_rule_leaves_noise_alone(sky):
    """Four sigma on both sides are 6e-5 of the rows."""
    maps = maps_of(sky, gradient=0.5, coherence=2.0)
    assert maps["rejected_count"].sum() < 2 * 2 * tail(4) * 3 * COUNT


def test_clipping_again_takes_more(sky):
    once, often = (maps_of(sky, nclip=(1.5, 1.5), nmax=n)["rejected_count"].sum() for n in (1, 4))
    assert often > 1.02 * once


def test_variances_hold_the_scale_up_where_rows_agree_by_chance(tmp_path):
    """Rows that scatter less than their variances say are not rejected for it."""
    field = noise(tmp_path, stat=1.0, sigma=0.1)
    assert maps_of(field, nclip=(2, 2))["rejected_count"].sum() == 0


def test_outliers_of_both_signs_go_and_the_rest_stays(tmp_path):
    rng = np.random.default_rng(5)
    paths, outliers = [], 0
    for n in range(4):
        data = rng.normal(50, 1, COUNT)
        hit = rng.random(COUNT) < 0.003
        data[hit] += rng.choice([-1, 1], hit.sum()) * rng.uniform(10, 1000, hit.sum())
        outliers += hit.sum()
        paths.append(
            write_rows(
                tmp_path, rng.uniform(-2, 2, COUNT), rng.uniform(-2, 2, COUNT),
                rng.uniform(6500, 6530, COUNT), data, number=n + 1,
            )
        )  # fmt: skip
    field = ingested(paths, tmp_path / "field")
    kept, all_rows = maps_of(field), maps_of(field, reject="none")
    assert kept["rejected_count"].sum() == pytest.approx(outliers, abs=0.04 * outliers)
    assert np.nanstd(kept["flux"]) < 0.3 * np.nanstd(all_rows["flux"])
    pulls = (kept["flux"] - 50) / np.sqrt(kept["variance"])
    assert np.nanstd(pulls) == pytest.approx(1.0, abs=0.03)
