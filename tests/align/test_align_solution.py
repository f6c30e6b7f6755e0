import numpy as np
import pytest

from musedeep.align.solution import solve_positions, solve_scales


def matches(seed=1, exposures=12, sources=30, noise=0.01, turns=False):
    rng = np.random.default_rng(seed)
    exposure, source = (grid.ravel() for grid in np.indices((exposures, sources)))
    keep = rng.random(len(exposure)) < 0.8
    exposure, source = exposure[keep], source[keep]
    places = rng.uniform(-30, 30, (sources, 2))
    shifts = rng.normal(0, 0.5, (exposures, 2))
    angles = rng.normal(0, 1e-3, exposures) if turns else np.zeros(exposures)
    shifts, angles = shifts - shifts.mean(axis=0), angles - angles.mean()
    arm = places[source]
    turned = np.column_stack([arm[:, 1], -arm[:, 0]]) * angles[exposure][:, None]
    position = arm + shifts[exposure] + turned + rng.normal(0, noise, (len(source), 2))
    return exposure, source, position, np.full(len(source), 0.01), shifts, angles, rng


def test_errors_are_what_the_scatter_says():
    ratios = []
    for seed in range(30):
        exposure, source, position, error, shifts, _, _ = matches(seed, noise=0.02)
        found = solve_positions(exposure, source, position, error, np.zeros((12, 2)))
        ratios.append((found.values - shifts) / found.errors)
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1, abs=0.15)
    assert found.noise_factor == pytest.approx(2, rel=0.15)


def test_wrong_matches_count_nothing():
    exposure, source, position, error, shifts, _, rng = matches()
    wrong = rng.choice(len(source), len(source) // 10, replace=False)
    position[wrong] += rng.uniform(-0.8, 0.8, (len(wrong), 2))
    found = solve_positions(exposure, source, position, error, np.zeros((12, 2)))
    assert np.abs(found.values - shifts).max() < 0.012
    assert np.median(found.weights[wrong]) == 0


def test_rotations_are_found_with_errors():
    exposure, source, position, error, shifts, angles, _ = matches(turns=True)
    found = solve_positions(exposure, source, position, error, np.zeros((12, 2)), rotation=True)
    assert np.abs(found.values[:, 2] - angles).max() < 5 * np.median(found.errors[:, 2])
    assert 0.3e-4 < np.median(found.errors[:, 2]) < 3e-4
    assert np.abs(found.values[:, :2] - shifts).max() < 0.012


def test_a_source_that_wanders_is_trusted_less():
    exposure, source, position, error, shifts, _, rng = matches()
    position[source == 3] += rng.normal(0, 0.1, ((source == 3).sum(), 2))
    found = solve_positions(exposure, source, position, error, np.zeros((12, 2)))
    assert np.abs(found.values - shifts).max() < 0.012


def test_an_exposure_without_matches_has_no_error_and_no_shift():
    exposure, source, position, error, _, _, _ = matches()
    found = solve_positions(exposure, source, position, error, np.zeros((13, 2)))
    assert np.isnan(found.errors[12]).all() and not found.values[12].any() and found.counts[12] == 0


def test_scales_are_found_whatever_outliers():
    exposure, source, _, error, shifts, _, rng = matches()
    brightness = rng.uniform(5, 12, 30)
    magnitude = brightness[source] + shifts[exposure, 0] + rng.normal(0, 0.01, len(source))
    magnitude[::17] += 1.0
    found = solve_scales(exposure, source, magnitude, error, 12)
    assert np.abs(found.values[:, 0] - shifts[:, 0]).max() < 0.01
    assert np.median(found.errors) == pytest.approx(0.01 / np.sqrt(24), rel=0.3)


def test_the_error_of_a_scale_tells_what_a_single_source_decides():
    # two pointings of ten sources each, two exposures a pointing, and three sources in the seam: one of them
    # is wrong by 8 % in both exposures of the second pointing, and outweighs the others
    exposure = np.repeat([0, 1, 2, 3], 13)
    source = np.concatenate([np.r_[0:10, 20:23]] * 2 + [np.r_[10:20, 20:23]] * 2)
    error = np.where(source == 20, 0.003, np.where(source > 20, 0.02, 0.01))
    magnitude = np.random.default_rng(1).normal(0, error)
    magnitude += 0.08 * ((source == 20) & (exposure > 1))
    found = solve_scales(exposure, source, magnitude, error, 4)
    # each relative to the mean of all four
    wrong = abs(found.values[2, 0] - found.values[0, 0]) / 2
    assert wrong > 0.02 and found.errors[2, 0] > wrong / 3
