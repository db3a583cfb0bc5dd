"""Packets that policy must stop though they are not new connections between honest pods."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.net import Family
from tests.cluster.scene import Scene, Way, pods, rule, to
from tests.lab import packets
from tests.lab.cluster import AgentProcess
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.probe import Verdict
from tests.lab.talker import Talker

MEMBERS = 70_000


@pytest.mark.parametrize("was_isolated", [False, True], ids=["open", "isolated"])
def test_an_answered_udp_client_that_keeps_sending_reaches_no_isolated_pod_with_its_peers_address(
    scene: Scene, was_isolated: bool
) -> None:
    namespace = scene.namespace("a")
    clients = [
        scene.pod(node, namespace, f"client-{number}", {"app": "client"})
        for number, node in enumerate((scene.near, scene.far))
    ]
    old = scene.pod(scene.near, namespace, "old", {"app": "old"}, udp=[53])
    scene.policy(namespace, "closed", pods(app="new"), policyTypes=["Ingress"])
    if was_isolated:
        scene.policy(namespace, "old", pods(app="old"), ingress=[rule({"podSelector": pods(app="client")})])
    scene.cluster.settle()
    with contextlib.ExitStack() as stack:
        talkers = [
            stack.enter_context(Talker(client, old, family, 53, b"still-here"))
            for client in clients
            for family in Family
        ]
        addresses = old.v4, old.v6
        scene.workspace.delete_pod(old)
        # Kubelet reports the address, and the agents have taken it in, when the first packet can arrive.
        scene.workspace.cluster.client.create_pod(
            namespace, "new", node=scene.near.name, addresses=addresses, labels={"app": "new"}
        )
        scene.cluster.settle()
        before = [talker.sent for talker in talkers]
        new = scene.lab.pod(scene.near, f"{namespace}/new", addresses)
        scene.workspace.pods[new.name] = namespace, new
        scene.lab.serve(new, udp=[53], tcp=[80])
        with packets.sniff(new, b"still-here") as arrived:
            scene.lab.wait_for({f: Verdict.DENIED for c in clients for f in flows(c, new, udp=[53])})
            while any(talker.sent - start < 200 for talker, start in zip(talkers, before, strict=True)):
                scene.lab.settle()
            scene.lab.settle()
            assert arrived.count() == 0
            # They did send all the while: opened, the new pod hears them.
            scene.workspace.delete_policy(namespace, "closed")
            scene.expect(allowed=[Way(c, new) for c in clients])
            sent = [talker.sent for talker in talkers]
            while any(talker.sent - start < 50 for talker, start in zip(talkers, sent, strict=True)):
                scene.lab.settle()
            assert arrived.count() > 0


def _forgeries(attacker: Pod, victim: Pod, tag: bytes) -> Iterator[bytes]:
    """Yield frames that claim to be from a node, or are to or from addresses that name no pod."""
    node = attacker.node
    for claimed in (node.v4, node.v6, node.gateway4, node.gateway6):
        there = victim.v6 if ":" in claimed else victim.v4
        udp = packets.udp(claimed, there, 53, tag)
        syn = packets.tcp_syn(claimed, there, 80, payload=tag)
        yield packets.frame(attacker.mac, victim.mac, udp)
        yield packets.frame(attacker.mac, victim.mac, syn)
    subnet = attacker.v4.rsplit(".", 1)[0] + ".255"
    everyone = (packets.BROADCAST_MAC, victim.mac)
    for source, destination, macs in (
        ("169.254.7.7", victim.v4, (victim.mac,)),
        ("169.254.7.7", "169.254.7.8", (victim.mac,)),
        (attacker.v4, "169.254.7.8", (victim.mac,)),
        ("fe80::7", victim.v6, (victim.mac,)),
        ("fe80::7", "fe80::8", (victim.mac,)),
        (attacker.v6, "fe80::8", (victim.mac,)),
        (attacker.v4, "255.255.255.255", everyone),
        ("0.0.0.0", "255.255.255.255", everyone),
        (attacker.v4, subnet, everyone),
        (attacker.v4, "224.0.0.1", ("01:00:5e:00:00:01", victim.mac)),
        (attacker.v6, "ff02::1", ("33:33:00:00:00:01", victim.mac)),
        ("fe80::7", "ff02::1", ("33:33:00:00:00:01", victim.mac)),
    ):
        for mac in macs:
            udp = packets.udp(source, destination, 53, tag)
            yield packets.frame(attacker.mac, mac, udp)


def _forgeries_that_arrive(lab: Lab, attacker: Pod, victim: Pod) -> list[int]:
    """Send every forgery; return the numbers of those that reach the victim's eth0."""
    found = []
    for number, data in enumerate(_forgeries(attacker, victim, b"forged-it")):
        frame = data
        if attacker.node.layout is Layout.ROUTED:
            frame = bytes.fromhex(attacker.gateway_mac.replace(":", "")) + data[6:]
        with packets.sniff(victim, b"forged-it") as arrived:
            packets.send_frame(attacker, frame)
            lab.settle()
            if arrived.count():
                found.append(number)
    return found


