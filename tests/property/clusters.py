"""Whole random clusters and the packets that tell their policies apart.

A few rules and specs are drawn first, so that they are shared more often than not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from random import Random
from typing import Any

import msgspec
from hypothesis import strategies as st

from agent.kube.model import Key, NamedPort, NetworkPolicy, Object, Pod, Rule
from agent.net import Protocol, address_text
from agent.spec.verdict import Packet
from tests.property import pieces
from tests.property.choices import Choices, drawn, rarely
from tests.property.networks import edges
from tests.property.to_yaml import to_yaml
from tests.property.words import CORNERS, HERE, ICMP, MANIFESTS, Words

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
        for pool in _by_family(self.addresses()):
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
        services = self.services()
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

    def addresses(self) -> list[bytes]:
        """Return its pods' addresses, and those at the edges of the blocks that its policies name."""
        blocks = {peer.block for rule in self._rules() for peer in rule.peers if peer.block is not None}
        found = {edge for b in blocks for network in (b.cidr, *b.excepts) for edge in edges(network)}
        return sorted(self._pod_addresses | found)

    def services(self) -> list[tuple[int, int]]:
        """Return protocols and ports: where any rule's begin and end, those beside, and those with names."""
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


def cluster(choices: Choices, words: Words = CORNERS) -> RandomCluster:
    """Return a cluster as an API server may tell it, or with :data:`MANIFESTS` as manifests can."""
    red, blue, long = words.namespaces
    homes = choices.one_of(((red, blue), (red, blue), (red,), (blue, long)))
    pods = [pieces.pod(choices, words, key) for key in _keys(choices, homes, words.names, 3)]
    rules = choices.several(partial(pieces.rule, words=words), 1, 4)
    pods = [_with_a_name(choices, words, pod, rules) for pod in pods]

    def shared(choices: Choices) -> Rule:
        return choices.one_of(rules)

    specs = [
        (pieces.selector(choices, words), pieces.side(choices, shared), pieces.side(choices, shared))
        for _ in range(choices.integer(1, 3))
    ]
    policies = []
    for key in _keys(choices, homes, words.policies, 2):
        selector, ingress, egress = choices.one_of(specs)
        if ingress is None and egress is None and (words.strict or not rarely(choices)):
            # The server names Ingress where a policy names nothing.
            ingress = ()
        mode = pieces.staging(choices)
        policies.append(NetworkPolicy(key.namespace, key.name, selector, ingress, egress, staging=mode))
    used = sorted({pod.namespace for pod in pods} | {policy.namespace for policy in policies})
    unknown = "" if words.strict or not rarely(choices) else choices.one_of(used)
    namespaces = [pieces.namespace(choices, words, name) for name in used if name != unknown]
    return RandomCluster((*namespaces, *pods, *policies))


def _with_a_name(choices: Choices, words: Words, pod: Pod, rules: Sequence[Rule]) -> Pod:
    """Give most pods a port that rules name: left to chance, few names mean anything."""
    wanted = sorted(
        {(port.port, port.protocol) for rule in rules for port in rule.ports if isinstance(port.port, str)}
    )
    if not wanted or rarely(choices, 3):
        return pod
    name, protocol = choices.one_of(wanted)
    others = [port for port in pod.ports if (port.name, port.protocol) != (name, protocol)]
    named = NamedPort(name, protocol, choices.one_of(words.numbers))
    return msgspec.structs.replace(pod, ports=(named, *others))


def _keys(choices: Choices, namespaces: Sequence[str], names: Sequence[str], least: int) -> list[Key]:
    return choices.several(lambda choices: pieces.key(choices, namespaces, names), least, 6, unlike=tuple)


def clusters(*, from_files: bool = False) -> st.SearchStrategy[RandomCluster]:
    """Return clusters as an API server may tell them; ``from_files`` only what manifests can say."""
    return drawn(partial(cluster, words=MANIFESTS if from_files else CORNERS))
