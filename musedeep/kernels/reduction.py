"""Row-wise steps of the reduction: merging, refraction, flux calibration, sky lines, velocity, projection.

Values pass through float32 where ESO's recipe stores a column between two steps, so that both give the same
bits.
"""

import numpy as np
from numba import njit

__all__ = [
    "air_index",
    "calibrate_rows",
    "project_rows",
    "refract_rows",
    "subtract_continuum",
    "subtract_lines",
]

# angles whose tangents are 0, 1/16, 2/16 ... 1
_ANGLES = np.arctan(np.arange(17) / 16)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _hunt(nodes, value, j):
    """The interval of ascending nodes that holds a value, sought from interval j on; -1 outside."""
    if not nodes[0] <= value <= nodes[-1]:
        return -1
    while j < nodes.size - 2 and value >= nodes[j + 1]:
        j += 1
    while j > 0 and value < nodes[j]:
        j -= 1
    return j


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def air_index(wavelength, refraction):
    """Index of the air, less 1, at a wavelength [Angstrom]; `refraction` as for `refract_rows`."""
    square = 1.0 / (wavelength * 1e-4) ** 2
    air = (64.328 + 29498.1 / (146.0 - square) + 255.4 / (41.0 - square)) * refraction[0]
    return (air - (0.0624 - 0.000680 * square) * refraction[1]) * 1e-6


@njit(nogil=True, cache=True, error_model="numpy")
def refract_rows(wavelength, x, y, refraction):
    """Correct the places of rows for refraction in place.

    Parameters
    ----------
    wavelength : (n,) float32 [Angstrom], as measured
    x, y : (n,) float32, in and out [pixels]
    refraction : (5,) float64
        Factor of the dry air, factor of the vapour, index - 1 at the reference wavelength, and the shift of x
        and of y [pixels] for one unit of the index.
    """
    reference, along_x, along_y = refraction[2], refraction[3], refraction[4]
    for r in range(wavelength.size):
        moved = reference - air_index(np.float64(wavelength[r]), refraction)
        x[r] = np.float32(np.float64(x[r]) + along_x * moved)
        y[r] = np.float32(np.float64(y[r]) + along_y * moved)


@njit(nogil=True, cache=True, error_model="numpy")
def _calibrate_run(wavelength, data, variance, scale, edge, curves):
    """Calibrate rows of one interval of the curves, a loop that becomes vector code."""
    lamp, lamp_slope, flux_of_count, slope = curves[0], curves[1], curves[2], curves[3]
    e0, e1, e2 = curves[4], curves[5], curves[6]
    air, air_slope, a0, a1, a2 = curves[7], curves[8], curves[9], curves[10], curves[11]
    square = scale * scale
    for r in range(wavelength.size):
        w = np.float64(wavelength[r]) - edge
        factor = lamp + w * lamp_slope
        value = np.float32(np.float64(np.float32(np.float64(data[r]) / scale)) * factor)
        spread = np.float32(np.float64(variance[r]) / square)
        # twice, as the recipe has it: each product is stored
        spread = np.float32(np.float64(np.float32(np.float64(spread) * factor)) * factor)
        # the exponential of a number that is within 1/32 of 0
        t = slope * w
        power = 1.0 + t * (1 / 5 + t * (1 / 30 + t * (1 / 210)))
        power = 1.0 + t * (1.0 + t * (1 / 2 + t * (1 / 6 + t * (1 / 24 * power))))
        flux = np.float64(value) * (flux_of_count * power)
        errors = np.float64(spread) * (flux_of_count * power) * (flux_of_count * power)
        errors += flux * flux * (e0 + w * (e1 + w * e2))
        factor = air + w * air_slope
        errors = factor * factor * errors + flux * flux * (a0 + w * (a1 + w * a2))
        data[r] = np.float32(flux * factor)
        variance[r] = np.float32(errors)


@njit(nogil=True, cache=True, error_model="numpy")
def calibrate_rows(wavelength, data, variance, dq, scale, edges, curves, flag):
    """Merge rows and calibrate their flux in place.

    Parameters
    ----------
    wavelength : (n,) float32 [Angstrom], as measured
        Rows that lie beside each other in wavelength are best together: what one interval of the curves
        holds is calibrated at once.
    data, variance : (n,) float32, in and out
        Counts; 1e-20 erg/s/cm2/Angstrom afterwards. NaN where the curves do not reach.
    dq : (n,) uint32, in and out
    scale : float
        Flux of the flat field of the IFU over that of the first.
    edges : (m + 1,) float64
        Of the intervals within which all curves are smooth; the last does not belong to them.
    curves : (m, 12) float64
        See `musedeep.reduce.native.curves.merge_curves`.
    flag : uint32
        For rows that the curves do not reach.

    Returns
    -------
    int
        How many rows these are.
    """
    outside = 0
    r = j = 0
    while r < wavelength.size:
        w = np.float64(wavelength[r])
        j = _hunt(edges, w, j)
        if j < 0 or w >= edges[-1]:
            data[r] = variance[r] = np.nan
            dq[r] |= flag
            outside += 1
            r += 1
            j = 0
            continue
        low, high = edges[j], edges[j + 1]
        end = r + 1
        while end < wavelength.size and low <= wavelength[end] < high:
            end += 1
        _calibrate_run(wavelength[r:end], data[r:end], variance[r:end], scale, low, curves[j])
        r = end
    return outside


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


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _angle(a, b, angles):
    """Arc tangent of a / b, neither of them negative, by its series around the nearest of `_ANGLES`.

    Written without branches, so that the loop around it becomes vector code.
    """
    long, short = max(a, b), min(a, b)
    long = long if long > 0.0 else 1.0
    # held within the table for what is no number
    k = min(max(np.int64(16.0 * (short / long) + 0.5), 0), 16)
    near = k / 16.0
    t = (short - near * long) / (long + near * short)
    z = t * t
    angle = angles[k] + t * (1.0 - z * (1 / 3 - z * (1 / 5 - z * (1 / 7 - z * (1 / 9)))))
    return 0.5 * np.pi - angle if a > b else angle


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
    full, half, degrees = 2.0 * np.pi, 0.5 * np.pi, 180.0 / np.pi
    x0, y0 = centre[0], centre[1]
    c00, c01, c10, c11 = cd[0, 0], cd[0, 1], cd[1, 0], cd[1, 1]
    for r in range(x.size):
        wavelength[r] = np.float32(np.float64(wavelength[r]) * stretch)
        u = np.float64(x[r]) - x0
        v = np.float64(y[r]) - y0
        east = c00 * u + c01 * v
        north = c10 * u + c11 * v
        phi = _angle(abs(east), abs(north), _ANGLES)
        phi = np.pi - phi if north > 0.0 else phi
        x[r] = np.float32(full - phi if east < 0.0 else phi)
        # by way of theta itself, which the recipe rounds
        theta = half - _angle(np.sqrt(east * east + north * north), degrees, _ANGLES)
        y[r] = np.float32(theta - half)
