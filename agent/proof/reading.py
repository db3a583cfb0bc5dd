"""What the kernel holds, read for a proof: both the rules and the sets that they look into."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables import builtin, hooks
from agent.dataplane.iptables.tables.tables import Table, Tables
from agent.dataplane.iptables.variant import Mode
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_members import Flow
from agent.kernel.ipset_shapes import LIST, SetContent
from agent.kernel.netlink import NetlinkSocket
from agent.net import Family
from agent.proof import beside
from agent.proof.beside import Beside
from agent.proof.frames.reading import NOT_READ, FrameReading
from agent.proof.frames.reading import read as read_frames

FLOWS = "hash:ip,port,ip"
_SETS = re.compile(r"--(?:match-set|add-set) (\S+) ")


@dataclass(frozen=True)
class Reading:
    """The filter tables of some families, and the sets that our rules name.

    ``lists`` are the sets of sets, each with the names of those in it; ``flows`` the sets of connections.
    What rules name and is in none of these was not there when it was read. ``unseeing``: why no packets come
    to the tables, whatever is in them. ``frames``: the table that guards frames, where that is asked for.
    ``beside``: what other tables of nftables do.
    """

    tables: Mapping[Family, Table]
    sets: Mapping[str, SetContent]
    lists: Mapping[str, frozenset[str]] = field(default_factory=dict)
    flows: Mapping[str, frozenset[Flow]] = field(default_factory=dict)
    unseeing: Mapping[Family, tuple[str, ...]] = field(default_factory=dict)
    frames: FrameReading = NOT_READ
    beside: Beside = beside.NOTHING


def named_sets(table: Table) -> set[str]:
    """Return the sets that rules of our chains name."""
    return {
        name
        for chain, rules in table.items()
        if names.is_ours(chain)
        for rule in rules
        if "-set " in rule
        for name in _SETS.findall(rule)
    }


def read(mode: Mode, families: Iterable[Family], *, frames: bool = False) -> Reading:
    """Read the kernel of the calling thread's network namespace; changes nothing there.

    ``frames``: read the table that guards frames, too. Raises TableError, SetError and OSError.
    """
    tables = Tables(mode)
    found = {family: tables.read(family) for family in families}
    sets: dict[str, SetContent] = {}
    lists: dict[str, frozenset[str]] = {}
    flows: dict[str, frozenset[Flow]] = {}
    with IpSets() as ipsets:
        # The lists first: a cache that is open now had been emptied before.
        wanted = sorted(set().union(*map(named_sets, found.values())), key=lambda n: not names.is_lookup(n))
        for name in wanted:
            if name in sets or name in flows:
                continue
            try:
                kind = ipsets.header(name).shape.type if names.changes_by_itself(name) else ""
                if kind == LIST:
                    lists[name] = frozenset(ipsets.listed(name))
                    # No rule may add to what it looks into, as where only audited policies are.
                    wanted += sorted(lists[name])
                elif kind == FLOWS:
                    flows[name] = frozenset(ipsets.flows(name))
                else:
                    sets[name] = ipsets.content(name)
            except SetError as error:
                if not error.missing:
                    raise
    unseeing = _unseeing(found) if mode == "nft" else {}
    return Reading(found, sets, lists, flows, unseeing, read_frames() if frames else NOT_READ, beside.read())


def _unseeing(found: Mapping[Family, Table]) -> dict[Family, tuple[str, ...]]:
    with NetlinkSocket() as netlink:
        return {
            family: tuple(fault.what for fault in builtin.unseeing(netlink, {family: hooks.needed(table)}))
            for family, table in found.items()
        }
