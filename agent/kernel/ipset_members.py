"""Members of kernel sets as netlink attributes (``linux/netfilter/ipset/ip_set.h``), both ways, in bulk."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

from agent.kernel.netlink import NESTED, NET_ORDER, attributes
from agent.net import AddressPort, Member, Network, NetworkMember, Protocol, address_text

TYPE_REVISION = {"hash:ip": 0, "hash:ip,port": 1, "hash:net": 2, "hash:ip,port,ip": 1, "list:set": 0}
"""The lowest revision with what is used (SCTP since hash:ip,port 1, nomatch since hash:net 2) and known to
ipset(8), which else could not list it."""

_DATA, _IP, _CIDR, _PORT, _PROTO, _CADT_FLAGS = 7, 1, 3, 4, 7, 8
_NAME, _IP2 = 18, 20
_NOMATCH = 1 << 2
_PROTOCOLS = {int(protocol): protocol for protocol in Protocol}

_MESSAGE_BYTES = 65_000
"""An attribute's length has 16 bits."""
_LONGEST = 44
"""Of an element: an IPv6 network with nomatch."""


def _head(payload: int, kind: int) -> bytes:
    return struct.pack("=HH", 4 + payload, kind)


def _address_head(size: int) -> bytes:
    # IPSET_ATTR_IPADDR_IPV4 is 1, IPSET_ATTR_IPADDR_IPV6 is 2.
    return _head(4 + size, _IP | NESTED) + _head(size, (1 if size == 4 else 2) | NET_ORDER)


def _heads(rest: int) -> dict[int, bytes]:
    """Return, by address size, what stands before the address when ``rest`` bytes of attributes follow it."""
    return {size: _head(8 + size + rest, _DATA | NESTED) + _address_head(size) for size in (4, 16)}


_IP_HEADS = _heads(0)
_IP_PORT_HEADS = _heads(16)
_NET_HEADS = _heads(8)
_NOMATCH_HEADS = _heads(16)
_PORT_TAIL = struct.Struct("!4sHxx4sBxxx")
_PORT_HEAD = _head(2, _PORT | NET_ORDER)
_PROTO_HEAD = _head(1, _PROTO)
_CIDR_HEAD = _head(1, _CIDR)
_NOMATCH_TAIL = _head(4, _CADT_FLAGS | NET_ORDER) + struct.pack("!I", _NOMATCH)
_ALL_ZERO = frozenset({bytes(4), bytes(16)})


def unholdable(members: Iterable[Member]) -> dict[Member, str]:
    """Return, with their text, the members that the kernel's hash types refuse.

    These are the all-zero address and a prefix of 0. One refused would keep out the members after it in its
    message.
    """
    bad: dict[Member, str] = {}
    for member in members:
        if type(member) is NetworkMember:
            if member.network.prefix == 0:
                bad[member] = str(member.network)
        elif type(member) is AddressPort:
            if member.address in _ALL_ZERO:
                bad[member] = address_text(member.address)
        elif member in _ALL_ZERO:
            bad[member] = address_text(bytes(member))
    return bad


def encode_members(members: Sequence[Member]) -> Iterator[bytes]:
    """Yield the payloads of IPSET_ATTR_ADT, each within the length an attribute can have."""
    if not members:
        return
    step = _MESSAGE_BYTES // _LONGEST
    for start in range(0, len(members), step):
        yield b"".join(map(_encode, members[start : start + step]))


def _encode(member: Member) -> bytes:
    if type(member) is bytes:
        return _IP_HEADS[len(member)] + member
    if type(member) is AddressPort:
        address, protocol, port = member
        tail = _PORT_TAIL.pack(_PORT_HEAD, port, _PROTO_HEAD, protocol)
        return _IP_PORT_HEADS[len(address)] + address + tail
    assert type(member) is NetworkMember  # noqa: S101
    (address, prefix), nomatch = member
    cidr = _CIDR_HEAD + bytes((prefix, 0, 0, 0))
    if nomatch:
        return _NOMATCH_HEADS[len(address)] + address + cidr + _NOMATCH_TAIL
    return _NET_HEADS[len(address)] + address + cidr


def decode_members(kind: str, elements: memoryview) -> set[Member]:
    """Return the members in the payload of one IPSET_ATTR_ADT; none for a type the agent fills no set of."""
    if kind == "hash:ip":
        return _decode_addresses(elements)
    if kind == "hash:ip,port":
        return _decode_address_ports(elements)
    if kind == "hash:net":
        return {_decode(kind, element) for _, element in attributes(elements)}
    return set()


# A message is read in one step: its elements are all alike, unless another tool made the set.


def _decode_addresses(elements: memoryview) -> set[Member]:
    for size, head in _IP_HEADS.items():
        if len(elements) % (12 + size) == 0 and elements[:12] == head:
            pairs = list(struct.iter_unpack(f"12s{size}s", elements))
            if all(found == head for found, _ in pairs):
                return {address for _, address in pairs}
    return {_decode("hash:ip", element) for _, element in attributes(elements)}


def _decode_address_ports(elements: memoryview) -> set[Member]:
    for size, head in _IP_PORT_HEADS.items():
        if len(elements) % (28 + size) == 0 and elements[:12] == head:
            rows = list(struct.iter_unpack(f"!12s{size}s4sHxx4sBxxx", elements))
            if all(row[0] == head and row[2] == _PORT_HEAD and row[4] == _PROTO_HEAD for row in rows):
                return {AddressPort(row[1], _protocol(row[5]), row[3]) for row in rows}
    return {_decode("hash:ip,port", element) for _, element in attributes(elements)}


def _protocol(number: int) -> Protocol:
    # Another protocol, in a set that another tool changed, stays a number: it equals no member of ours.
    return _PROTOCOLS.get(number) or cast(Protocol, number)


class Flow(NamedTuple):
    """A member of a set of connections: packed addresses, an IANA protocol, and the port that both match."""

    source: bytes
    protocol: int
    port: int
    destination: bytes


def decode_flows(elements: memoryview) -> Iterator[Flow]:
    """Yield the members in the payload of one IPSET_ATTR_ADT of a set of type ``hash:ip,port,ip``."""
    for _, element in attributes(elements):
        fields = dict(attributes(element))
        source, destination = (_address(fields[which]) for which in (_IP, _IP2))
        yield Flow(source, fields[_PROTO][0], int.from_bytes(fields[_PORT], "big"), destination)


def decode_names(elements: memoryview) -> Iterator[str]:
    """Yield the names of sets in the payload of one IPSET_ATTR_ADT of a set of type ``list:set``."""
    for _, element in attributes(elements):
        yield bytes(dict(attributes(element))[_NAME]).rstrip(b"\0").decode()


def _address(field: memoryview) -> bytes:
    (address,) = (bytes(payload) for _, payload in attributes(field))
    return address


def _decode(kind: str, element: memoryview) -> Member:
    fields = dict(attributes(element))
    address = _address(fields[_IP])
    if kind == "hash:ip":
        return address
    if kind == "hash:ip,port":
        port = int.from_bytes(fields[_PORT], "big")
        return AddressPort(address, _protocol(fields[_PROTO][0]), port)
    prefix = fields[_CIDR][0] if _CIDR in fields else 8 * len(address)
    flags = int.from_bytes(fields[_CADT_FLAGS], "big") if _CADT_FLAGS in fields else 0
    return NetworkMember(Network(address, prefix), bool(flags & _NOMATCH))
