"""The ``musedeep`` command: words, options and exit codes; one subcommand a stage."""

import json
import os
import signal
import sys
import tempfile
import tomllib
from pathlib import Path

import click

from musedeep import __version__
from musedeep.errors import MuseDeepError, UsageError
from musedeep.kinds import Switch
from musedeep.options import SIMULATION
from musedeep.settings import SECTIONS, setting_fields

__all__ = ["main"]

# Other names that users of ESO's recipes know a setting by.
_ALIASES = {"grid": ["--output-wcs"]}

# Those of the alignment are many, and options of `musedeep align`.
_SECTIONS = [section for section in SECTIONS if section != "align"]


class _Command(click.Command):
    """A command whose help lists the settings section by section."""

    def format_options(self, ctx, formatter):
        groups = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for name in sorted(groups, key=lambda name: name != "Options"):
            with formatter.section(name):
                formatter.write_dl(groups[name])


class _SettingOption(click.Option):
    """An option made from the declaration of a setting."""

    def __init__(self, name, kind, text, section="Options", default=None):
        word = "--" + name.replace("_", "-")
        shown = f"  [{_as_text(default)}]" if default not in (None, "", ()) else ""
        names, kwargs = [word, *_ALIASES.get(name, [])], {"metavar": kind.metavar, "type": str}
        if isinstance(kind, Switch):
            names, kwargs = [f"{word}/--no-{name.replace('_', '-')}"], {}
        super().__init__([*names, name], help=text + shown, default=None, **kwargs)
        self.section = section
        self.kind = kind

    def read(self, value):
        """The value as the setting wants it, from the words of the command line."""
        return self.kind.parse(value) if isinstance(value, str) else value


def _as_text(value):
    if isinstance(value, tuple):
        return ",".join(map(_as_text, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_settings(*sections):
    """Give a command the settings of some sections as options; it gets the named ones as ``changes``."""

    def decorate(command):
        options = [
            _SettingOption(
                item.name, item.metadata["kind"], item.metadata["help"], f"[{section}]", item.default
            )
            for section, item in setting_fields()
            if section in sections
        ]
        if "combine" in sections:
            mask = click.Option(
                ["--mask", "masks"],
                multiple=True,
                metavar="TABLE",
                help="rows to leave out: 'ifu = [6], wavelength = [5570, 5585]'; may be repeated",
            )
            mask.section = "[combine]"
            options.append(mask)
        command.params += options
        inner = command.callback

        def callback(**kwargs):
            changes = {}
            for option in options:
                value = kwargs.pop(option.name)
                if isinstance(option, _SettingOption) and value is not None:
                    changes[option.name] = option.read(value)
                elif value:
                    changes["masks"] = [_read_mask(text) for text in value]
            return inner(changes=changes, **kwargs)

        command.callback = callback
        return command

    return decorate


def _read_mask(text):
    try:
        return tomllib.loads(f"mask = {{{text.strip().removeprefix('{').removesuffix('}')}}}")["mask"]
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"--mask {text!r}: {error}; write it as 'ifu = [6], wavelength = [5570, 5585]'"
        ) from error


_FIELD = click.argument("field", type=click.Path(), metavar="FIELD")
_JSON = click.option("--json", "as_json", is_flag=True, help="print one JSON object")
_QUIET = click.option("--quiet", is_flag=True, help="show no progress")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="only tell what it would take, like `plan`")


class _Group(click.Group):
    """The subcommands in the order in which they are used."""

    def list_commands(self, ctx):
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="musedeep", message="%(prog)s %(version)s")
def _cli():
    """Hundreds of MUSE pixel tables in, one deep cube out, within the memory you grant.

    \b
    First time here:   musedeep demo
    Your own data:     musedeep run reduced/PIXTABLE_REDUCED_*.fits -o udf10/
    Go on with it:     musedeep run udf10/
    """


def _command(name):
    return _cli.command(name, cls=_Command, no_args_is_help=name not in ("demo",))


@_with_settings(*_SECTIONS)
@_command("init")
@click.argument("files", nargs=-1, required=True, metavar="PIXTABLES...")
@click.option("-o", "--output", required=True, type=click.Path(), help="folder of the field")
@click.option("--name", default="", help="what the products call the object  [OBJECT of the first exposure]")
@click.option("--add", is_flag=True, help="add the exposures to the field that is there")
@click.option("--overwrite", is_flag=True, help="replace a field.toml that says something else")
def _init(files, output, name, add, overwrite, changes):
    """Make a field of pixel tables: a folder with a field.toml."""
    from musedeep.field import Field, open_field

    if add:
        if changes or name or overwrite:
            raise UsageError("--add only adds exposures; edit field.toml to change its settings")
        field = open_field(output).add_exposures(files)
    else:
        field = Field.from_exposures(files, output, name=name, overwrite=overwrite, **changes)
    click.echo(_summary(field))
    click.echo(f"Next: musedeep run {output}")


