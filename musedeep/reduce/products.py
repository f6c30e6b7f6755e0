"""Put the products of an exposure in place, with its log and its record beside them."""

import shutil

from musedeep.reduce.cascade import exposure_name
from musedeep.reduce.records import qc_bits, read_record, write_record

__all__ = ["backend_facts", "final_record", "finish_exposure", "table_name"]

_EARLIER = "earlier"
_PLACED = {"PIXTABLE_REDUCED": "", "IMAGE_FOV": "", "SKY_": "sky"}


def table_name(date_obs):
    """Name of the reduced pixel table of an exposure."""
    return f"PIXTABLE_REDUCED_{date_obs.replace(':', '_')}.fits"


def backend_facts(association):
    """What reduced a frame, and why, for its record."""
    return {"name": association.backend, "why": association.backend_reason}


def final_record(output, date_obs, key, *, complete=True):
    """The record of an exposure whose products are in place and were made with a key; else None.

    Parameters
    ----------
    output : Path
    date_obs, key : str
    complete : bool
        An exposure that lacks IFUs because a recipe failed does not count.

    Returns
    -------
    dict or None
    """
    record = read_record((output / table_name(date_obs)).with_suffix(".json"))
    if record is None or record["key"] != key or record["state"] == "failed":
        return None
    if complete and record["state"] != "done":
        return None
    for name, size in record["files"].items():
        path = output / name
        if not path.exists() or path.stat().st_size != size:
            return None
    return record


def finish_exposure(exposure, scipost, sky, output, settings):
    """Move the products of an exposure to their places and write its log and its record.

    Parameters
    ----------
    exposure : the exposure with its association, records and problems
    scipost : dict or None
        Record of muse_scipost; None if it was not run.
    sky : the same of its SKY frame, or None
    output : Path
    settings : ReductionSettings

    Returns
    -------
    dict
        ``exposure``, ``state`` (done, incomplete or failed), ``case``, ``backend`` (``name`` and ``why``),
        ``ifus``, ``problems``, ``notes``, ``qc``, ``calibrations``, ``steps``, ``files`` (name to size) and
        ``key``.
    """
    association = exposure.association
    path = (output / table_name(exposure.name)).with_suffix(".json")
    if scipost is None and exposure.merged is not None and not exposure.problems:
        return read_record(path)
    steps = sorted(exposure.records, key=lambda record: record["ifu"]) + ([scipost] if scipost else [])
    problems = list(exposure.problems) + (scipost["problems"] if scipost else [])
    failed_ifus = {step["ifu"]: step["problems"] for step in steps if step["ifu"] and step["problems"]}
    failed_ifus |= {ifu: [words] for ifu, words in association.ifu_missing.items()}
    told = [f"IFU {ifu}: {'; '.join(words)}" for ifu, words in sorted(failed_ifus.items())]
    state = "failed" if problems else "incomplete" if failed_ifus else "done"
    record = {
        "exposure": exposure.name,
        "state": state,
        "case": association.case,
        "backend": backend_facts(association),
        "sky": association.sky.date_obs if association.sky else None,
        "ifus": sorted(exposure.tables()),
        "problems": problems + told,
        "notes": association.notes,
        "qc": qc_bits([*steps, *(sky.records if sky else ())], association, settings),
        "calibrations": {
            f"{tag}{f' {ifu:02d}' if ifu else ''}": str(frame.path)
            for (tag, ifu), frame in sorted(association.chosen.items())
        },
        "steps": steps,
        "files": {},
        "key": exposure.merged.key if exposure.merged else "",
    }
    # a record of what was there before must not outlive it
    earlier = read_record(path)
    path.unlink(missing_ok=True)
    if state != "failed":
        record["files"] = _place(exposure, output)
    elif earlier is not None:
        _set_aside(earlier, record, output)
    path.with_suffix(".log").write_text(_log_text(exposure, sky, record))
    write_record(path, record)
    if state == "done" and not settings.keep:
        for table, _ in exposure.tables().values():
            table.unlink(missing_ok=True)
    return record


def _set_aside(earlier, record, output):
    """Move what was made of an exposure before to a folder apart, where nobody takes it for the result."""
    moved = [name for name in earlier["files"] if (output / name).exists()]
    for name in moved:
        place = output / _EARLIER / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(output / name, place)
    if moved:
        record["notes"] = [*record["notes"], f"what was made of it before is in {_EARLIER}/"]


def _place(exposure, output):
    """Move products out of the private folder; names and sizes."""
    files, name = {}, exposure_name(exposure.association.frame)
    for path in sorted(exposure.merged.folder.glob("*.fits")):
        start = next((start for start in _PLACED if path.name.startswith(start)), None)
        if start is None:
            path.unlink()
            continue
        folder = output / _PLACED[start]
        folder.mkdir(exist_ok=True)
        stem = path.stem.removesuffix("_0001")
        place = folder / f"{stem}_{name}.fits"
        shutil.move(path, place)
        files[str(place.relative_to(output))] = place.stat().st_size
    shutil.rmtree(exposure.merged.folder / "inputs", ignore_errors=True)
    return files


def _log_text(exposure, sky, record):
    """The logs of all recipes that an exposure went through, one after the other."""
    lines = [f"exposure {record['exposure']}: {record['state']}, case {record['case']}"]
    lines += [f"problem: {words}" for words in record["problems"]]
    lines += [f"note: {words}" for words in record["notes"]]
    tasks = [*exposure.tasks.values()]
    if sky is not None:
        tasks += [*sky.tasks.values(), *([sky.merged] if sky.merged else [])]
    for task in [*tasks, *([exposure.merged] if exposure.merged else [])]:
        log = task.folder / "recipe.log"
        if log.exists():
            lines += ["", f"=== {task.words} ===", log.read_text(errors="replace").rstrip()]
    return "\n".join(lines) + "\n"
