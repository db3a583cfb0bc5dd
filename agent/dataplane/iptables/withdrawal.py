"""Addresses are closed on another thread, at once: their pods' network has been taken away.

Whoever moves the kernel may be waiting for a command just then. Meanwhile a new pod could be given such an
address, and have what was allowed to the one before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.verdict_cache import VerdictCache
from agent.kernel.conntrack import ConntrackError
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetChange
from agent.net import family_of


class Withdrawal:
    """Takes addresses out of the sets of known ones, whatever else is being written. For any thread.

    It is no part of the record: the delta that follows does the same again, tells what fails, and is what
    counts. Where new pods are open it does nothing.
    """

    def __init__(self, held: Held, cache: VerdictCache, access: Access) -> None:
        self._held = held
        self._cache = cache
        self._access = access
        self.writes = 0

    def __call__(self, addresses: Collection[bytes]) -> None:
        """Close addresses, and forget their connections; the verdict cache is closed in the same message."""
        changes = [
            SetChange(closing.known, (), gone)
            for family, closing in self._held.names.closing.items()
            if (gone := [address for address in addresses if family_of(address) is family])
        ]
        if not changes:
            return
        self.writes += 1
        with contextlib.suppress(OSError, SetError, ConntrackError):
            with self._access.ipsets() as ipsets, self._cache.closed() as lookups:
                ipsets.change(changes, lookups)
            self._access.forget(addresses)
