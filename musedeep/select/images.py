"""What a white-light image tells about an exposure: satellite trails, and whether the field is crowded."""

import math
import warnings

import numpy as np
from astropy.io import fits
from scipy import ndimage

__all__ = ["find_trail", "is_crowded", "measure_image"]

_STEP_DEG = 1.0
_CLIP_SIGMA = 8.0
_DETECT = 12.0
_LEAST_COVER = 0.6
_MOST_SCATTER = 0.4
_WIDEST = 14
_TRIALS = 6
_HALF_PROFILE = 12
_KERNEL = 1.5
_APART = 4


def measure_image(path):
    """Look at an IMAGE_FOV.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        ``trail`` (see `find_trail`, with the sky positions of its ends in ``ends_deg``), ``sources`` (number
        above 10 sigma), ``diffuse`` (see `is_crowded`), ``shape``.

    Raises
    ------
    ValueError
        There is no image in the file.
    """
    with fits.open(path, memmap=False) as hdus:
        plane = next((hdu for hdu in hdus if hdu.data is not None and hdu.data.ndim == 2), None)
        if plane is None:
            raise ValueError("an IMAGE_FOV without an image; write it again")
        flux, header = np.asarray(plane.data, np.float32), plane.header
    trail = find_trail(flux)
    if trail is not None:
        trail |= _on_sky(trail, header)
    sources, diffuse = is_crowded(flux)
    return {"trail": trail, "sources": sources, "diffuse": diffuse, "shape": list(flux.shape)}


def find_trail(flux):
    """The brightest straight line across an image.

    The image, freed of sources that are wide and scaled to its noise, is summed along lines of every
    direction (a Hough transform of the clipped values, so that stars count little). A trail must stand out
    over the noise of the sum, and be seen along most of its way.

    Parameters
    ----------
    flux : ndarray, shape (ny, nx)
        NaN without data.

    Returns
    -------
    dict or None
        ``sigma``: median height along the trail in units of the noise of a pixel; ``width`` in pixels (FWHM);
        ``area``: share of the image with data that it covers; ``ends``: x and y of both ends, counted from 0.
    """
    scaled, valid = _flat(flux)
    if valid.sum() < 400:
        return None
    clipped = np.clip(np.where(valid, scaled, 0), -_CLIP_SIGMA, _CLIP_SIGMA)
    y, x = np.nonzero(valid)
    values = clipped[y, x]
    for _ in range(_TRIALS):
        height, angle = _strongest(x, y, values)
        if height < _DETECT:
            return None
        angle, distance = _refined(x, y, values, angle)
        trail = _measured(scaled, valid, angle, distance)
        if trail is not None:
            return trail
        # It was no trail: a galaxy, seen from its edge, may hide one.
        beside = np.abs(x * math.cos(angle) + y * math.sin(angle) - distance) > _HALF_PROFILE
        x, y, values = x[beside], y[beside], values[beside]
        if len(values) < 400:
            return None
    return None


def _strongest(x, y, values):
    """Height over the noise, and angle, of the strongest line of the values."""
    best = (0.0, 0.0)
    for angle in np.radians(np.arange(0, 180, _STEP_DEG)):
        line, number = _sums(x, y, values, angle)
        height = np.where(number > 0.3 * number.max(), line / np.sqrt(np.maximum(number, 1)), 0)
        best = max(best, (float(height.max()), float(angle)))
    return best


def _flat(flux):
    """The image without its wide structure, in units of its noise; and which pixels have data."""
    valid = np.isfinite(flux)
    if not valid.any():
        return flux, valid
    filled = np.where(valid, flux, np.median(flux[valid]))
    wide = ndimage.median_filter(filled[::3, ::3], size=15)
    wide = ndimage.zoom(wide, np.array(filled.shape) / wide.shape, order=1)
    flat = filled - wide
    noise = 1.4826 * np.median(np.abs(flat[valid] - np.median(flat[valid])))
    return (flat / noise if noise > 0 else np.zeros_like(flat)), valid


def _sums(x, y, values, angle):
    distance = x * math.cos(angle) + y * math.sin(angle)
    # bins of two pixels: a trail is as wide as the seeing
    place = np.floor((distance - distance.min()) / 2).astype(np.int64)
    return np.bincount(place, values), np.bincount(place)