def test_forged_node_sources_link_local_and_broadcast_do_not_reach_an_isolated_pod(scene: Scene) -> None:
    lab, layout = scene.lab, scene.near.layout
    # On a node without an agent they arrive; routed, the kernel itself takes few of them.
    bare = lab.node("bare", layout, scene.near.mode)
    try:
        arrived = _forgeries_that_arrive(lab, lab.pod(bare, "attacker"), lab.pod(bare, "victim"))
    finally:
        lab.remove_node(bare)
    assert len(arrived) > (20 if layout is Layout.BRIDGE else 4)
    namespace = scene.namespace("a")
    attacker = scene.pod(scene.near, namespace, "attacker", {"app": "attacker"})
    victim = scene.pod(scene.near, namespace, "victim", {"app": "victim"})
    scene.are_open([Way(attacker, victim)])
    scene.policy(namespace, "closed", pods(app="victim"), policyTypes=["Ingress"])
    scene.expect(denied=[Way(attacker, victim)])
    assert _forgeries_that_arrive(lab, attacker, victim) == []


@pytest.fixture
def alone() -> Iterator[tuple[Lab, Node]]:
    """A node with no API server. Its sets are the same in both modes of iptables."""
    with Lab() as lab:
        yield lab, lab.node("alone", Layout.ROUTED, Mode.NFT)


@pytest.mark.xdist_group("large")
def test_a_set_of_seventy_thousand_members(alone: tuple[Lab, Node], tmp_path: Path) -> None:
    lab, node = alone
    server, peer, stranger = (lab.pod(node, name) for name in ("server", "peer", "stranger"))
    for pod in (server, peer, stranger):
        lab.serve(pod, tcp=[80])
    ways = [f for client in (peer, stranger) for f in flows(client, server, tcp=[80])]
    lab.assert_open(ways)

    def manifest(name: str, addresses: tuple[str, str], where: str) -> dict[str, object]:
        status = {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name.split("-")[0]}},
            "spec": {"nodeName": where, "containers": [{"name": "main", "image": "none"}]},
            "status": status,
        }

    members = [
        manifest(
            f"peer-{n}",
            (f"10.{100 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", f"fd00:10:100::{n >> 16:x}:{n & 0xFFFF:x}"),
            "elsewhere",
        )
        for n in range(1, MEMBERS)
    ]
    # The one that sends comes last: a set that is cut at its default size does not hold it.
    local = [
        manifest("server", (server.v4, server.v6), node.name),
        manifest("stranger", (stranger.v4, stranger.v6), node.name),
        manifest("peer-last", (peer.v4, peer.v6), node.name),
    ]
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "from-peers"},
        "spec": {
            "podSelector": pods(app="server"),
            "ingress": [rule({"podSelector": pods(app="peer")})],
        },
    }
    items = {"apiVersion": "v1", "kind": "List", "items": [*members, *local, policy]}
    (tmp_path / "all.json").write_text(json.dumps(items))
    agent = AgentProcess(node, "--manifests", str(tmp_path), forked=True)
    try:
        agent.wait_ready(120)
        expected = {f: Verdict.ALLOWED if f.source is peer else Verdict.DENIED for f in ways}
        lab.wait_for(expected, 30)
        sizes = [found["size"] for found in agent.status()["sets"]]
        assert sizes == [MEMBERS, MEMBERS]
    finally:
        agent.stop()


@pytest.mark.parametrize("pair", [Layout.ROUTED], ids=str, indirect=True)
@pytest.mark.xdist_group("cluster-routed")
def test_a_policy_of_seventy_thousand_blocks(scene: Scene) -> None:
    namespace = scene.namespace("a")
    client = scene.pod(scene.near, namespace, "client", {"app": "client"})
    inside, outside = (scene.pod(scene.near, namespace, name) for name in ("inside", "outside"))
    scene.are_open([Way(client, inside), Way(client, outside)])
    # Every second address, so that no two can be joined; in the other family one prefix does.
    cidrs = [f"10.{200 + (n >> 15)}.{n >> 7 & 255}.{(n & 127) * 2}/32" for n in range(MEMBERS - 1)]
    blocks = [{"ipBlock": {"cidr": cidr}} for cidr in [*cidrs, f"{inside.v4}/32", f"{inside.v6}/128"]]
    scene.policy(namespace, "many", pods(app="client"), policyTypes=["Egress"], egress=[to(*blocks)])
    scene.expect(allowed=[Way(client, inside)], denied=[Way(client, outside)])
