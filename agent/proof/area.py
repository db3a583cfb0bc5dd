"""Sets of (atom of addresses, protocol, port): what a chain does with packets, all at once.

An area has for each set of ports the atoms that have exactly these. No atom is in two entries and none has no
ports, so equal sets are equal values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.reach.ports import ALL, Ports

Area = Mapping[Ports, int]
Products = tuple[tuple[int, Ports], ...]
"""A set as atoms with ports each; no atom is in two of them."""

NOTHING: Area = {}


def whole(mask: int) -> Area:
    """Return atoms with all ports of all protocols."""
    return {ALL: mask} if mask else NOTHING


def split(area: Area, products: Products, every: int) -> tuple[Area, Area]:
    """Return what of an area is in the products, and what is not; ``every``: all atoms."""
    if products == ((every, ALL),):
        return area, NOTHING
    if not products:
        return NOTHING, area
    inside: dict[Ports, int] = {}
    outside: dict[Ports, int] = {}
    for ports, mask in area.items():
        left = mask
        for wanted, allowed in products:
            both = mask & wanted
            if not both:
                continue
            left &= ~both
            if allowed is ALL:
                # As most of rules have it: worth not asking.
                inside[ports] = inside.get(ports, 0) | both
                continue
            if shared := ports & allowed:
                inside[shared] = inside.get(shared, 0) | both
            if rest := ports - allowed:
                outside[rest] = outside.get(rest, 0) | both
        if left:
            outside[ports] = outside.get(ports, 0) | left
    return inside, outside


def merged(one: Area, other: Area) -> Area:
    """Return the union of two areas."""
    if not one or not other:
        return one or other
    found: dict[Ports, int] = {}
    rest = list(other.items())
    for ports, mask in one.items():
        left = mask
        for number, (more, atoms) in enumerate(rest):
            both = left & atoms
            if both:
                both_ports = ports | more
                found[both_ports] = found.get(both_ports, 0) | both
                left &= ~both
                rest[number] = (more, atoms & ~both)
        if left:
            found[ports] = found.get(ports, 0) | left
    for ports, mask in rest:
        if mask:
            found[ports] = found.get(ports, 0) | mask
    return found


def without(one: Area, other: Area) -> Area:
    """Return what is in the one and not in the other."""
    _, rest = split(one, tuple((mask, ports) for ports, mask in other.items()), -1)
    return rest


def common(one: Area, other: Area) -> Area:
    """Return what is in both."""
    both, _ = split(one, tuple((mask, ports) for ports, mask in other.items()), -1)
    return both


def union(areas: Iterable[Area]) -> Area:
    """Return the union of areas."""
    found: Area = NOTHING
    for one in areas:
        found = merged(found, one)
    return found
