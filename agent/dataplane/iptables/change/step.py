"""One change of the kernel, as a value: made by the planner, carried out by the executor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.dataplane.iptables.held import Revision
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import Changes
from agent.kernel.ipset_shapes import SetShape
from agent.net import Family, Member, NetworkMember, member_address


@dataclass
class Gains:
    """Members that a set is to gain and to lose."""

    added: set[Member] = field(default_factory=set)
    removed: set[Member] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


@dataclass
class Step:
    """One change of the kernel. Chains and sets are named as in the kernel.

    ``chains``: chains to write. ``fresh``: sets to make; no rule that stays refers to them yet.
    ``unseen``: members to add that cannot change a verdict yet. ``live``: changes of members that do change
    verdicts. ``isolated``: addresses to add to, or to remove from, the sets of isolated addresses.
    ``known``: addresses to add to, or to remove from, the sets of known addresses: they leave first and enter
    last. ``networks``: changes of the sets of pods' networks, after all else.
    ``released``: addresses whose connections must be forgotten before they are added to any set again;
    ``vacant``: those of them for which this can wait. ``dropped``: sets that nothing needs after the step.
    ``spent``: chains of families that nothing needs after the step. ``reshapes``: its chains say the same as
    before in another shape, so that no verdict changes.

    ``revision``: what it changes in the record of what the kernel holds, as soon as it is taken over.

    ``otherwise``: for the case that a rule cannot be written. That rule then still refers to a set that the
    new rule would not refer to. These are the changes that this set must have all the same: peers are
    removed and addresses are isolated, but nothing is opened.
    """

    chains: Changes
    fresh: dict[str, tuple[SetShape, set[Member]]] = field(default_factory=dict)
    unseen: dict[str, Gains] = field(default_factory=dict)
    live: dict[str, Gains] = field(default_factory=dict)
    isolated: dict[str, Gains] = field(default_factory=dict)
    known: dict[str, Gains] = field(default_factory=dict)
    networks: dict[str, Gains] = field(default_factory=dict)
    released: set[bytes] = field(default_factory=set)
    vacant: set[bytes] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    otherwise: dict[str, Gains] = field(default_factory=dict)
    spent: set[tuple[Family, str]] = field(default_factory=set)
    reshapes: bool = False
    revision: Revision = field(default_factory=Revision)

    @property
    def waits_for_nothing(self) -> bool:
        """Whether it changes members alone, by messages that are answered at once."""
        return not self.fresh and not any(self.chains.values())


def taken_over(step: Step) -> Step:
    """Return a step without what it changes in the record, which knows of that already.

    What comes before it is made may change the record once more.
    """
    return replace(step, revision=Revision())


def excludes(member: Member) -> bool:
    """Whether a member takes out of its set what others of it hold."""
    return isinstance(member, NetworkMember) and member.nomatch


def denies(name: str, gains: Gains) -> bool:
    """Whether a packet that was allowed may be denied by a change of a set."""
    if names.is_isolated_set(name) or names.is_closed_set(name) or names.is_pod_networks_set(name):
        return bool(gains.added)
    return bool(gains.removed) or any(map(excludes, gains.added))


def take_losses(live: Mapping[str, Gains], released: set[bytes]) -> dict[str, Gains]:
    """Take the losses of released addresses out of live changes, and return them."""
    found: dict[str, Gains] = {}
    if not released:
        return found
    for name, gains in live.items():
        lost = {m for m in gains.removed if member_address(m) in released}
        if lost:
            found[name] = Gains(removed=lost)
            gains.removed -= lost
    return found
