"""What is known of a deep cube, for tests that need little of it."""

import numpy as np

from musedeep.qc.deep import APERTURES, BANDS, Deep


def deep_of(wavelength, spectra=None, **changes):
    """A deep cube of which only some things matter."""
    n = len(wavelength)
    image = np.zeros((4, 4), np.float32)
    spectra = np.zeros((n, 0)) if spectra is None else spectra
    fields = {
        "wavelength": wavelength,
        "white": image,
        "white_variance": image + 1,
        "bands": np.zeros((BANDS, 4, 4)),
        "bands_variance": np.ones((BANDS, 4, 4)),
        "seconds": image + 1,
        "count": image + 1,
        "rejected": image,
        "blank": image == 0,
        "distance": 8.0,
        "level": np.zeros(n) + 1e-3,
        "scatter": np.ones(n),
        "noise": np.ones(n),
        "apertures": np.ones((BANDS, len(APERTURES))),
        "median_count": np.full(n, 4.0),
        "x": np.zeros(0),
        "y": np.zeros(0),
        "fwhm": np.full(1 + BANDS, 0.8),
        "spectra": spectra,
        "spectra_noise": spectra * 0 + 1.0,
        "line_strength": np.ones(n),
    }
    return Deep(**fields | changes)
