"""Forgetting connections: the kernel's connection-tracking entries that name an address, deleted.

An established connection passes the firewall without being judged, so what one pod was allowed would go on
for the next that gets its address. Messages are those of ``linux/netfilter/nfnetlink_conntrack.h``. The table
is dumped and searched here; where it is long and the addresses few, the kernel picks the entries
(CTA_FILTER, since Linux 5.8), which takes it four walks for each address.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from agent.fault import Fault
from agent.kernel.netlink import NESTED, Message, NetlinkSocket, attribute, attributes

SUBSYSTEM = 1
"""NFNLSUBSYSTEM"""
_CT_GET, _CT_DELETE = 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_STATUS, _MARK, _TIMESTAMP, _TIMESTAMP_START = 3, 8, 20, 1
_SEEN_REPLY = 1 << 1
"""IPS_SEEN_REPLY"""
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_FILTER_SOURCE, _FILTER_DESTINATION = 1, 2
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUMBER, _PROTO_SOURCE, _PROTO_DESTINATION = 1, 2, 3
_IP_V4_SRC, _IP_V4_DST, _IP_V6_SRC, _IP_V6_DST = 1, 2, 3, 4

_FILTERED_ADDRESSES = 2
_FILTERED_ENTRIES = 20_000
"""A filtered search is four walks of the table, each 10 ms and 0.2 µs an entry; a dump 10 ms and 2.4 µs."""

_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")

_TUPLE = struct.Struct("=HHH")
_V4_TUPLE = struct.Struct("=12x4s4x4s")
_V6_TUPLE = struct.Struct("=12x16s4x16s")


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
        with NetlinkSocket() as netlink:
            for body in netlink.dump(question(socket.AF_UNSPEC, b"")):
                ends = ends_of(body)
                if ends[0] in addresses or ends[2] in addresses:
                    yield from _tracked(body)
    except OSError as error:
        raise failure(error) from error


def _between(source: bytes, destination: bytes, protocol: int, port: int) -> Iterator[Tracked]:
    request = next(_filters(source)) if len(source) == 4 else b""
    with NetlinkSocket() as netlink:
        for body in netlink.dump(question(_family(source), request)):
            if ends_of(body)[0] != source:
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
    entries = _count()
    if entries == 0:
        return 0
    found: set[Entry] | None = None
    if len(wanted) <= _FILTERED_ADDRESSES and (entries or 0) > _FILTERED_ENTRIES:
        found = _find_filtered(wanted)
    if found is None:
        found = _find(wanted)
    return _delete(found) if found else 0


def _count() -> int | None:
    """Return how many entries this network namespace has; None when that cannot be read."""
    try:
        return int(_COUNT.read_text())
    except OSError:
        return None


def _find(wanted: frozenset[bytes]) -> set[Entry]:
    families = {_family(address) for address in wanted}
    with NetlinkSocket() as netlink:
        dump = netlink.dump(question(families.pop() if len(families) == 1 else socket.AF_UNSPEC, b""))
        return {entry_of(body) for body in dump if not wanted.isdisjoint(ends_of(body))}


def _find_filtered(wanted: frozenset[bytes]) -> set[Entry] | None:
    """Return the entries the kernel picks; None when it does not know how and gives all."""
    found: set[Entry] = set()
    with NetlinkSocket() as netlink:
        for address in wanted:
            for request in _filters(address):
                for body in netlink.dump(question(_family(address), request)):
                    if address not in ends_of(body):
                        return None
                    found.add(entry_of(body))
    return found


def _filters(address: bytes) -> Iterator[bytes]:
    source, destination = (_IP_V4_SRC, _IP_V4_DST) if len(address) == 4 else (_IP_V6_SRC, _IP_V6_DST)
    for direction, flags in ((_TUPLE_ORIG, _FILTER_ORIG_FLAGS), (_TUPLE_REPLY, _FILTER_REPLY_FLAGS)):
        for side, flag in ((source, _FILTER_SOURCE), (destination, _FILTER_DESTINATION)):
            ip = attribute(_TUPLE_IP | NESTED, attribute(side, address))
            yield attribute(direction | NESTED, ip) + attribute(
                _FILTER | NESTED, attribute(flags, struct.pack("=I", flag))
            )


def _delete(entries: set[Entry]) -> int:
    ordered = list(entries)
    with NetlinkSocket() as netlink:
        # A request without a tuple would delete everything: an entry always carries its own.
        failed = netlink.request([Message(SUBSYSTEM << 8 | _CT_DELETE, *entry) for entry in ordered])
    for _, code in failed:
        if code != errno.ENOENT:
            raise OSError(code, os.strerror(code))
    return len(ordered) - len(failed)


def question(family: int, request: bytes) -> Message:
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
    fields = {kind: payload for kind, payload in attributes(body) if kind in (_TUPLE_ORIG, _ZONE, _ID)}
    key = attribute(_TUPLE_ORIG | NESTED, bytes(fields[_TUPLE_ORIG]))
    for kind in (_ZONE, _ID):
        if kind in fields:
            key += attribute(kind, bytes(fields[kind]))
    return Entry(_family(ends_of(body)[0]), key)


def failure(error: OSError) -> ConntrackError:
    """Return what a person should know of an error."""
    if error.errno in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP):
        return ConntrackError(
            "the kernel does not let connection tracking be read", "load the module nf_conntrack_netlink"
        )
    if error.errno == errno.EPERM:
        return ConntrackError("connection tracking may not be changed", "run the agent with CAP_NET_ADMIN")
    return ConntrackError(f"connection tracking: {error.strerror}", "the agent tries again by itself")
