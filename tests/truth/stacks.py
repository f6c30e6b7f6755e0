"""Simulated stacks of exposures, combined, and measured against what is true of them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from musedeep import combine_exposures, simulate_exposures
from musedeep.combine import rejected_rows
from musedeep.field import Field
from musedeep.ingest import ingest_exposures
from musedeep.recipe import prepare
from musedeep.simulate import Source, truth_cube, truth_rows
from musedeep.sky import sky_frame

__all__ = ["LINE", "Rows", "STAR_PLACES", "Stack", "emitters", "mixed_seeing", "simulated", "stars"]

STAR_PLACES = (
    (-4.2, -3.9), (0.3, -4.6), (4.1, -3.3), (-1.9, -0.4),
    (2.6, 0.7), (-4.4, 2.9), (0.2, 4.3), (4.3, 4.4),
)  # fmt: skip
LINE = 6521.3
"""Wavelength of the emission lines [Angstrom]: between two planes."""
# Fluxes are 1e-20 erg/s/cm2/Angstrom. The noise of a row on empty sky is 14; a spaxel counts as sky where no
# source has more than this in any exposure.
_SKY_FLUX = 10.0
# at 6500 Angstrom in 900 s: variance of sky, dark current and read noise in electrons, and electrons a unit
_BACKGROUND, _ELECTRONS = 29.0, 0.383
_LINE_FWHM = 2.6


def _peak(signal_to_noise):
    square = np.square(signal_to_noise, dtype=float)
    return (square + np.sqrt(square**2 + 4 * square * _BACKGROUND)) / 2 / _ELECTRONS


def stars(signal_to_noise, seeing_fwhm=1.0, places=STAR_PLACES):
    """Stars whose brightest rows have a signal to noise ratio, in a seeing.

    Parameters
    ----------
    signal_to_noise : float, or one a place
    seeing_fwhm : float, arcsec
    places : sequence of (east, north), arcsec

    Returns
    -------
    tuple of Source
    """
    # the share of the light of a Moffat function (beta 2.8) that falls on a spaxel in its centre
    fluxes = np.broadcast_to(_peak(signal_to_noise) / 0.0258 * seeing_fwhm**2, len(places))
    return tuple(Source("star", *place, float(flux)) for place, flux in zip(places, fluxes, strict=True))


def emitters(signal_to_noise, seeing_fwhm=1.0, places=STAR_PLACES):
    """Points of light with nothing but an emission line of three planes; see `stars`."""
    width = _LINE_FWHM * 1.0645  # from a peak to the flux of a Gaussian line
    return tuple(
        Source(
            "star", star.east_arcsec, star.north_arcsec, 0.0, lines=((LINE, star.flux * width, _LINE_FWHM),)
        )
        for star in stars(signal_to_noise, seeing_fwhm, places)
    )


def mixed_seeing(exposures=16, sharp=3, usual_fwhm=1.0, sharp_fwhm=0.6):
    """Seeing of exposures, the last of which are sharper; tuple of float."""
    return (usual_fwhm,) * (exposures - sharp) + (sharp_fwhm,) * sharp


@dataclass(frozen=True)
class Rows:
    """Rows without a flag that fall on the grid, exposure by exposure.

    Attributes
    ----------
    exposure : int array (n,)
    plane, y, x : int arrays (n,), the voxel of each row
    origin : uint32 array (n,)
    ray : float32 array (n,)
        Sigmas that a cosmic ray added to a row, or 0.
    trail : float32 array (n,)
        The same of satellite trails, above one sigma.
    """

    exposure: np.ndarray
    plane: np.ndarray
    y: np.ndarray
    x: np.ndarray
    origin: np.ndarray
    ray: np.ndarray
    trail: np.ndarray


class Stack:
    """Simulated exposures, taken in with their true offsets.

    Parameters
    ----------
    exposures : Path
        Folder of the simulation.
    folder : Path
        Of the field.
    **settings
        Of the field.
    """

    def __init__(self, exposures, folder, **settings):
        self.exposures = Path(exposures)
        paths = sorted(self.exposures.glob("PIXTABLE_REDUCED_*.fits"))
        settings = {
            "memory": "2GB", "workers": 2, "offsets": self.exposures / "OFFSET_LIST.fits",
        } | settings  # fmt: skip
        self.field = Field.from_exposures(paths, folder, overwrite=True, **settings)
        ingest_exposures(self.field)
        self.truth = json.loads((self.exposures / "truth.json").read_text())
        self.dates = [exposure.date_obs for exposure in self.field.exposures]
        self._known = {}

    def maps(self, *names, **changes):
        """Maps of the combined cube on the grid of all exposures, with settings changed; list of ndarray."""
        cube = combine_exposures(self.field, grid=self.grid, **changes)[list(names)].compute()
        return [cube[name].values for name in names]

    @cached_property
    def grid(self):
        """The output grid."""
        return prepare(self.field).grid

    def model(self, seeing_fwhm=None):
        """Noise-free cube of the scene on the grid, see `truth_cube`; ndarray (nz, ny, nx)."""
        y, x = np.indices(self.grid.shape[1:])
        ra, dec = self.grid.wcs.celestial.all_pix2world(x, y, 0)
        return truth_cube(self.truth, self.grid.wavelengths, ra, dec, seeing_fwhm=seeing_fwhm)

    @cached_property
    def sky(self):
        """Spaxels without a source; bool ndarray (ny, nx)."""
        return self.brightness < _SKY_FLUX

    @cached_property
    def brightness(self):
        """Largest flux over the wavelengths in the worst seeing; ndarray (ny, nx)."""
        return self.model(max(e["seeing_fwhm"] for e in self.truth["exposures"])).max(axis=0)

    def depth(self, **changes):
        """Exposures that see each spaxel; ndarray (ny, nx)."""
        changes = {"reject": "none"} | changes
        (count,) = self._once("depth", lambda: self.maps("exposure_count", **changes), changes)
        return np.median(count, axis=0)

    @cached_property
    def star_places(self):
        """0-based x and y of the point sources; float ndarray (n, 2)."""
        places = [(s["ra_deg"], s["dec_deg"]) for s in self.truth["sources"] if s["kind"] == "star"]
        return np.column_stack(self.grid.wcs.celestial.all_world2pix(*np.transpose(places), 0))

    def aperture(self, place, radius_arcsec):
        """Spaxels within a radius of a place; bool ndarray (ny, nx)."""
        y, x = np.indices(self.grid.shape[1:])
        return np.hypot(x - place[0], y - place[1]) * self.grid.step_arcsec[0] <= radius_arcsec

    def fluxes(self, cube, radius_arcsec=0.4, planes=slice(None)):
        """Sums over the apertures of the point sources and over planes; ndarray (n,)."""
        apertures = [self.aperture(place, radius_arcsec) for place in self.star_places]
        return np.array([np.nansum(cube[planes][:, aperture], dtype=float) for aperture in apertures])

    def flux(self, **changes):
        """Flux with settings changed, as `maps`; ndarray (nz, ny, nx)."""
        return self._once("flux", lambda: self.maps("flux", **changes)[0], changes)

    def _once(self, name, find, changes):
        """What ``find`` returns, found once for each change of settings."""
        key = name, repr(sorted(changes.items()))
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]

    def cores(self, *, radius_arcsec=0.4, planes=slice(None), select="all", **changes):
        """Flux that the cores of point sources keep: with rejection over without; ndarray (n,)."""
        before, after = (
            self.fluxes(self.flux(select=select, **settings), radius_arcsec, planes)
            for settings in ({"reject": "none"}, changes)
        )
        return after / before

    @cached_property
    def rows(self):
        """What is true of the rows; Rows."""
        found = [
            self._rows_of(number, exposure, self.truth["exposures"][number])
            for number, exposure in enumerate(self.field.exposures)
        ]
        return Rows(*(np.concatenate(columns) for columns in zip(*found, strict=True)))

    def _rows_of(self, number, exposure, facts):
        (table,) = exposure.tables
        columns = table.read_columns(["xpos", "ypos", "lambda", "dq", "origin"])
        cotangent, phi = -np.tan(columns["ypos"].astype(float)), columns["xpos"].astype(float)
        plane = np.stack([cotangent * np.sin(phi), -cotangent * np.cos(phi), np.ones(len(phi))])
        frame = sky_frame(facts["ra_deg"], facts["dec_deg"], -facts["rotation_deg"])
        x, y, scale = self.grid.from_sky(frame) @ plane
        cell = [self.grid.plane_of(columns["lambda"].astype(float)), y / scale, x / scale]
        cell = [np.rint(axis).astype(int) for axis in cell]
        truth = truth_rows(self.exposures / facts["truth_rows"])
        ray, trail = np.zeros((2, table.row_count), np.float32)
        ray[truth["cosmic_ray_row"]] = truth["cosmic_ray_sigma"]
        trail[truth["trail_row"]] = truth["trail_sigma"]
        good = columns["dq"] == 0
        for axis, size in zip(cell, self.grid.shape, strict=True):
            good &= (axis >= 0) & (axis < size)
        found = (np.full(len(good), number), *cell, columns["origin"], ray, trail)
        return [column[good] for column in found]

    def rejected(self, **changes):
        """Which of the rows are rejected; bool ndarray (n,)."""
        return self._once("rejected", lambda: self._rejected(changes), changes)

    def _rejected(self, changes):
        found = rejected_rows(self.field, **changes)
        taken = np.zeros(len(self.rows.origin), bool)
        for number, date in enumerate(self.dates):
            if date in found:
                own = self.rows.exposure == number
                taken[own] = np.isin(self.rows.origin[own], found[date])
        return taken

    def at_rows(self, image):
        """Value of an image (ny, nx) in the spaxel of every row; ndarray (n,)."""
        return image[self.rows.y, self.rows.x]


def simulated(folder, *, field=None, **settings):
    """Simulate exposures into a folder and take them in.

    Parameters
    ----------
    folder : Path
    field : dict, optional
        Settings of the field.
    **settings
        Of `simulate_exposures`.

    Returns
    -------
    Stack
    """
    simulate_exposures(folder / "exposures", **({"fov_images": False} | settings))
    return Stack(folder / "exposures", folder / "field", **(field or {}))
