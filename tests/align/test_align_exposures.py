import math

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from musedeep.align import align_exposures
from musedeep.align.check import check_offsets
from musedeep.align.joint import moved
from musedeep.align.sources import find_sources
from musedeep.errors import InputError, UsageError
from musedeep.offsets import Offset, OffsetTable
from musedeep.settings import AlignSettings
from musedeep.sky import sky_frame

MAS = 0.001


def rms(errors):
    return float(np.sqrt(np.mean(np.square(errors))))


def dithered(field, count, error=0.5, **facts):
    rng = np.random.default_rng(77)
    for _ in range(count):
        shift, pointing = rng.normal(0, error, 2), rng.uniform(-1.5, 1.5, 2)
        field.add(shift, pointing=pointing, fwhm=rng.uniform(0.6, 1.2), **facts)
    return field


def test_many_stars(sky, tmp_path):
    field = dithered(sky(stars=40), 8)
    found = align_exposures(field.write(tmp_path))
    bound = [1 / np.sum((s.position_error * 0.2) ** -2.0) for s in found.result.sources]
    assert rms(field.shift_errors(found.result.offsets)) < min(1.5 * np.sqrt(np.mean(bound)), 2 * MAS)
    assert np.abs(field.scale_errors(found.result.offsets)).max() < 0.01
    assert found.verdict == "aligned" and not found.set_aside
    assert found.result.preset == "normal" and set(found.table["QUALITY"]) == {"good"}
    assert found.table["RA_OFFSET"][0] == 0 and found.table["DEC_OFFSET"][0] == 0
    ratio = field.shift_errors(found.result.offsets) / found.result.shift_errors
    assert 0.4 < rms(ratio) < 2


def test_cosmic_rays_move_nothing_and_brighten_nothing(sky, tmp_path):
    # a wide aperture, as bad seeing asks for, catches more of them
    field = sky(stars=20, flux=(1e4, 1e5))
    for fwhm in (0.6, 0.6, 0.9, 1.2, 1.2, 1.2):
        flux = field.add(field.rng.normal(0, 0.5, 2), fwhm=fwhm).images[-1].flux
        rows, columns = field.rng.integers(0, field.size - 1, (2, 200))
        strength = field.rng.exponential(200, 200)
        for row, column, share in ((0, 0, 0.4), (0, 1, 0.3), (1, 0, 0.2), (1, 1, 0.1)):
            np.add.at(flux, (rows + row, columns + column), share * strength)
    found = align_exposures(field.write(tmp_path))
    assert rms(field.shift_errors(found.result.offsets)) < 1.5 * MAS
    assert np.abs(field.scale_errors(found.result.offsets)).max() < 0.01


@pytest.mark.parametrize("stars", [3, 5])
def test_few_stars(sky, tmp_path, stars):
    field = dithered(sky(stars=stars, flux=(1e4, 1e5), spread=9.0, seed=stars), 5)
    found = align_exposures(field.write(tmp_path))
    assert rms(field.shift_errors(found.result.offsets)) < 10 * MAS


def test_errors_of_half_an_arcmin_far_from_the_equator(sky, tmp_path):
    field = sky(stars=40, dec=-70.0, size=250, spread=20.0)
    for shift in ((0, 0), (25.0, -16.0), (-20.0, 20.0), (1.0, 2.0)):
        field.add(shift)
    found = align_exposures(field.write(tmp_path), rsearch=(60.0, 4.0, 2.0, 0.8))
    assert rms(field.shift_errors(found.result.offsets)) < 3 * MAS


def test_rotations(sky, tmp_path):
    field = sky(stars=40)
    turns = np.array([0.05, 0.0, -0.05, 0.02, -0.02])
    for turn in turns:
        field.add(turn_deg=turn, pointing=field.rng.uniform(-2, 2, 2))
    found = align_exposures(field.write(tmp_path), fit_rotation=True)
    measured = np.array(found.table["ROTATION"])
    wrong = measured - measured.mean() - (turns - turns.mean())
    assert np.abs(wrong).max() < 0.01
    assert np.median(found.table["ROTATION_ERROR"]) < 0.005
    assert rms(field.shift_errors(found.result.offsets)) < 3 * MAS


