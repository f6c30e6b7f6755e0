"""What the deep cube says of itself: images, blank sky, and its noise plane by plane and by aperture."""

import warnings
from dataclasses import dataclass, fields
from functools import partial

import numpy as np

from musedeep.align.images import WhiteImage
from musedeep.align.sources import find_sources
from musedeep.execute import run_tasks
from musedeep.images import ImageSum, MapMean
from musedeep.qc.lines import line_strengths
from musedeep.settings import AlignSettings
from musedeep.store import CubeStore

__all__ = [
    "APERTURES",
    "BANDS",
    "Deep",
    "blank_sky",
    "measure_deep",
    "median_of",
    "robust_scatter",
    "white_image",
]

APERTURES = (1, 2, 3, 4, 5, 7, 9, 11, 15)
"""Sides of the square apertures, spaxels."""
BANDS = 6
"""Ranges of wavelength in which the seeing and the noise of apertures are measured."""

_APERTURE_PLANES = 240
# Sources are what rises so far above the median of a box of this side; more around them is left out.
_BOX_SPAXELS = 31
_COARSE = 4
_SOURCE_SIGMA = 5.0
_AWAY_SPAXELS = 8.0
_ENOUGH_BLANK = 0.4
_LEAST_BLANK = 0.05
_MOST_SPECTRA = 10
# Sources whose light is followed through the exposures, at most, and how far they stand above the noise.
_MOST_BRIGHT = 300
_BRIGHT_SIGMA = 20.0
# What smoothing leaves of independent noise, and by how much the noise may exceed what is propagated.
_SMOOTHED, _MOST_NOISE = 0.28, 4.0
_CROWDED_SPAXELS = 4.0


@dataclass(frozen=True)
class Deep:
    """Images and noise of the deep cube.

    Attributes
    ----------
    wavelength : ndarray, shape (nz,), float64, Angstrom
    white, white_variance : ndarray, shape (ny, nx), float32
        Mean over all planes; NaN without data.
    bands, bands_variance : ndarray, shape (BANDS, ny, nx), float32
        The same for equal ranges of wavelength.
    seconds, count, rejected : ndarray, shape (ny, nx)
        Exposure time [s] and number of exposures, means over the planes; rows rejected at all wavelengths.
    blank : ndarray, shape (ny, nx), bool
        Spaxels without sources.
    distance : float
        Spaxels between sources and blank sky, at least.
    level, scatter, noise : ndarray, shape (nz,), float64
        Of blank sky in each plane: median, 1.4826 MAD, and the median of the propagated errors; NaN where the
        plane is empty.
    apertures : ndarray, shape (BANDS, len(APERTURES)), float64
        Measured noise of the flux in an aperture over the propagated one.
    median_count : ndarray, shape (nz,), float64
        Exposures of a voxel in each plane, median of blank sky.
    x, y : ndarray, shape (n,), float64
        Sources of the white image, brightest first; voxels, counted from 0.
    fwhm : ndarray, shape (1 + BANDS,), float64, arcsec
        Of the white image and of the bands; NaN without stars.
    spectra, spectra_noise : ndarray, shape (nz, m), float64
        Flux of the brightest sources that stand apart, within one FWHM, and its propagated error.
    line_strength : ndarray, shape (nz,), float64
        See `musedeep.qc.lines.line_strengths`.
    """

    wavelength: np.ndarray
    white: np.ndarray
    white_variance: np.ndarray
    bands: np.ndarray
    bands_variance: np.ndarray
    seconds: np.ndarray
    count: np.ndarray
    rejected: np.ndarray
    blank: np.ndarray
    distance: float
    level: np.ndarray
    scatter: np.ndarray
    noise: np.ndarray
    apertures: np.ndarray
    median_count: np.ndarray
    x: np.ndarray
    y: np.ndarray
    fwhm: np.ndarray
    spectra: np.ndarray
    spectra_noise: np.ndarray
    line_strength: np.ndarray

    def save(self, path, key):
        """Write it as npz with the key of what it was made of."""
        partial_path = path.with_name(f".{path.name}")
        np.savez_compressed(
            partial_path, key=key, **{item.name: getattr(self, item.name) for item in fields(self)}
        )
        partial_path.replace(path)

    @property
    def crowded(self):
        """Whether there is no sky away from sources: then its level means little."""
        return self.distance < _CROWDED_SPAXELS

    @classmethod
    def load(cls, path, key=None):
        """Read it, or None where there is none, or it was made of something else."""
        try:
            with np.load(path) as stored:
                if key is not None and str(stored["key"]) != key:
                    return None
                values = {item.name: stored[item.name] for item in fields(cls)}
                return cls(**values | {"distance": float(values["distance"])})
        except (OSError, KeyError, ValueError):
            return None


