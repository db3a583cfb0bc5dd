"""Packets that rules log (``-j NFLOG``), read by netlink: ``linux/netfilter/nfnetlink_log.h``.

One program at a time may listen to a group. What a rule logs while nobody listens is gone, and costs the
packet next to nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from typing import NamedTuple

from agent.closing import Closing
from agent.kernel.conntrack import Tuple, tuple_of
from agent.kernel.netlink import Message, NetlinkSocket, attribute, attributes

_SUBSYS_ULOG = 4
_PACKET, _CONFIG = _SUBSYS_ULOG << 8, _SUBSYS_ULOG << 8 | 1

_CFG_CMD, _CFG_MODE, _CFG_TIMEOUT, _CFG_QTHRESH, _CFG_FLAGS = 1, 2, 4, 5, 6
_CMD_BIND = 1
_COPY_PACKET = 2
_F_SEQ, _F_CONNTRACK = 0x1, 0x4

_PACKET_HDR, _MARK, _TIMESTAMP = 1, 2, 3
_IN, _OUT, _PHYSICAL_IN, _PHYSICAL_OUT = 4, 5, 6, 7
_HWADDR, _PAYLOAD, _PREFIX, _SEQ, _CT = 8, 9, 10, 12, 18
_INTERFACES = (_IN, _OUT, _PHYSICAL_IN, _PHYSICAL_OUT)
_TUPLE_ORIG = 1
"""CTA_TUPLE_ORIG, in what connection tracking says of the packet."""

COPIED = 192
"""Bytes of each packet that the kernel hands over: IPv6 with its extension headers, and TCP's, fit mostly."""

TOGETHER = 8
"""So many packets come in one message, if they come within a tenth of a second."""

BUFFER = 512 * 1024
"""Bytes that may wait in the kernel; what does not fit is lost and counted."""

_SO_RCVBUFFORCE = 33
_HEADER = struct.Struct("!HBx")
_WORD = struct.Struct("!I")
_TIME = struct.Struct("!QQ")
_HARDWARE = struct.Struct("!Hxx8s")


class Logged(NamedTuple):
    """One packet that a rule has logged.

    ``payload`` begins with the IP header and is cut to what was asked for. Interfaces are indexes, 0 for
    none; the ``physical`` ones are ports of a bridge. ``hardware``: the link-layer source address, empty
    where there is none. ``at``: seconds of ``time.time()`` when it came in, 0.0 where the kernel does not
    say. ``original``: the first packet of its connection as it was before translation, None where connection
    tracking does not know. ``sequence`` counts this group's packets, None where it is not counted.
    """

    family: int
    hook: int
    prefix: str
    payload: bytes
    mark: int = 0
    incoming: int = 0
    outgoing: int = 0
    physical_in: int = 0
    physical_out: int = 0
    hardware: bytes = b""
    at: float = 0.0
    original: Tuple | None = None
    sequence: int | None = None


