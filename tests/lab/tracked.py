"""Entries of connection tracking that nobody has opened: as many as a test wants, within a second or two."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from agent.kernel.netlink import NESTED, Message, NetlinkSocket, attribute
from tests.lab.netns import Netns

_CT_NEW = 1 << 8
"""NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_NEW"""
_CREATE = 0x400
SYN_RECEIVED, ESTABLISHED = 2, 3
"""TCP_CONNTRACK_SYN_RECV and TCP_CONNTRACK_ESTABLISHED"""
SEEN_REPLY, ASSURED, CONFIRMED = 2, 4, 8
_DAYS = 5 * 86_400
_PORTS = 60_000


def track(netns: Netns, source: str, destination: str, port: int, number: int) -> None:
    """Have a namespace track so many established TCP connections of IPv4, to this port and the next ones."""
    with netns.entered(), NetlinkSocket() as netlink:
        failed = netlink.request(list(_messages(source, destination, port, number)))
    assert failed == []


def _messages(source: str, destination: str, port: int, number: int) -> Iterator[Message]:
    ends = socket.inet_aton(source), socket.inet_aton(destination)
    for one in range(number):
        yield stream(ends, (1024 + one % _PORTS, port + one // _PORTS))


def stream(
    ends: tuple[bytes, bytes],
    ports: tuple[int, int],
    state: int = ESTABLISHED,
    status: int = SEEN_REPLY | ASSURED | CONFIRMED,
    more: bytes = b"",
) -> Message:
    """Return a request that tracks a TCP connection of IPv4, or has a tracked one be in another state.

    ``status``: of ``enum ip_conntrack_status``; ``more``: further attributes.
    """
    tuples = _tuple(1, ends, ports) + _tuple(2, ends[::-1], ports[::-1])
    known = attribute(3, struct.pack("!I", status)) + attribute(7, struct.pack("!I", _DAYS))
    known += attribute(4 | NESTED, attribute(1 | NESTED, attribute(1, bytes([state]))))
    return Message(_CT_NEW, socket.AF_INET, tuples + known + more, _CREATE)


def _tuple(kind: int, ends: tuple[bytes, ...], ports: tuple[int, ...]) -> bytes:
    addresses = b"".join(attribute(side, end) for side, end in enumerate(ends, 1))
    numbers = b"".join(attribute(side, struct.pack("!H", port)) for side, port in enumerate(ports, 2))
    protocol = attribute(1, bytes([socket.IPPROTO_TCP])) + numbers
    return attribute(kind | NESTED, attribute(1 | NESTED, addresses) + attribute(2 | NESTED, protocol))
