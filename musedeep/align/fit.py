"""Fit of all sources of an image together: places, fluxes, local backgrounds and a common PSF."""

import math

import numpy as np

__all__ = ["SourceFit", "moffat"]

_BETA = 2.8
_SIGMA_PER_MAD = 1.4826
_ROUNDS = 4
# What the seeing is measured on, at most, and of those the sharper part: galaxies are wider than stars.
_PSF_SOURCES = 15
_SHARPER = 0.3
# Radii, in units of the FWHM, of the aperture for fluxes and of the ring around it.
_APERTURE = 2.5
_ANNULUS = 4.0
# Pixels that stand this many standard deviations above the model and their neighbours are cosmic rays.
_STRUCK = 5.0
# Beside such a pixel, where its light spills over, fewer are enough.
_BESIDE = 2.5
# Around a source that is not fitted the median of 25 pixels is a larger share of its peak than this.
_SOFT = 0.3
# Where the sources stand this many standard deviations above the noise, the misfit of the profile shows.
_BRIGHT = 20.0
# Share of a neighbour's light that may be left where its model was taken off.
_UNCLEAN = 0.03
# Relative error of the flux of sources whose width is known well.
_CLEAR = 0.03
# Misfit of a source, as a share of its light, that makes it tell half as much of the PSF.
_ROUND = 0.1
# How far widths, and ratios of fluxes, of point sources differ beyond their noise.
_LIKE = 0.02


def moffat(radius2, fwhm, beta=_BETA):
    """Moffat profile of unit flux.

    Parameters
    ----------
    radius2 : ndarray
        Squared distance from the middle.
    fwhm : float or ndarray
        Full width at half maximum, in the same unit.
    beta : float, optional

    Returns
    -------
    ndarray of the broadcast shape
    """
    core2 = _core2(fwhm, beta)
    return (beta - 1) / (np.pi * core2) * (1 + radius2 / core2) ** -beta


def _core2(fwhm, beta=_BETA):
    """Squared radius of the core of a Moffat profile."""
    return (np.asarray(fwhm) / 2) ** 2 / (2 ** (1 / beta) - 1)


def _sampled(places, x, y, fwhm):
    """Moffat profile about (x, y) as rows see it that have places as those of `Samples`, or all one place.

    The mean over rows that lie apart is, to second order, the profile at their mean place and half of what
    its second derivatives make of their covariance.
    """
    dx, dy = places[0] - x, places[1] - y
    radius2 = dx**2 + dy**2
    profile = moffat(radius2, fwhm)
    if len(places) == 2:
        return profile
    xx, xy, yy = places[2:]
    wide2 = _core2(fwhm) + radius2
    along = xx * dx**2 + 2 * xy * dx * dy + yy * dy**2
    return profile * (1 + _BETA * (2 * (_BETA + 1) * along / wide2 - xx - yy) / wide2)


