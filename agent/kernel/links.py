"""The network interfaces of this namespace, as far as the firewall depends on them (rtnetlink(7))."""

from __future__ import annotations

import errno
import select
import socket
import struct
from types import TracebackType
from typing import NamedTuple, Self

from agent.kernel.netlink import (
    NESTED,
    ROUTE,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
)
from agent.net import Family

_GETLINK = 18
_IFNAME, _OPERSTATE, _LINKINFO, _INFO_KIND, _INFO_DATA = 3, 16, 18, 1, 2
_CALLS = {Family.V4: 36, Family.V6: 37}
"""IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES"""
_OPER_UP = 6
"""IF_OPER_UP. A bridge that never had a port has carrier, but its state is unknown."""
_IFLA_LINK, _IFLA_MASTER, _IFLA_EXT_MASK = 5, 10, 29
_SKIP_STATISTICS = struct.pack("=I", 1 << 3)
POD_KINDS = frozenset({"veth", "tun", "netkit"})
"""The kinds of interface whose other end may be in a pod, or in its virtual machine."""
_LINK_GROUP = 1
ADDRESS_GROUPS = 1 << 4 | 1 << 8
"""Addresses of interfaces, of both families (RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR)."""
ROUTE_GROUPS = 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18
"""Routes and routing rules, of both families (RTNLGRP_IPV4_ROUTE and so on)."""
_INDEX = struct.Struct("=i")
_IFINFO_REST = 12
"""What follows the family's four bytes in an ifinfomsg: index, flags, change mask."""


class Bridge(NamedTuple):
    """A bridge. ``carrying``: it is up and so is one of its ports.

    ``calls``: the families whose packets it shows to iptables by a setting of its own, its attribute
    ``nf_call_iptables`` or ``nf_call_ip6tables``, whatever the sysctl for all bridges says.
    """

    name: str
    carrying: bool
    calls: frozenset[Family] = frozenset()


def bridges() -> list[Bridge]:
    """Return the bridges of the calling thread's network namespace. Raises OSError."""
    # The kernel picks them: a node has hundreds of other links, each with a kilobyte of statistics.
    kind = attribute(_LINKINFO | NESTED, attribute(_INFO_KIND, b"bridge\0"))
    with NetlinkSocket(ROUTE) as netlink:
        found = []
        for body in netlink.dump(Message(_GETLINK, socket.AF_UNSPEC, bytes(_IFINFO_REST) + kind)):
            fields = dict(attributes(body[_IFINFO_REST:]))
            info = fields.get(_LINKINFO, b"")
            if _kind(info) == b"bridge":
                name = bytes(fields[_IFNAME]).rstrip(b"\0").decode()
                own = dict(attributes(dict(attributes(info)).get(_INFO_DATA, b"")))
                calls = frozenset(family for family, flag in _CALLS.items() if any(own.get(flag, b"")))
                found.append(Bridge(name, fields[_OPERSTATE][0] == _OPER_UP, calls))
        return found


def shared_with_pods() -> frozenset[int]:
    """Return the indexes of bridges that pods may be attached to, and of interfaces stacked on these.

    A pod's port is the near end of a veth, tap or netkit device. Raises OSError.
    """
    kinds: dict[int, bytes] = {}
    masters: dict[int, int] = {}
    lower: dict[int, int] = {}
    with NetlinkSocket(ROUTE) as netlink:
        request = bytes(_IFINFO_REST) + attribute(_IFLA_EXT_MASK, _SKIP_STATISTICS)
        for body in netlink.dump(Message(_GETLINK, socket.AF_UNSPEC, request)):
            (index,) = _INDEX.unpack_from(body)
            fields = dict(attributes(body[_IFINFO_REST:]))
            kinds[index] = _kind(fields.get(_LINKINFO, b""))
            if _IFLA_MASTER in fields:
                (masters[index],) = _INDEX.unpack_from(fields[_IFLA_MASTER])
            # The peer of a veth is no device below it.
            if _IFLA_LINK in fields and kinds[index] != b"veth":
                (lower[index],) = _INDEX.unpack_from(fields[_IFLA_LINK])
    shared = {
        master
        for index, master in masters.items()
        if kinds[index].decode() in POD_KINDS and kinds.get(master) == b"bridge"
    }
    while more := {index for index, below in lower.items() if below in shared and index not in shared}:
        shared |= more
    return frozenset(shared)


def _kind(info: memoryview | bytes) -> bytes:
    return bytes(dict(attributes(info)).get(_INFO_KIND, b"")).rstrip(b"\0")


class LinkChanges:
    """Tells when interfaces come, go or change, in the network namespace of the thread that makes it.

    A loop waits on ``fileno`` and then calls :meth:`drain`. ``groups`` are further rtnetlink groups to hear.
    """

    def __init__(self, groups: int = 0) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, ROUTE
        )
        try:
            self._socket.bind((0, _LINK_GROUP | groups))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def wait(self, seconds: float) -> bool:
        """Wait for a change, at most so many seconds; return whether there was one."""
        ready, _, _ = select.select([self._socket], [], [], seconds)
        return bool(ready) and self.drain()

    def drain(self) -> bool:
        """Read what is waiting; return whether anything changed since the last call."""
        changed = False
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # More happened than the buffer holds.
            changed = True

    def close(self) -> None:
        self._socket.close()
