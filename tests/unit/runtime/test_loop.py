"""The main loop: when it calls the backend, what it makes of failures, and that it never spins nor hangs."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from agent.dataplane.backend import Call, Report
from agent.fault import Fault
from agent.host.check import HostState
from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy, Pod, Rule
from agent.net import Direction, Family
from agent.observe.health import readyz
from agent.runtime import inbox as inbox_module
from agent.runtime import loop
from agent.runtime.inbox import Inbox
from agent.runtime.loop import chosen_families
from agent.settings import Families, resolve
from tests.unit.runtime.rig import DONE, FAILED, GOES_ON, SECONDS, TROUBLE, Links, Rig


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(loop, "check_host", lambda *_: HostState((), frozenset(Family), False, False))
    monkeypatch.setattr(loop, "LinkChanges", Links)
    monkeypatch.setattr(loop, "FIRST_RETRY", 0.02)
    monkeypatch.setattr(loop, "LONGEST_RETRY", 0.3)
    monkeypatch.setattr("gc.freeze", lambda: None)
    found = Rig(resolve({"node_name": "here"}, {}))
    yield found
    if found.thread.is_alive():
        found.stop()


@pytest.fixture
def fresh(rig: Rig) -> Iterator[Rig]:
    """A rig on a node whose kernel holds nothing of the agent's."""
    del rig
    found = Rig(resolve({"node_name": "here"}, {}), fresh=True)
    yield found
    if found.thread.is_alive():
        found.stop()


def pod(number: int) -> Event:
    return Upsert(
        Kind.POD, Pod("default", f"p{number}", str(number), {}, "here", (bytes((10, 0, 0, number)),))
    )


def far(number: int) -> Event:
    return Upsert(Kind.POD, Pod("default", f"f{number}", "", {}, "there", (bytes((10, 0, 1, number)),)))


def deny(name: str = "deny") -> Event:
    return Upsert(Kind.POLICY, NetworkPolicy("default", name, ingress=()))


def ready(rig: Rig) -> bool:
    return readyz(rig.agent.health()).ok


# The first sync


def test_nothing_is_read_or_written_before_every_kind_has_been_told(rig: Rig) -> None:
    rig.start()
    rig.source.sink([pod(1), deny(), Synced(Kind.POD), Synced(Kind.POLICY)])
    time.sleep(0.1)
    assert rig.backend.calls == []
    assert not ready(rig)
    rig.source.sink([Synced(Kind.NAMESPACE)])
    rig.until(lambda: ready(rig))
    assert [name for name, _ in rig.backend.calls][:2] == ["adopt", "sync"]


def test_pods_are_judged_by_their_links_when_the_rest_is_written(rig: Rig) -> None:
    rig.start()
    rig.source.sink([pod(1), deny()])
    rig.source.synced()
    rig.until(lambda: rig.backend.named("relink"))
    names = [name for name, _ in rig.backend.calls]
    assert names.index("sync") < names.index("relink")
    assert "expect" not in names
    before = len(rig.backend.named("relink"))
    rig.source.sink([deny("another")])
    rig.until(lambda: len(rig.backend.named("relink")) > before)
    assert rig.backend.named("relink")[-1] > rig.backend.named("apply")[-1]


def test_what_an_earlier_agent_judged_by_links_stays_judged_by_them(rig: Rig) -> None:
    rig.backend.isolated = {bytes((10, 0, 0, 1))}
    rig.start()
    rig.source.sink([pod(1), deny()])
    rig.source.synced()
    rig.until(lambda: rig.backend.named("sync"))
    assert [name for name, _ in rig.backend.calls][:3] == ["adopt", "expect", "sync"]


OWN_PODS: list[Event] = [pod(1), Synced(Kind.POD, here=True)]
POLICIES: list[Event] = [deny(), Synced(Kind.POLICY), Synced(Kind.NAMESPACE)]


