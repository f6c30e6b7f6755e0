"""Every exposure beside the deep cube, in one pass over its rows: images, levels, scatter, sky lines."""

import math
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from musedeep.align.sources import Background, Sources, find_sources
from musedeep.execute import run_tasks
from musedeep.grid import air_to_vacuum
from musedeep.muse import DQ_BITS
from musedeep.qc.deep import white_image
from musedeep.qc.effort import effort_of
from musedeep.qc.lines import LINE_BINS, LINE_PLANES, line_image
from musedeep.settings import AlignSettings
from musedeep.store import CubeStore, PartReader

__all__ = ["EXPOSURE_BANDS", "Survey", "survey_exposures"]

EXPOSURE_BANDS = 3
"""Ranges of wavelength in which an exposure's seeing is measured."""

_LIGHT_KM_S = 299792.458
_FINE_ANGSTROM = 0.3125
_BIN_ANGSTROM = 75.0
_FEWEST_BINS = 24
_CLIP = 4.0
_FORMAT = 9


@dataclass(frozen=True)
class Survey:
    """What one exposure says.

    Attributes
    ----------
    date_obs : str
    corner : ndarray, shape (2,), int64
        Row and column of the grid that the first ones of the images are.
    white, white_variance : ndarray, shape (ny, nx), float32
        Mean over all wavelengths, fluxes scaled as in the deep cube; NaN without data.
    saturated : ndarray, shape (ny, nx), int32
        Saturated rows of every spaxel.
    planes, slices, columns, lines, light : ndarray, float64
        Sums over blank sky, and, by plane, over bright sources, see `musedeep.kernels.survey.survey_rows`.
    first_line : float
        Wavelength on Earth of the first of `lines`, which lie 0.3125 Angstrom apart.
    rows : int
        Good rows.
    fwhm : ndarray, shape (1 + EXPOSURE_BANDS,), float64, arcsec
        Of the white image and of the bands; NaN without stars.
    sources : musedeep.align.sources.Sources
        Of the white image.
    line, line_variance : ndarray, shape (ny, nx), float32
        In the light of the strongest line of the deep cube, without the continuum; NaN without data, or where
        there is no line.
    """

    date_obs: str
    corner: np.ndarray
    white: np.ndarray
    white_variance: np.ndarray
    saturated: np.ndarray
    planes: np.ndarray
    slices: np.ndarray
    columns: np.ndarray
    lines: np.ndarray
    light: np.ndarray
    first_line: float
    rows: int
    fwhm: np.ndarray
    sources: Sources
    line: np.ndarray
    line_variance: np.ndarray

    @classmethod
    def load(cls, path, key=None):
        """Read one, or None where there is none, or it was made of something else."""
        try:
            with np.load(path) as stored:
                if key is not None and str(stored["key"]) != key:
                    return None
                values = {item.name: stored[item.name] for item in fields(cls) if item.name != "sources"}
                values["sources"] = _sources_from(stored)
        except (OSError, KeyError, ValueError):
            return None
        plain = {name: values[name].item() for name in ("date_obs", "first_line", "rows")}
        return cls(**(values | plain))

    @property
    def line_wavelengths(self):
        """Wavelengths on Earth of `lines`, Angstrom."""
        return self.first_line + _FINE_ANGSTROM * (np.arange(len(self.lines)) + 0.5)

    def on_grid(self, image, shape):
        """One of the images, put on the grid of the deep cube; NaN elsewhere."""
        result = np.full(shape, np.nan, np.float32)
        rows, columns = (slice(c, c + n) for c, n in zip(self.corner, image.shape, strict=True))
        result[rows, columns] = image
        return result


def survey_exposures(field, recipe, folder, key, *, line=None, client=None, progress=None):
    """Survey all exposures of a field that touch its grid; those that are surveyed are read.

    Parameters
    ----------
    field : Field
        With a finished cube store.
    recipe : Recipe
    folder : Path
        Where the surveys are kept, beside ``masks.npz``.
    key : str
        Of what the deep cube is made of.
    line : int, optional
        Plane of the cube in the middle of the line that images are made of too.
    client : distributed.Client, optional
    progress : Progress, optional

    Returns
    -------
    list of Survey
        In the order of DATE-OBS.
    """
    (folder / "exposures").mkdir(exist_ok=True)
    whole = tuple((0, n) for n in recipe.grid.shape)
    inputs = [recipe.exposures[n] for n in recipe.touching(whole)]
    velocities = {e.date_obs: radial_velocity(e.header) for e in field.exposures}
    paths = [folder / "exposures" / f"{exposure.name}.npz" for exposure in inputs]
    key = f"{_FORMAT}-{key}"
    items = [
        (replace(recipe, exposures=(exposure,)), path, velocities[exposure.date_obs])
        for exposure, path in zip(inputs, paths, strict=True)
        if Survey.load(path, key) is None
    ]
    effort = effort_of(field, recipe, client)
    work = partial(
        _survey, cube_path=field.cube_path, masks=folder / "masks.npz", line=line, key=key, effort=effort
    )
    for _ in run_tasks(
        work, items, client=client, workers=effort.threads, progress=progress, describe=lambda i: i[1].stem
    ):
        pass
    return [Survey.load(path, key) for path in paths]