def measure_deep(field, path, key, *, workers=None, client=None, progress=None):
    """Measure the deep cube in two passes over the cube store, a few planes at a time.

    Parameters
    ----------
    field : Field
        With a finished cube store.
    path : Path
        Where the result is kept.
    key : str
        Of what it is made of.
    workers : int, optional
        Slabs of planes at once, without a client.
    client : distributed.Client, optional
    progress : Progress, optional

    Returns
    -------
    Deep
    """
    kept = Deep.load(path, key)
    if kept is not None:
        return kept
    store = CubeStore(field.cube_path)
    images = _collapsed(store)
    blank, distance = blank_sky(images["white"], images["white_variance"], images["count"])
    sources = _sources_of(images, store.grid)
    masks = path.with_name("masks.npz")
    labels = _labels(sources, images["white"])
    np.savez_compressed(masks, blank=blank, labels=labels, bright=_bright(sources, images) & ~blank)
    planes, step = store.grid.shape[0], store.slab_planes(("flux",))
    every = max(1, planes // _APERTURE_PLANES)
    work = partial(_planes_of, cube_path=field.cube_path, masks=masks, every=every)
    found = [None] * len(range(0, planes, step))
    items = [(start, min(start + step, planes)) for start in range(0, planes, step)]
    for item, result in run_tasks(work, items, client=client, workers=workers, progress=progress):
        found[item[0] // step] = result
    statistics, ratios, places, spectra, strengths = (
        np.concatenate(parts) for parts in zip(*found, strict=True)
    )
    deep = Deep(
        wavelength=store.grid.wavelengths,
        blank=blank,
        distance=distance,
        level=statistics[:, 0],
        scatter=statistics[:, 1],
        noise=statistics[:, 2],
        median_count=statistics[:, 3],
        apertures=_by_band(ratios, places, planes),
        spectra=spectra[..., 0],
        spectra_noise=np.sqrt(spectra[..., 1]),
        line_strength=strengths,
        x=sources["x"],
        y=sources["y"],
        fwhm=sources["fwhm"],
        **images,
    )
    deep.save(path, key)
    return deep


def _collapsed(store):
    """Images of the whole range and of its bands, and maps."""
    planes, ny, nx = store.grid.shape
    white, bands = ImageSum((ny, nx)), [ImageSum((ny, nx)) for _ in range(BANDS)]
    maps = {name: MapMean((ny, nx)) for name in ("exposure_time", "exposure_count", "rejected_count")}
    step = store.slab_planes(("flux",))
    for start in range(0, planes, step):
        stop = min(start + step, planes)
        flux, variance = store.read("flux", start, stop), store.read("variance", start, stop)
        white.add(flux, variance, np.ones(stop - start))
        band_of = np.arange(start, stop) * BANDS // planes
        for band in np.unique(band_of):
            bands[band].add(flux, variance, (band_of == band).astype(float))
        covered = np.isfinite(flux).any(axis=(1, 2))
        for name, total in maps.items():
            total.add(store.read(name, start, stop), covered)
    pairs = [band.image() for band in bands]
    image, variance = white.image()
    return {
        "white": image,
        "white_variance": variance,
        "bands": np.array([pair[0] for pair in pairs]),
        "bands_variance": np.array([pair[1] for pair in pairs]),
        "seconds": maps["exposure_time"].mean(),
        "count": maps["exposure_count"].mean(),
        "rejected": maps["rejected_count"].total().astype(np.int64),
    }


def blank_sky(white, variance, count):
    """Spaxels without sources.

    Parameters
    ----------
    white : ndarray, shape (ny, nx), float32
        NaN without data.
    variance, count : ndarray of the same shape
        Propagated variance, and exposures of each spaxel.

    Returns
    -------
    blank : ndarray of bool
        Where sources are everywhere, the darkest twentieth.
    distance : float
        Spaxels between sources and blank sky, at least.
    """
    from scipy.ndimage import binary_opening, distance_transform_edt, gaussian_filter

    covered = np.isfinite(white) & (count > 0)
    if not covered.any():
        return covered, 0.0
    covered &= count >= 0.2 * np.median(count[covered])
    filled = np.where(covered, white, np.nan)
    level = _coarse_level(filled)
    depth = np.sqrt(np.maximum(count, 1) / np.median(count[covered]))
    above = np.where(covered, (filled - level) * depth, 0.0)
    smooth = gaussian_filter(above, 1.0)
    noise = robust_scatter(smooth[covered], lower=True)
    # where sources are everywhere, the scatter is theirs
    propagated = _SMOOTHED * float(np.sqrt(np.median((variance * depth**2)[covered])))
    noise = min(noise, _MOST_NOISE * propagated)
    sources = binary_opening(covered & (smooth > _SOURCE_SIGMA * noise))
    # the wings of sources reach far, and differ with the seeing: as far away as the field allows
    away = distance_transform_edt(~sources)[covered]
    distance = min(_AWAY_SPAXELS, float(np.quantile(away, 1 - _ENOUGH_BLANK)))
    distance = max(distance, 1.0)
    blank = covered & (distance_transform_edt(~sources) >= distance)
    if blank.sum() < _LEAST_BLANK * covered.sum():
        blank, distance = covered & (smooth <= np.quantile(smooth[covered], _LEAST_BLANK)), 0.0
    return blank, distance


def _coarse_level(image):
    """The level of an image without its sources, which changes slowly: found on boxes, then interpolated."""
    from scipy.ndimage import generic_filter, zoom

    cells = [-(-n // _COARSE) for n in image.shape]
    padded = np.full([n * _COARSE for n in cells], np.nan, np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    boxes = padded.reshape(cells[0], _COARSE, cells[1], _COARSE).swapaxes(1, 2).reshape(*cells, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # boxes without data
        medians = np.nanmedian(boxes, axis=2)
    level = generic_filter(medians, _low_median, size=_BOX_SPAXELS // _COARSE, mode="nearest")
    level = np.where(np.isfinite(level), level, np.nanmedian(image))
    return zoom(level, _COARSE, order=1, mode="nearest", grid_mode=True)[: image.shape[0], : image.shape[1]]


def _low_median(values):
    """A level below sources: the 30th percentile."""
    good = values[np.isfinite(values)]
    return np.quantile(good, 0.3) if len(good) else np.nan


def median_of(values):
    """Median of the finite values; NaN for none."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else np.nan


def robust_scatter(values, lower=False):
    """1.4826 MAD of values, or with `lower` of those below the median mirrored at it; NaN for none."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return np.nan
    middle = np.median(values)
    if lower:
        below = middle - values[values < middle]
        return 1.4826 * np.median(below) if len(below) else np.nan
    return 1.4826 * np.median(np.abs(values - middle))


def white_image(grid, flux, variance, corner=(0, 0), date_obs="", exptime=float("nan")):
    """An image on the grid of the cube as the alignment takes it.

    Parameters
    ----------
    grid : VoxelGrid
    flux, variance : ndarray, shape (ny, nx), float32
    corner : (int, int)
        Row and column of the grid that the first ones are.
    date_obs, exptime : str, float

    Returns
    -------
    musedeep.align.images.WhiteImage
    """
    matrix = np.radians(np.array(grid.cd))
    to_sky = np.eye(3)
    to_sky[:2, :2] = matrix
    to_sky[:2, 2] = -matrix @ (np.array(grid.crpix) - 1 - np.array(corner)[::-1])
    ra, dec = grid.crval
    return WhiteImage(date_obs, date_obs, 0.0, exptime, "white", flux, variance, ra, dec, to_sky)


def _sources_of(images, grid):
    """Sources of the white image, and the seeing there and in the bands."""
    found = find_sources(white_image(grid, images["white"], images["white_variance"]), AlignSettings())
    pairs = zip(images["bands"], images["bands_variance"], strict=True)
    bands = [find_sources(white_image(grid, *pair), AlignSettings()).fwhm for pair in pairs]
    fwhm = np.array([found.fwhm, *bands]) * np.sqrt(np.prod(grid.step_arcsec))
    order = np.argsort(-found.flux)
    return {"x": found.x[order], "y": found.y[order], "fwhm": fwhm, "pixels": found.fwhm}


def _labels(sources, white):
    """Spaxels of the brightest sources that stand apart, numbered from 1."""
    labels = np.zeros(white.shape, np.int16)
    radius = max(sources["pixels"], 2.0) if len(sources["x"]) else 2.0
    rows, columns = np.indices(white.shape)
    number = 0
    for x, y in zip(sources["x"], sources["y"], strict=True):
        near = np.hypot(columns - x, rows - y) <= radius
        if number == _MOST_SPECTRA or labels[near].any() or not np.isfinite(white[near]).all():
            continue
        number += 1
        labels[near] = number
    return labels


def _bright(sources, images):
    """Spaxels within one FWHM of the sources that stand far above the noise."""
    white, variance = images["white"], images["white_variance"]
    bright = np.zeros(white.shape, bool)
    if not len(sources["x"]):
        return bright
    noise = np.sqrt(median_of(variance))
    rows, columns = np.indices(bright.shape)
    level, radius = median_of(white), max(sources["pixels"], 2.0)
    for x, y in zip(sources["x"][:_MOST_BRIGHT], sources["y"], strict=False):
        near = np.hypot(columns - x, rows - y) <= radius
        values = white[near & np.isfinite(white)]
        if len(values) and values.max() - level > _BRIGHT_SIGMA * noise:
            bright |= near
    return bright


def _spectra(flux, variance, labels):
    """Sums of flux and variance over each source; shape (planes, sources, 2)."""
    result = np.full((len(flux), labels.max(), 2), np.nan)
    for number in range(1, labels.max() + 1):
        inside = labels == number
        result[:, number - 1, 0] = flux[:, inside].sum(axis=1, dtype=np.float64)
        result[:, number - 1, 1] = variance[:, inside].sum(axis=1, dtype=np.float64)
    return result


def _planes_of(item, *, cube_path, masks, every):
    """Level, scatter, noise and depth of blank sky in some planes, and the noise of apertures in a few."""
    start, stop = item
    store = CubeStore(cube_path)
    with np.load(masks) as stored:
        blank, labels = stored["blank"], stored["labels"]
    flux, variance, count = (store.read(name, start, stop) for name in ("flux", "variance", "exposure_count"))
    statistics = np.full((stop - start, 4), np.nan)
    ratios, places = [], []
    for n in range(stop - start):
        good = blank & np.isfinite(flux[n]) & (variance[n] > 0)
        if good.sum() < 20:
            continue
        values = flux[n][good].astype(np.float64)
        noise = float(np.sqrt(np.median(variance[n][good])))
        statistics[n] = np.median(values), robust_scatter(values), noise, np.median(count[n][good])
        if (start + n) % every == 0:
            ratios.append(_aperture_ratios(flux[n], variance[n], good))
            places.append(start + n)
    ratios = np.array(ratios).reshape(-1, len(APERTURES))
    strengths = line_strengths(flux, variance, blank)
    return statistics, ratios, np.array(places, int), _spectra(flux, variance, labels), strengths


def _aperture_ratios(flux, variance, good):
    """Scatter of sums over apertures on blank sky over their propagated error.

    The level of a wide box is taken off, so that gradients do not count as noise.
    """
    from scipy.ndimage import uniform_filter

    data = np.where(good, flux, 0.0).astype(np.float64)
    var = np.where(good, variance, 0.0).astype(np.float64)
    weight = good.astype(np.float64)
    wide = uniform_filter(weight, 4 * APERTURES[-1])
    level = uniform_filter(data, 4 * APERTURES[-1]) / np.maximum(wide, 1e-9)
    data = np.where(good, data - level, 0.0)
    ratios = []
    for side in APERTURES:
        filled = uniform_filter(weight, side) > 1 - 0.5 / side**2
        sums = uniform_filter(data, side)[filled] * side**2
        errors = np.sqrt(uniform_filter(var, side)[filled] * side**2)
        ratios.append(robust_scatter(sums / errors) if filled.sum() >= 10 * side**2 else np.nan)
    return ratios


def _by_band(ratios, places, planes):
    """Median of the planes of each band."""
    result = np.full((BANDS, len(APERTURES)), np.nan)
    for band in range(BANDS):
        mine = ratios[places * BANDS // planes == band]
        for column in range(len(APERTURES)):
            good = mine[np.isfinite(mine[:, column]), column]
            if len(good):
                result[band, column] = np.median(good)
    return result
