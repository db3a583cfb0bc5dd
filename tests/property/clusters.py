"""Whole random clusters and the packets that tell their policies apart.

Everything comes from a few small pools drawn first, so that names, labels, addresses, rules and whole specs
are shared more often than not, and corners are common.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from random import Random
from typing import Any

from hypothesis import strategies as st

from agent.kube.model import (
    IPBlock,
    Key,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Object,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.kube.validate import METADATA_NAME
from agent.net import Protocol, address_text
from agent.policy.lower.cost import MANY_PEERS
from agent.spec.verdict import Packet
from tests.property.networks import edges, network_of
from tests.property.strategies import ADDRESSES_4, ADDRESSES_6, APP_A, HERE, ICMP, requirement
from tests.property.to_yaml import to_yaml

THERE = "there"
"""The other node with pods."""

LONG_NAMESPACE = "n" * 63
LONG_NAME = ".".join(("n" * 63, "o" * 63, "p" * 63, "q" * 61))
LONG_KEY = f"{'d' * 63}.{'e' * 63}.{'f' * 63}.{'g' * 61}/{'k' * 63}"
LONG_VALUE = "v" * 63
LONG_PORT = "abcdefghijklm-n"

_NAMESPACES = ("red", "blue", LONG_NAMESPACE)
_NAMES = ("a", "b", "c", LONG_NAME)
_LABEL_KEYS = ("app", "app", "app", "tier", LONG_KEY)
_LABEL_VALUES = ("a", "a", "b", "b", "", LONG_VALUE)
_PORT_NAMES = ("http", "dns", LONG_PORT)
_NUMBERS = (1, 53, 80, 81, 82, 8080, 65534, 65535)
_TIMES = ("", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z")
_PROTOCOLS = (Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.SCTP)

MAX_PROBES = 96


@dataclass(frozen=True, repr=False)
class RandomCluster:
    """A cluster's objects. See :meth:`disagreement` for how a counter-example is shown."""

    objects: tuple[Object, ...]

    def __repr__(self) -> str:
        return f"RandomCluster({len(self.pods)} pods, {len(self.policies)} policies)"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(repr(self))

    def disagreement(self, packet: Packet, what: str) -> str:
        """Return a counter-example for people: what, the manifests, and what to do with them."""
        source, destination = address_text(packet.source), address_text(packet.destination)
        protocol = protocol_name(packet.protocol)
        return (
            f"{what}\n"
            f"{source} to {destination}, {protocol} {packet.port}, in this cluster (save it in DIR):\n"
            f"{self.yaml}"
            f"netpol-agent explain {source} {destination} {packet.port}/{protocol} --manifests DIR\n"
            f"netpol-agent render --node-name {HERE} --manifests DIR\n"
        )

    @property
    def yaml(self) -> str:
        return to_yaml(self.objects)

    @cached_property
    def pods(self) -> tuple[Pod, ...]:
        return tuple(found for found in self.objects if isinstance(found, Pod))

    @cached_property
    def policies(self) -> tuple[NetworkPolicy, ...]:
        return tuple(found for found in self.objects if isinstance(found, NetworkPolicy))

    def probes(self, at_most: int = MAX_PROBES) -> Iterator[Packet]:
        """Give packets about the edges of everything its policies name; all of them when they are few.

        Many are sampled, the same for the same cluster.
        """
        between_pods: list[tuple[bytes, bytes]] = []
        to_and_fro: list[tuple[bytes, bytes]] = []
        open_to_all: list[tuple[bytes, bytes]] = []
        for pool in _by_family(self._addresses()):
            for pair in product(pool, pool):
                source, destination = pair
                if self._pod_addresses.isdisjoint(pair):
                    continue
                if source not in self._isolated[0] and destination not in self._isolated[1]:
                    open_to_all.append(pair)
                elif self._pod_addresses.issuperset(pair):
                    between_pods.append(pair)
                else:
                    to_and_fro.append(pair)
        services = self._services()
        for pairs, share in ((between_pods, 2), (to_and_fro, 3), (open_to_all, 6)):
            count, total = at_most // share, len(pairs) * len(services)
            for index in range(total) if total <= count else Random(0).sample(range(total), count):
                number, service = divmod(index, len(services))
                yield Packet(*pairs[number], *services[service])

    @cached_property
    def _pod_addresses(self) -> frozenset[bytes]:
        return frozenset(address for pod in self.pods for address in pod.addresses)

    @cached_property
    def _isolated(self) -> tuple[set[bytes], set[bytes]]:
        """Addresses that policies may isolate, on egress and on ingress: only to choose packets by."""
        found: tuple[set[bytes], set[bytes]] = (set(), set())
        for pod in self.pods:
            for policy in self.policies:
                if policy.namespace == pod.namespace and policy.pod_selector.matches(pod.labels):
                    found[0].update(pod.addresses if policy.egress is not None else ())
                    found[1].update(pod.addresses if policy.ingress is not None else ())
        return found

    def _rules(self) -> set[Rule]:
        return {rule for p in self.policies for rule in (*(p.ingress or ()), *(p.egress or ()))}

    def _addresses(self) -> list[bytes]:
        blocks = {peer.block for rule in self._rules() for peer in rule.peers if peer.block is not None}
        found = {edge for b in blocks for network in (b.cidr, *b.excepts) for edge in edges(network)}
        return sorted(self._pod_addresses | found)

    def _services(self) -> list[tuple[int, int]]:
        named = {(int(port.protocol), port.port) for pod in self.pods for port in pod.ports}
        found = {(ICMP, 0), (int(Protocol.TCP), 9), (int(Protocol.UDP), 9), *named}
        found |= {(int(protocol), number) for _, number in named for protocol in Protocol}
        for rule in self._rules():
            for protocol, first, end in rule.ports:
                if isinstance(first, int):
                    last = first if end is None else end
                    found |= {(int(protocol), n) for n in (first - 1, first, last, last + 1)}
                    found.add((int(Protocol.UDP if protocol is Protocol.TCP else Protocol.TCP), first))
                elif first is None:
                    found |= {(int(protocol), 1), (int(protocol), 65535)}
        return sorted((protocol, port) for protocol, port in found if 0 <= port <= 65535)


