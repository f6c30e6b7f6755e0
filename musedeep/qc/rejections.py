"""What the rejection took out: maps for every exposure, and what in it has the shape of a source."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from musedeep.block import combine_block
from musedeep.execute import run_tasks
from musedeep.plan import blocks_of, tile_budget
from musedeep.plan import threads_of as count_threads
from musedeep.store import CubeStore, PartReader, join_runs

__all__ = ["Clump", "Rejections", "list_transients", "measure_rejections", "write_maps"]

_BIN_PLANES = 8
# A spaxel belongs to a clump where so many rows of a bin are rejected as too bright; a row for every plane.
_CLUMP_ROWS = 4
# Cosmic rays run along a slice, which is one spaxel wide: a clump is wider both ways.
_CLUMP_SPAXELS = 6
_CLUMP_EXTENT = 3
_MOST_CLUMPS = 2000
_JOIN_SPAXELS = 3.0
_LINE_ANGSTROM = 60.0
_TRAIL_SPAXELS = 8.0


@dataclass(frozen=True)
class Clump:
    """Neighbouring voxels of one exposure that were rejected as too bright.

    Attributes
    ----------
    date_obs : str
    plane, y, x : float
        Mean place in the grid, weighted by the excess.
    planes : (int, int)
        First and last plane.
    spaxels : int
    length, width : float
        Extents along its axes, standard deviations in spaxels.
    flux : float
        Mean over its planes of the excess over the deep cube, summed over the spaxels.
    """

    date_obs: str
    plane: float
    y: float
    x: float
    planes: tuple
    spaxels: int
    length: float
    width: float
    flux: float


@dataclass(frozen=True)
class Rejections:
    """What was rejected.

    Attributes
    ----------
    maps : dict of str to ndarray, shape (ny, nx), int32
        Rejected rows of every spaxel by DATE-OBS, where `corners` says.
    corners : dict of str to (int, int)
        Row and column of the grid that the first ones of a map are.
    used : dict of str to int
        Rows of each exposure.
    clumps : list of Clump
    """

    maps: dict
    corners: dict
    used: dict
    clumps: list

    def shares(self):
        """Share of the rows of every exposure that were rejected, by DATE-OBS."""
        return {date: float(m.sum()) / max(self.used[date], 1) for date, m in self.maps.items()}


def measure_rejections(field, recipe, surveys, *, client=None, progress=None):
    """Judge all rows once more, as the combination did, and see which are rejected.

    Parameters
    ----------
    field : Field
        With a finished cube store.
    recipe : Recipe
        That of the cube.
    surveys : list of Survey
        They say where each exposure lies.
    client : distributed.Client, optional
    progress : Progress, optional

    Returns
    -------
    Rejections
    """
    store, run = CubeStore(field.cube_path), field.settings.run
    threads = count_threads(run, client)
    memory = tile_budget(run.memory_bytes, threads, store.block_shape, len(recipe.exposures))
    maps = {survey.date_obs: np.zeros(survey.white.shape, np.int32) for survey in surveys}
    corners = {survey.date_obs: tuple(int(v) for v in survey.corner) for survey in surveys}
    items = [(bounds, recipe.restricted(bounds)) for bounds in blocks_of(recipe.grid, store.block_shape)]
    work = partial(_rejected_in_block, cube_path=field.cube_path, memory=memory)
    clumps = []
    for item, (counts, found) in run_tasks(
        work, items, client=client, workers=run.workers or None, progress=progress, describe=_describe
    ):
        (_, _), (y0, _), (x0, _) = item[0]
        for date, count in counts.items():
            _add(maps[date], count, y0 - corners[date][0], x0 - corners[date][1])
        clumps += found
    return Rejections(maps, corners, {s.date_obs: s.rows for s in surveys}, _joined(clumps))


def _describe(item):
    return f"block at planes {item[0][0][0]}, rows {item[0][1][0]}, columns {item[0][2][0]}"


def _add(target, count, row, column):
    """Add a block's counts to a map, as far as they lie on it."""
    ny, nx = count.shape
    a, b = max(row, 0), min(row + ny, target.shape[0])
    c, d = max(column, 0), min(column + nx, target.shape[1])
    if a < b and c < d:
        target[a:b, c:d] += count[a - row : b - row, c - column : d - column]


