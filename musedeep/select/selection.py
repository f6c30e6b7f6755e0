"""The selection: from files to datasets, with a reason for everything, written as one field.toml for each."""

import hashlib
import json
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from musedeep.errors import InputError, UsageError
from musedeep.lock import run_lock
from musedeep.select.candidates import candidates_of
from musedeep.select.datasets import case_of, split_target
from musedeep.select.facts import describe_dataset
from musedeep.select.folders import reasons_of, retire_folder, write_dataset
from musedeep.select.headers import find_files
from musedeep.select.index import Index
from musedeep.select.naming import name_datasets
from musedeep.select.overrides import Overrides, read_overrides, write_overrides
from musedeep.select.parts import split_field
from musedeep.select.pointings import find_pointings, find_visits
from musedeep.select.rules import judge_exposure, usual_seconds
from musedeep.select.tables import read_notes
from musedeep.select.targets import find_targets, link_visits
from musedeep.thresholds import Thresholds, read_thresholds, thresholds_text

__all__ = ["Selection", "fingerprint", "select_exposures"]


@dataclass
class Selection:
    """What `select_exposures` found.

    Attributes
    ----------
    datasets : list of Dataset
        Sorted by name.
    loose : list of Decision
        Exposures that belong to no dataset: moving targets, and those without a place on the sky.
    problems : list of dict
        Files that could not be used: ``file`` and ``problem``.
    calibrations : int
        Files that show no target; they were passed over.
    files, read : int
        Files in the index, and how many of them were read just now.
    settings : Thresholds
    overrides : Overrides
    written, retired : list of str
        Names of the fields whose field.toml was written, or put aside.
    """

    datasets: list
    loose: list
    problems: list
    calibrations: int
    files: int
    read: int
    settings: Thresholds
    overrides: Overrides
    written: list = field(default_factory=list)
    retired: list = field(default_factory=list)

    def __getitem__(self, name):
        for dataset in self.datasets:
            if dataset.name == name:
                return dataset
        raise UsageError(f"there is no field {name!r}; there are {', '.join(d.name for d in self.datasets)}")

    def table(self):
        """One row for each dataset.

        Returns
        -------
        astropy.table.Table
            FIELD, CASE, EXPOSURES, OBS, HOURS [h], POINTINGS, LEFT_OUT, LOOKS, MODES, RUNS, COMPLETE, ACCESS,
            CONFIRMED.
        """
        from astropy.table import Table

        names = (
            "FIELD CASE EXPOSURES OBS HOURS POINTINGS LEFT_OUT LOOKS MODES RUNS COMPLETE ACCESS CONFIRMED"
        ).split()
        rows = [
            (
                d.name,
                d.case,
                d.facts["exposures"],
                d.facts["blocks"],
                d.facts["seconds"] / 3600,
                d.facts["pointings"],
                len(d.left_out),
                len(d.looks) + sum(len(decision.looks) for decision in d.decisions),
                ",".join(d.facts["modes"]),
                len(d.facts["runs"]),
                d.facts["complete"],
                d.facts["access"],
                d.accepted,
            )
            for d in self.datasets
        ]
        table = Table(rows=rows or None, names=names, units={"HOURS": "h"} if rows else None)
        if rows:
            table["HOURS"].info.format = ".2f"
        return table

    def to_dict(self):
        """All of it as plain dicts, strings and numbers: what selection.json holds."""
        return {
            "fields": {d.name: _plain(d) for d in self.datasets},
            "loose": [_plain_decision(decision) for decision in self.loose],
            "problems": self.problems,
            "calibrations": self.calibrations,
            "files": self.files,
        }


