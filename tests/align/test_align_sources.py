import numpy as np
import pytest

from musedeep.align.fit import SourceFit, moffat
from musedeep.align.sources import background_of, find_sources
from musedeep.settings import AlignSettings


def truth_pixels(sky, n=0):
    image = sky.images[n]
    plane = sky.places / (180 / np.pi * 3600)
    x, y, w = np.linalg.inv(image.to_sky) @ np.column_stack([plane, np.ones(len(plane))]).T
    return np.column_stack([x / w, y / w])


def paired(found, places):
    away = np.hypot(found.x[:, None] - places[:, 0], found.y[:, None] - places[:, 1])
    nearest = away.argmin(axis=1)
    return nearest, away.min(axis=1)


def test_stars_are_found_where_they_are_with_honest_errors(sky):
    field = sky(stars=30, seed=2).add(fwhm=0.8)
    found = find_sources(field.images[0], AlignSettings())
    nearest, away = paired(found, truth_pixels(field))
    assert len(found) >= 25 and (away < 0.6).mean() > 0.95
    ratio = away / found.position_error / np.sqrt(2)
    assert 0.5 < np.median(ratio) / 0.83 < 1.6
    assert found.fwhm * 0.2 == pytest.approx(0.8, rel=0.03)


def test_fluxes_are_whole_in_any_seeing(sky):
    for fwhm in (0.5, 0.8, 1.5):
        field = sky(stars=8, flux=(5e4, 1e5), seed=4).add(fwhm=fwhm)
        found = find_sources(field.images[0], AlignSettings())
        nearest, _ = paired(found, truth_pixels(field))
        assert np.median(found.flux / field.flux[nearest]) == pytest.approx(1, abs=0.015)


def test_the_photon_noise_bound_is_nearly_reached(sky):
    field = sky(stars=1, flux=(2e4, 2.001e4), spread=0.5, seed=3)
    for _ in range(40):
        field.add(fwhm=0.8)
    options = AlignSettings(srcmin=1)
    off = []
    for n, image in enumerate(field.images):
        found = find_sources(image, options)
        off.append([found.x[0], found.y[0]] - truth_pixels(field, n)[0])
    rows, columns = np.mgrid[:150, :150]
    x, y = truth_pixels(field)[0]
    step = 1e-3
    slope = (
        field.flux[0]
        * (
            moffat((columns - x + step) ** 2 + (rows - y) ** 2, 4.0)
            - moffat((columns - x) ** 2 + (rows - y) ** 2, 4.0)
        )
        / step
    )
    model = field.flux[0] * moffat((columns - x) ** 2 + (rows - y) ** 2, 4.0)
    bound = (slope**2 / (9 + 0.5 * model)).sum() ** -0.5
    assert np.sqrt(np.mean(np.square(off))) < 1.25 * bound


def test_neighbours_do_not_pull_on_each_other(sky):
    field = sky(stars=2, flux=(5e4, 5.1e4), seed=1)
    field.places = np.array([[0.0, 0.0], [1.5, 0.3]])
    field.add(fwhm=0.8)
    found = find_sources(field.images[0], AlignSettings())
    _, away = paired(found, truth_pixels(field))
    assert len(found) == 2 and away.max() < 0.03


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_what_is_found_does_not_depend_on_the_unit(sky, scale):
    field = sky(stars=20, seed=5).add(scale=scale)
    found = find_sources(field.images[0], AlignSettings(srcmax=15))
    assert len(found) == 14  # of the 15 brightest peaks one is a pair of stars
    np.testing.assert_allclose(found.flux.max() / scale, field.flux.max(), rtol=0.03)


