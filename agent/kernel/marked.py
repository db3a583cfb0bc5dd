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
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from agent.kernel.conntrack import (
    SUBSYSTEM,
    Entry,
    Tuple,
    ends_of,
    entry_of,
    failure,
    question,
    tuple_of,
)
from agent.kernel.netlink import Message, NetlinkSocket, attribute, attributes, picked

SILENT_SECONDS = 3600
"""How long a TCP connection that was marked for good stays in the table, however much of it still comes."""

_CT_NEW = 0
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _MARK = 1, 2, 3, 4, 7, 8
_TUPLE_MASTER, _MARK_MASK = 14, 21
_WANTED = frozenset({_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _MARK, _TUPLE_MASTER})
_INFO_TCP, _TCP_STATE = 1, 1
_TCP = 6
_OVER = frozenset({7, 8})
"""TCP_CONNTRACK_TIME_WAIT and TCP_CONNTRACK_CLOSE"""
_SEEN_REPLY, _FIXED_TIMEOUT = 1 << 1, 1 << 10
"""IPS_SEEN_REPLY and IPS_FIXED_TIMEOUT"""
_NUMBER = struct.Struct("!I")


class Connection(NamedTuple):
    """A tracked connection: as it was opened, as its replies come, and what is known of it.

    ``marked``: it carries the bit that was asked for. ``over``: a TCP connection that both ends have closed.
    ``status``: of ``enum ip_conntrack_status``.
    """

    entry: Entry
    opened: Tuple
    reply: Tuple
    marked: bool
    over: bool
    status: int

    @property
    def ends(self) -> tuple[bytes, bytes]:
        """Who has opened it, and what answers: behind a translation, as the firewall sees both."""
        return self.opened.source, self.reply.source

    @property
    def replied(self) -> bool:
        """Whether an answer was seen."""
        return bool(self.status & _SEEN_REPLY)


def connections(bit: int, addresses: Container[bytes]) -> Iterator[Connection]:
    """Give the connections that one of the packed addresses has opened, or that it answers.

    ``bit`` is that of the mark. A connection that belongs to another one, as a helper expects it, is left
    out. The kernel's table is read as it is asked for. Acts in the calling thread's network namespace. Raises
    ConntrackError.
    """
    return _found(bit, b"", addresses)


def carrying(bit: int) -> Iterator[Connection]:
    """Give the connections that carry the bit, whoever's they are. As :func:`connections`."""
    return _found(bit, _mark(bit, bit), None)


def _found(bit: int, request: bytes, addresses: Container[bytes] | None) -> Iterator[Connection]:
    try:
        with NetlinkSocket() as netlink:
            for body in netlink.dump(question(socket.AF_UNSPEC, request)):
                if addresses is not None:
                    ends = ends_of(body)
                    if ends[0] not in addresses and ends[2] not in addresses:
                        continue
                found = _connection(body, bit)
                # A kernel that does not pick gives all.
                if found is not None and (found.marked or addresses is not None):
                    yield found
    except OSError as error:
        raise failure(error) from error


def _connection(body: memoryview, bit: int) -> Connection | None:
    fields = picked(body, _WANTED)
    opened, reply = tuple_of(fields[_TUPLE_ORIG]), tuple_of(fields[_TUPLE_REPLY])
    if opened is None or reply is None or _TUPLE_MASTER in fields:
        return None
    return Connection(
        entry_of(body),
        opened,
        reply,
        bool(int.from_bytes(fields.get(_MARK, b""), "big") & bit),
        opened.protocol == _TCP and _tcp_state(fields.get(_PROTOINFO)) in _OVER,
        int.from_bytes(fields.get(_STATUS, b""), "big"),
    )


def _tcp_state(info: memoryview | None) -> int:
    tcp = dict(attributes(info)).get(_INFO_TCP) if info is not None else None
    state = dict(attributes(tcp)).get(_TCP_STATE) if tcp is not None else None
    return state[0] if state else 0


def mark(found: Sequence[Connection], bit: int) -> list[Connection]:
    """Set the bit in the marks of connections; return those that there are still.

    A TCP connection then stays in the table for an hour, whatever comes of it: its ends may be silent for
    long, and without its entry a packet of theirs would be a new connection. Others stay while packets of
    theirs come. Raises ConntrackError.
    """
    messages = [Message(SUBSYSTEM << 8 | _CT_NEW, one.entry.family, _marking(one, bit)) for one in found]
    try:
        with NetlinkSocket() as netlink:
            failed = dict(netlink.request(messages))
    except OSError as error:
        raise failure(error) from error
    for code in failed.values():
        if code != errno.ENOENT:
            raise failure(OSError(code, os.strerror(code)))
    return [one for index, one in enumerate(found) if index not in failed]


def _marking(found: Connection, bit: int) -> bytes:
    attributes = found.entry.key + _mark(bit, bit)
    if found.opened.protocol == _TCP and not found.over and not found.status & _FIXED_TIMEOUT:
        attributes += attribute(_TIMEOUT, _NUMBER.pack(SILENT_SECONDS))
        attributes += attribute(_STATUS, _NUMBER.pack(found.status | _FIXED_TIMEOUT))
    return attributes


def _mark(bit: int, mask: int) -> bytes:
    return attribute(_MARK, _NUMBER.pack(bit)) + attribute(_MARK_MASK, _NUMBER.pack(mask))


def entries(found: Iterable[Connection]) -> list[Entry]:
    """Return what names connections."""
    return [one.entry for one in found]
