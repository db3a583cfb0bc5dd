"""Where the main loop waits: events from sources, and calls from other threads that need its state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
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
        self._waiting: set[Future[Any]] = set()
        self._stopped = False
        self._closed = False

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

        Raises TimeoutError when the loop is busy for too long, or ends.
        """
        future: Future[T] = Future()

        def answer() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        with self._ready:
            if self._closed:
                raise TimeoutError("the agent has stopped")
            self._waiting.add(future)
        self.call(answer)
        try:
            return future.result(CALL_SECONDS)
        except CancelledError:
            raise TimeoutError("the agent has stopped") from None
        finally:
            with self._ready:
                self._waiting.discard(future)

    def stop(self, *_: Any) -> None:
        """End the waiting. A signal handler too: it takes no lock that the interrupted thread may hold."""
        self._stopped = True
        threading.Thread(target=self._wake, name="stop", daemon=True).start()

    def _wake(self) -> None:
        with self._ready:
            self._ready.notify_all()

    def close(self) -> None:
        """Take nothing more; who waits for an answer is told at once that there will be none."""
        with self._ready:
            self._closed = True
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            future.cancel()

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
