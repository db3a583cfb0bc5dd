"""Which packets to send about a cluster: those whose verdict is about something its policies say."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from random import Random
from typing import NamedTuple

from agent.kube.model import NamedPort, Object, Rule
from agent.net import Direction, Protocol
from agent.spec.cluster import Cluster, cluster_of, owner
from agent.spec.evaluator import auditing, isolating, judge
from agent.spec.verdict import Packet, Verdict
from tests.kernel.exact.arena import PORTS, Arena
from tests.property.networks import edges
from tests.property.words import HERE

PROBES = 200
"""Packets a cluster at most."""

_CANDIDATES = 500
_PORTS = frozenset(PORTS)


class Expected(NamedTuple):
    """A packet, whether it passes, and what of the policies that depends on: alike for packets like it."""

    packet: Packet
    passes: bool
    grounds: Hashable


def expect(cluster: Cluster, packet: Packet) -> Expected:
    """Ask the evaluator about a packet; a direction counts where the policed node has the pod."""
    verdict = judge(cluster, packet)
    local = [d for d in Direction if is_local(cluster, verdict, d)]
    grounds = tuple(
        (
            direction,
            tuple(
                (found.policy, rule.number, rule.peer.yes, rule.port.yes and rule.port.why)
                for found in (*verdict.direction(direction).policies, *verdict.direction(direction).audited)
                for rule in found.rules
            ),
        )
        for direction in local
        if verdict.direction(direction).isolated or verdict.direction(direction).audited
    )
    passes = all(verdict.direction(direction).allowed for direction in local)
    return Expected(packet, passes, (len(packet.source), passes, grounds))


def is_local(cluster: Cluster, verdict: Verdict, direction: Direction) -> bool:
    """Whether the pod that is judged in a direction is on the policed node."""
    pod = verdict.direction(direction).pod
    return pod is not None and cluster.pods[pod].node == HERE


def plan(arena: Arena, objects: tuple[Object, ...], random: Random) -> list[Expected]:
    """Choose packets: of each kind of grounds one, then of each another, until there are enough."""
    cluster = cluster_of(objects)
    kinds: dict[Hashable, list[Expected]] = {}
    for packet in _candidates(arena, cluster, random):
        found = expect(cluster, packet)
        kinds.setdefault(found.grounds, []).append(found)
    rounds = itertools.zip_longest(*kinds.values())
    return [e for e in itertools.chain.from_iterable(rounds) if e is not None][:PROBES]


class _Target(NamedTuple):
    """An address on the policed node, and the rules of the policies that isolate it, or are audited."""

    direction: Direction
    address: bytes
    rules: tuple[Rule, ...]


def _candidates(arena: Arena, cluster: Cluster, random: Random) -> set[Packet]:
    rules = {r for p in cluster.policies.values() for r in (*(p.ingress or ()), *(p.egress or ()))}
    near, far = arena.ends
    unisolated = [_Target(direction, a, tuple(rules)) for direction in Direction for a in near]
    targets = _targets(cluster, near) or unisolated
    strangers = _strangers(arena, rules)
    services = _services(rules, [port for pod in cluster.pods.values() for port in pod.ports])
    found = set()
    for _ in range(_CANDIDATES):
        # One end is on the policed node, so that every packet passes its rules.
        direction, one, own = random.choice(targets if random.random() < 0.85 else unisolated)
        about = [random.choice(own)] if own and random.random() < 0.75 else []
        pool = random.choice((near, near, far, _strangers(arena, about) or strangers or far))
        others = [a for a in pool if len(a) == len(one) and a != one]
        if not others:
            continue
        other = random.choice(others)
        source, destination = (other, one) if direction is Direction.INGRESS else (one, other)
        pod = owner(cluster, destination)
        near_it = _services(about, pod.ports if pod is not None else ()) if about else []
        found.add(Packet(source, destination, *random.choice(near_it or services)))
    return found


def _targets(cluster: Cluster, near: Sequence[bytes]) -> list[_Target]:
    found = []
    for address in near:
        pod = owner(cluster, address)
        if pod is None or pod.node != HERE:
            continue
        for direction in Direction:
            policies = isolating(cluster, direction, pod) or auditing(cluster, direction, pod)
            rules = tuple(rule for policy in policies for rule in policy.rules(direction) or ())
            found += [_Target(direction, address, rules)] * bool(policies)
    return found


def _strangers(arena: Arena, rules: Iterable[Rule]) -> list[bytes]:
    blocks = {peer.block for rule in rules for peer in rule.peers if peer.block is not None}
    found = set().union(*(edges(network) for block in blocks for network in (block.cidr, *block.excepts)))
    return sorted(address for address in found if arena.reaches(address))


def _services(rules: Iterable[Rule], named: Iterable[NamedPort]) -> list[tuple[int, int]]:
    """Return protocols and ports on both sides of all edges, of every name, and some of other protocols."""
    found = {(int(Protocol.TCP), 9), (int(Protocol.UDP), 9)}
    numbers = {(port.name, port.port) for port in named}
    for rule in rules:
        for protocol, first, end in rule.ports:
            if isinstance(first, int):
                last = first if end is None else end
                found |= {(int(protocol), number) for number in (first - 1, first, last, last + 1)}
                found.add((int(Protocol.UDP if protocol is Protocol.TCP else Protocol.TCP), first))
            elif first is None:
                found |= {(int(protocol), 1), (int(protocol), 65535)}
            else:
                found |= {(int(p), number) for p in Protocol for name, number in numbers if name == first}
                found |= {(int(protocol), number) for _, number in numbers}
    return sorted(service for service in found if service[1] in _PORTS)
