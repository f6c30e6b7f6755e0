"""Rows of a simulated slice: positions, wavelengths, counts, noise, and everything that goes wrong."""

import math
from dataclasses import dataclass

import numpy as np

from musedeep.muse import DQ_BITS, mode_facts, pack_origin
from musedeep.simulate.faults import spoil_rows
from musedeep.simulate.spectrograph import (
    READ_NOISE_ELECTRONS,
    atmospheric_shift,
    count_tables,
    defects,
)

__all__ = ["SliceRows", "slice_rows"]

_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_IMAGE_LINES = 48


@dataclass(frozen=True)
class SliceRows:
    """Rows of one slice and what is true of them.

    Attributes
    ----------
    columns : dict of name to array (rows,), as a pixel table stores them
    cosmic_rays : (row, sigma, track) arrays: rows hit, counted from 0 in this slice, strength in sigma of the
        row, and the number of the track in this slice
    trails : (row, sigma) arrays: rows to which trails add more than one sigma
    patches : (x, y, total, count) arrays: good rows of runs of lines, for the white-light image; arcsec on
        the plane of the pointing, sums of the flux, numbers of rows
    """

    columns: dict[str, np.ndarray]
    cosmic_rays: tuple[np.ndarray, np.ndarray, np.ndarray]
    trails: tuple[np.ndarray, np.ndarray]
    patches: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass
class _Counts:
    """Arrays (lines, columns) of a slice, in units of flux but for the first two."""

    electrons_per_unit: np.ndarray
    background: np.ndarray
    data: np.ndarray
    variance: np.ndarray
    dq: np.ndarray


def slice_rows(part, exposure, view, settings):
    """Make the rows of one slice.

    Parameters
    ----------
    part : SlicePart
    exposure : ExposurePlan
    view : what `musedeep.simulate.scene.exposure_view` returns
    settings : SimulationSettings

    Returns
    -------
    SliceRows
    """
    slitlet = part.slitlet
    rng = np.random.default_rng((exposure.seed, 4, exposure.index, slitlet.ifu, slitlet.number))
    wavelength, on_slice = part.wavelength(exposure.stretch)
    low, high = np.float32(exposure.wavelength)
    kept = on_slice & (wavelength >= low) & (wavelength <= high)
    x, y = _sky_plane(part, exposure, wavelength)
    flux = view.flux(x, y, wavelength)
    trail = _trail_flux(exposure, x, y)
    gap = mode_facts(exposure.mode).gap
    blocked = (wavelength > gap[0]) & (wavelength < gap[1]) if gap else None
    if blocked is not None:
        flux[blocked] = 0
    counts = _observe(flux, trail, wavelength, slitlet.throughput, exposure, settings, rng)
    hits = _cosmic_rays(counts, kept, settings, rng)
    _break_pixels(counts, part, settings.defects, rng)
    if blocked is not None:
        counts.dq[blocked] |= np.uint32(DQ_BITS["nad_gap"])
    error = np.float32(1 / exposure.flux_scale)
    counts.data *= error
    counts.variance *= error * error
    wavelength, x = spoil_rows(exposure, part, wavelength, x, y, counts)
    return SliceRows(
        columns=_columns(part, exposure, kept, wavelength, x, y, counts),
        cosmic_rays=hits,
        trails=_trail_truth(trail, counts, kept, error),
        patches=_patches(exposure, kept, x, y, counts),
    )


def _sky_plane(part, exposure, wavelength):
    """True plane coordinates (lines, columns), arcsec, east and north of the true pointing."""
    along, across, added = part.focal_plane()
    shift = atmospheric_shift(wavelength.mean(axis=1, dtype=np.float64), exposure.airmass)
    # the correction for refraction moves rows to the sky they saw: that differs with wavelength
    towards = math.radians(exposure.parallactic_deg + exposure.position_angle_deg)
    dx, dy = exposure.sampling_arcsec
    line_x, line_y = added - math.sin(towards) * shift / dx, math.cos(towards) * shift / dy
    (a, b), (c, d) = exposure.cd * 3600
    x = (a * along + b * across) + (a * line_x + b * line_y)[:, None]
    y = (c * along + d * across) + (c * line_x + d * line_y)[:, None]
    return x, y


def _native(exposure, x, y):
    """Columns xpos and ypos of rows at plane coordinates x, y (arcsec), turned by the exposure's error."""
    if exposure.rotation_deg:
        x, y = _turned(exposure, x, y)
    longitude = np.arctan2(x, -y)
    longitude[longitude < 0] += 2 * np.pi
    latitude = -np.arctan(np.sqrt(x * x + y * y) * math.radians(1 / 3600))
    return longitude.astype(np.float32), latitude.astype(np.float32)