@pytest.mark.parametrize("events", [[*OWN_PODS, *POLICIES], [*POLICIES, *OWN_PODS]])
def test_where_every_pod_is_open_this_nodes_are_isolated_before_the_others_are_known(
    fresh: Rig, events: list[Event]
) -> None:
    fresh.start()
    for event in events[:-1]:
        fresh.source.sink([event])
    time.sleep(0.05)
    assert fresh.backend.calls == []
    fresh.source.sink(events[-1:])
    fresh.until(lambda: fresh.backend.named("sync"))
    assert not ready(fresh)
    # Who comes to be known is let in at once.
    fresh.source.sink([Upsert(Kind.POLICY, NetworkPolicy("default", "deny", ingress=(Rule(),)))])
    fresh.until(lambda: fresh.backend.named("apply"))
    assert not ready(fresh)
    fresh.source.sink([Synced(Kind.POD)])
    fresh.until(lambda: ready(fresh))
    assert len(fresh.backend.named("sync")) == 1


def test_where_early_isolation_failed_it_is_tried_again_and_the_agent_is_not_ready_before(fresh: Rig) -> None:
    fresh.backend.syncs = [FAILED] * 3
    fresh.start()
    fresh.source.sink([*OWN_PODS, *POLICIES, Synced(Kind.POD)])
    fresh.until(lambda: fresh.backend.named("sync"))
    assert not ready(fresh)
    fresh.until(lambda: ready(fresh))
    assert len(fresh.backend.named("sync")) == 4


@pytest.mark.parametrize(
    ("isolated", "policies", "read"), [({bytes((10, 0, 0, 1))}, POLICIES, 1), (set(), POLICIES[1:], 0)]
)
def test_where_something_is_held_or_nothing_is_isolated_every_pod_has_to_be_known_first(
    fresh: Rig, isolated: set[bytes], policies: list[Event], read: int
) -> None:
    fresh.backend.isolated = isolated
    fresh.start()
    fresh.source.sink([*OWN_PODS, *policies])
    time.sleep(0.1)
    assert [name for name, _ in fresh.backend.calls] == ["adopt"] * read
    fresh.source.sink([Synced(Kind.POD)])
    fresh.until(lambda: ready(fresh))


def test_a_kernel_that_cannot_be_read_is_read_again_before_the_others_are_known(fresh: Rig) -> None:
    fresh.backend.adopting = [OSError("busy")] * 2
    fresh.start()
    fresh.source.sink([*OWN_PODS, *POLICIES])
    fresh.until(lambda: fresh.backend.named("adopt"))
    fresh.until(lambda: any("busy" in fault.what for fault in fresh.agent.health().faults))
    fresh.until(lambda: fresh.backend.named("sync"))
    assert len(fresh.backend.named("adopt")) == 3
    assert not ready(fresh)
    fresh.source.sink([Synced(Kind.POD)])
    fresh.until(lambda: ready(fresh))
    assert fresh.agent.health().faults == ()


def test_the_loop_rests_when_the_pods_to_isolate_have_gone_while_the_kernel_could_not_be_read(
    fresh: Rig,
) -> None:
    fresh.backend.adopting = [OSError("busy")] * 50
    fresh.start()
    fresh.source.sink([*OWN_PODS, *POLICIES])
    fresh.until(lambda: fresh.backend.named("adopt"))
    fresh.source.sink([Delete(Kind.POD, Key("default", "p1"))])
    time.sleep(0.5)
    assert fresh.turns_in(0.3) <= 3
    assert not fresh.backend.named("sync")


@pytest.mark.parametrize("late", [deny(), pod(1)], ids=["policy", "pod"])
def test_what_comes_while_the_others_are_read_is_isolated_too(fresh: Rig, late: Event) -> None:
    fresh.start()
    known = [Synced(Kind.POD, here=True), Synced(Kind.POLICY), Synced(Kind.NAMESPACE)]
    fresh.source.sink([*(event for event in (pod(1), deny()) if event != late), *known])
    time.sleep(0.05)
    assert fresh.backend.calls == []
    fresh.source.sink([late])
    fresh.until(lambda: fresh.backend.named("sync"))
    assert not ready(fresh)