def select_exposures(paths=(), output=None, *, accept=(), progress=None, **changes):
    """Decide which exposures make which deep field, and write one field.toml for each.

    Parameters
    ----------
    paths : path, or iterable of paths
        Raw frames, pixel tables and IMAGE_FOV files; folders stand for all FITS files in and below them.
        Files of earlier calls with the same `output` are known already.
    output : path, optional
        The folder of the fields. It keeps ``select.toml`` (thresholds), ``index.json`` (what was read of
        every file), ``selection.json`` (every decision), ``targets.yaml`` (overrides), ``index.html`` (the
        page to look at) and a folder for each field. Without it nothing is written.
    accept : str or sequence of str, optional
        Names of fields that are confirmed as they are, or ``"all"``.
    progress : callable, optional
        Called with the number of files read and their total.
    **changes
        Thresholds and tables by their names in select.toml: ``grades="obs.csv"``, ``seeing_factor=1.5``.

    Returns
    -------
    Selection

    Raises
    ------
    InputError
        No exposure was found, or a table cannot be read.
    UsageError
        A setting or an override is not allowed, the folder cannot be written, or another selection works on
        it.
    """
    if output is None:
        return _select(paths, None, accept, progress, changes)
    folder = Path(output).expanduser().absolute()
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make {folder}: {error.strerror}; choose a folder that you may write"
        ) from error
    try:
        with run_lock(folder / "select.lock", folder):
            return _select(paths, folder, accept, progress, changes)
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def _select(paths, folder, accept, progress, changes):
    settings = (read_thresholds(folder / "select.toml") if folder else Thresholds()).changed(**changes)
    overrides = read_overrides(_overrides_path(settings, folder))
    notes = read_notes(settings.grades, settings.nightlog, settings.known_bad)
    index = Index(folder / "index.json" if folder else None)
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = find_files(paths, folder)
    if paths and not files:
        raise InputError(f"no FITS file matches {', '.join(map(str, paths))}; check the paths")
    read = index.update(files, progress)
    found = candidates_of(index, settings.moving_arcsec_per_year)
    state = _read_state(folder)
    datasets, loose = _group(found[0], notes, overrides, settings, state)
    selection = Selection(datasets, loose, found[1], found[2], len(index), read, settings, overrides)
    if not found[0]:
        raise InputError(
            f"{len(index)} files were looked at, and none is an exposure of a target"
            + (f"; the first problem is {found[1][0]['file']}: {found[1][0]['problem']}" if found[1] else "")
        )
    _number_versions(selection, state, folder)
    _accept(selection, [accept] if isinstance(accept, str) else list(accept), folder)
    if folder is not None:
        index.write()
        _write(selection, state, folder)
    return selection


def _overrides_path(settings, folder):
    if settings.overrides:
        return Path(settings.overrides)
    own = folder / "targets.yaml" if folder else None
    return own if own and own.exists() else None


def _read_state(folder):
    path = folder / "selection.json" if folder else None
    if path is None or not path.exists():
        return {}
    try:
        return json.loads(path.read_text())["fields"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: not what an earlier selection wrote ({error}); remove it to name all fields anew"
        ) from error


def _group(candidates, notes, overrides, settings, state):
    """All datasets, and the exposures that belong to none."""
    sky = [item for item in candidates if item.kind == "SKY"]
    objects = [item for item in candidates if item.kind != "SKY"]
    fixed = [item for item in objects if item.is_placed and not item.moving]
    visits = find_visits(fixed, settings.same_pointing_arcsec)
    links = link_visits(visits, settings)
    targets = find_targets(visits, links, overrides.join, overrides.separate)
    datasets, home = [], {}
    for target in targets:
        members = [member for n in target for member in visits[n].members]
        usual = usual_seconds(members)
        decisions = [judge_exposure(member, notes, overrides, settings, usual) for member in members]
        parts = split_target(decisions, settings, overrides.join)
        datasets += parts
        home |= {id(visits[n]): parts for n in target}
    stray = [
        judge_exposure(item, notes, overrides, settings, math.nan)
        for item in objects
        if not item.is_placed or item.moving
    ]
    blocks = _blocks_of(datasets)
    loose = [decision for decision in stray if not _adopt(decision, blocks)]
    former = {}
    for name, facts in state.items():
        former.setdefault(facts.get("part_of") or name, set()).update(facts["dates"])
    name_datasets(datasets, former)
    for item in sky:
        for dataset in blocks.get(item.block, ()):
            dataset.sky.append(item)
        if item.block not in blocks:
            loose.append(judge_exposure(item, notes, overrides, settings, math.nan))
    datasets = [part for dataset in datasets for part in _split(dataset, overrides, settings)]
    for dataset in datasets:
        dataset.case, why = case_of(dataset.taken, settings)
        if dataset.case != "deep":
            dataset.looks.append(f"R4: {dataset.case}: {why}")
        describe_dataset(dataset, notes, overrides, settings)
    _tell_neighbours(visits, links, datasets)
    return sorted(datasets, key=lambda d: d.name), sorted(loose, key=lambda d: d.candidate.date_obs)


