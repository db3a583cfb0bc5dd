"""Changes of both sides of a verdict at once: no state in between lets pass what neither old nor new does."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.change import planner
from agent.dataplane.iptables.rules import names
from agent.kube.events import Event
from agent.kube.model import Peer, Port, Rule, Selector
from agent.net import Direction, Family, Protocol
from agent.policy.engine import Engine
from agent.spec.verdict import Packet
from tests.build import labelled, packed
from tests.kernel.kernel_state import HERE, HTTP, gone, namespace, namespaces_of, pod_event, pods_of, policy
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend

A, B, C = packed("10.0.0.1"), packed("10.0.0.2"), packed("10.0.0.3")


class Site:
    """A node in a model kernel, and what is seen of a packet while it changes."""

    def __init__(self, *events: Event) -> None:
        self.kernel = Kernel()
        self.engine = Engine(HERE)
        self.backend = make_backend(self.kernel)
        self.engine.apply(events, 0.0)
        assert self.backend.sync(self.engine.lowered).faults == ()

    def change(self, packet: Packet, *events: Event) -> list[bool]:
        """Apply events; return the packet's verdict before, at every state in between, and after."""
        seen = [self.kernel.passes(packet)]
        self.kernel.seen = lambda: seen.append(self.kernel.passes(packet))
        report = self.backend.apply(self.engine.lowered, self.engine.apply(events, 1.0))
        assert report.faults == ()
        self.kernel.seen = lambda: None
        assert self.backend.audit(self.engine.lowered) == []
        return seen

    def tidy(self) -> None:
        self.backend.tidy(self.engine.lowered)
        assert not self.backend.untidy()
        assert not [name for name in self.kernel.sets if name.endswith("-s")]


def packet(source: bytes, destination: bytes, port: int = 80) -> Packet:
    return Packet(source, destination, Protocol.TCP, port)


def two_labels() -> list[Event]:
    """Return a namespace of clients that may leave under one label and enter under another."""
    return [
        namespace("clients", role="out"),
        namespace("servers", role="out"),
        pod_event("client", 1, namespace="clients"),
        pod_event("server", 2, namespace="servers"),
        policy("leave", namespace="clients", egress=[Rule((namespaces_of(role="out"),))]),
        policy("enter", namespace="servers", ingress=[Rule((namespaces_of(role="in"),))]),
    ]


def flipped(role: str) -> list[Event]:
    return [namespace("clients", role=role), namespace("servers", role=role)]


def test_a_label_that_opens_one_side_and_closes_the_other_never_opens_both() -> None:
    site = Site(*two_labels())
    for role in ("in", "out", "in"):
        assert not any(site.change(packet(A, B), *flipped(role)))
    site.tidy()
    assert site.backend.audit(site.engine.lowered) == []


def test_the_check_sees_the_hole_where_the_change_is_made_step_by_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planner, "hazardous", lambda *_: False)
    site = Site(*two_labels())
    found = [any(site.change(packet(A, B), *flipped(role))) for role in ("in", "out")]
    assert any(found)


def test_names_are_the_usual_ones_again_when_it_is_quiet() -> None:
    site = Site(*two_labels())
    usual = set(site.kernel.sets)
    site.change(packet(A, B), *flipped("in"))
    assert any(name.endswith("-s") for name in site.kernel.sets)
    assert site.backend.untidy()
    site.tidy()
    assert set(site.kernel.sets) == usual


@pytest.mark.parametrize("isolating", Direction)
def test_who_is_newly_isolated_on_one_side_is_so_before_the_other_side_opens(isolating: Direction) -> None:
    """The open pod becomes isolated, allowing nothing, by the policy that lets it in at the isolated one."""
    opening = Direction.EGRESS if isolating is Direction.INGRESS else Direction.INGRESS
    source, destination = (A, B) if isolating is Direction.EGRESS else (B, A)
    base: list[Event] = [
        namespace("default"),
        pod_event("free", 1, app="free"),
        pod_event("held", 2, app="held"),
        policy("hold", selector=labelled(app="held"), **{str(opening): []}),  # type: ignore[arg-type]
    ]
    site = Site(*base)
    both = [
        policy("hold", selector=labelled(app="held"), **{str(opening): [Rule()]}),  # type: ignore[arg-type]
        policy("isolate", selector=labelled(app="free"), **{str(isolating): []}),  # type: ignore[arg-type]
    ]
    assert not any(site.change(packet(source, destination), *both))
    assert not any(site.change(packet(source, destination), *base[3:], gone(both[1])))


