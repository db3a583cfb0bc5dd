"""``netpol-agent replay``: a change held against what nodes have seen, asked of them or read from files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import urlencode

import msgspec

from agent.decoding import UndecodableError
from agent.kube.model import Key, Object
from agent.observe import client
from agent.observe.flows.flow import Flow
from agent.observe.replay import here
from agent.observe.replay.change import Change
from agent.observe.replay.here import Here
from agent.observe.replay.judging import Budget, Judge, budget_of
from agent.observe.replay.replayed import Replayed
from agent.observe.replay.replayed import replay as replayed
from agent.observe.replay.seen import Seen, ends_of, gather, logged
from agent.policy.budget.census import over_budget_in
from agent.policy.budget.limits import Budgets
from agent.sources.apiserver.agents import AgentPod, AgentsError, ask_all, find
from agent.sources.apiserver.connect import Connection
from agent.sources.manifests.once import Read
from agent.spec.cluster import Cluster, cluster_of
from agent.words import one_line

Parts = Sequence[tuple[object, Seen]]


class Asked(NamedTuple):
    """What agents have told. ``missing``: which could not be asked, or could not tell, and why."""

    told: Sequence[Here]
    missing: tuple[str, ...] = ()


Ask = Callable[[str, dict[str, str]], Asked]
"""Asks agents for a path of their status port, with a query, and returns what they tell."""


class UnknownPolicyError(Exception):
    """A policy that is to be removed and that nobody knows."""


def from_files(read: Read, flows: Iterable[Flow], change: Change, budgets: Budgets) -> Replayed:
    """Hold a change against a log, with objects that are known whole. Raises UnknownPolicyError."""
    cluster = cluster_of(read.objects, partial(over_budget_in, budgets))
    _check_removed(change, cluster, lambda _: False)
    after = change.applied(cluster)
    judges = Judge(cluster, budget_of(cluster)), Judge(after, budget_of(after))
    return replayed(
        *judges,
        gather(_logged(flows)),
        namespaces=change.namespaces,
        changes=change.in_words(cluster),
        notes=(*read.notes, *change.notes),
        missing=read.refused,
    )


def from_agents(ask: Ask, flows: Iterable[Flow], change: Change, knows: Callable[[Key], bool]) -> Replayed:
    """Hold a change against what agents have seen, and a log. ``knows``: whether an agent knows a policy.

    Raises UnknownPolicyError, and what ``ask`` and ``knows`` raise.
    """
    asked = ask("seen", {})
    from_log = gather(_logged(flows))
    told, missing = [*asked.told], [*asked.missing]
    for ends in _portions(dict.fromkeys(ends_of(from_log))):
        more = ask("seen", {"ends": ",".join(ends)})
        told += more.told
    missing += (f"node {one.node}: its tracked connections: {one.unread}" for one in told if one.unread)
    missing += (
        f"node {one.node}: {one.more} more sorts of connection than are told at once"
        for one in told
        if one.more
    )
    cluster = _cluster(told)
    _check_removed(change, cluster, knows)
    seen = gather([*((one.node, seen) for one in told for seen in one.connections), *_logged(flows)])
    return replayed(
        Judge(cluster, _budget(told)),
        Judge(change.applied(cluster), _budget(told, change.keys)),
        seen,
        namespaces=change.namespaces,
        changes=change.in_words(cluster),
        nodes=sorted({one.node for one in told}),
        notes=change.notes,
        missing=missing,
    )


def _logged(flows: Iterable[Flow]) -> Parts:
    """Return what a log tells, each with the log's direction: one connection may be in it twice."""
    return [(("log", flow.direction), found) for flow in flows if (found := logged(flow)) is not None]


def _portions(ends: Iterable[str]) -> Iterator[list[str]]:
    some = list(ends)
    return (some[start : start + here.ENDS] for start in range(0, len(some), here.ENDS))


def _cluster(told: Iterable[Here]) -> Cluster:
    objects: list[Object] = []
    for one in told:
        objects += (*one.pods, *one.namespaces, *one.policies)
    return cluster_of(objects)


def _budget(told: Iterable[Here], changed: frozenset[Key] = frozenset()) -> Budget:
    """Return what nodes say of budgets; a policy that is changed is taken to be within its own."""
    over: dict[str, dict[Key, object]] = {}
    for one in told:
        excess = ((Key.of(text), why) for text, why in one.over_budget.items())
        over.setdefault(one.node, {}).update({key: why for key, why in excess if key not in changed})

    def on(namespace: str, node: str) -> dict[Key, object]:
        return {key: why for key, why in over.get(node, {}).items() if key.namespace == namespace}

    return on


def _check_removed(change: Change, cluster: Cluster, knows: Callable[[Key], bool]) -> None:
    unknown = [key for key in sorted(change.removed) if key not in cluster.policies and not knows(key)]
    if unknown:
        raise UnknownPolicyError(f"there is no policy {unknown[0]} to remove: correct --remove")


# --- One agent ----------------------------------------------------------------------------------------------


def ask_one(url: str) -> Ask:
    """Return what asks the agent at a URL. It raises UnreachableError."""

    def ask(path: str, query: dict[str, str]) -> Asked:
        body = client.get(url, f"/{path}?{urlencode(query)}" if query else f"/{path}")
        try:
            return Asked([here.decode(body)])
        except UndecodableError as error:
            raise client.UnreachableError(
                f"what answers at {url} is no netpol-agent of this version: {error}"
            ) from None

    return ask


def known_to(url: str) -> Callable[[Key], bool]:
    """Return what asks the agent at a URL whether it knows a policy."""
    return lambda key: client.policy(url, str(key)) is not None


# --- Every agent --------------------------------------------------------------------------------------------


class Agents(NamedTuple):
    """The agents of a cluster, asked through its API server."""

    connection: Connection
    namespace: str
    port: int
    pods: list[AgentPod]

    def ask(self, path: str, query: dict[str, str]) -> Asked:
        """Ask every agent."""
        told: list[Here] = []
        missing: list[str] = []
        for answer in ask_all(self.connection, self.namespace, self.pods, self.port, path, query):
            if answer.error:
                missing.append(f"node {answer.pod.node}: {answer.error}")
                continue
            try:
                told.append(here.decode(answer.body))
            except UndecodableError as error:
                why = f"its answer is that of another version: {one_line(str(error))}"
                missing.append(f"node {answer.pod.node}: {why}")
        if not told:
            raise AgentsError("no agent could be asked: " + "; ".join(missing[:3]))
        return Asked(told, tuple(missing))

    def knows(self, key: Key) -> bool:
        """Whether any agent knows a policy."""
        found = ask_all(self.connection, self.namespace, self.pods, self.port, "rules", {"policy": str(key)})
        return any(not answer.error for answer in found)


def agents_of(kubeconfig: str | None, context: str | None, namespace: str, port: int) -> Agents:
    """Find the agents of a cluster. Raises AgentsError."""
    connection = Connection(kubeconfig, context)
    pods = find(connection, namespace)
    if not pods:
        raise AgentsError(f"no pod of an agent is in namespace {namespace}: --agents names another")
    return Agents(connection, namespace, port, pods)


def encode(found: Replayed) -> bytes:
    """Return a result as JSON."""
    return msgspec.json.encode(found) + b"\n"
