"""The addresses of one family cut into atoms, which neither the kernel nor any policy tells apart.

An atom is a set of addresses that are in the same sets and networks of the kernel's rules, and that every
policy takes alike (a part of :mod:`agent.reach.known`). So a set of peers is a whole number with a bit for
each of its atoms, whatever it is made of, and equal sets are equal numbers. A cluster of 10,000 pods has some
thousands.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from agent.kernel.ipset_shapes import SetContent
from agent.net import AddressPort, Family, Network, NetworkMember, Protocol
from agent.reach import intervals, ports
from agent.reach.addresses import EVERY, number_of, of_network
from agent.reach.intervals import Intervals
from agent.reach.known import Known
from agent.reach.ports import Ports

Stretches = Iterable[tuple[int, int]]
_PROTOCOLS = frozenset(map(int, Protocol))


class Atoms:
    """What the kernel's rules of a family, and the policies, tell apart.

    ``sets`` are those that rules name, ``networks`` those that rules and the settings name. All masks have a
    bit for each atom. Places of addresses are those of :mod:`agent.reach.addresses`.
    """

    def __init__(
        self, family: Family, sets: Mapping[str, SetContent], networks: Iterable[Network], known: Known
    ) -> None:
        self.family = family
        self.of_set: dict[str, int] = {}
        """Of a set of addresses or networks, the atoms in it."""
        self.of_ports: dict[str, list[tuple[int, Ports]]] = {}
        """Of a set of addresses with ports: atoms, each with its ports; no atom is there twice."""
        self.of_network: dict[Network, int] = {}
        self._own_ports: dict[str, dict[int, Ports]] = {}
        bounds = EVERY[family]
        single: dict[int, list[int]] = {}
        stretched: list[tuple[int, Stretches]] = []
        meanings: list[tuple[str | Network, Ports | None]] = []
        for name, content in sets.items():
            if content.shape.type == "hash:ip,port":
                self._take_ports(name, content, bounds, single, meanings)
            elif content.shape.type == "hash:net":
                stretched.append((len(meanings), within(covered(content), bounds)))
                meanings.append((name, None))
            else:
                place = len(meanings)
                meanings.append((name, None))
                for member in content.members:
                    if isinstance(member, bytes) and bounds[0] <= (number := number_of(member)) < bounds[1]:
                        single.setdefault(number, []).append(place)
        for network in dict.fromkeys(networks):
            if network.family is family:
                stretched.append((len(meanings), (of_network(network),)))
                meanings.append((network, None))
        self._cut(known, bounds, single, stretched, meanings)

    def _take_ports(
        self,
        name: str,
        content: SetContent,
        bounds: tuple[int, int],
        single: dict[int, list[int]],
        meanings: list[tuple[str | Network, Ports | None]],
    ) -> None:
        found: dict[int, list[tuple[Protocol, int]]] = {}
        for member in content.members:
            if isinstance(member, AddressPort) and member.protocol in _PROTOCOLS:
                number = number_of(member.address)
                if bounds[0] <= number < bounds[1]:
                    found.setdefault(number, []).append((member.protocol, member.port))
        # Most pods have the same ports.
        several: dict[tuple[tuple[Protocol, int], ...], Ports] = {}
        own = self._own_ports[name] = {}
        for number, pairs in found.items():
            key = tuple(sorted(pairs))
            if key not in several:
                several[key] = ports.union(ports.ports(protocol, port, port) for protocol, port in key)
            own[number] = several[key]
        places: dict[Ports, int] = {}
        for number, some in own.items():
            if some not in places:
                places[some] = len(meanings)
                meanings.append((name, some))
            single.setdefault(number, []).append(places[some])
        self.of_ports[name] = []

    def _cut(
        self,
        known: Known,
        bounds: tuple[int, int],
        single: dict[int, list[int]],
        stretched: list[tuple[int, Stretches]],
        meanings: list[tuple[str | Network, Ports | None]],
    ) -> None:
        parts = _parts_of_pods(known, bounds)
        # A part that is no pod's has stretches, in which pods' addresses lie as well.
        strangers = [(len(meanings) + part, whole) for part, whole in known.whole.items()]
        self._edges, inside = _sweep(bounds, [*stretched, *strangers])
        first = len(meanings)
        atoms: dict[object, int] = {}
        self._of_single: dict[int, int] = {}
        self._of_stretch: list[int | None] = []
        self.parts: list[int] = []
        """For each atom the part of policies that it is in, as :class:`Known` numbers them."""
        members: list[tuple[int, ...]] = []
        split = [
            (tuple(p for p in places if p < first), [p - first for p in places if p >= first])
            for places in inside
        ]

        def atom(key: tuple[tuple[int, ...], int, int], places: tuple[int, ...], part: int) -> int:
            number = atoms.setdefault(key, len(atoms))
            if number == len(members):
                members.append(places)
                self.parts.append(part)
            return number

        interned: dict[tuple[int, ...], int] = {}
        kinds = [interned.setdefault(places, len(interned)) for places, _ in split]
        numbers = sorted(single.keys() | parts.keys())
        self._singles = numbers
        for number in numbers:
            at = bisect_right(self._edges, number) - 1
            here = tuple(single.get(number, ()))
            places, whole = split[at]
            part = parts.get(number, whole[0] if whole else -1)
            self._of_single[number] = atom((here, kinds[at], part), here + places, part)
        for at, (begin, end) in enumerate(pairwise(self._edges)):
            lone = bisect_left(numbers, end) - bisect_left(numbers, begin)
            places, whole = split[at]
            part = whole[0] if whole else -1
            self._of_stretch.append(
                None if lone == end - begin else atom(((), kinds[at], part), places, part)
            )
        self.every = (1 << len(atoms)) - 1
        """All atoms."""
        masks = [0] * len(meanings)
        for number, places in enumerate(members):
            bit = 1 << number
            for place in places:
                masks[place] |= bit
        for (what, some), mask in zip(meanings, masks, strict=True):
            if isinstance(what, Network):
                self.of_network[what] = mask
            elif some is None:
                self.of_set[what] = mask
            elif mask:
                self.of_ports[what].append((mask, some))

    def at(self, number: int) -> int:
        """Return the atom that an address is in, as a number from 0."""
        found = self._of_single.get(number)
        if found is None:
            found = self._of_stretch[bisect_right(self._edges, number) - 1]
        assert found is not None, "an address that stands alone is known by itself"  # noqa: S101
        return found

    def ports_at(self, name: str, number: int) -> Ports:
        """Return the ports that a set of addresses with ports has for one address."""
        return self._own_ports[name].get(number, ports.NONE)

    def places(self, mask: int) -> Intervals:
        """Return the addresses of atoms. It takes as long as there are pods: for what is told to people."""
        found = [(n, n + 1) for n, atom in self._of_single.items() if mask >> atom & 1]
        taken = intervals.canonical((n, n + 1) for n in self._of_single)
        stretches = [
            pair
            for pair, atom in zip(pairwise(self._edges), self._of_stretch, strict=True)
            if atom is not None and mask >> atom & 1
        ]
        return intervals.canonical([*found, *intervals.difference(intervals.canonical(stretches), taken)])


def covered(content: SetContent) -> Intervals:
    """Return what a set of networks holds: the longest prefix decides, ``nomatch`` leaves out (ipset(8))."""
    members = (member for member in content.members if isinstance(member, NetworkMember))
    nets = [(*of_network(member.network), member.nomatch) for member in members]
    found: list[tuple[int, int]] = []
    # Networks lie in each other or apart: of those that are open, the last begun is the longest prefix.
    open_: list[tuple[int, bool]] = []
    at = 0

    def until(place: int) -> None:
        nonlocal at
        while open_ and open_[-1][0] <= place:
            end, nomatch = open_.pop()
            if not nomatch and at < end:
                found.append((at, end))
            at = max(at, end)
        if open_ and not open_[-1][1] and at < place:
            found.append((at, place))
        at = max(at, place)

    for first, end, nomatch in sorted(nets, key=lambda net: (net[0], -net[1])):
        until(first)
        open_.append((end, nomatch))
    until(1 << 130)
    return intervals.canonical(found)


def within(given: Intervals, bounds: tuple[int, int]) -> Intervals:
    """Return what of a set lies between two places."""
    return intervals.intersection(given, (bounds,))


def _parts_of_pods(known: Known, bounds: tuple[int, int]) -> dict[int, int]:
    found = {}
    for part, stretches in enumerate(known.addresses):
        if known.parts[part].look is not None:
            for first, end in stretches:
                if bounds[0] <= first < bounds[1]:
                    found.update(dict.fromkeys(range(first, end), part))
    return found


def _sweep(
    bounds: tuple[int, int], stretched: Iterable[tuple[int, Stretches]]
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Return the places where anything begins or ends, and between each two what is there, sorted."""
    turns: dict[int, set[int]] = {bounds[0]: set(), bounds[1]: set()}
    for place, stretches in stretched:
        for first, end in stretches:
            if first >= bounds[1] or end <= bounds[0]:
                continue
            for edge in (max(first, bounds[0]), min(end, bounds[1])):
                turns.setdefault(edge, set()).symmetric_difference_update((place,))
    edges = sorted(turns)
    inside: set[int] = set()
    found = []
    for edge in edges[:-1]:
        inside ^= turns[edge]
        found.append(tuple(sorted(inside)))
    return edges, found


def bits(mask: int) -> Iterator[int]:
    """Give the atoms of a mask."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
