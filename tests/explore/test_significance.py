"""Scatter and light curves against the truth of simulated exposures."""

import numpy as np
import pytest
from fields import ingested
from regions import CirclePixelRegion, PixCoord

import musedeep as md
from musedeep.combine import combine_exposures
from musedeep.errors import InputError
from musedeep.simulate import Source, simulate_exposures

COUNT = 8
LINE = 6520.0


@pytest.fixture(scope="module")
def emitter(tmp_path_factory):
    """Eight exposures of one line emitter; the sixth is a third too bright and nobody knows."""
    folder = tmp_path_factory.mktemp("emitter")
    source = Source("gaussian", 0.0, 0.0, 0.0, radius_arcsec=0.3, lines=((LINE, 6e4, 4.0),))
    errors = [0.0] * COUNT
    errors[5] = 0.33
    paths = simulate_exposures(
        folder, exposures=COUNT, seed=5, field_arcsec=8.0, wavelength=(6505.0, 6535.0), sources=(source,),
        seeing_fwhm=0.7, noise="gaussian", cosmic_ray_rate=0.0, pointing_error_arcsec=0.0,
        flux_scale_error=errors, fov_images=False,
    )  # fmt: skip
    return ingested(paths, folder / "field", reject="none")


@pytest.fixture(scope="module")
def deep(emitter):
    return combine_exposures(emitter).compute(scheduler="synchronous")


@pytest.fixture(scope="module")
def middle(deep):
    return CirclePixelRegion(PixCoord(*deep.muse.pixel((150.1, 2.2))), 6.0)


def test_the_jackknife_tells_the_scatter_that_there_is(deep):
    """On empty sky the deviation from the truth is the flux itself."""
    far = deep.isel(wavelength=slice(1, 6), y=slice(6, 36), x=slice(6, 36))
    found = md.jackknife(md.split_exposures(far)).compute(scheduler="synchronous")
    ok = (found.group_count >= COUNT - 2).values
    assert ok.mean() > 0.5
    flux, variance = found.flux.values[ok].astype(float), found.variance.values[ok].astype(float)
    assert (flux**2).mean() / variance.mean() == pytest.approx(1.0, abs=0.06)
    assert found.propagated.values[ok].mean() / variance.mean() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(found.propagated.values[ok], far.variance.values[ok], rtol=1e-5)
    np.testing.assert_allclose(found.flux.values[ok], far.flux.values[ok], rtol=1e-4, atol=1e-3)
    # of seven degrees of freedom
    assert np.std(variance / found.propagated.values[ok]) == pytest.approx((2 / 7) ** 0.5, rel=0.35)


def test_the_jackknife_sees_what_the_variances_do_not(deep):
    """A third more flux in one of eight exposures scatters the line by far more than its noise."""
    j, i = (int(round(v)) for v in deep.muse.pixel((150.1, 2.2))[::-1])
    k = int(np.argmin(abs(deep.wavelength.values - LINE)))
    core = deep.isel(wavelength=slice(k, k + 1), y=slice(j - 1, j + 2), x=slice(i - 1, i + 2))
    found = md.jackknife(md.split_exposures(core)).compute(scheduler="synchronous")
    assert (found.variance / found.propagated).median() > 4


def test_one_group_has_no_scatter(deep):
    cut = deep.isel(wavelength=slice(0, 2), y=slice(10, 12), x=slice(10, 12))
    found = md.jackknife(md.split_exposures(cut, by=["all"] * COUNT)).compute(scheduler="synchronous")
    assert np.isnan(found.variance.values).all()


def test_the_light_curve_of_a_line(deep, middle, emitter):
    curve = md.light_curve(deep, middle, (LINE - 4, LINE + 4))
    assert list(curve["date_obs"]) == emitter.exposures.dates and (np.diff(curve["mjd"]) > 0).all()
    expected = (
        float(deep.muse.spectrum(middle, noise="naive").flux.sel(wavelength=slice(6516, 6524)).sum()) * 1.25
    )
    assert curve.meta["flux"] == pytest.approx(expected, rel=1e-5)
    assert 0.7 * 6e4 < curve.meta["flux"] < 1.1 * 6e4
    bright = curve["flux"] / np.median(curve["flux"])
    assert bright[5] == pytest.approx(1.33, abs=0.08) and abs(np.delete(bright, 5) - 1).max() < 0.08
    assert np.argmax(curve["deviation"]) == 5 and curve["deviation"][5] > 8
    assert (curve["rejected"] == 0).all() and (curve["rows"] > 500).all()


def test_the_errors_of_a_light_curve_are_those_of_noise(deep):
    """Off the source: the deviations are those of independent rows, less what they added to the mean."""
    deviations = []
    for y in range(8, 34, 5):
        for x in range(8, 34, 5):
            if np.hypot(y - 21, x - 21) > 9:
                region = CirclePixelRegion(PixCoord(x, y), 2.0)
                curve = md.light_curve(deep, region, (6506.0, 6511.0))
                deviations.extend(curve["deviation"][curve["rows"] > 20])
    # a mean of 8 takes an eighth of the variance
    assert len(deviations) > 100
    assert np.nanvar(deviations) == pytest.approx(1 - 1 / COUNT, rel=0.2)


def test_a_band_without_planes_is_refused(deep, middle):
    with pytest.raises(InputError, match="no plane lies between 7000 and 7010"):
        md.light_curve(deep, middle, (7000.0, 7010.0))
