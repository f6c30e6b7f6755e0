"""The detector as it is read out: four quadrants with prescan and overscan, bias, gain and read-out noise."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Detector"]

_COLUMNS, _LINES, _SCAN = 4096, 4112, 32
_GAINS = (1.10, 1.12, 1.09, 1.13)
_LEVELS = (1003.0, 998.0, 1010.0, 1005.0)
_DRIFT = (3.0, -2.0, 4.0, -3.0)


@dataclass(frozen=True)
class Detector:
    """A detector of four quadrants.

    Parameters
    ----------
    binning : (x, y), int
        Pixels that are read as one. ESO's recipes know one size of detector, and smaller frames are accepted
        only as binned ones.
    read_noise : float
        Electrons.
    """

    binning: tuple[int, int] = (1, 1)
    read_noise: float = 2.6

    @property
    def columns(self):
        """Columns of the light-sensitive pixels."""
        return _COLUMNS // self.binning[0]

    @property
    def lines(self):
        """Lines of the light-sensitive pixels."""
        return _LINES // self.binning[1]

    @property
    def raw_shape(self):
        """Shape (lines, columns) of a frame with its scans."""
        return (_LINES + 4 * _SCAN) // self.binning[1], (_COLUMNS + 4 * _SCAN) // self.binning[0]

    def quadrants(self):
        """For each output its gain (electrons/adu), and places in the frame and on the sensitive pixels.

        Yields
        ------
        gain : float
        level : float
            Bias, adu.
        drift : float
            What the bias rises by from the first line to the last, adu.
        whole : (slice, slice)
            The quadrant in the raw frame, with its scans.
        bright : (slice, slice)
            Its sensitive pixels in the raw frame.
        trimmed : (slice, slice)
            The same on the sensitive pixels alone.
        """
        for number, (right, upper) in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
            whole, bright, trimmed = (
                tuple(part)
                for part in zip(
                    _axis(self.lines, _SCAN // self.binning[1], upper),
                    _axis(self.columns, _SCAN // self.binning[0], right),
                    strict=True,
                )
            )
            yield _GAINS[number], _LEVELS[number], _DRIFT[number], whole, bright, trimmed

    def read_out(self, electrons, rng):
        """Read a frame.

        Parameters
        ----------
        electrons : float array (lines, columns)
            Expected electrons of every pixel.
        rng : numpy Generator or None
            None for a frame without noise, rounded to whole counts all the same.

        Returns
        -------
        frame : uint16 array, `raw_shape`
        """
        frame = np.zeros(self.raw_shape, np.float32)
        rise = np.linspace(0, 1, self.raw_shape[0], dtype=np.float32)[:, None]
        if rng is not None:
            frame += np.float32(self.read_noise) * rng.standard_normal(self.raw_shape, np.float32)
            lit = electrons > 0
            electrons = electrons.copy()
            electrons[lit] = rng.poisson(electrons[lit])
        for gain, level, drift, whole, bright, trimmed in self.quadrants():
            frame[bright] += electrons[trimmed]
            frame[whole] *= np.float32(1 / gain)
            frame[whole] += level + drift * rise[whole[0]]
        return np.clip(np.rint(frame), 0, 65535).astype(np.uint16)

    def cards(self, ifu):
        """Keywords of an extension about the chip of an IFU; sizes are those without binning."""
        cards = {
            "ESO DET BINX": self.binning[0], "ESO DET BINY": self.binning[1], "ESO DET OUTPUTS": 4,
            "ESO DET READ CURID": 1, "ESO DET READ CURNAME": "SCI1.0",
            "ESO DET CHIP NX": _COLUMNS, "ESO DET CHIP NY": _LINES, "ESO DET CHIP LIVE": True,
            "ESO DET CHIP NAME": f"MUSE-{ifu:02d}", "ESO DET CHIP ID": f"MUSE-{ifu:02d}",
        }  # fmt: skip
        corners = (1, 1), (_COLUMNS, 1), (_COLUMNS, _LINES), (1, _LINES)
        for number, (x, y) in enumerate(corners, start=1):
            output = {
                "X": x, "Y": y, "NX": _COLUMNS // 2, "NY": _LINES // 2,
                "PRSCX": _SCAN, "PRSCY": _SCAN, "OVSCX": _SCAN, "OVSCY": _SCAN,
                "GAIN": _GAINS[number - 1], "CONAD": 1 / _GAINS[number - 1], "RON": self.read_noise,
            }  # fmt: skip
            cards |= {f"ESO DET OUT{number} {name}": value for name, value in output.items()}
        return cards


def _axis(size, scan, upper):
    """Places of a quadrant along one axis: all of it, its sensitive pixels, and these when trimmed."""
    half = size // 2
    if not upper:
        return slice(0, half + 2 * scan), slice(scan, scan + half), slice(0, half)
    start = half + 2 * scan
    return slice(start, start + half + 2 * scan), slice(start + scan, start + scan + half), slice(half, size)
