"""Addresses of both families on one line of numbers, and sets of them as intervals of it.

After IPv4 comes IPv6, and after that a place for each pod that has no address yet, as those of a Deployment
in a file: it is a pod to every selector, and in no block.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from agent.kube.model import IPBlock
from agent.net import Family, Network
from agent.reach import intervals
from agent.reach.intervals import Intervals

_V6 = 1 << 32
_UNKNOWN = _V6 + (1 << 128)

EVERY = {Family.V4: (0, _V6), Family.V6: (_V6, _UNKNOWN)}
"""All addresses of a family."""


def number_of(address: bytes) -> int:
    """Return where a packed address stands on the line."""
    return int.from_bytes(address, "big") + (0 if len(address) == 4 else _V6)


def unknown(index: int) -> int:
    """Return the place of a pod that has no address."""
    return _UNKNOWN + index


def family_at(number: int) -> Family | None:
    """Return the family of a place on the line; None: that of a pod without an address."""
    if number >= _UNKNOWN:
        return None
    return Family.V4 if number < _V6 else Family.V6


def of_network(network: Network) -> tuple[int, int]:
    """Return the interval of a CIDR."""
    first = number_of(network.address)
    return first, first + (1 << (network.family.bits - network.prefix))


def of_block(block: IPBlock) -> Intervals:
    """Return what an ipBlock holds: exactly its cidr without its own excepts."""
    excepts = intervals.canonical(map(of_network, block.excepts))
    return intervals.difference((of_network(block.cidr),), excepts)


def size(given: Iterable[tuple[int, int]]) -> int:
    """Return how many addresses there are in intervals."""
    return sum(end - first for first, end in given)


def networks(given: Intervals) -> Iterator[str]:
    """Give the CIDRs that hold exactly these addresses, as text."""
    for first, end in given:
        family = family_at(first)
        if family is None:
            continue
        base, kind = (0, ipaddress.IPv4Address) if family is Family.V4 else (_V6, ipaddress.IPv6Address)
        for network in ipaddress.summarize_address_range(kind(first - base), kind(end - 1 - base)):
            yield str(network)
