"""What the spectra of the brightest sources of the deep cube have in common, and should not have."""

import math

import numpy as np

from musedeep.muse import MODES
from musedeep.qc.deep import median_of, robust_scatter
from musedeep.qc.evidence import Finding

__all__ = [
    "TELLURIC_BANDS", "beside_bands", "find_sodium_step", "find_sodium_zeros", "find_telluric",
    "find_wiggles", "smooth_spectrum",
]  # fmt: skip

#: Bands (Angstrom) in which the atmosphere absorbs.
TELLURIC_BANDS = (
    (6860.0, 6930.0),
    (7160.0, 7340.0),
    (7590.0, 7720.0),
    (8120.0, 8340.0),
    (8930.0, 9300.0),
)
_BESIDE_ANGSTROM = 40.0
_STEP_REACH_ANGSTROM = 25.0
_WIGGLES = (4650.0, 5700.0)
_PERIODS = np.arange(50.0, 251.0, 2.0)
_FEWEST_SOURCES = 3
_FEWEST_PLANES = 8
_SURE = 4.0


def _relative(deep):
    """Spectra over their median, and the error of each value; only sources that are bright enough to tell."""
    spectra, noise = deep.spectra, deep.spectra_noise
    pairs = zip(spectra.T, noise.T, strict=True)
    bright = np.array([median_of(flux) > 5 * median_of(error) for flux, error in pairs], bool)
    spectra, noise = spectra[:, bright], noise[:, bright]
    smooth = np.empty_like(spectra)
    for n, flux in enumerate(spectra.T):
        smooth[:, n] = smooth_spectrum(flux)
    return spectra, noise, smooth


