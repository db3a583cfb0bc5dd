"""Has frames of pods guarded by their links, where that is wanted; else removes what an earlier run left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from agent import log
from agent.clock import AT_ONCE, NEVER, Clock
from agent.dataplane.frames import TABLE
from agent.dataplane.podlinks import PodLink
from agent.fault import Fault
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import NETDEV, generation, table_of
from agent.observe.links import Guarded
from agent.policy.engine import Engine
from agent.runtime.calls import Calls, Phase
from agent.runtime.inbox import Inbox
from agent.runtime.linked_pods import LinkedPods
from agent.runtime.threads import StartThread

if TYPE_CHECKING:
    from agent.dataplane.frames.bindings import Held
    from agent.dataplane.frames.guard import FrameGuard, Guarding

_log = log.get(__name__)

ASK_EVERY = 1.0
"""Seconds between two questions to the kernel whether anybody wrote rules of nftables."""
_PATIENCE = 2.0
"""Seconds that are waited at the end for what is being written."""
RETRY = 1.0
"""Seconds after which what could not be written is tried again."""
_NO_THREAD = "let the agent have more threads, and memory for them (pids.max, ulimit -u, ulimit -v)"


def make_guard() -> FrameGuard:
    """Return what writes the table. It takes memory, so that it is loaded only where it is wanted."""
    from agent.dataplane.frames.guard import FrameGuard

    return FrameGuard()


def guarding(faults: tuple[Fault, ...]) -> Guarding:
    """Return what is said of a call that failed altogether."""
    from agent.dataplane.frames.guard import Guarding

    return Guarding(0, frozenset(), faults, pending=True)


def let_go() -> tuple[Fault, ...]:
    """Remove what an earlier run left; return what stays, and why."""
    try:
        with NetlinkSocket() as netlink:
            if table_of(netlink, NETDEV, TABLE) is None:
                return ()
    except OSError:
        return ()  # a kernel without nftables has none of its tables
    from agent.dataplane.frames.guard import remove

    _log.info("frames of pods are no longer guarded", table=TABLE)
    return remove()


def version() -> int | None:
    """Return the number of the kernel's rules of nftables, which every transaction counts up."""
    try:
        with NetlinkSocket() as netlink:
            return generation(netlink)
    except OSError:
        return None


def read_dropped() -> dict[str, int]:
    """Return how many frames were dropped since the table was made, by the reason; none if that fails."""
    from agent.dataplane.frames.guard import dropped

    try:
        return dropped()
    except OSError:
        return {}


class Kernel(NamedTuple):
    """By what the kernel is reached; a test gives another."""

    make_guard: Callable[[], FrameGuard] = make_guard
    let_go: Callable[[], tuple[Fault, ...]] = let_go
    version: Callable[[], int | None] = version
    dropped: Callable[[], dict[str, int]] = read_dropped


KERNEL = Kernel()


class Settled(NamedTuple):
    """Whose frames are guarded: the links, and by their index what each may send as.

    ``links`` is None where frames are not to be guarded. ``commits``: how many have been made until then.
    """

    commits: int
    links: tuple[PodLink, ...] | None
    held: Held


NOT_GUARDED = Settled(0, None, {})


