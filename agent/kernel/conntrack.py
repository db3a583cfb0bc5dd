"""Forgetting connections: the kernel's connection-tracking entries that name an address, deleted.

An established connection passes the firewall without being judged, so what one pod was allowed would go on
for the next that gets its address. Messages are those of ``linux/netfilter/nfnetlink_conntrack.h``. The table
is dumped and searched here; where it is long and the addresses few, the kernel picks the entries
(CTA_FILTER, since Linux 5.8), which takes it a walk for each address and each side that it may be on.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Container, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from agent.fault import Fault
from agent.kernel.netlink import NESTED, Message, NetlinkSocket, attribute, attributes, picked

SUBSYSTEM = 1
"""NFNLSUBSYSTEM"""
_CT_GET, _CT_DELETE = 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
NAMING = frozenset({_TUPLE_ORIG, _ZONE, _ID})
"""The attributes that name an entry."""
_STATUS, _MARK, _TIMESTAMP, _TIMESTAMP_START = 3, 8, 20, 1
_SEEN_REPLY = 1 << 1
"""IPS_SEEN_REPLY"""
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_FILTER_SOURCE, _FILTER_DESTINATION = 1, 2
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUMBER, _PROTO_SOURCE, _PROTO_DESTINATION = 1, 2, 3
_IP_V4_SRC, _IP_V4_DST, _IP_V6_SRC, _IP_V6_DST = 1, 2, 3, 4

_WALK_MS, _PICK_MS, _READ_MS = 12.0, 0.00025, 0.0045
"""A walk of the table; what an entry adds where the kernel does not pick it, and where it is read here."""

_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")

_TUPLE = struct.Struct("=HHH")
_V4_TUPLE = struct.Struct("=12x4s4x4s")
_V6_TUPLE = struct.Struct("=12x16s4x16s")
_HEADS = struct.Struct("=HHHH")


class _Layout(NamedTuple):
    """How the kernel lays out a tuple with ports: what its two parts begin with, and what is in them."""

    ip: tuple[int, ...]
    transport: tuple[int, ...]
    at: int
    fields: struct.Struct

    @classmethod
    def of(cls, size: int, source: int) -> _Layout:
        """``size``: that of an address, in bytes. ``source``: the attribute of the first one."""
        at = 2 * (size + 4) + 4
        fields = struct.Struct(f"!8x{size}s4x{size}s8xB7xH6xH")
        heads = (at, _TUPLE_IP | NESTED, size + 4, source), (28, _TUPLE_PROTO | NESTED, 5, _PROTO_NUMBER)
        return cls(*heads, at, fields)


_WITH_PORTS = {48: _Layout.of(4, _IP_V4_SRC), 72: _Layout.of(16, _IP_V6_SRC)}
"""By the size of a tuple."""


class ConntrackError(Exception):
    """Connection tracking could not be read or changed; entries that name the addresses may be left."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def fault(self) -> Fault:
        return Fault(self.what, self.remedy, reason="conntrack")


