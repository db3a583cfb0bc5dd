"""Where the main loop waits: events from sources, and calls from other threads that need its state."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple, TypeVar

from agent.clock import SYSTEM, Clock
from agent.kube.events import Event

T = TypeVar("T")

CALL_SECONDS = 30.0
WAITING = 10_000
"""As many events wait, and what each source puts next: who reads faster than this works has to wait."""
_LOOK_SECONDS = 0.5
_PIPE = 4096


class Arrival(NamedTuple):
    """When so many events arrived together, in seconds of the clock's ``monotonic``."""

    at: float
    events: int


class Batch(NamedTuple):
    """What had come in: events in order, calls to answer after them, and when the events arrived."""

    events: list[Event]
    calls: list[Callable[[], None]]
    arrivals: list[Arrival]


class Inbox:
    """Thread-safe. Everything waiting is taken at once, so that a busy loop does more in each step.

    One thread takes. It sleeps on a pipe, not on a lock, so that a signal handler can wake it: whatever is
    written to ``wakes``, by this or by the interpreter (:func:`signal.set_wakeup_fd`), ends the wait.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._sleeps, self.wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for end in (self._sleeps, self.wakes):
            weakref.finalize(self, os.close, end)
        self._events: list[Event] = []
        self._calls: list[Callable[[], None]] = []
        self._arrivals: list[Arrival] = []
        self._waiting: set[Future[Any]] = set()
        self._outside = 0
        """How many wait for room."""
        self.unmade = 0
        """How many events were taken and wait for their turn; see :meth:`leave`."""
        self.told = 0
        """How many events have been put."""
        self.taken = 0
        """How many of them have been taken."""
        self._stopped = False
        self._closed = False

    def room(self) -> None:
        """Wait while too many events wait: for sources, before each :meth:`put` that is not urgent."""
        with self._lock:
            self._outside += 1
            try:
                while len(self._events) + self.unmade >= WAITING and not self._stopped and not self._closed:
                    # Whoever stops may be a signal handler, which cannot tell.
                    self._room.wait(_LOOK_SECONDS)
            finally:
                self._outside -= 1

    def put(self, events: Sequence[Event]) -> None:
        """Add events: a sink for sources. Waits for nothing. Once closed, nobody is left to take them."""
        at = self._clock.monotonic()
        with self._lock:
            if self._closed:
                return
            self._events.extend(events)
            self.told += len(events)
            self._arrivals.append(Arrival(at, len(events)))
        self._wake()

    def call(self, function: Callable[[], None]) -> None:
        """Have the main loop call a function between two steps, and do not wait for it."""
        with self._lock:
            self._calls.append(function)
        self._wake()

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

        with self._lock:
            if self._closed:
                raise TimeoutError("the agent has stopped")
            self._waiting.add(future)
        self.call(answer)
        try:
            return future.result(CALL_SECONDS)
        except CancelledError:
            raise TimeoutError("the agent has stopped") from None
        finally:
            with self._lock:
                self._waiting.discard(future)

    def stop(self, *_: Any) -> None:
        """End the waiting. A signal handler too: it takes no lock, which the interrupted thread may hold."""
        self._stopped = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it is awake for as many reasons as that
            os.write(self.wakes, b"\0")

    def close(self) -> None:
        """Take nothing more; who waits for an answer is told at once that there will be none."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            future.cancel()

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for room, with events that are not known here yet."""
        return self._outside > 0

    @property
    def news(self) -> tuple[int, ...]:
        """The descriptor that can be read when something has come since the last :meth:`take`."""
        return (self._sleeps,)

    @property
    def stopped(self) -> bool:
        """Whether somebody wants the agent to end."""
        return self._stopped

    @property
    def over(self) -> bool:
        """Whether nothing is taken any more, or soon will not be."""
        return self._stopped or self._closed

    def take(self, seconds: float, descriptors: Collection[int] = ()) -> Batch:
        """Wait at most so many seconds; return everything that is there.

        ``descriptors``: file descriptors that end the wait, too, when one of them can be read.
        """
        if self.empty and not self._stopped and seconds > 0:
            self._clock.wait((self._sleeps, *descriptors), seconds)
        # First what woke us, then what for: what comes in between wakes once more, for nothing.
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._sleeps, _PIPE)) == _PIPE:
                pass
        with self._lock:
            batch = Batch(self._events, self._calls, self._arrivals)
            self._events, self._calls, self._arrivals = [], [], []
            self.taken += len(batch.events)
            self.unmade += len(batch.events)
        return batch

    def leave(self, unmade: int) -> None:
        """Say how many of all events that were taken still wait for their turn; until then, each does."""
        with self._lock:
            self.unmade = unmade
            self._room.notify_all()

    @property
    def empty(self) -> bool:
        return not self._events and not self._calls
