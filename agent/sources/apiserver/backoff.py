"""How long to wait before asking an API server again."""

from __future__ import annotations

import email.utils
import random
from collections.abc import Callable

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 30.0
LIMITED_SECONDS = 1.0
"""The longest pause where the server says "too many requests" and not for how long: it is there, and says no
at little cost, so that silence would only make this node late."""
LONGEST_ASKED_SECONDS = 60.0
"""A server that asks for more silence than this is asked again sooner: a node must not be stale for long."""

Uniform = Callable[[float, float], float]


class Backoff:
    """Pauses that double from 0.2 s to 30 s while something fails, each cut at random by up to a half.

    ``uniform`` is ``random.uniform``, or a test's.
    """

    def __init__(self, uniform: Uniform = random.uniform) -> None:
        self._uniform = uniform
        self._failures = 0

    @property
    def failures(self) -> int:
        """How many there were in a row."""
        return self._failures

    def reset(self) -> None:
        """Take the next failure for the first: it went well."""
        self._failures = 0

    def next(self, longest: float | None = None) -> float:
        """Note one more failure; return the seconds to wait now."""
        most = LONGEST_SECONDS if longest is None else longest
        pause = min(most, FIRST_SECONDS * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return pause * self._uniform(0.5, 1.0)


def retry_after(header: str | None, now: float) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3): a number, or a date.

    ``now`` is ``time.time()``. 0.0 where there is none, it cannot be read, or the date has passed.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_ASKED_SECONDS)
    try:
        then = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, then - now), LONGEST_ASKED_SECONDS)
