"""What the first bytes of a packet say, whatever they are."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.headers import ICMP, ICMPV6, SCTP, TCP, UDP, Headers, decode
from tests.build import packed
from tests.lab import packets

V4 = "10.1.0.2", "10.2.0.2"
V6 = "fd01::2", "fd02::2"
BOTH = pytest.mark.parametrize("ends", [V4, V6], ids=["IPv4", "IPv6"])

EXTENSIONS = {
    "hop-by-hop": (0, bytes(6)),
    "long destination options": (60, bytes(22)),
    "routing": (43, bytes(6)),
    "mobility": (135, bytes(6)),
}


def addresses(ends: tuple[str, str]) -> tuple[bytes, bytes]:
    return packed(ends[0]), packed(ends[1])


@BOTH
def test_tcp(ends: tuple[str, str]) -> None:
    data = packets.tcp_syn(*ends, 8080, source_port=40000)
    assert decode(data) == Headers(*addresses(ends), TCP, 40000, 8080, None, 0x02, length=len(data))


@BOTH
def test_udp(ends: tuple[str, str]) -> None:
    data = packets.udp(*ends, 53, b"question", source_port=40000)
    assert decode(data) == Headers(*addresses(ends), UDP, 40000, 53, length=len(data))


@BOTH
def test_sctp(ends: tuple[str, str]) -> None:
    data = packets.ip(*ends, SCTP, struct.pack("!HHII", 40000, 3868, 0, 0))
    assert decode(data) == Headers(*addresses(ends), SCTP, 40000, 3868, length=len(data))


@BOTH
def test_icmp_has_type_and_code_and_no_ports(ends: tuple[str, str]) -> None:
    data = packets.icmp(*ends, 3, 4, bytes(4))
    protocol = ICMPV6 if ends is V6 else ICMP
    assert decode(data) == Headers(*addresses(ends), protocol, icmp=(3, 4), length=len(data))


@BOTH
@pytest.mark.parametrize("protocol", [47, 50, 59, 103])
def test_other_protocols_have_neither(ends: tuple[str, str], protocol: int) -> None:
    data = packets.ip(*ends, protocol, b"\1\2\3\4\5\6\7\x08")
    assert decode(data) == Headers(*addresses(ends), protocol, length=len(data))


def test_ports_come_after_the_options_of_ipv4() -> None:
    data = packets.udp(*V4, 53, b"")
    with_options = bytes([0x47]) + data[1:20] + b"\1" * 8 + data[20:]
    found = decode(with_options)
    assert found is not None
    assert (found.source_port, found.port) == (9999, 53)


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
def test_of_fragments_of_ipv4_only_the_first_has_ports(later: bool) -> None:
    data = bytearray(packets.udp(*V4, 53, b""))
    # More fragments follow; the offset counts eight bytes.
    data[6:8] = struct.pack("!H", 0x2000 | (185 if later else 0))
    found = decode(bytes(data))
    assert found is not None
    assert (found.fragment, found.port) == ((True, None) if later else (False, 53))


@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
def test_of_fragments_of_ipv6_only_the_first_has_ports(later: bool) -> None:
    transport = packets.udp(*V6, 53, b"")[40:]
    fragment = struct.pack("!BBHI", UDP, 0, (185 << 3 if later else 0) | 1, 7)
    found = decode(packets.ip(*V6, 44, fragment + transport))
    assert found is not None
    assert (found.protocol, found.fragment, found.port) == ((UDP, True, None) if later else (UDP, False, 53))


@pytest.mark.parametrize("name", EXTENSIONS)
def test_ports_come_after_the_extension_headers_of_ipv6(name: str) -> None:
    kind, body = EXTENSIONS[name]
    header = struct.pack("!BB", UDP, (len(body) + 2) // 8 - 1) + body
    found = decode(packets.ip(*V6, kind, header + packets.udp(*V6, 53, b"")[40:]))
    assert found is not None
    assert (found.protocol, found.port) == (UDP, 53)


def test_an_authentication_header_counts_its_length_in_fours() -> None:
    header = struct.pack("!BBHII12x", UDP, 4, 0, 1, 1)
    found = decode(packets.ip(*V6, 51, header + packets.udp(*V6, 53, b"")[40:]))
    assert found is not None
    assert (found.protocol, found.port) == (UDP, 53)


def test_headers_that_go_on_behind_the_end_name_the_last_that_is_there() -> None:
    found = decode(packets.ip(*V6, 60, struct.pack("!BB", UDP, 100) + bytes(6)))
    assert found == Headers(*addresses(V6), UDP, length=48)
    assert decode(packets.ip(*V6, 60, b"\x11")) == Headers(*addresses(V6), 60, length=41)


@BOTH
@given(cut=st.integers(0, 60))
def test_a_packet_that_is_cut_says_what_is_left_of_it(ends: tuple[str, str], cut: int) -> None:
    data = packets.tcp_syn(*ends, 8080)
    whole, found = decode(data), decode(data[:cut])
    assert whole is not None
    if found is None:
        assert cut < (20 if ends is V4 else 40)
    else:
        assert all(mine in (other, None) for mine, other in zip(found, whole, strict=True))


@pytest.mark.parametrize(
    ("flags", "opens"),
    [(0x02, True), (0xC2, True), (0x12, False), (0x10, False), (0x04, False), (0x14, False), (0x11, False)],
)
def test_a_connection_is_opened_by_a_syn_alone(flags: int, opens: bool) -> None:
    found = decode(packets.tcp(*V4, 80, flags=flags))
    assert found is not None
    assert found.opens is opens


@given(st.binary(max_size=120))
def test_any_bytes_are_decoded_or_not_and_raise_nothing(data: bytes) -> None:
    found = decode(data)
    assert found is None or len(found.source) == len(found.destination)


@given(st.sampled_from([4, 6]), st.binary(min_size=59, max_size=192))
def test_whatever_says_it_is_a_packet_has_addresses(version: int, data: bytes) -> None:
    found = decode(bytes([version << 4 | 5]) + data)
    assert found is not None
    assert len(found.source) == (4 if version == 4 else 16)
    assert found.port is None or 0 <= found.port <= 65535
