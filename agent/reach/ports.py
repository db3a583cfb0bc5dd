"""Sets of protocols and ports, exact: every port of TCP, UDP and SCTP, and all other protocols as one.

No policy can tell the other protocols (ICMP among them) from each other: a rule that has ports never matches
them, a rule that has none matches them all (``NetworkPolicyPort``, networking.k8s.io/v1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from agent.net import Protocol
from agent.reach import intervals
from agent.reach.intervals import Intervals

_SPAN = 65536
_ORDER = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
_OTHER = _SPAN * len(_ORDER)
"""On one line of numbers stand the ports of TCP, of UDP, of SCTP, and one number for all other protocols."""


@dataclass(frozen=True, slots=True)
class Ports:
    """A set of (protocol, port). Equal sets are equal values; it is false where it is empty."""

    intervals: Intervals = ()

    def __bool__(self) -> bool:
        return bool(self.intervals)

    def __or__(self, other: Ports) -> Ports:
        return _union(self, other)

    def __and__(self, other: Ports) -> Ports:
        return _intersection(self, other)

    def __sub__(self, other: Ports) -> Ports:
        return _difference(self, other)

    def has(self, protocol: int, port: int) -> bool:
        """Whether a packet's protocol (an IANA number) and destination port are in the set.

        ``port`` means nothing where the protocol is none of the three that have ports.
        """
        return intervals.holds(self.intervals, _number(protocol, port))

    def ranges(self) -> Iterable[tuple[Protocol | None, int, int]]:
        """Give each protocol's ranges of ports, both ends in it; (None, 0, 0) is all other protocols."""
        for index, protocol in enumerate(_ORDER):
            base = index * _SPAN
            for first, end in intervals.intersection(self.intervals, ((base, base + _SPAN),)):
                yield protocol, first - base, end - 1 - base
        if intervals.holds(self.intervals, _OTHER):
            yield None, 0, 0

    def __str__(self) -> str:
        return text(self)


NONE = Ports()
ALL = Ports(((0, _OTHER + 1),))
OTHER = Ports(((_OTHER, _OTHER + 1),))
"""All protocols but TCP, UDP and SCTP."""


def ports(protocol: Protocol, first: int = 0, last: int = _SPAN - 1) -> Ports:
    """Return a range of a protocol's ports, both ends in it; all of them without ends."""
    base = _ORDER.index(protocol) * _SPAN
    return Ports(((base + first, base + last + 1),)) if first <= last else NONE


def union(sets: Iterable[Ports]) -> Ports:
    return Ports(intervals.canonical(pair for one in sets for pair in one.intervals))


def _number(protocol: int, port: int) -> int:
    if protocol not in _ORDER:
        return _OTHER
    return _ORDER.index(Protocol(protocol)) * _SPAN + port


# Few sets meet each other again and again: a cluster of a thousand pods has some dozens.
@lru_cache(1 << 16)
def _union(one: Ports, other: Ports) -> Ports:
    return Ports(intervals.union(one.intervals, other.intervals))


@lru_cache(1 << 16)
def _intersection(one: Ports, other: Ports) -> Ports:
    return Ports(intervals.intersection(one.intervals, other.intervals))


@lru_cache(1 << 16)
def _difference(one: Ports, other: Ports) -> Ports:
    return Ports(intervals.difference(one.intervals, other.intervals))


# --- Words ------------------------------------------------------------------------------------------------


_WRITTEN = re.compile(
    r"(?:(?P<before>[a-z]+)(?:/(?=[0-9])|$))?(?P<first>[0-9]+)?(?:-(?P<last>[0-9]+))?(?:/(?P<after>[a-z]+))?"
)


@lru_cache(1 << 12)
def text(given: Ports) -> str:
    """Return a set for people: ``all``, ``none``, or ``tcp 80,443; udp all; other protocols``."""
    if not given:
        return "none"
    if given == ALL:
        return "all"
    by_protocol: dict[Protocol | None, list[str]] = {}
    for protocol, first, last in given.ranges():
        whole = (first, last) in ((0, _SPAN - 1), (1, _SPAN - 1))
        said = "all" if whole else str(first) if first == last else f"{first}-{last}"
        by_protocol.setdefault(protocol, []).append(said)
    return "; ".join(
        "other protocols" if protocol is None else f"{protocol.name.lower()} {','.join(ranges)}"
        for protocol, ranges in by_protocol.items()
    )


def words(given: Ports) -> list[str]:
    """Return a set as words that :func:`read` reads: ``["tcp/80", "udp/8000-8100", "sctp", "other"]``."""
    found = []
    for protocol, first, last in given.ranges():
        if protocol is None:
            found.append("other")
            continue
        name = protocol.name.lower()
        whole = (first, last) in ((0, _SPAN - 1), (1, _SPAN - 1))
        found.append(name if whole else f"{name}/{first}" + (f"-{last}" if last > first else ""))
    return found


def read(written: str) -> Ports:
    """Read ``tcp/80``, ``80/tcp``, ``80``, ``udp/8000-8100``, ``sctp`` or ``other``.

    Raises ValueError that says how to write it.
    """
    said = written.strip().lower()
    if said in ("other", "icmp"):
        return OTHER
    found = _WRITTEN.fullmatch(said)
    protocols = {protocol.name.lower(): protocol for protocol in _ORDER}
    name = (found["before"] or found["after"] or "tcp") if found else ""
    is_double = found is not None and found["before"] and found["after"]
    if found is None or is_double or name not in protocols or (found["last"] and not found["first"]):
        raise ValueError(f"{written!r} is no port; write tcp/80, udp/8000-8100, sctp or other")
    if found["first"] is None:
        if not found["before"]:
            raise ValueError(f"{written!r} is no port; write tcp/80, udp/8000-8100, sctp or other")
        return ports(protocols[name])
    first, last = int(found["first"][:9]), int((found["last"] or found["first"])[:9])
    if not 1 <= first <= last < _SPAN:
        raise ValueError(f"{written!r} is no port; ports are numbers from 1 to 65535, the smaller first")
    return ports(protocols[name], first, last)