def test_an_allowed_packet_is_never_denied_while_its_permission_moves_from_one_policy_to_another() -> None:
    base = [
        namespace("default"),
        pod_event("client", 1, app="c"),
        pod_event("server", 2, app="s", ports=[HTTP]),
    ]
    forms = [
        Rule((pods_of(app="c"),)),
        Rule((), (Port(Protocol.TCP, 80),)),
        Rule((Peer(Selector()),), (Port(Protocol.TCP, "http"),)),
        Rule((pods_of(app="c"), pods_of(app="x")), (Port(Protocol.TCP, 80), Port(Protocol.UDP, 80))),
    ]
    selector = labelled(app="s")
    site = Site(*base, policy("p", selector=selector, ingress=forms[:1]))
    for form in (*forms[1:], *forms):
        assert all(site.change(packet(A, B), policy("p", selector=selector, ingress=[form])))
        site.tidy()
    for number, form in enumerate(forms):
        events = [policy(f"q{number}", selector=selector, ingress=[form])]
        events += [gone(policy("p" if number == 0 else f"q{number - 1}"))]  # type: ignore[list-item]
        assert all(site.change(packet(A, B), *events))


def test_a_pod_with_a_named_port_becomes_isolated_without_losing_whom_it_lets_in() -> None:
    """Another pod is isolated by the policy already, so the set of named ports is in use."""
    allow = policy("p", selector=labelled(app="s"), ingress=[Rule((), (Port(Protocol.TCP, "http"),))])
    base = [
        namespace("default"),
        pod_event("first", 3, app="s", ports=[HTTP]),
        pod_event("server", 2, ports=[HTTP]),
    ]
    site = Site(*base, allow)
    assert all(site.change(packet(A, B), pod_event("server", 2, app="s", ports=[HTTP])))
    assert all(site.change(packet(A, B), pod_event("server", 2, ports=[HTTP])))
    assert all(site.change(packet(A, C), pod_event("server", 2, app="s", ports=[HTTP])))


def test_pods_that_come_and_go_change_nothing_for_the_others() -> None:
    base = [namespace("default"), pod_event("client", 1, app="c"), pod_event("server", 2, app="s")]
    allow = policy("p", ingress=[Rule((pods_of(app="c"),))])
    site = Site(*base, allow)
    crowd = [pod_event(f"x-{n}", n, app="x") for n in range(10, 60)]
    assert all(site.change(packet(A, B), *crowd))
    assert not any(site.change(packet(C, B), *[gone(found) for found in crowd[:40]]))
    assert all(site.change(packet(A, B), *crowd[:20]))
    site.tidy()


def test_an_address_that_changes_hands_is_forgotten_before_it_opens_and_after_its_old_rules() -> None:
    base = [namespace("default"), pod_event("peer", 1, app="c"), pod_event("old", 2, app="s")]
    allow = policy("p", selector=labelled(app="s"), ingress=[Rule((pods_of(app="c"),))])
    site = Site(*base, allow)
    isolated = names.isolated_set(Direction.INGRESS, Family.V4)
    order: list[tuple[int, bool]] = []
    site.kernel.seen = lambda: order.append(
        (sum(B in found for found in site.kernel.forgotten), B in site.kernel.sets[isolated][1])
    )
    delta = site.engine.apply([gone(base[2]), pod_event("new", 2, app="open")], 1.0)
    site.backend.apply(site.engine.lowered, delta)
    opened = next(times for times, closed in order if not closed)
    assert opened >= 1


def test_an_address_that_changes_hands_keeps_no_connection_from_a_peer_that_leaves_with_the_change() -> None:
    leaving = namespace("clients", role="in")
    base = [namespace("default"), leaving, pod_event("client", 1, namespace="clients", node="elsewhere")]
    old = pod_event("old", 2)
    site = Site(*base, old, policy("p", ingress=[Rule((namespaces_of(role="in"),))]))
    let_in: list[int] = []

    def look() -> None:
        if site.kernel.passes(packet(A, B)):
            let_in.append(len(site.kernel.forgotten))

    site.kernel.seen = look
    delta = site.engine.apply([gone(old), pod_event("new", 2), gone(leaving)], 1.0)
    assert not site.backend.apply(site.engine.lowered, delta).faults
    assert not site.kernel.passes(packet(A, B))
    assert any(B in found for found in site.kernel.forgotten[max(let_in) :])


def test_an_address_that_only_moves_is_looked_for_once() -> None:
    old = pod_event("old", 1, node="elsewhere", app="c")
    base = [namespace("default"), old, pod_event("server", 2), pod_event("other", 3, app="x")]
    site = Site(*base, policy("p", ingress=[Rule((pods_of(app="c"),))]))
    assert site.change(packet(A, B), gone(old), pod_event("new", 1, node="elsewhere", app="c"))[-1]
    assert len(site.kernel.forgotten) == 1
