"""When a change may not be made step by step.

The steps of a change are: losses of released addresses, new chains, newly isolated addresses, changed
chains (one atomic restore), additions to live sets, removals from live sets, opened addresses. Within one
direction a packet is allowed when one of several rules matches, each on one set, so additions before
removals show every packet its old or its new verdict. A packet between two local pods meets both
directions, and then what one gains may come before what the other loses: for that instant it would pass
though it passes neither before nor after. Where that can be, and where chains and the sets they use change
together, the change is made by switching: everything at once in the one restore.

Being told of a hazard that is none costs a few milliseconds; the contrary is a hole. So each test here
errs to the safe side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.net import AddressPort, Direction, Member
from agent.policy.lower.lowered import Delta, SetKind
from agent.policy.program import PodId, PolicyId

OTHER = {Direction.INGRESS: Direction.EGRESS, Direction.EGRESS: Direction.INGRESS}


@dataclass
class _Side:
    """What changes in one direction."""

    rechained: dict[PodId, frozenset[bytes]] = field(default_factory=dict)
    """Pods whose chain changes or comes, with their addresses that are isolated before and after."""
    edited: set[PolicyId] = field(default_factory=set)
    recompiled: bool = False
    gained: set[bytes] = field(default_factory=set)
    lost: set[bytes] = field(default_factory=set)
    named: set[bytes] = field(default_factory=set)
    """Addresses of pods here, not of peers, that gain or lose a named port."""


def hazardous(
    delta: Delta,
    before: Mapping[PodId, tuple[bytes, ...]],
    after: Mapping[PodId, tuple[bytes, ...]],
    edited: Iterable[PolicyId],
) -> bool:
    """Whether a delta must be made at once.

    ``before`` and ``after``: the addresses of the delta's pods that had, and will have, a chain;
    ``edited``: its policies that had a chain and still will.
    """
    sides = {direction: _Side() for direction in Direction}
    for pod in before.keys() & after.keys():
        sides[pod.direction].rechained[pod] = frozenset(before[pod] + after[pod])
    for pod in after.keys() - before.keys():
        # An address that is closed, since its former pod is gone, is isolated already: packets meet the new
        # pod's chain as soon as it is written.
        closed = frozenset(after[pod]) - delta.isolated[pod.direction]
        if closed:
            sides[pod.direction].rechained[pod] = closed
    for policy in edited:
        sides[policy.direction].edited.add(policy)
    for policy in delta.policies:
        sides[policy.direction].recompiled = True
    for set_id, (added, removed) in delta.members.items():
        side = sides[set_id.direction]
        side.gained.update(_addresses(added))
        side.lost.update(_addresses(removed) - delta.released)
        if set_id.kind is SetKind.ADDRESS_PORTS and set_id.direction is Direction.INGRESS:
            side.named.update(_addresses(added) | (_addresses(removed) - delta.released))
    return any(
        _within(side, delta.isolated[d], delta.opened[d]) or _across(side, sides[OTHER[d]], delta.local)
        for d, side in sides.items()
    )


def _addresses(members: Iterable[Member]) -> set[bytes]:
    found = set()
    for member in members:
        if isinstance(member, bytes):
            found.add(member)
        elif isinstance(member, AddressPort):
            found.add(member.address)
    return found


def _within(side: _Side, isolated: set[bytes], opened: set[bytes]) -> bool:
    """Chains change together with sets, or with who is isolated, in a way that one packet can tell."""
    moved = side.gained | side.lost
    # A pod is no peer of its own, but its chain does look at its named ports.
    if any(moved - own or side.named & own for own in side.rechained.values()):
        return True
    # An address that its pod has anew is isolated before the pod's chain has become what it will be.
    if any(isolated & own for own in side.rechained.values()):
        return True
    if side.edited and (moved or isolated or opened):
        return True
    # A pod that was open and is now isolated by a policy that came with it: its peers must be there at once.
    if side.recompiled and _apart(isolated, side.gained):
        return True
    # A pod that is opened passes what its named ports did: they must not go first.
    return bool(side.named & opened) or _apart(opened, side.lost)


def _apart(pods: set[bytes], peers: set[bytes]) -> bool:
    """Whether a packet can be between one of the pods and one of the peers; no pod is a peer of its own."""
    for size in (4, 16):
        ours, theirs = {a for a in pods if len(a) == size}, {a for a in peers if len(a) == size}
        if ours and theirs and (len(ours) > 1 or ours != theirs):
            return True
    return False


def _across(side: _Side, other: _Side, local: set[bytes]) -> bool:
    """One direction gains what the other loses, on packets between two pods of this node."""
    if (side.rechained or side.edited) and (other.gained | other.lost) & local:
        return True
    # A pod's named ports are matched on the packet's destination, as the peers of the other direction are.
    if (side.gained | side.lost) & other.named:
        return True
    gained, lost = side.gained & local, other.lost & local
    return any(len(a) == len(b) and a != b for a in gained for b in lost)
