"""Tunnels: what a pod sends to one never comes out of it, and what nodes send each other always does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.dataplane.iptables.rules import names
from agent.kube import model
from agent.net import Direction, Family, Network
from tests.build import packed
from tests.kernel.semantics.overlay import (
    DEVICE,
    PORT,
    add_device,
    overlay,
    remove_device,
    send_plain,
    wrapped,
)
from tests.kernel.semantics.stage import Stage, serial
from tests.kernel.semantics.test_nodes import node_object
from tests.kernel.semantics.wired import wired
from tests.kernel.semantics.written import isolated, labels, pods, policy
from tests.lab import packets
from tests.lab.node import Layout, Node
from tests.lab.place import Place

Send = Callable[[bytes], None]


@pytest.fixture(params=list(Family), ids=lambda family: f"over-IPv{int(family)}")
def outer(request: pytest.FixtureRequest) -> Family:
    return Family(request.param)


@pytest.fixture
def tunnelled(stage: Stage, outer: Family) -> Iterator[Stage]:
    """The stage, whose nodes reach each other's pods by VXLAN."""
    with overlay(stage.near, stage.far, outer):
        yield stage
    stage.given()


def through(sender: Place, node: Node, outer: str, source: str, destination: str, *, length: int = 0) -> Send:
    """Return a sender of UDP inside VXLAN to an address of a node, by an ordinary socket."""

    def send(tag: bytes) -> None:
        inner = packets.udp(source, destination, 7777, tag, source_port=serial())
        send_plain(sender, wrapped(inner, node, length=length), outer)

    return send


def addresses(stage: Stage, outer: Family) -> list[str]:
    """Return the addresses of the policed node that its pods reach it at."""
    found = [stage.near.address(outer)]
    if stage.layout is Layout.BRIDGE:
        found.append(stage.near.gateway4 if outer is Family.V4 else stage.near.gateway6)
    return found


@pytest.mark.both_modes
def test_a_pod_isolated_for_egress_reaches_nobody_through_its_nodes_tunnel(
    tunnelled: Stage, outer: Family, family: Family
) -> None:
    stage = tunnelled
    stage.given(isolated("s", types=["Egress"]))
    b, f = stage.pods["b"], stage.pods["f"]
    for address in addresses(stage, outer):
        send = through(stage.pods["s"], stage.near, address, f.address(family), b.address(family))
        stage.none_arrive(b, send)


@pytest.mark.both_modes
@pytest.mark.parametrize("length", [0, 4000], ids=["whole", "in fragments"])
def test_a_pod_passes_for_no_other_through_its_nodes_tunnel(
    tunnelled: Stage, outer: Family, family: Family, length: int
) -> None:
    stage = tunnelled
    stage.given(policy("t", labels(pod="t"), ingress=[{"from": [pods(pod="f")]}]))
    t, f = stage.pods["t"], stage.pods["f"]
    for address in addresses(stage, outer):
        stage.none_arrive(
            t,
            through(
                stage.pods["a"], stage.near, address, f.address(family), t.address(family), length=length
            ),
        )
    stage.expect("f -> t", denied="g a -> t")


@pytest.mark.both_modes
def test_nodes_go_on_to_reach_each_others_pods_by_it(tunnelled: Stage) -> None:
    stage = tunnelled
    for allow_nodes in (False, True):
        nodes = [node_object(stage.near), node_object(stage.far)]
        stage.given(isolated("s"), *nodes, allow_nodes=allow_nodes)
        with packets.sniff(stage.near, PORT.to_bytes(2, "big")) as seen:
            stage.expect("f g -> a b", "a s -> f", denied="f g -> s")
            assert seen.count() > 0


