"""Addresses that are closed beside the loop: what it finds to differ meanwhile was changed by nobody else."""

from __future__ import annotations

from agent.dataplane.backend import SetsFound
from agent.dataplane.differences import Difference, What
from agent.runtime.drift import OVERTAKEN_PAUSE
from agent.runtime.withdrawing import Withdrawing
from tests.unit.runtime.events import pod as another
from tests.unit.runtime.rig import Rig

V4 = bytes((10, 1, 0, 2))
SMALLER = Difference(What.SET_SIZE, name="KUBE-KNOWN-4")


def test_the_kernel_is_ahead_of_the_program_until_the_loop_has_taken_the_event(rig: Rig) -> None:
    rig.synced()
    withdrawing = Withdrawing(rig.agent._calls, rig.agent.inbox)
    rig.agent.drift.ahead = lambda: withdrawing.ahead
    rig.source.sink([another(1)])
    withdrawing.withdraw([V4])
    ((gone, followed),) = rig.backend.withdrawn
    assert gone == {V4}
    assert [followed(), withdrawing.ahead] == [False, True]
    rig.turn()
    assert [followed(), withdrawing.ahead] == [True, False]


def test_nothing_is_put_back_while_the_kernel_is_ahead_of_the_program(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    ahead = [True, False]
    rig.agent.drift.ahead = lambda: ahead.pop(0)
    rig.backend.drifts = [[SMALLER], [SMALLER]]
    syncs = len(rig.backend.named("sync"))
    rig.look_for_drift()
    rig.until(lambda: ahead == [False])
    assert (len(rig.backend.named("sync")), rig.agent.drift.repairs) == (syncs, 0)
    before = rig.clock.now
    rig.until(lambda: rig.agent.drift.repairs == 1)
    assert rig.clock.now - before < 2 * OVERTAKEN_PAUSE + 1


def test_what_a_look_at_sets_finds_while_the_kernel_is_ahead_is_looked_at_again(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.agent.drift.ahead = lambda: True
    rig.rest(25.0)
    syncs = len(rig.backend.named("sync"))
    rig.backend.set_drifts = [SetsFound([SMALLER], unfinished=False)]
    rig.rest(15.0)
    assert (len(rig.backend.named("sync")), rig.agent.drift.repairs) == (syncs, 0)
    rig.agent.drift.ahead = lambda: False
    rig.rest(15.0)
    assert rig.agent.drift.repairs == 1