def protocol_name(number: int) -> str:
    """Return a protocol's name as ``explain`` takes it."""
    names = {int(protocol): protocol.name.lower() for protocol in Protocol}
    return names.get(number, f"protocol-{number}")


def _by_family(addresses: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    return [a for a in addresses if len(a) == 4], [a for a in addresses if len(a) == 16]


# --- Pools --------------------------------------------------------------------------------------------------


_values = st.sampled_from([*((value,) for value in _LABEL_VALUES), ("", "a"), ("a", "b"), ("b", LONG_VALUE)])
_requirements = st.builds(requirement, st.sampled_from(_LABEL_KEYS), st.sampled_from(list(Operator)), _values)
_selectors = st.one_of(
    st.just(Selector()),
    _requirements.map(lambda one: Selector((one,))),
    st.frozensets(_requirements, min_size=2, max_size=3).map(lambda found: Selector(tuple(sorted(found)))),
)
_targets = st.one_of(st.sampled_from((Selector(), Selector(), Selector((APP_A,)))), _selectors)
_namespace_selectors = st.one_of(
    _targets,
    st.sampled_from(_NAMESPACES).map(
        lambda name: Selector((Requirement(METADATA_NAME, Operator.IN, (name,)),))
    ),
)
_labels = st.one_of(
    st.sampled_from(({}, {"app": "a"}, {"app": "b"}, {"app": "a", "tier": "a"}, {"app": "a", "tier": "b"})),
    st.dictionaries(st.sampled_from(_LABEL_KEYS), st.sampled_from(_LABEL_VALUES), max_size=3),
)

_POOLS = (
    (*ADDRESSES_4, *(ipaddress.ip_address(f"10.0.0.{last}").packed for last in (3, 4, 127, 128))),
    (*ADDRESSES_6, *(ipaddress.ip_address(f"fd00::{last:x}").packed for last in (3, 4, 0x7FFF, 0x8000))),
)


@st.composite
def _blocks(draw: st.DrawFn) -> IPBlock:
    pool = draw(st.sampled_from(_POOLS))
    bits = 8 * len(pool[0])
    common = (0, 1, 8, bits - 8, bits - 2, bits - 1, bits)
    cidr = network_of(draw(st.sampled_from(pool)), draw(st.sampled_from(common)))
    if cidr.prefix == bits:
        return IPBlock(cidr)
    inside = [address for address in pool if network_of(address, cidr.prefix) == cidr]
    # One bit longer than the cidr is the least there is: half of it.
    longer = [cidr.prefix + 1, *(prefix for prefix in (*common, cidr.prefix + 2) if prefix > cidr.prefix)]
    excepts = {
        network_of(draw(st.sampled_from(inside)), min(draw(st.sampled_from(longer)), bits))
        for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2, 3))))
    }
    return IPBlock(cidr, tuple(sorted(excepts)))


_none = st.none()
_peers = st.one_of(
    st.builds(Peer, _targets, _none, _none),
    st.builds(Peer, _none, _namespace_selectors, _none),
    st.builds(Peer, _targets, _namespace_selectors, _none),
    st.builds(Peer, _none, _none, _blocks()),
    st.builds(Peer, _none, _none, _blocks()),
)
_protocols = st.sampled_from(_PROTOCOLS)
_RANGES = ((1, 65535), (1, 1), (65535, 65535), (80, 81), (81, 90), (82, 90), (85, 8080), (8081, 65534))


def _range(protocol: Protocol, ends: tuple[int, int]) -> Port:
    return Port(protocol, *ends)


_ports = st.one_of(
    st.builds(Port, _protocols, st.sampled_from(_NUMBERS), _none),
    st.builds(_range, _protocols, st.sampled_from(_RANGES)),
    st.builds(Port, _protocols, st.sampled_from(_PORT_NAMES), _none),
    st.builds(Port, _protocols, _none, _none),
)


