"""What is true of simulated exposures: the scene without noise, and the rows that were spoilt."""

import json
import math
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from musedeep.muse import FLUX_UNIT, sampling_arcsec
from musedeep.simulate.cubes import read_scene_cube
from musedeep.simulate.scene import Scene, Source, exposure_view
from musedeep.sky import sky_vectors

__all__ = ["scene_truth", "truth_cube", "truth_rows"]

_ARCSEC = math.degrees(1) * 3600


def scene_truth(settings, scene, exposures):
    """Content of truth.json.

    Parameters
    ----------
    settings : SimulationSettings
    scene : Scene
    exposures : list of dict, one an exposure

    Returns
    -------
    dict
    """
    sources = []
    for source in scene.sources:
        x, y, z = scene.frame @ (source.east_arcsec / _ARCSEC, source.north_arcsec / _ARCSEC, 1.0)
        ra, dec = math.degrees(math.atan2(y, x)) % 360, math.degrees(math.atan2(z, math.hypot(x, y)))
        sources.append({"ra_deg": ra, "dec_deg": dec} | asdict(source))
    dx, dy = sampling_arcsec(settings.mode if isinstance(settings.mode, str) else settings.mode[0])
    return {
        "format": 1,
        "seed": settings.seed,
        "unit": FLUX_UNIT,
        "ra_deg": scene.ra_deg,
        "dec_deg": scene.dec_deg,
        "spaxel_arcsec2": dx * dy,
        "psf": settings.psf,
        "sources": sources,
        "scene": None if settings.scene is None else str(Path(settings.scene).resolve()),
        "scene_smoothing": list(settings.scene_smoothing),
        "offset_list": "OFFSET_LIST.fits",
        "exposures": exposures,
    }


def truth_cube(truth, wavelength, ra_deg, dec_deg, *, seeing_fwhm=None):
    """Noise-free flux of a simulated scene.

    Parameters
    ----------
    truth : path of truth.json, or its content
    wavelength : float array (nz,), Angstrom in air
    ra_deg, dec_deg : float arrays (ny, nx), degrees
    seeing_fwhm : float, optional
        Arcsec at 7000 Angstrom. Without it the mean over all exposures, weighted by exposure time.

    Returns
    -------
    flux : float32 array (nz, ny, nx), 1e-20 erg/s/cm2/Angstrom per spaxel

    Raises
    ------
    InputError
        The cube that was the scene is not there any more.
    """
    truth = truth if isinstance(truth, dict) else json.loads(Path(truth).read_text())
    wavelength = np.atleast_1d(np.asarray(wavelength, np.float64))
    scene = _scene(truth, wavelength)
    # without sources there is nothing that seeing could blur
    blurs = [(1.0 if seeing_fwhm is None else seeing_fwhm, 1.0)]
    if seeing_fwhm is None and scene.sources:
        blurs = [(exposure["seeing_fwhm"], exposure["exptime"]) for exposure in truth["exposures"]]
    vectors = sky_vectors(ra_deg, dec_deg)
    x, y, z = np.moveaxis(vectors @ scene.frame, -1, 0)
    x, y = (_ARCSEC * (axis / z).reshape(1, -1) for axis in (x, y))
    span = float(wavelength.min()), float(wavelength.max())
    total = np.zeros((len(wavelength), x.size))
    for fwhm, weight in blurs:
        view = exposure_view(scene, scene.ra_deg, scene.dec_deg, fwhm, truth["spaxel_arcsec2"], span)
        total += weight * view.flux(x, y, wavelength[:, None])
    total /= sum(weight for _, weight in blurs)
    return total.reshape(len(wavelength), *vectors.shape[:-1]).astype(np.float32)


def truth_rows(truth_file):
    """What is wrong with which rows of an exposure.

    Parameters
    ----------
    truth_file : path of a TRUTH_nnnn.npz

    Returns
    -------
    dict of arrays
        cosmic_ray_row (int64): rows of the pixel table; with `split_ifus` of the tables one after the other.
        cosmic_ray_sigma (float32): strength in sigma of the row. cosmic_ray_track (int32): its track.
        trail_row (int64), trail_sigma (float32): rows to which trails add more than one sigma.
    """
    with np.load(truth_file) as arrays:
        return dict(arrays)


def _scene(truth, wavelength):
    names = {field.name for field in fields(Source)}
    sources = tuple(
        Source(**{name: source[name] for name in names} | {"lines": tuple(map(tuple, source["lines"]))})
        for source in truth["sources"]
    )
    cube = None
    if truth["scene"] is not None:
        margins = wavelength.min() - 1, wavelength.max() + 1
        cube = read_scene_cube(truth["scene"], margins, truth["scene_smoothing"])
    return Scene(truth["ra_deg"], truth["dec_deg"], sources, cube, truth["psf"] == "moffat")
