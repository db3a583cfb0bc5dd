"""Sets that another program has put in the place of those by which new pods are closed."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.rules import names
from agent.kube.events import Upsert
from agent.kube.model import Kind, Node
from agent.net import Family, Protocol
from agent.policy.engine import Engine
from agent.spec.verdict import Packet
from tests.build import network, packed, pod, upsert
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend
from tests.property.words import HERE

OLD, UNKNOWN, NEW, OUTSIDE = (packed(a) for a in ("10.0.0.1", "10.0.0.9", "10.0.0.2", "192.0.2.1"))


def syn(source: bytes) -> Packet:
    return Packet(source, OUTSIDE, Protocol.TCP, 80)


@pytest.mark.guarantee("1.6")
@pytest.mark.parametrize("name", [names.known_set(Family.V4), names.pod_networks_set(Family.V4)])
def test_an_unlike_set_that_rules_look_at_opens_nothing_while_it_is_put_right(name: str) -> None:
    engine, kernel = Engine(HERE, deny_new=True), Kernel()
    node = Node(HERE, pod_cidrs=(network("10.0.0.0/24"),))
    engine.apply([Upsert(Kind.NODE, node), *upsert(pod("old", "10.0.0.1"))], 0.0)
    backend = make_backend(kernel)
    assert not backend.sync(engine.lowered).faults
    assert (kernel.passes(syn(OLD)), kernel.passes(syn(UNKNOWN))) == (True, False)
    shape, members = kernel.sets[name]
    kernel.sets[name] = shape._replace(timeout=600), members
    engine.apply(upsert(pod("new", "10.0.0.2")), 1.0)
    passed: list[bool] = []
    kernel.seen = lambda: passed.append(kernel.passes(syn(UNKNOWN)))
    kernel.unwritten = lambda: True
    assert backend.sync(engine.lowered).faults
    assert not kernel.passes(syn(UNKNOWN))
    kernel.unwritten = lambda: False
    assert not backend.sync(engine.lowered).faults
    assert passed
    assert not any(passed)
    assert kernel.sets[name][0].timeout == 0
    assert [kernel.passes(syn(one)) for one in (OLD, NEW, UNKNOWN)] == [True, True, False]
