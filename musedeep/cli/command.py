"""What the subcommands are made of: the group, settings as options, and the words that many share."""

import tomllib

import click

from musedeep import __version__
from musedeep.errors import UsageError
from musedeep.kinds import Switch
from musedeep.settings import SECTIONS, setting_fields

__all__ = [
    "DRY_RUN",
    "FIELD",
    "JSON",
    "QUIET",
    "RUN_SECTIONS",
    "SettingOption",
    "cli",
    "subcommand",
    "opened_field",
    "with_settings",
]

# Other names that users of ESO's recipes know a setting by.
_ALIASES = {"grid": ["--output-wcs"]}

# Those of the alignment are many, and options of `musedeep align`.
RUN_SECTIONS = [section for section in SECTIONS if section != "align"]


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


class SettingOption(click.Option):
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


def with_settings(*sections):
    """Give a command the settings of some sections as options; it gets the named ones as ``changes``."""

    def decorate(command):
        options = [
            SettingOption(
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
                if isinstance(option, SettingOption) and value is not None:
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


FIELD = click.argument("field", type=click.Path(), metavar="FIELD")
JSON = click.option("--json", "as_json", is_flag=True, help="print one JSON object")
QUIET = click.option("--quiet", is_flag=True, help="show no progress")
DRY_RUN = click.option("--dry-run", is_flag=True, help="only tell what it would take, like `plan`")


# The order in which they are used.
_ORDER = (
    "demo",
    "simulate",
    "reduce",
    "select",
    "init",
    "info",
    "run",
    "align",
    "ingest",
    "plan",
    "combine",
    "products",
    "qc",
    "validate",
    "status",
)


class _Group(click.Group):
    """The subcommands in the order in which they are used."""

    def list_commands(self, ctx):
        return sorted(self.commands, key=_ORDER.index)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="musedeep", message="%(prog)s %(version)s")
def cli():
    """Hundreds of MUSE pixel tables in, one deep cube out, within the memory you grant.

    \b
    First time here:   musedeep demo
    Your own data:     musedeep run reduced/PIXTABLE_REDUCED_*.fits -o udf10/
    Go on with it:     musedeep run udf10/
    """


def subcommand(name):
    """Make a function the subcommand of that name."""
    return cli.command(name, cls=_Command, no_args_is_help=name not in ("demo",))


def opened_field(path, changes=None):
    """The field of a folder, with some settings changed."""
    from musedeep.field import open_field

    field = open_field(path)
    return field.changed(**changes) if changes else field
