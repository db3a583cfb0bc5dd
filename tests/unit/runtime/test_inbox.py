"""The inbox: who puts more than the main loop takes has to wait, and nobody waits for a loop that ended."""

from __future__ import annotations

import threading
import time

import pytest

from agent.kube.events import Event, Synced
from agent.kube.model import Kind
from agent.runtime import inbox as inbox_module
from agent.runtime.inbox import Inbox

EVENTS: list[Event] = [Synced(Kind.POD)] * 10


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "WAITING", 25)
    monkeypatch.setattr(inbox_module, "_LOOK_SECONDS", 0.02)


def putting(inbox: Inbox, times: int) -> tuple[threading.Thread, list[int]]:
    done: list[int] = []

    def put() -> None:
        for number in range(times):
            inbox.put(EVENTS)
            done.append(number)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    return thread, done


def until(done: list[int], count: int) -> None:
    end = time.monotonic() + 5
    while len(done) < count and time.monotonic() < end:
        time.sleep(0.002)
    assert len(done) == count


def test_who_is_ahead_waits_until_the_loop_has_taken_and_nothing_is_lost() -> None:
    inbox = Inbox()
    thread, done = putting(inbox, 7)
    until(done, 3)
    time.sleep(0.1)
    assert len(done) == 3
    taken = len(inbox.take(1.0).events)
    until(done, 6)
    while thread.is_alive() or not inbox.empty:
        taken += len(inbox.take(0.05).events)
    assert taken == 70


@pytest.mark.parametrize("end", [Inbox.stop, Inbox.close])
def test_nobody_waits_for_a_loop_that_ended(end: object) -> None:
    inbox = Inbox()
    thread, done = putting(inbox, 9)
    until(done, 3)
    assert callable(end)
    end(inbox)
    thread.join(5)
    assert not thread.is_alive()
