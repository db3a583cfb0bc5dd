"""Addresses whose pods' network has been taken away are closed beside the loop, which may be busy."""

from __future__ import annotations

import threading
from collections.abc import Collection

from agent.runtime.calls import Calls
from agent.runtime.inbox import Inbox


class Withdrawing:
    """Has the backend withdraw addresses, and knows for which of them the loop has still to follow."""

    def __init__(self, calls: Calls, inbox: Inbox) -> None:
        self._calls = calls
        self._inbox = inbox
        self._lock = threading.Lock()
        self._waiting = 0

    def withdraw(self, addresses: Collection[bytes]) -> None:
        """Close addresses now. For any thread, which has put the event that says why into the inbox."""
        with self._lock:
            self._waiting += 1
        self._calls.backend.withdraw(addresses)
        self._inbox.call(self._followed)

    def _followed(self) -> None:
        with self._lock:
            self._waiting -= 1

    @property
    def ahead(self) -> bool:
        """Whether the kernel may be ahead of the program. For the loop's own thread."""
        return self._waiting > 0
