"""Removing everything of ours: from the iptables mode that is not used, or from the node altogether."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping

from agent.dataplane.iptables import guard_table
from agent.dataplane.iptables.rules import names, parse, script
from agent.dataplane.iptables.rules.rule import sets_in
from agent.dataplane.iptables.tables import foreign, hooks, nft
from agent.dataplane.iptables.tables.tables import Table, TableError, Tables
from agent.dataplane.iptables.variant import INSTALL, MODES, Mode, find_command
from agent.fault import Fault
from agent.kernel import x_tables
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetContent
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import FAMILY_NAMES, chains, delete_rules
from agent.net import Family

RULES_GO = 5.0
"""Seconds within which rules that were removed let go of their sets: nf_tables does that after the commit."""
_PAUSE = 0.02


def tables(mode: Mode, families: Iterable[Family]) -> dict[Family, Table]:
    """Read the filter tables that one mode has, making none. Raises TableError."""
    found, failed = each_table(mode, families)
    for error in failed.values():
        raise error
    return found


def each_table(
    mode: Mode, families: Iterable[Family]
) -> tuple[dict[Family, Table], dict[Family, TableError]]:
    """Read the filter tables that one mode has, making none; return those that cannot be read apart."""
    found: dict[Family, Table] = {}
    failed: dict[Family, TableError] = {}
    for family in families:
        if _has_table(mode, family):
            try:
                found[family] = Tables(mode).read(family)
            except TableError as error:
                failed[family] = error
    return found, failed


def _has_table(mode: Mode, family: Family) -> bool:
    if find_command(family, mode, "save") is None:
        return False  # without the command nobody can have written there
    # Reading the legacy one would make it.
    return mode != "legacy" or "filter" in x_tables.table_names(family)


def sets_referred_to(
    found: Mapping[Family, Table], failed: Collection[Family], sets: Mapping[str, SetContent]
) -> frozenset[str]:
    """Return which of some sets our rules in a mode's tables may refer to.

    All of a family that ``failed`` to be read.
    """
    named = {
        name
        for table in found.values()
        for chain, rules in table.items()
        if names.is_ours(chain)
        for name in sets_in(tuple(map(parse.ours, rules)))
    }
    return frozenset(named & sets.keys()) | sets_of_unclear(found, failed, sets)


def sets_of_unclear(
    found: Mapping[Family, Table], failed: Collection[Family], sets: Mapping[str, SetContent]
) -> frozenset[str]:
    """Return the sets of those families of which it cannot be told to which sets our rules refer."""
    unclear = {*failed, *(family for family, table in found.items() if is_unclear(table))}
    return frozenset(name for name, held in sets.items() if held.shape.family in unclear)


def is_unclear(table: Table) -> bool:
    """Whether chains of ours hold something of which it cannot be said what it is, and leads to."""
    return any(map(names.is_ours, foreign.unclear_chains(table)))


def held_families(mode: Mode) -> frozenset[Family]:
    """Return the families in which one mode has chains of ours; one that cannot be read is not counted."""
    found = set()
    for family in Family:
        with contextlib.suppress(TableError):
            if _holds_ours(mode, family):
                found.add(family)
    return frozenset(found)


def _holds_ours(mode: Mode, family: Family) -> bool:
    if mode == "nft":
        try:
            with NetlinkSocket() as netlink:
                found = chains(netlink, family)
        except OSError:
            return False  # a kernel without nftables has none of its tables
        return any(chain.table == nft.FILTER and names.is_ours(chain.name) for chain in found)
    return any(names.is_ours(chain) for table in tables(mode, [family]).values() for chain in table)


def is_clean() -> bool:
    """Whether this node's kernel surely holds nothing of ours, in either mode."""
    try:
        for mode in MODES:
            if any(_holds_ours(mode, family) for family in Family):
                return False
        if any(map(guard_table.is_there, Family)):
            return False
        with IpSets() as ipsets:
            return not any(map(names.is_our_set, ipsets.list_shapes(names.SET_PREFIX)))
    except (TableError, SetError, OSError):
        return False


