"""What a combination does, as plain numbers: the grid, the exposures with their matrices and weights, the
method and the rule."""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from musedeep.errors import InputError
from musedeep.grid import VoxelGrid
from musedeep.layout import check_common_field, check_grid_size, eso_grid, grid_from_footprints
from musedeep.masks import check_regions
from musedeep.muse import DQ_BITS, sampling_arcsec
from musedeep.offsets import Offset
from musedeep.sky import eso_positions, sky_frame
from musedeep.store import PixelStore
from musedeep.weights import exposure_weights

__all__ = ["ExposureInput", "Method", "Recipe", "prepare"]

_ARCSEC = 180.0 * 3600.0 / np.pi
_PLANE_ANGSTROM = 1.25
_ESO_ROWS = 4_000_000
# Changes when the arithmetic changes, so that blocks of an older version are not taken for finished.
_ARITHMETIC = 1


@dataclass(frozen=True)
class ExposureInput:
    """One exposure as the kernels need it.

    Attributes
    ----------
    name, date_obs, fingerprint : str
    matrix : ndarray, shape (3, 3)
        Homography from the store's plane [arcsec] to voxel coordinates, counted from `Recipe.anchor`.
    origin : ndarray, shape (2,), arcsec
        Point from which the stored x and y count.
    scale, weight, seconds : float
        Flux scale, weight, exposure time [s].
    parts : dict
        Box and row count of every part.
    columns : int
        Number of stored columns.
    masks : tuple of dict
        Rows to leave out, as plain settings.
    extent : tuple of float
        Smallest and largest voxel coordinates (x, x, y, y) of the rows.
    offset : Offset
    """

    name: str
    date_obs: str
    fingerprint: str
    matrix: np.ndarray
    origin: np.ndarray
    scale: float
    weight: float
    seconds: float
    parts: dict
    columns: int
    masks: tuple
    extent: tuple
    offset: Offset

    def identity(self):
        """Everything of the exposure that a voxel's value depends on; JSON-able."""
        return [
            self.name,
            self.fingerprint,
            self.matrix.tolist(),
            self.scale,
            self.weight,
            self.seconds,
            list(self.masks),
        ]


@dataclass(frozen=True)
class Method:
    """How rows are judged and resampled, in numbers.

    Attributes
    ----------
    resample : str
    drop, pixel : tuple of float
        Size of a drop and of an input pixel: x, y [voxel], wavelength [Angstrom].
    reach : int
        Voxels on each side that a row may touch.
    radius : float
        Renka's critical radius, in input pixels.
    reject : str
    nclip : tuple of float
    gradient, coherence : float
    nmax, nkeep, sample : int
        ``sample``: 0 by depth, 1 own voxel, 27.
    trails : float
    crtype, direction : int
    crsigma : float
    keep_dq : int
        DQ bits that are tolerated.
    wavelength : tuple of float
        Limits of the rows, Angstrom.
    weight_column : bool
    """

    resample: str
    drop: tuple
    pixel: tuple
    reach: int
    radius: float
    reject: str
    nclip: tuple
    gradient: float
    coherence: float
    nmax: int
    nkeep: int
    sample: int
    trails: float
    crtype: int
    direction: int
    crsigma: float
    keep_dq: int
    wavelength: tuple
    weight_column: bool

    @property
    def lag(self):
        """Planes behind the last complete one that must wait for their neighbours before they can be
        judged."""
        return {"guarded": 2 + self.grows, "eso": 1, "none": 0}[self.reject]

    @property
    def grows(self):
        """Whether rejected rows may take those around them along."""
        return self.reject == "guarded" and self.trails > 0 and self.nkeep == 0

    @property
    def halo(self):
        """Voxels around a block whose rows matter: (planes, rows or columns)."""
        own = 0 if self.resample == "nearest" else self.reach
        # guarded: medians one voxel around (two in the plane, for the contrast), each from the voxels around
        # it; one more for rejected rows that take others along
        extra = {"guarded": (2 + self.grows, 3 + self.grows), "eso": (1, 1), "none": (0, 0)}[self.reject]
        return own + extra[0], own + extra[1]


