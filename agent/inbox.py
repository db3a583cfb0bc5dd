"""Where the main loop waits: events from sources, and calls from other threads that need its state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from agent.kube.events import Event

T = TypeVar("T")

CALL_SECONDS = 30.0


class Batch(NamedTuple):
    """What had come in: events in order, and calls to answer after them."""

    events: list[Event]
    calls: list[Callable[[], None]]


class Inbox:
    """Thread-safe. Everything waiting is taken at once, so that a busy loop does more in each step."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._events: list[Event] = []
        self._calls: list[Callable[[], None]] = []
        self._stopped = False

    def put(self, events: Sequence[Event]) -> None:
        """Add events: a sink for sources."""
        with self._ready:
            self._events.extend(events)
            self._ready.notify()

    def call(self, function: Callable[[], None]) -> None:
        """Have the main loop call a function between two steps, and do not wait for it."""
        with self._ready:
            self._calls.append(function)
            self._ready.notify()

    def ask(self, function: Callable[[], T]) -> T:
        """Have the main loop call a function between two steps, and return what it returns.

        Raises TimeoutError when the loop is busy for too long.
        """
        future: Future[T] = Future()

        def answer() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self.call(answer)
        return future.result(CALL_SECONDS)

    def stop(self, *_: Any) -> None:
        """End the waiting. A signal handler too: it takes no lock that the interrupted thread may hold."""
        self._stopped = True

    @property
    def stopped(self) -> bool:
        return self._stopped

    def take(self, seconds: float) -> Batch:
        """Wait at most so many seconds; return everything that is there."""
        with self._ready:
            if not self._events and not self._calls and not self._stopped and seconds > 0:
                self._ready.wait(seconds)
            batch = Batch(self._events, self._calls)
            self._events, self._calls = [], []
        return batch

    @property
    def empty(self) -> bool:
        return not self._events and not self._calls