def remove(mode: Mode, families: Iterable[Family]) -> list[Fault]:
    """Remove our hooks and chains from one mode's filter tables; return what could not be removed."""
    written = Tables(mode)
    faults = []
    for family in families:
        if not _has_table(mode, family):
            continue
        try:
            table = written.read(family)
            ours = [chain for chain in table if names.is_ours(chain)]
            delete_by_netlink(family, hooks.leading_to(table, names.is_ours))
            lines = hooks.remove(table) + script.deletions(ours)
            failed = written.restore({family: lines}) if lines else {}
            faults += [_fault(mode, error) for error in failed.values()]
            if lines and not failed and mode == "nft":
                _remove_empty_table(written, family)
        except TableError as error:
            faults.append(_fault(mode, error))
    return faults


def delete_by_netlink(family: Family, rules: Iterable[tuple[str, str]]) -> None:
    """Delete those of some rules, by chain, of which netlink told. Raises TableError."""
    found = hooks.handles(rules)
    if not found:
        return
    try:
        with NetlinkSocket() as netlink:
            delete_rules(netlink, family, nft.FILTER, found)
    except OSError as error:
        raise TableError(f"deleting rules of {FAMILY_NAMES[family]} filter", str(error)) from error


def _remove_empty_table(written: Tables, family: Family) -> None:
    """Remove the filter table where nothing is left in it: the first hook may have made it.

    The command makes a built-in chain when a rule is put there, and would again. Raises TableError.
    """
    if any(written.read(family).values()):
        return
    for chain in hooks.HOOKS:
        # Refused where the chain is not there, or its policy is not to accept.
        written.restore({family: [f"-X {chain}"]})
    with NetlinkSocket() as netlink, contextlib.suppress(OSError):
        if nft.is_empty(netlink, family):
            nft.delete_table(netlink, family)


def _fault(mode: str, error: TableError) -> Fault:
    return Fault(
        f"rules left in the {mode} tables: {error}",
        error.remedy
        or f"run 'netpol-agent cleanup' or remove the KUBE-NETPOL chains with iptables-{mode} by hand",
        blocking=False,
    )


def remove_sets() -> list[Fault]:
    """Remove our sets; rules must not refer to them any more. Sets left for one reason are one fault."""
    left: dict[tuple[str, str], list[SetError]] = {}
    with IpSets() as ipsets:
        ours = [name for name in ipsets.list_shapes(names.SET_PREFIX) if names.is_our_set(name)]
        # What an open verdict cache names cannot be destroyed.
        ipsets.change((), filter(names.is_lookup, ours))
        end = time.monotonic() + RULES_GO
        for name in ours:
            try:
                _destroy(ipsets, name, end)
            except SetError as error:
                left.setdefault((error.what, error.remedy), []).append(error)
    return [_sets_left(errors) for errors in left.values()]


def _destroy(ipsets: IpSets, name: str, end: float) -> None:
    """Destroy a set, once the rules that referred to it are gone. Raises SetError."""
    while True:
        try:
            return ipsets.destroy(name)
        except SetError as error:
            if not error.referenced or time.monotonic() >= end:
                raise
        time.sleep(_PAUSE)


def _sets_left(errors: list[SetError]) -> Fault:
    first, missing = errors[0], [mode for mode in MODES if find_command(Family.V4, mode, "save") is None]
    what = str(first) if len(errors) == 1 else f"{len(errors)} sets are left, the first: {first}"
    if not first.referenced:
        return first.fault()._replace(what=what)
    if missing:
        what += f"; there is no iptables command to remove rules with in mode {' or '.join(missing)}"
        return Fault(what, f"{INSTALL}, and run 'netpol-agent cleanup' again")
    return Fault(what, "remove the rules that refer to them, and run 'netpol-agent cleanup' again")
