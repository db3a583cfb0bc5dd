"""The thread that reads the packets which rules log, and tells what became of them."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from agent import log
from agent.clock import Clock
from agent.dataplane.logged import Decided, LogCount, judged_by
from agent.fault import Fault
from agent.kernel.headers import decode
from agent.kernel.nflog import Logged, NflogSocket
from agent.kube.logging import Amount
from agent.kube.model import Key
from agent.net import Direction
from agent.observe.flows.flow import REASONS, Report, Unlogged
from agent.observe.flows.hub import Flows
from agent.observe.flows.inventory import Inventory
from agent.observe.flows.sinks import sink_of
from agent.policy.engine import Engine
from agent.runtime.inbox import Inbox
from agent.runtime.threads import StartThread
from agent.settings import Settings
from agent.words import count, one_line

if TYPE_CHECKING:
    from agent.observe.flows.asked import Ask
    from agent.observe.flows.digest import Digest
    from agent.observe.flows.events import EventSink
    from agent.sources.apiserver.services import Services

_log = log.get(__name__)

IDLE = 1.0
"""Seconds between two looks whether to stop."""
GATHER = 0.25
"""Seconds after a packet in which more are gathered, so that the loop is asked about all of them at once."""
RETRY = 10.0
"""Seconds after which a group that cannot be listened to is tried again."""


class Listening(Protocol):
    """Where logged packets come from."""

    lost: int
    overruns: int

    def read(self, seconds: float) -> list[Logged]:
        """Return what has come, after waiting at most so many seconds for the first. Raises OSError."""
        ...


Counted = Mapping[tuple[Direction, str], LogCount]
"""By direction and pod, as ``namespace/name``."""

Sink = Callable[[Report], None]
"""Takes each report; raises nothing, and waits for nobody."""


class FlowLog:
    """Reads, digests and tells, on a thread of its own. The loop is asked for names a few times a second.

    ``listen`` opens the group, once something is ``wanted``: whether any pod's connections are logged.
    ``count`` reads the rules' counters, and is called at the end of a window in which the limit may have left
    packets out. Both may raise OSError. ``services`` says which Service has an address.
    """

    def __init__(
        self,
        inventory: Inventory,
        flows: Flows,
        sinks: Sequence[Sink],
        clock: Clock,
        start_thread: StartThread,
        listen: Callable[[], AbstractContextManager[Listening]],
        *,
        wanted: Callable[[], bool],
        window: float,
        burst: int,
        count: Callable[[], Counted] = dict,
        faults: Callable[[], tuple[Fault, ...]] = tuple,
        events: EventSink | None = None,
        services: Ask | None = None,
    ) -> None:
        self._flows = flows
        self._events = events
        self._services = services
        self._sinks = (flows.put, *sinks, *(() if events is None else (events.put,)))
        self._clock = clock
        self._start_thread = start_thread
        self._listen = listen
        self._wanted = wanted
        self._window = window
        self._burst = burst
        self._count = count
        self._more_faults = faults
        self._inventory = inventory
        self._stopping = threading.Event()
        self._fault: tuple[Fault, ...] = ()
        self._came: Counter[tuple[Direction, bytes]] = Counter()
        self._window_ends = float("inf")
        self._counted: dict[tuple[Direction, str], LogCount] = {}
        self._lost = 0
        self.unlogged: Counter[str] = Counter()
        """How many packets were not logged since the start, by the word for why. For any thread."""

    @functools.cached_property
    def _digest(self) -> Digest:
        # Most nodes log nothing: the specification, which says why, is not loaded there.
        from agent.observe.flows.digest import Digest

        if self._services is None:
            return Digest(self._inventory, self._window, self._clock.time)
        from agent.observe.flows.asked import ServiceNames

        named = ServiceNames(self._services, self._clock)
        return Digest(self._inventory, self._window, self._clock.time, named.name)

    def start(self) -> None:
        """Begin to listen."""
        self._start_thread("flows", self._run)
        if self._events is not None:
            self._start_thread("events", self._events.run)

    def stop(self) -> None:
        """Have the thread end soon, and let go of all who follow."""
        self._stopping.set()
        if self._events is not None:
            self._events.stop()
        self._flows.close()

    def faults(self) -> tuple[Fault, ...]:
        """Return what keeps connections from being logged as was asked. For any thread."""
        events = () if self._events is None else self._events.faults()
        return (*self._fault, *events, *self._more_faults())

    def _run(self) -> None:
        while not self._wanted():
            if self._stopping.wait(IDLE):
                return
        while not self._stopping.is_set():
            try:
                with self._listen() as listening:
                    self._fault = ()
                    self._lost = 0
                    while not self._stopping.is_set():
                        self.turn(listening)
            except OSError as error:
                fault = Fault(
                    f"connections are not logged: {error.strerror or error}",
                    "another program may read the NFLOG group: choose another with --log-group, or load the "
                    "kernel module nfnetlink_log; enforcement goes on",
                    blocking=False,
                )
                if self._fault != (fault,):
                    _log.warning("connections are not logged", fault=fault.what, remedy=fault.remedy)
                self._fault = (fault,)
                self._stopping.wait(RETRY)
            except Exception:
                _log.exception("logging connections failed")
                self._stopping.wait(RETRY)

    def turn(self, listening: Listening) -> None:
        """Wait for packets, and tell what there is to tell. Raises OSError when the group is lost."""
        packets = listening.read(self._rest())
        if packets:
            end = self._clock.monotonic() + GATHER
            while len(packets) < _ENOUGH and (left := end - self._clock.monotonic()) > 0:
                packets += listening.read(left)
            if len(packets) >= _ENOUGH:
                self._clock.sleep(max(0.0, end - self._clock.monotonic()))
        now = self._clock.monotonic()
        self._digest.take(packets, now)
        self._digest.left_out(listening.lost - self._lost, "they came faster than they were read", now)
        self._lost = listening.lost
        self._note(packets, now)
        for report in self._digest.reports(now):
            self._tell(report)
        if self._window_ends <= now:
            self._tell_swallowed()

    def _rest(self) -> float:
        now = self._clock.monotonic()
        due = self._digest.due()
        ends = [end for end in (due, self._window_ends) if end is not None]
        return max(0.0, min(IDLE, *(end - now for end in ends)))

    def _tell(self, report: Report) -> None:
        if isinstance(report, Unlogged):
            self.unlogged[REASONS.get(report.why, "other")] += report.packets
        for sink in self._sinks:
            sink(report)

    def _note(self, packets: Sequence[Logged], now: float) -> None:
        """Count what was, or would be, denied of each pod, to see where the limit may have left some out."""
        for packet in packets:
            judged, headers = judged_by(packet.prefix), decode(packet.payload)
            if judged is None or headers is None or judged.verdict is Decided.ALLOWED:
                continue
            if judged.cause is not None:
                continue
            own = headers.destination if judged.direction is Direction.INGRESS else headers.source
            which = judged.direction, own
            if which in self._came or len(self._came) < _COUNTED:
                self._came[which] += 1
        if packets and self._window_ends == float("inf"):
            self._window_ends = now + self._window

    def _tell_swallowed(self) -> None:
        """Tell how many packets the limit has left out, by the rules' own counters."""
        many = len(self._came) >= _COUNTED or any(number >= self._burst for number in self._came.values())
        self._came.clear()
        self._window_ends = float("inf")
        if not many:
            return
        try:
            counted = self._count()
        except OSError as error:
            _log.warning("what was not logged cannot be counted", error=str(error))
            return
        at = self._digest.moment()
        for (direction, pod), found in sorted(counted.items()):
            before = self._counted.get((direction, pod), LogCount(0, 0))
            begun_anew = found.denied < before.denied or found.logged < before.logged
            left = found.denied - found.logged - (0 if begun_anew else before.denied - before.logged)
            if left > 0:
                self._tell(Unlogged(at, left, "more than --log-rate allows", pod, direction))
        self._counted = dict(counted)


