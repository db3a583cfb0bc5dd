"""The program in the form of sets: what a backend with sets of addresses, such as ipset, can hold.

A :class:`LoweredProgram` allows exactly what the program says that it was made of. Its rules look packets up
in sets, which hold the addresses that there are now: of pods that a selector matches, of named ports, of
networks. A :class:`Delta` says what one step changed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.kube.logging import Logging
from agent.net import Direction, Family, Member, Network, NetworkMember, Protocol
from agent.policy.program import (
    NO_NETWORKS,
    PodId,
    PodNetworks,
    PodProgram,
    PolicyId,
    PortRange,
    judged_addresses,
)


class SetKind(enum.StrEnum):
    """What a set's members are."""

    ADDRESSES = "addresses"
    ADDRESS_PORTS = "address-ports"
    NETWORKS = "networks"


class SetId(NamedTuple):
    """A set of peers or of named ports, of one direction and family.

    ``direction`` tells the packet's side it is matched on: an ingress rule matches its peers on the source,
    an egress rule on the destination; an ADDRESS_PORTS set is always matched on the destination.
    ``meaning`` is canonical text that says what the members are: equal meaning, equal set; it is fit for
    people to read (``status``) and for hashing into a kernel name. The members of a NETWORKS set never
    change under one id.
    """

    kind: SetKind
    direction: Direction
    family: Family
    meaning: str


class LoweredRule(NamedTuple):
    """One rule of a policy, in one direction and family.

    It allows a packet when

    - its peer is in one of ``peers`` (None: any peer) or in ``blocks``, and its protocol and destination port
      in one of ``ports``, or (destination address, port) in one of ``named`` (both None: any port of any
      protocol); or
    - its (destination address, protocol, port) is in one of ``folded``: sets into which an egress
      peer and a named port have been folded together. Where ``peers`` or ``blocks`` are given too, who is
      in such a set is in one of those.

    ``blocks`` are the members of a NETWORKS set that are too few for one: the longest prefix decides. There
    are none where ``peers`` is None. Empty tuples match nothing. ``ports`` and ``named`` are None together
    or neither. ``number`` counts the policy's rules of this direction from 0, as in its spec. ``protocol`` is
    that of all ``ports`` and ``named``, None where they have several or are None.
    """

    number: int
    peers: tuple[SetId, ...] | None = None
    ports: tuple[PortRange, ...] | None = None
    named: tuple[SetId, ...] | None = None
    folded: tuple[SetId, ...] = ()
    blocks: tuple[NetworkMember, ...] = ()
    protocol: Protocol | None = None

    def sets(self) -> tuple[SetId, ...]:
        """Return every set the rule refers to."""
        return (self.peers or ()) + (self.named or ()) + self.folded


class LoweredPolicy(NamedTuple):
    """An active policy's rules in one direction: for each family, those that can match in it."""

    v4: tuple[LoweredRule, ...]
    v6: tuple[LoweredRule, ...]

    def rules(self, family: Family) -> tuple[LoweredRule, ...]:
        return self.v4 if family is Family.V4 else self.v6


@dataclass
class LoweredProgram:
    """What this node's kernel should hold. Only the engine writes to it.

    ``pods``, ``audited``, ``closed``, ``node_networks``, ``known`` and ``pod_networks`` are the program's
    own: they need no other form. Isolated is what the program calls judged, with DENY by default.
    """

    policies: dict[PolicyId, LoweredPolicy] = field(default_factory=dict)
    pods: dict[PodId, PodProgram] = field(default_factory=dict)
    sets: dict[SetId, set[Member]] = field(default_factory=dict)
    closed: dict[Direction, set[bytes]] = field(
        default_factory=lambda: {Direction.INGRESS: set(), Direction.EGRESS: set()}
    )
    node_networks: frozenset[Network] = frozenset()
    logging: dict[PodId, Logging] = field(default_factory=dict)
    """Of pods whose connections are logged: which. Most pods are not here."""
    audited: dict[PodId, PodProgram] = field(default_factory=dict)
    known: set[bytes] | None = None
    pod_networks: PodNetworks = NO_NETWORKS

    def isolated(self, direction: Direction, family: Family) -> set[bytes]:
        """Return the addresses isolated in a direction: of pods and closed ones. Costs a scan."""
        return judged_addresses(self.pods, self.closed, direction, family)


class Membership(NamedTuple):
    """How one live set changes: disjoint members to add and to remove."""

    added: set[Member]
    removed: set[Member]


@dataclass
class Delta:
    """What one step changed in the program; the program itself already holds the new state.

    ``policies`` and ``pods`` hold the ids that were added, changed or removed (look them up in the program;
    absent means removed), ``audited`` those of audited pods; ``sets_added`` and ``sets_removed`` the ids of
    sets that came and went, ``members`` how sets that stayed changed; ``isolated`` and ``opened`` the
    addresses that became, or ceased to be, isolated in a direction (pods' and closed ones together).
    ``released`` are addresses whose owner went or changed and which concern this node (local, or in a set
    here before or after): connection tracking must forget them before they are opened or put in any set.
    ``vacant`` are those released that were remote and that nobody has now: they are released again when
    somebody takes them, so that forgetting them can wait. ``local`` are the addresses of local pods, after
    this step and before it, among the members that changed. ``node_networks``: whether those changed, and
    ``pod_networks`` the same. ``admitted`` are the addresses that became known, ``expelled`` those that are
    known no more; one that passes from a pod to another is in both: it leaves first, and enters last.
    """

    policies: set[PolicyId] = field(default_factory=set)
    pods: set[PodId] = field(default_factory=set)
    audited: set[PodId] = field(default_factory=set)
    sets_added: set[SetId] = field(default_factory=set)
    sets_removed: set[SetId] = field(default_factory=set)
    members: dict[SetId, Membership] = field(default_factory=dict)
    isolated: dict[Direction, set[bytes]] = field(
        default_factory=lambda: {Direction.INGRESS: set(), Direction.EGRESS: set()}
    )
    opened: dict[Direction, set[bytes]] = field(
        default_factory=lambda: {Direction.INGRESS: set(), Direction.EGRESS: set()}
    )
    released: set[bytes] = field(default_factory=set)
    vacant: set[bytes] = field(default_factory=set)
    local: set[bytes] = field(default_factory=set)
    node_networks: bool = False
    pod_networks: bool = False
    admitted: set[bytes] = field(default_factory=set)
    expelled: set[bytes] = field(default_factory=set)

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return bool(
            self.policies
            or self.pods
            or self.audited
            or self.sets_added
            or self.sets_removed
            or self.members
            or any(self.isolated.values())
            or any(self.opened.values())
            or self.released
            or self.node_networks
            or self.pod_networks
            or self.admitted
            or self.expelled
        )
