"""Which pods are logged: what the pod says, then its namespace, then the settings; and only isolated ones."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.kube.events import Delete
from agent.kube.logging import UNSAID, Amount, Logging, logging_of
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Pod
from agent.net import Direction
from agent.policy.engine import Engine
from agent.policy.program import PodId
from tests.build import pod, upsert

SAMPLED, ALL, OFF = Logging(Amount.SAMPLED), Logging(Amount.ALL), Logging(Amount.OFF)
DENY = NetworkPolicy("shop", "deny", ingress=())
DB = pod("db", "10.0.0.1", app="db")
SHOP = Namespace("shop")
INGRESS = PodId(Direction.INGRESS, DB.key)


def said(found: Pod, logging: Logging) -> Pod:
    return msgspec.structs.replace(found, logging=logging)


def test_only_isolated_pods_and_only_in_that_direction() -> None:
    engine = Engine("here", logging=SAMPLED)
    engine.apply(upsert(SHOP, DB), 0.0)
    assert engine.lowered.logging == {}
    engine.apply(upsert(DENY), 0.0)
    assert engine.lowered.logging == {INGRESS: Logging(Amount.SAMPLED)}
    engine.apply([Delete(Kind.POLICY, DENY.key)], 0.0)
    assert engine.lowered.logging == {}


def test_a_pod_is_heard_before_its_namespace_and_that_before_the_settings() -> None:
    engine = Engine("here", logging=SAMPLED)
    engine.apply(upsert(SHOP, DB, DENY), 0.0)
    sampled_too = Namespace("shop", logging=Logging(allowed=Amount.SAMPLED))
    steps: tuple[tuple[Pod | Namespace, dict[PodId, Logging]], ...] = (
        (Namespace("shop", logging=OFF), {}),
        (said(DB, ALL), {INGRESS: ALL}),
        (sampled_too, {INGRESS: Logging(Amount.ALL, Amount.SAMPLED)}),
        (DB, {INGRESS: Logging(Amount.SAMPLED, Amount.SAMPLED)}),
        (SHOP, {INGRESS: SAMPLED}),
    )
    for found, expected in steps:
        delta = engine.apply(upsert(found), 0.0)
        assert engine.lowered.logging == expected
        assert delta.pods == {INGRESS}
        # Its rules change, and nothing of who is isolated.
        assert not any(delta.isolated.values())
        assert not any(delta.opened.values())
    assert not engine.apply(upsert(SHOP), 0.0)


def test_values_that_are_not_known_are_named_and_change_nothing() -> None:
    engine = Engine("here")
    wrong = logging_of("yes", None)
    other = pod("far", "10.0.0.9", node="there")
    engine.apply(upsert(Namespace("shop", logging=wrong), said(DB, wrong), said(other, wrong), DENY), 0.0)
    assert engine.lowered.logging == {}
    assert engine.unknown_logging() == {
        (Kind.NAMESPACE, Key("", "shop")): wrong.unknown,
        (Kind.POD, DB.key): wrong.unknown,
    }
    engine.apply(upsert(SHOP, DB), 0.0)
    assert engine.unknown_logging() == {}


LOGGINGS = st.builds(Logging, *[st.sampled_from([None, *Amount])] * 2)


@settings(max_examples=200)
@given(LOGGINGS, st.lists(st.tuples(st.sampled_from(range(5)), LOGGINGS), max_size=12))
def test_it_depends_on_the_objects_of_now_alone(default: Logging, steps: list[tuple[int, Logging]]) -> None:
    engine = Engine("here", linger=0, logging=default)
    there: dict[object, Pod | Namespace | NetworkPolicy] = {}
    for step, logging in steps:
        if step == 0:
            there[Kind.POD] = said(DB, logging)
        elif step == 1:
            there[Kind.NAMESPACE] = Namespace("shop", logging=logging)
        elif step == 2:
            there[Kind.POLICY] = DENY
        else:
            kind = Kind.POD if step == 3 else Kind.POLICY
            there.pop(kind, None)
            engine.apply([Delete(kind, DB.key if step == 3 else DENY.key)], 0.0)
            continue
        engine.apply(upsert(*there.values()), 0.0)
    fresh = Engine("here", logging=default)
    fresh.apply(upsert(*there.values()), 0.0)
    assert engine.lowered.logging == fresh.lowered.logging
    if Kind.POD not in there or Kind.POLICY not in there:
        assert engine.lowered.logging == {}
    assert UNSAID not in engine.lowered.logging.values()
