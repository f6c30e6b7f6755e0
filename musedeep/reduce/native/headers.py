"""What the header of an exposure says about the air, the pointing and the way of the telescope."""

import math
from dataclasses import dataclass

import numpy as np

from musedeep.errors import InputError
from musedeep.muse import sampling_arcsec, scales_from_cd

__all__ = ["Observation", "effective_airmass", "projection", "refraction", "velocity_km_s"]

_MM_HG_PER_HPA = 0.7500616827
_ARCSEC = 206264.80625
# where the telescope stands, for headers that do not tell
_LATITUDE, _LONGITUDE, _ELEVATION = -24.627, -70.404, 2648.0


@dataclass(frozen=True)
class Observation:
    """Facts of an exposure, read from the header of one of its tables.

    Parameters
    ----------
    header : fits.Header
    path : Path
        For messages.
    """

    header: object
    path: object

    def number(self, keyword, default=None):
        """A keyword as float.

        Raises
        ------
        InputError
            It is missing, without a default, or no number.
        """
        value = self.header.get(keyword, default)
        try:
            return float(value)
        except (TypeError, ValueError):
            found = "is missing" if value is None else f"is {value!r}, which is no number"
            raise InputError(f"{self.path}: keyword {keyword} {found}; correct the header") from None

    @property
    def mode(self):
        """Instrument mode."""
        return str(self.header.get("ESO INS MODE", "")).strip()

    @property
    def position_angle_deg(self):
        """Position angle; the rotator counts against it when it follows the sky."""
        angle = self.number("ESO INS DROT POSANG")
        return -angle if str(self.header.get("ESO INS DROT MODE", "")).strip() == "SKY" else angle


def effective_airmass(observation):
    """Airmass of an exposure: Hardie's formula at its start, middle and end, weighted by Simpson's rule.

    Parameters
    ----------
    observation : Observation

    Returns
    -------
    float

    Raises
    ------
    InputError
        LST, RA, DEC or EXPTIME are missing, or the target stood below the horizon.

    Notes
    -----
    R. Hardie in Hiltner, Astronomical Techniques (1962), for the airmass at a zenith distance.
    """
    latitude = math.radians(observation.number("ESO TEL GEOLAT", _LATITUDE))
    dec = math.radians(observation.number("DEC"))
    start = observation.number("LST") / 240 - observation.number("RA")
    length = observation.number("EXPTIME") / 240
    values = []
    for part in (0.0, 0.5, 1.0):
        angle = math.radians(start + part * length)
        cosine = math.sin(latitude) * math.sin(dec) + math.cos(latitude) * math.cos(dec) * math.cos(angle)
        if cosine <= 0.1:
            distance = math.degrees(math.acos(cosine))
            raise InputError(
                f"{observation.path}: by LST, RA and DEC the target stood {distance:.0f} degrees from the "
                "zenith; correct the header"
            )
        over = 1 / cosine - 1
        values.append(over + 1 - 0.0018167 * over - 0.002875 * over**2 - 0.0008083 * over**3)
    return (values[0] + 4 * values[1] + values[2]) / 6


