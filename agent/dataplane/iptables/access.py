"""By what the backend reaches the node's kernel: each way once, so that a model can stand in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.dataplane.iptables import cleanup, guard_table
from agent.dataplane.iptables.tables.marks import Uses
from agent.dataplane.iptables.tables.tables import Table, TableError, Tables
from agent.dataplane.iptables.variant import Mode
from agent.dataplane.iptables.verdict_cache import Flusher
from agent.fault import Fault
from agent.kernel import conntrack
from agent.kernel.ipset import IpSets
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nft_writes import RuleWrites
from agent.kernel.surroundings import Surroundings, look
from agent.kernel.uplinks import uplinks
from agent.net import Family, Network

Elsewhere = tuple[dict[Family, Table], dict[Family, TableError]]
"""The other mode's tables, and those that cannot be read."""


@dataclass(frozen=True)
class Access:
    """The kernel of the network namespace that the calling thread is in, unless something else is given."""

    tables: Callable[..., Tables] = Tables
    """Takes the mode, and ``ahead``: whether commands wait to be needed."""
    ipsets: Callable[[], IpSets] = IpSets
    netlink: Callable[[], NetlinkSocket] = NetlinkSocket
    """Asked about nf_tables only."""
    forget: Callable[[Iterable[bytes]], int] = conntrack.forget
    """Forgets addresses' connections; returns how many. Raises ConntrackError."""
    writes: Callable[[], RuleWrites] = RuleWrites
    """Hears who writes rules, in nft mode. Raises OSError."""
    flusher: Callable[[], Flusher] = Flusher
    uses: Callable[[], Uses] = Uses
    look: Callable[[], Surroundings] = look
    """Says which interfaces there are. Raises OSError."""
    uplinks: Callable[[Iterable[Network]], frozenset[str]] = uplinks
    """Says by which interfaces networks are reached. Raises OSError."""
    elsewhere: Callable[[Mode, Iterable[Family]], Elsewhere] = cleanup.each_table
    """Reads another mode's tables."""
    remove: Callable[[Mode, Iterable[Family]], list[Fault]] = cleanup.remove
    """Removes what the agent has left in another mode."""
    lift: Callable[[Family], Fault | None] = guard_table.remove
    """Removes the table of a guard; returns why it is left."""


KERNEL = Access()
