"""What others change in sets: all of them compared each interval, and put back."""

from __future__ import annotations

from agent.clock import AT_ONCE, NEVER, Clock
from agent.dataplane.backend import Backend, Reading
from agent.policy.engine import Engine
from agent.runtime.calls import Calls
from agent.runtime.drift import OVERTAKEN_PAUSE, Drift
from agent.runtime.inbox import Inbox
from agent.runtime.threads import StartThread, do_beside


class SetLook:
    """Due each interval, and soon again while a look has not come to its end."""

    def __init__(
        self,
        interval: float,
        engine: Engine,
        calls: Calls,
        drift: Drift,
        inbox: Inbox,
        clock: Clock,
        start_thread: StartThread,
    ) -> None:
        self._interval = interval
        self._engine = engine
        self._calls = calls
        self._drift = drift
        self._inbox = inbox
        self._clock = clock
        self._start_thread = start_thread
        self._at = AT_ONCE
        self._began = False
        self._reading: Reading | None = None
        """The look that is being taken."""

    def due(self) -> float:
        """Return when it is to look."""
        return self._at if self._calls.idle and self._reading is None else NEVER

    def run(self, now: float) -> None:
        """Look; the first time is an interval after all was written."""
        self._at = now + self._interval
        if not self._began:
            self._began = True
            return
        if self._calls.refused or self._calls.retry.at <= now:
            return
        backend, reading = self._calls.backend, self._calls.backend.members.begin(self._engine.lowered)
        self._reading = reading

        def look() -> None:
            reading.run()
            self._inbox.call(lambda: self._compare(backend, reading))

        do_beside(self._start_thread, "sets", look)

    def _compare(self, backend: Backend, reading: Reading) -> None:
        self._reading = None
        now = self._clock.monotonic()
        if self._calls.refused or backend is not self._calls.backend:
            return
        if backend.busy or self._drift.ahead():
            self._at = now + OVERTAKEN_PAUSE
            return
        found = backend.members.compare(self._engine.lowered, reading)
        if found.unfinished:
            self._at = now + OVERTAKEN_PAUSE
        if found.differences:
            self._drift.mend(found.differences)
