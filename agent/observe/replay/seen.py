"""Connections that were seen, as values: tracked by a kernel now, or logged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from agent.kernel.headers import ICMP, ICMPV6
from agent.net import Protocol
from agent.observe.flows.flow import Flow

_NUMBERS = {protocol.name: protocol.value for protocol in Protocol} | {"ICMP": ICMP, "ICMPv6": ICMPV6}
_NAMES = {number: name for name, number in _NUMBERS.items()}
_OTHER = "protocol "


class Sort(NamedTuple):
    """What connections have in common: the ends, as Service translation leaves them, and the port.

    Pods are ``namespace/name``, empty where an address was no pod's. ``protocol`` is an IANA number, ``port``
    0 for one that has none.
    """

    source: str
    destination: str
    protocol: int
    port: int
    source_pod: str = ""
    destination_pod: str = ""


class Seen(msgspec.Struct, frozen=True):
    """Connections of one sort: how many are tracked, and how many packets of theirs were logged."""

    sort: Sort
    tracked: int = 0
    logged: int = 0


def gather(parts: Iterable[tuple[Hashable, Seen]]) -> list[Seen]:
    """Return what was seen, each sort once, in order.

    Each is given with where it was seen: a node, or one direction of its log. What two of these tell of the
    same sort are the same connections, so that the larger number counts.
    """
    tracked: Counter[tuple[Sort, Hashable]] = Counter()
    logged: Counter[tuple[Sort, Hashable]] = Counter()
    for part, seen in parts:
        tracked[seen.sort, part] += seen.tracked
        logged[seen.sort, part] += seen.logged
    most: dict[Sort, tuple[int, int]] = {}
    for key, number in tracked.items():
        before = most.get(key[0], (0, 0))
        most[key[0]] = max(before[0], number), max(before[1], logged[key])
    return [Seen(sort, *numbers) for sort, numbers in sorted(most.items())]


def logged(flow: Flow) -> Seen | None:
    """Return what a report of the flow log tells; None where it is no connection's first packet."""
    number = protocol_number(flow.protocol)
    if number is None or flow.notes:
        return None
    source, destination = flow.source, flow.destination
    return Seen(
        Sort(source.address, destination.address, number, destination.port or 0, source.pod, destination.pod),
        logged=flow.count,
    )


def protocol_number(name: str) -> int | None:
    """Return the number of a protocol as reports name it."""
    if name.startswith(_OTHER) and name.removeprefix(_OTHER).isdecimal():
        return int(name.removeprefix(_OTHER))
    return _NUMBERS.get(name)


def service_text(sort: Sort) -> str:
    """Return protocol and port for people: ``tcp/8080``."""
    name = _NAMES.get(sort.protocol, f"{_OTHER}{sort.protocol}")
    return f"{name.lower()}/{sort.port}" if sort.port else name


def ends_of(some: Iterable[Seen]) -> Iterator[str]:
    """Give what the ends are asked about by: the pod's name where it is known, and the address."""
    for seen in some:
        sort = seen.sort
        yield from filter(None, (sort.source_pod, sort.destination_pod, sort.source, sort.destination))
