"""The commands that look at a node: what is enforced on it, what changed, and what is denied.

What a command needs is imported inside it, as in :mod:`agent.commands.cli`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from agent.commands.options import (
    IN_CLUSTER,
    IN_HISTORY,
    IN_STATUS,
    URL,
    Flags,
    answering,
    end,
    options_for,
    progress,
    value_of,
)

if TYPE_CHECKING:
    from agent.observe.snapshot import StatusSnapshot
    from agent.observe.status.policy import PolicyView

POLICIES = 20
"""Policies of one pod that are shown with their rules."""


@click.command(
    short_help="Show what is enforced on this node.",
    epilog="Example: netpol-agent status --policy shop/api-to-db",
)
@click.option("--pod", metavar="NS/NAME", help="What is enforced for this pod, and what its policies allow.")
@click.option("--policy", metavar="NS/NAME", help="Whom this policy isolates, and what its rules counted.")
@click.option("--all", "everything", is_flag=True, help="Every isolated pod, policy and set of this node.")
@click.option("--cluster", "cluster", is_flag=True, help="Every node in a line, by way of the API server.")
@click.option(
    "--agents",
    metavar="NAMESPACE",
    default="kube-system",
    help="With --cluster: the namespace of the agents' pods.  [default: kube-system]",
)
@options_for("kubeconfig", "context", "health_address", "health_port", told=IN_CLUSTER)
@URL
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the agent as it is, in JSON.")
def status(
    pod: str | None,
    policy: str | None,
    everything: bool,
    cluster: bool,
    agents: str,
    url: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Show what the agent on this node enforces, and why.

    First what a person needs: whether it is ready and why not, how much is enforced, the last changes, and
    what was denied in the last minute if that is logged. What a rule has counted are the packets that it was
    asked about: the first of each connection, and of those cached as allowed none.

    With --cluster all agents are asked through the API server's proxy to their pods. That needs the rights to
    list pods and get pods/proxy in their namespace, and to list nodes; and --health-address must be one that
    the API server reaches.

    Exit codes: 0 ready (with --cluster: every node), 1 not ready, 2 wrong options, no agent answers, or it
    knows no such policy.
    """
    from agent.observe import client
    from agent.observe.status import text

    if sum((pod is not None, policy is not None, everything, cluster)) > 1:
        raise click.UsageError("give one of --pod, --policy, --all and --cluster.")
    for option, name in (("--pod", pod), ("--policy", policy)):
        if name is not None:
            _named(option, name)
    if cluster:
        _cluster(agents, flags, as_json=as_json)
    where = url or client.url_of(value_of("health_address", flags), value_of("health_port", flags))
    with _reaching():
        body, snapshot = client.fetch(where)
        views, about = [], {}
        if policy is not None:
            views, about = [_policy(where, policy)], {"policy": policy}
        elif pod is not None:
            found = next((one for one in snapshot.pods if one.pod == pod), None)
            names = sorted({*(found.ingress or ()), *(found.egress or ())}) if found is not None else []
            views = [view for name in names[:POLICIES] if (view := client.policy(where, name)) is not None]
            about = {"pod": pod}
        around = client.around(where, about) if not (as_json or everything) else text.Around()
    with answering():
        if as_json:
            click.echo(_json(body, snapshot, pod, [view[0] for view in views]), nl=False)
        elif policy is not None:
            text.show_policy(views[0][1], around.rows, client.console())
        elif pod is not None:
            text.show_pod(pod, snapshot, [view[1] for view in views], around, client.console())
        elif everything:
            client.show(snapshot)
        else:
            text.show_screen(snapshot, around, client.console())
    sys.exit(0 if snapshot.ready else 1)


def _named(option: str, text: str) -> None:
    """End the command where an option does not name an object."""
    from agent.history.query import key_of

    try:
        key_of(option, text)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None


def _cluster(namespace: str, flags: Flags, *, as_json: bool) -> NoReturn:
    """Ask every agent, print a line for each node, and end the command."""
    from agent.commands import cluster
    from agent.observe import client
    from agent.observe.status.cluster import encode, show
    from agent.sources.apiserver.agents import AgentsError

    config = value_of("kubeconfig", flags) or None, value_of("context", flags) or None
    try:
        found = cluster.ask(*config, namespace, value_of("health_port", flags))
    except AgentsError as error:
        end(str(error))
    with answering():
        if as_json:
            click.echo(encode(*found), nl=False)
        else:
            show(*found, client.console())
    sys.exit(0 if found.ready else 1)


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    """End the command with exit code 2 where no agent answers."""
    from agent.observe import client

    try:
        yield
    except client.UnreachableError as error:
        end(str(error))


def _policy(url: str, name: str) -> tuple[bytes, PolicyView]:
    from agent.observe import client

    found = client.policy(url, name)
    if found is None:
        end(f"the agent knows no policy {name}")
    return found


