"""What this node enforces and why, as one immutable value: what ``/status`` serves.

:func:`take` is the only way from the agent's live state to a snapshot. It is called when somebody
asks, never per event, and by whoever may read the program then: the program is not thread-safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from agent.clock import Moment, moment
from agent.dataplane.backend import KernelView
from agent.dataplane.differences import Repair
from agent.decoding import decode as decode_json
from agent.fault import Fault
from agent.kube.mode import Mode
from agent.kube.model import Key, Kind
from agent.net import Direction, Family, address_text
from agent.observe.cuts import CutsStatus
from agent.observe.links import NO_LINKS, LinkCounts
from agent.observe.new_pods import NewPodsStatus
from agent.observe.proof import ProofState, ProofStatus, status_of
from agent.observe.source_status import SourceStatus as SourceStatus
from agent.observe.source_status import of_kind, of_results
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import PodId, PolicyId
from agent.sources.cni.source import CniState
from agent.sources.source import SyncState


class PodStatus(msgspec.Struct, frozen=True):
    """A pod of this node that is isolated, and by which policies.

    A direction that is None is open. One with no policy is closed by an object that is not valid, or by
    policies that are over budget or not compiled yet. ``workload`` is what controls it, as ``Kind/name``.
    ``early``: its network plugin says an address that its status does not say yet.
    ``..._over_budget`` names the policies over budget that
    isolate the pod, of each namespace up to a hundred.
    """

    pod: str
    addresses: tuple[str, ...]
    ingress: tuple[str, ...] | None
    egress: tuple[str, ...] | None
    ingress_over_budget: tuple[str, ...] = ()
    egress_over_budget: tuple[str, ...] = ()
    workload: str = ""
    early: bool = False


class AuditedStatus(msgspec.Struct, frozen=True):
    """A pod of this node that audited policies alone select, in one direction: it is open there.

    ``policies`` are those whose rules are asked: one that is over budget or not compiled yet is not among
    them.
    """

    pod: str
    direction: str
    policies: tuple[str, ...]


class StagedStatus(msgspec.Struct, frozen=True):
    """A policy of the cluster that is not enforced: ``mode`` is ``audit`` or ``disabled``."""

    policy: str
    mode: str


class UnconfirmedStatus(msgspec.Struct, frozen=True):
    """A policy that none of one's own managers wrote last, and that nobody confirmed.

    ``manager`` wrote it last, as ``managedFields`` says; empty where they say nothing.
    """

    policy: str
    manager: str


class PolicyStatus(msgspec.Struct, frozen=True):
    """One direction of a policy that selects a pod of this node: how much there is of it.

    ``pods`` are those that it isolates, or if it is audited, would isolate.
    """

    policy: str
    direction: str
    pods: int
    rules_v4: int
    rules_v6: int
    sets: int


class SetStatus(msgspec.Struct, frozen=True):
    """A set of peers or named ports. ``name`` is the kernel's, empty while it is not there yet."""

    name: str
    meaning: str
    kind: str
    direction: str
    family: int
    size: int


class ApplyStatus(msgspec.Struct, frozen=True):
    """The last time the kernel was moved. ``result`` is ``ok``, or what failed."""

    at: Moment
    seconds: float
    writes: int
    result: str


class ErrorStatus(msgspec.Struct, frozen=True):
    """The last thing that went wrong, kept after it was put right."""

    at: Moment
    what: str


class RepairStatus(msgspec.Struct, frozen=True):
    """What another program changed in the kernel and the agent put back; ``by``: who, "" if not known."""

    at: Moment
    differences: tuple[str, ...]
    by: str


class DriftStatus(msgspec.Struct, frozen=True):
    """The comparison of the kernel with what it should hold."""

    last_check: Moment | None
    repairs: int
    last_repair: RepairStatus | None = None


class KernelStatus(msgspec.Struct, frozen=True):
    """What is in the kernel, and how it got there."""

    chains: int
    rules: int
    sets: int
    last_apply: ApplyStatus | None
    last_error: ErrorStatus | None
    retry_pending: bool
    drift: DriftStatus
    proof: ProofStatus | None = None


class FaultStatus(msgspec.Struct, frozen=True):
    """Something wrong now, and what to do about it."""

    what: str
    remedy: str
    blocking: bool


