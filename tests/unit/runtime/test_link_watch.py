"""Listening for changes of interfaces."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.kernel.surroundings import Lookout
from agent.runtime.inbox import Inbox
from agent.runtime.link_watch import RETRY, LinkWatch
from tests.clock import FakeClock
from tests.unit.runtime.rig import NoThread, Rig


class Changes:
    """Tells of changes as it is told to; then the agent is stopped."""

    def __init__(self, inbox: Inbox, answers: list[bool | OSError]) -> None:
        self._inbox = inbox
        self._answers = answers
        self.opened = 0

    def __enter__(self) -> Changes:
        self.opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        assert seconds > 0
        answer = self._answers.pop(0)
        if not self._answers:
            self._inbox.stop()
        if isinstance(answer, OSError):
            raise answer
        return answer


def listen(rig: Rig, answers: list[bool | OSError]) -> tuple[Changes, FakeClock]:
    """Listen on this thread until there are no more answers."""
    clock, changes = FakeClock(), Changes(rig.agent.inbox, answers)

    def start_thread(name: str, target: Callable[[], None]) -> NoThread:
        assert name == "links"
        target()
        return NoThread()

    LinkWatch(rig.agent.host_check, rig.agent.inbox, clock, start_thread, lambda: changes).start()
    return changes, clock


def test_it_begins_again_after_an_error(rig: Rig) -> None:
    error = OSError("no buffer space")
    changes, clock = listen(rig, [error, error, False, False])
    assert changes.opened == 3
    assert clock.now - FakeClock().now == 2 * RETRY


def test_the_host_is_looked_at_when_something_changed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lookout, "changed", lambda _, told: told)
    rig.synced()
    rig.until(lambda: rig.ready)
    looked: list[int] = []
    monkeypatch.setattr(rig.agent.host_check, "look_at_once", lambda: looked.append(1))
    listen(rig, [False, True, False])
    for call in rig.agent.inbox.take(0.0).calls:
        call()
    # Once for the interfaces themselves, once for what the backend makes of them.
    assert len(looked) == 2


def test_the_thread_is_told_of_once_it_was_started(rig: Rig) -> None:
    assert rig.agent.health().threads == {}
    rig.start()
    assert rig.agent.health().threads == {"links": True, "pod-links": True}
    assert rig.started == ["history", "pod-links", "links", "flows"]