def _blocks_of(datasets):
    blocks = {}
    for dataset in datasets:
        for block in {decision.candidate.block for decision in dataset.decisions}:
            blocks.setdefault(block, []).append(dataset)
    return blocks


def _adopt(decision, blocks):
    """Let an exposure without a place be told with the dataset that has the rest of its OB."""
    homes = blocks.get(decision.candidate.block, ()) if not decision.candidate.is_placed else ()
    if len(homes) != 1:
        return False
    homes[0].decisions.append(decision)
    homes[0].decisions.sort(key=lambda d: d.candidate.date_obs)
    return True


def _split(dataset, overrides, settings):
    """R5 and R18: the products of a dataset."""
    said = overrides.fields.get(dataset.name, {})
    cap = said.get("max_inputs", settings.max_inputs)
    reuse = said.get("allow_reuse", settings.allow_reuse)
    taken = {d.candidate.date_obs: d for d in dataset.taken}
    pointings = find_pointings([d.candidate for d in dataset.taken], settings.same_pointing_arcsec)
    pointings, parts = split_field(pointings, cap, settings.split_overlap, reuse)
    if len(parts) < 2:
        return [dataset]
    names = [f"{dataset.name}-{n}" for n in range(1, len(parts) + 1)]
    owner = {
        n: name
        for part, name in zip(parts, names, strict=True)
        for n in part.pointings
        if n not in part.shared
    }
    made = []
    for part, name in zip(parts, names, strict=True):
        decisions = [taken[m.date_obs] for n in part.pointings for m in pointings[n].members]
        shared = {m.date_obs: owner[n] for n in part.shared for m in pointings[n].members}
        words = f"R5: a part of {dataset.name}, since a product has {cap} exposures at most"
        own = {"name": name, "part_of": dataset.name, "shared": shared, "facts": {}}
        made.append(replace(dataset, decisions=decisions, looks=[*dataset.looks, words], **own))
        if shared:
            made[-1].looks.append(f"R18: {len(shared)} exposures are used in another product too")
    for decision in dataset.left_out:
        made[_closest(decision, made)].decisions.append(decision)
    for part in made:
        part.decisions.sort(key=lambda d: d.candidate.date_obs)
    return made


def _closest(decision, parts):
    """Place of the part that an exposure lies nearest to."""
    item = decision.candidate

    def distance(n):
        east = [
            ((d.candidate.ra_deg - item.ra_deg + 180) % 360 - 180) * math.cos(math.radians(item.dec_deg))
            for d in parts[n].taken
        ]
        north = [d.candidate.dec_deg - item.dec_deg for d in parts[n].taken]
        apart = min(map(math.hypot, east, north)) if item.is_placed else math.inf
        return round(apart * 3600, 2), n

    return min(range(len(parts)), key=distance)


def _tell_neighbours(visits, links, datasets):
    """Let a human look at fields that overlap and were not joined."""
    home = {d.candidate.date_obs: dataset for dataset in datasets for d in dataset.decisions}
    best = {}
    for link in links:
        one, two = (home.get(visits[n].first.date_obs) for n in (link.one, link.two))
        # What was told apart by setup or exposure time says so already.
        if link.linked or one is None or two is None or one is two or not (one.taken and two.taken):
            continue
        for here, there in ((one, two), (two, one)):
            key = here.name, there.name
            if link.overlap > best.get(key, (0, 0, ""))[0]:
                best[key] = link.overlap, link.score, link.why
    for (here, there), (_, score, why) in sorted(best.items()):
        dataset = next(d for d in datasets if d.name == here)
        dataset.looks.append(f"R16: {there} overlaps it and is kept apart: {why} (likeness {score:.2f})")


