"""How much earlier an isolated pod is isolated than by its status: what is observed, and of which pods."""

from __future__ import annotations

from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import Attached, Key, Kind, NetworkPolicy, Pod, Selector
from agent.policy.engine import Engine
from agent.runtime.leads import Leads
from tests.clock import FakeClock

V4 = bytes((10, 1, 0, 2))
WEB = Key("shop", "web")
EARLY = Attached(1, (V4,), early=True)


class Stage:
    def __init__(self, *, isolated: bool = True) -> None:
        self.clock = FakeClock()
        self.engine = Engine("here")
        self.told: list[tuple[Key, float]] = []
        self.leads = Leads("here", self.engine, self.clock, lambda *told: self.told.append(told))
        if isolated:
            self.step(Upsert(Kind.POLICY, NetworkPolicy("shop", "all", Selector(), ingress=())))

    def step(self, *events: Event) -> None:
        self.engine.apply(events, self.clock.monotonic())
        self.leads.step(events)

    def pod(self, attached: Attached, node: str = "here") -> None:
        found = Pod("shop", "web", "u", node=node, addresses=(V4,), attached=attached)
        self.step(Upsert(Kind.POD, found))


def test_the_time_from_the_kernel_to_the_status_is_observed() -> None:
    stage = Stage()
    stage.pod(EARLY)
    stage.clock.sleep(3.0)
    stage.leads.settle()
    stage.clock.sleep(1.5)
    stage.leads.settle()
    stage.pod(EARLY._replace(early=False))
    assert stage.told == [(WEB, 1.5)]
    assert stage.leads.seconds.read().total == 1.5
    stage.pod(EARLY._replace(early=False))
    assert len(stage.told) == 1


def test_nothing_is_observed_of_a_pod_that_is_open_elsewhere_gone_or_reported_first() -> None:
    for isolated, node, end in (
        (False, "here", "told"),
        (True, "there", "told"),
        (True, "here", "gone"),
        (True, "here", "first"),
    ):
        stage = Stage(isolated=isolated)
        stage.pod(EARLY, node)
        if end != "first":
            stage.leads.settle()
        if end == "gone":
            stage.step(Delete(Kind.POD, WEB))
        stage.pod(EARLY._replace(early=False), node)
        stage.leads.settle()
        assert stage.told == []
