"""When something else keeps undoing our place in a built-in chain: how often to take it back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.fault import Fault

PAUSE = 0.5
"""Seconds between two times, from the second on: what an accepting rule before ours lets through meanwhile is
wrong, and what another time costs is little."""
_QUIET = 120.0
"""Seconds without another time after which a fight has ended."""
_FIGHT = 3
"""So many times in a row, without a quiet spell between, is a fight."""

DISPLACING = "displacing"
STOP_INSERTING = (
    "find the program that inserts accepting rules before them; stop it, or have it append its rules"
)
REMOVING = "removing"
STOP_REMOVING = (
    "find the program that flushes or rewrites the built-in chains of the filter table, and stop it"
)


class Contention:
    """Counts how often hooks were put back, and says when the next time may be. Times in seconds.

    ``deed`` is what something does to our rules, ``remedy`` what a person can do about it.
    """

    def __init__(
        self, now: Callable[[], float], deed: str = DISPLACING, remedy: str = STOP_INSERTING
    ) -> None:
        self._now = now
        self._deed = deed
        self._remedy = remedy
        self._rounds = 0
        self._last = float("-inf")
        self._reasons: tuple[str, ...] = ()

    def _pause(self) -> float:
        return 0.0 if self._rounds <= 1 else PAUSE

    def due(self) -> bool:
        """Whether a hook may be put back now."""
        return self._now() - self._last >= self._pause()

    def put_back(self, reasons: Iterable[str]) -> None:
        """Record that hooks were put back, and why that was needed."""
        now = self._now()
        quiet = now - self._last > _QUIET
        self._rounds = 1 if quiet else self._rounds + 1
        self._last = now
        self._reasons = tuple(reasons)

    def fault(self) -> Fault | None:
        """Return what to tell a person while something fights for the place."""
        if self._rounds < _FIGHT or self._now() - self._last > _QUIET:
            return None
        return Fault(
            f"another program keeps {self._deed} the agent's rules; they were put back {self._rounds} times "
            f"in a row, last because: {'; '.join(self._reasons)}",
            self._remedy,
            blocking=False,
        )
