"""Looks for garbage while nothing else is to be done, so that no change waits for it."""

from __future__ import annotations

from collections.abc import Callable

from agent.clock import NEVER, Clock
from agent.runtime.heap import Memory

EVERY = 1.0
"""Seconds between two looks."""
FEW, MANY = 2_000, 20_000
"""Fewer new objects are left for a later look; more would take longer than a change may wait: 2 ms."""
SILENT = 5
"""After so many looks with few new objects nothing goes on that would wait for a look at the whole heap."""
GROWTH = 100_000
"""By so many pieces of memory the heap grows at least until all of it is looked at: some 10 MB."""
AT_MOST = 1_000_000
"""By no more than this, or twice its size, whatever goes on."""


class Collecting:
    """Due each second once everything has been enforced; until then Python looks for garbage by itself.

    What the engine and the backend keep refers to nothing in a circle once it is let go of, and is gone at
    once. Only what is beside them, such as a request that failed, leaves something. So what is new is looked
    at when nothing waits, and taken for no garbage from then on; what came while much went on is not looked
    at. A look at the whole heap takes 100 ms in a large cluster: that is done only when it has grown by half,
    and little has gone on for a while.
    """

    def __init__(self, quiet: Callable[[], bool], clock: Clock, memory: Memory) -> None:
        """``quiet``: whether nothing waits."""
        self._quiet = quiet
        self._clock = clock
        self._memory = memory
        self._at = NEVER
        self._held = 0
        """The size of the heap after the last look at all of it."""
        self._silent = 0
        """After how many looks in a row few objects were new."""

    def begin(self) -> None:
        """Look at everything now, and from now on only when that is due."""
        self._memory.by_hand(True)
        self._look_at_all()
        self._memory.give_back()

    def end(self) -> None:
        """Have Python look by itself again."""
        self._at = NEVER
        self._memory.by_hand(False)

    def due(self) -> float:
        return self._at

    def run(self, now: float) -> None:
        """Look for garbage, as far as nothing waits for that."""
        self._at = now + EVERY
        memory = self._memory
        new, grown = memory.new(), memory.held() - self._held
        self._silent = self._silent + 1 if new <= FEW and self._quiet() else 0
        enough = max(self._held // 2, GROWTH) if self._silent >= SILENT else max(self._held, AT_MOST)
        if grown > enough:
            self._look_at_all()
        elif new > MANY or not self._quiet():
            memory.keep()
        elif new > FEW:
            memory.collect_new()

    def _look_at_all(self) -> None:
        self._memory.collect_all()
        self._held = self._memory.held()
        self._at = self._clock.monotonic() + EVERY
