"""Connections that carry a mark of the agent's: looked for, marked, and told apart from the others.

A connection's mark (CONFIG_NF_CONNTRACK_MARK) is kept by connection tracking as long as the connection is,
and rules see it on the packets of both directions, translated or not (``-m connmark``). Messages are those of
``linux/netfilter/nfnetlink_conntrack.h``.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from agent.kernel.conntrack import (
    ANSWERING,
    NAMING,
    OPENING,
    SUBSYSTEM,
    Entry,
    Tuple,
    entry_with,
    every,
    failure,
    search,
    tuple_of,
)
from agent.kernel.netlink import Message, NetlinkSocket, attribute, attributes, picked

SILENT_SECONDS = 3600
"""How long a TCP connection that was marked for good stays in the table, however much of it still comes."""

_CT_NEW = 0
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _HELP, _TIMEOUT, _MARK = 1, 2, 3, 4, 5, 7, 8
_TUPLE_MASTER, _MARK_MASK = 14, 21
_WANTED = NAMING | {_TUPLE_REPLY, _STATUS, _PROTOINFO, _HELP, _MARK, _TUPLE_MASTER}
_INFO_TCP, _TCP_STATE = 1, 1
_TCP = 6
_OVER = frozenset({7, 8})
"""TCP_CONNTRACK_TIME_WAIT and TCP_CONNTRACK_CLOSE"""
_SEEN_REPLY, _ASSURED, _FIXED_TIMEOUT = 1 << 1, 1 << 2, 1 << 10
"""IPS_SEEN_REPLY, IPS_ASSURED and IPS_FIXED_TIMEOUT"""
_SEEN_SINCE = 0, _SEEN_REPLY, _SEEN_REPLY | _ASSURED
"""What of a connection's status may have come up since it was read."""
_ENDS = OPENING, ANSWERING
_NUMBER = struct.Struct("!I")
_TUPLE = struct.Struct("=HHH")
_V4 = struct.Struct("!12x4s16xB"), struct.Struct("!12x4s24xH")
_V6 = struct.Struct("!12x16s28xB"), struct.Struct("!12x16s36xH")
"""Of the tuple that opened: source and protocol; of that of replies: source and its port."""
_WITH_PORTS = frozenset({6, 17, 33, 132, 136})
"""TCP, UDP, DCCP, SCTP and UDP-Lite"""


class Connection(NamedTuple):
    """A tracked connection: as it was opened, as its replies come, and what is known of it.

    ``marked``: it carries the bit that was asked for. ``over``: a TCP connection that both ends have closed.
    ``status``: of ``enum ip_conntrack_status``. ``master``: how the connection was opened that it belongs to,
    where a helper of connection tracking has expected it. ``helped``: such a helper listens to it.
    """

    entry: Entry
    opened: Tuple
    reply: Tuple
    marked: bool
    over: bool
    status: int
    master: Tuple | None = None
    helped: bool = False

    @property
    def ends(self) -> tuple[bytes, bytes]:
        """Who has opened it, and what answers: behind a translation, as the firewall sees both."""
        return self.opened.source, self.reply.source

    @property
    def replied(self) -> bool:
        """Whether an answer was seen."""
        return bool(self.status & _SEEN_REPLY)


Wanted = Callable[[bytes, bytes, int, int], bool]
"""Asked of a source, what answers it, an IANA protocol number, and the port that answers (0: it has none)."""


def connections(
    bit: int, ends: Collection[bytes], wanted: Wanted, between: Callable[[], object] = lambda: None
) -> Iterator[Connection]:
    """Give the connections that are wanted and do not carry the bit, each once.

    ``bit`` is that of the mark. ``ends``: packed addresses, of which each that is wanted has at least one.
    ``wanted`` is asked of the two ends of a connection as the firewall sees them, behind a translation, and
    of connections of other ends, too. Of few ends the kernel picks the connections; else the table is read as
    it is asked for, some 3 µs for each that is not wanted. ``between`` is called before each walk of the
    table in which the kernel picks: it may find nothing that ``wanted`` is asked of. Acts in the calling
    thread's network namespace. Raises ConntrackError.
    """
    found = _read(search(ends, _ENDS, _mark(0, bit), between), bit, wanted)
    # A kernel that does not pick gives all.
    return (one for one in found if not one.marked)


def carrying(bit: int, wanted: Wanted) -> Iterator[Connection]:
    """Give the connections that are wanted and carry the bit, whatever their ends. As :func:`connections`."""
    return (one for one in _read(every(_mark(bit, bit)), bit, wanted) if one.marked)


