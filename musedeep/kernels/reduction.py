"""Row-wise steps of the reduction: merging, refraction, flux calibration, sky lines, velocity, projection.

Values pass through float32 where ESO's recipe stores a column between two steps, so that both give the same
bits.
"""

import numpy as np
from numba import njit

__all__ = ["air_index", "calibrate_rows", "project_rows", "subtract_continuum", "subtract_lines"]


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _hunt(nodes, value, j):
    """The interval of ascending nodes that holds a value, sought from interval j on; -1 outside."""
    if value < nodes[0] or value > nodes[-1]:
        return -1
    while j < nodes.size - 2 and value >= nodes[j + 1]:
        j += 1
    while j > 0 and value < nodes[j]:
        j -= 1
    return j


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def air_index(wavelength, refraction):
    """Index of the air, less 1, at a wavelength [Angstrom]; `refraction` as for `calibrate_rows`."""
    square = 1.0 / (wavelength * 1e-4) ** 2
    air = (64.328 + 29498.1 / (146.0 - square) + 255.4 / (41.0 - square)) * refraction[0]
    return (air - (0.0624 - 0.000680 * square) * refraction[1]) * 1e-6


@njit(nogil=True, cache=True, error_model="numpy")
def calibrate_rows(
    wavelength, x, y, data, variance, outside, scale, lamp_nodes, lamp, refraction, extinction_nodes,
    extinction, response_nodes, response, response_error, telluric_nodes, telluric, telluric_error, seconds,
    airmass, telluric_start,
):  # fmt: skip
    """Merge, correct for refraction and calibrate the flux of rows in place.

    Parameters
    ----------
    wavelength : (n,) float32 [Angstrom], as measured
    x, y : (n,) float32, in and out [pixels]
    data, variance : (n,) float32, in and out
        Counts; 1e-20 erg/s/cm2/Angstrom afterwards.
    outside : (n,) uint8, out
        1 for rows that a needed curve does not reach; their values become NaN.
    scale : float
        Flux of the flat field of the IFU over that of the first.
    lamp_nodes, lamp : (m,) float64
        Spectrum of the lamp that rows are multiplied by; none to leave that out.
    refraction : (5,) float64
        Factor of the dry air, factor of the vapour, index - 1 at the reference wavelength, and the shift of x
        and of y [pixels] for one unit of the index.
    extinction_nodes, extinction : float64
        Magnitudes for one airmass.
    response_nodes, response, response_error : float64
        Magnitudes.
    telluric_nodes, telluric, telluric_error : float64
        Factor that corrects the lines of the air at this airmass, and its error; none to leave that out.
    seconds, airmass : float
    telluric_start : float
        Wavelength from which the lines of the air are corrected.
    """
    a = b = c = d = 0
    tenth = 0.4 * np.log(10.0)
    for r in range(wavelength.size):
        w = np.float64(wavelength[r])
        value = np.float32(np.float64(data[r]) / scale)
        spread = np.float32(np.float64(variance[r]) / (scale * scale))
        gone = False
        if lamp.size > 0:
            a = _hunt(lamp_nodes, w, a)
            if a < 0:
                gone, a = True, 0
            else:
                part = (w - lamp_nodes[a]) / (lamp_nodes[a + 1] - lamp_nodes[a])
                factor = lamp[a] + part * (lamp[a + 1] - lamp[a])
                value = np.float32(np.float64(value) * factor)
                # twice, as the recipe has it: each product is stored
                spread = np.float32(np.float64(np.float32(np.float64(spread) * factor)) * factor)
        index = air_index(w, refraction)
        x[r] = np.float32(np.float64(x[r]) + refraction[3] * (refraction[2] - index))
        y[r] = np.float32(np.float64(y[r]) + refraction[4] * (refraction[2] - index))
        b = _hunt(extinction_nodes, w, b)
        c = _hunt(response_nodes, w, c)
        if b < 0 or c < 0:
            gone, b, c = True, max(b, 0), max(c, 0)
        if gone:
            data[r] = variance[r] = np.nan
            outside[r] = 1
            continue
        part = (w - extinction_nodes[b]) / (extinction_nodes[b + 1] - extinction_nodes[b])
        magnitudes = extinction[b] + part * (extinction[b + 1] - extinction[b])
        part = (w - response_nodes[c]) / (response_nodes[c + 1] - response_nodes[c])
        curve = response[c] + part * (response[c + 1] - response[c])
        error = np.hypot(response_error[c] * (1.0 - part), response_error[c + 1] * part)
        per_count = np.exp(tenth * (airmass * magnitudes - curve)) / (seconds * 1.25)
        flux = np.float64(value) * per_count
        # of the counts, of the response, and of the width of a bin, which is known to 0.02 Angstrom
        spread_flux = np.float64(spread) * per_count * per_count
        spread_flux += (flux * (np.log(10.0) / 2.5) * error) ** 2 + (flux * 0.016) ** 2
        flux *= 1e20
        spread_flux *= 1e40
        if telluric.size > 0 and w >= telluric_start:
            d = _hunt(telluric_nodes, w, d)
            if d < 0:
                d = 0
            else:
                part = (w - telluric_nodes[d]) / (telluric_nodes[d + 1] - telluric_nodes[d])
                factor = telluric[d] + part * (telluric[d + 1] - telluric[d])
                error = np.hypot(telluric_error[d] * (1.0 - part), telluric_error[d + 1] * part)
                spread_flux = factor * factor * spread_flux + flux * flux * error * error
                flux *= factor
        data[r] = np.float32(flux)
        variance[r] = np.float32(spread_flux)


