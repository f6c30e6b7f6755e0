"""Pixel tables -> pixel store: every row once, sorted by wavelength segment and sky pencil."""

import shutil
from dataclasses import dataclass
from functools import partial

import numpy as np

from musedeep.arena import scratch
from musedeep.errors import InputError
from musedeep.execute import run_tasks
from musedeep.plan import MOST_ROWS, part_rows
from musedeep.sky import convex_hull, sky_frame, sky_vectors
from musedeep.store import PixelStore

__all__ = ["ingest_exposures"]

_ARCSEC = 180.0 * 3600.0 / np.pi
# No exposure of the instrument spans more; a larger one has broken coordinates, and would need a huge
# lattice.
_WIDEST_ARCSEC = 300.0
_PIECE_ROWS = 1 << 17
# Strips that an exposure's outline is made from. They lie where they lie, whatever part a row is in.
_STRIP_ARCSEC = 0.05
_FIRST_STRIP_ARCSEC = -_WIDEST_ARCSEC - 1.0
_STRIPS = int(-2 * _FIRST_STRIP_ARCSEC / _STRIP_ARCSEC)


_scratch = partial(scratch, "ingest")


@dataclass(frozen=True)
class _Task:
    """One part of one exposure: the rows of a range of wavelength segments."""

    store: PixelStore
    tables: tuple
    pointing: tuple  # RA, Dec of the header, degrees
    exposure: str
    part: str
    segments: tuple | None  # first, behind last; None for all


def ingest_exposures(field, *, client=None, progress=None):
    """Bring all exposures of a field into its pixel store.

    What is there already and unchanged is skipped; an exposure whose file changed is taken anew. May be
    interrupted at any time: finished parts are kept and the rest is done by the next call.

    Parameters
    ----------
    field : Field
    client : distributed.Client, optional
        Where to run; threads of this process otherwise.
    progress : Progress, optional

    Returns
    -------
    dict
        Facts of every exposure in the store, by name.

    Raises
    ------
    InputError
        A file is unreadable or its coordinates make no sense.
    MemoryLimitError
        Not even the smallest part fits into ``memory``.
    """
    exposures = list(field.exposures)
    tangent = _common_tangent(exposures)
    store = PixelStore.create(field.pixels_path, tangent, staging=field.staging_path)
    present = store.exposures()
    missing = [e for e in exposures if present.get(e.name, {}).get("fingerprint") != e.fingerprint]
    rows, workers = part_rows(field.settings.run, client, MOST_ROWS)
    for exposure in missing:
        _clear_stale_parts(store, exposure)
    surveys = [_task(store, e, "survey") for e in missing if e.row_count > rows]
    for _ in run_tasks(_survey, surveys, client=client, workers=workers, describe=_describe):
        pass
    tasks, waiting = [], {}
    for exposure in missing:
        parts = _parts_of(store, exposure, rows)
        tasks += parts
        waiting[exposure.name] = (exposure, parts, {task.part for task in parts})
    for task, _ in run_tasks(
        _ingest_part, tasks, client=client, workers=workers, progress=progress, describe=_describe
    ):
        exposure, parts, left = waiting[task.exposure]
        left.discard(task.part)
        if not left:
            _commit(store, exposure, [part.part for part in parts])
    return store.exposures()


def _common_tangent(exposures):
    """RA, Dec of the tangent point, degrees: near the mean pointing.

    In whole degrees, so that a field to which an exposure is added keeps the same rows, to the last bit, as
    one that has had it from the beginning.
    """
    mean = sky_vectors([e.ra_deg for e in exposures], [e.dec_deg for e in exposures]).sum(axis=0)
    ra, dec = np.degrees([np.arctan2(mean[1], mean[0]), np.arctan2(mean[2], np.hypot(*mean[:2]))])
    return float(np.round(ra) % 360.0), float(np.round(dec))


def _task(store, exposure, part, segments=None):
    pointing = exposure.ra_deg, exposure.dec_deg
    return _Task(store, exposure.tables, pointing, exposure.name, part, segments)


def _describe(task):
    return f"exposure {task.exposure}, {task.part}"


def _clear_stale_parts(store, exposure):
    """Keep parts of an interrupted ingest only if they came from the same file."""
    staging = store.staging(exposure.name)
    mark = staging / "fingerprint"
    if not (mark.exists() and mark.read_text() == exposure.fingerprint):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        mark.write_text(exposure.fingerprint)


