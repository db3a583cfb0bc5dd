"""IP and CIDR text, read as Kubernetes reads it: strictly for new objects, leniently for stored ones.

Objects already in a cluster may hold text that Go accepted before 1.17 and that API servers still
accept on update: leading zeros (decimal), host bits, IPv4-mapped IPv6. New objects may not
(StrictIPCIDRValidation, on by default since Kubernetes 1.36).
"""

from __future__ import annotations

import functools
import re
import socket

from agent.net import Network

_MAPPED = bytes(10) + b"\xff\xff"
_LEADING_ZEROS = re.compile(r"(?<![0-9A-Fa-f])0+(?=[0-9A-Fa-f])")
_DIGITS = re.compile(r"[0-9]{1,7}")


def _packed(text: str) -> bytes | None:
    """Return the packed form of an address text: 4 bytes when written dotted, else 16."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return None


def _without_leading_zeros(text: str) -> str:
    return _LEADING_ZEROS.sub("", text)


def lenient_address(text: str) -> bytes | None:
    """Return a packed address, 4 or 16 bytes, or None when Go's old parser would refuse the text.

    IPv4-mapped IPv6 is IPv4.
    """
    packed = _packed(text)
    if packed is None:
        packed = _packed(_without_leading_zeros(text))
        if packed is None:
            return None
    return packed[12:] if packed.startswith(_MAPPED) else packed


@functools.lru_cache(maxsize=4096)
def lenient_network(text: str) -> Network | None:
    """Return the network that a CIDR text means to Go's old parser, or None when it refuses it.

    Host bits are masked off. An IPv4-mapped network whose prefix reaches its IPv4 part is that IPv4
    network (``::ffff:10.0.0.0/104`` is ``10.0.0.0/8``).
    """
    address, slash, length = text.partition("/")
    if not slash or not _DIGITS.fullmatch(length):
        return None
    packed = _packed(address)
    if packed is None:
        packed = _packed(_without_leading_zeros(address))
    if packed is None or (prefix := int(length)) > 8 * len(packed):
        return None
    network = Network(packed, prefix) if prefix == 8 * len(packed) else _masked(packed, prefix)
    if network.address.startswith(_MAPPED) and len(packed) == 16 and network.prefix >= 96:
        return Network(network.address[12:], network.prefix - 96)
    return network


def _masked(packed: bytes, prefix: int) -> Network:
    host_bits = 8 * len(packed) - prefix
    value = int.from_bytes(packed) >> host_bits << host_bits
    return Network(value.to_bytes(len(packed)), prefix)


def strict_address(text: str) -> bytes | str:
    """Return a packed address, or what is wrong with the text and how to write it."""
    packed = _packed(text)
    if packed is not None and not packed.startswith(_MAPPED):
        return packed
    meant = lenient_address(text)
    if meant is None:
        return f"{text!r} is not an IP address; write one such as 10.9.8.7 or 2001:db8::ffff"
    why = "is an IPv4-mapped IPv6 address" if ":" in text else "has leading zeros"
    return f"{text!r} {why}; write {_text(meant)}"


def strict_network(text: str) -> Network | str:
    """Return a network, or what is wrong with the CIDR text and how to write it."""
    meant = lenient_network(text)
    if meant is None:
        return f"{text!r} is not a CIDR; {_cidr_remedy(text)}"
    address, _, length = text.partition("/")
    packed = _packed(address)
    if packed is None or (len(length) > 1 and length[0] == "0"):
        return f"{text!r} has leading zeros; write {meant}"
    if packed.startswith(_MAPPED):
        return f"{text!r} is an IPv4-mapped IPv6 block; write {meant}"
    if packed != meant.address:
        return (
            f"{text!r} has bits set beyond its prefix length; "
            f"write {meant} for the block or {_text(packed)}/{8 * len(packed)} for the one address"
        )
    return meant


def _cidr_remedy(text: str) -> str:
    """Say how to write a block; an address without a length was likely meant as the one address."""
    packed = _packed(text)
    if packed is None or packed.startswith(_MAPPED):
        return "write one such as 10.9.8.0/24 or 2001:db8::/64"
    return f"write {_text(packed)}/{8 * len(packed)} for the one address"


def covers(outer: Network, inner: Network) -> bool:
    """Whether every address of ``inner`` is in ``outer``."""
    return (
        len(outer.address) == len(inner.address)
        and outer.prefix <= inner.prefix
        and _masked(inner.address, outer.prefix).address == outer.address
    )


def _text(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