def test_early_isolation_that_is_refused_waits_like_any_other_write(fresh: Rig) -> None:
    refused = Report(0.0, 0, True, (Fault("kube-router's firewall is here", "migrate"),), refused=True)
    fresh.backend.syncs = [refused] * 3
    fresh.start()
    fresh.source.sink([*OWN_PODS, *POLICIES])
    fresh.until(lambda: fresh.backend.named("sync"))
    fresh.source.sink([far(1)])
    fresh.source.sink([Synced(Kind.POD)])
    assert not ready(fresh)
    fresh.until(lambda: ready(fresh))
    assert len(fresh.backend.named("sync")) == 4
    assert fresh.backend.named("apply") == []


def test_what_an_earlier_run_holds_is_not_closed_to_peers_that_are_not_known_yet(rig: Rig) -> None:
    rig.start()
    rig.source.sink([*OWN_PODS, *POLICIES])
    time.sleep(0.1)
    assert rig.backend.calls == []


def test_a_name_that_no_pod_has_opens_nothing_that_was_closed_before(rig: Rig) -> None:
    rig.backend.isolated = {bytes((10, 0, 0, 1))}
    elsewhere = Upsert(Kind.POD, Pod("default", "p", "1", {}, "there", (bytes((10, 0, 0, 1)),)))
    rig.start()
    rig.source.sink([elsewhere])
    rig.source.synced()
    rig.until(lambda: len(rig.backend.named("adopt")) > 1)
    assert not rig.backend.named("sync")
    assert not ready(rig)
    (fault, *_) = rig.agent.health().faults
    assert "no pod names the node here" in fault.what
    assert "pods name: there" in fault.what
    assert "--node-name" in fault.remedy
    rig.source.sink([pod(2)])
    rig.until(lambda: ready(rig))
    assert not rig.agent.health().faults


def test_a_name_that_no_pod_has_is_warned_about_and_holds_up_nothing(rig: Rig) -> None:
    rig.start()
    rig.source.sink([Upsert(Kind.POD, Pod("default", "p", "1", {}, "there"))])
    rig.source.synced()
    rig.until(lambda: ready(rig))
    assert ["no pod names the node here" in f.what for f in rig.agent.health().faults] == [True]


def test_waiting_for_the_source_costs_nothing_however_long_it_takes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "HOST_CHECK", 0.05)
    rig.start()
    time.sleep(0.1)
    assert rig.turns_in(0.5) < 20


def test_a_kernel_that_cannot_be_read_is_tried_again_with_growing_pauses(rig: Rig) -> None:
    rig.backend.adopting = [OSError("no netlink")] * 4
    rig.start()
    rig.source.synced()
    rig.until(lambda: len(rig.backend.named("adopt")) == 2)
    assert not ready(rig)
    rig.until(lambda: ready(rig))
    adopted = rig.backend.named("adopt")
    assert len(adopted) == 5
    assert adopted[4] - adopted[3] > 2 * (adopted[1] - adopted[0])
    assert rig.turns < 40


def test_a_source_that_has_failed_to_sync_once_does_not_make_the_agent_ready(rig: Rig) -> None:
    rig.backend.syncs = [FAILED] * 3
    rig.synced()
    assert not ready(rig)
    rig.until(lambda: ready(rig))
    assert len(rig.backend.named("sync")) == 4


# Changes and failures


def test_changes_are_applied_as_they_come_and_those_that_change_nothing_are_not(rig: Rig) -> None:
    rig.synced()
    rig.source.sink([pod(1)])
    time.sleep(0.05)
    assert rig.backend.named("apply") == []
    rig.source.sink([deny()])
    rig.until(lambda: rig.backend.named("apply"))
    assert rig.backend.deltas[0].isolated[Direction.INGRESS] == {bytes((10, 0, 0, 1))}