def test_galaxies_alone(sky, tmp_path):
    field = dithered(sky(stars=0, galaxies=10, flux=(2e4, 1e5)), 6)
    paths = field.write(tmp_path)
    assert rms(field.shift_errors(align_exposures(paths).result.offsets)) < 20 * MAS
    found = align_exposures(paths, preset="extended")
    assert set(found.table["METHOD"]) == {"image"}
    assert rms(field.shift_errors(found.result.offsets)) < 10 * MAS
    assert np.abs(field.scale_errors(found.result.offsets)).max() < 0.03


def test_a_crowded_field(sky, tmp_path):
    field = dithered(sky(stars=250, flux=(1e3, 1e5)), 4)
    found = align_exposures(field.write(tmp_path))
    assert found.result.preset == "crowded"
    assert rms(field.shift_errors(found.result.offsets)) < 10 * MAS


@pytest.mark.parametrize("seed", [3, 14])
def test_a_mosaic_holds_together(sky, tmp_path, seed):
    # A tenth of the images overlaps, there are stars just outside of each, and with seed 14 no pair of
    # exposures shares enough: only those of one pointing together do.
    field = sky(stars=200, spread=27.0, seed=seed)
    for n, place in enumerate([(-13, -13), (13, -13), (13, 13), (-13, 13)] * 2):
        field.add((0.3 * n, -0.2 * n), pointing=place, fwhm=0.7 + 0.08 * n)
    found = align_exposures(field.write(tmp_path))
    assert set(found.table["METHOD"]) == {"sources"}
    assert rms(field.shift_errors(found.result.offsets)) < 10 * MAS
    wrong = np.abs(field.scale_errors(found.result.offsets))
    assert wrong.max() < 0.012 and rms(wrong) < 0.007 and (wrong < 4 * found.result.scale_errors).all()
    assert np.nanmax(found.result.scale_errors) < 0.08


def test_a_scale_off_by_ten_is_found_and_does_no_harm(sky, tmp_path):
    field = dithered(sky(stars=25), 5)
    field.add(scale=10.0).add(scale=2.5)
    found = align_exposures(field.write(tmp_path))
    assert rms(field.shift_errors(found.result.offsets)) < 3 * MAS
    assert np.abs(field.scale_errors(found.result.offsets)).max() < 0.01
    assert found.set_aside == [field.images[5].date_obs] and found.left_out == set(found.set_aside)
    assert found.table["QUALITY"][5] == "scale"
    assert any("2.5 times" in note for note in found.notes)
    assert not align_exposures(field.write(tmp_path), scale_limit=20.0).set_aside


def test_an_exposure_without_data_is_reported(sky, tmp_path):
    field = dithered(sky(stars=25), 4)
    field.add().images[-1].flux[:] = np.nan
    paths = field.write(tmp_path)
    found = align_exposures(paths)
    assert found.table["METHOD"][-1] == "header" and found.table["QUALITY"][-1] == "unsolved"
    assert found.table["RA_OFFSET"][-1] == 0 and "no solution" in " ".join(found.notes)
    left = align_exposures(paths, unsolved="omit")
    assert left.left_out == set(left.set_aside) == {field.images[-1].date_obs}
    assert found.left_out == set() and len(left) == len(found) == 5


@pytest.mark.parametrize("size", [0.2, 0.5])
def test_the_check_names_an_exposure_that_lies_off(sky, size):
    field = dithered(sky(stars=20, seed=9), 8, error=0.0)
    settings = AlignSettings()
    offsets = [Offset()] * len(field.images)
    sources = [find_sources(image, settings) for image in field.images]
    assert check_offsets(field.images, sources, offsets, settings).verdict == "aligned"
    offsets[3] = moved(field.images[3], offsets[3], (0.6 * size, -0.8 * size))
    check = check_offsets(field.images, sources, offsets, settings)
    assert check.suspicious == [field.images[3].date_obs]
    assert np.hypot(*check.deviations[3]) == pytest.approx(size, abs=0.01)
    assert field.images[3].date_obs in check.verdict
    assert check.misaligned == (size > 0.3)