@njit(nogil=True, cache=True, error_model="numpy")
def subtract_continuum(wavelength, data, nodes, continuum, inside):
    """Subtract a curve from rows in place, and tell which rows it reaches.

    Parameters
    ----------
    wavelength : (n,) float32 [Angstrom]
    data : (n,) float32, in and out
    nodes, continuum : (m,) float64
    inside : (n,) bool, out
    """
    j = 0
    for r in range(wavelength.size):
        w = np.float64(wavelength[r])
        j = _hunt(nodes, w, j)
        inside[r] = j >= 0
        if j < 0:
            j = 0
            continue
        part = (w - nodes[j]) / (nodes[j + 1] - nodes[j])
        data[r] = np.float32(np.float64(data[r]) - (continuum[j] + part * (continuum[j + 1] - continuum[j])))


@njit(nogil=True, cache=True, error_model="numpy")
def subtract_lines(wavelength, data, origin, lines, flux, profiles, middles, first, step):
    """Subtract emission lines, broadened by the profile of each row's slice, in place.

    Parameters
    ----------
    wavelength : (n,) float32 [Angstrom]
    data : (n,) float32, in and out
    origin : (n,) uint32
        Its last six bits are the number of the slice.
    lines, flux : (m,) float64
        Wavelengths in ascending order, and fluxes.
    profiles : (48, m, k) float64
        Profile of each slice at each line, of area 1.
    middles : (48, m) float64 [Angstrom]
        Their mean offsets, which are taken out.
    first, step : float [Angstrom]
        Offset of the first value of a profile, and from value to value.
    """
    count = profiles.shape[2]
    reach = max(-first, first + (count - 1) * step) + 1.0
    low = 0
    for r in range(wavelength.size):
        w = np.float64(wavelength[r])
        while low > 0 and lines[low - 1] >= w - reach:
            low -= 1
        while low < lines.size and lines[low] < w - reach:
            low += 1
        n = (origin[r] & 0x3F) - 1
        total = 0.0
        m = low
        while m < lines.size and lines[m] <= w + reach:
            at = (w - lines[m] + middles[n, m] - first) / step
            if 0.0 <= at <= count - 1:
                k = min(np.int64(at), count - 2)
                part = at - k
                total += flux[m] * (profiles[n, m, k] * (1.0 - part) + profiles[n, m, k + 1] * part)
            m += 1
        if total != 0.0:
            data[r] = np.float32(np.float64(data[r]) - total)


@njit(nogil=True, cache=True, error_model="numpy")
def project_rows(wavelength, x, y, stretch, centre, cd):
    """Move rows to native spherical coordinates (rad) and to the wavelengths of another frame, in place.

    Parameters
    ----------
    wavelength : (n,) float32, in and out [Angstrom]
    x, y : (n,) float32, in and out
        Pixels of the focal plane; phi and theta - pi/2 afterwards.
    stretch : float
        Factor of the wavelengths.
    centre : (2,) float64
        Where in the focal plane the pointing lies.
    cd : (2, 2) float64 [deg]
    """
    full = 2.0 * np.pi
    degrees = 180.0 / np.pi
    for r in range(x.size):
        wavelength[r] = np.float32(np.float64(wavelength[r]) * stretch)
        u = np.float64(x[r]) - centre[0]
        v = np.float64(y[r]) - centre[1]
        east = cd[0, 0] * u + cd[0, 1] * v
        north = cd[1, 0] * u + cd[1, 1] * v
        phi = np.arctan2(east, -north)
        x[r] = np.float32(phi + full if phi < 0.0 else phi)
        y[r] = np.float32(np.arctan(degrees / np.sqrt(east * east + north * north)) - 0.5 * np.pi)
