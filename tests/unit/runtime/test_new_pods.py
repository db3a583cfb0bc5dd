"""What is told of addresses that are closed until a pod is known to have them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.dataplane.backend import KernelView, Report
from agent.kube.events import Upsert
from agent.kube.model import Kind, Pod
from agent.net import Network
from agent.observe.health import Health, State, readyz
from agent.observe.new_pods import NewPodsStatus, reason
from agent.policy.engine import Engine
from agent.runtime.calls import Phase
from agent.runtime.kept_networks import KeptNetworks
from agent.runtime.new_pods import LATE, NewPods
from tests.build import network, packed

NETWORKS = frozenset({network("10.0.0.0/24"), network("fd00::/64")})
A, B, SIX, ELSEWHERE = (packed(a) for a in ("10.0.0.1", "10.0.0.2", "fd00::1", "10.9.0.1"))


class _Time:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Stage:
    """An agent's parts, as far as they matter here."""

    def __init__(self, *known: bytes, networks: frozenset[Network] = NETWORKS, deny: bool = True) -> None:
        engine = Engine("here", deny_new=deny)
        engine.apply([Upsert(Kind.POD, Pod("x", "a", node="here", addresses=known))], 0.0)
        self.closing = networks
        view = SimpleNamespace(view=lambda: KernelView({}, {}, closing=self.closing))
        self.calls: Any = SimpleNamespace(backend=view, phase=Phase.ENFORCING)
        self.linked: Any = SimpleNamespace(inside=frozenset())
        self.time = _Time()
        parts: Any = self.calls, self.linked, self.time
        self.pods = NewPods(engine, *parts)


def test_nothing_is_told_where_new_pods_are_open_or_nothing_was_written() -> None:
    stage = Stage(A, deny=False)
    assert stage.pods.status() is None
    assert stage.pods.faults() == []
    assert not stage.pods.is_closed(B)
    stage = Stage(A)
    stage.calls.phase = Phase.HELD
    assert stage.pods.status() is None
    assert stage.pods.faults() == []


def test_closed_are_addresses_inside_pods_in_the_networks_that_are_not_known() -> None:
    stage = Stage(A, SIX)
    stage.linked.inside = frozenset({A, B, SIX, ELSEWHERE})
    assert stage.pods.status() == NewPodsStatus(("10.0.0.0/24", "fd00::/64"), 2, ("10.0.0.2",))
    assert stage.pods.is_closed(B)
    assert not stage.pods.is_closed(A)
    assert not stage.pods.is_closed(ELSEWHERE)


def test_one_that_stays_so_is_late() -> None:
    stage = Stage(A)
    stage.linked.inside = frozenset({B})
    assert stage.pods.status() == NewPodsStatus(("10.0.0.0/24", "fd00::/64"), 1, ("10.0.0.2",), late=0)
    stage.time.now = LATE + 1
    assert stage.pods.status() == NewPodsStatus(("10.0.0.0/24", "fd00::/64"), 1, ("10.0.0.2",), late=1)
    # One that went begins anew.
    stage.linked.inside = frozenset()
    assert stage.pods.status() == NewPodsStatus(("10.0.0.0/24", "fd00::/64"), 1)
    stage.linked.inside = frozenset({B})
    found = stage.pods.status()
    assert found is not None
    assert found.late == 0


def test_it_does_not_pretend_where_no_network_is_known() -> None:
    (fault,) = Stage(A, networks=frozenset()).pods.faults()
    assert "closes nothing" in fault.what
    assert "--pod-networks" in fault.remedy
    assert not fault.blocking


def test_a_start_that_has_written_no_network_yet_is_no_fault() -> None:
    stage = Stage(A, networks=frozenset())
    stage.calls.phase = Phase.WRITING
    assert stage.pods.faults() == []
    assert stage.pods.status() is None
    stage.closing = NETWORKS
    assert stage.pods.status() == NewPodsStatus(("10.0.0.0/24", "fd00::/64"), 1)


def test_pods_outside_of_the_networks_are_named() -> None:
    (fault,) = Stage(A, ELSEWHERE).pods.faults()
    assert "10.9.0.1" in fault.what
    assert "--pod-networks" in fault.remedy
    assert Stage(A).pods.faults() == []


@pytest.mark.parametrize(("late", "state"), [(0, State.OK), (1, State.WARNING)])
def test_readiness_says_it_and_warns_when_it_lasts(late: int, state: State) -> None:
    status = NewPodsStatus(("10.0.0.0/24",), 1, ("10.0.0.2",), late)
    answer = readyz(Health(now=0.0, heartbeat=0.0, caches={}, applied=True, new_pods=status))
    (check,) = (check for check in answer.checks if check.name == "new-pods")
    assert check.state is state
    assert "1 address closed, which no pod is known to have: 10.0.0.2" in check.detail


def test_what_is_said_of_it_for_people() -> None:
    many = tuple(f"10.0.0.{n}" for n in range(7))
    said = str(NewPodsStatus(("10.0.0.0/24",), 3, many))
    assert said == (
        "new pods are closed in 10.0.0.0/24; 7 addresses closed, which no pod is known to have: "
        "10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, ..."
    )
    none = str(NewPodsStatus(("10.0.0.0/24",), 3))
    assert none == "new pods are closed in 10.0.0.0/24; no address inside a pod is closed now"
    assert "not known" in str(NewPodsStatus((), 3))
    assert "10.0.0.2" in reason("10.0.0.2")


def test_the_networks_are_kept_for_a_guard_and_stay_when_there_are_none(tmp_path: Path) -> None:
    stage = Stage(A)
    noted: list[Report] = []
    synced = KeptNetworks(stage.calls, tmp_path / "state").after(noted.append)
    report = Report(0.0, 0)
    synced(report)
    kept = tmp_path / "state/pod-networks"
    assert kept.read_text() == "10.0.0.0/24\nfd00::/64\n"
    assert noted == [report]
    stage.closing = frozenset()
    synced(report)
    assert kept.exists()


def test_a_state_directory_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    KeptNetworks(Stage(A).calls, tmp_path / "state").after(lambda _: None)(Report(0.0, 0))
