"""One detector from its read-out to electrons: bias, dark, gain, variance, flat field, bad pixels."""

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits

from musedeep.errors import InputError
from musedeep.kernels.detector import calibrate_lines
from musedeep.reduce.native.overscan import fit_overscan
from musedeep.reduce.native.reading import reading

__all__ = ["NO_IMAGE", "Calibrated", "Output", "Readout", "calibrate_detector", "open_readout", "read_flat"]

_BAND_LINES = 256
_OVERSCAN_SIGMA = 100.0
_IGNORED_COLUMNS = 3
_PARTS = "DATA, STAT and DQ of a master"
_NO_DARK = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Output:
    """Where an output of a detector lies.

    Attributes
    ----------
    bright, strip : (slice, slice)
        Its sensitive pixels, and the overscan beside them, in the frame.
    trimmed : (slice, slice)
        Its sensitive pixels when all scans are cut off.
    gain : float
        Electrons for one count.
    """

    bright: tuple
    strip: tuple
    trimmed: tuple
    gain: float

    @property
    def side(self):
        """0 in the left half, 1 in the right."""
        return int(self.trimmed[1].start > 0)


@dataclass(frozen=True)
class Readout:
    """A frame of one detector as it was read out.

    Attributes
    ----------
    path : Path
    ifu : int
    primary, header : fits.Header
        Of the frame, and of the extension of the detector.
    frame_shape : (int, int)
        Lines and columns with all scans.
    outputs : tuple of four Output
    """

    path: object
    ifu: int
    primary: object
    header: object
    frame_shape: tuple
    outputs: tuple

    @property
    def shape(self):
        """Lines and columns of the sensitive pixels."""
        return tuple(max(output.trimmed[axis].stop for output in self.outputs) for axis in (0, 1))

    def frame(self):
        """Read the counts (uint16 array) with all scans."""
        name = f"CHAN{self.ifu:02d}"
        with reading(self.path, f"the frame of {name}"), fits.open(self.path) as hdus:
            frame = np.asarray(hdus[name].data)
        if frame.dtype != np.uint16:
            raise InputError(
                f"{self.path}: {name} holds {frame.dtype}; a raw frame has unsigned 16-bit counts"
            )
        return frame

    def trim(self, image):
        """An image (array) of the size of the frame without its scans."""
        trimmed = np.empty(self.shape, image.dtype)
        for output in self.outputs:
            trimmed[output.trimmed] = image[output.bright]
        return trimmed


@dataclass(frozen=True)
class Calibrated:
    """A detector in electrons; arrays (lines, columns).

    Attributes
    ----------
    data, variance : float32 arrays
        Electrons, divided by the flat field, and their variance.
    dq : uint32 array
    saturated : int
        Saturated pixels.
    overscan : list of (mean, deviation)
        Of the four outputs, in counts.
    """

    data: np.ndarray
    variance: np.ndarray
    dq: np.ndarray
    saturated: int
    overscan: list

    def cut(self, lines):
        """Some lines (slice) of it, not copied."""
        return replace(self, data=self.data[lines], variance=self.variance[lines], dq=self.dq[lines])


NO_IMAGE = Calibrated(
    np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), np.empty((0, 0), np.uint32), 0, []
)
"""Where nothing but places and wavelengths is wanted."""


def open_readout(path, ifu):
    """Find the extension of an IFU in a raw frame.

    Parameters
    ----------
    path : Path
    ifu : int

    Returns
    -------
    Readout

    Raises
    ------
    InputError
        There is no such extension, or its keywords do not tell where its outputs lie.
    """
    name = f"CHAN{ifu:02d}"
    with reading(path, f"the frame of {name}"), fits.open(path) as hdus:
        primary, header = hdus[0].header.copy(), hdus[name].header.copy()
        shape = hdus[name].shape
    with reading(path, f"the header of {name}"):
        outputs = tuple(_output(header, number) for number in range(1, 5))
    return Readout(path, ifu, primary, header, shape, outputs)


