"""One IFU of a raw frame as rows: detector, slices, wavelengths, illumination, twilight."""

import re
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy.io import fits

from musedeep.errors import InputError, UsageError
from musedeep.muse import COLUMNS, DQ_BITS, MODES, PIXTABLE_PREFIX, UNITS, xoffset_keyword
from musedeep.pixtable import Column, PixelTableWriter
from musedeep.reduce.native.detector import NO_IMAGE, calibrate_detector, open_readout, read_flat
from musedeep.reduce.native.illumination import LAMP_ANGSTROM, illumination_factors, read_twilight
from musedeep.reduce.native.provenance import quote_inputs
from musedeep.reduce.native.skyshift import HALF_WIDTH, SKY_LINES, measure_shift
from musedeep.reduce.native.slices import lamp_bins, read_slices, wavelength_limits

__all__ = ["BrokenIfu", "IfuRows", "reduce_frame"]

_NEEDED = ("MASTER_BIAS", "MASTER_FLAT", "TRACE_TABLE", "WAVECAL_TABLE", "GEOMETRY_TABLE")
_UNITS = UNITS | {"xpos": "pix", "ypos": "pix", "data": "count", "stat": "count**2"}
_LIGHT = {"data", "stat", "dq"}
_AXES = {"X": "xpos", "Y": "ypos", "LAMBDA": "lambda"}
# cards of an extension that tell of its array only
_OF_RAW = re.compile(r"CHECKSUM|DATASUM|DATAMD5|ARCFILE|ORIGFILE|ESO DPR |ESO DET OUT\d (PRSC|OVSC)")
_OF_ARRAY = re.compile(r"XTENSION|BITPIX|NAXIS\d?|[PG]COUNT|BZERO|BSCALE|EXT\w+|INHERIT|CHECKSUM|DATASUM|")


class BrokenIfu(InputError):
    """What is given for an IFU cannot be used.

    Parameters
    ----------
    message : str
    ifu : int
    """

    def __init__(self, message, ifu):
        super().__init__(message)
        self.ifu = ifu


@contextmanager
def _of_ifu(ifu):
    try:
        yield
    except InputError as error:
        raise BrokenIfu(str(error), ifu) from error


