"""What chains hold where a set that they look at cannot be made.

A node has 65,535 sets, those of other programs included, and a name may be taken. A policy only allows, and
every set that it looks at says whom: without one of them it allows less. So an edit that takes something away
does so whether or not what it adds can be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import Rule, Rules, sets_in
from agent.net import Direction, Family

_ASKS = frozenset({names.TRANSIT, *map(names.judge, Direction)})
"""Where isolated packets are led to."""


def narrowed(
    family: Family, wanted: Mapping[str, Rules | None], held: Mapping[str, Rules], unmade: Set[str]
) -> dict[str, Rules | None]:
    """Return one family's chains without these sets; they let through no more than the chains ``wanted``.

    ``held`` are the chains in the kernel; ``unmade`` may name sets of the other family, too. For a set that
    was to be switched to stands the one that rules look at now, under its other name. A set of peers, ports
    or nodes for which there is none counts as empty. Without a set of isolated addresses every packet looks
    for its pod in the tree, and one that finds none passes: so pods that have a chain are judged.
    """
    looked_at = set().union(*map(sets_in, held.values()))
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
            if rule is not None and not (chain in unasked and rule.target == names.DENY and not rule.in_sets)
        )
    return found


def _without(rule: Rule, unmade: Set[str], stand_ins: Mapping[str, str], missing: Set[str]) -> Rule | None:
    """Return a rule as it is without sets; None where it then matches nothing."""
    for match in rule.in_sets:
        if match.name not in unmade:
            continue
        if match.name in stand_ins:
            return rule.without(match, match._replace(name=stand_ins[match.name]))
        if match.negated or (match.name in missing and rule.target in _ASKS):
            return rule.without(match)
        return None
    return rule