def test_noise_and_cosmic_rays_alone_raise_no_alarm(sky):
    # stacks of exposures without sources still have peaks that an image can be moved to
    for seed in (2, 3):
        field = sky(stars=0, size=70, seed=seed)
        for _ in range(5):
            flux = field.add(noise=3.0).images[-1].flux
            rows, columns = field.rng.integers(8, 62, (2, 4))
            flux[rows, columns] += 300.0
        settings = AlignSettings()
        sources = [find_sources(image, settings) for image in field.images]
        check = check_offsets(field.images, sources, [Offset()] * 5, settings)
        assert check.verdict == "aligned" and np.isnan(check.deviations).all()


def test_a_catalogue_ties_coordinates_and_fluxes(sky, tmp_path):
    field = sky(stars=30)
    field.add((1.0, -2.0)).add((0.2, 0.4), scale=2.0).add((3.0, 0.0))
    vectors = (
        sky_frame(150.1, field.dec)
        @ np.column_stack([field.places / (math.degrees(1) * 3600), np.ones(30)]).T
    )
    ra = np.degrees(np.arctan2(vectors[1], vectors[0]))
    dec = np.degrees(np.arctan2(vectors[2], np.hypot(vectors[0], vectors[1])))
    mag = -2.5 * np.log10(field.flux * 1e-20 * 6975.0**2 / 2.99792458e18) - 48.6
    catalogue = Table({"RA": ra, "Dec": dec, "mag": mag})
    catalogue.write(tmp_path / "stars.ecsv", format="ascii.ecsv")
    found = align_exposures(field.write(tmp_path), reference=str(tmp_path / "stars.ecsv"))
    measured = np.column_stack([found.table["RA_OFFSET"], found.table["DEC_OFFSET"]]) * 3600
    np.testing.assert_allclose(measured[:, 1], [-2.0, 0.4, 0.0], atol=0.01)
    np.testing.assert_allclose(measured[:, 0] * math.cos(math.radians(field.dec)), [1.0, 0.2, 3.0], atol=0.01)
    np.testing.assert_allclose(found.table["FLUX_SCALE"], [1.0, 0.5, 1.0], rtol=0.015)
    catalogue.rename_column("RA", "X")
    catalogue.write(tmp_path / "stars.ecsv", format="ascii.ecsv", overwrite=True)
    with pytest.raises(InputError, match="no column for RA; it has X, Dec, mag"):
        align_exposures(field.write(tmp_path), reference=str(tmp_path / "stars.ecsv"))


def test_an_image_ties_coordinates(sky, tmp_path):
    field = sky(stars=30)
    field.add((0.0, 0.0)).add((1.0, -2.0)).add((0.2, 0.4))
    paths = field.write(tmp_path)
    found = align_exposures(paths[1:], reference=str(paths[0]))
    np.testing.assert_allclose(found.table["DEC_OFFSET"] * 3600, [-2.0, 0.4], atol=0.005)


def test_sources_are_weighed_by_their_errors(sky, tmp_path):
    field = dithered(sky(stars=40, flux=(1e3, 1e5)), 5)
    paths = field.write(tmp_path)
    weighed, alike = (
        rms(field.shift_errors(align_exposures(paths, weight=w).result.offsets)) for w in (True, False)
    )
    assert weighed < 0.7 * alike


