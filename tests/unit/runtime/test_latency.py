"""How long a change takes: from the event's arrival to the kernel, however that goes."""

from __future__ import annotations

import datetime

from agent.histogram import Distribution
from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy
from agent.policy.lower.lowered import Delta
from agent.runtime.inbox import Arrival
from agent.runtime.latency import MOST_OUTSTANDING, Latency
from tests.clock import FakeClock
from tests.unit.runtime.events import deny, far, pod
from tests.unit.runtime.rig import DONE, FAILED, GOES_ON, Rig

HERE = frozenset[Key]()


def latency_of(rig: Rig, change: str) -> Distribution:
    return rig.agent.figures().latency[change]


def count(found: Distribution) -> int:
    return sum(found.counts)


def enforcing(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.turn()


def test_what_is_listed_at_the_start_is_not_counted(rig: Rig) -> None:
    rig.start()
    rig.source.sink([pod(1), deny()])
    rig.source.synced()
    rig.until(lambda: rig.ready)
    rig.rest(1.0)
    assert not any(count(found) for found in rig.agent.figures().latency.values())


def test_it_begins_when_the_event_arrives_and_not_when_the_loop_takes_it(rig: Rig) -> None:
    enforcing(rig)
    rig.source.sink([pod(1), deny()])
    rig.clock.now += 3.0
    rig.turn()
    assert latency_of(rig, "policy").total == 3.0
    assert latency_of(rig, "local_pod").total == 3.0


def test_what_changes_nothing_here_is_not_counted(rig: Rig) -> None:
    enforcing(rig)
    rig.source.sink([pod(1), far(1)])
    rig.rest(1.0)
    assert not any(count(found) for found in rig.agent.figures().latency.values())


def test_a_write_that_fails_counts_until_it_has_succeeded(rig: Rig) -> None:
    enforcing(rig)
    rig.backend.applies, rig.backend.syncs = [FAILED], [FAILED, DONE]
    begun = rig.clock.now
    rig.source.sink([pod(1), deny()])
    rig.turn()
    assert count(latency_of(rig, "policy")) == 0
    rig.until(lambda: not rig.backend.syncs)
    assert count(latency_of(rig, "policy")) == 1
    assert 0.3 < latency_of(rig, "policy").total <= rig.clock.now - begun


def test_work_that_goes_on_counts_until_it_has_ended(rig: Rig) -> None:
    enforcing(rig)
    rig.backend.applies = [GOES_ON]
    rig.source.sink([pod(1), deny()])
    rig.turn()
    assert rig.backend.busy
    assert count(latency_of(rig, "policy")) == 0
    rig.clock.now += 2.0
    rig.backend.resumes = [DONE]
    rig.turn()
    assert latency_of(rig, "policy").total >= 2.0


def test_a_pod_that_goes_is_of_the_node_that_it_was_on(rig: Rig) -> None:
    enforcing(rig)
    rig.source.sink([pod(1), deny()])
    rig.turn()
    before = count(latency_of(rig, "local_pod"))
    rig.source.sink([Delete(Kind.POD, Key("default", "p1"))])
    rig.turn()
    assert count(latency_of(rig, "local_pod")) == before + 1
    assert count(latency_of(rig, "remote_pod")) == 0


def created(clock: FakeClock, name: str, ago: float = 0.0) -> Event:
    when = datetime.datetime.fromtimestamp(clock.time() - ago, datetime.UTC)
    return Upsert(
        Kind.POLICY,
        NetworkPolicy("default", name, ingress=(), created=when.strftime("%Y-%m-%dT%H:%M:%SZ")),
    )


def test_a_policys_creation_counts_once_and_its_changes_do_not(rig: Rig) -> None:
    enforcing(rig)
    rig.source.sink([pod(1)])
    rig.turn()
    rig.clock.now += 60.0
    first = created(rig.clock, "first")
    rig.clock.now += 2.0
    rig.source.sink([first])
    rig.turn()
    creation = rig.agent.figures().creation
    assert creation is not None
    assert count(creation) == 1
    assert 2.0 <= creation.total <= 3.0
    assert isinstance(first, Upsert)
    assert isinstance(first.object, NetworkPolicy)
    changed = NetworkPolicy("default", "first", egress=(), created=first.object.created)
    rig.source.sink([Upsert(Kind.POLICY, changed)])
    rig.turn()
    assert rig.agent.figures().creation == creation
    rig.source.sink([created(rig.clock, "older", ago=3600.0)])
    rig.turn()
    assert rig.agent.figures().creation == creation


def test_what_is_outstanding_is_bounded_and_nothing_is_lost() -> None:
    clock = FakeClock()
    latency = Latency("here", clock)
    latency.begin()
    delta = Delta(released={b"\n\0\0\1"})
    for number in range(3 * MOST_OUTSTANDING):
        latency.take([Arrival(clock.now + number, 1)])
        latency.step([far(1)], delta, HERE)
        assert len(latency._outstanding) <= MOST_OUTSTANDING
    latency.settle()
    assert sum(sum(seconds.read().counts) for seconds in latency.seconds.values()) == 3 * MOST_OUTSTANDING


def test_a_policy_that_selected_nothing_when_it_was_created_is_not_created_when_it_changes(rig: Rig) -> None:
    enforcing(rig)
    rig.clock.now += 60.0
    event = created(rig.clock, "early")
    rig.source.sink([event])
    rig.turn()
    rig.clock.now += 600.0
    assert isinstance(event, Upsert)
    assert isinstance(event.object, NetworkPolicy)
    changed = NetworkPolicy("default", "early", egress=(), created=event.object.created)
    rig.source.sink([pod(1), Upsert(Kind.POLICY, changed)])
    rig.turn()
    creation = rig.agent.figures().creation
    assert creation is not None
    assert count(creation) == 0


def test_a_policy_that_is_deleted_and_created_again_is_created_again(rig: Rig) -> None:
    enforcing(rig)
    rig.clock.now += 60.0
    rig.source.sink([pod(1), created(rig.clock, "twice")])
    rig.turn()
    rig.source.sink([Delete(Kind.POLICY, Key("default", "twice"))])
    rig.turn()
    rig.clock.now += 60.0
    rig.source.sink([created(rig.clock, "twice")])
    rig.turn()
    creation = rig.agent.figures().creation
    assert creation is not None
    assert count(creation) == 2
