"""Exact algebra on the ipBlocks of a rule: which addresses they hold, and as which kernel networks.

Addresses are worked on as ranges of integers, where union and difference are exact; networks are made of the
result only when it is known how many there will be. Everything here takes O(n log n) of the networks that
the blocks name, and gives no more members than these: an except of a large block, told by the networks
around it, would be as many as an address has bits.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Collection, Generator, Iterable
from hashlib import sha256
from itertools import groupby, repeat
from typing import NamedTuple, TypeVar

from agent.kube.model import IPBlock
from agent.net import Family, Network, NetworkMember, address_text

_SHOWN = 8
"""As many networks are named in a text; more are counted, and told apart by their hash."""

_AT_ONCE = 4_000
"""So many networks of blocks that are nested are told in one part: some 10 ms."""

_ENDS = tuple([bytes((prefix, nomatch)) for prefix in range(129)] for nomatch in (False, True))
"""What follows an address where members are sorted, by whether a member excludes, and by its prefix."""


class Range(NamedTuple):
    """Addresses of one family from ``first`` to ``last``, both included, as integers."""

    first: int
    last: int


Ranges = tuple[Range, ...]
"""Sorted ranges of one family that neither touch nor overlap."""

T = TypeVar("T")

Parts = Generator[None, None, T]
"""What takes long, a part at a time; it returns a T in the end."""

_Ends = tuple[int, int]
"""A range while it is worked on: of thousands, to make each a :class:`Range` takes as long as the work."""


def whole(parts: Parts[T]) -> T:
    """Do all parts at once."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            found: T = end.value
            return found


def block_ranges(blocks: Iterable[IPBlock], family: Family) -> Ranges:
    """Return the addresses of a family that the blocks hold: the union of each cidr minus its own excepts."""
    found: list[_Ends] = []
    size = family.bits // 8
    for cidr, excepts in blocks:
        if len(cidr[0]) != size:
            continue
        if excepts:
            found += _difference(_ends(cidr), sorted([_ends(e) for e in excepts if len(e[0]) == size]))
        else:
            found.append(_ends(cidr))
    return _union(found)


def block_covers(blocks: Iterable[IPBlock], family: Family) -> tuple[Network, ...]:
    """Return networks of a family in which all addresses of the blocks lie: about as many as blocks."""
    size = family.bits // 8
    ranges = _union([_ends(cidr) for cidr, _ in blocks if len(cidr[0]) == size])
    return tuple(network for addresses in ranges for network in range_networks(addresses, family))


def block_members(blocks: Collection[IPBlock], family: Family) -> frozenset[NetworkMember]:
    """Return the members of a NETWORKS set that holds exactly what the blocks hold in a family.

    Empty when nothing is left. A /0, which the kernel's set type cannot hold, is told as its two halves.
    Members exclude (``nomatch``) when that takes fewer: the longest prefix decides, so that each member says
    of an address what all blocks together say of it, and one block's except never shadows another block.
    """
    return whole(members_in_parts(blocks, family))


def members_in_parts(blocks: Collection[IPBlock], family: Family) -> Parts[frozenset[NetworkMember]]:
    """Return what :func:`block_members` does: of 12,000 networks each part takes some 10 ms, and none 25."""
    size = family.bits // 8
    own = [block for block in blocks if len(block.cidr[0]) == size]
    plain = not any(excepts for _, excepts in own)
    if plain:
        cidrs = {cidr for cidr, _ in own}
        if _are_apart(cidrs, family.bits):
            # Each is a range of its own: of thousands the most common case, and made without a call for each.
            return _members(zip(cidrs, repeat(False)))
        yield
    ranges = block_ranges(own, family)
    if not ranges:
        return frozenset()
    yield
    if not plain:
        excluding = _single(own[0], ranges, family) if len(own) == 1 else (yield from _nested(own, family))
        if _are_more(ranges, len(excluding), family.bits):
            return _members(excluding.items())
    networks = [n for addresses in ranges for n in range_networks(addresses, family)]
    return _members(zip(networks, repeat(False)))


def _members(told: Iterable[tuple[Network, bool]]) -> frozenset[NetworkMember]:
    # Of thousands made without a call for each.
    return frozenset(map(tuple.__new__, repeat(NetworkMember), told))


def _are_more(ranges: Ranges, number: int, bits: int) -> bool:
    """Whether ranges are more networks than a number, counting no further than that."""
    if len(ranges) > number:
        return True
    for addresses in ranges:
        number -= _count(addresses, bits)
        if number < 0:
            return True
    return False


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
    whole = Range(*_ends(block.cidr))
    left_out = {n for r in _difference(whole, ranges) for n in range_networks(r, family)}
    covered = {n for n in range_networks(whole, family) if n not in left_out}
    found = dict.fromkeys(covered, False)
    # A half of a /0 that is left out whole is not covered, nor can anything of it be.
    halves = {n for n in left_out if n.prefix == 1 and block.cidr.prefix == 0}
    found |= dict.fromkeys(left_out - halves, True)
    return found


