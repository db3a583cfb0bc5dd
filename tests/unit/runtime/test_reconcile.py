"""Changes and failures: when the backend is called, and what is made of what it reports."""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
from collections.abc import Callable

import pytest

from agent.dataplane.backend import Call, Report
from agent.fault import Fault
from agent.kube.events import Event, Upsert
from agent.kube.model import Kind, NetworkPolicy, Operator, Peer, Pod, Requirement, Rule, Selector
from agent.net import Direction
from agent.policy.lower.lowered import Delta, LoweredProgram
from agent.runtime import inbox
from agent.runtime.backlog import FAR
from agent.runtime.calls import LONGEST_BUSY, LONGEST_RETRY
from tests.patience import PATIENCE
from tests.unit.runtime.events import deny, far, pod
from tests.unit.runtime.rig import DONE, FAILED, GOES_ON, TROUBLE, Rig


def test_changes_are_applied_as_they_come_and_those_that_change_nothing_are_not(rig: Rig) -> None:
    rig.synced()
    rig.source.sink([pod(1)])
    rig.rest(1.0)
    assert rig.backend.named("apply") == []
    rig.source.sink([deny()])
    rig.turn()
    assert rig.backend.names[-1] == "apply"
    assert rig.backend.deltas[0].isolated[Direction.INGRESS] == {bytes((10, 0, 0, 1))}


def test_a_failed_write_is_made_good_by_a_sync_and_others_are_applied_meanwhile(rig: Rig) -> None:
    rig.backend.applies = [FAILED]
    rig.backend.syncs = [DONE, FAILED, FAILED]
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("apply"))
    rig.source.sink([pod(2)])
    rig.until(lambda: len(rig.backend.named("apply")) == 2)
    rig.until(lambda: not rig.backend.syncs)
    assert not rig.ready
    rig.until(lambda: rig.ready)
    assert len(rig.backend.named("sync")) == 4


def test_pauses_grow_to_the_longest_and_begin_anew_after_success(rig: Rig) -> None:
    rig.backend.syncs = [FAILED] * 12
    rig.synced()
    rig.until(lambda: rig.ready)
    times = rig.backend.named("sync")
    pauses = [b - a for a, b in itertools.pairwise(times)]
    assert len(pauses) == 12
    assert pauses[5] > 2 * pauses[1]
    assert LONGEST_RETRY * 0.8 <= pauses[-1] <= max(pauses) < LONGEST_RETRY * 1.25
    rig.backend.applies = [FAILED]
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: len(rig.backend.named("sync")) == 14)
    assert rig.backend.named("sync")[-1] - rig.backend.named("apply")[0] < 0.5


@pytest.mark.parametrize("call", ["syncs", "applies", "tidies"])
def test_whatever_the_backend_raises_ends_nothing(rig: Rig, call: str) -> None:
    getattr(rig.backend, call).append(RuntimeError("a bug"))
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("tidy") and len(rig.backend.named("sync")) >= 2)
    rig.until(lambda: rig.ready)


def test_a_fault_that_has_passed_is_not_shown_for_ever(rig: Rig) -> None:
    fight = Fault("fight", "stop it", blocking=False)
    rig.backend.syncs = [Report(0.0, 1, False, (fight,))]
    rig.synced()
    assert fight in rig.agent.health().faults
    rig.look_for_drift()
    rig.until(lambda: rig.backend.named("audit"))
    rig.rest(50.0)
    assert fight in rig.agent.health().faults
    rig.rest(11.0)
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
    assert not rig.ready
    rig.until(lambda: rig.ready)
    rig.source.sink([pod(2)])
    rig.until(lambda: rig.backend.named("apply"))


def test_who_was_refused_stays_so_until_a_sync_has_seen_otherwise(rig: Rig) -> None:
    stranger = Report(0.0, 0, True, (Fault("kube-router is here", "stop it"),), refused=True)
    rig.backend.syncs = [stranger, RuntimeError("cannot read"), stranger]
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: len(rig.backend.named("sync")) == 2)
    rig.source.sink([pod(2)])
    rig.until(lambda: len(rig.backend.named("sync")) == 3)
    assert rig.backend.named("apply") == []
    assert rig.backend.named("audit") == []
    rig.until(lambda: rig.ready)


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
    assert rig.rest(10.0) <= 11
    assert len(rig.backend.named("sync")) == syncs
    assert rig.backend.named("audit") == []
    assert rig.backend.named("tidy") == []
    assert rig.ready is False
    rig.backend.resumes = [DONE]
    now = rig.clock.now
    os.write(writes, b"x")
    rig.turn()
    assert not rig.backend.goes_on
    assert rig.clock.now == now
    assert TROUBLE not in rig.agent.health().faults
    rig.until(lambda: rig.backend.named("tidy"))
    for end in (reads, writes):
        os.close(end)