@pytest.mark.both_modes
def test_with_other_nodes_let_in_no_pod_and_no_stranger_passes_for_one_through_a_tunnel(
    tunnelled: Stage, outer: Family, family: Family
) -> None:
    """A node that sends by the tunnel is let in; what comes to it from an address of no node is dropped."""
    stage = tunnelled
    nodes = [node_object(stage.near), node_object(stage.far)]
    stage.given(isolated("t"), *nodes, allow_nodes=True)
    t, far = stage.pods["t"], stage.far
    claimed = far.address(family)
    for address in addresses(stage, outer):
        stage.none_arrive(t, through(stage.pods["a"], stage.near, address, claimed, t.address(family)))
    out = through(stage.out, stage.near, stage.near.address(outer), claimed, t.address(family))
    stage.none_arrive(t, out)
    stage.all_arrive(t, through(far, stage.near, stage.near.address(outer), claimed, t.address(family)))
    assert DEVICE in rules_of_nodes(stage, family)


def rules_of_nodes(stage: Stage, family: Family) -> str:
    """Return the rules by which other nodes reach every pod."""
    listed = stage.near.iptables(family, "-S", names.judge(Direction.INGRESS))
    return "\n".join(line for line in listed.splitlines() if " -i " in line)


@pytest.mark.both_modes
def test_without_nodes_known_strangers_are_not_told_from_nodes(
    tunnelled: Stage, outer: Family, family: Family
) -> None:
    stage = tunnelled
    stage.given(policy("t", labels(pod="t"), ingress=[{"from": [pods(pod="f")]}]))
    t, f = stage.pods["t"].address(family), stage.pods["f"].address(family)
    stage.all_arrive(stage.pods["t"], through(stage.out, stage.near, stage.near.address(outer), f, t))


@pytest.mark.both_modes
@pytest.mark.parametrize("allow_nodes", [False, True], ids=["", "nodes known"])
def test_a_pod_does_not_reach_another_nodes_tunnel_though_its_address_is_translated(
    tunnelled: Stage, outer: Family, family: Family, allow_nodes: bool
) -> None:
    stage = tunnelled
    nodes = [node_object(stage.near), node_object(stage.far)]
    stage.given(*nodes, allow_nodes=allow_nodes)
    f, g = stage.pods["f"], stage.pods["g"]
    translated = ("-t", "nat", "-I", "POSTROUTING", "1", "-o", "eth0", "-j", "MASQUERADE")
    stage.near.iptables(outer, *translated)
    try:
        send = through(
            stage.pods["a"], stage.far, stage.far.address(outer), g.address(family), f.address(family)
        )
        stage.none_arrive(f, send)
    finally:
        stage.near.iptables(outer, "-t", "nat", "-D", "POSTROUTING", "1")


@pytest.mark.both_modes
def test_pods_use_the_tunnels_port_among_themselves(tunnelled: Stage, outer: Family) -> None:
    """What leaves by the nodes' own network may be for one of them: it is dropped unless these are known."""
    stage = tunnelled
    stage.serves(PORT, "t", "f", "out")
    ip = f"IPv{int(outer)} "
    stage.given(isolated("s"))
    stage.expect(f"a f -> t: udp/{PORT}", f"a -> f: udp/{PORT}", denied=f"{ip}a -> out: udp/{PORT}")
    stage.given(isolated("s"), node_object(stage.far), allow_nodes=True)
    stage.expect(f"a f -> t: udp/{PORT}", f"a -> f: udp/{PORT}", f"{ip}a -> out: udp/{PORT}")


@pytest.mark.both_modes
@pytest.mark.parametrize("allow_nodes", [False, True], ids=["", "nodes known"])
def test_what_the_node_sends_for_a_pod_does_not_reach_another_nodes_tunnel(
    tunnelled: Stage, outer: Family, allow_nodes: bool
) -> None:
    """As IPVS sends it: through OUTPUT, with the pod's address. What the node itself sends does."""
    stage = tunnelled
    stage.given(isolated("s"), node_object(stage.far), allow_nodes=allow_nodes)
    f, g = (stage.pods[name].address(outer) for name in ("f", "g"))

    def by_output(source: str) -> Send:
        def send(tag: bytes) -> None:
            inner = packets.udp(g, f, 7777, tag, source_port=serial())
            datagram = packets.udp(
                source, stage.far.address(outer), PORT, wrapped(inner, stage.far), source_port=serial()
            )
            packets.send_ip(stage.near, datagram)

        return send

    stage.none_arrive(stage.pods["f"], by_output(stage.pods["a"].address(outer)))
    stage.all_arrive(stage.pods["f"], by_output(stage.near.address(outer)))


