"""From an agent that knows nothing to one that enforces: when it begins to write, and from what."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent import log
from agent.clock import AT_ONCE, NEVER, Clock
from agent.kube.model import Kind
from agent.net import Direction
from agent.policy.engine import Engine
from agent.runtime.calls import Calls, Phase
from agent.runtime.drift import Drift
from agent.runtime.linked_pods import LinkedPods
from agent.runtime.node_name import NodeName
from agent.runtime.reconcile import Reconcile
from agent.sources.source import Source

_log = log.get(__name__)


class FirstStart:
    """Moves the phase on. Due when enough is known for the next one, or for another try; not once enforcing.

    ::

        OPEN ──► a pod here is isolated, by what is known of this node, or all is known ──► WRITING
          │                                                                                 ▲  │
          │ the kernel holds something all the same                                         │  │
          ▼                                                                                 │  ▼
        HELD ──► all is known and compiled ─────────────────────────────────────────────────┘  all is written
                                                                                               │
                                                                                               ▼
                                                                                           ENFORCING
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        calls: Calls,
        reconcile: Reconcile,
        drift: Drift,
        linked_pods: LinkedPods,
        node_name: NodeName,
        clock: Clock,
    ) -> None:
        self.began_at = clock.time()
        self.adopted: Callable[[Mapping[Direction, set[bytes]]], None] = lambda _: None
        """Called with the addresses that the kernel holds isolated before the agent begins to write."""
        self.enforcing: Callable[[], None] = lambda: None
        """Called when everything that the sources knew has been in the kernel once."""
        self._source = source
        self._engine = engine
        self._calls = calls
        self._reconcile = reconcile
        self._drift = drift
        self._linked_pods = linked_pods
        self._node_name = node_name
        self._clock = clock

    def due(self) -> float:
        """Return when it can go on."""
        if self._calls.phase is Phase.ENFORCING:
            return NEVER
        if self._calls.phase is Phase.WRITING:
            return AT_ONCE if self._is_written() else NEVER
        if self._calls.retry.pending:
            return self._calls.retry.at
        if self._reconcile.told_everything():
            return AT_ONCE
        return AT_ONCE if self._can_isolate() and self._engine.lowered.pods else NEVER

    def run(self, now: float) -> None:
        """Go on."""
        if self._calls.phase is Phase.WRITING:
            self._enforcing()
        elif self._reconcile.told_everything():
            # Where the kernel holds something, what is not compiled yet would be closed for a moment.
            if self._calls.phase is Phase.OPEN or not self._engine.waiting:
                self._first_sync(now)
        elif self._can_isolate():
            self._isolate()

    def _first_sync(self, now: float) -> None:
        self._calls.retry.begun()
        try:
            isolated = self._calls.backend.adopt()
            self.adopted(isolated)
            self._node_name.look()
            if self._node_name.fault is not None and any(isolated.values()):
                # A name mistyped must not open what an agent with the right one has closed.
                self._calls.failed(self._node_name.fault._replace(blocking=True))
                return
            self._engine.adopt(isolated, now)
            if any(isolated.values()):
                # What an earlier run judged by links stays judged by them.
                self._calls.backend.expect(self._linked_pods.look())
        except MemoryError:
            raise
        except Exception as error:
            self._calls.unread(error)
            return
        self._begin()

    def _can_isolate(self) -> bool:
        """Whether everything is known that says which pods here are isolated, by which rules.

        Asked on a node where all of them are open. Where the kernel holds anything, its pods stay as they are
        until everything is known: there this would close what was rightly open.
        """
        if self._calls.phase is not Phase.OPEN:
            return False
        others = [kind for kind in self._source.states() if kind is not Kind.POD]
        return self._engine.synced(Kind.POD, here=True) and all(map(self._engine.synced, others))

    def _isolate(self) -> None:
        """Isolate this node's pods before the others' are known; peers are let in as they become known."""
        self._calls.retry.begun()
        isolated = self._engine.lowered.pods
        if not isolated:
            # What is listed or changes until everything is known may still isolate one.
            return
        try:
            held = self._calls.backend.adopt()
        except MemoryError:
            raise
        except Exception as error:
            self._calls.unread(error)
            return
        self._calls.phase = Phase.HELD
        if not any(held.values()):
            _log.info("isolating", isolated_pods=len({pod.pod for pod in isolated}))
            self._begin()

    def _begin(self) -> None:
        """Write what is known, and from then on what changes."""
        self._calls.phase = Phase.WRITING
        self._reconcile.sync()
        self._drift.begin()
        if self._is_written():
            self._enforcing()

    def _is_written(self) -> bool:
        """Whether everything that the sources told is in the kernel."""
        calls = self._calls
        late = calls.retry.pending or calls.backend.busy or self._engine.waiting
        return not late and self._reconcile.told_everything()

    def _enforcing(self) -> None:
        self._calls.phase = Phase.ENFORCING
        last, program = self._calls.last, self._engine.lowered
        _log.info(
            "enforcing",
            seconds=round(last.seconds if last else 0.0, 3),
            since_start=round(self._clock.time() - self.began_at, 3),
            isolated_pods=len({pod.pod for pod in program.pods}),
            policies=len({policy.policy for policy in program.policies}),
        )
        self.enforcing()
