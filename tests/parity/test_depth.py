"""What muse_exp_combine says of the depth of a cube, and what musedeep says of the same cube."""

import numpy as np
import pytest
from astropy.io import fits
from parity.conftest import simulated
from parity.peer import run_recipe

from musedeep.depth import DepthSums
from musedeep.resolution import sky_resolution, spectral_resolution

pytestmark = pytest.mark.esorex


@pytest.fixture(scope="module", params=[{}, {"exptime": 6000.0, "field_arcsec": 12.0, "seed": 5}])
def product(request, tmp_path_factory):
    """ESO's cube in the format of its archive: header, data, variance; and the headers of its exposures."""
    folder = tmp_path_factory.mktemp("sdp")
    exposures = simulated(folder / "exposures", **request.param)
    run_recipe(
        folder / "out", "muse_exp_combine", exposures.frames(), "--format=sdpCube", "--filter=white",
        "--lambdamax=6515",
    )  # fmt: skip
    with fits.open(folder / "out" / "DATACUBE_FINAL.fits") as hdus:
        data, variance = hdus["DATA"].data.astype(np.float32), hdus["STAT"].data.astype(np.float32)
        return hdus[0].header.copy(), data, variance, [fits.getheader(path) for path in exposures.paths]


def test_depth_and_resolution_agree(product):
    header, data, variance, headers = product
    seeing = sky_resolution(headers, [h["EXPTIME"] for h in headers])
    assert seeing.fwhm_arcsec == pytest.approx(header["SKY_RES"], rel=1e-7)
    assert seeing.error_arcsec == pytest.approx(header["SKY_RERR"], rel=1e-7)
    edges = header["WAVELMIN"], header["WAVELMAX"]
    assert spectral_resolution(edges, headers[0]["ESO INS MODE"]) == pytest.approx(
        header["SPEC_RES"], rel=1e-6
    )
    sums = DepthSums(data.shape[1:])
    sums.add(data, variance)
    depth = sums.depth(seeing.fwhm_arcsec / 0.2, edges)
    assert depth.limit == pytest.approx(header["ABMAGLIM"], abs=1e-5)
    assert depth.eso_pixel_sigma * 1e-20 == pytest.approx(header["PIXNOISE"], rel=1e-6)


def test_a_fine_histogram_tells_other_noise_only_where_that_of_eso_fails(product):
    header, data, variance, _ = product
    sums = DepthSums(data.shape[1:])
    sums.add(data, variance)
    noise, median = sums.variances.mode() ** 0.5 * 1e-20, np.nanmedian(variance)
    if 10 <= median <= 25:
        assert noise == pytest.approx(header["PIXNOISE"], rel=1e-6)
    else:
        assert noise == pytest.approx(median**0.5 * 1e-20, rel=0.4)
