"""All that an input holds, as rules look at it: policies, pods, namespaces, Services and ranges."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent.kube.mode import Mode
from agent.kube.model import Key, NetworkPolicy, Operator, Peer, Requirement, Selector
from agent.kube.validate import METADATA_NAME
from agent.lint.networks import Networks
from agent.lint.openings import Openings
from agent.net import Direction, Network, Protocol


class DeclaredPort(NamedTuple):
    """A port that a container declares, under a name or none."""

    name: str
    protocol: Protocol
    number: int


class SeenPod(NamedTuple):
    """A pod, or all pods of a workload, which its template says. ``title`` names it for people.

    ``addresses`` is empty for a workload's.
    """

    title: str
    key: Key
    labels: dict[str, str]
    ports: tuple[DeclaredPort, ...] = ()
    addresses: tuple[bytes, ...] = ()


class ServicePort(NamedTuple):
    """A port of a Service, and the number or name of the pods' port that it leads to."""

    name: str
    protocol: Protocol
    number: int
    target: int | str


class SeenService(NamedTuple):
    """A Service with the pods that it selects; none where ``selector`` is empty."""

    key: Key
    selector: Mapping[str, str]
    ports: tuple[ServicePort, ...]
    addresses: tuple[bytes, ...]


class Policy(NamedTuple):
    """A policy as it is written: its value, and the plain data of its ``spec`` and ``metadata``.

    ``version`` is its apiVersion. ``context``: it is not looked at, only beside it. ``mode`` is
    what is done with it, by its own annotation or its namespace's. ``broken`` are the paths of what cannot be
    read of a policy that a server refuses.
    """

    value: NetworkPolicy
    spec: Mapping[str, Any]
    metadata: Mapping[str, Any]
    version: str
    context: bool = False
    mode: Mode = Mode.ENFORCE
    broken: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.value.key


class Range(NamedTuple):
    """A range of addresses, and what says so."""

    network: Network
    source: str


