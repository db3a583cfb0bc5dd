"""What there is to reach whom: pods that policies cannot tell apart, and addresses alike to every policy.

All that is computed of a cluster is computed for looks and parts, never for each pod or address. A look is
what policies see of a pod; a part is a set of addresses that every peer of every policy takes alike: some
pods' that look the same and are in the same blocks, or some that are no pod's. A set of parts is a whole
number, with a bit for each.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import NamedTuple

from agent.kube.model import IPBlock, Key, NamedPort, NetworkPolicy, Pod, Rule
from agent.net import Direction, Family, Protocol
from agent.reach import intervals
from agent.reach.addresses import EVERY, family_at, number_of, of_block, unknown
from agent.reach.intervals import Intervals
from agent.spec.cluster import Cluster, claim, in_force, named_port


class Look(NamedTuple):
    """What policies see of a pod: its namespace, and those of its labels and ports that some policy names."""

    namespace: str
    labels: tuple[tuple[str, str], ...]
    ports: tuple[NamedPort, ...]


class Part(NamedTuple):
    """Addresses that every policy takes alike.

    ``family`` is None for pods without an address. ``look`` is the number of that of its pods, None for
    addresses that are no pod's. ``blocks`` has a bit for each group of blocks (of :class:`Known`) that it is
    in.
    """

    family: Family | None
    look: int | None
    blocks: int


class Standing(NamedTuple):
    """How a pod stands among the others: the number of its look, and the parts that its addresses are in."""

    look: int
    parts: tuple[int, ...]


@dataclass(frozen=True)
class Known:
    """A cluster, taken apart. Numbers of looks and parts are places in ``looks`` and ``parts``.

    ``namespaces`` has for each namespace the cluster with that namespace's policies alone. ``groups`` are the
    blocks, each with those that every rule names together with it, which nobody can tell apart: a rule may
    have thousands. ``examples`` has a
    pod for each look, ``standings`` how each pod stands that is judged, or will be when it has an address;
    ``numbers`` are the places on the line of addresses (:mod:`agent.reach.addresses`) that are its own.
    ``addresses`` are those of each part; ``whole`` is the same for the parts that are no pod's, with the
    addresses of pods that lie between.
    """

    cluster: Cluster
    namespaces: Mapping[str, Cluster]
    groups: tuple[tuple[IPBlock, ...], ...]
    looks: tuple[Look, ...]
    examples: tuple[Pod, ...]
    parts: tuple[Part, ...]
    standings: Mapping[Key, Standing]
    numbers: Mapping[Key, tuple[int, ...]]
    addresses: tuple[Intervals, ...]
    whole: Mapping[int, Intervals]

    @property
    def every(self) -> int:
        """All parts."""
        return (1 << len(self.parts)) - 1

    @cached_property
    def of_look(self) -> tuple[int, ...]:
        """The parts of each look."""
        found = [0] * len(self.looks)
        for number, part in enumerate(self.parts):
            if part.look is not None:
                found[part.look] |= 1 << number
        return tuple(found)

    @cached_property
    def of_namespace(self) -> Mapping[str, int]:
        """The parts of each namespace's pods."""
        found: dict[str, int] = {}
        for look, parts in zip(self.looks, self.of_look, strict=True):
            found[look.namespace] = found.get(look.namespace, 0) | parts
        return found

    @cached_property
    def of_block(self) -> Mapping[IPBlock, int]:
        """The parts in each block, or in another of its group."""
        found = [0] * len(self.groups)
        for number, part in enumerate(self.parts):
            for index in bits(part.blocks):
                found[index] |= 1 << number
        return {block: parts for group, parts in zip(self.groups, found, strict=True) for block in group}

    @property
    def blocks(self) -> Iterator[IPBlock]:
        """All blocks, group by group."""
        return chain.from_iterable(self.groups)


def know(cluster: Cluster, blocks: Iterable[IPBlock] = ()) -> Known:
    """Take a cluster apart; ``blocks`` are told from all other addresses, beside those of its policies.

    What policies may cost a node (``cluster.limit``) is not looked at.
    """
    namespaces = _by_namespace(cluster)
    policies = [policy for name, one in namespaces.items() for policy in in_force(one, name)]
    groups = _groups(policies, frozenset(blocks))
    keys, names = _named(policies)
    edges, inside = _sweep(groups)
    looks: dict[Look, int] = {}
    parts: dict[Part, int] = {}
    examples: list[Pod] = []
    addresses: list[list[tuple[int, int]]] = []
    standings: dict[Key, Standing] = {}
    numbers: dict[Key, tuple[int, ...]] = {}

    def put(part: Part, first: int, end: int) -> int:
        number = parts.setdefault(part, len(parts))
        if number == len(addresses):
            addresses.append([])
        addresses[number].append((first, end))
        return number

    for pod, own in _places(cluster):
        look = _look(pod, keys, names)
        index = looks.setdefault(look, len(looks))
        if index == len(examples):
            examples.append(pod)
        found = [
            put(Part(family_at(number), index, inside[bisect_right(edges, number)]), number, number + 1)
            for number in own
        ]
        standings[pod.key] = Standing(index, tuple(sorted(set(found))))
        numbers[pod.key] = own
    taken = intervals.canonical((n, n + 1) for own in numbers.values() for n in own)
    whole: dict[int, Intervals] = {}
    for family, blocks_in, stretch in _strangers(edges, inside):
        for first, end in intervals.difference(stretch, taken):
            number = put(Part(family, None, blocks_in), first, end)
            whole[number] = stretch
    return Known(
        cluster,
        namespaces,
        groups,
        tuple(looks),
        tuple(examples),
        tuple(parts),
        standings,
        numbers,
        tuple(map(intervals.canonical, addresses)),
        whole,
    )


