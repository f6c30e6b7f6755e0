"""Write raw frames of a field and of its sky, with the master calibrations that go with them."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.units import deg

from musedeep.errors import UsageError, WorkError
from musedeep.muse import mode_facts
from musedeep.simulate.headers import common_cards
from musedeep.simulate.plan import SimulationSettings, default_sources, plan_exposures
from musedeep.simulate.raw.calibrations import dark_current, flat_field, write_calibrations
from musedeep.simulate.raw.detector import Detector
from musedeep.simulate.raw.illumination import bad_pixels, slice_factors, twilight
from musedeep.simulate.raw.instrument import Spectrograph
from musedeep.simulate.raw.light import continuum, electrons_per_unit, lines_spectrum
from musedeep.simulate.scene import Scene, Source, exposure_view
from musedeep.simulate.spectrograph import atmospheric_shift
from musedeep.simulate.truth import scene_truth

__all__ = ["RawSettings", "simulate_raw_exposures"]

# high in the sky at the time of the first exposure
_CENTRE = (255.0, -27.8)
_LATITUDE, _LONGITUDE, _ELEVATION = -24.627, -70.404, 2648.0
_LIGHT_KM_S = 299792.458
_LSF_FWHM = 2.6
_SKY_EXPTIME = 120.0
_LAMP_ELECTRONS, _LAMP_EXPTIME = 20000.0, 0.3


@dataclass(frozen=True, kw_only=True)
class RawSettings:
    """Settings of `simulate_raw_exposures`.

    Parameters
    ----------
    exposures : int
        Number of OBJECT frames.
    sky_exposures : int
        Number of SKY frames, which follow the others: short, 2 arcmin away, without sources.
    seed : int
        Seed of everything random; the instrument is always the same.
    ifus : sequence of int
        IFUs that work, 1 to 24; all frames and calibrations have these.
    slice_columns : float
        Width of a slice on the detector and on the sky, pixels; 75.9 in the real instrument.
    binning : (x, y)
        Detector pixels that are read as one: makes frames smaller. (1, 1) is the real instrument's.
    blue : float
        Wavelength of the first line, Angstrom.
    exptime : float
        Seconds of an OBJECT frame.
    mode : str
        Instrument mode.
    position_angles : float or sequence
        Degrees, one after the other.
    seeing_fwhm : float or sequence
        Arcsec at 7000 Angstrom.
    dither_arcsec, pointing_error_arcsec : float
        As in `SimulationSettings`.
    sources : sequence of Source or None
        None draws stars over the field.
    stars : int
        Their number.
    noise : bool
        Whether frames have noise.
    wavelength_error : float
        Angstrom by which the wavelengths of the frames lie above those of the calibration.
    dead_ifus : sequence of int
        IFUs whose extensions are missing in every OBJECT frame but the first.
    all_calibrations : bool
        The field and the slices are lit unevenly, there is a dark current, and some pixels are bad; a cube of
        the twilight, an ILLUM frame, darks and tables of bad pixels tell of it.
    """

    exposures: int = 1
    sky_exposures: int = 1
    seed: int = 1
    ifus: tuple[int, ...] = (12, 13)
    slice_columns: float = 12.0
    binning: tuple[int, int] = (4, 2)
    blue: float = 5200.0
    exptime: float = 900.0
    mode: str = "WFM-NOAO-N"
    position_angles: float | tuple[float, ...] = 0.0
    seeing_fwhm: float | tuple[float, ...] = 0.7
    dither_arcsec: float = 0.4
    pointing_error_arcsec: float = 0.0
    sources: tuple[Source, ...] | None = None
    stars: int = 6
    noise: bool = True
    wavelength_error: float = 0.0
    dead_ifus: tuple[int, ...] = ()
    all_calibrations: bool = False

    def __post_init__(self):
        if (
            not self.ifus
            or any(not 1 <= ifu <= 24 for ifu in self.ifus)
            or len(set(self.ifus)) < len(self.ifus)
        ):
            raise UsageError(f"simulate --raw: ifus is {self.ifus!r}; give numbers from 1 to 24, each once")
        columns = self.detector.columns
        if any(4096 % n or 4112 % n or 32 % n for n in self.binning) or min(self.binning) < 1:
            raise UsageError(f"simulate --raw: binning is {self.binning!r}; allowed are 1, 2, 4, 8 and 16")
        if not 4 <= self.slice_columns <= (columns - 30) / 48 - 4:
            raise UsageError(
                f"simulate --raw: slice_columns is {self.slice_columns}; allowed are 4 to "
                f"{(columns - 30) / 48 - 4:.1f} on a detector of {columns} columns"
            )
        low, high = mode_facts(self.mode).wavelength_range
        if self.blue > high - 200 or self.blue + 1.25 * self.detector.lines < low + 200:
            raise UsageError(
                f"simulate --raw: {self.detector.lines} lines from {self.blue} Angstrom leave less than "
                f"200 Angstrom within {low:g} to {high:g}; change blue or binning"
            )

    @property
    def detector(self):
        """The detector that is read."""
        return Detector(tuple(self.binning))


def simulate_raw_exposures(directory, *, settings=None, progress=None, **changes):
    """Simulate raw frames of a field, and a minimal set of master calibrations.

    Parameters
    ----------
    directory : path
        Made when it is missing. Frames go into ``raw/``, calibrations into ``calib/``.
    settings : RawSettings, optional
    progress : callable, optional
        Called with the number of frames done and their total.
    **changes
        Any of the parameters of `RawSettings`.

    Returns
    -------
    list of Path
        The raw frames ``raw/MUSE.<DATE-OBS>.fits``, in the order of time. ``truth.json`` holds the scene (as
        for `simulate_exposures`, with the offsets of the pointings), the airmass, the radial velocity and the
        wavelength error of every frame.

    Raises
    ------
    UsageError
        A setting is unknown or not allowed, or `directory` holds frames that no simulation made.
    WorkError
        The directory cannot be written, or the disk is full.
    """
    directory = Path(directory)
    settings = settings or RawSettings()
    unknown = [name for name in changes if name not in RawSettings.__dataclass_fields__]
    if unknown:
        known = ", ".join(RawSettings.__dataclass_fields__)
        raise UsageError(f"simulate --raw: unknown setting {unknown[0]!r}; known are {known}")
    settings = replace(settings, **changes)
    try:
        return _write_all(directory, settings, progress)
    except OSError as error:
        raise WorkError(
            f"simulate --raw: writing to {directory} failed ({error.strerror or error}); make room or choose "
            "another folder"
        ) from error


def _write_all(directory, settings, progress):
    if list((directory / "raw").glob("*.fits")) and not (directory / "truth.json").exists():
        raise UsageError(
            f"simulate --raw: {directory}/raw holds frames that no simulation made (there is no truth.json); "
            "choose an empty folder"
        )
    for name in ("raw", "calib"):
        (directory / name).mkdir(parents=True, exist_ok=True)
        for path in (directory / name).glob("*.fits"):
            path.unlink()
    detector = settings.detector
    spectrograph = Spectrograph(
        tuple(settings.ifus),
        float(settings.slice_columns),
        detector.columns,
        detector.lines,
        float(settings.blue),
    )
    plans, scene = _plans(settings, spectrograph)
    truth = scene_truth(_scene_settings(settings), scene, [])
    (directory / "truth.json").write_text(json.dumps(truth, indent=1))
    night = math.floor(plans[0].mjd_obs - 0.5) + 0.5
    write_calibrations(
        directory / "calib", spectrograph, detector, settings.mode, night + 0.02, _LSF_FWHM,
        everything=settings.all_calibrations,
    )  # fmt: skip
    frames = _frames(plans, settings)
    paths = []
    for number, (kind, plan) in enumerate(frames):
        path = directory / "raw" / f"MUSE.{plan.date_obs}.fits"
        seen = scene if kind == "OBJECT" else Scene(scene.ra_deg, scene.dec_deg)
        dead = settings.dead_ifus if kind == "OBJECT" and number else ()
        _write_frame(path, kind, plan, seen, spectrograph, detector, settings, dead)
        paths.append(path)
        facts = {"kind": kind, "file": path.name, "wavelength_error": settings.wavelength_error}
        truth["exposures"].append(plan.truth() | facts)
        if progress is not None:
            progress(number + 1, len(frames))
    (directory / "truth.json").write_text(json.dumps(truth, indent=1))
    return sorted(paths)


def _scene_settings(settings):
    low, high = mode_facts(settings.mode).wavelength_range
    return SimulationSettings(
        exposures=settings.exposures,
        seed=settings.seed,
        wavelength=(max(low, settings.blue), min(high, settings.blue + 1.25 * settings.detector.lines)),
        field_arcsec=min(4 * settings.slice_columns * 0.2, 60.0),
        mode=settings.mode,
        ra_deg=_CENTRE[0],
        dec_deg=_CENTRE[1],
        exptime=settings.exptime,
        position_angles=settings.position_angles,
        seeing_fwhm=settings.seeing_fwhm,
        dither_arcsec=settings.dither_arcsec,
        pointing_error_arcsec=settings.pointing_error_arcsec,
        stars=settings.stars,
        galaxies=0,
        diffuse=0,
    )


def _plans(settings, spectrograph):
    simulated = _scene_settings(settings)
    plans = [_observed(plan) for plan in plan_exposures(simulated, *_CENTRE)]
    if settings.sources is not None:
        sources = tuple(settings.sources)
    else:
        sources = tuple(_inside(source, spectrograph) for source in default_sources(simulated, plans))
    return plans, Scene(*_CENTRE, sources)


def _inside(source, spectrograph):
    """Squeeze a source into the height of few IFUs, which is less than the width."""
    ratio = spectrograph.height / (4 * spectrograph.slice_columns)
    return replace(source, north_arcsec=source.north_arcsec * min(1.0, ratio))


def _observed(plan):
    """A plan with the parallactic angle and the velocity of its place and time."""
    time = Time(plan.mjd_obs + plan.exptime / 2 / 86400, format="mjd")
    place = EarthLocation.from_geodetic(_LONGITUDE, _LATITUDE, _ELEVATION)
    target = SkyCoord(plan.header_ra_deg * deg, plan.header_dec_deg * deg)
    velocity = target.radial_velocity_correction("barycentric", obstime=time, location=place)
    angle = _parallactic(_hour_angle(plan), plan.header_dec_deg)
    return replace(
        plan, rvcorr_km_s=float(velocity.to_value("km/s")), parallactic_deg=angle, rotation_deg=0.0
    )


def _sidereal_deg(mjd):
    """Local mean sidereal time at the telescope."""
    return (280.46061837 + 360.98564736629 * (mjd - 51544.5) + _LONGITUDE) % 360


def _hour_angle(plan):
    """Hour angle (deg) of the target at the start of an exposure."""
    return (_sidereal_deg(plan.mjd_obs) - plan.header_ra_deg + 180) % 360 - 180


def _airmass(hour_angle, dec_deg):
    latitude, dec = math.radians(_LATITUDE), math.radians(dec_deg)
    cosine = math.cos(latitude) * math.cos(dec) * math.cos(math.radians(hour_angle))
    return 1 / (math.sin(latitude) * math.sin(dec) + cosine)


def _parallactic(hour_angle, dec_deg):
    latitude, dec, hours = math.radians(_LATITUDE), math.radians(dec_deg), math.radians(hour_angle)
    return math.degrees(
        math.atan2(
            math.sin(hours),
            math.cos(dec) * math.tan(latitude) - math.sin(dec) * math.cos(hours),
        )
    )


def _frames(plans, settings):
    """Kinds and plans of all frames: SKY frames follow the others."""
    frames = [("OBJECT", plan) for plan in plans]
    for number in range(settings.sky_exposures):
        plan = plans[-1]
        mjd = plan.mjd_obs + (plan.exptime + 60 + 200 * number) / 86400
        away = replace(
            plan,
            mjd_obs=mjd,
            date_obs=Time(mjd, format="mjd").isot,
            exptime=_SKY_EXPTIME,
            dec_deg=plan.dec_deg + 2 / 60,
        )
        frames.append(("SKY", _observed(away)))
    if settings.all_calibrations:
        mjd = plans[0].mjd_obs - 120 / 86400
        before = replace(plans[0], mjd_obs=mjd, date_obs=Time(mjd, format="mjd").isot, exptime=_LAMP_EXPTIME)
        frames.append(("FLAT,LAMP,ILLUM", _observed(before)))
    return frames


def _write_frame(path, kind, plan, scene, spectrograph, detector, settings, dead):
    primary = fits.PrimaryHDU(header=fits.Header(_cards(kind, plan, path)))
    hdus = [primary]
    for ifu in spectrograph.ifus:
        if ifu in dead:
            continue
        rng = np.random.default_rng((settings.seed, 6, round(plan.mjd_obs * 86400), ifu))
        if kind in ("OBJECT", "SKY"):
            electrons = _electrons(plan, ifu, scene, spectrograph, settings)
        else:
            electrons = _lamp_electrons(ifu, spectrograph)
        if settings.all_calibrations:
            electrons += dark_current(spectrograph, plan.exptime)
            y, x, _, values = bad_pixels(spectrograph, ifu)
            electrons[y, x] = values
        frame = detector.read_out(electrons, rng if settings.noise else None)
        hdu = fits.ImageHDU(frame, name=f"CHAN{ifu:02d}")
        cards = detector.cards(ifu) | {"EXPTIME": plan.exptime}
        for name, value in cards.items():
            hdu.header[f"HIERARCH {name}" if len(name) > 8 else name] = value
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path, overwrite=True)


def _cards(kind, plan, path):
    start = _hour_angle(plan)
    airmass, angle = (
        [function(start + part * plan.exptime / 240, plan.header_dec_deg) for part in (0.0, 0.5, 1.0)]
        for function in (_airmass, _parallactic)
    )
    cards = common_cards(plan)
    cards |= {
        "EXPTIME": plan.exptime,
        "ARCFILE": path.name,
        "LST": _sidereal_deg(plan.mjd_obs) * 240,
        "ESO DPR TYPE": kind,
        "ESO TEL AIRM START": round(airmass[0], 4),
        "ESO TEL AIRM END": round(airmass[2], 4),
        # the mean of the two is the angle at mid-exposure, for which the field was made
        "ESO TEL PARANG START": round(angle[0], 4),
        "ESO TEL PARANG END": round(2 * angle[1] - angle[0], 4),
    }
    del cards["BUNIT"]
    return [
        (name if len(name) <= 8 and " " not in name else f"HIERARCH {name}", value)
        for name, value in cards.items()
        if name not in ("SIMPLE", "BITPIX", "NAXIS", "EXTEND")
    ]


def _electrons(plan, ifu, scene, spectrograph, settings):
    """Expected electrons (float64, lines and columns of the detector) of one IFU."""
    pixel, _ = flat_field(spectrograph, ifu)
    low, high = mode_facts(plan.mode).wavelength_range
    limits = spectrograph.limits(low, high)
    centre = [sum(ends) / 2 for ends in limits]
    view = exposure_view(
        scene, plan.ra_deg, plan.dec_deg, plan.seeing_fwhm, plan.spaxel_arcsec2,
        (settings.blue - 50, settings.blue + 1.25 * settings.detector.lines + 50),
    )  # fmt: skip
    middle = _hour_angle(plan) + plan.exptime / 480
    airmass = _airmass(middle, plan.header_dec_deg)
    towards = math.radians(_parallactic(middle, plan.header_dec_deg) + plan.position_angle_deg)
    electrons = np.zeros((spectrograph.lines, spectrograph.columns))
    factors = slice_factors(ifu) if settings.all_calibrations else None
    for piece in spectrograph.slices(ifu):
        x, y, inside = piece.pixels(spectrograph.lines)
        wavelength = piece.wavelengths(x, y) + settings.wavelength_error
        across, along = piece.focal_plane(x, y)
        light = (
            twilight(across, along, wavelength) * factors[piece.number - 1] if factors is not None else 1.0
        )
        refraction = -atmospheric_shift(wavelength, airmass)
        across = across - centre[0] - math.sin(towards) * refraction / plan.sampling_arcsec[0]
        along = along - centre[1] + math.cos(towards) * refraction / plan.sampling_arcsec[1]
        (a, b), (c, d) = plan.cd * 3600
        flux = view.flux(a * across + b * along, c * across + d * along, wavelength * plan.stretch)
        flux = flux + continuum(wavelength) + lines_spectrum(wavelength, _LSF_FWHM, low, high)
        counts = flux * electrons_per_unit(wavelength, plan.exptime, airmass) * light
        place = np.broadcast_to(y, x.shape)[inside] - 1, x[inside] - 1
        electrons[place] = np.maximum(counts[inside], 0) * pixel[place]
    return electrons * spectrograph.throughput(ifu)


def _lamp_electrons(ifu, spectrograph):
    """Expected electrons of one IFU before the lamp of the flat field."""
    _, flat = flat_field(spectrograph, ifu)
    electrons, factors = np.zeros_like(flat), slice_factors(ifu)
    for piece in spectrograph.slices(ifu):
        x, y, inside = piece.pixels(spectrograph.lines)
        place = np.broadcast_to(y, x.shape)[inside] - 1, x[inside] - 1
        electrons[place] = flat[place] * _LAMP_ELECTRONS * factors[piece.number - 1]
    return electrons * spectrograph.throughput(ifu)
