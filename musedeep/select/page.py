"""The page on which a human looks at all fields and confirms or overrides them; it needs no other file."""

import json
from html import escape
from importlib.resources import files

from musedeep.select.maps import all_sky_map, field_map

__all__ = ["page_text"]


def page_text(selection):
    """The page as HTML, with its style and script inside.

    Parameters
    ----------
    selection : Selection

    Returns
    -------
    str
    """
    here = files("musedeep.select")
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    datasets = selection.datasets
    deep = sum(d.case == "deep" for d in datasets)
    looks = sum(bool(_looks_of(d)) and not d.accepted for d in datasets)
    hours = sum(d.facts["seconds"] for d in datasets) / 3600
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fields of musedeep</title><style>{style}</style></head><body>
<h1>{len(datasets)} fields, {deep} of them deep</h1>
<p class="soft">{sum(d.facts["exposures"] for d in datasets)} exposures taken, {hours:.1f} hours;
{sum(len(d.left_out) for d in datasets)} left out; {looks} fields wait for a look.</p>
<noscript>Without JavaScript the page shows everything; write overrides by hand into targets.yaml.</noscript>
{all_sky_map([d for d in datasets if d.taken])}
<div class="tools">
<input type="search" id="find" placeholder="Find a name, a run, a rule …" aria-label="Find">
<select id="which" aria-label="Which fields"><option value="all">all fields</option>
<option value="look">to be looked at</option><option value="deep">deep</option>
<option value="combined">combined</option>
<option value="single">single</option><option value="none">no product</option></select>
<button id="confirm" type="button">Confirm what is shown</button>
<button id="join" type="button">Join the ticked</button>
<button id="separate" type="button">Keep the ticked apart</button>
</div>
{_overview(datasets)}
{"".join(_field(d) for d in datasets)}
{_loose(selection)}
<div id="order"><span id="count">0 changes</span><button id="show" type="button">Show targets.yaml</button>
<button id="save" type="button" class="main">Save targets.yaml</button>
<span class="soft">then: musedeep select -o FOLDER --overrides targets.yaml</span>
<textarea id="yaml" readonly aria-label="targets.yaml"></textarea></div>
<script type="application/json" id="overrides">{_json(_overrides(selection.overrides))}</script>
<script>{script}</script></body></html>
"""


def _overrides(said):
    return {
        name: getattr(said, name)
        for name in ("exposures", "blocks", "join", "separate", "runs", "fields", "notes")
    }


def _json(data):
    # A name may hold what would end the script.
    return json.dumps(data).replace("<", "\\u003c")


def _looks_of(dataset):
    return [*dataset.looks, *(text for decision in dataset.decisions for text in decision.looks)]


def _overview(datasets):
    rows = "".join(
        f'<tr><td><a href="#{escape(d.name)}">{escape(d.name)}</a></td><td>{d.case}</td>'
        f'<td class="n">{d.facts["seconds"] / 3600:.2f}</td><td class="n">{d.facts["exposures"]}</td>'
        f'<td class="n">{d.facts["blocks"]}</td><td class="n">{len(d.left_out)}</td>'
        f'<td class="n">{len(_looks_of(d))}</td>'
        f"<td>{', '.join(d.facts['modes'])}</td><td>{'yes' if d.facts['complete'] else 'no'}</td>"
        f"<td>{escape(d.facts['access'])}</td><td>{'yes' if d.accepted else ''}</td></tr>"
        for d in datasets
    )
    names = "field case hours taken OBs out looks modes complete access confirmed".split()
    head = "".join(f"<th{' class=n' if name in names[2:7] else ''}>{name}</th>" for name in names)
    return (
        '<details><summary>All fields in one table</summary><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _field(dataset):
    from musedeep.select.selection import fingerprint

    facts, looks = dataset.facts, _looks_of(dataset)
    confirm = ""
    if dataset.taken:
        checked = " checked" if dataset.accepted else ""
        confirm = (
            f'<label><input type="checkbox" data-confirm="{escape(dataset.name)}" '
            f'data-fingerprint="{fingerprint(dataset)}"{checked}> confirmed</label>'
        )
    tick = (
        f'<label><input type="checkbox" data-tick="{dataset.decisions[0].candidate.date_obs}"> tick</label>'
    )
    notes = "".join(f"<li>{escape(text)}</li>" for text in dataset.looks)
    return f"""<section class="field" id="{escape(dataset.name)}" data-case="{dataset.case}"
