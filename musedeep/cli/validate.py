"""`musedeep validate`."""

import click

from musedeep.cli.command import JSON, subcommand
from musedeep.cli.output import print_json, shown

__all__ = []


@subcommand("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILES...")
@JSON
def _validate(files, as_json):
    """Hold products against ESO's standard for data cubes.

    FILES are FITS files, or folders with such files; of this package, of ESO's pipeline or its archive. The
    exit code is 4 if something is wrong, not if something is only recommended otherwise.
    """
    from musedeep.validate import validate_products

    found = validate_products(files)
    errors = sum(finding.severity == "error" for finding in found)
    if as_json:
        print_json({"errors": errors, "findings": [finding.to_dict() for finding in found]})
        return 4 if errors else 0
    file = None
    for finding in found:
        if finding.file != file:
            file = finding.file
            click.echo(shown(file))
        place = " ".join(filter(None, (finding.hdu, finding.keyword)))
        click.echo(f"  {finding.severity:6}  {place}{': ' if place else ''}{finding.text}")
    click.echo(f"{errors} errors, {len(found) - errors} recommendations")
    return 4 if errors else 0
