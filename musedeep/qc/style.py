"""One look for all drawings: dark ink on white paper, few colours that differ in print too."""

import gc
import math

import numpy as np

from musedeep.execute import give_back_memory

__all__ = [
    "ACCENT", "BLUE", "FAINT", "GREEN", "INK", "PAPER", "RED", "STYLE", "new_figure", "save", "show_image",
    "stretch", "title",
]  # fmt: skip

INK, FAINT, RULE, PAPER = "#1c2530", "#6b7684", "#d5dae1", "#ffffff"
BLUE, ACCENT, RED, GREEN = "#2b5c8a", "#d98324", "#b3372f", "#3d8361"
STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.0,
    "text.color": INK,
    "axes.facecolor": PAPER,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "lines.linewidth": 1.1,
    "figure.facecolor": PAPER,
}
_DPI = 100


def new_figure(width, height):
    """An empty figure of a size in inches; nothing of matplotlib's state outside of it is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def save(figure, path):
    """Write a figure as PNG, and empty it; the path."""
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=_DPI, format="png")
    partial.replace(path)
    # it holds images, and its parts refer to each other
    figure.clear()
    gc.collect()
    give_back_memory()
    return path


def title(axes, text, note=""):
    """A title over the left end of a panel, and a note over the right one."""
    # without a height matplotlib measures all ticks for one, which takes as long as drawing the rest
    axes.set_title(text, loc="left", fontsize=8.5, fontweight="bold", color=INK, pad=5, y=1.0)
    if note:
        axes.set_title(note, loc="right", fontsize=7, color=FAINT, pad=5, y=1.0)


def stretch(image, blank):
    """An image from sky (0) to bright (1), logarithmic above the noise.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    blank : ndarray of bool
        Sky, which gives level and noise.
    """
    sky = image[blank & np.isfinite(image)]
    if len(sky) < 10:
        sky = image[np.isfinite(image)]
    if len(sky) == 0:
        return np.zeros(image.shape)
    level = float(np.median(sky))
    noise = max(1.4826 * float(np.median(np.abs(sky - level))), 1e-30)
    top = max(float(np.nanquantile(image, 0.998)), level + 10 * noise)
    scaled = np.arcsinh((image - level + 2 * noise) / (2 * noise))
    return np.clip(scaled / math.asinh((top - level + 2 * noise) / (2 * noise)), 0, 1)


def show_image(axes, image, step_arcsec, cmap="gray_r", **limits):
    """Draw an image without ticks, with a bar of a handy length and directions; returns the artist."""
    shown = axes.imshow(image, origin="lower", cmap=cmap, interpolation="nearest", **limits)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_edgecolor(RULE)
    ny, nx = image.shape
    bar = next((b for b in (60, 30, 20, 10, 5, 2, 1) if b / step_arcsec < 0.3 * nx), 1)
    x, y = 0.05 * nx, 0.05 * ny
    halo = {"color": PAPER, "lw": 3.5, "solid_capstyle": "butt"}
    axes.plot([x, x + bar / step_arcsec], [y, y], **halo)
    axes.plot([x, x + bar / step_arcsec], [y, y], color=INK, lw=1.4, solid_capstyle="butt")
    from matplotlib.patheffects import withStroke

    text = axes.text(x, y + 0.02 * ny, f'{bar}"', fontsize=7, va="bottom", color=INK)
    text.set_path_effects([withStroke(linewidth=2, foreground=PAPER)])
    axes.set_xlim(-0.5, nx - 0.5)
    axes.set_ylim(-0.5, ny - 0.5)
    return shown