data-looks="{len(looks)}" data-confirmed="{"yes" if dataset.accepted else "no"}">
<div class="head"><h2>{escape(dataset.name)}</h2>
<span class="tag {dataset.case}">{"no product" if dataset.case == "none" else dataset.case}</span>
<span class="soft">{escape(", ".join(facts["targets"]) or dataset.title)}</span>
<span style="flex:1"></span>{tick}{confirm}</div>
<div class="body">{field_map(dataset)}<div class="facts">{_facts(dataset)}
{f"<h3>Please look</h3><ul class='looks'>{notes}</ul>" if notes else ""}</div></div>
{_exposures(dataset)}</section>
"""


def _facts(dataset):
    facts = dataset.facts
    rows = {
        "depth": f"{facts['seconds'] / 3600:.2f} h in {facts['exposures']} exposures of {facts['blocks']} OBs"
        + (f", {facts['pointings']} pointings" if facts["pointings"] > 1 else ""),
        "to reduce": f"{facts['to_reduce']} exposures have no pixel table yet" if facts["to_reduce"] else "",
        "left out": str(len(dataset.left_out)),
        "empty sky": f"{facts['sky_exposures']} exposures" if facts["sky_exposures"] else "",
        "modes": ", ".join(facts["modes"]),
        "runs": ", ".join(facts["runs"]),
        "PIs": ", ".join(facts["pis"]),
        "conditions asked": ", ".join(facts["transparency"]),
        "complete": f"{'yes' if facts['complete'] else 'no'}: {facts['complete_why']}",
        "access": f"{facts['access']}"
        + (f", public on {facts['public_on']}" if facts["access"] != "public" else ""),
        "crowded": f"{'yes' if facts['crowded'] else 'no'}: {facts['crowded_why']}"
        if facts["crowded_why"]
        else "",
        "part of": dataset.part_of,
        "shared": ", ".join(f"{n} with {w}" for w, n in _counted(dataset.shared.values())),
        "version": str(dataset.version) if dataset.version > 1 else "",
    }
    if not dataset.taken:
        rows = {"left out": rows["left out"]}
    return (
        "<dl>"
        + "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows.items() if text)
        + "</dl>"
    )


def _counted(words):
    words = list(words)
    return [(word, words.count(word)) for word in sorted(set(words))]


def _exposures(dataset):
    left = "".join(_row(decision) for decision in dataset.left_out)
    noted = "".join(_row(decision) for decision in dataset.taken if decision.looks)
    plain = "".join(_row(decision) for decision in dataset.taken if not decision.looks)
    parts = []
    if left:
        parts.append(f"<h3>Left out</h3>{_table(left)}")
    if noted:
        parts.append(f"<h3>Taken, to be looked at</h3>{_table(noted)}")
    if plain:
        count = sum(not decision.looks for decision in dataset.taken)
        parts.append(f"<details><summary>{count} taken without remark</summary>{_table(plain)}</details>")
    return "".join(parts)


def _table(rows):
    return (
        '<div class="wide"><table><thead><tr><th>DATE-OBS</th><th>OB</th><th>mode</th><th class="n">s</th>'
        f"<th>seeing</th><th>grade</th><th>why</th><th>override</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(decision):
    item = decision.candidate
    rule = f'<span class="rule">{escape(decision.rule)}</span> ' if decision.rule else ""
    allowed = f" <small>allowed: {escape(decision.allowed)}</small>" if decision.allowed else ""
    why = rule + escape(decision.value) + allowed
    why += "".join(f"<br>{escape(text)}" for text in decision.looks)
    now = {True: "keep", False: "reject"}[decision.taken] if decision.rule == "override" else ""
    options = "".join(
        f'<option value="{value}"{" selected" if value == now else ""}>{text}</option>'
        for value, text in (("", "by the rules"), ("keep", "keep"), ("reject", "leave out"))
    )
    choice = (
        f'<select data-exposure="{item.date_obs}" data-arcfile="{escape(item.arcfile)}" data-before="{now}" '
        f'aria-label="override">{options}</select>'
    )
    seconds = f"{item.exptime_s:.0f}" if item.exptime_s == item.exptime_s else ""
    return (
        f"<tr><td>{item.date_obs[:10]} {item.date_obs[11:]}</td><td>{escape(item.ob_name or item.ob_id)}</td>"
        f'<td>{escape(item.mode)}</td><td class="n">{seconds}</td><td>{escape(decision.seeing)}</td>'
        f"<td>{escape(decision.block.grade)}</td><td>{why}</td><td>{choice}</td></tr>"
    )


def _loose(selection):
    parts = []
    if selection.loose:
        rows = "".join(_row(decision) for decision in selection.loose)
        parts.append(_section("In no field", 0, _table(rows)))
    if selection.problems:
        rows = "".join(
            f"<tr><td>{escape(item['file'])}</td><td>{escape(item['problem'])}</td></tr>"
            for item in selection.problems
        )
        table = f"<table><thead><tr><th>file</th><th>problem</th></tr></thead><tbody>{rows}</tbody></table>"
        parts.append(_section("Files that could not be used", len(selection.problems), table))
    return "".join(parts)


def _section(title, looks, body):
    facts = f'data-case="none" data-looks="{looks}" data-confirmed="no"'
    return f'<section class="field" {facts}><h2>{title}</h2><div class="wide">{body}</div></section>'
