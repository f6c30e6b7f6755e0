"""What the simulated telescope looks at: stars, galaxies, or a cube, and their noise-free truth.

Positions are gnomonic plane coordinates in arcsec, x to the east and y to the north. Values are flux
densities per spaxel in 1e-20 erg/s/cm2/Angstrom, wavelengths are Angstrom in air.
"""

import math
from dataclasses import dataclass

import numpy as np

from musedeep.sky import sky_frame

__all__ = [
    "CubeScene",
    "REFERENCE_ANGSTROM",
    "Scene",
    "Source",
    "exposure_view",
    "seeing_at",
]

REFERENCE_ANGSTROM = 7000.0
"""Wavelength at which fluxes and seeing are given."""

_SEEING_INDEX = -0.2
_MOFFAT_BETA = 2.8
_ARCSEC = math.degrees(1) * 3600
# below this (flux units of a row, noise is about 15) the wing of a source is left out
_FAINTEST = 0.01
_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))

# An exponential disc as a sum of Gaussians: share of the flux, variance over the half-light radius squared
_EXPONENTIAL = (
    (0.000199, 0.00120), (0.002616, 0.00885), (0.018973, 0.03915),
    (0.100187, 0.13998), (0.368534, 0.46096), (0.509491, 1.50160),
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A star or a galaxy.

    Parameters
    ----------
    kind : 'star', 'gaussian' or 'exponential'
        A point, or the profile of a galaxy.
    east_arcsec, north_arcsec : float
        Place relative to the centre of the scene.
    flux : float
        Flux density of the whole source at 7000 Angstrom, 1e-20 erg/s/cm2/Angstrom.
    slope : float
        Relative change of the flux density over 1000 Angstrom.
    radius_arcsec : float
        Half-light radius of a galaxy along its major axis.
    axis_ratio, angle_deg : float
        Minor over major axis; position angle of the major axis, north through east.
    lines : tuple of (wavelength, flux, fwhm)
        Emission lines: Angstrom, 1e-20 erg/s/cm2, Angstrom as observed.
    """

    kind: str
    east_arcsec: float
    north_arcsec: float
    flux: float
    slope: float = 0.0
    radius_arcsec: float = 0.0
    axis_ratio: float = 1.0
    angle_deg: float = 0.0
    lines: tuple[tuple[float, float, float], ...] = ()

    def spectrum(self, wavelength):
        """Flux density of the whole source (1e-20 erg/s/cm2/Angstrom) at wavelengths (array, Angstrom)."""
        return self.continuum(wavelength) + sum(_line_profile(line, wavelength) for line in self.lines)

    def continuum(self, wavelength):
        """Flux density without the emission lines, as `spectrum`."""
        slope = self.flux * self.slope / 1000
        return slope * np.asarray(wavelength) + (self.flux - slope * REFERENCE_ANGSTROM)

    def gaussians(self):
        """Share and intrinsic covariance (arcsec2, east and north) of the Gaussians that form the source."""
        if self.kind == "star":
            return [(1.0, np.zeros((2, 2)))]
        angle = math.radians(self.angle_deg)
        major = np.array([math.sin(angle), math.cos(angle)])
        minor = np.array([math.cos(angle), -math.sin(angle)])
        shape = np.outer(major, major) + self.axis_ratio**2 * np.outer(minor, minor)
        # half of the light of a round Gaussian lies within 1.17741 sigma
        parts = _EXPONENTIAL if self.kind == "exponential" else ((1.0, 1.17741**-2),)
        return [(share, variance * self.radius_arcsec**2 * shape) for share, variance in parts]


@dataclass(frozen=True)
class CubeScene:
    """A cube as the scene, interpolated between its voxels; nothing lies outside of it.

    Parameters
    ----------
    flux : float32 array (wavelength, y, x), 1e-20 erg/s/cm2/Angstrom per spaxel of `spaxel_arcsec2`
    wavelength_start, wavelength_step : float, Angstrom, of the planes of `flux`
    from_plane : float64 array (3, 3), homography from (east, north, 1) in arcsec to 0-based (x, y)
    spaxel_arcsec2 : float
    """

    flux: np.ndarray
    wavelength_start: float
    wavelength_step: float
    from_plane: np.ndarray
    spaxel_arcsec2: float

    def sample(self, x, y, wavelength):
        """Flux at scene-plane positions x, y (arcsec) and wavelengths (Angstrom), broadcast together."""
        x, y, scale = (row[0] * x + row[1] * y + row[2] for row in self.from_plane)
        place = np.broadcast_arrays(
            (wavelength - self.wavelength_start) / self.wavelength_step, y / scale, x / scale
        )
        low = [np.floor(axis).astype(np.int64) for axis in place]
        inside = np.logical_and.reduce(
            [(start >= 0) & (start < size - 1) for start, size in zip(low, self.flux.shape, strict=True)]
        )
        low = [start[inside] for start in low]
        share = [(axis[inside] - start).astype(np.float32) for axis, start in zip(place, low, strict=True)]
        strides = [stride // self.flux.itemsize for stride in self.flux.strides]
        base = sum(start * stride for start, stride in zip(low, strides, strict=True))
        values, flat = np.zeros(len(base), np.float32), self.flux.reshape(-1)
        for corner in np.ndindex(2, 2, 2):
            weight = 1.0
            for high, part in zip(corner, share, strict=True):
                weight = weight * (part if high else 1 - part)
            values += weight * flat[base + sum(c * s for c, s in zip(corner, strides, strict=True))]
        result = np.zeros(inside.shape, np.float32)
        result[inside] = values
        return result


@dataclass(frozen=True)
class Scene:
    """What lies in the field.

    Parameters
    ----------
    ra_deg, dec_deg : float
        Centre of the scene's plane.
    sources : tuple of Source
    cube : CubeScene or None
    moffat : bool
        Whether stars are Moffat functions (beta 2.8) or Gaussians. Galaxies are always blurred by a Gaussian
        of the same FWHM, so that their truth stays exact.
    """

    ra_deg: float
    dec_deg: float
    sources: tuple[Source, ...] = ()
    cube: CubeScene | None = None
    moffat: bool = True

    @property
    def frame(self):
        """Tangent frame of the scene's centre; see `musedeep.sky.sky_frame`."""
        return sky_frame(self.ra_deg, self.dec_deg)


def seeing_at(wavelength, seeing_fwhm):
    """FWHM (arcsec) at wavelengths (Angstrom) of a seeing that is given at 7000 Angstrom."""
    return seeing_fwhm * (np.asarray(wavelength) / REFERENCE_ANGSTROM) ** _SEEING_INDEX


@dataclass(frozen=True)
class _View:
    """A scene as one exposure sees it: sources in the plane of its tangent point, blurred by its seeing."""

    scene: Scene
    seeing_fwhm: float
    spaxel_arcsec2: float
    to_scene: np.ndarray
    places: np.ndarray
    gaussians: list
    reaches: np.ndarray

    def flux(self, x, y, wavelength):
        """Flux of rows.

        Parameters
        ----------
        x, y : float64 arrays, shape (lines or 1, columns), arcsec in the plane of the exposure
        wavelength : float array, shape (lines, columns or 1), Angstrom; nearly constant along a line

        Returns
        -------
        flux : float32 array, shape (lines, columns), 1e-20 erg/s/cm2/Angstrom per spaxel
        """
        shape = np.broadcast_shapes(x.shape, y.shape, wavelength.shape)
        total = np.zeros(shape, np.float32)
        line_wavelength = wavelength.mean(axis=1, dtype=np.float64)
        fwhm = seeing_at(line_wavelength, self.seeing_fwhm)
        for number in self._near(x, y):
            source, (x0, y0) = self.scene.sources[number], self.places[number]
            columns = _columns_near(x - x0, y - y0, self.reaches[number])
            if columns is None:
                continue
            dx = _columns(x, columns, x0)
            dy = _columns(y, columns, y0)
            profile = self._profile(source, dx, dy, fwhm[:, None], self.gaussians[number])
            spectrum = _row_spectrum(source, wavelength, line_wavelength, columns)
            total[:, columns] += profile * spectrum
        if self.scene.cube is not None:
            total += self._cube_flux(x, y, wavelength)
        return total

    def _near(self, x, y):
        """Numbers of the sources whose light may fall on the box around the rows."""
        near = np.ones(len(self.reaches), bool)
        for axis, place in zip((x, y), self.places.T, strict=True):
            ends = axis[[0, -1]]
            near &= (place > ends.min() - self.reaches) & (place < ends.max() + self.reaches)
        return np.flatnonzero(near)

    def _profile(self, source, dx, dy, fwhm, gaussians):
        """Share of the source's light in a spaxel at distance dx, dy (float32, arcsec)."""
        if source.kind == "star" and self.scene.moffat:
            scale = _moffat_scale(fwhm)
            norm = (self.spaxel_arcsec2 * (_MOFFAT_BETA - 1) / np.pi * scale**-2).astype(np.float32)
            inverse = (scale**-2).astype(np.float32)
            return norm * (1 + (dx * dx + dy * dy) * inverse) ** np.float32(-_MOFFAT_BETA)
        blur = (fwhm / _FWHM_PER_SIGMA) ** 2
        total = np.float32(0)
        for share, ((xx, xy), (_, yy)) in gaussians:
            xx, yy = xx + blur, yy + blur
            determinant = xx * yy - xy * xy
            norm = share * self.spaxel_arcsec2 / (2 * np.pi * np.sqrt(determinant))
            a, b, c = ((-0.5 * term / determinant).astype(np.float32) for term in (yy, -2 * xy + 0 * yy, xx))
            total = total + norm.astype(np.float32) * np.exp(dx * dx * a + dx * dy * b + dy * dy * c)
        return total

    def _cube_flux(self, x, y, wavelength):
        x, y, scale = (row[0] * x + row[1] * y + row[2] for row in self.to_scene)
        cube = self.scene.cube
        area = np.float32(self.spaxel_arcsec2 / cube.spaxel_arcsec2)
        return cube.sample(x / scale, y / scale, wavelength) * area


def exposure_view(scene, ra_deg, dec_deg, seeing_fwhm, spaxel_arcsec2, wavelength):
    """The scene as seen from a tangent point.

    Parameters
    ----------
    scene : Scene
    ra_deg, dec_deg : float
        Tangent point of the plane in which rows are asked for; its y axis points north.
    seeing_fwhm : float
        Arcsec at 7000 Angstrom, the spaxel's own blur included.
    spaxel_arcsec2 : float
        Area of a spaxel, arcsec2.
    wavelength : (low, high)
        Range in which rows are asked for, Angstrom.

    Returns
    -------
    view
        Its method ``flux(x, y, wavelength)`` gives the flux of rows.
    """
    arcsec = np.diag([_ARCSEC, _ARCSEC, 1.0])
    frame = sky_frame(ra_deg, dec_deg)
    from_scene = arcsec @ frame.T @ scene.frame @ np.linalg.inv(arcsec)
    places = [_place(from_scene, source.east_arcsec, source.north_arcsec) for source in scene.sources]
    reaches = [_reach(scene, source, seeing_fwhm, spaxel_arcsec2, wavelength) for source in scene.sources]
    return _View(
        scene=scene,
        seeing_fwhm=seeing_fwhm,
        spaxel_arcsec2=spaxel_arcsec2,
        to_scene=np.linalg.inv(from_scene),
        places=np.array([place for place, _ in places]).reshape(-1, 2),
        gaussians=[
            [(share, jacobian @ covariance @ jacobian.T) for share, covariance in source.gaussians()]
            for source, (_, jacobian) in zip(scene.sources, places, strict=True)
        ],
        reaches=np.array(reaches),
    )


def _reach(scene, source, seeing_fwhm, spaxel_arcsec2, wavelength):
    """Distance from a source beyond which nothing of it is seen, arcsec."""
    low, high = wavelength
    brightest = np.abs(source.spectrum(np.linspace(low, high, 2 + math.ceil(high - low)))).max()
    fwhm = float(seeing_at(low, seeing_fwhm))
    peak = max(float(brightest) * spaxel_arcsec2 / fwhm**2 / _FAINTEST, 1.0)
    if source.kind == "star" and scene.moffat:
        return _moffat_scale(fwhm) * math.sqrt(peak ** (1 / _MOFFAT_BETA))
    sigma = math.hypot(fwhm / _FWHM_PER_SIGMA, source.radius_arcsec * 1.23)
    return sigma * math.sqrt(2 * math.log(peak) + 1)


def _place(homography, east, north):
    """Image of a point under a homography, and the Jacobian there."""

    def project(x, y):
        a, b, c = homography @ (x, y, 1.0)
        return np.array([a / c, b / c])

    step = 0.5
    jacobian = np.column_stack(
        [
            (project(east + step, north) - project(east - step, north)) / (2 * step),
            (project(east, north + step) - project(east, north - step)) / (2 * step),
        ]
    )
    return project(east, north), jacobian


def _moffat_scale(fwhm):
    return fwhm / (2 * math.sqrt(2 ** (1 / _MOFFAT_BETA) - 1))


def _columns_near(dx, dy, reach):
    """Columns within reach on the first or last line: a slice where they are neighbours, else indices."""
    ends = [0, -1]
    square = np.minimum.reduce(np.square(dx[ends]) + np.square(dy[ends]), axis=0)
    near = np.flatnonzero(square < reach**2)
    if len(near) == 0:
        return None
    if near[-1] - near[0] + 1 == len(near):
        return slice(near[0], near[-1] + 1)
    return near


def _columns(values, columns, origin):
    values = values[:, columns] if values.shape[1] > 1 else values
    return (values - origin).astype(np.float32)


def _row_spectrum(source, wavelength, line_wavelength, columns):
    wavelength = wavelength[:, columns] if wavelength.shape[1] > 1 else wavelength
    spectrum = source.continuum(wavelength).astype(np.float32)
    for line in source.lines:
        # five sigma of the line, and what the curvature of a slice adds
        near = np.flatnonzero(np.abs(line_wavelength - line[0]) < 5 * line[2] / _FWHM_PER_SIGMA + 3)
        if len(near):
            rows = slice(near[0], near[-1] + 1)
            spectrum[rows] += _line_profile(line, wavelength[rows]).astype(np.float32)
    return spectrum


def _line_profile(line, wavelength):
    centre, flux, fwhm = line
    sigma = fwhm / _FWHM_PER_SIGMA
    return flux / (sigma * math.sqrt(2 * math.pi)) * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
