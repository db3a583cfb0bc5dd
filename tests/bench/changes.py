"""The changes whose way to the packet is measured; each is undone by the next, so that they go round."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tests.bench.arena import HERE, THERE, Arena
from tests.bench.beam import PORT, Beam, beam
from tests.bench.cluster import Json, block, policy_spec


class Change(NamedTuple):
    """One API call, and whether packets pass after it. ``prepare`` goes before, unmeasured."""

    name: str
    act: Callable[[], object]
    passes: bool
    prepare: Callable[[], object] = lambda: None


class Scenario(NamedTuple):
    """Changes that follow each other, and the packets that they concern."""

    changes: Sequence[Change]
    packets: Beam


Make = Callable[[Arena], contextlib.AbstractContextManager[Scenario]]

_TARGET = {"matchLabels": {"app": "target"}}
_FRIENDS: Json = {
    "namespaceSelector": {"matchLabels": {"of": "bench"}},
    "podSelector": {"matchLabels": {"role": "friend"}},
}
_OWN: Json = {"podSelector": {"matchLabels": {"app": "app-1"}}}
_TEAM: Json = {
    "namespaceSelector": {"matchLabels": {"team": "team-1"}},
    "podSelector": {"matchLabels": {"role": "role-1", "app": "app-1"}},
}
_BLOCK = block("100.127.0", 24, 26)


def isolating(*, egress: bool = False) -> Json:
    """Return the spec of a policy like the others, which isolates the target and lets no probe in."""
    return policy_spec(_TARGET, [_OWN, _TEAM, _BLOCK], egress=egress)


def _admitting(selector: Json, peers: list[Json]) -> Json:
    """Return the spec of a policy that would let the probed packets of its peers in."""
    spec = policy_spec(selector, peers, egress=False)
    spec["ingress"][0]["ports"][0] = {"protocol": "UDP", "port": PORT}
    return spec


@contextlib.contextmanager
def policies(arena: Arena) -> Iterator[Scenario]:
    """A policy on the target comes and goes; every other time it has egress too."""
    egress = itertools.cycle((False, True))
    client = arena.client
    changes = [
        Change(
            "policy added",
            lambda: client.create_policy(HERE, "comes", isolating(egress=next(egress))),
            passes=False,
        ),
        Change("policy removed", lambda: client.delete_policy(HERE, "comes"), passes=True),
    ]
    with beam(arena.client_pod, arena.target, arena.target.v4) as packets:
        yield Scenario(changes, packets)


@contextlib.contextmanager
def edits(arena: Arena) -> Iterator[Scenario]:
    """A block of a policy becomes another, which holds the client, and back."""
    near = f"{arena.client_pod.v4.rpartition('.')[0]}"
    specs = {
        passes: _admitting(_TARGET, [_FRIENDS, _TEAM, block(near, 24, 29) if passes else _BLOCK])
        for passes in (True, False)
    }
    path = f"/apis/networking.k8s.io/v1/namespaces/{HERE}/networkpolicies/edited"

    def edit(passes: bool) -> None:
        arena.client.patch(path, {"spec": {"ingress": specs[passes]["ingress"]}})

    changes = [
        Change("policy edited, to admit", lambda: edit(True), passes=True),
        Change("policy edited, to deny", lambda: edit(False), passes=False),
    ]
    with (
        arena.policy("edited", specs[False]),
        beam(arena.client_pod, arena.target, arena.target.v4) as packets,
    ):
        yield Scenario(changes, packets)


@contextlib.contextmanager
def labels(arena: Arena) -> Iterator[Scenario]:
    """A remote pod gains and loses the label by which a policy of the target admits it."""
    name = arena.client_pod.name.split("/")[1]
    changes = [
        Change(
            "peer label set", lambda: arena.client.label_pod(THERE, name, {"role": "friend"}), passes=True
        ),
        Change(
            "peer label removed", lambda: arena.client.label_pod(THERE, name, {"role": None}), passes=False
        ),
    ]
    with friends_admitted(arena) as packets:
        yield Scenario(changes, packets)


@contextlib.contextmanager
def friends_admitted(arena: Arena) -> Iterator[Beam]:
    """Have the target admit pods that are labelled as friends, which the client is not; yield its packets."""
    spec = _admitting(_TARGET, [_FRIENDS, _TEAM, _BLOCK])
    with arena.policy("friends", spec), beam(arena.client_pod, arena.target, arena.target.v4) as packets:
        yield packets


@contextlib.contextmanager
def namespaces(arena: Arena) -> Iterator[Scenario]:
    """The client's namespace gains and loses the label by which a policy of the target admits its pods."""
    spec = _admitting(_TARGET, [{"namespaceSelector": {"matchLabels": {"open": "yes"}}}, _TEAM, _BLOCK])
    label = arena.client.label_namespace
    changes = [
        Change("namespace label set", lambda: label(THERE, {"open": "yes"}), passes=True),
        Change("namespace label removed", lambda: label(THERE, {"open": None}), passes=False),
    ]
    with (
        arena.policy("open", spec),
        beam(arena.client_pod, arena.target, arena.target.v4) as packets,
    ):
        yield Scenario(changes, packets)


@contextlib.contextmanager
def local_pods(arena: Arena) -> Iterator[Scenario]:
    """A new pod of this node has its address reported; a policy that was there before isolates it."""
    client, pod = arena.client, arena.fresh
    name = pod.name.split("/")[1]
    spec = policy_spec({"matchLabels": {"app": "fresh"}}, [_OWN, _TEAM, _BLOCK], egress=False)

    def create() -> None:
        client.delete_pod(HERE, name)
        client.create_pod(HERE, name, node=pod.node.name, addresses=[], labels={"app": "fresh"})

    changes = [
        Change(
            "new local pod",
            lambda: client.set_pod_status(HERE, name, _running(pod.v4, pod.v6)),
            passes=False,
            prepare=create,
        ),
        Change("local pod's label removed", lambda: client.label_pod(HERE, name, {"app": None}), passes=True),
    ]
    with arena.policy("for-fresh", spec), beam(arena.client_pod, pod, pod.v4) as packets:
        yield Scenario(changes, packets)
    client.delete_pod(HERE, name)


@contextlib.contextmanager
def remote_pods(arena: Arena) -> Iterator[Scenario]:
    """A remote pod that a policy of the target admits is deleted, and comes back."""
    client, pod = arena.client, arena.client_pod
    name = pod.name.split("/")[1]

    def create() -> None:
        labels = {"app": "client", "role": "friend"}
        client.create_pod(THERE, name, node=pod.node.name, addresses=[], labels=labels)

    changes = [
        Change("remote pod deleted", lambda: client.delete_pod(THERE, name), passes=False),
        Change(
            "remote pod's address reported",
            lambda: client.set_pod_status(THERE, name, _running(pod.v4, pod.v6)),
            passes=True,
            prepare=create,
        ),
    ]
    with friends_admitted(arena) as packets:
        packets.wait(passes=False)
        client.label_pod(THERE, name, {"role": "friend"})
        try:
            yield Scenario(changes, packets)
        finally:
            client.delete_pod(THERE, name)
            arena.create(pod, {"app": "client"})


def _running(*addresses: str) -> Json:
    return {
        "phase": "Running",
        "podIP": addresses[0],
        "podIPs": [{"ip": address} for address in addresses],
        "startTime": "2026-01-01T00:00:00Z",
    }


SCENARIOS: tuple[Make, ...] = (policies, edits, labels, namespaces, local_pods, remote_pods)