class IfuRows:
    """The rows that the pixels of an IFU become; none of them is kept.

    Parameters
    ----------
    path : Path
        Raw frame.
    tag : str
        ``OBJECT`` or ``SKY``.
    ifu : int
    calibrations : dict of str to Path
        MASTER_BIAS, MASTER_FLAT, TRACE_TABLE, WAVECAL_TABLE and GEOMETRY_TABLE; MASTER_DARK, BADPIX_TABLE,
        ILLUM (a raw frame) and TWILIGHT_CUBE where there are.
    names : dict of Path to str, optional
        Under which names the header quotes files; their own by default.

    Attributes
    ----------
    shift : float
        Added to all wavelengths after lines of the sky, Angstrom.
    errors : dict of float to float
        Errors of the places of these lines.
    slices : list of Slice
    saturated : int
        Saturated pixels; 0 until the detector was calibrated.

    Raises
    ------
    InputError
        A file is broken, of another mode or read-out, or lacks the IFU; `BrokenIfu` for what turns out later.
    UsageError
        What is asked for cannot be done yet.
    """

    def __init__(self, path, tag, ifu, calibrations, names=None):
        self.path, self.tag, self.ifu = Path(path), tag, ifu
        self._calibrations, self._names = calibrations, names or {}
        self._latest, self.saturated = (None, None, None), 0
        missing = [name for name in _NEEDED if not calibrations.get(name)]
        if missing:
            raise InputError(f"{path}: {', '.join(missing)} are needed; give them")
        if calibrations.get("NONLINEARITY_GAIN"):
            raise UsageError(
                "native: NONLINEARITY_GAIN is not used yet; leave it out, or give backend = esorex"
            )
        readout = open_readout(path, ifu)
        mode = str(readout.primary.get("ESO INS MODE", "")).strip()
        if mode not in MODES:
            raise InputError(f"{path}: mode {mode!r}; known are {', '.join(MODES)}; correct the header")
        self._readout, self._mode = readout, MODES[mode]
        self.slices = read_slices(calibrations, ifu, readout.shape)
        self._limits = wavelength_limits(self.slices)
        self.shift, self.errors = self._measure_shift()
        self._factors, self._twilight = {}, None
        if calibrations.get("ILLUM"):
            lamp = open_readout(calibrations["ILLUM"], ifu)
            lit = calibrate_detector(lamp, calibrations, self._lines(LAMP_ANGSTROM))
            self._factors = illumination_factors(self.slices, lit)
        if calibrations.get("TWILIGHT_CUBE"):
            self._twilight = read_twilight(calibrations["TWILIGHT_CUBE"])
        counts = [piece.count(self.shift, *self._mode.wavelength_range) for piece in self.slices]
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    @property
    def row_count(self):
        """Number of the rows."""
        return int(self._starts[-1])

    @property
    def date_obs(self):
        """DATE-OBS to the millisecond."""
        return str(self.header.get("DATE-OBS", "")).strip()[:23]

    @property
    def columns(self):
        """Columns as those of a pixel table, but that they lie in no file."""
        return {n: Column(np.dtype(kind), 0, 0, _UNITS[n]) for n, kind in COLUMNS.items()}

    @cached_property
    def image(self):
        """The calibrated detector; `release` forgets it."""
        with _of_ifu(self.ifu):
            found = calibrate_detector(self._readout, self._calibrations)
        self.saturated = found.saturated
        return found

    def release(self):
        """Give the memory of the detector back."""
        self.__dict__.pop("image", None)
        self._latest = None, None, None

    def read(self, name, start=0, stop=None):
        """Rows of one column."""
        return self.read_columns([name], start, stop)[name]

    def read_columns(self, names, start=0, stop=None, out=None):
        """Rows in the order of slices, lines and columns.

        Parameters
        ----------
        names : list of str
            Of columns; the detector is calibrated only where data, stat or dq are among them.
        start, stop : int, optional
        out : dict of arrays, optional
            These are filled and returned.

        Returns
        -------
        dict of column name to array
        """
        stop = self.row_count if stop is None else stop
        image = self.image if _LIGHT & set(names) else NO_IMAGE
        rows = out or {name: np.empty(stop - start, COLUMNS[name]) for name in names}
        first, last = np.searchsorted(self._starts, (start, stop), side="right") - 1
        for n in range(first, min(last + 1, len(self.slices))):
            # a slice that the last call ended in is where the next one goes on
            if self._latest[0] != n or self._latest[1] is not image:
                self._latest = n, image, self._slice_rows(n, image)
            own = self._latest[2]
            low, high = max(start, self._starts[n]), min(stop, self._starts[n + 1])
            for name in names:
                part = own[name][low - self._starts[n] : high - self._starts[n]]
                rows[name][low - start : high - start] = part
        return rows

    def chunks(self):
        """Yield all rows, those of one slice after the other."""
        for n in range(len(self.slices)):
            yield self._slice_rows(n, self.image)

    def _slice_rows(self, n, image):
        piece = self.slices[n]
        rows = piece.rows(image, self.shift, *self._mode.wavelength_range)
        if image is NO_IMAGE:
            return rows
        if self._mode.gap:
            low, high = self._mode.gap
            # in place of other flags, as in the recipe
            rows["dq"][(rows["lambda"] > low) & (rows["lambda"] < high)] = np.uint32(DQ_BITS["nad_gap"])
        if self._factors:
            factor = self._factors[piece.number]
            rows["data"][:] = rows["data"] * factor
            rows["stat"][:] = rows["stat"] * factor**2
        if self._twilight is not None:
            self._twilight.flatten(rows)
        return rows

    def _lines(self, *ranges):
        """Lines (bool array) of the detector that hold all pixels in ranges of wavelengths."""
        wanted = np.zeros(self._readout.shape[0], bool)
        for piece in self.slices:
            for low, high in ranges:
                wanted[piece.lines(low, high)] = True
        return wanted

    def _measure_shift(self):
        ranges = [(line - HALF_WIDTH, line + HALF_WIDTH) for line in SKY_LINES]
        image = calibrate_detector(self._readout, self._calibrations, self._lines(*ranges))

        def near(low, high):
            # the ends are rounded as the wavelengths are
            low, high = np.float32(low), np.float32(high)
            parts = []
            for piece in self.slices:
                lines = piece.lines(low, high)
                parts.append(piece.cut(lines).rows(image.cut(lines), 0.0, low, high))
            return {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}

        return measure_shift(near, self._limits[0])

    def lamp(self):
        """Spectrum of the lamp: wavelengths (Angstrom) and values, float64 arrays."""
        with _of_ifu(self.ifu):
            flat = read_flat(self._calibrations["MASTER_FLAT"], self._readout)
        return lamp_bins(self.slices, *flat, self._limits, self._mode.wavelength_range)

    @cached_property
    def header(self):
        """Primary header of the table of these rows, without the limits of its columns."""
        readout = self._readout
        header = readout.primary.copy()
        for card in readout.header.cards:
            if not _OF_ARRAY.fullmatch(card.keyword):
                name = f"HIERARCH {card.keyword}" if " " in card.keyword else card.keyword
                header[name] = card.value, card.comment
        for name in [name for name in header if _OF_RAW.match(name)]:
            del header[name]
        if "RADECSYS" in header:
            header.rename_keyword("RADECSYS", "RADESYS")
        flat = fits.getheader(self._calibrations["MASTER_FLAT"])
        drs = {"PIXTABLE TYPE": "GEOFULL", "FLAT FLUX LAMP": flat.get("ESO QC FLAT MASTER INTFLUX", 0.0)}
        if self._twilight is not None and self.ifu in self._twilight.fluxes:
            drs["FLAT FLUX SKY"] = self._twilight.fluxes[self.ifu]
        numbers = [piece.number for piece in self.slices]
        for axis, low, high in (("IFU", self.ifu, self.ifu), ("SLICE", min(numbers), max(numbers))):
            drs |= {f"PIXTABLE LIMITS {axis} LOW": low, f"PIXTABLE LIMITS {axis} HIGH": high}
        if self._factors:
            factors = list(self._factors.values())
            drs |= {f"PIXTABLE ILLUM{number}": factor for number, factor in self._factors.items()}
            drs |= {"PIXTABLE ILLUM MEAN": 1.0, "PIXTABLE ILLUM STDEV": float(np.std(factors, ddof=1))}
        cards = {f"ESO DRS MUSE {name}": value for name, value in drs.items()}
        cards |= {xoffset_keyword(self.ifu, piece.number): piece.offset for piece in self.slices}
        cards |= {
            "EXTNAME": f"CHAN{self.ifu:02d}",
            "ESO PRO CATG": f"PIXTABLE_{self.tag}",
            "ESO PRO TYPE": "REDUCED",
            "ESO QC SCIBASIC LAMBDA SHIFT": self.shift,
        }
        for name, value in cards.items():
            header[f"HIERARCH {name}" if " " in name else name] = value
        inputs = {"RAW": [(self.path, self.tag)]}
        inputs["CAL"] = [(path, tag) for tag, path in sorted(self._calibrations.items()) if path]
        quote_inputs(header, "musedeep_scibasic", inputs, {"nifu": self.ifu}, self._names)
        return header


