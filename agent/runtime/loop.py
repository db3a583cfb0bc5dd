"""The agent: the loop that moves data through the rooms.

::

    source threads ──► Inbox ──► Engine.apply ──► Program, Delta ──► Backend.apply ──► kernel
                                     │                                  │
    HTTP threads ──► Inbox.ask ──► snapshot of program and kernel, taken between two steps
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice

from agent import __version__, log
from agent.dataplane.backend import Backend, Call, Reading, Report
from agent.dataplane.iptables.tables.tables import WAIT_SECONDS
from agent.dataplane.iptables.variant import Mode, ModeChoice, missing_commands
from agent.dataplane.podlinks import PodLink
from agent.fault import Fault
from agent.host.check import HostState, check_host
from agent.host.watch import EVERY, HostWatch
from agent.kernel.links import ADDRESS_GROUPS, LinkChanges
from agent.kernel.surroundings import Lookout
from agent.kube.events import Event
from agent.kube.model import Key, Kind
from agent.net import Family
from agent.observe.health import Health, readyz
from agent.observe.snapshot import Facts, StatusSnapshot, take
from agent.policy.engine import Engine
from agent.policy.program import Delta
from agent.runtime import overbudget
from agent.runtime.batches import portions
from agent.runtime.inbox import Inbox
from agent.runtime.linked_pods import LinkedPods
from agent.runtime.node_name import NodeName
from agent.settings import Families, Settings
from agent.sources.source import Source, SyncState

_log = log.get(__name__)

FIRST_RETRY = 0.25
LONGEST_RETRY = 30.0
HOST_CHECK = 10.0
FAULTS_CHECK = 60.0
"""Seconds after which it is seen whether a fault that nothing retries has passed."""
TIDY_AFTER = 0.05
"""Seconds of quiet after which what nothing needs is removed; under load it waits at most a second."""
TIDY_AT_LATEST = 1.0
HEARTBEAT = 1.0
LINK_PAUSE = 0.5
"""Seconds between two looks at the host while interfaces come and go."""
LINKS_RETRY = 5.0
SLICE = 400
"""As much is compiled, counted in rules, between two looks for events: some 30 ms with writing it."""
SLICE_AT_START = 4_000
"""The same until everything has been enforced for the first time: nothing else waits then."""
OVERTAKEN = 3
"""How often a look at the kernel may be overtaken by writes of this agent before it waits for one."""
OVERTAKEN_PAUSE = 0.2


def chosen_families(setting: Families, host: HostState, held: Iterable[Family] = ()) -> tuple[Family, ...]:
    """Return the families to enforce: those wanted that the host has, or whose chains are in the kernel.

    A family that goes takes no chains along: should it come back, they must not judge by what was then.
    """
    usable = host.families | frozenset(held)
    wanted = {
        Families.AUTO: (Family.V4, Family.V6),
        Families.DUAL: (Family.V4, Family.V6),
        Families.IPV4: (Family.V4,),
        Families.IPV6: (Family.V6,),
    }[setting]
    return tuple(family for family in wanted if family in usable)


def _always() -> bool:
    return True


def _unread(error: Exception) -> Fault:
    return Fault(f"the kernel cannot be read: {error}")


class Agent:
    """The main loop and what it knows. One thread runs it; :meth:`health` and :meth:`status` serve others."""

    def __init__(
        self,
        settings: Settings,
        choice: ModeChoice,
        host: HostState,
        source: Source,
        make_backend: Callable[[tuple[Family, ...]], Backend],
        held: frozenset[Family] = frozenset(),
        *,
        fresh: bool = False,
    ) -> None:
        """Make the backend; raises OSError where the kernel cannot be programmed at all.

        ``held``: the families of which an earlier run has left chains. ``fresh``: the kernel holds nothing of
        one, so that this node's pods are open until they are isolated.
        """
        self.inbox = Inbox()
        self._settings = settings
        self._choice = choice
        self._host = host
        self._host_watch = HostWatch(settings.fix_host)
        self._host_watch.need(host.needed)
        self._held = held
        self._fresh = fresh
        self._families = chosen_families(settings.families, host, held)
        self._make_backend = make_backend
        self._backend = self._made(self._families)
        self._source = source
        self._engine = Engine(
            settings.node_name,
            linger=settings.linger,
            allow_nodes=settings.allow_nodes,
            budgets=settings.budgets,
        )
        self._started = time.time()
        self._heartbeat = time.time()
        self._applied = False
        self._adopted = False
        self._refused = False
        self._kernel_faults: tuple[Fault, ...] = ()
        self._standing: tuple[Fault, ...] = ()
        self._last: Report | None = None
        self._last_at = 0.0
        self._error = ("", 0.0)
        self._retry_at: float | None = None
        self._retry_pause = FIRST_RETRY
        self._dirty_since: float | None = None
        self._quiet_since = 0.0
        self._drift_at = 0.0
        self._disturbed_at = 0.0
        self._synced_at = 0.0
        self._drift_checked = 0.0
        self._looking: Reading | None = None
        self._overtaken = 0
        self._lasting: frozenset[str] = frozenset()
        """Differences that the last repair did not mend; its retry will try again."""
        self._repairs = 0
        self._host_at = 0.0
        self._stirred = False
        """Whether interfaces have changed since the backend was last asked what that means to it."""
        self._node_name = NodeName(settings.node_name, self._engine)
        self._links = threading.Thread(target=self._watch_links, name="links", daemon=True)
        self._pod_links = LinkedPods(self._engine, self.inbox)
        self._running = False

    def run(self) -> None:
        """Work until the inbox is stopped."""
        self._source.start(self.inbox.put)
        self._links.start()
        self._pod_links.start()
        self._running = True
        try:
            now = time.monotonic()
            self._host_at = now + HOST_CHECK
            while not self.inbox.stopped:
                seconds, descriptors = self._wait(time.monotonic()), self._descriptors()
                batch = self.inbox.take(seconds, descriptors)
                now = time.monotonic()
                self._take(batch.events, now)
                self._go_on()
                self._due(now)
                for call in batch.calls:
                    call()
                self._heartbeat = time.time()
        finally:
            self.inbox.close()
            self._source.stop()
            self._pod_links.stop()
            self._backend.close()

    def _take(self, events: list[Event], now: float) -> None:
        """Compile events and bring what they change into the kernel."""
        if events and not self._applied and not self._synced():
            # A collection would look at the whole cluster again and again while it is read.
            gc.freeze()
        if not self._adopted:
            self._engine.apply(events, now, SLICE_AT_START)
            self._tell_budgets()
            return
        most = SLICE if self._applied else SLICE_AT_START
        waited = self._engine.waiting
        cut = portions(events, self._engine.is_here, self._settings.node_name)
        for number, portion in enumerate(cut, start=1):
            # What waits has a step of its own, so that events are changes of the simplest kind.
            more = _always if number < len(cut) or waited else self._has_news
            self._apply(portion, now, 0 if self._engine.waiting else most, more)
        if waited and (events or not self._backend.busy):
            self._apply([], now, most, self._has_news)
        self._tell_budgets()

    def _apply(self, events: list[Event], now: float, most: int, more: Callable[[], bool]) -> None:
        delta = self._engine.apply(events, now, most)
        self._pod_links.changed(delta)
        if delta and not self._refused:
            self._finish(self._call(self._backend.apply, delta, more), self._note)

    def _descriptors(self) -> tuple[int, ...]:
        """Return what tells that the backend's work can go on."""
        return self._backend.waits().descriptors if self._backend.busy else ()

    def _go_on(self) -> None:
        """Go on with the backend's work, where it waits for something."""
        if self._backend.busy:
            report = self._call(self._backend.resume, self._has_news)
            then = {Call.SYNC: self._synced_with, Call.APPLY: self._note, Call.TIDY: self._tidied}
            self._finish(report, then[report.of])

    def _finish(self, report: Report, then: Callable[[Report], None]) -> None:
        """Take in what a call of the backend did; ``then`` does, unless it goes on."""
        if report.waiting:
            self._told(report)
            if report.pending:
                self._try_again(time.monotonic())
        else:
            then(report)

    def _tell_budgets(self) -> None:
        """Log which policies are over budget, or no longer."""
        news = self._engine.take_budget_news()
        for key, excess in islice(news.items(), overbudget.NAMED):
            if excess is None:
                _log.info("policy within budget again, or gone", policy=str(key))
            else:
                fault = overbudget.fault(key, excess)
                _log.warning("policy over budget", policy=str(key), detail=fault.what, remedy=fault.remedy)
        if len(news) > overbudget.NAMED:
            _log.warning("more policies over budget, or no longer", policies=len(news) - overbudget.NAMED)

    def _wait(self, now: float) -> float:
        """Return how long nothing is due."""
        times = [now + HEARTBEAT, self._host_at]
        if (deadline := self._engine.deadline()) is not None:
            times.append(deadline)
        if self._backend.busy:
            times.append(self._backend.waits().until)
            return max(0.0, min(times) - now)
        if self._engine.waiting:
            times.append(now)
        if self._retry_at is not None:
            times.append(self._retry_at)
        if self._adopted:
            times.append(self._drift_at)
            pod_links = self._pod_links.deadline(self._quiet_since + TIDY_AFTER)
            if pod_links is not None and not self._refused:
                times.append(max(now + 0.001, pod_links))
            if self._dirty_since is not None and not self._refused:
                times.append(max(now + 0.001, self._quiet_since + TIDY_AFTER))
        elif self._synced() and self._retry_at is None:
            times.append(now)
        return max(0.0, min(times) - now)

    def _synced(self) -> bool:
        states = self._source.states()
        return bool(states) and all(self._engine.synced(kind) for kind in states)

    def _due(self, now: float) -> None:
        """Do what the time has come for, besides events."""
        if now >= self._host_at:
            self._check_host(now)
        if not self._adopted:
            if self._retry_at is not None and now < self._retry_at:
                return
            if self._synced():
                # Where the kernel holds something, what is not compiled yet would be closed for a moment.
                if self._fresh or not self._engine.waiting:
                    self._first_sync(now)
            elif self._fresh and self._can_isolate():
                self._isolate()
            return
        if self._backend.busy:
            return
        self._enforcing()
        if self._retry_at is not None and now >= self._retry_at:
            self._sync()
        elif now >= self._drift_at or (now >= self._disturbed_at and self._disturbed(now)):
            self._check_drift(now)
        self._relink(now)
        self._tidy(now)

    def _relink(self, now: float) -> None:
        """Judge pods by their links too, as far as these are known: when all else has been written."""
        if self._refused or self._backend.busy:
            return
        quiet = self.inbox.empty and now - self._quiet_since >= TIDY_AFTER
        links = self._pod_links.due(now, quiet=quiet)
        if links is not None:
            self._finish(self._call(self._backend.relink, links), self._relinked)

    def _relinked(self, report: Report) -> None:
        if report.writes or report.faults or report.pending:
            self._note(report)

    def _first_sync(self, now: float) -> None:
        self._retry_at = None
        try:
            isolated = self._backend.adopt()
            self._node_name.look()
            if self._node_name.fault is not None and any(isolated.values()):
                # A name mistyped must not open what an agent with the right one has closed.
                self._note(Report(0.0, 0, True, (self._node_name.fault._replace(blocking=True),)))
                return
            self._engine.adopt(isolated, now)
            if any(isolated.values()):
                # What an earlier run judged by links stays judged by them.
                self._backend.expect(self._pod_links.look())
        except Exception as error:
            self._note(Report(0.0, 0, True, (_unread(error),)))
            return
        self._begin()

    def _begin(self) -> None:
        """Write what is known, and from then on what changes."""
        self._adopted = True
        self._sync()
        # A command of an agent that was killed may have waited for the lock, to write what was wanted then.
        self._drift_at = time.monotonic() + min(self._settings.drift_interval, WAIT_SECONDS + 2)

    def _can_isolate(self) -> bool:
        """Whether everything is known that says which pods here are isolated, by which rules."""
        others = [kind for kind in self._source.states() if kind is not Kind.POD]
        return self._engine.synced(Kind.POD, here=True) and all(map(self._engine.synced, others))

    def _isolate(self) -> None:
        """Isolate this node's pods before the others' are known, on a node where all of them are open.

        Peers are let in as they become known. Where the kernel holds anything, its pods stay as they are
        until everything is known: there this would close what was rightly open.
        """
        self._retry_at = None
        isolated = self._engine.program.pods
        if not isolated:
            # What is listed or changes until everything is known may still isolate one.
            return
        try:
            held = self._backend.adopt()
        except Exception as error:
            self._note(Report(0.0, 0, True, (_unread(error),)))
            return
        self._fresh = False
        if not any(held.values()):
            _log.info("isolating", isolated_pods=len({pod.pod for pod in isolated}))
            self._begin()

    def _sync(self) -> None:
        self._retry_at = None
        self._finish(self._call(self._backend.sync, self._owners()), self._synced_with)

    def _synced_with(self, report: Report) -> None:
        self._refused = report.refused
        self._synced_at = time.monotonic()
        self._retry_at = None
        self._pod_links.synced()
        if not report.pending:
            self._retry_pause = FIRST_RETRY
            self._lasting = frozenset()
        self._note(report)
        # Also where nothing had to be written: what was found there has been taken over.
        self._last, self._last_at = report, time.time()
        self._enforcing()

    def _enforcing(self) -> None:
        """Take note of it when for the first time everything that the sources told is in the kernel."""
        if self._applied or self._retry_at is not None or self._backend.busy or self._engine.waiting:
            return
        if not self._synced():
            return
        self._applied = True
        _log.info(
            "enforcing",
            seconds=round(self._last.seconds if self._last else 0.0, 3),
            since_start=round(time.time() - self._started, 3),
            isolated_pods=len({pod.pod for pod in self._engine.program.pods}),
            policies=len({policy.policy for policy in self._engine.program.policies}),
        )
        # What has been read until now lives as long as the agent: no collection need look at it again.
        gc.collect()
        gc.freeze()

    def _owners(self) -> dict[bytes, Key]:
        return {address: pod.key for pod in self._engine.local_pods() for address in pod.addresses}

    def _call(
        self,
        move: Callable[..., Report],
        *arguments: Delta | dict[bytes, Key] | Callable[[], bool] | tuple[PodLink, ...],
    ) -> Report:
        """Call the backend; whatever it raises is a failure to try again, and ends nothing."""
        self._heartbeat = time.time()
        try:
            return move(self._engine.program, *arguments)
        except Exception as error:
            _log.exception("programming the kernel failed")
            fault = Fault(f"{type(error).__name__}: {error}", "see the log")
            return Report(0.0, 0, True, (fault,), self._refused, standing=self._standing)

    def _note(self, report: Report, *, tidied: bool = False) -> None:
        """Take in what a call of the backend did; what failed is tried again after a pause that grows.

        What tidying up has left is not tried again until something else was written.
        """
        now = time.monotonic()
        if report.writes or report.pending:
            self._last, self._last_at, self._quiet_since = report, time.time(), now
            _log.debug("applied", writes=report.writes, seconds=round(report.seconds, 6))
        self._told(report)
        settled = not report.pending and self._retry_at is None
        still = () if settled else self._kernel_faults
        self._kernel_faults = tuple(dict.fromkeys((*still, *report.faults)))
        if report.pending:
            self._try_again(now)
        if self._dirty_since is None and not tidied and self._backend.untidy():
            self._dirty_since = now

    def _try_again(self, now: float) -> None:
        if self._retry_at is None:
            self._retry_at = now + self._retry_pause * random.uniform(0.8, 1.2)  # noqa: S311
            self._retry_pause = min(LONGEST_RETRY, self._retry_pause * 2)

    def _told(self, report: Report) -> None:
        """Take note of what is wrong with the kernel."""
        for fault in (*report.faults, *report.standing):
            if fault not in (*self._kernel_faults, *self._standing):
                _log.error("the kernel is not as it should be", fault=fault.what, remedy=fault.remedy)
                self._error = (fault.what, time.time())
        self._standing = report.standing

    def _tidy(self, now: float) -> None:
        """Remove what nothing needs, when it is quiet or has waited long enough.

        While something waits to be tried again, too: with a fault that stays, chains and sets would pile up.
        """
        if self._dirty_since is None or self._refused or self._backend.busy:
            return
        quiet = self.inbox.empty and now - self._quiet_since >= TIDY_AFTER
        if not quiet and now - self._dirty_since < TIDY_AT_LATEST:
            return
        self._finish(self._call(self._backend.tidy, self._has_news), self._tidied)

    def _tidied(self, report: Report) -> None:
        if not report.unfinished:
            self._dirty_since = None
        self._note(report, tidied=True)

    def _has_news(self) -> bool:
        return not self.inbox.empty

    def _disturbed(self, now: float) -> bool:
        self._disturbed_at = now + HEARTBEAT
        return self._backend.disturbed()

    def _check_drift(self, now: float) -> None:
        """Have the kernel read, on a thread of its own; what it holds is compared when that is done."""
        if self._looking is not None:
            self._drift_at = now + OVERTAKEN_PAUSE
            return
        self._drift_at = now + self._settings.drift_interval
        if self._refused:
            return
        backend, reading = self._backend, self._backend.reading()
        self._looking = reading

        def look() -> None:
            reading.read()
            self.inbox.call(lambda: self._compare(backend, reading))

        threading.Thread(target=look, name="drift", daemon=True).start()

    def _compare(self, backend: Backend, reading: Reading) -> None:
        """Compare and repair; while a retry is pending, too, which may be about something else."""
        now = time.monotonic()
        self._looking = None
        # Programs that write all the time are not to cost this one more than a tenth of its time.
        self._disturbed_at = max(self._disturbed_at, now + 10 * reading.seconds)
        if self._refused or backend is not self._backend:
            return
        if backend.busy:
            self._drift_at = now + OVERTAKEN_PAUSE
            return
        if backend.overtaken(reading):
            self._overtaken += 1
            self._drift_at = now + OVERTAKEN_PAUSE
            if self._overtaken <= OVERTAKEN:
                return
            found = self._differences()
        else:
            found = self._differences(reading)
        self._overtaken = 0
        differences = [difference for difference in found if difference not in self._lasting]
        self._drift_checked = time.time()
        if differences:
            _log.warning("the kernel was changed from outside", differences=differences[:20])
            self._repairs += 1
        stale = self._kernel_faults and self._retry_at is None and now >= self._synced_at + FAULTS_CHECK
        if differences or stale:
            # Without differences, too: what was wrong may have ended, which only a look at everything tells.
            self._sync()
            failed = self._retry_at is not None and not self._backend.busy
            self._lasting = frozenset(self._differences()) if failed else frozenset()

    def _differences(self, reading: Reading | None = None) -> list[str]:
        try:
            return self._backend.drift(self._engine.program, reading)
        except Exception as error:
            return [f"the kernel cannot be read: {error}"]

    def _check_host(self, now: float) -> None:
        self._host_at = now + HOST_CHECK
        self._host_watch.look()
        self._host = check_host(self._settings.fix_host, partial(missing_commands, self._choice.mode))
        self._host_watch.need(self._host.needed)
        if self._node_name.fault is not None:
            self._node_name.look()
        held = self._families if self._adopted else self._held
        families = chosen_families(self._settings.families, self._host, held)
        if families != self._families and families:
            try:
                backend = self._made(families)
            except OSError as error:
                _log.error("the kernel cannot be programmed", error=str(error))
                return
            _log.warning("address families changed", families=[int(f) for f in families])
            self._backend.close()
            self._families, self._backend = families, backend
            if self._adopted:
                backend.expect(self._pod_links.known())
                self._sync()
        elif self._moved() and self._adopted:
            self._retry_at = now

    def _moved(self) -> bool:
        """Tell the backend of the host's state; return whether a sync is due."""
        judging = self._host.ipvs and self._backend.judge_others()
        stirred, self._stirred = self._stirred, False
        return (stirred and self._backend.moved()) or judging

    def _made(self, families: tuple[Family, ...]) -> Backend:
        """Make a backend for some families. Raises OSError where the kernel cannot be programmed."""
        backend = self._make_backend(families)
        if self._host.ipvs:
            backend.judge_others()
        return backend

    @property
    def mode(self) -> Mode:
        """The iptables mode that it programs."""
        return self._choice.mode

    @property
    def families(self) -> tuple[Family, ...]:
        """The address families that it enforces now."""
        return self._families

    def node_is_named(self) -> bool:
        """Whether any pod names this node. For the loop's own thread, or once the loop has ended."""
        return self._node_name.named()

    def _watch_links(self) -> None:
        """Have the host looked at when it changes: the first pod may bring a bridge."""
        while not self.inbox.stopped:
            try:
                lookout = Lookout(HOST_CHECK)
                with LinkChanges(ADDRESS_GROUPS) as changes:
                    while not self.inbox.stopped:
                        changed = changes.wait(EVERY)
                        if lookout.changed(told=changed):
                            self.inbox.call(self._look_around)
                        if self._host_watch.look() or changed:
                            self.inbox.call(self._look_at_host)
                        if changed:
                            time.sleep(LINK_PAUSE)
            except OSError as error:
                _log.warning("changes of interfaces cannot be watched", error=str(error))
                time.sleep(LINKS_RETRY)

    def _look_at_host(self) -> None:
        self._host_at = 0.0

    def _look_around(self) -> None:
        self._stirred = True
        self._look_at_host()

    def _faults(self) -> tuple[Fault, ...]:
        node = () if self._node_name.fault is None else (self._node_name.fault,)
        host = (*self._host.faults, *self._host_watch.faults())
        over = overbudget.faults(self._engine.over_budget())
        return (*self._choice.faults, *host, *node, *self._kernel_faults, *self._standing, *over)

    def _states(self) -> Mapping[Kind, SyncState]:
        return self._source.states()

    def _threads(self) -> dict[str, bool]:
        own = {self._links.name: self._links.is_alive(), "pod-links": self._pod_links.alive}
        return own if self._running else {}

    def health(self) -> Health:
        """Return the agent's state. For any thread; waits for nothing."""
        return Health(
            now=time.time(),
            heartbeat=self._heartbeat,
            caches=self._states(),
            applied=self._applied,
            faults=self._faults(),
            threads={**self._source.threads(), **self._threads()},
            links=str(self._pod_links.counts),
        )

    def status(self) -> StatusSnapshot:
        """Say what this node enforces and why. For any thread but the loop's own."""
        return self.inbox.ask(self._snapshot)

    def _snapshot(self) -> StatusSnapshot:
        last = self._last
        facts = Facts(
            node=self._settings.node_name,
            version=__version__,
            now=time.time(),
            started=self._started,
            ready=readyz(self.health()).ok,
            applied=self._adopted,
            iptables_mode=self._choice.mode,
            iptables_mode_reason=self._choice.reason,
            families=tuple(int(f) for f in self._families),
            states=self._states(),
            faults=self._faults(),
            apply_at=self._last_at,
            apply_seconds=last.seconds if last else 0.0,
            apply_writes=last.writes if last else 0,
            apply_result="ok" if last is None or not last.pending else "; ".join(f.what for f in last.faults),
            error_at=self._error[1],
            error=self._error[0],
            retry_pending=self._retry_at is not None,
            drift_check_at=self._drift_checked,
            repairs=self._repairs + self._host_watch.repairs,
            over_budget={key: str(excess) for key, excess in self._engine.over_budget().items()},
            closed_by_budget=self._engine.closed_by_budget(),
            links=self._pod_links.counts,
        )
        return take(facts, self._engine.program, self._backend.view())
