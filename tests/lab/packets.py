"""Packets made by hand, sent past the stack's own checks, and counted where they arrive."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterator

from tests.lab.netns import SO_RCVBUFFORCE
from tests.lab.node import Pod
from tests.lab.place import Place

BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"
ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q, ETH_P_ALL = 0x0800, 0x86DD, 0x8100, 0x0003
IPV6_HDRINCL = 36
SO_MARK = 36


def _sum16(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    one, other = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    if len(one) == 4:
        return one + other + struct.pack("!BBH", 0, protocol, length)
    return one + other + struct.pack("!II", length, protocol)


def ip(source: str, destination: str, protocol: int, payload: bytes, *, hops: int = 64) -> bytes:
    """Return an IP packet of either family around a payload that starts with its transport header."""
    one, other = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if one.version == 6:
        return (
            struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + one.packed + other.packed + payload
        )
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, hops, protocol, 0)
    header += one.packed + other.packed
    return header[:10] + struct.pack("!H", _sum16(header)) + header[12:] + payload


def udp(source: str, destination: str, port: int, payload: bytes, *, source_port: int = 9999) -> bytes:
    """Return a UDP packet, its IP header included."""
    length = 8 + len(payload)
    header = struct.pack("!HHHH", source_port, port, length, 0)
    checksum = _sum16(_pseudo(source, destination, 17, length) + header + payload) or 0xFFFF
    return ip(source, destination, 17, header[:6] + struct.pack("!H", checksum) + payload)


def tcp(
    source: str,
    destination: str,
    port: int,
    *,
    flags: int,
    source_port: int = 9999,
    payload: bytes = b"",
) -> bytes:
    """Return a TCP packet with these flags (RFC 9293, section 3.1), its IP header included."""
    header = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, flags, 65535, 0, 0)
    checksum = _sum16(_pseudo(source, destination, 6, len(header) + len(payload)) + header + payload)
    header = header[:16] + struct.pack("!H", checksum) + header[18:]
    return ip(source, destination, 6, header + payload)


def tcp_syn(
    source: str, destination: str, port: int, *, source_port: int = 9999, payload: bytes = b""
) -> bytes:
    """Return a TCP SYN, its IP header included."""
    return tcp(source, destination, port, flags=2, source_port=source_port, payload=payload)


def icmp(source: str, destination: str, kind: int, code: int, body: bytes, *, hops: int = 64) -> bytes:
    """Return an ICMP or ICMPv6 packet, its IP header included."""
    message = struct.pack("!BBH", kind, code, 0) + body
    v6 = ":" in source
    pseudo = _pseudo(source, destination, 58, len(message)) if v6 else b""
    message = message[:2] + struct.pack("!H", _sum16(pseudo + message)) + message[4:]
    return ip(source, destination, 58 if v6 else 1, message, hops=hops)


def echo_request(source: str, destination: str, payload: bytes, *, identifier: int = 1) -> bytes:
    """Return an ICMP or ICMPv6 echo request, its IP header included."""
    kind = 128 if ":" in source else 8
    return icmp(source, destination, kind, 0, struct.pack("!HH", identifier, 1) + payload)


def frame(source: str, destination: str, packet: bytes, *, vlans: tuple[int, ...] = ()) -> bytes:
    """Return an Ethernet frame around an IP packet, with 802.1Q tags, the outermost first."""
    macs = bytes.fromhex((destination + source).replace(":", ""))
    tags = b"".join(struct.pack("!HH", ETH_P_8021Q, vlan) for vlan in vlans)
    kind = ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6
    return macs + tags + struct.pack("!H", kind) + packet


def send_frame(pod: Pod, data: bytes) -> None:
    """Send a frame as it is from a pod's eth0."""
    pod.netns.frames().sendto(data, ("eth0", 0))


def send_ip(place: Place, packet: bytes, *, mark: int = 0) -> None:
    """Send an IP packet as it is, whatever its source says, through a place's own routes and OUTPUT.

    That a rule in OUTPUT drops it is not an error: what arrives is counted where it would.
    """
    v4 = packet[0] >> 4 == 4
    family = socket.AF_INET if v4 else socket.AF_INET6
    with place.netns.entered(), socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        if v4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
            destination = socket.inet_ntop(family, packet[16:20])
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
            destination = socket.inet_ntop(family, packet[24:40])
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        with contextlib.suppress(PermissionError):
            sock.sendto(packet, (destination, 0))


class Sniffer:
    """Counts the frames that arrive at eth0 of a place and hold a tag anywhere in them."""

    def __init__(self, sock: socket.socket, tag: bytes) -> None:
        self._sock = sock
        self._tag = tag
        self._count = 0

    def count(self) -> int:
        """Return how many have arrived so far; ``lab.settle()`` first waits for those on their way."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, address = self._sock.recvfrom(65536)
                if address[2] != socket.PACKET_OUTGOING and self._tag in data:
                    self._count += 1
        return self._count


@contextlib.contextmanager
def sniff(place: Place, tag: bytes) -> Iterator[Sniffer]:
    """Watch what arrives at a pod, or at a node's uplink, whether or not its own stack would take it."""
    with place.netns.entered():
        # Without a protocol until it is bound: binding what hears every link waits until nobody does.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        sock.bind(("eth0", ETH_P_ALL))
        yield Sniffer(sock, tag)
