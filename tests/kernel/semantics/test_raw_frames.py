"""What remains open to a pod that can send raw frames: measured, and as docs/semantics.md has it."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.dataplane.podlinks import LinkFinder
from agent.net import Family
from tests.kernel.semantics.stage import TIMES, Stage, serial
from tests.kernel.semantics.written import isolated, labels, pods, policy
from tests.lab import packets
from tests.lab.node import Layout, Pod

DOCUMENT = Path(__file__).parents[3] / "docs/semantics.md"
VLAN_SYSCTL = "net.bridge.bridge-nf-filter-vlan-tagged"
UNLINKED = (
    "UDP to a third pod's address",
    "a source that no pod has",
    "the source of a pod that is allowed",
)
"""What is seen by a link; where pods are routed, some of it otherwise, too."""
NOBODYS = {Family.V4: "10.244.1.251", Family.V6: "fd00:10:244:1::fb"}
ETHERTYPE = {Family.V4: packets.ETH_P_IP, Family.V6: packets.ETH_P_IPV6}


class Sending(NamedTuple):
    """One pod sends to another in one family; the frame goes to ``mac``."""

    one: Pod
    other: Pod
    third: Pod
    family: Family
    mac: str

    def udp(
        self, tag: bytes, *, claimed: Pod | None = None, to: Pod | None = None, source: str = ""
    ) -> bytes:
        own, destination = (p.address(self.family) for p in (claimed or self.one, to or self.other))
        return packets.udp(source or own, destination, 7777, tag, source_port=serial())

    def frame(self, body: bytes, *, kind: int) -> bytes:
        macs = bytes.fromhex((self.mac + self.one.mac).replace(":", ""))
        return macs + struct.pack("!H", kind) + body

    def tagged(self, tag: bytes, *vlans: int) -> bytes:
        return packets.frame(self.one.mac, self.mac, self.udp(tag), vlans=vlans)

    def pppoe(self, tag: bytes) -> bytes:
        packet = self.udp(tag)
        protocol = 0x21 if self.family is Family.V4 else 0x57
        return self.frame(struct.pack("!BBHHH", 0x11, 0, 1, len(packet) + 2, protocol) + packet, kind=0x8864)


FRAMES: dict[str, Callable[[Sending, bytes], bytes]] = {
    "UDP as it should be": lambda s, tag: s.frame(s.udp(tag), kind=ETHERTYPE[s.family]),
    "one VLAN tag, number 0": lambda s, tag: s.tagged(tag, 0),
    "one VLAN tag, number 5": lambda s, tag: s.tagged(tag, 5),
    "two VLAN tags, numbers 0": lambda s, tag: s.tagged(tag, 0, 0),
    "in a PPPoE session": lambda s, tag: s.pppoe(tag),
    "MPLS": lambda s, tag: s.frame(struct.pack("!I", 100 << 12 | 0x1FF) + s.udp(tag), kind=0x8847),
    "ARP": lambda s, tag: s.frame(struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + bytes(20) + tag, kind=0x0806),
    "another ethertype (0x88b5)": lambda s, tag: s.frame(tag, kind=0x88B5),
    "UDP to a third pod's address": lambda s, tag: s.frame(s.udp(tag, to=s.third), kind=ETHERTYPE[s.family]),
    "a source that no pod has": lambda s, tag: s.frame(
        s.udp(tag, source=NOBODYS[s.family]), kind=ETHERTYPE[s.family]
    ),
    "the source of a pod that is allowed": lambda s, tag: s.frame(
        s.udp(tag, claimed=s.third), kind=ETHERTYPE[s.family]
    ),
}


def measured(stage: Stage, sending: Sending, name: str) -> tuple[int, int]:
    """Return how many frames come out of the other pod's link, and how many its stack hands to a socket."""
    tag = b"<tag-%08d>" % serial()
    with sending.other.netns.entered():
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    taken = 0
    with sock, packets.sniff(sending.other, tag) as arrived:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 7777))
        for _ in range(TIMES):
            packets.send_frame(sending.one, FRAMES[name](sending, tag))
        stage.lab.settle()
        try:
            while True:
                taken += tag in sock.recv(65536)
        except BlockingIOError:
            return arrived.count(), taken


