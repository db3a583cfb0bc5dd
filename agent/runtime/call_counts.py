"""What became of the calls of the backend, counted since the agent started."""

from __future__ import annotations

from collections import Counter

from agent.dataplane.backend import Call, Report
from agent.histogram import SECONDS, Histogram


class CallCounts:
    """The loop counts; any thread reads.

    ``seconds`` tells for each kind of call how long those took that wrote something or failed; ``failures``
    how often one failed, by the reason of its faults (:class:`agent.fault.Fault`).
    """

    def __init__(self) -> None:
        self.seconds = {call: Histogram(SECONDS) for call in Call}
        self.failures: Counter[tuple[Call, str]] = Counter()

    def ended(self, report: Report) -> None:
        """Count a call that has ended. One that found nothing to write is not counted."""
        if report.writes or report.pending:
            self.seconds[report.of].observe(report.seconds)
        if report.pending:
            self.failed(report)

    def failed(self, report: Report) -> None:
        """Count a failure: once for each reason."""
        for reason in {fault.reason for fault in report.faults} or {"other"}:
            self.failures[report.of, reason] += 1
