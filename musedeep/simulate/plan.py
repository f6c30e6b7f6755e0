"""What is simulated: the settings, the scene, and the facts of every exposure, before any row is made."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np
from astropy.time import Time

from musedeep.errors import UsageError
from musedeep.muse import MODES, mode_facts
from musedeep.simulate.faults import Fault
from musedeep.simulate.scene import Source
from musedeep.simulate.spectrograph import calibration_cd, projection_cd
from musedeep.sky import sky_frame

__all__ = ["ExposurePlan", "SimulationSettings", "Trail", "default_sources", "plan_exposures"]

_LIGHT_KM_S = 299792.458
_FIRST_MJD = 56879.0
_PROGRAMMES = ("094.A-0289(B)", "095.A-0010(A)", "096.A-0045(A)", "0101.A-0172(C)")


@dataclass(frozen=True)
class Trail:
    """A satellite that crosses an exposure.

    Parameters
    ----------
    exposure : int
        Index of the exposure, from 0.
    angle_deg : float
        Direction of the trail, position angle north through east.
    offset_arcsec : float
        Distance of the trail from the pointing, towards its direction plus 90 degrees: to the east for a
        trail that runs north.
    brightness : float
        Peak, 1e-20 erg/s/cm2/Angstrom per spaxel.
    fwhm_arcsec : float
        Width of the Gaussian across it.
    """

    exposure: int
    angle_deg: float
    offset_arcsec: float
    brightness: float
    fwhm_arcsec: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """Settings of `simulate_exposures`.

    Where it says *per exposure*, one value or a sequence may be given; a sequence too short is repeated.

    Parameters
    ----------
    exposures : int
        Number of exposures.
    seed : int
        Seed of everything random; the same seed gives the same bits. The instrument is always the same.
    field_arcsec : float
        Side of the square patch, centred on the pointing, that is cut out of the field of view.
    wavelength : (low, high) or None
        Angstrom; None for the whole range of the mode.
    mode : str, per exposure
        Instrument mode; the adaptive optics modes flag the sodium gap.
    ra_deg, dec_deg : float or None
        Centre of the scene; None for 150.1, 2.2, or the centre of the scene's cube.
    pointings : sequence of (east, north), per exposure
        Arcsec from the centre of the scene, for mosaics.
    dither_arcsec : float
        Pointings are dithered by up to this in each direction.
    position_angles : float, per exposure
        Degrees.
    pointing_error_arcsec : float
        Scatter (one sigma, each direction) of the header's RA and DEC around the true ones.
    rotation_error_deg : float
        Scatter (one sigma) of the angle by which the rows are turned, north through east.
    seeing_fwhm : float or sequence
        Arcsec at 7000 Angstrom, per exposure; but two values, unless there are two exposures, are the (low,
        high) to draw from.
    exptime : float, per exposure
        Seconds.
    flux_scale_error : float, per exposure
        An exposure's values are too large by 1 + this.
    stars, galaxies : int
        Numbers of sources drawn when no `sources` are given.
    star_flux : (low, high)
        Range of their flux densities at 7000 Angstrom, 1e-20 erg/s/cm2/Angstrom; galaxies have a third.
    diffuse : float
        Peak of a wide halo over the field, 1e-20 erg/s/cm2/Angstrom per spaxel; for drawn sources.
    sources : sequence of Source or None
        The sources; None draws them.
    scene : path or None
        A MUSE cube to look at instead of sources.
    scene_smoothing : (wavelength, spatial)
        Sigma, in voxels, of the Gaussian that takes the noise out of that cube.
    psf : 'moffat' or 'gaussian'
        Shape of stars.
    noise : 'poisson', 'gaussian' or 'none'
        'none' leaves the variance as it would be.
    variance : 'expected' or 'measured'
        Column stat: what the noise was drawn from, or an estimate from the noisy counts.
    cosmic_ray_rate : float
        Share of rows that are hit.
    cosmic_ray_sigma : (low, high)
        Strengths in sigma of the row, drawn logarithmically, one a track.
    cosmic_ray_length : (low, high)
        Detector pixels of a track.
    cosmic_ray_flagged : float
        Share of tracks that carry the DQ flag.
    defects : float
        Share of defective detector pixels, flagged, with wrong values.
    trails : int or sequence of Trail
        Satellite trails; a number is spread over the exposures.
    faults : sequence of Fault
        What else is wrong with some exposures; the offset list does not tell of it.
    weights : float, per exposure, or None
        Weights in the headers' ``ESO DRS MUSE WEIGHT``.
    weight_column : bool
        Whether the tables have a column with these weights.
    exposures_per_ob, obs_per_run : int
        Exposures of one observing block, and blocks of one run; a run has its own programme.
    layout : 'image' or 'table'
        One IMAGE extension a column, or one binary table.
    split_ifus : bool
        Write one file an IFU.
    shuffle_rows : bool
        Put the rows of each file into a random order (held in memory for it, 36 bytes a row).
    fov_images : bool
        Write IMAGE_FOV files.
    """

    exposures: int = 16
    seed: int = 1
    field_arcsec: float = 14.0
    wavelength: tuple[float, float] | None = (6500.0, 6560.0)
    mode: str | Sequence[str] = "WFM-NOAO-N"
    ra_deg: float | None = None
    dec_deg: float | None = None
    pointings: Sequence[tuple[float, float]] = ((0.0, 0.0),)
    dither_arcsec: float = 1.0
    position_angles: float | Sequence[float] = (0.0, 90.0, 180.0, 270.0)
    pointing_error_arcsec: float = 0.0
    rotation_error_deg: float = 0.0
    seeing_fwhm: float | Sequence[float] = (0.6, 1.2)
    exptime: float | Sequence[float] = 900.0
    flux_scale_error: float | Sequence[float] = 0.0
    stars: int = 8
    galaxies: int = 3
    star_flux: tuple[float, float] = (1e4, 2e5)
    diffuse: float = 3.0
    sources: Sequence[Source] | None = None
    scene: str | None = None
    scene_smoothing: tuple[float, float] = (1.5, 0.7)
    psf: str = "moffat"
    noise: str = "poisson"
    variance: str = "expected"
    cosmic_ray_rate: float = 0.002
    cosmic_ray_sigma: tuple[float, float] = (6.0, 200.0)
    cosmic_ray_length: tuple[int, int] = (1, 10)
    cosmic_ray_flagged: float = 0.0
    defects: float = 5e-4
    trails: int | Sequence[Trail] = 0
    faults: Sequence[Fault] = ()
    weights: float | Sequence[float] | None = None
    weight_column: bool = False
    exposures_per_ob: int = 4
    obs_per_run: int = 2
    layout: str = "image"
    split_ifus: bool = False
    shuffle_rows: bool = False
    fov_images: bool = True

    def __post_init__(self):
        choices = {
            "psf": ("moffat", "gaussian"),
            "noise": ("poisson", "gaussian", "none"),
            "variance": ("expected", "measured"),
            "layout": ("image", "table"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise UsageError(f"simulate: {name} is {value!r}; allowed are {', '.join(allowed)}")
        for mode in _values(self.mode):
            if mode not in MODES:
                raise UsageError(f"simulate: mode is {mode!r}; allowed are {', '.join(MODES)}")
        positive = {"exposures": self.exposures, "field_arcsec": self.field_arcsec, "exptime": self.exptime}
        positive |= {"seeing_fwhm": self.seeing_fwhm, "exposures_per_ob": self.exposures_per_ob}
        for name, value in (positive | {"obs_per_run": self.obs_per_run}).items():
            if not all(number > 0 for number in _values(value)):
                raise UsageError(f"simulate: {name} is {value!r}; it must be positive")
        for name in ("cosmic_ray_rate", "cosmic_ray_flagged", "defects"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"simulate: {name} is {getattr(self, name)!r}; it must lie between 0 and 1")
        if self.dec_deg is not None and not -90 <= self.dec_deg <= 90:
            raise UsageError(f"simulate: dec_deg is {self.dec_deg!r}; it must lie between -90 and 90")


@dataclass(frozen=True)
class ExposurePlan:
    """Facts of one exposure; seeing in arcsec, exposure time in seconds, other units in the names."""

    index: int
    date_obs: str
    mjd_obs: float
    exptime: float
    mode: str
    object_name: str
    ob_id: int
    ob_name: str
    prog_id: str
    ob_exposure: int
    exposures_per_ob: int
    ob_start_mjd: float
    ra_deg: float
    dec_deg: float
    ra_offset_deg: float
    dec_offset_deg: float
    rotation_deg: float
    position_angle_deg: float
    seeing_fwhm: float
    flux_scale: float
    weight: float | None
    airmass: float
    parallactic_deg: float
    rvcorr_km_s: float
    wavelength: tuple[float, float]
    field_arcsec: float
    seed: int
    split_ifus: bool
    trails: tuple[Trail, ...] = field(default=())
    faults: tuple[Fault, ...] = field(default=())

    @property
    def number(self) -> int:
        """Number of the exposure in file names, from 1."""
        return self.index + 1

    @property
    def header_ra_deg(self) -> float:
        """RA that the header claims."""
        return (self.ra_deg + self.ra_offset_deg) % 360.0

    @property
    def header_dec_deg(self) -> float:
        """Dec that the header claims."""
        return self.dec_deg + self.dec_offset_deg

    @property
    def sampling_arcsec(self) -> tuple[float, float]:
        """Nominal size of a spaxel."""
        return mode_facts(self.mode).sampling_arcsec

    @property
    def spaxel_arcsec2(self) -> float:
        """Nominal area of a spaxel."""
        return self.sampling_arcsec[0] * self.sampling_arcsec[1]

    @property
    def field_pixels(self) -> float:
        """Side of the patch in focal-plane pixels."""
        return self.field_arcsec / self.sampling_arcsec[0]

    @property
    def stretch(self) -> float:
        """Factor that the barycentric correction puts on wavelengths."""
        beta = self.rvcorr_km_s / _LIGHT_KM_S
        return math.sqrt((1 + beta) / (1 - beta))

    @cached_property
    def cd(self):
        """CD matrix (2, 2) of the projection, deg per pixel."""
        return projection_cd(calibration_cd(self.sampling_arcsec), self.position_angle_deg)

    def truth(self):
        """Facts for truth.json."""
        facts = asdict(self) | {"header_ra_deg": self.header_ra_deg, "header_dec_deg": self.header_dec_deg}
        return {name: value for name, value in facts.items() if name not in ("index", "seed", "split_ifus")}


def plan_exposures(settings, ra_deg, dec_deg):
    """Draw the facts of all exposures.

    Parameters
    ----------
    settings : SimulationSettings
    ra_deg, dec_deg : float
        Centre of the scene.

    Returns
    -------
    list of ExposurePlan

    Raises
    ------
    UsageError
        The patch is larger than the field of a mode, or the wavelengths lie outside of it.
    """
    rng = np.random.default_rng((settings.seed, 0))
    frame = sky_frame(ra_deg, dec_deg)
    seeing = _seeing(settings, np.random.default_rng((settings.seed, 1)))
    trails = _trails(settings, np.random.default_rng((settings.seed, 2)))
    plans = []
    for index in range(settings.exposures):
        mode = _pick(settings.mode, index)
        pointing = _pick(settings.pointings, index, each=2) + rng.uniform(-1, 1, 2) * settings.dither_arcsec
        ra, dec = _sky_position(frame, *pointing)
        error = rng.normal(0, 1, 2) * settings.pointing_error_arcsec / 3600
        airmass, parallactic, velocity = rng.uniform((1.02, -120, -28), (1.6, 120, 28))
        rotation = rng.normal() * settings.rotation_error_deg
        plans.append(
            ExposurePlan(
                index=index,
                exptime=float(_pick(settings.exptime, index)),
                mode=mode,
                object_name="SIMULATED FIELD",
                ra_deg=ra,
                dec_deg=dec,
                ra_offset_deg=float(error[0] / math.cos(math.radians(dec))),
                dec_offset_deg=float(error[1]),
                rotation_deg=float(rotation),
                position_angle_deg=float(_pick(settings.position_angles, index)),
                seeing_fwhm=float(seeing[index]),
                flux_scale=1 / (1 + float(_pick(settings.flux_scale_error, index))),
                weight=None if settings.weights is None else float(_pick(settings.weights, index)),
                airmass=float(airmass),
                parallactic_deg=float(parallactic),
                rvcorr_km_s=round(float(velocity), 4),
                wavelength=_wavelength_range(settings, mode),
                field_arcsec=_field_side(settings, mode),
                seed=settings.seed,
                split_ifus=settings.split_ifus,
                trails=tuple(trail for trail in trails if trail.exposure == index),
                faults=tuple(fault for fault in settings.faults if fault.exposure in (None, index)),
                **_schedule(settings, index),
            )
        )
    return plans


def default_sources(settings, plans):
    """Draw stars and galaxies over the field that the exposures cover.

    Parameters
    ----------
    settings : SimulationSettings
    plans : list of ExposurePlan

    Returns
    -------
    tuple of Source
    """
    rng = np.random.default_rng((settings.seed, 3))
    pointings = np.array(settings.pointings, float).reshape(-1, 2)
    half = plans[0].field_arcsec * 0.42
    low, high = pointings.min(axis=0) - half, pointings.max(axis=0) + half
    places = _scattered(rng, settings.stars + settings.galaxies, low, high)
    wavelength = plans[0].wavelength
    made = []
    for number, (east, north) in enumerate(places):
        flux = float(np.exp(rng.uniform(*np.log(settings.star_flux))))
        slope = float(rng.uniform(-0.2, 0.2))
        shape = rng.uniform((0.3, 0.4, 0.0), (0.9, 1.0, 180.0))
        fractions, widths = rng.uniform(0.1, 0.9, 2), rng.uniform(3.0, 7.0, 2)
        source = Source("star", float(east), float(north), flux, slope)
        if number >= settings.stars:
            lines = tuple(
                (float(wavelength[0] + part * (wavelength[1] - wavelength[0])), flux * 10, float(width))
                for part, width in zip(fractions, widths, strict=True)
            )
            radius, ratio, angle = (float(value) for value in shape)
            kind = ("exponential", "gaussian")[number % 2]
            shape = {"radius_arcsec": radius, "axis_ratio": ratio, "angle_deg": angle}
            source = replace(source, kind=kind, flux=flux / 3, lines=lines, **shape)
        made.append(source)
    if settings.diffuse:
        radius = float(np.max(high - low)) / 2
        # a Gaussian of this half-light radius has its flux / (4.53 radius^2) in the middle
        flux = settings.diffuse / plans[0].spaxel_arcsec2 * 4.532 * radius**2
        east, north = (float(value) for value in (low + high) / 2)
        made.append(Source("gaussian", east, north, flux, radius_arcsec=radius))
    return tuple(made)


def _values(value):
    return [value] if isinstance(value, str | int | float | np.number) else list(value)


def _pick(value, index, each=None):
    values = np.array(value, float).reshape(-1, each) if each else _values(value)
    return values[index % len(values)]


def _seeing(settings, rng):
    values = _values(settings.seeing_fwhm)
    if len(values) == 2 and settings.exposures != 2:
        return rng.uniform(*values, settings.exposures)
    return np.resize(values, settings.exposures)


def _trails(settings, rng):
    if not isinstance(settings.trails, int):
        return list(settings.trails)
    trails = []
    for number in range(settings.trails):
        exposure = int((number + 0.5) * settings.exposures / settings.trails) % settings.exposures
        angle, place, brightness = (float(value) for value in rng.uniform((0, -0.25, 100), (180, 0.25, 300)))
        trails.append(Trail(exposure, angle, place * settings.field_arcsec, brightness))
    return trails


def _sky_position(frame, east_arcsec, north_arcsec):
    x, y, z = frame @ (math.radians(east_arcsec / 3600), math.radians(north_arcsec / 3600), 1.0)
    return math.degrees(math.atan2(y, x)) % 360.0, math.degrees(math.atan2(z, math.hypot(x, y)))


def _wavelength_range(settings, mode):
    low, high = mode_facts(mode).wavelength_range
    if settings.wavelength is None:
        return low, high
    asked = settings.wavelength
    if not max(low, asked[0]) < min(high, asked[1]):
        raise UsageError(f"simulate: wavelength is {asked}; mode {mode} has {low} to {high} Angstrom")
    return max(low, float(asked[0])), min(high, float(asked[1]))


def _field_side(settings, mode):
    largest = mode_facts(mode).field_arcsec
    if settings.field_arcsec > largest:
        found = f"field_arcsec is {settings.field_arcsec:g}"
        raise UsageError(f"simulate: {found}; the field of mode {mode} is {largest:g} arcsec")
    return float(settings.field_arcsec)


def _schedule(settings, index):
    """When an exposure was taken and for which observing block."""
    block, place = divmod(index, settings.exposures_per_ob)
    run = block // settings.obs_per_run
    # a block a night, a run a quarter of a year; exposures follow each other with two minutes between
    start = _FIRST_MJD + 0.04 + 91.0 * run + block % settings.obs_per_run + 0.013 * (block % 7)
    exptimes = [float(_pick(settings.exptime, n)) for n in range(index - place, index)]
    mjd = start + 0.0017 + sum(exptime + 120.0 for exptime in exptimes) / 86400
    return {
        "mjd_obs": round(mjd, 8),
        "date_obs": Time(round(mjd, 8), format="mjd").isot,
        "ob_id": 1000100 + 7 * block,
        "ob_name": f"Deep-{chr(ord('A') + run % 26)}-{block + 1}",
        "prog_id": _PROGRAMMES[run % len(_PROGRAMMES)],
        "ob_exposure": place + 1,
        "exposures_per_ob": settings.exposures_per_ob,
        "ob_start_mjd": start,
    }


def _scattered(rng, count, low, high):
    """Random places that keep their distance as well as the room allows."""
    distance = 0.7 * math.sqrt(float(np.prod(high - low)) / max(count, 1))
    places = []
    while len(places) < count:
        trial = rng.uniform(low, high)
        if all(np.hypot(*(trial - place)) > distance for place in places):
            places.append(trial)
        distance *= 0.995
    return places