def _nested(blocks: Collection[IPBlock], family: Family) -> Parts[dict[Network, bool]]:
    """Return networks, and whether each excludes, that tell several blocks.

    Each network that the blocks name says whether the addresses that are in it, and in no smaller one that
    they name, are in any of the blocks; those that would say what the next larger one says are left out.
    """
    bits = family.bits
    shift = len(blocks).bit_length() + 1
    told = _told(blocks, bits, shift)
    yield
    excepted = [0] * len(blocks)
    """In how many excepts of each block the sweep is."""
    holding = 0
    """How many blocks the sweep is in, and in no except of theirs."""
    found: dict[Network, bool] = {}
    # Of networks that begin alike the larger comes first, so that those on the way are those around.
    around: list[tuple[int, bool, list[int]]] = []
    for done, (place, named) in enumerate(groupby(told, lambda one: one >> shift), 1):
        if not done % _AT_ONCE:
            yield
        first, prefix = place >> 8, place & 0xFF
        while around and around[-1][0] < first:
            for one in around.pop()[2]:
                if one & 1:
                    excepted[one >> 1] -= 1
                    holding += not excepted[one >> 1]
                else:
                    holding -= 1
        here = [one & (1 << shift) - 1 for one in named]
        for one in here:
            if one & 1:
                holding -= not excepted[one >> 1]
                excepted[one >> 1] += 1
            else:
                holding += 1
        inside, before = holding > 0, around[-1][1] if around else False
        around.append((first + (1 << bits - prefix) - 1, inside, here))
        if inside is not before:
            for network in range_networks((first, around[-1][0]), family):
                if not inside and network in found:
                    # A half of a /0: it is left out whole.
                    del found[network]
                else:
                    found[network] = not inside
    return found


def _told(blocks: Iterable[IPBlock], bits: int, shift: int) -> list[int]:
    """Return each network that blocks of a family name, in order, as a number: of thousands that is quick.

    It is made of the first address, the prefix (8 bits), the number of the block and whether it is an except
    (``shift`` bits).
    """
    size = bits // 8
    found: list[int] = []
    for number, ((address, prefix), excepts) in enumerate(blocks):
        free = bits - prefix
        first = int.from_bytes(address) >> free
        found.append((first << free << 8 | prefix) << shift | number << 1)
        for address, prefix in excepts:
            begin = int.from_bytes(address)
            if len(address) == size and bits - prefix <= free and begin >> free == first:
                begin = begin >> bits - prefix << bits - prefix
                found.append((begin << 8 | prefix) << shift | number << 1 | 1)
    found.sort()
    return found


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


def _ends(network: Network) -> _Ends:
    address, prefix = network
    free = 8 * len(address) - prefix
    first = int.from_bytes(address) >> free << free
    return first, first + (1 << free) - 1


def _union(ranges: Iterable[_Ends]) -> Ranges:
    merged: list[_Ends] = []
    first = last = -2
    for begin, end in sorted(ranges):
        if begin > last + 1:
            merged.append((first, last))
            first, last = begin, end
        elif end > last:
            last = end
    merged.append((first, last))
    return tuple(map(tuple.__new__, repeat(Range), merged[1:]))


def _difference(whole: _Ends, without: Iterable[_Ends]) -> list[_Ends]:
    """Return a range without others, which are sorted."""
    left: list[_Ends] = []
    start, last = whole
    for begin, end in without:
        if end < start:
            continue
        if begin > last:
            break
        if begin > start:
            left.append((start, begin - 1))
        start = end + 1
    if start <= last:
        left.append((start, last))
    return left


def _count(addresses: _Ends, bits: int) -> int:
    """Return how many networks :func:`range_networks` makes of a range, without making them."""
    first, last = addresses
    size = last - first + 1
    if not size & (size - 1) and not first % size:
        return 2 if size == 1 << bits else 1
    middle = _middle(first, last)
    return (middle - first).bit_count() + (last + 1 - middle).bit_count()


def _middle(first: int, last: int) -> int:
    """Return where the highest bit that not all addresses of a range share becomes one."""
    at = (first ^ last).bit_length() - 1
    return last >> at << at


def range_networks(addresses: _Ends, family: Family) -> list[Network]:
    """Return the networks of a family that make up a range, in order; none of them is a /0."""
    first, last = addresses
    bits = family.bits
    length = bits // 8
    size = last - first + 1
    if not size & (size - 1) and not first % size and size != 1 << bits:
        return [Network(first.to_bytes(length), bits - size.bit_length() + 1)]
    found: list[Network] = []
    middle = _middle(first, last)
    # Below the middle each is larger than the one before, above it smaller: one for each bit that is set.
    while first < middle:
        step = (middle - first) & -(middle - first)
        found.append(Network(first.to_bytes(length), bits - step.bit_length() + 1))
        first += step
    while first <= last:
        step = 1 << ((last + 1 - first).bit_length() - 1)
        found.append(Network(first.to_bytes(length), bits - step.bit_length() + 1))
        first += step
    return found
