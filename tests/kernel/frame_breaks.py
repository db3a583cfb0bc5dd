"""The ways in which the table that guards frames is broken: each is to be found by a proof."""

from __future__ import annotations

import socket
import subprocess
from typing import NamedTuple
from unittest import mock

from agent.dataplane.frames import TABLE
from agent.dataplane.frames.guard import FrameGuard
from agent.dataplane.podlinks import PodLink, Sender
from agent.kernel import nf_owned
from agent.kube.model import Key
from agent.proof.difference import Difference
from agent.proof.frames.prove import prove
from agent.proof.frames.reading import read
from agent.proof.given import Given
from tests.build import packed


class FrameBreak(NamedTuple):
    """One way to break the table, as nft(8) is told it, and what the difference has to say."""

    name: str
    text: str
    said: str


_T = f"netdev {TABLE}"
_DROPPED = "may not send"
FRAME_BREAKS = (
    FrameBreak(
        "an address more",
        f"add element {_T} addresses4 {{ veth-a . 10.0.0.77 }}",
        "default/a (veth-a) may send IPv4, from 10.0.0.77",
    ),
    FrameBreak(
        "another's address",
        f"add element {_T} addresses6 {{ veth-a . fd00::2 }}",
        "default/a (veth-a) may send IPv6, ",
    ),
    FrameBreak(
        "an address less",
        f"delete element {_T} addresses4 {{ veth-b . 10.0.0.2 }}",
        f"default/b (veth-b) {_DROPPED} IPv4, from 10.0.0.2",
    ),
    FrameBreak(
        "a hardware address more",
        f"add element {_T} senders {{ veth-a . 02:00:00:00:00:02 }}",
        "default/a (veth-a) may send",
    ),
    FrameBreak("all hardware addresses less", f"flush set {_T} senders", "default/b (veth-b) may not send"),
    FrameBreak("an accept before all", f"insert rule {_T} pod accept", "rule 1 of chain pod of table"),
    FrameBreak("an accept for IPv4", f"insert rule {_T} ip4 accept", "may send IPv4"),
    FrameBreak(
        "an accept for a network",
        f"insert rule {_T} ip4 ip saddr 10.9.0.0/16 accept",
        "from 10.9.0.0",
    ),
    FrameBreak("an accept for one link", f"insert rule {_T} pod iifname veth-b accept", "default/b (veth-b)"),
    FrameBreak(
        "an accept for advertisements",
        f"insert rule {_T} icmp6 icmpv6 type nd-neighbor-advert accept",
        "may send IPv6, ICMPv6, type 136",
    ),
    FrameBreak(
        "an accept for a router's",
        f"insert rule {_T} icmp6 icmpv6 type nd-router-advert accept",
        "may send IPv6, ICMPv6, type 134",
    ),
    FrameBreak(
        "an accept for DHCP servers",
        f"insert rule {_T} ip4 udp sport 67 udp dport 68 accept",
        "port 67 to 68",
    ),
    FrameBreak("a link's accept", f"insert rule {_T} link-veth-a accept", "default/a (veth-a) may send"),
    FrameBreak("a drop for TCP", f"insert rule {_T} ip4 tcp dport 80 drop", f"{_DROPPED} IPv4, TCP"),
    FrameBreak("a drop for requests", f"insert rule {_T} pod arp operation request drop", f"{_DROPPED} ARP"),
    FrameBreak("what drops emptied", f"flush chain {_T} wrong-address", "the end of chain link-veth-a"),
    FrameBreak("what drops tags emptied", f"flush chain {_T} wrong-kind", "may send tagged"),
    FrameBreak(
        "what asks for options emptied", f"flush chain {_T} wrong-options", "may send IPv4, with options"
    ),
    FrameBreak("a link's chain emptied", f"flush chain {_T} link-veth-b", "default/b (veth-b) may send"),
    FrameBreak(
        "a chain gone", f"delete chain {_T} link-veth-a", "default/a (veth-a) may send any frame: no chain"
    ),
    FrameBreak(
        "a chain at another place",
        f"delete chain {_T} link-veth-a; add chain {_T} link-veth-a "
        "{ type filter hook ingress device veth-a priority 0; }; "
        f"add rule {_T} link-veth-a jump pod",
        "has the priority 0",
    ),
    FrameBreak(
        "a chain of another interface",
        f"delete chain {_T} link-veth-a; add chain {_T} link-veth-a "
        "{ type filter hook ingress device uplink priority -500; }; "
        f"add rule {_T} link-veth-a jump pod",
        "sees frames of uplink, which is no pod's link",
    ),
    FrameBreak(
        "a chain that only one interface comes past",
        f"flush chain {_T} link-veth-a; add rule {_T} link-veth-a iifname veth-b jump pod",
        "the end of chain link-veth-a",
    ),
    FrameBreak("a dormant table", f"add table {_T} {{ flags dormant; }}", f"table {_T} is dormant"),
    FrameBreak("no table", f"delete table {_T}", f"table {_T} is not there"),
    FrameBreak("a limit", f"insert rule {_T} ip4 limit rate 1/second accept", "cannot be told"),
    FrameBreak("a tag's number", f"insert rule {_T} pod vlan id 5 accept", "cannot be told"),
)


class GuardedNode:
    """A node with two links of pods whose frames are guarded, in the network namespace of the thread."""

    def __init__(self) -> None:
        for name in ("veth-a", "veth-b", "uplink"):
            peer = f"{name}-in"
            subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", peer], check=True)
        self.links = tuple(self._link(name, number) for number, name in enumerate(("a", "b"), start=1))
        self.given = Given("here", "nft", (4, 6), (), (), (), frames=self.links)
        self.mend()

    def _link(self, name: str, number: int) -> PodLink:
        veth = f"veth-{name}"
        near, hardware = packed(f"fe80::{number}"), bytes((2, 0, 0, 0, 0, number))
        sender = Sender(socket.if_nametoindex(veth), hardware, (near,))
        addresses = packed(f"10.0.0.{number}"), packed(f"fd00::{number}")
        return PodLink(veth, "cni0", False, Key("default", name), addresses, (), sender)

    def mend(self) -> None:
        """Have the kernel hold what it should."""
        # As on an older kernel: what nobody holds anybody may break.
        with mock.patch.object(nf_owned, "flags", return_value=0), FrameGuard() as guard:
            assert guard.follow(self.links).faults == ()

    def prove(self) -> list[Difference]:
        return prove(self.given, read(), None)[1]

    def make(self, one: FrameBreak) -> None:
        subprocess.run(["nft", "-f", "-"], input=one.text, text=True, check=True)

    def missed(self) -> list[str]:
        """Return what is not found of the ways to break it, and of those which a repair does not mend."""
        told = [f"nothing was broken, and found: {one.said}" for one in self.prove()]
        for one in FRAME_BREAKS:
            self.make(one)
            found = self.prove()
            if not any(one.said in difference.said for difference in found):
                told.append(f"{one.name} was not found: {[difference.said for difference in found[:3]]}")
            self.mend()
            if self.prove():
                told.append(f"what was mended after {one.name} is not proved")
        return told
