"""A clock for tests, in which waiting takes no time."""

from __future__ import annotations

import math
import select
from collections.abc import Collection

from agent.clock import NEVER

_SINCE_1970 = 1_700_000_000.0


class FakeClock:
    """Stands still, except where somebody waits: then it jumps to the end of that, or to ``limit``.

    Who waits for descriptors of which one can be read already does not wait.
    """

    def __init__(self) -> None:
        self.now = 1_000.0
        self.limit = NEVER

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return _SINCE_1970 + self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, descriptors: Collection[int], seconds: float) -> None:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        if not poll.poll(0):
            self.now = min(self.now + math.ceil(seconds * 1000) / 1000, max(self.now, self.limit))
