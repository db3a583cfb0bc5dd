"""Addresses are closed on another thread, at once: their pods' network has been taken away.

Whoever moves the kernel may be waiting for a command just then. Meanwhile a new pod could be given such an
address, and have what was allowed to the one before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable

from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.verdict_cache import VerdictCache
from agent.kernel.conntrack import ConntrackError
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetChange
from agent.net import Family, family_of


class Withdrawal:
    """Closes addresses, whatever else is being written. For any thread.

    Where unknown addresses are closed, they leave the sets of known ones. Elsewhere they enter the sets of
    closed ones, at which packets of isolated addresses alone are looked for: what was open stays so.

    The delta that follows closes them by other means, tells what fails, and is what counts: the record knows
    no more than that nothing may open these addresses before it. Until that is written the verdict cache
    stays closed: the rules of the pods that had them are there still, and a packet that is on its way to
    where the address no longer is may meet them.
    """

    def __init__(self, held: Held, cache: VerdictCache, access: Access) -> None:
        self._held = held
        self._cache = cache
        self._access = access
        self._lock = threading.Lock()
        self._closed = contextlib.ExitStack()
        self.writes = 0

    def __call__(self, addresses: Collection[bytes], followed: Callable[[bytes], bool]) -> None:
        """Close addresses; the verdict cache is closed in the same message.

        Where unknown addresses are closed, forget their connections, too.

        What the program that is being written says of them is of before, until ``followed`` says otherwise.
        """
        names = self._held.names
        unknown = [address for address in addresses if family_of(address) in names.closing]
        shut = [address for address in addresses if family_of(address) not in names.closing]
        changes = [SetChange(each.known, (), _of(family, unknown)) for family, each in names.closing.items()]
        changes += [SetChange(name, _of(family, shut)) for (_, family), name in names.closed.items()]
        changes = [change for change in changes if change.added or change.removed]
        if not changes:
            return
        self.writes += 1
        with self._lock:
            self._held.withdrawn.add(addresses, followed, shut)
            lookups = self._closed.enter_context(self._cache.closed())
        with contextlib.suppress(OSError, SetError, ConntrackError):
            # Who reads the sets just now must not take this for someone else's change.
            written = self._held.sets.written([change.name for change in changes])
            with self._access.ipsets() as ipsets, written:
                ipsets.change(changes, lookups)
            if unknown:
                # A look through all connections takes its time, while whoever tells of pods waits. Where new
                # pods are open it is left to the delta, which comes at once.
                self._access.forget(unknown)

    def settle(self, close_unwritten: Callable[[], object]) -> None:
        """Let the verdict cache open where all is written that was to follow, and open what was shut.

        To be called when nothing is being written, nor any event being taken. ``close_unwritten`` has the
        sets of closed addresses hold whom they are to hold.
        """
        with self._lock:
            if not self._held.withdrawn.now():
                self._closed.close()
        if self._held.withdrawn.shut:
            close_unwritten()


def _of(family: Family, addresses: Iterable[bytes]) -> list[bytes]:
    return [address for address in addresses if family_of(address) is family]
