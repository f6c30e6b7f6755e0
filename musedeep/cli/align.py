"""`musedeep align`."""

import click

from musedeep.cli.command import JSON, QUIET, opened_field, subcommand, with_settings
from musedeep.cli.output import plain, print_json, shown
from musedeep.errors import UsageError

__all__ = []


@with_settings("align")
@subcommand("align")
@click.argument("targets", nargs=-1, required=True, metavar="FIELD | IMAGES...")
@click.option(
    "-o", "--output", type=click.Path(), help="the list, .fits or .ecsv  [offsets.fits of the field]"
)
@QUIET
@JSON
def _align(targets, output, quiet, as_json, changes):
    """Measure the offsets and flux scales of exposures, and check them.

    FIELD is a folder with a field.toml; its list is then applied when the field is combined. With IMAGE_FOV
    files and -o no field is needed. Tables with errors and figures are written beside the list.
    """
    from musedeep.pipeline import align

    fov_images = len(targets) > 1 or targets[0].endswith(".fits")
    if fov_images and output is None:
        raise UsageError("give -o with the file that the list of these images is to be written to")
    subject = list(targets) if fov_images else opened_field(targets[0])
    found, files = align(subject, output, progress=not quiet, **changes)
    rows = [dict(zip(found.table.colnames, map(plain, r), strict=True)) for r in found.table.iterrows()]
    if as_json:
        print_json({"verdict": found.verdict, "notes": found.notes, "exposures": rows})
        return
    columns = found.table["DATE_OBS", "RA_OFFSET", "DEC_OFFSET", "FLUX_SCALE", "N_MATCHED", "QUALITY"]
    click.echo("\n".join(columns.pformat(max_lines=-1, max_width=-1)))
    click.echo("\n".join([*found.notes, f"verdict: {found.verdict}", *(f"    {shown(f)}" for f in files)]))
