"""The white-light image of a simulated exposure."""

import numpy as np
from astropy.io import fits

from musedeep.muse import UNITS

__all__ = ["FovImage", "write_fov_image"]


class FovImage:
    """White-light image that grows with the rows of an exposure: north up, on the plane of its pointing.

    Parameters
    ----------
    half_width_arcsec : float
        Half the side of the image.
    step_arcsec : float
        Size of a spaxel.
    """

    def __init__(self, half_width_arcsec, step_arcsec):
        half = int(np.ceil(half_width_arcsec / step_arcsec)) + 2
        self.centre, self.step_arcsec = half, step_arcsec
        self._sum = np.zeros((2 * half + 1) ** 2)
        self._weight = np.zeros_like(self._sum)

    def add(self, x_arcsec, y_arcsec, total, count):
        """Share means of rows among the four spaxels around them.

        Parameters
        ----------
        x_arcsec, y_arcsec : float64 arrays, east and north of the pointing
        total, count : float64 arrays, sum and number of the rows at these places
        """
        side = 2 * self.centre + 1
        x, y = self.centre - x_arcsec / self.step_arcsec, self.centre + y_arcsec / self.step_arcsec
        column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        inside = (column >= 0) & (column < side - 1) & (row >= 0) & (row < side - 1) & (count > 0)
        x, y, column, row = x[inside], y[inside], column[inside], row[inside]
        upper, right = y - row, x - column
        share = np.stack([(1 - upper) * (1 - right), (1 - upper) * right, upper * (1 - right), upper * right])
        place = (row * side + column + np.array([[0], [1], [side], [side + 1]])).reshape(-1)
        self._sum += np.bincount(place, (share * total[inside]).reshape(-1), len(self._sum))
        self._weight += np.bincount(place, (share * count[inside]).reshape(-1), len(self._sum))

    def image(self):
        """Mean flux (float32, square array), NaN where next to no rows lie."""
        side = 2 * self.centre + 1
        filled = self._weight[self._weight > 0]
        enough = self._weight > 0.25 * (np.median(filled) if len(filled) else 1)
        mean = np.divide(self._sum, self._weight, out=np.full_like(self._sum, np.nan), where=enough)
        return mean.reshape(side, side).astype(np.float32)


def write_fov_image(path, image, header):
    """Write a white-light image as an IMAGE_FOV.

    Parameters
    ----------
    path : Path
    image : FovImage
    header : fits.Header
        Primary header, with RA and DEC of the pointing.
    """
    data = fits.ImageHDU(image.image(), name="DATA")
    step = image.step_arcsec / 3600
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRPIX1": image.centre + 1.0,
        "CRPIX2": image.centre + 1.0,
        "CRVAL1": header["RA"],
        "CRVAL2": header["DEC"],
        "CD1_1": -step,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": step,
        "BUNIT": UNITS["data"],
        "OBJECT": f"{header['OBJECT']} (DATA)",
    }
    data.header.update(cards)
    partial = path.with_name(f".{path.name}.partial")
    fits.HDUList([fits.PrimaryHDU(header=header), data]).writeto(partial, overwrite=True, checksum=True)
    partial.replace(path)