def bits(number: int) -> Iterator[int]:
    """Give the places of the bits that are set, the lowest first."""
    text = bin(number)[:1:-1]
    at = text.find("1")
    while at >= 0:
        yield at
        at = text.find("1", at + 1)


def blocks_of(policies: Iterable[NetworkPolicy]) -> set[IPBlock]:
    """Return the blocks that policies name."""
    return {peer.block for rule in rules_of(policies) for peer in rule.peers if peer.block is not None}


def rules_of(policies: Iterable[NetworkPolicy]) -> Iterator[Rule]:
    """Give the rules of every direction that policies name."""
    for policy in policies:
        for direction in Direction:
            yield from policy.rules(direction) or ()


def _groups(policies: Sequence[NetworkPolicy], apart: frozenset[IPBlock]) -> tuple[tuple[IPBlock, ...], ...]:
    """Return blocks in groups; those that are to be told apart are alone.

    With a bit for each block of each rule, a tenant's 100,000 blocks would take gigabytes.
    """
    naming: dict[IPBlock, list[int]] = {block: [] for block in apart}
    for number, rule in enumerate(rules_of(policies)):
        for block in {peer.block for peer in rule.peers if peer.block is not None}:
            naming.setdefault(block, []).append(number)
    groups: dict[tuple[IPBlock | None, tuple[int, ...]], list[IPBlock]] = {}
    for block in sorted(naming):
        alone = block if block in apart else None
        groups.setdefault((alone, tuple(naming[block])), []).append(block)
    return tuple(map(tuple, groups.values()))


def _by_namespace(cluster: Cluster) -> dict[str, Cluster]:
    """Return for each namespace the cluster with its policies alone: looking through all costs time."""
    policies: dict[str, dict[Key, NetworkPolicy]] = {name: {} for name in cluster.namespaces}
    for key, policy in cluster.policies.items():
        policies.setdefault(key.namespace, {})[key] = policy
    for key in cluster.pods:
        policies.setdefault(key.namespace, {})
    return {name: dataclasses.replace(cluster, policies=own) for name, own in policies.items()}


def _named(policies: Sequence[NetworkPolicy]) -> tuple[frozenset[str], tuple[tuple[str, Protocol], ...]]:
    """Return the label keys of pods, and the ports, that policies name."""
    selectors = {policy.pod_selector for policy in policies}
    names: set[tuple[str, Protocol]] = set()
    for rule in rules_of(policies):
        selectors.update(peer.pod_selector for peer in rule.peers if peer.pod_selector is not None)
        names.update((port.port, port.protocol) for port in rule.ports if isinstance(port.port, str))
    keys = frozenset(requirement.key for selector in selectors for requirement in selector.requirements)
    return keys, tuple(sorted(names))


def _look(pod: Pod, keys: frozenset[str], names: Sequence[tuple[str, Protocol]]) -> Look:
    found = ((name, protocol, named_port(pod, name, protocol)) for name, protocol in names)
    ports = tuple(NamedPort(name, protocol, number) for name, protocol, number in found if number is not None)
    labels = tuple(sorted((key, value) for key, value in pod.labels.items() if key in keys))
    return Look(pod.namespace, labels, ports)


def _places(cluster: Cluster) -> Iterator[tuple[Pod, tuple[int, ...]]]:
    """Give each pod that is judged, or will be, with its own places on the line of addresses."""
    owners: dict[int, Pod] = {}
    for pod in cluster.pods.values():
        for address in pod.addresses if pod.judged else ():
            number = number_of(address)
            before = owners.get(number)
            if before is None or claim(pod, address) > claim(before, address):
                owners[number] = pod
    nowhere = 0
    for pod in cluster.pods.values():
        if pod.host_network or pod.finished:
            continue
        if not pod.addresses:
            yield pod, (unknown(nowhere),)
            nowhere += 1
        elif own := {number_of(a) for a in pod.addresses if owners[number_of(a)] is pod}:
            yield pod, tuple(sorted(own))


def _sweep(groups: Sequence[Sequence[IPBlock]]) -> tuple[list[int], list[int]]:
    """Return where what groups of blocks hold begins and ends, and for each stretch before these which do.

    There is one stretch more than edges: the last is after all.
    """
    turns: dict[int, int] = {end: 0 for family in EVERY.values() for end in family}
    for index, group in enumerate(groups):
        for pair in intervals.canonical(chain.from_iterable(map(of_block, group))):
            for edge in pair:
                # What one part of a group ends, and another begins, stays as it is.
                turns[edge] = turns.get(edge, 0) ^ (1 << index)
    edges = sorted(turns)
    inside = [0]
    for edge in edges:
        inside.append(inside[-1] ^ turns[edge])
    return edges, inside


def _strangers(edges: Sequence[int], inside: Sequence[int]) -> Iterator[tuple[Family, int, Intervals]]:
    """Give all addresses, those that the same blocks hold together."""
    found: dict[tuple[Family, int], list[tuple[int, int]]] = {}
    for index, (first, end) in enumerate(pairwise(edges)):
        family = family_at(first)
        if family is not None:
            found.setdefault((family, inside[index + 1]), []).append((first, end))
    for (family, blocks), pairs in found.items():
        yield family, blocks, intervals.canonical(pairs)
