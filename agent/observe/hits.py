"""When rules last counted a packet, as far as somebody has looked: the kernel keeps no time of that."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

MOST = 8_000
"""Rules that are remembered: those looked at last. Nothing is, until somebody looks."""


class Hits:
    """Remembers what rules had counted. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[Hashable, tuple[int, float | None]] = OrderedDict()

    def saw(self, rule: Hashable, packets: int, now: float) -> float | None:
        """Take note of what a rule has counted; return when a look first saw that, in the time of ``now``.

        ``rule`` names it: the same from look to look, also where more than one rule of the kernel is meant.

        None where it has not grown since it was first looked at.
        """
        with self._lock:
            before = self._seen.pop(rule, None)
            at = None if before is None else before[1]
            if before is not None and packets > before[0]:
                at = now
            self._seen[rule] = (packets, at)
            if len(self._seen) > MOST:
                self._seen.popitem(last=False)
            return at
