"""The picture of the demonstration: one exposure, the deep cube, spectra, depth and what was rejected."""

import json
from pathlib import Path

import numpy as np

from musedeep.combine import combine_exposures
from musedeep.demo.scene import CENTRE, SPECTRA, TRAIL_EXPOSURE
from musedeep.demo.truth import SKY_FLUX, sky_positions
from musedeep.simulate import truth_cube
from musedeep.store import CubeStore

__all__ = ["draw"]

_WIDTH, _HEIGHT = 15.0, 12.4  # inch
_INK, _PAPER, _FAINT, _LINE, _GOLD = "#e9edf5", "#090c13", "#8a94a8", "#252d3d", "#ffd479"
_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.color": _INK,
    "axes.facecolor": _PAPER,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _FAINT,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}
_RAINBOW = (
    "#4b5bff",
    "#3f9dff",
    "#2fd6d6",
    "#7ee787",
    "#ffd25e",
    "#ff8a4c",
    "#ff4f5e",
)  # short to long wavelength
_SATURATION = 1.9
_VIEW_ARCSEC = 23.4
_SOFT, _WHITE = 1.3, 130.0  # of the stretch, 1e-20 erg/s/cm2/Angstrom


def draw(field, path=None):
    """Draw what the demonstration came to.

    Parameters
    ----------
    field : Field
        As `simulate_demo` made it, with a finished cube.
    path : path, optional
        The PNG file; ``demo.png`` in the field's folder by default.

    Returns
    -------
    Path
    """
    import matplotlib

    path = Path(field.folder / "demo.png" if path is None else path)
    with matplotlib.rc_context(_STYLE):
        _figure(field).savefig(path, dpi=120, facecolor=_PAPER)
    return path


def _figure(field):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT))
    cube = CubeStore(field.cube_path)
    names = ("flux", "variance", "exposure_time", "rejected_count")
    maps = {name: cube.read(name, 0, cube.shape[0]) for name in names}
    exposure = field.exposures[TRAIL_EXPOSURE]
    single = combine_exposures(field, select=[exposure.date_obs], reject="none", grid=cube.grid).flux.values
    truth = json.loads((field.folder / "exposures" / "truth.json").read_text())
    model = truth_cube(truth, cube.grid.wavelengths, *sky_positions(cube.grid))
    hours = sum(e.exptime for e in field.exposures) / 3600
    _draw_title(figure, field, cube)
    _draw_sky(figure, 0.03, single, cube.grid, "one exposure", f"{exposure.exptime / 60:.0f} minutes")
    note = f"{len(field.exposures)} exposures, {hours:g} hours"
    axes = _draw_sky(figure, 0.5125, maps["flux"], cube.grid, "the deep cube", note)
    places = _draw_spectra(figure, single, maps["flux"], model, cube.grid)
    _mark(axes, places, cube.grid.step_arcsec[0])
    _draw_rainbow(figure, cube.grid.wavelengths)
    _draw_map(figure, 0.5125, maps["exposure_time"].mean(axis=0) / 3600, "exposure time", "hours", "cividis")
    rejected = maps["rejected_count"].sum(axis=0, dtype=float)
    rejected[~np.isfinite(maps["flux"]).any(axis=0)] = np.nan
    _draw_map(figure, 0.6825, np.sqrt(rejected), "rejected rows", "per spaxel", "magma", square=True)
    _draw_pulls(figure, maps["flux"], maps["variance"], model)
    return figure


def _draw_title(figure, field, cube):
    rows = sum(exposure.row_count for exposure in field.exposures)
    nz, ny, nx = cube.shape
    angles = len({exposure.position_angle_deg for exposure in field.exposures})
    figure.text(0.0295, 0.95, "musedeep", size=30, weight="bold", color=_INK)
    figure.text(0.216, 0.952, "many exposures, one deep cube", size=14, color=_FAINT)
    facts = (
        f"{len(field.exposures)} exposures at {angles} position angles",
        f"{rows / 1e6:.1f} million rows",
        f"{nz} × {ny} × {nx} voxels",
    )
    figure.text(0.9675, 0.952, "   ·   ".join(facts), size=12.5, ha="right", color=_FAINT)