def test_a_failed_write_is_made_good_by_a_sync_and_others_are_applied_meanwhile(rig: Rig) -> None:
    rig.backend.applies = [FAILED]
    rig.backend.syncs = [DONE, FAILED, FAILED]
    rig.synced()
    rig.until(lambda: ready(rig))
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("apply"))
    rig.source.sink([pod(2)])
    rig.until(lambda: len(rig.backend.named("apply")) == 2)
    rig.until(lambda: not rig.backend.syncs)
    assert not ready(rig)
    rig.until(lambda: ready(rig))
    assert len(rig.backend.named("sync")) == 4


def test_pauses_grow_to_the_longest_and_begin_anew_after_success(rig: Rig) -> None:
    rig.backend.syncs = [FAILED] * 8
    rig.synced()
    rig.until(lambda: ready(rig))
    times = rig.backend.named("sync")
    pauses = [b - a for a, b in itertools.pairwise(times)]
    # The first is longer than it would be by a collection of garbage.
    assert pauses[5] > 2 * pauses[1]
    assert max(pauses) < 1.0
    rig.backend.applies = [FAILED]
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: len(rig.backend.named("sync")) == 10)
    assert rig.backend.named("sync")[-1] - rig.backend.named("apply")[0] < max(pauses)


@pytest.mark.parametrize("call", ["syncs", "applies", "tidies"])
def test_whatever_the_backend_raises_ends_nothing(rig: Rig, call: str) -> None:
    getattr(rig.backend, call).append(RuntimeError("a bug"))
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("tidy") and len(rig.backend.named("sync")) >= 2)
    rig.until(lambda: ready(rig))
    assert rig.thread.is_alive()


def test_a_fault_that_has_passed_is_not_shown_for_ever(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    fight = Fault("fight", "stop it", blocking=False)
    rig.backend.syncs = [Report(0.0, 1, False, (fight,))]
    rig.synced()
    rig.until(lambda: fight in rig.agent.health().faults)
    rig.look_for_drift()
    rig.until(lambda: rig.backend.named("drift"))
    time.sleep(0.05)
    assert fight in rig.agent.health().faults
    rig.agent._synced_at = 0.0
    monkeypatch.setattr(loop, "FAULTS_CHECK", 0.0)
    rig.look_for_drift()
    rig.until(lambda: not rig.agent.health().faults)


def test_nothing_is_written_while_another_program_enforces(rig: Rig) -> None:
    stranger = Fault("kube-router is here", "stop it")
    rig.backend.syncs = [Report(0.0, 0, True, (stranger,), refused=True)] * 4
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: len(rig.backend.named("sync")) == 4)
    assert rig.backend.named("apply") == []
    assert rig.backend.named("tidy") == []
    assert not ready(rig)
    rig.until(lambda: ready(rig))
    rig.source.sink([pod(2)])
    rig.until(lambda: rig.backend.named("apply"))


# Tidying, drift, the host


def test_tidying_waits_for_quiet(rig: Rig) -> None:
    rig.synced()
    rig.source.sink([deny()])
    for number in range(1, 20):
        rig.source.sink([pod(number)])
        time.sleep(0.01)
    assert rig.backend.named("tidy") == [] or rig.backend.named("tidy")[0] > rig.backend.named("apply")[-1]
    rig.until(lambda: rig.backend.named("tidy"))
    assert rig.backend.named("tidy")[0] - rig.backend.named("apply")[-1] >= loop.TIDY_AFTER - 0.01


def test_tidying_waits_no_longer_than_it_may_under_load(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TIDY_AT_LATEST", 0.2)
    monkeypatch.setattr(loop, "TIDY_AFTER", 10.0)
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("apply"))
    for number in range(2, 100):
        rig.source.sink([pod(number)])
        time.sleep(0.01)
        if rig.backend.named("tidy"):
            break
    assert rig.backend.named("tidy")
    assert rig.backend.named("tidy")[0] - rig.backend.named("apply")[0] >= 0.19


