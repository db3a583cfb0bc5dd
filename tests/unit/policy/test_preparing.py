"""Policies of many members or networks: prepared in several steps, of which none shows anything half."""

from __future__ import annotations

from agent.kube.events import Event, Upsert
from agent.kube.model import IPBlock, Key, Kind, Peer, Pod, Rule
from agent.net import Network
from agent.policy.engine import Engine
from agent.policy.lower.lowered import Delta
from agent.policy.lower.sets import MANY
from tests.build import labelled, packed
from tests.kernel.kernel_state import HERE, gone, namespace, policy

PODS, PEERS = 2_500, 10
SLICE = 100


def _address(number: int) -> bytes:
    return (10 << 24 | number).to_bytes(4)


def _remote(number: int) -> Upsert:
    labels = {f"peer-{n}": "yes" for n in range(PEERS)}
    return Upsert(Kind.POD, Pod("default", f"p{number}", f"p{number}", labels, "there", (_address(number),)))


WEB = Upsert(Kind.POD, Pod("default", "web", "web", {"app": "web"}, HERE, (packed("10.9.0.1"),)))
CLUSTER: list[Event] = [namespace("default"), WEB, *map(_remote, range(1, PODS))]
LARGE = policy(
    "large",
    selector=labelled(app="web"),
    ingress=[Rule((Peer(pod_selector=labelled(**{f"peer-{n}": "yes"})),)) for n in range(PEERS)],
)
BLOCKS = policy(
    "blocks",
    selector=labelled(app="web"),
    ingress=[Rule(tuple(Peer(block=IPBlock(Network(_address(2 * n), 32))) for n in range(3_000)))],
)


def begun(event: Upsert) -> tuple[Engine, Delta]:
    engine = Engine(HERE)
    engine.apply(CLUSTER, 0.0)
    return engine, engine.apply([event], 0.0, SLICE)


def finish(engine: Engine) -> tuple[int, Delta]:
    """Go on until nothing waits; return how many steps that took, and the delta of the last that changed."""
    steps, last = 0, Delta()
    while engine.waiting:
        delta = engine.apply([], 0.0, SLICE)
        steps += 1
        last = delta or last
        assert steps < 100
    return steps, last


def test_its_sets_are_told_together_when_all_are_filled() -> None:
    for event, sets in ((LARGE, PEERS), (BLOCKS, 1)):
        engine, first = begun(event)
        assert first.isolated
        assert engine.lowered.sets == {}
        steps, last = finish(engine)
        assert steps > 3
        assert len(last.sets_added) == sets
        at_once = Engine(HERE)
        at_once.apply([*CLUSTER, event], 0.0)
        assert engine.lowered.policies == at_once.lowered.policies
        assert engine.lowered.sets == at_once.lowered.sets


def test_pods_that_come_and_go_meanwhile_are_members_or_not() -> None:
    engine, _ = begun(LARGE)
    engine.apply([], 0.0, SLICE)
    engine.apply([_remote(PODS + 1), gone(_remote(1))], 0.0, 0)
    finish(engine)
    assert all(
        _address(PODS + 1) in members and _address(1) not in members
        for members in engine.lowered.sets.values()
    )
    assert len(engine.lowered.sets) == PEERS


def test_one_that_changes_or_goes_meanwhile_leaves_nothing() -> None:
    engine, _ = begun(LARGE)
    engine.apply([], 0.0, SLICE)
    engine.apply([policy("large", selector=labelled(app="web"), ingress=[Rule()])], 0.0, SLICE)
    finish(engine)
    assert engine.lowered.sets == {}
    engine.apply([LARGE], 0.0, SLICE)
    engine.apply([], 0.0, SLICE)
    engine.apply([gone(LARGE)], 0.0, SLICE)
    finish(engine)
    assert engine.lowered.policies == {}
    pods = [gone(event) for event in CLUSTER if isinstance(event, Upsert) and event.kind is Kind.POD]
    engine.apply([*pods, gone(namespace("default"))], 0.0)
    engine.apply([], 1e9)
    assert {what: size for what, size in engine.sizes().items() if size} == {}


def test_the_sets_of_one_that_went_are_forgotten_some_at_a_time_and_asked_for_again() -> None:
    engine = Engine(HERE)
    engine.apply([*CLUSTER, LARGE], 0.0)
    delta = engine.apply([gone(LARGE)], 0.0, SLICE)
    assert len(delta.sets_removed) == PEERS
    assert engine.lowered.sets == {}
    assert engine.waiting
    engine.apply([LARGE], 0.0)
    assert len(engine.lowered.sets) == PEERS
    assert engine.is_waiting(Key("default", "large")) is False
    assert all(len(members) == PODS - 1 for members in engine.lowered.sets.values())


def test_sets_are_forgotten_though_others_are_filled_all_the_time() -> None:
    engine, _ = begun(LARGE)
    finish(engine)
    leaving = []
    for number in range(20):
        peers = [labelled(**{f"peer-{n}": "yes", f"peer-{n + 1}": "yes"}) for n in range(PEERS - 1)]
        rules = [Rule((Peer(pod_selector=peer),)) for peer in peers[number % 2 :]]
        engine.apply([policy("large", selector=labelled(app="web"), ingress=rules)], 0.0, SLICE)
        for _ in range(PEERS):
            engine.apply([], 0.0, SLICE)
        leaving.append(engine.sizes()["sets that leave"])
    assert max(leaving) < 2 * PEERS
    finish(engine)
    assert engine.sizes()["sets that leave"] == 0


def test_a_set_that_is_asked_for_again_is_forgotten_once_though_it_has_few_members_by_then() -> None:
    engine = Engine(HERE)
    first, *others = (Rule((Peer(pod_selector=labelled(**{f"peer-{n}": "yes"})),)) for n in range(PEERS))
    small = policy("small", selector=labelled(app="web"), ingress=[first])
    large = policy("large", selector=labelled(app="web"), ingress=others)
    engine.apply([*CLUSTER, small, large], 0.0)
    engine.apply([gone(small)], 0.0, 0)
    engine.apply([gone(large)], 0.0, 0)
    assert engine.sizes()["sets that leave"] == PEERS
    engine.apply([small], 0.0, SLICE)
    assert 1 < engine.sizes()["sets that leave"] < PEERS
    few = MANY // 2
    engine.apply([*(gone(_remote(number)) for number in range(few, PODS)), gone(small)], 0.0, 0)
    finish(engine)
    assert engine.sizes()["live sets"] == 0
