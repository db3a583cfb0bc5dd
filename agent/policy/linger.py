"""Addresses that stay isolated after their pod went: a force-deleted pod may still be running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.kube.model import Direction
from agent.policy.graph import PodIdentity


class _Closed(NamedTuple):
    due: float
    pod: PodIdentity | None
    """Whose address it was; None when it was found in the kernel."""


class Lingering:
    """Keeps the program's closed addresses: each until a pod owns it or ``seconds`` pass.

    Handles: an isolated pod gone, an address found isolated in the kernel at start, an address claimed,
    time passing. With ``seconds`` zero nothing lingers. ``now`` is monotonic seconds, always the caller's.
    """

    def __init__(self, closed: Mapping[Direction, set[bytes]], seconds: float) -> None:
        self._program_closed = closed
        self._seconds = seconds
        self._closed: dict[bytes, _Closed] = {}

    def close(
        self, address: bytes, directions: Iterable[Direction], pod: PodIdentity | None, now: float
    ) -> bool:
        """Keep an address that no pod owns isolated in some directions; return whether it lingers."""
        if self._seconds <= 0:
            return False
        for direction in directions:
            self._program_closed[direction].add(address)
        self._closed[address] = _Closed(now + self._seconds, pod)
        return True

    def __contains__(self, address: bytes) -> bool:
        return address in self._closed

    def open(self, address: bytes) -> tuple[PodIdentity | None, list[Direction]]:
        """Let go of a closed address; return whose it was and in which directions it was closed."""
        directions = [d for d, addresses in self._program_closed.items() if address in addresses]
        for direction in directions:
            self._program_closed[direction].remove(address)
        return self._closed.pop(address).pod, directions

    def due(self, now: float) -> list[bytes]:
        """Return the addresses whose time is over."""
        return [address for address, (due, _) in self._closed.items() if due <= now]

    def deadline(self) -> float | None:
        """Return when the next address is due."""
        return min((due for due, _ in self._closed.values()), default=None)

    def __len__(self) -> int:
        return len(self._closed)
