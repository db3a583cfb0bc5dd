"""Ends connections that the new state denies, where ``--cut-denied`` says so.

::

    Reconcile ──what changed──► which ends ──► thread: reads connection tracking, judges what these have open
                                                   │ what may be denied; what was cut and may be allowed again
    kernel ◄── marks, resets ◄── judged again ◄────┘
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable

from agent import log
from agent.clock import AT_ONCE, NEVER, Clock
from agent.dataplane.backend import CutMarks
from agent.fault import Fault
from agent.kernel import marked
from agent.kernel.conntrack import ConntrackError, Entry
from agent.kernel.marked import Connection
from agent.net import Protocol, member_address
from agent.observe.cuts import CutsStatus, by_protocol
from agent.policy.engine import Engine
from agent.policy.lower.lowered import Delta
from agent.policy.lower.verdicts import Verdicts
from agent.policy.program import PodId
from agent.runtime.calls import Calls, Phase
from agent.runtime.cut_look import Errand, Judged, Kernel, Look, Waiting
from agent.runtime.cut_scope import Scope, add_causes
from agent.runtime.cuts import Cut, Ended, Tally, seen_from, sort_of, unasked
from agent.runtime.inbox import Inbox
from agent.runtime.threads import StartThread, do_beside

_log = log.get(__name__)

BATCH = 100
"""Connections that are ended between two looks for events: some 10 ms."""
REST, MOST_REST = 4, 0.3
"""How many times as long as a look took the next one waits, and seconds that it waits at most."""
PATIENCE = 0.5
"""Seconds after which a look is made though a write to the kernel goes on: what is denied is closed then."""
RETRY = 1.0


class Cutting:
    """A task: due when something changed that may deny connections, and the kernel has the change.

    Only what may be denied by a change is looked at: connections of pods whose policies changed, and of
    addresses that left a set. When the agent begins to enforce, and when nodes change, those of all pods.
    Looks go on while connections are being ended, and what changes is looked at in the middle of a look that
    takes long, so that no change waits for what an earlier one has denied.
    What may be allowed again is looked for when nothing else is.
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
        kernel: Kernel | None = None,
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
        self._kernel = kernel or Kernel()
        self._resets = self._kernel.resets()
        self._scope = Scope()
        self._more = Scope()
        """What there was no room for: looked at when all else is ended."""
        self._unwritten = Scope()
        """What has changed since the kernel had all that had."""
        self._early = False
        """Whether some of it was looked at all the same, so that more may have been let in since."""
        self._since = 0.0
        self._not_before = AT_ONCE
        self._look: Look | None = None
        """The look that goes on."""
        self._inner = False
        """Whether another one is made in the middle of it."""
        self._marks = CutMarks(0, 0)
        self._waiting = Waiting()
        self._meanwhile: set[Entry] = set()
        """Connections that were ended since the look began."""
        self._ended: dict[PodId, Ended] = defaultdict(Ended)
        self._cut = True
        """Whether there may be cut connections in the kernel, of an earlier agent too."""
        self._again = False
        """Whether some of these may be allowed again."""
        self._again_at = AT_ONCE
        self._freed: list[Connection] = []
        self._enforcing = False

    # --- What changed -----------------------------------------------------------------------------------

    def changed(self, delta: Delta) -> None:
        """Take note of what a step changed."""
        if not self.wanted or not self._enforcing or not delta:
            return
        self._again = self._cut
        scope = self._concerned(delta)
        self._unwritten.add(scope)
        self._want(scope)

    def _want(self, scope: Scope) -> None:
        if scope and not self._scope:
            self._since = self._clock.monotonic()
        self._scope.add(scope)

    def _concerned(self, delta: Delta) -> Scope:
        """Return whose connections a change may deny."""
        found = Scope(everything=delta.node_networks)
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
        if not self._enforcing or self._waiting or self._freed or self._other_marks() is not None:
            return AT_ONCE
        if self._early and self._is_written():
            return AT_ONCE
        return self._next_look()

    def _other_marks(self) -> CutMarks | None:
        """Return by which bits connections are ended now, where it was by others until now."""
        marks = self._calls.backend.cut_marks()
        return None if marks == self._marks else marks

    def _next_look(self) -> float:
        if self._scope and not self._inner:
            return self._soon()
        if self._look is not None or self._waiting:
            return NEVER
        if self._more:
            return self._soon()
        return max(self._not_before, self._again_at) if self._again else NEVER

    def _is_written(self) -> bool:
        """Whether the kernel has all that changed."""
        return not (self._calls.backend.busy or self._calls.retry.pending)

    def _soon(self) -> float:
        """Return when to look at what changed: when the kernel has it, and not all the time."""
        return max(self._not_before, self._since + PATIENCE if self._calls.backend.busy else AT_ONCE)

    def run(self, now: float) -> None:
        """Look, and end some of the connections that were found."""
        if not self._enforcing:
            # Whatever changed while there was no agent: the kernel holds the new state now.
            self._enforcing = self._again = True
            self._want(Scope(everything=True, causes={"the agent's start": None}))
        if (marks := self._other_marks()) is not None:
            if any(self._marks):
                # What was ended carries the bit of before, by which no rule knows it any more.
                self._cut = self._again = True
                self._want(Scope(everything=True, causes={"the bits of packets' marks": None}))
            self._marks = marks
        if self._is_written():
            if self._early:
                self._want(self._unwritten)
            self._unwritten, self._early = Scope(), False
        if self._next_look() <= now:
            self._begin(now)
        if self._waiting or self._freed:
            self._go_on()

    def _begin(self, now: float) -> None:
        marks = self._calls.backend.cut_marks()
        if marks is None:
            self._not_before = now + RETRY
            return
        self._marks = marks
        verdicts = Verdicts(self._engine.lowered)
        look = Look(self._kernel, verdicts, marks.connection)
        if scope := self._taken():
            self._early = self._early or not self._is_written()
            ends = frozenset(verdicts.addresses() if scope.everything else scope.ends)
            search, take = functools.partial(look.search, ends), functools.partial(self._take, look, scope)
            self._start(look, search, take)
        else:
            self._again = False
            self._start(look, look.search_freed, functools.partial(self._take_freed, look))

    def _taken(self) -> Scope:
        """Take out what to look at next: nothing where only what may be allowed again is left."""
        if self._more and self._look is None and not self._waiting:
            # What changed comes in the middle of it. Behind that, it might wait for ever.
            scope, self._more = self._more, Scope()
        else:
            scope, self._scope = self._scope, Scope()
        return scope

    def _start(
        self, look: Look, search: Callable[[], None], take: Callable[[Fault | None, float], None]
    ) -> None:
        work = functools.partial(self._search, search, take)
        if self._look is None:
            self._meanwhile.clear()
            self._begin_beside(Errand(look, work))
        else:
            self._inner = True
            self._look.errands.append(Errand(look, work))

    def _begin_beside(self, errand: Errand) -> None:
        self._look = errand.look
        do_beside(self._start_thread, "cut", errand.work)

    def stop(self) -> None:
        """Give back what is held, and tell what was ended; the next agent ends what is left."""
        self._resets.close()
        for pod, ended in self._ended.items():
            self._tell(pod, ended)
        self._ended.clear()

    def is_cut(self, mark: int) -> bool:
        """Whether a connection with a mark of its own was ended, though it is tracked. For any thread."""
        marks = self._calls.backend.cut_marks() if self.wanted else None
        return marks is not None and bool(mark & marks.connection)

    def faults(self) -> tuple[Fault, ...]:
        """Return why connections cannot be ended, or their ends not be reset."""
        return tuple(fault for fault in (self.fault, self._unasked) if fault is not None)

    def status(self) -> CutsStatus | None:
        """Return what was ended; None where nothing is to be. For the loop's own thread."""
        return self.tally.status(len(self._waiting)) if self.wanted else None

    # --- The look, on its own thread, and what it has found ---------------------------------------------

    def _search(self, search: Callable[[], None], take: Callable[[Fault | None, float], None]) -> None:
        began, error = self._clock.monotonic(), None
        try:
            search()
        except ConntrackError as found:
            error = found.fault()
        except Exception as found:
            _log.exception("looking for denied connections failed")
            error = Fault(f"denied connections cannot be looked for: {found}", "see the log")
        seconds = self._clock.monotonic() - began
        self._inbox.call(lambda: take(error, seconds))

    def _take(self, look: Look, scope: Scope, error: Fault | None, seconds: float) -> None:
        self._looked(look, error, seconds)
        if error is not None:
            self._want(scope)
            return
        for pod, one in look.waiting.items():
            if one.connection.entry not in self._meanwhile and not self._waiting.has(one):
                add_causes(self._ended[pod].causes, scope.causes)
                if (left := self._waiting.put(pod, one)) is not None:
                    # It may be of an earlier look.
                    of_pod, out = left
                    end, _ = seen_from(of_pod, out.connection)
                    self._more.add(Scope({end}, causes=dict(self._ended[of_pod].causes)))
        if look.more:
            self._more.add(scope)

    def _take_freed(self, look: Look, error: Fault | None, seconds: float) -> None:
        self._looked(look, error, seconds)
        self._again_at = self._clock.monotonic() + REST * seconds
        if error is not None:
            self._again = True
            return
        self._cut = look.cut
        self._freed = look.freed
        self._again = self._again or look.more

    def _looked(self, look: Look, error: Fault | None, seconds: float) -> None:
        self.fault = error and error._replace(blocking=False)
        rest = RETRY if error else min(REST * seconds, MOST_REST)
        self._not_before = self._clock.monotonic() + rest
        if look is not self._look:
            self._inner = False
            return
        self._look = None
        if look.errands:
            # It ended before it came to this.
            self._inner = False
            self._begin_beside(look.errands.popleft())

    # --- Ending connections, a few at a time ------------------------------------------------------------

    def _go_on(self) -> None:
        verdicts = Verdicts(self._engine.lowered)
        some = self._waiting.take(BATCH)
        try:
            self._end(verdicts, some)
            self._free(verdicts)
        except ConntrackError as error:
            self.fault = error.fault()._replace(blocking=False)
            some += (one for _, one in self._waiting.items())
            scope = Scope({end for one in some for end in one.connection.ends})
            for ended in self._ended.values():
                add_causes(scope.causes, ended.causes)
            self._want(scope)
            self._again = self._again or bool(self._freed)
            self._waiting.clear()
            self._freed.clear()
            self._not_before = self._clock.monotonic() + RETRY
        if not self._waiting:
            self._resets.close()
        for pod in self._ended.keys() - self._waiting.pods():
            self._tell(pod, self._ended.pop(pod))

    def _end(self, verdicts: Verdicts, some: Iterable[Judged]) -> None:
        cut: dict[Connection, PodId] = {}
        for judged in some:
            one, pod = judged.connection, judged.denied_by(verdicts)
            if pod is None:
                continue
            if self._engine.waits_in(pod.pod.namespace):
                # Policies that are not compiled yet may allow it.
                self._want(Scope(set(one.ends), causes=dict(self._ended[pod].causes)))
                self._not_before = max(self._not_before, self._clock.monotonic() + PATIENCE)
            else:
                cut[one] = pod
        if not cut:
            return
        self._cut = True
        if self._look is not None:
            self._meanwhile.update(one.entry for one in cut)
        ended = self._kernel.mark(list(cut), self._marks.connection)
        asked = [one for one in ended if one.opened.protocol == Protocol.TCP and one.replied and not one.over]
        if asked:
            error = self._resets.ask(((one.opened, one.reply) for one in asked), self._marks.packet)
            self._unasked = None if error is None else unasked(error)
            self.tally.reset += len(asked) if error is None else 0
        pods = {one.entry: pod for one, pod in cut.items()}
        for one in ended:
            of_pod = pods[one.entry]
            if one.helped:
                # It may have let others in since the look; from now on they are born with the mark.
                self._want(Scope(set(one.ends), causes=dict(self._ended[of_pod].causes)))
            if not one.over:
                _, peer = seen_from(of_pod, one)
                self._ended[of_pod].add(one, self._engine.owner(peer))

    def _free(self, verdicts: Verdicts) -> None:
        """Have connections that are allowed again judged as new ones."""
        some, self._freed = self._freed[-BATCH:], self._freed[:-BATCH]
        allowed = [one for one in some if verdicts.denies(sort_of(one)) is None]
        if allowed:
            self._kernel.forget(marked.entries(allowed))

    def _tell(self, pod_id: PodId, ended: Ended) -> None:
        if not ended.protocols:
            return
        pod = self._engine.lowered.pods.get(pod_id)
        cut = ended.told(self._clock.time(), pod_id, pod.policies if pod is not None else ())
        self.tally.add(cut)
        _log.info(
            "connections cut",
            pod=str(pod_id.pod),
            direction=pod_id.direction.value,
            connections=cut.connections,
            protocols=by_protocol(cut.protocols),
            examples=cut.examples,
            after=cut.causes,
        )
        self.told(cut)
