"""The tables that are in no header: OB grades, the night log, and files known to be bad."""

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

from musedeep.errors import InputError

__all__ = ["Block", "Notes", "read_notes"]


@dataclass(frozen=True)
class Block:
    """What is known of an observing block beside its headers.

    Attributes
    ----------
    mode : str
        "SM" or "VM", or empty.
    grade : str
        One of A, B, C, D, X, or empty.
    request_arcsec : float or None
        Seeing that was asked for.
    comment : str
    """

    mode: str = ""
    grade: str = ""
    request_arcsec: float | None = None
    comment: str = ""


@dataclass(frozen=True)
class Notes:
    """All tables.

    Attributes
    ----------
    blocks : dict of OB ID to Block
    log : dict of arcfile (without suffix) to comment
    bad : dict of arcfile to comment
    released : dict of arcfile to date (YYYY-MM-DD) from which it is public
    """

    blocks: dict = field(default_factory=dict)
    log: dict = field(default_factory=dict)
    bad: dict = field(default_factory=dict)
    released: dict = field(default_factory=dict)


def read_notes(grades="", nightlog="", known_bad=""):
    """Read the tables.

    Parameters
    ----------
    grades : path or ''
        CSV with ``ob_id`` and any of ``mode``, ``grade``, ``ambi_req``, ``comment``. Of lines with the same
        OB the later ones add to the comment and overrule the rest.
    nightlog : path or ''
        CSV with ``arcfile``, ``comment`` and, perhaps, ``release_date``.
    known_bad : path or ''
        CSV with ``arcfile`` and, perhaps, ``comment``.

    Returns
    -------
    Notes

    Raises
    ------
    InputError
        A table cannot be read, or its key column is missing.
    """
    blocks = {}
    for row in _rows(grades, "ob_id"):
        blocks[row["ob_id"]] = _block(row, blocks.get(row["ob_id"], Block()), grades)
    log, bad, released = {}, {}, {}
    for path, found in ((nightlog, log), (known_bad, bad)):
        for row in _rows(path, "arcfile"):
            name = re.sub(r"\.fits(\.\w+)?$", "", row["arcfile"])
            found[name] = _joined(found.get(name, ""), row.get("comment", ""))
            if row.get("release_date"):
                released[name] = row["release_date"][:10]
    return Notes(blocks, log, bad, released)


def _rows(path, key):
    if not path:
        return
    try:
        # Comments were typed by many hands: what is no UTF-8 is shown as a question mark.
        with Path(path).open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = [str(name).strip().lower() for name in reader.fieldnames or ()]
            if key not in names:
                raise InputError(f"{path}: column {key!r} is missing; it has {', '.join(names) or 'none'}")
            reader.fieldnames = names
            for row in reader:
                # a comma in a comment that was not quoted makes columns without a name
                rest = row.pop(None, None) or []
                row = {name: (value or "").strip() for name, value in row.items()}
                if rest and names[-1] == "comment":
                    row["comment"] = ", ".join([row["comment"], *rest])
                if row[key]:
                    yield row
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; correct its name") from error
    except csv.Error as error:
        raise InputError(f"{path}: no CSV table: {error}") from error


def _block(row, before, path):
    grade = row.get("grade", "").upper().strip("-?")
    if grade and not re.fullmatch(r"[A-Z]", grade):
        raise InputError(f"{path}: OB {row['ob_id']}: grade = {grade!r} is not allowed; give one letter")
    request = row.get("ambi_req", "")
    try:
        seeing = float(request) if request.strip("-") else None
    except ValueError:
        raise InputError(
            f"{path}: OB {row['ob_id']}: ambi_req = {request!r} is no number; give arcsec"
        ) from None
    return Block(
        row.get("mode", "").upper().strip("-") or before.mode,
        grade or before.grade,
        seeing if seeing and seeing > 0 else before.request_arcsec,
        _joined(before.comment, row.get("comment", "")),
    )


def _joined(first, second):
    return "; ".join(text for text in dict.fromkeys((first, second)) if text)
