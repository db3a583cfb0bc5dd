"""Policies that one's own pipeline did not write, and that nobody has confirmed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from agent.history import confirmed
from agent.history.confirmed import Confirmation
from agent.history.store import StoreError
from agent.kube.events import Delete, Event, Invalid, Upsert
from agent.kube.model import Key, Kind


class Unconfirmed:
    """Keeps who wrote each policy last, and holds that against one's own managers and the confirmations.

    Handles: a policy that comes, changes, is refused and goes; a file of confirmations that comes, changes,
    goes and cannot be read, which confirms nothing. With no ``own`` managers it does nothing.
    """

    def __init__(self, own: Set[str], directory: Path) -> None:
        self._own = own
        self._directory = directory
        self._managers: dict[Key, str] = {}
        self._stamp: tuple[int, int] | None = None
        self._confirmed: Mapping[str, Confirmation] = {}
        self._told: Mapping[str, Confirmation] | None = None

    def take(self, events: Iterable[Event]) -> None:
        """Take events, in order. For the loop's thread."""
        for event in events if self._own else ():
            if isinstance(event, Upsert) and event.kind is Kind.POLICY:
                self._managers[event.object.key] = event.origin.manager
            elif isinstance(event, Invalid) and event.kind is Kind.POLICY:
                self._managers[event.key] = event.origin.manager
            elif isinstance(event, Delete) and event.kind is Kind.POLICY:
                self._managers.pop(event.key, None)

    def policies(self) -> dict[Key, str]:
        """Return who wrote each policy last that is not confirmed. For any thread."""
        known = self._read()
        return {
            key: manager
            for key, manager in sorted(self._managers.copy().items())
            if manager not in self._own and not _holds(known.get(str(key)), manager)
        }

    def news(self) -> dict[str, Confirmation]:
        """Return what was confirmed since the last call; at the first, nothing. For the loop's thread."""
        if not self._own:
            return {}
        known, before = self._read(), self._told
        self._told = known
        if before is None or before is known:
            return {}
        return {policy: one for policy, one in known.items() if before.get(policy) != one}

    def _read(self) -> Mapping[str, Confirmation]:
        """Return the confirmations; the file is read again when it has changed."""
        try:
            found = (self._directory / confirmed.NAME).stat()
            stamp = found.st_mtime_ns, found.st_ino
        except OSError:
            stamp = None
        if stamp != self._stamp:
            try:
                self._confirmed = confirmed.read(self._directory)
            except StoreError:
                self._confirmed = {}
            self._stamp = stamp
        return self._confirmed


def _holds(found: Confirmation | None, manager: str) -> bool:
    return found is not None and found.manager == manager