def _draw_sky(figure, left, flux, grid, title, note):
    """Colour image of a cube, with scale and compass."""
    side = 0.455
    axes = figure.add_axes((left, 0.3515, side, side * _WIDTH / _HEIGHT))
    axes.imshow(_colours(flux, grid.wavelengths), origin="lower", interpolation="bicubic")
    step, half = grid.step_arcsec[0], _VIEW_ARCSEC / grid.step_arcsec[0] / 2
    x, y = _place(grid, 0, 0)
    axes.set_xlim(x - half, x + half)
    axes.set_ylim(y - half, y + half)
    _bare(axes)
    axes.text(0, 1.014, title, size=15, weight="bold", transform=axes.transAxes)
    axes.text(1, 1.014, note, size=12, color=_FAINT, ha="right", transform=axes.transAxes)
    x, y, bar = x - 0.93 * half, y - 0.93 * half, 5.0 / step
    axes.plot([x, x + bar], [y, y], color=_INK, lw=1.6, solid_capstyle="butt")
    axes.text(x + bar / 2, y + 0.02 * half, "5″", ha="center", va="bottom", size=11)
    _draw_compass(axes, grid, half)
    return axes


def _draw_compass(axes, grid, half):
    to_pixels = np.linalg.inv(np.array(grid.cd))
    x, y = _place(grid, 0, 0)
    x, y = x + 0.92 * half, y - 0.93 * half
    for name, sky in (("N", (0.0, 1.0)), ("E", (1.0, 0.0))):
        dx, dy = to_pixels @ sky / np.hypot(*(to_pixels @ sky)) * 0.11 * half
        arrow = {"arrowstyle": "-|>", "color": _INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x + dx, y + dy), (x, y), arrowprops=arrow)
        axes.text(x + 1.38 * dx, y + 1.38 * dy, name, size=10, ha="center", va="center")


def _colours(flux, wavelengths):
    """Colour image (ny, nx, 4): every plane has its own colour, so the hue of a line tells where it is."""
    seen = np.isfinite(flux)
    filled = np.where(seen, flux, 0.0)
    channels = []
    for band in _hues(wavelengths).T:
        channels.append(np.tensordot(band, filled, 1) / np.maximum(np.tensordot(band, seen, 1), 1e-9))
    image = np.stack(channels, axis=-1)
    grey = image.mean(axis=-1, keepdims=True)
    bright = np.arcsinh(np.maximum(grey, 0) / _SOFT) / np.arcsinh(_WHITE / _SOFT)
    image = bright * (1 + _SATURATION * (image - grey) / np.maximum(grey, _SOFT))
    image = np.clip(image, 0, None)
    image /= np.maximum(image.max(axis=-1, keepdims=True), 1.0)
    image = 1 - (1 - image) * (1 - 1.3 * _rgb([_PAPER])[0])
    return np.dstack([np.clip(image, 0, 1), seen.any(axis=0)])


def _hues(wavelengths):
    """Colour of every plane; ndarray, shape (nz, 3)."""
    place = (wavelengths - wavelengths[0]) / np.ptp(wavelengths) * (len(_RAINBOW) - 1)
    return np.stack(
        [np.interp(place, range(len(_RAINBOW)), channel) for channel in _rgb(_RAINBOW).T], axis=-1
    )


def _rgb(colours):
    return np.array([[int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)] for colour in colours])


def _draw_rainbow(figure, wavelengths):
    axes = figure.add_axes((0.03, 0.337, 0.9375, 0.0065))
    fine = np.linspace(wavelengths[0], wavelengths[-1], 600)
    axes.imshow(_hues(fine)[None], aspect="auto", extent=(fine[0], fine[-1], 0, 1))
    axes.set_yticks([])
    axes.tick_params(length=0, pad=3)
    axes.set_xticks(np.arange(np.ceil(fine[0] / 10) * 10, fine[-1], 10))
    axes.xaxis.set_major_formatter("{x:.0f} Å")
    axes.spines[:].set_visible(False)
    axes.text(1, 1.6, "colour is wavelength", size=9.5, color=_FAINT, ha="right", transform=axes.transAxes)


