"""Exact algebra on the ipBlocks of a rule: which addresses they hold, and as which kernel networks.

Addresses are worked on as ranges of integers, where union and difference are exact and cheap;
networks are made of the result.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from netaddr import IPAddress, iprange_to_cidrs

from agent.kube.model import Family, IPBlock, Network
from agent.policy.program import NetworkMember


class Range(NamedTuple):
    """Addresses of one family from ``first`` to ``last``, both included, as integers."""

    first: int
    last: int


Ranges = tuple[Range, ...]
"""Sorted ranges of one family that neither touch nor overlap."""


def block_ranges(blocks: Iterable[IPBlock], family: Family) -> Ranges:
    """Return the addresses of a family that the blocks hold: the union of each cidr minus its own excepts."""
    found: list[Range] = []
    for cidr, excepts in blocks:
        if cidr.family is family:
            inside = (_range(cidr),)
            found.extend(_difference(inside, _union(_range(e) for e in excepts if e.family is family)))
    return _union(found)


def block_members(blocks: Iterable[IPBlock], family: Family) -> frozenset[NetworkMember]:
    """Return the members of a NETWORKS set that holds exactly what the blocks hold in a family.

    Empty when nothing is left. A /0, which the kernel's set type cannot hold, is told as its two halves.
    Only a single block may exclude (``nomatch``), and does when that takes fewer members: where two blocks
    share a set, what one excludes could shadow what the other covers.
    """
    own = {block for block in blocks if block.cidr.family is family}
    ranges = block_ranges(own, family)
    plain = frozenset(NetworkMember(n) for r in ranges for n in range_networks(r, family))
    if len(own) != 1 or not plain:
        return plain
    (block,) = own
    whole = (_range(block.cidr),)
    left_out = {n for r in _difference(whole, ranges) for n in range_networks(r, family)}
    covered = [n for n in range_networks(whole[0], family) if n not in left_out]
    excluding = frozenset(
        [NetworkMember(n) for n in covered]
        + [NetworkMember(n, True) for n in left_out if any(_contains(c, n) for c in covered)]
    )
    return excluding if len(excluding) < len(plain) else plain


def members_text(members: Iterable[NetworkMember]) -> str:
    """Return the canonical text of the members of a NETWORKS set."""
    return ",".join(("!" if nomatch else "") + str(network) for network, nomatch in sorted(members))


def ranges_text(ranges: Ranges, family: Family) -> str:
    """Return the canonical text of ranges, as networks."""
    return ",".join(str(network) for r in ranges for network in range_networks(r, family))


def in_ranges(address: bytes, ranges: Ranges) -> bool:
    """Whether a packed address of the ranges' family lies in one of them."""
    number = int.from_bytes(address, "big")
    at = bisect_right(ranges, number, key=lambda r: r.first) - 1
    return at >= 0 and number <= ranges[at].last


def _range(network: Network) -> Range:
    size = 8 * len(network.address) - network.prefix
    first = int.from_bytes(network.address, "big") >> size << size
    return Range(first, first + (1 << size) - 1)


def _union(ranges: Iterable[Range]) -> Ranges:
    merged: list[Range] = []
    for current in sorted(ranges):
        if merged and current.first <= merged[-1].last + 1:
            merged[-1] = Range(merged[-1].first, max(merged[-1].last, current.last))
        else:
            merged.append(current)
    return tuple(merged)


def _difference(ranges: Ranges, without: Ranges) -> Ranges:
    left: list[Range] = []
    for first, last in ranges:
        start = first
        for cut in without:
            if cut.last < start or cut.first > last:
                continue
            if cut.first > start:
                left.append(Range(start, cut.first - 1))
            start = cut.last + 1
        if start <= last:
            left.append(Range(start, last))
    return tuple(left)


@lru_cache(maxsize=4096)
def range_networks(addresses: Range, family: Family) -> tuple[Network, ...]:
    """Return the networks of a family that make up a range, sorted; none of them is a /0."""
    size = family.bits // 8
    found: list[Network] = []
    for cidr in iprange_to_cidrs(IPAddress(addresses.first, family), IPAddress(addresses.last, family)):
        prefix = cidr.prefixlen
        if prefix == 0:
            found += [Network(bytes(size), 1), Network(b"\x80" + bytes(size - 1), 1)]
        else:
            found.append(Network(int(cidr.first).to_bytes(size, "big"), prefix))
    return tuple(found)


def _contains(outer: Network, inner: Network) -> bool:
    outer_range, inner_range = _range(outer), _range(inner)
    return outer_range.first <= inner_range.first and inner_range.last <= outer_range.last
