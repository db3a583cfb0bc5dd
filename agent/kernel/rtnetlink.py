"""Interfaces, addresses and routes, as the kernel tells of them (rtnetlink(7)).

They are decoded here, not by pyroute2. The start of the agent waits for them, and so does a new pod; and
to load pyroute2 takes memory on every node. The figures are in docs/performance.md ("Tried, and not kept").
Tests hold the numbers, and what is read, against pyroute2's.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from agent.kernel.netlink import NESTED, Message, NetlinkSocket, attribute, attributes, picked

RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE = 18, 22, 26
RTMGRP_LINK = 0x1
RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x10, 0x100
RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE, RTMGRP_IPV6_ROUTE = 0x40, 0x80, 0x400
RTMGRP_IPV6_RULE = 0x40000

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_OPERSTATE, IFLA_LINKINFO = 1, 3, 5, 10, 16, 18
IFLA_EXT_MASK, IFLA_LINK_NETNSID, IFLA_IF_NETNSID = 29, 37, 46
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_BR_NF_CALL_IPTABLES, IFLA_BR_NF_CALL_IP6TABLES = 36, 37
_OF_LINKS = frozenset({IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_LINK_NETNSID})
_IF_OPER_UP = 6
_RTEXT_FILTER_SKIP_STATS = 1 << 3

IFA_ADDRESS, IFA_LOCAL, IFA_TARGET_NETNSID = 1, 2, 10

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA = 1, 4, 5, 9, 18
RTN_UNICAST = 1
_RTM_F_FIB_MATCH = 0x2000
"""The route itself, with all its next hops, not the one that a packet would take."""

ADDRESS_GROUPS = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
"""Addresses of interfaces, of both families."""
ROUTE_GROUPS = RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE | RTMGRP_IPV6_ROUTE | RTMGRP_IPV6_RULE
"""Routes and routing rules, of both families."""

_INDEX = struct.Struct("=i")
_IFINFO = struct.Struct("=iI")
"""What is wanted of an ifinfomsg behind the family's four bytes: index and flags."""
_IFINFO_REST = 12
_IFADDR = struct.Struct("=BBBBI")
"""An ifaddrmsg: family, length of the prefix, flags, scope, index."""
_IFADDR_REST = 4
_ROUTE_REST = struct.Struct("=BBBBI")
"""What follows the family's four bytes in an rtmsg: table, protocol, scope, type, flags."""
_NEXT_HOP = struct.Struct("=HBBi")


class Link(NamedTuple):
    """An interface.

    ``number``: its index. ``master``: the number of what it is a port of, or 0. ``lower``: the number of
    what it is stacked on, or of a veth's other end; 0 for none. ``namespace``: the network namespace that
    ``lower`` is in, by its number in this one, which is -1 if it has none; None: this one. ``carrying``: its
    state is IF_OPER_UP. A bridge that never had a port has carrier, but its state is unknown. ``data``: its
    IFLA_INFO_DATA.
    """

    number: int
    name: str
    kind: str = ""
    master: int = 0
    lower: int = 0
    namespace: int | None = None
    up: bool = True
    carrying: bool = False
    data: bytes = b""


def read_links(netlink: NetlinkSocket, kind: str = "") -> Iterator[Link]:
    """Yield the interfaces of the socket's network namespace, or those of one kind. Raises OSError."""
    if kind:
        # A node has hundreds of others: the kernel picks.
        name = attribute(IFLA_INFO_KIND, kind.encode() + b"\0")
        asked = attribute(IFLA_LINKINFO | NESTED, name)
    else:
        # Each would bring a kilobyte of statistics.
        asked = attribute(IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))
    for message in netlink.dump(Message(RTM_GETLINK, socket.AF_UNSPEC, bytes(_IFINFO_REST) + asked)):
        link = link_of(message)
        if link.kind == kind or not kind:  # an old kernel picks none
            yield link


def link_of(message: memoryview | bytes) -> Link:
    """Return an interface from an RTM_NEWLINK message, behind its first four bytes."""
    index, flags = _IFINFO.unpack_from(message)
    fields = picked(message[_IFINFO_REST:], _OF_LINKS)
    info = dict(attributes(fields.get(IFLA_LINKINFO, b"")))
    return Link(
        index,
        bytes(fields[IFLA_IFNAME]).rstrip(b"\0").decode(errors="replace"),
        bytes(info.get(IFLA_INFO_KIND, b"")).rstrip(b"\0").decode(),
        _number(fields.get(IFLA_MASTER)) or 0,
        _number(fields.get(IFLA_LINK)) or 0,
        _number(fields.get(IFLA_LINK_NETNSID)),
        bool(flags & IFF_UP),
        bytes(fields.get(IFLA_OPERSTATE, b"")) == bytes([_IF_OPER_UP]),
        bytes(info.get(IFLA_INFO_DATA, b"")),
    )


