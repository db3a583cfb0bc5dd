"""Tidying up: when it is quiet, and after a second at the latest."""

from __future__ import annotations

from typing import Any

from agent.dataplane.backend import Report
from agent.fault import Fault
from agent.runtime.calls import QUIET
from agent.runtime.tidy import AT_LATEST
from tests.unit.runtime.events import deny, pod
from tests.unit.runtime.rig import FAILED, Rig


def test_tidying_waits_for_quiet(rig: Rig) -> None:
    rig.synced()
    rig.source.sink([deny()])
    for number in range(1, 20):
        rig.source.sink([pod(number)])
        rig.rest(QUIET / 2)
    assert rig.backend.named("tidy") == []
    rig.until(lambda: rig.backend.named("tidy"))
    assert rig.backend.named("tidy")[0] - rig.backend.named("apply")[-1] >= QUIET * 0.99


def test_tidying_waits_no_longer_than_it_may_under_load(rig: Rig) -> None:
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("apply"))
    for number in range(2, 100):
        rig.source.sink([pod(number)])
        rig.rest(QUIET / 2)
        if rig.backend.named("tidy"):
            break
    assert (
        AT_LATEST * 0.99 <= rig.backend.named("tidy")[0] - rig.backend.named("apply")[0] <= AT_LATEST + QUIET
    )


def test_what_cannot_be_tidied_is_left_until_something_else_is_written(rig: Rig) -> None:
    rig.backend.stays_dirty = True
    left = Report(0.0, 1, False, (Fault("a chain is in use", "", blocking=False),))
    rig.backend.tidies = [left] * 100
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("tidy"))
    rig.rest(5.0)
    assert len(rig.backend.named("tidy")) <= 2
    assert rig.ready
    before = len(rig.backend.named("tidy"))
    rig.source.sink([pod(2)])
    rig.until(lambda: len(rig.backend.named("tidy")) > before)


def test_tidying_that_was_interrupted_goes_on_when_what_came_is_done(rig: Rig) -> None:
    rig.backend.tidies = [Report(0.0, 1, unfinished=True)]
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: len(rig.backend.named("tidy")) == 2)
    rig.rest(5.0)
    assert len(rig.backend.named("tidy")) == 2


def test_tidying_goes_on_while_a_fault_stays(rig: Rig) -> None:
    rig.backend.syncs = [FAILED] * 12
    rig.synced()
    rig.until(lambda: len(rig.backend.named("sync")) == 12)
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("tidy"))
    assert rig.status().kernel.retry_pending
    assert rig.rest(5.0) < 25
    assert len(rig.backend.named("sync")) == 12


def test_what_has_come_just_now_goes_before_tidying_once(rig: Rig) -> None:
    rig.synced()
    rig.source.sink([pod(1), deny()])
    rig.until(lambda: rig.backend.named("apply"))
    apply, after = rig.backend.apply, iter(range(2, 100))

    def coming(*given: Any) -> Report:
        """Have something come whenever something is written."""
        rig.source.sink([pod(next(after))])
        return apply(*given)

    rig.backend.apply = coming  # type: ignore[assignment, method-assign]
    rig.clock.sleep(AT_LATEST)
    rig.source.sink([pod(next(after))])
    rig.turn()
    applied = len(rig.backend.named("apply"))
    assert rig.backend.named("tidy") == []
    rig.turn()
    assert len(rig.backend.named("apply")) == applied + 1
    assert len(rig.backend.named("tidy")) == 1
