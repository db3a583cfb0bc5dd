"""What others change in the kernel: found by looking from time to time, and put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from agent import log
from agent.clock import AT_ONCE, NEVER, Clock
from agent.dataplane.backend import Backend, Reading, Report
from agent.dataplane.differences import OF_RULES, UNREAD, Difference, Repair, What
from agent.policy.engine import Engine
from agent.runtime.backends import LATE_WRITE
from agent.runtime.calls import Calls
from agent.runtime.inbox import Inbox
from agent.runtime.reconcile import Reconcile
from agent.runtime.threads import StartThread, do_beside

_log = log.get(__name__)

ASK_EVERY = 1.0
"""Seconds between two questions to the kernel whether somebody else wrote rules."""
FAULTS_CHECK = 60.0
"""Seconds after which it is seen whether a fault that nothing retries has passed."""
OVERTAKEN = 3
"""How often a look at the kernel may be overtaken by writes of this agent before it waits for one."""
OVERTAKEN_PAUSE = 0.2
HEARD_PAUSE = 0.5
"""Seconds at least between two looks that others' writes bring about."""
TENTH = 10
"""So many times as long as looks take, those wait that others' writes bring about,"""
AT_A_STRETCH = 1.0
"""but for so many seconds of looks after a rest: a program that restarts writes several times."""


PROGRAMS = 20
"""So many programs are counted by their names; all others as ``other``."""


