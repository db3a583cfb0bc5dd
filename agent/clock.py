"""Time, passed in: who asks for it or waits does so by a :class:`Clock`, so that a test can drive it."""

from __future__ import annotations

import datetime
import math
import select
import time
from collections.abc import Collection
from typing import Protocol

NEVER = math.inf
"""When something is due that is not due at all."""
AT_ONCE = -math.inf
"""When something is due that must not wait."""


Moment = datetime.datetime
"""A time in UTC; RFC 3339 in JSON."""


def moment(seconds: float) -> Moment:
    """Return ``time.time()`` seconds as a time."""
    return Moment.fromtimestamp(seconds, datetime.UTC)


class Clock(Protocol):
    """Tells the time and waits."""

    def monotonic(self) -> float:
        """Return seconds that only go forward: for pauses, and for when something is due."""
        ...

    def time(self) -> float:
        """Return seconds since 1970: for people."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait so many seconds. For threads; the main loop never sleeps."""
        ...

    def wait(self, descriptors: Collection[int], seconds: float) -> None:
        """Wait until one of these file descriptors can be read, but not longer than so many seconds."""
        ...


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait(self, descriptors: Collection[int], seconds: float) -> None:
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        # Rounded up, so that what is waited for is due afterwards.
        poll.poll(math.ceil(seconds * 1000))


SYSTEM = SystemClock()
