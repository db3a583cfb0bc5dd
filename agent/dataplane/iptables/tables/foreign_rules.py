"""What other programs have in the filter tables, as far as it concerns our rules there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.dataplane.iptables.tables import builtin, hooks
from agent.dataplane.iptables.tables.chain_table import ChainTable
from agent.dataplane.iptables.tables.tables import Table
from agent.dataplane.kube_router import kube_router_fault
from agent.fault import Fault
from agent.kernel.netlink import NetlinkSocket
from agent.net import Family


class ForeignRules:
    """What is wrong with their rules, or by them with ours."""

    def __init__(self, chains: ChainTable, netlink: NetlinkSocket, *, beside_kube_router: bool) -> None:
        """``beside_kube_router``: what kube-router's firewall left is no reason not to write."""
        self._chains = chains
        self._netlink = netlink
        self._beside_kube_router = beside_kube_router
        self.unclear: list[Fault] = []
        """The chains with rules of which it cannot be said what they do, as they were last taken in."""

    def refusal(self, tables: Iterable[Table]) -> Fault | None:
        """Return why nothing may be written, if kube-router's firewall is in one of these tables."""
        return None if self._beside_kube_router else kube_router_fault(tables)

    def take(self, tables: Mapping[Family, Table]) -> None:
        """Take in which chains of these tables are unclear."""
        self.unclear = self._unclear_in(tables)

    def changed(self, tables: Mapping[Family, Table]) -> set[Fault]:
        """Return the chains that are unclear in these tables and were not, or the other way."""
        return {*self._unclear_in(tables)} ^ {*self.unclear}

    def _unclear_in(self, tables: Mapping[Family, Table]) -> list[Fault]:
        mode = self._chains.mode
        return [fault for family, table in tables.items() for fault in builtin.unclear(mode, family, table)]

    def unseeing(self) -> list[Fault]:
        """Return the filter tables to which no packet comes, whatever rules are in them."""
        if self._chains.mode != "nft":
            return []
        chains = self._chains
        return builtin.unseeing(self._netlink, {f: hooks.needed(chains.needed(f)) for f in chains.families})
