"""White-light images of stars and galaxies with known errors of their headers."""

import math

import numpy as np
import pytest
from astropy.io import fits

from musedeep.align.fit import moffat
from musedeep.align.images import WhiteImage, write_image
from musedeep.sky import sky_frame

STEP = 0.2
ARCSEC = math.degrees(1) * 3600


class Sky:
    """Images of one sky, and the truth about their headers."""

    def __init__(self, stars=40, galaxies=0, size=150, seed=1, dec=2.2, flux=(2e3, 1e5), spread=13.0):
        self.rng = np.random.default_rng(seed)
        self.size, self.dec = size, dec
        count = stars + galaxies
        self.places = self.rng.uniform(-spread, spread, (count, 2))
        self.flux = np.exp(self.rng.uniform(*np.log(flux), count))
        self.width = np.where(np.arange(count) < stars, 0.0, self.rng.uniform(1.0, 2.0, count))
        self.images, self.truth = [], []

    def add(self, shift=(0.0, 0.0), turn_deg=0.0, fwhm=0.8, scale=1.0, noise=3.0, pointing=(0.0, 0.0)):
        """Add an image whose header is off by `shift` (arcsec, east and north), turned by an angle."""
        frame = sky_frame(150.1, self.dec)
        cos = math.cos(math.radians(self.dec))
        ra, dec = 150.1 + pointing[0] / 3600 / cos, self.dec + pointing[1] / 3600
        own = sky_frame(ra, dec, -turn_deg)
        half = self.size // 2
        plane = np.diag([-STEP / ARCSEC, STEP / ARCSEC, 1.0])
        plane[:2, 2] = np.array([half, -half]) * STEP / ARCSEC
        back = np.linalg.inv(frame.T @ own @ plane)
        stars = np.column_stack([self.places / ARCSEC, np.ones(len(self.places))])
        x, y, w = back @ stars.T
        flux = self._drawn(x / w, y / w, fwhm) * scale
        variance = (noise * scale) ** 2 + 0.5 * flux * scale
        flux = flux + self.rng.normal(0, np.sqrt(variance))
        number = len(self.images) + 1
        self.images.append(
            WhiteImage(
                f"image {number}",
                f"2014-08-10T01:{number // 60:02d}:{number % 60:02d}.000",
                56879.0 + number / 1000,
                900.0,
                "white",
                flux.astype(np.float32),
                variance.astype(np.float32),
                ra + shift[0] / 3600 / cos,
                dec + shift[1] / 3600,
                plane,
            )
        )
        self.truth.append((*shift, turn_deg, scale))
        return self

    def _drawn(self, x, y, fwhm):
        rows, columns = np.mgrid[: self.size, : self.size]
        flux = np.zeros(rows.shape)
        for i, j, value, width in zip(x, y, self.flux, self.width, strict=True):
            if -20 < i < self.size + 20 and -20 < j < self.size + 20:
                radius2 = (columns - i) ** 2 + ((rows - j) * (1.0 if width == 0 else 1.3)) ** 2
                flux += value * moffat(radius2, math.hypot(fwhm, width) / STEP)
        return flux

    def write(self, folder):
        """IMAGE_FOV files of all images."""
        return [write_image(image, folder / f"IMAGE_FOV_{n:04d}.fits") for n, image in enumerate(self.images)]

    def shift_errors(self, offsets):
        """What is wrong with measured offsets, arcsec, (N, 2); their mean, which nobody can know, is off."""
        cos = math.cos(math.radians(self.dec))
        measured = np.array([[offset.ra_deg * cos, offset.dec_deg] for offset in offsets]) * 3600
        wrong = measured - np.array(self.truth)[:, :2]
        return wrong - wrong.mean(axis=0)

    def scale_errors(self, offsets):
        """Relative errors of flux scales, the median off."""
        wrong = np.array([offset.flux_scale for offset in offsets]) * np.array(self.truth)[:, 3]
        return wrong / np.median(wrong) - 1


@pytest.fixture
def sky():
    """The class `Sky`."""
    return Sky


@pytest.fixture
def add_cards():
    """A function that changes keywords of an HDU of a file."""

    def change(path, hdu=0, remove=(), **cards):
        with fits.open(path, mode="update") as hdus:
            for name in remove:
                del hdus[hdu].header[name]
            for name, value in cards.items():
                hdus[hdu].header["HIERARCH " + name.replace("_", " ") if "_" in name else name] = value

    return change