def test_the_threshold_walks_until_the_number_suits(sky):
    field = sky(stars=40, seed=6, flux=(3e3, 3e5)).add()
    many = find_sources(field.images[0], AlignSettings(threshold=15.0, srcmax=80, bpixdistance=0))
    few = find_sources(field.images[0], AlignSettings(threshold=15.0, srcmax=10, bpixdistance=0))
    assert many.threshold == 15.0 and many.detected > 20
    assert few.detected <= 10 and few.threshold > 15.0
    assert (few.threshold - 15.0) % 0.5 == pytest.approx(0, abs=1e-9)
    high = find_sources(field.images[0], AlignSettings(threshold=1e4, srcmin=7, bpixdistance=0))
    assert 7 <= high.detected <= 80 and high.threshold < 1e4


def test_sources_near_bad_pixels_are_left_out(sky):
    field = sky(stars=1, flux=(5e4, 5.1e4), spread=0.1).add()
    image = field.images[0]
    x, y = truth_pixels(field)[0]
    image.flux[int(y) + 4, int(x)] = np.nan
    assert len(find_sources(image, AlignSettings(bpixdistance=8.0))) == 0
    assert len(find_sources(image, AlignSettings(bpixdistance=1.0))) == 1


def test_noise_holds_no_source_and_no_data_no_background(sky):
    field = sky(stars=0).add()
    assert len(find_sources(field.images[0], AlignSettings())) == 0
    field.images[0].flux[:] = np.nan
    empty = find_sources(field.images[0], AlignSettings())
    assert len(empty) == 0 and np.isnan(empty.background.sigma)


def test_the_background_is_that_of_the_dark_part():
    values = np.random.default_rng(1).normal(50, 3, (200, 200)).astype(np.float32)
    values[:60] += 500
    background = background_of(values, 0.05, 0.1)
    assert 45 < background.median < 50
    assert background.sigma == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"bkgignore": 0.6},
        {"bkgfraction": 0.9},
        {"threshold": 400.0, "step": 5.0, "iterations": 2},
        {"roundmin": 0.0},
        {"roundmax": 0.0},
        {"sharpmin": 0.45},
        {"sharpmax": 0.45},
    ],
    ids=lambda changes: next(reversed(changes)),
)
def test_every_option_of_the_detection_does_something(sky, changes):
    image = sky(stars=30, galaxies=5, seed=2).add(fwhm=0.9).images[0]
    usual = {"threshold": 400.0, "step": 5.0, "srcmin": 20} if "iterations" in changes else {}
    before, after = (find_sources(image, AlignSettings(**usual | more)) for more in ({}, changes))
    shape = "sharp" in next(reversed(changes)) or "round" in next(reversed(changes))
    if shape:
        limit = next(reversed(changes.values()))
        values = after.sharpness if "sharpmin" in changes or "sharpmax" in changes else after.roundness
        inside = values >= limit if next(reversed(changes)).endswith("min") else values <= limit
        assert inside.all() and 0 < len(after) < len(before)
    elif "iterations" in changes:
        assert before.threshold < 390.0 and after.threshold == 390.0
    else:
        assert after.background.median > before.background.median


def test_cosmic_rays_beside_stars_take_none_of_their_light(sky):
    # seen as peaks, but unlike the PSF: a free fit of one would wander to the star and share its flux
    field = sky(stars=9, flux=(2e4, 1e5), seed=1)
    field.places = 8.0 * np.column_stack([values.ravel() - 1 for values in np.indices((3, 3))])
    image = field.add(fwhm=1.2, noise=1.0).images[0]
    clean = find_sources(image, AlignSettings())
    rng = np.random.default_rng(1)
    rows, columns = rng.integers(1, field.size - 2, (2, 300))
    strength = rng.exponential(300, 300)
    for row, column, share in ((0, 0, 0.4), (0, 1, 0.3), (1, 0, 0.2), (1, 1, 0.1)):
        np.add.at(image.flux, (rows + row, columns + column), share * strength)
    found = find_sources(image, AlignSettings())
    near = np.hypot(found.x[:, None] - clean.x, found.y[:, None] - clean.y).argmin(axis=0)
    np.testing.assert_allclose(found.flux[near], clean.flux, rtol=0.02)