class Tuple(NamedTuple):
    """One direction of a connection: packed addresses, an IANA protocol number, and ports, 0 where none."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int = 0
    port: int = 0


def tuple_of(data: memoryview | bytes) -> Tuple | None:
    """Return what an attribute CTA_TUPLE_ORIG or CTA_TUPLE_REPLY holds; None where it is incomplete.

    Never raises.
    """
    layout = _WITH_PORTS.get(len(data))
    if (
        layout is not None
        and _HEADS.unpack_from(data) == layout.ip
        and _HEADS.unpack_from(data, layout.at) == layout.transport
    ):
        return Tuple(*layout.fields.unpack_from(data))
    fields = {kind: dict(attributes(payload)) for kind, payload in attributes(data)}
    ip, transport = fields.get(_TUPLE_IP, {}), fields.get(_TUPLE_PROTO, {})
    source, destination = (
        bytes(ip.get(v4) or ip.get(v6) or b"")
        for v4, v6 in ((_IP_V4_SRC, _IP_V6_SRC), (_IP_V4_DST, _IP_V6_DST))
    )
    number = bytes(transport.get(_PROTO_NUMBER, b""))
    if len(source) not in (4, 16) or len(source) != len(destination) or len(number) != 1:
        return None
    source_port, port = (
        int.from_bytes(transport.get(kind, b"")[:2], "big") for kind in (_PROTO_SOURCE, _PROTO_DESTINATION)
    )
    return Tuple(source, destination, number[0], source_port, port)


class Tracked(NamedTuple):
    """A connection that is tracked: as it was opened, and as its replies come.

    ``replied``: a reply was seen, so that its packets are not judged any more. ``since``: when it began, in
    ``time.time()`` seconds, where the kernel notes that (``nf_conntrack_timestamp``); else None. ``mark``:
    its own mark, which rules can see.
    """

    opened: Tuple
    reply: Tuple
    replied: bool
    since: float | None = None
    mark: int = 0


class Side(NamedTuple):
    """Where in an entry an address may be. ``at``: its place in :func:`ends_of`."""

    at: int
    of_tuple: int
    flags: int
    flag: int
    v4: int
    v6: int

    def picking(self, address: bytes) -> bytes:
        """Return the attributes by which the kernel picks the entries that have an address there."""
        ip = attribute(_TUPLE_IP | NESTED, attribute(self.v4 if len(address) == 4 else self.v6, address))
        flags = attribute(self.flags, struct.pack("=I", self.flag))
        return attribute(self.of_tuple | NESTED, ip) + attribute(_FILTER | NESTED, flags)


_SOURCE, _DESTINATION = (
    (_FILTER_SOURCE, _IP_V4_SRC, _IP_V6_SRC),
    (_FILTER_DESTINATION, _IP_V4_DST, _IP_V6_DST),
)
OPENING = Side(0, _TUPLE_ORIG, _FILTER_ORIG_FLAGS, *_SOURCE)
"""Who has opened a connection."""
ANSWERING = Side(2, _TUPLE_REPLY, _FILTER_REPLY_FLAGS, *_SOURCE)
"""What answers: behind a translation."""
_EVERY_SIDE = (
    OPENING,
    Side(1, _TUPLE_ORIG, _FILTER_ORIG_FLAGS, *_DESTINATION),
    ANSWERING,
    Side(3, _TUPLE_REPLY, _FILTER_REPLY_FLAGS, *_DESTINATION),
)


class Entry(NamedTuple):
    """What names one entry, and no later one with the same addresses and ports: tuple, zone and id."""

    family: int
    key: bytes


def forget(addresses: Iterable[bytes]) -> int:
    """Delete every entry that names one of the packed addresses on any side; return how many.

    The sides are source and destination of both directions, so that connections through a Service or
    masqueraded are found by the pod's own address. What packets may still open such connections must be
    stopped before. It acts in the calling thread's network namespace. Raises ConntrackError.
    """
    wanted = frozenset(addresses)
    if not wanted:
        return 0
    try:
        return _forget(wanted)
    except OSError as error:
        raise failure(error) from error


def between(source: bytes, destination: bytes, protocol: int, port: int) -> list[Tracked]:
    """Return the tracked connections that a source has opened to a destination's port.

    ``destination`` is what answers: of a connection through a Service the pod. In IPv4 the kernel picks the
    source's entries (since Linux 5.8). In IPv6 all are looked through: kernels are in use that pick all but
    those that are asked for. Acts in the calling thread's network namespace. Raises ConntrackError.
    """
    try:
        return list(_between(source, destination, protocol, port))
    except OSError as error:
        raise failure(error) from error


def tracked(addresses: Container[bytes]) -> Iterator[Tracked]:
    """Give the tracked connections that one of the packed addresses has opened, or that it answers.

    What answers is behind a translation: of a connection through a Service the pod. The kernel's table is
    read as it is asked for, so it takes no memory. Acts in the calling thread's network namespace. Raises
    ConntrackError.
    """
    try:
        for body in every():
            ends = ends_of(body)
            if ends[OPENING.at] in addresses or ends[ANSWERING.at] in addresses:
                yield from _tracked(body)
    except OSError as error:
        raise failure(error) from error


def _between(source: bytes, destination: bytes, protocol: int, port: int) -> Iterator[Tracked]:
    request = OPENING.picking(source) if len(source) == 4 else b""
    for body in every(request, _family(source)):
        if ends_of(body)[OPENING.at] != source:
            continue
        for found in _tracked(body):
            reply = found.reply
            if (reply.source, reply.protocol, reply.source_port) == (destination, protocol, port):
                yield found


def _tracked(body: memoryview) -> Iterator[Tracked]:
    """Give the connection of an entry; nothing where it is incomplete."""
    fields = dict(attributes(body))
    opened, reply = tuple_of(fields[_TUPLE_ORIG]), tuple_of(fields[_TUPLE_REPLY])
    if opened is not None and reply is not None:
        status = int.from_bytes(fields.get(_STATUS, b""), "big")
        mark = int.from_bytes(fields.get(_MARK, b""), "big")
        yield Tracked(opened, reply, bool(status & _SEEN_REPLY), _since(fields.get(_TIMESTAMP)), mark)


def _since(stamp: memoryview | None) -> float | None:
    start = dict(attributes(stamp)).get(_TIMESTAMP_START) if stamp is not None else None
    return None if start is None else int.from_bytes(start, "big") / 1e9


def forget_entries(entries: Iterable[Entry]) -> int:
    """Delete entries; return how many were there still. Raises ConntrackError."""
    try:
        return _delete(set(entries))
    except OSError as error:
        raise failure(error) from error


def _forget(wanted: frozenset[bytes]) -> int:
    if _count() == 0:
        return 0
    found = {entry_of(body) for body in search(wanted, _EVERY_SIDE) if not wanted.isdisjoint(ends_of(body))}
    return _delete(found) if found else 0


def every(request: bytes = b"", family: int = socket.AF_UNSPEC) -> Iterator[memoryview]:
    """Give all entries, of a family alone if it is given. As :func:`search`."""
    with NetlinkSocket() as netlink:
        yield from netlink.dump(_question(family, request))


def search(
    addresses: Collection[bytes],
    sides: Sequence[Side],
    request: bytes = b"",
    between: Callable[[], object] = lambda: None,
) -> Iterator[memoryview]:
    """Give the entries that have one of the packed addresses on one of the sides.

    Some are given more than once, and others may be given too: where many are looked for, or the kernel does
    not know how to pick, all of a family are. Whether it knows is seen from what it gives, so :data:`OPENING`
    and :data:`ANSWERING` must be among the sides: no connection has one address on both, but one that an
    address has with itself. ``request``: attributes by which the kernel picks besides. ``between`` is called
    before each walk of the table in which it picks. An entry is valid until the next. Acts in the calling
    thread's network namespace. Raises OSError.
    """
    by_family: dict[int, list[bytes]] = {}
    for address in addresses:
        by_family.setdefault(_family(address), []).append(address)
    if not _are_few(len(addresses) * len(sides)):
        yield from every(request, next(iter(by_family)) if len(by_family) == 1 else socket.AF_UNSPEC)
        return
    for family, some in by_family.items():
        # Kernels are in use that know how in IPv4, and in IPv6 pick all but those that are asked for.
        if not (yield from _picked(some, sides, request, between)):
            yield from every(request, family)


def _are_few(walks: int) -> bool:
    """Whether so many walks in which the kernel picks take less time than one in which it gives all."""
    entries = _count()
    return entries is not None and walks * (_WALK_MS + _PICK_MS * entries) < _WALK_MS + _READ_MS * entries


def _picked(
    addresses: Collection[bytes], sides: Sequence[Side], request: bytes, between: Callable[[], object]
) -> Generator[memoryview, None, bool]:
    """Give the entries that the kernel picks; return False where it gives what it was not asked for."""
    with NetlinkSocket() as netlink:
        for address, side in product(addresses, sides):
            between()
            for body in netlink.dump(_question(_family(address), request + side.picking(address))):
                if ends_of(body)[side.at] != address:
                    return False
                yield body
    return True


def _count() -> int | None:
    """Return how many entries this network namespace has; None when that cannot be read."""
    try:
        return int(_COUNT.read_text())
    except OSError:
        return None


def _delete(entries: set[Entry]) -> int:
    ordered = list(entries)
    with NetlinkSocket() as netlink:
        # A request without a tuple would delete everything: an entry always carries its own.
        failed = netlink.request([Message(SUBSYSTEM << 8 | _CT_DELETE, *entry) for entry in ordered])
    for _, code in failed:
        if code != errno.ENOENT:
            raise OSError(code, os.strerror(code))
    return len(ordered) - len(failed)


def _question(family: int, request: bytes) -> Message:
    """Return what asks for a family's entries; ``request``: attributes by which the kernel picks them."""
    return Message(SUBSYSTEM << 8 | _CT_GET, family, request)