def _rejected_in_block(item, *, cube_path, memory):
    """Counts of rejected rows by spaxel for each exposure, and clumps."""
    bounds, recipe = item
    _, record = combine_block(recipe, bounds, memory, keep_rejected=True)
    flux = CubeStore(cube_path).read("flux", *bounds[0], slice(*bounds[1]), slice(*bounds[2]))
    rejected = {}
    for n, part, rows in record["rejected"]:
        rejected.setdefault((n, part), []).append(rows)
    found = {}
    with ExitStack() as stack:
        for (n, part), pieces in sorted(rejected.items()):
            exposure = recipe.exposures[n]
            reader = PartReader(recipe.store / exposure.name / part, exposure.parts[part], exposure.columns)
            stack.callback(reader.close)
            rows = _read_rows(reader, np.sort(np.concatenate(pieces)))
            found.setdefault(n, []).append(_placed(recipe, exposure, rows, bounds))
    counts, clumps = {}, []
    for n, pieces in found.items():
        voxel, value = (np.concatenate(parts, axis=-1) for parts in zip(*pieces, strict=True))
        date = recipe.exposures[n].date_obs
        count = np.zeros(flux.shape[1:], np.int32)
        np.add.at(count, (voxel[1], voxel[2]), 1)
        counts[date] = count
        clumps += _clumps(date, voxel, value - flux[tuple(voxel)], bounds, flux.shape)
    return counts, clumps


def _read_rows(reader, numbers):
    """Rows of given numbers, ascending; ndarray, shape (columns, n)."""
    pieces = []
    for start, stop in join_runs(np.stack([numbers, numbers + 1], axis=1)):
        values = reader.read_flat("rows", start, stop)
        mine = numbers[np.searchsorted(numbers, start) : np.searchsorted(numbers, stop)]
        pieces.append(values[:, mine - start])
    return np.concatenate(pieces, axis=1)


def _placed(recipe, exposure, rows, bounds):
    """Voxels (3, n) within the block, and scaled values (n,)."""
    from musedeep.grid import air_to_vacuum

    place = np.stack([rows[0] + exposure.origin[0], rows[1] + exposure.origin[1], np.ones(rows.shape[1])])
    x, y, w = exposure.matrix @ place
    wavelength = rows[2].astype(np.float64)
    wavelength = air_to_vacuum(wavelength) if recipe.grid.vacuum else wavelength
    anchor = recipe.anchor
    voxel = np.stack([recipe.grid.plane_of(wavelength), y / w + anchor[1], x / w + anchor[0]])
    voxel = np.floor(voxel + 0.5).astype(np.int64) - np.array([[b[0]] for b in bounds])
    # places pass through float32: one at the border may have been taken for its neighbour
    voxel = np.clip(voxel, 0, np.array([[b[1] - b[0] - 1] for b in bounds]))
    return voxel, rows[3].astype(np.float64) * exposure.scale


