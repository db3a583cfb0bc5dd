"""What the tasks tell of themselves: the agent's health, and its status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from agent import __version__
from agent.clock import Clock
from agent.dataplane.traffic import NO_TRAFFIC, Meter
from agent.fault import Fault
from agent.history.writer import Writer
from agent.kube.mode import Mode
from agent.kube.model import Key, Kind, Pod
from agent.net import Direction, Family, family_of
from agent.observe.health import Health, readyz
from agent.observe.metrics.figures import Figures
from agent.observe.snapshot import Facts, StatusSnapshot, take
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from agent.runtime import overbudget, staging
from agent.runtime.backends import ModeChoice
from agent.runtime.calls import Calls, Phase
from agent.runtime.cutting import Cutting
from agent.runtime.drift import Drift
from agent.runtime.first_start import FirstStart
from agent.runtime.flow_log import FlowLog
from agent.runtime.frames import Frames
from agent.runtime.host_check import HostCheck
from agent.runtime.leads import Leads
from agent.runtime.link_watch import LinkWatch
from agent.runtime.linked_pods import LinkedPods
from agent.runtime.new_pods import NewPods
from agent.runtime.node_name import NodeName
from agent.runtime.proving import Proving
from agent.runtime.reconcile import Reconcile
from agent.runtime.scarcity import Scarcity
from agent.runtime.unconfirmed import Unconfirmed
from agent.sources.cni.source import CniSource, CniState
from agent.sources.nri.plugin import NriPlugin
from agent.sources.source import Source


@dataclass(frozen=True)
class Views:
    """Reads the tasks and changes nothing."""

    node: str
    choice: ModeChoice
    origin: str
    """The kind of source."""
    source: Source
    engine: Engine
    calls: Calls
    reconcile: Reconcile
    first_start: FirstStart
    drift: Drift
    host_check: HostCheck
    link_watch: LinkWatch
    linked_pods: LinkedPods
    frames: Frames
    node_name: NodeName
    meter: Meter
    history: Writer
    flow_log: FlowLog
    unconfirmed: Unconfirmed
    cutting: Cutting
    leads: Leads
    proving: Proving
    nri: NriPlugin | None
    new_pods: NewPods
    scarcity: Scarcity
    clock: Clock

    def health(self) -> Health:
        """Return the agent's state. For any thread; waits for nothing."""
        return Health(
            now=self.clock.time(),
            heartbeat=self.calls.heartbeat,
            caches=self.source.states(),
            applied=self.calls.phase is Phase.ENFORCING,
            faults=self._faults(),
            threads={**self.source.threads(), **self._threads(), **(self.nri.threads() if self.nri else {})},
            links=str(self.linked_pods.counts),
            results=self._results(),
            proof=self.proving.state(),
            frames=self.frames.guarded(),
            nri=None if self.nri is None else self.nri.state(),
            new_pods=self.new_pods.status(),
        )

    def _results(self) -> CniState | None:
        return self.source.state() if isinstance(self.source, CniSource) else None

    def _is_early(self, pod: Key) -> bool:
        found = self.engine.known(Kind.POD, pod)
        return isinstance(found, Pod) and found.attached.early

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
            repair=self.drift.last,
            proof=self.proving.state(),
            repairs=self.drift.repairs + self.host_check.sysctls.repairs,
            over_budget={key: str(excess) for key, excess in self.engine.over_budget().items()},
            closed_by_budget=self.engine.closed_by_budget(),
            links=self.linked_pods.counts,
            staged=self.engine.staging.staged(),
            workload=self.engine.workload_of,
            early=self._is_early,
            results=self._results(),
            unconfirmed=self.unconfirmed.policies(),
            new_pods=self.new_pods.status(),
            cuts=self.cutting.status(),
        )
        return take(facts, self.engine.lowered, self.calls.backend.view())

    def figures(self) -> Figures:
        """Return what metrics are made of. For any thread. Reading the rules' counters takes a while."""
        health, calls, view = self.health(), self.calls, self.calls.backend.view()
        program, latency = self.engine.lowered, self.reconcile.latency
        chains: Counter[int] = Counter()
        rules: Counter[int] = Counter()
        for name, count in view.chains.items():
            family = int(name.rpartition("/")[2])
            chains[family] += 1
            rules[family] += count
        sets: Counter[int] = Counter()
        members: Counter[int] = Counter()
        for set_id, (_, size) in view.sets.items():
            sets[int(set_id.family)] += 1
            members[int(set_id.family)] += size
        over = Counter(
            "namespace" if excess.whole else "policy" for excess in self.engine.over_budget().values()
        )
        modes = Counter(self.engine.staging.staged().values())
        return Figures(
            version=__version__,
            iptables_mode=self.choice.mode,
            source=self.origin,
            ready=readyz(health).ok,
            enforcing=health.applied,
            heartbeat=health.heartbeat,
            faults=Counter(fault.blocking for fault in health.faults),
            isolated={(d.value, int(f)): n for (d, f), n in isolated(program).items()},
            policies={d.value: sum(p.direction is d for p in program.policies.copy()) for d in Direction},
            audited={d.value: sum(p.direction is d for p in program.audited.copy()) for d in Direction},
            staged={mode.value: modes[mode] for mode in (Mode.AUDIT, Mode.DISABLED)},
            closed={d.value: len(program.closed[d]) for d in Direction},
            unknown=len(health.new_pods.closed) if health.new_pods is not None else 0,
            over_budget={budget: over[budget] for budget in ("policy", "namespace")},
            chains=_of_both(chains),
            rules=_of_both(rules),
            sets=_of_both(sets),
            members=_of_both(members),
            states=health.caches,
            results=0 if health.results is None else health.results.results,
            early=0 if health.results is None else health.results.early,
            leads=self.leads.seconds.read(),
            sandboxes={} if health.nri is None else health.nri.answered,
            latency={change.value: seconds.read() for change, seconds in latency.seconds.items()},
            creation=latency.created.read(),
            calls={call.name.lower(): seconds.read() for call, seconds in calls.counts.seconds.items()},
            failures={(c.name.lower(), reason): n for (c, reason), n in calls.counts.failures.copy().items()},
            writes=view.counts.writes,
            applied_at=calls.last_at,
            retry_pending=calls.retry.pending,
            drift={what.name.lower(): count for what, count in self.drift.found.copy().items()},
            drift_authors=self.drift.authors.copy(),
            drift_looked_at=self.drift.checked_at,
            proved_at=self.proving.proved_at,
            proof_interval=self.proving.pause,
            proof_differences=len(self.proving.result.differences) if self.proving.result else 0,
            proof_found=self.proving.found,
            sysctl_repairs=self.host_check.sysctls.repairs,
            connections_cut=self.cutting.tally.connections,
            connections_deleted=view.counts.connections_deleted,
            cache_flushes=view.counts.cache_flushes,
            history_missing=self.history.missing(),
            frames_dropped=self.frames.dropped(),
            unlogged=self.flow_log.unlogged.copy(),
            # Reading the tables of legacy mode makes them: not before this agent has.
            traffic=self.meter.take() if calls.phase.begun else NO_TRAFFIC,
        )

    def faults(self) -> tuple[Fault, ...]:
        """Return what is wrong now, policies over budget aside. For the loop's own thread."""
        host, calls = self.host_check.faults(), self.calls
        named = self.node_name.fault
        # A first start that must not open what it found says the same, as what blocks it.
        told = named is None or any(fault.what == named.what for fault in calls.faults)
        node = () if named is None or told else (named,)
        unknown = staging.faults(self.engine.staging.unknown.copy())
        own = (*self.history.faults(), *self.flow_log.faults(), *self.cutting.faults())
        beside = (*self.frames.faults, *own, *unknown, *self.proving.faults(), *self.new_pods.faults())
        first = (*self.scarcity.faults(), *self.choice.faults)
        return (*first, *host, *node, *calls.faults, *calls.standing, *beside)

    def _faults(self) -> tuple[Fault, ...]:
        return (*self.faults(), *overbudget.faults(self.engine.over_budget()))

    def _threads(self) -> dict[str, bool]:
        """Return the loop's own threads, once they were started, and whether they live."""
        if not self.link_watch.started:
            return {}
        return {"links": self.link_watch.alive, "pod-links": self.linked_pods.alive}


def isolated(program: LoweredProgram) -> Counter[tuple[Direction, Family]]:
    """Count the pods that are isolated, by direction and family. For any thread."""
    found = Counter({(direction, family): 0 for direction in Direction for family in Family})
    for pod, held in program.pods.copy().items():
        found.update({(pod.direction, family_of(address)) for address in held.addresses})
    return found


def _of_both(found: Mapping[int, int]) -> dict[int, int]:
    return {int(family): found.get(int(family), 0) for family in Family}
