"""The interfaces behind which other nodes are (rtnetlink(7))."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator

from agent.kernel.links import ROUTE_GROUPS, LinkChanges, shared_with_pods
from agent.kernel.netlink import ROUTE, Message, NetlinkSocket, attribute, attributes
from agent.net import Network

_GETROUTE = 26
_ROUTE_REST = struct.Struct("=BBBBI")
"""What follows the family's four bytes in an rtmsg: table, protocol, scope, type, flags."""
_UNICAST = 1
"""RTN_UNICAST: not an address of this host."""
_FIB_MATCH = 0x2000
"""RTM_F_FIB_MATCH: the route itself, with all its next hops, not the one that a packet would take."""
_DESTINATION, _INTERFACE, _MULTIPATH = 1, 4, 9
_NEXT_HOP = struct.Struct("=HBBi")


_LONGEST_SECONDS = 60.0
"""How old an answer may be though nothing was told of a change."""
_REST = 100
"""How many times as long as asking took nothing is asked again, however often routes change."""


def uplinks(networks: Iterable[Network]) -> frozenset[str]:
    """Return the interfaces by which this host reaches networks, without loopback and what pods share.

    Packets that come in by a bridge to which pods are attached, or by what is stacked on it, may be a
    pod's, whatever address they bear. What the kernel said is kept: a network costs about 10 µs once, and
    again only when routes or interfaces have changed. For the calling thread's network namespace.
    """
    wanted = networks if isinstance(networks, frozenset) else frozenset(networks)
    known: _Known | None = getattr(_of_thread, "known", None)
    namespace = os.stat(_NAMESPACE).st_ino
    if known is not None and (not wanted or known.namespace != namespace):
        known.changes.close()
        known = _of_thread.known = None
    if not wanted:
        return frozenset()
    if known is None:
        known = _of_thread.known = _Known(namespace)
    return known.find(wanted)


class _Known:
    """What the kernel of one namespace has said of its routes."""

    def __init__(self, namespace: int) -> None:
        self.namespace = namespace
        # Open before anything is asked, so that no change goes unheard.
        self.changes = LinkChanges(ROUTE_GROUPS)
        self._changed = True
        self._at = 0.0
        self._cost = 0.0
        self._networks: frozenset[Network] = frozenset()
        self._indexes: dict[bytes, frozenset[int]] = {}
        self._found: frozenset[str] = frozenset()

    def find(self, networks: frozenset[Network]) -> frozenset[str]:
        self._changed = self.changes.drain() or self._changed
        began = time.monotonic()
        age = began - self._at
        stale = self._changed and age >= _REST * self._cost
        if stale or age >= _LONGEST_SECONDS or not self._indexes:
            self._changed = False
            self._indexes = {}
            self._networks = frozenset()
        if networks is self._networks or networks == self._networks:
            return self._found
        wanted = {network.address for network in networks}
        fresh = not self._indexes
        self._indexes = {a: i for a, i in self._indexes.items() if a in wanted}
        self._indexes |= interfaces_to(wanted - self._indexes.keys())
        self._found = _names(frozenset().union(*self._indexes.values()) - shared_with_pods())
        self._networks = networks
        if fresh:
            self._at, self._cost = began, time.monotonic() - began
        return self._found


_NAMESPACE = "/proc/thread-self/ns/net"
_of_thread = threading.local()


def interfaces_to(addresses: Iterable[bytes]) -> dict[bytes, frozenset[int]]:
    """Return the indexes of the interfaces by which packets to each address leave. Raises OSError."""
    found: dict[bytes, frozenset[int]] = {}
    with NetlinkSocket(ROUTE) as netlink:
        for address in addresses:
            family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
            request = _ROUTE_REST.pack(0, 0, 0, 0, _FIB_MATCH) + attribute(_DESTINATION, address)
            found[address] = frozenset()
            # No route: nothing can come from there either.
            with contextlib.suppress(OSError):
                found[address] = frozenset(_interfaces(netlink.get(Message(_GETROUTE, family, request))))
    return found


def _names(indexes: Iterable[int]) -> frozenset[str]:
    found = set()
    for index in indexes:
        with contextlib.suppress(OSError):  # it is gone since
            found.add(socket.if_indextoname(index))
    return frozenset(found - {"lo"})


def _interfaces(route: bytes) -> Iterator[int]:
    if len(route) < _ROUTE_REST.size or _ROUTE_REST.unpack_from(route)[3] != _UNICAST:
        return
    for kind, payload in attributes(route[_ROUTE_REST.size :]):
        if kind == _INTERFACE:
            yield int(struct.unpack_from("=i", payload)[0])
        elif kind == _MULTIPATH:
            at = 0
            while at + _NEXT_HOP.size <= len(payload):
                length, _, _, index = _NEXT_HOP.unpack_from(payload, at)
                yield index
                at += max(length + 3 & ~3, _NEXT_HOP.size)
