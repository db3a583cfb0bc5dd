"""Has pods judged by their links too, as far as these are known, when all else has been written."""

from __future__ import annotations

from agent.clock import NEVER
from agent.dataplane.backend import Report
from agent.runtime.calls import Calls
from agent.runtime.inbox import Inbox
from agent.runtime.linked_pods import LinkedPods


class Relink:
    """Due after links or pods changed, when it is quiet or has waited long enough."""

    def __init__(self, linked_pods: LinkedPods, calls: Calls, inbox: Inbox) -> None:
        self._linked_pods = linked_pods
        self._calls = calls
        self._inbox = inbox

    def due(self) -> float:
        """Return when the backend is to be told of links, or more of these be asked for."""
        if not self._calls.free:
            return NEVER
        return self._linked_pods.due(self._calls.quiet_at if self._inbox.empty else NEVER)

    def run(self, now: float) -> None:
        """Tell the backend of links."""
        quiet = self._inbox.empty and now >= self._calls.quiet_at
        links = self._linked_pods.take(now, quiet=quiet)
        if links is not None:
            self._calls.make(self._relinked, self._calls.backend.relink, links)

    def _relinked(self, report: Report) -> None:
        if report.writes or report.faults or report.pending:
            self._calls.note(report)
