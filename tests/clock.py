"""A clock for tests, in which waiting takes no time."""

from __future__ import annotations

import math
import select
import threading
from collections.abc import Collection

from agent.clock import NEVER

_SINCE_1970 = 1_700_000_000.0


class FakeClock:
    """Stands still, except where somebody waits: then it jumps to the end of that, or to ``limit``.

    Who waits for descriptors of which one can be read already does not wait. For any thread: no time is lost
    where two of them wait.
    """

    def __init__(self) -> None:
        self._moves = threading.Lock()
        self.now = 1_000.0
        self.limit = NEVER

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return _SINCE_1970 + self.now

    def sleep(self, seconds: float) -> None:
        with self._moves:
            self.now += seconds

    def wait(self, descriptors: Collection[int], seconds: float) -> None:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        if poll.poll(0):
            return
        with self._moves:
            self.now = min(self.now + math.ceil(seconds * 1000) / 1000, max(self.now, self.limit))
