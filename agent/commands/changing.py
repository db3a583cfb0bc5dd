"""The commands that prepare a change: policies from lines and from what was seen, and what a change would do.

What a command needs is imported inside it, as in :mod:`agent.commands.cli`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from agent.commands.options import (
    IN_CONVERT,
    IN_REPLAY,
    URL,
    Flags,
    answering,
    end,
    options_for,
    places_if_given,
    tell,
    value_of,
)

if TYPE_CHECKING:
    from agent.observe.flows.flow import Flow
    from agent.observe.replay.change import Change
    from agent.observe.replay.replayed import Replayed
    from agent.sources.manifests.once import Read

_SINCE = click.option(
    "--since", metavar="TIME", help="Of the flow log: not before 90s, 15m, 1h or 7d ago, or a time."
)


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
    help="Turn the policies of this directory or file, or of standard input for -, into lines. With "
    "--from-flows: the objects that the log is about.",
)
@click.option(
    "--from-flows",
    "log",
    metavar="FILE",
    help="Propose the smallest policies that allow what this flow log has seen; - for standard input.",
)
@_SINCE
@click.option(
    "--verdict",
    "verdicts",
    multiple=True,
    metavar="WORD",
    help="Of the flow log: what was logged as allowed or denied. Several times.  [default: all but denied]",
)
@options_for("kubeconfig", "context", told=IN_CONVERT)
@click.option("--lines", "as_lines", is_flag=True, help="Print proposed policies as lines.")
@click.option(
    "--label",
    default="app",
    metavar="KEY",
    help="The label whose value is a pod's short name, as in shop/api.  [default: app]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of YAML or lines.")
def convert(
    lines: tuple[str, ...],
    places: tuple[str, ...],
    log: str | None,
    since: str | None,
    verdicts: tuple[str, ...],
    as_lines: bool,
    label: str,
    as_json: bool,
    **flags: Any,
) -> None:
    """Turn each LINE into a NetworkPolicy, printed as a manifest; with - the lines of standard input.

    With --manifests it is the other way: each policy becomes a line. A policy that no line says exactly is
    named, with the reason. The words of lines are in docs/convert.md.

    With --from-flows policies are proposed, in audit: by workload and direction, what the log has seen. The
    objects that the log is about come from --manifests or --kubeconfig.

    Exit codes: 0 all converted, 1 some policies cannot be said by a line or were refused (they are named, and
    the rest is printed), 2 a line that cannot be read (nothing is printed), or wrong options.
    """
    from agent.commands import convert as converting
    from agent.convert.manifest import UnfitError
    from agent.convert.read import LinesError
    from agent.kube.names import qualified_name

    if wrong := qualified_name(label):
        raise click.UsageError(f"--label: {wrong}.")
    if log is not None:
        if lines:
            raise click.UsageError("give lines or --from-flows, not both.")
        _propose(log, since, verdicts, places, flags, label, as_lines=as_lines, as_json=as_json)
    if bool(lines) == bool(places):
        raise click.UsageError("give lines, or - to read them from standard input, or --manifests PATH.")
    if given := [line for line in lines if line != "-" and os.path.exists(line)]:
        raise click.UsageError(f"{given[0]} is a file, no line: --manifests turns policies into lines.")
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
        end(*error.wrong)
    except UnfitError as error:
        end(str(error))
    with answering():
        click.echo(text, nl=False)


def _propose(
    log: str,
    since: str | None,
    verdicts: tuple[str, ...],
    places: tuple[str, ...],
    flags: Flags,
    label: str,
    *,
    as_lines: bool,
    as_json: bool,
) -> NoReturn:
    """Print policies that allow what a log has seen, and end the command."""
    from agent.commands import convert as converting
    from agent.convert.write import write_line
    from agent.dataplane.logged import Decided
    from agent.observe.propose.propose import SEEN_TO_PASS, ProposalError

    known = [word.value for word in Decided]
    for word in verdicts:
        if word not in known:
            raise click.UsageError(f"--verdict is {word!r}: give one of {', '.join(known)}.")
    if not places and flags["kubeconfig"] is None and flags["context"] is None:
        raise click.UsageError(
            "the log names pods, and their labels are needed: give --manifests PATH, or --kubeconfig FILE."
        )
    chosen = frozenset(map(Decided, verdicts)) or SEEN_TO_PASS
    flows = _flows(log, since)
    read = _objects(places, (value_of("kubeconfig", flags) or None, value_of("context", flags) or None))
    try:
        found = converting.proposed(read.objects, flows, chosen)
    except ProposalError as error:
        end(str(error))
    tell((*read.notes, *found.notes), read.refused)
    statements = converting.staged(found)
    with answering():
        if as_lines:
            text = "".join(f"{write_line(one, label)}\n" for one in statements)
        else:
            text = converting.as_json(statements) if as_json else converting.as_yaml(statements)
        click.echo(text, nl=False)
    click.echo(
        f"policies proposed: {len(statements)}; kinds of connection that they allow: {found.connections}",
        err=True,
    )
    sys.exit(1 if read.refused else 0)


@click.command(
    short_help="Say what a change would cut and open.",
    epilog="Example: netpol-agent replay new.yaml --remove shop/old",
)
@click.argument("changes", metavar="[CHANGE]...", nargs=-1)
@click.option(
    "--remove", "removed", multiple=True, metavar="NS/NAME", help="Remove this policy, too. Several times."
)
@click.option("--enforce", is_flag=True, help="As if audited policies of the change were enforced.")
@click.option(
    "--flow-log", "log", metavar="FILE", help="Also what this flow log has seen; - for standard input."
)
@_SINCE
@click.option(
    "--manifests",
    "places",
    multiple=True,
    metavar="PATH",
    help="Ask no agent: the objects are in this directory or file, the connections in --flow-log.",
)
@click.option("--cluster", is_flag=True, help="Ask every node's agent, by way of the API server.")
@click.option(
    "--agents",
    metavar="NAMESPACE",
    default="kube-system",
    help="With --cluster: the namespace of the agents' pods.  [default: kube-system]",
)
@options_for(
    "policy_budget",
    "namespace_budget",
    "kubeconfig",
    "context",
    "health_address",
    "health_port",
    told=IN_REPLAY,
)
@URL
@click.option(
    "--all", "everything", is_flag=True, help="Show every connection, not ten of each pod and policy."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def replay(
    changes: tuple[str, ...],
    removed: tuple[str, ...],
    enforce: bool,
    log: str | None,
    since: str | None,
    places: tuple[str, ...],
    cluster: bool,
    agents: str,
    url: str | None,
    everything: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Hold a change of policies against the connections that were really seen, before anybody applies it.

    CHANGE: files or directories with policies that are added or edited, or - for standard input. The agent on
    this node tells which connections its kernel tracks now, and which it has logged; with --cluster every
    agent does. Each is judged by the policies as they are and as they would be: what would be denied that was
    allowed, and what allowed that was denied. Nothing is changed.

    With --manifests or --kubeconfig the objects come from files or the API server, and what was seen from
    --flow-log alone. With --cluster, --kubeconfig says how to reach the API server.

    Exit codes: 0 nothing that was seen would be cut, 1 something would, 2 no answer (no agent answers, not
    every node could be looked at, a change or options that cannot be used).
    """
    from agent.kube.model import Key
    from agent.observe.replay.change import ChangeError, read_change

    if sum((cluster, bool(places), url is not None)) > 1:
        raise click.UsageError("give one of --manifests, --cluster and --url: each is another to ask.")
    try:
        gone = [Key.of(text) for text in removed]
    except ValueError as error:
        raise click.UsageError(f"--remove is {error}.") from None
    if not changes and not gone:
        raise click.UsageError("give files with policies, or --remove NS/NAME: nothing would change.")
    try:
        change = read_change(list(map(Path, changes)), gone, enforce=enforce)
    except ChangeError as error:
        end(*error.wrong)
    found = _replayed(change, log, since, places, cluster, agents, url, flags)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    from agent.commands import replay as replaying
    from agent.observe import client
    from agent.observe.replay.text import show

    with answering():
        if as_json:
            click.echo(replaying.encode(found), nl=False)
        else:
            show(found, client.console(), everything=everything)
    sys.exit(found.exit_code)


