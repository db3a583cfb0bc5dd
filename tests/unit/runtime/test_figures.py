"""What metrics are made of: counted as the loop works, and read beside it."""

from __future__ import annotations

from agent.dataplane.backend import Call, KernelCounts, KernelView, Report
from agent.dataplane.differences import Difference, What
from agent.fault import Fault
from agent.net import Direction, Family
from agent.policy.lower.lowered import SetId, SetKind
from agent.runtime.call_counts import CallCounts
from tests.unit.runtime.events import deny, pod
from tests.unit.runtime.rig import FAILED, Rig


def test_the_figures_of_an_agent_that_enforces(rig: Rig) -> None:
    rig.start()
    rig.source.sink([pod(1), pod(2), deny()])
    rig.source.synced()
    rig.until(lambda: rig.ready)
    figures = rig.agent.figures()
    assert (figures.ready, figures.enforcing, figures.source) == (True, True, "apiserver")
    assert figures.isolated == {("ingress", 4): 2, ("ingress", 6): 0, ("egress", 4): 0, ("egress", 6): 0}
    assert figures.policies == {"ingress": 1, "egress": 0}
    assert figures.over_budget == {"policy": 0, "namespace": 0}
    assert sum(sum(found.counts) for found in figures.calls.values()) == 1


def test_what_is_in_the_kernel_is_counted_by_family(rig: Rig) -> None:
    peers = SetId(SetKind.ADDRESSES, Direction.INGRESS, Family.V6, "pods app=web")
    view = KernelView(
        {"KUBE-NETPOL-FORWARD/4": 3, "KUBE-POD-FW-abc/4": 2, "KUBE-NETPOL-FORWARD/6": 1},
        {peers: ("KUBE-SRC-6-abc", 7)},
        KernelCounts(writes=9, connections_deleted=4, cache_flushes=2),
    )
    rig.backend.view = lambda: view  # type: ignore[method-assign]
    rig.synced()
    figures = rig.agent.figures()
    assert (figures.chains, figures.rules) == ({4: 2, 6: 1}, {4: 5, 6: 1})
    assert (figures.sets, figures.members) == ({4: 0, 6: 1}, {4: 0, 6: 7})
    assert (figures.writes, figures.connections_deleted, figures.cache_flushes) == (9, 4, 2)


def test_failures_are_counted_by_what_was_called_and_the_reason(rig: Rig) -> None:
    rig.backend.syncs = [FAILED, RuntimeError("a defect")]
    rig.synced()
    rig.until(lambda: rig.ready)
    assert rig.agent.figures().failures == {("apply", "other"): 1, ("sync", "defect"): 1}


def test_each_reason_counts_once_for_each_call() -> None:
    counts = CallCounts()
    faults = (Fault("a", reason="sets"), Fault("b", reason="sets"), Fault("c", reason="rules"))
    counts.ended(Report(0.5, 1, True, faults))
    counts.ended(Report(0.5, 0))
    assert counts.failures == {(Call.APPLY, "sets"): 1, (Call.APPLY, "rules"): 1}
    assert sum(counts.seconds[Call.APPLY].read().counts) == 1


def test_drift_is_counted_by_what_was_different(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    gone = Difference(What.SET_GONE, name="KUBE-SRC-4-abc")
    rig.backend.drifts = [[gone, gone._replace(name="other"), Difference(What.HOOK)]]
    rig.look_for_drift()
    rig.until(lambda: rig.agent.drift.repairs)
    assert rig.agent.figures().drift == {"set_gone": 2, "hook": 1}