def fingerprint(dataset):
    """Short hash of the exposures that are taken."""
    return hashlib.sha256("\n".join(dataset.dates).encode()).hexdigest()[:12]


def _number_versions(selection, state, folder):
    """R17: a product whose exposures change once it was complete, or made, is a new version."""
    for dataset in selection.datasets:
        before = state.get(dataset.name)
        if before is None:
            continue
        dataset.version = before["version"]
        words = before.get("supersedes", "")
        changed = before["fingerprint"] not in ("", fingerprint(dataset))
        made = folder is not None and (folder / dataset.name / "products").exists()
        if changed and (before["complete"] or made):
            dataset.version += 1
            words = f"R17: supersedes version {before['version']}, of {len(before['taken'])} exposures"
        dataset.facts["supersedes"] = words
        dataset.looks += [words] if words else []


def _accept(selection, names, folder):
    """Note which fields are confirmed, and keep it with the overrides."""
    fields = {name: dict(values) for name, values in selection.overrides.fields.items()}
    wanted = {d.name for d in selection.datasets if d.taken} if "all" in names else set(names)
    for name in sorted(wanted):
        fields.setdefault(name, {})["accepted"] = fingerprint(selection[name])
    for dataset in selection.datasets:
        said = fields.get(dataset.name, {})
        dataset.accepted = bool(dataset.taken) and said.get("accepted") == fingerprint(dataset)
        dataset.title = said.get("name", dataset.title)
    selection.overrides = replace(selection.overrides, fields=fields)
    if wanted and folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = _overrides_path(selection.settings, folder) or folder / "targets.yaml"
        write_overrides(path, selection.overrides)


def _write(selection, state, folder):
    from musedeep.select.page import page_text

    for dataset in selection.datasets:
        before = state.get(dataset.name, {})
        earlier = before["version"] if before and before["version"] != dataset.version else None
        if dataset.taken:
            if write_dataset(dataset, folder / dataset.name, earlier):
                selection.written.append(dataset.name)
        elif retire_folder(folder / dataset.name, dataset.version):
            selection.retired.append(dataset.name)
    for name in sorted(set(state) - {d.name for d in selection.datasets}):
        if retire_folder(folder / name, state[name]["version"]):
            selection.retired.append(name)
    _write_text(folder / "select.toml", thresholds_text(selection.settings, folder))
    _write_text(folder / "selection.json", json.dumps(selection.to_dict(), indent=1))
    _write_text(folder / "index.html", page_text(selection))


def _write_text(path, text):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}; choose a folder that you may write"
        ) from error


def _plain(dataset):
    """A dataset as selection.json has it; the next selection reads names, versions and exposures back."""
    return {
        "title": dataset.title,
        "part_of": dataset.part_of,
        "fingerprint": fingerprint(dataset) if dataset.taken else "",
        "dates": sorted(dataset.all_dates),
        "taken": dataset.dates,
        "complete": dataset.facts["complete"],
        "version": dataset.version,
        "supersedes": dataset.facts.get("supersedes", ""),
        "selection": reasons_of(dataset),
        "sky": [item.date_obs for item in dataset.sky],
        "decisions": [_plain_decision(decision) for decision in dataset.decisions],
    }


def _plain_decision(decision):
    item = decision.candidate
    return {
        "date_obs": item.date_obs,
        "taken": decision.taken,
        "rule": decision.rule,
        "value": decision.value,
        "allowed": decision.allowed,
        "looks": list(decision.looks),
        "seeing": decision.seeing,
        "grade": decision.block.grade,
        "comment": decision.comment,
        "target": item.target,
        "ob_id": item.ob_id,
        "ob_name": item.ob_name,
        "run": item.run,
        "mode": item.mode,
        "exptime_s": _number(item.exptime_s),
        "ra_deg": _number(item.ra_deg),
        "dec_deg": _number(item.dec_deg),
        "angle_deg": _number(item.angle_deg),
        "files": list(item.files),
    }


def _number(value):
    return value if math.isfinite(value) else None
