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
from collections.abc import Collection, Iterable

from agent.closing import Closing
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


class Resets(Closing):
    """Asks ends, with sockets that it opens as it needs them, and keeps until it is closed.

    To close one that reads answers takes the kernel some 15 ms. It may be asked again afterwards. Acts in the
    network namespace of the thread that asks first.
    """

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._answers: Answers | None = None

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()
        self._sockets.clear()
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    def ask(self, connections: Iterable[tuple[Tuple, Tuple]], mark: int) -> OSError | None:
        """Send both ends of each connection a segment, in the name of the other.

        A connection is given as it was opened and as its replies come: connection tracking translates the
        segments as it does the connection's own. ``mark``: of the packets, by which rules know them. What
        cannot be sent is not: then an end gets its reset as soon as it sends something itself. Returns why
        nothing could be sent in one of the families, if so; never raises.
        """
        found = list(connections)
        failed: OSError | None = None
        translated = {opened: reply for opened, reply in found if _is_translated(opened, reply)}
        listening = bool(translated) and self._listen({way.port for way in translated})
        for opened, reply in found:
            try:
                sending = self._sending(len(opened.source), mark)
            except OSError as error:
                failed = error
                continue
            # Connection tracking lets a SYN of who has opened it pass, and a SYN with ACK of who answers; the
            # others it takes for invalid, and does not translate. The SYN comes first: where who has opened
            # it is gone, it refuses what it is asked, and after that a SYN would open it anew.
            _send(sending, opened, _SYN)
            _send(sending, reply, _SYN | _ACK)
        if listening and self._answers is not None:
            self._reset(self._answers, translated, mark)
        return failed

    def _sending(self, size: int, mark: int) -> socket.socket:
        sending = self._sockets.get(size)
        if sending is None:
            family = socket.AF_INET if size == 4 else socket.AF_INET6
            sending = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
            sending.setblocking(False)
            self._sockets[size] = sending
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        return sending

    def _listen(self, ports: Collection[int]) -> bool:
        try:
            if self._answers is None:
                self._answers = Answers()
            self._answers.to(ports)
        except OSError:
            # Like one that answers later: it is reset where it is not on a bridge.
            return False
        return True

    def _reset(self, answers: Answers, asked: dict[Tuple, Tuple], mark: int) -> None:
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
                with contextlib.suppress(OSError):
                    sending = self._sending(len(reply.source), mark)
                    _send(sending, reply, _RST, answer.expects)
                    # It refuses this by a reset. With a reset as the last that it has seen of who has opened
                    # the connection, connection tracking takes a SYN of it for that of a new one, as it is.
                    _send(sending, reply, _SYN | _ACK, acknowledges=answer.sequence)


def _is_translated(opened: Tuple, reply: Tuple) -> bool:
    return (opened.destination, opened.port) != (reply.source, reply.source_port)


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
