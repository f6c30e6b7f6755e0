"""Write what was found of the sky of an exposure, in the formats of ESO's recipes."""

import re

import numpy as np
from astropy.io import fits

from musedeep.muse import DQ_BITS, FLUX_UNIT
from musedeep.reduce.native.provenance import quote_inputs

__all__ = ["base_header", "write_fits", "write_sky"]

_LINE_UNIT = "10**(-20)*erg/(s cm^2 arcsec^2)"
# what describes a table of rows, and what the sky has to do with neither
_OF_TABLES = re.compile(
    r"ESO QC |ESO DRS MUSE (?:PIXTABLE|FLAT)|ESO DET (?:CHIP|OUT)|EXTNAME|PIPEFILE|CHECKSUM|DATA(?:SUM|MD5)"
)


def write_sky(folder, found, tables, quoted, *, prefix, suffix=""):
    """Write SKY_IMAGE, SKY_MASK, SKY_SPECTRUM, and with lines SKY_LINES and SKY_CONTINUUM.

    Parameters
    ----------
    folder : Path
        Files of the same names are replaced.
    found : ModelledSky
    tables : list of PixelTable
        Of the exposure.
    quoted : tuple
        What `musedeep.reduce.native.provenance.quote_inputs` takes besides the header.
    prefix : str
        Of the QC keywords: ``SKY`` or ``SCIPOST``.
    suffix : str, optional
        Behind the names.

    Returns
    -------
    list of Path
    """
    primary = base_header(tables[0])
    quote_inputs(primary, *quoted)
    mask = _focal_plane(found.mask)
    limits = {"LOWLIMIT": found.mask.low, "THRESHOLD": found.mask.high}
    limits = {name: value for name, value in limits.items() if np.isfinite(value)}
    seen = np.isfinite(found.image)
    flags = np.where(seen, 0, DQ_BITS["missing"]).astype(np.int32)
    unit = {"BUNIT": FLUX_UNIT}
    image = [
        fits.ImageHDU(np.where(seen, found.image, np.float32(0)), _with(mask, unit), "DATA"),
        fits.ImageHDU(flags, mask, "DQ"),
    ]
    hdus = {"SKY_IMAGE": image, "SKY_MASK": [], "SKY_SPECTRUM": [_spectrum_table(found.spectrum)]}
    qc = {"SKY_MASK": limits}
    data = {"SKY_MASK": (found.mask.chosen.astype(np.uint8), mask)}
    if found.lines is not None:
        hdus |= {"SKY_LINES": [_lines_table(found.lines)], "SKY_CONTINUUM": [_continuum_table(found)]}
        qc |= {"SKY_LINES": _strongest(found.lines), "SKY_CONTINUUM": _deviation(found)}
    paths = []
    for name, extensions in hdus.items():
        header = primary.copy()
        array, cards = data.get(name, (None, {}))
        header = _with(header, cards)
        header["HIERARCH ESO PRO CATG"] = name
        for keyword, value in qc.get(name, {}).items():
            header[f"HIERARCH ESO QC {prefix} {keyword}"] = value
        paths.append(folder / f"{name}{suffix}.fits")
        write_fits(paths[-1], [fits.PrimaryHDU(array, header), *extensions])
    return paths


def base_header(table):
    """Keywords of an exposure for a product that is no table of its rows.

    Parameters
    ----------
    table : PixelTable

    Returns
    -------
    fits.Header
    """
    header = table.header.copy()
    for name in {name for name in header if _OF_TABLES.match(name)}:
        del header[name]
    return header


def write_fits(path, hdus):
    """Write a FITS file that bears its name only when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    fits.HDUList(hdus).writeto(partial, overwrite=True)
    partial.replace(path)


def _with(header, cards):
    header = fits.Header(header, copy=True)
    header.update(cards)
    return header


def _focal_plane(mask):
    """Cards of the place of an image in the focal plane."""
    cards = {}
    for axis, corner in enumerate(mask.corner, start=1):
        cards |= {
            f"CRPIX{axis}": 1.0,
            f"CRVAL{axis}": corner,
            f"CTYPE{axis}": "PIXEL",
            f"CUNIT{axis}": "pixel",
        }
    return fits.Header(cards | {"CD1_1": 1.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1.0})


def _table(columns, name=None):
    """A table of (name, format, unit, values)."""
    made = [fits.Column(label, form, unit or None, array=values) for label, form, unit, values in columns]
    return fits.BinTableHDU.from_columns(made, name=name)


def _spectrum_table(spectrum):
    empty = ~np.isfinite(spectrum.flux)
    return _table(
        [
            ("lambda", "D", "Angstrom", spectrum.wavelength),
            ("data", "D", FLUX_UNIT, np.where(empty, 0, spectrum.flux)),
            ("stat", "D", f"({FLUX_UNIT})**2", np.where(empty, 0, spectrum.variance)),
            ("dq", "J", "", np.where(empty, DQ_BITS["missing"], 0)),
        ]
    )


def _lines_table(lines):
    order = np.argsort(-lines.flux, kind="stable")
    # those outside of the spectrum have no flux; all have none where the fit failed
    order = order[: np.count_nonzero(lines.flux)] if lines.flux.any() else order
    width = max((len(str(name)) for name in lines.name), default=1)
    return _table(
        [
            ("name", f"{max(width, 1)}A", "", lines.name[order]),
            ("group", "J", "", lines.group[order]),
            ("lambda", "D", "Angstrom", lines.wavelength[order]),
            ("flux", "D", _LINE_UNIT, lines.flux[order]),
            ("dq", "J", "", lines.dq[order]),
        ],
        "LINES",
    )


def _continuum_table(found):
    nodes, continuum = found.nodes
    # the recipe's own name of the unit, which leaves out the 1e-20
    return _table(
        [("lambda", "D", "Angstrom", nodes), ("flux", "D", "erg/(s cm^2 arcsec^2)", continuum)], "CONTINUUM"
    )


def _strongest(lines):
    """Name, wavelength and flux of the strongest line of each group."""
    cards = {}
    for number, group in enumerate(np.unique(lines.group[lines.flux > 0]), start=1):
        n = np.flatnonzero(lines.group == group)[np.argmax(lines.flux[lines.group == group])]
        facts = {"NAME": str(lines.name[n]), "AWAV": lines.wavelength[n], "FLUX": lines.flux[n]}
        cards |= {f"LINE{number} {key}": value for key, value in facts.items()}
    return cards


def _deviation(found):
    nodes, continuum = found.nodes
    steepest = np.abs(np.diff(continuum)).max() / found.spectrum.step
    return {"CONT FLUX": float(continuum.sum()), "CONT MAXDEV": float(steepest)}
