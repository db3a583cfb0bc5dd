"""Frames that a container with NET_RAW can write, and what comes of them: for docs/frames.md."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from agent.net import Family
from tests.kernel.semantics.stage import TIMES, Stage, serial
from tests.lab import packets
from tests.lab.netns import SO_RCVBUFFORCE
from tests.lab.node import Layout, Pod

PORT, OTHER_PORT = 7777, 53
"""Where the receiver listens, which no policy allows, and what policy allows of UDP."""
NOBODYS = {Family.V4: "10.244.1.251", Family.V6: "fd00:10:244:1::fb"}
LINK_LOCAL = {Family.V4: "169.254.7.7", Family.V6: "fe80::7:7"}
LOOPBACK = {Family.V4: "127.0.0.1", Family.V6: "::1"}
GROUP = {Family.V4: "224.0.0.251", Family.V6: "ff02::fb"}
ETHERTYPE = {Family.V4: packets.ETH_P_IP, Family.V6: packets.ETH_P_IPV6}
_UDP, _HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 17, 0, 43, 44, 60
_NO_OPTIONS = b"\x01\x04" + bytes(4)
"""PadN over six bytes: an options header of eight with the two before it (RFC 8200, 4.2)."""


class Sending(NamedTuple):
    """Who sends what to whom: ``third`` is let in by the receiver's policy; the frame goes to ``mac``."""

    stage: Stage
    one: Pod
    other: Pod
    third: Pod
    family: Family
    tag: bytes

    @property
    def mac(self) -> str:
        return self.other.mac if self.stage.layout is Layout.BRIDGE else self.one.gateway_mac

    @property
    def ends(self) -> tuple[str, str]:
        return self.one.address(self.family), self.other.address(self.family)

    def frame(self, body: bytes, *, kind: int | None = None, source: str = "") -> bytes:
        macs = bytes.fromhex((self.mac + (source or self.one.mac)).replace(":", ""))
        return macs + struct.pack("!H", ETHERTYPE[self.family] if kind is None else kind) + body

    def udp(self, *, source: str = "", to: str = "", port: int = PORT, padding: int = 0) -> bytes:
        own, destination = self.ends
        payload = self.tag + bytes(padding)
        return packets.udp(source or own, to or destination, port, payload, source_port=serial())

    def segment(self, port: int = PORT, padding: int = 0) -> bytes:
        """Return a UDP segment without its IP header, with its checksum."""
        return self.udp(port=port, padding=padding)[20 if self.family is Family.V4 else 40 :]

    def v6(self, first: int, body: bytes) -> bytes:
        return packets.ip(*self.ends, first, body)

    def v4(
        self, body: bytes, *, options: bytes = b"", offset: int = 0, more: bool = False, to: str = ""
    ) -> bytes:
        """Return a UDP packet, or a fragment of one: ``offset`` in bytes."""
        own, destination = (socket.inet_aton(end) for end in (self.ends[0], to or self.ends[1]))
        length = 20 + len(options) + len(body)
        where = (0x2000 if more else 0) | offset // 8
        first = 0x40 | length - len(body) >> 2
        header = struct.pack("!BBHHHBBH", first, 0, length, _identity(self.tag), where, 64, _UDP, 0)
        header += own + destination + options
        total = sum(struct.unpack(f"!{len(header) // 2}H", header))
        total = (total & 0xFFFF) + (total >> 16)
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        return header[:10] + struct.pack("!H", checksum) + header[12:] + body

    def piece(self, following: int, body: bytes, *, offset: int = 0, more: bool = False) -> bytes:
        """Return an IPv6 fragment; the whole begins with the header ``following``."""
        header = struct.pack("!BBHI", following, 0, offset | more, _identity(self.tag))
        return self.v6(_FRAGMENT, header + body)


def _identity(tag: bytes) -> int:
    return int(tag[-6:-1]) & 0xFFFF


Make = Callable[[Sending], "bytes | list[bytes]"]


def _pppoe(s: Sending) -> bytes:
    packet = s.udp()
    protocol = 0x21 if s.family is Family.V4 else 0x57
    return s.frame(struct.pack("!BBHHH", 0x11, 0, 1, len(packet) + 2, protocol) + packet, kind=0x8864)


def _snap(s: Sending) -> bytes:
    body = bytes.fromhex("aaaa03000000") + struct.pack("!H", ETHERTYPE[s.family]) + s.udp()
    return s.frame(body, kind=len(body))


def _tagged(*vlans: int) -> Make:
    return lambda s: packets.frame(s.one.mac, s.mac, s.udp(), vlans=vlans)


def _options(kind: int) -> Make:
    return lambda s: s.frame(s.v6(kind, bytes([_UDP, 0]) + _NO_OPTIONS + s.segment()))


def _routing(s: Sending) -> bytes:
    """A routing header of type 0, whose last hop is the receiver (RFC 5095 forbids it)."""
    waypoint = ipaddress.ip_address(s.ends[1]).packed
    return s.frame(s.v6(_ROUTING, struct.pack("!BBBBI", _UDP, 2, 0, 1, 0) + waypoint + s.segment()))


def _by_the_node(s: Sending) -> bytes:
    """Strict source routing: to the node, and from there to the receiver (RFC 791)."""
    gateway = s.one.node.v4
    route = b"\x83\x07\x04" + socket.inet_aton(s.ends[1]) + b"\0"
    macs = bytes.fromhex((s.one.gateway_mac + s.one.mac).replace(":", ""))
    return macs + b"\x08\x00" + s.v4(s.segment(), options=route, to=gateway)


