"""The loop's calls of the backend, and what became of them."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping

from agent import log
from agent.clock import AT_ONCE, NEVER, Clock
from agent.dataplane.backend import Backend, Call, Reading, Report
from agent.dataplane.podlinks import PodLink
from agent.fault import Fault
from agent.kube.model import Key
from agent.policy.lower.lowered import Delta, LoweredProgram
from agent.runtime.call_counts import CallCounts

_log = log.get(__name__)

FIRST_RETRY = 0.25
LONGEST_RETRY = 30.0
LONGEST_BUSY = 30.0
"""Seconds of work without a pause, after which everything is looked at all the same."""
QUIET = 0.05
"""Seconds without a write after which it is quiet."""


class Phase(enum.Enum):
    """How far the first start has come. It goes down this list; only the second can be left out."""

    OPEN = enum.auto()
    """The kernel holds nothing of an earlier run: this node's pods are open until they are isolated."""
    HELD = enum.auto()
    """What an earlier run left in the kernel judges pods until everything is known."""
    WRITING = enum.auto()
    """What is known is in the kernel, or tried again; not everything is known and written yet."""
    ENFORCING = enum.auto()
    """Everything that the sources knew has been in the kernel once."""

    @property
    def begun(self) -> bool:
        """Whether changes are written as they come."""
        return self in (Phase.WRITING, Phase.ENFORCING)


class Retry:
    """When what failed is tried again: after a pause that grows with each failure."""

    def __init__(self) -> None:
        self.at = NEVER
        self._pause = FIRST_RETRY

    @property
    def pending(self) -> bool:
        return self.at != NEVER

    def failed(self, now: float) -> None:
        """Try again, unless that is to be done already."""
        if not self.pending:
            self.at = now + self._pause * random.uniform(0.8, 1.2)  # noqa: S311
            self._pause = min(LONGEST_RETRY, self._pause * 2)

    def begun(self) -> None:
        """Take note that it is being tried now."""
        self.at = NEVER

    def succeeded(self) -> None:
        """Begin with the shortest pause next time."""
        self._pause = FIRST_RETRY


class Calls:
    """Calls the backend for every task, and keeps what its reports say.

    ``phase`` is moved on by the first start; ``backend`` is another when address families have changed.
    ``written`` is called after each report of work that may have left something to tidy up, ``ended`` with
    each report of a call whose work has ended, after it was taken in. Used by the main
    loop's thread; others may read its attributes.
    """

    def __init__(self, program: LoweredProgram, backend: Backend, clock: Clock, *, phase: Phase) -> None:
        self.backend = backend
        self.phase = phase
        self.written: Callable[[], None] = lambda: None
        self.sync: Callable[[], None] = lambda: None
        """Reads the kernel and moves it to the whole program, with what was put off."""
        self.ended: Callable[[Report], None] = lambda _: None
        self.retry = Retry()
        self.refused = False
        """Whether another program enforces policies here: then nothing but a sync is called."""
        self.heartbeat = clock.time()
        """When the loop last made progress."""
        self.faults: tuple[Fault, ...] = ()
        """What failed and was not put right since."""
        self.standing: tuple[Fault, ...] = ()
        """What is wrong with the kernel as it is now."""
        self.counts = CallCounts()
        self.last: Report | None = None
        self.last_at = 0.0
        self.error = ("", 0.0)
        """The last thing that went wrong, and when."""
        self.quiet_at = AT_ONCE
        """When it is quiet, if nothing is written until then."""
        self._program = program
        self._clock = clock
        self._busy_since = NEVER

    @property
    def idle(self) -> bool:
        """Whether a task may begin something: the first start is that far, and no work goes on."""
        return self.phase.begun and not self.backend.busy

    @property
    def free(self) -> bool:
        """The same, for what is not to be done beside another program that enforces."""
        return not self.refused and self.idle

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What tells that the backend's work can go on."""
        return self.backend.waits().descriptors if self.backend.busy else ()

    def beat(self) -> None:
        """Take note that the loop makes progress."""
        self.heartbeat = self._clock.time()

    def make(
        self,
        then: Callable[[Report], None],
        move: Callable[..., Report],
        *arguments: Delta | Mapping[bytes, Key] | Reading | Callable[[], bool] | tuple[PodLink, ...] | None,
    ) -> None:
        """Call the backend for the program; ``then`` takes the report, unless the work goes on."""
        self._finish(self._call(move, *arguments), then)

    def go_on(self, interrupted: Callable[[], bool], then: Mapping[Call, Callable[[Report], None]]) -> None:
        """Go on with the backend's work, where it waits for something; ``then`` says who takes the report.

        What was put off until then is begun at once, before anything else has to be put off, too. Where that
        goes on and on, no task has its turn: then what failed is tried again with what was put off.
        """
        now = self._clock.monotonic()
        self._busy_since = min(self._busy_since, now) if self.backend.busy else NEVER
        while self.backend.busy:
            report = self._call(self.backend.resume, interrupted)
            self._finish(report, then[report.of])
            if report.waiting:
                break
            if self.backend.busy and (self.retry.at <= now or now - self._busy_since > LONGEST_BUSY):
                self._busy_since = now
                self.sync()

    def note(self, report: Report) -> None:
        """Take in what any other call did; what failed is tried again after a pause that grows."""
        self.note_tidying(report)
        self.written()

    def note_tidying(self, report: Report) -> None:
        """Take in what tidying up did: what it left is not tried again until something else was written."""
        now = self._clock.monotonic()
        self.counts.ended(report)
        if report.writes or report.pending:
            self.last, self.last_at, self.quiet_at = report, self._clock.time(), now + QUIET
            _log.debug("applied", writes=report.writes, seconds=round(report.seconds, 6))
        self._told(report)
        settled = not report.pending and not self.retry.pending
        still = () if settled else self.faults
        self.faults = tuple(dict.fromkeys((*still, *report.faults)))
        if report.pending:
            self.retry.failed(now)

    def unread(self, error: Exception) -> None:
        """Take in that the kernel could not be read, which is tried again."""
        self.failed(Fault(f"the kernel cannot be read: {error}", reason="read"))

    def failed(self, fault: Fault) -> None:
        """Take in a fault that is no call's, after which is tried again."""
        self.note(Report(0.0, 0, True, (fault,)))

    def _call(self, move: Callable[..., Report], *arguments: object) -> Report:
        """Call the backend; whatever it raises is a failure to try again, and ends nothing.

        But MemoryError: what the backend knows may be half changed.
        """
        self.beat()
        try:
            return move(self._program, *arguments)
        except MemoryError:
            raise
        except Exception as error:
            _log.exception("programming the kernel failed")
            fault = Fault(f"{type(error).__name__}: {error}", "see the log", reason="defect")
            of = {self.backend.sync: Call.SYNC, self.backend.tidy: Call.TIDY}.get(move, Call.APPLY)
            return Report(0.0, 0, True, (fault,), self.refused, standing=self.standing, of=of)

    def _finish(self, report: Report, then: Callable[[Report], None]) -> None:
        if report.waiting:
            self._told(report)
            if report.pending:
                self.counts.failed(report)
                self.retry.failed(self._clock.monotonic())
        else:
            then(report)
            self.ended(report)

    def _told(self, report: Report) -> None:
        """Take note of what is wrong with the kernel."""
        for fault in (*report.faults, *report.standing):
            if fault not in (*self.faults, *self.standing):
                _log.error("the kernel is not as it should be", fault=fault.what, remedy=fault.remedy)
                self.error = (fault.what, self._clock.time())
        self.standing = report.standing
