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
_ESTABLISHED = 3
_SEEN_REPLY, _ASSURED, _CONFIRMED = 2, 4, 8
_DAYS = 5 * 86_400
_PORTS = 60_000


def track(netns: Netns, source: str, destination: str, port: int, number: int) -> None:
    """Have a namespace track so many established TCP connections of IPv4, to this port and the next ones."""
    with netns.entered(), NetlinkSocket() as netlink:
        failed = netlink.request(list(_messages(source, destination, port, number)))
    assert failed == []


def _messages(source: str, destination: str, port: int, number: int) -> Iterator[Message]:
    status = struct.pack("!I", _SEEN_REPLY | _ASSURED | _CONFIRMED)
    state = attribute(1 | NESTED, attribute(1, bytes([_ESTABLISHED])))
    known = attribute(3, status) + attribute(7, struct.pack("!I", _DAYS)) + attribute(4 | NESTED, state)
    ends = socket.inet_aton(source), socket.inet_aton(destination)
    for one in range(number):
        ports = 1024 + one % _PORTS, port + one // _PORTS
        tuples = _tuple(1, ends, ports) + _tuple(2, ends[::-1], ports[::-1])
        yield Message(_CT_NEW, socket.AF_INET, tuples + known, _CREATE)


def _tuple(kind: int, ends: tuple[bytes, ...], ports: tuple[int, ...]) -> bytes:
    addresses = b"".join(attribute(side, end) for side, end in enumerate(ends, 1))
    numbers = b"".join(attribute(side, struct.pack("!H", port)) for side, port in enumerate(ports, 2))
    protocol = attribute(1, bytes([socket.IPPROTO_TCP])) + numbers
    return attribute(kind | NESTED, attribute(1 | NESTED, addresses) + attribute(2 | NESTED, protocol))
