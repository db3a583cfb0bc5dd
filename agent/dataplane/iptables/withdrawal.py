"""Addresses are closed on another thread, at once: their pods' network has been taken away.

Whoever moves the kernel may be waiting for a command just then. Meanwhile a new pod could be given such an
address, and have what was allowed to the one before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection

from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.verdict_cache import VerdictCache
from agent.kernel.conntrack import ConntrackError
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetChange
from agent.net import family_of


class Withdrawal:
    """Takes addresses out of the sets of known ones, whatever else is being written. For any thread.

    The delta that follows does the same again, tells what fails, and is what counts: the record knows no more
    than that nothing may make these addresses known before it. Until that is written the verdict cache stays
    closed: the rules of the pods that had them are there still, and a packet that is on its way to where the
    address no longer is may meet them. Where new pods are open, nothing is done.
    """

    def __init__(self, held: Held, cache: VerdictCache, access: Access) -> None:
        self._held = held
        self._cache = cache
        self._access = access
        self._lock = threading.Lock()
        self._closed = contextlib.ExitStack()
        self.writes = 0

    def __call__(self, addresses: Collection[bytes], followed: Callable[[bytes], bool]) -> None:
        """Close addresses, and forget their connections; the verdict cache is closed in the same message.

        What the program that is being written says of them is of before, until ``followed`` says otherwise.
        """
        changes = [
            SetChange(closing.known, (), gone)
            for family, closing in self._held.names.closing.items()
            if (gone := [address for address in addresses if family_of(address) is family])
        ]
        if not changes:
            return
        self.writes += 1
        with self._lock:
            self._held.withdrawn.add(addresses, followed)
            lookups = self._closed.enter_context(self._cache.closed())
        with contextlib.suppress(OSError, SetError, ConntrackError):
            # Who reads the sets just now must not take this for someone else's change.
            written = self._held.sets.written([change.name for change in changes])
            with self._access.ipsets() as ipsets, written:
                ipsets.change(changes, lookups)
            self._access.forget(addresses)

    def settle(self) -> None:
        """Let the verdict cache open where all is written that was to follow.

        To be called when nothing is being written, nor any event being taken.
        """
        with self._lock:
            if not self._held.withdrawn.now():
                self._closed.close()
