"""The table of nftables by which frames of pods are guarded: its rules never change, its sets do.

::

    veth1 ──ingress──► link-veth1 ──► pod ─┬─► arp ──────┐
    veth2 ──ingress──► link-veth2 ──►      ├─► ip4 ──────┼─► accept, or wrong-…: count and drop
                                           └─► ip6 ─► icmp6 ┘

A frame meets it before the bridge learns from it, before iptables, and before the node's own stack. What is
not guarded by it passes: a link that has no chain, and an interface that took the name of one that is gone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.dataplane.frames import TABLE
from agent.dataplane.frames.bindings import Binding
from agent.kernel import nf_write as nf
from agent.kernel.netlink import Message
from agent.net import Family

PRIORITY = -500
HARDWARE, V4, V6 = "senders", "addresses4", "addresses6"
SETS = (HARDWARE, V4, V6)

POD, ARP, IP4, IP6, ICMP6 = "pod", "arp", "ip4", "ip6", "icmp6"
KIND, WRONG_HARDWARE, WRONG_ARP, WRONG_ADDRESS, WRONG_DISCOVERY, OFFER, OPTIONS = DENIALS = (
    "wrong-kind",
    "wrong-hardware",
    "wrong-arp",
    "wrong-address",
    "wrong-discovery",
    "wrong-offer",
    "wrong-options",
)
"""The chains that drop, each for a reason of its own: an ethertype, a hardware address, ARP for another, the
source, discovery for another, an address offered as a DHCP server does, an IPv4 option."""

_ETHERNET_SOURCE, _ETHERTYPE = (nf.LINK, 6, 6), (nf.LINK, 12, 2)
_ARP_KIND, _ARP_OPERATION, _ARP_HARDWARE, _ARP_ADDRESS = (
    (nf.NETWORK, 0, 6),
    (nf.NETWORK, 6, 2),
    (nf.NETWORK, 8, 6),
    (nf.NETWORK, 14, 4),
)
_SOURCE4, _PROTOCOL4, _LENGTH4 = (nf.NETWORK, 12, 4), (nf.NETWORK, 9, 1), (nf.NETWORK, 0, 1)
_SOURCE6 = (nf.NETWORK, 8, 16)
_PORTS, _ICMP_TYPE, _ND_TARGET = (nf.TRANSPORT, 0, 4), (nf.TRANSPORT, 0, 1), (nf.TRANSPORT, 8, 16)
_UDP, _ICMPV6, _FRAGMENT = b"\x11", b"\x3a", 44
_ARP_OF_IPV4 = bytes.fromhex("000108000604")
"""Ethernet and IPv4, with addresses of six and four bytes (RFC 826)."""
_REQUEST, _REPLY = b"\x00\x01", b"\x00\x02"
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ECHOES = (128, 129)
_OF_ROUTERS = (134, 137)
"""Router advertisements and redirects (RFC 4861): no pod is a router."""
_WITHOUT_ADDRESS = (131, 132, 133, 143)
"""What else is sent before there is an address: reports to groups (RFC 2710, RFC 3810), and the question for
a router."""


def _ports(source: int, destination: int) -> bytes:
    return nf.meta(nf.L4PROTO) + nf.compared(_UDP) + _is(_PORTS, struct.pack("!HH", source, destination))


def _is(field: tuple[int, int, int], value: bytes, operation: int = nf.EQUAL) -> bytes:
    return nf.payload(*field) + nf.compared(value, operation)


def _icmp(kind: int) -> bytes:
    return _is(_ICMP_TYPE, bytes([kind]))


def _known(field: tuple[int, int, int], name: str, *, absent: bool = False) -> bytes:
    """Match what the link is known to send, or what it is not."""
    return nf.meta(nf.IIF) + nf.payload(*field, word=1) + nf.looked_up(name, absent=absent)


class TableRule(NamedTuple):
    """A rule of the table: what it matches, and its verdict with where that leads."""

    chain: str
    match: bytes
    word: str
    target: str = ""


_DHCP, _DHCP_OFFER = _ports(68, 67), _ports(67, 68)
_DHCPV6_OFFER = _ports(547, 546)
RULES: tuple[TableRule, ...] = (
    TableRule(POD, _known(_ETHERNET_SOURCE, HARDWARE, absent=True), "goto", WRONG_HARDWARE),
    # A VLAN tag is the ethertype here, also where the kernel has set it aside.
    TableRule(POD, _is(_ETHERTYPE, b"\x08\x00"), "goto", IP4),
    TableRule(POD, _is(_ETHERTYPE, b"\x86\xdd"), "goto", IP6),
    TableRule(POD, _is(_ETHERTYPE, b"\x08\x06"), "goto", ARP),
    TableRule(POD, b"", "goto", KIND),
    TableRule(ARP, _is(_ARP_KIND, _ARP_OF_IPV4, nf.UNEQUAL), "goto", WRONG_ARP),
    TableRule(ARP, _known(_ARP_HARDWARE, HARDWARE, absent=True), "goto", WRONG_ARP),
    # Whoever asks whether an address is free has none yet (RFC 5227).
    TableRule(ARP, _is(_ARP_OPERATION, _REQUEST) + _is(_ARP_ADDRESS, bytes(4)), "accept"),
    TableRule(ARP, _is(_ARP_OPERATION, _REQUEST) + _known(_ARP_ADDRESS, V4), "accept"),
    TableRule(ARP, _is(_ARP_OPERATION, _REPLY) + _known(_ARP_ADDRESS, V4), "accept"),
    TableRule(ARP, b"", "goto", WRONG_ARP),
    # A source route takes a packet past the address by which policy judges it. IGMP bears an option.
    TableRule(
        IP4,
        nf.payload(*_LENGTH4)
        + nf.masked(b"\x0f")
        + nf.compared(b"\x05", nf.UNEQUAL)
        + _is(_PROTOCOL4, b"\x02", nf.UNEQUAL),
        "goto",
        OPTIONS,
    ),
    TableRule(IP4, _DHCP_OFFER, "goto", OFFER),
    TableRule(IP4, _known(_SOURCE4, V4), "accept"),
    TableRule(IP4, _is(_SOURCE4, bytes(4)) + _DHCP, "accept"),
    TableRule(IP4, b"", "goto", WRONG_ADDRESS),
    TableRule(IP6, nf.meta(nf.L4PROTO) + nf.compared(_ICMPV6), "jump", ICMP6),
    TableRule(IP6, _DHCPV6_OFFER, "goto", OFFER),
    TableRule(IP6, _known(_SOURCE6, V6), "accept"),
    TableRule(IP6, b"", "goto", WRONG_ADDRESS),
    *(TableRule(ICMP6, _icmp(kind), "goto", WRONG_DISCOVERY) for kind in _OF_ROUTERS),
    *(TableRule(ICMP6, _icmp(kind), "return") for kind in _ECHOES),
    # Of what else comes in fragments none is needed, and discovery may not (RFC 6980).
    TableRule(
        ICMP6,
        nf.extension(_FRAGMENT, 2, 2) + nf.masked(b"\xff\xf8") + nf.compared(bytes(2)),
        "goto",
        WRONG_DISCOVERY,
    ),
    TableRule(ICMP6, _icmp(_ADVERTISEMENT) + _known(_ND_TARGET, V6), "return"),
    TableRule(ICMP6, _icmp(_ADVERTISEMENT), "goto", WRONG_DISCOVERY),
    # Before it has an address, a pod looks whether its own is free, and joins groups (RFC 4862, RFC 3810).
    TableRule(ICMP6, _is(_SOURCE6, bytes(16)) + _icmp(_SOLICITATION) + _known(_ND_TARGET, V6), "accept"),
    *(TableRule(ICMP6, _is(_SOURCE6, bytes(16)) + _icmp(kind), "accept") for kind in _WITHOUT_ADDRESS),
)


def link_chain(name: str) -> str:
    """Return the chain that sees the frames of an interface."""
    return f"link-{name}"


def make(flags: int) -> list[Message]:
    """Return the messages that make the table, without any link; ``flags``: :mod:`agent.kernel.nf_owned`."""
    keys = {HARDWARE: nf.ETHERNET, V4: nf.IPV4, V6: nf.IPV6}
    made = [nf.add_table(TABLE, flags=flags)]
    made += [
        nf.add_set(TABLE, name, number, nf.INTERFACE, kind)
        for number, (name, kind) in enumerate(keys.items(), 1)
    ]
    made += [nf.add_chain(TABLE, chain) for chain in (POD, ARP, IP4, IP6, ICMP6, *DENIALS)]
    made += [nf.add_rule(TABLE, rule.chain, rule.match, nf.verdict(rule.word, rule.target)) for rule in RULES]
    made += [nf.add_rule(TABLE, chain, nf.counted(), nf.verdict("drop")) for chain in DENIALS]
    return made


def remove() -> list[Message]:
    """Return the messages that remove the table, whether or not it is there."""
    return [nf.add_table(TABLE), nf.delete_table(TABLE)]


def add_link(binding: Binding) -> list[Message]:
    """Return the messages by which an interface's frames come to be guarded; its keys are there already."""
    chain = link_chain(binding.name)
    jump = nf.meta(nf.IIF) + nf.compared(_index(binding.number)) + nf.verdict("jump", POD)
    return [nf.add_chain(TABLE, chain, binding.name, PRIORITY), nf.add_rule(TABLE, chain, jump)]


