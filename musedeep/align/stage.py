"""The alignment as a stage of a field: whether it is needed, what it takes, and the files it leaves."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

from musedeep.offsets import DATE_OBS_LENGTH, OffsetTable

__all__ = ["TO_BE_MEASURED", "alignment_state", "measure_offsets", "write_alignment"]

# States in which a run measures.
TO_BE_MEASURED = ("missing", "outdated")
# Another number here has every field aligned anew.
_METHOD = 3
_KEY = "MUSEDEEP ALIGN KEY"
_log = logging.getLogger(__name__)


def alignment_state(field):
    """What the field knows about offsets.

    Parameters
    ----------
    field : Field

    Returns
    -------
    dict
        ``state``: 'given' (a list that was not measured here), 'off' (none is wanted), 'single' (there is
        nothing to compare), 'measured', 'outdated' (exposures or settings changed since) or 'missing';
        ``list``, the path of the list that applies, or None; ``verdict`` and ``left_out``, DATE-OBS of
        exposures that it keeps out of the combination.
    """
    asked = field.settings.combine.offsets
    if asked == "none":
        return _state("off")
    if asked != "auto":
        return _state("given", Path(asked))
    if not field.offsets_path.exists():
        return _state("missing" if len(field.sources) > 1 else "single")
    key = _header_of(field.offsets_path).get(_KEY)
    if key is None:
        return _state("given", field.offsets_path)
    return _state("measured" if key == _key_of(field) else "outdated", field.offsets_path)


def _state(state, path=None):
    verdict, left_out = None, []
    if path is not None and path.exists():
        verdict = _header_of(path).get("ESO QC EXPALIGN VERDICT")
        left_out = sorted(OffsetTable.read(path).left_out)
    return {
        "state": state,
        "list": str(path) if path is not None else None,
        "verdict": verdict,
        "left_out": left_out,
    }


def _header_of(path):
    from astropy.io import fits

    with path.open("rb") as file:
        return fits.getheader(file) if file.read(9) == b"SIMPLE  =" and not file.seek(0) else {}


def _key_of(field):
    """Hash of all that a measurement depends on."""
    settings = field.settings.align
    files = [settings.reference, settings.override_detection]
    if settings.band != "white":
        files.append(field.settings.products.filter_list)
    folder = Path(settings.images) if settings.images else None
    files += sorted(map(str, folder.glob("IMAGE_FOV*.fits"))) if folder else []
    facts = [
        _METHOD,
        asdict(settings),
        [exposure.fingerprint for exposure in field.exposures],
        [(name, Path(name).stat().st_mtime_ns) for name in files if name and Path(name).exists()],
    ]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]


def measure_offsets(field, client=None, progress=None):
    """Align a field, unless it is aligned or is not to be.

    Parameters
    ----------
    field : Field
    client : distributed.Client, optional
    progress : Progress, optional

    Returns
    -------
    dict
        As `alignment_state`, with ``files``: what was written now.
    """
    before = alignment_state(field)
    if before["state"] not in TO_BE_MEASURED:
        return before | {"files": []}
    from musedeep.align.exposures import NothingInCommonError, align_exposures

    try:
        found = align_exposures(field, client=client, progress=progress)
    except NothingInCommonError as error:
        if field.settings.align.unsolved == "omit":
            raise
        _log.warning("%s; all exposures are kept where their headers say", error)
        return alignment_state(_with_headers(field)) | {"files": [str(field.offsets_path)]}
    paths = write_alignment(found, field.offsets_path, field.qc_dir, key_of=field)
    for note in (*found.notes, f"verdict: {found.verdict}"):
        _log.info("align: %s", note)
        if progress is not None:
            progress.note(note)
    return alignment_state(field) | {"files": [str(path) for path in paths]}


def _with_headers(field):
    """Write a list that leaves every exposure where it is, and say so in it."""
    from astropy.io import fits
    from astropy.table import Table

    dates = [date[:DATE_OBS_LENGTH] for date in field.exposures.dates]
    nothing = [0.0] * len(dates)
    columns = {"DATE_OBS": dates, "RA_OFFSET": nothing, "DEC_OFFSET": nothing}
    OffsetTable(Table(columns | {"QUALITY": ["unsolved"] * len(dates)})).write(field.offsets_path)
    with fits.open(field.offsets_path, mode="update") as hdus:
        hdus[0].header["HIERARCH ESO QC EXPALIGN VERDICT"] = "unsolved: all exposures are where headers say"
        hdus[0].header[f"HIERARCH {_KEY}"] = _key_of(field)
        hdus[0].add_checksum()
    return field


def write_alignment(found, path, beside, *, key_of=None):
    """Write a list of offsets, and its table with errors, its sources, maps and drawing into a folder.

    Parameters
    ----------
    found : Alignment
    path : Path
        The list, .fits or .ecsv.
    beside : Path
        The folder of everything else.
    key_of : Field, optional
        The list is this field's own, and is measured again when the field changes.

    Returns
    -------
    list of Path
    """
    from musedeep.align.drawing import draw_alignment
    from musedeep.align.products import source_table, write_exposure_map, write_preview

    beside.mkdir(parents=True, exist_ok=True)
    cards = {_KEY: _key_of(key_of)} if key_of is not None else {}
    paths = [found.write(path, **cards), draw_alignment(found, beside / f"{path.stem}.png")]
    if path.suffix != ".ecsv":
        paths.append(found.write(beside / f"{path.stem}.ecsv"))
    sources = beside / f"{path.stem}_sources.ecsv"
    source_table(found.result).write(sources, format="ascii.ecsv", overwrite=True)
    paths += [sources, write_preview(found.result, beside / f"{path.stem}_preview.fits")]
    if found.settings.expmap:
        paths.append(write_exposure_map(found.result, beside / f"{path.stem}_expmap.fits"))
    return paths
