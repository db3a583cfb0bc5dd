"""What each address of this node is to take and may send, as the specification says."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from agent.kube.model import Key, NetworkPolicy
from agent.net import Direction, Family
from agent.proof import area
from agent.proof.area import Area
from agent.proof.atoms import Atoms
from agent.proof.given import Given
from agent.reach.addresses import EVERY, number_of, of_network
from agent.reach.admits import Rules
from agent.reach.known import Known, know
from agent.spec.cluster import Cluster, cluster_of
from agent.spec.evaluator import isolating


class Target(NamedTuple):
    """An address that is judged, or is not to be. ``pod`` is None for one that no pod here has."""

    number: int
    pod: Key | None
    direction: Direction


def cluster_for(given: Given) -> Cluster:
    """Return the cluster with those of its policies that may isolate a pod of this node.

    The others say nothing about what these pods take and send, since a policy is about the pods it selects.
    """
    here: dict[str, list[dict[str, str]]] = {}
    for pod in given.pods:
        if pod.node == given.node and not pod.host_network and not pod.finished:
            here.setdefault(pod.namespace, []).append(pod.labels)

    def selects(policy: NetworkPolicy) -> bool:
        return any(map(policy.pod_selector.matches, here.get(policy.namespace, ())))

    return cluster_of((*given.pods, *given.namespaces, *filter(selects, given.policies)))


class Expected:
    """What the specification says of this node's addresses: :func:`agent.reach.admits.admits`, by atoms."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.cluster = cluster_for(given)
        self.known: Known = know(self.cluster)
        self._isolating: dict[Target, bool] = {}
        self._closed = {
            direction: frozenset(map(number_of, given.closed.get(direction, ()))) for direction in Direction
        }
        pods = self.cluster.pods
        self._here: Mapping[int, Key] = {
            number: key
            for key, numbers in self.known.numbers.items()
            if pods[key].node == given.node and pods[key].addresses
            for number in numbers
        }

        self.unknown = frozenset(self._unknown())
        """Addresses that no pod here has, one of each network in which such are closed."""

    def _unknown(self) -> Iterator[int]:
        closed = frozenset[int]().union(*self._closed.values())
        for first, end in map(of_network, self.given.closing):
            places = range(first, min(end, first + len(self._here) + len(closed) + 1))
            free = (number for number in places if number not in self._here and number not in closed)
            yield from islice(free, 1)

    def targets(self, family: Family) -> list[Target]:
        """Return the addresses of a family that pods here have, and those that stay closed."""
        first, end = EVERY[family]
        found = []
        for direction in Direction:
            closed = self._closed[direction] - self._here.keys()
            found += [Target(number, key, direction) for number, key in sorted(self._here.items())]
            found += [Target(number, None, direction) for number in sorted(closed | self.unknown)]
        return [target for target in found if first <= target.number < end]

    def isolating(self, target: Target) -> bool:
        """Whether an address is to be judged."""
        found = self._isolating.get(target)
        if found is None:
            found = self._isolating[target] = self._isolated(target)
        return found

    def enforced(self, wrong: Container[str]) -> list[Key]:
        """Return the policies that isolate pods here, but for those that isolate one of some."""
        right: set[Key] = set()
        doubtful: set[Key] = set()
        for key in dict.fromkeys(self._here.values()):
            pod = self.cluster.pods[key]
            for direction in Direction:
                for policy in isolating(self.known.namespaces[pod.namespace], direction, pod):
                    (doubtful if str(key) in wrong else right).add(policy.key)
        return sorted(right - doubtful)

    def _isolated(self, target: Target) -> bool:
        if target.pod is None:
            return target.number in self._closed[target.direction] or target.number in self.unknown
        pod = self.cluster.pods[target.pod]
        return bool(isolating(self.known.namespaces[pod.namespace], target.direction, pod))


class OfFamily:
    """The same in the atoms of one family."""

    def __init__(self, expected: Expected, atoms: Atoms) -> None:
        self._expected = expected
        self._atoms = atoms
        # Atoms in place of parts, which they are made of: so all that is told of parts is told of atoms.
        parts = tuple(map(expected.known.parts.__getitem__, atoms.parts))
        self._rules = Rules(dataclasses.replace(expected.known, parts=parts))
        self.nodes = 0
        """Other nodes that may reach every pod."""
        for network in expected.given.node_networks:
            self.nodes |= atoms.of_network.get(network, 0)

    def area(self, target: Target) -> Area:
        """Return the peers and ports of an address that are allowed."""
        if not self._expected.isolating(target):
            return area.whole(self._atoms.every)
        if target.pod is None:
            return area.NOTHING
        look = self._expected.known.standings[target.pod].look
        share = {allowed: atoms for atoms, allowed in self._rules.share(look, target.direction)}
        return area.merged(share, area.whole(1 << self._atoms.at(target.number)))

    def judged(self, targets: Iterable[Target], direction: Direction) -> int:
        """Return which of some addresses are judged in a direction."""
        found = 0
        for target in targets:
            if target.direction is direction and self._expected.isolating(target):
                found |= 1 << self._atoms.at(target.number)
        return found