@dataclass(frozen=True)
class Recipe:
    """A whole combination: deterministic, picklable, independent of memory, blocks and workers.

    Attributes
    ----------
    store : Path
    lattice : ndarray
        See `PixelStore.lattice_numbers`.
    grid : VoxelGrid
    method : Method
    exposures : tuple of ExposureInput
        In the order of DATE-OBS.
    unit : str
    """

    store: Path
    lattice: np.ndarray
    grid: VoxelGrid
    method: Method
    exposures: tuple
    unit: str

    @property
    def anchor(self):
        """Voxel (x, y), 0-based and whole, next to the tangent point; ndarray, shape (2,), int64.

        Places are found relative to it, so that those in a cutout of a grid are the same to the last bit.
        """
        return _anchor_of(self.grid)

    def touching(self, bounds):
        """Places of the exposures that may have rows for a block.

        Parameters
        ----------
        bounds : ((int, int), (int, int), (int, int))
            Planes, rows, columns of the block.

        Returns
        -------
        list of int
        """
        halo = self.method.halo
        (_, _), (y0, y1), (x0, x1) = bounds
        left, right, bottom, top = x0 - halo[1] - 1, x1 + halo[1], y0 - halo[1] - 1, y1 + halo[1]
        return [
            n
            for n, e in enumerate(self.exposures)
            if e.extent[1] > left and e.extent[0] < right and e.extent[3] > bottom and e.extent[2] < top
        ]

    def restricted(self, bounds):
        """The same with only the exposures that touch a block; gives the same values there."""
        return replace(self, exposures=tuple(self.exposures[n] for n in self.touching(bounds)))

    def block_key(self, bounds):
        """Hash of everything that the values of a block depend on."""
        facts = [
            _ARITHMETIC,
            self.grid.to_dict(),
            [list(b) for b in bounds],
            _plain(self.method),
            self.lattice.tolist(),
            [self.exposures[n].identity() for n in self.touching(bounds)],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]

    def describe_exposures(self):
        """Facts of the exposures for the attributes of a cube; list of dict."""
        return [
            {
                "name": e.name,
                "date_obs": e.date_obs,
                "exptime": e.seconds,
                "weight": e.weight,
                "ra_offset": e.offset.ra_deg,
                "dec_offset": e.offset.dec_deg,
                "rotation": e.offset.rotation_deg,
                "flux_scale": e.scale,
                "in_offset_list": e.offset is not _NO_OFFSET,
                "fingerprint": e.fingerprint,
            }
            for e in self.exposures
        ]


_NO_OFFSET = Offset()


def _plain(method):
    return [getattr(method, name) for name in method.__dataclass_fields__]


def prepare(field, *, grid=None):
    """Work out a combination from the settings of a field and its pixel store.

    Parameters
    ----------
    field : Field
    grid : VoxelGrid, optional
        Instead of the one that the settings ask for.

    Returns
    -------
    Recipe

    Raises
    ------
    InputError
        Exposures that are not ingested, changed since, of different units, without common field or with an
        offset list that matches none of them.
    """
    store = PixelStore(field.pixels_path)
    table = field.read_offsets()
    chosen = field.combined_exposures(table)
    present = store.exposures()
    facts = []
    for exposure in chosen:
        found = present.get(exposure.name)
        if found is None:
            raise InputError(
                f"exposure {exposure.date_obs} is not in {store.path}; run the ingest stage first."
            )
        if found["fingerprint"] != exposure.fingerprint:
            raise InputError(
                f"{exposure.tables[0].path}: the file changed after exposure {exposure.date_obs} was "
                f"taken in; run the ingest stage again."
            )
        facts.append(found)
    unit = _common_unit(chosen, facts)
    check_regions(field.settings.masks)
    offsets = (
        [o or _NO_OFFSET for o in table.match(chosen)] if table is not None else [_NO_OFFSET] * len(chosen)
    )
    settings = field.settings.combine
    weights = exposure_weights(chosen, settings.weight)
    # Both frames at once: from the plane of the store into the (corrected) frame of each exposure's true
    # pointing.
    frames = [_true_frame(store, e, o) for e, o in zip(chosen, offsets, strict=True)]
    if grid is None and field.settings.grid.grid in ("data", "eso"):
        footprints = [_footprint(f, frame) for f, frame in zip(facts, frames, strict=True)]
        check_common_field(footprints, [e.date_obs for e in chosen])
    grid = grid or choose_grid(field, chosen, facts, frames, offsets, store)
    check_grid_size(grid)
    inputs = tuple(
        _input_of(e, f, frame, o, float(w), grid, field.settings.masks)
        for e, f, frame, o, w in zip(chosen, facts, frames, offsets, weights, strict=True)
    )
    method = _method_of(field.settings, grid, chosen[0], facts[0], any(f["weighted"] for f in facts))
    recipe = Recipe(store.path, store.lattice_numbers, grid, method, inputs, unit)
    _check_overlap(recipe)
    return recipe