def _replayed(
    change: Change,
    log: str | None,
    since: str | None,
    places: tuple[str, ...],
    cluster: bool,
    agents: str,
    url: str | None,
    flags: Flags,
) -> Replayed:
    """Hold a change against what is chosen; what cannot be asked ends the command with exit code 2."""
    from agent.commands import replay as replaying
    from agent.observe.client import UnreachableError, url_of
    from agent.policy.budget.limits import Budgets
    from agent.sources.apiserver.agents import AgentsError

    config = value_of("kubeconfig", flags) or None, value_of("context", flags) or None
    from_server = not cluster and (flags["kubeconfig"] is not None or flags["context"] is not None)
    if (places or from_server) and log is None:
        raise click.UsageError("--flow-log is missing: without an agent it says what was seen.")
    flows = _flows(log, since)
    try:
        if places or from_server:
            budgets = Budgets(value_of("policy_budget", flags), value_of("namespace_budget", flags))
            return replaying.from_files(_objects(places, config), flows, change, budgets)
        if cluster:
            every = replaying.agents_of(*config, agents, value_of("health_port", flags))
            return replaying.from_agents(every.ask, flows, change, every.knows)
        where = url or url_of(value_of("health_address", flags), value_of("health_port", flags))
        return replaying.from_agents(replaying.ask_one(where), flows, change, replaying.known_to(where))
    except (UnreachableError, AgentsError, replaying.UnknownPolicyError) as error:
        end(str(error))


def _objects(places: tuple[str, ...], config: tuple[str | None, str | None]) -> Read:
    """Return the objects of files, or of an API server where no files are named."""
    from agent.sources.manifests.once import read_once

    if places:
        return read_once(places_if_given(places, ()))
    from agent.commands.objects import read_server
    from agent.sources.apiserver.once import ReadError

    try:
        return read_server(*config)
    except ReadError as error:
        end(str(error))


def _flows(log: str | None, since: str | None) -> Sequence[Flow]:
    """Return what a flow log has seen; nothing where none is named."""
    import time

    from agent.history.query import parse
    from agent.observe.replay.records import RecordsError, read_records

    try:
        after = parse({"since": since} if since else {}, time.time()).since
    except ValueError as error:
        raise click.UsageError(f"--{error}.") from None
    if log is None:
        return ()
    try:
        records = read_records(log, after)
    except RecordsError as error:
        end(str(error))
    tell(records.notes, ())
    return records.flows
