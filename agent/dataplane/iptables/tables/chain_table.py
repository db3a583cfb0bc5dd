"""Which chains are in the kernel, as far as this backend wrote or read them: the one record of that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from agent.dataplane.differences import Difference, What
from agent.dataplane.iptables.ipset.closed import concerned
from agent.dataplane.iptables.ipset.unmade import narrowed
from agent.dataplane.iptables.rules import names, parse, script
from agent.dataplane.iptables.rules.rule import Chains, Changes, Rules, sets_in
from agent.dataplane.iptables.tables.tables import Table, TableError
from agent.dataplane.iptables.variant import Mode
from agent.net import Direction, Family


class ChainTable:
    """Our chains in the kernel, both families, and what others have in the filter tables.

    ``garbage`` are those that nothing needs any more and nothing leads to, to be removed when there is time.
    Every write keeps this true: what failed to be written is not recorded as written.
    """

    def __init__(self, mode: Mode, families: Iterable[Family]) -> None:
        self.mode = mode
        self.families = tuple(families)
        self.held: dict[Family, Chains] = {family: {} for family in self.families}
        """Our chains."""
        self._foreign: dict[Family, Table] = {family: {} for family in self.families}
        """Built-in chains, and those of other programs, as they were last read."""
        self.garbage: dict[Family, set[str]] = {family: set() for family in self.families}
        self.wanted: dict[Family, Chains] = {family: {} for family in self.families}
        """Chains that are to be other than they are, as far as they have not been written."""
        self._unsure: dict[Family, dict[str, list[Rules]]] = {family: {} for family in self.families}
        """Chains of which a command that was killed may have made something else, and what."""
        self.why: dict[Family, str] = {}
        """Why a family's last write failed, if so."""
        self.unread: dict[Family, TableError] = {}
        """The families whose rules could not be read: nothing is written to these until they are."""

    def take(self, found: Mapping[Family, Table], errors: Mapping[Family, Exception]) -> None:
        """Take what was read for what is in the kernel.

        Raises TableError where no family could be read.
        """
        for family, table in found.items():
            ours = {chain: rules for chain, rules in table.items() if names.is_ours(chain)}
            self.held[family] = parse.known(ours, self.held[family])
        self.take_foreign(found)
        self._unsure |= {family: {} for family in found}
        self.unread = {
            family: error
            if isinstance(error, TableError)
            else TableError("reading", str(error), refused=False)
            for family, error in errors.items()
        }
        self.why |= {family: str(error) for family, error in self.unread.items()}
        if self.unread.keys() == set(self.families):
            raise next(iter(self.unread.values()))

    def take_foreign(self, found: Mapping[Family, Table]) -> None:
        """Take others' chains as they were read; ours are as they were left."""
        for family, table in found.items():
            self._foreign[family] = {c: rules for c, rules in table.items() if not names.is_ours(c)}

    def table(self, family: Family) -> Table:
        """Return a filter table as text: others' chains as they were read, ours as they were left."""
        return {**self._foreign[family], **self.held[family]}

    def tables(self) -> dict[Family, Table]:
        """Return every family's filter table."""
        return {family: self.table(family) for family in self.families}

    def needed(self, family: Family) -> Chains:
        """Return our chains of a family without the garbage."""
        return {c: rules for c, rules in self.held[family].items() if c not in self.garbage[family]}

    def stays(self, family: Family, chain: str) -> bool:
        """Whether a chain is there and no garbage, which may be swept at any time."""
        return chain in self.held[family] and chain not in self.garbage[family]

    def changed(self, family: Family, now: Table) -> list[Difference]:
        """Return which chains of ours a table holds otherwise than they were surely left."""
        held, unsure = self.held[family], self._unsure[family].keys()
        return [
            Difference(What.CHAIN_CHANGED if chain in now else What.CHAIN_GONE, family, chain)
            for chain in sorted((held.keys() | set(filter(names.is_ours, now))) - unsure)
            if held.get(chain) != now.get(chain)
        ]

    def ask(self, changes: Changes, *, afresh: bool = False) -> None:
        """Note what chains are to be; ``afresh``: nothing else is to change."""
        for family, chains in changes.items():
            if afresh:
                self.wanted[family] = {}
            for chain, rules in chains.items():
                if rules is None:
                    # Nothing is to lead to it: what it was to be before does not matter any more.
                    self.wanted[family].pop(chain, None)
                else:
                    self.wanted[family][chain] = rules

    def record(self, family: Family, written: Mapping[str, Rules]) -> None:
        """Note that chains have been written; one that is to change once more stays wanted.

        So does one that is to have no rules: a large write begins with all chains as such.
        """
        self.held[family].update(written)
        wanted = self.wanted[family]
        for chain, rules in written.items():
            self._unsure[family].pop(chain, None)
            if rules and wanted.get(chain) == rules:
                del wanted[chain]

    def settle(self) -> None:
        """Forget wanted chains that the kernel holds; for when nothing is being written."""
        for family, wanted in self.wanted.items():
            self.wanted[family] = {
                c: rules for c, rules in wanted.items() if not self.holds(family, c, rules)
            }

    @property
    def sure(self) -> bool:
        """Whether it is known of every chain what is in it."""
        return not any(self._unsure.values())

    def holds(self, family: Family, chain: str, rules: Rules) -> bool:
        """Whether a chain is known to have these rules."""
        return self.held[family].get(chain) == rules and chain not in self._unsure[family]

    def may_hold(self, family: Family, chain: str) -> bool:
        """Whether a chain is there, or may be by a killed command, which may have led packets to it, too."""
        return chain in self.held[family] or chain in self._unsure[family]

    def unwritten(self, family: Family) -> set[str]:
        """Return the chains that may not be as they are to be."""
        wanted = {c for c, rules in self.wanted[family].items() if not self.holds(family, c, rules)}
        return wanted | self._unsure[family].keys()

    def known(self, family: Family) -> Chains:
        """Return a table without the chains of which it is not known what is in them: they are made anew."""
        unsure = self._unsure[family]
        return (
            {c: r for c, r in self.held[family].items() if c not in unsure} if unsure else self.held[family]
        )

    def possible(self, family: Family) -> list[Chains]:
        """Return the tables of which the kernel may hold any: as left, and as killed commands made it."""
        unsure = self._unsure[family]
        number = max(map(len, unsure.values()), default=0)
        # Each chain in turn as each command may have left it: of several, chains may be of any mixture.
        others = [
            {c: some[min(n, len(some) - 1)] for c, some in unsure.items() if some} for n in range(number)
        ]
        return [self.held[family], *({**self.held[family], **other} for other in others)]

    def closed(self, writing: Changes) -> dict[tuple[Direction, Family], dict[bytes, str]]:
        """Return who is to be closed, each with its pod, since rules that deny something are unwritten.

        ``writing``: chains that are being written, so that the kernel may hold them at any time.
        """
        found: dict[tuple[Direction, Family], dict[bytes, str]] = {}
        for family in self.families:
            soon = {c: rules for c, rules in writing.get(family, {}).items() if rules is not None}
            if self.wanted[family]:
                possible = self.possible(family)
                possible += [{**table, **soon} for table in possible] if soon else []
                pods = concerned(family, possible, self.wanted[family])
                found |= {(direction, family): pods[direction] for direction in Direction}
        return found

    def rewrites(self, changes: Changes) -> bool:
        """Whether chains that are there already are to change, which packets may pass."""
        return any(
            rules is not None and chain in self.held[family] and not self.holds(family, chain, rules)
            for family, chains in changes.items()
            for chain, rules in chains.items()
        )

    def discard(self, spent: Iterable[tuple[Family, str]]) -> None:
        """Make chains garbage, each in a family."""
        for family, chain in spent:
            if chain in self.held[family]:
                self.garbage[family].add(chain)

    def without(self, changes: Changes, unmade: Set[str]) -> Changes:
        """Return changes that refer to none of these sets, under whose names somebody else's may be.

        Rules that would are left out: see :mod:`agent.dataplane.iptables.ipset.unmade`.
        """
        return {f: narrowed(f, chains, self.held[f], unmade) for f, chains in changes.items()}

    def referred(self) -> set[str]:
        """Return the sets that our rules refer to, those of garbage aside."""
        return {
            name
            for family in self.families
            for chain, rules in self.held[family].items()
            if chain not in self.garbage[family]
            for name in sets_in(rules)
        }

    def doubt(self, family: Family, lines: list[str]) -> None:
        """Note what a command that was killed may have made of chains."""
        held = dict(self.known(family))
        for chain, rules in script.outcome(held, lines).items():
            if names.is_ours(chain):
                found = self._unsure[family].setdefault(chain, [])
                if rules is not None:
                    found.append(tuple(map(parse.ours, rules)))
