"""White-light images of exposures: read from IMAGE_FOV files, or drizzled straight from the pixel tables."""

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musedeep.errors import InputError
from musedeep.images import WHITE
from musedeep.offsets import DATE_OBS_LENGTH, Offset
from musedeep.sky import sky_frame

__all__ = ["WhiteImage", "exposure_image", "placed_rows", "read_image", "write_image"]

_ARCSEC = math.degrees(1) * 3600
_ROWS_AT_ONCE = 1 << 20
# Cosmic rays are looked for in bins of about this width: several rows deep, yet narrow enough that a colour
# does not change across three of them.
_BIN_ANGSTROM = 75.0
_FEWEST_BINS = 48
_PLANE_ANGSTROM = 1.25
_CLIP = 4.0
# Of the usual number of rows: with fewer, the mean place of a drizzled spaxel's rows is not its middle.
_RIM = 0.5
# The same of samples, whose places are known: with fewer, no cosmic ray would show.
_THIN = 0.2
# In so narrow a band rows stay at one place of a spaxel; in a wider one refraction moves them through all
# phases, and what drizzling does to profiles is the same everywhere.
_NARROW_ANGSTROM = 100.0
# Samples have fewer rows in a bin than drizzled spaxels, and no colour in so narrow a band.
_SAMPLE_BINS = 16
# Radians from the pointing: no row of the instrument lies as far away.
_LARGEST = 0.001


@dataclass(frozen=True)
class Samples:
    """Means of the rows that lie in each spaxel, and where these lie: the sky as it was sampled.

    Unlike drizzled spaxels they share no noise, and have the profile of the sky wherever rows lie.

    Attributes
    ----------
    flux, variance : ndarray, shape (ny, nx), float32
        NaN without rows.
    places : ndarray, shape (5, ny, nx), float32
        Of the rows: mean x and y, in pixels counted from 0; variance of x, covariance, variance of y.
    """

    flux: np.ndarray
    variance: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class WhiteImage:
    """An image of one exposure.

    Attributes
    ----------
    name : str
        What messages call it: the file, or the exposure.
    date_obs, mjd_obs, exptime : str, float, float
        First 23 characters of DATE-OBS; day; seconds (NaN where the header has none).
    filter_name : str
    flux : ndarray, shape (ny, nx), float32
        NaN without data.
    variance : ndarray of the same shape, or None
    ra_deg, dec_deg : float
        Pointing of the header.
    to_sky : ndarray, shape (3, 3), float64
        ``to_sky @ (x, y, 1)``, x and y counted from 0, is a direction of the sky by the header, in the
        tangent frame of the pointing (east, north, pole).
    samples : Samples or None
        Of a narrow band: what sources are best fitted to.
    """

    name: str
    date_obs: str
    mjd_obs: float
    exptime: float
    filter_name: str
    flux: np.ndarray = field(repr=False)
    variance: np.ndarray | None = field(repr=False)
    ra_deg: float
    dec_deg: float
    to_sky: np.ndarray = field(repr=False)
    samples: Samples | None = field(default=None, repr=False)

    @property
    def step_arcsec(self):
        """Mean size of a spaxel."""
        return math.sqrt(abs(np.linalg.det(self.to_sky[:2, :2]))) * _ARCSEC

    def onto(self, frame, offset=None):
        """Homography (3, 3) from pixels, counted from 0, to a tangent frame's plane in arcsec.

        Parameters
        ----------
        frame : ndarray, shape (3, 3)
            As `sky_frame` makes it.
        offset : Offset, optional
            Is taken off the pointing; none by default.
        """
        own = (offset or Offset()).frame(self.ra_deg, self.dec_deg)
        return np.diag([_ARCSEC, _ARCSEC, 1.0]) @ (frame.T @ own @ self.to_sky)