_ENOUGH = 1024
"""So many packets are read in :data:`GATHER` seconds at most. With ``all`` a pod may have more logged than
can be read, and reading takes the processor from the loop: the rest is lost in the kernel, and counted."""

_COUNTED = 256
"""Addresses of which denied packets are counted in a window. More are not one node's pods: a pod forges
them."""


_SERVICE_SECONDS = 1.0
"""An answer about a Service may take so long: meanwhile logged packets wait for their reader."""


def listen_to(group: int) -> Callable[[], NflogSocket]:
    """Return what opens a group in the network namespace of the thread that calls it."""
    return lambda: NflogSocket(group)


def make_flow_log(
    settings: Settings,
    engine: Engine,
    inbox: Inbox,
    flows: Flows,
    counted: Callable[[], Counted],
    links: Callable[[], Mapping[str, Key]],
    clock: Clock,
    start_thread: StartThread,
) -> FlowLog:
    """Make what reads and tells logged connections as the settings say.

    The inventory is asked between two steps of the loop; the engine's view of who is logged, from any thread.
    """
    inventory = Inventory(
        lambda addresses: inbox.ask(lambda: engine.extract(addresses)),
        lambda: inbox.ask(engine.all_pods),
        links,
    )
    sink, faults = sink_of(settings.flow_log, settings.flow_log_size)
    events = None
    if settings.events and settings.manifests is None:
        from agent.observe.flows.events import EventSink, by
        from agent.sources.apiserver.connect import Connection

        connection = Connection(settings.kubeconfig or None, settings.context or None)
        events = EventSink(by(connection), settings.node_name, clock)
    return FlowLog(
        inventory,
        flows,
        (sink,),
        clock,
        start_thread,
        listen_to(settings.log_group),
        wanted=lambda: settings.logging.logs() or bool(engine.lowered.logging or engine.lowered.audited),
        window=settings.log_window,
        burst=settings.log_burst,
        count=counted,
        faults=lambda: (*faults(), *_unknown(engine)),
        events=events,
        services=_services(settings) if settings.manifests is None else None,
    )


def _services(settings: Settings) -> Ask:
    """Return what asks the API server which Service has an address; it connects when first asked."""

    @functools.cache
    def services() -> Services:
        from agent.sources.apiserver.connect import Connection
        from agent.sources.apiserver.services import Services

        connection = Connection(settings.kubeconfig or None, settings.context or None)
        return Services(connection, seconds=_SERVICE_SECONDS)

    return lambda address: services().name_at(address)


def _unknown(engine: Engine) -> tuple[Fault, ...]:
    """Return what is wrong with annotations about logging."""
    found = engine.unknown_logging()
    if not found:
        return ()
    (kind, key), said = min(found.items())
    more = f", and of {count(len(found) - 1, 'other object')}," if len(found) > 1 else ""
    what = f"the annotation {one_line(said[0])} of {kind} {key}{more} is not known, and counts as none"
    return (Fault(what, f"give one of {', '.join(Amount)}", blocking=False),)
