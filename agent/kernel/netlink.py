"""A netlink socket for bytes that are encoded by hand: many messages a system call, few answers.

pyroute2 builds and decodes each message as nested objects, which costs more than the kernel's own work. Tests
hold the numbers here against its own. The framing is that of ``linux/netlink.h`` and
``linux/netfilter/nfnetlink.h``; the kernel works through a datagram's messages in order before ``send``
returns, and a message that fails does not stop the next.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

from agent.closing import Closing

NESTED = 0x8000
"""NLA_F_NESTED."""
NET_ORDER = 0x4000
"""NLA_F_NET_BYTEORDER."""

ROUTE = 0
"""NETLINK_ROUTE."""
NETFILTER = 12
"""NETLINK_NETFILTER."""
GENERIC = 16
"""NETLINK_GENERIC: a message's type is its family's number, and its command stands where the others have the
address family."""
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_GET_STRICT_CHK = 12

_F_REQUEST, _F_ACK, _F_DUMP = 0x1, 0x4, 0x300
F_EXCL = 0x200
"""NLM_F_EXCL: fail where the thing is there (or is not) already."""
_MSG_ERROR, _MSG_DONE = 2, 3

_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

_BUFFER_BYTES = 256 * 1024
_SEND_BYTES = 128 * 1024
_SEND_MESSAGES = 64
"""Per datagram: it must fit the send buffer, and its errors, should all fail, the receive buffer."""
_TIMEOUT = struct.pack("@ll", 5, 0)
_SEQUENCE_END = 0x7FFF0000


class Message(NamedTuple):
    """A request: its type, address family, what follows the family's four bytes, and extra flags.

    For netfilter the type is ``subsystem << 8 | command`` and attributes follow at once; for routing, the
    rest of its fixed header comes before them. ``resource``: which one of those that a subsystem of netfilter
    numbers, such as a group of logged packets.
    """

    kind: int
    family: int
    attributes: bytes
    flags: int = 0
    resource: int = 0


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded. ``kind`` carries NESTED or NET_ORDER where they are due."""
    padding = -len(payload) % 4
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(padding)


