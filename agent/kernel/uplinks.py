"""The interfaces behind which other nodes are (rtnetlink(7))."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterable

from agent.kernel.links import LinkChanges, shared_with_pods
from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.rtnetlink import ROUTE_GROUPS, read_route
from agent.net import Network

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
            found[address] = frozenset()
            # No route: nothing can come from there either.
            with contextlib.suppress(OSError):
                found[address] = frozenset(read_route(netlink, address).interfaces)
    return found


def _names(indexes: Iterable[int]) -> frozenset[str]:
    found = set()
    for index in indexes:
        with contextlib.suppress(OSError):  # it is gone since
            found.add(socket.if_indextoname(index))
    return frozenset(found - {"lo"})
