"""What holds on one node, free of any backend: which addresses are judged, and by which rules.

A :class:`Program` is a pure function of the cluster's objects. The engine keeps it up to date in place. It
names peers by their labels (:class:`Predicate`): which pods these are now, the cluster tells. So a packet's
verdict in one direction follows from the program, from the pods, and from who owns which address. The local
address of a packet is its destination for ingress and its source for egress. Its peer is at the other end.

0. Where new pods are closed, a packet of an address of the node's ``pod_networks`` that is not ``known`` is
   denied, whatever follows.
1. A packet from an address to itself is allowed.
2. A packet whose local address is not *judged* is allowed. Judged in a direction are the addresses of the
   program's ``pods``, and the ``closed`` ones.
3. An ingress packet from one of the ``node_networks`` is allowed.
4. A packet of a closed address is denied.
5. The tiers of the pod are asked in order, in each its policies, in each its rules. The first rule that
   matches decides, by its ``action``. If none matches, the pod's ``default`` decides.

"Is judged" and "is denied unless allowed" are two things. The first means that the pod is in ``pods``, the
second that its ``default`` is DENY.

Whoever is not judged in a direction may be *audited* in it: only audited policies select such a pod. They are
asked as in 1, 3 and 5. A packet that is allowed otherwise and that they would deny passes, but it is noted.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.kube.model import IPBlock, Key, Selector
from agent.net import Direction, Family, Network, Protocol


class Verdict(enum.Enum):
    """What becomes of a packet in one direction."""

    ALLOW = "allow"
    DENY = "deny"


class PolicyId(NamedTuple):
    """One direction of a policy."""

    direction: Direction
    policy: Key


class PodId(NamedTuple):
    """One direction of a local pod."""

    direction: Direction
    pod: Key


class PortRange(NamedTuple):
    """Destination ports ``first`` to ``last``, both included; the whole of 0-65535 means any port."""

    protocol: Protocol
    first: int
    last: int


class PortName(NamedTuple):
    """A named port that a rule asks for; name and protocol must both agree with the pod's."""

    name: str
    protocol: Protocol


class Predicate(NamedTuple):
    """Which pods a peer means: those in ``namespace``, or in namespaces that ``namespaces`` matches.

    Exactly one of the two is set. ``namespaces`` matches known namespaces only.
    """

    namespace: str | None
    namespaces: Selector | None
    pods: Selector


class Rule(NamedTuple):
    """One rule of a policy: it matches a packet whose peer and whose destination port it names.

    ``peers`` name the addresses of the pods that one of them means. ``blocks`` name the addresses that one of
    them holds: those in its cidr and in none of its own excepts. ``ports`` name protocols and numbers. Each
    of ``names`` names the number that the pod with the packet's destination address has under it, if any.

    ``peers`` None: any peer; ``blocks`` is empty then. ``ports`` None: any port of any protocol; ``names`` is
    empty then. What is empty names nothing, never everything.

    ``number`` counts the policy's rules of this direction from 0, as in its spec; a rule without any peer is
    left out. ``peers`` and ``blocks`` are in the order of the spec, each once. ``ports`` and ``names`` are
    sorted; ranges of one protocol neither touch nor overlap.
    """

    number: int
    action: Verdict
    peers: tuple[Predicate, ...] | None
    blocks: tuple[IPBlock, ...]
    ports: tuple[PortRange, ...] | None
    names: tuple[PortName, ...]


class PolicyProgram(NamedTuple):
    """The rules of an active policy in one direction; without any it allows nothing."""

    rules: tuple[Rule, ...]


class Tier(NamedTuple):
    """Policies that are asked together, in this order, before those of the next tier."""

    name: str
    policies: tuple[Key, ...]


NETWORK_POLICY = "NetworkPolicy"
"""The tier of NetworkPolicies: since their rules only allow, the order within it decides nothing."""


class PodProgram(NamedTuple):
    """A local pod that is judged in one direction: the addresses that it owns, and what judges them.

    ``default`` is the verdict when no rule of any tier matches. It is DENY for a pod that a NetworkPolicy
    selects: the API calls such a pod isolated. It is ALLOW for one that only audited policies select.
    """

    addresses: tuple[bytes, ...]
    tiers: tuple[Tier, ...]
    default: Verdict = Verdict.DENY

    @property
    def policies(self) -> tuple[Key, ...]:
        """The policies of all tiers, in the order in which they are asked."""
        if len(self.tiers) == 1:
            return self.tiers[0].policies
        return tuple(policy for tier in self.tiers for policy in tier.policies)


def network_policies(policies: tuple[Key, ...]) -> tuple[Tier, ...]:
    """Return the tiers of a pod that only these NetworkPolicies judge, which are sorted."""
    return (Tier(NETWORK_POLICY, policies),)


def judged_addresses(
    pods: Mapping[PodId, PodProgram],
    closed: Mapping[Direction, Set[bytes]],
    direction: Direction,
    family: Family,
) -> set[bytes]:
    """Return the addresses judged in a direction: of pods and closed ones. Costs a scan."""
    size = family.bits // 8
    found = {a for a in closed[direction] if len(a) == size}
    for pod_id, pod in pods.items():
        if pod_id.direction is direction:
            found.update(a for a in pod.addresses if len(a) == size)
    return found


class PodNetworks(NamedTuple):
    """The networks of this node's pods; none: they are not known.

    ``exclusive``: no other node's pods have addresses in them.
    """

    networks: frozenset[Network]
    exclusive: bool


NO_NETWORKS = PodNetworks(frozenset(), exclusive=False)


@dataclass
class Program:
    """What holds on this node. Only the engine writes to it.

    ``policies``: those that select a pod here, and all that the tiers of ``pods`` and ``audited`` name.
    ``audited``: pods that policies select, but in this direction only audited ones. ``closed``: addresses
    that stay judged though no pod has them, for each direction; disjoint from the addresses of ``pods`` in
    that direction.
    ``node_networks``: networks of other nodes, which may reach every pod when the setting says so; else none.
    ``known``: the addresses that live pods of this node have, None where new pods are open. Where it is not,
    an address of the ``pod_networks`` that is not known is closed in both directions.
    """

    policies: dict[PolicyId, PolicyProgram] = field(default_factory=dict)
    pods: dict[PodId, PodProgram] = field(default_factory=dict)
    audited: dict[PodId, PodProgram] = field(default_factory=dict)
    closed: dict[Direction, set[bytes]] = field(
        default_factory=lambda: {Direction.INGRESS: set(), Direction.EGRESS: set()}
    )
    node_networks: frozenset[Network] = frozenset()
    known: set[bytes] | None = None
    pod_networks: PodNetworks = NO_NETWORKS

    def judged(self, direction: Direction, family: Family) -> set[bytes]:
        """Return the addresses judged in a direction. Costs a scan."""
        return judged_addresses(self.pods, self.closed, direction, family)
