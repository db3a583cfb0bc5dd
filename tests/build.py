"""Short ways to write addresses, objects and events in tests."""

from __future__ import annotations

import ipaddress

from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import (
    IPBlock,
    Key,
    Kind,
    NamedPort,
    NetworkPolicy,
    Object,
    Operator,
    Pod,
    Requirement,
    Selector,
    kind_of,
)
from agent.net import Direction, Family, Network, Protocol
from agent.policy.compile import compile_policy
from agent.policy.lower.policy import BOTH, Lowered, lower_policy


def lowered(
    policy: NetworkPolicy, direction: Direction, families: tuple[Family, ...] = BOTH
) -> Lowered | None:
    """Return a policy in the form of sets; None when it does not name the direction."""
    program = compile_policy(policy, direction)
    return None if program is None else lower_policy(program, direction, families)


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def network(text: str) -> Network:
    found = ipaddress.ip_network(text)
    return Network(found.network_address.packed, found.prefixlen)


def block(cidr: str, *excepts: str) -> IPBlock:
    return IPBlock(network(cidr), tuple(map(network, excepts)))


def labelled(**labels: str) -> Selector:
    return Selector(tuple(Requirement(k, Operator.IN, (v,)) for k, v in sorted(labels.items())))


def port(name: str, number: int, protocol: Protocol = Protocol.TCP) -> NamedPort:
    return NamedPort(name, protocol, number)


def pod(
    name: str,
    *addresses: str,
    namespace: str = "shop",
    node: str = "here",
    uid: str = "",
    ports: tuple[NamedPort, ...] = (),
    started: str = "",
    created: str = "",
    finished: bool = False,
    host_network: bool = False,
    **labels: str,
) -> Pod:
    return Pod(
        namespace,
        name,
        uid or f"uid of {name}",
        labels or {"app": name},
        node,
        tuple(map(packed, addresses)),
        ports,
        host_network,
        finished,
        started,
        created,
    )


def upsert(*found: Object) -> list[Event]:
    return [Upsert(kind_of(one), one) for one in found]


def delete_pod(name: str, namespace: str = "shop") -> Event:
    return Delete(Kind.POD, Key(namespace, name))
