"""`musedeep select`."""

import dataclasses

import click

from musedeep.cli.command import JSON, QUIET, SettingOption, cli, subcommand
from musedeep.cli.output import print_json, shown
from musedeep.thresholds import Thresholds

__all__ = []


@subcommand("select")
@click.argument("paths", nargs=-1, metavar="PATHS...")
@click.option("-o", "--output", required=True, type=click.Path(), help="folder of the fields")
@click.option(
    "--accept", multiple=True, metavar="FIELD|all", help="confirm a field as it is; may be repeated"
)
@QUIET
@JSON
def _select(paths, output, accept, quiet, as_json, **values):
    """Decide which exposures make which deep field.

    PATHS are raw frames, pixel tables and IMAGE_FOV files, or folders of them; what an earlier call with the
    same folder has seen need not be given again. Each field gets a folder with a field.toml, which names the
    exposures taken, those left out with the rule and the value that did it, and what a human should look at.
    Thresholds are kept in select.toml of the folder.
    """
    from musedeep.progress import Progress
    from musedeep.select import select_exposures

    options = {option.name: option for option in cli.commands["select"].params}
    changes = {name: options[name].read(value) for name, value in values.items() if value is not None}
    progress = Progress("select", "headers")
    found = select_exposures(
        paths, output, accept=accept, progress=None if quiet else progress.reach, **changes
    )
    progress.close()
    if as_json:
        print_json(found.to_dict())
        return
    table = found.table()[
        "FIELD", "CASE", "EXPOSURES", "OBS", "HOURS", "LEFT_OUT", "LOOKS", "COMPLETE", "CONFIRMED"
    ]
    click.echo("\n".join(table.pformat(max_lines=-1, max_width=-1)))
    taken, left = (
        sum(decision.taken is wanted for d in found.datasets for decision in d.decisions)
        for wanted in (True, False)
    )
    click.echo(
        f"{len(found.datasets)} fields, {taken} exposures taken, {left} left out, "
        f"{len(found.loose)} in no field, "
        f"{len(found.problems)} files not usable; {found.read} of {found.files} files read, "
        f"{len(found.written)} field.toml written"
    )
    for name in found.retired:
        click.echo(f"put aside: {output}/{name} is no field any more")
    click.echo(f"Look at it:  {shown(output)}/index.html")
    ready = next((d.name for d in found.datasets if d.taken and not d.facts["to_reduce"]), None)
    if ready:
        click.echo(f"Next: musedeep run {output}/{ready}")
    else:
        click.echo("Next: reduce the exposures to pixel tables, and select again with these")


def _options():
    for item in dataclasses.fields(Thresholds):
        rule = item.metadata["rule"]
        text = (f"{rule}: " if rule else "") + item.metadata["help"]
        yield SettingOption(item.name, item.metadata["kind"], text, "[select]", item.default)


cli.commands["select"].params += _options()