def _track(flux, row, column, length, along, strength):
    """A cosmic ray that is two pixels wide."""
    across = 1 - along
    for step in range(length):
        for wide, share in ((0, 0.6), (1, 0.4)):
            flux[row + step * along + wide * across, column + step * across + wide * along] += (
                share * strength
            )


def test_tracks_of_cosmic_rays_neither_narrow_the_stars_nor_brighten_them(sky):
    field = sky(stars=9, flux=(2e4, 1e5), seed=1)
    field.places = 8.0 * np.column_stack([values.ravel() - 1 for values in np.indices((3, 3))])
    image = field.add(fwhm=1.0, noise=3.0).images[0]
    clean = find_sources(image, AlignSettings())
    for n in range(50):
        row, column = field.rng.integers(2, field.size - 12, 2)
        _track(image.flux, row, column, int(field.rng.integers(3, 9)), n % 2, field.rng.exponential(300) + 50)
    found = find_sources(image, AlignSettings())
    assert found.fwhm == pytest.approx(clean.fwhm, rel=0.01)
    near = np.hypot(found.x[:, None] - clean.x, found.y[:, None] - clean.y).argmin(axis=0)
    np.testing.assert_allclose(found.flux[near], clean.flux, rtol=0.02)


def test_fluxes_at_the_border_are_those_of_the_middle(sky):
    ratios = []
    for seed in range(4):
        field = sky(stars=12, flux=(4e4, 1e5), seed=seed)
        field.places = np.array([(x, y) for x in (-13.7, -4.6, 4.6, 13.7) for y in (-12.0, 0.0, 12.0)])
        found = find_sources(field.add(fwhm=1.2).images[0], AlignSettings())
        nearest, away = paired(found, truth_pixels(field))
        ratio = found.flux / field.flux[nearest]
        border = np.abs(field.places[nearest, 0]) > 10
        assert border.sum() >= 5 and (away < 0.2).all()
        ratios.extend(ratio[border] / np.median(ratio[~border]) - 1)
    assert np.abs(ratios).max() < 0.01


def test_a_mean_of_rows_that_lie_apart_moves_no_sharp_star():
    # two slices in one row of spaxels, and none in the next, as where their spacing and that of spaxels drift
    rows, columns = np.indices((40, 40)).astype(float)
    low, high = rows - 0.45, rows + 0.45
    double = rows % 5 == 2
    x, y = np.array([19.3]), np.array([18.6])
    light = [5e4 * moffat((columns - x) ** 2 + (at - y) ** 2, 2.4) for at in (low, high)]
    data = np.where(double, (light[0] + light[1]) / 2, light[1])
    none = np.zeros((40, 40))
    places = np.stack([columns, np.where(double, rows, high), none, none, np.where(double, 0.45**2, 0.0)])
    off = []
    for known in (places[:2], places):
        fit = SourceFit(data, np.where(rows % 5 == 3, np.inf, 9.0), x.copy(), y.copy(), 2.4, known)
        fit.run()
        off.append(np.hypot(fit.x - x, fit.y - y)[0])
    assert off[1] < 0.002 and off[1] < off[0] / 5


def test_the_width_of_stars_is_not_that_of_cosmic_rays():
    # what the profile leaves of bright stars is more than their noise; rays are faint, sharp and many
    rng = np.random.default_rng(4)
    rows, columns = np.indices((150, 150)).astype(float)
    data = rng.normal(0, 1.6, rows.shape)
    places = 12.0 + 25.0 * np.column_stack([values.ravel() for values in np.indices((6, 6))])
    for n, (x, y) in enumerate(places + rng.uniform(-1, 1, places.shape)):
        away = (columns - x) ** 2 + (rows - y) ** 2
        data += 900 * moffat(away, 1.8, 3.0) if n % 4 else 1e5 * moffat(away, 3.5, 4.5)
    fit = SourceFit(data, np.full(data.shape, 2.56), places[:, 0], places[:, 1], 5.0)
    fit.run()
    assert 3.2 < fit.fwhm < 3.8
