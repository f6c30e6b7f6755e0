"""A cube or a spectrum as the objects of other packages, and as a file."""

import warnings
from pathlib import Path

import numpy as np

from musedeep.errors import UsageError
from musedeep.fitsstream import FitsStream
from musedeep.images import extension_header

__all__ = ["as_mpdaf", "as_spectrum", "as_spectrum3d", "unit_of", "write_cube"]

_SLAB_PLANES = 16


def unit_of(dataset):
    """Unit of the flux, an `astropy.units.Unit`."""
    from astropy import units

    with warnings.catch_warnings():
        # ESO's unit has more than one slash, of which astropy warns
        warnings.simplefilter("ignore", units.UnitsWarning)
        return units.Unit(dataset.attrs.get("unit", ""))


def _missing(method, package, error):
    return UsageError(f"{method} needs the package {package} ({error}); pip install 'musedeep[notebook]'")


def as_mpdaf(dataset, grid):
    """See `MuseAccessor.to_mpdaf`."""
    try:
        from mpdaf.obj import WCS, Cube, WaveCoord
    except ImportError as error:
        raise _missing("to_mpdaf", "mpdaf", error) from error

    header = grid.to_header()
    header["NAXIS"] = 3
    for axis, length in enumerate(grid.shape[::-1], 1):
        header[f"NAXIS{axis}"] = length
    flux, variance = dataset.flux.values, dataset.variance.values
    return Cube(
        data=flux,
        var=variance,
        mask=~np.isfinite(flux),
        wcs=WCS(hdr=header, shape=grid.shape[1:]),
        wave=WaveCoord(hdr=header, shape=grid.shape[0]),
        unit=unit_of(dataset),
        copy=False,
    )


def as_spectrum(spectrum, grid, unit):
    """See `MuseAccessor.to_spectrum1d`."""
    from astropy import units

    axis = {"spectral_axis": grid.wavelengths * units.AA}
    return _spectrum("to_spectrum1d", spectrum, grid, units.Unit(unit), spectrum.attrs, **axis)


def as_spectrum3d(dataset, grid):
    """See `MuseAccessor.to_spectrum3d`."""
    return _spectrum("to_spectrum3d", dataset, grid, unit_of(dataset), {}, wcs=grid.wcs)


def _spectrum(method, dataset, grid, unit, facts, **axis):
    try:
        from specutils import Spectrum
    except ImportError as error:
        raise _missing(method, "specutils", error) from error
    from astropy.nddata import StdDevUncertainty

    flux, variance = dataset.flux.values.astype(float), dataset.variance.values.astype(float)
    return Spectrum(
        flux=flux * unit,
        # jdaviz 5.0 stumbles over variances
        uncertainty=StdDevUncertainty(np.sqrt(variance), unit=unit),
        mask=~np.isfinite(flux),
        meta={"medium": "vacuum" if grid.vacuum else "air"} | facts,
        **axis,
    )


def write_cube(dataset, grid, path, overwrite):
    """See `MuseAccessor.to_fits`."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; choose another name, or overwrite=True")
    wcs, unit = grid.to_header(), dataset.attrs.get("unit", "")
    parts = [(extension_header(name, wcs, unit, "musedeep"), "f4", grid.shape) for name in ("DATA", "STAT")]
    with FitsStream(path, type(wcs)(), parts) as stream:
        for start in range(0, grid.shape[0], _SLAB_PLANES):
            slab = dataset[["flux", "variance"]]
            slab = slab.isel(wavelength=slice(start, start + _SLAB_PLANES)).compute()
            stream.write(1, start, slab.flux.values)
            stream.write(2, start, slab.variance.values)
        stream.finish()
        stream.publish()
    return path
