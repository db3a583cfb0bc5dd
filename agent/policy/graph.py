"""The parts that the compiler links together, and nothing else: they hold references, the stages keep them.

::

    PodRecord ── in ──► Identity ◄── matches ──► ActiveSelector ── feeds ──► LiveSet ──► Program.sets
    (a pod)        (equal labels)      (a peer's selectors)   (one per direction, family,
                                                               peers and named ports)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, TypeVar

import msgspec

from agent.kube.model import Key, Pod, Selector
from agent.net import Member, Network, NetworkMember
from agent.policy.blocks import Ranges
from agent.policy.peers.labels import quoted, selector_text
from agent.policy.ports import PortName
from agent.policy.program import SetId

T = TypeVar("T")


class Predicate(NamedTuple):
    """Which pods a peer means: those in ``namespace``, or in namespaces that ``namespaces`` matches.

    Exactly one of the two is set. ``namespaces`` matches known namespaces only.
    """

    namespace: str | None
    namespaces: Selector | None
    pods: Selector

    def __str__(self) -> str:
        if self.namespaces is None:
            where = f"namespace[{quoted(self.namespace or '')}]"
        else:
            where = f"namespaces[{selector_text(self.namespaces)}]"
        return f"pods[{selector_text(self.pods)}] {where}"


class Networks(NamedTuple):
    """The definition of a NETWORKS set."""

    members: frozenset[NetworkMember]


class PeerPods(NamedTuple):
    """The definition of a set of pods that match any of some predicates: their addresses, or ports of theirs.

    ``ports``: the names of the ports; without any the members are addresses.
    """

    predicates: tuple[Predicate, ...]
    ports: tuple[PortName, ...] = ()


class Area(NamedTuple):
    """Addresses of one family: ``covers`` are few networks in which all of ``ranges`` lie."""

    ranges: Ranges
    covers: tuple[Network, ...]


class PortPods(NamedTuple):
    """The definition of a set of the named ports of all pods that have one of them, whatever their labels.

    ``local`` leaves only this node's pods, ``area`` only addresses that lie in it.
    """

    ports: tuple[PortName, ...]
    local: bool = False
    area: Area | None = None


Definition = Networks | PeerPods | PortPods


class PodIdentity(NamedTuple):
    """Which pod it is: a pod recreated under its name is another one."""

    key: Key
    uid: str


class PodRecord(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One version of a pod, never changed. ``group`` is None when it is no peer and no target (not live)."""

    pod: Pod
    group: Identity | None
    local: bool

    @property
    def identity(self) -> PodIdentity:
        return PodIdentity(self.pod.key, self.pod.uid)

    def is_same_pod(self, other: PodRecord) -> bool:
        """Whether the other is a version of the same pod."""
        mine, others = self.pod, other.pod
        return mine.name == others.name and mine.namespace == others.namespace and mine.uid == others.uid

    def is_like(self, other: PodRecord) -> bool:
        """Whether an address is in the same sets in the hands of either."""
        return self.group is other.group and self.local == other.local and self.pod.ports == other.pod.ports


Some = tuple[T, ...] | set[T]
"""Distinct things, mostly few: a tuple takes a third of what a set does, for each of 100,000 pods."""

FEW = 8


def with_one(things: Some[T], thing: T) -> Some[T]:
    """Return the things and one more; a set is changed in place."""
    if isinstance(things, set):
        things.add(thing)
        return things
    if thing in things:
        return things
    return (*things, thing) if len(things) < FEW else {*things, thing}


def without_one(things: Some[T], thing: T) -> Some[T]:
    """Return the things without one, whether or not it is among them; a set is changed in place."""
    if isinstance(things, set):
        things.discard(thing)
        return things if things else ()
    return tuple(one for one in things if one is not thing)


class Identity:
    """The live pods of one namespace with equal labels, and the terms that match them."""

    __slots__ = ("labels", "namespace", "pods", "terms")

    def __init__(self, namespace: str, labels: dict[str, str]) -> None:
        self.namespace = namespace
        self.labels = labels
        self.pods: Some[PodRecord] = ()
        self.terms: Some[ActiveSelector] = ()


class ActiveSelector:
    """An active predicate: the groups that match it and the sets that it feeds, by family."""

    __slots__ = ("groups", "predicate", "v4", "v6")

    def __init__(self, predicate: Predicate) -> None:
        self.predicate = predicate
        self.groups: dict[Identity, None] = {}
        self.v4: list[LiveSet] = []
        self.v6: list[LiveSet] = []


class LiveSet:
    """A set of the program, with what decides whether a pod's address makes members of it.

    ``terms``: those of which one has to match the pod; empty where its labels do not matter. ``ports``: the
    named ports that make members; None where the address itself is the member. ``references``: how many
    policies ask for it; ``shown``: in how many policies' programs it is.
    """

    __slots__ = ("area", "definition", "id", "local", "members", "ports", "references", "shown", "terms")

    def __init__(self, set_id: SetId, definition: Definition, terms: Collection[ActiveSelector] = ()) -> None:
        self.id = set_id
        self.definition = definition
        self.terms = frozenset(terms)
        named = () if isinstance(definition, Networks) else definition.ports
        self.ports = frozenset(named) if named else None
        self.local = isinstance(definition, PortPods) and definition.local
        self.area = definition.area if isinstance(definition, PortPods) else None
        self.members: set[Member] = set()
        self.references = 0
        self.shown = 0

    def wants(self, group: Identity) -> bool:
        """Whether one of the terms matches a group."""
        return not self.terms.isdisjoint(group.terms)