def _common_unit(chosen, facts):
    for exposure, found in zip(chosen, facts, strict=True):
        if found["unit"] != facts[0]["unit"]:
            raise InputError(
                f"exposure {exposure.date_obs} has values in {found['unit']!r}, but "
                f"{chosen[0].date_obs} in {facts[0]['unit']!r}; "
                "combine exposures of one flux calibration."
            )
    return facts[0]["unit"]


def _footprint(facts, frame):
    """Directions of the corners of an exposure's outline; unit vectors (M, 3)."""
    plane = (np.array(facts["hull_arcsec"]) + facts["origin_arcsec"]) / _ARCSEC
    points = np.column_stack([plane, np.ones(len(plane))]) @ frame.T
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _true_frame(store, exposure, offset):
    """Frame such that stored plane coordinates (radians) in it are true directions.

    The store keeps header positions in its own tangent plane. The true direction of a row is its direction
    in the exposure's frame, put at the corrected pointing: a rotation of the sphere.
    """
    header = sky_frame(exposure.ra_deg, exposure.dec_deg)
    return offset.frame(exposure.ra_deg, exposure.dec_deg) @ header.T @ sky_frame(*store.tangent)


def _anchor_of(grid):
    return np.floor(grid.crpix).astype(np.int64)


def _input_of(exposure, facts, frame, offset, weight, grid, masks):
    anchor = _anchor_of(grid)
    anchored = replace(grid, crpix=tuple(np.array(grid.crpix) - anchor))
    matrix = np.ascontiguousarray(anchored.from_sky(frame) @ np.diag([1 / _ARCSEC, 1 / _ARCSEC, 1.0]))
    hull = np.array(facts["hull_arcsec"]) + facts["origin_arcsec"]
    projected = np.column_stack([hull, np.ones(len(hull))]) @ matrix.T
    x, y = (projected[:, :2] / projected[:, 2:] + anchor).T
    mine = tuple(
        {name: value for name, value in vars(mask).items() if name not in ("exposures", "note") and value}
        for mask in masks
        if not mask.exposures or exposure.date_obs in {date[:23] for date in mask.exposures}
    )
    return ExposureInput(
        exposure.name,
        exposure.date_obs,
        facts["fingerprint"],
        matrix,
        np.array(facts["origin_arcsec"]),
        offset.flux_scale,
        weight,
        exposure.exptime,
        facts["parts"],
        6 if facts["weighted"] else 5,
        mine,
        tuple(float(v) for v in (x.min(), x.max(), y.min(), y.max())),
        offset,
    )


def choose_grid(field, chosen, facts, frames, offsets, store):
    """The output grid that the settings of a field ask for.

    Parameters
    ----------
    field : Field
    chosen, facts, frames, offsets : sequences
        The exposures, what the store knows of them, their true frames and offsets.
    store : PixelStore

    Returns
    -------
    VoxelGrid
    """
    settings, limits = field.settings.grid, field.settings.combine
    default = sampling_arcsec(chosen[0].mode)
    step = (settings.dx or default[0], settings.dy or default[1])
    low = max(min(f["wavelength"][0] for f in facts), limits.lambdamin)
    high = min(max(f["wavelength"][1] for f in facts), limits.lambdamax)
    if low > high:
        raise InputError(
            f"no row lies between lambdamin = {limits.lambdamin} and lambdamax = {limits.lambdamax} "
            f"Angstrom; the exposures cover "
            f"{min(f['wavelength'][0] for f in facts):.2f} to {max(f['wavelength'][1] for f in facts):.2f}."
        )
    if settings.grid == "eso":
        pointings = [o.pointing(e.ra_deg, e.dec_deg) for e, o in zip(chosen, offsets, strict=True)]
        ra, dec, wavelengths = _eso_limits(chosen, pointings, limits)
        return eso_grid(ra, dec, *pointings[0], wavelengths, step, settings.dlambda, settings.log)
    grid = grid_from_footprints(
        [_footprint(found, frame) for found, frame in zip(facts, frames, strict=True)],
        (low, high),
        step_arcsec=step,
        wavelength_step=settings.dlambda,
        log=settings.log,
        vacuum=settings.vacuum,
        rotation=settings.rotation,
    )
    return grid if settings.grid == "data" else VoxelGrid.from_file(settings.grid, default=grid)