def reduce_frame(path, tag, ifu, calibrations, output, *, names=None):
    """Write the pixel table of an IFU of a raw frame, as muse_scibasic does.

    Parameters
    ----------
    path, tag, ifu, calibrations
        As for `IfuRows`.
    output : Path
        Replaced if it exists.
    names : dict of Path to str, optional
        Under which names the header quotes files; their own by default.

    Returns
    -------
    dict
        ``rows``, ``saturated`` (pixels) and ``shift_angstrom``.

    Raises
    ------
    InputError, UsageError
        As for `IfuRows`.
    """
    found = IfuRows(path, tag, ifu, calibrations, names)
    lamp, header = _lamp_table(*found.lamp()), found.header.copy()
    for axis in _AXES:
        for end in ("LOW", "HIGH"):
            header[f"HIERARCH {PIXTABLE_PREFIX}LIMITS {axis} {end}"] = 0.0
    saturated = found.image.saturated
    header["HIERARCH ESO QC SCIBASIC NSATURATED"] = saturated
    with PixelTableWriter(output, "image", header, found.row_count, COLUMNS, units=_UNITS) as writer:
        for rows in found.chunks():
            writer.append(rows)
        for axis, name in _AXES.items():
            for end, value in zip(("LOW", "HIGH"), writer.ranges[name], strict=True):
                header[f"{PIXTABLE_PREFIX}LIMITS {axis} {end}"] = float(value)
        writer.finish(header, [lamp])
    return {"rows": found.row_count, "saturated": saturated, "shift_angstrom": found.shift}


def _lamp_table(wavelength, spectrum):
    columns = [
        fits.Column("lambda", "D", unit="Angstrom", array=wavelength),
        fits.Column("data", "D", unit="count", array=spectrum),
    ]
    return fits.BinTableHDU.from_columns(columns, name="PIXTABLE_FLAT_FIELD")