def rows(stage: Stage, *, linked: bool = True) -> dict[str, str]:
    """Measure every frame into an isolated pod and out of one; return a table's cells.

    s is isolated but for b, a pod that is not; t is isolated for egress. ``linked``: the agent knows their
    links, as it does unless something keeps it from that.
    """
    stage.given(
        policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="b")]}]),
        isolated("t", types=["Egress"]),
    )
    if linked:
        stage.link(LinkFinder())
    cells = {}
    for name in FRAMES:
        ways = []
        for one, other in (("a", "s"), ("t", "a")):
            sender, receiver, third = (stage.pods[pod] for pod in (one, other, "b"))
            mac = receiver.mac if stage.layout is Layout.BRIDGE else sender.gateway_mac
            v4, v6 = (
                measured(stage, Sending(sender, receiver, third, family, mac), name) for family in Family
            )
            assert v4 == v6, name
            ways.append("{} / {}".format(*v4))
        cells[name] = ways[0] if ways[0] == ways[1] else f"{ways[0]} in, {ways[1]} out"
    stage.unlink()
    return cells


def documented() -> dict[str, list[str]]:
    """Return the rows of the document's table."""
    section = DOCUMENT.read_text().partition("## What remains open")[2]
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return {name: cells for name, *cells in found if name in FRAMES}


def documented_without_links() -> dict[str, dict[Layout, str]]:
    """Return the rows of its table of what is different where the links of pods are not known."""
    section = DOCUMENT.read_text().partition("## What remains open")[2]
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return {
        name: {Layout.BRIDGE: bridge, Layout.ROUTED: routed}
        for name, bridge, routed in found
        if name in FRAMES
    }


@pytest.mark.bridge
@pytest.mark.parametrize("filtered", [0, 1])
def test_what_remains_open_on_a_bridge_is_what_the_document_says(stage: Stage, filtered: int) -> None:
    stage.near.netns.sysctl({VLAN_SYSCTL: filtered})
    try:
        found = rows(stage)
    finally:
        stage.near.netns.sysctl({VLAN_SYSCTL: 0})
    assert {name: cells[filtered] for name, cells in documented().items()} == found


@pytest.mark.bridge
def test_ebtables_closes_what_the_document_says(stage: Stage) -> None:
    commands = re.findall(r"^ebtables (.+)$", DOCUMENT.read_text(), re.MULTILINE)
    try:
        for command in commands:
            stage.near.run("ebtables-nft", *command.split())
        found = rows(stage)
        stage.given()
        stage.lab.flush_neighbours()
        stage.expect("a -> s")
    finally:
        for command in ("-P FORWARD ACCEPT", "-F FORWARD"):
            stage.near.run("ebtables-nft", *command.split())
    assert commands
    assert {name for name, cell in found.items() if "5" in cell} == {
        "ARP",
        "the source of a pod that is allowed",
    }


def test_what_is_open_where_links_are_not_known_is_what_the_document_says(stage: Stage) -> None:
    with_links, without = rows(stage), rows(stage, linked=False)
    assert {name: cells[stage.layout] for name, cells in documented_without_links().items()} == {
        name: cell for name, cell in without.items() if cell != with_links[name] or name in UNLINKED
    }


@pytest.mark.routed
def test_what_remains_open_where_pods_are_routed_is_what_the_document_says(stage: Stage) -> None:
    assert {name: cells[2] for name, cells in documented().items()} == rows(stage)


def test_a_frame_to_everyone_with_a_pods_address_is_judged(stage: Stage, family: Family) -> None:
    """Flooded by the bridge, it meets policy at the pod whose address it has."""
    stage.given(isolated("s"))
    a, s = stage.pods["a"], stage.pods["s"]
    towards = packets.BROADCAST_MAC if stage.layout is Layout.BRIDGE else a.gateway_mac

    def send(tag: bytes) -> None:
        packet = packets.udp(a.address(family), s.address(family), 7777, tag, source_port=serial())
        packets.send_frame(a, packets.frame(a.mac, towards, packet))

    stage.none_arrive(s, send)


@pytest.mark.routed
def test_the_kernels_strict_source_check_closes_forged_sources(stage: Stage) -> None:
    stage.given(isolated("t", types=["Egress"]))
    t, a, b = (stage.pods[name] for name in "tab")
    sending = Sending(t, a, b, Family.V4, t.gateway_mac)
    assert measured(stage, sending, "the source of a pod that is allowed") == (TIMES, TIMES)
    stage.near.netns.sysctl({f"net.ipv4.conf.{t.veth}.rp_filter": 1})
    try:
        assert measured(stage, sending, "the source of a pod that is allowed") == (0, 0)
    finally:
        stage.near.netns.sysctl({f"net.ipv4.conf.{t.veth}.rp_filter": 0})
