"""Sets of (address, protocol, port), exact: what a pod takes, from whom, and what it may send, to whom."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from agent.reach.addresses import number_of
from agent.reach.ports import NONE, Ports

Piece = tuple[int, int, Ports]
"""Addresses from the first to before the second, and the ports of each of them."""


@dataclass(frozen=True, slots=True)
class Region:
    """A set of (address, protocol, port) as sorted pieces of the line of addresses.

    Pieces do not overlap, none has an empty set of ports, and those that touch differ in ports: so equal sets
    are equal values.
    """

    pieces: tuple[Piece, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pieces)

    def __or__(self, other: Region) -> Region:
        return _combine(self, other, Ports.__or__)

    def __and__(self, other: Region) -> Region:
        return _combine(self, other, Ports.__and__)

    def __sub__(self, other: Region) -> Region:
        return _combine(self, other, Ports.__sub__)

    def at(self, number: int) -> Ports:
        """Return the ports at a place of the line (:func:`agent.reach.addresses.number_of`)."""
        index = bisect_right(self.pieces, number, key=lambda piece: piece[0]) - 1
        if index < 0 or number >= self.pieces[index][1]:
            return NONE
        return self.pieces[index][2]

    def has(self, address: bytes, protocol: int, port: int) -> bool:
        """Whether a peer's packed address, with an IANA protocol and a destination port, is in the set."""
        return self.at(number_of(address)).has(protocol, port)


def region(pieces: Iterable[Piece]) -> Region:
    """Return the set that pieces make which do not overlap, in any order."""
    found: list[Piece] = []
    for first, end, ports in sorted(pieces, key=lambda piece: piece[0]):
        if first >= end or not ports:
            continue
        if found and found[-1][1] == first and found[-1][2] == ports:
            found[-1] = found[-1][0], end, ports
        else:
            found.append((first, end, ports))
    return Region(tuple(found))


def _combine(one: Region, other: Region, how: Callable[[Ports, Ports], Ports]) -> Region:
    """Walk along both at once; between two edges nothing changes."""
    edges = sorted({edge for piece in (*one.pieces, *other.pieces) for edge in piece[:2]})
    found: list[Piece] = []
    i = j = 0
    for first, end in pairwise(edges):
        while i < len(one.pieces) and one.pieces[i][1] <= first:
            i += 1
        while j < len(other.pieces) and other.pieces[j][1] <= first:
            j += 1
        found.append((first, end, how(_ports(one, i, first), _ports(other, j, first))))
    return region(found)


def _ports(given: Region, index: int, number: int) -> Ports:
    if index < len(given.pieces) and given.pieces[index][0] <= number:
        return given.pieces[index][2]
    return NONE
