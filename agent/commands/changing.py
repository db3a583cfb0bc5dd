"""The commands that prepare a change: policies from lines and from what was seen, and what a change would do.

What a command needs is imported inside it, as in :mod:`agent.commands.cli`.
"""

from __future__ import annotations

import sys

import click

from agent.commands.options import answering, places_if_given, tell


@click.command(
    short_help="Turn one line into a policy, and back.",
    epilog='Example: netpol-agent convert "allow shop/api from shop/web on tcp/8080"',
)
@click.argument("lines", metavar="[LINE]...", nargs=-1)
@click.option(
    "--manifests",
    "places",
    multiple=True,
    metavar="PATH",
    help="Turn the policies of this directory or file, or of standard input for -, into lines.",
)
@click.option(
    "--label",
    default="app",
    metavar="KEY",
    help="The label whose value is a pod's short name, as in shop/api.  [default: app]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of YAML or lines.")
def convert(lines: tuple[str, ...], places: tuple[str, ...], label: str, as_json: bool) -> None:
    """Turn each LINE into a NetworkPolicy, printed as a manifest; with - the lines of standard input.

    With --manifests it is the other way: each policy becomes a line. A policy that no line says exactly is
    named, with the reason. The words of lines are in docs/convert.md.

    Exit codes: 0 all converted, 1 some policies cannot be said by a line or were refused (they are named, and
    the rest is printed), 2 a line that cannot be read (nothing is printed), or wrong options.
    """
    from agent.commands import convert as converting
    from agent.convert.manifest import UnfitError
    from agent.convert.read import LinesError
    from agent.kube.names import qualified_name

    if wrong := qualified_name(label):
        raise click.UsageError(f"--label: {wrong}.")
    if bool(lines) == bool(places):
        raise click.UsageError("give lines, or - to read them from standard input, or --manifests PATH.")
    if places:
        found = converting.lines_of(places_if_given(places, ()), label)
        tell(found.notes, found.refused)
        with answering():
            if as_json:
                click.echo(converting.lines_as_json(found), nl=False)
            else:
                click.echo("".join(f"{one.line}\n" for one in found.lines), nl=False)
        sys.exit(1 if found.refused else 0)
    try:
        statements = converting.statements_of(lines, label)
        text = converting.as_json(statements) if as_json else converting.as_yaml(statements)
    except LinesError as error:
        for line in error.wrong:
            click.echo(f"Error: {line}", err=True)
        sys.exit(2)
    except UnfitError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    with answering():
        click.echo(text, nl=False)