class Frames:
    """Due when links have changed, each second to ask whether somebody wrote, and each drift interval.

    The table is written by a thread of its own, since others' transactions may hold the kernel's lock. Until
    the links of this run are known, an earlier run's table stays as it is. It stays too while links cannot
    be looked for.
    """

    def __init__(
        self,
        wanted: bool,
        interval: float,
        engine: Engine,
        linked_pods: LinkedPods,
        calls: Calls,
        inbox: Inbox,
        clock: Clock,
        start_thread: StartThread,
        kernel: Kernel = KERNEL,
    ) -> None:
        self.faults: tuple[Fault, ...] = ()
        self.repaired: Callable[[Sequence[str]], None] = lambda _: None
        """Called with what somebody else had changed, which has been put back."""
        self._wanted = wanted
        self._interval = interval
        self._engine = engine
        self._linked_pods = linked_pods
        self._calls = calls
        self._inbox = inbox
        self._clock = clock
        self._start_thread = start_thread
        self._kernel = kernel
        self._guard: FrameGuard | None = None
        self._links: frozenset[str] | None = None
        """Whose frames are guarded; None: nothing was written yet."""
        self._running = False
        self._taken = -1
        self._version: int | None = None
        self._ask_at = AT_ONCE
        self._at = AT_ONCE
        self._followed: tuple[PodLink, ...] = ()
        self._commits = 0
        self._renewing = False
        self._one = threading.Lock()
        """Held while the table is written."""
        self._stopping = False

    def start(self) -> None:
        """Remove what an earlier run left, where that is no longer wanted."""
        if not self._wanted:
            self.faults = self._kernel.let_go()

    def stop(self) -> None:
        """Let go of the table, which stays: another agent of this process is to take it over.

        What is being written just now is waited for; what hangs lets go by itself when it ends.
        """
        self._stopping = True
        if self._one.acquire(timeout=_PATIENCE):
            try:
                self._close()
            finally:
                self._one.release()

    def _close(self) -> None:
        if self._guard is not None:
            self._guard.close()

    @property
    def writing(self) -> bool:
        """Whether the table is being written, which is not counted as this agent's own until it is done."""
        return self._running

    def due(self) -> float:
        """Return when to look."""
        if not self._wanted or self._running or self._calls.phase is not Phase.ENFORCING:
            return NEVER
        if self._links is not None and self._linked_pods.changes != self._taken and self._known():
            return AT_ONCE
        return min(self._at, self._ask_at)

    def run(self, now: float) -> None:
        """Have the table follow the links, if there is a reason to."""
        asked, self._ask_at = now >= self._ask_at, now + ASK_EVERY
        if not self._known():
            self._at = now + ASK_EVERY
            return
        others = asked and self._kernel.version() != self._version
        if not (others or now >= self._at or self._linked_pods.changes != self._taken):
            return
        self._at, self._taken = now + self._interval, self._linked_pods.changes
        links, guard = self._linked_pods.known(), self._guard or self._kernel.make_guard()
        self._guard, self._running, self._followed = guard, True, links
        if self._renewing:
            self._renewing = False
            guard.forget()

        def follow() -> None:
            with self._one:
                try:
                    done = guard.follow(links)
                except Exception as error:
                    # Whatever it is: it is told and tried again, and the loop goes on.
                    what = f"frames of pods are not guarded: {type(error).__name__}: {error}"
                    done = guarding((Fault(what, "report this", reason="defect"),))
                if self._stopping:
                    self._close()
            seen = self._kernel.version()
            self._inbox.call(lambda: self._done(done, seen))

        try:
            self._start_thread("frames", follow)
        except RuntimeError as error:
            self._running, self._at = False, now + RETRY
            self.faults = (Fault(f"frames of pods are not guarded anew: {error}", _NO_THREAD),)

    def settled(self) -> Settled | None:
        """Return whose frames the kernel guards; None while that is not known, or being written."""
        if not self._wanted:
            return NOT_GUARDED
        if self._guard is None or self._running or self._linked_pods.changes != self._taken:
            return None
        if not self._known():
            return None
        if self._linked_pods.known() != self._followed:
            # An address inside a pod has become another's.
            self._at = AT_ONCE
            return None
        return Settled(self._commits, self._followed, self._guard.held)

    def renew(self) -> None:
        """Write the whole table anew, since a proof has found it to differ."""
        self._renewing, self._at = True, AT_ONCE

    def _known(self) -> bool:
        """Whether the links of this run are known, so that none is let go for that."""
        return self._linked_pods.looked if self._links is not None else self._linked_pods.settled

    def _done(self, done: Guarding, seen: int | None) -> None:
        self._running = False
        self._version = seen
        self._links = done.links
        self._commits += done.commits
        self.faults = done.faults
        self._calls.backend.authors.wrote_beside(done.commits)
        if done.pending:
            self._at = min(self._at, self._clock.monotonic() + RETRY)
        if done.drift:
            self.repaired(done.drift)

    def dropped(self) -> dict[str, int]:
        """Return how many frames were dropped since the table was made, by the reason. For any thread."""
        return {} if self._links is None else self._kernel.dropped()

    def guarded(self) -> Guarded | None:
        """Say of how many pods frames are guarded; None where that is not wanted. For any thread."""
        if not self._wanted:
            return None
        pods = {pod.key for pod in self._engine.local_pods() if pod.addresses}
        links = self._links
        if links is None:
            return Guarded(len(pods), begun=False)
        guarded = {pod for name, pod in self._linked_pods.pods_by_link().items() if name in links}
        return Guarded(len(pods), tuple(sorted(map(str, pods - guarded))))