def refraction(observation, airmass, reference_angstrom):
    """Constants of the differential refraction for `musedeep.kernels.reduction.refract_rows`.

    Parameters
    ----------
    observation : Observation
    airmass : float
    reference_angstrom : float
        Wavelength that is not moved.

    Returns
    -------
    float64 array (5,)

    Notes
    -----
    Index of the air after Filippenko (1982, PASP 94, 715), pressure of the vapour after Owens (1967, Applied
    Optics 6, 51). The narrow field is corrected by the instrument.
    """
    celsius = observation.number("ESO TEL AMBI TEMP")
    ends = [observation.number(f"ESO TEL AMBI PRES {end}") for end in ("START", "END")]
    pressure = sum(ends) / 2 * _MM_HG_PER_HPA
    kelvin = celsius + 273.15
    saturated = -10474.0 + 116.43 * kelvin - 0.43284 * kelvin**2 + 0.00053840 * kelvin**3
    vapour = observation.number("ESO TEL AMBI RHUM") / 100 * saturated * _MM_HG_PER_HPA
    dry = pressure * (1 + (1.049 - 0.0157 * celsius) * 1e-6 * pressure) / (720.883 * (1 + 0.003661 * celsius))
    wet = vapour / (1 + 0.003661 * celsius)
    square = 1 / (reference_angstrom * 1e-4) ** 2
    air = (64.328 + 29498.1 / (146 - square) + 255.4 / (41 - square)) * dry
    index = (air - (0.0624 - 0.000680 * square) * wet) * 1e-6
    if observation.mode.startswith("NFM"):
        return np.array([dry, wet, index, 0.0, 0.0])
    angles = [observation.number(f"ESO TEL PARANG {end}") for end in ("START", "END")]
    towards = math.radians(sum(angles) / 2 + observation.position_angle_deg)
    pixels = _ARCSEC * math.tan(math.acos(1 / airmass)) / 0.2
    return np.array([dry, wet, index, -math.sin(towards) * pixels, math.cos(towards) * pixels])


def velocity_km_s(observation):
    """Barycentric velocity that wavelengths are corrected for, in the middle of the exposure.

    Parameters
    ----------
    observation : Observation

    Returns
    -------
    float

    Notes
    -----
    By astropy's built-in ephemeris. ESO's recipe has one of its own; 45 to 150 m/s between the two were seen,
    at most a four-hundredth of a pixel of the spectra. Tables of the rotation of the Earth are not asked for:
    they move the velocity by less than 0.1 m/s, and do not reach to the latest exposures.
    """
    # a quarter of a second, which a step with a velocity of its own can do without
    from astropy.coordinates import EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.units import deg
    from astropy.utils.iers import earth_orientation_table

    place = EarthLocation.from_geodetic(
        observation.number("ESO TEL GEOLON", _LONGITUDE),
        observation.number("ESO TEL GEOLAT", _LATITUDE),
        observation.number("ESO TEL GEOELEV", _ELEVATION),
    )
    middle = observation.number("MJD-OBS") + observation.number("EXPTIME") / 2 / 86400
    target = SkyCoord(observation.number("RA") * deg, observation.number("DEC") * deg)
    with earth_orientation_table.set(_even_rotation(middle)):
        found = target.radial_velocity_correction(
            "barycentric", obstime=Time(middle, format="mjd"), location=place
        )
    return float(found.to_value("km/s"))


def _even_rotation(mjd):
    """Tables of an Earth that turns evenly around its poles, for the days around one."""
    from astropy.units import arcsec, day, second
    from astropy.utils.iers import IERS

    none = np.zeros(2)
    return IERS(
        {"MJD": (mjd + np.array([-2.0, 2.0])) * day, "UT1_UTC": none * second}
        | {name: none * arcsec for name in ("PM_x", "PM_y", "dX_2000A", "dY_2000A")}
    )


def projection(observation, calibration):
    """CD matrix that projects an exposure, and the correction of its centre.

    Parameters
    ----------
    observation : Observation
    calibration : fits.Header or None
        Of ASTROMETRY_WCS; without it the nominal scale is taken.

    Returns
    -------
    cd : float64 array (2, 2), deg per pixel
    correction : float64 array (2,), pixels
    """
    dx, dy = sampling_arcsec(observation.mode)
    cd, correction = np.diag([-dx / 3600, dy / 3600]), np.zeros(2)
    if calibration is not None:
        cd = np.array([[calibration[f"CD{i}_{j}"] for j in (1, 2)] for i in (1, 2)], np.float64)
        correction = np.array([calibration.get(f"CRPIX{i}", 0.0) for i in (1, 2)], np.float64)
    scales = np.abs(np.array(scales_from_cd(cd)))
    inverse = np.linalg.inv(cd / scales[:, None])
    angle = math.radians(observation.position_angle_deg)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return turn @ (inverse * scales[:, None]), correction
