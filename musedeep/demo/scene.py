"""What the demonstration looks at, and its exposures."""

import math
from pathlib import Path

import numpy as np

from musedeep.errors import UsageError
from musedeep.field import Field, open_field
from musedeep.simulate import Source, Trail, simulate_exposures
from musedeep.sky import sky_frame, sky_position

__all__ = ["BRIGHT_EXPOSURE", "CENTRE", "FLUX_ERROR", "SPECTRA", "TRAIL_EXPOSURE", "scene", "simulate_demo"]

_NAME = "Demo field"
BRIGHT_EXPOSURE, FLUX_ERROR = 7, 0.12
TRAIL_EXPOSURE = 4
CENTRE = (150.1, 2.2)
SPECTRA = (
    ("approaching arm", 0.6, -1.6, 0.7),
    ("receding arm", -3.6, 3.6, 0.7),
    ("a galaxy's oxygen doublet", -6.9, 0.2, 0.7),
    ("a faint emitter, far away", 4.4, 2.6, 0.7),
)
"""Apertures of the picture: name, east, north, radius [arcsec] from the centre of the scene."""
_LIGHT_KM_S = 299792.458
_ARCSEC = math.degrees(1) * 3600


def simulate_demo(folder, *, progress=None, **changes):
    """Simulate the exposures of the demonstration and make a field of them.

    Twelve exposures at four position angles, with dithers, pointing errors, seeing from 0.6 to 1.0 arcsec,
    cosmic rays, one satellite trail, and one exposure whose flux scale is 12 % too high.

    Parameters
    ----------
    folder : path
        Made where it is missing; the exposures go into its folder ``exposures``.
    progress : callable, optional
        Called with the number of exposures simulated and their total.
    **changes
        Settings of `simulate_exposures` that shall differ.

    Returns
    -------
    Field
        Its alignment is tied to a catalogue of the stars.

    Raises
    ------
    UsageError
        The folder holds another field.
    """
    folder = Path(folder)
    if (folder / "field.toml").exists() and open_field(folder).name != _NAME:
        raise UsageError(
            f"{folder} holds a field of another name; choose another folder for the demonstration"
        )
    settings = {
        "exposures": 12,
        "seed": 7,
        "field_arcsec": 20.0,
        "wavelength": (6508.0, 6572.0),
        "ra_deg": CENTRE[0],
        "dec_deg": CENTRE[1],
        "position_angles": (0.0, 22.5, 45.0, 67.5),
        "dither_arcsec": 1.6,
        "pointing_error_arcsec": 0.4,
        "seeing_fwhm": (0.6, 1.0),
        "sources": scene(),
        "cosmic_ray_rate": 0.003,
        "cosmic_ray_flagged": 0.2,
        "trails": (Trail(TRAIL_EXPOSURE, 35.0, -0.4, brightness=700.0, fwhm_arcsec=0.6),),
        "fov_images": False,
    } | changes
    errors = np.zeros(settings["exposures"])
    errors[BRIGHT_EXPOSURE] = FLUX_ERROR
    settings["flux_scale_error"] = tuple(errors)
    paths = simulate_exposures(folder / "exposures", progress=progress, **settings)
    catalogue = _write_catalogue(folder / "exposures" / "stars.ecsv")
    # the demonstration has figures of its own, and shall be over soon
    settings = {"reference": str(catalogue), "assess": "off"}
    return Field.from_exposures(paths, folder, name=_NAME, overwrite=True, **settings)


def _write_catalogue(path):
    """Places of the stars, as a survey of the sky has them: the alignment ties its coordinates to these."""
    from astropy.table import Table

    frame = sky_frame(*CENTRE)
    plane = [(star.east_arcsec / _ARCSEC, star.north_arcsec / _ARCSEC, 1.0) for star in _stars()]
    ra, dec = zip(*(sky_position(frame @ point) for point in plane), strict=True)
    Table({"RA": ra, "DEC": dec}, units=("deg", "deg")).write(path, format="ascii.ecsv", overwrite=True)
    return path


def scene():
    """What lies in the field: stars, a turning spiral, a lens with its ring, and faint line emitters.

    Returns
    -------
    tuple of Source
    """
    rng = np.random.default_rng(20140810)
    return (*_stars(), *_spiral(rng), *_lens(), *_line_emitters())


def _stars():
    yield Source("star", 7.4, 6.3, 2.6e4, slope=-0.3)
    yield Source("star", -7.9, -5.0, 1.6e4, slope=0.4)
    yield Source("star", 1.2, -8.2, 1.2e4, slope=0.1)
    yield Source("star", -8.1, 5.6, 9e3, slope=-0.1)


def _spiral(rng):
    """A disc and the star-forming knots of its two arms, each at the wavelength of its own velocity."""
    east, north, ratio, angle = -1.7, 1.2, 0.62, math.radians(-38.0)
    yield Source("exponential", east, north, 1.3e4, 0.2, 2.4, ratio, math.degrees(angle))
    yield Source("gaussian", east, north, 3e3, 0.4, 0.45, 0.85, math.degrees(angle))
    for arm in (0, math.pi):
        for turn in np.linspace(0.0, 1.25 * math.pi, 32):
            radius = 0.95 * math.exp(0.43 * turn) * rng.normal(1, 0.04)
            phase = turn + arm + rng.normal(0, 0.06)
            along, across = radius * math.cos(phase), ratio * radius * math.sin(phase)
            velocity = 430.0 * math.tanh(radius / 0.9) * math.cos(phase)
            line = 6540.0 * (1 + velocity / _LIGHT_KM_S), rng.uniform(2e3, 9e3), 3.2
            x, y = _turned(along, across, angle)
            yield Source("gaussian", east + x, north + y, 0.0, 0.0, rng.uniform(0.1, 0.25), lines=(line,))


def _turned(along, across, angle):
    """East and north of a point given along and across a position angle."""
    sine, cosine = math.sin(angle), math.cos(angle)
    return along * sine + across * cosine, along * cosine - across * sine


def _lens():
    """An elliptical galaxy and the image of a line-emitting galaxy far behind it, drawn out to a ring."""
    east, north = 5.6, -4.6
    yield Source("exponential", east, north, 4e3, 0.8, 0.5, 0.85, 20.0)
    for phase in np.linspace(0, 2 * math.pi, 28, endpoint=False):
        flux = 2.5e2 + 1.6e3 * abs(math.cos(phase - 0.6)) ** 3
        x, y = 1.9 * math.sin(phase), 1.75 * math.cos(phase)
        yield Source("gaussian", east + x, north + y, 0.0, 0.0, 0.13, lines=((6563.0, flux, 3.2),))


def _line_emitters():
    """Galaxies of which nothing but a line is seen; the first shows the doublet of oxygen."""
    doublet = ((6517.0, 3e3, 2.6), (6521.9, 4.2e3, 2.6))
    yield Source("exponential", -6.9, 0.2, 5e2, 0.0, 0.4, 0.7, 60.0, lines=doublet)
    places = (
        (-5.0, -8.4),
        (3.0, 8.4),
        (-3.2, 8.6),
        (9.0, 1.2),
        (-9.4, -1.6),
        (0.6, -5.2),
        (-4.6, -6.4),
        (4.4, 2.6),
    )
    waves = (6513.0, 6520.0, 6566.0, 6532.0, 6557.0, 6515.0, 6548.0, 6526.0)
    for (east, north), wavelength in zip(places, waves, strict=True):
        yield Source("gaussian", east, north, 0.0, 0.0, 0.25, lines=((wavelength, 2.6e3, 4.0),))
