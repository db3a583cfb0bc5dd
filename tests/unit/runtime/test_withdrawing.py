"""Addresses that are closed beside the loop: what it finds to differ meanwhile was changed by nobody else."""

from __future__ import annotations

from agent.dataplane.backend import SetsFound
from agent.dataplane.differences import Difference, What
from agent.kube.events import Upsert
from agent.kube.model import Kind, Namespace, Pod
from agent.runtime.backlog import NEAR
from agent.runtime.drift import OVERTAKEN_PAUSE
from tests.unit.runtime.events import pod as another
from tests.unit.runtime.rig import Rig

V4 = bytes((10, 1, 0, 2))
SMALLER = Difference(What.SET_SIZE, name="KUBE-KNOWN-4")


def test_the_kernel_is_ahead_of_the_program_until_the_loop_has_made_the_event(rig: Rig) -> None:
    """It is not enough that it was taken, and waits for its turn."""
    rig.synced()
    rig.until(lambda: rig.ready)
    withdrawing = rig.agent._reconcile.withdrawing
    event = Upsert(Kind.POD, Pod("a", "gone", "u", node="here"))
    withdrawing.withdraw(event, [V4])
    ((gone, followed),) = rig.backend.withdrawn
    assert gone == {V4}
    rig.source.sink([*(Upsert(Kind.NAMESPACE, Namespace(f"n{number}")) for number in range(NEAR)), event])
    seen: list[tuple[bool, bool]] = []
    rig.agent._reconcile.stepped = lambda _: seen.append((followed(V4), withdrawing.ahead))
    assert (followed(V4), withdrawing.ahead) == (False, True)
    rig.turn()
    assert seen == [(False, True), (True, False)]


def test_an_address_that_another_pod_has_had_since_is_followed(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    withdrawing = rig.agent._reconcile.withdrawing
    owner = Upsert(Kind.POD, Pod("a", "owner", "u", node="here", addresses=(V4,)))
    for key, follows in (("owner", False), ("gone", True)):
        withdrawing.withdraw(Upsert(Kind.POD, Pod("a", key, "v", node="here")), [V4])
        rig.source.sink([owner])
        rig.turn()
        followed = rig.backend.withdrawn[-1][1]
        assert followed(V4) is follows
        withdrawing._unmade.clear()


def test_a_step_ends_with_the_event_by_which_an_address_was_withdrawn(rig: Rig) -> None:
    """So that a pod which is given the address again gets it: in one step nothing would have changed."""
    rig.synced()
    rig.until(lambda: rig.ready)
    event = Upsert(Kind.POD, Pod("a", "b", "u", node="here"))
    rig.agent._reconcile.withdrawing.withdraw(event, [V4])
    steps: list[int] = []
    rig.agent._reconcile.stepped = lambda events: steps.append(len(events))
    rig.source.sink([another(1), event, another(2), another(3)])
    rig.turn()
    assert steps == [2, 2]


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
