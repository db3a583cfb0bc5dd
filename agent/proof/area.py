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
    if len(products) == 1 and products[0][1] is ALL:
        return _apart(area, products[0][0])
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


def _apart(area: Area, wanted: int) -> tuple[Area, Area]:
    """Return what of an area is in some atoms, and what is not: most rules ask for no more."""
    inside, outside = {}, {}
    for ports, mask in area.items():
        if both := mask & wanted:
            inside[ports] = both
        if left := mask & ~wanted:
            outside[ports] = left
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
    if one is other or not one or not other:
        return NOTHING if one is other else one
    _, rest = split(one, _products(other), -1)
    return rest


def common(one: Area, other: Area) -> Area:
    """Return what is in both."""
    if one is other or not one or not other:
        return one if one is other else NOTHING
    both, _ = split(one, _products(other), -1)
    return both


def _products(area: Area) -> Products:
    """Return an area as atoms with ports; where these are all, it is the value that is known for it."""
    return tuple((mask, ALL if ports == ALL else ports) for ports, mask in area.items())


def union(areas: Iterable[Area]) -> Area:
    """Return the union of areas."""
    found: Area = NOTHING
    for one in areas:
        found = merged(found, one)
    return found
