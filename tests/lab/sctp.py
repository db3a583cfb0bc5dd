"""SCTP as far as an association's handshake (RFC 9260), for kernels without SCTP sockets.

Packets go through raw sockets, so there are no IP headers here; SCTP's checksum does not cover them.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

NUMBER = 132
INIT, INIT_ACK, HEARTBEAT, ABORT, COOKIE_ECHO, COOKIE_ACK = 1, 2, 4, 6, 10, 11


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of data, as SCTP uses it (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Packet(NamedTuple):
    """The common header and the first chunk; ``tag`` is the chunk's initiate tag (0 where it has none)."""

    source: int
    destination: int
    verification: int
    chunk: int
    tag: int = 0

    def encode(self) -> bytes:
        """Return the packet with its checksum."""
        body = b""
        if self.chunk in (INIT, INIT_ACK):
            body = struct.pack("!IIHHI", self.tag, 65536, 1, 1, self.tag)
        if self.chunk == INIT_ACK:
            body += struct.pack("!HHI", 7, 8, self.tag)  # the state cookie, which an INIT ACK must carry
        chunk = struct.pack("!BBH", self.chunk, 0, 4 + len(body)) + body
        ports = struct.pack("!HHI", self.source, self.destination, self.verification)
        checksum = struct.pack("<I", crc32c(ports + bytes(4) + chunk))
        return ports + checksum + chunk


def decode(data: bytes) -> Packet | None:
    """Read an SCTP packet; None when it is too short to be one."""
    if len(data) < 16:
        return None
    source, destination, verification = struct.unpack_from("!HHI", data)
    tag = struct.unpack_from("!I", data, 16)[0] if len(data) >= 20 else 0
    return Packet(source, destination, verification, data[12], tag)


def without_ip_header(data: bytes, *, v4: bool) -> bytes:
    """Return what a raw socket received from the SCTP header on: only IPv4's hand over the IP header."""
    return data[(data[0] & 0x0F) * 4 :] if v4 and data else data