def _turned(exposure, x, y):
    angle = math.radians(exposure.rotation_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _trail_flux(exposure, x, y):
    """Flux of the satellite trails, or None where there is none."""
    total = None
    for trail in exposure.trails:
        angle = math.radians(trail.angle_deg)
        distance = x * math.cos(angle) - y * math.sin(angle) - trail.offset_arcsec
        sigma = trail.fwhm_arcsec / _FWHM_PER_SIGMA
        if np.abs(distance).min() < 6 * sigma:
            flux = trail.brightness * np.exp(-0.5 * (distance / sigma) ** 2)
            total = flux if total is None else total + flux
    return None if total is None else total.astype(np.float32)


def _observe(flux, trail, wavelength, throughput, exposure, settings, rng):
    tables = count_tables(exposure.exptime, exposure.spaxel_arcsec2)
    # the lines of the night sky stand where they are before the barycentric correction
    index = tables.index(wavelength * np.float32(1 / exposure.stretch))
    per_unit = tables.electrons_per_unit[index] * np.float32(throughput)
    background = tables.background[index] * np.float32(throughput)
    if trail is not None:
        flux = flux + trail
    expected = np.maximum(flux * per_unit + background, np.float32(0))
    read_variance = np.float32(READ_NOISE_ELECTRONS**2)
    if settings.noise == "none":
        data, noisy = flux.copy(), expected
    else:
        if settings.noise == "poisson":
            noisy = rng.poisson(expected).astype(np.float32)
            sigma = np.float32(READ_NOISE_ELECTRONS)
        else:
            noisy, sigma = expected, np.sqrt(expected + read_variance)
        noisy = noisy + sigma * rng.standard_normal(flux.shape, np.float32)
        data = (noisy - background) / per_unit
    electrons = expected if settings.variance == "expected" else np.maximum(noisy, np.float32(0))
    variance = (electrons + read_variance) / (per_unit * per_unit)
    return _Counts(per_unit, background, data, variance, np.zeros(flux.shape, np.uint32))


def _cosmic_rays(counts, kept, settings, rng):
    """Hit pixels along short tracks; rows, strengths and tracks of those that are kept."""
    low, high = settings.cosmic_ray_length
    count = rng.poisson(settings.cosmic_ray_rate * kept.size / ((low + high) / 2))
    if count == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int32)
    lines, columns = kept.shape
    start = rng.uniform(0, (lines, columns), (count, 2))
    angle = rng.uniform(0, 2 * np.pi, count)
    length = rng.integers(low, high, count, endpoint=True)
    strength = np.exp(rng.uniform(*np.log(settings.cosmic_ray_sigma), count))
    flagged = rng.random(count) < settings.cosmic_ray_flagged
    step = np.arange(high)
    line = np.floor(start[:, :1] + step * np.sin(angle)[:, None]).astype(np.int64)
    column = np.floor(start[:, 1:] + step * np.cos(angle)[:, None]).astype(np.int64)
    inside = (step < length[:, None]) & (line >= 0) & (line < lines) & (column >= 0) & (column < columns)
    track = np.broadcast_to(np.arange(count)[:, None], inside.shape)[inside]
    # where tracks cross, the first one counts
    pixel, first = np.unique((line * columns + column)[inside], return_index=True)
    track = track[first]
    sigma = np.sqrt(counts.variance.reshape(-1)[pixel])
    counts.data.reshape(-1)[pixel] += (strength[track] * sigma).astype(np.float32)
    if settings.variance == "measured":
        added = strength[track] * sigma / counts.electrons_per_unit.reshape(-1)[pixel]
        counts.variance.reshape(-1)[pixel] += added.astype(np.float32)
    counts.dq.reshape(-1)[pixel[flagged[track]]] |= np.uint32(DQ_BITS["cosmic_ray"])
    row, used = _rows_of(kept, pixel)
    return row, strength[track[used]].astype(np.float32), track[used].astype(np.int32)


def _rows_of(kept, pixel):
    """Rows of flat pixel indices, and which of the pixels have one."""
    used = kept.reshape(-1)[pixel]
    return np.cumsum(kept)[pixel[used]] - 1, used


def _break_pixels(counts, part, fraction, rng):
    """Spoil defective pixels and flag them."""
    line, column, bits = defects(part, fraction)
    if len(line) == 0:
        return
    data, sigma = counts.data[line, column], np.sqrt(counts.variance[line, column])
    dark = -counts.background[line, column] / counts.electrons_per_unit[line, column]
    excess = (sigma * rng.uniform(30, 1000, len(line))).astype(np.float32)
    is_bit = {name: bits == DQ_BITS[name] for name in ("low_qe", "dead_pixel")}
    wrong = np.select([is_bit["low_qe"], is_bit["dead_pixel"]], [data / 2, dark], data + excess)
    counts.data[line, column] = wrong
    counts.dq[line, column] |= bits


def _trail_truth(trail, counts, kept, error):
    if trail is None:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    # the variance holds the photons of the trail, as the row's own variance does
    sigma = trail * error / np.sqrt(counts.variance)
    pixel = np.flatnonzero(sigma > 1)
    row, used = _rows_of(kept, pixel)
    return row, sigma.reshape(-1)[pixel[used]]


def _patches(exposure, kept, x, y, counts):
    starts = np.arange(0, kept.shape[0], _IMAGE_LINES)
    good = kept & (counts.dq == 0)
    total = np.add.reduceat(np.where(good, counts.data, 0), starts, axis=0, dtype=np.float64)
    count = np.add.reduceat(good, starts, axis=0, dtype=np.float64)
    middle = np.minimum(starts + _IMAGE_LINES // 2, kept.shape[0] - 1)
    x, y = _turned(exposure, x[middle], y[middle])
    return tuple(values.reshape(-1) for values in (x, y, total, count))


def _columns(part, exposure, kept, wavelength, x, y, counts):
    slitlet = part.slitlet
    detector_x, detector_y = part.detector()
    longitude, latitude = _native(exposure, x[kept], y[kept])
    origin = pack_origin(detector_x, detector_y, slitlet.ifu, slitlet.number, slitlet.xoffset)
    return {
        "xpos": longitude,
        "ypos": latitude,
        "lambda": wavelength[kept],
        "data": counts.data[kept],
        "dq": counts.dq[kept],
        "stat": counts.variance[kept],
        "origin": origin[kept],
    }
