"""An overlay as flannel makes one: pods reach those of other nodes by VXLAN, and any pod knows its port."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from agent.net import Family
from tests.lab import packets
from tests.lab.node import Node
from tests.lab.place import Place

DEVICE, PORT, VNI = "vx0", 8472, 7
_HEADER = struct.Struct("!II")
"""VXLAN's (RFC 7348, section 5): that there is a network's number, and the number."""


class _End(NamedTuple):
    """One node's side of the overlay."""

    node: Node

    @property
    def mac(self) -> str:
        return f"02:00:00:00:00:{self.node.index:02x}"

    def address(self, family: Family) -> str:
        return f"10.99.0.{self.node.index}" if family is Family.V4 else f"fd00:99::{self.node.index:x}"


@contextlib.contextmanager
def overlay(one: Node, other: Node, outer: Family = Family.V4) -> Iterator[None]:
    """Have two nodes reach each other's pods by VXLAN, in packets of a family; afterwards as before."""
    try:
        for here, there in ((one, other), (other, one)):
            add_device(here, outer)
            _lead(_End(here), _End(there), outer)
        yield
    finally:
        for here, there in ((one, other), (other, one)):
            remove_device(here)
            here.netns.ip(
                f"route replace {there.cidr4} via {there.v4}", f"route replace {there.cidr6} via {there.v6}"
            )


def add_device(node: Node, outer: Family = Family.V4, *, port: int = PORT, more: str = "") -> None:
    """Make a node's VXLAN device, up, and addressed in both families."""
    end = _End(node)
    node.netns.ip(
        f"link add {DEVICE} address {end.mac} type vxlan id {VNI} local {node.address(outer)}"
        f" dev eth0 dstport {port} nolearning {more}",
        f"link set {DEVICE} up",
        f"addr add {end.address(Family.V4)}/32 dev {DEVICE}",
        f"addr add {end.address(Family.V6)}/128 dev {DEVICE} nodad",
    )
    node.netns.wait_for_address(DEVICE, end.address(Family.V6))


def remove_device(node: Node) -> None:
    """Remove a node's VXLAN device, and its routes with it."""
    node.run("ip", "link", "del", DEVICE, check=False)


def _lead(here: _End, there: _End, outer: Family) -> None:
    ip = here.node.netns.ip
    for family, cidr in ((Family.V4, there.node.cidr4), (Family.V6, there.node.cidr6)):
        gateway = there.address(family)
        ip(
            f"neigh replace {gateway} lladdr {there.mac} dev {DEVICE} nud permanent",
            f"route replace {gateway} dev {DEVICE}",
            f"route del {cidr}",
            f"route add {cidr} via {gateway} dev {DEVICE} onlink",
        )
    here.node.run("bridge", "fdb", "append", there.mac, "dev", DEVICE, "dst", there.node.address(outer))


def wrapped(packet: bytes, node: Node, *, length: int = 0) -> bytes:
    """Return what a VXLAN packet carries that a node takes an IP packet out of, of this length at least."""
    frame = packets.frame("02:00:00:00:00:99", _End(node).mac, packet)
    return (_HEADER.pack(0x08000000, VNI << 8) + frame).ljust(length, b"\0")


def send_plain(place: Place, payload: bytes, address: str, port: int = PORT) -> None:
    """Send a datagram from an ordinary socket, as a process without any capability can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with place.netns.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(payload, (address, port))
