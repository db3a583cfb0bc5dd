"""The record of what the kernel holds: who plans only looks at it, and a step says what it changes there."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.change.planner import Found, plan_delta, plan_switch_back, plan_sync
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.draft import Drawn
from agent.dataplane.iptables.rules.lists import Known
from agent.dataplane.iptables.rules.set_names import SetNames
from agent.dataplane.iptables.rules.trees import State
from agent.kernel.ipset_shapes import SetContent
from agent.net import Direction, Family
from agent.policy.engine import Engine
from agent.policy.lower.lowered import SetId, SetKind
from tests.property.histories import Batch
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend
from tests.property.test_steps import HISTORIES
from tests.property.words import HERE

A, B = (SetId(SetKind.ADDRESSES, Direction.INGRESS, Family.V4, meaning) for meaning in "ab")


def copied(value: Any) -> Any:
    """Return a copy of what was drawn down to the rules, which do not change."""
    if isinstance(value, Mapping):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, Drawn | State | Known):
        return {name: copied(each) for name, each in vars(value).items()}
    return value


def recorded(backend: IptablesBackend) -> Mapping[str, Any]:
    held = backend._held
    return {
        "names": held.names,
        "of_sets": dict(held.of_sets),
        "nodes": dict(held.nodes),
        "chains": {family: dict(table) for family, table in held.chains.held.items()},
        "garbage": copy.deepcopy((held.chains.garbage, held.sets.garbage)),
        "sets": (dict(held.sets.shapes), dict(held.sets.sizes)),
        "lagging": held.lagging,
        "closed": held.closed,
        "untracked": held.untracked,
        "tracked": copy.deepcopy(held.tracked),
        "node": held.node,
        "drawn": copied(held.drawn),
    }


@given(HISTORIES, st.booleans())
def test_planning_changes_nothing_in_the_record_and_carrying_out_makes_it_what_the_kernel_holds(
    history: list[Batch], allow_nodes: bool
) -> None:
    engine, kernel = Engine(HERE, allow_nodes=allow_nodes), Kernel()
    backend = make_backend(kernel)
    assert not backend.sync(engine.lowered).faults
    held = backend._held
    now = 0.0
    for batch in history:
        now += batch.seconds
        delta = engine.apply(batch.events, now)
        before = recorded(backend)
        step = plan_delta(held, engine.lowered, delta)
        assert plan_delta(held, engine.lowered, delta) == step
        content = {name: SetContent(shape, set(members)) for name, (shape, members) in kernel.sets.items()}
        found = Found(content, frozenset(), frozenset(), {})
        plan_sync(held, engine.lowered, found)
        assert recorded(backend) == before
        assert plan_delta(held, engine.lowered, delta) == step
        assert not backend.apply(engine.lowered, delta).faults
        assert held.names == step.revision.names
        assert held.of_sets.keys() == engine.lowered.sets.keys()
        assert all(held.of_sets[s] == held.names.peer_set(s) for s in held.of_sets)
        ours = {c: r for f in Family for c, r in kernel.tables[f].items() if names.is_ours(c)}
        assert {c: r for f in Family for c, r in held.chains.held[f].items()} == ours
        assert held.sets.shapes == {name: shape for name, (shape, _) in kernel.sets.items()}
        # As when tidying up: only once nothing waits is the record of the same sets as the program.
        before = recorded(backend)
        plan_switch_back(held, engine.lowered)
        assert recorded(backend) == before


def test_names_are_switched_and_back() -> None:
    tree = (Direction.INGRESS, Family.V4)
    usual = SetNames()
    switched = usual.switching([A], [tree])
    assert switched.any_switched
    assert switched.peer_set(A) == names.alternate(usual.peer_set(A))
    assert switched.peer_set(B) == usual.peer_set(B)
    assert switched.isolated_set(*tree) == names.alternate(usual.isolated_set(*tree))
    assert switched.switching([A], [tree]) == switched.usual() == usual
    assert switched.forgetting([B]) is switched
    assert switched.forgetting([A]).switched == frozenset()