def read_image(path, *, reference=False):
    """Read an IMAGE_FOV.

    Parameters
    ----------
    path : path
        A FITS file with an image in the extension DATA (and its variance in STAT), in another extension
        after a cube, or in the primary array.
    reference : bool, optional
        It is an image of any origin, which needs no DATE-OBS.

    Returns
    -------
    WhiteImage

    Raises
    ------
    InputError
        The file cannot be read, or has no image, no WCS or no DATE-OBS.
    """
    from astropy.io import fits

    path = Path(path)
    try:
        with fits.open(path, memmap=False) as hdus:
            primary = hdus[0].header
            place = _place_of_image(path, hdus)
            header, flux = hdus[place].header, np.array(hdus[place].data, np.float32)
            variance = None
            if "STAT" in hdus and hdus["STAT"].shape == flux.shape:
                variance = np.array(hdus["STAT"].data, np.float32)
    except (OSError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as FITS ({error}); give IMAGE_FOV files") from error
    date = str(primary.get("DATE-OBS", header.get("DATE-OBS", ""))).strip()
    if not date and not reference:
        raise InputError(f"{path}: keyword DATE-OBS, which names the exposure, is missing; add it")
    plane, center = _tangent_plane(path, header)
    ra, dec = (_pointing(primary, key, value) for key, value in zip(("RA", "DEC"), center, strict=True))
    return WhiteImage(
        name=path.name,
        date_obs=date[:DATE_OBS_LENGTH],
        mjd_obs=float(primary.get("MJD-OBS", header.get("MJD-OBS", math.nan))),
        exptime=float(primary.get("EXPTIME", math.nan)),
        filter_name=str(_first(primary, header, "ESO DRS MUSE FILTER NAME", "white")).strip(),
        flux=np.where(np.isfinite(flux), flux, np.nan),
        variance=variance,
        ra_deg=ra,
        dec_deg=dec,
        to_sky=sky_frame(ra, dec).T @ sky_frame(*center) @ plane,
    )


def _first(primary, header, keyword, default):
    return primary.get(keyword, header.get(keyword, default))


def _pointing(header, keyword, default):
    value = header.get(keyword)
    return float(value) if isinstance(value, int | float) else default


def _place_of_image(path, hdus):
    """Index of the image: DATA if it is one, else the first image after it, or the primary array."""
    places = [n for n, hdu in enumerate(hdus) if getattr(hdu, "is_image", False) and len(hdu.shape) == 2]
    named = [n for n in places if hdus[n].name == "DATA"]
    places = named or [n for n in places if hdus[n].name not in ("STAT", "DQ")]
    if not places:
        found = ", ".join(f"{hdu.name or 'PRIMARY'} {getattr(hdu, 'shape', '')}" for hdu in hdus)
        raise InputError(f"{path}: holds no image (found {found}); give IMAGE_FOV files")
    return places[0]


def _tangent_plane(path, header):
    """Matrix from pixels counted from 0 to the tangent plane in radians, and its centre in degrees."""
    from astropy.wcs import WCS, FITSFixedWarning, WcsError

    kinds = [str(header.get(f"CTYPE{axis}", "")).strip() for axis in (1, 2)]
    if not (kinds[0].startswith("RA---TAN") and kinds[1].startswith("DEC--TAN")):
        raise InputError(
            f"{path}: CTYPE1 and CTYPE2 are {kinds[0]!r} and {kinds[1]!r}, but must be RA---TAN and "
            "DEC--TAN; give an image with a gnomonic WCS"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        try:
            wcs = WCS(header, naxis=2)
        except (WcsError, ValueError) as error:
            raise InputError(f"{path}: its WCS cannot be read ({error}); correct the header") from error
    matrix = np.radians(wcs.pixel_scale_matrix)
    if not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise InputError(f"{path}: the CD matrix of its WCS is singular; correct the header")
    plane = np.eye(3)
    plane[:2, :2] = matrix
    plane[:2, 2] = -matrix @ (wcs.wcs.crpix - 1.0)
    return plane, tuple(float(value) for value in wcs.wcs.crval)


def exposure_image(exposure, curve=WHITE, *, clip=_CLIP):
    """Make the image of an exposure in one pass through its pixel tables.

    Rows are drizzled with a drop of the size of a spaxel onto a plane about the pointing, north up, into
    bins of wavelength; bins of a spaxel that cosmic rays have struck are replaced by what their neighbours
    in wavelength say. Flagged rows, as in the sodium gap of adaptive optics, do not take part.

    Parameters
    ----------
    exposure : musedeep.pixtable.Exposure
    curve : musedeep.images.Filter, optional
        Throughput; 4650 to 9300 Angstrom by default.
    clip : float, optional
        Standard deviations; 0 keeps cosmic rays.

    Returns
    -------
    WhiteImage
        With its variance. A spaxel is as large as those of the mode.

    Raises
    ------
    InputError
        No row lies within the filter.
    """
    from musedeep.kernels.white import drizzle_rows
    from musedeep.muse import sampling_arcsec

    step = float(sampling_arcsec(exposure.mode)[0])
    low, high, radius = _extent(exposure, curve)
    half = math.ceil(radius / step) + 2
    shape = 2 * half + 1, 2 * half + 1
    nodes = np.arange(low - 1.0, high + 2.0, 1.0)
    throughput = curve.throughput_at(nodes)
    bins, narrow = (
        np.array([nodes[0], 1.0, low, max((high - low) / count * (1 + 1e-6), 1e-3), count])
        for count in (_bin_count(high - low), min(_bin_count(high - low), _SAMPLE_BINS))
    )
    sums = np.zeros((int(bins[-1]), 3, *shape), np.float32)
    sampled = high - low <= _NARROW_ANGSTROM
    samples = np.zeros((int(narrow[-1]) if sampled else 0, 3, *shape), np.float32)
    places = np.zeros((5, *shape), np.float32)
    for rows in placed_rows(exposure):
        drizzle_rows(*rows, throughput, bins, half, step, sums)
        if sampled:
            drizzle_rows(*rows, throughput, narrow, half, step, samples, places)
    flux, variance = _collapsed(sums, clip, _RIM)
    plane = np.diag([-step / _ARCSEC, step / _ARCSEC, 1.0])
    plane[:2, 2] = np.array([half, -half]) * step / _ARCSEC
    return WhiteImage(
        name=exposure.name,
        date_obs=exposure.date_obs,
        mjd_obs=exposure.mjd_obs,
        exptime=exposure.exptime,
        filter_name=curve.name,
        flux=flux,
        variance=variance,
        ra_deg=exposure.ra_deg,
        dec_deg=exposure.dec_deg,
        to_sky=plane,
        samples=_samples(samples, places, clip) if sampled else None,
    )


def _samples(sums, places, clip):
    """`Samples` of sums and places as `drizzle_rows` makes them."""
    weight = np.maximum(sums[:, 0].sum(axis=0), 1e-6)
    places = places / weight
    x, y = places[:2]
    places[2:] -= x * x, x * y, y * y
    places[:2] += np.indices(weight.shape, np.float32)[::-1]
    return Samples(*_collapsed(sums, clip, _THIN), places)


def _bin_count(width):
    """Bins for a range of wavelengths (Angstrom): wide ones, but many, and each two planes at least."""
    most = max(int(width / (2 * _PLANE_ANGSTROM)), 1)
    return min(most, max(math.ceil(width / _BIN_ANGSTROM), _FEWEST_BINS))


def _collapsed(sums, clip, least):
    """Flux and variance without cosmic rays; NaN where less than a share of the usual number of rows lies."""
    from musedeep.kernels.white import collapse_bins

    flux, variance = np.empty(sums.shape[2:], np.float32), np.empty(sums.shape[2:], np.float32)
    collapse_bins(sums, clip, 3, flux, variance)
    weight = sums[:, 0].sum(axis=0)
    filled = weight[weight > 0]
    thin = weight <= least * (np.median(filled) if len(filled) else 0)
    flux[thin], variance[thin] = np.nan, np.nan
    return flux, variance


def _extent(exposure, curve):
    """Range of wavelengths within the filter, and the largest distance of a row from the pointing, arcsec.

    As the headers tell; where they do not, two columns are read for it.
    """
    facts = [_limits_of_header(table) or _limits_of_rows(table) for table in exposure.tables]
    low = max(min(fact[0] for fact in facts), float(curve.wavelength[0]))
    high = min(max(fact[1] for fact in facts), float(curve.wavelength[-1]))
    if not low <= high:
        raise InputError(
            f"exposure {exposure.date_obs}: no row lies within the filter {curve.name!r} "
            f"({curve.wavelength[0]:.0f} to {curve.wavelength[-1]:.0f} Angstrom); choose another filter"
        )
    return low, high, max(fact[2] for fact in facts)


def _limits_of_header(table):
    names = ("LAMBDA LOW", "LAMBDA HIGH", "Y LOW")
    values = [table.header.get(f"ESO DRS MUSE PIXTABLE LIMITS {name}") for name in names]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    low, high, lowest = values
    return (low, high, -lowest * _ARCSEC) if low <= high and -_LARGEST < lowest <= 0 else None


def _limits_of_rows(table):
    low, high, radius = math.inf, -math.inf, 0.0
    for start in range(0, table.row_count, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, table.row_count)
        columns = table.read_columns(["ypos", "lambda"], start, stop)
        inside = np.isfinite(columns["lambda"]) & (columns["ypos"] > -_LARGEST) & (columns["ypos"] <= 0)
        if inside.any():
            wavelength = columns["lambda"][inside]
            low, high = min(low, float(wavelength.min())), max(high, float(wavelength.max()))
            radius = max(radius, -float(columns["ypos"][inside].min()) * _ARCSEC)
    return low, high, radius


def placed_rows(exposure):
    """Rows of an exposure, a million at a time, where its header says that they lie.

    Parameters
    ----------
    exposure : musedeep.pixtable.Exposure

    Yields
    ------
    x, y : ndarray, arcsec
        From the pointing: to the east and to the north.
    wavelength, data, variance : ndarray, float32
    dq : ndarray, uint32
    usable : ndarray, uint8
        0 for rows without finite values; flags are told by `dq` alone.
    """
    from musedeep.kernels.ingest import place_rows

    names = ("xpos", "ypos", "lambda", "data", "stat", "dq")
    for table in exposure.tables:
        for start in range(0, table.row_count, _ROWS_AT_ONCE):
            columns = table.read_columns(names, start, min(start + _ROWS_AT_ONCE, table.row_count))
            xpos, ypos, wavelength, data, variance, dq = (columns[name] for name in names)
            x, y = np.empty_like(xpos), np.empty_like(xpos)
            usable = np.empty(len(x), np.uint8)
            limits = np.array([np.inf, np.inf, np.inf, -np.inf, -np.inf, -np.inf])
            place_rows(xpos, ypos, wavelength, data, variance, np.eye(3), np.zeros(2), x, y, usable, limits)
            yield x, y, wavelength, data, variance, dq, usable


def write_image(image, path):
    """Write an image as an IMAGE_FOV that `read_image`, and ESO's muse_exp_align, read.

    Parameters
    ----------
    image : WhiteImage
        Its plane must be that of its pointing, as `exposure_image` makes it.
    path : path

    Returns
    -------
    Path
    """
    from astropy.io import fits

    path = Path(path)
    primary = fits.PrimaryHDU()
    primary.header["DATE-OBS"] = image.date_obs
    primary.header["INSTRUME"] = "MUSE"
    for keyword, value in (("MJD-OBS", image.mjd_obs), ("EXPTIME", image.exptime)):
        if math.isfinite(value):
            primary.header[keyword] = value
    primary.header["RA"], primary.header["DEC"] = image.ra_deg, image.dec_deg
    primary.header["HIERARCH ESO PRO CATG"] = "IMAGE_FOV"
    primary.header["HIERARCH ESO DRS MUSE FILTER NAME"] = image.filter_name
    data = fits.ImageHDU(image.flux, name="DATA")
    matrix = np.degrees(image.to_sky[:2, :2])
    crpix = 1.0 - np.linalg.solve(image.to_sky[:2, :2], image.to_sky[:2, 2])
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"}
    cards |= {f"CRPIX{n + 1}": crpix[n] for n in range(2)}
    cards |= {"CRVAL1": image.ra_deg, "CRVAL2": image.dec_deg}
    cards |= {f"CD{i + 1}_{j + 1}": matrix[i, j] for i in range(2) for j in range(2)}
    data.header.update(cards)
    hdus = [primary, data]
    if image.variance is not None:
        hdus.append(fits.ImageHDU(image.variance, header=data.header, name="STAT"))
    partial = path.with_name(f".{path.name}.partial")
    fits.HDUList(hdus).writeto(partial, overwrite=True, checksum=True)
    partial.replace(path)
    return path
