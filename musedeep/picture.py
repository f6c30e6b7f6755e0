"""Small pictures for notebooks: what a field or a cube looks like, as HTML without anything outside of it."""

import base64
import html
import io

import numpy as np

__all__ = ["cube_html", "field_html", "rows_html", "scaled", "stored_place"]

_WIDTH = 170  # pixels of a thumbnail on the page
_PLANES = 12  # that a thumbnail is made of
_STYLE = (
    "<style>.muse{display:flex;gap:18px;align-items:flex-start;flex-wrap:wrap;font-size:13px;margin:4px 0}"
    ".muse table{border-collapse:collapse;margin:0}.muse td{padding:1px 10px 1px 0;text-align:left;border:0}"
    ".muse td:first-child{opacity:.65}.muse figure{margin:0}.muse figcaption{opacity:.65;font-size:11px}"
    ".muse img{image-rendering:pixelated;display:block}</style>"
)


def scaled(image, low=1.0, high=99.5):
    """An image between 0 and 1 with an asinh stretch, NaN where it has none; float64."""
    image = np.asarray(image, float)
    if not np.isfinite(image).any():
        return np.full(image.shape, np.nan)
    bottom, top = np.nanpercentile(image, (low, high))
    soft = max((np.nanmedian(image) - bottom) * 2, (top - bottom) * 1e-3, 1e-30)
    stretched = np.arcsinh((image - bottom) / soft) / np.arcsinh(max((top - bottom) / soft, 1e-9))
    return np.clip(stretched, 0, 1)


def _thumbnail(image, caption, colours):
    """An image as a figure; y upwards."""
    import matplotlib.image
    from matplotlib import colormaps

    colours = colormaps[colours].with_extremes(bad="#e8e8ec")
    file = io.BytesIO()
    pixels = colours(np.ma.masked_invalid(image[::-1]), bytes=True)
    matplotlib.image.imsave(file, pixels)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><img width="{_WIDTH}" alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _table(facts):
    rows = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items()
    )
    return f"<table>{rows}</table>"


def _page(title, facts, figures):
    body = _table(facts) + "".join(figures)
    return f'{_STYLE}<div><b>{html.escape(title)}</b><div class="muse">{body}</div></div>'


def _outlines(facts):
    """Outline of every exposure in a pixel store, arcsec to the east and north; list of ndarray (n, 2)."""
    return [np.array(f["hull_arcsec"]) + f["origin_arcsec"] for f in facts]


