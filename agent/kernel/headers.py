"""What the first bytes of an IP packet say: addresses, protocol and ports.

Written from RFC 791 (IPv4), RFC 8200 (IPv6 and its extension headers), RFC 4302 (AH), RFC 9293 (TCP), RFC 768
(UDP), RFC 9260 (SCTP), RFC 792 and RFC 4443 (ICMP). The bytes come from whoever may send a packet, and are
cut where the kernel was told to cut them: whatever they are, decoding never raises.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
"""IANA numbers of protocols."""

_WITH_PORTS = frozenset({TCP, UDP, SCTP, 33, 136})
"""Those whose header begins with source and destination port; 33 is DCCP, 136 UDP-Lite."""

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION = 0, 43, 44, 51, 60
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AH, _DESTINATION, 135, 139, 140})
"""Headers between that of IPv6 and the transport's: also of mobility, HIP and Shim6."""

_V4 = struct.Struct("!BxHxxHxBxx4s4s")
_V6 = struct.Struct("!IHBx16s16s")
_PORTS = struct.Struct("!HH")
_FRAGMENT_OFFSET = 0x1FFF


class Headers(NamedTuple):
    """What is known of a packet: packed addresses of one family, and an IANA protocol number.

    ``source_port`` and ``port`` (the destination's) are None where the protocol has none, in a later
    fragment, and where the bytes end before. ``icmp`` is type and code of ICMP and ICMPv6. ``flags`` are
    those of TCP. ``fragment``: it is a fragment that is not the first, which has no transport header.
    ``length`` is that of the whole packet in bytes, as it says itself.
    """

    source: bytes
    destination: bytes
    protocol: int
    source_port: int | None = None
    port: int | None = None
    icmp: tuple[int, int] | None = None
    flags: int | None = None
    fragment: bool = False
    length: int = 0

    @property
    def opens(self) -> bool:
        """Whether it can be the first packet of a connection: any, but for a TCP segment that is no SYN."""
        return self.protocol != TCP or self.flags is None or self.flags & 0x17 == 0x02


def decode(data: bytes | memoryview) -> Headers | None:
    """Return what an IP packet says, as far as it is there; None where it is no IP packet, or ends too soon.

    Never raises.
    """
    view = memoryview(data)
    version = view[0] >> 4 if view else 0
    if version == 4 and len(view) >= _V4.size:
        return _v4(view)
    if version == 6 and len(view) >= _V6.size:
        return _v6(view)
    return None


def _v4(view: memoryview) -> Headers | None:
    first, length, fragment, protocol, source, destination = _V4.unpack_from(view)
    header = (first & 0xF) * 4
    if header < _V4.size:
        return None
    later = bool(fragment & _FRAGMENT_OFFSET)
    found = Headers(source, destination, protocol, fragment=later, length=length)
    return found if later else _transport(found, view[header:])


def _v6(view: memoryview) -> Headers:
    _, length, protocol, source, destination = _V6.unpack_from(view)
    found = Headers(source, destination, protocol, length=_V6.size + length)
    at = _V6.size
    while protocol in _EXTENSIONS:
        if at + 8 > len(view):
            # It goes on behind where the kernel has cut it.
            return found._replace(protocol=protocol)
        following, size = view[at], view[at + 1]
        if protocol == _FRAGMENT:
            if _PORTS.unpack_from(view, at)[1] & 0xFFF8:
                return found._replace(protocol=following, fragment=True)
            at += 8
        elif protocol == _AH:
            at += (size + 2) * 4
        else:
            at += (size + 1) * 8
        protocol = following
    return _transport(found._replace(protocol=protocol), view[at:])


def _transport(found: Headers, view: memoryview) -> Headers:
    if found.protocol in (ICMP, ICMPV6):
        return found._replace(icmp=(view[0], view[1])) if len(view) >= 2 else found
    if found.protocol not in _WITH_PORTS or len(view) < _PORTS.size:
        return found
    source_port, port = _PORTS.unpack_from(view)
    flags = view[13] if found.protocol == TCP and len(view) > 13 else None
    return found._replace(source_port=source_port, port=port, flags=flags)