def _refined(x, y, values, angle):
    """Angle and distance of the line, to a tenth of a degree and a pixel."""
    found = (0.0, angle, 0.0)
    for trial in angle + np.radians(np.arange(-1.0, 1.05, 0.1)):
        distance = x * math.cos(trial) + y * math.sin(trial)
        low = distance.min()
        place = np.floor(distance - low).astype(np.int64)
        line, number = np.bincount(place, values), np.bincount(place)
        height = np.where(number > 0.3 * number.max(), line / np.sqrt(np.maximum(number, 1)), 0)
        # the middle of a trail that is several pixels wide
        height = ndimage.uniform_filter1d(height, 5)
        at = int(height.argmax())
        if height[at] > found[0]:
            found = (float(height[at]), float(trial), float(at + low + 0.5))
    return found[1:]


def _measured(scaled, valid, angle, distance):
    """A line as `find_trail` tells it, or None where it is no trail."""
    ny, nx = scaled.shape
    normal, along = (
        np.array([math.cos(angle), math.sin(angle)]),
        np.array([-math.sin(angle), math.cos(angle)]),
    )
    steps = np.arange(-math.hypot(nx, ny), math.hypot(nx, ny))
    offsets = np.arange(-_HALF_PROFILE, _HALF_PROFILE + 1)
    x = distance * normal[0] + offsets[:, None] * normal[0] + steps * along[0]
    y = distance * normal[1] + offsets[:, None] * normal[1] + steps * along[1]
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    inside &= valid[np.clip(row, 0, ny - 1), np.clip(column, 0, nx - 1)]
    strip = np.where(inside, scaled[np.clip(row, 0, ny - 1), np.clip(column, 0, nx - 1)], np.nan)
    use = inside[_HALF_PROFILE]
    if use.sum() < 20:
        return None
    with np.errstate(all="ignore"):
        profile = np.array([np.nanmedian(line[use]) if np.isfinite(line[use]).any() else 0 for line in strip])
    sigma = float(profile[_HALF_PROFILE - 2 : _HALF_PROFILE + 3].max())
    # On the wing of something brighter there is no ridge.
    if profile.max() > 1.3 * sigma:
        return None
    ridge = np.nanmax(np.where(inside, strip, -np.inf)[_HALF_PROFILE - 2 : _HALF_PROFILE + 3, use], axis=0)
    if sigma <= 0.5 or np.mean(ridge > sigma / 2) < _LEAST_COVER:
        return None
    # A trail is as bright at one end as at the other; a galaxy is not.
    low, middle, high = np.percentile(ridge, (16, 50, 84))
    width = float(max(1, np.sum(profile > sigma / 2)))
    if high - low > 2 * _MOST_SCATTER * middle + 2 or width > _WIDEST:
        return None
    length = float(use.sum())
    ends = [[float(x[_HALF_PROFILE, n]), float(y[_HALF_PROFILE, n])] for n in np.flatnonzero(use)[[0, -1]]]
    area = width * length / float(valid.sum())
    return {"sigma": sigma, "width": width, "area": area, "ends": ends}


def _on_sky(trail, header):
    from astropy.wcs import WCS, FITSFixedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        wcs = WCS(header).celestial
        if not wcs.has_celestial:
            return {}
        sky = wcs.wcs_pix2world(np.array(trail["ends"]), 0)
        step = float(np.sqrt(np.abs(np.linalg.det(wcs.pixel_scale_matrix)))) * 3600
    return {"ends_deg": [[float(v) for v in end] for end in sky], "width_arcsec": trail["width"] * step}


def is_crowded(flux):
    """Signs of a crowded field.

    Parameters
    ----------
    flux : ndarray, shape (ny, nx)

    Returns
    -------
    sources : int
        Local maxima above 10 sigma of the smoothed image.
    diffuse : bool
        Whether the lower quartile lies more than 3 sigma above the darkest twentieth: no dark sky is seen.
    """
    valid = np.isfinite(flux)
    if valid.sum() < 400:
        return 0, False
    filled = np.where(valid, flux, np.median(flux[valid]))
    noise = _pixel_noise(filled, valid)
    smooth = ndimage.gaussian_filter(filled, _KERNEL)
    # of neighbouring pixels that are independent, a Gaussian leaves this share of the noise
    high = smooth > np.median(smooth[valid]) + 10 * noise / (2 * math.sqrt(math.pi) * _KERNEL)
    peaks = (smooth == ndimage.maximum_filter(smooth, 7)) & high & valid
    darkest, quartile = np.percentile(flux[valid], (2.5, 25))
    return int(peaks.sum()), bool(quartile > darkest + 3 * noise)


def _pixel_noise(image, valid):
    """Noise of a pixel, from differences of pixels that are far enough apart to share no rows."""
    both = valid[:, _APART:] & valid[:, :-_APART]
    difference = np.abs(image[:, _APART:] - image[:, :-_APART])[both]
    return 1.4826 * float(np.median(difference)) / math.sqrt(2) if len(difference) else 0.0
