"""The commands that look at a node: what changed on it.

What a command needs is imported inside it, as in :mod:`agent.commands.cli`.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from agent.commands.options import IN_HISTORY, URL, Flags, answering, options_for, value_of


@click.command(
    short_help="Show what changed on this node, and when.",
    epilog="Example: netpol-agent history --pod shop/db --since 1h",
)
@click.option("--pod", metavar="NS/NAME", help="What changed for this pod, or isolated or opened it.")
@click.option("--policy", metavar="NS/NAME", help="What changed of this policy.")
@click.option("--namespace", metavar="NAME", help="What changed in this namespace, or of it.")
@click.option("--since", metavar="TIME", help="Not before: 90s, 15m, 1h or 7d ago, or an RFC 3339 time.")
@click.option("--until", metavar="TIME", help="Not after, given alike.")
@click.option("--limit", metavar="NUMBER", help="The newest so many rows.  [default: 50, at most 1000]")
@options_for("state_dir", "health_address", "health_port", told=IN_HISTORY)
@URL
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON, with every detail.")
def history(
    pod: str | None,
    policy: str | None,
    namespace: str | None,
    since: str | None,
    until: str | None,
    limit: str | None,
    url: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Show what changed on this node: who changed it, when, and when the kernel had it.

    Changes of policies, pods and namespaces are there if they changed anything here; also the agent's start
    and end, outages of the API server, faults, and repairs of what others changed in the kernel. The agent is
    asked. With --state-dir its file is read, as root, also while no agent runs.

    Exit codes: 0 shown, also where nothing like that is known, 2 wrong options, no agent answers, or the file
    cannot be read.
    """
    import time

    from agent.history.query import parse
    from agent.observe import client
    from agent.observe.history import route

    given = {"pod": pod, "policy": policy, "namespace": namespace}
    texts = {**given, "since": since, "until": until, "limit": limit}
    asked = {name: text for name, text in texts.items() if text}
    try:
        query = parse(asked, time.time())
    except ValueError as error:
        raise click.UsageError(f"--{error}.") from None
    if flags["state_dir"] is not None:
        body = _read_file(flags, query)
    else:
        where = url or client.url_of(value_of("health_address", flags), value_of("health_port", flags))
        try:
            body = client.get(where, client.history_path(asked))
        except client.UnreachableError as error:
            click.echo(f"Error: {error} While no agent runs: --state-dir DIR reads its file.", err=True)
            sys.exit(2)
    found = route.decode(body)
    with answering():
        if as_json:
            click.echo(body, nl=False)
        else:
            client.show_history(found, pod or "")


def _read_file(flags: Flags, query: Any) -> bytes:
    """Return the rows of the file in the state directory, as the agent would serve them."""
    from agent.history.store import StoreError, read
    from agent.observe.history import route

    directory = value_of("state_dir", flags)
    try:
        return route.encode("", read(directory, query))
    except StoreError as error:
        click.echo(f"Error: the history in {directory} cannot be read: {error}", err=True)
        sys.exit(2)
