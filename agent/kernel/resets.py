"""Asking the ends of a TCP connection where they are, so that a reset finds them.

A reset counts only with the sequence number that its receiver expects next (RFC 5961, 3.2), which nobody here
knows. But an end that gets a SYN for a connection that it has already answers with an acknowledgement that
says both (RFC 5961, 4.2). Where a rule refuses that answer by a reset, the reset has the right number.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable

from agent.kernel.conntrack import Tuple

_SYN, _ACK = 0x02, 0x10
_TCP = struct.Struct("!HHIIBBHHH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_HOPS = 64
_WINDOW = 1024


def ask(connections: Iterable[tuple[Tuple, Tuple]], mark: int) -> OSError | None:
    """Send both ends of each connection a segment, in the name of the other.

    A connection is given as it was opened and as its replies come: connection tracking translates the
    segments as it does the connection's own. ``mark``: of the packets, by which rules know them. What cannot
    be sent is not: then an end gets its reset as soon as it sends something itself. Returns why nothing could
    be sent in one of the families, if so; never raises. Acts in the calling thread's network namespace.
    """
    failed: OSError | None = None
    with contextlib.ExitStack() as stack:
        sockets: dict[int, socket.socket | None] = {}
        for opened, reply in connections:
            size = len(opened.source)
            if size not in sockets:
                try:
                    sockets[size] = _open(stack, size, mark)
                except OSError as error:
                    sockets[size], failed = None, error
            sending = sockets[size]
            if sending is not None:
                # Connection tracking lets a SYN of who has opened it pass, and a SYN with ACK of who answers;
                # the others it takes for invalid, and does not translate. The SYN comes first: where who has
                # opened it is gone, it refuses what it is asked, and after that a SYN would open it anew.
                _send(sending, opened, _SYN)
                _send(sending, reply, _SYN | _ACK)
    return failed


def _open(stack: contextlib.ExitStack, size: int, mark: int) -> socket.socket:
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    opened = stack.enter_context(socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    opened.setblocking(False)
    return opened


def _send(sending: socket.socket, way: Tuple, flags: int) -> None:
    to = socket.inet_ntop(socket.AF_INET if len(way.destination) == 4 else socket.AF_INET6, way.destination)
    with contextlib.suppress(OSError):
        sending.sendto(segment(way, flags), (to, 0))


def segment(way: Tuple, flags: int) -> bytes:
    """Return a TCP segment without data, with its IP header. Its sequence number means nothing."""
    source, destination = way.source, way.destination
    bare = _TCP.pack(way.source_port, way.port, 0, 0, _TCP.size // 4 << 4, flags, _WINDOW, 0, 0)
    # The pseudo-header of IPv4 (RFC 9293, 3.1) has the same sum as that of IPv6 (RFC 8200, 8.1).
    summed = source + destination + struct.pack("!HH", socket.IPPROTO_TCP, len(bare))
    tcp = bare[:16] + struct.pack("!H", checksum(summed + bare)) + bare[18:]
    if len(source) == 4:
        # The kernel fills in the header's checksum and its identification (raw(7)).
        head = _IPV4.pack(
            0x45, 0, _IPV4.size + len(tcp), 0, 0, _HOPS, socket.IPPROTO_TCP, 0, source, destination
        )
    else:
        head = _IPV6.pack(6 << 28, len(tcp), socket.IPPROTO_TCP, _HOPS, source, destination)
    return head + tcp


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
