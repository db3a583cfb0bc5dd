"""Where the built-in chains lead to ours, and when that place is not good enough any more."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

from agent.dataplane.iptables.rules import names, parse
from agent.dataplane.iptables.tables import foreign

HOOKS = {"INPUT": names.INPUT, "FORWARD": names.FORWARD, "OUTPUT": names.OUTPUT}
"""Built-in chain of the filter table to the chain of ours that it jumps to.

That of INPUT is there only where the node has tunnels."""

Table = Mapping[str, tuple[str, ...]]

_PASSING = frozenset({"ACCEPT", "QUEUE", "NFQUEUE", "SYNPROXY", "TEE"})


def hook_rule(chain: str) -> str:
    """Return the rule of a built-in chain that leads to ours."""
    return f"-j {HOOKS[chain]}"


def needed(chains: Container[str]) -> list[str]:
    """Return the built-in chains that have to lead to ours, where we have these chains."""
    return [chain for chain, ours in HOOKS.items() if chain != "INPUT" or ours in chains]


def missing(table: Table, chain: str) -> bool:
    """Whether a built-in chain does not lead to ours at all."""
    return hook_rule(chain) not in map(foreign.plain, table.get(chain, ()))


def misplaced(table: Table, garbage: Container[str] = ()) -> dict[str, str]:
    """Return the built-in chains whose hook must be put in front, with the reason.

    ``garbage``: our chains that nothing need lead to any more.
    A rule before ours matters only when it, or a chain that it leads to, could let a packet of a pod pass.
    One that drops cannot open anything, and others may keep their place; one of which it cannot be told what
    it does may not.
    """
    found = {}
    for chain in needed([ours for ours in table if ours not in garbage]):
        rules = [foreign.plain(rule) for rule in table.get(chain, ())]
        hook = hook_rule(chain)
        if missing(table, chain):
            found[chain] = "its rule is missing"
            continue
        if len(_leading(table, chain)) > 1:
            found[chain] = "its rule is there more than once"
            continue
        if (rule := passing(table, rules[: rules.index(hook)])) is not None:
            found[chain] = f"a rule before it could let packets pass: {rule}"
    return found


def passing(table: Table, rules: Iterable[str]) -> str | None:
    """Return the first of some rules of a built-in chain that could let packets pass; None without one."""
    return next((r for r in rules if _leaves_chain(r, table) or _can_pass(r, table, set())), None)


def _leading(table: Table, chain: str) -> list[str]:
    """Return the rules of a built-in chain that lead to ours, those of an earlier version too."""
    return [rule for rule in table.get(chain, ()) if parse.foreign(rule).target == HOOKS[chain]]


def _leaves_chain(rule: str, table: Table) -> bool:
    """Whether a rule of a built-in chain can have its policy decide: by RETURN, or by a goto that returns."""
    leads = parse.foreign(rule)
    return leads.target == "RETURN" or (leads.target in table and leads.goto)


def _can_pass(rule: str, table: Table, seen: set[str]) -> bool:
    if foreign.is_unclear(rule):
        return True
    target, _, loopback = parse.foreign(rule)
    if loopback:
        return False
    if target in _PASSING:
        return True
    if target is None or target not in table or target in seen:
        return False
    seen.add(target)
    return any(_can_pass(inner, table, seen) for inner in table[target])


def place(table: Table, wanted: Mapping[str, str]) -> list[str]:
    """Return the restore lines that put hooks in front: delete, then insert, so that one is left."""
    lines = []
    for chain in wanted:
        hook = hook_rule(chain)
        lines += [f"-D {chain} {rule}" for rule in _leading(table, chain)]
        lines.append(f"-I {chain} 1 {hook}")
    return lines


def leading_handles(table: Table, chain: str) -> list[int]:
    """Return the handles of those rules of a built-in chain that lead to ours, of which netlink told."""
    return [number for _, number in handles((chain, rule) for rule in _leading(table, chain))]


def unneeded(table: Table, garbage: Container[str]) -> list[str]:
    """Return the restore lines that take out what leads from built-in chains to garbage.

    That is hooks of chains that are needed no more, and the rules of a guard that an agent relieves.
    """
    return [
        f"-D {chain} {rule}"
        for chain in HOOKS
        for rule in table.get(chain, ())
        if (parse.foreign(rule).target or "") in garbage and foreign.handle(rule) is None
    ]


def remove(table: Table, doomed: Callable[[str], bool] = names.is_ours) -> list[str]:
    """Return the restore lines that take out every rule that leads from any other chain to doomed ones."""
    return deletions(leading_to(table, doomed))


def leading_to(table: Table, doomed: Callable[[str], bool]) -> list[tuple[str, str]]:
    """Return chain and rule of every rule that leads from any other chain to doomed ones."""
    found = []
    for chain, rules in table.items():
        if doomed(chain):
            continue
        for rule in rules:
            target = parse.foreign(rule).target
            if target is not None and doomed(target):
                found.append((chain, rule))
    return found


def deletions(rules: Iterable[tuple[str, str]]) -> list[str]:
    """Return the restore lines that delete rules; those of which netlink told, :func:`handles` gives."""
    return [f"-D {chain} {rule}" for chain, rule in rules if foreign.handle(rule) is None]


def handles(rules: Iterable[tuple[str, str]]) -> list[tuple[str, int]]:
    """Return chain and handle of each rule of which netlink told."""
    found = [(chain, foreign.handle(rule)) for chain, rule in rules]
    return [(chain, number) for chain, number in found if number is not None]
