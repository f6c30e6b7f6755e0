"""Assess a field: measure, judge, draw and tell."""

import hashlib
import json
import math
from dataclasses import dataclass, field

import numpy as np

from musedeep.errors import InputError
from musedeep.execute import give_back_memory
from musedeep.names import log_name, plot_name
from musedeep.qc.deep import measure_deep, median_of
from musedeep.qc.diagnose import diagnose
from musedeep.qc.effort import effort_of
from musedeep.qc.evidence import Evidence
from musedeep.qc.flags import access_of, acquisition_pattern, flag_cards, qc_bits, qc_flag
from musedeep.qc.history import history_text
from musedeep.qc.lines import strongest_line
from musedeep.qc.noise import noise_table
from musedeep.qc.reference import read_reference, reference_text
from musedeep.qc.rejections import list_transients, measure_rejections, write_maps
from musedeep.qc.survey import survey_exposures
from musedeep.recipe import prepare
from musedeep.store import CubeStore, Ledger

__all__ = ["Assessment", "assess_field", "cube_key", "gather", "is_assessed"]

_FORMAT = 6  # raised when what is measured changes


@dataclass(frozen=True)
class Assessment:
    """The quality of a field.

    Attributes
    ----------
    verdict : str
        A sentence.
    flag : str
        QCFLAG.
    bits : list of Bit
    facts : dict of str to object
        Parameters of quality: TEXPTIME [s], ABMAGLIM [mag], FWHM [arcsec], and so on.
    findings : list of Finding
    exposures : list of dict
        One row an exposure.
    transients : astropy.table.Table or None
    access : str
    files : list of Path
        Everything that was written.
    """

    verdict: str
    flag: str
    bits: list
    facts: dict
    findings: list = field(repr=False)
    exposures: list = field(repr=False)
    transients: object = field(repr=False)
    access: str = ""
    files: list = field(default_factory=list, repr=False)

    @property
    def alarms(self):
        """Findings above their threshold."""
        return [found for found in self.findings if found.alarm]

    def to_dict(self):
        """All of it as plain values."""
        rows = [] if self.transients is None else self.transients
        return {
            "verdict": self.verdict,
            "qcflag": self.flag,
            "access": self.access,
            "facts": {k: _plain(v) for k, v in self.facts.items()},
            "bits": [vars(bit) for bit in self.bits],
            "findings": [found.to_dict() for found in self.findings],
            "exposures": [{k: _plain(v) for k, v in row.items()} for row in self.exposures],
            "transients": [dict(zip(rows.colnames, map(_plain, r), strict=True)) for r in rows]
            if len(rows)
            else [],
        }


def _plain(value):
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def assess_field(field, *, client=None, progress=None):
    """Measure the quality of a field, judge it, and write figures, report, log and tables.

    Everything goes into the folder of quality figures: ``report.html``, ``assessment.json``, the log and a
    figure of the cube and of every exposure by ESO's names, ``growth.png``, ``noise.ecsv``,
    ``transients.ecsv``, ``rejected.fits`` and ``thresholds.toml``. QCFLAG and the comments are written into
    the header of the FITS cube, if it is there, with the names of log and figures.

    Parameters
    ----------
    field : Field
        With a finished cube store.
    client : distributed.Client, optional
        Where to measure; threads of this process by default.
    progress : Progress, optional

    Returns
    -------
    Assessment

    Raises
    ------
    InputError
        The cube store is not finished, or the reference file cannot be read.
    """
    evidence = gather(field, client=client, progress=progress)
    rejections = None
    if field.settings.qc.assess == "full":
        recipe = prepare(field, grid=evidence.grid)
        rejections = measure_rejections(field, recipe, evidence.surveys, client=client, progress=progress)
    diagnosis = diagnose(evidence, rejections)
    trails = {date: diagnosis.trails[date] for date in diagnosis["trail"].exposures}
    transients = list_transients(rejections, evidence, trails) if rejections is not None else None
    matched = {
        record["date_obs"]: record["in_offset_list"]
        for record in CubeStore(field.cube_path).attrs["exposures"]
    }
    bits = qc_bits(evidence, diagnosis, matched)
    access, since = access_of(evidence.exposures.values(), field.settings.qc.proprietary_months)
    facts = _facts(evidence, diagnosis, rejections, transients)
    facts |= {"QCFLAG": qc_flag(bits), "ACCESS": access, "PUBLIC_FROM": since.isoformat()}
    assessment = Assessment(
        verdict=_verdict(diagnosis),
        flag=qc_flag(bits),
        bits=bits,
        facts=facts,
        findings=diagnosis.findings,
        exposures=_rows(evidence, diagnosis, rejections),
        transients=transients,
        access=access,
    )
    files = _write(field, evidence, diagnosis, rejections, assessment)
    assessment.files.extend(files)
    return assessment


