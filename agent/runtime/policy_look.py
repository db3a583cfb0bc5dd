"""One policy, looked at while the agent runs: the loop is asked for references, the kernel beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from agent.clock import SYSTEM
from agent.dataplane.trace import Tracer
from agent.dataplane.traffic import NOTHING, Amount
from agent.history.diff import rule_text, selector_text
from agent.kube.mode import Mode
from agent.kube.model import Key, Kind, NetworkPolicy, Rule
from agent.net import Direction, Family
from agent.observe.hits import Hits
from agent.observe.status.policy import Look, Peers, PolicyView, RuleView, allows_dns
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredRule, SetId
from agent.policy.program import PodId, PolicyId
from agent.runtime import backends
from agent.runtime.loop import Agent

Counts = Mapping[tuple[Direction, int], Amount]
"""What rules have counted, by direction and number."""


class _Known(NamedTuple):
    """What the loop knows of a policy at one moment."""

    policy: NetworkPolicy
    pods: frozenset[PodId]
    rules: dict[tuple[Direction, int], list[LoweredRule]]
    sizes: dict[SetId, int]
    problems: tuple[str, ...]
    mode: Mode = Mode.ENFORCE


def make_look(agent: Agent) -> Look:
    """Return what looks at a policy, for any thread but the loop's own."""
    views, hits = agent.views, Hits()

    def look(key: Key) -> PolicyView | None:
        known = agent.inbox.ask(lambda: _known(views.engine, key))
        if known is None:
            return None
        counts: Counts | None = None
        problems = known.problems
        if views.calls.phase.begun:
            try:
                counts = _counts(backends.tracer(views.choice), agent.families, key)
            except OSError as error:
                problems = (*problems, f"what its rules have counted cannot be read: {error}")
        now = SYSTEM.time()
        last = {
            which: hits.saw((key, *which), amount.packets, now) for which, amount in (counts or {}).items()
        }
        found = view(key, known, counts, problems, last)
        proved = agent.proving.proved(key)
        return found if proved is None else msgspec.structs.replace(found, proved_since=proved.since)

    return look


def _counts(tracer: Tracer, families: Iterable[Family], key: Key) -> Counts:
    """Read what each rule of a policy has counted, over the families. Raises OSError."""
    found: dict[tuple[Direction, int], Amount] = {}
    for direction, family in itertools.product(Direction, families):
        for number, rule in tracer.rules_of(direction, key, family):
            if number >= 0:
                amount = Amount(rule.packets, rule.bytes)
                found[direction, number] = found.get((direction, number), NOTHING).plus(amount)
    return found


def _known(engine: Engine, key: Key) -> _Known | None:
    policy = engine.known(Kind.POLICY, key)
    if not isinstance(policy, NetworkPolicy):
        return None
    rules: dict[tuple[Direction, int], list[LoweredRule]] = {}
    sizes: dict[SetId, int] = {}
    program = engine.lowered
    for direction in Direction:
        lowered = program.policies.get(PolicyId(direction, key))
        for family in Family if lowered is not None else ():
            for rule in lowered.rules(family) if lowered is not None else ():
                rules.setdefault((direction, rule.number), []).append(rule)
                sizes.update((set_id, len(program.sets[set_id])) for set_id in rule.sets())
    problems = tuple(_problems(engine, key, policy))
    pods = frozenset(engine.selected_by(key))
    return _Known(policy, pods, rules, sizes, problems, engine.staging.mode(policy))


def _problems(engine: Engine, key: Key, policy: NetworkPolicy) -> list[str]:
    found = [
        f"its rules for {direction} have no effect: its policyTypes do not name {kind}; add {kind} there"
        for direction in policy.ignored
        for kind in (direction.value.capitalize(),)
    ]
    if (excess := engine.over_budget().get(key)) is not None:
        found.append(f"it is over budget, so it isolates its pods and allows nothing: {excess}")
    for kind, invalid, problems in engine.invalid():
        if kind is Kind.POLICY and invalid == key:
            found += [f"refused: {p.field}: {p.message}" if p.field else p.message for p in problems]
    if engine.is_waiting(key):
        found.append("it waits to be compiled: until then it allows what it allowed before, or nothing")
    return found


def view(
    key: Key,
    known: _Known,
    counts: Counts | None,
    problems: tuple[str, ...],
    last: Mapping[tuple[Direction, int], float | None],
) -> PolicyView:
    """Return a policy as it is shown; ``last``: when rules were last seen to count, in ``time.time()``."""
    policy, pods = known.policy, known.pods

    def isolated(direction: Direction) -> tuple[str, ...] | None:
        if policy.rules(direction) is None:
            return None
        return tuple(sorted(str(pod_id.pod) for pod_id in pods if pod_id.direction is direction))

    rules = [
        _rule(direction, number, rule, known, counts, last.get((direction, number)))
        for direction in Direction
        for number, rule in enumerate(policy.rules(direction) or ())
    ]
    return PolicyView(
        str(key),
        selector_text(policy.pod_selector),
        isolated(Direction.INGRESS),
        isolated(Direction.EGRESS),
        tuple(rules),
        problems,
        known.mode.value,
        policy.staging.mode is None and known.mode is not Mode.ENFORCE,
        policy.generation,
    )


def _rule(
    direction: Direction,
    number: int,
    said: Rule,
    known: _Known,
    counts: Counts | None,
    last_hit: float | None,
) -> RuleView:
    here = known.pods and any(pod_id.direction is direction for pod_id in known.pods)
    lowered = known.rules.get((direction, number), [])
    members: dict[str, int] = {}
    for rule in lowered:
        for set_id in rule.sets():
            members[set_id.meaning] = members.get(set_id.meaning, 0) + known.sizes[set_id]
    open_to_some = any(_may_match(rule, known.sizes) for rule in lowered)
    amount = counts.get((direction, number), NOTHING) if counts is not None and lowered else None
    return RuleView(
        direction.value,
        number,
        rule_text(said, direction.value),
        tuple(Peers(meaning, size) for meaning, size in members.items()),
        None if amount is None else amount.packets,
        None if amount is None else amount.bytes,
        bool(here) and not open_to_some,
        last_hit,
        allows_dns(direction, said),
    )


def _may_match(rule: LoweredRule, sizes: Mapping[SetId, int]) -> bool:
    """Whether a rule can match any packet now: none of what it needs is empty."""
    by_folded = any(sizes[set_id] for set_id in rule.folded)
    peers = rule.peers is None or bool(rule.blocks) or any(sizes[set_id] for set_id in rule.peers)
    ports = rule.ports is None or bool(rule.ports) or any(sizes[set_id] for set_id in rule.named or ())
    return by_folded or (peers and ports)
