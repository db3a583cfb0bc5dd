"""A made-up cluster of a given size, the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agent.kube.events import Event, Synced, Upsert
from agent.kube.model import (
    IPBlock,
    Kind,
    NamedPort,
    Namespace,
    Network,
    NetworkPolicy,
    Operator,
    Peer,
    Pod,
    Port,
    Protocol,
    Requirement,
    Rule,
    Selector,
)

NODE = "bench"
_NAMESPACES = 20
_APPS = 50


class Size(NamedTuple):
    """How large: pods of the cluster, pods of this node among them, and policies."""

    pods: int
    local: int
    policies: int


def events(size: Size) -> list[Event]:
    """Return everything that exists, as a source would tell it."""
    found: list[Event] = [Upsert(Kind.NAMESPACE, namespace) for namespace in _namespaces()]
    found += [Upsert(Kind.POD, pod(number, size)) for number in range(size.pods)]
    found += [Upsert(Kind.POLICY, policy(number)) for number in range(size.policies)]
    return [*found, *(Synced(kind) for kind in Kind)]


def pod(number: int, size: Size, **labels: str) -> Pod:
    """Return a pod; the first ``size.local`` are this node's."""
    tail = (number + 10).to_bytes(3, "big")
    return Pod(
        namespace=f"ns-{number % _NAMESPACES}",
        name=f"pod-{number}",
        uid=str(number),
        labels={"app": f"app-{number % _APPS}", **labels},
        node=NODE if number < size.local else f"node-{number % 100}",
        addresses=(b"\n" + tail, b"\xfd" + bytes(12) + tail),
        ports=(NamedPort("http", Protocol.TCP, 8080),),
        started="2026-01-01T00:00:00Z",
    )


def policy(number: int, name: str = "policy") -> NetworkPolicy:
    """Return a policy with three peers (pods, namespaces, a block) and three ports (number, name, range)."""
    peers = (
        Peer(pod_selector=_selector("app", f"app-{(number + 1) % _APPS}")),
        Peer(pod_selector=Selector(), namespace_selector=_selector("team", f"team-{number % 5}")),
        Peer(block=IPBlock(_network(192, 168, number % 256), (_network(192, 168, number % 256, 25),))),
    )
    ports = (Port(Protocol.TCP, 80), Port(Protocol.TCP, "http"), Port(Protocol.TCP, 30000, 30100))
    rules = (Rule(peers, ports),)
    return NetworkPolicy(
        namespace=f"ns-{number % _NAMESPACES}",
        name=f"{name}-{number}",
        pod_selector=_selector("app", f"app-{number % _APPS}"),
        ingress=rules,
        egress=rules if number % 2 else None,
    )


def _namespaces() -> Iterator[Namespace]:
    for number in range(_NAMESPACES):
        yield Namespace(f"ns-{number}", {"team": f"team-{number % 5}"})


def _selector(key: str, value: str) -> Selector:
    return Selector((Requirement(key, Operator.IN, (value,)),))


def _network(*parts: int) -> Network:
    return Network(bytes((*parts[:3], 0)), parts[3] if len(parts) > 3 else 24)