def _clumps(date, voxel, excess, bounds, shape):
    """Clumps of voxels that were rejected as too bright."""
    from scipy.ndimage import find_objects, label

    bright = excess > 0
    voxel, excess = voxel[:, bright], excess[bright]
    clumps = []
    for first in range(0, shape[0], _BIN_PLANES):
        mine = (voxel[0] >= first) & (voxel[0] < first + _BIN_PLANES)
        if mine.sum() < _CLUMP_ROWS * _CLUMP_SPAXELS:
            continue
        count = np.zeros(shape[1:], np.int32)
        np.add.at(count, (voxel[1, mine], voxel[2, mine]), 1)
        labels, _ = label(count >= min(_CLUMP_ROWS, (shape[0] - first) // 2 + 1))
        for number, place in enumerate(find_objects(labels), start=1):
            inside = labels[place] == number
            if inside.sum() >= _CLUMP_SPAXELS and min(inside.shape) >= _CLUMP_EXTENT:
                rows = mine & (labels[voxel[1], voxel[2]] == number)
                clumps.append(_clump(date, voxel[:, rows], excess[rows], int(inside.sum()), bounds))
    return clumps


def _clump(date, voxel, excess, spaxels, bounds):
    plane, y, x = (np.average(axis, weights=excess) + b[0] for axis, b in zip(voxel, bounds, strict=True))
    spread = np.linalg.eigvalsh(np.cov(voxel[1:], aweights=excess))
    first, last = int(voxel[0].min()), int(voxel[0].max())
    planes = first + bounds[0][0], last + bounds[0][0]
    width, length = (float(np.sqrt(max(v, 0.0))) for v in spread)
    return Clump(date, plane, y, x, planes, spaxels, length, width, float(excess.sum()) / (last - first + 1))


def _joined(clumps):
    """Clumps of one exposure at one place, at neighbouring wavelengths, as one."""
    joined = []
    for clump in sorted(clumps, key=lambda c: (c.date_obs, c.planes)):
        n = next((n for n in range(len(joined) - 1, -1, -1) if _belong(joined[n], clump)), None)
        if n is None:
            joined.append(clump)
        else:
            joined[n] = _union(joined[n], clump)
    return sorted(joined, key=lambda c: -c.flux * (c.planes[1] - c.planes[0] + 1))[:_MOST_CLUMPS]


def _belong(one, other):
    near = np.hypot(one.x - other.x, one.y - other.y) < _JOIN_SPAXELS
    return one.date_obs == other.date_obs and near and other.planes[0] - one.planes[1] <= 2 * _BIN_PLANES


def _union(one, other):
    depth = [c.planes[1] - c.planes[0] + 1 for c in (one, other)]
    share = depth[1] / sum(depth)

    def mean(name):
        return (1 - share) * getattr(one, name) + share * getattr(other, name)

    names = ("plane", "y", "x", "length", "width", "flux")
    return replace(
        one,
        planes=(min(one.planes[0], other.planes[0]), max(one.planes[1], other.planes[1])),
        spaxels=max(one.spaxels, other.spaxels),
        **{name: float(mean(name)) for name in names},
    )


def write_maps(rejections, grid, path):
    """Write the maps of rejected rows as FITS: an extension for each exposure, named by its DATE-OBS.

    Parameters
    ----------
    rejections : Rejections
    grid : VoxelGrid
    path : Path

    Returns
    -------
    Path
    """
    from astropy.io import fits

    hdus = [fits.PrimaryHDU()]
    for date, counts in rejections.maps.items():
        row, column = rejections.corners[date]
        cards = grid.to_header()
        cards["CRPIX1"], cards["CRPIX2"] = cards["CRPIX1"] - column, cards["CRPIX2"] - row
        hdu = fits.CompImageHDU(counts, name=date)
        for card in cards.cards:
            if "3" not in card.keyword and card.keyword != "WCSAXES":
                hdu.header[card.keyword] = (card.value, card.comment)
        hdu.header["NROWS"] = (rejections.used[date], "rows of the exposure")
        hdus.append(hdu)
    partial_path = path.with_name(f".{path.name}")
    fits.HDUList(hdus).writeto(partial_path, overwrite=True, checksum=True)
    partial_path.replace(path)
    return path


def list_transients(rejections, evidence, trails):
    """What the rejection removed that looks like a source or a line, brightest first.

    Parameters
    ----------
    rejections : Rejections
    evidence : Evidence
    trails : dict of str to Trail
        Straight lines that cross exposures.

    Returns
    -------
    astropy.table.Table
        DATE_OBS; KIND: 'line' (narrow in wavelength), 'source', 'trail' (long on the sky), 'seeing' (at a
        source of the deep image: an exposure out of place or of another seeing); RA, DEC [deg];
        WAVELENGTH_LOW, WAVELENGTH_HIGH [Angstrom]; SPAXELS; FLUX (mean excess over its wavelengths, summed
        over its spaxels, in the unit of the cube).
    """
    from astropy.table import Table

    grid, deep = evidence.grid, evidence.deep
    rows = []
    for clump in rejections.clumps:
        ra, dec = grid.position(clump.x, clump.y)
        low, high = (float(grid.wavelength_at(plane)) for plane in clump.planes)
        trail = trails.get(clump.date_obs)
        on_trail = trail is not None and _on_line(clump, trail, rejections.corners[clump.date_obs])
        kind = "trail" if on_trail else _kind(clump, deep, high - low, grid)
        rows.append((clump.date_obs, kind, ra, dec, low, high, clump.spaxels, clump.flux))
    names = "DATE_OBS KIND RA DEC WAVELENGTH_LOW WAVELENGTH_HIGH SPAXELS FLUX".split()
    kinds = ("U23", "U8", float, float, float, float, int, float)
    table = Table(rows=rows or None, names=names, dtype=kinds)
    units = {"RA": "deg", "DEC": "deg", "WAVELENGTH_LOW": "Angstrom", "WAVELENGTH_HIGH": "Angstrom"}
    for name, unit in units.items():
        table[name].unit = unit
    formats = {"RA": ".6f", "DEC": ".6f", "WAVELENGTH_LOW": ".1f", "WAVELENGTH_HIGH": ".1f", "FLUX": ".4g"}
    for name, text in formats.items():
        table[name].info.format = text
    return table


def _on_line(clump, trail, corner):
    angle = np.radians(trail.angle_deg)
    way = (clump.x - corner[1]) * np.cos(angle) + (clump.y - corner[0]) * np.sin(angle)
    return abs(way - trail.distance) < _TRAIL_SPAXELS


def _kind(clump, deep, extent, grid):
    fwhm = deep.fwhm[0] / grid.step_arcsec[0] if np.isfinite(deep.fwhm[0]) else 4.0
    if clump.length > 3.0 * max(clump.width, 0.5):
        return "trail"
    if len(deep.x) and np.hypot(deep.x - clump.x, deep.y - clump.y).min() < 1.5 * fwhm:
        return "seeing"
    return "line" if extent < _LINE_ANGSTROM and extent < 0.5 * np.ptp(deep.wavelength) else "source"