@pytest.mark.both_modes
@pytest.mark.bridge
@pytest.mark.parametrize("allow_nodes", [False, True], ids=["", "nodes known"])
def test_where_a_card_is_on_the_pods_bridge_the_port_tells_who_sends(
    stage: Stage, family: Family, allow_nodes: bool
) -> None:
    """Both ways: what comes in by the card is let in, and what pods send out by it to a tunnel is not."""
    add_device(stage.near, family)
    try:
        with wired(stage.near) as other:
            cidr = Network(packed(other.address(family)), family.bits)
            known = model.Node("wired", (cidr.address,), ())
            stage.given(isolated("s"), known, allow_nodes=allow_nodes)
            t, f = stage.pods["t"].address(family), stage.pods["f"].address(family)
            gateway = stage.near.gateway4 if family is Family.V4 else stage.near.gateway6
            stage.all_arrive(stage.pods["t"], through(other, stage.near, gateway, f, t))
            stage.none_arrive(stage.pods["t"], through(stage.pods["a"], stage.near, gateway, f, t))
            stage.none_arrive(other, through(stage.pods["a"], stage.near, other.address(family), f, t))
            stage.serves(PORT, "t")
            stage.expect(f"a -> t: udp/{PORT}")
    finally:
        remove_device(stage.near)
        stage.given()


@pytest.mark.both_modes
def test_a_tunnel_is_noticed_when_it_comes_and_forgotten_when_it_goes(stage: Stage, family: Family) -> None:
    stage.given(isolated("s"))
    untouched = {f: stage.near.iptables(f, "-S") for f in Family}
    assert not any(names.INPUT in text for text in untouched.values())
    add_device(stage.near, family)
    try:
        stage.moved()
        listed = stage.near.iptables(family, "-S")
        assert f"-A INPUT -j {names.INPUT}" in listed
        t, f = stage.pods["t"].address(family), stage.pods["f"].address(family)
        stage.none_arrive(
            stage.pods["t"], through(stage.pods["a"], stage.near, stage.near.address(family), f, t)
        )
    finally:
        remove_device(stage.near)
    stage.moved()
    assert {f: stage.near.iptables(f, "-S") for f in Family} == untouched


@pytest.mark.both_modes
def test_a_rule_that_lets_tunnels_packets_in_before_the_agents_is_put_behind_it(
    tunnelled: Stage, outer: Family
) -> None:
    stage = tunnelled
    stage.given(isolated("s"))
    accepts = ("-p", "udp", "--dport", str(PORT), "-j", "ACCEPT")
    stage.near.iptables(outer, "-I", "INPUT", "1", *accepts)
    try:
        with stage.kernel():
            assert stage.backend is not None
            found = stage.backend.audit(stage.engine.lowered)
            assert any(
                "INPUT: a rule before it could let packets pass" in str(difference) for difference in found
            )
            assert not stage.backend.sync(stage.engine.lowered).pending
        first = stage.near.iptables(outer, "-S", "INPUT", "1")
        assert names.INPUT in first
    finally:
        stage.near.iptables(outer, "-D", "INPUT", *accepts)


def test_other_nodes_are_not_let_in_by_a_tunnel_that_a_stranger_is_told_to_use(
    stage: Stage, family: Family
) -> None:
    """Its remote address is no node's; the warning says so, and goes with the reason."""
    nodes = [node_object(stage.near), node_object(stage.far)]
    with overlay(stage.near, stage.far):
        stage.near.netns.ip(
            f"link add vx1 type vxlan id 9 local {stage.near.v4} remote {stage.out.v4} dev eth0"
            f" dstport {PORT}"
        )
        try:
            stage.given(isolated("t"), *nodes, allow_nodes=True, warned="hosts that are no nodes can send")
            assert DEVICE not in rules_of_nodes(stage, family)
        finally:
            stage.near.netns.ip("link del vx1")
        stage.moved()
        assert DEVICE in rules_of_nodes(stage, family)
    stage.given()