def _footprint(outlines, caption):
    """Outlines as a figure, north up and east to the left."""
    points = np.concatenate(outlines)
    middle, half = (points.max(axis=0) + points.min(axis=0)) / 2, max(np.ptp(points, axis=0).max() / 2, 1.0)
    half *= 1.06
    shapes = []
    for outline in outlines:
        x, y = ((outline - middle) / half).T
        path = " ".join(f"{50 - 50 * a:.1f},{50 - 50 * b:.1f}" for a, b in zip(x, y, strict=True))
        shapes.append(f'<polygon points="{path}"/>')
    fill = max(0.03, min(0.35, 1.5 / len(outlines)))
    scale = 10 ** np.floor(np.log10(half))
    length = 50 * scale / half
    return (
        f'<figure><svg width="{_WIDTH}" height="{_WIDTH}" viewBox="0 0 100 100">'
        f'<g fill="#3b6fb6" fill-opacity="{fill:.3f}" stroke="#3b6fb6" stroke-opacity="0.6" '
        f'stroke-width="0.4">{"".join(shapes)}</g>'
        f'<path d="M4 96 h{length:.1f}" stroke="currentColor" stroke-width="0.8"/>'
        f'<text x="4" y="93.5" font-size="5" fill="currentColor">{scale:g}"</text></svg>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _images(flux, count):
    """Figures of white light and depth."""
    with np.errstate(invalid="ignore"):
        depth = np.where(count > 0, count, np.nan).astype(float)
    figures = [_thumbnail(scaled(flux), "white light", "magma")]
    if np.isfinite(depth).any():
        most = np.nanmax(depth)
        figures.append(_thumbnail(depth / most, f"exposures, at most {most:.0f}", "viridis"))
    return figures


def _mean(planes):
    seen = np.isfinite(planes)
    total = np.where(seen, planes, 0).sum(axis=0, dtype=float)
    return np.divide(total, seen.sum(axis=0), out=np.full(total.shape, np.nan), where=seen.any(axis=0))


def _stored_images(path, planes, rows, columns):
    """White light and depth from a few planes of a cube store."""
    from musedeep.store import CubeStore

    store = CubeStore(path)
    chosen = np.unique(np.linspace(planes.start, planes.stop - 1, _PLANES + 2).round().astype(int)[1:-1])
    flux, count = (
        np.concatenate([store.read(name, int(k), int(k) + 1, rows, columns) for k in chosen])
        for name in ("flux", "exposure_count")
    )
    return _images(_mean(flux), count.max(axis=0))


def stored_place(dataset):
    """Where in a cube store a dataset lies.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of `open_cube`, whole or cut.

    Returns
    -------
    (str, list of slice) or None
        Path or address of the store, and planes, rows and columns in it; None where there is none, or where
        planes or spaxels were skipped.
    """
    from musedeep.grid import VoxelGrid
    from musedeep.objects import place_of

    path = dataset.attrs.get("store")
    if not path or not (place_of(path) / "zarr.json").exists():
        return None
    whole, part = VoxelGrid.from_dict(dataset.attrs["grid"]), dataset.muse.grid
    first = np.array([whole.wavelength_crpix, *whole.crpix[::-1]]) - [
        part.wavelength_crpix,
        *part.crpix[::-1],
    ]
    same = np.allclose(whole.step_arcsec, part.step_arcsec) and np.isclose(
        whole.wavelength_step, part.wavelength_step
    )
    if not same:
        return None
    return path, [slice(int(round(a)), int(round(a)) + n) for a, n in zip(first, part.shape, strict=True)]


def cube_html(dataset):
    """A deep cube as HTML: its facts, and white light and depth where they cost little.

    Parameters
    ----------
    dataset : xarray.Dataset
        In memory, or of `open_cube`; of one that is yet to be computed only facts are told.

    Returns
    -------
    str
    """
    grid = dataset.muse.grid
    ra, dec = grid.position((grid.shape[2] - 1) / 2, (grid.shape[1] - 1) / 2)
    exposures = dataset.attrs.get("exposures", ())
    step = grid.step_arcsec
    facts = {
        "voxels": " x ".join(map(str, grid.shape)) + " (wavelength, y, x)",
        "centre": f"RA {ra:.5f}, Dec {dec:+.5f} deg",
        "size": f'{grid.shape[2] * step[0]:.1f}" x {grid.shape[1] * step[1]:.1f}", {step[0]:.3g}" a spaxel',
        "wavelengths": f"{grid.wavelengths[0]:.2f} to {grid.wavelengths[-1]:.2f} Angstrom in "
        + ("vacuum" if grid.vacuum else "air"),
        "exposures": f"{len(exposures)}, {sum(e['exptime'] for e in exposures) / 3600:.2f} h",
        "unit": dataset.attrs.get("unit", ""),
    }
    figures = []
    if isinstance(dataset.flux.data, np.ndarray):
        figures = _images(_mean(dataset.flux.values), dataset.exposure_count.values.max(axis=0))
    elif place := stored_place(dataset):
        figures = _stored_images(place[0], *place[1])
    return _page(dataset.attrs.get("field") or "Deep cube", facts, figures)


def field_html(field):
    """A field as HTML: its facts, its outlines, and its cube where there is one.

    Parameters
    ----------
    field : Field

    Returns
    -------
    str
    """
    from musedeep.store import CubeStore, PixelStore

    dates = field.exposures.dates
    facts = {
        "folder": field.folder,
        "exposures": f"{len(dates)}, {dates[0][:10]} to {dates[-1][:10]}",
        "ingested": "none yet",
        "cube": "none yet",
    }
    figures = []
    if (field.pixels_path / "zarr.json").exists():
        present = PixelStore(field.pixels_path).exposures().values()
        if present:
            rows = sum(f["row_count"] for f in present)
            seconds = sum(f["exptime"] for f in present)
            facts["ingested"] = f"{len(present)} exposures, {rows:.3g} rows, {seconds / 3600:.2f} h"
            figures.append(_footprint(_outlines(present), "exposures, by their headers"))
    if (field.cube_path / "zarr.json").exists():
        cube = CubeStore(field.cube_path)
        facts["cube"] = " x ".join(map(str, cube.shape)) + (
            "" if cube.attrs.get("finished") else ", not finished"
        )
        figures += _stored_images(field.cube_path, *(slice(0, n) for n in cube.shape))
    return _page(field.name, facts, figures)


def rows_html(title, facts, outlines):
    """A selection of rows as HTML: its facts and the outlines of its exposures.

    Parameters
    ----------
    title : str
    facts : dict of str to str
    outlines : list of dict
        Facts of the exposures in the pixel store.

    Returns
    -------
    str
    """
    figures = [_footprint(_outlines(outlines), "exposures, by their headers")] if outlines else []
    return _page(title, facts, figures)
