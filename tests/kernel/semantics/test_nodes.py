"""Nodes and pods: one's own node is never policed, others are, and no forged address passes for one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.rules import names
from agent.kube import model
from agent.kube.events import Delete
from agent.kube.model import Kind
from agent.net import Family, Network
from tests.build import packed
from tests.kernel.semantics.stage import Stage, serial
from tests.kernel.semantics.written import isolated, labels, pods, policy, port
from tests.lab import packets
from tests.lab.node import Layout, Mode, Node

BOTH = ("Ingress", "Egress")
Send = Callable[[bytes], None]


def udp(source: str, destination: str, tag: bytes) -> bytes:
    return packets.udp(source, destination, 7777, tag, source_port=serial())


def by_output(stage: Stage, source: str, destination: str, family: Family, *, mark: int = 0) -> Send:
    """Return a sender from the policed node itself, of packets that claim another source."""
    one, other = (stage.places[name].address(family) for name in (source, destination))
    return lambda tag: packets.send_ip(stage.near, udp(one, other, tag), mark=mark)


def forged(stage: Stage, pod: str, claimed: str, destination: str) -> Send:
    """Return a sender from a pod of packets that claim an address, sent straight to their destination."""
    one, other = stage.pods[pod], stage.pods[destination]
    towards = other.mac if stage.layout is Layout.BRIDGE else one.gateway_mac
    address = other.v6 if ":" in claimed else other.v4
    return lambda tag: packets.send_frame(one, packets.frame(one.mac, towards, udp(claimed, address, tag)))


def node_object(node: Node) -> model.Node:
    cidrs = [
        Network(packed(cidr.split("/")[0]), int(cidr.split("/")[1])) for cidr in (node.cidr4, node.cidr6)
    ]
    return model.Node(node.name, (packed(node.v4), packed(node.v6)), tuple(cidrs))


@pytest.mark.both_modes
def test_a_pod_and_its_own_node_are_never_policed(stage: Stage) -> None:
    stage.given(isolated("s", "t", types=BOTH))
    stage.expect("near -> s t", "near -> service-s: tcp/1000", "s t -> near: tcp/80", denied="s -> t")
    for family in Family:
        assert stage.arrive(stage.pods["s"], by_output(stage, "near", "s", family)) == 5


@pytest.mark.both_modes
@pytest.mark.bridge
def test_the_nodes_addresses_on_the_bridge_are_the_node(stage: Stage, family: Family) -> None:
    stage.given(isolated("s", types=BOTH))
    gateway = stage.near.gateway4 if family is Family.V4 else stage.near.gateway6
    stage.places["gateway"] = _At(stage.near, gateway)
    stage.expect(f"IPv{int(family)} s -> gateway", denied=f"IPv{int(family)} s -> a")


class _At:
    """The node, by another of its addresses."""

    def __init__(self, node: Node, address: str) -> None:
        self.name, self.netns, self._address = node.name, node.netns, address

    def address(self, family: Family) -> str:
        assert (family is Family.V6) == (":" in self._address)
        return self._address


@pytest.mark.both_modes
def test_the_nodes_forged_address_opens_nothing(stage: Stage, family: Family) -> None:
    stage.given(isolated("s"), isolated("b", types=["Egress"]))
    node = stage.near
    claims = [node.address(family)]
    if stage.layout is Layout.BRIDGE:
        claims.append(node.gateway4 if family is Family.V4 else node.gateway6)
    for claimed in claims:
        if stage.layout is Layout.ROUTED and family is Family.V4:
            # The kernel itself takes no such packet.
            assert stage.arrive(stage.pods["t"], forged(stage, "a", claimed, "t")) == 0
            continue
        stage.none_arrive(stage.pods["s"], forged(stage, "a", claimed, "s"))
        stage.all_arrive(stage.pods["t"], forged(stage, "a", claimed, "t"))


def test_other_nodes_are_policed_unless_allowed(stage: Stage) -> None:
    rules = [isolated("s"), isolated("t", types=["Egress"])]
    nodes = [node_object(stage.near), node_object(stage.far)]
    stage.given(*rules, *nodes)
    stage.expect("far -> a", denied="far f out a -> s")
    stage.given(*rules, *nodes, allow_nodes=True)
    stage.expect("far -> s", denied=["f g out a c -> s", "t -> far"])
    stage.then(Delete(Kind.NODE, nodes[1].key))
    stage.expect("near -> s", denied="far f out a -> s")
    stage.then(nodes[1])
    stage.expect("far -> s", denied="f out a -> s")
    stage.given(*rules, *nodes)
    stage.expect(denied="far -> s")


@pytest.mark.both_modes
def test_nodes_that_are_allowed_cannot_be_forged_by_a_pod(stage: Stage, family: Family) -> None:
    """Also with the network and first address of another node's pods, which tunnels and bridges have."""
    stage.given(isolated("s"), node_object(stage.near), node_object(stage.far), allow_nodes=True)
    base = "10.244.2.{}" if family is Family.V4 else "fd00:10:244:2::{}"
    for claimed in (stage.far.address(family), base.format(0), base.format(1)):
        stage.none_arrive(stage.pods["s"], forged(stage, "a", claimed, "s"))
        address = stage.pods["s"].address(family)
        send = lambda tag, c=claimed, a=address: packets.send_ip(stage.far, udp(c, a, tag))  # noqa: E731
        stage.all_arrive(stage.pods["s"], send)
    beyond = base.format(2)
    stage.none_arrive(
        stage.pods["s"],
        lambda tag: packets.send_ip(stage.far, udp(beyond, stage.pods["s"].address(family), tag)),
    )