class Drift:
    """Due each interval, and each second to ask whether somebody else wrote."""

    def __init__(
        self,
        interval: float,
        engine: Engine,
        calls: Calls,
        reconcile: Reconcile,
        inbox: Inbox,
        clock: Clock,
        start_thread: StartThread,
    ) -> None:
        self.checked_at = 0.0
        """When the kernel was compared last, for people; 0.0 never."""
        self.repairs = 0
        self.found: Counter[What] = Counter()
        """What was found to differ, of those differences that were repaired."""
        self.last: Repair | None = None
        """The last repair."""
        self.authors: Counter[str] = Counter()
        """How often a program wrote rules that were repaired then, by its name."""
        self.writing_beside: Callable[[], bool] = lambda: False
        """Whether this agent is writing rules that are not the backend's."""
        self.repairing: Callable[[Repair], None] = lambda _: None
        """Called before what differs is repaired."""
        self.ahead: Callable[[], bool] = lambda: False
        """Says whether the kernel may be ahead of the program, so that a difference says nothing."""
        self._interval = interval
        self._engine = engine
        self._calls = calls
        self._reconcile = reconcile
        self._inbox = inbox
        self._clock = clock
        self._start_thread = start_thread
        self._at = AT_ONCE
        self._ask_at = AT_ONCE
        self._hear_at = NEVER
        """Until then nothing is heard."""
        self._rested, self._rested_at = AT_A_STRETCH, clock.monotonic()
        """For how many seconds looks need not wait, and when that was so."""
        self._synced_at = AT_ONCE
        self._reading: Reading | None = None
        """The look that is being taken."""
        self._overtaken = 0
        self._told: frozenset[Difference] = frozenset()
        """Differences that are told, and put back by a sync that may go on."""
        self._lasting: frozenset[Difference] = frozenset()
        """Differences that the last repair did not mend; its retry will try again."""

    def begin(self) -> None:
        """Look soon: a command of an agent that was killed may have waited for the lock, to write late."""
        self.look_in(min(self._interval, LATE_WRITE + 2))

    def look_in(self, seconds: float) -> None:
        """Look in so many seconds."""
        self._at = self._clock.monotonic() + seconds

    def synced_with(self, report: Report) -> None:
        """Take note of a sync."""
        self._synced_at = self._clock.monotonic()
        if not report.pending:
            self._lasting = frozenset()
        # One that came for another reason may have put back what nobody has told of.
        if found := [difference for difference in report.found if difference not in self._told]:
            self._tell(found, self._calls.backend.authors.take())
        self._told = frozenset()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those that can be read when somebody has written rules, once :meth:`hear` may take notice of it."""
        return self._calls.backend.authors.descriptors if self._hears() else ()

    def hear(self) -> None:
        """Look at once if the kernel has told that somebody else wrote rules. Cheap: called in each turn."""
        if self._hears() and self._calls.backend.authors.hear() and self._disturbed():
            self._at = AT_ONCE

    def _hears(self) -> bool:
        now = self._clock.monotonic()
        return self._calls.idle and self._reading is None and (self._hear_at == NEVER or now >= self._hear_at)

    def _disturbed(self) -> bool:
        return not self.writing_beside() and self._calls.backend.disturbed()

    def repaired(self, told: Sequence[str]) -> None:
        """Take note of what somebody else had changed in the table that guards frames, and was put back."""
        self._tell([Difference(What.FRAMES, detail=line) for line in told], ())

    def due(self) -> float:
        """Return when it is to look or to ask."""
        return min(self._at, self._ask_at, self._hear_at) if self._calls.idle else NEVER

    def run(self, now: float) -> None:
        """Look, unless a sync is due: that looks at everything."""
        if now >= self._hear_at:
            self._hear_at = NEVER
            self._calls.backend.authors.hear()
            if self._reading is None and self._disturbed():
                self._at = AT_ONCE
        if self._calls.retry.at <= now:
            return
        if now >= self._at or self._ask(now):
            self._look(now)

    def _ask(self, now: float) -> bool:
        """Ask whether somebody else wrote, when it is time to; return whether that is so."""
        if now < self._ask_at:
            return False
        self._ask_at = now + ASK_EVERY
        self._calls.backend.upkeep()
        # While a look goes on, what it may have missed is asked for the next time.
        return self._reading is None and self._disturbed()

    def _look(self, now: float) -> None:
        """Have the kernel read, on a thread of its own; what it holds is compared when that is done."""
        if self._reading is not None:
            self._at = now + OVERTAKEN_PAUSE
            return
        self._at = now + self._interval
        if self._calls.refused:
            return
        backend, reading = self._calls.backend, self._calls.backend.read()
        self._reading = reading

        def look() -> None:
            reading.run()
            self._inbox.call(lambda: self._compare(backend, reading))

        do_beside(self._start_thread, "drift", look)

    def _compare(self, backend: Backend, reading: Reading) -> None:
        """Compare and repair; while a retry is pending, too, which may be about something else."""
        now = self._clock.monotonic()
        self._reading = None
        # Programs that write all the time are not to cost this one more than a tenth of its time.
        rested = (now - self._rested_at) / TENTH
        self._rested = min(AT_A_STRETCH, self._rested + rested) - reading.seconds
        self._rested_at = now
        pause = max(HEARD_PAUSE, -self._rested * TENTH)
        self._ask_at = max(self._ask_at, now + pause)
        self._hear_at = now + pause if backend.authors.descriptors else NEVER
        if self._calls.refused or backend is not self._calls.backend:
            return
        if backend.busy:
            self._at = now + OVERTAKEN_PAUSE
            return
        if backend.overtaken(reading):
            self._overtaken += 1
            self._at = now + OVERTAKEN_PAUSE
            if self._overtaken <= OVERTAKEN:
                return
            found = self._differences()
        else:
            found = self._differences(reading)
        if self.ahead():
            self._at = now + OVERTAKEN_PAUSE
            return
        self._overtaken = 0
        differences = [difference for difference in found if difference not in self._lasting]
        self.checked_at = self._clock.time()
        authors = backend.authors.take()
        if changed := [difference for difference in differences if difference.what not in UNREAD]:
            self._tell(changed, authors)
            self._told = frozenset(changed)
        settled = not self._calls.retry.pending
        stale = self._calls.faults and settled and now >= self._synced_at + FAULTS_CHECK
        if differences or stale:
            # Without differences, too: what was wrong may have ended, which only a look at everything tells.
            self._repair(reading)

    def mend(self, found: Sequence[Difference]) -> None:
        """Put back what a look at sets has found to differ, by looking at everything."""
        self._tell(found, ())
        self._told = frozenset(found)
        self._reconcile.sync()

    def repair(self, found: Sequence[str]) -> None:
        """Put back what a proof has found to differ from the policies, by looking at everything."""
        self._tell([Difference(What.UNPROVED, detail=said) for said in found], ())
        self._reconcile.sync()

    def _tell(self, differences: Sequence[Difference], authors: tuple[str, ...]) -> None:
        """Tell what differs and who wrote, where that is about rules: of sets the kernel does not say it."""
        whose = authors if any(difference.what in OF_RULES for difference in differences) else ()
        told = tuple(str(difference) for difference in differences[:20])
        self.last = Repair(self._clock.time(), told, ", ".join(whose))
        named = {"by": self.last.by} if self.last.by else {}
        _log.warning("the kernel was changed from outside", differences=list(told), **named)
        self.repairs += 1
        self.found.update(difference.what for difference in differences)
        for name in {author.partition(" ")[0] for author in whose}:
            self.authors[name if name in self.authors or len(self.authors) < PROGRAMS else "other"] += 1
        self.repairing(self.last)

    def _repair(self, reading: Reading) -> None:
        self._reconcile.sync(reading)
        failed = self._calls.retry.pending and not self._calls.backend.busy
        self._lasting = frozenset(self._differences()) if failed else frozenset()

    def _differences(self, reading: Reading | None = None) -> list[Difference]:
        try:
            return self._calls.backend.audit(self._engine.lowered, reading)
        except Exception as error:
            return [Difference(What.KERNEL_UNREAD, detail=str(error))]
