"""Exact algebra on the ipBlocks of a rule: which addresses they hold, and as which kernel networks.

Addresses are worked on as ranges of integers, where union and difference are exact; networks are made of the
result only when it is known how many there will be. Everything here takes O(n log n) of the networks that
the blocks name, and gives no more members than these: an except of a large block, told by the networks
around it, would be as many as an address has bits.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from itertools import repeat
from typing import NamedTuple

from agent.kube.model import IPBlock
from agent.net import Family, Network, NetworkMember, address_text

_SHOWN = 8
"""As many networks are named in a text; more are counted, and told apart by their hash."""

_ENDS = tuple([bytes((prefix, nomatch)) for prefix in range(129)] for nomatch in (False, True))
"""What follows an address where members are sorted, by whether a member excludes, and by its prefix."""


class Range(NamedTuple):
    """Addresses of one family from ``first`` to ``last``, both included, as integers."""

    first: int
    last: int


Ranges = tuple[Range, ...]
"""Sorted ranges of one family that neither touch nor overlap."""


def block_ranges(blocks: Iterable[IPBlock], family: Family) -> Ranges:
    """Return the addresses of a family that the blocks hold: the union of each cidr minus its own excepts."""
    found: list[Range] = []
    size = family.bits // 8
    for cidr, excepts in blocks:
        if len(cidr.address) != size:
            continue
        if excepts:
            found += _difference(_range(cidr), _union(_range(e) for e in excepts if e.family is family))
        else:
            found.append(_range(cidr))
    return _union(found)


def block_covers(blocks: Iterable[IPBlock], family: Family) -> tuple[Network, ...]:
    """Return networks of a family in which all addresses of the blocks lie: about as many as blocks."""
    ranges = _union(_range(cidr) for cidr, _ in blocks if cidr.family is family)
    return tuple(network for addresses in ranges for network in range_networks(addresses, family))


def block_members(blocks: Collection[IPBlock], family: Family) -> frozenset[NetworkMember]:
    """Return the members of a NETWORKS set that holds exactly what the blocks hold in a family.

    Empty when nothing is left. A /0, which the kernel's set type cannot hold, is told as its two halves.
    Members exclude (``nomatch``) when that takes fewer: the longest prefix decides, so that each member says
    of an address what all blocks together say of it, and one block's except never shadows another block.
    """
    size = family.bits // 8
    if not any(excepts for _, excepts in blocks):
        cidrs = {cidr for cidr, _ in blocks if len(cidr[0]) == size}
        if _are_apart(cidrs, family.bits):
            # Each is a range of its own: of thousands the most common case, and made without a call for each.
            return frozenset(map(tuple.__new__, repeat(NetworkMember), zip(cidrs, repeat(False))))
    own = {block for block in blocks if len(block.cidr.address) == size}
    plain = not any(block.excepts for block in own)
    ranges = block_ranges(own, family)
    if not ranges:
        return frozenset()
    if not plain:
        bits = family.bits
        including = sum(_count(addresses, bits) for addresses in ranges)
        excluding = _single(own.pop(), ranges, family) if len(own) == 1 else _nested(own, family)
        if len(excluding) < including:
            return frozenset(NetworkMember(network, nomatch) for network, nomatch in excluding.items())
    return frozenset(NetworkMember(n) for addresses in ranges for n in range_networks(addresses, family))


def _are_apart(networks: Iterable[Network], bits: int) -> bool:
    """Whether no network touches another or overlaps it, nor is a /0."""
    # A first address with the number of bits behind it that are free sorts as both do.
    pairs = [(int.from_bytes(address), bits - prefix) for address, prefix in networks]
    numbers = sorted([(number >> free << free) << 8 | free for number, free in pairs])
    if numbers and numbers[0] & 0xFF == bits:
        return False
    ends = [(number >> 8) + (1 << (number & 0xFF)) for number in numbers]
    return not any(map(operator.ge, ends, [number >> 8 for number in numbers[1:]]))


def _single(block: IPBlock, ranges: Ranges, family: Family) -> dict[Network, bool]:
    """Return networks, and whether each excludes, that tell a block by what it leaves out."""
    whole = _range(block.cidr)
    left_out = {n for r in _difference(whole, ranges) for n in range_networks(r, family)}
    covered = {n for n in range_networks(whole, family) if n not in left_out}
    found = dict.fromkeys(covered, False)
    # A half of a /0 that is left out whole is not covered, nor can anything of it be.
    halves = {n for n in left_out if n.prefix == 1 and block.cidr.prefix == 0}
    found |= dict.fromkeys(left_out - halves, True)
    return found


def _nested(blocks: Iterable[IPBlock], family: Family) -> dict[Network, bool]:
    """Return networks, and whether each excludes, that tell several blocks.

    Each network that the blocks name says whether the addresses that are in it, and in no smaller one that
    they name, are in any of the blocks; those that would say what the next larger one says are left out.
    """
    named: dict[Range, tuple[list[int], list[int]]] = {}
    for number, (cidr, excepts) in enumerate(blocks):
        whole = _range(cidr)
        named.setdefault(whole, ([], []))[0].append(number)
        for one in excepts:
            inner = _range(one)
            if one.family is family and whole.first <= inner.first and inner.last <= whole.last:
                named.setdefault(inner, ([], []))[1].append(number)
    found: dict[Network, bool] = {}
    # Of networks that begin alike the larger comes first, so that those on the way are those around.
    around: list[tuple[Range, bool]] = []
    holding: set[int] = set()
    excepted: dict[int, int] = {}
    for addresses in sorted(named, key=lambda r: (r.first, -r.last)):
        while around and around[-1][0].last < addresses.first:
            _leave(named[around.pop()[0]], holding, excepted)
        covering, excluding = named[addresses]
        holding.update(covering)
        for number in excluding:
            excepted[number] = excepted.get(number, 0) + 1
            holding.discard(number)
        inside, before = bool(holding), around[-1][1] if around else False
        around.append((addresses, inside))
        if inside is not before:
            for network in range_networks(addresses, family):
                if not inside and network in found:
                    # A half of a /0: it is left out whole.
                    del found[network]
                else:
                    found[network] = not inside
    return found


def _leave(named: tuple[list[int], list[int]], holding: set[int], excepted: dict[int, int]) -> None:
    covering, excluding = named
    for number in excluding:
        excepted[number] -= 1
        if not excepted[number]:
            del excepted[number]
            holding.add(number)
    holding.difference_update(covering)


def members_text(members: Iterable[NetworkMember]) -> str:
    """Return the canonical text of the members of a NETWORKS set: short, and another for other members."""
    # Of one family these sort as the members do, and much quicker.
    ordered = sorted([address + _ENDS[nomatch][prefix] for (address, prefix), nomatch in members])
    text = ",".join(("!" if one[-1] else "") + str(Network(one[:-2], one[-2])) for one in ordered[:_SHOWN])
    if len(ordered) <= _SHOWN:
        return text
    digest = sha256(b"".join(ordered))
    return f"{text},... {len(ordered)} in all, {digest.hexdigest()[:32]}"


def ranges_text(ranges: Ranges, family: Family) -> str:
    """Return the canonical text of ranges: short, and another for other ranges."""
    if len(ranges) <= _SHOWN:
        size = family.bits // 8
        ends = ([address_text(end.to_bytes(size, "big")) for end in one] for one in ranges)
        return ",".join("-".join(pair) for pair in ends)
    digest = sha256(",".join(f"{first:x}-{last:x}" for first, last in ranges).encode())
    return f"{len(ranges)} ranges, {digest.hexdigest()[:32]}"


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
            if current.last > merged[-1].last:
                merged[-1] = Range(merged[-1].first, current.last)
        else:
            merged.append(current)
    return tuple(merged)


def _difference(whole: Range, without: Ranges) -> Ranges:
    left: list[Range] = []
    start, last = whole
    for cut in without:
        if cut.last < start:
            continue
        if cut.first > last:
            break
        if cut.first > start:
            left.append(Range(start, cut.first - 1))
        start = cut.last + 1
    if start <= last:
        left.append(Range(start, last))
    return tuple(left)


def _count(addresses: Range, bits: int) -> int:
    """Return how many networks :func:`range_networks` makes of a range, without making them."""
    first, last = addresses
    size = last - first + 1
    if not size & (size - 1) and not first % size:
        return 2 if size == 1 << bits else 1
    middle = _middle(addresses)
    return (middle - first).bit_count() + (last + 1 - middle).bit_count()


def _middle(addresses: Range) -> int:
    """Return where the highest bit that not all addresses of a range share becomes one."""
    at = (addresses.first ^ addresses.last).bit_length() - 1
    return addresses.last >> at << at


def range_networks(addresses: Range, family: Family) -> Iterator[Network]:
    """Yield the networks of a family that make up a range, in order; none of them is a /0."""
    first, last = addresses
    bits = family.bits
    length = bits // 8
    size = last - first + 1
    if not size & (size - 1) and not first % size and size != 1 << bits:
        yield Network(first.to_bytes(length, "big"), bits - size.bit_length() + 1)
        return
    middle = _middle(addresses)
    # Below the middle each is larger than the one before, above it smaller: one for each bit that is set.
    while first < middle:
        step = (middle - first) & -(middle - first)
        yield Network(first.to_bytes(length, "big"), bits - step.bit_length() + 1)
        first += step
    while first <= last:
        step = 1 << ((last + 1 - first).bit_length() - 1)
        yield Network(first.to_bytes(length, "big"), bits - step.bit_length() + 1)
        first += step
