"""The sets that the rules need besides those of the program: made when the kernel has been read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.ipset.closed import Closed
from agent.dataplane.iptables.ipset.known import KnownSets
from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.ipset.transit import Transit
from agent.dataplane.iptables.ipset.untracked import Untracked
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.dataplane.iptables.verdict_cache import VerdictCache
from agent.fault import Fault
from agent.kernel.ipset_shapes import SetContent
from agent.policy.lower.lowered import Delta, LoweredProgram


@dataclass
class OwnSets:
    """Makes what is missing of them, takes all out of what was read, and has the record name them."""

    held: Held
    sets: KernelSets
    cache: VerdictCache
    transit: Transit
    closed: Closed
    untracked: Untracked

    def __post_init__(self) -> None:
        """Begin without networks in which anything is closed."""
        self.known = KnownSets(self.held.chains.families)

    def make(self, content: dict[str, SetContent]) -> None:
        """Make those that do not depend on the program."""
        held, sets = self.held, self.sets
        caches = self.cache.make(sets, content)
        transit = self.transit.make(sets, content)
        closed, held.closed = self.closed.make(sets, content)
        untracked, held.untracked = self.untracked.make(sets, content)
        held.names = replace(held.names, caches=caches, transit=transit, closed=closed, untracked=untracked)

    def make_known(
        self,
        content: dict[str, SetContent],
        program: LoweredProgram,
        node: NodeFacts,
        elsewhere: Collection[str],
    ) -> list[Fault]:
        """Make those by which unknown addresses are closed; ``elsewhere``: sets that other rules look at.

        Raises SetError.
        """
        referred = self.held.chains.referred() | {*elsewhere}
        withheld = self.held.tracked.unforgotten | self.held.withdrawn.now()
        closing = self.known.make(self.sets, content, program, node.surroundings, referred, withheld)
        self.held.names = replace(self.held.names, closing=closing)
        self.held.pod_networks = self.known.networks.networks
        self.held.unadmitted = {*withheld}
        return self.known.unmade

    def outdated(self, program: LoweredProgram, delta: Delta) -> bool:
        """Whether a delta has unknown addresses closed in other networks, for which a sync makes the sets."""
        if not (delta.admitted or delta.pod_networks):
            return False
        return self.known.outdated(program, self.held.node.surroundings)
