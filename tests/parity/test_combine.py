"""Cubes of muse_exp_combine and of musedeep, of the same exposures with the same settings."""

import dataclasses

import numpy as np
import pytest
from parity.conftest import Ours
from parity.peer import Peer, assert_agreement, assert_same_grid, disagreement, write_output_wcs

pytestmark = pytest.mark.esorex


def settings_of(options):
    """The settings of musedeep that say what options of the recipe say."""
    settings = {}
    for option in options:
        name, value = option.removeprefix("--").split("=")
        if name == "pixfrac":
            settings[name] = tuple(float(number) for number in value.split(","))
        elif name in ("resample", "crtype", "weight"):
            settings[name] = value
        else:
            settings[name] = int(value) if name == "ld" else float(value)
    return {"ld": 1} | settings


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--crsigma=0",
        "--resample=linear",
        "--resample=quadratic",
        "--resample=renka",
        "--resample=lanczos",
        "--resample=linear --crsigma=0",
        "--resample=quadratic --crsigma=0",
        "--resample=renka --crsigma=0",
        "--resample=lanczos --crsigma=0",
        "--ld=2",
        "--ld=2 --resample=linear",
        "--resample=renka --rc=2.0",
        "--resample=renka --rc=0.8",
        "--crtype=median --crsigma=3",
        "--crtype=median --crsigma=5",
        "--crtype=mean --crsigma=3",
        "--crtype=mean --crsigma=5",
        "--crtype=iraf --crsigma=5",
        "--crtype=iraf --crsigma=15",
        "--weight=fwhm",
        "--weight=header",
        "--weight=none",
        "--pixfrac=0.8",
        "--pixfrac=0.6,0.9",
        "--pixfrac=0.5,0.7,0.9",
        "--pixfrac=1.4",
        "--dx=0.3 --dy=0.25 --dlambda=2.0",
        "--dx=0.1 --dy=0.15 --dlambda=0.8",
        "--lambdamin=6506.3 --lambdamax=6519.2",
    ],
)
def test_cubes_agree(peer, ours, options):
    options = options.split()
    theirs = peer.combine(*options)
    grid, maps = ours.combine(**settings_of(options))
    assert_same_grid(grid, theirs, pixels=1e-9)
    assert_agreement(maps, theirs)


@pytest.mark.parametrize("options", ["", "--crtype=mean --crsigma=3"])
def test_what_is_rejected_makes_a_difference(peer, ours, options):
    """The agreement above would say nothing if the settings changed nothing."""
    theirs = peer.combine(*options.split())
    _, maps = ours.combine(crsigma=0)
    assert disagreement(maps["flux"], maps["variance"], theirs).data > 0.005
    _, maps = ours.combine(**settings_of(options.split()))
    assert maps["rejected_count"].sum() > 100


def test_lanczos_of_second_order_agrees_where_its_weights_do_not_cancel(peer, ours):
    # Its weights may sum to almost nothing; the last digits of float32 positions then decide.
    theirs = peer.combine("--resample=lanczos", "--ld=2")
    _, maps = ours.combine(resample="lanczos", ld=2)
    found = disagreement(maps["flux"], maps["variance"], theirs)
    assert found.empty == 0
    assert found.data < 1e-3
    assert found.variance < 1e-2


@pytest.mark.parametrize("numbers", [(1, 2, 3), (2, 3)])
@pytest.mark.parametrize("options", ["", "--crsigma=5", "--crtype=iraf --crsigma=5"])
def test_the_first_position_angle_decides_on_the_sample(peer, ours, exposures, numbers, options):
    # The earliest exposure of the three lies at 90 degrees, that of the two at 37 degrees.
    options = options.split()
    theirs = peer.combine(*options, frames=exposures.frames(numbers))
    grid, maps = ours.combine(numbers, **settings_of(options))
    assert_same_grid(grid, theirs, pixels=1e-9)
    assert_agreement(maps, theirs)


