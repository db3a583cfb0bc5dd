"""The first start: what has to be known before anything is written, and what is tried again."""

from __future__ import annotations

import pytest

from agent.dataplane.backend import Report
from agent.fault import Fault
from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy, Pod, Rule
from tests.unit.runtime.events import OWN_PODS, POLICIES, deny, far, pod
from tests.unit.runtime.rig import FAILED, Rig


def test_nothing_is_read_or_written_before_every_kind_has_been_told(rig: Rig) -> None:
    rig.start()
    rig.source.sink([pod(1), deny(), Synced(Kind.POD), Synced(Kind.POLICY)])
    rig.rest(60.0)
    assert rig.backend.calls == []
    assert not rig.ready
    rig.source.sink([Synced(Kind.NAMESPACE)])
    rig.until(lambda: rig.ready)
    assert rig.backend.names[:2] == ["adopt", "sync"]


def test_pods_are_judged_by_their_links_when_the_rest_is_written(rig: Rig) -> None:
    rig.start()
    rig.source.sink([pod(1), deny()])
    rig.source.synced()
    rig.until(lambda: rig.backend.named("relink"))
    assert rig.backend.names.index("sync") < rig.backend.names.index("relink")
    assert "expect" not in rig.backend.names
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
    assert rig.backend.names[:3] == ["adopt", "expect", "sync"]


@pytest.mark.parametrize("events", [[*OWN_PODS, *POLICIES], [*POLICIES, *OWN_PODS]])
def test_where_every_pod_is_open_this_nodes_are_isolated_before_the_others_are_known(
    fresh: Rig, events: list[Event]
) -> None:
    fresh.start()
    for event in events[:-1]:
        fresh.source.sink([event])
        fresh.turn()
    fresh.rest(60.0)
    assert fresh.backend.calls == []
    fresh.source.sink(events[-1:])
    fresh.turn()
    assert fresh.backend.names == ["adopt", "sync"]
    assert not fresh.ready
    # Who comes to be known is let in at once.
    fresh.source.sink([Upsert(Kind.POLICY, NetworkPolicy("default", "deny", ingress=(Rule(),)))])
    fresh.until(lambda: fresh.backend.named("apply"))
    assert not fresh.ready
    fresh.source.sink([Synced(Kind.POD)])
    fresh.until(lambda: fresh.ready)
    assert len(fresh.backend.named("sync")) == 1


def test_where_early_isolation_failed_it_is_tried_again_and_the_agent_is_not_ready_before(fresh: Rig) -> None:
    fresh.backend.syncs = [FAILED] * 3
    fresh.start()
    fresh.source.sink([*OWN_PODS, *POLICIES, Synced(Kind.POD)])
    fresh.until(lambda: fresh.backend.named("sync"))
    assert not fresh.ready
    fresh.until(lambda: fresh.ready)
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
    fresh.rest(60.0)
    assert fresh.backend.names == ["adopt"] * read
    fresh.source.sink([Synced(Kind.POD)])
    fresh.until(lambda: fresh.ready)


def test_a_kernel_that_cannot_be_read_is_read_again_before_the_others_are_known(fresh: Rig) -> None:
    fresh.backend.adopting = [OSError("busy")] * 2
    fresh.start()
    fresh.source.sink([*OWN_PODS, *POLICIES])
    fresh.until(lambda: fresh.backend.named("adopt"))
    assert any("busy" in fault.what for fault in fresh.agent.health().faults)
    fresh.until(lambda: fresh.backend.named("sync"))
    assert len(fresh.backend.named("adopt")) == 3
    assert not fresh.ready
    fresh.source.sink([Synced(Kind.POD)])
    fresh.until(lambda: fresh.ready)
    assert fresh.agent.health().faults == ()


def test_the_loop_rests_when_the_pods_to_isolate_have_gone_while_the_kernel_could_not_be_read(
    fresh: Rig,
) -> None:
    fresh.backend.adopting = [OSError("busy")] * 50
    fresh.start()
    fresh.source.sink([*OWN_PODS, *POLICIES])
    fresh.until(lambda: fresh.backend.named("adopt"))
    fresh.source.sink([Delete(Kind.POD, Key("default", "p1"))])
    fresh.rest(1.0)
    assert fresh.rest(10.0) <= 12
    assert not fresh.backend.named("sync")