def test_the_list_is_written_with_its_quality(sky, tmp_path):
    field = dithered(sky(stars=25), 3)
    found = align_exposures(field.write(tmp_path))
    path = found.write(tmp_path / "OFFSET_LIST.fits")
    with fits.open(path, checksum=True) as hdus:
        header = hdus[0].header
        assert header["ESO QC EXPALIGN NDET1"] >= 20 and header["ESO QC EXPALIGN NOMATCH"] == 0
        low, high = (header[f"ESO QC EXPALIGN OFFSET RA {end}"] for end in ("MIN", "MAX"))
        assert low <= 0 <= high and high > low
    assert OffsetTable.read(path).lookup(field.images[1].date_obs) == found.result.offsets[1]
    table = Table.read(found.write(tmp_path / "offsets.ecsv"), format="ascii.ecsv")
    assert {"RA_OFFSET_ERROR", "FLUX_SCALE_ERROR", "N_MATCHED", "QUALITY", "BACKGROUND"} <= set(
        table.colnames
    )
    assert table.meta["verdict"] == "aligned"


def test_without_a_flux_scale_the_list_has_none(sky, tmp_path):
    found = align_exposures(dithered(sky(stars=25), 3).write(tmp_path), fit_scale=False)
    assert np.isnan(found.table["FLUX_SCALE"]).all()


def test_input_that_cannot_be_aligned_is_refused(sky, tmp_path, add_cards):
    field = dithered(sky(stars=25), 3)
    paths = field.write(tmp_path)
    with pytest.raises(InputError, match="1 image was given"):
        align_exposures(paths[:1])
    with pytest.raises(UsageError, match="srcmin = 9 is above srcmax = 5"):
        align_exposures(paths, srcmin=9, srcmax=5)
    add_cards(paths[2], 0, ESO_DRS_MUSE_FILTER_NAME="red")
    with pytest.raises(InputError, match="different filters"):
        align_exposures(paths)
    with pytest.raises(InputError, match="both have DATE-OBS"):
        align_exposures([paths[0], paths[0]])


def test_images_without_data_or_without_overlap_are_refused(sky, tmp_path):
    field = sky(stars=100, spread=300.0)
    field.add().add(pointing=(200.0, 0.0))
    with pytest.raises(InputError, match="no image could be matched"):
        align_exposures(field.write(tmp_path))
    for image in field.images:
        image.flux[:] = np.nan
    with pytest.raises(InputError, match="none of the 2 images holds any data"):
        align_exposures(field.write(tmp_path))


def test_a_scale_that_nothing_tells_is_not_guessed(sky, tmp_path):
    # a few faint stars: noise hides their flux
    field = sky(stars=6, flux=(200.0, 260.0), seed=4)
    for scale in (1.0, 1.0, 1.0, 10.0):
        field.add(scale=scale, fwhm=1.0)
    found = align_exposures(field.write(tmp_path), threshold=-30.0)
    unknown = np.array(found.table["QUALITY"]) == "no scale"
    assert unknown[:3].any() and (found.result.scale_errors[unknown] > 0.05).all()
    assert (np.array(found.table["FLUX_SCALE"])[unknown] == 1.0).all()
    assert "its flux scale is not measured" in " ".join(found.notes)
    # what is plainly off is told all the same
    assert found.table["FLUX_SCALE"][3] == pytest.approx(0.1, rel=0.3)


def test_scales_of_galaxies_in_changing_seeing_are_not_guessed(sky, tmp_path):
    field = sky(stars=0, galaxies=12, flux=(2e4, 1e5), seed=2)
    for fwhm in (0.5, 0.7, 0.9, 1.2, 1.5):
        field.add(fwhm=fwhm)
    found = align_exposures(field.write(tmp_path), preset="normal")
    errors = found.result.scale_errors
    assert (np.abs(field.scale_errors(found.result.offsets)) < 3 * errors).all() and errors.min() > 0.05
    assert set(found.table["QUALITY"]) == {"no scale"}
    # galaxies are not taken for stars; stars are
    assert not any(listed.points for listed in found.result.sources)
    stars = sky(stars=12, flux=(2e4, 1e5), seed=2).add(fwhm=1.2)
    assert find_sources(stars.images[0], AlignSettings()).points
