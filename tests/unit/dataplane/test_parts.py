"""Sets of many members are made in parts, and what changes between two parts is not lost."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.change import carrying
from agent.kube.events import Event
from agent.kube.model import Rule
from agent.policy.engine import Engine
from tests.build import labelled, packed
from tests.kernel.kernel_state import HERE, gone, pod_event, pods_of, policy
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend

PEERS = range(1, 7)
POLICY = policy("web", selector=labelled(app="web"), ingress=[Rule((pods_of(peer="yes"),))])


class Busy:
    """An agent whose backend is interrupted wherever that is possible."""

    def __init__(self) -> None:
        self.kernel, self.engine = Kernel(), Engine(HERE)
        peers = [pod_event(f"p{n}", n, node="there", peer="yes") for n in PEERS]
        self.engine.apply([pod_event("web", 100, app="web"), *peers], 0.0)
        self.backend = make_backend(self.kernel, patience=1.0)
        assert self.backend.sync(self.engine.lowered).faults == ()

    def change(self, *events: Event) -> None:
        delta = self.engine.apply(events, 1.0)
        assert self.backend.apply(self.engine.lowered, delta, lambda: True).faults == ()

    def resume(self, times: int) -> None:
        for _ in range(times):
            if self.backend.busy:
                assert self.backend.resume(self.engine.lowered, lambda: True).faults == ()

    def members(self) -> set[bytes]:
        """Return the addresses of peers in the kernel, of IPv4."""
        wanted = {packed(f"10.0.0.{n}") for n in (*PEERS, 7)}
        return {
            member
            for name, (_, members) in self.kernel.sets.items()
            for member in members
            if isinstance(member, bytes) and member in wanted and "ISO" not in name
        }


@pytest.mark.parametrize("parts", range(8))
def test_who_leaves_or_enters_between_two_parts(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    monkeypatch.setattr(carrying, "MANY_MEMBERS", 1)
    agent = Busy()
    agent.change(POLICY)
    assert len(agent.members()) < len(PEERS)
    agent.resume(parts)
    agent.change(*(gone(pod_event(f"p{n}", n)) for n in (1, 3, 5)))
    gone_by_now = {packed(f"10.0.0.{n}") for n in (1, 3, 5)}
    assert not agent.members() & gone_by_now
    agent.change(pod_event("p7", 7, node="there", peer="yes"))
    for _ in range(100):
        agent.resume(1)
        assert not agent.members() & gone_by_now
    assert not agent.backend.busy
    assert agent.members() == {packed(f"10.0.0.{n}") for n in (2, 4, 6, 7)}
    assert agent.backend.audit(agent.engine.lowered) == []
