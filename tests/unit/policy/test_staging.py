"""Which policies are in force, audited or disabled, and what that makes of pods."""

from __future__ import annotations

import msgspec
import pytest

from agent.kube.events import Delete, Invalid, Problem
from agent.kube.mode import Mode, ModeSaid
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Rule
from agent.net import Direction
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import PodId, PolicyId, Verdict
from tests.build import pod, upsert

DB = pod("db", "10.0.0.1", app="db")
SHOP = Namespace("shop")
DENY = NetworkPolicy("shop", "deny", ingress=())
OPEN = NetworkPolicy("shop", "open", ingress=(Rule(),), egress=(Rule(),))
INGRESS, EGRESS = PodId(Direction.INGRESS, DB.key), PodId(Direction.EGRESS, DB.key)


def staged(policy: NetworkPolicy, mode: Mode) -> NetworkPolicy:
    return msgspec.structs.replace(policy, staging=ModeSaid(mode))


def audited(engine: Engine) -> dict[PodId, tuple[Key, ...]]:
    assert all(one.default is Verdict.ALLOW for one in engine.program.audited.values())
    return {pod_id: one.policies for pod_id, one in engine.program.audited.items()}


@pytest.fixture
def engine() -> Engine:
    engine = Engine("here")
    engine.apply(upsert(SHOP, DB), 0.0)
    return engine


def test_audited_policies_alone_isolate_nobody(engine: Engine) -> None:
    delta = engine.apply(upsert(staged(DENY, Mode.AUDIT)), 0.0)
    assert engine.program.pods == {}
    assert audited(engine) == {INGRESS: (DENY.key,)}
    assert delta.audited == {INGRESS}
    assert delta.pods == set()
    assert not any(delta.isolated.values())
    assert engine.lowered.audited is engine.program.audited


def test_beside_an_enforced_policy_an_audited_one_is_not_asked(engine: Engine) -> None:
    engine.apply(upsert(DENY, staged(OPEN, Mode.AUDIT)), 0.0)
    assert engine.program.pods[INGRESS].policies == (DENY.key,)
    # Of the other direction it is the only one.
    assert audited(engine) == {EGRESS: (OPEN.key,)}
    delta = engine.apply([Delete(Kind.POLICY, DENY.key)], 0.0)
    assert engine.program.pods == {}
    assert audited(engine) == {INGRESS: (OPEN.key,), EGRESS: (OPEN.key,)}
    assert delta.opened[Direction.INGRESS] == {DB.addresses[0]}


def test_a_change_of_the_mode_alone_compiles_nothing(engine: Engine) -> None:
    engine.apply(upsert(OPEN), 0.0)
    for mode in (Mode.AUDIT, Mode.ENFORCE):
        # No work may be done, yet it is in force at once.
        delta = engine.apply(upsert(staged(OPEN, mode)), 0.0, 0)
        assert delta.policies == set()
        assert engine.waiting == 0
        assert (INGRESS in engine.program.pods) is (mode is Mode.ENFORCE)
        assert (INGRESS in engine.program.audited) is (mode is Mode.AUDIT)
        assert PolicyId(Direction.INGRESS, OPEN.key) in engine.program.policies


def test_a_disabled_policy_is_as_good_as_gone_and_known_all_the_same(engine: Engine) -> None:
    engine.apply(upsert(staged(DENY, Mode.DISABLED)), 0.0)
    assert engine.lowered == LoweredProgram()
    assert engine.known(Kind.POLICY, DENY.key) == staged(DENY, Mode.DISABLED)
    assert engine.selected_by(DENY.key) == {INGRESS}
    assert engine.staging.staged() == {DENY.key: Mode.DISABLED}
    engine.apply(upsert(DENY), 0.0)
    assert engine.program.pods.keys() == {INGRESS}
    assert engine.staging.staged() == {}


def test_a_namespace_speaks_for_policies_that_say_nothing(engine: Engine) -> None:
    own = staged(OPEN, Mode.ENFORCE)
    engine.apply(upsert(DENY, own, Namespace("shop", staging=ModeSaid(Mode.AUDIT))), 0.0)
    assert engine.program.pods[INGRESS].policies == (OPEN.key,)
    engine.apply([Delete(Kind.POLICY, OPEN.key)], 0.0)
    assert audited(engine) == {INGRESS: (DENY.key,)}
    engine.apply(upsert(Namespace("shop", staging=ModeSaid(Mode.DISABLED))), 0.0)
    assert engine.lowered == LoweredProgram()
    engine.apply([Delete(Kind.NAMESPACE, Key("", "shop"))], 0.0)
    # One that is not known says nothing.
    assert engine.program.pods.keys() == {INGRESS}


def test_the_annotation_of_old_that_isolates_a_namespace_is_staged_with_it(engine: Engine) -> None:
    engine.apply(upsert(Namespace("shop", ingress_isolated=True, staging=ModeSaid(Mode.AUDIT))), 0.0)
    assert engine.program.pods == {}
    assert audited(engine).keys() == {INGRESS}


def test_an_invalid_policy_that_is_audited_isolates_in_audit_alone(engine: Engine) -> None:
    closed = staged(DENY, Mode.AUDIT)
    engine.apply([Invalid(Kind.POLICY, DENY.key, (Problem("spec", "wrong"),), closed)], 0.0)
    assert engine.program.pods == {}
    assert audited(engine) == {INGRESS: (DENY.key,)}


def test_the_address_of_an_audited_pod_is_not_closed_after_it(engine: Engine) -> None:
    engine.apply(upsert(staged(DENY, Mode.AUDIT)), 0.0)
    delta = engine.apply([Delete(Kind.POD, DB.key)], 1.0)
    assert engine.lowered == LoweredProgram()
    assert delta.audited == {INGRESS}
    assert not any(delta.isolated.values())


def test_values_that_are_not_known_are_kept_until_they_go(engine: Engine) -> None:
    slip = ModeSaid(Mode.ENFORCE, "audited")
    engine.apply(upsert(msgspec.structs.replace(DENY, staging=slip), Namespace("shop", staging=slip)), 0.0)
    assert engine.program.pods.keys() == {INGRESS}
    keys = {(Kind.POLICY, DENY.key), (Kind.NAMESPACE, Key("", "shop"))}
    assert engine.staging.unknown == dict.fromkeys(keys, "audited")
    engine.apply([*upsert(SHOP), Delete(Kind.POLICY, DENY.key)], 0.0)
    assert engine.staging.unknown == {}
