"""What waits for its turn: which events are next, and which stay in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import IPBlock, Key, Kind, Namespace, NetworkPolicy, Node, Peer, Pod, Rule
from agent.net import Network
from agent.runtime.backlog import NEAR, Backlog, Batch
from agent.runtime.inbox import Arrival

HERE = {Key("a", "here"), Key("b", "here")}
"""Pods that are known and on this node."""


def far(name: str, namespace: str = "a") -> Event:
    return Upsert(Kind.POD, Pod(namespace, name, node="there"))


def near(name: str, namespace: str = "a") -> Event:
    return Upsert(Kind.POD, Pod(namespace, name, node="n"))


def policy(name: str, namespace: str = "a") -> Event:
    return Upsert(Kind.POLICY, NetworkPolicy(namespace, name))


EVENTS: list[Event] = [
    *(of(name, namespace) for of in (far, near, policy) for name in "pq" for namespace in "ab"),
    *(Delete(Kind.POD, Key(namespace, name)) for name in ("p", "q", "here") for namespace in "ab"),
    Upsert(Kind.POD, Pod("a", "here", node="there")),
    Delete(Kind.POLICY, Key("a", "p")),
    Upsert(Kind.NAMESPACE, Namespace("a")),
    Upsert(Kind.NODE, Node("n")),
    Synced(Kind.POD),
    Synced(Kind.POLICY),
]


def holding(*events: Event) -> Backlog:
    backlog = Backlog("n", HERE.__contains__)
    backlog.put(events, [Arrival(float(at), 1) for at in range(len(events))], 99.0)
    return backlog


def taken(backlog: Backlog, most: int | None) -> list[Batch]:
    """Take everything, as much as ``most`` at a time."""
    batches: list[Batch] = []
    while len(backlog):
        if backlog.far:
            batches.append(backlog.take_far(most))
        if backlog.near:
            batches.append(backlog.take_near(most))
    return batches


def of_object(event: Event) -> tuple[Kind, Key] | None:
    if isinstance(event, Synced):
        return None
    return event.kind, event.object.key if isinstance(event, Upsert) else event.key


some_events = st.lists(st.sampled_from(EVENTS), max_size=30)


@given(some_events, st.sampled_from([None, 1, 2, 7]))
def test_every_event_has_its_turn_once(events: list[Event], most: int | None) -> None:
    found = [event for batch in taken(holding(*events), most) for event in batch.events]
    assert sorted(map(repr, found)) == sorted(map(repr, events))


@given(some_events, st.sampled_from([None, 1, 2, 7]))
def test_what_happens_to_one_object_stays_in_order(events: list[Event], most: int | None) -> None:
    found = [event for batch in taken(holding(*events), most) for event in batch.events]
    for one in {of_object(event) for event in events}:
        assert [e for e in found if of_object(e) == one] == [e for e in events if of_object(e) == one]


@given(some_events, st.sampled_from([None, 1, 2, 7]))
def test_a_pod_of_this_node_stays_behind_the_policies_of_its_namespace(
    events: list[Event], most: int | None
) -> None:
    def in_a(event: Event) -> bool:
        return event in (near("p"), policy("p"), Delete(Kind.POLICY, Key("a", "p")), EVENTS[-4])

    found = [event for batch in taken(holding(*events), most) for event in batch.events]
    assert list(filter(in_a, found)) == list(filter(in_a, events))


@given(some_events, st.sampled_from([None, 1, 2, 7]))
def test_each_is_told_with_the_time_at_which_it_came(events: list[Event], most: int | None) -> None:
    came: dict[str, set[float]] = {}
    for at, event in enumerate(events):
        came.setdefault(repr(event), set()).add(float(at))
    for batch in taken(holding(*events), most):
        times = [at for at, count in batch.arrivals for _ in range(count)]
        assert len(times) == len(batch.events)
        assert all(at in came[repr(event)] for at, event in zip(times, batch.events, strict=True))


@given(some_events, st.sampled_from([None, 1, 2, 7]))
def test_marks_come_last(events: list[Event], most: int | None) -> None:
    found = [event for batch in taken(holding(*events), most) for event in batch.events]
    marks = [isinstance(event, Synced) for event in found]
    assert marks == sorted(marks)


def test_pods_of_other_nodes_come_before_policies() -> None:
    backlog = holding(policy("p"), near("p"), far("q"))
    assert backlog.take_far().events == [far("q")]
    assert backlog.take_near().events == [policy("p"), near("p")]
    assert not len(backlog)


def test_a_pod_that_went_from_here_is_no_pod_of_another_node_before_it_went() -> None:
    gone, again = Delete(Kind.POD, Key("a", "here")), far("here")
    backlog = holding(near("here"), gone, again)
    assert not backlog.far
    assert backlog.take_near().events == [near("here"), gone, again]
    backlog.put([far("p"), far("here")], [], 1.0)
    assert backlog.take_far().events == [far("p")]


def test_a_namespace_waits_for_no_other() -> None:
    many = [policy(f"p-{number}") for number in range(10 * NEAR)]
    backlog = holding(*many, policy("one", "b"))
    assert policy("one", "b") in backlog.take_near().events
    assert backlog.near
    backlog = holding(*(far(f"p-{number}") for number in range(1_000)), far("one", "b"))
    assert far("one", "b") in backlog.take_far(2).events


def test_a_policy_with_many_peers_counts_as_many_events() -> None:
    block = Peer(block=IPBlock(Network(b"\x0a\0\0\0", 8), ()))
    large = Upsert(Kind.POLICY, NetworkPolicy("a", "large", ingress=(Rule(peers=(block,) * 50 * NEAR),)))
    backlog = holding(policy("p"), large, policy("q"))
    assert backlog.take_near().events == [policy("p"), large]
    assert backlog.take_near().events == [policy("q")]


def test_a_namespace_with_policies_that_wait_is_known() -> None:
    backlog = holding(policy("p"), far("p", "b"), Upsert(Kind.NAMESPACE, Namespace("c")))
    assert [namespace for namespace in "abc" if backlog.waits_in(namespace)] == ["a", "c"]
    backlog.take_near()
    assert not backlog.waits_in("a")
    assert len(backlog) == 1
