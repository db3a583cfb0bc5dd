"""The agent: the loop that moves data through the rooms.

::

    source threads ──► Inbox ──► Engine.apply ──► Program, Delta ──► Backend.apply ──► kernel
                                     │                                  │
    HTTP threads ──► Inbox.ask ──► snapshot of program and kernel, taken between two steps
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from agent.clock import SYSTEM, Clock
from agent.dataplane.backend import Call
from agent.dataplane.traffic import Meter
from agent.history.writer import Writer
from agent.host.check import HostState, check_host
from agent.kube.model import Key
from agent.net import Family
from agent.observe.flows.hub import Flows
from agent.observe.health import Health
from agent.observe.metrics.figures import Figures
from agent.observe.snapshot import StatusSnapshot
from agent.policy.engine import Engine
from agent.policy.extract import Extract
from agent.runtime.backends import Mode, ModeChoice, read_counters, read_logged
from agent.runtime.calls import Calls, Phase
from agent.runtime.collecting import Collecting
from agent.runtime.cutting import Cutting
from agent.runtime.drift import Drift
from agent.runtime.enforced import Enforced
from agent.runtime.first_start import FirstStart
from agent.runtime.flow_log import make_flow_log
from agent.runtime.frames import KERNEL, Frames, Kernel
from agent.runtime.heap import MEMORY, Memory
from agent.runtime.host_check import CheckHost, HostCheck, MakeBackend, backend_for, chosen_families, heeding
from agent.runtime.inbox import Inbox
from agent.runtime.kept_networks import KeptNetworks
from agent.runtime.leads import Leads, text_of
from agent.runtime.link_watch import LinkWatch
from agent.runtime.linked_pods import LinkedPods
from agent.runtime.new_pods import NewPods
from agent.runtime.node_name import NodeName
from agent.runtime.prover import Child, in_a_process
from agent.runtime.proving import Proving
from agent.runtime.reconcile import Reconcile
from agent.runtime.recorder import Recorder
from agent.runtime.relink import Relink
from agent.runtime.scarcity import LOOK, Scarcity, Spare, taken
from agent.runtime.set_look import SetLook
from agent.runtime.threads import StartThread, start_thread
from agent.runtime.tidy import Tidy
from agent.runtime.unconfirmed import Unconfirmed
from agent.runtime.views import Views
from agent.settings import Settings
from agent.sources.cni.source import CniSource
from agent.sources.nri.plugin import NriPlugin
from agent.sources.source import Source

HEARTBEAT = 1.0
"""Seconds between two turns of the loop though nothing is due."""


class Task(Protocol):
    """Something that the loop does by itself. Each task owns its state."""

    def due(self) -> float:
        """Return when :meth:`run` is next due, in seconds of the clock's ``monotonic``."""
        ...

    def run(self, now: float) -> None:
        """Do it. Called when it is due, on the main loop's thread."""
        ...


class World(NamedTuple):
    """What the loop meets besides its source and its backend; a test gives it another."""

    clock: Clock = SYSTEM
    start_thread: StartThread = start_thread
    check_host: CheckHost = check_host
    prove: Child = in_a_process
    frames: Kernel = KERNEL
    memory: Memory = MEMORY
    spare: Callable[[int], Spare] = taken


REAL = World()


