"""Addresses that were closed ahead of the program: nothing makes them known until that has followed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable


class Withdrawn:
    """Keeps them. Any thread adds; the thread that moves the kernel asks before it makes addresses known."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[bytes, Callable[[bytes], bool]] = {}

    def add(self, addresses: Iterable[bytes], followed: Callable[[bytes], bool]) -> None:
        """Add addresses, each until ``followed`` says that the program that is written knows of it."""
        with self._lock:
            self._until.update(dict.fromkeys(addresses, followed))

    def now(self) -> frozenset[bytes]:
        """Return those that are withdrawn still."""
        if not self._until:
            return frozenset()
        with self._lock:
            self._until = {a: followed for a, followed in self._until.items() if not followed(a)}
            return frozenset(self._until)