def smooth_spectrum(values, planes=301):
    """Running median of values over so many planes, or half of them if there are fewer."""
    from scipy.ndimage import median_filter

    return median_filter(values, min(planes, max(3, len(values) // 4 * 2 + 1)), mode="nearest")


def beside_bands(wavelength):
    """Planes inside each telluric band, and beside it; pairs of ndarray, shape (nz,), bool."""
    for low, high in TELLURIC_BANDS:
        inside = (wavelength > low) & (wavelength < high)
        near = (wavelength > low - _BESIDE_ANGSTROM) & (wavelength < high + _BESIDE_ANGSTROM)
        yield inside, near & ~inside


def _gaps(evidence):
    """Sodium gaps of the modes of the exposures; those without one, and those with it."""
    gaps, without, having = set(), [], []
    for date, exposure in evidence.exposures.items():
        gap = MODES[exposure.mode].gap if exposure.mode in MODES else None
        (having if gap else without).append(date)
        if gap:
            gaps.add(gap)
    return gaps, without, having


def find_sodium_step(evidence):
    """Step of bright spectra at the edges of the sodium gap, in which only some exposures count."""
    name, deep = "sodium_step", evidence.deep
    threshold = evidence.thresholds[name]
    gaps, without, having = _gaps(evidence)
    inside = [low <= w <= high for low, high in gaps for w in deep.wavelength[[0, -1]]]
    if not gaps or not without or all(inside):
        return Finding(
            name, math.nan, threshold, "", False, (), "no mixture of exposures with and without the gap"
        )
    steps, errors = [], []
    spectra, noise, _ = _relative(deep)
    for low, high in sorted(gaps):
        for edge, sign in ((low, 1), (high, -1)):
            found = [
                _step(deep.wavelength, s, e, edge, sign) for s, e in zip(spectra.T, noise.T, strict=True)
            ]
            found = [pair for pair in found if math.isfinite(pair[0])]
            steps += [pair[0] for pair in found]
            errors += [pair[1] for pair in found]
    if not steps:
        return Finding(name, math.nan, threshold, "", False, (), "no source is bright enough")
    weight = 1 / np.square(errors)
    value = float((weight * steps).sum() / weight.sum())
    alarm = abs(value) > threshold and abs(value) > _SURE / math.sqrt(weight.sum())
    note = f"spectra step by {value:+.1%} into the sodium gap, which {len(without)} "
    note += f"of {len(without) + len(having)} exposures fill"
    return Finding(name, value, threshold, "", alarm, tuple(having) if alarm else (), note)


def _step(wavelength, spectrum, error, edge, sign):
    """Relative step of a spectrum into a gap at an edge, from lines fitted on both sides; and its error."""
    offset = (wavelength - edge) * sign
    parts = []
    for part in (
        (offset > 2) & (offset < _STEP_REACH_ANGSTROM),
        (offset < -2) & (offset > -_STEP_REACH_ANGSTROM),
    ):
        good = part & np.isfinite(spectrum) & (error > 0)
        if good.sum() < _FEWEST_PLANES:
            return math.nan, math.nan
        weight = 1 / error[good] ** 2
        parts.append(((weight * spectrum[good]).sum() / weight.sum(), 1 / weight.sum()))
    (inner, var_in), (outer, var_out) = parts
    return inner / outer - 1, math.sqrt(var_in + var_out) / abs(outer)


def find_sodium_zeros(evidence):
    """Planes of the sodium gap that hold zeros: where nothing was seen there must be nothing."""
    name, deep = "sodium_zero", evidence.deep
    threshold = evidence.thresholds[name]
    gaps, _, _ = _gaps(evidence)
    inside = np.zeros(len(deep.wavelength), bool)
    for low, high in gaps:
        inside |= (deep.wavelength > low) & (deep.wavelength < high)
    if not inside.any():
        return Finding(name, math.nan, threshold, "planes", False, (), "no sodium gap in the range")
    value = int(np.count_nonzero(inside & (deep.level == 0) & (deep.scatter == 0)))
    note = f"{value} planes of the sodium gap hold zeros" if value else "the sodium gap is empty or filled"
    return Finding(name, float(value), threshold, "planes", value > threshold, (), note)


def find_telluric(evidence):
    """Scatter of bright spectra in telluric bands over that beside them, in units of the noise."""
    name, deep = "telluric", evidence.deep
    threshold = evidence.thresholds[name]
    spectra, noise, smooth = _relative(deep)
    ratios = []
    for inside, beside in beside_bands(deep.wavelength):
        for flux, error, level in zip(spectra.T, noise.T, smooth.T, strict=True):
            scaled = (flux - level) / error
            if min(np.isfinite(scaled[part]).sum() for part in (inside, beside)) >= _FEWEST_PLANES:
                ratios.append(robust_scatter(scaled[inside]) / max(robust_scatter(scaled[beside]), 1e-9))
    if len(ratios) < _FEWEST_SOURCES:
        return Finding(name, math.nan, threshold, "", False, (), "no bright sources in a telluric band")
    value = float(np.median(ratios))
    alarm = value > threshold
    note = (
        "absorption of the atmosphere is left"
        if alarm
        else "no more scatter in telluric bands than beside them"
    )
    return Finding(name, value, threshold, "", alarm, (), note)


def find_wiggles(evidence):
    """Waves of 50 to 250 Angstrom that the bright spectra have in common below 5700 Angstrom.

    Every spectrum is divided by itself smoothed; the amplitude is that of the wave which fits the weighted
    mean of all of them best, and counts only where each of most sources shows it too.
    """
    name, deep = "wiggles", evidence.deep
    threshold = evidence.thresholds[name]
    inside = (deep.wavelength >= _WIGGLES[0]) & (deep.wavelength <= _WIGGLES[1])
    extended = tuple(d for d, e in evidence.exposures.items() if e.mode == "WFM-AO-E")
    if not extended:
        return Finding(
            name, math.nan, threshold, "", False, (), "no exposure of the extended mode with adaptive optics"
        )
    if np.ptp(deep.wavelength[inside], axis=0) < 300 if inside.any() else True:
        return Finding(name, math.nan, threshold, "", False, (), "too little of the blue end in the range")
    curves, errors = _ripples(deep, inside)
    if len(curves) < _FEWEST_SOURCES:
        return Finding(name, math.nan, threshold, "", False, (), "too few bright sources")
    wavelength = deep.wavelength[inside]
    mean = np.average(curves, axis=0, weights=1 / errors**2)
    amplitude, period, phase = _best_wave(wavelength, mean)
    wave = np.cos(2 * math.pi * wavelength / period - phase)
    each = 2 * (curves * wave).mean(axis=1)
    error = math.sqrt(2 / len(wavelength) / (1 / errors**2).sum())
    shared = np.mean(each > 0.4 * amplitude) >= 0.6
    alarm = bool(amplitude > threshold and amplitude > 2 * _SURE * error and shared)
    note = f"{len(curves)} bright spectra have a wave of {amplitude:.1%} and {period:.0f} Angstrom in common"
    return Finding(name, float(amplitude), threshold, "", alarm, extended if alarm else (), note)


def _ripples(deep, inside):
    """Relative differences of bright spectra from themselves smoothed, and their errors."""
    from scipy.signal import savgol_filter

    spectra, noise, _ = _relative(deep)
    curves, errors = [], []
    step = float(np.median(np.diff(deep.wavelength)))
    width = int(401.0 / step) // 2 * 2 + 1
    for flux, error in zip(spectra[inside].T, noise[inside].T, strict=True):
        good = np.isfinite(flux)
        if good.mean() < 0.95 or width >= len(flux):
            continue
        flux = np.interp(np.arange(len(flux)), np.flatnonzero(good), flux[good])
        curve = flux / savgol_filter(flux, width, 2, mode="interp") - 1
        scale = float(np.nanmedian(error) / np.median(flux))
        curves.append(np.clip(curve, -5 * scale - 0.2, 5 * scale + 0.2))
        errors.append(scale)
    return np.array(curves), np.array(errors)


def _best_wave(wavelength, curve):
    """Amplitude, period and phase of the cosine that fits best."""
    best = (0.0, 100.0, 0.0)
    for period in _PERIODS:
        angle = 2 * math.pi * wavelength / period
        a, b = 2 * (curve * np.cos(angle)).mean(), 2 * (curve * np.sin(angle)).mean()
        if math.hypot(a, b) > best[0]:
            best = (math.hypot(a, b), float(period), math.atan2(b, a))
    return best