@pytest.mark.parametrize("late", [deny(), pod(1)], ids=["policy", "pod"])
def test_what_comes_while_the_others_are_read_is_isolated_too(fresh: Rig, late: Event) -> None:
    fresh.start()
    known = [Synced(Kind.POD, here=True), Synced(Kind.POLICY), Synced(Kind.NAMESPACE)]
    fresh.source.sink([*(event for event in (pod(1), deny()) if event != late), *known])
    fresh.rest(60.0)
    assert fresh.backend.calls == []
    fresh.source.sink([late])
    fresh.until(lambda: fresh.backend.named("sync"))
    assert not fresh.ready


def test_early_isolation_that_is_refused_waits_like_any_other_write(fresh: Rig) -> None:
    refused = Report(0.0, 0, True, (Fault("kube-router's firewall is here", "migrate"),), refused=True)
    fresh.backend.syncs = [refused] * 3
    fresh.start()
    fresh.source.sink([*OWN_PODS, *POLICIES])
    fresh.until(lambda: fresh.backend.named("sync"))
    fresh.source.sink([far(1)])
    fresh.source.sink([Synced(Kind.POD)])
    fresh.turn()
    assert not fresh.ready
    fresh.until(lambda: fresh.ready)
    assert len(fresh.backend.named("sync")) == 4
    assert fresh.backend.named("apply") == []


def test_what_an_earlier_run_holds_is_not_closed_to_peers_that_are_not_known_yet(rig: Rig) -> None:
    rig.start()
    rig.source.sink([*OWN_PODS, *POLICIES])
    rig.rest(60.0)
    assert rig.backend.calls == []


def test_a_name_that_no_pod_has_opens_nothing_that_was_closed_before(rig: Rig) -> None:
    rig.backend.isolated = {bytes((10, 0, 0, 1))}
    elsewhere = Upsert(Kind.POD, Pod("default", "p", "1", {}, "there", (bytes((10, 0, 0, 1)),)))
    rig.start()
    rig.source.sink([elsewhere])
    rig.source.synced()
    rig.until(lambda: len(rig.backend.named("adopt")) > 1)
    assert not rig.backend.named("sync")
    assert not rig.ready
    (fault,) = rig.agent.health().faults
    assert fault.blocking
    assert "no pod names the node here" in fault.what
    assert "pods name: there" in fault.what
    assert "--node-name" in fault.remedy
    assert not rig.agent.node_is_named()
    rig.source.sink([pod(2)])
    rig.until(lambda: rig.ready)
    assert not rig.agent.health().faults
    assert rig.agent.node_is_named()


def test_a_name_that_no_pod_has_is_warned_about_and_holds_up_nothing(rig: Rig) -> None:
    rig.start()
    rig.source.sink([Upsert(Kind.POD, Pod("default", "p", "1", {}, "there"))])
    rig.source.synced()
    rig.until(lambda: rig.ready)
    assert ["no pod names the node here" in f.what for f in rig.agent.health().faults] == [True]


def test_a_pod_that_names_the_node_later_ends_the_warning(rig: Rig) -> None:
    rig.start()
    rig.source.sink([Upsert(Kind.POD, Pod("default", "p", "1", {}, "there"))])
    rig.source.synced()
    rig.until(lambda: rig.ready)
    rig.source.sink([pod(1)])
    rig.rest(11.0)
    assert rig.agent.health().faults == ()


def test_waiting_for_the_source_costs_nothing_however_long_it_takes(rig: Rig) -> None:
    rig.start()
    assert rig.rest(600.0) <= 700


def test_a_kernel_that_cannot_be_read_is_tried_again_with_growing_pauses(rig: Rig) -> None:
    rig.backend.adopting = [OSError("no netlink")] * 4
    rig.start()
    rig.source.synced()
    rig.until(lambda: len(rig.backend.named("adopt")) == 2)
    assert not rig.ready
    rig.until(lambda: rig.ready)
    adopted = rig.backend.named("adopt")
    assert len(adopted) == 5
    assert adopted[4] - adopted[3] > 2 * (adopted[1] - adopted[0])
    assert rig.turns < 40


def test_a_source_that_has_failed_to_sync_once_does_not_make_the_agent_ready(rig: Rig) -> None:
    rig.backend.syncs = [FAILED] * 3
    rig.synced()
    assert not rig.ready
    assert not rig.agent.health().applied
    rig.until(lambda: rig.ready)
    assert len(rig.backend.named("sync")) == 4


def test_soon_after_the_first_sync_it_is_seen_what_an_earlier_run_may_still_have_written(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.backend.named("audit"))
    # A command waits five seconds for the lock of iptables.
    assert 5.0 < rig.backend.named("audit")[0] - rig.backend.named("sync")[0] < 10.0