class SourceFit:
    """All sources of an image fitted together: position, flux, local background; a common PSF.

    Each round takes the models of all others off, so that neighbours do not pull on each other.
    """

    def __init__(self, data, variance, x, y, fwhm, places=None):
        self.data, self.variance = data, variance
        self.places = np.indices(data.shape)[::-1].astype(float) if places is None else places
        self.x, self.y = x.copy(), y.copy()
        self.start = x.copy(), y.copy()
        self.held = np.zeros(len(x), bool)
        self.fwhm = float(fwhm)
        self.flux = np.zeros(len(x))
        self.position_error = self.flux_error = np.full(len(x), np.inf)
        self.gain = 0.0

    def run(self):
        """Measure the seeing, then fit."""
        self._fit_once(steps=3)
        for _ in range(2):
            self._measure_seeing()
            self._fit_once(steps=2)
        for _ in range(_ROUNDS // 2):
            self._strike_cosmic_rays()
            self._measure_seeing()
            self._fit_once(steps=2)
            self._fit_once(steps=2)

    def _strike_cosmic_rays(self):
        """Leave out pixels that stand out of their neighbours, once the sources are off, as no source can."""
        from scipy.ndimage import binary_dilation, median_filter

        scene = self._scene()
        rest = np.where(np.isfinite(self.variance), self.data - scene, 0.0)
        # the median of 25 pixels holds none of a track that is two pixels wide, but a share of a faint source
        around = median_filter(rest, 5)
        sharp = np.where(around < _SOFT * rest, rest - around, 0.0)
        light = np.maximum(scene, 0)
        noise = np.sqrt(self.variance + self.gain * light)
        bright = np.isfinite(noise) & (light > _BRIGHT * noise)
        # the profile is not quite the PSF: what is left of bright sources is no cosmic ray
        misfit = (
            _SIGMA_PER_MAD * np.median(np.abs(rest - around)[bright] / light[bright]) if bright.any() else 0.0
        )
        height = sharp / np.hypot(noise, misfit * light)
        struck = height > _STRUCK
        struck |= (height > _BESIDE) & binary_dilation(struck, np.ones((3, 3)))
        self.variance = np.where(struck, np.inf, self.variance)

    def _struck(self):
        """Which sources have lost their middle to a cosmic ray, or are one."""
        ny, nx = self.data.shape
        row, column = (
            np.clip(np.rint(at).astype(int), 0, size - 1) for at, size in ((self.y, ny), (self.x, nx))
        )
        return ~np.isfinite(self.variance[row, column])

    def usable(self):
        """Which sources were fitted well, stayed where they were found, and have a flux."""
        good = np.isfinite(self.position_error) & (self.flux > 3 * self.flux_error)
        return good & ~self._strayed() & ~self.held & (self.position_error < 0.5 * self.fwhm)

    def _strayed(self):
        """Which sources are no longer where they were found."""
        moved = np.hypot(self.x - self.start[0], self.y - self.start[1])
        return moved >= max(1.5, 0.6 * self.fwhm)

    def _hold_strays(self):
        """Put back what strayed, and let it move no more.

        A cosmic ray, which the PSF does not fit, would else wander off to a star and share its light.
        """
        strayed = self._strayed()
        self.held |= strayed
        self.x, self.y = (
            np.where(strayed, first, now) for first, now in zip(self.start, (self.x, self.y), strict=True)
        )
        self.flux = np.where(strayed | (self.held & (self.flux < 0)), 0.0, self.flux)

    def whole_fluxes(self):
        """Flux of every source, as a wide aperture would have it; and its standard error.

        The fitted flux follows the core, and takes the wings from a profile that suits one seeing better than
        another. All point sources of an image miss the same share of their light in this way, and their wide
        apertures, at the border and beside cosmic rays and neighbours worse than the fit, tell that share
        together. What is wider or narrower than the PSF gets the flux of its own aperture. Where the aperture
        has more or less light than it should, the difference is added to the error.
        """
        aperture, aperture_error, others = self._apertures()
        fitted = np.maximum(self.flux, 1e-30)
        ratio, uncertain = aperture / fitted, np.hypot(aperture_error / fitted, _UNCLEAN * others / fitted)
        known = np.isfinite(ratio) & np.isfinite(uncertain) & self.usable()
        if not known.any():
            return aperture, np.hypot(aperture_error, _UNCLEAN * others)
        point = self._pointlike()
        telling = known & point if (known & point).any() else known
        share = _common(ratio[telling], np.hypot(uncertain[telling], _LIKE))
        off = np.abs(ratio - share)
        off = np.where(off > 3 * np.hypot(uncertain, _LIKE), off, 0.0)
        fit_error = share * self.flux_error * self._roughness()
        error = np.where(point, np.hypot(fit_error, _UNCLEAN * self._crowd()), uncertain * fitted)
        return np.where(point, share * self.flux, aperture), np.hypot(error, off * fitted)

    def _widening(self):
        """Natural logarithm of the width of every source over that of the PSF, and its standard error."""
        places, data, weight = self._patches()
        width = np.log(self.widths(places, data, weight) / self.fwhm)
        return width, np.maximum(self.flux_error, 1e-30) / np.maximum(self.flux, 1e-30)

    def _pointlike(self):
        """Which sources are as wide as the PSF, within their errors."""
        width, error = self._widening()
        return np.abs(width) < 4 * np.hypot(error, _LIKE)

    def finds_points(self):
        """Whether sources of one width are there, as stars are, and the PSF is theirs."""
        width, error = self._widening()
        bright = self.usable() & (error < _CLEAR)
        alike = bright & (np.abs(width) < 2 * _LIKE)
        return bool(alike.sum() >= 2 and alike.sum() >= bright.sum() / 2)

    def _roughness(self):
        """By how much the residuals under each source are larger than those of most, if they are."""
        return np.sqrt(np.maximum(self._chi2()[0], 1.0))

    def _misfit(self):
        """What the residuals under each source are beyond their noise, as a share of its light."""
        chi2, light2 = self._chi2()
        return np.sqrt(np.maximum(chi2 - 1, 0) / np.maximum(light2, 1e-30))

    def _chi2(self):
        """Means, under each source, of its squared residuals and its squared light, over the variance."""
        places, data, weight = self._patches()
        own = self._profile(places)
        residual = data - own * self.flux[:, None]
        total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-30)
        background = (weight * residual).sum(axis=1, keepdims=True) / total
        told = weight * own**2
        told /= np.maximum(told.sum(axis=1, keepdims=True), 1e-30)
        return [
            (told * weight * values**2).sum(axis=1)
            for values in (residual - background, own * self.flux[:, None])
        ]

    def _crowd(self):
        """Light of the neighbours that the fit of each source would take for its own, were it not known."""
        places, _, weight = self._patches()
        own = self._profile(places)
        row, column, _ = self._around()
        scene = self._scene()[row, column]
        others = np.maximum(scene - own * self.flux[:, None], 0)
        return (weight * own * others).sum(axis=1) / np.maximum((weight * own**2).sum(axis=1), 1e-30)

    def _apertures(self):
        """Flux within a wide aperture, completed by the profile; its noise; light of others within."""
        radius, outer = _APERTURE * self.fwhm, _ANNULUS * self.fwhm
        half = math.ceil(outer)
        scene = self._scene()
        rest = self.data - scene
        ny, nx = rest.shape
        core2 = _core2(self.fwhm)
        enclosed = 1 - (1 + radius**2 / core2) ** (1 - _BETA)
        flux, error, others = (np.empty_like(self.flux) for _ in range(3))
        for n, (x, y) in enumerate(zip(self.x, self.y, strict=True)):
            rows = np.arange(max(round(y) - half, 0), min(round(y) + half + 1, ny))
            columns = np.arange(max(round(x) - half, 0), min(round(x) + half + 1, nx))
            away = np.hypot(columns - x, (rows - y)[:, None])
            part = rest[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            variance = self.variance[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            good = np.isfinite(variance)
            ring, inside = good & (away > radius) & (away < outer), good & (away <= radius)
            level = np.median(part[ring]) if ring.any() else 0.0
            flux[n] = self.flux[n] + (part[inside].sum() - inside.sum() * level) / enclosed
            noise = variance[inside].sum() * (1 + inside.sum() / max(ring.sum(), 1))
            error[n] = math.hypot(math.sqrt(noise) / enclosed, self.flux_error[n])
            modelled = scene[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][away <= radius].sum()
            others[n] = max(modelled - self.flux[n] * enclosed, 0)
        return flux, error, others

    def _around(self):
        """Rows and columns (n, p) of the spaxels around every source, and which of them are in the image."""
        half = int(np.clip(math.ceil(1.5 * self.fwhm), 3, 15))
        offset = np.arange(-half, half + 1)
        dy, dx = (grid.ravel() for grid in np.meshgrid(offset, offset, indexing="ij"))
        round_patch = dx**2 + dy**2 <= (half + 0.5) ** 2
        column = np.rint(self.x).astype(int)[:, None] + dx[round_patch]
        row = np.rint(self.y).astype(int)[:, None] + dy[round_patch]
        ny, nx = self.data.shape
        inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
        return np.clip(row, 0, ny - 1), np.clip(column, 0, nx - 1), inside

    def _patches(self):
        """Spaxels around every source: places (n, p), data without the other sources, weights."""
        row, column, inside = self._around()
        places = self.places[:, row, column]
        own = self._profile(places) * self.flux[:, None]
        data = (self.data - self._scene())[row, column] + own
        variance = self.variance[row, column] + self.gain * np.maximum(own, 0)
        return places, data, np.where(inside, 1 / variance, 0.0)

    def _profile(self, places, fwhm=None):
        return _sampled(places, self.x[:, None], self.y[:, None], self.fwhm if fwhm is None else fwhm)

    def _scene(self):
        """Image of all fitted sources."""
        scene = np.zeros(self.data.shape)
        if not self.flux.any():
            return scene
        half = int(np.clip(math.ceil(4 * self.fwhm), 5, 40))
        ny, nx = scene.shape
        for x, y, flux in zip(self.x, self.y, self.flux, strict=True):
            i, j = round(x), round(y)
            columns = np.arange(max(i - half, 0), min(i + half + 1, nx))
            rows = np.arange(max(j - half, 0), min(j + half + 1, ny))
            part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            scene[part] += flux * _sampled(self.places[:, *part], x, y, self.fwhm)
        return scene

    def _fit_once(self, steps):
        places, data, weight = self._patches()
        background = np.zeros(len(self.x))
        for _ in range(steps):
            normal, gradient = self._equations(places, data - background[:, None], weight)
            change, variances = _solved(normal, gradient)
            shift = np.hypot(change[:, 0], change[:, 1])
            brake = np.minimum(1.0, 0.5 * self.fwhm / np.maximum(shift, 1e-9))
            self.x = self.x + brake * change[:, 0]
            self.y = self.y + brake * change[:, 1]
            self.flux = self.flux + change[:, 2]
            background += change[:, 3]
        own = self._profile(places) * self.flux[:, None]
        self._measure_gain(own, data - background[:, None] - own, weight)
        self.position_error = np.sqrt((variances[:, 0] + variances[:, 1]) / 2)
        self.flux_error = np.sqrt(variances[:, 2])
        self._hold_strays()

    def _equations(self, places, data, weight, fwhm=None):
        """Normal equations of x, y, flux and background, linearised about the present values."""
        profile = self._profile(places, fwhm)
        core2 = _core2(self.fwhm if fwhm is None else fwhm)
        dx, dy = places[0] - self.x[:, None], places[1] - self.y[:, None]
        slope = 2 * _BETA / (core2 + dx**2 + dy**2) * profile * np.maximum(self.flux, 1e-9)[:, None]
        parts = np.stack([slope * dx, slope * dy, profile, np.ones_like(profile)], axis=1)
        if not self.flux.any():
            # the first step finds the fluxes; a position cannot be improved before
            parts[:, :2] = 0
        parts[self.held, :2] = 0
        weighted = parts * weight[:, None]
        residual = data - profile * self.flux[:, None]
        return weighted @ parts.transpose(0, 2, 1), (weighted @ residual[:, :, None])[..., 0]

    def _measure_gain(self, own, residual, weight):
        """Noise that grows with the flux: that of the photons, and what the profile does not describe."""
        bright = (weight > 0) & (own * np.sqrt(weight) > 5)
        if bright.sum() < 20:
            return
        floor = 1 / weight[bright] - self.gain * own[bright]
        # the median of a chi-square of one degree of freedom is 0.455
        extra = (residual[bright] ** 2 - 0.455 * floor) / (0.455 * own[bright])
        self.gain = max(float(np.median(extra)), 0.0)

    def _measure_seeing(self):
        """FWHM of the bright sources, each fitted by itself; the common one is that of the sharper ones."""
        # no round profile fits the track of a cosmic ray; of a bright star it leaves more than noise, too
        signal = self.flux / (self.flux_error * (1 + (self._misfit() / _ROUND) ** 2))
        signal = np.where(np.isfinite(self.flux_error) & ~self._struck(), signal, 0)
        chosen = np.argsort(-signal)[:_PSF_SOURCES]
        # what is left of cosmic rays is narrow, and fainter than the stars
        chosen = chosen[signal[chosen] >= 0.1 * signal[chosen[min(2, len(chosen) - 1)]]]
        part = SourceFit(self.data, self.variance, self.x[chosen], self.y[chosen], self.fwhm, self.places)
        part.flux, part.gain = self.flux[chosen], self.gain
        places, data, weight = self._patches()
        widths = part.widths(places[:, chosen], data[chosen], weight[chosen])
        order = np.argsort(widths)
        share = np.cumsum(np.minimum(signal[chosen], 100)[order])
        if share.size and share[-1] > 0:
            self.fwhm = float(np.clip(np.interp(_SHARPER * share[-1], share, widths[order]), 1.5, 15))

    def widths(self, places, data, weight):
        """FWHM of every source of its own, pixels; from the best of a ladder of widths."""
        ladder = self.fwhm * np.geomspace(0.55, 1.8, 13)
        chi = np.empty((len(ladder), len(self.x)))
        for n, fwhm in enumerate(ladder):
            profile = self._profile(places, fwhm)
            parts = np.stack([profile, np.ones_like(profile)], axis=1)
            weighted = parts * weight[:, None]
            normal = weighted @ parts.transpose(0, 2, 1) + 1e-30 * np.eye(2)
            right = (weighted @ data[:, :, None])[..., 0]
            chi[n] = -(right * _solved(normal, right)[0]).sum(axis=1)
        best = np.clip(np.argmin(chi, axis=0), 1, len(ladder) - 2)
        at = np.arange(chi.shape[1])
        below, middle, above = (chi[best + n, at] for n in (-1, 0, 1))
        bend = below - 2 * middle + above
        move = np.divide(below - above, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
        return np.exp(np.log(ladder[best]) + np.clip(move, -1, 1) * np.log(ladder[1] / ladder[0]))


def _common(values, errors):
    """What most values agree on: the place where their probabilities, added up, are highest.

    Light of what was not found makes some ratios too large, and none too small: a median would follow them.
    """
    near = np.exp(-0.5 * ((values[:, None] - values) / errors) ** 2) / errors**0.5
    peak = values[np.argmax(near.sum(axis=1))]
    for _ in range(10):
        weight = np.exp(-0.5 * ((values - peak) / errors) ** 2) / errors**1.5
        peak = (weight * values).sum() / weight.sum()
    return float(peak)


def _solved(normal, gradient):
    """Solutions and variances of many small systems; a parameter without information stays as it is."""
    diagonal = np.diagonal(normal, axis1=1, axis2=2)
    known = diagonal > 0
    scale = np.where(known, 1 / np.sqrt(np.where(known, diagonal, 1)), 0)
    scaled = normal * scale[:, :, None] * scale[:, None, :]
    inverse = np.linalg.inv(scaled + np.eye(normal.shape[1]) * np.where(known, 1e-9, 1.0)[:, None, :])
    solution = (inverse @ (gradient * scale)[:, :, None])[..., 0] * scale
    variances = np.diagonal(inverse, axis1=1, axis2=2) * scale**2
    return solution, np.where(known, variances, np.inf)
