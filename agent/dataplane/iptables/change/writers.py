"""By what a step is made: chains and sets are written, with the verdict cache closed where it has to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.dataplane.iptables.change.connections import Connections
from agent.dataplane.iptables.change.step import Gains, denies
from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.rules.rule import Changes
from agent.dataplane.iptables.tables.chain_writer import ChainWriter
from agent.dataplane.iptables.verdict_cache import VerdictCache
from agent.dataplane.turns import Work
from agent.fault import Fault
from agent.net import Direction, Family


@dataclass(frozen=True)
class Writers:
    """Write to the kernel, and keep the record of what it holds true."""

    held: Held
    rules: ChainWriter
    sets: KernelSets
    cache: VerdictCache
    connections: Connections

    @property
    def families(self) -> tuple[Family, ...]:
        return self.held.chains.families

    def change(self, changes: Mapping[str, Gains]) -> list[Fault]:
        """Change sets; where that may deny something, the verdict cache is closed in the same message."""
        moved = {name: (gains.added, gains.removed) for name, gains in changes.items()}
        if not any(denies(name, gains) for name, gains in changes.items()):
            return self.sets.change(moved)
        with self.cache.closed() as lookups:
            return self.sets.change(moved, lookups)

    def write(
        self,
        chains: Changes,
        entering: dict[str, Gains] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        *,
        harmless: bool = False,
    ) -> Work[list[Fault]]:
        """Write chains; isolate a family's addresses as soon as its chains are written.

        ``entering``: the addresses to isolate, by set. Those that are done are taken out of it; the caller
        does the rest. ``meanwhile`` is called while there is something to wait for. The verdict cache is
        closed while a chain changes that packets pass, unless that is ``harmless``.
        """
        entering = {} if entering is None else entering
        faults: list[Fault] = []

        def written(family: Family) -> None:
            sets = {self.held.names.isolated_set(direction, family) for direction in Direction}
            now = {name: entering.pop(name) for name in sets & entering.keys()}
            faults.extend(self.change(now))

        if harmless or not self.held.chains.rewrites(chains):
            failed = yield from self.rules.write(chains, written, meanwhile)
            return [*failed, *faults]
        with self.cache.closed() as lookups:
            faults.extend(self.sets.change({}, lookups))
            failed = yield from self.rules.write(chains, written, meanwhile)
            return [*failed, *faults]
