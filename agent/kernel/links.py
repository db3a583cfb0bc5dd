"""The network interfaces of this namespace, as far as the firewall depends on them (rtnetlink(7))."""

from __future__ import annotations

import errno
import select
import socket
from typing import NamedTuple

from agent.closing import Closing
from agent.kernel.netlink import ROUTE, NetlinkSocket, attributes
from agent.kernel.rtnetlink import (
    IFLA_BR_NF_CALL_IP6TABLES,
    IFLA_BR_NF_CALL_IPTABLES,
    RTMGRP_LINK,
    read_links,
)
from agent.net import Family

_CALLS = {Family.V4: IFLA_BR_NF_CALL_IPTABLES, Family.V6: IFLA_BR_NF_CALL_IP6TABLES}
POD_KINDS = frozenset({"veth", "tun", "netkit"})
"""The kinds of interface whose other end may be in a pod, or in its virtual machine."""


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
    with NetlinkSocket(ROUTE) as netlink:
        found = []
        for link in read_links(netlink, "bridge"):
            own = dict(attributes(link.data))
            calls = frozenset(family for family, flag in _CALLS.items() if any(own.get(flag, b"")))
            found.append(Bridge(link.name, link.carrying, calls))
        return found


def shared_with_pods() -> frozenset[int]:
    """Return the indexes of bridges that pods may be attached to, and of interfaces stacked on these.

    A pod's port is the near end of a veth, tap or netkit device. Raises OSError.
    """
    with NetlinkSocket(ROUTE) as netlink:
        links = list(read_links(netlink))
    are_bridges = {link.number for link in links if link.kind == "bridge"}
    shared = {link.master for link in links if link.kind in POD_KINDS and link.master in are_bridges}
    # The peer of a veth is no device below it.
    lower = {link.number: link.lower for link in links if link.lower and link.kind != "veth"}
    while more := {index for index, below in lower.items() if below in shared and index not in shared}:
        shared |= more
    return frozenset(shared)


class LinkChanges(Closing):
    """Tells when interfaces come, go or change, in the network namespace of the thread that makes it.

    A loop waits on ``fileno`` and then calls :meth:`drain`. ``groups`` are further rtnetlink groups to hear.
    """

    def __init__(self, groups: int = 0) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, ROUTE
        )
        try:
            self._socket.bind((0, RTMGRP_LINK | groups))
        except OSError:
            self._socket.close()
            raise

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
