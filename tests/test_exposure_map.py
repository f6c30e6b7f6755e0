"""The exposure map of a mosaic of four overlapping pointings and a fifth on their middle."""

import math

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from fields import ingested
from parity.peer import write_output_wcs
from scipy.ndimage import maximum_filter, minimum_filter

import musedeep as md
from musedeep.combine import combine_to_store

SIDE, STEP = 6.0, 2.4
CORNERS = [(x, y) for y in (-STEP, STEP) for x in (-STEP, STEP)]


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    """Two exposures of 1200 s of each corner, one of 600 s of the middle; the field with its products."""
    folder = tmp_path_factory.mktemp("mosaic")
    paths = md.simulate_exposures(
        folder / "exposures",
        exposures=9,
        pointings=[place for place in CORNERS for _ in range(2)] + [(0.0, 0.0)],
        exptime=[1200.0] * 8 + [600.0],
        position_angles=(0.0, 90.0),
        field_arcsec=SIDE,
        wavelength=(6500.0, 6515.0),
        dither_arcsec=0.0,
        cosmic_ray_rate=0.0,
        defects=0.0,
        galaxies=0,
        fov_images=False,
    )
    field = ingested(paths, folder / "all")
    whole = md.VoxelGrid.from_dict(md.combine_exposures(field).attrs["grid"])
    # Without the outermost planes, which only some rows reach.
    inner = whole.to_dict() | {"shape": [whole.shape[0] - 6, *whole.shape[1:]]}
    inner["wavelength_crpix"] -= 3
    wcs = write_output_wcs(folder / "grid.fits", md.VoxelGrid.from_dict(inner))
    field = field.changed(grid=str(wcs))
    combine_to_store(field)
    md.write_products(field)
    return field


def seconds_of(field, header, shape):
    """Exposure time of each pixel as the pointings tell it, and the distance to the nearest edge of one."""
    y, x = np.indices(shape)
    ra, dec = WCS(header).all_pix2world(x, y, 0)
    seconds, nearest = np.zeros(shape), np.full(shape, np.inf)
    for exposure in field.exposures:
        east = (ra - exposure.ra_deg) * math.cos(math.radians(exposure.dec_deg)) * 3600
        north = (dec - exposure.dec_deg) * 3600
        beyond = np.maximum(np.abs(east), np.abs(north)) - SIDE / 2
        seconds += exposure.exptime * (beyond < 0)
        nearest = np.minimum(nearest, np.abs(beyond))
    return seconds, nearest


def test_the_map_tells_every_depth_of_the_mosaic(mosaic):
    with fits.open(mosaic.products_dir / "EXPOSURE_MAP.fits") as hdus:
        found, header = hdus["DATA"].data, hdus["DATA"].header
        truth, nearest = seconds_of(mosaic, header, found.shape)
        median = hdus[0].header["EXPTIME"]
    clear = nearest > 0.4
    # A corner alone, with the middle, two corners, with the middle, and all five.
    assert set(truth[clear]) - {0.0} == {2400.0, 3000.0, 4800.0, 5400.0, 10200.0}
    np.testing.assert_allclose(found[clear], truth[clear], rtol=1e-6)
    # At an edge a pixel has a time between those on either side.
    assert (found >= minimum_filter(truth, 5) - 1e-3).all() and (
        found <= maximum_filter(truth, 5) + 1e-3
    ).all()
    assert median == pytest.approx(2400.0)


def test_counts_and_depth_follow_the_exposures(mosaic):
    counts = fits.getdata(mosaic.products_dir / "EXPOSURE_COUNT.fits")
    seconds = fits.getdata(mosaic.products_dir / "EXPOSURE_MAP.fits")
    truth, nearest = seconds_of(
        mosaic, fits.getheader(mosaic.products_dir / "EXPOSURE_MAP.fits", 1), seconds.shape
    )
    for total, number in ((2400, 2), (3000, 3), (5400, 5), (10200, 9)):
        np.testing.assert_allclose(counts[(truth == total) & (nearest > 0.4)], number, rtol=1e-6)
    with fits.open(mosaic.products_dir / "DATACUBE_DEEP.fits") as hdus:
        header = hdus[0].header
    assert (header["TEXPTIME"], header["NCOMBINE"]) == (8 * 1200 + 600, 9)
    assert header["EXPTIME"] < header["TEXPTIME"]
    assert md.validate_products(mosaic.products_dir) == []
