"""Sets in use, and what they are of.

::

    Identity ◄── matches ──► ActiveSelector ── feeds ──► LiveSet ──► LoweredProgram.sets
                             (a peer's selectors)        (one per direction, family, peers and named ports)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from agent.net import Member, Network, NetworkMember
from agent.policy.graph import ActiveSelector, Identity
from agent.policy.lower.blocks import Ranges
from agent.policy.lower.lowered import SetId
from agent.policy.program import PortName, Predicate


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


class LiveSet:
    """A set of the program, with what decides whether a pod's address makes members of it.

    ``terms``: those of which one has to match the pod; empty where its labels do not matter. ``ports``: the
    named ports that make members; None where the address itself is the member. ``references``: how many
    policies ask for it; ``shown``: in how many policies' programs it is.
    """

    __slots__ = ("area", "id", "local", "members", "ports", "references", "shown", "terms")

    def __init__(self, set_id: SetId, definition: Definition, terms: Collection[ActiveSelector] = ()) -> None:
        self.id = set_id
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
        return any(group in term.groups for term in self.terms)
