"""The snapshot says what the program, the kernel and the daemon's facts say."""

from __future__ import annotations

import dataclasses
import json

from agent.dataplane.backend import KernelView
from agent.observe.snapshot import (
    ClosedStatus,
    Facts,
    PodStatus,
    PolicyStatus,
    SetStatus,
    StatusSnapshot,
    decode,
    encode,
    take,
)
from agent.policy.lower.lowered import LoweredProgram

MEANING = "pods app=web in namespace shop"


def test_what_is_enforced(snapshot: StatusSnapshot) -> None:
    assert snapshot.pods == (PodStatus("shop/db-0", ("10.0.0.5", "fd00::5"), ("shop/db",), None),)
    assert snapshot.policies == (PolicyStatus("shop/db", "ingress", 1, 1, 1, 2),)
    assert snapshot.sets == (
        SetStatus("KUBE-SRC-4-abc", MEANING, "addresses", "ingress", 4, 2),
        SetStatus("", MEANING, "addresses", "ingress", 6, 0),
    )
    assert snapshot.closed == (ClosedStatus("10.0.0.9", ("ingress",)),)
    assert snapshot.uptime == 7_300


def test_the_kernel(snapshot: StatusSnapshot) -> None:
    kernel = snapshot.kernel
    assert (kernel.chains, kernel.rules, kernel.sets) == (2, 5, 1)
    assert kernel.last_apply is not None
    assert (kernel.last_apply.writes, kernel.last_apply.result) == (3, "ok")
    assert kernel.last_error is not None
    assert kernel.last_error.what == "iptables-restore: line 4 failed"
    assert kernel.drift.repairs == 1


def test_before_anything_happened(facts: Facts) -> None:
    bare = take(Facts("n", "v", facts.now, facts.now), LoweredProgram(), KernelView({}, {}))
    assert bare.kernel.last_apply is None
    assert bare.kernel.last_error is None
    assert bare.kernel.drift.last_check is None
    assert not bare.ready


def test_sources(snapshot: StatusSnapshot) -> None:
    policies, pods = snapshot.sources
    assert (pods.kind, pods.synced, pods.objects, pods.resource_version) == ("Pod", True, 12, "99")
    assert policies.last_event is None
    assert policies.refused == ("shop/x: spec.ingres: no",)


def test_json_round_trip_and_its_times(snapshot: StatusSnapshot) -> None:
    body = encode(snapshot)
    assert decode(body) == snapshot
    assert json.loads(body)["at"] == "2026-01-01T00:00:00Z"


def test_a_snapshot_does_not_follow_the_program(
    facts: Facts, program: LoweredProgram, view: KernelView
) -> None:
    before = take(facts, program, view)
    program.pods.clear()
    program.policies.clear()
    assert take(facts, program, view) != before
    assert before.pods


def test_facts_are_all_used(facts: Facts, program: LoweredProgram, view: KernelView) -> None:
    before = take(facts, program, view)
    for field, other in {"node": "x", "iptables_mode": "legacy", "retry_pending": True, "repairs": 7}.items():
        assert take(dataclasses.replace(facts, **{field: other}), program, view) != before  # type: ignore[arg-type]
