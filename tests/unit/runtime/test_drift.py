"""What others change in the kernel: found, repaired and counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.dataplane.backend import SetsFound
from agent.dataplane.differences import Difference, What
from agent.net import Family
from agent.runtime.drift import OVERTAKEN, PROGRAMS
from tests.unit.runtime.rig import DONE, FAILED, TROUBLE, NoThread, Rig

GONE = Difference(What.CHAIN_GONE, Family.V4, "X")
FULL = Difference(What.SET_MEMBERS, name="X", detail="lacks 1 member")


def test_drift_is_repaired_and_counted(rig: Rig) -> None:
    rig.backend.drifts = [[GONE]]
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.look_for_drift()
    rig.until(lambda: len(rig.backend.named("sync")) == 2)
    assert rig.status().kernel.drift.repairs == 1


def test_a_look_that_writes_overtake_says_nothing_but_not_for_ever(rig: Rig) -> None:
    rig.backend.overtakes = [True] * (OVERTAKEN + 1)
    rig.backend.drifts = [[GONE]]
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.look_for_drift()
    rig.until(lambda: len(rig.backend.named("sync")) == 2)
    assert rig.backend.overtakes == []
    assert len(rig.backend.named("audit")) == 1


def test_drift_is_looked_for_while_a_retry_is_pending_and_what_stays_waits_for_that(rig: Rig) -> None:
    rig.backend.syncs = [FAILED] * 20
    rig.synced()
    # By now the pauses are the longest.
    rig.until(lambda: len(rig.backend.named("sync")) == 10)
    rig.rest(1.0)
    looked = len(rig.backend.named("audit"))
    rig.backend.drifts = [[FULL]] * 2 + [[FULL, GONE]] * 10
    rig.look_for_drift()
    rig.rest(1.0)
    assert len(rig.backend.named("sync")) == 11
    assert len(rig.backend.named("audit")) == looked + 2
    rig.look_for_drift()
    rig.rest(1.0)
    assert len(rig.backend.named("sync")) == 12
    assert len(rig.backend.named("audit")) == looked + 4
    rig.look_for_drift()
    rig.rest(1.0)
    assert len(rig.backend.named("audit")) == looked + 5
    assert len(rig.backend.named("sync")) == 12


def test_whether_somebody_else_wrote_is_asked_each_second_and_looked_at_then(rig: Rig) -> None:
    rig.synced()
    rig.rest(6.0)
    asked, looked = rig.backend.asked, len(rig.backend.named("audit"))
    rig.rest(9.5)
    assert 9 <= rig.backend.asked - asked <= 10
    assert len(rig.backend.named("audit")) == looked + 1
    rig.backend.disturbances = [True]
    rig.rest(1.0)
    assert len(rig.backend.named("audit")) == looked + 2


@pytest.mark.guarantee("6.4")
def test_a_write_that_the_kernel_tells_of_is_looked_at_at_once_and_its_author_told(rig: Rig) -> None:
    rig.synced()
    rig.rest(6.0)
    looked = len(rig.backend.named("audit"))
    rig.backend.authors.told = True
    rig.backend.authors.names = ("firewalld (pid 812)", "iptables (pid 9) of dockerd (pid 8)")
    rig.backend.disturbances = [True]
    rig.backend.drifts = [[GONE]]
    rig.turn()
    rig.turn()
    assert len(rig.backend.named("audit")) == looked + 1
    repair = rig.status().kernel.drift.last_repair
    assert repair is not None
    assert repair.by == "firewalld (pid 812), iptables (pid 9) of dockerd (pid 8)"
    assert repair.differences == (str(GONE),)
    assert rig.agent.figures().drift_authors == {"firewalld": 1, "iptables": 1}


def test_writes_of_the_agent_itself_bring_about_no_look(rig: Rig) -> None:
    rig.synced()
    rig.rest(6.0)
    looked = len(rig.backend.named("audit"))
    rig.backend.authors.told = True
    rig.turn()
    rig.turn()
    assert len(rig.backend.named("audit")) == looked
    assert not rig.backend.authors.told


def test_writes_that_follow_each_other_are_looked_at_twice_a_second_at_most(make: Callable[..., Rig]) -> None:
    rig = make(drift_interval="600")
    # A descriptor that is never ready.
    rig.backend.authors.descriptors = (rig.agent.inbox.wakes,)
    rig.synced()
    rig.rest(10.0)
    looked = len(rig.backend.named("audit"))
    began = rig.clock.monotonic()
    while rig.clock.monotonic() < began + 10.0:
        rig.backend.authors.told = True
        rig.backend.disturbances = [True]
        rig.turn()
    assert 15 <= len(rig.backend.named("audit")) - looked <= 21


def test_who_wrote_rules_is_not_blamed_for_sets(rig: Rig) -> None:
    rig.synced()
    rig.backend.authors.names = ("nft (pid 5)",)
    rig.backend.drifts = [[FULL]]
    rig.look_for_drift()
    rig.rest(1.0)
    repair = rig.status().kernel.drift.last_repair
    assert repair is not None
    assert repair.by == ""
    assert rig.agent.figures().drift_authors == {}


def test_programs_beyond_a_number_are_counted_together(rig: Rig) -> None:
    rig.synced()
    for number in range(PROGRAMS + 5):
        rig.backend.authors.names = (f"program-{number} (pid 5)",)
        rig.backend.drifts = [[GONE]]
        rig.look_for_drift()
        rig.rest(1.0)
    counted = rig.agent.figures().drift_authors
    assert len(counted) == PROGRAMS + 1
    assert counted["other"] == 5


def test_what_a_sync_for_another_reason_has_put_back_is_told(rig: Rig) -> None:
    rig.synced()
    rig.rest(6.0)
    rig.backend.authors.names = ("iptables (pid 5)",)
    rig.backend.syncs = [DONE._replace(found=(GONE,))]
    rig.agent._calls.failed(TROUBLE)
    rig.until(lambda: rig.status().kernel.drift.repairs == 1)
    repair = rig.status().kernel.drift.last_repair
    assert repair is not None
    assert (repair.differences, repair.by) == ((str(GONE),), "iptables (pid 5)")


def test_what_a_look_has_told_is_not_told_again_by_the_sync_that_puts_it_back(rig: Rig) -> None:
    rig.synced()
    rig.rest(6.0)
    rig.backend.drifts, rig.backend.syncs = [[GONE]], [DONE._replace(found=(GONE,))]
    rig.look_for_drift()
    rig.rest(1.0)
    assert rig.status().kernel.drift.repairs == 1
    assert rig.agent.figures().drift == {"chain_gone": 1}


def test_what_cannot_be_read_is_tried_again_and_not_told_as_changed(rig: Rig) -> None:
    rig.synced()
    rig.rest(6.0)
    synced = len(rig.backend.named("sync"))
    rig.backend.drifts = [[Difference(What.RULES_UNREAD, Family.V4, detail="no answer")]]
    rig.look_for_drift()
    rig.until(lambda: len(rig.backend.named("sync")) == synced + 1)
    assert rig.status().kernel.drift.repairs == 0
    assert rig.agent.figures().drift == {}


def test_where_the_system_has_no_more_threads_it_is_looked_here(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.synced()
    rig.rest(6.0)

    def start_thread(_: str, __: Callable[[], None]) -> NoThread:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(rig.agent.drift, "_start_thread", start_thread)
    rig.backend.drifts = [[GONE]]
    rig.look_for_drift()
    rig.until(lambda: rig.status().kernel.drift.repairs == 1)


def test_looks_take_a_tenth_of_the_time_at_most(make: Callable[..., Rig]) -> None:
    rig = make(drift_interval="600")
    rig.synced()
    rig.rest(10.0)
    looked = len(rig.backend.named("audit"))
    rig.backend.reads_for = 2.0
    rig.backend.disturbances = [True] * 100
    rig.rest(100.0)
    assert 4 <= len(rig.backend.named("audit")) - looked <= 6


def test_sets_are_looked_at_each_interval_and_soon_again_while_that_has_not_come_to_its_end(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.rest(25.0)
    looked = rig.backend.looked_at_sets
    assert looked == 2
    rig.backend.set_drifts = [SetsFound([], unfinished=True)] * 3
    rig.rest(10.0)
    assert rig.backend.looked_at_sets == looked + 4


@pytest.mark.guarantee("6.4")
def test_what_differs_in_sets_is_told_and_put_back(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.backend.set_drifts = [SetsFound([FULL], unfinished=False)]
    rig.rest(15.0)
    rig.until(lambda: len(rig.backend.named("sync")) == 2)
    assert rig.status().kernel.drift.repairs == 1
    assert rig.agent.drift.found == {What.SET_MEMBERS: 1}
