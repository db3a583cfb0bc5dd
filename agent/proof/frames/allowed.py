"""What a pod may send by its link with ``--guard-frames``: one plain function, as docs/frames.md says it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from agent.proof.frames import header
from agent.proof.frames.header import ARP, IPV4, IPV6
from agent.proof.frames.lines import Source


class Asked(NamedTuple):
    """Whether some bits of a part have a value."""

    part: Source
    value: bytes
    mask: bytes


ASKED: list[Asked] = []
"""All that :func:`may_send` asks for."""


def _asked(part: Source, value: int, mask: int = -1) -> Asked:
    whole = (1 << 8 * part.length) - 1
    found = Asked(part, value.to_bytes(part.length, "big"), (mask & whole).to_bytes(part.length, "big"))
    ASKED.append(found)
    return found


def _type(number: int) -> Asked:
    return _asked(header.HEAD, number << 24, 0xFF << 24)


def _from_to(source: int, destination: int) -> Asked:
    return _asked(header.HEAD, int.from_bytes(struct.pack("!HH", source, destination), "big"))


OWN = {
    header.HARDWARE: "hardware",
    header.ARP_HARDWARE: "hardware",
    header.ARP_ADDRESS: "v4",
    header.SOURCE4: "v4",
    header.SOURCE6: "v6",
    header.TARGET: "v6",
}
"""The parts that have to be a pod's own, with the field of :class:`agent.proof.frames.senders.Own`."""

_OF_ARP = _asked(header.ARP_KIND, 0x0001_0800_0604)
_REQUEST, _REPLY = _asked(header.ARP_OPERATION, 1), _asked(header.ARP_OPERATION, 2)
_NO_SENDER = _asked(header.ARP_ADDRESS, 0)
NO_OPTIONS = _asked(header.LENGTH4, 5, 0x0F)
_NO_SOURCE4, _NO_SOURCE6 = _asked(header.SOURCE4, 0), _asked(header.SOURCE6, 0)
_IGMP, _UDP4 = _asked(header.CARRIED4, 2), _asked(header.CARRIED4, 17)
_UDP6, _ICMPV6 = _asked(header.CARRIED, 17), _asked(header.CARRIED, 58)
FIRST_FRAGMENT = _asked(header.FRAGMENT, 0, 0xFFF8)
_DHCP_ASKS, _DHCP_ANSWERS, _DHCPV6_ANSWERS = _from_to(68, 67), _from_to(67, 68), _from_to(547, 546)
_ECHOES = (_type(128), _type(129))
_OF_ROUTERS = (_type(134), _type(137))
_SOLICITATION, _ADVERTISEMENT = _type(135), _type(136)
_BEFORE_AN_ADDRESS = (_type(131), _type(132), _type(133), _type(143))
"""Reports of multicast listeners and the question for a router (RFC 2710, RFC 3810, RFC 4861)."""


class Frame(Protocol):
    """A frame. What is asked of a part that it does not have is answered with no."""

    def has(self, asked: Asked) -> bool:
        """Whether bits of a part have a value."""
        ...

    def own(self, part: Source) -> bool:
        """Whether a part is the pod's own address."""
        ...

    def whole(self) -> bool:
        """Whether the kernel looks behind the IPv4 header."""
        ...


def may_send(context: header.Context, frame: Frame) -> bool:
    """Whether a pod may send a frame."""
    if not frame.own(header.HARDWARE) or context.tag:
        return False
    judge = _JUDGES.get(context.protocol)
    return judge is not None and judge(frame)


def _arp(frame: Frame) -> bool:
    if not frame.has(_OF_ARP) or not frame.own(header.ARP_HARDWARE):
        return False
    if frame.has(_REQUEST):
        # Who asks whether an address is free has none yet (RFC 5227).
        return frame.has(_NO_SENDER) or frame.own(header.ARP_ADDRESS)
    return frame.has(_REPLY) and frame.own(header.ARP_ADDRESS)


def _ipv4(frame: Frame) -> bool:
    if not frame.has(NO_OPTIONS) and not frame.has(_IGMP):
        return False
    over_udp = frame.whole() and frame.has(_UDP4)
    if over_udp and frame.has(_DHCP_ANSWERS):
        return False
    return frame.own(header.SOURCE4) or (frame.has(_NO_SOURCE4) and over_udp and frame.has(_DHCP_ASKS))


def _ipv6(frame: Frame) -> bool:
    if frame.has(_ICMPV6):
        if any(map(frame.has, _OF_ROUTERS)):
            return False
        if not any(map(frame.has, _ECHOES)):
            if frame.has(FIRST_FRAGMENT):
                return False
            if frame.has(_ADVERTISEMENT) and not frame.own(header.TARGET):
                return False
            if frame.has(_NO_SOURCE6):
                # Whether its own address is free (RFC 4862), and what else needs none.
                own = frame.has(_SOLICITATION) and frame.own(header.TARGET)
                return own or any(map(frame.has, _BEFORE_AN_ADDRESS))
    if frame.has(_UDP6) and frame.has(_DHCPV6_ANSWERS):
        return False
    return frame.own(header.SOURCE6)


_JUDGES: Mapping[int, Callable[[Frame], bool]] = {ARP: _arp, IPV4: _ipv4, IPV6: _ipv6}
