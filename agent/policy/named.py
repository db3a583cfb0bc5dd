"""Who has a named port, and which sets ask for it: each found by address, without looking at all others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.kube.model import Family, family_of
from agent.policy.blocks import Range, range_networks
from agent.policy.graph import LiveSet, PodRecord
from agent.policy.labels import Multimap
from agent.policy.ports import PortName

_BUCKET = {4: 3, 16: 8}
"""Leading bytes of an address, by its size, that pods of one node mostly share: a /24, a /64."""


class _Holders:
    """The pods that have one named port, by where their addresses lie."""

    __slots__ = ("buckets",)

    def __init__(self) -> None:
        self.buckets: Multimap[bytes, PodRecord] = Multimap()

    def within(self, ranges: Iterable[Range], size: int) -> Iterator[PodRecord]:
        """Yield the pods with an address of a size in ranges, and some others near their ends; some twice."""
        length = _BUCKET[size]
        rest = 8 * (size - length)
        spans = [(first >> rest, last >> rest) for first, last in ranges]
        if sum(last - first + 1 for first, last in spans) <= len(self.buckets):
            wanted: Iterable[bytes] = (
                number.to_bytes(length, "big") for first, last in spans for number in range(first, last + 1)
            )
        else:
            wanted = [
                bucket
                for bucket in self.buckets
                if len(bucket) == length
                and any(first <= int.from_bytes(bucket, "big") <= last for first, last in spans)
            ]
        for bucket in wanted:
            yield from self.buckets.get(bucket)

    def of(self, size: int) -> Iterator[PodRecord]:
        """Yield the pods with an address of a size; some twice."""
        for bucket in self.buckets:
            if len(bucket) == _BUCKET[size]:
                yield from self.buckets.get(bucket)


class _Askers:
    """The sets of one family that ask for one named port, whatever a pod's labels."""

    __slots__ = ("by_network", "everywhere")

    def __init__(self) -> None:
        self.everywhere: list[LiveSet] = []
        self.by_network: dict[int, dict[int, list[LiveSet]]] = {}
        """Those that ask for networks: by how many low bits these leave open, and the value of the others."""

    def add(self, live: LiveSet) -> None:
        if live.ranges is None:
            self.everywhere.append(live)
            return
        for shift, value in _networks(live):
            self.by_network.setdefault(shift, {}).setdefault(value, []).append(live)

    def remove(self, live: LiveSet) -> None:
        if live.ranges is None:
            self.everywhere.remove(live)
            return
        for shift, value in _networks(live):
            values = self.by_network[shift]
            values[value].remove(live)
            if not values[value]:
                del values[value]
            if not values:
                del self.by_network[shift]

    def of(self, address: bytes) -> Iterator[LiveSet]:
        yield from self.everywhere
        number = int.from_bytes(address, "big")
        for shift, values in self.by_network.items():
            yield from values.get(number >> shift, ())

    def __bool__(self) -> bool:
        return bool(self.everywhere or self.by_network)

    def __len__(self) -> int:
        return len(self.everywhere) + sum(
            len(sets) for values in self.by_network.values() for sets in values.values()
        )


class NamedPorts:
    """Handles: pods with named ports and sets that ask for one coming and going, in any order.

    A pod costs as many look-ups as there are lengths of the networks asked for, a set as much as lies near
    its networks: neither costs the cluster.
    """

    def __init__(self) -> None:
        self._holders: dict[PortName, _Holders] = {}
        self._askers: dict[tuple[PortName, Family], _Askers] = {}

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

    def add_set(self, live: LiveSet, port: PortName) -> None:
        self._askers.setdefault((port, live.id.family), _Askers()).add(live)

    def remove_set(self, live: LiveSet, port: PortName) -> None:
        askers = self._askers[port, live.id.family]
        askers.remove(live)
        if not askers:
            del self._askers[port, live.id.family]

    def holders(self, live: LiveSet, port: PortName) -> Iterator[PodRecord]:
        """Yield every pod that can be in a set, and maybe others; some more than once."""
        holders = self._holders.get(port)
        if holders is None:
            return iter(())
        size = live.id.family.bits // 8
        return holders.of(size) if live.ranges is None else holders.within(live.ranges, size)

    def askers(self, record: PodRecord, address: bytes) -> Iterator[LiveSet]:
        """Yield the sets that ask for a named port of a pod, at an address of its own."""
        if not self._askers:
            return
        family = family_of(address)
        for port in _ports(record):
            askers = self._askers.get((port, family))
            if askers is not None:
                yield from askers.of(address)

    def sizes(self) -> dict[str, int]:
        return {
            "sets by port": sum(map(len, self._askers.values())) + len(self._askers),
            "pods by port": sum(h.buckets.total for h in self._holders.values()) + len(self._holders),
        }


def _ports(record: PodRecord) -> Iterable[PortName]:
    """Return a pod's named ports, each name and protocol once."""
    ports = record.pod.ports
    if len(ports) == 1:
        return (PortName(ports[0].name, ports[0].protocol),)
    return dict.fromkeys(PortName(name, protocol) for name, protocol, _ in ports)


def _bucket(address: bytes) -> bytes:
    return address[: _BUCKET[len(address)]]


def _networks(live: LiveSet) -> Iterator[tuple[int, int]]:
    """Yield the networks that a set's ranges are made of, as (open low bits, value of the others)."""
    family = live.id.family
    for addresses in live.ranges or ():
        for network in range_networks(addresses, family):
            shift = family.bits - network.prefix
            yield shift, int.from_bytes(network.address, "big") >> shift