def test_a_pod_of_an_allowed_node_is_not_the_node(stage: Stage, family: Family) -> None:
    """Nor does a pod's packet that another node sends on with the pod's address."""
    stage.given(isolated("s"), node_object(stage.far), allow_nodes=True)
    s = stage.pods["s"]
    f = stage.pods["f"].address(family)
    stage.none_arrive(s, lambda tag: packets.send_ip(stage.far, udp(f, s.address(family), tag)))


# OUTPUT: where translated packets of pods leave the node


@pytest.mark.both_modes
@pytest.mark.parametrize("mark", [0, 0x10000, 0x20000, 0x30000, 0x4000], ids=hex)
def test_packets_of_others_through_output_are_judged(stage: Stage, family: Family, mark: int) -> None:
    """As IPVS sends them, whatever mark they bring."""
    stage.given(
        policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="a")]}]),
        isolated("t", types=["Egress"]),
        policy("b", labels(pod="b"), egress=[{"ports": [port(7777, "UDP")]}], types=["Egress"]),
    )
    stage.others_judged(told=True)
    for source, destination in (("a", "s"), ("c", "a"), ("b", "a"), ("b", "f"), ("c", "f")):
        stage.all_arrive(stage.pods[destination], by_output(stage, source, destination, family, mark=mark))
    for source, destination in (("c", "s"), ("b", "s"), ("f", "s"), ("out", "s"), ("t", "a"), ("t", "f")):
        stage.none_arrive(stage.pods[destination], by_output(stage, source, destination, family, mark=mark))


@pytest.mark.both_modes
@pytest.mark.parametrize("mark", [0, 0x10000, 0x20000], ids=hex)
def test_the_nodes_own_packets_through_output_are_not_judged(stage: Stage, family: Family, mark: int) -> None:
    stage.given(isolated("s", "t", types=BOTH))
    stage.all_arrive(stage.pods["s"], by_output(stage, "near", "s", family, mark=mark))


@pytest.mark.both_modes
def test_a_pod_to_itself_through_output_is_not_judged(stage: Stage, family: Family) -> None:
    stage.given(isolated("s", "t", types=BOTH))
    stage.others_judged(told=True)
    stage.all_arrive(stage.pods["s"], by_output(stage, "s", "s", family))
    stage.none_arrive(stage.pods["t"], by_output(stage, "s", "t", family))


@pytest.mark.both_modes
def test_packets_of_others_are_dropped_until_the_first_is_noticed_and_judged_from_then_on(
    stage: Stage, family: Family
) -> None:
    """And after a restart: a node that is seen to send for others goes on to."""
    rules = policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="a")]}])
    forget_others(stage)
    stage.given(rules)
    usual = stage.mode is Mode.NFT
    allowed, denied = by_output(stage, "a", "s", family), by_output(stage, "b", "s", family)
    stage.none_arrive(stage.pods["s"], denied)
    if usual:
        stage.none_arrive(stage.pods["s"], allowed)
    stage.others_judged()
    stage.all_arrive(stage.pods["s"], allowed)
    stage.none_arrive(stage.pods["s"], denied)
    assert stage.backend is not None
    stage.backend.close()
    stage.backend = None
    stage.given(rules)
    stage.all_arrive(stage.pods["s"], allowed)
    stage.none_arrive(stage.pods["s"], denied)
    forget_others(stage)


@pytest.mark.both_modes
def test_those_of_pods_that_are_not_isolated_pass_and_give_nothing_to_notice(
    stage: Stage, family: Family
) -> None:
    forget_others(stage)
    stage.given(isolated("s"))
    stage.all_arrive(stage.pods["b"], by_output(stage, "a", "b", family))
    stage.all_arrive(stage.pods["s"], by_output(stage, "near", "s", family))
    with stage.kernel():
        assert stage.backend is not None
        assert not stage.backend.disturbed()


def test_where_the_kernel_does_not_count_members_they_are_judged_from_the_start(
    stage: Stage, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = KernelSets.sizes_in_kernel
    forget_others(stage)
    with monkeypatch.context() as old:
        old.setattr(KernelSets, "sizes_in_kernel", lambda sets: dict.fromkeys(whole(sets)))
        stage.given(policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="a")]}]))
    stage.all_arrive(stage.pods["s"], by_output(stage, "a", "s", family))
    stage.none_arrive(stage.pods["s"], by_output(stage, "b", "s", family))
    forget_others(stage)


def forget_others(stage: Stage) -> None:
    """Have the kernel, and the next backend, know of no packets of others."""
    stage.given()
    assert stage.backend is not None
    stage.backend.close()
    stage.backend = None
    for family in Family:
        if stage.mode is Mode.NFT:
            stage.near.run("ipset", "flush", names.transit_set(family))
