"""Packets of one kind folded into few reports: the first at once, the rest as a count when a window ends."""

from __future__ import annotations

from typing import NamedTuple

from agent.dataplane.logged import Judged

MOST = 4096
"""Kinds that are known at the same time."""


class Sort(NamedTuple):
    """What packets have in common that are folded: all but source port and time.

    ``port`` is the destination's, or type and code of ICMP, or None. ``opens`` tells packets that can open a
    connection from those in the middle of one.
    """

    judged: Judged
    source: bytes
    destination: bytes
    protocol: int
    port: int | tuple[int, int] | None
    opens: bool
    fragment: bool


class Repeats(NamedTuple):
    """So many more packets of a sort, since the last report, came between two times."""

    sort: Sort
    packets: int
    first: float
    last: float


class _Known:
    __slots__ = ("count", "first", "last", "until")

    def __init__(self, at: float, until: float) -> None:
        self.count = 0
        self.first = self.last = at
        self.until = until


class Folding:
    """Which sorts of packet were told lately.

    Times ``at`` are the packets' own, ``now`` is monotonic seconds. A sort is told when it is new, and again
    at the end of each window in which more came. When a window ends in which nothing came, it is forgotten.
    """

    def __init__(self, window: float, most: int = MOST) -> None:
        self._window = window
        self._most = most
        self._known: dict[Sort, _Known] = {}
        """In the order in which their windows end."""

    def __len__(self) -> int:
        return len(self._known)

    def take(self, sort: Sort, at: float, now: float) -> bool | None:
        """Take a packet: True where its sort is new, False where it is counted; None without room for it."""
        known = self._known.get(sort)
        if known is not None:
            if not known.count:
                known.first = at
            known.count += 1
            known.last = at
            return False
        if len(self._known) >= self._most:
            return None
        self._known[sort] = _Known(at, now + self._window)
        return True

    def knows(self, sort: Sort) -> bool:
        """Whether a sort was told lately."""
        return sort in self._known

    def forget(self, sort: Sort) -> None:
        """Take a sort as new again: it was not told after all."""
        self._known.pop(sort, None)

    def due(self) -> float | None:
        """Return when :meth:`ended` has something to do, None for never."""
        return next((known.until for known in self._known.values()), None)

    def ended(self, now: float) -> list[Repeats]:
        """Return what came in the windows that have ended."""
        found = []
        while (first := next(iter(self._known.items()), None)) and first[1].until <= now:
            sort, known = first
            del self._known[sort]
            if known.count:
                found.append(Repeats(sort, known.count, known.first, known.last))
                self._known[sort] = _Known(known.last, now + self._window)
        return found
