"""`musedeep reduce`."""

import dataclasses

import click

from musedeep.cli.command import JSON, QUIET, SettingOption, cli, subcommand
from musedeep.cli.output import print_json, shown
from musedeep.errors import WorkError
from musedeep.reduction import ReductionSettings

__all__ = []


@subcommand("reduce")
@click.argument("paths", nargs=-1, required=True, metavar="RAW...")
@click.option("-o", "--output", required=True, type=click.Path(), help="folder of the products")
@click.option(
    "--calibrations", multiple=True, metavar="PATH", help="master calibrations, or a folder; may be repeated"
)
@click.option("--cluster", default="threads", help="where recipes run, as for `run`  [threads]")
@click.option("--workers", default=1, type=click.IntRange(1), help="recipes at the same time  [1]")
@QUIET
@JSON
def _reduce(paths, output, calibrations, cluster, workers, quiet, as_json, **values):
    """Reduce raw exposures to pixel tables and white-light images.

    RAW are raw frames or folders of them: OBJECT, and SKY and ILLUM where there are. Master calibrations are
    matched by mode, read-out and time. What is done already is skipped; what fails is told, and the rest goes
    on.
    """
    from musedeep.reduce import reduce_exposures

    options = {option.name: option for option in cli.commands["reduce"].params}
    changes = {name: options[name].read(value) for name, value in values.items() if value is not None}
    result = reduce_exposures(
        paths,
        output,
        calibrations=calibrations,
        cluster=cluster,
        workers=workers,
        progress=not quiet,
        **changes,
    )
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result, output)
    if result.failed:
        raise WorkError(
            f"{len(result.failed)} of {len(result.exposures)} exposures were not reduced; {output}/log and "
            "the records beside the tables tell why. Mend it and run the same command again"
        )


def _print(result, output):
    click.echo("\n".join(result.table().pformat(max_lines=-1, max_width=-1)))
    for path, words in result.problems:
        click.echo(f"not used: {shown(path)} {words}")
    for record in result.exposures:
        for note in record["notes"]:
            click.echo(f"{record['exposure']}: {note}")
    if result.tables:
        click.echo(f"Next: musedeep run {output}/PIXTABLE_REDUCED_*.fits -o {output}/field")


cli.commands["reduce"].params += [
    SettingOption(item.name, item.metadata["kind"], item.metadata["help"], "[reduce]", item.default)
    for item in dataclasses.fields(ReductionSettings)
]
