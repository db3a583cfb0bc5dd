"""Asking the ends of a TCP connection where they are, so that a reset finds them.

A reset counts only with the sequence number that its receiver expects next (RFC 5961, 3.2), which nobody here
knows. But an end that gets a SYN for a connection that it has already answers with an acknowledgement that
says both (RFC 5961, 4.2). Where a rule refuses that answer by a reset, the reset has the right number.

Where the end is on a bridge and has asked for a Service, that reset does not reach it: the kernel sends it
straight to the bridge's port, not translated back. So the answer is also read here, and the reset sent.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterable, Mapping

from agent.kernel.answers import Answers
from agent.kernel.conntrack import Tuple

_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_TCP = struct.Struct("!HHIIBBHHH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_HOPS = 64
_WINDOW = 1024
_PATIENCE = 0.01
"""Seconds within which an answer of a pod of this node comes."""


def ask(connections: Iterable[tuple[Tuple, Tuple]], mark: int) -> OSError | None:
    """Send both ends of each connection a segment, in the name of the other.

    A connection is given as it was opened and as its replies come: connection tracking translates the
    segments as it does the connection's own. ``mark``: of the packets, by which rules know them. What cannot
    be sent is not: then an end gets its reset as soon as it sends something itself. Returns why nothing could
    be sent in one of the families, if so; never raises. Acts in the calling thread's network namespace.
    """
    found = list(connections)
    failed: OSError | None = None
    with contextlib.ExitStack() as stack:
        answers, asked = _answers(stack, found), dict[Tuple, Tuple]()
        sockets: dict[int, socket.socket | None] = {}
        for opened, reply in found:
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
                if _is_translated(opened, reply):
                    asked[opened] = reply
        if answers is not None:
            _reset(sockets, answers, asked)
    return failed


def _is_translated(opened: Tuple, reply: Tuple) -> bool:
    return (opened.destination, opened.port) != (reply.source, reply.source_port)


def _answers(stack: contextlib.ExitStack, found: Iterable[tuple[Tuple, Tuple]]) -> Answers | None:
    ports = {way.port for way, reply in found if _is_translated(way, reply)}
    if not ports:
        return None
    try:
        return stack.enter_context(Answers(ports))
    except OSError:
        # Like one that is asked later: it is reset where it is not on a bridge.
        return None


def _reset(sockets: Mapping[int, socket.socket | None], answers: Answers, asked: dict[Tuple, Tuple]) -> None:
    """Reset those that answer at once, as pods of this node do."""
    until = time.monotonic() + _PATIENCE
    left = _PATIENCE
    # At least once, however busy the processors are: answers come while the others are asked.
    while asked and left > 0:
        left = until - time.monotonic()
        if not select.select([answers], [], [], max(0.0, left))[0]:
            return
        for answer in answers.read():
            reply = asked.pop(answer.way, None)
            if reply is None or answer.expects is None:
                continue
            sending = sockets.get(len(reply.source))
            if sending is not None:
                _send(sending, reply, _RST, answer.expects)
                # It refuses this by a reset. With a reset as the last that it has seen of who has opened the
                # connection, connection tracking takes a SYN of it for that of a new one, as it is.
                _send(sending, reply, _SYN | _ACK, acknowledges=answer.sequence)


def _open(stack: contextlib.ExitStack, size: int, mark: int) -> socket.socket:
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    opened = stack.enter_context(socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    opened.setblocking(False)
    return opened


def _send(sending: socket.socket, way: Tuple, flags: int, sequence: int = 0, acknowledges: int = 0) -> None:
    to = socket.inet_ntop(socket.AF_INET if len(way.destination) == 4 else socket.AF_INET6, way.destination)
    with contextlib.suppress(OSError):
        sending.sendto(segment(way, flags, sequence, acknowledges), (to, 0))


def segment(way: Tuple, flags: int, sequence: int = 0, acknowledges: int = 0) -> bytes:
    """Return a TCP segment without data, with its IP header."""
    source, destination = way.source, way.destination
    numbers, words = (sequence, acknowledges), _TCP.size // 4
    bare = _TCP.pack(way.source_port, way.port, *numbers, words << 4, flags, _WINDOW, 0, 0)
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