def _hidden(s: Sending) -> list[bytes]:
    """Fragments of which the first ends before the UDP header."""
    whole = bytes([_UDP, 0]) + _NO_OPTIONS + s.segment()
    return [
        s.frame(s.piece(_DESTINATION, whole[:8], more=True)),
        s.frame(s.piece(_DESTINATION, whole[8:], offset=8)),
    ]


def _overlapping(s: Sending) -> list[bytes]:
    """The first fragment is to a port that policy allows, the next covers it and names another."""
    allowed, wanted = s.segment(OTHER_PORT, padding=26), s.segment(padding=26)
    pieces = ((allowed[:16], 0, True), (wanted[:24], 0, True), (wanted[24:], 24, False))
    if s.family is Family.V4:
        return [s.frame(s.v4(body, offset=offset, more=more)) for body, offset, more in pieces]
    return [s.frame(s.piece(_UDP, body, offset=offset, more=more)) for body, offset, more in pieces]


def _tiny(s: Sending) -> list[bytes]:
    whole = s.segment()
    return [s.frame(s.v4(whole[:8], more=True)), s.frame(s.v4(whole[8:], offset=8))]


BOTH = tuple(Family)
V4, V6 = (Family.V4,), (Family.V6,)
PACKETS: dict[str, tuple[tuple[Family, ...], Make]] = {
    "UDP as it should be": (BOTH, lambda s: s.frame(s.udp())),
    "one VLAN tag, number 0": (BOTH, _tagged(0)),
    "one VLAN tag, number 5": (BOTH, _tagged(5)),
    "two VLAN tags, numbers 0": (BOTH, _tagged(0, 0)),
    "in a PPPoE session": (BOTH, _pppoe),
    "MPLS": (BOTH, lambda s: s.frame(struct.pack("!I", 100 << 12 | 0x1FF) + s.udp(), kind=0x8847)),
    "in LLC and SNAP": (BOTH, _snap),
    "another ethertype (0x88b5)": (BOTH, lambda s: s.frame(s.tag, kind=0x88B5)),
    "ARP of no kind": (
        V4,
        lambda s: s.frame(struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + bytes(20) + s.tag, kind=0x806),
    ),
    "another pod's source, which is allowed": (
        BOTH,
        lambda s: s.frame(s.udp(source=s.third.address(s.family))),
    ),
    "a source that nobody has": (BOTH, lambda s: s.frame(s.udp(source=NOBODYS[s.family]))),
    "the node's source": (BOTH, lambda s: s.frame(s.udp(source=s.one.node.address(s.family)))),
    "a link-local source": (BOTH, lambda s: s.frame(s.udp(source=LINK_LOCAL[s.family]))),
    "the source of loopback": (BOTH, lambda s: s.frame(s.udp(source=LOOPBACK[s.family]))),
    "a group as source": (BOTH, lambda s: s.frame(s.udp(source=GROUP[s.family]))),
    "a third pod's hardware address": (BOTH, lambda s: s.frame(s.udp(), source=s.third.mac)),
    "IPv4 option: record route": (
        V4,
        lambda s: s.frame(s.v4(s.segment(), options=b"\x07\x07\x04" + bytes(5))),
    ),
    "IPv4 option: source route by the node": (V4, _by_the_node),
    "IPv4 in tiny fragments": (V4, _tiny),
    "IPv6 hop-by-hop options": (V6, _options(_HOP_BY_HOP)),
    "IPv6 destination options": (V6, _options(_DESTINATION)),
    "IPv6 routing header": (V6, _routing),
    "IPv6 in one fragment": (V6, lambda s: s.frame(s.piece(_UDP, s.segment()))),
    "IPv6 in fragments, the first without UDP": (V6, _hidden),
    "overlapping fragments": (BOTH, _overlapping),
}


def arrived(stage: Stage, one: Pod, other: Pod, third: Pod) -> dict[str, str]:
    """Send each forgery :data:`TIMES` times; return "frames seen at the receiver / taken by its socket".

    Both families are told apart where they fare differently.
    """
    tags = {(name, family): b"<tag-%08d>" % serial() for name, (fs, _) in PACKETS.items() for family in fs}
    found: dict[str, str] = {}
    with contextlib.ExitStack() as open_sockets:
        frames = open_sockets.enter_context(_tapped(other))
        taken = open_sockets.enter_context(_listening(other))
        for (name, family), tag in tags.items():
            # A number for each copy, so that fragments of one are not another's.
            for number in range(TIMES):
                made = PACKETS[name][1](Sending(stage, one, other, third, family, tag[:-1] + b"%d>" % number))
                for data in [made] if isinstance(made, bytes) else made:
                    packets.send_frame(one, data)
        # A bridge has its hardware address back with the next frame of its owner.
        claimed = packets.udp(third.v4, one.v4, 9, b"", source_port=serial())
        packets.send_frame(third, packets.frame(third.mac, one.mac, claimed))
        stage.lab.settle()
        seen, read = b"\n".join(_all(frames)), b"\n".join(_all(taken))
    for (name, _), tag in tags.items():
        cell = f"{min(TIMES, seen.count(tag[:-1]))} / {read.count(tag[:-1])}"
        before = found.setdefault(name, cell)
        if cell != before:
            found[name] = f"{before} IPv4, {cell} IPv6"
    return found


@contextlib.contextmanager
def _tapped(pod: Pod) -> Iterator[socket.socket]:
    with pod.netns.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(3))
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        sock.bind(("eth0", packets.ETH_P_ALL))
        yield sock


@contextlib.contextmanager
def _listening(pod: Pod) -> Iterator[socket.socket]:
    with pod.netns.entered():
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", PORT))
        yield sock


def _all(sock: socket.socket) -> Iterable[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            data, address = sock.recvfrom(65536)
            if len(address) < 3 or address[2] != socket.PACKET_OUTGOING:
                yield data