def test_what_cannot_be_tidied_is_left_until_something_else_is_written(rig: Rig) -> None:
    rig.backend.stays_dirty = True
    left = Report(0.0, 1, False, (Fault("a chain is in use", "", blocking=False),))
    rig.backend.tidies = [left] * 100
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("tidy"))
    time.sleep(0.3)
    assert len(rig.backend.named("tidy")) <= 2
    assert ready(rig)
    before = len(rig.backend.named("tidy"))
    rig.source.sink([pod(2)])
    rig.until(lambda: len(rig.backend.named("tidy")) > before)


def test_tidying_that_was_interrupted_goes_on_when_what_came_is_done(rig: Rig) -> None:
    rig.backend.tidies = [Report(0.0, 1, unfinished=True)]
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: len(rig.backend.named("tidy")) == 2)
    time.sleep(0.2)
    assert len(rig.backend.named("tidy")) == 2


def test_drift_is_repaired_and_counted(rig: Rig) -> None:
    rig.backend.drifts = [["chain X is gone"]]
    rig.synced()
    rig.until(lambda: ready(rig))
    rig.look_for_drift()
    rig.until(lambda: len(rig.backend.named("sync")) == 2)
    assert rig.agent.status().kernel.drift.repairs == 1


def test_a_look_that_writes_overtake_says_nothing_but_not_for_ever(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "OVERTAKEN_PAUSE", 0.01)
    rig.backend.overtakes = [True] * (loop.OVERTAKEN + 1)
    rig.backend.drifts = [["chain X is gone"]]
    rig.synced()
    rig.until(lambda: ready(rig))
    rig.look_for_drift()
    rig.until(lambda: len(rig.backend.named("sync")) == 2)
    assert rig.backend.overtakes == []
    assert len(rig.backend.named("drift")) == 1


def test_drift_is_looked_for_while_a_retry_is_pending_and_what_stays_waits_for_that(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LONGEST_RETRY", 60.0)
    rig.agent._retry_pause = 60.0
    rig.backend.syncs = [FAILED] * 10
    rig.backend.drifts = [["a set is full"]] * 2 + [["a set is full", "a hook is missing"]] * 10
    rig.synced()
    rig.until(lambda: len(rig.backend.named("sync")) == 1)
    rig.look_for_drift()
    rig.until(lambda: len(rig.backend.named("sync")) == 2)
    rig.until(lambda: len(rig.backend.named("drift")) == 2)
    rig.look_for_drift()
    rig.until(lambda: len(rig.backend.named("sync")) == 3)
    rig.until(lambda: len(rig.backend.named("drift")) == 4)
    rig.look_for_drift()
    rig.until(lambda: len(rig.backend.named("drift")) == 5)
    time.sleep(0.05)
    assert len(rig.backend.named("sync")) == 3


def test_tidying_goes_on_while_a_fault_stays(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LONGEST_RETRY", 60.0)
    rig.agent._retry_pause = 60.0
    rig.backend.syncs = [FAILED]
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("tidy"))
    assert rig.agent._retry_at is not None
    time.sleep(0.1)
    assert rig.turns_in(0.5) < 10


def test_who_was_refused_stays_so_until_a_sync_has_seen_otherwise(rig: Rig) -> None:
    stranger = Report(0.0, 0, True, (Fault("kube-router is here", "stop it"),), refused=True)
    rig.backend.syncs = [stranger, RuntimeError("cannot read"), stranger]
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: len(rig.backend.named("sync")) == 3)
    assert rig.backend.named("apply") == []
    assert rig.backend.named("drift") == []
    rig.until(lambda: ready(rig))


def test_soon_after_the_first_sync_it_is_seen_what_an_earlier_run_may_still_have_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "WAIT_SECONDS", -1.9)
    rig.synced()
    rig.until(lambda: rig.backend.named("drift"))
    assert rig.backend.named("drift")[0] - rig.backend.named("sync")[0] < 2.0