@_command("info")
@_FIELD
@_JSON
def _info(field, as_json):
    """List the exposures of a field, and check it."""
    field = _open(field)
    table = field.exposures.info()
    if as_json:
        rows = [dict(zip(table.colnames, map(_plain, row), strict=True)) for row in table.iterrows()]
        _print_json({"field": field.name, "settings": field.settings.to_dict(), "exposures": rows})
        return
    click.echo("\n".join(table.pformat(max_lines=-1, max_width=-1)))
    click.echo(_summary(field))


def _stage(name, *sections):
    """Make the command of one stage."""

    def decorate(function):
        def callback(field, as_json, quiet, dry_run, changes):
            _run_stages(_open(field, changes), (name,), as_json, quiet, dry_run)

        callback.__doc__ = function.__doc__
        command = _command(name)(_FIELD(_JSON(_QUIET(_DRY_RUN(callback)))))
        return _with_settings(*sections, "run")(command)

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


@_with_settings("align")
@_command("align")
@click.argument("targets", nargs=-1, required=True, metavar="FIELD | IMAGES...")
@click.option(
    "-o", "--output", type=click.Path(), help="the list, .fits or .ecsv  [offsets.fits of the field]"
)
@_QUIET
@_JSON
def _align(targets, output, quiet, as_json, changes):
    """Measure the offsets and flux scales of exposures, and check them.

    FIELD is a folder with a field.toml; its list is then applied when the field is combined. With IMAGE_FOV
    files and -o no field is needed. Tables with errors and figures are written beside the list.
    """
    from musedeep.pipeline import align

    fov_images = len(targets) > 1 or targets[0].endswith(".fits")
    if fov_images and output is None:
        raise UsageError("give -o with the file that the list of these images is to be written to")
    subject = list(targets) if fov_images else _open(targets[0])
    found, files = align(subject, output, progress=not quiet, **changes)
    rows = [dict(zip(found.table.colnames, map(_plain, r), strict=True)) for r in found.table.iterrows()]
    if as_json:
        _print_json({"verdict": found.verdict, "notes": found.notes, "exposures": rows})
        return
    shown = found.table["DATE_OBS", "RA_OFFSET", "DEC_OFFSET", "FLUX_SCALE", "N_MATCHED", "QUALITY"]
    click.echo("\n".join(shown.pformat(max_lines=-1, max_width=-1)))
    click.echo("\n".join([*found.notes, f"verdict: {found.verdict}", *(f"    {_shown(f)}" for f in files)]))


@_with_settings("grid", "combine", "run")
@_command("plan")
@_FIELD
@_JSON
def _plan(field, as_json, changes):
    """Tell what the stages would take.

    That is: tasks, rows, bytes and peak memory. The exit code is 3 if it does not fit into `memory`.
    """
    _run_stages(_open(field, changes), ("ingest", "combine"), as_json, quiet=True, dry_run=True)


@_command("status")
@_FIELD
@_JSON
def _status(field, as_json):
    """Tell how far a field is, also during a run."""
    from musedeep.pipeline import status

    state = status(_open(field))
    if as_json:
        _print_json(state)
        return
    click.echo(f"{state['field']} in {state['folder']}")
    for stage, facts in state["stages"].items():
        total = "" if facts["total"] is None else f" of {facts['total']}"
        click.echo(f"  {stage:9} {facts['done']}{total} {facts['unit']}, {_size(facts['bytes'])}")
    holder = state["running"]
    running = "no run is going on"
    if holder:
        running = f"running: process {holder['pid']} on {holder['host']} since {holder['started']}"
    click.echo(f"  {running}")


@_with_settings(*_SECTIONS)
@_command("run")
@click.argument("targets", nargs=-1, required=True, metavar="FIELD | PIXTABLES... -o FOLDER")
@click.option("-o", "--output", type=click.Path(), help="folder of the field, made of the pixel tables given")
@click.option("--name", default="", help="what the products call the object  [OBJECT of the first exposure]")
@click.option("--overwrite", is_flag=True, help="replace a field.toml that says something else")
@_DRY_RUN
@_QUIET
@_JSON
def _run(targets, output, name, overwrite, dry_run, quiet, as_json, changes):
    """Run every stage, as far as it is not done.

    Stop it at any time, in any way, and run it again to go on.

    FIELD is a folder with a field.toml; options then hold for this run alone. With pixel tables and -o the
    field is made first, and the options are written to its field.toml.
    """
    from musedeep.field import Field
    from musedeep.pipeline import STAGES

    if output is None:
        if len(targets) > 1 or targets[0].endswith(".fits"):
            raise UsageError("give one field, or pixel tables and -o with the folder to make of them")
        field = _open(targets[0], changes)
    else:
        field = Field.from_exposures(targets, output, name=name, overwrite=overwrite, **changes)
    _run_stages(field, STAGES, as_json, quiet, dry_run)


@_command("demo")
@click.argument("folder", default="demo", type=click.Path())
@_QUIET
@_JSON
def _demo(folder, quiet, as_json):
    """Simulate a small field and make its deep cube.

    Every stage is run, and what came out is shown beside the truth.
    """
    from musedeep.pipeline import run_demo

    report = run_demo(folder, progress=not quiet)
    if as_json:
        _print_json({"rows": report.rows, "picture": str(report.picture), "run": report.report.to_dict()})
        return
    click.echo("\n" + "\n".join(_table(report.rows)))
    _print_report(report.report)
    click.echo(f"\nLook at it:  {_shown(report.picture)}")
    click.echo("Try next:")
    for command in (f"info {folder}", f"status {folder}", f"run {folder} --reject eso", "run --help"):
        click.echo(f"  musedeep {command}")