@dataclass(frozen=True, eq=False)
class Scene:
    """The input. ``complete``: it is a cluster's, so what is not in it does not exist.

    ``namespaces`` are those of Namespace objects, by name, with their labels; ``service_ranges`` and
    ``pod_ranges`` are those known, ``node_addresses`` say the node.
    """

    policies: tuple[Policy, ...]
    pods: tuple[SeenPod, ...]
    namespaces: Mapping[str, dict[str, str]]
    services: tuple[SeenService, ...]
    pod_ranges: tuple[Range, ...]
    service_ranges: tuple[Range, ...]
    node_addresses: Mapping[bytes, str]
    complete: bool

    @functools.cached_property
    def pods_of(self) -> Mapping[str, Sequence[SeenPod]]:
        """The pods by namespace."""
        found: dict[str, list[SeenPod]] = {}
        for pod in self.pods:
            found.setdefault(pod.key.namespace, []).append(pod)
        return found

    @functools.cached_property
    def beside(self) -> Mapping[str, Sequence[Policy]]:
        """The policies by namespace."""
        found: dict[str, list[Policy]] = {}
        for policy in self.policies:
            found.setdefault(policy.key.namespace, []).append(policy)
        return found

    @functools.cached_property
    def enforced(self) -> Mapping[str, Sequence[Policy]]:
        """The policies that are enforced, by namespace: only these open or close anything."""
        return {
            name: [one for one in policies if one.mode is Mode.ENFORCE]
            for name, policies in self.beside.items()
        }

    @functools.cached_property
    def services_of(self) -> Mapping[str, Sequence[SeenService]]:
        """The Services by namespace."""
        found: dict[str, list[SeenService]] = {}
        for service in self.services:
            found.setdefault(service.key.namespace, []).append(service)
        return found

    @functools.cached_property
    def labels_of(self) -> Mapping[str, dict[str, str]]:
        """The labels of every namespace that the input has an object of, or that objects are in."""
        used = {pod.key.namespace for pod in self.pods} | set(self.beside)
        return {name: self.namespaces.get(name, {METADATA_NAME: name}) for name in {*used, *self.namespaces}}

    @functools.cached_property
    def _matches(self) -> dict[tuple[str, Selector], tuple[SeenPod, ...]]:
        return {}

    def knows(self, namespace: str) -> bool:
        """Whether the input tells which pods a namespace has."""
        return self.complete or namespace in self.pods_of

    def matching(self, namespace: str, selector: Selector) -> tuple[SeenPod, ...]:
        """Return the pods of a namespace that a selector matches."""
        asked = (namespace, selector)
        found = self._matches.get(asked)
        if found is None:
            pods = self.pods_of.get(namespace, ())
            found = self._matches[asked] = tuple(pod for pod in pods if selector.matches(pod.labels))
        return found

    def selected(self, policy: Policy) -> tuple[SeenPod, ...]:
        """Return the pods that a policy selects."""
        return self.matching(policy.key.namespace, policy.value.pod_selector)

    def namespaces_of(self, policy: Policy, peer: Peer) -> list[str] | None:
        """Return the namespaces that a pod peer is about; None where the input cannot tell which they are."""
        selector = peer.namespace_selector
        if selector is None:
            return [policy.key.namespace]
        positive = any(r.operator in (Operator.IN, Operator.EXISTS) for r in selector.requirements)
        if not (self.complete or positive):
            # It matches namespaces that are in other files, too.
            return None
        return sorted(name for name, labels in self.labels_of.items() if selector.matches(labels))

    def peer_pods(self, policy: Policy, peer: Peer) -> tuple[SeenPod, ...] | None:
        """Return the pods that a pod peer matches; None where the input cannot tell."""
        namespaces = self.namespaces_of(policy, peer)
        if not namespaces or not all(map(self.knows, namespaces)):
            return None
        selector = peer.pod_selector or Selector()
        return tuple(pod for name in namespaces for pod in self.matching(name, selector))

    @functools.cached_property
    def _openings(self) -> dict[tuple[int, Direction, bool], Openings]:
        return {}

    def openings(self, policy: Policy, direction: Direction, *, everywhere: bool = False) -> Openings:
        """Return the blocks of a policy of this scene; ``everywhere`` as :class:`Openings` says."""
        asked = id(policy.value), direction, everywhere
        if (found := self._openings.get(asked)) is None:
            rules = policy.value.rules(direction) or ()
            found = self._openings[asked] = Openings(rules, everywhere=everywhere)
        return found

    @functools.cached_property
    def pods_at(self) -> Mapping[bytes, Key]:
        """The pods by address."""
        return {address: pod.key for pod in self.pods for address in pod.addresses}

    @functools.cached_property
    def pods_by_range(self) -> tuple[Networks, Mapping[Network, Range]]:
        """The ranges of pods, and of each the first that says so."""
        return _by_network(self.pod_ranges)

    @functools.cached_property
    def _services_by_range(self) -> tuple[Networks, Mapping[Network, Range]]:
        return _by_network(self.service_ranges)

    @functools.cached_property
    def _services_at(self) -> Mapping[bytes, Key]:
        return {one: service.key for service in reversed(self.services) for one in service.addresses}

    def is_of_services(self, network: Network) -> str:
        """Say of which Service, or range of Services, all addresses of a block are; "" when of none."""
        networks, ranges = self._services_by_range
        for around in networks.around(network):
            return f"is in the range of Services {around} ({ranges[around].source})"
        if network.prefix == 8 * len(network.address) and network.address in self._services_at:
            return f"is the ClusterIP of Service {self._services_at[network.address]}"
        return ""


def _by_network(ranges: Sequence[Range]) -> tuple[Networks, Mapping[Network, Range]]:
    return Networks(one.network for one in ranges), {one.network: one for one in reversed(ranges)}


def narrower(one: Selector, other: Selector) -> bool:
    """Whether all labels that ``one`` matches are matched by ``other``, as single requirements tell."""
    mine: dict[str, list[Requirement]] = {}
    for requirement in one.requirements:
        mine.setdefault(requirement.key, []).append(requirement)
    return all(_implied(mine.get(theirs.key, ()), theirs) for theirs in other.requirements)


def _implied(requirements: Sequence[Requirement], theirs: Requirement) -> bool:
    """Whether one of some requirements of a key is enough for another requirement of that key."""
    operator, values = theirs.operator, theirs.values
    for mine in requirements:
        if operator is Operator.EXISTS and mine.operator in (Operator.IN, Operator.EXISTS):
            return True
        if operator is Operator.DOES_NOT_EXIST and mine.operator is Operator.DOES_NOT_EXIST:
            return True
        if operator is Operator.IN and mine.operator is Operator.IN and set(mine.values) <= set(values):
            return True
        if operator is Operator.NOT_IN and (
            mine.operator is Operator.DOES_NOT_EXIST
            or (mine.operator is Operator.IN and not set(mine.values) & set(values))
            or (mine.operator is Operator.NOT_IN and set(mine.values) >= set(values))
        ):
            return True
    return False
