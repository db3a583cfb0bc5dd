"""The inbox: its limits, its order, what ends its wait, and that nobody waits for a loop that ended."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import pytest

from agent.kube.events import Event, Synced
from agent.kube.model import Kind
from agent.runtime import inbox as inbox_module
from agent.runtime.inbox import Inbox
from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.unit.runtime.events import pod

EVENTS: list[Event] = [Synced(Kind.POD)] * 10


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "WAITING", 25)


class Putter:
    """Puts ten events so many times, on a thread of its own."""

    def __init__(self, inbox: Inbox, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put = 0
        self._inbox = inbox
        self._times = times
        self._waits = threading.Semaphore(0)
        wait = inbox._room.wait

        def told(seconds: float | None = None) -> bool:
            self._waits.release()
            return wait(seconds)

        monkeypatch.setattr(inbox._room, "wait", told)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for _ in range(self._times):
            self._inbox.room()
            self._inbox.put(EVENTS)
            self.put += 1

    def until_it_waits(self) -> None:
        assert self._waits.acquire(timeout=PATIENCE)


def test_who_is_ahead_waits_until_the_loop_has_taken_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox_module, "_LOOK_SECONDS", 60.0)
    inbox = Inbox()
    putter = Putter(inbox, 7, monkeypatch)
    putter.until_it_waits()
    assert putter.put == 3
    taken = len(inbox.take(30.0).events)
    # What is taken is not made yet.
    inbox.leave(inbox_module.WAITING)
    putter.until_it_waits()
    assert putter.put == 3
    inbox.leave(0)
    putter.until_it_waits()
    assert putter.put == 6
    while taken < 70:
        taken += len(inbox.take(30.0).events)
        inbox.leave(0)
    putter.thread.join(PATIENCE)
    assert (taken, putter.put) == (70, 7)
    assert inbox.empty


@pytest.mark.parametrize("end", [Inbox.stop, Inbox.close])
def test_nobody_waits_for_a_loop_that_ended(
    end: Callable[[Inbox], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "_LOOK_SECONDS", 0.02)
    inbox = Inbox()
    putter = Putter(inbox, 9, monkeypatch)
    putter.until_it_waits()
    end(inbox)
    putter.thread.join(PATIENCE)
    assert not putter.thread.is_alive()


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
    assert len(inbox.take(30.0).calls) == 1
    inbox.close()
    asker.join(PATIENCE)
    assert told == [True]


def test_a_signal_ends_the_wait_whatever_the_loop_holds() -> None:
    code = """
import os, signal, sys, threading, time
from agent.runtime.inbox import Inbox
inbox = Inbox()
signal.set_wakeup_fd(inbox.wakes, warn_on_full_buffer=False)
signal.signal(signal.SIGTERM, inbox.stop)
def put():
    while not inbox.stopped:
        inbox.put([])
if sys.argv[1] == "busy":
    threading.Thread(target=put, daemon=True).start()
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
while not inbox.stopped:
    inbox.take(3600.0)
"""
    for kind in ("busy", "idle"):
        subprocess.run([sys.executable, "-c", code, kind], timeout=PATIENCE, check=True)


def test_a_full_pipe_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "WAITING", 100_000)
    clock = FakeClock()
    inbox = Inbox(clock)
    for number in range(70_000):
        inbox.put([pod(number % 250)])
    inbox.stop()
    assert len(inbox.take(0.0).events) == 70_000
    before = clock.now
    inbox.take(30.0)
    assert clock.now == before


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
        found.append(inbox.take(30.0).events)
    assert sum(map(len, found)) == 300
    assert inbox.empty
