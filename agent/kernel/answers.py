"""What ends of TCP connections answer, read as it comes in: packet(7), before any rule and translation."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from agent.closing import Closing
from agent.kernel.conntrack import Tuple

_EVERY_PROTOCOL = 3
"""ETH_P_ALL: of others, a bridge takes the packets of its ports first."""
_SO_ATTACH_FILTER, _SOL_PACKET, _PACKET_IGNORE_OUTGOING = 26, 263, 23
_ACK, _SYN = 0x10, 0x02
_COPIED = 80
"""Bytes of IPv6's header and of TCP's without its options, or of IPv4's with all of its and TCP's."""
_AT_A_TIME = 1000
_MOST_PORTS = 100
"""A jump of a filter reaches 255 steps."""

_LOAD_BYTE, _LOAD_HALF, _LOAD_BYTE_BEHIND, _LOAD_HALF_BEHIND = 0x30, 0x28, 0x50, 0x48
_INDEX, _INDEX_IPV4_HEADER = 0x01, 0xB1
_SHIFT_RIGHT, _JUMP_ALWAYS, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x74, 0x05, 0x15, 0x45, 0x06
"""Instructions of classic BPF (linux/bpf_common.h). What is loaded from behind is so from the index on."""


class Answer(NamedTuple):
    """A segment without SYN that came in: its way, its number, and the one that its sender expects next.

    Numbers are those of RFC 9293. ``expects`` is None where it says none: a reset without an acknowledgement.
    """

    way: Tuple
    sequence: int
    expects: int | None


class Answers(Closing):
    """Reads the segments that are sent to some ports, as they come in on any link; a context manager.

    Acts in the calling thread's network namespace. Raises OSError.
    """

    def __init__(self) -> None:
        every = socket.htons(_EVERY_PROTOCOL)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, every)
        try:
            self.to(())
            self._socket.setblocking(False)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> Iterator[Answer]:
        """Give what has come in, and do not wait; no more than some, since a port may be flooded."""
        for _ in range(_AT_A_TIME):
            try:
                data = self._socket.recv(_COPIED)
            except BlockingIOError:
                return
            if (answer := answer_of(data)) is not None:
                yield answer

    def to(self, ports: Collection[int]) -> None:
        """Have the kernel copy only what is sent to these ports from now on: of many, to the first."""
        # Classic BPF (linux/filter.h), 8 bytes for each instruction.
        steps = _program(sorted(ports)[:_MOST_PORTS])
        code = b"".join(struct.pack("=HBBI", *one) for one in _assembled(steps))
        held = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("@HP", len(code) // 8, ctypes.addressof(held))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


class _Step(NamedTuple):
    """An instruction; a jump leads to the steps of these labels, or on to the next one."""

    code: int
    k: int
    true: str = ""
    false: str = ""
    label: str = ""


def _program(ports: Collection[int]) -> list[_Step]:
    """Return a filter for segments of TCP to the ports without SYN. A packet begins with its IP header."""
    return [
        _Step(_LOAD_BYTE, 0),
        _Step(_SHIFT_RIGHT, 4),
        _Step(_JUMP_EQUAL, 6, true="v6"),
        _Step(_JUMP_EQUAL, 4, false="drop"),
        _Step(_LOAD_BYTE, 9),
        _Step(_JUMP_EQUAL, socket.IPPROTO_TCP, false="drop"),
        _Step(_LOAD_HALF, 6),
        _Step(_JUMP_SET, 0x1FFF, true="drop"),
        _Step(_INDEX_IPV4_HEADER, 0),
        _Step(_JUMP_ALWAYS, 3),
        _Step(_LOAD_BYTE, 6, label="v6"),
        _Step(_JUMP_EQUAL, socket.IPPROTO_TCP, false="drop"),
        _Step(_INDEX, 40),
        _Step(_LOAD_BYTE_BEHIND, 13),
        _Step(_JUMP_SET, _SYN, true="drop"),
        _Step(_LOAD_HALF_BEHIND, 2),
        *(_Step(_JUMP_EQUAL, port, true="take") for port in ports),
        _Step(_RETURN, 0, label="drop"),
        _Step(_RETURN, _COPIED, label="take"),
    ]


def _assembled(steps: Sequence[_Step]) -> Iterator[tuple[int, int, int, int]]:
    at = {step.label: number for number, step in enumerate(steps) if step.label}
    for number, step in enumerate(steps):
        true, false = (at[label] - number - 1 if label else 0 for label in (step.true, step.false))
        yield step.code, true, false, step.k


def answer_of(data: bytes) -> Answer | None:
    """Return what an IP packet of TCP says; None where it is none, or cut. Never raises."""
    v4 = data[:1] and data[0] >> 4 == 4
    start = (data[0] & 0x0F) * 4 if v4 else 40
    if len(data) < start + 20:
        return None
    ends = (data[12:16], data[16:20]) if v4 else (data[8:24], data[24:40])
    source_port, port, sequence, expects, _, flags = struct.unpack_from("!HHIIBB", data, start)
    way = Tuple(*ends, socket.IPPROTO_TCP, source_port, port)
    return Answer(way, sequence, expects if flags & _ACK else None)