def _draw_spectra(figure, single, deep, model, grid):
    """Spectra of some apertures; returns their places in the image."""
    places = []
    for n, (name, east, north, radius) in enumerate(SPECTRA):
        x, y = _place(grid, east, north)
        places.append((x, y, radius))
        rows, columns = np.indices(deep.shape[1:])
        inside = np.hypot(columns - x, rows - y) * grid.step_arcsec[0] <= radius
        spectra = [_sum(cube[:, inside]) for cube in (single, deep, model)]
        axes = figure.add_axes((0.03 + 0.2325 * (n % 2), 0.174 - 0.138 * (n // 2), 0.2165, 0.1))
        _draw_spectrum(axes, grid.wavelengths, *spectra)
        axes.text(0, 1.04, f"{n + 1}", size=10.5, weight="bold", color=_GOLD, transform=axes.transAxes)
        axes.text(0.045, 1.04, name, size=10.5, transform=axes.transAxes)
    figure.text(0.479, 0.2995, "grey: one exposure    dashed: truth", size=9, color=_FAINT, ha="right")
    return places


def _sum(spaxels):
    """Sum over spaxels, shape (nz, n); NaN where more than half of them have no data."""
    seen = np.isfinite(spaxels)
    return np.where(seen.mean(axis=1) > 0.5, np.where(seen, spaxels, 0).sum(axis=1), np.nan)


def _draw_spectrum(axes, wavelengths, single, deep, model):
    axes.step(wavelengths, single, where="mid", color="#5f6a80", lw=0.9)
    axes.plot(wavelengths, model, color=_INK, lw=0.8, ls=(0, (2, 2)), zorder=3)
    hues = _hues(wavelengths)
    low, high = min(0, np.nanmin(deep)), np.nanmax(deep)
    axes.bar(wavelengths, deep - low, bottom=low, width=np.diff(wavelengths)[0], color=hues, alpha=0.25, lw=0)
    for n in range(len(wavelengths) - 1):
        axes.plot(
            wavelengths[n : n + 2], deep[n : n + 2], color=hues[n], lw=1.9, solid_capstyle="round", zorder=4
        )
    axes.set_xlim(wavelengths[0], wavelengths[-1])
    axes.set_ylim(low - 0.15 * (high - low), high + 0.3 * (high - low))
    axes.set_yticks([])
    axes.tick_params(length=0, pad=3)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _place(grid, east, north):
    """Pixel of a point given in arcsec from the centre of the scene."""
    ra, dec = CENTRE[0] + east / 3600 / np.cos(np.radians(CENTRE[1])), CENTRE[1] + north / 3600
    return tuple(float(v) for v in grid.wcs.celestial.all_world2pix(ra, dec, 0))


def _mark(axes, places, step):
    from matplotlib.patches import Circle

    for n, (x, y, radius) in enumerate(places, 1):
        axes.add_patch(Circle((x, y), radius / step, fill=False, color=_INK, lw=0.9, alpha=0.85))
        axes.text(
            x + 1.15 * radius / step, y + 0.9 * radius / step, str(n), size=11, weight="bold", color=_GOLD
        )


def _draw_map(figure, left, image, title, unit, colours, *, square=False):
    axes = figure.add_axes((left, 0.0885, 0.157, 0.157 * _WIDTH / _HEIGHT))
    shown = axes.imshow(
        np.where(image > 0, image, np.nan) if not square else image, origin="lower", cmap=colours
    )
    if square:
        shown.set_clim(0, np.nanpercentile(image, 99.5))
    _bare(axes)
    axes.text(0, 1.03, title, size=10.5, transform=axes.transAxes)
    bar = figure.colorbar(shown, cax=figure.add_axes((left, 0.062, 0.157, 0.0065)), orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, pad=3)
    if square:
        ticks = [tick for tick in (0, 1, 4, 16, 36, 64) if tick <= shown.get_clim()[1] ** 2]
        bar.set_ticks(np.sqrt(ticks), labels=[str(tick) for tick in ticks])
    bar.ax.text(1, 1.9, unit, size=9, color=_FAINT, ha="right", transform=bar.ax.transAxes)


def _draw_pulls(figure, flux, variance, model):
    """Histogram of (cube - truth) / sigma in the empty sky beside the Gaussian it should be."""
    sky = np.isfinite(flux) & (model < SKY_FLUX)
    pulls = (flux[sky] - model[sky]) / np.sqrt(variance[sky])
    axes = figure.add_axes((0.853, 0.0685, 0.1145, 0.2065))
    edges = np.linspace(-4.5, 4.5, 61)
    axes.hist(pulls, edges, density=True, color="#4f7cac", alpha=0.75)
    x = np.linspace(-4.5, 4.5, 200)
    axes.plot(x, np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi), color=_GOLD, lw=1.6)
    axes.set_xlim(-4.5, 4.5)
    axes.set_yticks([])
    axes.set_xticks([-4, -2, 0, 2, 4])
    axes.set_xlabel("(cube − truth) / σ", size=9)
    axes.tick_params(length=0, pad=3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.text(0, 1.03, "noise of the sky", size=10.5, transform=axes.transAxes)
    axes.text(
        0.97, 0.93, f"σ = {np.std(pulls):.2f}", size=9.5, color=_GOLD, ha="right", transform=axes.transAxes
    )


def _bare(axes):
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
