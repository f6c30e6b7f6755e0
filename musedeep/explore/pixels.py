"""The rows of a field's pixel store, selected by place, wavelength, exposure, IFU and slice."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from musedeep.accessor.geometry import pixel_regions
from musedeep.errors import UsageError
from musedeep.field import Field, open_field
from musedeep.muse import IFU_COUNT, SLICE_COUNT, origin_ifu, origin_slice, origin_x, origin_y
from musedeep.picture import rows_html
from musedeep.reads import Box, plan_reads
from musedeep.recipe import Recipe, prepare
from musedeep.store import PartReader, PixelStore, join_runs

__all__ = ["PixelRows", "open_pixels"]

_KINDS = {
    "exposure": "int16",
    "ra": "float64",
    "dec": "float64",
    "wavelength": "float32",
    "value": "float32",
    "variance": "float32",
    "dq": "uint32",
    "ifu": "uint8",
    "slice": "uint8",
    "column": "uint16",
    "line": "uint16",
}
_TEXT = {
    "exposure": "place of the exposure in the attribute exposures",
    "ra": "right ascension, offsets applied",
    "dec": "declination, offsets applied",
    "wavelength": "wavelength in air",
    "value": "value, flux scale applied",
    "variance": "variance, flux scale applied",
    "dq": "data quality bits",
    "ifu": "IFU, 1 to 24",
    "slice": "slice, 1 to 48 in the order of the detector",
    "column": "column of the detector, from 1",
    "line": "line of the detector, from 1",
}
_EVERY_BIT = 0xFFFFFFFF
_SEGMENT_ANGSTROM = 5.0
# Rows of a chunk, about.
_CHUNK = 1 << 20


def open_pixels(field, *, region=None, wavelength=None, exposures=None, ifu=None, slices=None):
    """Open the rows of a field's pixel store, or some of them.

    Parameters
    ----------
    field : Field or path
    region : regions.SkyRegion or str, optional
        A region on the sky, or one as DS9 writes it: rows that lie in it, offsets applied.
    wavelength : (float, float), optional
        Smallest and largest wavelength, Angstrom (in air).
    exposures : str or sequence of str, optional
        As the setting ``select``: DATE-OBS values, ``"half:A"``, ``"ob:NAME"``, ...
    ifu, slices : int or sequence of int, optional
        IFUs 1 to 24, and slices 1 to 48 in the order of the detector.

    Returns
    -------
    PixelRows
        Nothing of the rows is read yet.

    Raises
    ------
    InputError
        The exposures are not ingested.
    UsageError
        A selection is not allowed.
    """
    field = field if isinstance(field, Field) else open_field(field)
    return PixelRows(field).select(
        region=region, wavelength=wavelength, exposures=exposures, ifu=ifu, slices=slices
    )


@dataclass(frozen=True)
class PixelRows:
    """A selection of the rows of a field; made by `open_pixels`, read by `to_xarray` and `to_pandas`.

    Attributes
    ----------
    field : Field
    region, wavelength, exposures, ifu, slices
        As of `open_pixels`.
    """

    field: Field
    region: object = None
    wavelength: tuple | None = None
    exposures: object = "all"
    ifu: tuple = ()
    slices: tuple = ()

    def select(self, *, region=None, wavelength=None, exposures=None, ifu=None, slices=None):
        """The same with other choices in place of those that are given; parameters as of `open_pixels`."""
        given = {
            "region": region,
            "wavelength": wavelength,
            "exposures": exposures,
            "ifu": ifu,
            "slices": slices,
        }
        given = {name: value for name, value in given.items() if value is not None}
        for name, most in (("ifu", IFU_COUNT), ("slices", SLICE_COUNT)):
            if name in given:
                given[name] = tuple(int(n) for n in np.atleast_1d(given[name]))
                if not all(1 <= n <= most for n in given[name]):
                    raise UsageError(f"{name} = {given[name]} is not allowed: numbers go from 1 to {most}")
        if "wavelength" in given:
            low, high = (float(v) for v in given["wavelength"])
            if not low < high:
                raise UsageError(
                    f"wavelength = ({low:g}, {high:g}) is not allowed: give the smaller one first"
                )
            given["wavelength"] = low, high
        return replace(self, **given)

    @cached_property
    def recipe(self):
        """Where the rows lie: the `Recipe` of the field, with planes of 5 Angstrom and without judgement."""
        dates = [self.field.exposures.dates[n] for n in self.field.exposures.select(self.exposures)]
        recipe = prepare(self.field.changed(select=dates))
        grid = replace(
            recipe.grid, wavelength_start=_SEGMENT_ANGSTROM, wavelength_step=_SEGMENT_ANGSTROM,
            wavelength_crpix=1.0, log=False, vacuum=False,
        )  # fmt: skip
        method = replace(
            recipe.method, resample="nearest", reject="none", keep_dq=_EVERY_BIT, wavelength=(0.0, np.inf)
        )
        return replace(recipe, grid=grid, method=method)

    @cached_property
    def _regions(self):
        """Regions in pixels of the recipe's grid, without those on the other side of the sky."""
        shapes = [] if self.region is None else pixel_regions(self.recipe.grid, self.region)
        found = []
        for shape in shapes:
            with suppress(ValueError):  # there is no box around what has no place
                found.append((shape, shape.bounding_box))
        return found

    @cached_property
    def _bounds(self):
        """Planes, rows and columns of the recipe's grid that hold the selection."""
        recipe = self.recipe
        present = PixelStore(recipe.store).exposures()
        low, high = self.wavelength or (
            min(present[e.name]["wavelength"][0] for e in recipe.exposures),
            max(present[e.name]["wavelength"][1] for e in recipe.exposures),
        )
        planes = recipe.grid.plane_of(np.array([low, high])) + 0.5
        if self.region is not None:
            boxes = [box for _, box in self._regions]
            x = min(b.ixmin for b in boxes), max(b.ixmax for b in boxes)
            y = min(b.iymin for b in boxes), max(b.iymax for b in boxes)
        else:
            extents = np.array([exposure.extent for exposure in recipe.exposures])
            x = int(np.floor(extents[:, 0].min())) - 1, int(np.ceil(extents[:, 1].max())) + 2
            y = int(np.floor(extents[:, 2].min())) - 1, int(np.ceil(extents[:, 3].max())) + 2
        return (int(planes[0]), int(planes[1]) + 1), y, x

    @cached_property
    def _pieces(self):
        """Runs of rows that hold the selection, in pieces: (exposure, part, ((first, last), ...))."""
        recipe, pieces = self.recipe, []
        if self.region is not None and not self._regions:
            return pieces
        for n in recipe.touching(self._bounds):
            exposure = recipe.exposures[n]
            for name, facts in exposure.parts.items():
                part = PartReader(recipe.store / exposure.name / name, facts, exposure.columns)
                reads = plan_reads(recipe, Box(recipe, self._bounds), [(n, [part])])
                part.close()
                for _, _, kinds in reads.runs:
                    found = np.concatenate([runs.reshape(-1, 2) for *_, runs in kinds])
                    pieces += [(n, name, runs) for runs in _portions(join_runs(found))]
        return pieces

    @property
    def _exact(self):
        """Whether the index alone tells how many rows there are."""
        return self.region is None and self.wavelength is None and not (self.ifu or self.slices)

    @property
    def most_rows(self):
        """Rows that have to be looked at, from the index of the store alone; int."""
        return sum(last - first for _, _, runs in self._pieces for first, last in runs)

    def to_pandas(self):
        """The rows as a `pandas.DataFrame`, in memory, with date_obs as a category in place of exposure."""
        import pandas as pd

        data = self.to_xarray().compute()
        columns = {name: data[name].values for name in _KINDS}
        dates = [exposure.date_obs for exposure in self.recipe.exposures]
        frame = pd.DataFrame(columns)
        frame.insert(0, "date_obs", pd.Categorical.from_codes(frame.pop("exposure"), dates))
        frame.attrs = dict(data.attrs)
        return frame

    def to_xarray(self):
        """The rows as an `xarray.Dataset` over ``row``, on dask arrays.

        Returns
        -------
        xarray.Dataset
            exposure (place in the attribute exposures), ra, dec [deg], wavelength [Angstrom], value,
            variance, dq, ifu, slice, column, line. A chunk holds runs of rows of one part of one exposure. A
            selection that cuts finer than the index is counted first, which reads its rows once.
        """
        import dask
        import dask.array as da
        import xarray as xr

        offsets = {
            n: self.field.exposures[e.date_obs].xoffsets() for n, e in enumerate(self.recipe.exposures)
        }
        look = _Look(
            self.recipe,
            [shape for shape, _ in self._regions],
            self.wavelength,
            self.ifu,
            self.slices,
            offsets,
        )
        look = dask.delayed(look, pure=True, traverse=False)
        pieces = [dask.delayed(_read_piece, pure=True)(look, piece) for piece in self._pieces]
        if self._exact:
            counts = [sum(last - first for first, last in runs) for *_, runs in self._pieces]
        else:
            counts = dask.compute(*[dask.delayed(_count)(piece) for piece in pieces])
        columns = {}
        for name, kind in _KINDS.items():
            parts = [
                da.from_delayed(piece[name], (int(count),), kind)
                for piece, count in zip(pieces, counts, strict=True)
                if count
            ]
            columns[name] = (
                "row",
                da.concatenate(parts) if parts else da.zeros(0, dtype=kind),
                self._attrs(name),
            )
        attrs = {"field": self.field.name, "exposures": [e.date_obs for e in self.recipe.exposures]}
        return xr.Dataset(columns, attrs=attrs)

    def _attrs(self, name):
        unit = {"ra": "deg", "dec": "deg", "wavelength": "Angstrom", "value": self.recipe.unit}
        unit["variance"] = f"({self.recipe.unit})**2"
        return {"long_name": _TEXT[name]} | ({"units": unit[name]} if name in unit else {})

    def __repr__(self):
        chosen = ", ".join(f"{name} = {value}" for name, value in self._choices().items())
        return f"<rows of {self.field.name}: {chosen or 'all'}; at most {self.most_rows}>"

    def _choices(self):
        names = ("region", "wavelength", "exposures", "ifu", "slices")
        return {name: getattr(self, name) for name in names if getattr(self, name) not in (None, (), "all")}

    def _repr_html_(self):
        present = PixelStore(self.recipe.store).exposures()
        outlines = [present[exposure.name] for exposure in self.recipe.exposures]
        facts = {name: str(value) for name, value in self._choices().items()}
        facts["exposures"] = f"{len(outlines)} of {len(self.field.exposures)}"
        facts["rows"] = str(self.most_rows) if self._exact else f"at most {self.most_rows}"
        facts["columns"] = ", ".join(_KINDS)
        return rows_html(f"Rows of {self.field.name}", facts, outlines)


