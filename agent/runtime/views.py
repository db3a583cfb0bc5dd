"""What the tasks tell of themselves: the agent's health, and its status."""

from __future__ import annotations

from dataclasses import dataclass

from agent import __version__
from agent.clock import Clock
from agent.fault import Fault
from agent.observe.health import Health, readyz
from agent.observe.snapshot import Facts, StatusSnapshot, take
from agent.policy.engine import Engine
from agent.runtime import overbudget
from agent.runtime.backends import ModeChoice
from agent.runtime.calls import Calls, Phase
from agent.runtime.drift import Drift
from agent.runtime.first_start import FirstStart
from agent.runtime.host_check import HostCheck
from agent.runtime.link_watch import LinkWatch
from agent.runtime.linked_pods import LinkedPods
from agent.runtime.node_name import NodeName
from agent.sources.source import Source


@dataclass(frozen=True)
class Views:
    """Reads the tasks and changes nothing."""

    node: str
    choice: ModeChoice
    source: Source
    engine: Engine
    calls: Calls
    first_start: FirstStart
    drift: Drift
    host_check: HostCheck
    link_watch: LinkWatch
    linked_pods: LinkedPods
    node_name: NodeName
    clock: Clock

    def health(self) -> Health:
        """Return the agent's state. For any thread; waits for nothing."""
        return Health(
            now=self.clock.time(),
            heartbeat=self.calls.heartbeat,
            caches=self.source.states(),
            applied=self.calls.phase is Phase.ENFORCING,
            faults=self._faults(),
            threads={**self.source.threads(), **self._threads()},
            links=str(self.linked_pods.counts),
        )

    def status(self) -> StatusSnapshot:
        """Say what this node enforces and why. For the loop's own thread, between two steps."""
        last = self.calls.last
        facts = Facts(
            node=self.node,
            version=__version__,
            now=self.clock.time(),
            started=self.first_start.began_at,
            ready=readyz(self.health()).ok,
            applied=self.calls.phase.begun,
            iptables_mode=self.choice.mode,
            iptables_mode_reason=self.choice.reason,
            families=tuple(int(f) for f in self.host_check.families),
            states=self.source.states(),
            faults=self._faults(),
            apply_at=self.calls.last_at,
            apply_seconds=last.seconds if last else 0.0,
            apply_writes=last.writes if last else 0,
            apply_result="ok" if last is None or not last.pending else "; ".join(f.what for f in last.faults),
            error_at=self.calls.error[1],
            error=self.calls.error[0],
            retry_pending=self.calls.retry.pending,
            drift_check_at=self.drift.checked_at,
            repairs=self.drift.repairs + self.host_check.sysctls.repairs,
            over_budget={key: str(excess) for key, excess in self.engine.over_budget().items()},
            closed_by_budget=self.engine.closed_by_budget(),
            links=self.linked_pods.counts,
        )
        return take(facts, self.engine.lowered, self.calls.backend.view())

    def _faults(self) -> tuple[Fault, ...]:
        node = () if self.node_name.fault is None else (self.node_name.fault,)
        host, over = self.host_check.faults(), overbudget.faults(self.engine.over_budget())
        return (*self.choice.faults, *host, *node, *self.calls.faults, *self.calls.standing, *over)

    def _threads(self) -> dict[str, bool]:
        """Return the loop's own threads, once they were started, and whether they live."""
        if not self.link_watch.started:
            return {}
        return {"links": self.link_watch.alive, "pod-links": self.linked_pods.alive}
