"""What packets are made of: families, protocols, directions, networks, and members of sets."""

from __future__ import annotations

import enum
import functools
import ipaddress
from typing import NamedTuple


class Family(enum.IntEnum):
    """An address family, numbered as people write it: 4 or 6."""

    V4 = 4
    V6 = 6

    @property
    def bits(self) -> int:
        """The length of an address."""
        return 32 if self is Family.V4 else 128


class Protocol(enum.IntEnum):
    """A transport protocol by its IANA number."""

    TCP = 6
    UDP = 17
    SCTP = 132


class Direction(enum.StrEnum):
    """The direction of a connection, seen from the selected pod."""

    INGRESS = "ingress"
    EGRESS = "egress"


def family_of(address: bytes) -> Family:
    """Return the family of a packed address."""
    return Family.V4 if len(address) == 4 else Family.V6


@functools.lru_cache(maxsize=1024)
def address_text(address: bytes) -> str:
    """Return the canonical text of a packed address (RFC 5952 for IPv6)."""
    return str(ipaddress.ip_address(address))


class Network(NamedTuple):
    """A CIDR: the packed network address, host bits zero, and the prefix length in bits."""

    address: bytes
    prefix: int

    @property
    def family(self) -> Family:
        return family_of(self.address)

    def holds(self, address: bytes) -> bool:
        """Whether a packed address, of either family, lies in it."""
        rest = 8 * len(address) - self.prefix
        return len(address) == len(self.address) and not (
            (int.from_bytes(address, "big") ^ int.from_bytes(self.address, "big")) >> rest
        )

    def __str__(self) -> str:
        return f"{address_text(self.address)}/{self.prefix}"


class AddressPort(NamedTuple):
    """A member of an ADDRESS_PORTS set: a pod's address and one of its ports."""

    address: bytes
    protocol: Protocol
    port: int


class NetworkMember(NamedTuple):
    """A member of a NETWORKS set. The longest matching prefix decides; ``nomatch`` excludes."""

    network: Network
    nomatch: bool = False


Member = bytes | AddressPort | NetworkMember


def member_address(member: Member) -> bytes | None:
    """Return the address of the pod that a set's member stands for; None for a network."""
    if isinstance(member, AddressPort):
        return member.address
    return member if isinstance(member, bytes) else None
