"""The folders of the fields: field.toml with its reasons, versions that supersede others, masks."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from musedeep.errors import UsageError
from musedeep.exposures import Source
from musedeep.field import Field, open_field
from musedeep.settings import Mask, Settings
from musedeep.sky import sky_frame, sky_position, sky_vectors

__all__ = ["reasons_of", "retire_folder", "write_dataset"]

_MASK_NOTE = "satellite trail, found by musedeep select"
_SPARE_ARCSEC = 0.6


def reasons_of(dataset):
    """What field.toml says about the selection: plain values that do not change from day to day.

    Parameters
    ----------
    dataset : Dataset

    Returns
    -------
    dict
    """
    facts = dataset.facts
    reasons = {
        "case": dataset.case,
        "version": dataset.version,
        "confirmed": dataset.accepted,
        "hours": round(facts["seconds"] / 3600, 3),
        "exposures": facts["exposures"],
        "observing_blocks": facts["blocks"],
        "pointings": facts["pointings"],
        "sky_exposures": facts["sky_exposures"],
        "to_reduce": facts["to_reduce"],
        "runs": facts["runs"],
        "pis": facts["pis"],
        "modes": facts["modes"],
        "targets": facts["targets"],
        "transparency": facts["transparency"],
        "complete": facts["complete"],
        "access": facts["access"],
        "public_on": facts["public_on"],
        "crowded": facts["crowded"],
        "crowded_because": facts["crowded_why"],
        "part_of": dataset.part_of,
        "look_at": dataset.looks + _looks_at(dataset),
        "left_out": [_left_out(decision) for decision in dataset.left_out],
        "shared": [{"date_obs": date, "with": name} for date, name in sorted(dataset.shared.items())],
    }
    return {name: value for name, value in reasons.items() if value != "" and value != [] and value != {}}


def _looks_at(dataset):
    return [
        f"{decision.candidate.date_obs}: {text}" for decision in dataset.decisions for text in decision.looks
    ]


def _left_out(decision):
    facts = {
        "date_obs": decision.candidate.date_obs,
        "rule": decision.rule,
        "value": decision.value,
        "allowed": decision.allowed,
        "ob": decision.candidate.ob_name or decision.candidate.ob_id,
        "file": decision.candidate.files[0],
    }
    return {name: value for name, value in facts.items() if value}


def write_dataset(dataset, folder, earlier_version=None):
    """Write the field.toml of a dataset, where it says something new.

    Settings that are in it already are kept. A version that is superseded stays beside it as
    ``field.vN.toml``.

    Parameters
    ----------
    dataset : Dataset
    folder : Path
        The folder of the field.
    earlier_version : int, optional
        Number of the version that this one supersedes.

    Returns
    -------
    bool
        Whether something was written.

    Raises
    ------
    UsageError
        The field.toml that is there cannot be read, or the folder cannot be written.
    """
    toml = folder / "field.toml"
    settings = open_field(folder).settings if toml.exists() else Settings()
    if dataset.facts["crowded"] and dataset.facts["crowded_why"] == "said by hand":
        settings = settings.changed(preset="crowded")
    # As those of a field that is opened: through links to where the files lie.
    sources = tuple(
        Source(d.candidate.date_obs, tuple(Path(path).resolve() for path in d.candidate.files))
        for d in dataset.taken
    )
    settings = settings.changed(masks=_masks(dataset, settings.masks))
    field = Field(folder.resolve(), dataset.title or dataset.name, settings, sources, reasons_of(dataset))
    if toml.exists() and toml.read_text() == field.to_toml():
        return False
    if earlier_version is not None and toml.exists():
        _keep(toml, earlier_version)
    field.write()
    return True


def retire_folder(folder, version):
    """Put the field.toml of a field that is no more aside; what was made of it stays.

    Parameters
    ----------
    folder : Path
    version : int

    Returns
    -------
    bool
        Whether there was one.
    """
    toml = folder / "field.toml"
    if not toml.exists():
        return False
    _keep(toml, version)
    toml.unlink()
    return True


def _keep(toml, version):
    try:
        toml.with_name(f"field.v{version}.toml").write_text(toml.read_text())
    except OSError as error:
        raise UsageError(
            f"cannot write to {toml.parent}: {error.strerror}; choose a folder that you may write"
        ) from error


def _masks(dataset, masks):
    """Masks of a field: those of its user, for exposures that are still taken, and those of faint trails."""
    taken = set(dataset.dates)
    kept = []
    for mask in masks:
        named = tuple(date for date in mask.exposures if date[:23] in taken)
        if mask.note != _MASK_NOTE and (named or not mask.exposures):
            kept.append(dataclasses.replace(mask, exposures=named))
    for decision in dataset.taken:
        trail = (decision.candidate.image or {}).get("trail")
        if trail and "ends_deg" in trail and any(text.endswith(": masked") for text in decision.looks):
            region = _trail_region(trail)
            kept.append(Mask(exposures=(decision.candidate.date_obs,), region=region, note=_MASK_NOTE))
    return tuple(kept)


def _trail_region(trail):
    """A polygon around a trail, three pixels wider on each side, as DS9 writes it."""
    ends = np.array(trail["ends_deg"])
    vectors = sky_vectors(ends[:, 0], ends[:, 1])
    frame = sky_frame(*sky_position(vectors.sum(axis=0)))
    local = vectors @ frame
    plane = local[:, :2] / local[:, 2:]
    along = (plane[1] - plane[0]) / np.hypot(*(plane[1] - plane[0]))
    half = math.radians((trail["width_arcsec"] / 2 + _SPARE_ARCSEC) / 3600)
    across, spare = np.array([-along[1], along[0]]) * half, along * half
    corners = [
        plane[0] - spare + across,
        plane[0] - spare - across,
        plane[1] + spare - across,
        plane[1] + spare + across,
    ]
    sky = [sky_position(frame @ np.append(corner, 1.0)) for corner in corners]
    return "fk5; polygon(" + ", ".join(f"{ra:.6f}, {dec:.6f}" for ra, dec in sky) + ")"