def _output(header, number):
    binning = header.get("ESO DET BINY", 1), header.get("ESO DET BINX", 1)
    facts = {
        name: header[f"ESO DET OUT{number} {name}"]
        for name in ("X", "Y", "NX", "NY", "PRSCX", "PRSCY", "OVSCX", "OVSCY", "GAIN")
    }
    bright, trimmed = [], []
    for axis, n in zip("YX", binning, strict=True):
        count, before, after = (facts[f"{name}{axis}"] // n for name in ("N", "PRSC", "OVSC"))
        start, place = before, 0
        if facts[axis] > 1:
            # the scans of the output before it, and its own overscan, come first
            start, place = before + count + 2 * after, count
        bright.append(slice(start, start + count))
        trimmed.append(slice(place, place + count))
    height, width = (facts[f"OVSC{axis}"] // n for axis, n in zip("YX", binning, strict=True))
    (low, high), (left, right) = ((part.start, part.stop) for part in bright)
    # the lines of the overscan above or below belong to it
    lines = slice(low - height, high) if facts["Y"] > 1 else slice(low, high + height)
    columns = slice(right + _IGNORED_COLUMNS, right + width)
    if facts["X"] > 1:
        columns = slice(left - width, left - _IGNORED_COLUMNS)
    return Output(tuple(bright), (lines, columns), tuple(trimmed), float(facts["GAIN"]))


def calibrate_detector(readout, calibrations, lines=None):
    """Turn a read-out into electrons.

    Parameters
    ----------
    readout : Readout
    calibrations : dict of str to Path
        MASTER_BIAS and MASTER_FLAT; MASTER_DARK and BADPIX_TABLE where there are.
    lines : bool array (lines,), optional
        Which of them are wanted; others may be left undone. All by default.

    Returns
    -------
    Calibrated

    Raises
    ------
    InputError
        A calibration is of another detector, read-out or size, or its overscan lies far from the frame's.
    """
    frame = readout.frame()
    shape, counts = readout.shape, readout.trim(frame)
    levels, gains, statistics = _outputs(readout, frame)
    del frame
    data, variance = np.empty(shape, np.float32), np.empty(shape, np.float32)
    dq, saturated, share = _bad_pixels(calibrations.get("BADPIX_TABLE"), readout), 0, 0.0
    with ExitStack() as stack:
        masters = [
            stack.enter_context(closing(_Master(calibrations[tag], readout)))
            for tag in ("MASTER_BIAS", "MASTER_FLAT", "MASTER_DARK")
            if calibrations.get(tag)
        ]
        _check_overscan(masters[0], statistics, readout)
        if len(masters) > 2:
            share = _seconds(readout.primary, readout.path) / _seconds(masters[2].header, masters[2].path)
        for start in range(0, shape[0], _BAND_LINES):
            band = slice(start, min(start + _BAND_LINES, shape[0]))
            if lines is not None and not lines[band].any():
                continue
            parts = [master.lines(band) for master in masters]
            for _, _, flags in parts:
                dq[band] |= flags
            (bias, bias_variance, _), (flat, flat_variance, _) = parts[:2]
            dark, dark_variance = parts[2][:2] if len(parts) > 2 else (_NO_DARK, _NO_DARK)
            saturated += calibrate_lines(
                counts[band], levels[:, band], gains[:, band], bias, bias_variance, dark, dark_variance,
                share, flat, flat_variance, data[band], variance[band], dq[band],
            )  # fmt: skip
    return Calibrated(data, variance, dq, saturated, statistics)


def read_flat(path, readout):
    """Values (float32) and DQ (uint32) of the master flat of the detector of a read-out."""
    with closing(_Master(path, readout)) as master:
        return master.values("DATA"), master.values("DQ").view(np.uint32)


def _outputs(readout, frame):
    """Overscan and gain (2, lines) of both halves, and mean and deviation of the four strips."""
    levels, gains = np.empty((2, 2, readout.shape[0]))
    statistics = []
    for output in readout.outputs:
        strip = frame[output.strip]
        first = output.bright[0].start - output.strip[0].start
        height = output.bright[0].stop - output.bright[0].start
        levels[output.side, output.trimmed[0]] = fit_overscan(strip)[first : first + height]
        gains[output.side, output.trimmed[0]] = output.gain
        statistics.append((float(strip.mean()), float(strip.std())))
    return levels, gains, statistics


class _Master:
    """A master calibration of a detector, read some lines at a time."""

    def __init__(self, path, readout):
        self.path = path
        with reading(path, _PARTS):
            # not mapped into memory, where all of it would stay until the end
            self._hdus = fits.open(path, memmap=False)
        try:
            self._check(readout)
        except InputError:
            self.close()
            raise

    def close(self):
        """Close the file."""
        self._hdus.close()

    def _check(self, readout):
        path, hdus = self.path, self._hdus
        with reading(path, _PARTS):
            self.header = hdus[0].header.copy()
            names = [hdu.name for hdu in hdus]
            own = f"CHAN{readout.ifu:02d}."
            start = own if own + "DATA" in names else ""
            self._images = {name: hdus[start + name] for name in ("DATA", "STAT", "DQ")}
            shape = self._images["DATA"].shape
            if start:
                self.header.update(hdus[start + "DATA"].header)
        found = str(self.header.get("EXTNAME", ""))
        if not start and not found.startswith(f"CHAN{readout.ifu:02d}"):
            raise InputError(f"{path}: is of {found or 'no IFU'}, not of CHAN{readout.ifu:02d}; give its own")
        if shape != readout.shape:
            raise InputError(
                f"{path}: has {shape} lines and columns, {readout.path} "
                f"{readout.shape}; give calibrations with the same binning"
            )
        name = "ESO DET READ CURNAME"
        own, theirs = self.header.get(name), readout.primary.get(name, readout.header.get(name))
        if own != theirs:
            raise InputError(
                f"{path}: read-out {own}, the frame {theirs}; give calibrations of that read-out"
            )

    def lines(self, band):
        """Values, variance (float32) and DQ (uint32) of some lines."""
        return self.values("DATA", band), self.values("STAT", band), self.values("DQ", band).view(np.uint32)

    def values(self, name, band=slice(None)):
        """Values of an extension in some lines: float32, or int32 for DQ."""
        with reading(self.path, _PARTS):
            return self._images[name].section[band].astype(np.int32 if name == "DQ" else np.float32)


def _check_overscan(bias, statistics, readout):
    for number, (mean, _) in enumerate(statistics, start=1):
        level, spread = (bias.header.get(f"ESO DRS MUSE OVSC{number} {name}") for name in ("MEAN", "STDEV"))
        if level is not None and abs(mean - level) > _OVERSCAN_SIGMA * spread:
            raise InputError(
                f"{readout.path}: CHAN{readout.ifu:02d}: overscan {number} lies at {mean:.1f}, that of "
                f"{bias.path} at {level:.1f}; give a bias of that read-out"
            )


def _seconds(header, path):
    value = header.get("EXPTIME", 0.0)
    if not value > 0:
        raise InputError(f"{path}: EXPTIME is {value!r}; a dark needs one above 0; correct the header")
    return float(value)


def _bad_pixels(path, readout):
    """DQ (uint32) of a table of bad pixels, which counts pixels with their scans."""
    name, flags = f"CHAN{readout.ifu:02d}", np.zeros(readout.frame_shape, np.uint32)
    if path is None:
        return readout.trim(flags)
    with reading(path, "the table of bad pixels"), fits.open(path) as hdus:
        number = next((n for n, hdu in enumerate(hdus) if n and name in (hdu.name, hdus[0].name)), None)
        if number is None:
            return readout.trim(flags)
        table = hdus[number].data
        x, y, status = (np.asarray(table[column], np.int64) for column in ("xpos", "ypos", "status"))
    inside = (x >= 1) & (x <= flags.shape[1]) & (y >= 1) & (y <= flags.shape[0])
    np.bitwise_or.at(flags, (y[inside] - 1, x[inside] - 1), status[inside].astype(np.uint32))
    return readout.trim(flags)
