"""What makes the light uneven and pixels bad: field, slices, dark current, dead and hot pixels."""

import numpy as np

from musedeep.muse import DQ_BITS, SLICE_COUNT

__all__ = ["DARK_RATE", "bad_pixels", "slice_factors", "twilight"]

DARK_RATE = 0.01
"""Dark current of the outer columns, electrons/s; it falls to half of it in the middle."""

_SEED = 20140801
_BAD_PIXELS = 40
_HOT_ELECTRONS = 30000.0


def twilight(x, y, wavelength):
    """Relative illumination of the field, 1 in its middle.

    Parameters
    ----------
    x, y : array
        Focal-plane coordinates, pixels.
    wavelength : array
        Angstrom.

    Returns
    -------
    float64 array
    """
    slope = 0.04 * np.asarray(x) / 150 - 0.03 * np.asarray(y) / 150
    return 1 + slope * (1 + 0.2 * (np.asarray(wavelength) - 7000) / 2000)


def slice_factors(ifu):
    """Light that the slices of an IFU get in the night of the exposures, relative to the flat field.

    Returns
    -------
    float64 array (48,)
        Their inverses are 1 on average.
    """
    factors = 1 + np.random.default_rng((_SEED, ifu, 1)).normal(0, 0.02, SLICE_COUNT)
    return factors * np.mean(1 / factors)


def bad_pixels(spectrograph, ifu):
    """Pixels that are dead or hot.

    Returns
    -------
    y, x : int64 arrays
        Places on the sensitive pixels, from 0.
    status : int64 array
        Bits of DQ.
    electrons : float64 array
        What these pixels hold whatever the light.
    """
    rng = np.random.default_rng((_SEED, ifu, 2))
    place = rng.choice(spectrograph.lines * spectrograph.columns, _BAD_PIXELS, replace=False)
    y, x = np.divmod(place, spectrograph.columns)
    hot = rng.random(_BAD_PIXELS) < 0.5
    status = np.where(hot, DQ_BITS["hot_pixel"], DQ_BITS["dead_pixel"])
    return y, x, status, np.where(hot, _HOT_ELECTRONS, 0.0)