def _family(address: bytes) -> int:
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def ends_of(body: memoryview) -> tuple[bytes, ...]:
    """Return source and destination of both tuples, with which the kernel begins each entry."""
    length, kind, ip_length = _TUPLE.unpack_from(body)
    if kind & 0x3FFF != _TUPLE_ORIG or ip_length not in (20, 44):
        raise OSError(errno.EPROTO, "an entry is not laid out as expected")
    layout = _V4_TUPLE if ip_length == 20 else _V6_TUPLE
    return layout.unpack_from(body) + layout.unpack_from(body, (length + 3) & ~3)


def entry_of(body: memoryview) -> Entry:
    """Return what names an entry that a dump gave."""
    return entry_with(picked(body, NAMING), _family(ends_of(body)[0]))


def entry_with(fields: Mapping[int, memoryview], family: int) -> Entry:
    """Return what names an entry of a family; ``fields``: its attributes, :data:`NAMING` among them."""
    key = attribute(_TUPLE_ORIG | NESTED, bytes(fields[_TUPLE_ORIG]))
    for kind in (_ZONE, _ID):
        if kind in fields:
            key += attribute(kind, bytes(fields[kind]))
    return Entry(family, key)


def failure(error: OSError) -> ConntrackError:
    """Return what a person should know of an error."""
    if error.errno in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP):
        return ConntrackError(
            "the kernel does not let connection tracking be read", "load the module nf_conntrack_netlink"
        )
    if error.errno == errno.EPERM:
        return ConntrackError("connection tracking may not be changed", "run the agent with CAP_NET_ADMIN")
    return ConntrackError(f"connection tracking: {error.strerror}", "the agent tries again by itself")
