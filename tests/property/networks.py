"""Addresses and networks as bits: what the kernel compares, and where verdicts may change."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from agent.net import Network, NetworkMember


@lru_cache(maxsize=1 << 16)
def network_of(address: bytes, prefix: int) -> Network:
    """Return the network of a prefix length that an address lies in."""
    size = 8 * len(address) - prefix
    first = int.from_bytes(address, "big") >> size << size
    return Network(first.to_bytes(len(address), "big"), prefix)


# The same few addresses are compared with the same few networks again and again.
@lru_cache(maxsize=1 << 16)
def lies_in(address: bytes, network: Network) -> bool:
    return len(address) == len(network.address) and network_of(address, network.prefix) == network_of(
        *network
    )


def in_networks(members: Iterable[NetworkMember], address: bytes) -> bool:
    """Whether a set of networks has an address: the longest network that it lies in says so."""
    found = [member for member in members if lies_in(address, member.network)]
    return bool(found) and not max(found, key=lambda member: member.network.prefix).nomatch


def edges(network: Network) -> set[bytes]:
    """Return the addresses on both sides of both ends of a network."""
    size = len(network.address)
    first = int.from_bytes(network.address)
    last = first + (1 << 8 * size - network.prefix) - 1
    return {edge.to_bytes(size) for edge in (first - 1, first, last, last + 1) if 0 <= edge < 1 << 8 * size}
