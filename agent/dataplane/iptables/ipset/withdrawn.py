"""Addresses that were closed ahead of the program: nothing opens them until that has followed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


class Withdrawn:
    """Keeps them. Any thread adds; the thread that moves the kernel asks before it opens addresses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[bytes, Callable[[bytes], bool]] = {}
        self._shut: set[bytes] = set()

    def add(
        self, addresses: Iterable[bytes], followed: Callable[[bytes], bool], shut: Iterable[bytes] = ()
    ) -> None:
        """Add addresses, each until ``followed`` says that the program that is written knows of it.

        ``shut``: those of them that are closed by the sets of closed addresses, which the record knows by
        this alone.
        """
        with self._lock:
            self._until.update(dict.fromkeys(addresses, followed))
            self._shut.update(shut)

    def now(self) -> frozenset[bytes]:
        """Return those that are withdrawn still."""
        if not self._until:
            return frozenset()
        with self._lock:
            self._until = {a: followed for a, followed in self._until.items() if not followed(a)}
            return frozenset(self._until)

    @property
    def shut(self) -> frozenset[bytes]:
        """Those that may be in sets of closed addresses, since they were withdrawn."""
        with self._lock:
            return frozenset(self._shut)

    def opened(self, addresses: Iterable[bytes]) -> None:
        """Take note of which have left these sets; one that was withdrawn once more may be there again."""
        with self._lock:
            self._shut.difference_update(a for a in addresses if a not in self._until)
