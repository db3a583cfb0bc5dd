"""What single matches of rules ask for: ports, networks, and both at once."""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache

from agent.net import Network, Protocol
from agent.proof.area import Products
from agent.proof.lines import Line
from agent.proof.ways import UnreadError
from agent.reach import ports
from agent.reach.ports import Ports

PROTOCOLS = {protocol.name.lower(): ports.ports(protocol) for protocol in Protocol} | {
    str(int(protocol)): ports.ports(protocol) for protocol in Protocol
}
"""The protocols that policies tell apart, by their names and numbers in rules."""


_NAMES = {
    "udplite": 136,
    "esp": 50,
    "ah": 51,
    "ipv6-mh": 135,
    "mh": 135,
    "icmp": 1,
    "ipv6-icmp": 58,
    "icmpv6": 58,
}
"""What iptables calls protocols by itself; all others it has from the machine's list, protocols(5)."""


def protocol_number(text: str) -> int:
    """Return the IANA number of a protocol as a rule has it. Raises UnreadError."""
    if text.isdecimal():
        return int(text)
    if text in _NAMES:
        return _NAMES[text]
    try:
        return socket.getprotobyname(text)
    except OSError:
        raise UnreadError(f"the protocol {text}") from None


def numbers(rule: Line, value: str, *, negated: bool) -> Ports:
    """Return the ports that a rule names, or all others of its protocol. Raises UnreadError."""
    protocol = next((c.value for c in rule.conditions if c.option == "-p" and not c.negated), "")
    known = PROTOCOLS.get(protocol)
    if known is None:
        raise UnreadError("ports of no protocol")
    number = next(p for p in Protocol if ports.ports(p) == known)
    try:
        found = ports.union(_range(number, part) for part in value.split(","))
    except ValueError:
        raise UnreadError(f"ports {value}") from None
    return known - found if negated else found


def _range(protocol: Protocol, text: str) -> Ports:
    first, colon, last = text.partition(":")
    return ports.ports(protocol, int(first), int(last if colon else first))


def crossed(one: Products, other: Products) -> Products:
    """Return what is in both."""
    return tuple((a & b, some & more) for a, some in one for b, more in other if a & b and some & more)


@lru_cache(1 << 14)
def network(text: str) -> Network:
    """Return a network as a rule has it. Raises UnreadError."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        raise UnreadError(f"the network {text}") from None
    return Network(found.network_address.packed, found.prefixlen)
