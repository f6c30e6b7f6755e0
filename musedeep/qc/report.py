"""The whole assessment as one HTML file that needs no other."""

import base64
from html import escape

__all__ = ["write_report"]

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2530; max-width: 72rem; margin: 2rem auto;
  padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem; }
p.note { color: #6b7684; margin: .2rem 0 1.2rem; }
p.verdict { font-size: 1.05rem; padding: .7rem 1rem; border-left: 4px solid #3d8361; background: #f2f7f4; }
p.verdict.alarm { border-color: #b3372f; background: #fbf2f1; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem 1.2rem; }
dt { color: #6b7684; font-size: .78rem; } dd { margin: 0; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; }
th { text-align: left; color: #6b7684; font-weight: 500; border-bottom: 1px solid #6b7684; }
td, th { padding: .22rem .6rem .22rem 0; vertical-align: top; }
td { border-bottom: 1px solid #e4e8ed; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
tr.alarm td { color: #b3372f; } tr.none td { color: #98a1ad; }
img { width: 100%; border: 1px solid #e4e8ed; margin: .4rem 0; } details { margin: .3rem 0; }
summary { cursor: pointer; } summary.alarm { color: #b3372f; } .wide { overflow-x: auto; }
@media print { details { break-inside: avoid; } }
""".strip()


def write_report(path, name, verdict, facts, bits, findings, exposures, transients, figures, sheets):
    """Write the report.

    Parameters
    ----------
    path : Path
    name : str
        Of the field.
    verdict : str
        A sentence.
    facts : dict of str to str
    bits : list of Bit
    findings : list of Finding
    exposures : list of dict
        One row an exposure; the column ALARMS may be empty.
    transients : astropy.table.Table or None
    figures : list of Path
        PNG files of the field.
    sheets : dict of str to Path
        PNG files by the exposure that they show.

    Returns
    -------
    Path
    """
    alarm = any(found.alarm for found in findings)
    parts = [
        f"<h1>{escape(name)}</h1>",
        '<p class="note">Quality of the deep cube, assessed by musedeep</p>',
        f'<p class="verdict{" alarm" if alarm else ""}">{escape(verdict)}</p>',
        "<dl>"
        + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        + "</dl>",
        *(_picture(figure) for figure in figures),
        "<h2>Diagnostics</h2>",
        _findings(findings),
        "<h2>QCFLAG</h2>",
        _table([{"bit": b.number, "name": b.name, "value": b.value, "told from": b.comment} for b in bits]),
        "<h2>Exposures</h2>",
        f'<div class="wide">{_table(exposures)}</div>',
    ]
    if transients is not None:
        parts += [
            "<h2>What the rejection removed that looks like a source or a line</h2>",
            _transients(transients),
        ]
    parts += ["<h2>Every exposure</h2>", *(_sheet(date, sheet, exposures) for date, sheet in sheets.items())]
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: quality</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def _picture(path):
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{data}">'


def _findings(findings):
    lines = [
        "<table><tr><th>diagnostic</th><th>value</th><th>threshold</th><th>unit</th><th>verdict</th></tr>"
    ]
    for found in findings:
        kind = "alarm" if found.alarm else "" if found.measured else "none"
        value = f"{found.value:.3g}" if found.measured else "–"
        lines.append(
            f'<tr class="{kind}"><td>{escape(found.name.replace("_", " "))}</td><td class="n">{value}</td>'
            f'<td class="n">{found.threshold:g}</td><td>{escape(found.unit)}</td>'
            f"<td>{escape(found.note)}</td></tr>"
        )
    return "\n".join([*lines, "</table>"])


def _table(rows):
    if not rows:
        return '<p class="note">none</p>'
    lines = ["<table><tr>" + "".join(f"<th>{escape(str(name))}</th>" for name in rows[0]) + "</tr>"]
    for row in rows:
        cells = []
        for value in row.values():
            number = isinstance(value, int | float)
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            cells.append(f'<td class="n">{text}</td>' if number else f"<td>{escape(text)}</td>")
        kind = ' class="alarm"' if row.get("ALARMS") else ""
        lines.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])


def _transients(table):
    if len(table) == 0:
        return '<p class="note">nothing</p>'
    rows = [
        {name: column.info.format and f"{v:{column.info.format}}" or str(v) for name, column, v in
         zip(table.colnames, table.columns.values(), row, strict=True)}
        for row in table[:100].iterrows()
    ]  # fmt: skip
    more = f'<p class="note">and {len(table) - 100} more</p>' if len(table) > 100 else ""
    return _table(rows) + more


def _sheet(date, path, exposures):
    alarms = next((row["ALARMS"] for row in exposures if row["DATE_OBS"] == date), "")
    kind = ' class="alarm"' if alarms else ""
    words = f"{escape(date)} {escape(alarms)}"
    return f"<details><summary{kind}>{words}</summary>{_picture(path)}</details>"
