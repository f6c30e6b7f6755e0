"""The subcommands that take a field from pixel tables to products."""

import click

from musedeep.cli.command import (
    DRY_RUN,
    FIELD,
    JSON,
    QUIET,
    RUN_SECTIONS,
    opened_field,
    subcommand,
    with_settings,
)
from musedeep.cli.output import (
    alignment_lines,
    bytes_text,
    plain,
    print_json,
    print_plans,
    print_report,
    summary,
)
from musedeep.cli.work import work_lines
from musedeep.errors import UsageError

__all__ = []

_NO_ALIGN = click.option("--no-align", is_flag=True, help="leave exposures where their headers say")


def _unaligned(changes, no_align):
    """The settings changed, with those of --no-align."""
    if no_align and changes.get("offsets", "none") != "none":
        raise UsageError("give --offsets or --no-align, not both")
    return changes | {"offsets": "none"} if no_align else changes


@with_settings(*RUN_SECTIONS)
@subcommand("init")
@click.argument("files", nargs=-1, required=True, metavar="PIXTABLES...")
@click.option("-o", "--output", required=True, type=click.Path(), help="folder of the field")
@click.option("--name", default="", help="what the products call the object  [OBJECT of the first exposure]")
@click.option("--add", is_flag=True, help="add the exposures to the field that is there")
@click.option("--overwrite", is_flag=True, help="replace a field.toml that says something else")
@_NO_ALIGN
def _init(files, output, name, add, overwrite, no_align, changes):
    """Make a field of pixel tables: a folder with a field.toml."""
    from musedeep.field import Field

    changes = _unaligned(changes, no_align)
    if add:
        if changes or name or overwrite:
            raise UsageError("--add only adds exposures; edit field.toml to change its settings")
        field = opened_field(output).add_exposures(files)
    else:
        field = Field.from_exposures(files, output, name=name, overwrite=overwrite, **changes)
    click.echo(summary(field))
    click.echo(f"Next: musedeep run {output}")


@subcommand("info")
@FIELD
@JSON
def _info(field, as_json):
    """List the exposures of a field, and check it."""
    field = opened_field(field)
    table = field.exposures.info()
    if as_json:
        rows = [dict(zip(table.colnames, map(plain, row), strict=True)) for row in table.iterrows()]
        print_json({"field": field.name, "settings": field.settings.to_dict(), "exposures": rows})
        return
    click.echo("\n".join(table.pformat(max_lines=-1, max_width=-1)))
    click.echo(summary(field))


def _stage(name, *sections):
    """Make the command of one stage."""

    def decorate(function):
        def callback(field, as_json, quiet, dry_run, changes):
            _run_stages(opened_field(field, changes), (name,), as_json, quiet, dry_run)

        callback.__doc__ = function.__doc__
        command = subcommand(name)(FIELD(JSON(QUIET(DRY_RUN(callback)))))
        return with_settings(*sections, "run")(command)

    return decorate


@_stage("ingest")
def _ingest():
    """Bring the exposures into the pixel store.

    Those that are there and have not changed are skipped.
    """


@_stage("combine", "grid", "combine")
def _combine():
    """Combine the ingested exposures into the cube store.

    Blocks that are done with the same inputs and settings are skipped.
    """


@_stage("products", "products")
def _products():
    """Write the FITS cube, images and maps from the cube store."""


@_stage("qc", "qc")
def _qc():
    """Assess the quality of the cube and of every exposure.

    Report, figures, log and tables go into the folder qc/ of the field, the flags into the header of the FITS
    cube. What is assessed already is skipped.
    """


@with_settings("grid", "combine", "run")
@subcommand("plan")
@FIELD
@JSON
def _plan(field, as_json, changes):
    """Tell what the stages would take.

    That is: tasks, rows, bytes and peak memory. The exit code is 3 if it does not fit into `memory`.
    """
    _run_stages(
        opened_field(field, changes), ("align", "ingest", "combine"), as_json, quiet=True, dry_run=True
    )


@subcommand("status")
@FIELD
@JSON
def _status(field, as_json):
    """Tell how far a field is, also during a run."""
    from musedeep.pipeline import status

    state = status(opened_field(field))
    if as_json:
        print_json(state)
        return
    click.echo(f"{state['field']} in {state['folder']}")
    for stage, facts in state["stages"].items():
        total = "" if facts["total"] is None else f" of {facts['total']}"
        click.echo(f"  {stage:9} {facts['done']}{total} {facts['unit']}, {bytes_text(facts['bytes'])}")
    for line in alignment_lines(state["stages"]["align"]):
        click.echo(f"  {line}")
    holder = state["running"]
    running = "no run is going on"
    if holder:
        running = f"running: process {holder['pid']} on {holder['host']} since {holder['started']}"
    click.echo(f"  {running}")
    for line in work_lines(state["work"]):
        click.echo(f"  {line}")


@with_settings(*RUN_SECTIONS)
@subcommand("run")
@click.argument("targets", nargs=-1, required=True, metavar="FIELD | PIXTABLES... -o FOLDER")
@click.option("-o", "--output", type=click.Path(), help="folder of the field, made of the pixel tables given")
@click.option("--name", default="", help="what the products call the object  [OBJECT of the first exposure]")
@click.option("--overwrite", is_flag=True, help="replace a field.toml that says something else")
@_NO_ALIGN
@DRY_RUN
@QUIET
@JSON
def _run(targets, output, name, overwrite, no_align, dry_run, quiet, as_json, changes):
    """Run every stage, as far as it is not done: align, ingest, combine, products, qc.

    Stop it at any time, in any way, and run it again to go on. Without --offsets and --no-align, offsets and
    flux scales are measured first.

    FIELD is a folder with a field.toml; options then hold for this run alone. With pixel tables and -o the
    field is made first, and the options are written to its field.toml.
    """
    from musedeep.field import Field
    from musedeep.pipeline import STAGES

    changes = _unaligned(changes, no_align)
    if output is None:
        if len(targets) > 1 or targets[0].endswith(".fits"):
            raise UsageError("give one field, or pixel tables and -o with the folder to make of them")
        field = opened_field(targets[0], changes)
    else:
        field = Field.from_exposures(targets, output, name=name, overwrite=overwrite, **changes)
    _run_stages(field, STAGES, as_json, quiet, dry_run)


def _run_stages(field, stages, as_json, quiet, dry_run):
    from musedeep.pipeline import plan_stages, run

    if dry_run:
        plans = plan_stages(field, stages)
        if as_json:
            print_json({"plans": [plan.to_dict() for plan in plans]})
        else:
            print_plans(plans, stages)
        for plan in plans:
            plan.check()
        return
    report = run(field, stages=stages, progress=not quiet)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
