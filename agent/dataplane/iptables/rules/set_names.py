"""Under which names rules look at sets: the usual one of each, or the alternate while it is switched."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.trees import Tree
from agent.dataplane.iptables.rules.unknown import Closing
from agent.net import Direction, Family
from agent.policy.lower.lowered import SetId


@dataclass(frozen=True)
class SetNames:
    """The kernel names of sets.

    ``switched`` and ``switched_isolated``: the sets of peers, and those of isolated addresses, that have
    their alternate name. ``caches``: the verdict caches, of the families that have one; ``transit``: the sets
    in which packets of others leave a trace, of the families in which OUTPUT does not judge them; ``closed``:
    those of addresses whose rules could not be written; ``untracked``: those in which denied packets leave a
    trace that are not tracked; ``closing``: those by which unknown addresses are closed, of the families in
    which they are.
    """

    caches: Mapping[Family, names.Cache] = field(default_factory=dict)
    transit: Mapping[Family, str] = field(default_factory=dict)
    untracked: Mapping[Family, str] = field(default_factory=dict)
    closed: Mapping[Tree, str] = field(default_factory=dict)
    closing: Mapping[Family, Closing] = field(default_factory=dict)
    switched: frozenset[SetId] = frozenset()
    switched_isolated: frozenset[Tree] = frozenset()

    def peer_set(self, set_id: SetId) -> str:
        name = names.peer_set(set_id)
        return names.alternate(name) if set_id in self.switched else name

    def isolated_set(self, direction: Direction, family: Family) -> str:
        name = names.isolated_set(direction, family)
        return names.alternate(name) if (direction, family) in self.switched_isolated else name

    def switching(self, sets: Collection[SetId], trees: Collection[Tree] = ()) -> SetNames:
        """Return the names with those of these sets changed from the usual to the alternate, or back."""
        return replace(
            self,
            switched=self.switched ^ frozenset(sets),
            switched_isolated=self.switched_isolated ^ frozenset(trees),
        )

    def forgetting(self, sets: Collection[SetId]) -> SetNames:
        """Return the names without those of sets that are gone."""
        left = self.switched.difference(sets)
        return self if len(left) == len(self.switched) else replace(self, switched=left)

    def usual(self) -> SetNames:
        """Return the names with all switched back."""
        return replace(self, switched=frozenset(), switched_isolated=frozenset())

    @property
    def any_switched(self) -> bool:
        return bool(self.switched or self.switched_isolated)
