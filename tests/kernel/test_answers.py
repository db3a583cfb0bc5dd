"""Segments that come in, read beside whatever else there is on the links."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from agent.kernel.answers import Answer, Answers, answer_of
from agent.kernel.conntrack import Tuple
from tests.build import packed
from tests.lab import packets
from tests.lab.cluster import wait_until
from tests.lab.netns import Netns

PORTS = (90, 443)


@pytest.fixture
def netns() -> Iterator[Netns]:
    netns = Netns("answers")
    try:
        netns.ip("link set lo up")
        yield netns
    finally:
        netns.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_only_segments_to_the_ports_are_read_and_no_syn(netns: Netns, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with netns.entered(), Answers() as answers, contextlib.ExitStack() as stack:
        answers.to(PORTS)
        opened = []
        for port in (*PORTS, 91):
            server = stack.enter_context(socket.create_server((address, port), family=family))
            opened.append(stack.enter_context(socket.create_connection((address, port))))
            stack.enter_context(server.accept()[0])
        with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
            datagrams.sendto(bytes(100), (address, PORTS[0]))
        found: list[Answer] = []

        def reads(number: int) -> bool:
            found.extend(answers.read())
            return len(found) >= number

        ways = [
            Tuple(packed(address), packed(address), socket.IPPROTO_TCP, one.getsockname()[1], port)
            for one, port in zip(opened, PORTS, strict=False)
        ]
        wait_until(lambda: reads(len(ways)))
        assert [one.way for one in found] == ways
        opened[0].send(b"x")
        wait_until(lambda: reads(len(ways) + 1))
        assert found[-1] == found[0]


@pytest.mark.parametrize(("source", "destination"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_what_a_segment_says(source: str, destination: str) -> None:
    whole = packets.tcp_syn(source, destination, 90)
    start = 40 if ":" in source else 20
    number = 0x12345678
    acknowledging = whole[: start + 8] + struct.pack("!IBB", number, 0x50, 0x10) + whole[start + 14 :]
    for packet, expects in ((whole, None), (acknowledging, number)):
        answer = answer_of(packet)
        assert answer is not None
        assert (answer.way.source, answer.way.destination) == (packed(source), packed(destination))
        assert (answer.way.port, answer.expects) == (90, expects)
        assert answer.sequence == int.from_bytes(whole[start + 4 : start + 8])
    assert answer_of(whole[: start + 19]) is None
    assert answer_of(b"") is None
