"""Who has a named port, and which sets ask for it: each found by address, without looking at all others."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator

from agent.net import Family, family_of
from agent.policy.graph import PodRecord
from agent.policy.lower.blocks import Range
from agent.policy.lower.live import LiveSet
from agent.policy.peers.labels import Multimap
from agent.policy.program import PortName

_BUCKET = {4: 3, 16: 8}
"""Leading bytes of an address, by its size, that pods of one node mostly share: a /24, a /64."""


class _Holders:
    """The pods that have one named port, by where their addresses lie."""

    __slots__ = ("buckets",)

    def __init__(self) -> None:
        self.buckets: Multimap[bytes, PodRecord] = Multimap()

    def within(self, ranges: Collection[Range], size: int) -> Iterator[PodRecord]:
        """Yield the pods with an address of a size in ranges, and some others near their ends; some twice."""
        length = _BUCKET[size]
        rest = 8 * (size - length)
        spans = [(first >> rest, last >> rest) for first, last in ranges]
        if sum(last - first + 1 for first, last in spans) <= len(self.buckets):
            wanted: Iterable[bytes] = (
                number.to_bytes(length, "big") for first, last in spans for number in range(first, last + 1)
            )
        else:
            wanted = [b for b in self.buckets if len(b) == length and _lies_in(b, spans)]
        for bucket in wanted:
            yield from self.buckets.get(bucket)

    def of(self, size: int) -> Iterator[PodRecord]:
        """Yield the pods with an address of a size; some twice."""
        for bucket in self.buckets:
            if len(bucket) == _BUCKET[size]:
                yield from self.buckets.get(bucket)


class _Areas:
    """The sets of one family that ask for named ports of pods whose addresses lie in an area.

    A set stands at each of the few networks that cover its area, whatever the number of its names and of what
    its area leaves out.
    """

    __slots__ = ("by_network", "total")

    def __init__(self) -> None:
        self.by_network: dict[int, dict[int, list[LiveSet]]] = {}
        """By how many low bits a network leaves open, and the value of the others."""
        self.total = 0

    def add(self, live: LiveSet) -> None:
        for shift, value in _networks(live):
            self.by_network.setdefault(shift, {}).setdefault(value, []).append(live)
            self.total += 1

    def remove(self, live: LiveSet) -> None:
        for shift, value in _networks(live):
            values = self.by_network[shift]
            values[value].remove(live)
            self.total -= 1
            if not values[value]:
                del values[value]
            if not values:
                del self.by_network[shift]

    def of(self, address: bytes) -> Iterator[LiveSet]:
        number = int.from_bytes(address, "big")
        for shift, values in self.by_network.items():
            yield from values.get(number >> shift, ())


class NamedPorts:
    """Handles: pods with named ports and sets that ask for one coming and going, in any order.

    A pod costs as many look-ups as there are lengths of the networks asked for, a set as much as lies near
    its networks: neither costs the cluster.
    """

    def __init__(self) -> None:
        self._holders: dict[PortName, _Holders] = {}
        self._everywhere: dict[tuple[PortName, Family], list[LiveSet]] = {}
        self._areas = {family: _Areas() for family in Family}

    def add_pod(self, record: PodRecord) -> None:
        for port in _ports(record):
            holders = self._holders.get(port)
            if holders is None:
                holders = self._holders[port] = _Holders()
            for address in record.pod.addresses:
                holders.buckets.add(_bucket(address), record)

    def remove_pod(self, record: PodRecord) -> None:
        for port in _ports(record):
            holders = self._holders[port]
            for address in record.pod.addresses:
                holders.buckets.remove(_bucket(address), record)
            if not holders.buckets.total:
                del self._holders[port]

    def add_set(self, live: LiveSet) -> None:
        family = live.id.family
        if live.area is not None:
            self._areas[family].add(live)
            return
        for port in live.ports or ():
            self._everywhere.setdefault((port, family), []).append(live)

    def remove_set(self, live: LiveSet) -> None:
        family = live.id.family
        if live.area is not None:
            self._areas[family].remove(live)
            return
        for port in live.ports or ():
            sets = self._everywhere[port, family]
            sets.remove(live)
            if not sets:
                del self._everywhere[port, family]

    def holders(self, live: LiveSet) -> Iterator[PodRecord]:
        """Yield every pod that can be in a set, and maybe others; some more than once."""
        size = live.id.family.bits // 8
        for port in live.ports or ():
            holders = self._holders.get(port)
            if holders is None:
                continue
            if live.area is None:
                yield from holders.of(size)
            else:
                yield from holders.within(live.area.ranges, size)

    def number(self, port: PortName) -> int:
        """Return how many pods have a named port at most: one of two families counts twice."""
        holders = self._holders.get(port)
        return holders.buckets.total if holders is not None else 0

    def askers(self, record: PodRecord, address: bytes) -> Iterator[LiveSet]:
        """Yield the sets that ask for a named port of a pod at one of its addresses; some more than once."""
        family = family_of(address)
        areas = self._areas[family]
        if not self._everywhere and not areas.total:
            return
        ports = _ports(record)
        if not ports:
            return
        for port in ports:
            yield from self._everywhere.get((port, family), ())
        if areas.total:
            for live in areas.of(address):
                if live.ports is not None and not live.ports.isdisjoint(ports):
                    yield live

    def sizes(self) -> dict[str, int]:
        return {
            "sets by port": sum(map(len, self._everywhere.values())) + len(self._everywhere),
            "sets by area": sum(areas.total for areas in self._areas.values()),
            "pods by port": sum(h.buckets.total for h in self._holders.values()) + len(self._holders),
        }


def _ports(record: PodRecord) -> Collection[PortName]:
    """Return a pod's named ports, each name and protocol once."""
    ports = record.pod.ports
    if len(ports) == 1:
        return (PortName(ports[0].name, ports[0].protocol),)
    return dict.fromkeys(PortName(name, protocol) for name, protocol, _ in ports)


def _bucket(address: bytes) -> bytes:
    return address[: _BUCKET[len(address)]]


def _networks(live: LiveSet) -> Iterator[tuple[int, int]]:
    """Yield the networks that cover a set's area, as (open low bits, value of the others)."""
    family = live.id.family
    for network in live.area.covers if live.area is not None else ():
        shift = family.bits - network.prefix
        yield shift, int.from_bytes(network.address, "big") >> shift


def _lies_in(bucket: bytes, spans: list[tuple[int, int]]) -> bool:
    """Whether a bucket is in one of some spans, which are sorted and at most touch."""
    number = int.from_bytes(bucket, "big")
    at = bisect_right(spans, number, key=lambda span: span[0]) - 1
    return at >= 0 and number <= spans[at][1]
