"""Ends connections that the new state denies, where ``--cut-denied`` says so.

::

    Reconcile ──what changed──► which ends ──► thread: reads connection tracking, judges what these have open
                                                   │ what may be denied; what was cut and may be allowed again
    kernel ◄── marks, resets ◄── judged again ◄────┘
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent import log
from agent.clock import AT_ONCE, NEVER, Clock
from agent.dataplane.backend import CutMarks
from agent.fault import Fault
from agent.kernel import conntrack, marked, membarrier, resets
from agent.kernel.conntrack import ConntrackError
from agent.kernel.marked import Connection
from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.rtnetlink import read_own_addresses
from agent.net import Protocol, member_address
from agent.observe.cuts import CutsStatus, by_protocol
from agent.policy.engine import Engine
from agent.policy.lower.lowered import Delta
from agent.policy.lower.verdicts import Sort, Verdicts
from agent.policy.program import PodId
from agent.runtime.calls import Calls, Phase
from agent.runtime.cuts import SHOWN, Cut, Tally, protocol_of, sort_of, text_of, unasked
from agent.runtime.inbox import Inbox
from agent.runtime.threads import StartThread, do_beside

_log = log.get(__name__)

BATCH = 100
"""Connections that are ended between two looks for events: some 3 ms."""
MOST = 20_000
"""Connections that one look remembers; the next look finds the others. With so many addresses to look at, it
looks at all."""
REST = 4
"""How many times as long as a look took the next one waits."""
PATIENCE = 0.5
"""Seconds after which a look is made though a write to the kernel goes on: what is denied is closed then."""
RETRY = 1.0
_JUDGED = 10_000
"""Sorts of connections whose verdict a look remembers."""


class Kernel(NamedTuple):
    """What is asked of the kernel; a test gives another."""

    settle: Callable[[], object] = membarrier.packets_judged
    own: Callable[[], frozenset[bytes]] = lambda: _own()
    connections: Callable[[int, marked.Wanted], Iterable[Connection]] = marked.connections
    carrying: Callable[[int], Iterable[Connection]] = marked.carrying
    mark: Callable[[Sequence[Connection], int], list[Connection]] = marked.mark
    forget: Callable[[Iterable[conntrack.Entry]], int] = conntrack.forget_entries
    ask: Callable[[Iterable[tuple[conntrack.Tuple, conntrack.Tuple]], int], OSError | None] = resets.ask


KERNEL = Kernel()


def _own() -> frozenset[bytes]:
    with NetlinkSocket(ROUTE) as netlink:
        return frozenset(read_own_addresses(netlink))


@dataclass
class _Scope:
    """Whose connections are to be looked at, and why. ``again``: cut ones may be allowed now."""

    ends: set[bytes] = field(default_factory=set)
    everything: bool = False
    again: bool = False
    causes: dict[str, None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.ends) or self.everything or self.again

    def add(self, other: _Scope) -> None:
        self.ends |= other.ends
        self.everything = self.everything or other.everything
        self.again = self.again or other.again
        # It may have to wait for long, and causes are names that tenants choose.
        room = max(0, SHOWN - len(self.causes))
        self.causes |= dict.fromkeys([one for one in other.causes if one not in self.causes][:room])
        if len(self.ends) > MOST:
            self.ends, self.everything = set(), True


@dataclass
class _Found:
    """What a look has found: connections that may be denied, and cut ones that may be allowed."""

    scope: _Scope
    marks: CutMarks
    denied: list[Connection] = field(default_factory=list)
    freed: list[Connection] = field(default_factory=list)
    cut: bool = False
    """Whether any cut connection was seen, where all were looked at."""
    more: bool = False
    error: Fault | None = None
    seconds: float = 0.0
    counts: dict[PodId, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """How many were ended, by protocol."""
    examples: dict[PodId, list[str]] = field(default_factory=lambda: defaultdict(list))


class Cutting:
    """A task: due when something changed that may deny connections, and the kernel has the change.

    Only what may be denied by a change is looked at: connections of pods whose policies changed, and of
    addresses that left a set. When the agent begins to enforce, and when nodes change, those of all pods.
    """

    def __init__(
        self,
        *,
        wanted: bool,
        engine: Engine,
        calls: Calls,
        inbox: Inbox,
        clock: Clock,
        start_thread: StartThread,
        kernel: Kernel = KERNEL,
    ) -> None:
        self.wanted = wanted
        self.told: Callable[[Cut], None] = lambda _: None
        self.tally = Tally()
        self.fault: Fault | None = None
        self._unasked: Fault | None = None
        """Why ends of TCP could not be asked to reset, the last time."""
        self._engine = engine
        self._calls = calls
        self._inbox = inbox
        self._clock = clock
        self._start_thread = start_thread
        self._kernel = kernel
        self._scope = _Scope()
        self._since = 0.0
        self._not_before = AT_ONCE
        self._looking = False
        self._found: _Found | None = None
        self._cut = True
        """Whether there may be cut connections in the kernel, of an earlier agent too."""
        self._enforcing = False

    # --- What changed -----------------------------------------------------------------------------------

    def changed(self, delta: Delta) -> None:
        """Take note of what a step changed."""
        if not self.wanted or not self._enforcing or not delta:
            return
        self._want(self._concerned(delta))

    def _want(self, scope: _Scope) -> None:
        if not self._scope:
            self._since = self._clock.monotonic()
        self._scope.add(scope)

    def _concerned(self, delta: Delta) -> _Scope:
        """Return whose connections a change may deny, or allow again."""
        found = _Scope(everything=delta.node_networks, again=self._cut)
        pods = set(delta.pods)
        for policy in delta.policies:
            pods |= self._engine.selected_by(policy.policy)
            found.causes[f"policy {policy.policy}"] = None
        for pod_id in pods:
            if pod_id in delta.pods and not delta.policies:
                found.causes[f"pod {pod_id.pod}"] = None
            pod = self._engine.lowered.pods.get(pod_id)
            if pod is not None:
                found.ends.update(pod.addresses)
        for change in delta.members.values():
            # Who gains nothing but members denies nobody.
            found.ends.update(a for m in change.removed if (a := member_address(m)) is not None)
        if delta.members and not found.causes:
            found.causes["labels or addresses of peers"] = None
        return found

    # --- The task ---------------------------------------------------------------------------------------

    def due(self) -> float:
        """Return when to look, or to go on with what was found."""
        if not self.wanted or self._calls.refused or self._calls.phase is not Phase.ENFORCING:
            return NEVER
        if not self._enforcing or self._found is not None:
            return AT_ONCE
        if not self._scope or self._looking:
            return NEVER
        return max(self._not_before, self._since + PATIENCE if self._calls.backend.busy else AT_ONCE)

    def run(self, now: float) -> None:
        """Look, or end some of the connections that were found."""
        if not self._enforcing:
            # Whatever changed while there was no agent: the kernel holds the new state now.
            self._enforcing = True
            self._want(_Scope(everything=True, again=True, causes={"the agent's start": None}))
        if self._found is not None:
            self._go_on(self._found)
            return
        marks = self._calls.backend.cut_marks()
        if marks is None:
            self._not_before = now + RETRY
            return
        scope, self._scope = self._scope, _Scope()
        self._looking = True
        verdicts = Verdicts(self._engine.lowered)
        ends = frozenset(verdicts.addresses() if scope.everything else scope.ends)
        look = functools.partial(self._look, verdicts, ends, _Found(scope, marks))
        do_beside(self._start_thread, "cut", look)

    def is_cut(self, mark: int) -> bool:
        """Whether a connection with a mark of its own was ended, though it is tracked. For any thread."""
        marks = self._calls.backend.cut_marks() if self.wanted else None
        return marks is not None and bool(mark & marks.connection)

    def faults(self) -> tuple[Fault, ...]:
        """Return why connections cannot be ended, or their ends not be reset."""
        return tuple(fault for fault in (self.fault, self._unasked) if fault is not None)

    def status(self) -> CutsStatus | None:
        """Return what was ended; None where nothing is to be. For the loop's own thread."""
        found = self._found
        return self.tally.status(0 if found is None else len(found.denied)) if self.wanted else None

    # --- The look, on its own thread --------------------------------------------------------------------

    def _look(self, verdicts: Verdicts, ends: frozenset[bytes], found: _Found) -> None:
        began = self._clock.monotonic()
        try:
            self._search(verdicts, ends, found)
        except ConntrackError as error:
            found.error = error.fault()
        except Exception as error:
            _log.exception("looking for denied connections failed")
            found.error = Fault(f"denied connections cannot be looked for: {error}", "see the log")
        found.seconds = self._clock.monotonic() - began
        self._inbox.call(lambda: self._take(found))

    def _search(self, verdicts: Verdicts, ends: frozenset[bytes], found: _Found) -> None:
        kernel, bit = self._kernel, found.marks.connection
        # What was allowed a moment ago may not be tracked yet.
        kernel.settle()
        own = kernel.own()
        known: dict[tuple[bytes, bytes, int, int], bool] = {}

        def denied(*sort: *tuple[bytes, bytes, int, int]) -> bool:
            verdict = known.get(sort)
            if verdict is None:
                if len(known) >= _JUDGED:
                    known.clear()
                one = Sort(*sort)
                free = one.source in own or one.destination in own
                verdict = known[sort] = not free and verdicts.denies(one) is not None
            return verdict

        def wanted(source: bytes, destination: bytes, protocol: int, port: int) -> bool:
            return (source in ends or destination in ends) and denied(source, destination, protocol, port)

        for one in kernel.connections(bit, wanted) if ends else ():
            if not one.marked:
                if len(found.denied) >= MOST:
                    found.more = True
                    break
                found.denied.append(one)
        if found.scope.again:
            for one in kernel.carrying(bit):
                found.cut = True
                if len(found.freed) < MOST and not denied(*sort_of(one)):
                    found.freed.append(one)

    def _take(self, found: _Found) -> None:
        self._looking = False
        self.fault = found.error and found.error._replace(blocking=False)
        if found.error is not None:
            self._want(found.scope)
            self._not_before = self._clock.monotonic() + RETRY
            return
        self._not_before = AT_ONCE if found.more else self._clock.monotonic() + REST * found.seconds
        if found.more:
            self._want(found.scope)
        if found.scope.again:
            self._cut = found.cut
        if found.denied or found.freed:
            self._found = found

    # --- Ending connections, a few at a time ------------------------------------------------------------

    def _go_on(self, found: _Found) -> None:
        verdicts = Verdicts(self._engine.lowered)
        try:
            self._end(verdicts, found)
            self._free(verdicts, found)
        except ConntrackError as error:
            self.fault = error.fault()._replace(blocking=False)
            found.denied.clear()
            found.freed.clear()
            self._want(found.scope)
            self._not_before = self._clock.monotonic() + RETRY
        if not found.denied and not found.freed:
            self._found = None
            self._tell(found)

    def _end(self, verdicts: Verdicts, found: _Found) -> None:
        some, found.denied = found.denied[-BATCH:], found.denied[:-BATCH]
        denied = {one: pod for one in some if (pod := verdicts.denies(sort_of(one))) is not None}
        waiting = {pod for pod in denied.values() if self._engine.waits_in(pod.pod.namespace)}
        cut = [one for one, pod in denied.items() if pod not in waiting]
        if waiting:
            # Policies that are not compiled yet may allow it.
            ends = {end for one, pod in denied.items() if pod in waiting for end in one.ends}
            self._want(_Scope(ends, causes=dict(found.scope.causes)))
            self._not_before = max(self._not_before, self._clock.monotonic() + PATIENCE)
        if not cut:
            return
        self._cut = True
        ended = self._kernel.mark(cut, found.marks.connection)
        asked = [one for one in ended if one.opened.protocol == Protocol.TCP and one.replied and not one.over]
        if asked:
            error = self._kernel.ask(((one.opened, one.reply) for one in asked), found.marks.packet)
            self._unasked = None if error is None else unasked(error)
            self.tally.reset += len(asked) if error is None else 0
        for one in ended:
            if not one.over:
                found.counts[denied[one]][protocol_of(one)] += 1
                if len(examples := found.examples[denied[one]]) < SHOWN:
                    examples.append(text_of(one))

    def _free(self, verdicts: Verdicts, found: _Found) -> None:
        """Have connections that are allowed again judged as new ones."""
        some, found.freed = found.freed[-BATCH:], found.freed[:-BATCH]
        allowed = [one for one in some if verdicts.denies(sort_of(one)) is None]
        if allowed:
            self._kernel.forget(marked.entries(allowed))

    def _tell(self, found: _Found) -> None:
        for pod_id, protocols in sorted(found.counts.items()):
            pod = self._engine.lowered.pods.get(pod_id)
            cut = Cut(
                self._clock.time(),
                pod_id,
                protocols,
                tuple(found.examples[pod_id]),
                tuple(map(str, pod.policies)) if pod is not None else (),
                tuple(found.scope.causes)[:SHOWN],
            )
            self.tally.add(cut)
            _log.info(
                "connections cut",
                pod=str(pod_id.pod),
                direction=pod_id.direction.value,
                connections=cut.connections,
                protocols=by_protocol(protocols),
                examples=cut.examples,
                after=cut.causes,
            )
            self.told(cut)