@dataclass(frozen=True)
class _Look:
    """What tells which rows belong to a selection, and where on the detectors they lie."""

    recipe: Recipe
    regions: list
    wavelength: tuple | None
    ifu: tuple
    slices: tuple
    xoffsets: dict


def _portions(runs):
    """Group runs so that each group has about as many rows as a chunk."""
    group, size = [], 0
    for first, last in runs:
        for a, b in pairwise([*range(first, last, _CHUNK), last]):
            group.append((a, b))
            size += b - a
            if size >= _CHUNK:
                yield tuple(group)
                group, size = [], 0
    if group:
        yield tuple(group)


def _count(columns):
    return len(columns["dq"])


def _read_piece(look, piece):
    """Columns of the rows of a piece that belong to a selection; dict of ndarray."""
    n, name, runs = piece
    recipe = look.recipe
    exposure = recipe.exposures[n]
    part = PartReader(recipe.store / exposure.name / name, exposure.parts[name], exposure.columns)
    try:
        found = [_read_run(look, n, exposure, part, first, last) for first, last in runs]
    finally:
        part.close()
    return {name: np.concatenate([columns[name] for columns in found]) for name in _KINDS}


def _read_run(look, n, exposure, part, first, last):
    recipe = look.recipe
    values, origin = part.read_flat("rows", first, last), part.read_flat("origin", first, last)
    plane = np.stack([*(values[:2].astype(np.float64) + exposure.origin[:, None]), np.ones(last - first)])
    x, y, w = exposure.matrix @ plane
    x, y = x / w + recipe.anchor[0], y / w + recipe.anchor[1]
    inside = _inside(look, values, origin, x, y)
    values, origin, x, y = values[:, inside], origin[inside], x[inside], y[inside]
    ifu, number = origin_ifu(origin).astype(np.intp), origin_slice(origin).astype(np.intp)
    ra, dec = recipe.grid.wcs.celestial.all_pix2world(x, y, 0) if x.size else (x, y)
    scale = np.float32(exposure.scale)
    columns = {
        "exposure": np.full(x.size, n),
        "ra": ra,
        "dec": dec,
        "wavelength": values[2],
        "value": values[3] * scale,
        "variance": values[4] * scale**2,
        "dq": part.read_flat("dq", first, last)[inside],
        "ifu": ifu,
        "slice": number,
        "column": origin_x(origin, look.xoffsets[n][ifu, number]),
        "line": origin_y(origin),
    }
    return {name: columns[name].astype(kind) for name, kind in _KINDS.items()}


def _inside(look, values, origin, x, y):
    """Which rows belong to the selection."""
    from regions import PixCoord

    inside = np.ones(len(origin), bool)
    if look.wavelength is not None:
        inside &= (values[2] >= look.wavelength[0]) & (values[2] <= look.wavelength[1])
    if look.ifu:
        inside &= np.isin(origin_ifu(origin), look.ifu)
    if look.slices:
        inside &= np.isin(origin_slice(origin), look.slices)
    if look.regions:
        within = np.zeros(len(origin), bool)
        for region in look.regions:
            within |= region.contains(PixCoord(x, y))
        inside &= within
    return inside