def _json(body: bytes, snapshot: StatusSnapshot, pod: str | None, policies: list[bytes]) -> bytes:
    """Return the answer in JSON: the status whole, a policy, or a pod with its policies."""
    if pod is None:
        return policies[0] if policies else body
    import msgspec

    isolated = next((one for one in snapshot.pods if one.pod == pod), None)
    answer: dict[str, Any] = {"pod": pod, "isolated": isolated, "policies": list(map(msgspec.Raw, policies))}
    if snapshot.cuts is not None:
        answer["cut"] = snapshot.cuts.of_pod(pod)
        answer["cut_by_others"] = snapshot.cuts.of_peer(pod)
    return msgspec.json.encode(answer) + b"\n"


@click.command(
    short_help="Prove that the kernel does what the policies say.",
    epilog="Example: netpol-agent verify --pod shop/db",
)
@click.option("--pod", default="", metavar="NS/NAME", help="Of this pod alone.")
@options_for("health_address", "health_port", told=IN_STATUS)
@URL
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, with every difference.")
def verify(pod: str, url: str | None, as_json: bool, **flags: Any) -> None:
    """Prove that this node's kernel does with every packet what the policies say.

    The agent hands its objects to a process of its own. That reads the rules and sets back from the kernel,
    computes the exact set of addresses, protocols and ports that each pod of this node takes and may send to,
    and compares it with the same set by the specification. The agent does so every minute by itself
    (--verify-interval), and puts back what differs.

    Exit codes: 0 proved, 1 something differs, the smallest difference first, 2 it could not be proved, wrong
    options, or no agent answers.
    """
    from agent.commands import verify as verifying
    from agent.observe import client

    if pod:
        _named("--pod", pod)
    where = url or client.url_of(value_of("health_address", flags), value_of("health_port", flags))
    with _reaching(), progress("proving"):
        body, found = verifying.ask(where, pod)
    if why := verifying.refusal(found, pod):
        end(why)
    with answering():
        if as_json:
            click.echo(body, nl=False)
        else:
            verifying.show(found, pod, client.console())
    sys.exit(1 if found.differences else 0)


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
            end(f"{error} While no agent runs: --state-dir DIR reads its file.")
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
        end(f"the history in {directory} cannot be read: {error}")


@click.command(
    short_help="Show denied connections as they happen.",
    epilog="Example: netpol-agent watch --denied --pod shop/db",
)
@options_for("health_address", "health_port", told=IN_STATUS)
@URL
@click.option("--denied", is_flag=True, help="Only denied connections.")
@click.option("--allowed", is_flag=True, help="Only allowed connections.")
@click.option("--audited", is_flag=True, help="Only those that audited policies would deny.")
@click.option("--pod", default="", metavar="NS/NAME", help="Only connections from or to this pod.")
@click.option("--policy", default="", metavar="NS/NAME", help="Only of pods that this policy isolates.")
@click.option(
    "--last",
    type=click.IntRange(0, 1000),
    default=10,
    metavar="NUMBER",
    help="Begin with so many of the last ones.  [default: 10]",
)
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON.")
def watch(
    url: str | None,
    denied: bool,
    allowed: bool,
    audited: bool,
    pod: str,
    policy: str,
    last: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """Show the connections that the agent on this node logs, as they happen, each with the reason.

    Which connections are logged, --log-denied and --log-allowed of the agent say, and annotations of pods and
    namespaces. What audited policies would deny is always logged. End it with Ctrl-C.

    Exit codes: 0 ended, 2 wrong options, or no agent answers.
    """
    from agent.commands import watch as watching
    from agent.observe import client

    if url is None:
        url = client.url_of(value_of("health_address", flags), value_of("health_port", flags))
    wanted = watching.wanted_of(denied=denied, allowed=allowed, audited=audited, pod=pod, policy=policy)
    try:
        watching.watch(url, wanted, last, as_json=as_json)
    except client.UnreachableError as error:
        end(str(error))


@click.command(
    short_help="Acknowledge a policy of others.",
    epilog="Example: netpol-agent confirm shop/quick-fix",
)
@click.argument("policy", metavar="NS/NAME")
@options_for("state_dir", "health_address", "health_port", told=IN_STATUS)
@URL
def confirm(policy: str, url: str | None, **flags: Any) -> None:
    """Acknowledge a policy that was found in the cluster and was not written by one's own pipeline.

    With --own-managers the agent lists policies that another program wrote last, in status and on its page.
    One that is confirmed is listed no more, until yet another program writes it. The confirmation is kept in
    the state directory, beside the history, which shows it. It needs root, and is for this node.

    Exit codes: 0 confirmed, 1 there is no such policy to confirm, or the file cannot be written, 2 wrong
    options, or no agent answers.
    """
    from agent.commands import confirm as confirming
    from agent.history.query import key_of
    from agent.history.store import StoreError
    from agent.observe import client

    try:
        key = key_of("policy", policy)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    where = url or client.url_of(value_of("health_address", flags), value_of("health_port", flags))
    with _reaching():
        try:
            manager = confirming.confirm(where, value_of("state_dir", flags), str(key))
        except (confirming.NotUnconfirmedError, StoreError) as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
    click.echo(f"confirmed: {key}, last written by {manager or 'nobody known'}")