def _eso_limits(chosen, pointings, limits):
    """Extremes of the positions as the peer stores them: one pass over the coordinates of all tables."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for n, (exposure, pointing) in enumerate(zip(chosen, pointings, strict=True)):
        for table in exposure.tables:
            for start in range(0, table.row_count, _ESO_ROWS):
                rows = table.read_columns(
                    ["xpos", "ypos", "lambda"], start, min(start + _ESO_ROWS, table.row_count)
                )
                inside = (rows["lambda"] >= limits.lambdamin) & (rows["lambda"] <= limits.lambdamax)
                if inside.any():
                    ra, dec = eso_positions(
                        rows["xpos"][inside], rows["ypos"][inside], *pointing, pointings[0] if n else None
                    )
                    values = [ra, dec, rows["lambda"][inside]]
                    low = np.fmin(low, [float(np.nanmin(v)) for v in values])
                    high = np.fmax(high, [float(np.nanmax(v)) for v in values])
    return (low[0], high[0]), (low[1], high[1]), (low[2], high[2])


def _method_of(settings, grid, first, facts, weighted):
    combine = settings.combine
    step = grid.step_arcsec
    scale = [facts["pixel_deg"][axis] * 3600.0 / step[axis] for axis in (0, 1)]
    narrowest = float(np.diff(grid.plane_edges).min())
    drop = (
        combine.pixfrac[0] * scale[0],
        combine.pixfrac[1] * scale[1],
        combine.pixfrac[2] * _PLANE_ANGSTROM,
    )
    reject = combine.reject
    if reject == "eso" and combine.crsigma == 0:
        reject = "none"
    diagonal = [1.0 / scale[0], 1.0 / scale[1], grid.wavelength_step / _PLANE_ANGSTROM]
    return Method(
        resample=combine.resample,
        drop=drop,
        pixel=(scale[0], scale[1], _PLANE_ANGSTROM),
        reach=_reach(combine, drop, narrowest),
        radius=combine.rc * math.sqrt(sum(d * d for d in diagonal)),
        reject=reject,
        nclip=tuple(combine.nclip),
        gradient=combine.gradient,
        coherence=combine.coherence,
        nmax=combine.nmax,
        nkeep=combine.nkeep,
        sample={"auto": 0, "own": 1, "27": 27}[combine.sample],
        trails=combine.trails,
        crtype=("median", "mean", "iraf").index(combine.crtype),
        direction=_direction(first.position_angle_deg),
        crsigma=combine.crsigma,
        keep_dq=sum(DQ_BITS[name] for name in set(combine.keep_dq)),
        # Rows are float32: the limit is the float32 nearest to it, so that a row equal to it is inside.
        wavelength=(float(np.float32(combine.lambdamin)), float(np.float32(combine.lambdamax))),
        weight_column=weighted and combine.weight == "column",
    )


def _reach(combine, drop, narrowest):
    """Voxels on each side that rows are spread over: as asked, or as few as the drop needs."""
    if combine.resample == "nearest":
        return 0
    if combine.ld:
        return combine.ld
    if combine.resample != "drizzle":
        return 1
    # a row lies up to half a voxel from the centre of its own one and reaches half a drop further
    return max(
        1,
        *(
            math.ceil(size / voxel / 2 + 1.0) - 1
            for size, voxel in zip(drop, (1.0, 1.0, narrowest), strict=True)
        ),
    )


def _direction(position_angle_deg):
    """The peer's direction of slices, from the position angle: 1 along x, 2 along y, 0 neither."""
    angle = abs(position_angle_deg) % 180.0
    if min(angle, 180.0 - angle) < 5.0:
        return 1
    return 2 if abs(angle - 90.0) < 5.0 else 0


def _check_overlap(recipe):
    nz, ny, nx = recipe.grid.shape
    inside = recipe.touching(((0, nz), (0, ny), (0, nx)))
    if not inside:
        raise InputError(
            f"none of the {len(recipe.exposures)} exposures touches the output grid (centre RA "
            f"{recipe.grid.crval[0]:.5f}, Dec "
            f"{recipe.grid.crval[1]:.5f}, {nx} x {ny} voxels); check the offsets and the grid."
        )