def _many(protocol: Protocol, count: int) -> tuple[Port, ...]:
    """Return more ports than one match of the kernel takes: 15, of which a range counts two."""
    return tuple(Port(protocol, 1000 + 3 * n, 1000 + 3 * n + 1 if n % 4 == 3 else None) for n in range(count))


_port_lists = st.one_of(
    st.just(()),
    st.just(()),
    _ports.map(lambda one: (one,)),
    st.lists(_ports, min_size=2, max_size=4).map(tuple),
    st.builds(_many, _protocols, st.sampled_from((12, 13, 15, 16, 31))),
)


def _named_by_many(pods: Selector, count: int) -> tuple[Peer, ...]:
    """Return so many peers that they share a set: namespaces by their names, some of which are none's."""
    names = [*_NAMESPACES, *(f"none-{n}" for n in range(count - len(_NAMESPACES)))]
    return tuple(
        Peer(pods, Selector((Requirement(METADATA_NAME, Operator.IN, (name,)),)), None) for name in names
    )


_peer_lists = st.one_of(
    st.just(()),
    _peers.map(lambda one: (one,)),
    st.lists(_peers, min_size=2, max_size=3).map(tuple),
    st.lists(st.builds(Peer, _none, _none, _blocks()), min_size=2, max_size=3).map(tuple),
    st.builds(_named_by_many, _targets, st.integers(MANY_PEERS + 1, MANY_PEERS + 3)),
)
_rules = st.builds(Rule, _peer_lists, _port_lists)
_named_port = st.builds(NamedPort, st.sampled_from(_PORT_NAMES), _protocols, st.sampled_from(_NUMBERS))
_named_ports = st.one_of(
    st.lists(_named_port, max_size=3, unique_by=lambda port: (port.name, port.protocol)).map(tuple),
    # One name for two protocols, and not the same number.
    st.sampled_from(_PORT_NAMES).map(
        lambda name: (NamedPort(name, Protocol.UDP, 53), NamedPort(name, Protocol.TCP, 80))
    ),
)
_rarely = st.sampled_from((False,) * 9 + (True,))
_uids = st.sampled_from(("", "1", "2"))


@st.composite
def _pods(draw: st.DrawFn, key: Key) -> Pod:
    kinds = draw(st.sampled_from(((4, 6), (4, 6), (4, 6), (6, 4), (4,), (6,), ())))
    pools = {4: _POOLS[0], 6: _POOLS[1]}
    return Pod(
        key.namespace,
        key.name,
        uid=draw(_uids),
        labels=draw(_labels),
        node=draw(st.sampled_from((HERE, HERE, THERE))),
        addresses=tuple(draw(st.sampled_from(pools[kind])) for kind in kinds),
        ports=draw(_named_ports),
        host_network=draw(_rarely),
        finished=draw(_rarely),
        started=draw(st.sampled_from(_TIMES)),
        created=draw(st.sampled_from(_TIMES[:2])),
    )


def _keys(namespaces: Sequence[str], at_least: int) -> st.SearchStrategy[list[Key]]:
    return st.lists(
        st.builds(Key, st.sampled_from(namespaces), st.sampled_from(_NAMES)),
        unique=True,
        min_size=at_least,
        max_size=6,
    )


@st.composite
def clusters(draw: st.DrawFn, *, from_files: bool = False) -> RandomCluster:
    """Return clusters as an API server may tell them; ``from_files`` only what manifests can say."""
    homes = draw(st.sampled_from((_NAMESPACES[:2], _NAMESPACES[:2], _NAMESPACES[:1], _NAMESPACES[1:])))
    pods = [draw(_pods(key)) for key in draw(_keys(homes, 3))]
    rules = st.sampled_from(draw(st.lists(_rules, min_size=1, max_size=4)))
    sides = st.one_of(
        st.sampled_from((None, None, ())),
        rules.map(lambda one: (one,)),
        rules.map(lambda one: (one,)),
        st.lists(rules, min_size=2, max_size=3).map(tuple),
    )
    specs = st.sampled_from(
        [(draw(_targets), draw(sides), draw(sides)) for _ in range(draw(st.integers(1, 3)))]
    )
    policies = []
    for key in draw(_keys(homes, 2)):
        selector, ingress, egress = draw(specs)
        if ingress is None and egress is None:
            ingress = ()
        policies.append(NetworkPolicy(key.namespace, key.name, selector, ingress, egress))
    if not from_files and draw(_rarely):
        # A peer of a kind not known here: from an API server only.
        last = policies[-1]
        policies[-1] = NetworkPolicy(
            last.namespace, last.name, last.pod_selector, (Rule((Peer(),)),), last.egress
        )
    used = sorted({pod.namespace for pod in pods} | {policy.namespace for policy in policies})
    unknown = "" if from_files or not draw(_rarely) else draw(st.sampled_from(used))
    namespaces = [
        Namespace(name, {**draw(_labels), METADATA_NAME: name}, draw(_rarely))
        for name in used
        if name != unknown
    ]
    return RandomCluster((*namespaces, *pods, *policies))
