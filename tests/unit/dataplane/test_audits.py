"""The rules about audited pods in a model of the kernel: what counts, what is cached, and what stays."""

from __future__ import annotations

from agent.dataplane.iptables.backend import IptablesBackend
from agent.kube.events import Delete
from agent.kube.mode import Mode, ModeSaid
from agent.kube.model import Kind, Namespace, NetworkPolicy, Object, Rule
from agent.net import Family, Protocol
from agent.policy.engine import Engine
from agent.spec.verdict import Packet
from tests.build import labelled, pod, upsert
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend

A, S = pod("a", "10.0.0.1", app="a"), pod("s", "10.0.0.2", app="s")
OUT = NetworkPolicy("shop", "out", labelled(app="a"), egress=(Rule(),))
IN = NetworkPolicy("shop", "in", labelled(app="s"), ingress=(), staging=ModeSaid(Mode.AUDIT))
PACKET = Packet(A.addresses[0], S.addresses[0], int(Protocol.TCP), 80)


def enforced(*objects: Object) -> tuple[Engine, Kernel, IptablesBackend]:
    engine, kernel = Engine("here"), Kernel()
    engine.apply(upsert(Namespace("shop"), *objects), 0.0)
    backend = make_backend(kernel)
    assert not backend.sync(engine.lowered).faults
    return engine, kernel, backend


def test_what_would_be_denied_counts_each_time_and_what_is_allowed_is_cached() -> None:
    _, kernel, _ = enforced(A, S, OUT, IN)
    for _ in range(2):
        assert kernel.passes(PACKET)
        assert kernel.noted
    assert not any(kernel.cached.values())
    engine, kernel, _ = enforced(A, S, OUT)
    assert engine.lowered.audited == {}
    assert kernel.passes(PACKET)
    assert any(kernel.cached.values())


def test_of_a_pod_that_is_audited_no_more_nothing_stays() -> None:
    engine, kernel, backend = enforced(A, S, OUT, IN)
    delta = engine.apply([Delete(Kind.POLICY, IN.key)], 1.0)
    assert not backend.apply(engine.lowered, delta).faults
    assert not backend.tidy(engine.lowered).faults
    fresh = enforced(A, S, OUT)[1]
    assert kernel.tables == fresh.tables
    assert not any("AUDIT" in chain for family in Family for chain in kernel.tables[family])