class ClosedStatus(msgspec.Struct, frozen=True):
    """An address that stays closed though no pod has it: its last owner was isolated."""

    address: str
    directions: tuple[str, ...]


class OverBudgetStatus(msgspec.Struct, frozen=True):
    """A policy that is not enforced as written: it isolates its pods and allows nothing."""

    policy: str
    why: str


class StatusSnapshot(msgspec.Struct, frozen=True):
    """The state of the agent at one moment.

    ``applied``: the agent has begun to move the kernel; before, it holds what it held.
    """

    node: str
    version: str
    at: Moment
    started: Moment
    ready: bool
    applied: bool
    iptables_mode: str
    iptables_mode_reason: str
    families: tuple[int, ...]
    sources: tuple[SourceStatus, ...]
    pods: tuple[PodStatus, ...]
    policies: tuple[PolicyStatus, ...]
    sets: tuple[SetStatus, ...]
    kernel: KernelStatus
    faults: tuple[FaultStatus, ...]
    closed: tuple[ClosedStatus, ...]
    links: LinkCounts = NO_LINKS
    over_budget: tuple[OverBudgetStatus, ...] = ()
    audited: tuple[AuditedStatus, ...] = ()
    staged: tuple[StagedStatus, ...] = ()
    unconfirmed: tuple[UnconfirmedStatus, ...] = ()
    new_pods: NewPodsStatus | None = None
    cuts: CutsStatus | None = None

    @property
    def uptime(self) -> float:
        """Seconds since the agent started."""
        return (self.at - self.started).total_seconds()


@dataclass(frozen=True)
class Facts:
    """What the daemon knows besides the program and the kernel. Times are ``time.time()`` seconds, 0.0 never.

    ``apply_result`` and ``last_error`` are one line each; ``repairs`` counts how often drift was found
    and undone. ``workload`` gives what controls a pod of this node, as ``Kind/name``.
    """

    node: str
    version: str
    now: float
    started: float
    ready: bool = False
    applied: bool = False
    iptables_mode: str = ""
    iptables_mode_reason: str = ""
    families: tuple[int, ...] = ()
    states: Mapping[Kind, SyncState] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    apply_at: float = 0.0
    apply_seconds: float = 0.0
    apply_writes: int = 0
    apply_result: str = "ok"
    error_at: float = 0.0
    error: str = ""
    retry_pending: bool = False
    drift_check_at: float = 0.0
    repairs: int = 0
    repair: Repair | None = None
    proof: ProofState | None = None
    links: LinkCounts = NO_LINKS
    over_budget: Mapping[Key, str] = field(default_factory=dict)
    closed_by_budget: Mapping[PodId, Sequence[Key]] = field(default_factory=dict)
    staged: Mapping[Key, Mode] = field(default_factory=dict)
    workload: Callable[[Key], str] = lambda _: ""
    early: Callable[[Key], bool] = lambda _: False
    results: CniState | None = None
    unconfirmed: Mapping[Key, str] = field(default_factory=dict)
    new_pods: NewPodsStatus | None = None
    cuts: CutsStatus | None = None


def take(facts: Facts, program: LoweredProgram, view: KernelView) -> StatusSnapshot:
    """Return the snapshot of this moment. Costs what this node enforces, not the cluster's size."""
    return StatusSnapshot(
        node=facts.node,
        version=facts.version,
        at=moment(facts.now),
        started=moment(facts.started),
        ready=facts.ready,
        applied=facts.applied,
        iptables_mode=facts.iptables_mode,
        iptables_mode_reason=facts.iptables_mode_reason,
        families=facts.families,
        sources=(
            *(of_kind(kind, state) for kind, state in sorted(facts.states.items())),
            *of_results(facts.results),
        ),
        pods=_pods(program, facts),
        policies=_policies(program),
        sets=_sets(program, view),
        kernel=_kernel(facts, view),
        faults=tuple(FaultStatus(f.what, f.remedy, f.blocking) for f in facts.faults),
        closed=_closed(program),
        links=facts.links,
        over_budget=tuple(OverBudgetStatus(str(k), why) for k, why in sorted(facts.over_budget.items())),
        audited=tuple(
            AuditedStatus(str(pod_id.pod), pod_id.direction.value, tuple(map(str, pod.policies)))
            for pod_id, pod in sorted(program.audited.items())
        ),
        staged=tuple(StagedStatus(str(key), mode.value) for key, mode in sorted(facts.staged.items())),
        unconfirmed=tuple(UnconfirmedStatus(str(k), who) for k, who in sorted(facts.unconfirmed.items())),
        new_pods=facts.new_pods,
        cuts=facts.cuts,
    )