class Agent:
    """The main loop and its tasks. One thread runs it; :meth:`health` and :meth:`status` serve others."""

    def __init__(
        self,
        settings: Settings,
        choice: ModeChoice,
        host: HostState,
        source: Source,
        make_backend: MakeBackend,
        held: frozenset[Family] = frozenset(),
        *,
        fresh: bool = False,
        world: World = REAL,
    ) -> None:
        """Make the backend; raises OSError where the kernel cannot be programmed at all.

        ``held``: the families of which an earlier run has left chains. ``fresh``: the kernel holds nothing of
        one, so that this node's pods are open until they are isolated.

        ::

            source ──► Inbox ──events──► Reconcile ──deltas, syncs──► Calls ──► Backend
                                          ▲ sync │ what changed         ▲
                         FirstStart ──────┤      ▼                      │
                         Drift ───────────┤   LinkedPods ──► Relink ────┤
                         HostCheck ───────┘      ▲           Tidy ──────┘
                            ▲                    ▼
                         LinkWatch            a thread that looks for pods' links ──► Frames

            Reconcile, Calls, Drift ──what changed, when the kernel had it──► Recorder ──► history
            Reconcile ──what changed──► Cutting ──which connections were ended──► Recorder
        """
        clock = world.clock
        self._clock = clock
        self._start_thread = world.start_thread
        self._source = source
        self.mode: Mode = choice.mode
        """The iptables mode that it programs."""
        self.inbox = Inbox(clock)
        self.scarcity = Scarcity(world.spare)
        make_backend = heeding(make_backend, self.inbox.news)
        engine = Engine(
            settings.node_name,
            linger=settings.linger,
            allow_nodes=settings.allow_nodes,
            budgets=settings.budgets,
            logging=settings.logging,
            deny_new=settings.denies_new,
            pod_networks=settings.pod_networks,
        )
        families = chosen_families(settings.families, host, held)
        backend = backend_for(families, host, make_backend)
        self._calls = calls = Calls(engine.lowered, backend, clock, phase=Phase.OPEN if fresh else Phase.HELD)
        self._node_name = NodeName(settings.node_name, engine)
        guarded = settings.guard_frames
        self._linked_pods = LinkedPods(engine, self.inbox, clock, world.start_thread, senders=guarded)
        self.history = Writer(settings.state_dir, settings.history_size, settings.history_age, clock)
        self._recorder = recorder = Recorder(settings.node_name, engine, calls, source, self.history, clock)
        self._reconcile = Reconcile(
            settings.node_name, source, engine, calls, self._linked_pods, self.inbox, recorder, clock
        )
        self.drift = Drift(
            settings.drift_interval, engine, calls, self._reconcile, self.inbox, clock, world.start_thread
        )
        set_look = SetLook(
            settings.drift_interval, engine, calls, self.drift, self.inbox, clock, world.start_thread
        )
        first_start = FirstStart(
            source, engine, calls, self._reconcile, self.drift, self._linked_pods, self._node_name, clock
        )
        self.host_check = HostCheck(
            settings,
            choice,
            host,
            held,
            families,
            make_backend,
            calls,
            self._reconcile,
            self._linked_pods,
            self._node_name,
            clock,
            world.check_host,
        )
        self._link_watch = LinkWatch(self.host_check, self.inbox, clock, world.start_thread)
        self.proving = Proving(
            settings.verify_interval,
            settings.node_name,
            choice.mode,
            lambda: self.families,
            engine,
            calls,
            self.drift,
            lambda: self._linked_pods.written,
            self.inbox,
            clock,
            world.start_thread,
            world.prove,
        )
        relink = Relink(self._linked_pods, calls, self.inbox)
        tidy = Tidy(calls, self.inbox, clock)
        self.frames = Frames(
            guarded,
            settings.drift_interval,
            engine,
            self._linked_pods,
            calls,
            self.inbox,
            clock,
            world.start_thread,
            world.frames,
        )

        self.cutting = cutting = Cutting(
            wanted=settings.cut_denied,
            engine=engine,
            calls=calls,
            inbox=self.inbox,
            clock=clock,
            start_thread=world.start_thread,
        )

        calls.written, calls.ended = tidy.written, recorder.ended
        self._reconcile.changed, cutting.told = cutting.changed, recorder.cut
        self._reconcile.synced_with = self.drift.synced_with
        if settings.denies_new:
            self._reconcile.synced_with = KeptNetworks(calls, settings.state_dir).after(
                self.drift.synced_with
            )
        # Files are one's own.
        own = settings.own_managers if settings.manifests is None else frozenset[str]()
        unconfirmed = Unconfirmed(own, settings.state_dir)
        leads = Leads(
            settings.node_name, engine, clock, lambda pod, ahead: recorder.pod_told(pod, text_of(ahead))
        )
        enforced = Enforced(engine, self.inbox, self._reconcile.enforces)
        self._reconcile.stepped = leads.step
        self._reconcile.settled, self._reconcile.looked = leads.settle, enforced.settle
        withdrawing = self._reconcile.withdrawing
        if isinstance(source, CniSource):
            source.withdraw, self.drift.ahead = withdrawing.withdraw, lambda: withdrawing.ahead
        self._nri = _nri(settings, source, enforced)
        self._reconcile.noted, recorder.confirmed = unconfirmed.take, unconfirmed.news
        self.drift.repairing = recorder.repair
        self.frames.repaired = self.drift.repaired
        self.proving.frames, self.proving.renew = self.frames.settled, self.frames.renew
        self.drift.writing_beside = lambda: self.frames.writing
        self._collecting = Collecting(self._reconcile.quiet, clock, world.memory)
        first_start.adopted, first_start.enforcing = recorder.adopted, self._collecting.begin
        self._takes = {Call.SYNC: self._reconcile.synced, Call.APPLY: calls.note, Call.TIDY: tidy.tidied}
        """Who takes the report of a call whose work went on."""
        self._let_go_first = False
        self._tasks: tuple[Task, ...] = (
            self.host_check,
            # Before the retry, since it leaves a turn in which everything is looked at alone.
            self.drift,
            set_look,
            self._reconcile,
            first_start,
            relink,
            self.frames,
            tidy,
            cutting,
            recorder,
            self.proving,
            self._collecting,
        )
        meter = Meter(
            lambda: read_counters(choice, self.families, policies=settings.metrics_per_policy), clock
        )
        self.flows = Flows()
        """Connections that were logged lately, and those to come."""
        self._flow_log = make_flow_log(
            settings,
            engine,
            self.inbox,
            self.flows,
            lambda: read_logged(choice, self.families),
            self._linked_pods.pods_by_link,
            clock,
            world.start_thread,
        )
        self.views = Views(
            settings.node_name,
            choice,
            "manifests" if settings.manifests is not None else "apiserver",
            source,
            engine,
            calls,
            self._reconcile,
            first_start,
            self.drift,
            self.host_check,
            self._link_watch,
            self._linked_pods,
            self.frames,
            self._node_name,
            meter,
            self.history,
            self._flow_log,
            unconfirmed,
            cutting,
            leads,
            self.proving,
            self._nri,
            NewPods(engine, calls, self._linked_pods, clock),
            self.scarcity,
            clock,
        )
        recorder.faults = self.views.faults

    def run(self) -> None:
        """Work until the inbox is stopped. Raises MemoryError where a step, or a thread, had no more."""
        try:
            self.start()
            while not self.inbox.stopped:
                self.turn()
        finally:
            self.end()

    def start(self) -> None:
        """Start the threads beside the loop."""
        self.history.start(self._start_thread)
        self._recorder.started(f"iptables {self.mode}")
        self._source.start(self.inbox.put, self.inbox.room)
        self._linked_pods.start()
        self._link_watch.start()
        self.frames.start()
        self._flow_log.start()
        if self._nri is not None:
            self._nri.start()

    def turn(self) -> None:
        """Wait until something comes or is due, and do it if there is memory; news goes before tasks once."""
        if not self.scarcity.begins():
            self._calls.beat()
            self._clock.sleep(LOOK)
            return
        batch = self.inbox.take(self._rest(), (*self._calls.descriptors, *self.drift.descriptors))
        self.scarcity.spend()
        now = self._clock.monotonic()
        self._reconcile.take(batch.events, now, batch.arrivals)
        self._let_go_first = self._reconcile.has_news() and not self._let_go_first
        if not self._let_go_first:
            self._calls.go_on(self._reconcile.has_news, self._takes)
            self.drift.hear()
            for task in self._tasks:
                if task.due() <= now:
                    task.run(now)
        self._reconcile.settle()
        for call in batch.calls:
            call()
        self._calls.beat()

    def end(self) -> None:
        """Let go of everything, whatever fails at that; what the kernel holds stays."""
        nri = () if self._nri is None else (self._nri.stop,)
        kept = (self._linked_pods.stop, self._flow_log.stop, self.frames.stop, self._calls.backend.close)
        told = (self.cutting.stop, self._recorder.stopped, self.history.stop)
        stops = (self.inbox.close, *nri, self._source.stop, *kept, *told, self._collecting.end)
        with contextlib.ExitStack() as stack:
            for stop in reversed(stops):
                stack.callback(stop)

    def _rest(self) -> float:
        """Return for how many seconds there is nothing to do."""
        if not self.inbox.empty:
            return 0.0
        now = self._clock.monotonic()
        due = min(task.due() for task in self._tasks)
        return max(0.0, min(due - now, HEARTBEAT))

    @property
    def families(self) -> tuple[Family, ...]:
        """The address families that it enforces now."""
        return self.host_check.families

    def node_is_named(self) -> bool:
        """Whether any pod names this node. For the loop's own thread, or once the loop has ended."""
        return self._node_name.named()

    def health(self) -> Health:
        """Return the agent's state. For any thread; waits for nothing."""
        return self.views.health()

    def figures(self) -> Figures:
        """Return what metrics are made of. For any thread. Reading the rules' counters takes a while."""
        return self.views.figures()

    def status(self) -> StatusSnapshot:
        """Say what this node enforces and why. For any thread but the loop's own."""
        return self.inbox.ask(self.views.status)

    def extract(self, ends: Sequence[Key | bytes]) -> Extract:
        """Return what the verdict between pods, or packed addresses, depends on.

        For any thread but the loop's own. Raises TimeoutError.
        """
        return self.inbox.ask(lambda: self.views.engine.extract(ends))


def _nri(settings: Settings, source: Source, enforced: Enforced) -> NriPlugin | None:
    """Return the plugin by which the container runtime waits; None where it is not to."""
    if settings.nri_socket is None or not isinstance(source, CniSource):
        return None
    return NriPlugin(settings.nri_socket, source.began, source.ended, enforced.wait)
