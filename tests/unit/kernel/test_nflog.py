"""Messages of logged packets, built as the kernel builds them."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.conntrack import Tuple, tuple_of
from agent.kernel.netlink import NESTED, attribute
from agent.kernel.nflog import Logged, decode
from tests.build import packed


def message(*attributes: tuple[int, bytes], family: int = socket.AF_INET) -> bytes:
    return bytes([family, 0, 0, 0]) + b"".join(attribute(kind, value) for kind, value in attributes)


def connection(source: str, destination: str, protocol: int, *ports: int) -> bytes:
    v6 = ":" in source
    ip = attribute(3 if v6 else 1, packed(source)) + attribute(4 if v6 else 2, packed(destination))
    numbers = attribute(1, bytes([protocol]))
    numbers += b"".join(attribute(2 + n, struct.pack("!H", port)) for n, port in enumerate(ports))
    return attribute(1 | NESTED, ip) + attribute(2 | NESTED, numbers)


def test_every_field_of_a_packet_is_read() -> None:
    body = message(
        (1, struct.pack("!HBx", 0x0800, 2)),
        (10, b"netpol-denied-ingress\0"),
        (2, struct.pack("!I", 0x20000)),
        *((kind, struct.pack("!I", kind)) for kind in (4, 5, 6, 7)),
        (8, struct.pack("!Hxx8s", 6, bytes(range(6)))),
        (3, struct.pack("!QQ", 1700000000, 250000)),
        (12, struct.pack("!I", 9)),
        (9, b"payload"),
        (18 | NESTED, attribute(1 | NESTED, connection("10.1.0.2", "10.96.0.1", 6, 40000, 80))),
    )
    assert decode(body) == Logged(
        family=socket.AF_INET,
        hook=2,
        prefix="netpol-denied-ingress",
        payload=b"payload",
        mark=0x20000,
        incoming=4,
        outgoing=5,
        physical_in=6,
        physical_out=7,
        hardware=bytes(range(6)),
        at=1700000000.25,
        original=Tuple(packed("10.1.0.2"), packed("10.96.0.1"), 6, 40000, 80),
        sequence=9,
    )


def test_what_the_kernel_leaves_out_is_nothing() -> None:
    assert decode(message()) == Logged(socket.AF_INET, 0, "", b"")
    assert decode(b"\2\0") is None


@given(st.binary(max_size=200))
def test_any_message_is_decoded_or_not_and_raises_nothing(body: bytes) -> None:
    found = decode(body)
    assert (found is None) is (len(body) < 4)


@given(st.lists(st.tuples(st.sampled_from(range(1, 22)), st.binary(max_size=40)), max_size=10))
def test_any_attributes_are_decoded(fields: list[tuple[int, bytes]]) -> None:
    found = decode(message(*fields))
    assert found is not None
    assert all(number >= 0 for number in (found.mark, found.incoming, found.outgoing))


@pytest.mark.parametrize(
    ("source", "destination"), [("10.1.0.2", "10.96.0.1"), ("fd01::2", "fd96::1")], ids=["IPv4", "IPv6"]
)
@pytest.mark.parametrize("protocol", [socket.IPPROTO_TCP, socket.IPPROTO_UDP])
def test_one_direction_of_a_connection_is_read(source: str, destination: str, protocol: int) -> None:
    data = connection(source, destination, protocol, 40000, 80)
    assert tuple_of(data) == Tuple(packed(source), packed(destination), protocol, 40000, 80)


@given(st.binary(max_size=80))
def test_any_connection_is_read_or_not_and_raises_nothing(data: bytes) -> None:
    found = tuple_of(data)
    assert found is None or len(found.source) == len(found.destination)