def test_work_that_goes_on_is_looked_at_when_the_backend_says(rig: Rig) -> None:
    rig.synced()
    rig.backend.applies = [GOES_ON]
    rig.backend.seconds = 0.3
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.goes_on)
    assert 3 <= rig.rest(1.0) <= 4


def test_a_sync_that_goes_on_makes_the_agent_ready_when_it_has_ended(rig: Rig) -> None:
    rig.backend.syncs = [GOES_ON]
    rig.start()
    rig.source.synced()
    rig.until(lambda: rig.backend.goes_on)
    rig.rest(5.0)
    assert not rig.ready
    rig.backend.resumes = [DONE._replace(of=Call.SYNC)]
    rig.source.sink([far(1)])
    rig.turn()
    assert rig.ready


def test_work_that_goes_on_and_fails_is_tried_again(rig: Rig) -> None:
    rig.synced()
    rig.backend.applies = [GOES_ON]
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.goes_on)
    syncs = len(rig.backend.named("sync"))
    rig.backend.resumes = [FAILED]
    rig.source.sink([far(1)])
    rig.until(lambda: len(rig.backend.named("sync")) > syncs)
    rig.until(lambda: rig.ready)


def test_what_could_not_be_taken_away_while_work_goes_on_is_tried_again_when_that_has_ended(rig: Rig) -> None:
    rig.synced()
    rig.backend.applies = [GOES_ON._replace(pending=True, faults=(TROUBLE,))]
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.goes_on)
    syncs = len(rig.backend.named("sync"))
    rig.rest(5.0)
    assert len(rig.backend.named("sync")) == syncs
    rig.backend.resumes = [DONE]
    rig.source.sink([far(1)])
    rig.until(lambda: len(rig.backend.named("sync")) > syncs)


def test_what_was_put_off_is_begun_as_soon_as_that_has_ended_which_it_waited_for(rig: Rig) -> None:
    rig.synced()
    rig.backend.applies = [GOES_ON]
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.goes_on)
    # The second report is of what was put off.
    rig.backend.resumes = [DONE._replace(writes=2), DONE._replace(writes=3)]
    before = len(rig.backend.named("resume"))
    rig.backend.put_off = 1
    rig.source.sink([far(1)])
    rig.turn()
    assert len(rig.backend.named("resume")) == before + 2
    assert not rig.backend.goes_on


@pytest.mark.parametrize(("first", "seconds"), [(FAILED, 2.0), (DONE, LONGEST_BUSY + 2.0)])
def test_changes_that_are_put_off_without_end_do_not_hold_up_what_failed_nor_a_look_at_everything(
    rig: Rig, first: Report, seconds: float
) -> None:
    rig.synced()
    rig.backend.applies = [first, GOES_ON]
    rig.source.sink([deny("failed")])
    rig.source.sink([pod(1)])
    rig.turn()
    rig.source.sink([pod(2)])
    rig.turn()
    syncs, until = len(rig.backend.named("sync")), rig.clock.now + seconds
    while rig.clock.now < until:
        # Each command takes longer than events wait for it, and another pod starts meanwhile.
        rig.clock.now += 0.2
        rig.backend.goes_on = True
        rig.backend.put_off, rig.backend.resumes = 1, [DONE, GOES_ON]
        rig.turn()
    assert len(rig.backend.named("sync")) > syncs


class _TenantAndVictim:
    """A victim's policy whose peer is on another node, and a tenant's policies, all of a pod of this node."""

    WEB, PEER = Selector((Requirement("app", Operator.IN, ("web",)),)), bytes((10, 0, 1, 1))

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        rig.synced()
        guard = NetworkPolicy("victim", "guard", ingress=(Rule(peers=(Peer(self.WEB),)),))
        here = Pod("victim", "here", "", {}, "here", (bytes((10, 0, 0, 9)),))
        rig.source.sink([pod(1), Upsert(Kind.POD, here), Upsert(Kind.POLICY, guard), self.peer("web")])
        rig.rest(1.0)
        rig.backend.deltas.clear()

    def peer(self, app: str) -> Event:
        return Upsert(Kind.POD, Pod("victim", "peer", "", {"app": app}, "there", (self.PEER,)))

    def revoked(self) -> list[bool]:
        """Return of each delta whether it revokes."""
        deltas = self.rig.backend.deltas
        return [any(self.PEER in each.removed for each in delta.members.values()) for delta in deltas]


