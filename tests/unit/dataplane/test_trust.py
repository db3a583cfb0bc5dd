"""Other nodes are let in by a tunnel when the rules about it hold, and not before sets are there for it."""

from __future__ import annotations

import dataclasses

import pytest

from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.change import carrying
from agent.kernel.surroundings import Surroundings
from agent.kernel.tunnels import Tunnel
from agent.kube.events import Event, Upsert
from agent.kube.model import Kind
from agent.kube.model import Node as KubeNode
from agent.net import Family
from agent.policy.engine import Engine
from agent.spec.verdict import Packet
from tests.build import packed
from tests.kernel.kernel_state import HERE, pod_event
from tests.property.kernel_model import UPLINK, Kernel
from tests.property.modelled import access, make_backend
from tests.unit.dataplane.test_planner import flipped, two_labels
from tests.unit.dataplane.test_unsure import lets_in

WEB, FAR, ONE = (packed(f"10.0.0.{n}") for n in (1, 9, 2))
VXLAN = Tunnel(UPLINK, "vxlan", frozenset(Family), frozenset({8472}))
AROUND = Surroundings(frozenset({VXLAN}), underlay=frozenset({"eth0"}), carried={UPLINK: frozenset({VXLAN})})
NODE = Upsert(Kind.NODE, KubeNode("there", addresses=(FAR,)))


class Slowly:
    """An agent that reaches other nodes by a tunnel, and that waits for its commands."""

    def __init__(self, *events: Event) -> None:
        self.kernel, self.engine = Kernel(), Engine(HERE, allow_nodes=True)
        self.engine.apply(events, 0.0)
        reached = dataclasses.replace(access(self.kernel), look=lambda: AROUND)
        self.backend: IptablesBackend = make_backend(self.kernel, patience=1.0, reached=reached)

    def change(self, *events: Event) -> None:
        self.backend.apply(self.engine.lowered, self.engine.apply(events, 1.0))

    def finish(self) -> None:
        """Let commands end, until nothing waits and nothing went wrong."""
        self.kernel.slow = lambda: False
        while self.backend.busy:
            assert self.backend.resume(self.engine.lowered).faults == ()

    @property
    def node_passes(self) -> bool:
        return self.kernel.passes(Packet(FAR, WEB, 6, 80))


def test_a_sync_lets_them_in_when_it_has_written_the_rules_about_the_tunnel() -> None:
    agent = Slowly(pod_event("web", 1), lets_in(), NODE)
    assert agent.backend.sync(agent.engine.lowered).faults == ()
    assert agent.node_passes


def test_a_slow_sync_waits_for_a_change_that_has_yet_to_make_sets() -> None:
    agent = Slowly(pod_event("web", 1), lets_in(), NODE)
    agent.kernel.slow = lambda: True
    agent.backend.sync(agent.engine.lowered)
    assert agent.backend.busy
    # Edited while a pod comes that it selects: both at once, by other sets of isolated addresses.
    agent.change(pod_event("db", 5), lets_in(ONE))
    agent.finish()
    assert agent.node_passes
    assert agent.backend.audit(agent.engine.lowered) == []


def test_tidying_lets_in_a_node_whose_change_went_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    to_server = Packet(FAR, packed("10.0.0.2"), 6, 80)
    agent = Slowly(*two_labels())
    assert agent.backend.sync(agent.engine.lowered).faults == ()
    agent.change(*flipped("in"))
    # Tidying makes the usual sets again, and pauses between them.
    monkeypatch.setattr(carrying, "MANY_SETS", 1)
    assert agent.backend.tidy(agent.engine.lowered, lambda: True).waiting
    agent.change(NODE)
    assert agent.kernel.sets["KUBE-NODES-4"][1]
    assert not agent.kernel.passes(to_server)
    agent.finish()
    assert agent.kernel.passes(to_server)
    assert agent.backend.audit(agent.engine.lowered) == []
