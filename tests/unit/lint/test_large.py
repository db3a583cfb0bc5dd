"""Large policies: what lint does for one grows with its length, and not with the square of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from agent.kube.model import IPBlock, NetworkPolicy, Peer, Port, Rule, Selector
from agent.lint.linter import lint
from agent.lint.networks import Networks
from agent.lint.openings import Openings
from agent.lint.reading import Input
from agent.lint.rules.shape import duplicate_port
from agent.lint.scene import Policy, Scene
from agent.lint.spans import Spans, span_of
from agent.net import Protocol
from tests.build import network
from tests.work import work

Written = dict[str, Any]
FEW, MANY = 60, 240


def net(number: int, rest: str) -> str:
    return f"10.{number >> 8}.{number & 255}.{rest}"


def ports(count: int) -> list[Written]:
    """Ranges of which none meets another."""
    return [{"port": 1 + 4 * n, "endPort": 2 + 4 * n, "protocol": "TCP"} for n in range(count)]


def blocks(count: int) -> list[Written]:
    return [{"ipBlock": {"cidr": net(n, "0/24"), "except": [net(n, "128/25")]}} for n in range(count)]


SHAPES: dict[str, Callable[[int], list[Written]]] = {
    "disjoint port ranges": lambda n: [{"ports": ports(n)}],
    "blocks with an except each": lambda n: [{"from": blocks(n)}],
    "ports and blocks": lambda n: [{"ports": ports(n), "from": blocks(n)}],
    "one block with many excepts": lambda n: [
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [net(k, "0/25") for k in range(n)]}}]}
    ],
    "pod peers": lambda n: [{"from": [{"podSelector": {"matchLabels": {"app": f"a{k}"}}} for k in range(n)]}],
    "rules of one block and ports of their own": lambda n: [
        {"ports": [port], "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}
        for port in ports(n)
    ],
    "an except that rules on other ports open": lambda n: [
        {"ports": ports(2 * n)[n:], "from": [{"ipBlock": {"cidr": net(k, "0/24")}} for k in range(n)]},
        {"ports": ports(n), "from": blocks(n)},
    ],
    "requirements of one selector": lambda n: [
        {"from": [{"podSelector": {"matchLabels": {f"key-{k}": "a" for k in range(n)}}}]}
    ],
}


def listed(rules: list[Written]) -> bytes:
    """Return the policy, one beside it that opens its excepts, and a pod that declares a port."""
    isolating = {"podSelector": {}, "policyTypes": ["Ingress"]}
    specs = {"big": rules, "closed": [], "open": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}
    items: list[Written] = [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {**isolating, "ingress": ingress},
        }
        for name, ingress in specs.items()
    ]
    declares = {"containers": [{"name": "c", "ports": [{"containerPort": 65000}]}]}
    metadata = {"name": "p", "namespace": "shop"}
    items.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": declares})
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()


@pytest.mark.parametrize("shape", SHAPES)
def test_four_times_the_entries_are_about_four_times_the_work(shape: str) -> None:
    counts = []
    for number in (FEW, MANY):
        source = Input("big.json", listed(SHAPES[shape](number)), is_json=True)
        counts.append(work(lambda source=source: lint([source])))  # type: ignore[misc]
    assert counts[1] < 4.6 * counts[0], f"{counts[1] / counts[0]:.1f} times the work"


NETWORKS = [
    network(text)
    for text in ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.1.0.9/32", "::/0", "fd00::/8")
]


@pytest.mark.parametrize("held", [NETWORKS, NETWORKS[1:4], NETWORKS[4:], []])
def test_networks_around_and_within_are_those_that_comparing_each_finds(held: list[Any]) -> None:
    def contains(outer: Any, inner: Any) -> bool:
        return bool(outer.prefix <= inner.prefix and outer.holds(inner.address))

    networks = Networks(held)
    for asked in NETWORKS:
        assert [*networks.around(asked)] == [one for one in held if contains(one, asked)]
        assert {*networks.within(asked)} == {one for one in held if contains(asked, one)}
        assert networks.meet(asked) == any(contains(one, asked) or contains(asked, one) for one in held)


PORTS = [
    Port(protocol, number, end)
    for protocol in (Protocol.TCP, Protocol.UDP)
    for number, end in ((None, None), ("http", None), ("dns", None), (53, None), (50, 60), (55, 70), (60, 60))
]


def meet(one: Port, other: Port) -> bool:
    """Whether two ports have one in common, read out plainly."""
    if one.protocol is not other.protocol or None in (one.port, other.port):
        return one.protocol is other.protocol
    if isinstance(one.port, int) and isinstance(other.port, int):
        return one.port <= (other.end or other.port) and other.port <= (one.end or one.port)
    return one.port == other.port


def test_spans_meet_as_the_ports_do() -> None:
    for one, other in product(PORTS, PORTS):
        assert (Spans([(span_of(one), 1)]).meeting(span_of(other)) is not None) == meet(one, other)
    for asked in PORTS:
        held = [port for port in PORTS if not meet(port, asked)]
        assert Spans((span_of(port), port) for port in held).meeting(span_of(asked)) is None
        found = Spans((span_of(port), port) for port in PORTS).meeting(span_of(asked))
        assert found is not None
        assert meet(found, asked)


def hits(*listed_ports: Port) -> list[str]:
    scene = Scene((), (), {}, (), (), (), {}, False)
    one = Policy(
        NetworkPolicy("shop", "a", Selector(), ingress=(Rule((), listed_ports),)),
        {},
        {},
        "networking.k8s.io/v1",
    )
    return [f"{hit.path.partition('.ports')[2]} {hit.message}" for hit in duplicate_port(one, scene)]


def test_a_port_is_named_with_the_range_that_reaches_furthest() -> None:
    tcp, udp = Protocol.TCP, Protocol.UDP
    assert hits(Port(tcp, 80), Port(tcp, 1, 50), Port(tcp, 1, 100), Port(udp, 80)) == [
        "[0] TCP 80 is listed within TCP 1-100",
        "[1] TCP 1-50 is listed within TCP 1-100",
    ]
    assert hits(Port(tcp, 80), Port(tcp, 80, 80), Port(tcp, "http"), Port(tcp, "http")) == [
        "[1] TCP 80 is listed twice",
        "[3] TCP http is listed twice",
    ]
    assert hits(Port(tcp, "http"), Port(tcp), Port(udp, 7), Port(tcp, 1, 65535)) == [
        "[0] TCP http is listed within all of TCP",
        "[3] TCP 1-65535 is listed within all of TCP",
    ]
    assert hits(Port(tcp, 1, 10), Port(tcp, 10, 20), Port(tcp, 21)) == []


def test_a_block_opens_what_it_holds_on_ports_that_are_shared() -> None:
    out, port = network("10.1.0.0/16"), (Port(Protocol.TCP, 80),)
    wide = IPBlock(network("10.0.0.0/8"))
    holed = IPBlock(network("10.0.0.0/8"), (network("10.1.2.0/24"),))
    rules = (Rule((Peer(block=holed),), port), Rule((Peer(), Peer(block=wide)), (Port(Protocol.TCP, 1, 99),)))
    found = Openings(rules).sharing(out, port)
    assert found is not None
    assert (found.rule, found.peer, found.block) == (1, 1, wide)
    assert Openings(rules).sharing(out, (Port(Protocol.UDP, 80),)) is None
    assert Openings(rules).sharing(network("fd00::/64"), ()) is None
    assert Openings(rules[:1]).sharing(out, ()) is None
    assert Openings((Rule((), port),)).sharing(out, ()) is None
    everywhere = Openings((Rule((), port),), everywhere=True).sharing(out, ())
    assert everywhere is not None
    assert everywhere.peer is None