def attributes(data: memoryview | bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield the attributes in ``data``: the type without its flags, and the payload."""
    view = memoryview(data)
    at, end = 0, len(view)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(view, at)
        if length < 4:
            return
        yield kind & 0x3FFF, view[at + 4 : at + length]
        at += (length + 3) & ~3


def picked(data: memoryview | bytes, wanted: Container[int]) -> dict[int, memoryview]:
    """Return the payloads of the wanted attributes in ``data``: twice as quick as reading all of many."""
    view = memoryview(data)
    found = {}
    at, end = 0, len(view)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(view, at)
        if length < 4:
            break
        if (number := kind & 0x3FFF) in wanted:
            found[number] = view[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


class NetlinkSocket(Closing):
    """A long-lived socket in the network namespace of the thread that makes it. Not thread-safe.

    Raises OSError where the kernel has no such netlink or the process may not use it.
    """

    def __init__(self, protocol: int = NETFILTER, descriptor: int | None = None) -> None:
        """``descriptor``: of such a socket that the process was started with, and goes on using."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol, fileno=descriptor)
        try:
            if descriptor is None:
                self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
            self._buffer = bytearray(_BUFFER_BYTES)
        except OSError:
            self._socket.close()
            raise
        except MemoryError:
            self._socket.close()
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
        self._sequence = 0

    def check_strictly(self) -> None:
        """Have the kernel refuse questions it does not understand. Raises OSError on one before 4.20."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def number(self) -> int:
        """The number that the kernel gave the socket (netlink(7)); a process's first has the process's."""
        number: int = self._socket.getsockname()[0]
        return number

    def set_option(self, level: int, name: int, value: int) -> None:
        """Set an option of the socket (setsockopt(2)). Raises OSError."""
        self._socket.setsockopt(level, name, value)

    def heard(self) -> Iterator[tuple[int, memoryview]]:
        """Yield type and body, from the address family on, of each message in one datagram; it waits for one.

        For what the kernel tells unasked. Bodies are valid until the next call. Raises OSError; ENOBUFS when
        more came than could wait.
        """
        for kind, _, body in self._receive():
            yield kind, body

    def request(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """Send messages and return what failed: (index in ``messages``, error number).

        Each is carried out whatever happens to the others. Raises OSError when the socket itself fails; what
        was carried out is then unknown.
        """
        failed: list[tuple[int, int]] = []
        start = 0
        while start < len(messages):
            end, size = start, 0
            while end < len(messages) and end - start < _SEND_MESSAGES:
                size += 20 + len(messages[end].attributes)
                if size > _SEND_BYTES and end > start:
                    break
                end += 1
            failed += self._send(messages, start, end)
            start = end
        return failed

    def _send(self, messages: Sequence[Message], start: int, end: int) -> list[tuple[int, int]]:
        first = self._next_sequence()
        parts: list[bytes] = []
        for index in range(start, end):
            message = messages[index]
            # Only failures answer; the last message always does, and by then all are done.
            flags = _F_REQUEST | message.flags | (_F_ACK if index == end - 1 else 0)
            self._sequence = first + index - start
            parts.append(self._frame(message, flags, self._sequence))
        self._socket.send(b"".join(parts))
        failed: list[tuple[int, int]] = []
        while True:
            for kind, sequence, body in self._receive():
                index = start + sequence - first
                if kind != _MSG_ERROR or not start <= index < end:
                    continue
                if code := -_ERROR.unpack_from(body)[0]:
                    failed.append((index, code))
                if index == end - 1:
                    return failed

    def get(self, message: Message) -> bytes:
        """Return what follows the family in the one message that answers a request; empty when none does.

        Raises OSError with the kernel's error number.
        """
        self._sequence = sequence = self._next_sequence()
        self._socket.send(self._frame(message, _F_REQUEST | _F_ACK | message.flags, sequence))
        found = b""
        while True:
            for kind, answered, body in self._receive():
                if answered != sequence:
                    continue
                if kind != _MSG_ERROR:
                    found = bytes(body[4:])
                elif code := -_ERROR.unpack_from(body)[0]:
                    raise OSError(code, os.strerror(code))
                else:
                    return found

    def transact(self, begin: int, messages: Sequence[Message], end: int, subsystem: int) -> None:
        """Send messages within a batch of a netfilter subsystem, which takes effect as a whole or not at all.

        ``begin`` and ``end`` are the types of the messages around them. Raises OSError.
        """
        first = self._next_sequence()
        self._sequence = last = first + len(messages) + 1
        parts = [self._batch_edge(begin, first, subsystem)]
        for index, message in enumerate(messages, start=1):
            # Only failures answer, and the last message, always.
            flags = _F_REQUEST | message.flags | (_F_ACK if index == len(messages) else 0)
            parts.append(self._frame(message, flags, first + index))
        parts.append(self._batch_edge(end, last, subsystem))
        self._socket.send(b"".join(parts))
        while True:
            for kind, answered, body in self._receive():
                if kind == _MSG_ERROR and first <= answered <= last:
                    if code := -_ERROR.unpack_from(body)[0]:
                        raise OSError(code, os.strerror(code))
                    if answered == last - 1:
                        return

    def _batch_edge(self, kind: int, sequence: int, subsystem: int) -> bytes:
        return _HEADER.pack(20, kind, _F_REQUEST, sequence, 0) + _GENERIC.pack(0, 0, subsystem)

    def dump(self, message: Message, *, behind: int = 4) -> Iterator[memoryview]:
        """Yield what follows the family in each message the kernel answers with; valid until the next.

        ``behind``: so many bytes of each are left out, which are the family's four.
        Read to the end, or the answers left over go to nobody. Raises OSError with the kernel's error number.
        """
        self._sequence = sequence = self._next_sequence()
        self._socket.send(self._frame(message, _F_REQUEST | _F_DUMP | message.flags, sequence))
        while True:
            for kind, answered, body in self._receive():
                if answered != sequence:
                    continue
                if kind in (_MSG_DONE, _MSG_ERROR):
                    if len(body) >= 4 and (code := -_ERROR.unpack_from(body)[0]):
                        raise OSError(code, os.strerror(code))
                    return
                yield body[behind:]

    def _next_sequence(self) -> int:
        return self._sequence + 1 if self._sequence < _SEQUENCE_END else 1

    def _frame(self, message: Message, flags: int, sequence: int) -> bytes:
        length = 20 + len(message.attributes)
        return (
            _HEADER.pack(length, message.kind, flags, sequence, 0)
            + _GENERIC.pack(message.family, 0, message.resource)
            + message.attributes
            + bytes(-length % 4)
        )

    def _receive(self) -> Iterator[tuple[int, int, memoryview]]:
        try:
            size = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            raise TimeoutError(errno.ETIMEDOUT, "the kernel does not answer on its netlink socket") from None
        view = memoryview(self._buffer)[:size]
        at = 0
        while at + 16 <= size:
            length, kind, _, sequence, _ = _HEADER.unpack_from(view, at)
            if length < 16:
                return
            yield kind, sequence, view[at + 16 : at + length]
            at += (length + 3) & ~3
