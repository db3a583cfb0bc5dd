"""A few rules by themselves that close the networks of a node's pods from boot until an agent knows these.

::

    FORWARD -> KUBE-NETPOL-GUARD
    OUTPUT, what the node sends for others -> KUBE-NETPOL-GUARD

They need no set, and no agent. The chain is one of the agent's: its first sync takes it away, after its own
rules stand, since it asks for no such chain.

What other programs put before these rules would let packets pass. So the same rules stand in tables of
nftables, too (:mod:`agent.dataplane.iptables.guard_table`). Each of the two closes by itself: a kernel may
have no nftables, and ``nft flush ruleset`` removes the tables, but in legacy mode not these rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from agent.dataplane.iptables import cleanup, guard_table
from agent.dataplane.iptables.rules import names, parse, script
from agent.dataplane.iptables.rules.guards import discovery_rules
from agent.dataplane.iptables.rules.rule import Guard, Rules, jump
from agent.dataplane.iptables.tables import foreign, hooks
from agent.dataplane.iptables.tables.tables import Table, TableError, Tables
from agent.dataplane.iptables.variant import MODES, Mode
from agent.fault import Fault
from agent.kernel.netlink import NetlinkSocket
from agent.net import Direction, Family, Network

_ABOUT = names.comment("closed until the agent knows the pods of this node")
_HOOKS = {
    "FORWARD": f"-j {names.GUARD}",
    "OUTPUT": f"-m addrtype ! --src-type LOCAL -j {names.GUARD}",
}
"""The rules of built-in chains that lead to the guard's."""


class Standing(NamedTuple):
    """What stands in the filter table of one family: the guard, with its networks, or an agent's own rules.

    ``closes``: an agent's rules close what is not known, so that no guard is needed. ``passed``: a rule that
    another program has put before the guard's, and by which packets could pass; empty without one.
    """

    mode: Mode
    family: Family
    networks: tuple[str, ...]
    guarded: bool
    agent: bool
    closes: bool
    passed: str = ""


def guard_rules(networks: Iterable[Network]) -> Rules:
    """Return the rules of the guard's chain for the networks of one family.

    What is established goes on, so that a guard that comes late cuts nothing; in IPv6 that takes neighbour
    discovery, too, which on a bridge comes through FORWARD.
    """
    found = [jump("RETURN", "-m conntrack --ctstate RELATED,ESTABLISHED")]
    networks = sorted(networks)
    if any(network.family is Family.V6 for network in networks):
        found += discovery_rules("RETURN")
    for network in networks:
        found += [jump("DROP", f"{flag} {network}", _ABOUT, about=Guard.UNKNOWN) for flag in ("-s", "-d")]
    return tuple(found)


def own_tables() -> dict[Family, tuple[str, ...]]:
    """Return the networks that each family's own table closes, whatever is in the filter tables."""
    return {family: found for family in Family if (found := guard_table.closed_networks(family))}


def standing(mode: Mode, families: Iterable[Family] = Family) -> list[Standing]:
    """Say what stands in one mode, making no table. Raises TableError."""
    return [_standing(mode, family, table) for family, table in cleanup.tables(mode, families).items()]


def _standing(mode: Mode, family: Family, table: Table) -> Standing:
    targets = [parse.foreign(rule).target for rule in table.get("FORWARD", ())]
    chain = table.get(names.GUARD, ())
    closed = [words[1] for rule in chain if (words := rule.split())[0] == "-s"]
    agent = names.FORWARD in targets
    closes = agent and names.unknown(Direction.INGRESS) in table
    guarded = bool(chain) and names.GUARD in targets
    passed = [_passing(table, built_in) for built_in in _HOOKS] if guarded else []
    return Standing(
        mode, family, tuple(closed), guarded, agent, closes, next((one for one in passed if one), "")
    )


def _passing(table: Table, chain: str) -> str:
    """Return what could let packets pass before they come to the guard; its hook may be missing there."""
    rules = list(map(foreign.plain, table.get(chain, ())))
    number = next((n for n, rule in enumerate(rules) if parse.foreign(rule).target == names.GUARD), None)
    if number is None:
        return f"{chain} does not lead to it"
    found = hooks.passing(table, rules[:number])
    return "" if found is None else f"{chain} {found}"


def put(mode: Mode, networks: Collection[Network], holder: NetlinkSocket | None = None) -> list[Fault]:
    """Put the guard into tables of its own, and into the filter tables of one mode, in front.

    Returns what could not be written: it is blocking where a family is not closed by any of the two. One that
    stands with other networks is changed to these, unless another process holds it. Each family is written at
    once, or not at all. ``holder``: its own tables are to belong to it (:mod:`agent.kernel.nf_owned`).
    """
    failed = guard_table.put(networks, holder)
    faults = [*failed.values()]
    unwritten: dict[Family, TableError] = {}
    written = Tables(mode)
    lines: dict[Family, list[str]] = {}
    for family in Family:
        rules = guard_rules(n for n in networks if n.family is family)
        try:
            table = written.read(family)
        except TableError as error:
            unwritten |= {family: error}
            continue
        if not any(network.family is family for network in networks):
            lines[family] = _removing(table)
        elif not _stands(table, rules):
            lines[family] = hooks.remove(table, _is_guard) + _adding(rules)
    unwritten |= written.restore({family: some for family, some in lines.items() if some})
    return faults + [
        _fault(family, error)._replace(blocking=family in failed) for family, error in unwritten.items()
    ]


def remove() -> list[Fault]:
    """Take the guard out of both modes, and its own tables; return what could not be removed."""
    faults = [fault for fault in map(guard_table.remove, Family) if fault is not None]
    for mode in MODES:
        written = Tables(mode)
        found, failed = cleanup.each_table(mode, Family)
        lines = {family: _removing(table) for family, table in found.items()}
        failed |= written.restore({family: some for family, some in lines.items() if some})
        faults += [_fault(family, error) for family, error in failed.items()]
    return faults


def _stands(table: Table, rules: Rules) -> bool:
    first = {chain: table.get(chain, ("",))[:1] for chain in _HOOKS}
    return table.get(names.GUARD) == rules and all(first[c] == (rule,) for c, rule in _HOOKS.items())


def _adding(rules: Rules) -> list[str]:
    return script.lines({}, {names.GUARD: rules}) + [f"-I {c} 1 {rule}" for c, rule in _HOOKS.items()]


def _removing(table: Table) -> list[str]:
    lines = hooks.remove(table, _is_guard)
    return lines + (script.deletions([names.GUARD]) if names.GUARD in table else [])


def _is_guard(chain: str) -> bool:
    return chain == names.GUARD


def _fault(family: Family, error: TableError) -> Fault:
    remedy = error.remedy or "correct what is reported, and run it again"
    return Fault(f"IPv{int(family)}: {error}", remedy, reason="rules")