def read_hardware_address(netlink: NetlinkSocket, number: int, namespace: int | None = None) -> bytes:
    """Return the hardware address of an interface by its index; empty where it has none.

    ``namespace``: it is in the network namespace of this number, not in the socket's. The kernel must be
    known to understand that: one before Linux 4.15 would answer with an interface of this namespace. Raises
    OSError, also where the interface is not there.
    """
    asked = _INDEX.pack(number) + bytes(_IFINFO_REST - _INDEX.size)
    asked += attribute(IFLA_EXT_MASK, struct.pack("=I", _RTEXT_FILTER_SKIP_STATS))
    if namespace is not None:
        asked += attribute(IFLA_IF_NETNSID, _INDEX.pack(namespace))
    message = netlink.get(Message(RTM_GETLINK, socket.AF_UNSPEC, asked))
    return bytes(picked(message[_IFINFO_REST:], {IFLA_ADDRESS}).get(IFLA_ADDRESS, b""))


def _number(value: memoryview | None) -> int | None:
    return None if value is None else int(_INDEX.unpack_from(value)[0])


class Address(NamedTuple):
    """An address of an interface, packed, with its network's size and its scope."""

    interface: int
    family: int
    prefix_length: int
    scope: int
    address: bytes


def read_addresses(netlink: NetlinkSocket) -> Iterator[Address]:
    """Yield the addresses of the socket's network namespace. Raises OSError."""
    request = Message(RTM_GETADDR, socket.AF_UNSPEC, bytes(_IFADDR_REST))
    for message in netlink.dump(request, behind=0):
        family, length, _, scope, interface = _IFADDR.unpack_from(message)
        yield Address(interface, family, length, scope, _own(dict(attributes(message[_IFADDR.size :]))))


def read_own_addresses(netlink: NetlinkSocket) -> Iterator[bytes]:
    """Yield the packed addresses of the socket's network namespace. Raises OSError."""
    return (found.address for found in read_addresses(netlink) if found.address)


def _own(fields: Mapping[int, bytes | memoryview]) -> bytes:
    """Return an address by its attributes, empty without one; where there are two ends, this one."""
    return bytes(fields.get(IFA_LOCAL, fields.get(IFA_ADDRESS, b"")))


def read_addresses_elsewhere(netlink: NetlinkSocket, namespace: int) -> Iterator[tuple[int, bytes]]:
    """Yield the addresses of another network namespace, by its number in this one: (interface, address).

    The socket must check strictly: a kernel before Linux 4.20, which does not know the question, would answer
    with its own. Raises OSError.
    """
    asked = attribute(IFA_TARGET_NETNSID, _INDEX.pack(namespace))
    for message in netlink.dump(Message(RTM_GETADDR, socket.AF_UNSPEC, bytes(_IFADDR_REST) + asked)):
        (interface,) = _INDEX.unpack_from(message)
        fields = dict(attributes(message[_IFADDR_REST:]))
        if IFA_TARGET_NETNSID in fields and (address := _own(fields)):
            yield interface, address


class Route(NamedTuple):
    """By which interfaces packets to a destination leave; by none if they are for this host, or dropped.

    ``destination``: the network's address, empty for a default route. ``direct``: no router is between.
    """

    destination: bytes
    interfaces: tuple[int, ...]
    direct: bool


def read_route(netlink: NetlinkSocket, address: bytes) -> Route:
    """Return the route that packets to an address take. Raises OSError, also where there is none."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    request = _ROUTE_REST.pack(0, 0, 0, 0, _RTM_F_FIB_MATCH) + attribute(RTA_DST, address)
    return route_of(netlink.get(Message(RTM_GETROUTE, family, request)))


def route_of(message: bytes) -> Route:
    """Return a route from an RTM_NEWROUTE message, behind its first four bytes."""
    if len(message) < _ROUTE_REST.size or _ROUTE_REST.unpack_from(message)[3] != RTN_UNICAST:
        return Route(b"", (), direct=False)
    destination = b""
    interfaces: list[int] = []
    direct = True
    for kind, payload in attributes(message[_ROUTE_REST.size :]):
        if kind == RTA_DST:
            destination = bytes(payload)
        elif kind == RTA_OIF:
            interfaces += _INDEX.unpack_from(payload)
        elif kind in (RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA):
            direct = False
            if kind == RTA_MULTIPATH:
                interfaces += _next_hops(payload)
    return Route(destination, tuple(interfaces), direct)


def _next_hops(payload: memoryview) -> Iterator[int]:
    at = 0
    while at + _NEXT_HOP.size <= len(payload):
        length, _, _, index = _NEXT_HOP.unpack_from(payload, at)
        yield index
        at += max(length + 3 & ~3, _NEXT_HOP.size)
