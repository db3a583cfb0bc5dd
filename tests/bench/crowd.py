"""The cluster in which the packets' cost is measured: every pod is isolated by ten policies.

2,000 pods in 20 namespaces, and in each namespace ten policies that select every pod of it. Each policy has
three peers (pods, pods of labelled namespaces, a block with an except) and three ports (a number, a name, a
range); every other one has egress too. The packets that are measured have the number, so that they meet the
peers of every policy; only the one that comes last in a pod's chain allows them, by its last peer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from agent.kube.events import Event, Synced, Upsert
from agent.kube.model import (
    IPBlock,
    Kind,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Network, Protocol
from tests.bench.result import Size

NODE = "bench"
PORT = 80
"""The number that every policy names."""

PODS = 2000
NAMESPACES = 20
POLICIES_EACH = 10
TEAMS = 5


def size(local: int) -> Size:
    """Return how large the cluster is with so many pods on the node."""
    return Size("crowd", PODS, local, NAMESPACES * POLICIES_EACH)


def crowd(local: Sequence[tuple[str, str]], known: str) -> list[Event]:
    """Return everything that exists, as a source would tell it.

    ``local``: the IPv4 and IPv6 addresses of the node's pods; neighbours in it are in different namespaces.
    ``known``: the IPv4 block that the last policy of each namespace allows.
    """
    found: list[Event] = [
        Upsert(Kind.NAMESPACE, Namespace(f"ns-{n}", {"team": f"team-{n % TEAMS}"})) for n in range(NAMESPACES)
    ]
    found += [Upsert(Kind.POD, _pod(n, texts, NODE)) for n, texts in enumerate(local)]
    found += [
        Upsert(Kind.POD, _pod(n, (f"10.250.{n // 250}.{n % 250 + 1}", f"fd00:10:250::{n + 1:x}"), "other"))
        for n in range(len(local), PODS)
    ]
    found += [
        Upsert(Kind.POLICY, _policy(namespace, number, known))
        for namespace in range(NAMESPACES)
        for number in range(POLICIES_EACH)
    ]
    return [*found, *(Synced(kind) for kind in Kind)]


def _pod(number: int, addresses: tuple[str, str], node: str) -> Pod:
    return Pod(
        namespace=f"ns-{number % NAMESPACES}",
        name=f"pod-{number}",
        uid=str(number),
        labels={"app": f"app-{number % 50}"},
        node=node,
        addresses=tuple(ipaddress.ip_address(text).packed for text in addresses),
        ports=(NamedPort("http", Protocol.TCP, 8080),),
        started="2026-01-01T00:00:00Z",
    )


def _policy(namespace: int, number: int, known: str) -> NetworkPolicy:
    last = number == POLICIES_EACH - 1
    whole = ipaddress.IPv4Network(known if last else f"192.168.{namespace * POLICIES_EACH + number}.0/24")
    # Small enough to hold none of 240 pods of a node.
    excepted = list(whole.subnets(new_prefix=30))[-1]
    peers = (
        Peer(pod_selector=_selector("app", f"app-{number}")),
        # Of the namespace's own team: the measured pods are of two.
        Peer(pod_selector=Selector(), namespace_selector=_selector("team", f"team-{namespace % TEAMS}")),
        Peer(block=IPBlock(_network(whole), (_network(excepted),))),
    )
    ports = (Port(Protocol.TCP, PORT), Port(Protocol.TCP, "http"), Port(Protocol.TCP, 30000, 30100))
    rules = (Rule(peers, ports),)
    return NetworkPolicy(f"ns-{namespace}", f"p-{number}", Selector(), rules, rules if number % 2 else None)


def _selector(key: str, value: str) -> Selector:
    return Selector((Requirement(key, Operator.IN, (value,)),))


def _network(network: ipaddress.IPv4Network) -> Network:
    return Network(network.network_address.packed, network.prefixlen)