def radial_velocity(header):
    """Barycentric correction of the wavelengths of a pixel table, km/s; 0 where the header tells of none."""
    for name in ("RVCORR", "RVCORR BARY"):
        value = header.get(f"ESO DRS MUSE PIXTABLE {name}")
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return 0.0


def _survey(item, *, cube_path, masks, line, key, effort):
    """Survey one exposure and write what was found."""
    recipe, path, velocity = item
    with np.load(masks) as stored:
        where = stored["blank"], stored["bright"]
    work = _Work(recipe, CubeStore(cube_path), where, velocity, line, effort)
    exposure = recipe.exposures[0]
    for name, facts in exposure.parts.items():
        reader = PartReader(recipe.store / exposure.name / name, facts, exposure.columns)
        work.add_part(reader)
        reader.close()
    partial_path = path.with_name(f".{path.name}")
    np.savez_compressed(partial_path, key=key, **work.result())
    partial_path.replace(path)


class _Work:
    """The sums of one exposure."""

    def __init__(self, recipe, store, where, velocity, line, effort):
        from musedeep.kernels.survey import SURVEY_COLUMNS

        self.recipe, self.store, self.exposure = recipe, store, recipe.exposures[0]
        self.effort = effort
        nz, ny, nx = recipe.grid.shape
        x0, x1, y0, y1 = self.exposure.extent
        rows = max(math.floor(y0) - 2, 0), min(math.ceil(y1) + 3, ny)
        columns = max(math.floor(x0) - 2, 0), min(math.ceil(x1) + 3, nx)
        self.corner = np.array([rows[0], columns[0]], np.int64)
        self.box = slice(*rows), slice(*columns)
        shape = rows[1] - rows[0], columns[1] - columns[0]
        self.blank, self.bright = (np.ascontiguousarray(part[self.box]) for part in where)
        low, high = (float(w) for w in recipe.grid.wavelengths[[0, -1]])
        wished = max(math.ceil((high - low) / _BIN_ANGSTROM), _FEWEST_BINS)
        count = max(min(int((high - low) / 2.5), wished), EXPOSURE_BANDS)
        self.bins = np.array([low - 5.0, 1.0, low, max((high - low) / count * (1 + 1e-6), 1e-3), count])
        self.throughput = np.ones(math.ceil(high - low) + 12)
        self.images = np.zeros((count, 3, *shape), np.float32)
        self.first_plane = math.nan if line is None else line - LINE_PLANES * LINE_BINS / 2
        self.line = np.zeros((LINE_BINS, 3, *shape), np.float32)
        self.saturated = np.zeros(shape, np.int32)
        beta = velocity / _LIGHT_KM_S
        earth = math.sqrt((1 - beta) / (1 + beta))
        self.fine = np.array([low * earth - 2.0, _FINE_ANGSTROM, earth])
        self.planes, self.slices = np.zeros((nz, 7)), np.zeros((24 * 48, 4))
        self.columns = np.zeros((24 * SURVEY_COLUMNS, 4))
        self.lines = np.zeros((math.ceil((high * earth + 2.0 - self.fine[0]) / _FINE_ANGSTROM), 3))
        self.light = np.zeros((nz, 4))
        self.rows = 0

    def add_part(self, reader):
        """Add the rows of one part, some segments at a time."""
        first, row, column, segments, rows, columns = reader.box
        whole = (row, row + rows), (column, column + columns)
        for flagged in (0, 1):
            runs = reader.runs(flagged, first, first + segments, *whole)
            filled = runs[..., 1] > runs[..., 0]
            starts = np.where(filled, runs[..., 0], np.iinfo(np.int64).max).min(axis=1)
            stops = np.where(filled, runs[..., 1], 0).max(axis=1)
            for group in _groups(starts, stops, self._most_segments(), self.effort.rows):
                (self._add_flagged if flagged else self._add_good)(reader, *group)

    def _most_segments(self):
        """Segments whose planes of the cube may be held at once."""
        planes = self.recipe.lattice[3] / max(float(np.diff(self.recipe.grid.plane_edges).min()), 1e-6)
        return max(1, int(self.effort.planes_bytes / (12 * max(self.blank.size, 1) * planes)))

    def _add_good(self, reader, start, stop):
        from musedeep.kernels.survey import survey_rows
        from musedeep.kernels.white import drizzle_rows

        recipe, exposure = self.recipe, self.exposure
        rows = reader.read_flat("rows", start, stop)
        origin = reader.read_flat("origin", start, stop)
        low, high = recipe.method.wavelength
        if not ((rows[2] >= low) & (rows[2] <= high)).all():
            kept = (rows[2] >= low) & (rows[2] <= high)
            rows, origin = np.ascontiguousarray(rows[:, kept]), origin[kept]
        if rows.shape[1] == 0:
            return
        wavelength = rows[2].astype(np.float64)
        at_plane = recipe.grid.plane_of(air_to_vacuum(wavelength) if recipe.grid.vacuum else wavelength)
        a = max(int(np.floor(at_plane.min() + 0.5)), 0)
        b = max(min(int(np.floor(at_plane.max() + 0.5)) + 1, recipe.grid.shape[0]), a)
        cube = [self.store.read(name, a, b, *self.box) for name in ("flux", "variance", "weight")]
        n = rows.shape[1]
        px, py, value, noise = (np.empty(n, np.float32) for _ in range(4))
        usable = np.empty(n, np.uint8)
        depth = float(np.median(np.diff(recipe.grid.plane_edges)))
        drop = np.array([*recipe.method.drop[:2], recipe.method.drop[2] / depth])
        survey_rows(
            rows, origin, at_plane, exposure.matrix, exposure.origin, exposure.scale, exposure.weight, drop,
            a, self.corner - recipe.anchor[::-1], *cube, self.blank, self.bright, self.fine,
            px, py, value, noise, usable, self.planes, self.slices, self.columns, self.lines, self.light,
        )  # fmt: skip
        none = np.zeros(n, np.uint32)
        drizzle_rows(
            -px, py, rows[2], value, noise, none, usable, self.throughput, self.bins, 0, 1.0, self.images
        )
        if math.isfinite(self.first_plane):
            bins = np.array([-1.0, recipe.grid.shape[0] + 1.0, self.first_plane, LINE_PLANES, LINE_BINS])
            planes = at_plane.astype(np.float32)
            drizzle_rows(-px, py, planes, value, noise, none, usable, np.ones(2), bins, 0, 1.0, self.line)
        self.rows += n

    def _add_flagged(self, reader, start, stop):
        from musedeep.kernels.survey import count_rows

        dq = reader.read_flat("dq", start, stop)
        saturated = (dq & np.uint32(DQ_BITS["saturated"])) != 0
        if saturated.any():
            rows = reader.read_flat("rows", start, stop)
            exposure, corner = self.exposure, self.corner - self.recipe.anchor[::-1]
            count_rows(rows, exposure.matrix, exposure.origin, corner, saturated, self.saturated)

    def result(self):
        """All of it as arrays."""
        count = len(self.images)
        cuts = [count * n // EXPOSURE_BANDS for n in range(EXPOSURE_BANDS + 1)]
        white = _collapsed(self.images)
        bands = [_collapsed(self.images[a:b]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        images = [white_image(self.recipe.grid, *pair, self.corner) for pair in (white, *bands)]
        found = [find_sources(image, AlignSettings()) for image in images]
        line, line_variance = line_image(self.line)
        return _sources_to(found[0]) | {
            "fwhm": np.array([s.fwhm * images[0].step_arcsec for s in found]),
            "date_obs": self.exposure.date_obs,
            "corner": self.corner,
            "white": white[0],
            "white_variance": white[1],
            "saturated": self.saturated,
            "planes": self.planes,
            "slices": self.slices,
            "columns": self.columns,
            "lines": self.lines,
            "light": self.light,
            "first_line": self.fine[0],
            "rows": self.rows,
            "line": line,
            "line_variance": line_variance,
        }


def _sources_to(sources):
    """Sources as arrays under names of their own."""
    values = {item.name: getattr(sources, item.name) for item in fields(Sources) if item.name != "background"}
    values["background"] = np.array([getattr(sources.background, item.name) for item in fields(Background)])
    return {f"source_{name}": value for name, value in values.items()}


def _sources_from(stored):
    values = {item.name: stored[f"source_{item.name}"] for item in fields(Sources)}
    values |= {name: value.item() for name, value in values.items() if value.ndim == 0}
    return Sources(**values | {"background": Background(*map(float, values["background"]))})


def _groups(starts, stops, most, most_rows):
    """Runs of rows of neighbouring segments, each at most so many segments or rows."""
    start, stop, number = None, None, 0
    for a, b in zip(starts.tolist(), stops.tolist(), strict=True):
        if b <= a:
            continue
        if start is not None and (number >= most or b - start > most_rows):
            yield start, stop
            start = None
        if start is None:
            start, number = a, 0
        stop, number = b, number + 1
    if start is not None:
        yield start, stop


def _collapsed(sums):
    """Image and variance of bins of wavelength, without cosmic rays and without the rim."""
    from musedeep.kernels.white import collapse_bins

    flux, variance = np.empty(sums.shape[2:], np.float32), np.empty(sums.shape[2:], np.float32)
    collapse_bins(np.ascontiguousarray(sums), _CLIP, 3, flux, variance)
    weight = sums[:, 0].sum(axis=0)
    filled = weight[weight > 0]
    thin = weight <= 0.5 * (np.median(filled) if len(filled) else 0)
    flux[thin], variance[thin] = np.nan, np.nan
    return flux, variance
