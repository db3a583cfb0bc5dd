"""What a frame is made of: the parts of it that a rule or the specification asks for, by what it carries."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from agent.proof.frames.lines import EXTENSION, L4PROTO, LINK, META, NETWORK, PAYLOAD, TRANSPORT, Source

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TAGS = (0x8100, 0x88A8)
"""IEEE 802.1Q and 802.1ad."""

HARDWARE = Source(PAYLOAD, LINK, 6, 6)
"""The source; before it stands the destination, after it what the frame carries."""
ETHERTYPE = Source(PAYLOAD, LINK, 12, 2)
ARP_KIND, ARP_OPERATION = Source(PAYLOAD, NETWORK, 0, 6), Source(PAYLOAD, NETWORK, 6, 2)
ARP_HARDWARE, ARP_ADDRESS = Source(PAYLOAD, NETWORK, 8, 6), Source(PAYLOAD, NETWORK, 14, 4)
"""RFC 826, with addresses of Ethernet and IPv4: those of the sender."""
LENGTH4, CARRIED4 = Source(PAYLOAD, NETWORK, 0, 1), Source(PAYLOAD, NETWORK, 9, 1)
SOURCE4, SOURCE6 = Source(PAYLOAD, NETWORK, 12, 4), Source(PAYLOAD, NETWORK, 8, 16)
HEAD, TARGET = Source(PAYLOAD, TRANSPORT, 0, 4), Source(PAYLOAD, TRANSPORT, 8, 16)
"""Of what IP carries: the ports, or the type of ICMPv6; the target of neighbour discovery (RFC 4861)."""
CARRIED = Source(META, L4PROTO, 0, 1)
"""What IP carries, behind all extension headers, where the kernel takes the header for whole."""
FRAGMENT = Source(EXTENSION, 44, 2, 2)
"""The offset of an IPv6 fragment, in its upper 13 bits."""
WHOLE = Source("whole", 0, 0, 1)
"""Is there where the kernel takes an IPv4 header for whole: of another it does not look behind it."""

_HEADER = {IPV4: 20, IPV6: 40}
"""Bytes of a header without options."""


class Context(NamedTuple):
    """What a frame carries, as the kernel hands it on, and its outermost tag, 0 for none."""

    protocol: int
    tag: int = 0


class Sort(enum.Enum):
    """Where a part's value comes from."""

    KNOWN = enum.auto()
    OF_LINK = enum.auto()
    """It is the same for all frames of a link."""
    ABSENT = enum.auto()
    OF_FRAME = enum.auto()


class Place(NamedTuple):
    """What a part is in a context: a value that is known, or bytes from ``shift`` on of a part of frames."""

    sort: Sort
    value: bytes = b""
    part: Source = HARDWARE
    shift: int = 0


_PARTS = {
    ARP: (HARDWARE, ARP_KIND, ARP_OPERATION, ARP_HARDWARE, ARP_ADDRESS),
    IPV4: (HARDWARE, LENGTH4, CARRIED4, SOURCE4, HEAD),
    IPV6: (HARDWARE, SOURCE6, HEAD, TARGET),
}
"""The parts that the specification asks for, in which those of rules may lie."""


class Layout:
    """The parts of frames of one context. No two overlap, so that each may be anything for itself."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._parts = list(_PARTS.get(context.protocol, (HARDWARE,)))

    def place(self, source: Source) -> Place | None:
        """Say what a rule's part is; None where that cannot be told."""
        protocol, tag = self.context
        if source.kind == META and source != CARRIED:
            return (
                Place(Sort.KNOWN, protocol.to_bytes(2, "big")) if source.length == 2 else Place(Sort.OF_LINK)
            )
        if source == CARRIED:
            part = {IPV4: CARRIED4, IPV6: CARRIED}.get(protocol)
            return Place(Sort.ABSENT) if part is None else Place(Sort.OF_FRAME, part=part)
        if source.kind == EXTENSION:
            if protocol != IPV6:
                return Place(Sort.ABSENT)
            return Place(Sort.OF_FRAME, part=source) if source == FRAGMENT else None
        if source == ETHERTYPE:
            return Place(Sort.KNOWN, (tag or protocol).to_bytes(2, "big"))
        if source.base == LINK and source.offset + source.length > ETHERTYPE.offset:
            return None
        if source.base == TRANSPORT and protocol not in _HEADER:
            return Place(Sort.ABSENT)
        return self._within(source)

    def _within(self, source: Source) -> Place | None:
        end = source.offset + source.length
        for part in self._parts:
            if part.base != source.base or end <= part.offset or part.offset + part.length <= source.offset:
                continue
            if part.offset <= source.offset and end <= part.offset + part.length:
                return Place(Sort.OF_FRAME, part=part, shift=source.offset - part.offset)
            return None
        self._parts.append(source)
        return Place(Sort.OF_FRAME, part=source)

    def may_be(self, part: Source, absent: Iterable[Source], present: Iterable[Source]) -> tuple[bool, bool]:
        """Say whether a part may be there, and whether it may be missing, beside others that were decided.

        What a short frame does not have is missing with all that stands behind it.
        """
        rank = self._rank(part)
        if not rank:
            return True, part.kind == EXTENSION
        there = all(self._rank(other) > rank for other in absent if self._rank(other))
        return there, not there or all(self._rank(other) < rank for other in present)

    def _rank(self, part: Source) -> int:
        """Return where a part ends, by which they go missing; 0 for one that does not go with others."""
        header = 2 * _HEADER.get(self.context.protocol, 0)
        if part in (WHOLE, CARRIED):
            return header + 1
        if part.kind == EXTENSION or part.base == LINK:
            return 0
        end = 2 * (part.offset + part.length)
        return end + header + 1 if part.base == TRANSPORT else end
