"""What chains hold where a set that they look at cannot be made.

A node has 65,535 sets, those of other programs included, and a name may be taken. A policy only allows, and
every set that it looks at says whom: without one of them it allows less. So an edit that takes something away
does so whether or not what it adds can be written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set

from agent.dataplane.iptables.rules import names
from agent.net import Direction, Family

Rules = tuple[str, ...]

_MATCH = re.compile(r"-m set (! )?--match-set (\S+) \S+ ?")
_DENIES = f"-g {names.DENY}"
_ASKS = tuple(f"-j {names.judge(direction)}" for direction in Direction)
_TRACES = f"-g {names.OTHERS}"


def narrowed(
    family: Family, wanted: Mapping[str, Rules | None], held: Mapping[str, Rules], unmade: Set[str]
) -> dict[str, Rules | None]:
    """Return one family's chains without these sets; they let through no more than the chains ``wanted``.

    ``held`` are the chains in the kernel; ``unmade`` may name sets of the other family, too. For a set that
    was to be switched to stands the one that rules look at now, under its other name. A set of peers, ports
    or nodes for which there is none counts as empty. Without a set of isolated addresses every packet looks
    for its pod in the tree, and one that finds none passes: so pods that have a chain are judged.
    """
    looked_at = {name for rules in held.values() for rule in rules for _, name in _MATCH.findall(rule)}
    stand_ins = {n: other for n in unmade if (other := names.counterpart(n)) in looked_at - unmade}
    usual = {direction: names.isolated_set(direction, family) for direction in Direction}
    lost = {d: {name, names.alternate(name)} & unmade - stand_ins.keys() for d, name in usual.items()}
    missing = set().union(*lost.values())
    unasked = {names.judge(direction) for direction, sets in lost.items() if sets}
    found: dict[str, Rules | None] = {}
    for chain, rules in wanted.items():
        if rules is None:
            found[chain] = None
            continue
        left = (_without(rule, unmade, stand_ins, missing) for rule in rules)
        found[chain] = tuple(
            rule
            for rule in left
            if rule is not None
            and not (chain in unasked and rule.endswith(_DENIES) and not _MATCH.search(rule))
        )
    return found


def _without(rule: str, unmade: Set[str], stand_ins: Mapping[str, str], missing: Set[str]) -> str | None:
    """Return a rule as it is without sets; None where it then matches nothing."""
    for match in _MATCH.finditer(rule):
        negated, name = match.groups()
        if name not in unmade:
            continue
        if name in stand_ins:
            return rule.replace(match[0], match[0].replace(f" {name} ", f" {stand_ins[name]} "))
        asks = rule.endswith((*_ASKS, _TRACES))
        if negated or (name in missing and asks):
            return rule.replace(match[0], "")
        return None
    return rule