def test_families_that_come_later_make_another_backend_but_no_early_sync(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    only4 = HostState((), frozenset({Family.V4}), False, False)
    monkeypatch.setattr(loop, "check_host", lambda *_: only4)
    monkeypatch.setattr(loop, "HOST_CHECK", 0.02)
    rig.start()
    rig.until(lambda: len(rig.made) == 2)
    assert rig.made == [(Family.V4, Family.V6), (Family.V4,)]
    assert rig.backend.calls == []
    rig.source.synced()
    rig.until(lambda: ready(rig))


def test_a_family_whose_chains_are_in_the_kernel_stays_enforced_when_the_host_loses_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    only4 = HostState((), frozenset({Family.V4}), False, False)
    monkeypatch.setattr(loop, "HOST_CHECK", 0.02)
    rig.synced()
    rig.until(lambda: ready(rig))
    monkeypatch.setattr(loop, "check_host", lambda *_: only4)
    rig.agent._host_at = 0.0
    rig.until(lambda: rig.agent._host is only4)
    time.sleep(0.1)
    assert rig.made == [(Family.V4, Family.V6)]
    assert chosen_families(Families.AUTO, only4) == (Family.V4,)
    assert chosen_families(Families.AUTO, only4, {Family.V6}) == (Family.V4, Family.V6)
    assert chosen_families(Families.IPV4, only4, {Family.V6}) == (Family.V4,)


# Other threads


def test_health_and_status_are_for_other_threads(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: ready(rig))
    found: list[object] = []

    def look() -> None:
        for _ in range(50):
            found.append(rig.agent.health())
            found.append(rig.agent.status())

    lookers = [threading.Thread(target=look) for _ in range(4)]
    for looker in lookers:
        looker.start()
    for number in range(1, 50):
        rig.source.sink([pod(number), deny(f"d{number}")])
    for looker in lookers:
        looker.join(SECONDS)
    assert len(found) == 400


def test_a_quiet_agent_turns_about_once_a_second(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: ready(rig))
    time.sleep(0.1)
    assert rig.turns_in(1.0) <= 4


def test_stopping_is_prompt_and_lets_go_of_everything(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: ready(rig))
    time.sleep(0.1)
    assert rig.stop() < 0.3
    assert rig.source.stopped
    assert rig.backend.closed


def test_who_asks_when_it_ends_is_told_at_once(rig: Rig) -> None:
    rig.synced()
    rig.stop()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        rig.agent.status()
    assert time.monotonic() - began < 1.0


def test_who_waits_for_an_answer_when_the_loop_ends_is_told() -> None:
    inbox = Inbox()
    told: list[bool] = []

    def ask() -> None:
        with contextlib.suppress(TimeoutError):
            inbox.ask(lambda: None)
            return
        told.append(True)

    asker = threading.Thread(target=ask)
    asker.start()
    while not inbox._calls:
        time.sleep(0.001)
    inbox.close()
    asker.join(SECONDS)
    assert told == [True]


def test_watching_interfaces_begins_again_after_an_error(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    class Failing(Links):
        def wait(self, seconds: float) -> bool:
            opened.append(1)
            if len(opened) < 3:
                raise OSError("no buffer space")
            return super().wait(seconds)

    monkeypatch.setattr(loop, "LinkChanges", Failing)
    monkeypatch.setattr(loop, "LINKS_RETRY", 0.01)
    assert "links" not in rig.agent.health().threads
    rig.start()
    rig.until(lambda: len(opened) > 3)
    assert rig.agent.health().threads["links"]


def test_a_signal_ends_the_wait_whatever_the_loop_holds() -> None:
    code = """
import os, signal, sys, threading, time
from agent.runtime.inbox import Inbox
inbox = Inbox()
signal.set_wakeup_fd(inbox.wakes, warn_on_full_buffer=False)
signal.signal(signal.SIGTERM, inbox.stop)
end = time.monotonic() + 60
sent = []
def put():
    while not inbox.stopped:
        inbox.put([])
threading.Thread(target=put, daemon=True).start()
def send():
    if sys.argv[1] == "idle":
        time.sleep(0.2)
    sent.append(time.monotonic())
    os.kill(os.getpid(), signal.SIGTERM)
threading.Timer(0.3, send).start()
while not inbox.stopped and time.monotonic() < end:
    inbox.take(30.0)
print(time.monotonic() - sent[0])
"""
    for kind in ("busy", "idle"):
        text = code if kind == "busy" else code.replace("inbox.put([])", "time.sleep(1)")
        done = subprocess.run(
            [sys.executable, "-c", text, kind], capture_output=True, text=True, timeout=60, check=True
        )
        assert float(done.stdout) < 0.2


def test_a_full_pipe_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "WAITING", 100_000)
    inbox = Inbox()
    for number in range(70_000):
        inbox.put([pod(number % 250)])
    inbox.stop()
    assert len(inbox.take(0.0).events) == 70_000
    began = time.monotonic()
    inbox.take(5.0)
    assert time.monotonic() - began < 1.0


def test_events_keep_their_order_and_none_is_lost_between_threads() -> None:
    inbox = Inbox()

    def put(start: int) -> None:
        for number in range(start, start + 100):
            inbox.put([pod(number % 250)])

    putters = [threading.Thread(target=put, args=(100 * n,)) for n in range(3)]
    for putter in putters:
        putter.start()
    found: list[Sequence[Event]] = []
    while sum(map(len, found)) < 300:
        found.append(inbox.take(SECONDS).events)
    assert sum(map(len, found)) == 300
    assert inbox.empty


# Work that goes on


def test_while_the_backend_works_on_changes_are_applied_and_nothing_else_is_begun(rig: Rig) -> None:
    rig.synced()
    reads, writes = os.pipe()
    rig.backend.descriptors = (reads,)
    rig.backend.going = GOES_ON._replace(standing=(TROUBLE,))
    rig.backend.applies = [GOES_ON, rig.backend.going]
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.goes_on)
    rig.source.sink([pod(2)])
    rig.until(lambda: TROUBLE in rig.agent.health().faults)
    rig.look_for_drift()
    syncs = len(rig.backend.named("sync"))
    time.sleep(0.1)
    assert rig.turns_in(0.3) <= 3
    assert len(rig.backend.named("sync")) == syncs
    assert rig.backend.named("drift") == []
    assert rig.backend.named("tidy") == []
    assert ready(rig) is False
    rig.backend.resumes = [DONE]
    os.write(writes, b"x")
    rig.until(lambda: not rig.backend.goes_on)
    rig.until(lambda: TROUBLE not in rig.agent.health().faults)
    rig.until(lambda: rig.backend.named("tidy"))
    for end in (reads, writes):
        os.close(end)


