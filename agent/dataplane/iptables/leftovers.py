"""Removing everything of ours: from the iptables mode that is not used, or from the node altogether."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from agent.dataplane import legacy
from agent.dataplane.backend import Fault
from agent.dataplane.ipset import IpSets, SetError
from agent.dataplane.iptables import hooks, names, nft, script
from agent.dataplane.iptables.kernel import sets_in
from agent.dataplane.iptables.tables import TableError, Tables
from agent.dataplane.mode import Mode, find_command
from agent.dataplane.netlink import NetlinkSocket
from agent.kube.model import Family


def sets_referred_to(mode: Mode, families: Iterable[Family]) -> frozenset[str]:
    """Return the sets that our rules in one mode refer to. Raises TableError."""
    found: set[str] = set()
    for family in families:
        if find_command(family, mode, "save") is None:
            continue
        if mode == "legacy" and "filter" not in legacy.table_names(family):
            continue
        for chain, rules in Tables(mode).read(family).items():
            if names.is_ours(chain):
                found.update(name for rule in rules for name in sets_in(rule))
    return frozenset(found)


def remove(mode: Mode, families: Iterable[Family]) -> list[Fault]:
    """Remove our hooks and chains from one mode's filter tables; return what could not be removed."""
    tables = Tables(mode)
    faults = []
    for family in families:
        if find_command(family, mode, "save") is None:
            continue  # without the command nobody can have written there
        if mode == "legacy" and "filter" not in legacy.table_names(family):
            continue  # reading it would make it
        try:
            table = tables.read(family)
        except TableError as error:
            faults.append(_fault(mode, error))
            continue
        ours = [chain for chain in table if names.is_ours(chain)]
        lines = hooks.remove(table) + script.deletions(ours)
        failed = tables.restore({family: lines}) if lines else {}
        faults += [_fault(mode, error) for error in failed.values()]
        if lines and not failed and mode == "nft":
            _remove_empty_table(tables, family)
    return faults


def _remove_empty_table(tables: Tables, family: Family) -> None:
    """Remove the filter table where nothing is left in it: the first hook may have made it.

    The command makes a built-in chain when a rule is put there, and would again.
    """
    if any(tables.read(family).values()):
        return
    for chain in hooks.HOOKS:
        # Refused where the chain is not there, or its policy is not to accept.
        tables.restore({family: [f"-X {chain}"]})
    with NetlinkSocket() as netlink:
        if nft.is_empty(netlink, family):
            with contextlib.suppress(OSError):
                nft.delete_table(netlink, family)


def _fault(mode: str, error: TableError) -> Fault:
    return Fault(
        f"rules left in the {mode} tables: {error}",
        error.remedy
        or f"run 'netpol-agent cleanup' or remove the KUBE-NETPOL chains with iptables-{mode} by hand",
        blocking=False,
    )


def remove_sets() -> list[Fault]:
    """Remove our sets; rules must not refer to them any more."""
    faults = []
    with IpSets() as ipsets:
        for name in ipsets.list_shapes(names.SET_PREFIX):
            if not names.is_our_set(name):
                continue
            try:
                ipsets.destroy(name)
            except SetError as error:
                faults.append(error.fault())
    return faults