def remove_link(name: str) -> Message:
    """Return the message by which an interface's frames are no longer guarded; its chain must be there."""
    return nf.delete_chain(TABLE, link_chain(name))


def keys(found: Iterable[Binding]) -> dict[str, set[bytes]]:
    """Return what the sets hold for some links."""
    held: dict[str, set[bytes]] = {name: set() for name in SETS}
    for binding in found:
        index = _index(binding.number)
        held[HARDWARE].update(nf.key(index, address) for address in binding.hardware)
        held[V4].update(nf.key(index, address) for address in binding.of(Family.V4))
        held[V6].update(nf.key(index, address) for address in binding.of(Family.V6))
    return held


def held_by(found: Mapping[str, Iterable[bytes]]) -> dict[int, frozenset[bytes]]:
    """Return what sets of these keys let each link send as, by its index."""
    held: dict[int, set[bytes]] = {}
    lengths = {HARDWARE: 6, V4: 4, V6: 16}
    for name, listed in found.items():
        for key in listed:
            if len(key) < 4 + lengths[name]:
                continue  # a set that somebody else made
            (index,) = struct.unpack_from("=I", key)
            held.setdefault(index, set()).add(key[4 : 4 + lengths[name]])
    return {index: frozenset(addresses) for index, addresses in held.items()}


def _index(number: int) -> bytes:
    return struct.pack("=I", number)
