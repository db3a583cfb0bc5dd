"""What the kernel holds, as far as the backend wrote or read it: the one record of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.dataplane.backend import KernelCounts, KernelView
from agent.dataplane.iptables.ipset.closed import Place
from agent.dataplane.iptables.ipset.set_table import SetTable
from agent.dataplane.iptables.ipset.withdrawn import Withdrawn
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules.draft import Draft, Drawn, Redrawn
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.dataplane.iptables.rules.set_names import SetNames
from agent.dataplane.iptables.tables.chain_table import ChainTable
from agent.dataplane.iptables.variant import Mode
from agent.net import Family, Member, Network
from agent.policy.lower.lowered import SetId


@dataclass
class Tracked:
    """Addresses of which the kernel may still track connections of a former owner.

    ``unforgotten``: those that it could not forget, which get into no set and are not opened. ``vacant``:
    those that nobody has, whose connections are forgotten together when it is quiet.
    """

    unforgotten: set[bytes] = field(default_factory=set)
    vacant: set[bytes] = field(default_factory=set)


@dataclass
class Revision:
    """What a step changes in the record as soon as it is taken over; None: as before.

    ``names``: under which rules look at sets; ``named``: sets of the program that come, each with its name,
    and those that go (None); ``afresh``: there are no others. ``nodes``: the networks of other nodes;
    ``node``: what is known of the node, if that is news; ``drawn``: what was rendered.
    """

    names: SetNames | None = None
    named: dict[SetId, str | None] = field(default_factory=dict)
    afresh: bool = False
    nodes: Mapping[Family, frozenset[Member]] | None = None
    node: NodeFacts | None = None
    drawn: Redrawn | None = field(default=None, compare=False)


@dataclass
class Held:
    """The record. It is changed by a read, and by the executor as it takes over a step and writes it.

    ``chains`` of both families and ``sets``, as they are. ``node``: what is known of the node; ``drawn``:
    what was rendered last; ``names``: under which names rules look at sets; ``of_sets``: the program's sets,
    by these names; ``nodes``: the networks in the sets of other nodes, by family. These five are as they will
    be when the steps that the executor has taken over are made: the next step is planned from there, and
    planning changes none of them. ``lagging``: sets that rules still look at, though they should not, because
    a write failed. ``closed``: who is in each set of closed addresses; ``untracked``: whom packets that are
    not tracked had left in its sets at the last read; ``pod_networks``: those in which unknown addresses are
    closed; ``unadmitted``: addresses that are not known in the kernel yet, since something failed that was to
    come before; ``withdrawn``: those that were closed ahead of the program; ``tracked``: of whom there may be
    old connections.

    Whether OUTPUT judges packets of others is no part of it: that is a decision, which holds until the agent
    ends (:class:`.ipset.transit.Transit`). The kernel's part of it, a set with a trace, is read at each sync.
    """

    chains: ChainTable
    node: NodeFacts
    drawn: Drawn
    sets: SetTable = field(default_factory=SetTable)
    names: SetNames = field(default_factory=SetNames)
    of_sets: dict[SetId, str] = field(default_factory=dict)
    nodes: Mapping[Family, frozenset[Member]] = field(default_factory=dict)
    lagging: frozenset[str] = frozenset()
    closed: dict[Place, frozenset[bytes]] = field(default_factory=dict)
    untracked: frozenset[Member] = frozenset()
    pod_networks: frozenset[Network] = frozenset()
    unadmitted: set[Member] = field(default_factory=set)
    withdrawn: Withdrawn = field(default_factory=Withdrawn)
    tracked: Tracked = field(default_factory=Tracked)

    @classmethod
    def nothing(cls, mode: Mode, families: tuple[Family, ...], options: Options) -> Held:
        """Return the record of a kernel that has not been read yet."""
        return cls(ChainTable(mode, families), NodeFacts(options), Drawn.nothing(families))

    def draft(self, node: NodeFacts | None = None) -> Draft:
        """Return what renders the next step, which changes nothing here; ``node``: what is known by then."""
        return Draft(self.chains.families, self.node if node is None else node, self.drawn)

    def view(self, counts: KernelCounts) -> KernelView:
        """Say what there is, and how large; ``counts`` of what was done there. Safe to call on any thread."""
        chains = {
            f"{chain}/{int(family)}": len(rules)
            for family, table in self.chains.held.items()
            for chain, rules in table.copy().items()
        }
        sizes, named = self.sets.sizes.copy(), self.of_sets.copy()
        present = {s: (n, sizes[n]) for s, n in named.items() if n in sizes}
        return KernelView(chains, present, counts, self.pod_networks)

    def take_over(self, revision: Revision) -> None:
        """Note what a step changes: from now on it is made, at once or after others."""
        if revision.names is not None:
            self.names = revision.names
        if revision.node is not None:
            self.node = revision.node
        if revision.drawn is not None:
            self.drawn = revision.drawn.make()
        if revision.nodes is not None:
            self.nodes = revision.nodes
        if revision.afresh:
            self.of_sets = {}
        for set_id, name in revision.named.items():
            if name is None:
                self.of_sets.pop(set_id, None)
            else:
                self.of_sets[set_id] = name
