"""Compiling in turns: what isolates never waits, and no namespace's heap delays another's."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.kube.events import Delete
from agent.kube.mode import Mode, ModeSaid
from agent.kube.model import Key, Kind, NetworkPolicy, Object, Peer, Rule
from agent.net import Direction, Family
from agent.policy.budget.turns import Turns
from agent.policy.engine import Engine
from agent.policy.program import PodId, PolicyId
from tests.build import labelled, pod, upsert

IN, OUT = Direction.INGRESS, Direction.EGRESS


def policy(namespace: str, name: str, rules: int = 1, **labels: str) -> NetworkPolicy:
    allowed = tuple(Rule((Peer(labelled(**{f"{name}{n}": "yes"})),)) for n in range(rules))
    return NetworkPolicy(namespace, name, labelled(**labels), ingress=allowed)


# --- Whose turn it is ---------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(1, 50)), max_size=40),
    st.integers(1, 60),
)
def test_everybody_has_a_turn_once_and_no_step_is_much_longer(
    put: list[tuple[str, int, int]], most: int
) -> None:
    turns = Turns()
    work: dict[Key, int] = {}
    for namespace, number, cost in put:
        key = Key(namespace, str(number))
        turns.put(key, cost)
        work[key] = cost
    served: list[Key] = []
    while turns:
        taken = turns.take(most)
        assert taken
        assert len(taken) == 1 or sum(work[key] for key in taken) <= most
        served += taken
    assert sorted(served) == sorted(work)
    assert turns.take(most) == []


def test_a_heap_of_one_namespace_does_not_delay_another() -> None:
    turns = Turns()
    for number in range(1000):
        turns.put(Key("evil", f"cheap-{number}"), 10)
        turns.put(Key("evil", f"dear-{number}"), 5000)
    turns.take(100)
    turns.put(Key("shop", "dear"), 2000)
    turns.put(Key("shop", "cheap"), 50)
    steps = [turns.take(100) for _ in range(3)]
    assert Key("shop", "cheap") in steps[0]
    assert any(Key("shop", "dear") in step for step in steps)


def test_a_dear_policy_edited_at_each_step_does_not_stand_between_the_cheap_ones_of_another() -> None:
    turns = Turns()
    turns.put(Key("evil", "dear"), 20_000)
    turns.put(Key("evil", "more"), 30_000)
    turns.take(100)
    cheap = [Key("shop", f"cheap-{number:02}") for number in range(100)]
    for key in cheap:
        turns.put(key, 10)
    order: list[Key] = []
    steps = 0
    while any(key in turns for key in cheap):
        turns.put(Key("evil", "dear"), 20_000 + steps)
        order += turns.take(100)
        steps += 1
    assert [key for key in order if key.namespace == "shop"] == cheap
    assert len(order) - len(cheap) <= 1
    assert steps <= 13


def test_who_comes_late_takes_no_more_than_its_share() -> None:
    turns = Turns()
    for number in range(100):
        turns.put(Key("shop", f"{number:02}"), 1000)
    for _ in range(50):
        turns.take(1000)
    for number in range(100):
        turns.put(Key("evil", f"{number:02}"), 1000)
    served = [key.namespace for _ in range(40) for key in turns.take(1000)]
    assert served.count("shop") >= 19


def test_what_waits_no_longer_is_not_served() -> None:
    turns = Turns()
    for name in "abc":
        turns.put(Key("shop", name), 10)
    turns.discard(Key("shop", "b"))
    turns.put(Key("shop", "c"), 20)
    assert len(turns) == 2
    assert turns.take(0) == []
    assert turns.take(15) == [Key("shop", "a")]
    assert turns.take(15) == [Key("shop", "c")]


# --- What the engine does meanwhile -------------------------------------------------------------------------


def test_pods_are_isolated_before_their_policies_are_compiled() -> None:
    engine = Engine("here")
    web = pod("web", "10.0.0.1", app="web")
    engine.apply(upsert(web), 0)
    delta = engine.apply(upsert(policy("shop", "a", 50, app="web"), policy("shop", "b", 50, app="web")), 0, 0)
    assert delta.isolated[IN] == {web.addresses[0]}
    assert engine.waiting == 2
    assert not engine.lowered.policies
    assert engine.lowered.pods[PodId(IN, web.key)].policies == ()
    engine.apply([], 0, 1)
    assert engine.lowered.pods[PodId(IN, web.key)].policies == (Key("shop", "a"),)
    delta = engine.apply([], 0, 1)
    assert not delta.isolated[IN] - delta.opened[IN]
    assert engine.lowered.pods[PodId(IN, web.key)].policies == (Key("shop", "a"), Key("shop", "b"))
    assert not engine.waiting


def test_slices_end_where_one_step_does() -> None:
    objects: list[Object] = [
        *(pod(f"p{n}", f"10.0.0.{n + 1}", namespace=f"ns-{n % 3}", app=f"app-{n % 2}") for n in range(9)),
        *(policy(f"ns-{n % 3}", f"p{n}", n, app=f"app-{n % 2}") for n in range(30)),
    ]
    whole, sliced = Engine("here"), Engine("here")
    whole.apply(upsert(*objects), 0)
    sliced.apply(upsert(*objects), 0, 20)
    steps = 0
    while sliced.waiting:
        sliced.apply([], 0, 20)
        steps += 1
    assert steps > 5
    assert sliced.lowered == whole.lowered


def test_an_edit_that_waits_is_enforced_as_it_was_unless_it_selects_other_pods() -> None:
    engine = Engine("here")
    web, db = pod("web", "10.0.0.1", app="web"), pod("db", "10.0.0.2", app="db")
    engine.apply(upsert(web, db, policy("shop", "p", 1, app="web")), 0)
    before = engine.lowered.policies[PolicyId(IN, Key("shop", "p"))]
    assert not engine.apply(upsert(policy("shop", "p", 2, app="web")), 0, 0)
    assert engine.lowered.policies[PolicyId(IN, Key("shop", "p"))] == before
    # The pod that it selects now is isolated at once, and nothing that was never meant for it is allowed.
    engine.apply(upsert(policy("shop", "p", 2, app="db")), 0, 0)
    assert not engine.lowered.policies
    assert engine.lowered.isolated(IN, Family.V4) == {db.addresses[0]}
    engine.apply([], 0)
    assert engine.lowered.pods[PodId(IN, db.key)].policies == (Key("shop", "p"),)


def test_what_was_audited_is_not_enforced_while_its_edit_waits() -> None:
    engine = Engine("here")
    web = pod("web", "10.0.0.1", app="web")
    audited = msgspec.structs.replace(policy("shop", "p", 1, app="web"), staging=ModeSaid(Mode.AUDIT))
    closed = policy("shop", "closed", 0, app="web")
    engine.apply(upsert(web, closed, audited), 0)
    assert PolicyId(IN, audited.key) in engine.lowered.policies
    # What the audited version allows, the one that is to be enforced may not.
    engine.apply(upsert(policy("shop", "p", 2, app="web")), 0, 0)
    assert engine.waiting == 1
    assert engine.lowered.policies.keys() == {PolicyId(IN, closed.key)}
    assert engine.lowered.pods[PodId(IN, web.key)].policies == (closed.key,)
    engine.apply([], 0)
    assert engine.lowered.pods[PodId(IN, web.key)].policies == (closed.key, audited.key)
    # From enforced to audited it isolates nobody at once, whatever waits.
    again = msgspec.structs.replace(policy("shop", "p", 3, app="web"), staging=ModeSaid(Mode.AUDIT))
    engine.apply(upsert(again), 0, 0)
    assert engine.lowered.pods[PodId(IN, web.key)].policies == (closed.key,)


def test_what_goes_never_waits() -> None:
    engine = Engine("here")
    web = pod("web", "10.0.0.1", app="web")
    engine.apply(upsert(web, policy("shop", "p", 1, app="web"), policy("shop", "q", 1, app="web")), 0)
    engine.apply([Delete(Kind.POLICY, Key("shop", "p"))], 0, 0)
    assert engine.lowered.pods[PodId(IN, web.key)].policies == (Key("shop", "q"),)
    assert engine.lowered.policies.keys() == {PolicyId(IN, Key("shop", "q"))}
    engine.apply(upsert(policy("shop", "q", 2, app="web")), 0, 0)
    engine.apply([Delete(Kind.POLICY, Key("shop", "q"))], 0, 0)
    assert not engine.waiting
    assert not engine.lowered.pods
    assert not engine.lowered.sets


def test_at_a_start_all_pods_are_isolated_first_then_cheap_policies_then_dear_ones() -> None:
    pods = [pod("p", f"10.0.{n}.1", namespace=f"ns-{n}", app="web") for n in range(20)]
    cheap = [policy(f"ns-{n}", "deny", 0) for n in range(20)]
    dear = [policy("ns-7", f"dear-{n:02}", 90, app="web") for n in range(20)]
    engine = Engine("here")
    engine.apply(upsert(*dear, *cheap, *pods), 0, 400)
    assert engine.lowered.isolated(IN, Family.V4) == {one.addresses[0] for one in pods}
    enforced = {policy_id.policy for policy_id in engine.lowered.policies}
    assert {one.key for one in cheap} <= enforced
    assert engine.waiting >= 19
    steps = 0
    while engine.waiting:
        engine.apply([], 0, 400)
        steps += 1
    assert steps >= 19
