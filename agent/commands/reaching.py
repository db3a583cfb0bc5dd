"""The commands that say who may reach whom: ``matrix``, ``list`` and ``diff``.

What a command needs is imported inside it, as in :mod:`agent.commands.cli`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.commands.options import Flags, Told, answering, end, options_for, progress, tell, value_of

if TYPE_CHECKING:
    from agent.commands.matrix import Asked
    from agent.reach.exposure import Exposure
    from agent.reach.given import Given
    from agent.reach.matrix import Matrix
    from agent.sources.manifests.once import Read

_IN_MATRIX = {
    "kubeconfig": Told("Read the objects from the API server of this kubeconfig.", ""),
    "context": Told("The context of the kubeconfig.", ""),
}
_IN_DIFF = {
    "kubeconfig": Told("Compare with the API server of this kubeconfig, in place of A.", ""),
    "context": Told("The context of the kubeconfig.", ""),
}

_FOCUS = click.option(
    "--focus",
    multiple=True,
    metavar="END",
    help="Only connections from or to this end: NAMESPACE, NAMESPACE/NAME, NAMESPACE/KIND/NAME (a service or "
    "an ingress means its pods), an address, a block, or internet. May be given several times.",
)
_FROM = click.option("--from", "sources", multiple=True, metavar="END", help="Only from this end.")
_TO = click.option("--to", "destinations", multiple=True, metavar="END", help="Only to this end.")
_PORT = click.option(
    "--port",
    "ports",
    multiple=True,
    metavar="PROTO/PORT",
    help="Only this port: tcp/80, udp/8000-8100, sctp, other. May be given several times.",
)
_BY = click.option(
    "--by",
    type=click.Choice(["pod", "workload", "namespace"]),
    default="workload",
    help="What one end stands for.  [default: workload]",
)


def _asking(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (_BY, _PORT, _TO, _FROM, _FOCUS):
        command = option(command)
    return command


def _asked(flags: dict[str, Any]) -> Asked:
    from agent.commands.matrix import Asked
    from agent.reach import ports
    from agent.reach.ends import By

    try:
        wanted = ports.union(map(ports.read, flags["ports"])) if flags["ports"] else ports.ALL
    except ValueError as error:
        raise click.UsageError(f"--port: {error}.") from None
    return Asked(flags["focus"], flags["sources"], flags["destinations"], wanted, By(flags["by"]))


def _objects(places: tuple[str, ...], flags: Flags) -> Read:
    """Read what a command is given; what cannot be read at all ends it with exit code 2."""
    from agent.commands import matrix as reaching

    from_server = flags["kubeconfig"] is not None or flags["context"] is not None
    if bool(places) == from_server:
        raise click.UsageError("give files or directories of objects, - for standard input, or --kubeconfig.")
    if from_server:
        return _server(flags)
    for place in places:
        _there(place)
    return reaching.from_files([Path(place) for place in places])


def _server(flags: Flags) -> Read:
    from agent.commands import matrix as reaching
    from agent.sources.apiserver.once import ReadError

    config = value_of("kubeconfig", flags) or None, value_of("context", flags) or None
    try:
        return reaching.from_cluster(*config)
    except ReadError as error:
        end(str(error))


def _there(place: str) -> None:
    if place != "-" and not os.path.lexists(place):
        raise click.UsageError(f"{place!r}: no such file or directory; correct the path.")


def _matrix(
    paths: tuple[str, ...], flags: dict[str, Any], *, exposed: bool = False
) -> tuple[Given, Matrix | list[Exposure]]:
    from agent.commands import matrix as reaching

    asked = _asked(flags)
    try:
        with progress("finding out who may reach whom"):
            given = reaching.given_by(_objects(paths, flags))
            found = (reaching.exposure_of if exposed else reaching.matrix_of)(given, asked)
    except reaching.NotThereError as error:
        end(str(error))
    tell(given.notes, given.refused)
    return given, found


@click.command(
    short_help="Show who may reach whom.",
    epilog="Example: netpol-agent matrix examples --format md",
)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@options_for("kubeconfig", "context", told=_IN_MATRIX)
@_asking
@click.option("--exposure", is_flag=True, help="Show what is open to pods that do not exist yet.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "md", "json", "dot", "svg"]),
    default="table",
    help="How to print it.  [default: table]",
)
def matrix(paths: tuple[str, ...], form: str, exposure: bool, **flags: Any) -> None:
    """Show who may reach whom, on which ports: workloads, and the addresses that are no pod's.

    PATH: a directory or file of objects, or - for standard input. With --kubeconfig the objects come from the
    API server. Deployments and other workloads count as their pods.

    The answer is exact: all ports of all protocols, and all addresses, are looked at.

    Exit codes: 0 printed, 1 printed, but something in the objects was refused (it is named), 2 wrong options,
    no such end, or no answer from the API server.
    """
    from agent.commands import drawing

    if exposure and form not in ("table", "json"):
        raise click.UsageError("--exposure is printed as --format table or json.")
    if exposure and (flags["sources"] or flags["destinations"] or flags["ports"]):
        raise click.UsageError("--exposure has no --from, --to or --port; name the end by --focus.")
    given, found = _matrix(paths, flags, exposed=exposure)
    with answering():
        if isinstance(found, list):
            drawing.show_exposure(found, as_json=form == "json")
        else:
            drawing.show_matrix(found, form)
    sys.exit(1 if given.refused else 0)


@click.command(
    name="list",
    short_help="List the connections that are allowed.",
    epilog="Example: netpol-agent list examples --to shop/db",
)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@options_for("kubeconfig", "context", told=_IN_MATRIX)
@_asking
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as matrix --format json does.")
def list_(paths: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """List the connections that are allowed, one on each line: what matrix shows, to be searched.

    PATH: a directory or file of objects, or - for standard input. With --kubeconfig the objects come from the
    API server.

    Exit codes: 0 printed, 1 printed, but something in the objects was refused (it is named), 2 wrong options,
    no such end, or no answer from the API server.
    """
    from agent.commands import drawing

    given, found = _matrix(paths, flags)
    assert not isinstance(found, list)  # noqa: S101 - nothing else was asked for
    with answering():
        drawing.show_matrix(found, "json" if as_json else "lines")
    sys.exit(1 if given.refused else 0)


@click.command(
    short_help="Show what a change does to who may reach whom.",
    epilog="Example: netpol-agent diff before after --format md",
)
@click.argument("before", metavar="A")
@click.argument("after", metavar="[B]", required=False)
@options_for("kubeconfig", "context", told=_IN_DIFF)
@_asking
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "csv", "md", "json"]),
    default="lines",
    help="How to print it. md: a comment for a pull request.  [default: lines]",
)
def diff(before: str, after: str | None, form: str, **flags: Any) -> None:
    """Show which connections are added, removed or changed from A to B.

    A and B: each a directory or file of objects, or - for standard input. With --kubeconfig only one is
    given: it shows what would change in the cluster if its objects were applied.

    Exit codes: 0 the same, 1 different, 2 wrong options, or something could not be used (it is named, and the
    rest is compared).
    """
    from agent.commands import drawing
    from agent.commands import matrix as reaching

    asked = _asked(flags)
    from_server = flags["kubeconfig"] is not None or flags["context"] is not None
    if from_server == (after is not None):
        raise click.UsageError("give A and B, or --kubeconfig and the change alone.")
    for place in filter(None, (before, after)):
        _there(place)
    if before == after == "-":
        raise click.UsageError("only one of A and B can be standard input.")
    try:
        with progress("finding out what changes"):
            if after is None:
                server = _server(flags)
                one = reaching.given_by(server)
                other = reaching.changed_by(server, reaching.from_files([Path(before)]))
            else:
                one = reaching.given_by(reaching.from_files([Path(before)]))
                other = reaching.given_by(reaching.from_files([Path(after)]))
            found = reaching.difference_of(one, other, asked)
    except reaching.NotThereError as error:
        end(str(error))
    refused = dict.fromkeys((*one.refused, *other.refused))
    tell(dict.fromkeys((*one.notes, *other.notes)), refused)
    with answering():
        drawing.show_difference(found, form)
    sys.exit(2 if refused else 1 if found.changes else 0)
