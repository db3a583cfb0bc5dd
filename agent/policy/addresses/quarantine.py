"""Addresses that stay isolated after their pod went: a force-deleted pod may still be running."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.net import Direction
from agent.policy.graph import PodIdentity


class _Closed(NamedTuple):
    due: float
    pod: PodIdentity | None
    """Whose address it was; None when it was found in the kernel."""


class Quarantine:
    """Keeps the program's closed addresses: each until a pod owns it or ``seconds`` pass.

    Handles: an isolated pod gone or finished, a finished pod gone, an address found isolated in the kernel
    at start, an address claimed, time passing. With ``seconds`` zero nothing lingers. ``now`` is monotonic
    seconds, always the caller's and never less than before, so that what is closed last is due last.
    """

    def __init__(self, closed: Mapping[Direction, set[bytes]], seconds: float) -> None:
        self._program_closed = closed
        self._seconds = seconds
        self._closed: OrderedDict[bytes, _Closed] = OrderedDict()
        self._of_pods: dict[PodIdentity, set[bytes]] = {}

    def close(
        self, address: bytes, directions: Iterable[Direction], pod: PodIdentity | None, now: float
    ) -> bool:
        """Keep an address that no pod owns isolated in some directions; return whether it lingers."""
        if self._seconds <= 0:
            return False
        self._forget(address)
        for direction in directions:
            self._program_closed[direction].add(address)
        self._closed[address] = _Closed(now + self._seconds, pod)
        if pod is not None:
            self._of_pods.setdefault(pod, set()).add(address)
        return True

    def renew(self, pod: PodIdentity, now: float) -> None:
        """Begin the time of a pod's closed addresses anew."""
        for address in self._of_pods.get(pod, ()):
            self._closed[address] = _Closed(now + self._seconds, pod)
            self._closed.move_to_end(address)

    def __contains__(self, address: bytes) -> bool:
        return address in self._closed

    def open(self, address: bytes) -> tuple[PodIdentity | None, list[Direction]]:
        """Let go of a closed address; return whose it was and in which directions it was closed."""
        directions = [d for d, addresses in self._program_closed.items() if address in addresses]
        for direction in directions:
            self._program_closed[direction].remove(address)
        closed = self._forget(address)
        return closed.pod if closed is not None else None, directions

    def due(self, now: float) -> list[bytes]:
        """Return the addresses whose time is over."""
        found = []
        for address, closed in self._closed.items():
            if closed.due > now:
                break
            found.append(address)
        return found

    def deadline(self) -> float | None:
        """Return when the next address is due."""
        return next((closed.due for closed in self._closed.values()), None)

    def _forget(self, address: bytes) -> _Closed | None:
        closed = self._closed.pop(address, None)
        if closed is not None and closed.pod is not None:
            addresses = self._of_pods[closed.pod]
            addresses.discard(address)
            if not addresses:
                del self._of_pods[closed.pod]
        return closed

    def __len__(self) -> int:
        return len(self._closed)