def is_assessed(field):
    """Whether the assessment in the field's folder is that of its present cube, products and settings."""
    try:
        stored = json.loads((field.qc_dir / "assessment.json").read_text())
    except (OSError, ValueError):
        return False
    there = stored.get("key") == _assessment_key(field) and (field.qc_dir / "report.html").exists()
    return there and _is_told(field, stored["qcflag"])


def _is_told(field, flag):
    """Whether the FITS cube has the flags, or is not there; it loses them when it is written anew."""
    from astropy.io import fits

    from musedeep.products import cube_file

    cube = cube_file(field)
    return not cube.exists() or fits.getheader(cube).get("QCFLAG") == flag


def _assessment_key(field):
    """Hash of all that the assessment depends on."""
    from musedeep import __version__

    facts = [
        _FORMAT,
        __version__,
        cube_key(field),
        vars(field.settings.qc),
        read_reference(field.settings.qc.thresholds),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def gather(field, *, client=None, progress=None):
    """Measure the deep cube of a field and every exposure beside it.

    What was measured is kept below the folder of quality figures, and read where the cube is still the same.

    Parameters
    ----------
    field : Field
        With a finished cube store.
    client : distributed.Client, optional
    progress : Progress, optional

    Returns
    -------
    Evidence

    Raises
    ------
    InputError
        The cube store is not finished, or the reference file cannot be read.
    """
    store = CubeStore(field.cube_path)
    if not store.attrs.get("finished"):
        raise InputError(f"the cube {store.path} is not finished; run the combination to its end first")
    thresholds = read_reference(field.settings.qc.thresholds)
    folder = field.qc_dir
    folder.mkdir(parents=True, exist_ok=True)
    key = cube_key(field)
    recipe = prepare(field, grid=store.grid)
    workers = effort_of(field, recipe, client).threads
    deep = measure_deep(field, folder / "deep.npz", key, workers=workers, client=client)
    give_back_memory()
    line = strongest_line(deep.line_strength)
    surveys = survey_exposures(field, recipe, folder, key, line=line, client=client, progress=progress)
    give_back_memory()
    exposures = {exposure.date_obs: exposure for exposure in field.exposures}
    return Evidence(
        grid=store.grid,
        deep=deep,
        surveys=surveys,
        exposures={survey.date_obs: exposures[survey.date_obs] for survey in surveys},
        seconds={e.date_obs: e.seconds for e in recipe.exposures},
        thresholds=thresholds,
    )


def cube_key(field):
    """Hash of what the cube store is made of."""
    blocks = Ledger(field.ledger_path).read()
    keys = sorted((number, block.get("key")) for number, block in blocks.items())
    return hashlib.sha256(json.dumps([_FORMAT, keys]).encode()).hexdigest()[:24]


def _verdict(diagnosis):
    if not diagnosis.alarms:
        measured = sum(found.measured for found in diagnosis.findings)
        return f"nothing stands out: {measured} of {len(diagnosis.findings)} diagnostics could be measured"
    return "; ".join(f"{found.name.replace('_', ' ')}: {found.note}" for found in diagnosis.alarms)


def _facts(evidence, diagnosis, rejections, transients):
    from musedeep.qc.sheets import depth_of

    deep, peak = evidence.deep, diagnosis.peak
    exposures = list(evidence.exposures.values())
    limit, local = depth_of(evidence, deep.white)
    ends = [e.mjd_obs + e.exptime / 86400 for e in exposures]
    facts = {
        "NCOMBINE": len(exposures),
        "TEXPTIME": sum(evidence.seconds[date] for date in evidence.exposures),
        "TIME_SPAN": max(ends) - min(e.mjd_obs for e in exposures),
        "N_SOURCES": len(deep.x),
        "FWHM": deep.fwhm[0],
        "ABMAGLIM": limit,
        "ABMAGLIM_LOC": local,
        "HISTO_MODE": peak.mode,
        "HISTO_17": peak.histo_17,
        "NOISE_RATIO": median_of(deep.scatter / deep.noise),
        "NOISE_RATIO_1ARCSEC": median_of(deep.apertures[:, 4]),
    }
    if rejections is not None:
        facts["REJECTED"] = float(np.mean(list(rejections.shares().values())))
        facts["TRANSIENTS"] = int(sum(transients["KIND"] != "seeing")) if len(transients) else 0
    return facts


def _rows(evidence, diagnosis, rejections):
    """One row an exposure: what is measured for each, and which alarms name it."""
    shares = rejections.shares() if rejections is not None else {}
    rows = []
    for number, survey in enumerate(evidence.surveys, start=1):
        date = survey.date_obs
        row = {
            "N": number,
            "DATE_OBS": date,
            "SECONDS": evidence.seconds[date],
            "FWHM": float(survey.fwhm[0]),
        }
        for found in diagnosis.findings:
            if found.values:
                row[found.name.upper()] = found.values.get(date, math.nan)
        if rejections is not None:
            row["REJECTED"] = shares.get(date, math.nan)
        row["ALARMS"] = ", ".join(f.name.replace("_", " ") for f in diagnosis.alarms if date in f.exposures)
        rows.append(row)
    return rows


def _write(field, evidence, diagnosis, rejections, assessment):
    """Write figures, tables, log and report; their paths."""
    from musedeep.qc.report import write_report
    from musedeep.qc.sheets import draw_deep, draw_exposure, draw_growth, growth

    folder, exposures = field.qc_dir, evidence.exposures
    first = next(iter(exposures.values()))
    facts, bits = assessment.facts, assessment.bits
    deep = draw_deep(folder / plot_name(first, "dpc"), field.name, evidence, diagnosis, bits, facts)
    grown = draw_growth(folder / "growth.png", field.name, evidence, diagnosis, growth(evidence))
    sheets = {}
    for number, survey in enumerate(evidence.surveys, start=1):
        path = folder / plot_name(exposures[survey.date_obs])
        rejected = rejections.maps[survey.date_obs] if rejections is not None else None
        sheets[survey.date_obs] = draw_exposure(path, number, survey, evidence, diagnosis, rejected)
    tables = [_write_table(noise_table(evidence), folder / "noise.ecsv")]
    if assessment.transients is not None:
        tables.append(_write_table(assessment.transients, folder / "transients.ecsv"))
        tables.append(write_maps(rejections, evidence.grid, folder / "rejected.fits"))
    comments = [acquisition_pattern(evidence), *(f"{f.name}: {f.note}" for f in assessment.alarms)]
    cards = flag_cards(bits, comments)
    log = _write_text(
        folder / log_name(first), history_text(field, evidence, bits, assessment.findings, cards, facts)
    )
    reference = _write_text(folder / "thresholds.toml", reference_text(evidence.thresholds))
    shown = {name: f"{v:.4g}" if isinstance(v, float) else str(v) for name, v in facts.items()}
    report = write_report(
        folder / "report.html",
        field.name,
        assessment.verdict,
        shown,
        bits,
        assessment.findings,
        assessment.exposures,
        assessment.transients,
        [deep, grown],
        sheets,
    )
    _tell_products(field, [log, deep, *sheets.values()], cards)
    # last, since it says that all the others are there
    data = _write_text(
        folder / "assessment.json",
        json.dumps(assessment.to_dict() | {"key": _assessment_key(field)}, indent=1),
    )
    return [report, data, log, deep, grown, *sheets.values(), *tables, reference]


def _tell_products(field, files, cards):
    """Put flags, comments and the names of log and figures into the header of the FITS cube."""
    from musedeep.products import associate_files, cube_file

    if cube_file(field).exists():
        associate_files(field, files, cards)


def _write_table(table, path):
    partial = path.with_name(f".{path.name}")
    table.write(partial, format="ascii.ecsv", overwrite=True)
    partial.replace(path)
    return path


def _write_text(path, text):
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path
