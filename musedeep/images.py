"""White-light and filter images and exposure maps: a cube collapsed along wavelength, slab by slab."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musedeep.errors import InputError
from musedeep.muse import FLUX_UNIT

__all__ = ["WHITE", "Filter", "ImageSum", "MapMean", "collapse", "extension_header", "read_filters"]


@dataclass(frozen=True)
class Filter:
    """A throughput curve, linear between its nodes and 0 outside of them.

    Parameters
    ----------
    name : str
        As in the keyword ESO DRS MUSE FILTER NAME.
    wavelength : ndarray, shape (n,), float64, Angstrom
        Nodes, not decreasing.
    throughput : ndarray, shape (n,), float64
    zp_vega, zp_ab : float, optional
        Zero points in magnitudes, copied from a filter list.
    """

    name: str
    wavelength: np.ndarray = field(repr=False)
    throughput: np.ndarray = field(repr=False)
    zp_vega: float | None = None
    zp_ab: float | None = None

    def throughput_at(self, wavelengths):
        """Throughput at wavelengths; ndarray of the shape of `wavelengths` (Angstrom), float64."""
        return np.interp(wavelengths, self.wavelength, self.throughput, left=0.0, right=0.0)

    def covered_percent(self, wavelengths):
        """Part of the curve that a cube covers.

        Parameters
        ----------
        wavelengths : ndarray, shape (nz,), float64, Angstrom
            Wavelengths of the planes.

        Returns
        -------
        float
            Percent of the curve's sum, sampled every Angstrom, from the plane at or below the start of the
            curve to the one above its end (the keyword ESO DRS MUSE FILTER FRACTION).
        """
        samples = np.arange(self.wavelength[0], self.wavelength[-1] + 1e-9, 1.0)
        curve = self.throughput_at(samples)
        inside = np.flatnonzero((wavelengths >= self.wavelength[0]) & (wavelengths <= self.wavelength[-1]))
        if len(inside) == 0 or curve.sum() == 0:
            return 0.0
        step = np.diff(wavelengths[-2:])[0] if len(wavelengths) > 1 else 0.0
        edges = np.append(wavelengths, wavelengths[-1] + step)
        first = inside[0] - (inside[0] > 0 and wavelengths[inside[0]] > self.wavelength[0])
        covered = (samples >= edges[first]) & (samples <= edges[inside[-1] + 1])
        return float(100.0 * curve[covered].sum() / curve.sum())


# The edges lie 1e-5 Angstrom outside, so that planes at exactly 4650 and 9300 Angstrom count in full.
WHITE = Filter("white", np.array([4650 - 1e-5, 4650, 9300, 9300 + 1e-5]), np.array([0.0, 1.0, 1.0, 0.0]))


def read_filters(names, path=None):
    """Filters by name.

    Parameters
    ----------
    names : sequence of str
        "white" (built in, 4650 to 9300 Angstrom) or names in the filter list.
    path : Path, optional
        A FILTER_LIST in FITS (a table extension each, named by EXTNAME) or ECSV (one curve, named by the
        file or by ``name`` in its metadata); columns ``lambda`` [Angstrom] and ``throughput``.

    Returns
    -------
    list of Filter

    Raises
    ------
    InputError
        For a name that is in no list, a file that cannot be read, or a curve that is not one.
    """
    known = {"white": WHITE}
    if path is not None and set(names) - set(known):
        known.update(_read_list(Path(path)))
    for name in names:
        if name not in known:
            source = f"the filter list {path}" if path else "no filter list was given; it"
            raise InputError(
                f"filter {name!r} not found: {source} has {', '.join(sorted(known))}; "
                "name one of these or give a filter list that holds it"
            )
    return [known[name] for name in names]


def _read_list(path):
    if path.suffix.lower() == ".ecsv":
        return _read_ecsv(path)
    from astropy.io import fits

    filters = {}
    try:
        with fits.open(path, memmap=False) as hdus:
            for hdu in hdus[1:]:
                if isinstance(hdu, fits.BinTableHDU):
                    # hdu.name would be in capitals; users write the name as the file does.
                    name = str(hdu.header.get("EXTNAME", "")).strip()
                    filters[name] = (hdu.data, hdu.header)
            return {name: _make_filter(name, *table, path) for name, table in filters.items()}
    except OSError as error:
        raise InputError(f"cannot read the filter list {path}: {error}") from error


def _read_ecsv(path):
    from astropy.table import Table

    try:
        table = Table.read(path, format="ascii.ecsv")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the filter {path}: {error}") from error
    name = table.meta.get("name", path.stem)
    return {name: _make_filter(name, table, table.meta, path)}


def _make_filter(name, columns, keywords, path):
    names = getattr(columns, "colnames", None) or columns.names
    missing = {"lambda", "throughput"} - set(names)
    if missing:
        raise InputError(
            f"filter {name!r} of {path} lacks the column {sorted(missing)[0]!r}; it has {', '.join(names)}"
        )
    wavelength = np.array(columns["lambda"], dtype=np.float64)
    throughput = np.array(columns["throughput"], dtype=np.float64)
    usable = len(wavelength) > 1 and np.isfinite(wavelength).all() and np.isfinite(throughput).all()
    if not usable or (np.diff(wavelength) < 0).any() or (throughput < 0).any() or not throughput.any():
        raise InputError(
            f"filter {name!r} of {path} is not a throughput curve: wavelengths in Angstrom must not decrease "
            "and throughputs must be finite, not negative and not all 0"
        )
    return Filter(name, wavelength, throughput, keywords.get("ZP_VEGA"), keywords.get("ZP_AB"))


class ImageSum:
    """Throughput-weighted mean of the planes of a cube, fed slab by slab.

    I = sum(f D) / sum(f) over the planes where a voxel has data, summed in float64; its variance is
    sum(f^2 V) / sum(f)^2. A wavelength that a spaxel lacks is simply absent from its mean.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx).
    """

    def __init__(self, shape):
        self._flux, self._variance, self._weight = (np.zeros(shape) for _ in range(3))

    def add(self, flux, variance, throughput):
        """Add planes.

        Parameters
        ----------
        flux, variance : ndarray, shape (n, ny, nx), float32
            NaN where there are no data.
        throughput : ndarray, shape (n,), float64
        """
        for plane, noise, factor in zip(flux, variance, throughput, strict=True):
            if factor == 0:
                continue
            good = np.isfinite(plane)
            # The factor is a float64 scalar, so the products are float64.
            self._flux += factor * np.where(good, plane, np.float32(0))
            self._variance += factor**2 * np.where(good, noise, np.float32(0))
            self._weight += factor * good

    def image(self):
        """The image and its variance; two ndarrays, shape (ny, nx), float32, NaN without data."""
        weight = np.where(self._weight >= np.finfo(np.float64).tiny, self._weight, np.nan)
        return (self._flux / weight).astype(np.float32), (self._variance / weight**2).astype(np.float32)


class MapMean:
    """Mean (or sum) of a map over the planes that hold data anywhere, fed slab by slab.

    A plane without any data, as in the sodium gap of adaptive-optics exposures, does not count; a spaxel
    without data in a plane that others cover counts as 0, so a spaxel seen at half of the wavelengths
    shows half of the exposure time.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx).
    """

    def __init__(self, shape):
        self._sum = np.zeros(shape)
        self.planes = 0

    def add(self, values, covered):
        """Add planes.

        Parameters
        ----------
        values : ndarray, shape (n, ny, nx)
            The map, 0 where there are no data.
        covered : ndarray, shape (n,), bool
            Planes that count.
        """
        for plane in values[covered]:
            self._sum += plane
        self.planes += int(np.count_nonzero(covered))

    def mean(self):
        """Mean over the planes; ndarray, shape (ny, nx), float32, 0 where nothing was seen."""
        return (self._sum / max(self.planes, 1)).astype(np.float32)

    def total(self):
        """Sum over the planes; ndarray, shape (ny, nx), float64."""
        return self._sum


def collapse(flux, variance, wavelengths, curve=WHITE):
    """Image of a cube that is in memory.

    Parameters
    ----------
    flux, variance : ndarray, shape (nz, ny, nx), float32
        NaN where there are no data.
    wavelengths : ndarray, shape (nz,), float64, Angstrom
    curve : Filter

    Returns
    -------
    image, variance : ndarray, shape (ny, nx), float32
    """
    total = ImageSum(flux.shape[1:])
    total.add(flux, variance, curve.throughput_at(wavelengths))
    return total.image()


# ESO's way to write the unit of a flux, in pixel tables and in products, and its square.
_STANDARD_UNITS = {
    FLUX_UNIT: (
        "10**(-20)erg.s**(-1).cm**(-2).angstrom**(-1)",
        "10**(-40)erg**2.s**(-2).cm**(-4).angstrom**(-2)",
    )
}


def extension_header(name, wcs_header, unit, object_name, *, axes=3, has_variance=True):
    """Keywords of an image extension by the ESO Science Data Products Standard.

    Parameters
    ----------
    name : {"DATA", "STAT"} or str
        EXTNAME; DATA and STAT refer to one another.
    wcs_header : astropy.io.fits.Header
        WCS cards of the cube (`VoxelGrid.to_header`), which may carry RADESYS, EQUINOX and errors of the
        coordinates.
    unit : str
        BUNIT of the data; a STAT extension gets its square. Empty for a number without unit. The unit of
        MUSE's pixel tables is written as the standard wants it.
    object_name : str
    axes : {2, 3}
        With 2, the cards of the wavelength axis are left out.
    has_variance : bool
        Whether a STAT extension goes with DATA.

    Returns
    -------
    astropy.io.fits.Header
    """
    from astropy.io import fits

    header = fits.Header()
    header["EXTNAME"] = (name, "name of this extension")
    for key, value, comment in _class_cards(name, has_variance):
        header[key] = (value, comment)
    header["OBJECT"] = (_short(f"{object_name} ({name})"), "")
    if unit:
        data, variance = _STANDARD_UNITS.get(unit, (unit, f"({unit})**2"))
        header["BUNIT"] = (variance if name == "STAT" else data, "unit of the values")
    for card in wcs_header.cards:
        if axes == 3 or "3" not in card.keyword:
            header.append(card)
    return header


def _short(text):
    return text if len(text) <= 68 else text[:65] + "..."


def _class_cards(name, has_variance):
    yield "HDUCLASS", "ESO", "class name (ESO format)"
    yield "HDUDOC", "SDP", "document with the description of the class"
    yield "HDUVERS", "SDP version 8", "version of that document"
    yield "HDUCLAS1", "IMAGE", "an image"
    if name == "STAT":
        yield "HDUCLAS2", "ERROR", "the errors of the data"
        yield "HDUCLAS3", "MSE", "as variance"
        yield "SCIDATA", "DATA", "extension with the data"
    else:
        yield "HDUCLAS2", "DATA", "the data"
        if name == "DATA" and has_variance:
            yield "ERRDATA", "STAT", "extension with the variance"
