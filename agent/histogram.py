"""Histograms with fixed bounds: cheap to add to on the loop, and read by other threads."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple


class Distribution(NamedTuple):
    """What was observed.

    ``counts`` has one number for each of ``bounds``, and one more for what is above them all. A value counts
    in the first bucket whose bound it does not exceed, and in no other. ``total`` is the sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """Counts values in buckets. One thread observes; any thread reads."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """``bounds``: the upper bounds of the buckets, ascending; a bound belongs to its bucket."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def read(self) -> Distribution:
        """Return what was observed until now."""
        return Distribution(self._bounds, tuple(self._counts), self._total)


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds for durations: a change takes some 5 ms, a first write of a large node seconds."""