class NflogSocket(Closing):
    """Listens to a group in the network namespace of the thread that makes it. Not thread-safe.

    Raises OSError: EPERM where another program listens to the group, and without CAP_NET_ADMIN; others where
    the kernel has no ``nfnetlink_log``.
    """

    def __init__(self, group: int, *, copied: int = COPIED, together: int = TOGETHER) -> None:
        self.lost = 0
        """Packets that the kernel has logged and could not hand over, as far as is known."""
        self.overruns = 0
        """How often more came than could wait."""
        self.tracks = False
        """Whether the kernel tells of each packet what connection tracking knows (since Linux 4.4, where it
        is built with CONFIG_NETFILTER_NETLINK_GLUE_CT)."""
        self._expected: int | None = None
        self._netlink = NetlinkSocket()
        try:
            # In a user namespace of its own it may not, and goes on with the usual buffer.
            with contextlib.suppress(PermissionError):
                self.set_buffer(BUFFER)
            self._configure(group, _CFG_CMD, bytes([_CMD_BIND]))
            self._configure(group, _CFG_MODE, struct.pack("!IBx", copied, _COPY_PACKET))
            self._configure(group, _CFG_QTHRESH, _WORD.pack(together))
            # In hundredths of a second.
            self._configure(group, _CFG_TIMEOUT, _WORD.pack(10))
            self._follow_connections(group)
        except OSError:
            self._netlink.close()
            raise

    def close(self) -> None:
        self._netlink.close()

    def set_buffer(self, size: int) -> None:
        """Let so many bytes wait in the kernel. Raises OSError."""
        self._netlink.set_option(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)

    def fileno(self) -> int:
        return self._netlink.fileno()

    def _configure(self, group: int, kind: int, value: bytes) -> None:
        failed = self._netlink.request(
            [Message(_CONFIG, socket.AF_UNSPEC, attribute(kind, value), resource=group)]
        )
        for _, code in failed:
            raise OSError(code, os.strerror(code))

    def _follow_connections(self, group: int) -> None:
        """Have packets numbered, and accompanied by what connection tracking knows, if the kernel can."""
        try:
            self._configure(group, _CFG_FLAGS, struct.pack("!H", _F_SEQ | _F_CONNTRACK))
            self.tracks = True
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.EAGAIN):
                raise
            self._configure(group, _CFG_FLAGS, struct.pack("!H", _F_SEQ))

    def read(self, seconds: float) -> list[Logged]:
        """Return the packets that have come, after waiting at most so many seconds for the first.

        What was lost meanwhile is added to :attr:`lost`. Raises OSError when the socket fails.
        """
        if not select.select([self._netlink], [], [], seconds)[0]:
            return []
        found: list[Logged] = []
        try:
            for kind, body in self._netlink.heard():
                if kind == _PACKET and (packet := decode(body)) is not None:
                    self._count(packet)
                    found.append(packet)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.overruns += 1
        return found

    def _count(self, packet: Logged) -> None:
        number = packet.sequence
        if number is None:
            return
        if self._expected is not None:
            self.lost += (number - self._expected) & 0xFFFFFFFF
        self._expected = (number + 1) & 0xFFFFFFFF


def decode(body: memoryview | bytes) -> Logged | None:
    """Return what a message of a packet says; None where it cannot be one. Never raises.

    ``body`` begins with the address family (``struct nfgenmsg``).
    """
    view = memoryview(body)
    if len(view) < 4:
        return None
    fields = dict(attributes(view[4:]))
    incoming, outgoing, physical_in, physical_out = (_word(fields.get(kind)) or 0 for kind in _INTERFACES)
    header = fields.get(_PACKET_HDR, memoryview(b""))
    return Logged(
        family=view[0],
        hook=_HEADER.unpack_from(header)[1] if len(header) >= _HEADER.size else 0,
        prefix=bytes(fields.get(_PREFIX, b"")).partition(b"\0")[0].decode("ascii", "replace"),
        payload=bytes(fields.get(_PAYLOAD, b"")),
        mark=_word(fields.get(_MARK)) or 0,
        incoming=incoming,
        outgoing=outgoing,
        physical_in=physical_in,
        physical_out=physical_out,
        hardware=_hardware(fields.get(_HWADDR)),
        at=_time(fields.get(_TIMESTAMP)),
        original=_original(fields.get(_CT)),
        sequence=_word(fields.get(_SEQ)),
    )


def _word(field: memoryview | None) -> int | None:
    return None if field is None or len(field) < 4 else int(_WORD.unpack_from(field)[0])


def _time(field: memoryview | None) -> float:
    if field is None or len(field) < _TIME.size:
        return 0.0
    seconds, microseconds = _TIME.unpack_from(field)
    return int(seconds) + int(microseconds) / 1e6


def _hardware(field: memoryview | None) -> bytes:
    if field is None or len(field) < _HARDWARE.size:
        return b""
    length, address = _HARDWARE.unpack_from(field)
    return bytes(address[:length])


def _original(field: memoryview | None) -> Tuple | None:
    return next(
        (tuple_of(payload) for kind, payload in attributes(field or b"") if kind == _TUPLE_ORIG), None
    )
