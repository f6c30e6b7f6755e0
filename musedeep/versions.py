"""What went into each version of a field's deep cube, kept so that an earlier one can be made again."""

import dataclasses
import json
import os
from datetime import UTC, datetime
from pathlib import Path

from musedeep.errors import InputError, UsageError, WorkError
from musedeep.exposures import Source
from musedeep.field import Field, open_field
from musedeep.settings import Settings
from musedeep.store import PixelStore

__all__ = ["earlier_field", "history", "record_version"]

_SECTIONS = ("grid", "combine", "mask")


def record_version(field, recipe):
    """Note what the finished cube of a field was made of, unless that is what the latest version says.

    Parameters
    ----------
    field : Field
    recipe : Recipe
        The combination that made it.

    Returns
    -------
    int
        Number of the version, from 1.

    Raises
    ------
    WorkError
        The disk is full or the folder cannot be written.
    """
    versions = _read(field)
    key = recipe.block_key(tuple((0, n) for n in recipe.grid.shape))
    if versions and versions[-1]["key"] == key:
        return versions[-1]["number"]
    from musedeep import __version__

    number = versions[-1]["number"] + 1 if versions else 1
    files = {source.date_obs[:23]: [str(path) for path in source.files] for source in field.sources}
    exposures = [
        exposure | {"files": files[exposure["date_obs"]]} for exposure in recipe.describe_exposures()
    ]
    settings = field.settings.to_dict()
    facts = {
        "number": number,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "musedeep": __version__,
        "key": key,
        "grid": recipe.grid.to_dict(),
        "settings": {name: settings[name] for name in _SECTIONS if name in settings},
        "exposures": exposures,
    }
    folder, table = _folder(field), _offsets_and_weights(exposures)
    text = json.dumps(facts, indent=1) + "\n"
    try:
        folder.mkdir(exist_ok=True)
        _write(folder / f"{number:04d}.ecsv", lambda path: table.write(path, format="ascii.ecsv"))
        # the JSON last: with it, the version is there
        _write(folder / f"{number:04d}.json", lambda path: path.write_text(text))
    except OSError as error:
        raise WorkError(
            f"{folder}: what went into the cube cannot be kept ({error.strerror or error}); make room, or "
            "allow writing there, and run again (the blocks that are done stay)"
        ) from error
    return number


def _folder(field):
    return field.folder / "history"


def _write(path, write):
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    write(partial)
    partial.replace(path)


def _offsets_and_weights(exposures):
    """Offsets, flux scales and weights in a table that the settings offsets and weight take."""
    from astropy.table import Table

    names = {"DATE_OBS": "date_obs", "RA_OFFSET": "ra_offset", "DEC_OFFSET": "dec_offset"}
    names |= {"ROTATION": "rotation", "FLUX_SCALE": "flux_scale", "WEIGHT": "weight"}
    return Table({name: [exposure[key] for exposure in exposures] for name, key in names.items()})


def _read(field):
    return [json.loads(path.read_text()) for path in sorted(_folder(field).glob("[0-9]*.json"))]


def history(field):
    """The versions of a field's deep cube, in the order in which they were finished.

    Parameters
    ----------
    field : Field or path

    Returns
    -------
    astropy.table.Table
        A row for each version: version (from 1), made (UTC), exposures and hours in it, added and withdrawn
        (DATE-OBS of the exposures that the version before had not, or had), changed (settings, offsets,
        weights and files that differ from the version before), musedeep (version of the program).
    """
    from astropy.table import Table

    field = field if isinstance(field, Field) else open_field(field)
    lines, before = [], None
    for facts in _read(field):
        now = {exposure["date_obs"]: exposure for exposure in facts["exposures"]}
        then = {exposure["date_obs"]: exposure for exposure in before["exposures"]} if before else now
        hours = sum(exposure["exptime"] for exposure in now.values()) / 3600
        added, withdrawn = sorted(set(now) - set(then)), sorted(set(then) - set(now))
        changed = _changes(before, facts, now, then) if before else []
        texts = (", ".join(words) for words in (added, withdrawn, changed))
        lines.append((facts["number"], facts["made"], len(now), hours, *texts, facts["musedeep"]))
        before = facts
    names = "version made exposures hours added withdrawn changed musedeep".split()
    kinds = "i4 U25 i4 f8 U2000 U2000 U2000 U20".split()
    table = Table(rows=lines or None, names=names, dtype=kinds, units={"hours": "h"})
    table["hours"].info.format = ".2f"
    return table


def _changes(before, facts, now, then):
    """Names of what differs between two versions, apart from which exposures are in them."""
    changed = [] if before["grid"] == facts["grid"] else ["output grid"]
    for section in _SECTIONS:
        old, new = before["settings"].get(section), facts["settings"].get(section)
        if section == "mask":
            changed += ["masks"] * (old != new)
        else:
            changed += [name for name in new if new[name] != old.get(name)]
    shared = set(now) & set(then)
    groups = {
        "offset table": ("ra_offset", "dec_offset", "rotation", "flux_scale"),
        "exposure weights": ("weight",),
        "exposure files": ("fingerprint",),
    }
    for name, keys in groups.items():
        if any(now[date][key] != then[date][key] for date in shared for key in keys):
            changed.append(name)
    return changed


def earlier_field(field, version):
    """The field as it was when a version of its cube was made.

    `combine_exposures` of it gives that cube, to the last bit, and `combine_to_store` puts it in the place of
    the present one. The exposures are taken from the pixel store, so those that were withdrawn since must
    still be there; they are unless the store was deleted.

    Parameters
    ----------
    field : Field or path
    version : int
        As `history` numbers them.

    Returns
    -------
    Field
        With the settings, grid, offsets, weights and exposures of that time; field.toml stays as it is.

    Raises
    ------
    UsageError
        There is no such version.
    InputError
        An exposure is not in the pixel store any more, or was ingested from another file since.
    """
    field = field if isinstance(field, Field) else open_field(field)
    versions = {facts["number"]: facts for facts in _read(field)}
    if version not in versions:
        known = ", ".join(map(str, versions)) or "none"
        raise UsageError(f"{field.folder} has no version {version} of its cube; known are: {known}")
    facts = versions[version]
    present = PixelStore(field.pixels_path).exposures()
    for exposure in facts["exposures"]:
        fingerprint = present.get(exposure["name"], {}).get("fingerprint")
        if fingerprint != exposure["fingerprint"]:
            what = "is not in the pixel store any more" if fingerprint is None else "was ingested anew since"
            raise InputError(f"version {version} of the cube: exposure {exposure['date_obs']} {what}")
    sources = tuple(Source(e["date_obs"], tuple(map(Path, e["files"]))) for e in facts["exposures"])
    settings = Settings.from_dict(facts["settings"], field.folder)
    settings = dataclasses.replace(
        settings, align=field.settings.align, products=field.settings.products, run=field.settings.run
    )
    table = str(_folder(field) / f"{version:04d}.ecsv")
    changes = {"offsets": table, "select": "all", "grid": str(_folder(field) / f"{version:04d}.json")}
    if settings.combine.weight != "column":
        changes["weight"] = table
    return dataclasses.replace(field, sources=sources, settings=settings.changed(**changes))
