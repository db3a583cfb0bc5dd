"""Events into the engine, what they change into the kernel; and everything again where that failed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from itertools import islice

from agent import log
from agent.clock import AT_ONCE, NEVER, Clock
from agent.dataplane.backend import Reading, Report
from agent.kube.events import Event, Synced, Upsert
from agent.kube.model import Key, Kind, Pod
from agent.policy.engine import Engine
from agent.policy.lower.lowered import Delta
from agent.runtime import overbudget
from agent.runtime.backlog import FAR, NEAR, Backlog, Batch, ended_by
from agent.runtime.calls import Calls, Phase
from agent.runtime.inbox import Arrival, Inbox
from agent.runtime.latency import Latency
from agent.runtime.linked_pods import LinkedPods
from agent.runtime.recorder import Recorder
from agent.runtime.withdrawing import Withdrawing
from agent.sources.source import Source

_log = log.get(__name__)

SLICE = 400
"""As much is compiled, counted in rules, between two looks for events: some 30 ms with writing it."""
SLICE_AT_START = 4_000
"""The same until everything has been enforced for the first time: nothing else waits then."""
_NONE = Batch([], [])


def _always() -> bool:
    return True


class Reconcile:
    """Due when compiling waits, an address need no longer stay closed, the backend goes on, or for a retry.

    ``synced_with`` is called after each sync, with its report.
    """

    def __init__(
        self,
        node: str,
        source: Source,
        engine: Engine,
        calls: Calls,
        linked_pods: LinkedPods,
        inbox: Inbox,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self.synced_with: Callable[[Report], None] = lambda _: None
        self.latency = Latency(node, clock)
        self._node = node
        self._source = source
        self._engine = engine
        self._calls = calls
        calls.sync = self.sync
        self._linked_pods = linked_pods
        self._inbox = inbox
        self._recorder = recorder
        self._clock = clock
        self._backlog = Backlog(node, engine.is_here)
        self._compile_next = False
        """Whether compiling comes before more events, of which it has let some go first."""
        self.noted: Callable[[list[Event]], None] = lambda _: None
        """Called with events before they are compiled."""
        self.changed: Callable[[Delta], None] = lambda _: None
        """Called with what each step changed."""
        self.stepped: Callable[[list[Event]], None] = lambda _: None
        """Called with the events of each step that was made since the agent began to write."""
        self.settled: Callable[[], None] = lambda: None
        """Called when everything that was taken is in the kernel."""
        self.withdrawing = Withdrawing(calls, engine)
        """Which addresses the kernel has closed ahead of what is taken here."""
        self.looked: Callable[[], None] = lambda: None
        """Called after each step, and at the end of each turn, whatever is in the kernel."""

    def take(self, events: list[Event], now: float, arrivals: Sequence[Arrival] = ()) -> None:
        """Compile events and bring what they change into the kernel. Called in each turn, events or not.

        ``arrivals``: when the events arrived.
        """
        self.noted(events)
        if events and self._calls.phase is not Phase.ENFORCING and not self.told_everything():
            # A collection would look at the whole cluster again and again while it is read.
            gc.freeze()
        if self._calls.phase.begun:
            self._backlog.put(events, arrivals, now)
            self._enforce(now)
        else:
            self._engine.apply(events, now, SLICE_AT_START)
            self.withdrawing.made(events)
        self._inbox.leave(len(self._backlog))
        self._tell_budgets()

    def due(self) -> float:
        """Return when a turn is due though nothing comes."""
        deadline = self._engine.deadline()
        due = NEVER if deadline is None else deadline
        if self._rules_wait():
            waits = self._calls.backend.waits()
            return AT_ONCE if self._backlog.far else min(due, waits.until, waits.soon)
        if len(self._backlog):
            return AT_ONCE
        if self._calls.backend.busy:
            return min(due, self._calls.backend.waits().until)
        if self._engine.waiting:
            return AT_ONCE
        return min(due, self._calls.retry.at)

    def run(self, now: float) -> None:
        """Try again what failed, when that is due. :meth:`take` has done the rest."""
        if self._calls.idle and self._calls.retry.at <= now:
            self.sync()

    def sync(self, reading: Reading | None = None) -> None:
        """Read the kernel, as far as a look has not done that just now, and move it to the program."""
        self._calls.retry.begun()
        owners = {address: pod.key for pod in self._engine.local_pods() for address in pod.addresses}
        self._calls.make(self.synced, self._calls.backend.sync, owners, reading)

    def synced(self, report: Report) -> None:
        """Take in the report of a sync that has ended."""
        calls = self._calls
        calls.refused = report.refused
        calls.retry.begun()
        self._linked_pods.synced()
        if not report.pending:
            calls.retry.succeeded()
        self.synced_with(report)
        calls.note(report)
        # Also where nothing had to be written: what was found there has been taken over.
        calls.last, calls.last_at = report, self._clock.time()

    def told_everything(self) -> bool:
        """Whether the sources have told of every object that there was at start."""
        states = self._source.states()
        return bool(states) and all(self._engine.synced(kind) for kind in states)

    def has_news(self) -> bool:
        """Whether something waits that a long write should let go first, in the inbox or for room in it."""
        return not self._inbox.empty or self._inbox.crowded

    def settle(self) -> None:
        """Take note of it when everything that was taken is in the kernel. Called at the end of each turn."""
        if self._calls.phase is Phase.ENFORCING:
            self.latency.begin()
        if self._has_written():
            self.latency.settle()
            if self._calls.phase.begun:
                self.settled()
        self.looked()

    def enforces(self, pod: Pod) -> bool:
        """Whether the kernel holds all that was taken, or at least all on which a pod's verdicts depend."""
        if not self._calls.phase.begun:
            return False
        if self._has_written():
            return True
        if self._backlog.waits_in(pod.namespace):
            return False
        engine, backend = self._engine, self._calls.backend
        return not engine.waits_for(pod.key) and backend.enforces(engine.lowered, pod.key, pod.addresses)

    def quiet(self) -> bool:
        """Whether nothing has come, and nothing is left to be written."""
        return self._inbox.empty and self._calls.phase.begun and self._has_written()

    def _rules_wait(self) -> bool:
        """Whether a command is about to end, after which what changes rules is written at once."""
        backend = self._calls.backend
        return backend.busy and self._clock.monotonic() < backend.waits().soon

    def _has_written(self) -> bool:
        calls = self._calls
        return not (calls.retry.pending or calls.backend.busy or self._engine.waiting or self._backlog)

    def _enforce(self, now: float) -> None:
        """Make steps of events and of compiling, and look between any two of them whether something came.

        What came goes first, but for compiling, which gets its turn then: a step each of pods of other nodes,
        of all else, and of compiling. While a command runs that was begun just now, only pods of other nodes
        have steps: these change no rule, and what they take away waits for no command.
        """
        enforcing, backend = self._calls.phase is Phase.ENFORCING, self._calls.backend
        far, near, most = (FAR, NEAR, SLICE) if enforcing else (None, None, SLICE_AT_START)
        waited = self._engine.waiting
        compiling, made, made_near = 0, False, False
        compile_next = self._compile_next and waited > 0
        while self._backlog.far:
            # What waits has a step of its own, so that events are changes of the simplest kind.
            batch, made = self._backlog.take_far(far), True
            compiling = 0 if waited or self._backlog or self._rules_wait() else most
            self._make(batch, now, compiling)
            if self.has_news():
                break
        while self._backlog.near and not compile_next and not self._rules_wait():
            batch = self._backlog.take_near(near)
            made = made_near = True
            # Compiling comes after all events: a revocation among them waits for none of it.
            compiling = 0 if self._engine.waiting or self._backlog else most
            self._make(batch, now, compiling)
            if self.has_news():
                break
        if compiling:
            return
        rules_wait = self._rules_wait()
        if self._engine.waiting and not rules_wait and (made or compile_next or not backend.busy):
            self._compile_next = made and not compile_next and self.has_news()
            if not self._compile_next:
                self._make(_NONE, now, most)
                # Sets of thousands of members, which a collection would look at one by one.
                gc.freeze()
        elif made_near:
            # When the command has ended that this began: events go on and on, each with a command of its own.
            self._compile_next = self._engine.waiting > 0
        elif not made:
            # Time passes: an address may have been closed for long enough.
            self._make(_NONE, now, 0 if self._engine.waiting or rules_wait else most)

    def _make(self, batch: Batch, now: float, most: int) -> None:
        """Make steps of events: one, but for addresses that were withdrawn; then compile."""
        parts = ended_by(batch, self.withdrawing.is_withdrawal) if self.withdrawing.ahead else [batch]
        for part in parts[:-1]:
            self._apply(part, now, 0)
        self._apply(parts[-1], now, most)

    def _apply(self, batch: Batch, now: float, most: int) -> None:
        events = batch.events
        # A long write lets go first what comes; and at once where there is more to be done.
        more = self.has_news if most else _always
        self.latency.take(batch.arrivals)
        seen = self._seen(now, batch.arrivals)
        here = self._here(events)
        noted = self._recorder.begin(events, seen)
        delta = self._engine.apply(events, now, most)
        self._recorder.end(noted, delta)
        self._linked_pods.changed(delta)
        self.changed(delta)
        if delta and not self._calls.refused:
            self._calls.make(self._calls.note, self._calls.backend.apply, delta, more)
        self.withdrawing.made(events)
        self.latency.step(events, delta, here)
        self.stepped(events)
        self.settle()

    def _seen(self, now: float, arrivals: Sequence[Arrival]) -> float:
        """Return when the first of the events came, in ``time.time()`` seconds."""
        return self._clock.time() - (now - arrivals[0].at if arrivals else 0.0)

    def _here(self, events: list[Event]) -> frozenset[Key]:
        """Return the pods of this node among those that are about to go: afterwards nobody knows."""
        gone = (e.key for e in events if not isinstance(e, Upsert | Synced) and e.kind is Kind.POD)
        return frozenset(filter(self._engine.is_here, gone))

    def _tell_budgets(self) -> None:
        """Log which policies are over budget, or no longer."""
        news = self._engine.take_budget_news()
        if news:
            self._recorder.budgets(news)
        for key, excess in islice(news.items(), overbudget.NAMED):
            if excess is None:
                _log.info("policy within budget again, or gone", policy=str(key))
            else:
                fault = overbudget.fault(key, excess)
                _log.warning("policy over budget", policy=str(key), detail=fault.what, remedy=fault.remedy)
        if len(news) > overbudget.NAMED:
            _log.warning("more policies over budget, or no longer", policies=len(news) - overbudget.NAMED)
