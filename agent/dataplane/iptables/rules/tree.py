"""The tree from an isolated address to its pod's chain, so that no packet walks a list of all pods.

The tree's shape depends on the addresses alone, never on the order in which they came: a node of up to
:data:`LEAF` addresses lists them; a larger one splits by the next :data:`FANOUT_BITS` bits that
follow the prefix common to all of them. With 240 addresses a packet meets about a dozen rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

LEAF = 8
FANOUT_BITS = 3


class Prefix(NamedTuple):
    """The leading bits of an address: its value with the other bits zero, and how many count."""

    value: int
    length: int


ROOT = Prefix(0, 0)


def build(addresses: Iterable[int], bits: int, leaf: int = LEAF) -> dict[Prefix, tuple[Prefix, ...]]:
    """Return the nodes of the tree over addresses of a width in bits; the root is always there.

    Each has its entries in order: whole addresses, and the prefixes of child nodes.

    ``leaf``: how many addresses a node lists at most.
    """
    nodes: dict[Prefix, tuple[Prefix, ...]] = {}
    pending = [(ROOT, sorted(addresses))]
    while pending:
        node, members = pending.pop()
        if len(members) <= leaf:
            nodes[node] = tuple(Prefix(a, bits) for a in members)
            continue
        common = bits - (members[0] ^ members[-1]).bit_length()
        length = min(common + FANOUT_BITS, bits)
        groups: dict[int, list[int]] = {}
        for address in members:
            groups.setdefault(address >> (bits - length), []).append(address)
        entries = []
        for value, group in groups.items():
            if len(group) == 1:
                entries.append(Prefix(group[0], bits))
            else:
                child = Prefix(value << (bits - length), length)
                entries.append(child)
                pending.append((child, group))
        nodes[node] = tuple(entries)
    return nodes
