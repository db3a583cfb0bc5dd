"""The built-in chains of the filter table as nftables has them, where another program made or filled them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables import foreign, hooks, nft
from agent.dataplane.iptables.tables.tables import Table
from agent.dataplane.iptables.variant import Mode
from agent.fault import Fault
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import FAMILY_NAMES
from agent.net import Family


def unlike(
    netlink: NetlinkSocket, family: Family, table: Table, chains: Iterable[str]
) -> dict[str, list[int]]:
    """Return those of some built-in chains in which iptables cannot write, with our rules' handles there.

    It fails where it comes to a rule that it cannot read, or a chain is not hooked as it would have it.
    """
    return {
        chain: hooks.leading_handles(table, chain)
        for chain in chains
        if any(foreign.handle(rule) is not None for rule in table.get(chain, ()))
        or not _is_usual(netlink, family, chain)
    }


def _is_usual(netlink: NetlinkSocket, family: Family, chain: str) -> bool:
    # Of what cannot be asked, the command's write tells.
    with contextlib.suppress(OSError):
        return nft.is_usual(netlink, family, chain)
    return True


def unseeing(netlink: NetlinkSocket, needed: Mapping[Family, Iterable[str]]) -> list[Fault]:
    """Return the faults of filter tables to which no packet comes, whatever rules are in them.

    ``needed``: the built-in chains that lead to ours.
    """
    faults: list[Fault] = []
    for family, chains in needed.items():
        # What cannot be asked, the next write tells.
        with contextlib.suppress(OSError):
            faults += _unseeing(netlink, family, chains)
    return faults


def _unseeing(netlink: NetlinkSocket, family: Family, chains: Iterable[str]) -> list[Fault]:
    table = f"{FAMILY_NAMES[family]} {nft.FILTER}"
    faults = [
        Fault(
            f"IPv{int(family)}: no packets come to chain {chain} of the table filter: another program made "
            f"the chain by nft, for another hook than {chain.lower()}",
            f"have that program use a table of its own: see 'nft list table {table}'",
        )
        for chain in chains
        if not nft.sees_packets(netlink, family, chain)
    ]
    if nft.is_dormant(netlink, family):
        faults.append(
            Fault(
                f"IPv{int(family)}: no packets come to the table filter, since its flag dormant is set",
                f"remove the flag: nft add table {table}",
            )
        )
    return faults


def unclear(mode: Mode, family: Family, table: Table) -> list[Fault]:
    """Return the chains of others with rules of which it cannot be said what they do: no harm is done."""
    remedy = (
        "have the program that wrote them use a table of its own"
        if mode == "nft"
        else "install the extensions of iptables that it does not know"
    )
    return [
        Fault(
            f"IPv{int(family)}: iptables cannot show all rules in chain {chain} of the table filter; the "
            "agent's rules come before them, and are in force",
            f"see '{foreign.where(mode, family, chain)}'; {remedy}",
            blocking=False,
        )
        for chain in foreign.unclear_chains(table)
        if not names.is_ours(chain)
    ]