def opened(ways: Collection[Tuple]) -> Iterator[Connection]:
    """Give the connections that were opened so, whatever marks they carry. As :func:`connections`."""
    sources = {way.source for way in ways}
    found = _read(search(sources, _ENDS), 0, lambda source, *_: source in sources)
    return (one for one in found if one.opened in ways)


def _read(entries: Iterator[memoryview], bit: int, wanted: Wanted) -> Iterator[Connection]:
    given: set[Entry] = set()
    try:
        for body in entries:
            if not wanted(*_sort(body)):
                continue
            found = _connection(body, bit)
            if found is not None and found.entry not in given:
                given.add(found.entry)
                yield found
    except OSError as error:
        raise failure(error) from error


def _sort(body: memoryview) -> tuple[bytes, bytes, int, int]:
    """Return what :data:`Wanted` is asked of, by where the kernel puts it: much quicker than by names."""
    length, kind, ip_length = _TUPLE.unpack_from(body)
    if kind & 0x3FFF != _TUPLE_ORIG or ip_length not in (20, 44):
        raise OSError(errno.EPROTO, "an entry is not laid out as expected")
    opening, answering = _V4 if ip_length == 20 else _V6
    source, protocol = opening.unpack_from(body)
    destination, port = answering.unpack_from(body, (length + 3) & ~3)
    return source, destination, protocol, port if protocol in _WITH_PORTS else 0


def _connection(body: memoryview, bit: int) -> Connection | None:
    fields = picked(body, _WANTED)
    opened, reply = tuple_of(fields[_TUPLE_ORIG]), tuple_of(fields[_TUPLE_REPLY])
    if opened is None or reply is None:
        return None
    return Connection(
        entry_with(fields, socket.AF_INET if len(opened.source) == 4 else socket.AF_INET6),
        opened,
        reply,
        bool(int.from_bytes(fields.get(_MARK, b""), "big") & bit),
        opened.protocol == _TCP and _tcp_state(fields.get(_PROTOINFO)) in _OVER,
        int.from_bytes(fields.get(_STATUS, b""), "big"),
        tuple_of(fields[_TUPLE_MASTER]) if _TUPLE_MASTER in fields else None,
        _HELP in fields,
    )


def _tcp_state(info: memoryview | None) -> int:
    for kind, tcp in attributes(info or b""):
        for inner, state in attributes(tcp) if kind == _INFO_TCP else ():
            if inner == _TCP_STATE:
                return state[0]
    return 0


def mark(found: Sequence[Connection], bit: int) -> list[Connection]:
    """Set the bit in the marks of connections; return those that there are still, as they are by now.

    A TCP connection then stays in the table for an hour, whatever comes of it: its ends may be silent for
    long, and without its entry a packet of theirs would be a new connection. Others stay while packets of
    theirs come. Raises ConntrackError.
    """
    done: list[Connection] = []
    left = list(found)
    try:
        with NetlinkSocket() as netlink:
            for seen in _SEEN_SINCE:
                left = [one._replace(status=one.status | seen) for one in left]
                failed = dict(netlink.request([_marking(one, bit) for one in left]))
                for code in failed.values():
                    if code not in (errno.ENOENT, errno.EBUSY):
                        raise OSError(code, os.strerror(code))
                done += [one for index, one in enumerate(left) if index not in failed]
                # The kernel takes no status that lacks what it has seen, as of one that was being opened.
                left = [one for index, one in enumerate(left) if failed.get(index) == errno.EBUSY]
                if not left:
                    return done
    except OSError as error:
        raise failure(error) from error
    raise failure(OSError(errno.EBUSY, os.strerror(errno.EBUSY)))


def _marking(found: Connection, bit: int) -> Message:
    attributes = found.entry.key + _mark(bit, bit)
    if found.opened.protocol == _TCP and not found.over and not found.status & _FIXED_TIMEOUT:
        attributes += attribute(_TIMEOUT, _NUMBER.pack(SILENT_SECONDS))
        attributes += attribute(_STATUS, _NUMBER.pack(found.status | _FIXED_TIMEOUT))
    return Message(SUBSYSTEM << 8 | _CT_NEW, found.entry.family, attributes)


def _mark(bit: int, mask: int) -> bytes:
    return attribute(_MARK, _NUMBER.pack(bit)) + attribute(_MARK_MASK, _NUMBER.pack(mask))


def entries(found: Iterable[Connection]) -> list[Entry]:
    """Return what names connections."""
    return [one.entry for one in found]
