"""The panels that quality figures are made of."""

import math

import numpy as np
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from scipy.ndimage import gaussian_filter

from musedeep.qc.deep import APERTURES, BANDS, median_of
from musedeep.qc.sky import line_planes
from musedeep.qc.style import ACCENT, BLUE, FAINT, GREEN, INK, PAPER, RED, show_image, stretch, title

__all__ = [
    "draw_apertures", "draw_bars", "draw_exposure_map", "draw_findings", "draw_footer", "draw_fwhm",
    "draw_header", "draw_histogram", "draw_noise", "draw_sources", "runs_of",
]  # fmt: skip


_SHORT = {"sigma": "σ", "Angstrom": "Å", "1e-20": ""}


def draw_sources(axes, image, blank, grid, x, y, label):
    """A white-light image with its sources marked."""
    step = grid.step_arcsec[0]
    show_image(axes, stretch(image, blank), step)
    size = max(3.0, 1.2 / step)
    axes.scatter(x, y, s=size**2 * 2.2, facecolors="none", edgecolors=ACCENT, linewidths=0.7, alpha=0.9)
    title(axes, label, f"{len(x)} sources")
    _compass(axes, grid)


def _compass(axes, grid):
    """North and east as arrows in the upper right corner."""
    cd = np.linalg.inv(np.array(grid.cd))
    ny, nx = grid.shape[1:]
    length = 0.07 * min(nx, ny)
    x, y = 0.9 * axes.get_xlim()[1], 0.83 * axes.get_ylim()[1]
    ways = [cd @ sky for sky in ((0.0, 1.0), (1.0, 0.0))]
    ways = [way / np.hypot(*way) * length for way in ways]
    middle = np.array([x, y]) + 0.55 * sum(ways)
    axes.add_patch(Circle(middle, 1.55 * length, color=PAPER, alpha=0.65, lw=0))
    for name, way in zip("NE", ways, strict=True):
        axes.annotate(
            "", (x + way[0], y + way[1]), (x, y), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 0.9}
        )
        text = axes.text(
            x + 1.6 * way[0], y + 1.6 * way[1], name, fontsize=7.5, ha="center", va="center", zorder=9
        )
        text.set_path_effects([withStroke(linewidth=2, foreground=PAPER)])


def draw_histogram(axes, image, peak, *, close):
    """Histogram of an image: close to zero with mode and HISTO_17, or the full range."""
    values = image[np.isfinite(image)]
    if len(values) == 0 or not math.isfinite(peak.mode):
        axes.set_axis_off()
        return
    width = max(peak.sigma, 1e-9) if math.isfinite(peak.sigma) else max(float(np.std(values)), 1e-9)
    if close:
        low, high = peak.mode - 9 * width, peak.mode + 12 * width
        counts, edges = np.histogram(values, bins=np.linspace(low, high, 106))
        axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.25)
        axes.stairs(counts, edges, color=BLUE, lw=0.9)
        axes.axvline(peak.mode, color=INK, ls="--", lw=0.9)
        if math.isfinite(peak.histo_17):
            axes.axvline(peak.histo_17, color=RED, ls=":", lw=1.1)
            _label(axes, peak.histo_17 - 0.2 * width, "−1.7 dex", color=RED, ha="right")
        _label(axes, peak.mode + 0.3 * width, "mode", color=INK, ha="left")
        axes.set_xlim(low, high)
        title(axes, "histogram around the sky")
    else:
        scale = 3 * width
        edges = scale * np.sinh(
            np.linspace(np.arcsinh(values.min() / scale), np.arcsinh(values.max() / scale), 120)
        )
        counts, edges = np.histogram(values, bins=edges)
        axes.stairs(counts, edges, fill=True, color=BLUE, alpha=0.25)
        axes.stairs(counts, edges, color=BLUE, lw=0.9)
        axes.set_xscale("symlog", linthresh=scale, linscale=0.7)
        axes.set_xticks(_round_ticks(edges[0], edges[-1], scale))
        axes.xaxis.set_minor_locator(NullLocator())
        title(axes, "histogram, full range")
    axes.set_yscale("log")
    axes.set_ylim(0.7, 6 * max(counts.max(), 1))
    axes.set_xlabel(r"flux [$10^{-20}$ erg/s/cm²/Å]")
    axes.set_ylabel("spaxels")


