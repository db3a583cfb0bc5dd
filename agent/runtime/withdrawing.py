"""Addresses whose pods' network has been taken away are closed beside the loop, which may be busy."""

from __future__ import annotations

from collections.abc import Collection

from agent.runtime.calls import Calls
from agent.runtime.inbox import Inbox


class Withdrawing:
    """Has the backend withdraw addresses, and knows whether the loop has still to follow."""

    def __init__(self, calls: Calls, inbox: Inbox) -> None:
        self._calls = calls
        self._inbox = inbox
        self._until = self._made = 0

    def withdraw(self, addresses: Collection[bytes]) -> None:
        """Close addresses now. For one thread at a time, which has put the event that says why."""
        inbox, until = self._inbox, self._inbox.told
        self._until = until
        self._calls.backend.withdraw(addresses, lambda: inbox.taken >= until)

    @property
    def ahead(self) -> bool:
        """Whether the kernel may be ahead of the program. For the loop's own thread."""
        until = self._until
        if until and self._inbox.taken >= until and not self._inbox.unmade:
            # Another one may have been withdrawn meanwhile.
            self._made = until
        return until > self._made
