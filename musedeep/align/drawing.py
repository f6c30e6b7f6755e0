"""Drawing of an alignment: offsets, residuals, flux scales, and every image with its matched sources."""

import math

import numpy as np

__all__ = ["draw_alignment"]

# More thumbnails than this cannot be seen.
_MOST_THUMBNAILS = 24
_COLUMNS = 6


def draw_alignment(alignment, path):
    """Draw an alignment into a PNG file.

    Parameters
    ----------
    alignment : Alignment
    path : Path

    Returns
    -------
    Path
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    result = alignment.result
    thumbnails = min(len(result.images), _MOST_THUMBNAILS)
    rows = math.ceil(thumbnails / _COLUMNS)
    figure = Figure(figsize=(15, 5 + 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subfigures(2, 1, height_ratios=[4.5, 2.6 * rows])
    axes = upper.subplots(1, 3)
    _draw_offsets(axes[0], result)
    _draw_residuals(axes[1], result)
    _draw_scales(axes[2], result)
    upper.suptitle(f"{alignment.verdict}  ({result.preset}: {result.reason})")
    panels = np.atleast_2d(lower.subplots(rows, _COLUMNS, squeeze=False)).ravel()
    for panel in panels:
        panel.set_axis_off()
    for n in range(thumbnails):
        _draw_image(panels[n], n, result, alignment.check)
    figure.savefig(path, dpi=90)
    return path


def _draw_offsets(axes, result):
    cos = [math.cos(math.radians(image.dec_deg)) for image in result.images]
    east = [offset.ra_deg * 3600 * c for offset, c in zip(result.offsets, cos, strict=True)]
    north = [offset.dec_deg * 3600 for offset in result.offsets]
    errors = np.nan_to_num(result.shift_errors)
    axes.errorbar(east, north, xerr=errors[:, 0], yerr=errors[:, 1], fmt="o", ms=4, lw=1)
    for n, place in enumerate(zip(east, north, strict=True), start=1):
        axes.annotate(str(n), place, fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set(xlabel="east [arcsec]", ylabel="north [arcsec]", title="offsets")
    axes.invert_xaxis()
    axes.set_aspect("equal", "datalim")


def _draw_residuals(axes, result):
    filled = [values for values in result.residuals if len(values)]
    residuals = np.concatenate(filled)[:, 2:] * 1000 if filled else np.empty((0, 2))
    axes.plot(residuals[:, 0], residuals[:, 1], ".", ms=3, alpha=0.5)
    scatter = np.sqrt(np.mean(residuals**2)) if len(residuals) else math.nan
    axes.set(
        xlabel="east [mas]",
        ylabel="north [mas]",
        title=f"residuals of sources: {scatter:.1f} mas in each axis",
    )
    axes.set_aspect("equal", "datalim")


def _draw_scales(axes, result):
    number = np.arange(1, len(result.images) + 1)
    scales = [offset.flux_scale for offset in result.offsets]
    axes.errorbar(number, scales, yerr=np.nan_to_num(result.scale_errors), fmt="o", ms=4, lw=1)
    axes.set(xlabel="exposure", ylabel="factor", title="flux scales", yscale="log")


def _draw_image(axes, n, result, check):
    image, sources = result.images[n], result.sources[n]
    level, noise = sources.background.median, sources.background.sigma
    if not noise > 0:
        level, noise = 0.0, 1.0
    axes.imshow(np.arcsinh((image.flux - level) / noise), origin="lower", cmap="gray_r", vmin=-1, vmax=6)
    axes.plot(sources.x, sources.y, "o", mfc="none", mec="tab:orange", ms=4, mew=0.5)
    off = image.date_obs in check.suspicious
    words = f"{n + 1}: {result.methods[n]}, {result.matched[n]} matched"
    axes.set_title(words, fontsize=7, color="red" if off or result.methods[n] == "header" else "black")
