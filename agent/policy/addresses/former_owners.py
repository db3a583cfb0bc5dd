"""Addresses that pods have left, and that no other pod has yet."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from agent.policy.graph import PodIdentity

LOCAL_SECONDS = 5 * 24 * 3600.0
"""The longest that connection tracking keeps a silent connection, unless it is told otherwise: five days."""
REMOTE_SECONDS = 600.0
"""Shorter, since other nodes have many more pods. The memory matters only if a pod of this node gets the
address next. That is a reuse across nodes, which happens soon or never."""


class _Left(NamedTuple):
    until: float
    pods: frozenset[PodIdentity]


class FormerOwners:
    """Remembers which pods had an address, until another pod gets it or the memory is of no use any more.

    A process may outlive its pod's object and open connections that must not pass on to the next pod.
    ``now`` is monotonic seconds and never less than before, so that each book is in the order of its ends.
    """

    def __init__(self) -> None:
        self._local: OrderedDict[bytes, _Left] = OrderedDict()
        self._remote: OrderedDict[bytes, _Left] = OrderedDict()

    def leave(self, address: bytes, pods: frozenset[PodIdentity], now: float, *, local: bool) -> None:
        """Note that pods left an address; ``local``: it was one of this node's."""
        self.take(address)
        if local:
            self._local[address] = _Left(now + LOCAL_SECONDS, pods)
        else:
            self._remote[address] = _Left(now + REMOTE_SECONDS, pods)

    def take(self, address: bytes) -> frozenset[PodIdentity] | None:
        """Forget an address that has an owner now; return who left it, None when nobody did."""
        left = self._local.pop(address, None) or self._remote.pop(address, None)
        return left.pods if left is not None else None

    def expire(self, now: float) -> None:
        """Forget what is of no use any more."""
        for book in (self._local, self._remote):
            while book and next(iter(book.values())).until <= now:
                book.popitem(last=False)

    def __len__(self) -> int:
        return len(self._local) + len(self._remote)
