"""Removes what nothing in the kernel needs any more, when it is quiet."""

from __future__ import annotations

from agent.clock import NEVER, Clock
from agent.dataplane.backend import Report
from agent.runtime.calls import Calls
from agent.runtime.inbox import Inbox

AT_LATEST = 1.0
"""Seconds after which it is removed though it has not been quiet."""


class Tidy:
    """Due while something is to be removed: when nothing waits and it is quiet, or after a second.

    While something waits to be tried again, too: with a fault that stays, chains and sets would pile up.
    """

    def __init__(self, calls: Calls, inbox: Inbox, clock: Clock) -> None:
        self._calls = calls
        self._inbox = inbox
        self._clock = clock
        self._since: float | None = None
        """Since when something is to be removed."""

    def written(self) -> None:
        """Take note that something was written, which may have left something."""
        if self._since is None and self._calls.backend.untidy():
            self._since = self._clock.monotonic()

    def due(self) -> float:
        """Return when to tidy up."""
        if self._since is None or not self._calls.free:
            return NEVER
        late = self._since + AT_LATEST
        return min(late, self._calls.quiet_at) if self._inbox.empty else late

    def run(self, now: float) -> None:
        """Tidy up."""
        del now
        self._calls.make(self.tidied, self._calls.backend.tidy, lambda: not self._inbox.empty)

    def tidied(self, report: Report) -> None:
        """Take in the report of tidying up that has ended."""
        if not report.unfinished:
            self._since = None
        self._calls.note_tidying(report)
