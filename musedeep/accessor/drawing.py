"""A cube drawn: its image on the sky and, of a region, the spectrum with its noise."""

import numpy as np

from musedeep.accessor.convert import unit_of
from musedeep.accessor.geometry import spaxels_of
from musedeep.accessor.sums import filter_image, region_spectrum
from musedeep.picture import scaled

__all__ = ["draw_cube"]


def draw_cube(dataset, grid, region, filter, filter_list, noise):
    """See `MuseAccessor.plot`."""
    from matplotlib import colormaps, pyplot

    image = filter_image(dataset, grid.wavelengths, filter, filter_list, "naive")
    chosen = None if region is None else spaxels_of(grid, region)
    figure = pyplot.figure(figsize=(5.2 if region is None else 11.5, 4.6), layout="constrained")
    places = figure.add_gridspec(1, 1 if region is None else 5)
    axes = figure.add_subplot(
        places[0, :2] if region is not None else places[0], projection=grid.wcs.celestial
    )
    colours = colormaps["gray"].with_extremes(bad="#e8e8ec")
    axes.imshow(
        np.ma.masked_invalid(scaled(image.flux)), origin="lower", cmap=colours, interpolation="nearest"
    )
    axes.coords[0].set_axislabel("RA")
    axes.coords[1].set_axislabel("Dec", minpad=0.4)
    axes.coords[0].set_ticks(number=4)
    axes.set_title(filter, fontsize=10)
    if chosen is not None:
        axes.contour(chosen.astype(float), levels=[0.5], colors="#e07b39", linewidths=1.2)
        spectrum = region_spectrum(dataset, chosen, "sum", noise).compute()
        _draw_spectrum(figure.add_subplot(places[0, 2:]), spectrum, unit_of(dataset))
        figure.get_layout_engine().set(wspace=0.06)
    return figure


def _draw_spectrum(axes, spectrum, unit):
    flux, sigma = spectrum.flux.values, np.sqrt(spectrum.variance.values)
    wavelength = spectrum.wavelength.values
    axes.fill_between(wavelength, flux - sigma, flux + sigma, step="mid", color="#3b6ea8", alpha=0.25, lw=0)
    axes.step(wavelength, flux, where="mid", color="#3b6ea8", lw=1)
    axes.axhline(0.0, color="0.6", lw=0.6)
    axes.set_xlim(wavelength[0], wavelength[-1])
    known = np.isfinite(flux)
    if known.any():
        low, high = np.percentile(flux[known], (0.5, 99.8))
        margin = 0.12 * max(high - low, np.median(sigma[known]))
        axes.set_ylim(min(low, 0.0) - margin, high + margin)
    axes.set_xlabel("wavelength [Å]")
    axes.set_ylabel(f"flux of the region [{unit:unicode}]")
    axes.spines[["top", "right"]].set_visible(False)
