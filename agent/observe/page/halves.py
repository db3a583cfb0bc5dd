"""What a policy's page shows of the kernel: each rule of the policy, with the rules that stand for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from agent.dataplane.trace import CountedRule
from agent.history import diff
from agent.kube.model import Key, NetworkPolicy
from agent.net import Direction, Family
from agent.observe.page.sources import Sources

_COMMENT = re.compile(r'-m comment --comment "[^"]*" ?')


class KernelLine(NamedTuple):
    """A rule of the kernel, and what it has counted; ``number`` -1: it leads on, or lets a packet return."""

    family: int
    number: int
    rule: CountedRule
    text: str
    last_hit: float | None


class PolicyRule(NamedTuple):
    """A rule of a policy's spec: what it says, and what the kernel's rules that stand for it have counted."""

    number: int
    text: str
    packets: int
    last_hit: float | None
    lines: tuple[KernelLine, ...]


class Half(NamedTuple):
    """One direction of a policy: its rules, and lines of the kernel that are of none of them."""

    direction: str
    rules: tuple[PolicyRule, ...]
    others: tuple[KernelLine, ...]


def halves_of(sources: Sources, key: Key, policy: NetworkPolicy) -> list[Half]:
    """Return the directions that a policy has. Raises OSError: the kernel cannot be read."""
    return [
        _half(sources, key, direction, rules)
        for direction in Direction
        if (rules := diff.rule_texts(policy, direction)) is not None
    ]


def _half(sources: Sources, key: Key, direction: Direction, rules: Sequence[str]) -> Half:
    tracer, now = sources.tracer(), sources.clock.time()
    lines = [
        KernelLine(
            int(family),
            number,
            rule,
            _COMMENT.sub("", rule.text),
            sources.hits.saw((int(family), rule.chain, rule.text), rule.packets, now),
        )
        for family in Family
        for number, rule in tracer.rules_of(direction, key, family)
    ]
    told = []
    for number, text in enumerate(rules):
        mine = tuple(line for line in lines if line.number == number)
        hits = [line.last_hit for line in mine if line.last_hit is not None]
        told.append(
            PolicyRule(number, text, sum(line.rule.packets for line in mine), max(hits, default=None), mine)
        )
    return Half(direction.value, tuple(told), tuple(line for line in lines if line.number < 0))
