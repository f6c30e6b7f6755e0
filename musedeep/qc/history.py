"""The log of a product: what it was made of, how, why of that, and how good it is."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

__all__ = ["history_text"]

_MOST_LOG_BYTES = 2_000_000


def history_text(field, evidence, bits, findings, cards, facts):
    """The text of the log, in four sections.

    Parameters
    ----------
    field : Field
    evidence : Evidence
    bits : list of Bit
    findings : list of Finding
    cards : list of (str, str, str)
    facts : dict of str to object
        Further parameters of quality.

    Returns
    -------
    str
    """
    sections = [
        ("1. ASSOCIATION", _association(field)),
        ("2. RECIPE LOGS", _recipes(field)),
        ("3. SELECTION", _selection(field)),
        ("4. QC", _quality(evidence, bits, findings, cards, facts)),
    ]
    lines = [f"Deep cube of {field.name}, {datetime.now(UTC):%Y-%m-%dT%H:%M:%S} UTC", ""]
    lines += [
        "To make it again: put section 2.3 into field.toml and section 2.4 into offsets.ecsv beside it, name"
    ]
    lines += [
        "that file as `offsets`, correct the paths of the exposures, and `musedeep run` the folder.",
        "",
    ]
    for title, text in sections:
        lines += [f"=== {title} ===", "", *text, ""]
    return "\n".join(lines)


def _association(field):
    """Every exposure: files, fingerprint, raw files and calibrations that its header names."""
    for exposure in field.exposures:
        yield f"EXPOSURE {exposure.date_obs}  fingerprint {exposure.fingerprint}"
        for table in exposure.tables:
            yield f"  FILE {table.path}  {table.size_bytes} bytes"
        header = exposure.header
        for key, value in header.items():
            found = re.fullmatch(r"ESO PRO REC(\d+) (RAW|CAL)(\d+) NAME", key)
            if found:
                prefix = key.removesuffix(" NAME")
                kind, md5 = header.get(f"{prefix} CATG", ""), header.get(f"{prefix} DATAMD5", "")
                yield f"  {found[2]}{found[3]} of recipe {found[1]}: {value} {kind} {md5}".rstrip()


def _recipes(field):
    """What the pipelines ran: recipes of the headers, logs beside the tables, runs of this package."""
    yield "--- 2.1 recipes of the exposures, from their headers"
    for exposure in field.exposures:
        yield f"EXPOSURE {exposure.date_obs}"
        yield from (f"  {line}" for line in _recipes_of(exposure.header))
        for table in exposure.tables:
            log = table.path.with_suffix(".log")
            if log.exists():
                yield f"  LOG {log}"
                text = log.read_bytes()[:_MOST_LOG_BYTES].decode(errors="replace")
                yield from (f"    {line}" for line in text.splitlines())
    yield "--- 2.2 runs of musedeep"
    if field.log_path.exists():
        yield from field.log_path.read_text(errors="replace").splitlines()
    yield "--- 2.3 field.toml"
    if field.toml.exists():
        yield from field.toml.read_text().splitlines()
    yield "--- 2.4 offsets and flux scales"
    table = field.read_offsets()
    if table is not None:
        yield from _ecsv(table.table)


def _recipes_of(header):
    for number in range(1, 20):
        prefix = f"ESO PRO REC{number} "
        if f"{prefix}ID" not in header:
            return
        names = [header.get(f"{prefix}{name}", "") for name in ("ID", "PIPE ID", "START")]
        yield " ".join(filter(None, map(str, names)))
        for n in range(1, 200):
            name = header.get(f"{prefix}PARAM{n} NAME")
            if name is None:
                break
            yield f"  --{name}={header.get(f'{prefix}PARAM{n} VALUE', '')}"


def _ecsv(table):
    import io

    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    return text.getvalue().splitlines()


def _selection(field):
    """One line for each observing block, then every exposure with the decision that was made about it."""
    known = _decisions(field)
    yield "OBID OBNAME AMBI_REQ SEEING_MED GRADE DECISION REASON COMMENT"
    blocks = {}
    for exposure in field.exposures:
        blocks.setdefault(str(exposure.ob_id), []).append(exposure)
    for block, exposures in blocks.items():
        header = exposures[0].header
        seeing = [_seeing(e.header) for e in exposures]
        decision = known.get(exposures[0].date_obs[:23], {})
        words = (
            block or "-",
            exposures[0].ob_name.replace(" ", "_") or "-",
            header.get("ESO OBS AMBI FWHM", "-"),
            f"{np.nanmedian(seeing):.2f}" if np.isfinite(seeing).any() else "-",
            decision.get("grade") or "-",
            "taken",
            decision.get("rule") or "-",
            decision.get("comment") or "-",
        )
        yield " ".join(map(str, words))
    yield ""
    yield "RAW FILES"
    for exposure in field.exposures:
        yield f"{exposure.header.get('ESO PRO ANCESTOR', exposure.header.get('ARCFILE', exposure.date_obs))}"
    left = [d for d in known.values() if not d.get("taken", True)]
    if left:
        yield ""
        yield "LEFT OUT"
        for decision in left:
            yield " ".join(
                str(decision.get(name) or "-") for name in ("date_obs", "ob_name", "rule", "value", "comment")
            )


def _decisions(field):
    """Decisions of `musedeep select` about this field's exposures, by DATE-OBS."""
    for folder in (field.folder, field.folder.parent):
        path = Path(folder) / "selection.json"
        if path.exists():
            try:
                data = json.loads(path.read_text())
            except (OSError, ValueError):
                return {}
            dates = {date[:23] for date in field.exposures.dates}
            for dataset in _datasets(data):
                mine = {str(d.get("date_obs", ""))[:23]: d for d in dataset.get("decisions", ())}
                if dates & set(mine):
                    return mine
    return {}


def _datasets(data):
    found = data.get("datasets", []) if isinstance(data, dict) else []
    return found.values() if isinstance(found, dict) else found


def _seeing(header):
    values = [header.get(f"ESO TEL AMBI FWHM {end}") for end in ("START", "END")]
    good = [value for value in values if isinstance(value, int | float) and value > 0]
    return sum(good) / len(good) if good else np.nan


def _quality(evidence, bits, findings, cards, facts):
    yield from (f"{name} {value}" for name, value in facts.items())
    yield ""
    yield "BIT NAME VALUE COMMENT"
    yield from (f"{bit.number} {bit.name} {bit.value} {bit.comment}" for bit in bits)
    yield ""
    yield "DIAGNOSTIC VALUE THRESHOLD UNIT VERDICT"
    for found in findings:
        value = f"{found.value:.4g}" if found.measured else "-"
        verdict = "ALARM" if found.alarm else "fine" if found.measured else "not measured"
        yield f"{found.name} {value} {found.threshold:g} {found.unit or '-'} {verdict}: {found.note}"
    yield ""
    yield "EXPOSURE FWHM[arcsec] SATURATED " + " ".join(f.name for f in findings if f.values)
    for survey in evidence.surveys:
        values = [f.values.get(survey.date_obs, np.nan) for f in findings if f.values]
        numbers = " ".join(f"{value:.4g}" for value in values)
        yield f"{survey.date_obs} {survey.fwhm[0]:.3f} {int(survey.saturated.sum())} {numbers}"
    yield ""
    yield from (f"{key} = {value!r}" for key, value, _ in cards)
