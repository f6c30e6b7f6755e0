"""How results are printed: tables, reports, sizes, and JSON for machines."""

import json
from pathlib import Path

import click

__all__ = [
    "alignment_lines",
    "bytes_text",
    "plain",
    "print_json",
    "print_plans",
    "print_report",
    "shown",
    "summary",
    "table_lines",
]


def print_plans(plans, stages):
    """Print what stages would take, one line each."""
    for plan in plans:
        voxels = f"{plan.voxels:,} voxels, " if plan.voxels else ""
        read, written, peak, memory = (
            bytes_text(count)
            for count in (plan.bytes_read, plan.bytes_written, plan.peak_bytes, plan.memory_bytes)
        )
        click.echo(
            f"{plan.stage}: {plan.tasks:,} tasks, {plan.rows:,} rows, {voxels}reads {read}, "
            f"writes {written} in {plan.files:,} files, peak {peak} of {memory} a worker"
        )
    if "combine" in stages and all(plan.stage != "combine" for plan in plans):
        click.echo("combine: can be planned when the exposures are ingested")


def print_report(report):
    """Print what the stages of a run took, and the files that they wrote."""
    from musedeep.progress import duration

    click.echo("")
    for stage in report.stages:
        memory = f"peak memory {bytes_text(stage.measured_bytes)}"
        if stage.predicted_bytes is not None:
            memory += f" (predicted {bytes_text(stage.predicted_bytes)})"
        click.echo(f"{stage.stage:9} {duration(stage.seconds):>12}   {memory}")
        for line in alignment_lines(stage.facts) if stage.stage == "align" else ():
            click.echo(f"    {line}")
        for path in stage.facts.get("files", ()):
            click.echo(f"    {shown(path)}")
        for note in stage.facts.get("notes", ()):
            click.echo(f"    note: {note}")
    click.echo(f"done in {duration(report.seconds)}; the log is {shown(Path(report.field).parent / 'log')}")


_ALIGNMENTS = {
    "given": "offsets of {list}",
    "off": "exposures are left where their headers say",
    "single": "one exposure: nothing to align",
    "measured": "offsets measured: {verdict}",
    "outdated": "offsets of {list}, but exposures or settings changed since: `run` measures them again",
    "missing": "offsets are not measured yet",
}


def alignment_lines(facts):
    """What is known about the offsets of a field, and which exposures they leave out."""
    yield _ALIGNMENTS[facts["state"]].format(**facts | {"list": shown(facts["list"] or "")})
    if facts["left_out"]:
        yield f"left out: {', '.join(facts['left_out'])}"


def summary(field):
    """One line about a field: exposures, hours, rows, bytes."""
    exposures = list(field.exposures)
    rows = sum(exposure.row_count for exposure in exposures)
    hours = sum(exposure.exptime for exposure in exposures) / 3600
    total = sum(table.size_bytes for exposure in exposures for table in exposure.tables)
    return (
        f"{shown(field.toml)}: {len(exposures)} exposures, {hours:.2f} h, {rows:,} rows, {bytes_text(total)}"
    )


def shown(path):
    """A path as short as it can be from the current folder."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def table_lines(rows):
    """Lines of a list of dicts, every column as wide as it must be."""
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(names))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def bytes_text(count):
    """A number of bytes with its unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def plain(value):
    """A value as JSON can hold it."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value != value else value


def print_json(data):
    """Print data as JSON."""
    click.echo(json.dumps(data, indent=1, default=plain))