def _label(axes, x, text, **kwargs):
    axes.text(x, 0.97, text, fontsize=6.5, va="top", transform=axes.get_xaxis_transform(), **kwargs)


def _round_ticks(low, high, least):
    """Zero and powers of ten on both sides, beyond what is drawn linearly."""
    ticks = [0.0]
    for power in range(-8, 12):
        value = 10.0**power
        ticks += [value] if 2 * least < value < high else []
        ticks += [-value] if 2 * least < value < -low else []
    return sorted(ticks)


def draw_noise(axes, deep):
    """Measured and propagated noise of blank sky by wavelength."""
    lines, _ = line_planes(deep)
    axes.plot(deep.wavelength, deep.scatter, color=BLUE, lw=0.7, label="measured")
    axes.plot(deep.wavelength, deep.noise, color=ACCENT, lw=0.9, label="propagated")
    top = np.nanquantile(deep.scatter, 0.995) if np.isfinite(deep.scatter).any() else 1.0
    axes.set_ylim(0, 1.25 * top)
    axes.set_xlim(deep.wavelength[0], deep.wavelength[-1])
    for start, stop in runs_of(lines):
        axes.axvspan(deep.wavelength[start], deep.wavelength[stop - 1], color=FAINT, alpha=0.12, lw=0)
    axes.set_xlabel("wavelength [Å]")
    axes.set_ylabel("noise of a voxel")
    axes.legend(loc="upper left", ncols=2)
    ratio = median_of(deep.scatter / deep.noise)
    title(axes, "noise of blank sky", f"ratio {ratio:.2f}")


