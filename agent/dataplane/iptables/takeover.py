"""What kube-router's firewall left in the kernel: finding it, telling whether it still writes, removing it.

A firewall that was stopped still judges packets, and accepts what it allowed last. Removing that is the last
step of taking over from it: see :mod:`agent.commands.migrate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.dataplane.iptables import cleanup
from agent.dataplane.iptables.rules import script
from agent.dataplane.iptables.tables import hooks, nft
from agent.dataplane.iptables.tables.tables import Table, Tables
from agent.dataplane.iptables.variant import MODES, Mode
from agent.dataplane.kube_router import (
    NFT_TABLES,
    is_firewall_accept,
    is_firewall_chain,
    is_firewall_set,
    is_pod_chain,
)
from agent.fault import Fault
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import FAMILY_NAMES
from agent.net import Family

_AGAIN = "run 'netpol-agent migrate' again"


class FoundChains(NamedTuple):
    """Its chains in one filter table, and those of others where rules of it lead there, or accept."""

    mode: Mode
    family: Family
    chains: tuple[str, ...]
    hooked: tuple[str, ...]


class Remains(NamedTuple):
    """What there is of kube-router's firewall: chains of filter tables, sets, its own tables in nftables."""

    chains: tuple[FoundChains, ...]
    sets: tuple[str, ...]
    nft_tables: tuple[Family, ...]

    def any(self) -> bool:
        """Whether there is anything at all."""
        return any(self)

    def families(self) -> frozenset[Family]:
        """Return the families in which it judges packets."""
        return frozenset(found.family for found in self.chains if found.hooked) | frozenset(self.nft_tables)

    def judges_pods(self) -> bool:
        """Whether it had pods on this node; of tables in nftables that is taken for granted."""
        return bool(self.nft_tables) or any(map(is_pod_chain, self._names()))

    def written_since(self, earlier: Remains) -> str | None:
        """Return a chain that was not there earlier, if there is one: every sync of it makes new names."""
        return next(iter(sorted(self._names() - earlier._names())), None)

    def _names(self) -> frozenset[str]:
        return frozenset(name for found in self.chains for name in found.chains)


def look() -> Remains:
    """Find what there is, in both modes and families; changes nothing. Raises TableError and SetError."""
    chains = []
    for mode in MODES:
        for family, table in cleanup.tables(mode, Family).items():
            theirs = tuple(sorted(filter(is_firewall_chain, table)))
            hooked = tuple(dict.fromkeys(chain for chain, _ in _rules_in_others(table)))
            if theirs or hooked:
                chains.append(FoundChains(mode, family, theirs, hooked))
    with IpSets() as ipsets:
        sets = tuple(sorted(filter(is_firewall_set, ipsets.list_shapes())))
    return Remains(tuple(chains), sets, tuple(_nft_tables()))


def _rules_in_others(table: Table) -> list[tuple[str, str]]:
    """Return its rules in the chains of others, by chain."""
    accepting = [
        (chain, rule)
        for chain, rules in table.items()
        if not is_firewall_chain(chain)
        for rule in rules
        if is_firewall_accept(rule)
    ]
    return hooks.leading_to(table, is_firewall_chain) + accepting


def _nft_tables() -> list[Family]:
    try:
        with NetlinkSocket() as netlink:
            return [family for family, table in NFT_TABLES.items() if nft.exists(netlink, family, table)]
    except OSError:
        return []  # a kernel without nftables has none of its tables


def passed_by(mode: Mode, families: Iterable[Family]) -> Fault | None:
    """Return the fault where packets could pass our chains by, if there is one. Raises TableError."""
    for family, table in cleanup.tables(mode, families).items():
        for chain, why in hooks.misplaced(table).items():
            return Fault(f"this agent's rules are not in front in {chain} (IPv{int(family)}): {why}", _AGAIN)
    return None


def remove(remains: Remains) -> list[Fault]:
    """Remove it: the chains of each table in one transaction, then its sets and tables; return what is left.

    Sets stay while chains do. Safe to be called again wherever it was interrupted. Raises TableError.
    """
    faults = []
    for mode in MODES:
        lines = {}
        for family, table in cleanup.tables(mode, Family).items():
            doomed = [chain for chain in table if is_firewall_chain(chain)]
            leading = _rules_in_others(table)
            cleanup.delete_by_netlink(family, leading)
            lines[family] = hooks.deletions(leading) + script.deletions(doomed)
        failed = Tables(mode).restore(lines)
        faults += [
            Fault(
                f"IPv{int(family)} chains of kube-router's firewall in {mode}: {error}",
                error.remedy or _AGAIN,
            )
            for family, error in failed.items()
        ]
    faults += _remove_nft_tables(remains.nft_tables)
    return faults or _remove_sets(remains.sets)


def _remove_nft_tables(families: Iterable[Family]) -> list[Fault]:
    faults = []
    for family in families:
        table = f"{FAMILY_NAMES[family]} {NFT_TABLES[family]}"
        try:
            with NetlinkSocket() as netlink:
                nft.delete_table(netlink, family, NFT_TABLES[family])
        except OSError as error:
            faults.append(Fault(f"nft table {table}: {error.strerror}", f"nft delete table {table}"))
    return faults


def _remove_sets(names: Iterable[str]) -> list[Fault]:
    faults = []
    with IpSets() as ipsets:
        for name in names:
            try:
                ipsets.destroy(name)
            except SetError as error:
                faults.append(error.fault())
    return faults