def encode(snapshot: StatusSnapshot) -> bytes:
    """Return a snapshot as JSON."""
    return msgspec.json.encode(snapshot)


def decode(body: bytes) -> StatusSnapshot:
    """Return the snapshot that JSON holds. Raises :class:`agent.decoding.UndecodableError`."""
    return decode_json(body, StatusSnapshot)


def _moment(seconds: float) -> Moment | None:
    return moment(seconds) if seconds else None


def _pods(program: LoweredProgram, facts: Facts) -> tuple[PodStatus, ...]:
    found, over = [], facts.closed_by_budget
    for pod in sorted({pod_id.pod for pod_id in program.pods}):
        ingress = program.pods.get(PodId(Direction.INGRESS, pod))
        egress = program.pods.get(PodId(Direction.EGRESS, pod))
        either = ingress or egress
        found.append(
            PodStatus(
                pod=str(pod),
                addresses=tuple(map(address_text, either.addresses)) if either else (),
                ingress=None if ingress is None else tuple(map(str, ingress.policies)),
                egress=None if egress is None else tuple(map(str, egress.policies)),
                ingress_over_budget=tuple(map(str, over.get(PodId(Direction.INGRESS, pod), ()))),
                egress_over_budget=tuple(map(str, over.get(PodId(Direction.EGRESS, pod), ()))),
                workload=facts.workload(pod),
                early=facts.early(pod),
            )
        )
    return tuple(found)


def _policies(program: LoweredProgram) -> tuple[PolicyStatus, ...]:
    pods = Counter(
        PolicyId(pod_id.direction, policy)
        for pods_of in (program.pods, program.audited)
        for pod_id, pod in pods_of.items()
        for policy in pod.policies
    )
    return tuple(
        PolicyStatus(
            policy=str(policy_id.policy),
            direction=policy_id.direction.value,
            pods=pods[policy_id],
            rules_v4=len(program.policies[policy_id].v4),
            rules_v6=len(program.policies[policy_id].v6),
            sets=len(
                {s for family in Family for r in program.policies[policy_id].rules(family) for s in r.sets()}
            ),
        )
        for policy_id in sorted(program.policies, key=lambda p: (p.policy, p.direction.value))
    )


def _sets(program: LoweredProgram, view: KernelView) -> tuple[SetStatus, ...]:
    found = [
        SetStatus(
            name=view.sets[set_id][0] if set_id in view.sets else "",
            meaning=set_id.meaning,
            kind=set_id.kind.value,
            direction=set_id.direction.value,
            family=int(set_id.family),
            size=len(members),
        )
        for set_id, members in program.sets.items()
    ]
    return tuple(sorted(found, key=lambda s: (s.meaning, s.direction, s.family, s.kind)))


def _kernel(facts: Facts, view: KernelView) -> KernelStatus:
    at, error_at = _moment(facts.apply_at), _moment(facts.error_at)
    return KernelStatus(
        chains=len(view.chains),
        rules=sum(view.chains.values()),
        sets=len(view.sets),
        last_apply=ApplyStatus(at, facts.apply_seconds, facts.apply_writes, facts.apply_result)
        if at
        else None,
        last_error=ErrorStatus(error_at, facts.error) if error_at else None,
        retry_pending=facts.retry_pending,
        drift=DriftStatus(_moment(facts.drift_check_at), facts.repairs, _repair(facts.repair)),
        proof=status_of(facts.proof),
    )


def _repair(repair: Repair | None) -> RepairStatus | None:
    return None if repair is None else RepairStatus(moment(repair.at), repair.differences, repair.by)


def _closed(program: LoweredProgram) -> tuple[ClosedStatus, ...]:
    addresses = sorted(set().union(*program.closed.values()), key=lambda a: (len(a), a))
    return tuple(
        ClosedStatus(
            address=address_text(address),
            directions=tuple(d.value for d in Direction if address in program.closed[d]),
        )
        for address in addresses
    )