def runs_of(mask):
    """First and behind last of every run of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(int), 0]))
    return zip(edges[::2], edges[1::2], strict=True)


def draw_apertures(axes, deep):
    """By how much the noise of an aperture exceeds the propagated one, for every band."""
    import matplotlib

    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.85, BANDS))
    edges = np.linspace(deep.wavelength[0], deep.wavelength[-1], BANDS + 1)
    for band in range(BANDS):
        good = np.isfinite(deep.apertures[band])
        if good.any():
            middle = (edges[band] + edges[band + 1]) / 2
            label = f"{middle:.0f} Å" if band in (0, BANDS - 1) else None
            sides = np.array(APERTURES)[good]
            axes.plot(sides, deep.apertures[band][good], "o-", ms=3, color=colours[band], lw=0.9, label=label)
    axes.axhline(1.0, color=FAINT, lw=0.7)
    axes.set_xlabel("side of the aperture [spaxels]")
    axes.set_ylabel("measured / propagated")
    axes.legend(loc="lower right")
    title(axes, "noise of apertures")


def draw_fwhm(axes, deep, surveys):
    """Seeing by wavelength: the deep cube over its exposures."""
    low, high = deep.wavelength[[0, -1]]
    for survey in surveys:
        count = len(survey.fwhm) - 1
        places = low + (high - low) * (np.arange(count) + 0.5) / count
        axes.plot(places, survey.fwhm[1:], color=BLUE, lw=0.5, alpha=0.35)
    places = low + (high - low) * (np.arange(BANDS) + 0.5) / BANDS
    axes.plot(places, deep.fwhm[1:], "o-", ms=3.5, color=ACCENT, lw=1.3, label="deep cube")
    axes.plot([], [], color=BLUE, lw=0.8, label="exposures")
    axes.set_xlim(low, high)
    axes.margins(y=0.25)
    axes.set_xlabel("wavelength [Å]")
    axes.set_ylabel("FWHM [arcsec]")
    axes.legend(loc="upper right", ncols=2)
    known = math.isfinite(deep.fwhm[0])
    title(axes, "seeing", f"white light: {deep.fwhm[0]:.2f}″" if known else "no stars")


def draw_exposure_map(figure, axes, evidence):
    """Exposure time of every spaxel and the outlines of the pointings."""
    deep = evidence.deep
    image = np.where(deep.seconds > 0, deep.seconds / 3600.0, np.nan)
    shown = show_image(axes, image, evidence.grid.step_arcsec[0], cmap="YlGnBu", vmin=0)
    for survey in evidence.surveys:
        inside = np.isfinite(survey.on_grid(survey.white, deep.white.shape)).astype(float)
        # the teeth of turned slices are no shape of the pointing
        axes.contour(gaussian_filter(inside, 2.0), levels=[0.5], colors=[INK], linewidths=0.35, alpha=0.5)
    # beside the image, whose shape is not that of its place
    axes.set_anchor("W")
    bar = figure.colorbar(shown, cax=axes.inset_axes([1.03, 0.0, 0.045, 1.0]))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2)
    title(axes, "exposure time [h]")


def draw_bars(axes, values, threshold, label, unit, colours=None):
    """A bar for each exposure, red beyond the threshold on either side."""
    numbers = np.arange(1, len(values) + 1)
    colours = colours or [RED if abs(v) > threshold else BLUE for v in values]
    axes.bar(numbers, values, width=0.75, color=colours)
    for level in (threshold, -threshold) if np.nanmin(values) < 0 else (threshold,):
        axes.axhline(level, color=FAINT, lw=0.7, ls="--")
    axes.set_xlim(0.3, len(values) + 0.7)
    axes.grid(False, axis="x")
    axes.set_ylabel(unit)
    title(axes, label)


def draw_findings(axes, findings):
    """The diagnostics as a list with lights: green fine, red alarm, hollow not measured."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(findings) - 0.4, -0.9)
    title(axes, "diagnostics", "alarm beyond")
    for row, found in enumerate(findings):
        colour = RED if found.alarm else GREEN
        face = colour if found.measured else PAPER
        edge = colour if found.measured else FAINT
        axes.plot(0.03, row, "o", ms=5, mfc=face, mec=edge, mew=0.8, clip_on=False)
        ink = RED if found.alarm else INK if found.measured else FAINT
        axes.text(0.085, row, found.name.replace("_", " "), fontsize=7, va="center", color=ink)
        value = (
            f"{found.value:.2g}"
            if found.measured and abs(found.value) < 100
            else f"{found.value:.0f}"
            if found.measured
            else "–"
        )
        axes.text(0.73, row, value, fontsize=7, va="center", ha="right", color=ink)
        limit = f"{found.threshold:g} {_SHORT.get(found.unit, found.unit)}".strip()
        axes.text(1.0, row, limit, fontsize=6.5, va="center", ha="right", color=FAINT)


def draw_header(figure, left, right):
    """The top line of a figure."""
    figure.text(0.035, 0.965, left, fontsize=13, fontweight="bold", va="center")
    figure.text(0.965, 0.965, right, fontsize=8, va="center", ha="right", color=FAINT)
    _rule(figure, 0.942)


def draw_footer(figure, facts):
    """The bottom line of a figure: names and values side by side."""
    _rule(figure, 0.068)
    for place, (name, value) in zip(np.linspace(0.035, 0.965, 2 * len(facts) + 1)[1::2], facts, strict=True):
        figure.text(place, 0.045, value, fontsize=9, fontweight="bold", ha="center", va="center")
        figure.text(place, 0.021, name, fontsize=6.5, color=FAINT, ha="center", va="center")


def _rule(figure, y):
    from matplotlib.lines import Line2D

    figure.add_artist(Line2D([0.035, 0.965], [y, y], color=FAINT, lw=0.6))