@pytest.mark.parametrize("weight", ["exptime", "none"])
def test_tables_with_a_column_of_weights_agree(exposures_as_tables, ours, tmp_path, weight):
    """The table form, and 'none' of the recipe, which takes the weights from the column where there is
    one."""
    theirs = Peer(tmp_path, exposures_as_tables.frames()).combine(f"--weight={weight}")
    tables = Ours(exposures_as_tables, tmp_path / "field")
    grid, maps = tables.combine(weight="column" if weight == "none" else weight)
    assert_same_grid(grid, theirs, pixels=1e-9)
    assert_agreement(maps, theirs)
    plain, found = ours.combine(weight="exptime")
    assert plain == grid
    if weight == "exptime":
        np.testing.assert_array_equal(found["flux"], maps["flux"])
    else:
        assert np.nanmax(np.abs(found["flux"] - maps["flux"])) > 1


def grid_like(ours, **changes):
    """A grid somewhat larger than the data and shifted by fractions of a voxel.

    Its first wavelength is no float32 number: rows would lie exactly between two planes then, and the
    recipe, which turns wavelengths to metres and back, puts these rows into either.
    """
    grid, _ = ours.combine()
    nz, ny, nx = grid.shape
    larger = {
        "shape": (nz + 4, ny + 6, nx + 6),
        "crpix": (grid.crpix[0] + 3.37, grid.crpix[1] + 2.71),
        "wavelength_start": 6500.3217,
        "wavelength_crpix": 3.0,
    }
    return dataclasses.replace(grid, **(larger | changes))


@pytest.mark.parametrize("options", ["", "--resample=linear --crsigma=5"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"wavelength_crpix": 2.6},
        {"log": True, "wavelength_step": 0.78125},
        {"vacuum": True},
        {"vacuum": True, "log": True, "wavelength_step": 0.78125},
        {
            "cd": ((-0.24 / 3600, 0), (0, 0.22 / 3600)),
            "wavelength_step": 1.7,
            "shape": (20, 64, 62),
            "crpix": (33.6, 31.3),
        },
    ],
    ids=["shifted", "fraction", "log", "vacuum", "vacuum-log", "steps"],
)
def test_cubes_with_a_given_grid_agree(peer, ours, tmp_path, changes, options):
    if changes.get("log"):
        changes = changes | {"shape": (40, *grid_like(ours).shape[1:])}
    path = write_output_wcs(tmp_path / "wcs.fits", grid_like(ours, **changes))
    theirs = peer.combine(*options.split(), output_wcs=path)
    grid, maps = ours.combine(grid=str(path), **settings_of(options.split()))
    assert_same_grid(grid, theirs)
    assert_agreement(maps, theirs)


def test_an_image_gives_the_sky_and_the_data_the_wavelengths(peer, ours, tmp_path):
    path = write_output_wcs(tmp_path / "wcs.fits", grid_like(ours), image=True)
    theirs = peer.combine(output_wcs=path)
    grid, maps = ours.combine(grid=str(path))
    assert_same_grid(grid, theirs)
    assert_agreement(maps, theirs)


def test_a_grid_turned_upside_down_agrees(peer, ours, tmp_path):
    # The one rotation that the recipe does right.
    step = 0.2 / 3600
    path = write_output_wcs(
        tmp_path / "wcs.fits", grid_like(ours, cd=((step, 0.0), (0.0, -step)), crpix=(34.2, 36.1))
    )
    theirs = peer.combine(output_wcs=path)
    grid, maps = ours.combine(grid=str(path))
    assert_same_grid(grid, theirs)
    assert_agreement(maps, theirs, where=(slice(None), slice(3, -3), slice(3, -3)))


@pytest.mark.parametrize("options", ["", "--resample=linear --crsigma=5"])
def test_a_cut_out_agrees_inside(peer, ours, tmp_path, options):
    """Three voxels from the edge; up to there the recipe's edge cells reach, where it piles up all rows
    outside."""
    whole, _ = ours.combine()
    crpix = whole.crpix[0] - 15.3, whole.crpix[1] - 14.2
    small = dataclasses.replace(whole, shape=(9, 31, 33), crpix=crpix, wavelength_start=6507.3217)
    path = write_output_wcs(tmp_path / "wcs.fits", small)
    theirs = peer.combine(*options.split(), output_wcs=path)
    grid, maps = ours.combine(grid=str(path), **settings_of(options.split()))
    assert_same_grid(grid, theirs)
    inside = (slice(3, -3), slice(3, -3), slice(3, -3))
    assert_agreement(maps, theirs, where=inside)