def test_a_revocation_is_written_before_policies_that_came_before_it(rig: Rig) -> None:
    stage = _TenantAndVictim(rig)
    rig.source.sink([*(deny(f"p{number}") for number in range(500)), stage.peer("nobody")])
    rig.turn()
    assert stage.revoked()[0]


def test_one_that_comes_while_policies_are_compiled_waits_for_no_more_than_one_step(rig: Rig) -> None:
    stage = _TenantAndVictim(rig)
    apply = rig.backend.apply
    come = [[stage.peer("nobody")], [stage.peer("web")], [stage.peer("nobody")]]

    def noting(
        program: LoweredProgram, delta: Delta, interrupted: Callable[[], bool] = lambda: False
    ) -> Report:
        report = apply(program, delta, interrupted)
        if come and not any(stage.revoked()[-1:]):
            rig.source.sink(come.pop(0))
        return report

    rig.backend.apply = noting  # type: ignore[method-assign]
    rig.source.sink([deny(f"p{number}") for number in range(500)])
    rig.until(lambda: not come and sum(stage.revoked()) == 2)
    assert stage.revoked().index(True) == 1
    rig.until(lambda: len(rig.agent.views.engine.lowered.policies) == 501)


def test_compiling_has_its_turn_though_something_comes_all_the_time(rig: Rig) -> None:
    stage = _TenantAndVictim(rig)
    engine = rig.agent.views.engine
    rig.source.sink([*(deny(f"p{number}") for number in range(5000))])
    for number in range(1000):
        rig.source.sink([stage.peer("nobody" if number % 2 else "web"), deny(f"q{number % 7}")])
        rig.turn()
        if len(engine.lowered.policies) > 400:
            return
    raise AssertionError(f"{len(engine.lowered.policies)} policies were compiled")


def test_who_waits_for_room_waits_for_no_more_than_one_step(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant may fill the inbox again and again: the victim's event is not in it yet."""
    stage = _TenantAndVictim(rig)
    monkeypatch.setattr(inbox, "WAITING", 3 * FAR)
    rig.source.sink([far(number % 200) for number in range(4 * FAR)])

    def reader() -> None:
        rig.agent.inbox.room()
        rig.source.sink([stage.peer("nobody")])

    reading = threading.Thread(target=reader)
    reading.start()
    while not rig.agent.inbox.crowded:
        time.sleep(0.001)
    apply, waiting = rig.backend.apply, list[int]()

    def noting(
        program: LoweredProgram, delta: Delta, interrupted: Callable[[], bool] = lambda: False
    ) -> Report:
        waiting.append(len(rig.agent._reconcile._backlog))
        return apply(program, delta, interrupted)

    rig.backend.apply = noting  # type: ignore[method-assign]
    while not any(stage.revoked()):
        rig.turn()
        if rig.agent.inbox.unmade < inbox.WAITING:
            reading.join(PATIENCE)
    assert waiting[-1] >= FAR


# A command that was begun just now


def test_nothing_waits_for_a_command_when_something_has_come(rig: Rig) -> None:
    assert rig.backend.heeded == rig.agent.inbox.news
    rig.synced()
    poll = select.poll()
    for descriptor in rig.backend.heeded:
        poll.register(descriptor, select.POLLIN)
    rig.source.sink([pod(1)])
    assert poll.poll(0)
    rig.turn()
    assert not poll.poll(0)


def test_while_a_command_runs_peers_come_and_go_and_what_changes_rules_waits_for_it(rig: Rig) -> None:
    stage = _TenantAndVictim(rig)
    rig.backend.applies = [GOES_ON]
    rig.backend.soon = rig.clock.now + 0.1
    rig.source.sink([deny("first")])
    rig.turn()
    rig.source.sink([deny("second"), stage.peer("nobody")])
    rig.turn()
    assert stage.revoked() == [False, True]
    assert rig.rest(0.05) <= 2
    assert len(rig.backend.deltas) == 2
    rig.backend.resumes = [DONE]
    rig.backend.soon = 0.0
    rig.until(lambda: len(rig.backend.deltas) == 3)
    assert {policy.policy.name for policy in rig.backend.deltas[-1].policies} == {"second"}


def test_what_changes_rules_waits_for_a_command_no_longer_than_it_may_end_by_itself(rig: Rig) -> None:
    rig.synced()
    rig.backend.applies = [GOES_ON]
    rig.backend.soon = rig.clock.now + 0.1
    rig.source.sink([pod(1), deny("first")])
    rig.turn()
    rig.source.sink([deny("second")])
    began = rig.clock.now
    rig.until(lambda: len(rig.backend.deltas) == 2)
    assert rig.backend.goes_on
    assert 0.09 <= rig.clock.now - began <= 0.11
