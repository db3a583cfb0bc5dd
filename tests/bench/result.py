"""What a section of the benchmark yields, and how large a cluster is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec


class Size(msgspec.Struct, frozen=True):
    """How large a cluster is: its pods, those of the one real node among them, and its policies."""

    name: str
    pods: int
    local: int
    policies: int

    def __str__(self) -> str:
        return f"{self.pods:,} / {self.local:,} / {self.policies:,}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One row: ``count`` measurements of one thing, in ``unit`` (``ms``, ``MB``, ``events/s``, ``ratio``).

    ``worst`` is the greatest, or the least where more is better. ``size`` is None where no generated cluster
    was involved. ``low`` and ``high`` are the bounds of the median's 95 % confidence interval, where there
    were enough measurements to tell (:func:`interval`).
    """

    section: str
    name: str
    unit: str
    median: float
    p90: float
    worst: float
    count: int
    size: Size | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    """What a reader has to know about this row, in a few words."""


def summary(
    section: str,
    name: str,
    unit: str,
    values: Sequence[float],
    *,
    size: Size | None = None,
    more_is_better: bool = False,
    note: str = "",
) -> Result:
    """Return the row of these measurements. Raises ValueError when there are none."""
    if not values:
        raise ValueError(f"nothing was measured of {section}: {name}")
    ordered = sorted(values, reverse=more_is_better)
    low, high = interval(values) or (None, None)
    return Result(
        section=section,
        name=name,
        unit=unit,
        median=statistics.median(values),
        p90=ordered[math.ceil(0.9 * len(ordered)) - 1],
        worst=ordered[-1],
        count=len(values),
        size=size,
        low=low,
        high=high,
        note=note,
    )


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return a 95 % confidence interval of the median, whatever the distribution; None below six values.

    From order statistics: how many of n values lie below the median is binomial with p = 1/2 (Conover,
    Practical Nonparametric Statistics, 3.2).
    """
    count = len(values)
    if count < 6:
        return None
    tail, rank = 0.0, 0
    while (tail := tail + math.comb(count, rank) / 2**count) <= 0.025:
        rank += 1
    ordered = sorted(values)
    return ordered[rank - 1], ordered[count - rank]