def test_a_sync_that_goes_on_makes_the_agent_ready_when_it_has_ended(rig: Rig) -> None:
    rig.backend.syncs = [GOES_ON]
    rig.start()
    rig.source.synced()
    rig.until(lambda: rig.backend.goes_on)
    time.sleep(0.05)
    assert not ready(rig)
    rig.backend.resumes = [DONE._replace(of=Call.SYNC)]
    rig.source.sink([far(1)])
    rig.until(lambda: ready(rig))


def test_work_that_goes_on_and_fails_is_tried_again(rig: Rig) -> None:
    rig.synced()
    rig.backend.applies = [GOES_ON]
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.goes_on)
    syncs = len(rig.backend.named("sync"))
    rig.backend.resumes = [FAILED]
    rig.source.sink([far(1)])
    rig.until(lambda: len(rig.backend.named("sync")) > syncs)
    rig.until(lambda: ready(rig))


def test_what_could_not_be_taken_away_while_work_goes_on_is_tried_again_when_that_has_ended(rig: Rig) -> None:
    rig.synced()
    rig.backend.applies = [GOES_ON._replace(pending=True, faults=(TROUBLE,))]
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.goes_on)
    syncs = len(rig.backend.named("sync"))
    rig.backend.resumes = [DONE]
    rig.source.sink([far(1)])
    rig.until(lambda: len(rig.backend.named("sync")) > syncs)