def _parts_of(store, exposure, most_rows):
    """Tasks of one exposure: wavelength ranges of whole segments with about as many rows each."""
    staging = store.staging(exposure.name)
    survey = staging / "survey.npz"
    if exposure.row_count <= most_rows or not survey.exists():
        return [_task(store, exposure, "part000")]
    with np.load(survey) as found:
        first, histogram = int(found["first"]), found["histogram"]
    if not histogram.any():
        raise _no_usable_row(exposure)
    number = -(-int(histogram.sum()) // most_rows)
    share = np.minimum(np.cumsum(histogram) * number // max(histogram.sum() + 1, 1), number - 1)
    tasks = []
    for p in range(number):
        inside = np.flatnonzero((share == p) & (histogram > 0))
        if inside.size:
            a, b = first + int(inside[0]), first + int(inside[-1]) + 1
            tasks.append(_task(store, exposure, f"part{p:03d}_{a}_{b}", (a, b)))
    return tasks


def _survey(task):
    """One pass over the wavelengths of an exposure: rows of each segment, and the range of every block of
    rows."""
    from musedeep.kernels.ingest import LONGEST, SHORTEST, SURVEY_BLOCK, survey_blocks

    store = task.store
    target = store.staging(task.exposure) / "survey.npz"
    if target.exists():
        return
    _, _, origin, length = store.lattice_numbers
    first = int(np.floor((SHORTEST - origin) / length))
    histogram = np.zeros(int(np.floor((LONGEST - origin) / length)) + 1 - first, np.int64)
    lows, highs = [], []
    for table in task.tables:
        low, high = (np.empty(-(-table.row_count // SURVEY_BLOCK), np.float32) for _ in range(2))
        step = 128 * SURVEY_BLOCK
        for start in range(0, table.row_count, step):
            stop = min(start + step, table.row_count)
            wavelength = _scratch("surveyed", stop - start, np.float32)
            table.read_columns(["lambda"], start, stop, {"lambda": wavelength})
            blocks = slice(start // SURVEY_BLOCK, (start + step) // SURVEY_BLOCK)
            survey_blocks(wavelength, origin, length, first, low[blocks], high[blocks], histogram)
        lows.append(low)
        highs.append(high)
    arrays = {f"low{n}": v for n, v in enumerate(lows)} | {f"high{n}": v for n, v in enumerate(highs)}
    partial = target.with_name("survey.writing.npz")
    np.savez(partial, first=first, histogram=histogram, **arrays)
    partial.rename(target)


def _read_rows(task, lattice):
    """Columns of the task's rows, in file order; dict of arrays."""
    names = ["xpos", "ypos", "lambda", "data", "stat", "dq", "origin"]
    tables = task.tables
    weighted = ["weight" in table.columns for table in tables]
    if any(weighted) and not all(weighted):
        raise InputError(
            f"exposure {task.exposure}: some of its files have a column weight and others have none; "
            f"give files of one kind."
        )
    wanted = [*names, "weight"] if all(weighted) else names
    ranges = [
        (table, *piece)
        for n, table in enumerate(tables)
        for span in _row_ranges(task, table, n, lattice)
        for piece in _pieces(*span)
    ]
    total = sum(stop - start for _, start, stop in ranges)
    columns = {name: _scratch(name, total, tables[0].read(name, 0, 0).dtype) for name in wanted}
    at = 0
    for table, start, stop in ranges:
        end = at + stop - start
        table.read_columns(wanted, start, stop, {name: columns[name][at:end] for name in wanted})
        at = end
    _check_unchanged(tables)
    return columns


def _check_unchanged(tables):
    """Refuse rows of a file that was replaced since it was opened: other parts have those of the old one."""
    for table in tables:
        found = table.path.stat()
        if (found.st_size, found.st_mtime_ns) != (table.size_bytes, table.mtime_ns):
            raise InputError(
                f"{table.path}: was changed or replaced while it was taken in; let it be complete, then run "
                "again: this exposure is taken in anew, and what is finished of the others is kept."
            )


def _pieces(start, stop):
    """A range of rows in pieces that stay in the cache on their way."""
    return [(a, min(a + _PIECE_ROWS, stop)) for a in range(start, stop, _PIECE_ROWS)]


def _row_ranges(task, table, number, lattice):
    """Ranges of rows of a file that hold all rows of the task's segments (and some others)."""
    from musedeep.kernels.ingest import SURVEY_BLOCK

    if task.segments is None:
        return [(0, table.row_count)]
    with np.load(task.store.staging(task.exposure) / "survey.npz") as survey:
        low, high = survey[f"low{number}"], survey[f"high{number}"]
    start, stop = (lattice[2] + lattice[3] * s for s in task.segments)
    inside = np.concatenate([[False], (high >= start) & (low <= stop), [False]])
    edges = np.flatnonzero(inside[1:] != inside[:-1]).reshape(-1, 2)
    return [(int(a) * SURVEY_BLOCK, min(int(b) * SURVEY_BLOCK, table.row_count)) for a, b in edges]


def _ingest_part(task):
    """Read, place, sort and write one part; nothing is done for a part that is there."""
    from musedeep.kernels import ingest as kernels

    store = task.store
    if store.staged_part(task.exposure, task.part) is not None:
        return
    lattice = store.lattice_numbers
    matrix, origin = _exposure_frame(store, *task.pointing)
    columns = _read_rows(task, lattice)
    if "weight" in columns:  # a row without a weight counts nothing
        np.nan_to_num(columns["weight"], copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    n = len(columns["data"])
    # Memory that is touched first costs as much as the arithmetic, so columns make room for what comes of
    # them.
    x, y = columns.pop("xpos"), columns.pop("ypos")
    usable = _scratch("usable", n, np.uint8)
    limits = np.array([np.inf, -np.inf] * 3)
    kernels.place_rows(
        x, y, columns["lambda"], columns["data"], columns["stat"], matrix, origin, x, y, usable, limits
    )
    box = _lattice_box(task, limits, origin, lattice)
    key, count = _scratch("key", n, np.int32), np.zeros(2 * int(np.prod(box[3:])), np.int64)
    kernels.assign_keys(x, y, columns["lambda"], columns["dq"], usable, origin, lattice, box, key, count)
    offset = np.concatenate([[0], np.cumsum(count)])
    facts = {
        "box": box.tolist(),
        "row_count": int(offset[-1]),
        "flagged_count": int(count[count.size // 2 :].sum()),
    }
    place = key
    kernels.find_places(key, offset[:-1].copy(), place)
    floats = {
        "x": x,
        "y": y,
        **{name: columns[name] for name in ("lambda", "data", "stat", "weight") if name in columns},
    }
    rows = _scratch("rows", (len(floats), facts["row_count"]), np.float32)
    for row, values in zip(rows, floats.values(), strict=True):
        kernels.sort_column(values, place, row)
    facts["strips"] = _strips_of(rows[0], rows[1])
    facts["wavelength"] = [float(rows[2].min()), float(rows[2].max())] if facts["row_count"] else []
    dq, detector = (column[: facts["row_count"]].view(np.uint32) for column in (x, y))
    slices = columns["lambda"].view(np.uint16)[: facts["row_count"]]
    kernels.sort_column(columns["dq"], place, dq)
    kernels.sort_column(columns["origin"], place, detector)
    kernels.number_slices(detector, slices)
    store.write_part(task.exposure, task.part, rows, dq, slices, detector, offset, facts)


def _exposure_frame(store, ra_deg, dec_deg):
    """Homography from an exposure's tangent plane to that of the store, and the exposure's pointing in the
    latter [arcsec]."""
    matrix = np.ascontiguousarray(sky_frame(*store.tangent).T @ sky_frame(ra_deg, dec_deg))
    if matrix[2, 2] < 0.1:
        raise InputError(
            f"the exposure at RA {ra_deg:.5f}, Dec {dec_deg:.5f} deg is more than 80 degrees from the "
            f"field at RA "
            f"{store.tangent[0]:.5f}, Dec {store.tangent[1]:.5f}; combine them apart."
        )
    return matrix, matrix[:2, 2] / matrix[2, 2] * _ARCSEC


def _lattice_box(task, limits, origin, lattice):
    """The part of the lattice that the rows of a task may fall into: first segment, row, column, and how
    many."""
    if not np.isfinite(limits).all():
        return np.array([0, 0, 0, 0, 0, 0])
    for name, (low, high) in (("xpos", limits[:2]), ("ypos", limits[2:4])):
        if max(abs(low), abs(high)) > _WIDEST_ARCSEC:
            raise InputError(
                f"exposure {task.exposure} ({task.tables[0].path}): {name} puts rows "
                f"{max(abs(low), abs(high)):.0f} arcsec from the "
                f"pointing; at most {_WIDEST_ARCSEC:.0f} are possible. Its coordinates are broken."
            )
    segments = task.segments or tuple(
        int(np.floor((v - lattice[2]) / lattice[3])) + e for e, v in enumerate(limits[4:])
    )
    first = [int(np.floor((limits[2 * c] + origin[c]) / lattice[c])) for c in (1, 0)]
    last = [int(np.floor((limits[2 * c + 1] + origin[c]) / lattice[c])) + 1 for c in (1, 0)]
    # float32 rounding of x and y may carry a row over the edge
    first, last = [f - 1 for f in first], [v + 1 for v in last]
    return np.array([segments[0], *first, segments[1] - segments[0], last[0] - first[0], last[1] - first[1]])


def _strips_of(x, y):
    """Extent of the rows along x in strips along y, and along y: what the outline is made from. JSON-able."""
    from musedeep.kernels import ingest as kernels

    if x.size == 0:
        return {"number": [], "low": [], "high": [], "y": []}
    low, high = np.full(_STRIPS, np.inf, np.float32), np.full(_STRIPS, -np.inf, np.float32)
    kernels.strip_extents(x, y, _FIRST_STRIP_ARCSEC, _STRIP_ARCSEC, low, high)
    filled = np.flatnonzero(low <= high)
    return {
        "number": filled.tolist(),
        "low": low[filled].tolist(),
        "high": high[filled].tolist(),
        "y": [float(y.min()), float(y.max())],
    }


def _outline(parts):
    """Convex polygon around all rows, [x, y] in arcsec from the exposure's pointing; at most 0.05 arcsec too
    large, and the same however the rows were parted."""
    low, high = np.full(_STRIPS, np.inf), np.full(_STRIPS, -np.inf)
    for strips in parts:
        number = np.array(strips["number"], int)
        low[number] = np.minimum(low[number], strips["low"])
        high[number] = np.maximum(high[number], strips["high"])
    ends = np.concatenate([strips["y"] for strips in parts])
    filled = np.flatnonzero(low <= high)
    edges = _FIRST_STRIP_ARCSEC + np.stack([filled, filled + 1]) * _STRIP_ARCSEC
    edges = edges.clip(ends.min(), ends.max())
    points = np.concatenate([np.stack([side[filled], edge], -1) for side in (low, high) for edge in edges])
    spread = np.ptp(points, axis=0)
    if spread.min() < 1e-3:  # rows on a line have no polygon: a thin box stands for it
        corner = points.min(axis=0)
        return [
            [corner[0] + a * spread[0], corner[1] + b * spread[1]]
            for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))
        ]
    return convex_hull(points).tolist()


def _no_usable_row(exposure):
    return InputError(
        f"exposure {exposure.date_obs} ({exposure.tables[0].path}): none of its {exposure.row_count} rows "
        "has usable coordinates and values: finite, a wavelength in Angstrom and a variance of 0 or more."
    )


def _commit(store, exposure, names):
    """Write the facts of an exposure whose parts are all there, and make it visible."""
    from musedeep.muse import scales_from_cd

    staging = store.staging(exposure.name)
    for folder in staging.glob("part*"):
        if folder.name not in names:  # of an earlier try that was cut into other parts
            shutil.rmtree(folder)
    parts = {name: store.staged_part(exposure.name, name) for name in sorted(names)}
    total = {name: sum(p[name] for p in parts.values()) for name in ("row_count", "flagged_count")}
    if total["row_count"] == 0:
        raise _no_usable_row(exposure)
    _, origin = _exposure_frame(store, exposure.ra_deg, exposure.dec_deg)
    ranges = [p["wavelength"] for p in parts.values() if p["wavelength"]]
    facts = {
        "fingerprint": exposure.fingerprint,
        "date_obs": exposure.date_obs,
        "mjd_obs": exposure.mjd_obs,
        "exptime": exposure.exptime,
        "ra_deg": exposure.ra_deg,
        "dec_deg": exposure.dec_deg,
        "position_angle_deg": exposure.position_angle_deg,
        "mode": exposure.mode,
        "object": exposure.object_name,
        "pixel_deg": [abs(float(s)) for s in scales_from_cd(exposure.cd)],
        "unit": exposure.tables[0].columns["data"].unit,
        "origin_arcsec": origin.tolist(),
        "hull_arcsec": _outline([p["strips"] for p in parts.values()]),
        "wavelength": [min(r[0] for r in ranges), max(r[1] for r in ranges)],
        "weighted": "weight" in exposure.tables[0].columns,
        "files": [table.path.name for table in exposure.tables],
        "parts": {name: {"box": p["box"], "row_count": p["row_count"]} for name, p in parts.items()},
        **total,
        "dropped_count": exposure.row_count - total["row_count"],
    }
    for leftover in ("survey.npz", "fingerprint"):
        (staging / leftover).unlink(missing_ok=True)
    store.commit(exposure.name, facts)
