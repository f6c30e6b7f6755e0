"""What a human decided: read from a YAML file, replayed at every selection, and written by ``--accept``."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from musedeep.errors import UsageError

__all__ = ["Overrides", "read_overrides", "write_overrides"]

_YES = {"true": True, "yes": True, "false": False, "no": False}
_FIELD_KEYS = ("name", "crowded", "complete", "max_inputs", "allow_reuse", "accepted", "note")
_HEAD = "# What a human decided about the fields; replayed by every `musedeep select`.\n"


@dataclass(frozen=True)
class Overrides:
    """Decisions of a human.

    Attributes
    ----------
    exposures : dict
        DATE-OBS or arcfile to "keep" or "reject".
    blocks : dict
        OB ID to "keep" or "reject".
    join, separate : list of list of str
        Target names, OB IDs or DATE-OBS that are one field, or different ones.
    runs : dict
        Run to "finished".
    fields : dict
        Name of a field to a dict with some of name, crowded, complete, max_inputs, allow_reuse, accepted,
        note.
    notes : dict
        Key of an exposure or block to why.
    """

    exposures: dict = field(default_factory=dict)
    blocks: dict = field(default_factory=dict)
    join: list = field(default_factory=list)
    separate: list = field(default_factory=list)
    runs: dict = field(default_factory=dict)
    fields: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)

    def decision(self, candidate):
        """What was decided about an exposure.

        Parameters
        ----------
        candidate : Candidate

        Returns
        -------
        (str, str)
            "keep", "reject" or "", and why.
        """
        for keys, table in (
            ((candidate.date_obs, candidate.arcfile, candidate.arcfile + ".fits"), self.exposures),
            ((candidate.ob_id,), self.blocks),
        ):
            for key in keys:
                if key and key in table:
                    return table[key], self.notes.get(key, "")
        return "", ""


def read_overrides(path):
    """Read the overrides.

    Parameters
    ----------
    path : Path or None

    Returns
    -------
    Overrides

    Raises
    ------
    UsageError
        It is no YAML, or has a key or a value that is not known.
    """
    if path is None:
        return Overrides()
    try:
        # Every scalar as text: a DATE-OBS without quotes would become a date with another number of digits.
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; correct its name") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no valid YAML: {error}") from error
    known = ("exposures", "blocks", "join", "separate", "runs", "fields")
    if not isinstance(data, dict) or set(data) - set(known):
        unknown = sorted(set(data) - set(known)) if isinstance(data, dict) else [str(data)[:40]]
        raise UsageError(f"{path}: unknown entry {unknown[0]!r}; known are {', '.join(known)}")
    notes = {}
    return Overrides(
        exposures=_decisions(data, "exposures", notes, path),
        blocks=_decisions(data, "blocks", notes, path),
        join=_groups(data, "join", path),
        separate=_groups(data, "separate", path),
        runs=_table(data, "runs", path, ("finished",)),
        fields=_fields(data, path),
        notes=notes,
    )


def write_overrides(path, overrides):
    """Write the overrides; comments of an earlier file are not kept, notes are.

    Parameters
    ----------
    path : Path
    overrides : Overrides
    """

    def noted(table):
        notes = overrides.notes
        return {k: {"decision": v, "note": notes[k]} if k in notes else v for k, v in table.items()}

    data = {
        "exposures": noted(overrides.exposures),
        "blocks": noted(overrides.blocks),
        "join": overrides.join,
        "separate": overrides.separate,
        "runs": overrides.runs,
        "fields": overrides.fields,
    }
    data = {name: value for name, value in data.items() if value}
    text = _HEAD + (yaml.safe_dump(data, sort_keys=True, allow_unicode=True, width=100) if data else "")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}; choose a folder that you may write"
        ) from error


def _refuse(path, what, found, allowed):
    return UsageError(f"{path}: {what}: {found!r} is not allowed; give {allowed}")


def _dict(data, name, path):
    value = data.get(name) or {}
    if not isinstance(value, dict):
        raise _refuse(path, name, value, "name: value lines")
    return value


def _decisions(data, name, notes, path):
    found = {}
    for key, value in _dict(data, name, path).items():
        if isinstance(value, dict):
            if value.get("note"):
                notes[key] = str(value["note"])
            value = value.get("decision")
        if value not in ("keep", "reject"):
            raise _refuse(path, f"{name}: {key}", value, "keep or reject")
        found[key] = value
    return found


def _groups(data, name, path):
    groups = data.get(name) or []
    good = isinstance(groups, list) and all(isinstance(group, list) and len(group) > 1 for group in groups)
    if not good or not all(isinstance(item, str) for group in groups for item in group):
        raise _refuse(path, name, groups, "a list of lists of two or more names")
    return groups


def _table(data, name, path, allowed):
    found = _dict(data, name, path)
    for key, value in found.items():
        if value not in allowed:
            raise _refuse(path, f"{name}: {key}", value, " or ".join(allowed))
    return found


def _fields(data, path):
    found = {}
    for name, values in _dict(data, "fields", path).items():
        if not isinstance(values, dict) or set(values) - set(_FIELD_KEYS):
            raise _refuse(path, f"fields: {name}", values, f"some of {', '.join(_FIELD_KEYS)}")
        found[name] = {
            key: _field_value(key, value, f"fields: {name}", path) for key, value in values.items()
        }
    return found


def _field_value(key, value, where, path):
    if key in ("crowded", "complete", "allow_reuse"):
        if str(value).lower() not in _YES:
            raise _refuse(path, f"{where}: {key}", value, "true or false")
        return _YES[value.lower()]
    if key == "max_inputs":
        if not str(value).isdigit():
            raise _refuse(path, f"{where}: {key}", value, "a whole number, 0 for no limit")
        return int(value)
    if not isinstance(value, str):
        raise _refuse(path, f"{where}: {key}", value, "text")
    return value
