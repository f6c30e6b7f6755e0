"""`musedeep demo` and `musedeep simulate`."""

from pathlib import Path

import click

from musedeep.cli.command import JSON, QUIET, SettingOption, cli, subcommand
from musedeep.cli.output import print_json, print_report, shown, table_lines
from musedeep.errors import UsageError
from musedeep.options import RAW_SIMULATION, SIMULATION

__all__ = []


@subcommand("demo")
@click.argument("folder", default="demo", type=click.Path())
@QUIET
@JSON
def _demo(folder, quiet, as_json):
    """Simulate a small field and make its deep cube.

    Every stage is run, and what came out is shown beside the truth.
    """
    from musedeep.pipeline import run_demo

    report = run_demo(folder, progress=not quiet)
    if as_json:
        print_json({"rows": report.rows, "picture": str(report.picture), "run": report.report.to_dict()})
        return
    click.echo("\n" + "\n".join(table_lines(report.rows)))
    print_report(report.report)
    click.echo(f"\nLook at it:  {shown(report.picture)}")
    click.echo("Try next:")
    for words in (f"info {folder}", f"status {folder}", f"run {folder} --reject eso", "run --help"):
        click.echo(f"  musedeep {words}")


@subcommand("simulate")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--raw", is_flag=True, help="raw frames and master calibrations instead of pixel tables")
@QUIET
def _simulate(folder, raw, quiet, **values):
    """Write simulated exposures with known truth.

    They have the format of reduced pixel tables, or with --raw that of raw frames with the master
    calibrations they need; the truth is in truth.json.
    """
    from musedeep.progress import Progress

    options = {option.name: option for option in cli.commands["simulate"].params}
    changes = {}
    for name, value in values.items():
        if value is not None:
            if name in RAW_SIMULATION and not raw:
                raise UsageError(f"--{name.replace('_', '-')} is for raw frames; give --raw too")
            value = options[name].kind.check(name, options[name].read(value))
            changes[name] = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    if raw and isinstance(changes.get("ifus"), int):
        changes["ifus"] = (changes["ifus"],)
    progress = Progress("simulate", "exposures")
    paths = _simulator(raw)(folder, progress=None if quiet else progress.reach, **changes)
    progress.close()
    click.echo(f"{len(paths)} files in {folder}")
    if raw:
        click.echo(f"Next: musedeep reduce {folder}/raw --calibrations {folder}/calib -o {folder}/reduced")
    else:
        click.echo(f"Next: musedeep run {folder}/PIXTABLE_REDUCED_*.fits -o {folder}/field")


def _simulator(raw):
    if raw:
        from musedeep.simulate.raw import simulate_raw_exposures

        return simulate_raw_exposures
    from musedeep.simulate import simulate_exposures

    return simulate_exposures


cli.commands["simulate"].params += [
    *(SettingOption(name, *facts) for name, facts in SIMULATION.items()),
    *(SettingOption(name, *facts, section="Raw frames") for name, facts in RAW_SIMULATION.items()),
]
