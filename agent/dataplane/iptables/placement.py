"""Putting our rules in front in the built-in chains, and how often, when something fights for that place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent import log
from agent.dataplane.contention import REMOVING, STOP_REMOVING, Contention
from agent.dataplane.iptables.tables import builtin, hooks
from agent.dataplane.iptables.tables.authors import Authors
from agent.dataplane.iptables.tables.chain_writer import ChainWriter
from agent.dataplane.iptables.tables.tables import Table
from agent.dataplane.turns import Work, beside
from agent.fault import Fault
from agent.kernel.netlink import NetlinkSocket
from agent.net import Family

_log = log.get(__name__)


class Placement:
    """Our rules in the built-in chains, both families."""

    def __init__(
        self,
        rules: ChainWriter,
        netlink: NetlinkSocket,
        now: Callable[[], float],
        authors: Authors,
        lift: Callable[[Family], Fault | None],
    ) -> None:
        """``lift`` removes the table of a guard, if there is one, and returns why it could not.

        It may have to ask another process for it: that is waited for as a command is.
        """
        self._rules = rules
        self._chains = rules.chains
        self._netlink = netlink
        self._authors = authors
        self._lift = lift
        self._guarded = set(rules.chains.families)
        """The families that a guard may still close."""
        self._displaced = Contention(now)
        self._removed = Contention(now, REMOVING, STOP_REMOVING)
        self._waiting: set[tuple[Family, str]] = set()
        self._placed: set[tuple[Family, str]] = set()

    @property
    def faults(self) -> list[Fault]:
        """What fights for the place, if something does, with who wrote last."""
        found = (self._displaced.fault(), self._removed.fault())
        last = ", ".join(self._authors.last)
        who = f"the last to write rules: {last}; " if last else ""
        return [fault._replace(remedy=who + fault.remedy) for fault in found if fault is not None]

    def due(self, family: Family, table: Table) -> Iterator[tuple[str, str]]:
        """Yield the built-in chains of a table where our rule is to be put in front now, and why.

        A chain whose place is fought for has to wait; one without our rule leaves everything open, and never
        waits.
        """
        due = self._displaced.due()
        self._waiting = {entry for entry in self._waiting if entry[0] is not family}
        for chain, why in hooks.misplaced(table, self._chains.garbage[family]).items():
            if due or hooks.missing(table, chain):
                yield chain, why
            else:
                self._waiting.add((family, chain))

    def overdue(self) -> bool:
        """Whether a chain had to wait whose time has come."""
        return bool(self._waiting) and self._displaced.due()

    def put_back(self) -> Work[list[Fault]]:
        """Put our rules in front, where they are missing or could be passed by; then a guard's table goes."""
        lines: dict[Family, list[str]] = {}
        by_netlink: dict[Family, dict[str, tuple[str, list[int]]]] = {}
        displaced: list[str] = []
        removed: list[str] = []
        mode = self._chains.mode
        for family in self._chains.families:
            if family in self._chains.unread:
                continue
            table = self._chains.table(family)
            wanted = dict(self.due(family, table))
            for chain, why in wanted.items():
                missing = hooks.missing(table, chain)
                if not missing or (family, chain) in self._placed:
                    (removed if missing else displaced).append(f"IPv{int(family)} {chain}: {why}")
            unlike = builtin.unlike(self._netlink, family, table, wanted) if mode == "nft" else {}
            lines[family] = hooks.place(table, {c: why for c, why in wanted.items() if c not in unlike})
            lines[family] += hooks.unneeded(table, self._chains.garbage[family])
            by_netlink[family] = {c: (hooks.HOOKS[c], handles) for c, handles in unlike.items()}
        if displaced:
            self._displaced.put_back(displaced)
        if removed:
            self._removed.put_back(removed)
        if displaced or removed:
            _log.warning("hooks put back in front", reasons=displaced + removed)
        faults = yield from self._rules.run(lines)
        for family, placed in by_netlink.items():
            failed = self._rules.put_in_front(family, placed)
            if not (failed or (lines[family] and family in self._chains.why)):
                failed = yield from self._relieve(family)
            faults += failed
        if not faults:
            self._placed = {
                (f, c) for f in self._chains.families for c in hooks.needed(self._chains.needed(f))
            }
        return faults

    def _relieve(self, family: Family) -> Work[list[Fault]]:
        """Remove a guard's table of a family, whose own rules are in front now; return why it is left."""
        if family not in self._guarded:
            return []
        found: list[Fault | None] = []
        yield from beside("relieving", lambda: found.append(self._lift(family)), self._rules.patience)
        (fault,) = found
        if fault is not None:
            return [fault]
        self._guarded.discard(family)
        return []
