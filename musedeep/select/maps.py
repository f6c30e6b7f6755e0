"""Pictures of footprints for the page: the depth of one field, and all fields on the sky, as SVG."""

import base64
import math
import struct
import zlib

import numpy as np

from musedeep.select.footprints import corners
from musedeep.select.pointings import find_pointings
from musedeep.sky import middle_of, sky_vectors

__all__ = ["all_sky_map", "colour", "depth_map", "field_map"]

_CELLS = 72
_SIDE = 240
_STRIP = 30
# Viridis at nine equal steps: readable in print and by the colour-blind.
_VIRIDIS = np.array(
    [
        (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
        (31, 158, 137), (53, 183, 121), (109, 205, 89), (253, 231, 37),
    ]
)  # fmt: skip


def colour(share):
    """Colours of values from 0 to 1.

    Parameters
    ----------
    share : array_like

    Returns
    -------
    ndarray, shape (..., 3), uint8
    """
    place = np.clip(np.asarray(share, float), 0, 1) * (len(_VIRIDIS) - 1)
    channels = [np.interp(place, np.arange(len(_VIRIDIS)), _VIRIDIS[:, n]) for n in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def depth_map(candidates, centre, half_arcsec, cells=_CELLS):
    """Exposure time on the sky.

    Parameters
    ----------
    candidates : list of Candidate
    centre : (ra_deg, dec_deg)
    half_arcsec : float
        Half the side of the map.
    cells : int
        Along each side.

    Returns
    -------
    ndarray, shape (cells, cells), float64
        Seconds; the first row is the northernmost, the first column the easternmost.
    """
    axis = (np.arange(cells) + 0.5) / cells * 2 * half_arcsec - half_arcsec
    east, north = np.meshgrid(-axis, -axis)
    depth = np.zeros((cells, cells))
    for item, square in zip(candidates, _squares(candidates, centre), strict=True):
        inside = np.ones(depth.shape, bool)
        for (x, y), (u, v) in zip(square, np.roll(square, -1, axis=0), strict=True):
            inside &= (u - x) * (north - y) - (v - y) * (east - x) >= 0
        depth += inside * item.exptime_s
    return depth


def _squares(candidates, centre):
    facts = [
        [getattr(c, name) for c in candidates] for name in ("ra_deg", "dec_deg", "angle_deg", "side_arcsec")
    ]
    return corners(*facts, centre)


def field_map(dataset):
    """Footprints of a dataset, coloured by depth; what was left out is dashed.

    Parameters
    ----------
    dataset : Dataset

    Returns
    -------
    str
        An SVG element; empty where no exposure has a place on the sky.
    """
    taken = [d.candidate for d in dataset.taken if d.candidate.is_placed]
    left = [d.candidate for d in dataset.left_out if d.candidate.is_placed]
    if not taken + left:
        return ""
    points = sky_vectors([c.ra_deg for c in taken or left], [c.dec_deg for c in taken or left])
    centre = middle_of(points)
    squares = _squares(taken + left, centre)
    half = float(np.abs(squares).max()) * 1.12
    scale = _SIDE / 2 / half
    parts = []
    if taken:
        depth = depth_map(taken, centre, half)
        image = _png(depth / depth.max(), depth > 0)
        parts.append(
            f'<image href="data:image/png;base64,{image}" width="{_SIDE}" height="{_SIDE}" '
            'style="image-rendering:pixelated"/>'
        )
    for pointing in find_pointings(taken, 15.0):
        parts.append(_polygon(_squares(pointing.members[:1], centre)[0], scale, "taken"))
    parts += [_polygon(square, scale, "left") for square in squares[len(taken) :]]
    hours = f"up to {depth.max() / 3600:.1f} h" if taken else ""
    parts.append(_rulers(half, scale, hours))
    label = f"Footprints of {len(taken)} exposures taken and {len(left)} left out"
    size = f'viewBox="0 0 {_SIDE} {_SIDE + _STRIP}"'
    return f'<svg class="map" {size} role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _polygon(square, scale, style):
    points = " ".join(f"{_SIDE / 2 - x * scale:.1f},{_SIDE / 2 - y * scale:.1f}" for x, y in square)
    return f'<polygon class="{style}" points="{points}"/>'


def _rulers(half, scale, hours):
    """A strip below the map: a bar of a round length, the largest depth, and where north and east are."""
    length = next(v for v in (600, 300, 120, 60, 30, 10, 5, 2, 1) if v <= half * 0.75 or v == 1)
    text = f"{length // 60}′" if length >= 60 else f"{length}″"
    low = _SIDE + _STRIP - 5
    bar = f'<path class="ruler" d="M2 {low - 3}v3h{length * scale:.1f}v-3"/>'
    bar += f'<text x="4" y="{low - 6}">{text}</text>'
    arrows = f'<path class="ruler" d="M{_SIDE - 4} {low - 14}v14h-14"/>'
    words = f'<text x="{_SIDE - 8}" y="{low - 17}">N</text><text x="{_SIDE - 28}" y="{low + 2}">E</text>'
    return bar + arrows + words + f'<text class="mid" x="{_SIDE * 0.6}" y="{low - 2}">{hours}</text>'


def _png(share, filled):
    """A picture of values from 0 to 1, clear where nothing is, as base64."""
    pixels = np.zeros((*share.shape, 4), np.uint8)
    pixels[..., :3] = colour(share)
    pixels[..., 3] = np.where(filled, 235, 0)
    rows = np.concatenate(
        [np.zeros((share.shape[0], 1), np.uint8), pixels.reshape(share.shape[0], -1)], axis=1
    )
    size = struct.pack(">IIBBBBB", share.shape[1], share.shape[0], 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return base64.b64encode(data).decode()


def all_sky_map(datasets):
    """All fields on the sky in Mollweide's projection, east to the left, coloured and sized by their hours.

    Parameters
    ----------
    datasets : list of Dataset
        With exposures that have a place on the sky.

    Returns
    -------
    str
        An SVG element.
    """
    hours = [max(d.facts["seconds"] / 3600, 0.01) for d in datasets]
    least, most = min(hours, default=0.1), max(hours, default=1.0)
    span = math.log(most / least) or 1.0
    dots = []
    for dataset, value in sorted(zip(datasets, hours, strict=True), key=lambda pair: -pair[1]):
        placed = [d.candidate for d in dataset.decisions if d.candidate.is_placed]
        if not placed:
            continue
        x, y = _mollweide(*middle_of(sky_vectors([c.ra_deg for c in placed], [c.dec_deg for c in placed])))
        share = math.log(value / least) / span
        fill = "rgb({}, {}, {})".format(*colour(share))
        radius = 2.6 + 4 * share
        dots.append(
            f'<a href="#{dataset.name}"><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}">'
            f"<title>{dataset.name}: {value:.1f} h</title></circle></a>"
        )
    grid = "".join(f'<path d="{_line(points)}"/>' for points in _graticule())
    words = "".join(
        f'<text x="{x:.0f}" y="{y + 3:.0f}">{hour}h</text>'
        for hour in (0, 4, 8, 16, 20)
        for x, y in [_mollweide(hour * 15, 0)]
    )
    return (
        '<svg class="sky" viewBox="-330 -170 660 340" role="img" aria-label="All fields on the sky">'
        f'<ellipse rx="320" ry="160"/><g class="grid">{grid}</g><g class="words">{words}</g>'
        f"{''.join(dots)}</svg>"
        f'<div class="bar"><span>{least:.2g} h</span><i></i><span>{most:.3g} h</span></div>'
    )


def _mollweide(ra_deg, dec_deg):
    """Place on the map of 640 x 320 units; 0h is in the middle, and RA grows to the left."""
    dec = math.radians(dec_deg)
    theta = dec
    # 2 t + sin 2t = pi sin dec, by Newton's rule; at a pole it is solved already
    for _ in range(30):
        slope = 2 + 2 * math.cos(2 * theta)
        if slope < 1e-9:
            break
        theta -= (2 * theta + math.sin(2 * theta) - math.pi * math.sin(dec)) / slope
    east = (ra_deg + 180) % 360 - 180
    return -320 * east / 180 * math.cos(theta), -160 * math.sin(theta)


def _graticule():
    for ra in range(-180, 181, 60):
        yield [_mollweide(min(ra, 179.99), dec) for dec in range(-90, 91, 6)]
    for dec in (-60, -30, 0, 30, 60):
        yield [_mollweide(ra, dec) for ra in (-179.99, 179.99)]


def _line(points):
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
