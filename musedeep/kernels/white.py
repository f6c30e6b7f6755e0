"""White-light images straight from the rows of a pixel table, without a cube."""

import numpy as np
from numba import njit

__all__ = ["collapse_bins", "drizzle_rows"]


@njit(nogil=True, cache=True, error_model="numpy")
def drizzle_rows(
    x, y, wavelength, data, variance, dq, usable, throughput, bins, half, step, sums, places=None
):
    """Share rows among the four spaxels that a drop of one spaxel's size covers.

    A drop as large as the spaxel has a mean position that is the middle of the spaxel, whatever the phase
    between rows and spaxels; a smaller drop, or none, would move sources by up to half a spaxel.

    Parameters
    ----------
    x, y : (n,) float32 [arcsec]
        East and north of the centre.
    wavelength, data, variance : (n,) float32
    dq : (n,) uint32
        Rows with any bit set are left out.
    usable : (n,) uint8
        0 for rows to leave out.
    throughput : (m,) float64
        Weight of a row by wavelength, on an even grid.
    bins : (5,) float64
        First wavelength and step of `throughput`; first wavelength, step and number of the bins of `sums`.
    half : int
        Spaxel, along both axes, of the centre; x runs to the west.
    step : float [arcsec]
    sums : (bins, 3, ny, nx) float32, in and out
        Weight, weight times data, and weight squared times variance.
    places : (5, ny, nx) float32, in and out, optional
        Weight times the way, in spaxels, from the middle of the spaxel along x and y, and times the products
        xx, xy and yy of it. With it, a row counts in the one spaxel that it lies in: with places that are
        known, nothing need be shared.
    """
    ny, nx = sums.shape[2], sums.shape[3]
    for r in range(x.size):
        if dq[r] != 0 or usable[r] == 0:
            continue
        at = (wavelength[r] - bins[0]) / bins[1]
        node = np.int64(np.floor(at))
        if node < 0 or node >= throughput.size - 1:
            continue
        factor = throughput[node] + (throughput[node + 1] - throughput[node]) * (at - node)
        b = np.int64(np.floor((wavelength[r] - bins[2]) / bins[3]))
        if factor <= 0.0 or b < 0 or b >= bins[4]:
            continue
        px = half - x[r] / step
        py = half + y[r] / step
        i = np.int64(np.floor(px))
        j = np.int64(np.floor(py))
        if i < 0 or j < 0 or i >= nx - 1 or j >= ny - 1:
            continue
        right = px - i
        upper = py - j
        if places is not None:
            i += right >= 0.5
            j += upper >= 0.5
            sums[b, 0, j, i] += factor
            sums[b, 1, j, i] += factor * data[r]
            sums[b, 2, j, i] += factor * factor * variance[r]
            right = px - i
            upper = py - j
            places[0, j, i] += factor * right
            places[1, j, i] += factor * upper
            places[2, j, i] += factor * right * right
            places[3, j, i] += factor * right * upper
            places[4, j, i] += factor * upper * upper
            continue
        for dj in range(2):
            for di in range(2):
                w = factor * (right if di else 1.0 - right) * (upper if dj else 1.0 - upper)
                sums[b, 0, j + dj, i + di] += w
                sums[b, 1, j + dj, i + di] += w * data[r]
                sums[b, 2, j + dj, i + di] += w * w * variance[r]


@njit(nogil=True, cache=True, error_model="numpy")
def collapse_bins(sums, clip, reach, flux, variance):
    """Mean of the wavelength bins of every spaxel, without those that cosmic rays have struck.

    A bin is struck where it lies further above or below the median of its neighbours in wavelength than
    `clip` times its own error and their scatter together; that median then stands for it, so that the mean
    does not take on the colour of what is left.

    Parameters
    ----------
    sums : (bins, 3, ny, nx) float32
        As `drizzle_rows` makes them.
    clip : float
        In standard deviations; 0 keeps every bin.
    reach : int
        Neighbours on each side.
    flux, variance : (ny, nx) float32, out
        NaN without data.

    Returns
    -------
    int
        Bins of spaxels that were struck.
    """
    count, ny, nx = sums.shape[0], sums.shape[2], sums.shape[3]
    means = np.empty(count)
    errors = np.empty(count)
    weights = np.empty(count)
    near = np.empty(2 * reach + 1)
    struck = 0
    for j in range(ny):
        for i in range(nx):
            total = 0.0
            filled = 0
            for b in range(count):
                w = np.float64(sums[b, 0, j, i])
                if w > 1e-6:
                    weights[filled] = w
                    means[filled] = sums[b, 1, j, i] / w
                    errors[filled] = np.sqrt(sums[b, 2, j, i]) / w
                    filled += 1
                    total += w
            if filled == 0:
                flux[j, i] = np.nan
                variance[j, i] = np.nan
                continue
            mean = 0.0
            noise = 0.0
            for b in range(filled):
                value = means[b]
                if clip > 0.0 and filled >= 5:
                    first = max(0, min(b - reach, filled - 2 * reach - 1))
                    last = min(filled, first + 2 * reach + 1)
                    size = last - first
                    for n in range(size):
                        near[n] = means[first + n]
                    middle = np.median(near[:size])
                    typical = 0.0
                    for n in range(size):
                        near[n] = abs(near[n] - middle)
                    typical = 1.4826 * np.median(near[:size])
                    if abs(value - middle) > clip * np.sqrt(errors[b] ** 2 + typical**2):
                        value = middle
                        struck += 1
                mean += weights[b] * value
                noise += (weights[b] * errors[b]) ** 2
            flux[j, i] = mean / total
            variance[j, i] = noise / total**2
    return struck
