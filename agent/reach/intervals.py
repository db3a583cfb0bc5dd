"""Sets of whole numbers as sorted intervals: what sets of ports and of addresses are made of.

An interval has its first number and the one after its last. The intervals of a set neither overlap nor touch,
so equal sets are equal values.
"""

from __future__ import annotations

from collections.abc import Iterable

Intervals = tuple[tuple[int, int], ...]
"""A set of numbers in canonical form: (first, after the last), sorted, with a gap between any two."""


def canonical(pairs: Iterable[tuple[int, int]]) -> Intervals:
    """Return the union of any intervals, empty ones among them."""
    found: list[tuple[int, int]] = []
    for first, end in sorted(pairs):
        if first >= end:
            continue
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((first, end))
    return tuple(found)


def union(one: Intervals, other: Intervals) -> Intervals:
    return canonical((*one, *other)) if one and other else one or other


def intersection(one: Intervals, other: Intervals) -> Intervals:
    found = []
    i = j = 0
    while i < len(one) and j < len(other):
        first, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if first < end:
            found.append((first, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def difference(one: Intervals, other: Intervals) -> Intervals:
    """Return what is in the one and not in the other."""
    found = []
    j = 0
    for first, end in one:
        at = first
        while j < len(other) and other[j][1] <= at:
            j += 1
        k = j
        while k < len(other) and other[k][0] < end:
            if at < other[k][0]:
                found.append((at, other[k][0]))
            at = other[k][1]
            k += 1
        if at < end:
            found.append((at, end))
    return tuple(found)


def holds(one: Intervals, number: int) -> bool:
    return any(first <= number < end for first, end in one)