@_command("simulate")
@click.argument("folder", type=click.Path())
@_QUIET
def _simulate(folder, quiet, **values):
    """Write simulated exposures with known truth.

    They have the format of reduced pixel tables; the truth is in truth.json.
    """
    from musedeep.progress import Progress
    from musedeep.simulate import simulate_exposures

    options = {option.name: option for option in _cli.commands["simulate"].params}
    changes = {}
    for name, value in values.items():
        if value is not None:
            value = options[name].kind.check(name, options[name].read(value))
            changes[name] = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    progress = Progress("simulate", "exposures")
    paths = simulate_exposures(folder, progress=None if quiet else progress.reach, **changes)
    progress.close()
    click.echo(f"{len(paths)} files in {folder}")
    click.echo(f"Next: musedeep run {folder}/PIXTABLE_REDUCED_*.fits -o {folder}/field")


_cli.commands["simulate"].params += [_SettingOption(name, *facts) for name, facts in SIMULATION.items()]


def _open(path, changes=None):
    from musedeep.field import open_field

    field = open_field(path)
    return field.changed(**changes) if changes else field


def _run_stages(field, stages, as_json, quiet, dry_run):
    from musedeep.pipeline import plan_stages, run

    if dry_run:
        plans = plan_stages(field, stages)
        if as_json:
            _print_json({"plans": [plan.to_dict() for plan in plans]})
        else:
            _print_plans(plans, stages)
        for plan in plans:
            plan.check()
        return
    report = run(field, stages=stages, progress=not quiet)
    if as_json:
        _print_json(report.to_dict())
    else:
        _print_report(report)


def _print_plans(plans, stages):
    for plan in plans:
        voxels = f"{plan.voxels:,} voxels, " if plan.voxels else ""
        click.echo(
            f"{plan.stage}: {plan.tasks:,} tasks, {plan.rows:,} rows, {voxels}"
            f"reads {_size(plan.bytes_read)}, writes {_size(plan.bytes_written)} in {plan.files:,} files, "
            f"peak {_size(plan.peak_bytes)} of {_size(plan.memory_bytes)} a worker"
        )
    if "combine" in stages and all(plan.stage != "combine" for plan in plans):
        click.echo("combine: can be planned when the exposures are ingested")


def _print_report(report):
    from musedeep.progress import duration

    click.echo("")
    for stage in report.stages:
        memory = f"peak memory {_size(stage.measured_bytes)}"
        if stage.predicted_bytes is not None:
            memory += f" (predicted {_size(stage.predicted_bytes)})"
        click.echo(f"{stage.stage:9} {duration(stage.seconds):>12}   {memory}")
        for path in stage.facts.get("files", ()):
            click.echo(f"    {_shown(path)}")
    click.echo(f"done in {duration(report.seconds)}; the log is {_shown(Path(report.field).parent / 'log')}")


def _summary(field):
    exposures = list(field.exposures)
    rows = sum(exposure.row_count for exposure in exposures)
    hours = sum(exposure.exptime for exposure in exposures) / 3600
    size = sum(table.size_bytes for exposure in exposures for table in exposure.tables)
    return f"{_shown(field.toml)}: {len(exposures)} exposures, {hours:.2f} h, {rows:,} rows, {_size(size)}"


def _shown(path):
    """A path as short as it can be from the current folder."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _table(rows):
    """Lines of a list of dicts, every column as wide as it must be."""
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(names))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _size(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _plain(value):
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value != value else value


def _print_json(data):
    click.echo(json.dumps(data, indent=1, default=_plain))


class _Terminated(KeyboardInterrupt):
    """A batch system asked the process to end."""


def _terminate(*_):
    raise _Terminated


def _choose_kernel_cache():
    # numba keeps compiled kernels beside the package or in the home folder; where neither may be written, as
    # on some compute nodes, it would refuse to start.
    places = (Path(__file__).parent / "kernels", Path.home())
    if not any(os.access(place, os.W_OK) for place in places):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"musedeep-{os.getuid()}"))


def main(arguments=None):
    """Run the command line and leave the process with its exit code.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the process by default.
    """
    sys.exit(_main(arguments))


def _main(arguments):
    _choose_kernel_cache()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _cli.main(arguments, prog_name="musedeep", standalone_mode=False)
    except MuseDeepError as error:
        return _fail(error, error.exit_code)
    except click.Abort as stop:
        _fail("stopped; what is finished is kept, run the same command again to go on")
        return 143 if isinstance(stop.__cause__, _Terminated) else 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except OSError as error:
        return _fail(error, 5)
    return code if isinstance(code, int) else 0


def _fail(text, code=None):
    click.echo(f"musedeep: error: {text}", err=True)
    return code
